//! The rows of a store: one key space, told apart by the first byte of the key.
//!
//! | key | value |
//! |---|---|
//! | `01` | [`Totals`]: where the state stands |
//! | `02` | [`Cleaned`]: how far this member has removed rows below the floor |
//! | `03` lease ID | a [`LeaseRow`] |
//! | `04` member ID | a `request::Member` |
//! | `05` member ID, incarnation | a [`super::dedup::Life`]: which proposals of it were applied |
//! | `06` member ID | [`super::dedup::Retired`] |
//! | `07` name | a [`super::User`] |
//! | `08` name | a [`super::auth::RoleRow`] |
//! | `09` | a [`super::auth::AuthRow`]: whether users are asked for at all |
//! | `0a` alarm kind, member ID; if fenced, incarnation | nothing: the alarm is on |
//! | `0b` | the version that a downgrade under way goes down to |
//! | `0c` `01` member ID | the same ID: that member was removed, and no other one will ever have it |
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
use crate::request::{Alarm, AlarmKind};
use crate::rows::{ROW_KEY_BYTES_MAX, RowWrite, Rows};
use crate::{Blob, FeatureLevel, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

const TOTALS: u8 = 0x01;
const CLEANED: u8 = 0x02;
const LEASE: u8 = 0x03;
const MEMBER: u8 = 0x04;
const LIFE: u8 = 0x05;
const RETIRED: u8 = 0x06;
const USER: u8 = 0x07;
const ROLE: u8 = 0x08;
const AUTH: u8 = 0x09;
const ALARM: u8 = 0x0a;
const DOWNGRADE: u8 = 0x0b;
const CLUSTER: u8 = 0x0c;
const RECORD: u8 = 0x10;
const VALUE: u8 = 0x20;
const LONG_VALUE: u8 = 0x21;
/// Behind [`CLUSTER`].
const REMOVED: u8 = 0x01;

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
    /// How many keys exist.
    pub(super) keys: u64,
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
    /// Records before (`main`, `sub`) have been looked at with a floor at or above them, `main`'s own with this one.
    pub(super) floor: Revision,
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
    /// Of a revision's first record: bytes that are not counted any more after a compaction at this revision.
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

pub(super) fn leb128(mut number: u64, out: &mut Vec<u8>) {
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

pub(super) fn removed(id: NodeId) -> Blob {
    let mut rest = [REMOVED; 9];
    rest[1..].copy_from_slice(&id.0.to_be_bytes());
    tagged(CLUSTER, &rest)
}

pub(super) fn life(id: NodeId, incarnation: Incarnation) -> Blob {
    let mut rest = [0; 16];
    rest[..8].copy_from_slice(&id.0.to_be_bytes());
    rest[8..].copy_from_slice(&incarnation.0.to_be_bytes());
    tagged(LIFE, &rest)
}

pub(super) fn retired(id: NodeId) -> Blob {
    tagged(RETIRED, &id.0.to_be_bytes())
}

pub(super) fn user(name: &str) -> Blob {
    tagged(USER, name.as_bytes())
}

pub(super) fn role(name: &str) -> Blob {
    tagged(ROLE, name.as_bytes())
}

pub(super) fn auth() -> Blob {
    Blob(Bytes::from_static(&[AUTH]))
}

/// NOSPACE and CORRUPT have etcd's numbers.
pub(super) fn alarm(alarm: Alarm) -> Blob {
    let (kind, life) = match alarm.kind {
        AlarmKind::NoSpace => (1, None),
        AlarmKind::Corrupt => (2, None),
        AlarmKind::Fenced(life) => (3, Some(life)),
    };
    let mut rest = Vec::with_capacity(17);
    rest.push(kind);
    rest.extend_from_slice(&alarm.member.0.to_be_bytes());
    rest.extend(life.iter().flat_map(|life| life.0.to_be_bytes()));
    tagged(ALARM, &rest)
}

pub(super) fn downgrade() -> Blob {
    Blob(Bytes::from_static(&[DOWNGRADE]))
}

pub(super) fn record(main: Revision, sub: u32) -> Blob {
    let mut key = Vec::with_capacity(13);
    key.push(RECORD);
    revision(main, sub, &mut key);
    Blob::from(key)
}

/// The row of the value that the put of `key` at (`main`, `sub`) stored.
pub(super) fn value(key: &[u8], main: Revision, sub: u32) -> Blob {
    let mut row = Vec::with_capacity(1 + key.len() + 2 + 12);
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
    Lives,
    Retired,
    Users,
    Roles,
    Alarms,
    Removed,
    Records,
    Any,
}

/// All rows of a kind: the key after its first byte, and the value.
pub(super) fn all(rows: &dyn Rows, kind: Kind, mut visit: impl FnMut(&[u8], Blob) -> core::ops::ControlFlow<()>) {
    let (from, to) = match kind {
        Kind::Leases => (LEASE, LEASE + 1),
        Kind::Members => (MEMBER, MEMBER + 1),
        Kind::Lives => (LIFE, LIFE + 1),
        Kind::Retired => (RETIRED, RETIRED + 1),
        Kind::Users => (USER, USER + 1),
        Kind::Roles => (ROLE, ROLE + 1),
        Kind::Alarms => (ALARM, ALARM + 1),
        Kind::Removed => {
            return rows.scan(&[CLUSTER, REMOVED], &[CLUSTER, REMOVED + 1], &mut |key, value| visit(&key[1..], value));
        }
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

/// The member and the incarnation in a life row's key without its first byte.
pub(super) fn parse_life(key: &[u8]) -> Option<(NodeId, Incarnation)> {
    let (id, incarnation) = key.split_first_chunk::<8>()?;
    Some((NodeId(u64::from_be_bytes(*id)), Incarnation(parse_id(incarnation)?)))
}

/// The alarm in an alarm row's key without its first byte.
pub(super) fn parse_alarm(key: &[u8]) -> Option<Alarm> {
    let (kind, rest) = key.split_first()?;
    let (member, life) = rest.split_first_chunk()?;
    let kind = match (kind, life) {
        (1, []) => AlarmKind::NoSpace,
        (2, []) => AlarmKind::Corrupt,
        (3, life) => AlarmKind::Fenced(Incarnation(parse_id(life)?)),
        _ => return None,
    };
    Some(Alarm { kind, member: NodeId(u64::from_be_bytes(*member)) })
}

/// The member in a removed row's key without its first byte.
pub(super) fn parse_removed(key: &[u8]) -> Option<u64> {
    parse_id(key.strip_prefix(&[REMOVED])?)
}

/// The number in a lease, member or retired row's key without its first byte.
pub(super) fn parse_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

pub(super) fn write(key: Blob, value: Blob) -> RowWrite {
    RowWrite { key, value: Some(value) }
}

pub(super) fn remove(key: Blob) -> RowWrite {
    RowWrite { key, value: None }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;

    use proptest::prelude::*;

    use super::super::User;
    use super::super::auth::{AuthRow, RoleRow};
    use super::super::quota::Ledger;
    use super::*;
    use crate::auth::{Allows, AuthRevision, Permission};
    use crate::format::codec;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let lease = proptest::option::of(any::<i64>().prop_filter("no lease", |id| *id != 0).prop_map(LeaseId));
        let meta = (1..=i64::MAX, 1..=i64::MAX, lease);
        let meta = meta.prop_map(|(create, version, lease)| Meta { create: Revision(create), version, lease });
        let put = (meta, any::<u32>(), any::<u64>());
        let put = put.prop_map(|(meta, value_bytes, digest)| Put { meta, value_bytes, digest });
        let key = proptest::collection::vec(any::<u8>(), 1..20).prop_map(Blob::from);
        (key, proptest::option::of(put), any::<u64>()).prop_map(|(key, put, removable)| Record { key, put, removable })
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written_and_never_in_part(record in any_record()) {
            let row = record.encode();
            prop_assert_eq!(Record::decode(row.clone()), Some(record.clone()));
            for len in 0..row.len() - record.key.len() {
                prop_assert_eq!(Record::decode(Blob(row.0.slice(..len))), None);
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(record) = Record::decode(Blob::from(bytes)) {
                prop_assert_eq!(Record::decode(record.encode()), Some(record));
            }
        }

        /// Also where one key is a beginning of the other, and where they contain the escape itself.
        #[test]
        fn value_rows_stand_in_the_order_of_key_then_revision(
            a in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)], 1..5),
            b in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)], 1..5),
            revisions in (2_i64..300, 2_i64..300, 0_u32..3, 0_u32..3),
        ) {
            let (main_a, main_b, sub_a, sub_b) = revisions;
            let rows = value(&a, Revision(main_a), sub_a).cmp(&value(&b, Revision(main_b), sub_b));
            prop_assert_eq!(rows, (&a, main_a, sub_a).cmp(&(&b, main_b, sub_b)));
        }
    }

    #[test]
    fn rows_keep_their_bytes() {
        let keys = [
            (totals(), "01"),
            (cleaned(), "02"),
            (lease(LeaseId(7)), "03 0000000000000007"),
            (lease(LeaseId(-7)), "03 fffffffffffffff9"),
            (member(NodeId(1)), "04 0000000000000001"),
            (life(NodeId(1), Incarnation(2)), "05 0000000000000001 0000000000000002"),
            (retired(NodeId(1)), "06 0000000000000001"),
            (user("u"), "07 75"),
            (role("r"), "08 72"),
            (auth(), "09"),
            (alarm(Alarm { kind: AlarmKind::NoSpace, member: NodeId(1) }), "0a 01 0000000000000001"),
            (alarm(Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) }), "0a 02 0000000000000000"),
            (
                alarm(Alarm { kind: AlarmKind::Fenced(Incarnation(9)), member: NodeId(1) }),
                "0a 03 0000000000000001 0000000000000009",
            ),
            (downgrade(), "0b"),
            (record(Revision(258), 3), "10 0000000000000102 00000003"),
            (value(b"a\0b", Revision(258), 3), "20 61 00ff 62 0000 0000000000000102 00000003"),
            (value(&vec![b'x'; 65_521], Revision(258), 3), "21 0000000000000102 00000003"),
        ];
        for (key, bytes) in keys {
            assert_eq!(hex(&key), bytes.replace(' ', ""));
        }
        let meta = Meta { create: Revision(300), version: 2, lease: None };
        let put = Put { meta, value_bytes: 5, digest: 0x0102_0304_0506_0708 };
        let leased = Put { meta: Meta { lease: Some(LeaseId(9)), ..meta }, ..put };
        let of = |put, removable| Record { key: "k".into(), put, removable };
        let records = [
            (of(None, 300), "10 ac02 6b"),
            (of(Some(put), 0), "11 00 ac02 02 05 0807060504030201 6b"),
            (of(Some(leased), 1), "13 01 ac02 02 05 0807060504030201 0900000000000000 6b"),
        ];
        for (record, bytes) in records {
            assert_eq!(hex(&record.encode()), bytes.replace(' ', ""), "{record:?}");
        }
        let mut ledger = Ledger::default();
        ledger.put(1, 2);
        ledger.supersede(1, 2);
        ledger.tombstone(1);
        let totals = Totals {
            index: LogIndex(300),
            term: Term(2),
            revision: Revision(5),
            floor: Revision(-1),
            keys: 3,
            hash: u64::MAX,
            feature_level: FeatureLevel(1),
            ledger,
        };
        let encoded = codec::encode(&totals);
        assert_eq!(hex(&encoded), "01 fb2c01 02 0a 01 03 fdffffffffffffffff 01 84 43 41 00".replace(' ', ""));
        assert_eq!(codec::decode_copying::<Totals>(&encoded).unwrap(), totals);
        let user = User { password: Some("h".into()), no_password: false, roles: ["r".into(), "root".into()].into() };
        assert_eq!(hex(&codec::encode(&user)), "01 01 0168 00 02 0172 04726f6f74".replace(' ', ""));
        let role: RoleRow = vec![Permission { allows: Allows::Write, key: "a".into(), range_end: Blob::EMPTY }];
        assert_eq!(hex(&codec::encode(&role)), "01 01 01 0161 00".replace(' ', ""));
        let auth = AuthRow { enabled: true, revision: AuthRevision(300) };
        assert_eq!(hex(&codec::encode(&auth)), "01 01 fb2c01".replace(' ', ""));
        let lease = LeaseRow { ttl: Ttl(60), remaining: Some(Ttl(30)) };
        assert_eq!(hex(&codec::encode(&lease)), "01 78 01 3c".replace(' ', ""));
        assert_eq!(
            hex(&codec::encode(&Cleaned { floor: Revision(6), main: Revision(5), sub: 1 })),
            "01 0c 0a 01".replace(' ', "")
        );
    }

    #[test]
    fn keys_of_any_length_have_a_row_that_a_backend_can_store() {
        for len in [1, 32_000, 32_761, 65_520, 65_521, 65_535, 65_536, 1 << 20] {
            for byte in [0, b'x'] {
                let row = value(&vec![byte; len], Revision(i64::MAX), u32::MAX);
                assert!(row.len() <= ROW_KEY_BYTES_MAX, "{len} bytes of {byte}: {} bytes", row.len());
            }
        }
        assert_eq!(value(&[b'x'; 65_520], Revision(2), 0).len(), ROW_KEY_BYTES_MAX);
        assert_eq!(value(&[0; 32_760], Revision(2), 0).len(), ROW_KEY_BYTES_MAX);
    }
}
