//! The data directory: who may use it, and what it says about itself before anything in it is read.
//!
//! ```text
//! <data-dir>/member/format           text: "quorate data directory, format 1" and a line "features:" with their names
//! <data-dir>/member/wal/             the write-ahead log, see quorate_core::format::wal
//! <data-dir>/member/kv/<generation>/ applied state, see backend::fjall
//! <data-dir>/member/kv.damaged-<n>/  applied state that is not used any more; for people to look at and remove
//! <data-dir>/member/removed          only there if the member was removed from its cluster: nothing starts from here again
//! ```
//!
//! The `member` folder itself carries the lock (flock), so there is no lock file to be left behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use quorate_core::Generation;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::disk::file::{FileDisk, sync_dir};
use crate::wal;

/// The format this build writes. A build that must change the layout raises it and reads both.
pub const FORMAT: u32 = 1;

/// Optional parts of the layout that this build understands: none yet.
const FEATURES: [&str; 0] = [];

/// The file that says that the member is no more.
const REMOVED: &str = "removed";

const TITLE: &str = "quorate data directory, format ";

/// A data directory that belongs to this process until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    member: PathBuf,
    /// Holds the lock.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system failed.
    #[error("data directory {path}: {error}")]
    Io {
        /// The file or folder it failed on.
        path: PathBuf,
        /// How.
        error: io::Error,
    },
    /// Another process has it.
    #[error("data directory {0} is in use by another process")]
    Locked(PathBuf),
    /// Written by a newer build.
    #[error("data directory {path} has format {format}, newer than this program's {FORMAT}: use the newer program")]
    Newer {
        /// Its `member` folder.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Written by a build with something this one lacks.
    #[error("data directory {path} uses feature {feature:?}, which this program does not have")]
    Feature {
        /// Its `member` folder.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
    /// There is something, but nothing of ours.
    #[error("{0} is not a quorate data directory: its member folder has no valid `format` file")]
    Foreign(PathBuf),
    /// etcd wrote it.
    #[error("{0} is a data directory of etcd: move over by restoring a snapshot of it into a new one")]
    Etcd(PathBuf),
}

impl DataDir {
    /// Locks the data directory `path`, after creating it if it does not exist, and checks its format.
    ///
    /// # Errors
    /// See [`DataDirError`]; nothing has been changed then, except that empty folders may have been created.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let member = path.join("member");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| DataDirError::Io { path, error }
        };
        let is_there = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        let first = above.iter().position(is_there).unwrap_or(0);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&member).map_err(io(&member))?;
        let lock = File::open(&member).map_err(io(&member))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DataDirError::Locked(path.to_owned())),
            Err(error) => return Err(io(&member)(error.into())),
        }
        match fs::read_to_string(member.join("format")) {
            Ok(text) => check_format(&text, &member)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_empty(path, &member)?;
                write_format(&member).map_err(io(&member.join("format")))?;
            }
            Err(error) => return Err(io(&member.join("format"))(error)),
        }
        // If that was there, a process that was killed may have left it to this one.
        for folder in [&member, path] {
            sync_dir(folder).map_err(io(folder))?;
        }
        // Up to the folder that was there before. Some of somebody else's can be entered and not read, nor be synced.
        for folder in &above[..above.len().min(first + 1)] {
            match sync_dir(folder) {
                Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
                }
                synced => synced.map_err(io(folder))?,
            }
        }
        Ok(Self { member, _lock: lock })
    }

    /// The folder of the write-ahead log.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn wal(&self) -> io::Result<FileDisk> {
        FileDisk::new(&self.member.join("wal"))
    }

    /// Whether the member that this directory belongs to was removed from its cluster.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.member.join(REMOVED).exists()
    }

    /// Notes that the member was removed from its cluster.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn mark_removed(&self) -> io::Result<()> {
        File::create(self.member.join(REMOVED))?.sync_all()?;
        sync_dir(&self.member)
    }

    /// Where the generations of applied state are.
    #[must_use]
    pub fn kv(&self) -> PathBuf {
        self.member.join("kv")
    }

    /// Moves all applied state aside, and says where it is now; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn set_kv_aside(&self) -> io::Result<Option<PathBuf>> {
        if !self.kv().exists() {
            return Ok(None);
        }
        let name = |n: u64| self.member.join(format!("kv.damaged-{n}"));
        let free = (1..).map(name).find(|path| !path.exists()).expect("some number is free");
        fs::rename(self.kv(), &free)?;
        sync_dir(&self.member)?;
        Ok(Some(free))
    }

    /// Likewise, if there is some, but not `generation`, which the log names: another life has left it, and perhaps nobody
    /// else has it. Where `generation` is, whatever is beside it was replaced by it.
    ///
    /// # Errors
    /// It cannot be read or renamed.
    pub fn set_former_kv_aside(&self, generation: Generation) -> io::Result<Option<PathBuf>> {
        if self.kv().join(generation.to_string()).exists() || !self.kv().exists() {
            return Ok(None);
        }
        for entry in fs::read_dir(self.kv())? {
            // What was never filled is worth nothing.
            if Path::new(&entry?.file_name()).extension().is_none() {
                return self.set_kv_aside();
            }
        }
        Ok(None)
    }
}

fn check_format(text: &str, member: &Path) -> Result<(), DataDirError> {
    let foreign = || DataDirError::Foreign(member.to_owned());
    let mut lines = text.lines();
    let format = lines.next().and_then(|line| line.strip_prefix(TITLE)).ok_or_else(foreign)?;
    let format: u32 = format.parse().map_err(|_| foreign())?;
    if format > FORMAT {
        return Err(DataDirError::Newer { path: member.to_owned(), format });
    }
    let features = lines.next().and_then(|line| line.strip_prefix("features:")).ok_or_else(foreign)?;
    match features.split_whitespace().find(|feature| !FEATURES.contains(feature)) {
        Some(feature) => Err(DataDirError::Feature { path: member.to_owned(), feature: feature.to_owned() }),
        None => Ok(()),
    }
}

/// A folder without a format file must be a new one.
fn check_empty(path: &Path, member: &Path) -> Result<(), DataDirError> {
    if member.join("snap/db").exists() {
        return Err(DataDirError::Etcd(path.to_owned()));
    }
    let io = |error| DataDirError::Io { path: member.to_owned(), error };
    for entry in fs::read_dir(member).map_err(io)? {
        if entry.map_err(io)?.file_name() != "format.tmp" {
            return Err(DataDirError::Foreign(path.to_owned()));
        }
    }
    Ok(())
}

fn write_format(member: &Path) -> io::Result<()> {
    let temporary = member.join("format.tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let features = FEATURES.map(|feature| format!(" {feature}")).concat();
    file.write_all(format!("{TITLE}{FORMAT}\nfeatures:{features}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, member.join("format"))
}

/// Whether the data directory at `path` holds a log, as far as one can see without taking it.
#[must_use]
pub fn has_log(path: &Path) -> bool {
    let names = fs::read_dir(path.join("member/wal")).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| wal::begins_log(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_created_locked_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/default.etcd");
        let first = DataDir::open(&path).unwrap();
        first.wal().unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked(_))));
        first.mark_removed().unwrap();
        drop(first);
        assert!(DataDir::open(&path).unwrap().is_removed());
    }

    #[test]
    fn a_folder_may_be_in_one_that_cannot_be_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o300)).unwrap();
        for _ in 0..2 {
            DataDir::open(&folder.path().join("default.etcd")).unwrap();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_log_that_is_taking_anothers_place_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("member/wal");
        fs::create_dir_all(&log).unwrap();
        for (name, is_log) in [("reserve", false), ("0000000000000001.wal.damaged-1", false), ("next", true)] {
            fs::write(log.join(name), "").unwrap();
            assert_eq!(has_log(folder.path()), is_log, "{name}");
        }
        fs::rename(log.join("next"), log.join("0000000000000001.wal")).unwrap();
        assert!(has_log(folder.path()));
    }

    #[test]
    fn what_a_former_life_has_applied_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let aside = |n: u64| folder.path().join(format!("member/kv.damaged-{n}"));
        let (own, former) = (Generation(5), Generation(3));
        assert_eq!(data_dir.set_former_kv_aside(own).unwrap(), None, "there is none");
        fs::create_dir_all(data_dir.kv().join("5.filling")).unwrap();
        assert_eq!(data_dir.set_former_kv_aside(own).unwrap(), None, "nothing was ever there");
        for n in 1..=2 {
            fs::create_dir_all(data_dir.kv().join(former.to_string())).unwrap();
            assert_eq!(data_dir.set_former_kv_aside(own).unwrap(), Some(aside(n)));
            assert!(aside(n).join(former.to_string()).exists() && !data_dir.kv().exists());
        }
        for generation in [former, own] {
            fs::create_dir_all(data_dir.kv().join(generation.to_string())).unwrap();
        }
        assert_eq!(data_dir.set_former_kv_aside(own).unwrap(), None, "a snapshot has replaced it");
    }

    #[test]
    fn directories_of_others_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, file: &str, text: &str| {
            let path = folder.path().join(name);
            let file = path.join("member").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
            DataDir::open(&path).unwrap_err().to_string()
        };
        let newer = open("newer", "format", "quorate data directory, format 2\nfeatures:\nwhat comes then\n");
        assert!(newer.contains("has format 2, newer than this program's 1"), "{newer}");
        let feature = open("feature", "format", "quorate data directory, format 1\nfeatures: blobs\n");
        assert!(feature.contains("uses feature \"blobs\""), "{feature}");
        let etcd = open("etcd", "snap/db", "");
        assert!(etcd.contains("is a data directory of etcd"), "{etcd}");
        for (name, file) in [("a", "format"), ("b", "other"), ("c", "wal/0000000000000001.wal")] {
            let foreign = open(name, file, "?");
            assert!(foreign.contains("not a quorate data directory"), "{foreign}");
        }
    }
}
