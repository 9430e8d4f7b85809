//! Real files.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::Disk;

/// A folder of the file system. Subfolders in it are not listed.
#[derive(Debug)]
pub struct FileDisk {
    folder: PathBuf,
    /// Files written to, by name.
    open: BTreeMap<String, OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Reserved, but never written to from here until `reserved`.
    written: u64,
    reserved: u64,
}

/// The first write to reserved blocks is followed by zeros up to a multiple of this. A file system notes in its journal
/// that blocks are written to, which makes the sync of every single append wait for that journal too: on ext4 166 us
/// instead of 97.
const ZEROS: usize = 1 << 20;

impl FileDisk {
    /// The folder `folder`, which is created if it does not exist; then its name is durable on return.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        sync_dir(folder.parent().unwrap_or(folder))?;
        Ok(Self { folder: folder.to_owned(), open: BTreeMap::new() })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut OpenFile> {
        match self.open.entry(name.to_owned()) {
            Entry::Occupied(file) => Ok(file.into_mut()),
            Entry::Vacant(place) => {
                let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name))?;
                Ok(place.insert(OpenFile { file, written: 0, reserved: 0 }))
            }
        }
    }
}

/// Makes the names in `folder` survive a power cut.
///
/// # Errors
/// The file system failed.
pub fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()
}

impl Disk for FileDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string().ok());
            }
        }
        Ok(names)
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join(name))
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        if bytes > 0 {
            match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes)?,
                Err(error) => {
                    // It has taken what there was, which others may need.
                    self.open.remove(name);
                    let _ = fs::remove_file(path);
                    return Err(error.into());
                }
            }
        }
        self.open.insert(name.to_owned(), OpenFile { file, written: 0, reserved: bytes });
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        static ZERO: [u8; ZEROS] = [0; ZEROS];
        let open = self.file(name)?;
        open.file.write_all_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        if end > open.written && end < open.reserved {
            open.written = end.next_multiple_of(ZEROS as u64).min(open.reserved);
            // Nothing was there, so nothing is overwritten; if it fails, nothing is missing.
            let _ = open.file.write_all_at(&ZERO[..(open.written - end) as usize], end);
        }
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let open = self.file(name)?;
        open.reserved = open.reserved.min(bytes);
        open.file.set_len(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.file.sync_data() // which includes the length, the one piece of metadata that matters
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        sync_dir(&self.folder)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))?;
        self.open.remove(to);
        if let Some(file) = self.open.remove(from) {
            self.open.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.folder.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Standing};
    use quorate_core::{ClusterId, Incarnation, LogIndex, NodeId, Term};

    use super::*;
    use crate::wal::{Options, Wal, exists};

    /// What there was stayed taken, by a file that was as good as none.
    #[test]
    fn a_reservation_that_fails_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::new(folder.path()).unwrap();
        disk.create("a", 1 << 60).unwrap_err();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        disk.create("a", 1 << 10).unwrap();
        disk.create("a", 1 << 60).unwrap_err();
        disk.write_at("a", 0, b"lost").unwrap_err();
    }

    #[test]
    fn a_log_on_real_files_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal");
        let open = || FileDisk::new(&path).unwrap();
        assert!(!exists(&mut open()).unwrap());
        let identity = Identity {
            cluster: ClusterId(1),
            member: NodeId(1),
            incarnation: Incarnation(1),
            standing: Standing::Trusted,
        };
        let config = Configuration { voters: BTreeMap::from([(NodeId(1), Incarnation(1))]), ..Default::default() };
        let options = Options { segment_bytes: 10_000 };
        let mut wal = Wal::create(open(), options, &identity, &HardState::default(), &config).unwrap();
        for index in 1..=200 {
            let payload = Payload::Command(vec![7; 300].into());
            let entry = Entry { term: Term(1), index: LogIndex(index), payload };
            wal.append(&[Record::Entry(entry)]).unwrap();
            if index % 50 == 0 {
                wal.sync().unwrap();
                wal.append(&[Record::Compact { index: LogIndex(index - 5), term: Term(1), config: config.clone() }])
                    .unwrap();
                wal.release().unwrap();
                wal.mark().unwrap();
                drop(wal);
                let (reopened, recovered) = Wal::open(open(), options).unwrap();
                assert_eq!(recovered.start_index, LogIndex(index - 5));
                assert_eq!(recovered.entries.len(), 5);
                wal = reopened;
            }
        }
        assert!(exists(&mut open()).unwrap());
        assert!(open().list().unwrap().len() < 10);
    }

    #[test]
    fn zeros_written_ahead_are_not_to_be_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::new(&folder.path().join("wal")).unwrap();
        let length = 3 * ZEROS + 1000;
        disk.create("log", length as u64).unwrap();
        let mut expected = vec![0; length];
        let mut end = 0;
        for (n, bytes) in [10, 4096, ZEROS - 4106, ZEROS + 1, 1, 500, ZEROS - 1001, 400].into_iter().enumerate() {
            let bytes = vec![n as u8 + 1; bytes];
            disk.write_at("log", end as u64, &bytes).unwrap();
            expected[end..end + bytes.len()].copy_from_slice(&bytes);
            end += bytes.len();
            assert!(disk.read("log").unwrap() == expected, "after write {n}, up to {end}");
        }
        disk.rename("log", "old").unwrap();
        disk.write_at("old", 5, b"again").unwrap();
        expected[5..10].copy_from_slice(b"again");
        disk.truncate("old", end as u64).unwrap();
        disk.write_at("old", end as u64, b"grows").unwrap();
        assert!(disk.read("old").unwrap() == [&expected[..end], b"grows"].concat());
    }
}
