//! A node's keys, packed: two allocations however many keys there are.

use alloc::vec::Vec;

/// Byte strings one after another, each found by its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`; ascending.
    ends: Vec<u32>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The keys' bytes altogether.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at] as usize]
    }

    /// `Ok` with the position of `key`, or `Err` with where it would stand. The keys are ascending.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.get(middle).cmp(key) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8]) {
        let (start, len) = (self.start(at), key.len());
        grow(&mut self.bytes, len);
        grow(&mut self.ends, 1);
        let old = self.bytes.len();
        self.bytes.resize(old + len, 0);
        self.bytes.copy_within(start..old, start + len);
        self.bytes[start..start + len].copy_from_slice(key);
        for end in &mut self.ends[at..] {
            *end += offset(len);
        }
        self.ends.insert(at, offset(start + len));
    }

    pub(super) fn remove(&mut self, at: usize) {
        let (start, end) = (self.start(at), self.ends[at] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(at);
        for later in &mut self.ends[at..] {
            *later -= offset(end - start);
        }
    }

    /// Keeps the first `at` keys and returns the others.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let start = self.start(at);
        let bytes = self.bytes[start..].to_vec();
        let ends = self.ends[at..].iter().map(|end| end - offset(start)).collect();
        self.bytes.truncate(start);
        self.bytes.shrink_to_fit();
        self.ends.truncate(at);
        self.ends.shrink_to_fit();
        Self { bytes, ends }
    }

    pub(super) fn append(&mut self, other: &Self) {
        let start = offset(self.bytes.len());
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + start));
    }

    /// A position that leaves about half of the bytes on either side, and at least one key.
    pub(super) fn middle(&self) -> usize {
        let half = offset(self.bytes.len() / 2);
        self.ends.partition_point(|end| *end <= half).clamp(1, self.len() - 1)
    }

    fn start(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.ends[at - 1] as usize }
    }
}

/// Room for `more` elements: some slack against moving at every insert, less than doubling would keep for ever.
pub(super) fn grow<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more * 4);
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a node's keys are split long before 4 GiB")
}
