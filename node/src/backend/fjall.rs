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
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, SeqNo, Slice};
use quorate_core::rng::Rng;
use quorate_core::rows::{ROW_KEY_BYTES_MAX, RowWrite, Rows};
use quorate_core::{Blob, Generation, LogIndex, NodeId};

use super::{Backend, BackendError, Backends, Defragmentation, Filling, Verification};
use crate::disk::file::sync_dir;
use crate::files;

const KEYSPACE: &str = "rows";
/// Folders of fjall's own keyspace and of that one.
const KEYSPACES: [&str; 2] = ["0", "1"];

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
        if let Ok(why) = fs::read_to_string(path.join(DAMAGED)) {
            return Err(BackendError::Damaged(format!("backend: {} was found damaged: {why}", path.display())));
        }
        clean(&path).map_err(failed)?;
        check_manifests(&path)?;
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

/// An open database. Dropped from top to bottom.
struct Open {
    keyspace: Keyspace,
    database: Database,
    folder: Folder,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Remove it once the last reader has gone.
    doomed: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            // What stays is removed by the next `retain`.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Open").field(&self.folder).finish()
    }
}

impl Open {
    fn new(path: &Path, options: Options) -> Result<Self, BackendError> {
        let database = Database::builder(path)
            // Not two: the first of several hands a compaction back to the queue as long as another one runs, and
            // keeps a core busy with that. (fjall 3.1.13, worker_pool.rs)
            .worker_threads(1)
            .cache_size(options.cache_bytes)
            .max_cached_files(Some(files::budget().tables))
            .manual_journal_persist(true)
            .open()
            .map_err(failed)?;
        let keyspace = database
            .keyspace(KEYSPACE, || KeyspaceCreateOptions::default().manual_journal_persist(true))
            .map_err(failed)?;
        let folder = Folder { path: path.to_owned(), doomed: AtomicBool::new(false) };
        Ok(Self { keyspace, database, folder })
    }

    /// Fails if one of fjall's threads has failed: nothing else tells. What made it fail, nothing tells; if it was a
    /// rotten table, the next process would fail in the same way, and is told to look at this generation first.
    fn check(&self) -> Result<(), BackendError> {
        let Err(error) = self.database.persist(PersistMode::Buffer) else { return Ok(()) };
        if let Err(BackendError::Damaged(damage)) = verify(self, Duration::ZERO) {
            let _ = doom(&self.folder.path, SUSPECT, &damage);
            return Err(BackendError::Damaged(damage));
        }
        Err(failed(error))
    }

    /// Reads all of a generation that is suspect, and clears it if nothing is wrong with it.
    fn look_again(&self) -> Result<(), BackendError> {
        let note = self.folder.path.join(SUSPECT);
        let Ok(why) = fs::read_to_string(&note) else { return Ok(()) };
        verify(self, Duration::ZERO)?;
        fs::remove_file(&note).and_then(|()| sync_dir(&self.folder.path)).map_err(failed)?;
        tracing::warn!(reason = why, "the applied state on disk had been found damaged, and is not");
        Ok(())
    }
}

/// Empties the newest journal and removes the others and what interrupted replacements of files left.
fn clean(path: &Path) -> io::Result<()> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            journals.push((number, path));
        }
    }
    journals.sort();
    let newest = match journals.pop() {
        Some((Some(_), newest)) => newest,
        _ => path.join("0.jnl"),
    };
    for (_, journal) in journals {
        fs::remove_file(journal)?;
    }
    File::create(newest)?.sync_all()?;
    sync_dir(path)?;

    let keyspaces = path.join("keyspaces");
    for keyspace in if keyspaces.is_dir() { Some(fs::read_dir(keyspaces)?) } else { None }.into_iter().flatten() {
        for entry in fs::read_dir(keyspace?.path())? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Compares the manifests of a database, open or not, with the checksums that were noted of them.
fn check_manifests(path: &Path) -> Result<(), BackendError> {
    for keyspace in KEYSPACES {
        let keyspace = path.join("keyspaces").join(keyspace);
        let read = |name: &str| {
            let path = keyspace.join(name);
            fs::read(&path).map_err(|error| blame(&error, format!("backend: {}: {error}", path.display())))
        };
        let mut current = read("current")?;
        loop {
            let noted = noted_manifest(&current);
            let (name, sum) = noted.map_or((String::new(), 0), |(number, sum)| (format!("v{number}"), sum));
            let manifest = if noted.is_some() { read(&name) } else { Ok(Vec::new()) };
            if noted.is_some() && manifest.as_ref().is_ok_and(|manifest| xxhash_rust::xxh3::xxh3_128(manifest) == sum) {
                break;
            }
            // There may be another one by now, and that one gone.
            let latest = read("current")?;
            if latest == current {
                manifest?;
                let name = keyspace.join(if noted.is_some() { &name } else { "current" });
                return Err(BackendError::Damaged(format!("backend: {} is not what was written", name.display())));
            }
            current = latest;
        }
    }
    Ok(())
}

/// What a keyspace's file `current` says: the number of its manifest, and the checksum of that. (lsm-tree 3.1)
fn noted_manifest(current: &[u8]) -> Option<(u64, u128)> {
    let number = u64::from_le_bytes(current.get(..8)?.try_into().ok()?);
    let sum = u128::from_le_bytes(current.get(8..24)?.try_into().ok()?);
    Some((number, sum))
}

fn failed(error: impl std::error::Error + 'static) -> BackendError {
    blame(&error, format!("backend: {error}"))
}

/// What `error`, told as `text`, says of the files: a system that fails says nothing of them.
fn blame(error: &(dyn std::error::Error + 'static), text: String) -> BackendError {
    if is_damage(error) { BackendError::Damaged(text) } else { BackendError::Failed(text) }
}

/// Whether the medium did not give something back; it may do so again, if it was the way there that failed.
fn is_unreadable(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
        None => error.source().is_some_and(is_unreadable),
    }
}

fn is_damage(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // Files that are not there or too short, or whose content makes no sense, or that the medium does not give back.
        return is_unreadable(error) || matches!(error.kind(), NotFound | UnexpectedEof | InvalidData);
    }
    let is_about_files = !matches!(
        error.downcast_ref(),
        Some(fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted)
    );
    is_about_files && error.source().is_none_or(is_damage)
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
        let pause = Duration::from_secs_f64(VERIFY_PIECE_BYTES as f64 / VERIFY_BYTES_PER_SECOND as f64);
        Box::new(move || verify(&open, pause))
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

/// Verification reads a piece of so many bytes, then rests as long as keeps it to [`VERIFY_BYTES_PER_SECOND`].
const VERIFY_PIECE_BYTES: usize = 256 << 10;
const VERIFY_BYTES_PER_SECOND: usize = 32 << 20;

/// Compares every table's file with the checksum that the manifest has of it; rests for `pause` after each piece.
fn verify(open: &Open, pause: Duration) -> Result<(), BackendError> {
    check_manifests(&open.folder.path)?;
    // Holding the version keeps the files of its tables.
    let version = open.keyspace.tree.current_version();
    let mut piece = vec![0; VERIFY_PIECE_BYTES];
    for table in version.iter_tables() {
        let named = |error: io::Error| blame(&error, format!("backend: {}: {error}", table.path.display()));
        let mut file = File::open(table.path.as_path()).map_err(named)?;
        let mut digest = xxhash_rust::xxh3::Xxh3::new();
        loop {
            let read = file.read(&mut piece).map_err(named)?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            std::thread::sleep(pause);
        }
        if digest.digest128() != table.checksum().into_u128() {
            let text = format!("backend: {} is not what was written", table.path.display());
            return Err(BackendError::Damaged(text));
        }
    }
    Ok(())
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
        if is_damage(error) {
            let note = if is_unreadable(error) { SUSPECT } else { DAMAGED };
            let _ = doom(&self.open.folder.path, note, &error.to_string());
        }
        panic!("the backend cannot be read: {error}")
    }
}

/// In the folder of a generation that must not be used any more: why.
const DAMAGED: &str = "damaged";
/// In the folder of a generation that must not be used before all of it has been read and found sound: why.
const SUSPECT: &str = "suspect";

/// Puts a `note` that says why into the generation at `path`, durably.
fn doom(path: &Path, note: &str, why: &str) -> io::Result<()> {
    let mut file = File::create(path.join(note))?;
    file.write_all(why.as_bytes())?;
    file.sync_all()?;
    sync_dir(path)
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

/// Makes a folder with everything in it survive a power cut.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// The bytes of a generator's next numbers: no two tables are alike, and none can be compressed.
    fn noise(state: &mut u64) -> Vec<u8> {
        let mut next = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        (0..4096).map(|_| next()).collect()
    }

    #[test]
    fn a_system_that_fails_says_nothing_of_the_files() {
        use std::io::ErrorKind::{InvalidData, NotFound, StorageFull, UnexpectedEof};
        let io = |kind: io::ErrorKind| fjall::Error::Io(kind.into());
        let too_many_files = fjall::Error::Io(io::Error::from_raw_os_error(24));
        for error in [io(StorageFull), too_many_files, fjall::Error::Poisoned, fjall::Error::Locked] {
            assert!(matches!(failed(error), BackendError::Failed(_)));
        }
        let unreadable = fjall::Error::Io(io::Error::from_raw_os_error(5));
        for error in [io(NotFound), io(UnexpectedEof), io(InvalidData), unreadable, fjall::Error::Unrecoverable] {
            assert!(matches!(failed(error), BackendError::Damaged(_)));
        }
    }

    /// Commits the next batch, which changes the same rows each time, and waits for it to be written out.
    fn write_out(backend: &mut FjallBackend, applied: u64, state: &mut u64) -> Result<(), BackendError> {
        let row = |n: u8| RowWrite { key: Blob::copy(&[n]), value: Some(Blob::from(noise(state))) };
        backend.commit(LogIndex(applied), &(0..8).map(row).collect::<Vec<_>>())?;
        backend.flush()?;
        while backend.durable() < LogIndex(applied) {
            backend.open.check()?;
            std::thread::sleep(WAIT);
        }
        Ok(())
    }

    /// A lease that is granted and revoked in one batch, or the other way round.
    #[test]
    fn the_last_write_of_a_row_in_a_batch_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut backends = FjallBackends::new(folder.path(), Options::default()).unwrap();
        let write = |key: u8, value: Option<u8>| RowWrite {
            key: Blob::copy(&[key]),
            value: value.map(|value| Blob::copy(&[value])),
        };
        let batch = [write(1, Some(1)), write(2, None), write(1, None), write(2, Some(2)), write(2, Some(3))];
        let rows = |backend: &FjallBackend| {
            let mut rows = Vec::new();
            backend.snapshot().scan(&[0], &[9], &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            rows
        };
        let mut backend = backends.open(Generation(1), &|_| LogIndex(0)).unwrap();
        backend.commit(LogIndex(1), &batch).unwrap();
        assert_eq!(rows(&backend), [(vec![2], vec![3])]);
        backend.flush().unwrap();
        while backend.durable() < LogIndex(1) {
            std::thread::sleep(WAIT);
        }
        drop(backend);
        let backend = backends.open(Generation(1), &|_| LogIndex(1)).unwrap();
        assert_eq!(rows(&backend), [(vec![2], vec![3])]);
    }

    /// It was opened all the same: as an empty one whose tables were deleted, or with rows that had been replaced.
    #[test]
    fn a_rotten_manifest_is_found_before_anything_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let mut backends = FjallBackends::new(folder.path(), Options::default()).unwrap();
        let (number, mut state) = (Generation(7), 1);
        let mut backend = backends.open(number, &|_| LogIndex(0)).unwrap();
        (1..4).for_each(|applied| write_out(&mut backend, applied, &mut state).unwrap());
        backend.verify()().unwrap();
        drop(backend);
        let path = folder.path().join(number.to_string());
        let files = |folder: &Path| fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect::<Vec<_>>();
        let mut rotten = 0;
        for keyspace in KEYSPACES.map(|id| path.join("keyspaces").join(id)) {
            let tables = || files(&keyspace.join("tables"));
            let (before, current) = (tables(), fs::read(keyspace.join("current")).unwrap());
            let manifest = format!("v{}", noted_manifest(&current).unwrap().0);
            for name in ["current", &manifest] {
                let bytes = fs::read(keyspace.join(name)).unwrap();
                // The last byte of `current` says which checksum it is: there is one.
                let end = if name == "current" { 24 } else { bytes.len() };
                for at in (0..end).step_by(if name == "current" { 1 } else { 7 }) {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << (at % 8);
                    fs::write(keyspace.join(name), bad).unwrap();
                    let refusal = backends.open(number, &|_| LogIndex(0)).unwrap_err();
                    assert!(matches!(refusal, BackendError::Damaged(_)), "{name} at {at}: {refusal}");
                    rotten += 1;
                }
                fs::remove_file(keyspace.join(name)).unwrap();
                let refusal = backends.open(number, &|_| LogIndex(0)).unwrap_err();
                assert!(matches!(refusal, BackendError::Damaged(_)), "without {name}: {refusal}");
                fs::write(keyspace.join(name), bytes).unwrap();
            }
            assert_eq!(tables(), before);
        }
        assert!(rotten > 100);
        let backend = backends.open(number, &|_| LogIndex(3)).unwrap();
        assert!(backend.snapshot().get(&[7]).is_some());
        let current = path.join("keyspaces/1/current");
        fs::write(&current, fs::read(&current).unwrap().split_last().unwrap().1).unwrap();
        backend.verify()().expect("the last byte says nothing new");
        fs::write(&current, "rot").unwrap();
        let damage = backend.verify()().unwrap_err().to_string();
        assert!(damage.contains("current is not what was written"), "{damage}");
    }

    #[test]
    fn a_rotten_table_that_fails_a_compaction_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut backends = FjallBackends::new(folder.path(), Options::default()).unwrap();
        let number = Generation(7);
        let mut backend = backends.open(number, &|_| LogIndex(0)).unwrap();
        let mut state = 1;
        write_out(&mut backend, 1, &mut state).unwrap();
        let table = backend.open.keyspace.tree.current_version().iter_tables().next().unwrap().path.to_path_buf();
        let size = fs::metadata(&table).unwrap().len();
        let file = File::options().read(true).write(true).open(&table).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, size / 2).unwrap();
        file.write_all_at(&[byte[0] ^ 1], size / 2).unwrap();

        let damage = (2..1000).find_map(|applied| write_out(&mut backend, applied, &mut state).err());
        let damage = damage.expect("fjall compacts now and then").to_string();
        assert!(damage.contains(&format!("{} is not what was written", table.display())), "{damage}");
        drop(backend);
        let refusal = backends.open(number, &|_| LogIndex(0)).unwrap_err().to_string();
        assert_eq!(refusal, damage);
        backends.open(number.next(), &|_| LogIndex(0)).expect("another generation is as good as any");

        // The medium gives back what was written after all.
        file.write_all_at(&byte, size / 2).unwrap();
        drop(backends.open(number, &|_| LogIndex(0)).expect("nothing is wrong with it"));
        file.write_all_at(&[byte[0] ^ 1], size / 2).unwrap();
        backends.open(number, &|_| LogIndex(0)).expect("it is not suspect any more");
    }
}
