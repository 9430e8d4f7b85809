//! Keys, values, revisions and leases.

use quorate_core::rng::Rng;

use super::Generator;
use crate::cluster::REQUEST_BYTES_MAX;
use crate::names::AUTO;

/// A seed's keys: some that sort next to each other, some at the ends of all keys.
pub(super) fn keys(rng: &mut Rng) -> Vec<Vec<u8>> {
    let count = [5, 20, 250][usize::try_from(rng.below(3)).expect("small")];
    let mut keys: Vec<Vec<u8>> = (0..count).map(|i| format!("{}/{i}", ["a", "b", "ab"][i % 3]).into_bytes()).collect();
    keys.extend([b"a".to_vec(), b"a\0".to_vec(), vec![0], vec![0xff], vec![0xff, 0xff], "ключ".into(), vec![0x80, 0]]);
    keys
}

impl Generator {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("it is below a usize")
    }

    pub(super) fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.rng.chance(numerator, denominator)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        if high <= low {
            return low;
        }
        low + i64::try_from(self.rng.below(u64::try_from(high - low + 1).expect("positive"))).expect("small")
    }

    pub(super) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    pub(super) fn key(&mut self) -> Vec<u8> {
        let at = self.below(self.keys.len());
        self.keys[at].clone()
    }

    /// A range end that goes with `key`: none, the prefix's, no end at all, or one that makes the range empty.
    pub(super) fn range_end(&mut self, key: &[u8]) -> Vec<u8> {
        let end = match self.below(8) {
            0..3 => vec![],
            3 | 4 => prefix_end(&key[..1.min(key.len())]),
            5 => vec![0],
            6 => self.key(),
            _ => key.to_vec(),
        };
        // See "empty-ranges" in justified.rs.
        if self.enabled && &end[..] <= key && end != [0] { vec![] } else { end }
    }

    pub(super) fn value(&mut self) -> Vec<u8> {
        match self.below(40) {
            0 => vec![],
            1 => vec![b'v'; 1000],
            2 => vec![0xc3, 0x28], // not UTF-8
            3 => self.key(),
            n => vec![b"0123456789"[n % 10]],
        }
    }

    /// A value that makes a request clearly too large, or clearly not yet.
    pub(super) fn large_value(&mut self) -> Vec<u8> {
        let bytes = self.pick(&[REQUEST_BYTES_MAX - 200, REQUEST_BYTES_MAX + 1, 3 * REQUEST_BYTES_MAX]);
        vec![b'L'; bytes]
    }

    /// A revision that can be read.
    pub(super) fn past(&mut self) -> i64 {
        if self.chance(1, 6) { self.floor.max(1) } else { self.between(self.floor.max(1), self.revision) }
    }

    /// A revision that cannot be read.
    pub(super) fn unreadable(&mut self) -> i64 {
        match self.below(4) {
            0 => self.revision + 1,
            1 => i64::MAX,
            2 if self.floor > 1 => self.between(1, self.floor - 1),
            _ => self.revision + 1000,
        }
    }

    /// A lease that exists, or else none.
    pub(super) fn lease(&mut self) -> i64 {
        let count = self.leases.len();
        if count == 0 {
            return 0;
        }
        let at = self.below(count);
        *self.leases.iter().nth(at).expect("it is below their number")
    }

    /// A lease that does not exist.
    pub(super) fn no_lease(&mut self) -> i64 {
        let lease = self.pick(&[-7, 999_999, i64::MAX, i64::MIN, AUTO - 1]);
        if self.leases.contains(&lease) { 424_242 } else { lease }
    }
}

/// The first key after all that begin with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
