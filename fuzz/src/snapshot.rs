//! The body of target `snapshot`. `node/tests/fuzz_corpus.rs` includes this file, as core's test does with `lib.rs`.

use bytes::Bytes;
use quorate_core::rows::{MemRows, RowWrite};
use quorate_core::store::{Store, import};
use quorate_core::{Blob, LogIndex, NodeId, Term};
use quorate_node::snapshot::{EtcdFile, SnapshotError, status};

const PAGE_BYTES: usize = 4096;

/// `bytes` are the pages of a snapshot file behind its first three, the root's last: whatever they are, the file becomes
/// a store that is whole, or it is refused.
pub fn snapshot(bytes: &[u8]) {
    let file = file(bytes);
    let _ = status(file.clone());
    let Ok((store, rows)) = restored(file) else { return };
    store.check_deep(&rows);
}

fn restored(file: Bytes) -> Result<(Store, MemRows), SnapshotError> {
    let file = EtcdFile::open(file)?;
    let (mut rows, mut last) = (MemRows::default(), Vec::new());
    import(&file, &file.import(LogIndex(1), Term(1))?, &mut |key, value| {
        assert!(*last < *key, "row {key:?} after {last:?}");
        last = key.to_vec();
        rows.write(&[RowWrite { key: Blob::copy(key), value: Some(Blob::copy(value)) }]);
        Ok(())
    })?;
    let store = Store::load(NodeId(1), &rows).unwrap_or_else(|error| panic!("imported, but {error}"));
    Ok((store, rows))
}

/// Puts what a fuzzer would hardly guess around and into `body`: a meta page with its checksum, and the pages' ids.
fn file(body: &[u8]) -> Bytes {
    let pages = 3 + body.len().div_ceil(PAGE_BYTES);
    let mut file = vec![0; 3 * PAGE_BYTES];
    file.extend_from_slice(body);
    file.resize(pages * PAGE_BYTES, 0);
    for page in 0..pages {
        file[page * PAGE_BYTES..][..8].copy_from_slice(&(page as u64).to_le_bytes());
    }
    file[8] = 4; // a meta page
    let mut meta = Vec::new();
    for number in [0xED0C_DAED, 2, PAGE_BYTES as u32, 0] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    for number in [pages as u64 - 1, 0, 2, pages as u64, 0] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let checksum = meta.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    meta.extend_from_slice(&checksum.to_le_bytes());
    file[16..16 + meta.len()].copy_from_slice(&meta);
    file.into()
}
