//! What a store exports, imported again, answers as the store did; and what contradicts itself is refused.

#[path = "store_model/any.rs"]
#[allow(dead_code, reason = "this test needs only the commands")]
mod any;

use any::{Step, any_steps};
use proptest::prelude::*;
use quorate_core::auth::{Allows, AuthRevision, Author, Permission};
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{AlarmKind, KeyRange, KeyValue, Lease, RangeRequest};
use quorate_core::rows::{MemRows, RowWrite};
use quorate_core::store::{
    AuthState, Change, History, Import, ImportError, Imported, LeaseRecord, Store, User, import,
};
use quorate_core::{Blob, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

struct Changes(Vec<Change>);

impl History for Changes {
    type Error = ImportError;

    fn changes(&self, visit: &mut dyn FnMut(Change) -> Result<(), ImportError>) -> Result<(), ImportError> {
        self.0.iter().cloned().try_for_each(visit)
    }

    fn value(&self, revision: Revision, sub: u32) -> Result<Blob, ImportError> {
        let found = self.0.iter().find(|change| (change.kv.mod_revision, change.sub) == (revision, sub));
        Ok(found.unwrap().kv.value.clone())
    }
}

fn exported(store: &Store, rows: &MemRows) -> Changes {
    let (view, mut all, mut from) = (store.view(), Vec::new(), Some((Revision(0), 0)));
    while let Some(at) = from {
        let (piece, next) = view.changes(rows, at, true);
        let bare = view.changes(rows, at, false);
        assert!(bare.0.iter().all(|change| change.kv.value.is_empty()));
        assert!(bare.0.iter().map(|change| change.value_bytes).eq(piece.iter().map(|change| change.value_bytes)));
        all.extend(piece);
        from = next;
    }
    Changes(all)
}

fn plan(leases: Vec<LeaseRecord>, floor: i64) -> Import {
    let (alarms, auth) = (Vec::new(), AuthState::default());
    Import { leases, alarms, auth, floor: Revision(floor), bump: 0, index: LogIndex(1), term: Term(1) }
}

/// The imported rows, checked to ascend and to be a store's.
fn imported(history: &Changes, plan: &Import) -> Result<(Imported, Store, MemRows), ImportError> {
    let (mut rows, mut last) = (MemRows::default(), Vec::new());
    let done = import(history, plan, &mut |key, value| {
        assert!(*last < *key, "{key:?} after {last:?}");
        last = key.to_vec();
        rows.write(&[RowWrite { key: Blob::copy(key), value: Some(Blob::copy(value)) }]);
        Ok(())
    })?;
    let store = Store::load(NodeId(1), &rows).unwrap();
    store.check_deep(&rows);
    assert_eq!((store.hash(), store.view().revision()), (done.hash, done.revision));
    Ok((done, store, rows))
}

fn ran(steps: &[Step]) -> (Store, MemRows) {
    let mut rows = MemRows::default();
    let mut store = Store::load(NodeId(1), &rows).unwrap();
    for step in steps {
        match step {
            Step::Apply { command, .. } => {
                let index = store.applied().0.next();
                let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
                let payload = Payload::Command(codec::encode(&Envelope {
                    origin,
                    command: command.clone(),
                    author: Author::Nobody,
                }));
                let batch = store.apply(&[Entry { term: Term(1), index, payload }], &rows);
                rows.write(&batch.writes);
            }
            Step::Clean { keys, pin } => {
                let slice = store.compact_slice(&rows, *keys, pin.map(Revision));
                rows.write(&slice.writes);
            }
            _ => {}
        }
    }
    (store, rows)
}

fn range(revision: Option<Revision>) -> RangeRequest {
    RangeRequest { revision, ..RangeRequest::new(KeyRange::From(Blob::copy(&[0]))) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 500 }))]

    #[test]
    fn an_imported_store_answers_as_the_exported_one(steps in any_steps()) {
        let (store, rows) = ran(&steps);
        let view = store.view();
        let history = exported(&store, &rows);
        let (alarms, auth) = (view.alarms().collect(), view.auth().state());
        let plan = Import { alarms, auth, ..plan(view.all_leases(), view.compacted().0) };
        let (done, other, other_rows) = imported(&history, &plan).unwrap();
        prop_assert_eq!(done.detached, 0);
        let others = other.view();
        prop_assert_eq!((others.revision(), others.compacted()), (view.revision(), view.compacted()));
        prop_assert_eq!(others.all_leases(), view.all_leases());
        prop_assert!(others.alarms().eq(view.alarms()));
        prop_assert_eq!(others.logical_bytes(), view.logical_bytes());
        for lease in view.lease_ids() {
            prop_assert_eq!(others.lease(lease), view.lease(lease));
        }
        for revision in view.compacted().0.max(1)..=view.revision().0 {
            let at = range(Some(Revision(revision)));
            prop_assert_eq!(others.range(&other_rows, &at), view.range(&rows, &at));
        }
        let floor = view.compacted();
        let events = |store: &Store, rows: &MemRows| store.view().history(rows, floor, view.revision(), 1 << 30, false);
        prop_assert_eq!(events(&other, &other_rows), events(&store, &rows));

        // Once more: the same rows, whatever compaction had left of the original.
        let again = exported(&other, &other_rows);
        prop_assert_eq!(&again.0, &history.0);
        let (once_more, _, rows_again) = imported(&again, &plan).unwrap();
        prop_assert_eq!(once_more, done);
        prop_assert!(rows_again.iter().eq(other_rows.iter()));

        // The ledger is right: compacting all away frees what is not in force.
        let (mut store, mut rows) = (other, other_rows);
        if view.revision() > view.compacted() && !view.is_alarmed(AlarmKind::Corrupt) {
            let command = Command::Compact { revision: view.revision() };
            let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: 1 };
            let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Nobody }));
            let batch = store.apply(&[Entry { term: Term(1), index: LogIndex(2), payload }], &rows);
            prop_assert!(batch.applied.results[0].1.is_ok());
            rows.write(&batch.writes);
            loop {
                let slice = store.compact_slice(&rows, 3, None);
                rows.write(&slice.writes);
                if slice.finished {
                    break;
                }
            }
            store.check_deep(&rows);
            let cost = |change: &Change| 64 + change.kv.key.len() as u64 + u64::from(change.value_bytes);
            let kept: u64 = exported(&store, &rows).0.iter().filter(|change| !change.deleted).map(cost).sum();
            let leases = 64 * store.view().all_leases().len() as u64;
            prop_assert_eq!(store.view().logical_bytes(), kept + leases);
        }
    }

    #[test]
    fn a_bump_keeps_the_newest_state_alone(steps in any_steps(), bump in 1_u64..1_000_000_000_000) {
        let (store, rows) = ran(&steps);
        let view = store.view();
        let plan = Import { bump, ..plan(view.all_leases(), view.compacted().0) };
        let (done, other, other_rows) = imported(&exported(&store, &rows), &plan).unwrap();
        prop_assert_eq!(done.revision.0, view.revision().0 + i64::try_from(bump).unwrap());
        prop_assert_eq!(done.floor, done.revision);
        let kvs = |store: &Store, rows: &MemRows| store.view().range(rows, &range(None)).unwrap().kvs;
        prop_assert_eq!(kvs(&other, &other_rows), kvs(&store, &rows));
        // A watch may begin exactly at the floor, although no change was made there.
        let events = |from| other.view().history(&other_rows, from, done.revision, 1 << 30, false);
        prop_assert_eq!(events(done.floor), Ok((Vec::new(), done.revision)));
        prop_assert!(events(Revision(done.floor.0 - 1)).is_err());
        // It can be exported and imported in its turn.
        let plan = self::plan(view.all_leases(), done.floor.0);
        prop_assert_eq!(imported(&exported(&other, &other_rows), &plan).unwrap().0.revision, done.revision);
    }
}

fn put(key: &str, main: i64, create: i64, version: i64, lease: Option<i64>) -> Change {
    let kv = KeyValue {
        key: Blob::copy(key.as_bytes()),
        create_revision: Revision(create),
        mod_revision: Revision(main),
        version,
        value: "v".into(),
        lease: lease.map(LeaseId),
    };
    Change { kv, sub: 0, deleted: false, value_bytes: 1 }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |changes: &[Change], floor| {
        imported(&Changes(changes.to_vec()), &plan(Vec::new(), floor)).map(|_| ()).unwrap_err().to_string()
    };
    let (first, second) = (put("a", 2, 2, 1, None), put("a", 3, 2, 2, None));
    assert_eq!(refused(&[second.clone(), first.clone()], -1), "revision 3.0 follows 1.4294967295");
    assert_eq!(refused(&[first.clone(), first.clone()], 9), "revision 2.0 comes late");
    assert!(refused(&[first.clone(), put("a", 3, 2, 7, None)], -1).contains("does not follow from its state before"));
    let endless = put("a", 3, 2, i64::MAX, None);
    assert!(refused(&[endless.clone(), put("a", 10, 2, 1, None)], 9).contains("does not follow from its state before"));
    assert!(refused(&[first.clone(), endless], 9).contains("does not follow from its state before"));
    assert_eq!(refused(&[first.clone(), put("", 3, 3, 1, None)], -1), "an empty key at revision 3.0");
    let lied = Change { value_bytes: 5, ..first.clone() };
    assert_eq!(refused(&[lied], -1), "the value of b\"a\" at revision 2.0 has 1 bytes");
    let lease = LeaseRecord { lease: Lease { id: LeaseId(0), ttl: Ttl(5) }, remaining: None };
    let error = imported(&Changes(vec![first]), &plan(vec![lease], -1)).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "a lease 0 of 5 s");
}

/// What other stores' compaction leaves of the floor's own changes differs: etcd's has removed tombstones there, and a
/// moved revision never had any. A watch from the floor gets what there is, and everything after it.
#[test]
fn a_watch_from_the_floor_needs_none_of_its_changes() {
    let second = Change { sub: 1, ..put("b", 5, 5, 1, None) };
    for (kept, at_floor) in [(vec![], 0), (vec![second], 1)] {
        let history = [vec![put("a", 2, 2, 1, None)], kept, vec![put("a", 6, 2, 2, None), put("a", 7, 2, 3, None)]];
        let (_, store, rows) = imported(&Changes(history.concat()), &plan(Vec::new(), 5)).unwrap();
        let events = |from: i64, bytes| {
            let (events, through) = store.view().history(&rows, Revision(from), Revision(7), bytes, false).unwrap();
            (events.iter().map(|revision| revision.revision.0).collect::<Vec<_>>(), through.0)
        };
        let all = [5, 6, 7][1 - at_floor..].to_vec();
        assert_eq!(events(5, 1 << 30), (all.clone(), 7));
        assert_eq!(events(5, 0), (all[..1].to_vec(), all[0]), "one revision at a time");
        assert_eq!(events(6, 1 << 30), (vec![6, 7], 7));
    }
}

#[test]
fn users_and_roles_are_imported_or_refused() {
    let user = User { password: Some("h".into()), no_password: false, roles: ["r".into(), "root".into()].into() };
    let grant = Permission { allows: Allows::Write, key: "a".into(), range_end: "b".into() };
    let auth = AuthState {
        enabled: true,
        revision: AuthRevision(9),
        users: [("root".into(), user)].into(),
        roles: [("r".into(), vec![grant])].into(),
    };
    let plan = Import { auth: auth.clone(), ..plan(Vec::new(), -1) };
    let (done, store, _) = imported(&Changes(Vec::new()), &plan).unwrap();
    assert_eq!(store.view().auth().state(), auth);
    let other = Import { auth: AuthState { enabled: false, ..auth.clone() }, ..plan.clone() };
    assert_ne!(imported(&Changes(Vec::new()), &other).unwrap().0.hash, done.hash, "the hash covers it");
    let grant = |n: u8| Permission { allows: Allows::Read, key: vec![n; 1 << 20].into(), range_end: Blob::EMPTY };
    let large = AuthState { roles: [("r".into(), (0..4).map(grant).collect())].into(), ..auth.clone() };
    let error = imported(&Changes(Vec::new()), &Import { auth: large, ..plan.clone() }).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "role \"r\" has 4194560 bytes, more than 4194304");
    let lost = Import { auth: AuthState { roles: [].into(), ..auth }, ..plan };
    let error = imported(&Changes(Vec::new()), &lost).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "user \"root\" has role \"r\", which does not exist");
}

#[test]
fn a_key_whose_lease_is_lost_is_kept_without_it() {
    let history = Changes(vec![put("a", 2, 2, 1, Some(7)), put("a", 3, 2, 2, Some(7)), put("b", 4, 4, 1, Some(8))]);
    let lease = LeaseRecord { lease: Lease { id: LeaseId(8), ttl: Ttl(5) }, remaining: Some(Ttl(3)) };
    let (done, store, rows) = imported(&history, &plan(vec![lease], -1)).unwrap();
    assert_eq!((done.detached, done.keys), (1, 2));
    let leases = |revision| -> Vec<_> {
        let kvs = store.view().range(&rows, &range(Some(Revision(revision)))).unwrap().kvs;
        kvs.into_iter().map(|kv| kv.lease.map(|lease| lease.0)).collect()
    };
    assert_eq!(leases(2), [Some(7)], "history stays as it was");
    assert_eq!(leases(4), [None, Some(8)]);
}
