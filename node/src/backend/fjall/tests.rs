//! Damage to fjall's files, and what a batch may hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::damage::{KEYSPACES, noted_manifest};
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
