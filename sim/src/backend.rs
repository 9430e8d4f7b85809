//! A member's applied state on a simulated disk: everything that the backend's crash contract allows does happen.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_core::rng::Rng;
use quorate_core::rows::{RowWrite, Rows};
use quorate_core::{Blob, Generation, LogIndex};
use quorate_node::backend::{Backend, BackendError, Backends, Defragmentation, Filling, Verification};

use crate::trace::Digest;
use crate::world::redraw::anew;

/// A row's values by the batch that wrote them, ascending.
type Versions = Vec<(u64, Option<Blob>)>;

/// One generation: its rows with the versions that a snapshot or a crash may still need.
#[derive(Debug)]
struct Rowset {
    rows: BTreeMap<Blob, Versions>,
    /// Rows that were deleted, and by which batch; ascending.
    deleted: VecDeque<(u64, Blob)>,
    /// The number of the last batch.
    last: u64,
    /// The applied index of every batch that a crash may go back to, the last durable one first.
    batches: BTreeMap<u64, LogIndex>,
    /// Pictures that are being read, by batch.
    pictures: BTreeMap<u64, usize>,
    /// A flush was asked for.
    flushing: bool,
    /// It was completely filled; unfinished ones are worthless.
    complete: bool,
    /// Some of it cannot be read any more.
    rotten: bool,
    rng: Rng,
    flush_batches: u64,
}

impl Rowset {
    fn durable(&self) -> u64 {
        *self.batches.first_key_value().expect("the last durable batch is kept").0
    }

    /// Nobody reads versions that were replaced at or before this batch.
    fn floor(&self) -> u64 {
        self.pictures.first_key_value().map_or(u64::MAX, |(batch, _)| *batch).min(self.durable())
    }

    fn commit(&mut self, applied: LogIndex, writes: &[RowWrite]) {
        self.last += 1;
        let floor = self.floor();
        for write in writes {
            let versions = self.rows.entry(write.key.clone()).or_default();
            versions.push((self.last, write.value.clone()));
            let unneeded = versions.iter().take_while(|(batch, _)| *batch <= floor).count().saturating_sub(1);
            if unneeded > 0 {
                versions.drain(..unneeded);
            }
            if write.value.is_none() {
                self.deleted.push_back((self.last, write.key.clone()));
            }
        }
        let unneeded = self.deleted.partition_point(|(batch, _)| *batch <= floor);
        for (_, key) in self.deleted.drain(..unneeded) {
            let newest = self.rows.get(&key).and_then(|versions| versions.last());
            if newest.is_some_and(|(written, value)| value.is_none() && *written <= floor) {
                self.rows.remove(&key);
            }
        }
        self.batches.insert(self.last, applied);
        // A background flush ends whenever it likes, having begun with any batch.
        if self.rng.chance(1, self.flush_batches) || (self.flushing && self.rng.chance(1, 3)) {
            self.flushing = false;
            let begun = self.durable() + self.rng.below(self.last - self.durable() + 1);
            self.batches = self.batches.split_off(&begun);
        }
    }

    fn crash(&mut self) {
        let kept = self.durable() + self.rng.below(self.last - self.durable() + 1);
        self.rows.retain(|_, versions| {
            versions.retain(|(batch, _)| *batch <= kept);
            !versions.is_empty()
        });
        self.deleted.retain(|(batch, _)| *batch <= kept);
        self.batches.split_off(&(kept + 1));
        self.last = kept;
        self.pictures.clear();
        self.flushing = false;
    }

    fn at(versions: &Versions, batch: u64) -> Option<&Blob> {
        versions.iter().rev().find(|(written, _)| *written <= batch).and_then(|(_, value)| value.as_ref())
    }
}

#[derive(Debug)]
struct Store {
    generations: BTreeMap<Generation, Shared>,
    rng: Rng,
    flush_batches: u64,
    digest: Digest,
}

type Shared = Arc<Mutex<Rowset>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("the simulation is single-threaded")
}

/// All of a member's generations. Clones are handles of the same disk.
#[derive(Clone, Debug)]
pub struct SimBackends(Arc<Mutex<Store>>);

impl SimBackends {
    /// No generation yet. A flush ends after `flush_batches` batches on average.
    #[must_use]
    pub fn new(rng: Rng, flush_batches: u64) -> Self {
        Self(Arc::new(Mutex::new(Store {
            generations: BTreeMap::new(),
            rng,
            flush_batches,
            digest: Digest::default(),
        })))
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&self, sample: u64) {
        let store = &mut *lock(&self.0);
        store.rng = anew(&store.rng, sample);
        for generation in store.generations.values() {
            let rowset = &mut *lock(generation);
            rowset.rng = anew(&rowset.rng, sample);
        }
    }

    fn blank(&self, complete: bool) -> Shared {
        let store = &mut *lock(&self.0);
        Arc::new(Mutex::new(Rowset {
            rows: BTreeMap::new(),
            deleted: VecDeque::new(),
            last: 0,
            batches: [(0, LogIndex(0))].into(),
            pictures: BTreeMap::new(),
            flushing: false,
            complete,
            rotten: false,
            rng: Rng::new(store.rng.next_u64()),
            flush_batches: store.flush_batches,
        }))
    }

    /// The process ends: every generation goes back to any batch since its last durable one.
    pub fn crash(&self) {
        let store = &mut *lock(&self.0);
        for generation in store.generations.values_mut() {
            lock(generation).crash();
        }
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        lock(&self.0).generations.clear();
    }

    /// Nothing that is stored can be used any more.
    pub fn rot(&self) {
        for generation in lock(&self.0).generations.values() {
            lock(generation).rotten = true;
        }
    }

    /// No process can find a state that is older than this; `None` if it will find none.
    #[must_use]
    pub fn durable(&self) -> Option<LogIndex> {
        let store = lock(&self.0);
        let complete = store.generations.values().map(|rows| lock(rows)).filter(|rows| rows.complete && !rows.rotten);
        complete.filter_map(|rows| rows.batches.values().next().copied()).min()
    }

    /// A hash over everything ever committed.
    #[must_use]
    pub fn digest(&self) -> u64 {
        lock(&self.0).digest.get()
    }
}

impl Backends for SimBackends {
    type Backend = SimBackend;
    type Filling = SimFilling;

    fn open(
        &mut self,
        generation: Generation,
        applied: &dyn Fn(&dyn Rows) -> LogIndex,
    ) -> Result<SimBackend, BackendError> {
        let found = lock(&self.0).generations.get(&generation).cloned();
        let rows = match found {
            Some(rows) => rows,
            None => {
                let rows = self.blank(true);
                lock(&self.0).generations.insert(generation, rows.clone());
                rows
            }
        };
        if !lock(&rows).complete {
            return Err(BackendError::Damaged(format!("generation {generation} was never completed")));
        }
        if lock(&rows).rotten {
            return Err(BackendError::Damaged(format!("generation {generation} has rotted")));
        }
        let backend = SimBackend { rows, store: self.0.clone() };
        let index = applied(&backend.snapshot());
        let mut rows = lock(&backend.rows);
        // What was found on opening was synced then: the next crash cannot take more.
        rows.batches = [(rows.last, index)].into();
        lock(&self.0).digest.number(generation.0).number(index.0);
        drop(rows);
        Ok(backend)
    }

    fn fill(&mut self, generation: Generation) -> Result<SimFilling, BackendError> {
        let rows = self.blank(false);
        let mut store = lock(&self.0);
        store.generations.insert(generation, rows.clone());
        store.digest.number(generation.0);
        Ok(SimFilling { rows, last: None })
    }

    fn retain(&mut self, generation: Generation) -> Result<(), BackendError> {
        lock(&self.0).generations.retain(|kept, _| *kept == generation);
        Ok(())
    }
}

/// One open generation.
#[derive(Debug)]
pub struct SimBackend {
    rows: Shared,
    store: Arc<Mutex<Store>>,
}

impl Backend for SimBackend {
    type Snapshot = SimSnapshot;

    fn snapshot(&self) -> SimSnapshot {
        SimSnapshot::of(&self.rows, None)
    }

    fn commit(&mut self, applied: LogIndex, writes: &[RowWrite]) -> Result<(), BackendError> {
        let mut store = lock(&self.store);
        store.digest.number(applied.0);
        for write in writes {
            store.digest.bytes(&write.key).bytes(write.value.as_deref().unwrap_or_default());
        }
        lock(&self.rows).commit(applied, writes);
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        *lock(&self.rows).batches.first_key_value().expect("the last durable batch is kept").1
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        lock(&self.rows).flushing = true;
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let rows = lock(&self.rows);
        rows.rows.iter().map(|(key, versions)| (key.len() + versions.len() * 16) as u64).sum()
    }

    /// Nothing rots here.
    fn verify(&self) -> Verification {
        Box::new(|| Ok(()))
    }

    /// Nothing here takes space that could be given back.
    fn defragment(&mut self) -> Result<Defragmentation, BackendError> {
        self.flush()?;
        let bytes = self.disk_bytes();
        Ok(Box::new(move || Ok(bytes)))
    }
}

/// A generation while a snapshot's rows come in.
#[derive(Debug)]
pub struct SimFilling {
    rows: Shared,
    last: Option<Blob>,
}

impl Filling for SimFilling {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackendError> {
        let key = Blob::copy(key);
        assert!(self.last.as_ref().is_none_or(|last| *last < key), "rows of a snapshot come in ascending order");
        self.last = Some(key.clone());
        lock(&self.rows).rows.insert(key, vec![(0, Some(Blob::copy(value)))]);
        Ok(())
    }

    fn finish(self) -> Result<(), BackendError> {
        lock(&self.rows).complete = true;
        Ok(())
    }
}

/// What was committed at one moment.
#[derive(Debug)]
pub struct SimSnapshot {
    rows: Shared,
    batch: u64,
}

impl SimSnapshot {
    fn of(rows: &Shared, batch: Option<u64>) -> Self {
        let mut locked = lock(rows);
        let batch = batch.unwrap_or(locked.last);
        *locked.pictures.entry(batch).or_default() += 1;
        Self { rows: rows.clone(), batch }
    }
}

impl Clone for SimSnapshot {
    fn clone(&self) -> Self {
        Self::of(&self.rows, Some(self.batch))
    }
}

impl Drop for SimSnapshot {
    fn drop(&mut self) {
        let mut rows = lock(&self.rows);
        // A crash forgets the pictures that the dead process held.
        if let Some(count) = rows.pictures.get_mut(&self.batch) {
            *count -= 1;
            if *count == 0 {
                rows.pictures.remove(&self.batch);
            }
        }
    }
}

impl Rows for SimSnapshot {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        lock(&self.rows).rows.get(key).and_then(|versions| Rowset::at(versions, self.batch).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        if from >= to {
            return;
        }
        let mut next = Bound::Included(Blob::copy(from));
        loop {
            // In portions: `visit` may read from the same generation.
            let mut portion = Vec::new();
            let rows = lock(&self.rows);
            for (key, versions) in rows.rows.range::<[u8], _>((next.as_ref().map(|key| &key[..]), Bound::Excluded(to)))
            {
                if portion.len() == 64 {
                    break;
                }
                portion.push((key.clone(), Rowset::at(versions, self.batch).cloned()));
            }
            drop(rows);
            let full = portion.len() == 64;
            for (key, value) in portion {
                if let Some(value) = value
                    && visit(&key, value).is_break()
                {
                    return;
                }
                next = Bound::Excluded(key);
            }
            if !full {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &'static str, value: Option<&'static str>) -> RowWrite {
        RowWrite { key: key.into(), value: value.map(Blob::from) }
    }

    fn applied(rows: &dyn Rows) -> LogIndex {
        LogIndex(rows.get(b"applied").map_or(0, |value| value.len() as u64))
    }

    #[test]
    fn a_snapshot_does_not_see_later_commits() {
        let mut backends = SimBackends::new(Rng::new(1), 1);
        let mut backend = backends.open(Generation(1), &applied).unwrap();
        backend.commit(LogIndex(1), &[write("a", Some("1")), write("b", Some("1"))]).unwrap();
        let before = backend.snapshot();
        backend.commit(LogIndex(2), &[write("a", Some("2")), write("b", None)]).unwrap();
        assert_eq!(before.get(b"a"), Some("1".into()));
        let mut keys = Vec::new();
        before.scan(b"", b"z", &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        });
        assert_eq!(keys, [b"a", b"b"]);
        assert_eq!(backend.snapshot().get(b"b"), None);
    }

    #[test]
    fn a_crash_leaves_a_prefix_of_the_batches_not_below_the_durable_mark() {
        let lengths: Vec<&'static str> = (0..20).map(|n| &"xxxxxxxxxxxxxxxxxxxx"[..=n]).collect();
        let mut lost = 0;
        for seed in 0..100 {
            let mut backends = SimBackends::new(Rng::new(seed), 5);
            let mut backend = backends.open(Generation(1), &applied).unwrap();
            for (n, text) in lengths.iter().enumerate() {
                let (even, odd) = if n % 2 == 0 { (Some(*text), None) } else { (None, Some(*text)) };
                let writes = [write("applied", Some(text)), write("even", even), write("odd", odd)];
                backend.commit(LogIndex(n as u64 + 1), &writes).unwrap();
            }
            let durable = backend.durable();
            drop(backend);
            backends.crash();
            let backend = backends.open(Generation(1), &applied).unwrap();
            let found = backend.durable();
            assert!(found >= durable, "{found} < {durable}");
            lost += 20 - found.0;
            let rows = backend.snapshot();
            assert_eq!(rows.get(b"even").is_some(), found.0 % 2 == 1, "{found}");
            assert_eq!(rows.get(b"odd").is_some(), found.0 > 0 && found.0.is_multiple_of(2), "{found}");
        }
        assert!(lost > 100, "crashes lose something: {lost}");
    }

    #[test]
    fn what_has_rotted_does_not_open_until_it_is_put_aside() {
        let mut backends = SimBackends::new(Rng::new(1), 1);
        backends.open(Generation(1), &applied).unwrap();
        assert!(backends.durable().is_some());
        backends.rot();
        backends.crash();
        assert!(backends.open(Generation(1), &applied).is_err());
        assert_eq!(backends.durable(), None);
        assert!(backends.open(Generation(2), &applied).is_ok(), "another one is sound");
        backends.wipe();
        assert!(backends.open(Generation(1), &applied).is_ok());
    }

    #[test]
    fn a_generation_that_was_never_completed_does_not_open() {
        let mut backends = SimBackends::new(Rng::new(1), 1);
        let mut filling = backends.fill(Generation(2)).unwrap();
        filling.row(b"a", b"1").unwrap();
        drop(filling);
        backends.crash();
        assert!(backends.open(Generation(2), &applied).is_err());
        let filling = backends.fill(Generation(2)).unwrap();
        filling.finish().unwrap();
        assert!(backends.open(Generation(2), &applied).is_ok());
    }
}
