//! The rows of a store: one key space, told apart by the first byte of the key.
//!
//! | key | value |
//! |---|---|
//! | `01` | [`Totals`]: where the state stands |
//! | `02` | [`Cleaned`]: how far this member has removed rows below the floor |
//! | `03` lease ID | a [`LeaseRow`] |
//! | `04` member ID | a `request::Member` |
//! | `05` member ID | the commands applied for it, see [`super::dedup`] |
//! | `10` main sub | a [`Record`]: one change of one key without its value |
//! | `20` key main sub | the value a put stored, for keys that fit |
//! | `21` main sub | the value a put stored, for longer keys |
//!
//! Numbers in keys are big endian, so rows stand in order of revision, and the values of a list of keys in the order
//! of the list. A key within a row's key is escaped such that the order stays and no key is a prefix of another:
//! `00` becomes `00 ff`, and `00 00` ends it.

use alloc::vec::Vec;

use bincode::{Decode, Encode};
use bytes::{Buf, Bytes};

use super::index::Meta;
use crate::blob::Source;
use crate::rows::{ROW_KEY_BYTES_MAX, RowWrite, Rows};
use crate::{Blob, FeatureLevel, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

const TOTALS: u8 = 0x01;
const CLEANED: u8 = 0x02;
const LEASE: u8 = 0x03;
const MEMBER: u8 = 0x04;
const DEDUP: u8 = 0x05;
const RECORD: u8 = 0x10;
const VALUE: u8 = 0x20;
const LONG_VALUE: u8 = 0x21;

/// Where the state stands after the last applied batch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Totals {
    /// The last applied entry.
    pub(super) index: LogIndex,
    /// Its term.
    pub(super) term: Term,
    /// The store's revision.
    pub(super) revision: Revision,
    /// The compaction floor; -1 before the first compaction.
    pub(super) floor: Revision,
    /// The running state hash.
    pub(super) hash: u64,
    pub(super) feature_level: FeatureLevel,
    /// Logical bytes; see [`super::quota`].
    pub(super) ledger: super::quota::Ledger,
}

/// How far physical compaction has come: of this member alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Cleaned {
    /// Records before (`main`, `sub`) have been looked at with a floor at or above them.
    pub(super) main: Revision,
    pub(super) sub: u32,
}

/// A lease without its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct LeaseRow {
    pub(super) ttl: Ttl,
    pub(super) remaining: Option<Ttl>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Blob,
    /// `None` is a tombstone.
    pub(super) put: Option<Put>,
    /// Of a revision's first record: bytes that a compaction at this revision makes removable.
    pub(super) removable: u64,
}

/// What a put stored, without the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) meta: Meta,
    pub(super) value_bytes: u32,
    /// XXH3 of the value.
    pub(super) digest: u64,
}

/// The high half of a record's first byte: the format. The low half are flags.
const FORMAT: u8 = 0x10;
const FLAG_PUT: u8 = 0x01;
const FLAG_LEASE: u8 = 0x02;

impl Record {
    /// First byte; LEB128 removable; for a put: LEB128 create, version and value bytes, digest and, if it has one,
    /// lease ID, both 8 bytes little endian; the key.
    pub(super) fn encode(&self) -> Blob {
        let mut out = Vec::with_capacity(40 + self.key.len());
        let lease = self.put.and_then(|put| put.meta.lease);
        out.push(FORMAT | if self.put.is_some() { FLAG_PUT } else { 0 } | if lease.is_some() { FLAG_LEASE } else { 0 });
        leb128(self.removable, &mut out);
        if let Some(put) = &self.put {
            leb128(put.meta.create.0.cast_unsigned(), &mut out);
            leb128(put.meta.version.cast_unsigned(), &mut out);
            leb128(u64::from(put.value_bytes), &mut out);
            out.extend_from_slice(&put.digest.to_le_bytes());
        }
        if let Some(lease) = lease {
            out.extend_from_slice(&lease.0.to_le_bytes());
        }
        out.extend_from_slice(&self.key);
        Blob::from(out)
    }

    /// The record in `row`, unless that is not one. Its key shares `row`.
    pub(super) fn decode(row: Blob) -> Option<Self> {
        let mut rest = row.0;
        let first = rest.try_get_u8().ok()?;
        let removable = take_leb128(&mut rest)?;
        if first & !(FLAG_PUT | FLAG_LEASE) != FORMAT || first & (FLAG_PUT | FLAG_LEASE) == FLAG_LEASE {
            return None;
        }
        let mut put = None;
        if first & FLAG_PUT != 0 {
            let create = Revision(take_leb128(&mut rest)?.cast_signed());
            let version = take_leb128(&mut rest)?.cast_signed();
            let value_bytes = u32::try_from(take_leb128(&mut rest)?).ok()?;
            let digest = rest.try_get_u64_le().ok()?;
            let mut lease = None;
            if first & FLAG_LEASE != 0 {
                lease = Some(LeaseId(rest.try_get_i64_le().ok()?)).filter(|lease| lease.0 != 0);
                lease?;
            }
            put = Some(Put { meta: Meta { create, version, lease }, value_bytes, digest });
        }
        (!rest.is_empty()).then_some(Self { key: Blob(rest), put, removable })
    }
}

fn leb128(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_leb128(from: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub(super) fn totals() -> Blob {
    Blob(Bytes::from_static(&[TOTALS]))
}

pub(super) fn cleaned() -> Blob {
    Blob(Bytes::from_static(&[CLEANED]))
}

pub(super) fn lease(id: LeaseId) -> Blob {
    tagged(LEASE, &id.0.to_be_bytes())
}

pub(super) fn member(id: NodeId) -> Blob {
    tagged(MEMBER, &id.0.to_be_bytes())
}

pub(super) fn dedup(id: NodeId) -> Blob {
    tagged(DEDUP, &id.0.to_be_bytes())
}

pub(super) fn record(main: Revision, sub: u32) -> Blob {
    let mut key = Vec::with_capacity(13);
    key.push(RECORD);
    revision(main, sub, &mut key);
    Blob::from(key)
}

/// The row of the value that the put of `key` at (`main`, `sub`) stored.
pub(super) fn value(key: &[u8], main: Revision, sub: u32) -> Blob {
    let mut row = Vec::with_capacity(key.len() + 20);
    value_into(key, main, sub, &mut row);
    Blob::from(row)
}

/// Like [`value`], replacing what is in `row`. Says whether the row stands in order of its key.
pub(super) fn value_into(key: &[u8], main: Revision, sub: u32, row: &mut Vec<u8>) -> bool {
    row.clear();
    row.push(VALUE);
    let fits = escape(key, row);
    if !fits {
        row.clear();
        row.push(LONG_VALUE);
    }
    revision(main, sub, row);
    fits
}

/// Appends `key` escaped; gives up, returning false, once it is too long for a row's key.
fn escape(key: &[u8], row: &mut Vec<u8>) -> bool {
    for part in key.split_inclusive(|byte| *byte == 0) {
        row.extend_from_slice(part);
        if part.ends_with(&[0]) {
            row.push(0xff);
        }
        if row.len() > ROW_KEY_BYTES_MAX - 2 - 12 {
            return false;
        }
    }
    row.extend_from_slice(&[0, 0]);
    true
}

fn revision(main: Revision, sub: u32, row: &mut Vec<u8>) {
    row.extend_from_slice(&main.0.to_be_bytes());
    row.extend_from_slice(&sub.to_be_bytes());
}

fn tagged(tag: u8, rest: &[u8]) -> Blob {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(tag);
    key.extend_from_slice(rest);
    Blob::from(key)
}

/// What a scan should visit: rows of one kind.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Leases,
    Members,
    Dedup,
    Records,
    Any,
}

/// All rows of a kind: the key after its first byte, and the value.
pub(super) fn all(rows: &dyn Rows, kind: Kind, mut visit: impl FnMut(&[u8], Blob) -> core::ops::ControlFlow<()>) {
    let (from, to) = match kind {
        Kind::Leases => (LEASE, LEASE + 1),
        Kind::Members => (MEMBER, MEMBER + 1),
        Kind::Dedup => (DEDUP, DEDUP + 1),
        Kind::Records => (RECORD, RECORD + 1),
        Kind::Any => (0, 0xff),
    };
    rows.scan(&[from], &[to], &mut |key, value| visit(&key[1..], value));
}

/// The revision in a record row's key without its first byte.
pub(super) fn parse_record(key: &[u8]) -> Option<(Revision, u32)> {
    let (main, sub) = key.split_first_chunk::<8>()?;
    Some((Revision(i64::from_be_bytes(*main)), u32::from_be_bytes(sub.try_into().ok()?)))
}

/// The number in a lease, member or dedup row's key without its first byte.
pub(super) fn parse_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

pub(super) fn write(key: Blob, value: Blob) -> RowWrite {
    RowWrite { key, value: Some(value) }
}

pub(super) fn remove(key: Blob) -> RowWrite {
    RowWrite { key, value: None }
}
