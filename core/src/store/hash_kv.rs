//! A hash over the keys as etcd computes it: the same on every member that has the same history and floor, whatever its
//! backend, and the same as etcd's own. (etcd: HashKV, kvHasher)

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::revisions::Rev;
use super::rows::{self, Record};
use super::values::Values;
use super::{View, index::Versions};
use crate::Revision;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::KeyRange;
use crate::rows::Rows;

/// The answer to [`View::hash_kv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// What was hashed goes up to here.
    pub revision: Revision,
    /// The floor below which only what is live counts; -1 before the first compaction.
    pub compacted: Revision,
}

const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// The name of etcd's bucket of keys: what a hash begins with.
const BUCKET: &[u8] = b"key";

impl View {
    /// The hash over every change up to `revision`, or up to now: reads all of them, values included.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    pub fn hash_kv(&self, rows: &dyn Rows, revision: Option<Revision>) -> Result<KvHash, Error> {
        let revision = revision.unwrap_or(self.revision);
        if revision < self.floor {
            return Err(Error::Compacted { oldest: self.floor });
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        // What is at or below the floor counts if it is live at `revision`; if nothing is, what compaction left counts.
        let everything = KeyRange::From(crate::Blob::EMPTY);
        let is_empty = !self.index.iter(&everything).any(|(_, versions)| versions.at(revision).is_some());
        let live_at = if is_empty { self.floor } else { revision };
        let is_kept = |versions: &Versions, main, sub| {
            versions.at(live_at).is_some_and(|rev: Rev| (rev.main(), rev.sub()) == (main, sub))
        };
        let values = Values::stored(rows);
        let mut digest = CRC.digest();
        digest.update(BUCKET);
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        let range = [rows::record(Revision(0), 0), rows::record(Revision(revision.0.max(0)).next(), 0)];
        rows.scan(&range[0], &range[1], &mut |row_key, row| {
            let (main, sub) =
                rows::parse_record(&row_key[1..]).unwrap_or_else(|| panic!("row key {row_key:?} is damaged"));
            let record = Record::decode(row).unwrap_or_else(|| panic!("the record of {main}.{sub} is damaged"));
            if main <= self.floor && !mutant::is_on(Mutant::A14) {
                let versions = self.index.get(&record.key);
                if !versions.is_some_and(|versions| is_kept(versions, main, sub)) {
                    return ControlFlow::Continue(());
                }
            }
            etcd_key(main, sub, record.put.is_none(), &mut key_bytes);
            etcd_value(&values, main, sub, &record, &mut value_bytes);
            digest.update(&key_bytes);
            digest.update(&value_bytes);
            ControlFlow::Continue(())
        });
        Ok(KvHash { hash: digest.finalize(), revision, compacted: self.floor })
    }

    /// A hash over every row of this member. What it keeps beyond the replicated state counts too, so members differ.
    #[must_use]
    pub fn hash_rows(&self, rows: &dyn Rows) -> u32 {
        let mut digest = CRC.digest();
        rows::all(rows, rows::Kind::Any, |key, row| {
            digest.update(key);
            digest.update(&row);
            ControlFlow::Continue(())
        });
        digest.finalize()
    }
}

/// The key under which etcd stores a change: the revision, and a mark if it is a tombstone.
fn etcd_key(main: Revision, sub: u32, is_tombstone: bool, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&main.0.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&u64::from(sub).to_be_bytes());
    if is_tombstone {
        out.push(b't');
    }
}

/// What etcd stores for a change: a `mvccpb.KeyValue`, for a tombstone with nothing but the key.
fn etcd_value(values: &Values<'_>, main: Revision, sub: u32, record: &Record, out: &mut Vec<u8>) {
    out.clear();
    bytes_field(1, &record.key, out);
    let Some(put) = record.put else { return };
    number_field(2, put.meta.create.0, out);
    number_field(3, main.0, out);
    number_field(4, put.meta.version, out);
    bytes_field(5, &values.value(&record.key, main, sub), out);
    number_field(6, put.meta.lease.map_or(0, |lease| lease.0), out);
}

/// A field of protobuf that holds bytes; left out if they are none.
fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(number << 3 | 2);
        rows::leb128(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// A field of protobuf that holds an int64; left out if it is 0.
fn number_field(number: u8, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(number << 3);
        rows::leb128(value.cast_unsigned(), out);
    }
}
