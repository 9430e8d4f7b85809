//! The backend on fjall: an LSM tree whose tables are always a prefix of the committed batches.
//!
//! How the crash contract is kept:
//! - All rows are in one keyspace, so one tree. Its memtable takes whole batches, is sealed between batches, and becomes
//!   synced tables that one synced manifest lists. What a power cut leaves is therefore what some memtable ended with.
//! - fjall's journal is **not written at all**. Replaying it would be the only way to anything else: it has no record of
//!   its own durability, and stops, fails or silently goes on at damage as it happens. Our log replays better. Batches go
//!   straight into the tree, in the steps fjall's own `WriteBatch::commit` takes after its journal. That also saves
//!   writing every value twice, and the commits that wait for the journal's sync before every flush.
//! - The journal *file* must exist, though empty: without it fjall starts its sequence numbers over, and a later
//!   compaction would prefer old rows. So it is emptied, or put back, before every open.
//! - fjall notes the checksum of a manifest, and never looks at it: what it misreads there, it takes for the state, and what
//!   it does not find there, it deletes. So every open compares it first, and so does [`Backend::verify`].
//! - What an open finds may be what a process that was killed had not synced yet. So all of it is synced first.
//! - A batch's sequence number says whether it is durable: it is, once the tables' highest is not below it.
//!
//! fjall waits for nobody: sealing, compaction and their syncs happen on a thread of its own.

use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fjall::{AbstractTree, Readable, SeqNo, Slice};
use quorate_core::rng::Rng;
use quorate_core::rows::{ROW_KEY_BYTES_MAX, RowWrite, Rows};
use quorate_core::{Blob, Generation, LogIndex, NodeId};

use self::damage::failed;
use self::open::{Open, clean, sync_tree};
use super::{Backend, BackendError, Backends, Defragmentation, Filling, Verification};
use crate::disk::file::sync_dir;

mod damage;
mod open;
#[cfg(test)]
mod tests;

/// Memory and disk use of one generation.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A memtable of this size is sealed and written out; up to `SEALED_MAX` more may wait for that.
    pub memtable_bytes: u64,
    /// Blocks of tables kept in memory.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { memtable_bytes: 8 << 20, cache_bytes: 32 << 20 }
    }
}

impl Options {
    /// For the backend of `member`: members apply the same rows, and would seal, write out and compact all at the same
    /// moment if their memtables were of the same size.
    #[must_use]
    pub fn of(member: NodeId) -> Self {
        const SPREAD_BYTES: u64 = 4 << 20;
        let mut options = Self::default();
        options.memtable_bytes += Rng::new(member.0).below(SPREAD_BYTES);
        options
    }
}

/// Commits wait while this many sealed memtables are not written out yet.
const SEALED_MAX: usize = 4;
/// Commits wait while level 0 has this many runs, each of which every read must look at.
const RUNS_MAX: usize = 30;
const WAIT: Duration = Duration::from_millis(1);
/// Filling makes one table of so many bytes of rows.
const FILL_BYTES: usize = 16 << 20;

/// The generations in one folder, `<data-dir>/member/kv`.
#[derive(Debug)]
pub struct FjallBackends {
    folder: PathBuf,
    options: Options,
    /// Open generations, and snapshots of them that readers still hold.
    open: Vec<(Generation, Weak<Open>)>,
}

impl FjallBackends {
    /// The generations in `folder`, which is created if it does not exist.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn new(folder: &Path, options: Options) -> Result<Self, BackendError> {
        fs::create_dir_all(folder).map_err(failed)?;
        sync_dir(folder.parent().unwrap_or(folder)).map_err(failed)?;
        Ok(Self { folder: folder.to_owned(), options, open: Vec::new() })
    }

    fn path(&self, generation: Generation) -> PathBuf {
        self.folder.join(generation.to_string())
    }
}

impl Backends for FjallBackends {
    type Backend = FjallBackend;
    type Filling = FjallFilling;

    fn open(
        &mut self,
        generation: Generation,
        applied: &dyn Fn(&dyn Rows) -> LogIndex,
    ) -> Result<FjallBackend, BackendError> {
        let path = self.path(generation);
        if !path.is_dir() {
            self.fill(generation)?.finish()?;
        }
        if let Some(why) = damage::noted(&path, damage::DAMAGED) {
            return Err(BackendError::Damaged(format!("backend: {} was found damaged: {why}", path.display())));
        }
        clean(&path).map_err(failed)?;
        damage::check_manifests(&path)?;
        sync_tree(&path).map_err(failed)?;
        sync_dir(&self.folder).map_err(failed)?;
        let open = Arc::new(Open::new(&path, self.options)?);
        open.look_again()?;
        self.open.retain(|(_, open)| open.strong_count() > 0);
        self.open.push((generation, Arc::downgrade(&open)));
        let mut backend = FjallBackend {
            open,
            memtable_bytes: self.options.memtable_bytes,
            last: Mark { seqno: 0, applied: LogIndex(0) },
            sealed: VecDeque::new(),
            durable: LogIndex(0),
        };
        backend.durable = applied(&backend.snapshot());
        backend.last.applied = backend.durable;
        Ok(backend)
    }

    fn fill(&mut self, generation: Generation) -> Result<FjallFilling, BackendError> {
        let target = self.path(generation);
        let path = self.folder.join(format!("{generation}.filling"));
        for old in [&target, &path] {
            if old.is_dir() {
                fs::remove_dir_all(old).map_err(failed)?;
            }
        }
        let open = Open::new(&path, self.options)?;
        Ok(FjallFilling { open, path, target, rows: Vec::new(), bytes: 0 })
    }

    fn retain(&mut self, generation: Generation) -> Result<(), BackendError> {
        self.open.retain(|(_, open)| open.strong_count() > 0);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path == self.path(generation) {
                continue;
            }
            let open = self.open.iter().find(|(other, _)| path == self.path(*other)).and_then(|(_, o)| o.upgrade());
            match open {
                Some(open) => open.folder.doomed.store(true, Ordering::Relaxed),
                None => fs::remove_dir_all(&path).map_err(failed)?,
            }
        }
        Ok(())
    }
}

/// One generation, open. See the module for how it keeps its promises.
#[derive(Debug)]
pub struct FjallBackend {
    open: Arc<Open>,
    memtable_bytes: u64,
    /// The last batch committed.
    last: Mark,
    /// The last batch of each sealed memtable that was not durable when last looked at, oldest first.
    sealed: VecDeque<Mark>,
    /// Up to here all is durable; `sealed` may say more.
    durable: LogIndex,
}

/// A batch, as fjall numbers it and as the log does.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seqno: SeqNo,
    applied: LogIndex,
}

impl FjallBackend {
    /// Seals the memtable, to be written out in the background.
    fn seal(&mut self) -> Result<(), BackendError> {
        let Open { keyspace, .. } = &*self.open;
        self.open.check()?;
        while keyspace.tree.sealed_memtable_count() >= SEALED_MAX || keyspace.tree.l0_run_count() >= RUNS_MAX {
            std::thread::sleep(WAIT);
            self.open.check()?;
        }
        let durable = self.durable();
        self.durable = durable;
        self.sealed.retain(|mark| mark.applied > durable);
        if self.open.keyspace.rotate_memtable().map_err(failed)? {
            self.sealed.push_back(self.last);
        }
        Ok(())
    }
}

impl Backend for FjallBackend {
    type Snapshot = FjallSnapshot;

    fn snapshot(&self) -> FjallSnapshot {
        FjallSnapshot { snapshot: self.open.database.snapshot(), open: Arc::clone(&self.open) }
    }

    fn commit(&mut self, applied: LogIndex, writes: &[RowWrite]) -> Result<(), BackendError> {
        assert!(applied >= self.last.applied, "applied {applied} after {}", self.last.applied);
        if writes.is_empty() {
            return Ok(());
        }
        let Open { keyspace, database, .. } = &*self.open;
        let seqno = database.supervisor.seqno.next();
        let mut memtable_bytes = 0;
        for RowWrite { key, value } in writes {
            assert!(key.len() <= ROW_KEY_BYTES_MAX, "row key of {} bytes", key.len());
            let key = Slice::from(key.0.clone());
            (_, memtable_bytes) = match value {
                Some(value) => keyspace.tree.insert(key, Slice::from(value.0.clone()), seqno),
                None => keyspace.tree.remove(key, seqno),
            };
        }
        database.supervisor.snapshot_tracker.publish(seqno);
        self.last = Mark { seqno, applied };
        if memtable_bytes >= self.memtable_bytes {
            self.seal()?;
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        if self.sealed.is_empty() {
            return self.durable;
        }
        let persisted = self.open.keyspace.tree.get_highest_persisted_seqno();
        let durable = |mark: &&Mark| persisted.is_some_and(|persisted| mark.seqno <= persisted);
        self.sealed.iter().rev().find(durable).map_or(self.durable, |mark| mark.applied)
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        self.seal()
    }

    fn disk_bytes(&self) -> u64 {
        self.open.keyspace.disk_space()
    }

    fn verify(&self) -> Verification {
        let open = Arc::clone(&self.open);
        Box::new(move || open.verify(damage::PAUSE))
    }

    /// Has the memtable written out; then all tables are rewritten into the lowest level.
    fn defragment(&mut self) -> Result<Defragmentation, BackendError> {
        self.seal()?;
        let open = Arc::clone(&self.open);
        Ok(Box::new(move || {
            while open.keyspace.tree.sealed_memtable_count() > 0 {
                std::thread::sleep(WAIT);
                open.check()?;
            }
            open.keyspace.major_compact().map_err(failed)?;
            Ok(open.keyspace.disk_space())
        }))
    }
}

/// The rows of a [`FjallBackend`] at one moment. Reading stops the process if the disk fails: see [`Rows`].
#[derive(Clone)]
pub struct FjallSnapshot {
    snapshot: fjall::Snapshot,
    open: Arc<Open>,
}

impl std::fmt::Debug for FjallSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FjallSnapshot").field(&self.snapshot.seqno()).finish()
    }
}

impl Rows for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        let value = self.snapshot.get(&self.open.keyspace, key).unwrap_or_else(|error| self.unreadable(&error));
        value.map(|value| Blob(value.into()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        if from >= to {
            return;
        }
        for row in self.snapshot.range(&self.open.keyspace, from..to) {
            let (key, value) = row.into_inner().unwrap_or_else(|error| self.unreadable(&error));
            if visit(&key, Blob(value.into())).is_break() {
                return;
            }
        }
    }
}

impl FjallSnapshot {
    /// Ends the process. What is damaged would end the next one, too: it is told.
    fn unreadable(&self, error: &fjall::Error) -> ! {
        damage::tell(&self.open.folder.path, error);
        panic!("the backend cannot be read: {error}")
    }
}

/// A generation that is being filled, under another name until it is complete.
#[derive(Debug)]
pub struct FjallFilling {
    open: Open,
    path: PathBuf,
    target: PathBuf,
    /// Rows for the next table.
    rows: Vec<(Slice, Slice)>,
    bytes: usize,
}

impl FjallFilling {
    fn ingest(&mut self) -> Result<(), BackendError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut ingestion = self.open.keyspace.start_ingestion().map_err(failed)?;
        for (key, value) in self.rows.drain(..) {
            ingestion.write(key, value).map_err(failed)?;
        }
        self.bytes = 0;
        ingestion.finish().map_err(failed)
    }
}

impl Filling for FjallFilling {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackendError> {
        assert!(key.len() <= ROW_KEY_BYTES_MAX, "row key of {} bytes", key.len());
        self.bytes += key.len() + value.len();
        self.rows.push((Slice::from(key), Slice::from(value)));
        if self.bytes >= FILL_BYTES { self.ingest() } else { Ok(()) }
    }

    fn finish(mut self) -> Result<(), BackendError> {
        self.ingest()?;
        let Self { open, path, target, .. } = self;
        open.check()?;
        drop(open); // waits for its threads
        sync_tree(&path).map_err(failed)?;
        fs::rename(&path, &target).map_err(failed)?;
        sync_dir(target.parent().expect("generations are in a folder")).map_err(failed)
    }
}
