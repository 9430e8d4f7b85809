//! The witness check accepts every correct history and sees each way in which one is spoilt.

mod support;

use proptest::prelude::*;
use quorate_core::error::Error;
use quorate_core::request::*;
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{End, History, Op, OpId, Response, Sighting};
use quorate_jepsen::witness::{Author, Failure, Rule, Violation, check};
use support::{BUSY, Shape, World, history};

/// Nothing is ambiguous: every answer arrived, and no lease runs out.
const CLEAR: Shape = Shape { unknown_percent: 0, leases: false, compaction: false, ..BUSY };

const EVERYTHING_SEEN: Shape = Shape { unique_values: true, seen_percent: 100, unknown_percent: 20, ..BUSY };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn correct_histories_pass(seed: u64, clients in 1..12_u64, unknown_percent in 0..12_u64) {
        for shape in [Shape { clients, unknown_percent, ..BUSY }, Shape { clients, ..EVERYTHING_SEEN }] {
            let world = history(seed, shape);
            match check(&world.history) {
                // What changed may be ambiguous, how often is not.
                Ok(witness) => prop_assert!(witness.kv.revision() <= world.model.revision()),
                // Among many unknown outcomes of equal values the search may be given up, but never decided wrongly.
                Err(Failure::Undecided(_)) if shape.seen_percent < 100 => {}
                Err(failure) => prop_assert!(false, "{failure}"),
            }
        }
    }

    /// Whatever a client forgets, a correct history stays correct.
    #[test]
    fn forgotten_answers_prove_nothing(seed: u64, percent in 1..40_u64) {
        let mut world = history(seed, EVERYTHING_SEEN);
        let mut forgetful = world.history.clone();
        for (id, _) in world.history.clone().operations() {
            if world.percent(percent) && world.history.get(id).ended.is_some() {
                forgetful = forgetful.with_end(id, End::Open);
            }
        }
        match check(&forgetful) {
            Ok(_) => {}
            Err(Failure::Undecided(_)) => prop_assert!(percent > 20),
            Err(failure) => prop_assert!(false, "{failure}"),
        }
    }
}

/// The first key-value in an answer.
fn first_kv(response: &mut Response) -> Option<&mut KeyValue> {
    fn in_txn(txn: &mut TxnResult) -> Option<&mut KeyValue> {
        txn.responses.iter_mut().find_map(|response| match response {
            ResponseOp::Range(range) => range.kvs.first_mut(),
            ResponseOp::Put(put) => put.prev_kv.as_mut(),
            ResponseOp::DeleteRange(delete) => delete.prev_kvs.first_mut(),
            ResponseOp::Txn(txn) => in_txn(txn),
        })
    }
    match response {
        Response::Range(range) => range.kvs.first_mut(),
        Response::Put(put) => put.prev_kv.as_mut(),
        Response::DeleteRange(delete) => delete.prev_kvs.first_mut(),
        Response::Txn(txn) => in_txn(txn),
        Response::Compact(_) | Response::LeaseGrant(..) | Response::LeaseRevoke(_) => None,
    }
}

/// Changes one field of one answer; `None` if the answer has no such field.
fn spoil(world: &World, id: OpId, way: &str) -> Option<End> {
    let operation = world.history.get(id);
    let mut response = operation.response()?.clone();
    match (way, &mut response) {
        ("value", response) => {
            let kv = first_kv(response)?;
            kv.value = Blob::from("never written");
        }
        ("lease", response) => first_kv(response)?.lease = Some(LeaseId(99)),
        ("version", response) => first_kv(response)?.version += 1,
        ("create revision", response) => first_kv(response)?.create_revision.0 -= 1,
        ("mod revision", response) => first_kv(response)?.mod_revision.0 += 1,
        ("key", response) => first_kv(response)?.key = Blob::from("zzz"),
        ("count", Response::Range(range)) => range.count += 1,
        ("more", Response::Range(range)) => range.more = !range.more,
        ("order", Response::Range(range)) if range.kvs.len() > 1 => range.kvs.swap(0, 1),
        ("lost key", Response::Range(range)) => drop(range.kvs.pop()?),
        ("deleted", Response::DeleteRange(delete)) => delete.deleted += 1,
        ("undeleted", Response::DeleteRange(delete)) if delete.deleted > 0 => delete.deleted = 0,
        ("previous", Response::Put(put)) => drop(put.prev_kv.take()?),
        ("succeeded", Response::Txn(txn)) => txn.succeeded = !txn.succeeded,
        ("inner revision", Response::Txn(txn)) => match txn.responses.first_mut()? {
            ResponseOp::Range(RangeResult { revision, .. })
            | ResponseOp::Put(PutResult { revision, .. })
            | ResponseOp::DeleteRange(DeleteRangeResult { revision, .. }) => revision.0 += 1,
            ResponseOp::Txn(_) => return None,
        },
        ("write revision", Response::Put(put)) => put.revision.0 -= 1,
        ("future revision", Response::Put(put)) => put.revision.0 += 1000,
        ("failed write took effect", Response::Put(_)) => return Some(End::Failed),
        ("lost write", Response::Range(range)) => {
            // The state of before the last write that touched these keys, at the same revision.
            let newest = range.kvs.iter().map(|kv| kv.mod_revision.0).max()?;
            let Op::Range(request) = &operation.op else { return None };
            if request.revision.is_some() {
                return None;
            }
            let lost = world.model.kv().range(request, Revision(newest - 1));
            *range = RangeResult { revision: range.revision, ..lost };
        }
        ("stale read", Response::Range(range)) => {
            let Op::Range(request) = &operation.op else { return None };
            // Revisions that were told before the read was asked for.
            let told = world
                .history
                .operations()
                .filter(|(_, other)| other.ended.is_some_and(|ended| ended.turn < operation.invoked.turn));
            let told = told.filter_map(|(_, other)| Some(other.response()?.revision())).max()?;
            if request.serializable || request.revision.is_some() || told <= Revision(1) {
                return None;
            }
            *range = world.model.kv().range(request, Revision(told.0 - 1));
        }
        ("refused: future", Response::Range(_)) => {
            let Op::Range(request) = &operation.op else { return None };
            return request.revision.is_none().then_some(End::Refused(Error::FutureRevision));
        }
        ("refused: compacted", Response::Range(_)) => {
            return Some(End::Refused(Error::Compacted { oldest: Revision(5) }));
        }
        ("refused: not found", Response::Put(_)) => return Some(End::Refused(Error::KeyNotFound)),
        _ => return None,
    }
    Some(End::Returned(response))
}

#[test]
fn spoilt_answers_are_seen() {
    let ways = [
        "value",
        "lease",
        "version",
        "create revision",
        "mod revision",
        "key",
        "count",
        "more",
        "order",
        "lost key",
        "deleted",
        "undeleted",
        "previous",
        "succeeded",
        "inner revision",
        "write revision",
        "future revision",
        "failed write took effect",
        "lost write",
        "stale read",
        "refused: future",
        "refused: compacted",
        "refused: not found",
    ];
    let mut tried = vec![0; ways.len()];
    for seed in 0..200 {
        let mut world = history(seed, CLEAR);
        assert!(check(&world.history).is_ok());
        for (way, tried) in ways.iter().zip(&mut tried).filter(|(_, tried)| **tried < 25) {
            let id = OpId(world.below(300) as u32);
            let Some(end) = spoil(&world, id, way) else { continue };
            *tried += 1;
            let spoilt = world.history.with_end(id, end);
            let verdict = check(&spoilt);
            assert!(matches!(verdict, Err(Failure::Violated(_))), "{way}, seed {seed}: {}", spoilt.line(id));
        }
    }
    for (way, tried) in ways.iter().zip(tried) {
        assert!(tried >= 5, "{way} was tried {tried} times");
    }
}

/// Operations of unknown outcome and expiries explain much, but not everything.
#[test]
fn spoilt_values_are_seen_among_unknown_outcomes() {
    let mut tried = 0;
    for seed in 0..100 {
        let mut world = history(seed, Shape { unknown_percent: 15, ..BUSY });
        for _ in 0..20 {
            let id = OpId(world.below(300) as u32);
            let Some(end) = spoil(&world, id, "value") else { continue };
            tried += 1;
            let verdict = check(&world.history.with_end(id, end));
            assert!(matches!(verdict, Err(Failure::Violated(_))), "seed {seed}: {id:?}: {verdict:?}");
            break;
        }
    }
    assert!(tried > 50);
}

/// A history of one client, written down step by step.
struct Script(History, u64);

impl Script {
    fn did(&mut self, op: Op, response: Response) -> OpId {
        self.1 += 2;
        let id = self.0.invoke(1, self.1, op);
        self.0.complete(id, self.1 + 1, response);
        id
    }

    fn put(&mut self, key: &'static str, lease: Option<i64>, revision: i64) -> OpId {
        self.did(Op::Put(put(key, lease)), Response::Put(PutResult { revision: Revision(revision), prev_kv: None }))
    }

    fn grant(&mut self, id: i64, revision: i64) -> OpId {
        let lease = Lease { id: LeaseId(id), ttl: Ttl(9) };
        let op = Op::LeaseGrant { id: Some(lease.id), ttl: lease.ttl };
        self.did(op, Response::LeaseGrant(lease, Revision(revision)))
    }

    /// Nobody answers.
    fn asks_for_any_lease(&mut self) {
        self.1 += 2;
        self.0.invoke(2, self.1, Op::LeaseGrant { id: None, ttl: Ttl(9) });
    }

    fn violation(&self) -> Violation {
        match check(&self.0) {
            Err(Failure::Violated(violation)) => violation,
            other => panic!("{other:?}"),
        }
    }
}

fn put(key: &'static str, lease: Option<i64>) -> PutRequest {
    let lease = lease.map(LeaseId);
    PutRequest {
        key: Blob::from(key),
        value: Blob::from("v"),
        lease,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

#[test]
fn lease_is_used_only_while_it_lives() {
    let mut script = Script(History::new(), 0);
    let early = script.put("a", Some(7), 2);
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Lease, vec![early]));

    let mut script = Script(History::new(), 0);
    script.grant(7, 1);
    script.put("a", Some(7), 2);
    script.did(Op::LeaseRevoke(LeaseId(7)), Response::LeaseRevoke(Revision(3)));
    assert!(check(&script.0).is_ok());
    let mut again = Script(script.0.clone(), script.1);
    again.grant(7, 3);
    again.put("a", Some(7), 4);
    assert!(check(&again.0).is_ok());
    let late = script.put("a", Some(7), 4);
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Lease, vec![late]));
}

/// It was found in a list, and nobody was told who asked for it.
#[test]
fn lease_may_be_of_a_grant_that_was_not_answered() {
    let mut script = Script(History::new(), 0);
    script.put("a", None, 2);
    script.asks_for_any_lease();
    script.put("b", Some(7), 3);
    script.did(Op::LeaseRevoke(LeaseId(7)), Response::LeaseRevoke(Revision(4)));
    script.did(Op::LeaseRevoke(LeaseId(8)), Response::LeaseRevoke(Revision(4)));
    assert!(check(&script.0).is_ok());
    let late = script.put("b", Some(7), 5);
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Lease, vec![late]), "it is over");

    let mut script = Script(History::new(), 0);
    let early = script.put("a", Some(7), 2);
    script.asks_for_any_lease();
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Lease, vec![early]));
}

#[test]
fn revoke_takes_all_keys_of_the_lease() {
    let mut script = Script(History::new(), 0);
    script.grant(7, 1);
    script.put("a", Some(7), 2);
    let revoke = script.did(Op::LeaseRevoke(LeaseId(7)), Response::LeaseRevoke(Revision(2)));
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Lease, vec![revoke]));
}

#[test]
fn lease_that_is_alive_is_not_missing() {
    let mut script = Script(History::new(), 0);
    script.grant(7, 1);
    let refused = script.0.invoke(1, 10, Op::Put(put("b", Some(7))));
    script.0.refuse(refused, 11, Error::LeaseNotFound);
    script.1 = 12;
    assert!(check(&script.0).is_ok(), "it may have run out");
    script.put("a", Some(7), 2);
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Refusal, vec![refused]));
}

#[test]
fn expiry_explains_a_gap_only_if_the_lease_has_keys() {
    let mut script = Script(History::new(), 0);
    script.grant(7, 1);
    script.put("a", Some(7), 2);
    script.put("b", None, 4);
    assert!(check(&script.0).is_ok());
    script.put("c", None, 6);
    assert_eq!(script.violation().rule, Rule::Unexplained);
}

#[test]
fn compacted_history_is_gone() {
    let mut script = Script(History::new(), 0);
    script.put("a", None, 2);
    script.put("b", None, 3);
    let first = script.did(Op::Compact(Revision(3)), Response::Compact(Revision(3)));
    assert!(check(&script.0).is_ok());

    let mut twice = Script(script.0.clone(), script.1);
    let second = twice.did(Op::Compact(Revision(2)), Response::Compact(Revision(3)));
    assert_eq!((twice.violation().rule, twice.violation().operations), (Rule::Compaction, vec![first, second]));

    let mut request = RangeRequest::new(KeyRange::Key(Blob::from("b")));
    request.revision = Some(Revision(2));
    let empty = RangeResult { revision: Revision(3), kvs: Vec::new(), more: false, count: 0 };
    let read = script.did(Op::Range(request), Response::Range(empty));
    assert_eq!((script.violation().rule, script.violation().operations), (Rule::Compaction, vec![read]));
}

#[test]
fn only_a_read_that_may_be_old_is_refused_what_is_known_already() {
    for serializable in [true, false] {
        let mut script = Script(History::new(), 0);
        script.put("a", None, 2);
        script.put("a", None, 3);
        let mut range = RangeRequest::new(KeyRange::Key(Blob::from("a")));
        (range.revision, range.serializable) = (Some(Revision(3)), serializable);
        let txn = TxnRequest { success: vec![RequestOp::Range(range)], ..TxnRequest::default() };
        let refused = script.0.invoke(1, 10, Op::Txn(txn));
        script.0.refuse(refused, 11, Error::FutureRevision);
        assert_eq!(check(&script.0).is_ok(), serializable);
    }
}

#[test]
fn a_whole_revision_seen_rules_out_every_write_that_does_more_or_less() {
    for (changes, right) in [(1, true), (0, false), (2, false)] {
        let mut script = Script(History::new(), 0);
        script.put("a", None, 2);
        script.0.saw(10, Sighting::Whole { revision: Revision(2), changes });
        assert_eq!(check(&script.0).is_ok(), right, "{changes}");
    }
    // Two deletes may have made revision 4; the smaller one has.
    let mut script = Script(History::new(), 0);
    script.put("a", None, 2);
    script.put("b", None, 3);
    let delete = |range| Op::DeleteRange(DeleteRangeRequest { range, prev_kv: false });
    script.0.invoke(1, 10, delete(KeyRange::From(Blob::from("a"))));
    let only = script.0.invoke(2, 11, delete(KeyRange::Key(Blob::from("a"))));
    script.0.saw(12, Sighting::Delete { key: Blob::from("a"), revision: Revision(4) });
    script.0.saw(13, Sighting::Whole { revision: Revision(4), changes: 1 });
    assert_eq!(check(&script.0).unwrap().authors[2], Author::Op(only));
}

#[test]
fn later_reads_tell_which_unknown_write_filled_a_gap() {
    let mut script = Script(History::new(), 0);
    for value in ["x", "y", "z"] {
        script.0.invoke(2, 0, Op::Put(PutRequest { value: Blob::from(value), ..put("a", None) }));
    }
    script.0.invoke(
        2,
        0,
        Op::DeleteRange(DeleteRangeRequest { range: KeyRange::From(Blob::from("a")), prev_kv: false }),
    );
    // Revisions 2, 3 and 4 were made by three of the four; only "y", a delete and another put leave version 1 created at 4.
    script.put("b", None, 5);
    let range = Op::Range(RangeRequest::new(KeyRange::Key(Blob::from("a"))));
    let kv = |version, create| KeyValue {
        key: Blob::from("a"),
        create_revision: Revision(create),
        mod_revision: Revision(4),
        version,
        value: Blob::from("z"),
        lease: None,
    };
    let told = |kv| Response::Range(RangeResult { revision: Revision(5), kvs: vec![kv], more: false, count: 1 });
    for (version, create, right) in [(1, 4, true), (3, 2, true), (2, 2, false), (2, 3, false)] {
        let mut script = Script(script.0.clone(), script.1);
        script.did(range.clone(), told(kv(version, create)));
        assert_eq!(check(&script.0).is_ok(), right, "version {version}, created at {create}");
    }
}

/// What it was refused for may have been done by somebody whose answer never came.
#[test]
fn a_refusal_at_the_end_may_be_for_what_nobody_was_told() {
    let mut script = Script(History::new(), 0);
    script.put("a", None, 2);
    let delete = DeleteRangeRequest { range: KeyRange::Key(Blob::from("a")), prev_kv: false };
    script.0.invoke(2, 5, Op::DeleteRange(delete));
    let touch = PutRequest { ignore_value: true, value: Blob::EMPTY, ..put("a", None) };
    let refused = script.0.invoke(3, 6, Op::Put(touch));
    script.0.refuse(refused, 7, Error::KeyNotFound);
    script.1 = 8;
    assert!(check(&script.0).is_ok());
    // Nobody was told until here; but now it is known that the next revision was made later, and by somebody else.
    let mut later = Script(script.0.clone(), script.1);
    later.put("b", None, 3);
    assert_eq!(later.violation().operations, vec![refused]);
    // As it was, with one revision more.
    script.put("b", None, 4);
    assert!(check(&script.0).is_ok());
}
