//! Snapshot files on a real disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::{CHECKSUM_BYTES, has_checksum};
use crate::bolt::Source;

/// The bbolt file at the beginning of a file.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    bytes: u64,
    checksum: Option<[u8; CHECKSUM_BYTES]>,
}

/// Why a file is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A running etcd has it, and may be writing to it.
    #[error("{} is in use: stop etcd before, or take a snapshot of it", .0.display())]
    Locked(PathBuf),
    /// It has no checksum, as the file in a data directory has none. (etcd's text)
    #[error("snapshot missing hash but --skip-hash-check=false")]
    Unchecked,
    /// Its checksum is another. (etcd's text)
    #[error("expected sha256 {}, got {}", list(expected), list(found))]
    Checksum {
        /// What stands behind it.
        expected: [u8; CHECKSUM_BYTES],
        /// What it comes to.
        found: [u8; CHECKSUM_BYTES],
    },
}

/// As Go prints bytes.
fn list(bytes: &[u8]) -> String {
    format!("[{}]", bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" "))
}

impl DiskFile {
    /// Opens the file at `path` without looking at its checksum, should it have one.
    ///
    /// # Errors
    /// It cannot be read, or somebody writes to it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let io = |error| FileError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        // etcd holds an exclusive lock for as long as it runs.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(FileError::Locked(path.to_owned())),
            _ => Self::measure(file).map_err(io),
        }
    }

    fn measure(file: File) -> io::Result<Self> {
        let mut bytes = file.metadata()?.len();
        let mut checksum = None;
        if has_checksum(bytes) {
            bytes -= CHECKSUM_BYTES as u64;
            let mut found = [0; CHECKSUM_BYTES];
            file.read_exact_at(&mut found, bytes)?;
            checksum = Some(found);
        }
        Ok(Self { file, bytes, checksum })
    }

    /// Opens the file at `path` and checks all of it against its checksum.
    ///
    /// # Errors
    /// It cannot be read, has no checksum, or another one.
    pub fn open_checked(path: &Path) -> Result<Self, FileError> {
        let mut opened = Self::open(path)?;
        let Some(expected) = opened.checksum else { return Err(FileError::Unchecked) };
        let found = opened.digest().map_err(|error| FileError::Io { path: path.to_owned(), error })?;
        if found == expected { Ok(opened) } else { Err(FileError::Checksum { expected, found }) }
    }

    fn digest(&mut self) -> io::Result<[u8; CHECKSUM_BYTES]> {
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        self.file.rewind()?;
        let mut rest = (&self.file).take(self.bytes);
        loop {
            match rest.read(&mut buffer)? {
                0 => return Ok(digest.finalize().into()),
                read => digest.update(&buffer[..read]),
            }
        }
    }
}

impl Source for DiskFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}
