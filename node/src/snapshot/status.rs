//! What a snapshot file holds, in figures. (etcdutl: snapshot status)

use std::collections::BTreeSet;

use crc::{CRC_32_ISCSI, Crc, Table};
use prost::Message as _;
use quorate_api::mvccpb;

use super::{SnapshotError, names, parse_revision_key};
use crate::bolt::{Reader, Source};

const CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// CRC-32C of every bucket's name, and every key and value in it.
    pub hash: u32,
    /// The revision of the last change.
    pub revision: i64,
    /// Keys that exist at that revision.
    pub keys: u64,
    /// The file's length without its checksum.
    pub bytes: u64,
    /// The storage version it names; empty if it names none, as before etcd 3.6.
    pub version: String,
}

/// Reads the whole file, which no checksum may follow.
///
/// # Errors
/// It is no snapshot, or damaged.
pub fn status<S: Source>(source: S) -> Result<FileStatus, SnapshotError> {
    let bytes = source.bytes();
    let reader = Reader::open(source)?;
    let mut digest = CRC.digest();
    let (mut keys, mut revision, mut version) = (BTreeSet::new(), 0, String::new());
    for (name, bucket) in reader.buckets()? {
        digest.update(&name);
        let mut cursor = reader.walk(&bucket);
        while let Some((key, value)) = cursor.next()? {
            digest.update(&key);
            digest.update(&value);
            if *name == *names::META && *key == *names::STORAGE_VERSION {
                version = String::from_utf8_lossy(&value).into_owned();
            }
            if *name != *names::KEY {
                continue;
            }
            let malformed = |reason: &str| super::import::malformed(names::KEY, &key, reason);
            let (main, _, deleted) = parse_revision_key(&key).ok_or_else(|| malformed("not a revision"))?;
            revision = main.0;
            let kv = mvccpb::KeyValue::decode(value).map_err(|error| malformed(&error.to_string()))?;
            if deleted {
                keys.remove(&kv.key);
            } else {
                keys.insert(bytes::Bytes::copy_from_slice(&kv.key));
            }
        }
    }
    Ok(FileStatus { hash: digest.finalize(), revision, keys: keys.len() as u64, bytes, version })
}
