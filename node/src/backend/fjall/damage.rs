//! Damage to the files of a generation: what an error says of it, what they are compared with, and what is noted in their
//! folder for the next process.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use fjall::{AbstractTree, Keyspace};

use super::BackendError;
use crate::disk::file::sync_dir;

/// Folders of fjall's own keyspace and of ours.
pub(super) const KEYSPACES: [&str; 2] = ["0", "1"];

/// Tables are read in pieces of so many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// The rest after a piece that keeps reading, while everything goes on, to 32 MiB a second.
pub(super) const PAUSE: Duration = Duration::from_nanos(1_000_000_000 * PIECE_BYTES as u64 / (32 << 20));

/// `error` of a call, as damage if it says that of the files.
pub(super) fn failed(error: impl Error + 'static) -> BackendError {
    blame(&error, format!("backend: {error}"))
}

/// What `error`, told as `text`, says of the files: a system that fails says nothing of them.
fn blame(error: &(dyn Error + 'static), text: String) -> BackendError {
    if is_damage(error) { BackendError::Damaged(text) } else { BackendError::Failed(text) }
}

/// Whether the medium did not give something back; it may do so again, if it was the way there that failed.
fn is_unreadable(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
        None => error.source().is_some_and(is_unreadable),
    }
}

fn is_damage(error: &(dyn Error + 'static)) -> bool {
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

/// Compares the manifests of a database, open or not, with the checksums that were noted of them.
pub(super) fn check_manifests(path: &Path) -> Result<(), BackendError> {
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
pub(super) fn noted_manifest(current: &[u8]) -> Option<(u64, u128)> {
    let number = u64::from_le_bytes(current.get(..8)?.try_into().ok()?);
    let sum = u128::from_le_bytes(current.get(8..24)?.try_into().ok()?);
    Some((number, sum))
}

/// Compares every table's file with the checksum that the manifest has of it; rests for `pause` after each piece.
pub(super) fn check_tables(keyspace: &Keyspace, pause: Duration) -> Result<(), BackendError> {
    // Holding the version keeps the files of its tables.
    let version = keyspace.tree.current_version();
    let mut piece = vec![0; PIECE_BYTES];
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

/// In the folder of a generation that must not be used any more: why.
pub(super) const DAMAGED: &str = "damaged";
/// In the folder of a generation that must not be used before all of it has been read and found sound: why.
pub(super) const SUSPECT: &str = "suspect";

/// Tells the next process that the generation at `path` is suspect.
pub(super) fn suspect(path: &Path, why: &str) {
    let _ = note(path, SUSPECT, why);
}

/// Tells the next process what an `error` that ends this one says of the generation at `path`.
pub(super) fn tell(path: &Path, error: &fjall::Error) {
    if is_damage(error) {
        let name = if is_unreadable(error) { SUSPECT } else { DAMAGED };
        let _ = note(path, name, &error.to_string());
    }
}

fn note(path: &Path, name: &str, why: &str) -> io::Result<()> {
    let mut file = File::create(path.join(name))?;
    file.write_all(why.as_bytes())?;
    file.sync_all()?;
    sync_dir(path)
}

/// Why the generation at `path` has the note `name`, if it has.
pub(super) fn noted(path: &Path, name: &str) -> Option<String> {
    fs::read_to_string(path.join(name)).ok()
}

/// The generation at `path` is suspect no more.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    fs::remove_file(path.join(SUSPECT)).and_then(|()| sync_dir(path))
}
