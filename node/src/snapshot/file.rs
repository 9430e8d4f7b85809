//! Snapshot files on a real disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
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
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let open = || {
            let file = File::open(path)?;
            let mut bytes = file.metadata()?.len();
            let mut checksum = None;
            if has_checksum(bytes) {
                bytes -= CHECKSUM_BYTES as u64;
                let mut found = [0; CHECKSUM_BYTES];
                file.read_exact_at(&mut found, bytes)?;
                checksum = Some(found);
            }
            Ok(Self { file, bytes, checksum })
        };
        open().map_err(|error| FileError::Io { path: path.to_owned(), error })
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
