//! Sets of keys as spans, for permissions: which union of them covers a range.

use alloc::vec::Vec;

use crate::Blob;
use crate::mutant::{self, Mutant};
use crate::request::KeyRange;

/// Keys `>= .0` and `< .1`; without an end, all from `.0` on.
pub(super) type Span = (Blob, Option<Blob>);

/// Sorted spans that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<Span>);

/// The keys a permission speaks of, from its form on the wire.
pub(super) fn span(key: &Blob, range_end: &Blob) -> Span {
    let end = match &range_end[..] {
        [] if mutant::is_on(Mutant::U07) => None,
        [] => Some(after(key)),
        [0] => None,
        _ => Some(range_end.clone()),
    };
    (key.clone(), end)
}

/// The first key after `key`.
fn after(key: &[u8]) -> Blob {
    let mut next = key.to_vec();
    next.push(0);
    Blob::from(next)
}

impl Spans {
    pub(super) fn merge(spans: impl Iterator<Item = Span>) -> Self {
        let mut sorted: Vec<Span> = spans.collect();
        sorted.sort();
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match merged.last_mut() {
                Some((_, None)) => break, // Everything that follows is in it.
                Some((_, Some(last))) if start <= *last => {
                    if end.as_ref().is_none_or(|end| end > last) {
                        merged.last_mut().expect("just seen").1 = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    /// The span that contains `key`.
    fn around(&self, key: &[u8]) -> Option<&Span> {
        let before = self.0.partition_point(|(start, _)| &start[..] <= key).checked_sub(1)?;
        let span = &self.0[before];
        span.1.as_ref().is_none_or(|end| &end[..] > key).then_some(span)
    }
}

/// Whether the union of all `sets` contains every key of `range`. Of an empty range, where it starts must be covered.
pub(super) fn cover<'a>(sets: impl Iterator<Item = &'a Spans> + Clone, range: &KeyRange) -> bool {
    let mut from: &[u8] = range.start();
    loop {
        let mut farthest: Option<&Blob> = None;
        for (_, end) in sets.clone().filter_map(|set| set.around(from)) {
            match end {
                None => return true,
                Some(end) => farthest = farthest.max(Some(end)),
            }
        }
        let Some(covered) = farthest else { return false };
        match range {
            KeyRange::Key(_) => return true,
            _ if mutant::is_on(Mutant::U13) => return true,
            KeyRange::Bounded { end, .. } if covered >= end => return true,
            KeyRange::Bounded { .. } | KeyRange::From(_) => from = covered,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    fn of(spans: &[(&'static str, &'static str)]) -> Spans {
        Spans::merge(spans.iter().map(|(key, end)| span(&Blob::from(*key), &Blob::from(*end))))
    }

    fn bounded(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::Bounded { start: start.into(), end: end.into() }
    }

    #[test]
    fn neighbours_cover_together_what_none_covers_alone() {
        let spans = [of(&[("a", "b"), ("c", "d"), ("x", "\0")]), of(&[("b", "c"), ("d", "")])];
        let covered = |range: KeyRange| cover(spans.iter(), &range);
        assert!(covered(bounded("a", "d")));
        assert!(covered(bounded("a", "d\0")), "the single key d touches");
        assert!(!covered(bounded("a", "d\0\0")));
        assert!(!covered(bounded("A", "b")));
        assert!(covered(KeyRange::Key("d".into())));
        assert!(!covered(KeyRange::Key("e".into())));
        assert!(covered(KeyRange::From("y".into())));
        assert!(!covered(KeyRange::From("a".into())));
        assert!(covered(bounded("z", "b")), "empty, and starts where reading is allowed");
        assert!(!covered(bounded("m", "b")), "empty, and starts where it is not");
    }

    #[test]
    fn single_keys_that_follow_each_other_are_a_range() {
        assert_eq!(of(&[("a", ""), ("a\0", "")]).0, vec![("a".into(), Some("a\0\0".into()))]);
    }

    #[test]
    fn nothing_granted_covers_nothing() {
        assert!(!cover([Spans::default()].iter(), &KeyRange::Key("a".into())));
        assert!(!cover([].iter(), &KeyRange::From("\0".into())));
    }

    proptest! {
        /// Against a model of sixteen keys, each allowed or not.
        #[test]
        fn ranges_are_covered_if_each_of_their_keys_is(
            granted in proptest::collection::vec((0_u8..16, 0_u8..20, 0_usize..3), 0..8),
            (start, end) in (0_u8..16, 0_u8..20),
        ) {
            // Two bytes a key, so that no key has another between it and the next: end 16 is the end, above it none.
            let key = |n: u8| Blob::from(vec![b'k', n]);
            let range_end = |n: u8| if n > 16 { Blob::copy(&[0]) } else { key(n) };
            let mut sets = vec![Vec::new(); 3];
            let mut allowed = [false; 17];
            for (from, to, set) in granted {
                if to <= 16 && to <= from {
                    continue; // Nobody can grant that.
                }
                sets[set].push(span(&key(from), &range_end(to)));
                for n in from..17 {
                    allowed[usize::from(n)] |= to > 16 || n < to;
                }
            }
            let sets: Vec<Spans> = sets.into_iter().map(|spans| Spans::merge(spans.into_iter())).collect();
            let (range, expected) = if end > 16 {
                (KeyRange::From(key(start)), (start..17).all(|n| allowed[usize::from(n)]))
            } else if end <= start {
                (KeyRange::Bounded { start: key(start), end: key(end) }, allowed[usize::from(start)])
            } else {
                let range = KeyRange::Bounded { start: key(start), end: key(end) };
                (range, (start..end).all(|n| allowed[usize::from(n)]))
            };
            prop_assert_eq!(cover(sets.iter(), &range), expected);
        }
    }
}
