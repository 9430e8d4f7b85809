//! What the store does with its rows: lists that are read row by row, keys too long for a row, damage.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::*;
use quorate_core::rows::{MemRows, RowWrite, Rows};
use quorate_core::store::{LoadError, Store, TooNew, applied_index};
use quorate_core::{Blob, FeatureLevel, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

struct Member {
    store: Store,
    rows: MemRows,
}

impl Member {
    fn new() -> Self {
        let rows = MemRows::default();
        Self { store: Store::load(NodeId(1), &rows).unwrap(), rows }
    }

    fn apply(&mut self, command: Command) {
        let index = self.store.applied().0.next();
        let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
        let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Nobody }));
        let batch = self.store.apply(&[Entry { term: Term(1), index: LogIndex(index.0), payload }], &self.rows);
        assert!(batch.applied.results[0].1.is_ok());
        self.rows.write(&batch.writes);
    }

    fn put(&mut self, key: &[u8], value: &str) {
        let put = PutRequest {
            key: Blob::copy(key),
            value: Blob::copy(value.as_bytes()),
            lease: None,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        self.apply(Command::Put(put));
    }

    fn list(&self, rows: &dyn Rows, sort_target: SortTarget, revision: Option<Revision>) -> Vec<(Blob, Blob)> {
        let all = RangeRequest::new(KeyRange::From("\0".into()));
        let request = RangeRequest { sort_target, sort_order: SortOrder::Descend, revision, ..all };
        let found = self.store.view().range(rows, &request).unwrap();
        let mut list: Vec<(Blob, Blob)> = found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
        list.sort();
        list
    }
}

/// Counts what is read.
struct Counted<'a> {
    rows: &'a MemRows,
    gets: Cell<usize>,
    scanned: Cell<usize>,
}

impl<'a> Counted<'a> {
    fn new(rows: &'a MemRows) -> Self {
        Self { rows, gets: Cell::new(0), scanned: Cell::new(0) }
    }
}

impl Rows for Counted<'_> {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        self.gets.set(self.gets.get() + 1);
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        self.rows.scan(from, to, &mut |key, value| {
            self.scanned.set(self.scanned.get() + 1);
            visit(key, value)
        });
    }
}

#[test]
fn lists_are_scanned_and_what_lies_in_between_is_read_one_by_one() {
    let mut member = Member::new();
    let mut expected = Vec::new();
    for n in 0..300 {
        let key = format!("key{n:03}").into_bytes();
        member.put(&key, &format!("v{n}"));
        expected.push((Blob::from(key), Blob::from(format!("v{n}").into_bytes())));
    }
    for target in [SortTarget::Key, SortTarget::Mod, SortTarget::Value] {
        let rows = Counted::new(&member.rows);
        assert_eq!(member.list(&rows, target, None), expected);
        assert_eq!((rows.gets.get(), rows.scanned.get()), (0, 300), "one row is read for each key");
    }

    // One key in the middle with a long history: the scan gives up on it, the answer does not change.
    let then = member.store.view().revision();
    for n in 0..20_000 {
        member.put(b"key150", &format!("again{n}"));
    }
    let rows = Counted::new(&member.rows);
    assert_eq!(member.list(&rows, SortTarget::Key, Some(then)), expected, "the past stays what it was");
    expected[150].1 = "again19999".into();
    let rows_now = Counted::new(&member.rows);
    assert_eq!(member.list(&rows_now, SortTarget::Key, None), expected);
    for rows in [rows, rows_now] {
        assert!(rows.scanned.get() < 300 + 8 * 320, "{} rows passed for 300 keys", rows.scanned.get());
    }
}

#[test]
fn keys_too_long_for_a_row_are_kept_as_well_and_as_long() {
    let mut member = Member::new();
    let mut expected = Vec::new();
    for (n, len) in [1, 65_000, 65_520, 65_521, 70_000, 1_500_000].into_iter().enumerate() {
        for byte in [0, b'x'] {
            let mut key = vec![byte; len];
            key.push(u8::try_from(n).unwrap());
            member.put(&key, "old");
            member.put(&key, &format!("value {n}"));
            expected.push((Blob::from(key), Blob::from(format!("value {n}").into_bytes())));
        }
    }
    for n in 0..40 {
        let key = format!("short{n:02}").into_bytes();
        member.put(&key, "s");
        expected.push((Blob::from(key), "s".into()));
    }
    expected.sort();
    assert!(member.list(&member.rows, SortTarget::Key, None) == expected);
    member.apply(Command::Compact { revision: member.store.view().revision() });
    while !member.store.compact_slice(&member.rows.clone(), 10, None).finished {}
    let mut reloaded = Member { store: Store::load(NodeId(1), &member.rows).unwrap(), rows: member.rows.clone() };
    loop {
        let slice = reloaded.store.compact_slice(&reloaded.rows, 10, None);
        reloaded.rows.write(&slice.writes);
        if slice.finished {
            break;
        }
    }
    reloaded.store.check_deep(&reloaded.rows);
    assert!(reloaded.list(&reloaded.rows, SortTarget::Key, None) == expected);
    let values = reloaded.rows.iter().filter(|(key, _)| matches!(key[0], 0x20 | 0x21)).count();
    assert_eq!(values, expected.len(), "the old values are gone, also those of long keys");
}

/// Ten keys with history, a delete, a lease with keys, a member, a compaction half done.
fn lived_in() -> Member {
    let mut member = Member::new();
    member.apply(Command::LeaseGrant(Lease { id: LeaseId(7), ttl: Ttl(60) }));
    for n in 0..30_u8 {
        member.put(&[b'k', n % 10], "v");
    }
    let range = KeyRange::Key("k\0".into());
    member.apply(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: false }));
    let put = PutRequest {
        key: "leased".into(),
        value: "v".into(),
        lease: Some(LeaseId(7)),
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    member.apply(Command::Put(put));
    member.apply(Command::Members(MemberChange::Found(vec![published()])));
    let other = quorate_core::request::Member { id: NodeId(2), ..published() };
    member.apply(Command::Members(MemberChange::Found(vec![other])));
    member.apply(Command::Members(MemberChange::Remove { id: NodeId(2), strict: true }));
    member.apply(Command::Compact { revision: Revision(15) });
    let slice = member.store.compact_slice(&member.rows, 3, None);
    member.rows.write(&slice.writes);
    member
}

fn published() -> quorate_core::request::Member {
    quorate_core::request::Member {
        id: NodeId(1),
        name: "n1".into(),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        is_learner: false,
    }
}

#[test]
fn a_missing_row_is_noticed_when_the_store_is_loaded_or_at_the_latest_when_it_is_read() {
    let member = lived_in();
    assert_eq!(applied_index(&member.rows), member.store.applied().0);
    let keys: Vec<Blob> = member.rows.iter().map(|(key, _)| Blob::copy(key)).collect();
    for key in keys {
        let mut rows = member.rows.clone();
        rows.write(&[RowWrite { key: key.clone(), value: None }]);
        match (key[0], Store::load(NodeId(1), &rows)) {
            // What was applied for whom, the members and how far cleaning has come cannot be known from other rows.
            (0x02 | 0x04 | 0x05 | 0x0c, loaded) => drop(loaded.unwrap()),
            (0x20 | 0x21, loaded) => {
                let loaded = loaded.unwrap();
                let read = catch_unwind(AssertUnwindSafe(|| loaded.check_deep(&rows)));
                assert!(read.is_err(), "value {key:?} is missing and nobody noticed");
            }
            // An older record below the floor may be missing: nobody could have read its value any more.
            (0x10, Ok(loaded)) => {
                let main = i64::from_be_bytes(key[1..9].try_into().unwrap());
                assert!(main < 15, "record {key:?} is missing and nobody noticed");
                loaded.check_deep(&rows);
                let now =
                    |store: &Store, rows| store.view().range(rows, &RangeRequest::new(KeyRange::From("\0".into())));
                assert_eq!(now(&loaded, &rows), now(&member.store, &member.rows));
            }
            (_, loaded) => assert!(matches!(loaded, Err(LoadError::Damaged(_))), "{key:?} is missing: {loaded:?}"),
        }
    }
}

#[test]
fn damaged_rows_are_refused_or_change_nothing_but_never_panic_a_load() {
    let member = lived_in();
    let rows: Vec<(Blob, Blob)> = member.rows.iter().map(|(key, row)| (Blob::copy(key), row.clone())).collect();
    let mut refused = 0;
    for (key, row) in rows {
        for at in 0..row.len() {
            for flip in [0x01, 0x80] {
                let mut bytes = row.to_vec();
                bytes[at] ^= flip;
                let mut rows = member.rows.clone();
                rows.write(&[RowWrite { key: key.clone(), value: Some(Blob::from(bytes)) }]);
                refused += usize::from(Store::load(NodeId(1), &rows).is_err());
            }
        }
        let mut rows = member.rows.clone();
        rows.write(&[RowWrite { key: key.clone(), value: Some(Blob::EMPTY) }]);
        let empty = Store::load(NodeId(1), &rows);
        assert_eq!(empty.is_err(), !matches!(key[0], 0x20 | 0x21), "an empty row at {key:?}");
    }
    assert!(refused > 100, "{refused} flipped bits were noticed");
}

#[test]
#[should_panic(expected = "is missing from the backend")]
fn a_missing_value_is_corruption_and_never_not_found() {
    let mut member = Member::new();
    member.put(b"a", "1");
    let value = member.rows.iter().find(|(key, _)| key[0] == 0x20).map(|(key, _)| Blob::copy(key)).unwrap();
    member.rows.write(&[RowWrite { key: value, value: None }]);
    member.list(&member.rows, SortTarget::Key, None);
}

#[test]
#[should_panic(expected = "after 1 was applied")]
fn an_entry_out_of_order_is_never_applied() {
    let mut member = Member::new();
    member.put(b"a", "1");
    member.store.apply(&[Entry { term: Term(1), index: LogIndex(3), payload: Payload::Empty }], &member.rows);
}

#[test]
#[should_panic(expected = "is not known to this build")]
fn an_entry_of_an_unknown_kind_stops_the_member() {
    let payload = Payload::Command(Blob::from(vec![1, 1, 1, 1, 200]));
    let mut member = Member::new();
    member.store.apply(&[Entry { term: Term(1), index: LogIndex(1), payload }], &member.rows);
}

#[test]
fn a_build_that_is_too_old_stops_where_the_level_is_raised_and_a_newer_one_goes_on_there() {
    let entries: Vec<Entry> = [1, 2, 1]
        .into_iter()
        .zip(1..)
        .map(|(level, index)| {
            let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index };
            let command = Command::RaiseFeatureLevel(FeatureLevel(level));
            let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Member }));
            Entry { term: Term(1), index: LogIndex(index), payload }
        })
        .collect();
    let too_new = TooNew { level: FeatureLevel(2), understood: FeatureLevel(1) };
    let mut rows = MemRows::default();
    let mut old = Store::load_as(NodeId(1), FeatureLevel(1), &rows).unwrap();
    let batch = old.apply(&entries, &rows);
    assert_eq!(
        (batch.too_new, batch.applied.index, batch.applied.level),
        (Some(too_new), LogIndex(1), FeatureLevel(1))
    );
    assert_eq!((batch.applied.hash, batch.applied.hashes.len()), (old.hash(), 1));
    rows.write(&batch.writes);
    let batch = old.apply(&entries[1..], &rows);
    assert_eq!((batch.too_new, batch.applied.index, batch.writes.len()), (Some(too_new), LogIndex(1), 0));

    let mut new = Store::load_as(NodeId(1), FeatureLevel(2), &rows).unwrap();
    let batch = new.apply(&entries[1..], &rows);
    assert_eq!(
        (batch.too_new, batch.applied.level, new.view().feature_level()),
        (None, FeatureLevel(2), FeatureLevel(2))
    );
    rows.write(&batch.writes);
    let Err(LoadError::TooNew(found)) = Store::load_as(NodeId(1), FeatureLevel(1), &rows) else {
        panic!("it is loaded")
    };
    assert_eq!(found, too_new);
    let text = "the cluster's feature level is 2, and this version understands levels up to 1: start this member with";
    assert!(found.to_string().starts_with(text), "{found}");
}

#[test]
fn a_put_reads_nothing_back_and_writes_two_rows() {
    let mut member = lived_in();
    let index = member.store.applied().0.next();
    let put = PutRequest {
        key: "leased".into(),
        value: "w".into(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
    let payload =
        Payload::Command(codec::encode(&Envelope { origin, command: Command::Put(put), author: Author::Nobody }));
    let rows = Counted::new(&member.rows);
    let batch = member.store.apply(&[Entry { term: Term(1), index, payload }], &rows);
    assert_eq!((rows.gets.get(), rows.scanned.get()), (0, 0));
    let kinds: Vec<u8> = batch.writes.iter().map(|write| write.key[0]).collect();
    assert_eq!(kinds, [0x20, 0x10, 0x05, 0x01], "value and record; once a batch what was applied, and for whom");
}
