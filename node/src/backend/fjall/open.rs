//! One database of fjall's, and the folder it is in: made ready for fjall, opened, and removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::damage::{self, failed};
use super::{BackendError, Options};
use crate::disk::file::sync_dir;
use crate::files;

const KEYSPACE: &str = "rows";

/// An open database. Dropped from top to bottom.
pub(super) struct Open {
    pub(super) keyspace: Keyspace,
    pub(super) database: Database,
    pub(super) folder: Folder,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Remove it once the last reader has gone.
    pub(super) doomed: AtomicBool,
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
    pub(super) fn new(path: &Path, options: Options) -> Result<Self, BackendError> {
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
    pub(super) fn check(&self) -> Result<(), BackendError> {
        let Err(error) = self.database.persist(PersistMode::Buffer) else { return Ok(()) };
        if let Err(BackendError::Damaged(why)) = self.verify(Duration::ZERO) {
            damage::suspect(&self.folder.path, &why);
            return Err(BackendError::Damaged(why));
        }
        Err(failed(error))
    }

    /// Reads all of a generation that is suspect, and clears it if nothing is wrong with it.
    pub(super) fn look_again(&self) -> Result<(), BackendError> {
        let Some(why) = damage::noted(&self.folder.path, damage::SUSPECT) else { return Ok(()) };
        self.verify(Duration::ZERO)?;
        damage::clear(&self.folder.path).map_err(failed)?;
        tracing::warn!(reason = why, "the applied state on disk had been found damaged, and is not");
        Ok(())
    }

    /// Compares all of it with what was written; rests for `pause` after each piece.
    pub(super) fn verify(&self, pause: Duration) -> Result<(), BackendError> {
        damage::check_manifests(&self.folder.path)?;
        damage::check_tables(&self.keyspace, pause)
    }
}

/// Empties the newest journal and removes the others and what interrupted replacements of files left.
pub(super) fn clean(path: &Path) -> io::Result<()> {
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

/// Makes a folder with everything in it survive a power cut.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
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
