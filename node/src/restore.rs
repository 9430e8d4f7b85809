//! A data directory from a snapshot file: how a cluster is brought back, or moved over from etcd.
//!
//! Every member of the new cluster is restored from the same file, each with its own name; then all of them are started,
//! and begin as a new cluster does, on top of the state they were given (`quorate_core::entry::RESTORED`). The directory
//! is made under another name and takes its own once all of it is durable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quorate_core::Incarnation;
use quorate_core::entry::RESTORED;
use quorate_core::store::{Imported, import};

use crate::backend::fjall::{FjallBackends, Options};
use crate::backend::{BackendError, Backends as _, Filling as _};
use crate::boot::{self, BootError, Told};
use crate::config::{Founding, Refusal};
use crate::datadir::{DataDir, DataDirError};
use crate::disk::file::sync_dir;
use crate::launch::random;
use crate::snapshot::{DiskFile, EtcdFile, FileError, SnapshotError};
use crate::wal;

/// What to make of which file. (etcdutl: snapshot restore)
#[derive(Clone, Debug)]
pub struct Restore {
    /// A snapshot file; or the file in etcd's data directory, `member/snap/db`; or that data directory itself.
    pub file: PathBuf,
    /// The directory to make: it must be empty or missing.
    pub data_dir: PathBuf,
    /// Take a file that has no checksum, or another one, for good.
    pub skip_hash_check: bool,
    /// See [`quorate_core::store::Import::bump`].
    pub bump: u64,
    /// The cluster, as each of its members will be told when it starts.
    pub founding: Founding,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already. (etcd's text)
    #[error("data-dir {0:?} not empty or could not be read")]
    Occupied(PathBuf),
    /// The cluster makes no sense.
    #[error(transparent)]
    Cluster(#[from] Refusal),
    /// The file is not trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The directory cannot be made.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Its log cannot be begun.
    #[error(transparent)]
    Log(#[from] BootError),
    /// Its state cannot be written.
    #[error(transparent)]
    State(#[from] BackendError),
    /// The file system failed otherwise.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes the data directory.
///
/// # Errors
/// See [`RestoreError`]; then nothing is left of it.
pub fn restore(options: &Restore) -> Result<Imported, RestoreError> {
    // Without a slash at the end: the name it has until it is made stands beside it.
    let target = &options.data_dir.components().collect::<PathBuf>();
    let is_empty = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(RestoreError::Occupied(target.clone()));
    }
    let told = Told {
        cluster: options.founding.cluster,
        member: options.founding.member,
        voters: options.founding.members.iter().map(|member| member.id).collect(),
        incarnation: Incarnation(random()?),
        joins: false,
        in_force: None,
    };
    let file = open(options)?;
    let mut part = target.as_os_str().to_owned();
    part.push(format!(".restoring-{}", std::process::id()));
    let part = PathBuf::from(part);
    let made = make(&file, options.bump, &told, &part).and_then(|imported| {
        fs::rename(&part, target)?;
        sync_dir(target.parent().unwrap_or(Path::new(".")))?;
        Ok(imported)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    made
}

fn open(options: &Restore) -> Result<EtcdFile<DiskFile>, RestoreError> {
    let file = match options.file.is_dir() {
        true => DiskFile::open(&options.file.join("member/snap/db"))?,
        false if options.skip_hash_check => DiskFile::open(&options.file)?,
        false => DiskFile::open_checked(&options.file)?,
    };
    Ok(EtcdFile::open(file)?)
}

fn make(file: &EtcdFile<DiskFile>, bump: u64, told: &Told, path: &Path) -> Result<Imported, RestoreError> {
    let data_dir = DataDir::open(path)?;
    let mut plan = file.import(RESTORED.0, RESTORED.1)?;
    plan.bump = bump;
    let mut filling = FjallBackends::new(&data_dir.kv(), Options::default())?.fill(boot::generation(told))?;
    let imported = import(file, &plan, &mut |key, value| {
        filling.row(key, value).map_err(|error| SnapshotError::Write(error.to_string()))
    })?;
    filling.finish()?;
    // The log says where the state is, so it comes last.
    boot::begin_restored(data_dir.wal()?, wal::Options::default(), told)?;
    Ok(imported)
}
