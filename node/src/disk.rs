//! What the write-ahead log asks of a file system: one flat folder of files, all calls synchronous.

use std::io;

#[cfg(feature = "server")]
pub mod file;

/// A folder of files. The real one is [`file::FileDisk`]; the simulator has one that loses, tears and damages.
///
/// What callers may assume, and no more:
/// - Written bytes survive a power cut once [`Disk::sync`] of their file has returned `Ok`. Of bytes written since,
///   any subset of 4 KiB pages may survive. A page is never half old and half new below 512 bytes.
/// - A created, renamed or removed name survives once [`Disk::sync_dir`] has returned `Ok`; of changes since, any may.
/// - After an error from `write_at` or `sync` nothing is known of the file: the caller gives up, it never retries.
pub trait Disk {
    /// The names of all files, in any order.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// All bytes of file `name`.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;

    /// Creates file `name` with `bytes` zeros, whose space is reserved as far as the file system can. If it exists,
    /// it is emptied first. If there is no room for it ([`io::ErrorKind::StorageFull`]), none is taken.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// Writes `bytes` at `offset`; the file grows if they reach past its end.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to its first `bytes` bytes.
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// Makes the file's bytes and length survive a power cut.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Makes all names created, renamed and removed so far survive a power cut.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// Gives file `from` the name `to`, atomically replacing a file of that name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes file `name`.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

impl<D: Disk> Disk for &mut D {
    fn list(&mut self) -> io::Result<Vec<String>> {
        (**self).list()
    }
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        (**self).read(name)
    }
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        (**self).create(name, bytes)
    }
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(name, offset, bytes)
    }
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        (**self).truncate(name, bytes)
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        (**self).sync(name)
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        (**self).sync_dir()
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
}
