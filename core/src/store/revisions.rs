//! The revisions of one key, oldest first: a persistent list that grows at its end and is cut at its beginning.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::Revision;

/// One kept change of a key, in 16 bytes: ordered by revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rev {
    main: i64,
    sub: u32,
    /// Bytes of the value; the top bit marks a tombstone.
    size: u32,
}

const TOMBSTONE: u32 = 1 << 31;

impl Rev {
    /// A put of a value of `bytes`.
    pub(super) fn put(main: Revision, sub: u32, bytes: usize) -> Self {
        let size = u32::try_from(bytes).ok().filter(|size| *size < TOMBSTONE);
        Self { main: main.0, sub, size: size.expect("a request is far smaller than 2 GiB") }
    }

    /// A delete.
    pub(super) fn tombstone(main: Revision, sub: u32) -> Self {
        Self { main: main.0, sub, size: TOMBSTONE }
    }

    pub(super) fn main(self) -> Revision {
        Revision(self.main)
    }

    pub(super) fn sub(self) -> u32 {
        self.sub
    }

    pub(super) fn is_tombstone(self) -> bool {
        self.size & TOMBSTONE != 0
    }

    /// Bytes of the value.
    pub(super) fn value_bytes(self) -> u32 {
        self.size & !TOMBSTONE
    }
}

/// Elements of a chunk. Chunks of one level fill a chunk of the next: an append copies at most one chunk per level.
const CHUNK: usize = 64;

/// A list of [`Rev`]s, ascending. Cloning and appending cost O(log n), a shared clone never changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Revisions {
    /// The newest, fewer than [`CHUNK`].
    tail: Vec<Rev>,
    /// What is older than those: few keys have any.
    rest: Option<Box<Rest>>,
}

#[derive(Clone, Debug, Default)]
struct Rest {
    /// Full chunks of `CHUNK^(level + 1)`, fewer than [`CHUNK`] a level; higher levels are older.
    levels: Vec<Vec<Chunk>>,
    /// So many of the oldest are cut off but still in their chunk; at most as many as are left.
    cut: usize,
}

#[derive(Clone, Debug)]
enum Chunk {
    Revs(Arc<[Rev]>),
    Chunks(Arc<[Chunk]>),
}

impl Revisions {
    pub(super) fn len(&self) -> usize {
        self.tail.len() + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    pub(super) fn push(&mut self, rev: Rev) {
        assert!(self.last().is_none_or(|last| last < rev), "revisions of a key ascend: {:?}, {rev:?}", self.last());
        if self.tail.len() == self.tail.capacity() {
            self.tail.reserve_exact(self.tail.len().clamp(1, CHUNK - self.tail.len()));
        }
        self.tail.push(rev);
        if self.tail.len() == CHUNK {
            let chunk = Chunk::Revs(core::mem::take(&mut self.tail).into());
            self.rest.get_or_insert_default().push(chunk);
        }
    }

    /// The revision at position `at`, counted from the oldest.
    pub(super) fn get(&self, at: usize) -> Rev {
        match &self.rest {
            Some(rest) => rest.get(at).unwrap_or_else(|| self.tail[at - rest.len()]),
            None => self.tail[at],
        }
    }

    pub(super) fn last(&self) -> Option<Rev> {
        self.len().checked_sub(1).map(|at| self.get(at))
    }

    /// How many there are with `before(rev)`, which holds for a beginning of the list.
    pub(super) fn count(&self, before: impl Fn(Rev) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if before(self.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Rev> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Cuts off the `count` oldest.
    pub(super) fn cut(&mut self, count: usize) {
        assert!(count <= self.len(), "cut {count} of {}", self.len());
        match &mut self.rest {
            // Chunks stay until half of what they hold is cut off: what is copied then was paid for by the cuts.
            Some(rest) if count + rest.cut <= self.tail.len() + rest.len() - count => rest.cut += count,
            _ => {
                let left: Vec<Rev> = self.iter().skip(count).collect();
                *self = Self::default();
                left.into_iter().for_each(|rev| self.push(rev));
            }
        }
    }
}

impl Rest {
    fn len(&self) -> usize {
        let (mut len, mut size) = (0, CHUNK);
        for level in &self.levels {
            len += level.len() * size;
            size *= CHUNK;
        }
        len - self.cut
    }

    fn push(&mut self, mut chunk: Chunk) {
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(chunk);
            if self.levels[level].len() < CHUNK {
                return;
            }
            chunk = Chunk::Chunks(core::mem::take(&mut self.levels[level]).into());
        }
    }

    fn get(&self, at: usize) -> Option<Rev> {
        let (mut at, mut size) = (at + self.cut, CHUNK.pow(u32::try_from(self.levels.len()).expect("few levels")));
        for level in self.levels.iter().rev() {
            if let Some(chunk) = level.get(at / size) {
                return Some(chunk.get(at % size, size / CHUNK));
            }
            at -= level.len() * size;
            size /= CHUNK;
        }
        None
    }
}

impl Chunk {
    /// Element `at` of a chunk whose own elements hold `size` revisions each.
    fn get(&self, at: usize, size: usize) -> Rev {
        match self {
            Self::Revs(revs) => revs[at],
            Self::Chunks(chunks) => chunks[at / size].get(at % size, size / CHUNK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_a_list_that_is_cut_at_its_beginning() {
        let mut list = Revisions::default();
        let mut naive = Vec::new();
        let mut rng = crate::rng::Rng::new(7);
        for main in 2..40_000 {
            let rev = Rev::put(Revision(main), 0, 1);
            list.push(rev);
            naive.push(rev);
            let mut kept = None;
            if main % 997 == 0 {
                kept = Some((list.clone(), naive.clone()));
                let count = usize::try_from(rng.below(list.len() as u64 + 1)).unwrap() / 3 * 2;
                list.cut(count);
                naive.drain(..count);
            }
            for (list, naive) in kept.iter().chain((main % 997 == 0).then(|| (list.clone(), naive.clone())).iter()) {
                assert_eq!(list.len(), naive.len());
                assert!(list.iter().eq(naive.iter().copied()));
                let pivot = Revision(main / 2);
                assert_eq!(list.count(|rev| rev.main() <= pivot), naive.partition_point(|rev| rev.main() <= pivot));
                assert_eq!(list.last(), naive.last().copied());
            }
        }
    }
}
