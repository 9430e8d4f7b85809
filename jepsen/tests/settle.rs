//! A history that is checked and forgotten piece by piece gets the same verdict as the whole of it.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_core::error::Error;
use quorate_core::request::*;
use quorate_core::rng::Rng;
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{End, History, Op, OpId, Response, Sighting, Turn};
use quorate_jepsen::witness::{Checker, Failure, Past, Rule, Witness, check};
use support::{BUSY, Shape, history};

/// Every change is seen at once; nothing that is told of is older than so many revisions.
const SEEN: Shape = Shape { operations: 1_500, unique_values: true, seen_percent: 100, unknown_percent: 10, ..BUSY };
const WINDOW: i64 = 300;

/// What became of a history that was recorded once more and forgotten now and then.
struct Replayed {
    verdict: Result<Witness, Failure>,
    settled: usize,
    /// The most operations that it had after it was forgotten.
    kept: usize,
}

/// Records `whole` once more, and settles one in `rarely` turns.
fn piecewise(whole: &History, seed: u64, rarely: u64) -> Replayed {
    let (mut rng, mut checker, mut history) = (Rng::new(seed), Checker::default(), History::new());
    let mut last: BTreeMap<u64, OpId> = BTreeMap::new();
    let mut replayed = Replayed { verdict: checker.check(&history), settled: 0, kept: 0 };
    let mut now = 0;
    for turn in whole.turns() {
        match *turn {
            Turn::Invoke(id) => {
                let operation = whole.get(id);
                // Whoever goes on does not wait for an answer any more.
                if let Some(before) = last.insert(operation.client, id)
                    && whole.get(before).end == End::Open
                {
                    history.unknown(before);
                }
                now = operation.invoked.at;
                assert_eq!(history.invoke(operation.client, now, operation.op.clone()), id);
            }
            Turn::End(id) => {
                let operation = whole.get(id);
                now = operation.ended.map_or(now, |ended| ended.at);
                match operation.end.clone() {
                    End::Open => {}
                    End::Returned(response) => history.complete(id, now, response),
                    End::Refused(error) => history.refuse(id, now, error),
                    End::Failed => history.fail(id, now),
                }
            }
            Turn::Saw(number) => history.saw(now, whole.sightings()[number as usize].clone()),
        }
        if rng.below(rarely) == 0 {
            match checker.check(&history) {
                Ok(witness) => {
                    let oldest = Revision(witness.kv.revision().0 - WINDOW);
                    if checker.settle(&mut history, witness, &Past { oldest, ..Past::NOTHING }) {
                        replayed.settled += 1;
                        replayed.kept = replayed.kept.max(history.operations().count());
                    }
                }
                failure => {
                    replayed.verdict = failure;
                    return replayed;
                }
            }
        }
    }
    replayed.verdict = checker.check(&history);
    replayed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn correct_histories_pass(seed: u64, clients in 1..10_u64, rarely in 20..400_u64) {
        let whole = history(seed, Shape { clients, ..SEEN }).history;
        let replayed = piecewise(&whole, seed, rarely);
        if let Err(failure) = &replayed.verdict {
            prop_assert!(false, "{failure}");
        }
        // Those of unknown outcome that never happened stay, a twentieth of all.
        prop_assert!(replayed.settled == 0 || replayed.kept < 500, "{} kept", replayed.kept);
    }

    /// One answer is another one's: if the whole history shows it, so do its pieces.
    #[test]
    fn wrong_answers_are_seen(seed: u64, victim in 0..1_500_u32, rarely in 20..400_u64) {
        let whole = history(seed, Shape { unknown_percent: 0, leases: false, ..SEEN }).history;
        let ends = whole.operations().filter(|(_, other)| other.client % 2 == 0).map(|(_, other)| other.end.clone());
        let End::Returned(other) = ends.skip(victim as usize / 3).find(|end| matches!(end, End::Returned(_)))
            .expect("most are answered") else { unreachable!("just looked for") };
        let whole = whole.with_end(OpId(victim), End::Returned(other));
        prop_assume!(whole.get(OpId(victim)).ended.is_some());
        let (expected, replayed) = (check(&whole), piecewise(&whole, seed, rarely));
        prop_assert_eq!(expected.is_ok(), replayed.verdict.is_ok(), "{:?}", expected.map(|_| ()));
    }
}

fn put(key: &'static str, lease: Option<i64>) -> Op {
    let (key, value, lease) = (Blob::from(key), Blob::from("v"), lease.map(LeaseId));
    Op::Put(PutRequest { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
}

/// One client, whose history is forgotten after every step.
#[derive(Default)]
struct Script {
    history: History,
    checker: Checker,
    now: u64,
}

impl Script {
    fn did(&mut self, op: Op, end: Result<Response, Error>) -> OpId {
        self.now += 2;
        let id = self.history.invoke(1, self.now, op);
        self.history.answer(id, self.now + 1, end);
        id
    }

    fn settle(&mut self) {
        let witness = self.checker.check(&self.history).unwrap();
        let oldest = witness.kv.revision();
        assert!(self.checker.settle(&mut self.history, witness, &Past { oldest, ..Past::NOTHING }));
        assert_eq!(self.history.operations().filter(|(_, operation)| operation.end != End::Open).count(), 0);
    }

    fn settled(mut self, op: Op, end: Result<Response, Error>) -> Self {
        self.did(op, end);
        self.settle();
        self
    }

    fn put(self, key: &'static str, lease: Option<i64>, revision: i64) -> Self {
        self.settled(put(key, lease), Ok(Response::Put(PutResult { revision: Revision(revision), prev_kv: None })))
    }

    fn grant(self, revision: i64) -> Self {
        let lease = Lease { id: LeaseId(7), ttl: Ttl(9) };
        let op = Op::LeaseGrant { id: Some(lease.id), ttl: lease.ttl };
        self.settled(op, Ok(Response::LeaseGrant(lease, Revision(revision))))
    }

    fn rule(&self) -> Option<Rule> {
        match self.checker.check(&self.history) {
            Ok(_) => None,
            Err(Failure::Violated(violation)) => Some(violation.rule),
            Err(undecided) => panic!("{undecided}"),
        }
    }
}

/// What was forgotten still counts.
#[test]
fn promises_reach_over_what_was_forgotten() {
    let put_at = |revision| Ok(Response::Put(PutResult { revision: Revision(revision), prev_kv: None }));

    let mut script = Script::default().put("a", None, 2).put("b", None, 3);
    script.did(put("c", None), put_at(3));
    assert_eq!(script.rule(), Some(Rule::RealTime));

    let compact = |at, revision| (Op::Compact(Revision(at)), Ok(Response::Compact(Revision(revision))));
    let (op, end) = compact(3, 3);
    let mut script = Script::default().put("a", None, 2).put("b", None, 3).settled(op, end);
    let (op, end) = compact(2, 3);
    script.did(op, end);
    assert_eq!(script.rule(), Some(Rule::Compaction));
}

#[test]
fn leases_reach_over_what_was_forgotten() {
    let put_at = |revision| Ok(Response::Put(PutResult { revision: Revision(revision), prev_kv: None }));

    let mut script = Script::default().grant(1).put("a", Some(7), 2);
    script.did(put("b", Some(7)), put_at(3));
    assert_eq!(script.rule(), None);

    let revoke = || (Op::LeaseRevoke(LeaseId(7)), Ok(Response::LeaseRevoke(Revision(3))));
    let (op, end) = revoke();
    let mut script = Script::default().grant(1).put("a", Some(7), 2).settled(op, end);
    script.did(put("b", Some(7)), put_at(4));
    assert_eq!(script.rule(), Some(Rule::Lease));

    let mut script = Script::default().grant(1).settled(put("b", Some(7)), Err(Error::LeaseNotFound));
    assert_eq!(script.rule(), None, "it may have run out");
    script.did(put("a", Some(7)), put_at(2));
    assert_eq!(script.rule(), Some(Rule::Refusal));
}

/// An operation that nobody waits for any more may still happen, but not twice.
#[test]
fn what_is_unknown_may_happen_long_after() {
    let mut script = Script::default();
    let id = script.history.invoke(2, 0, put("late", None));
    script.history.unknown(id);
    let mut script = script.put("a", None, 2).put("b", None, 3);
    assert_eq!(script.history.operations().count(), 1, "the open one is kept");
    script.did(put("c", None), Ok(Response::Put(PutResult { revision: Revision(5), prev_kv: None })));
    assert_eq!(script.rule(), None, "it made revision 4");
    script.settle();
    assert_eq!(script.history.operations().count(), 0);
    script.did(put("d", None), Ok(Response::Put(PutResult { revision: Revision(7), prev_kv: None })));
    assert_eq!(script.rule(), Some(Rule::Unexplained));
}

/// Whoever knows that an operation of unknown outcome is lost need not remember it.
#[test]
fn what_is_lost_is_forgotten_unless_it_happened() {
    let mut script = Script::default();
    for key in ["lost", "late"] {
        let id = script.history.invoke(2, 0, put(key, None));
        script.history.unknown(id);
    }
    let mut script = script.put("a", None, 2);
    script.did(put("b", None), Ok(Response::Put(PutResult { revision: Revision(4), prev_kv: None })));
    let late = KeyValue {
        key: Blob::from("late"),
        create_revision: Revision(3),
        mod_revision: Revision(3),
        version: 1,
        value: Blob::from("v"),
        lease: None,
    };
    script.history.saw(script.now + 1, Sighting::Put(late));
    let witness = script.checker.check(&script.history).unwrap();
    let past = Past { oldest: witness.kv.revision(), lost: 1, ..Past::NOTHING };
    assert!(script.checker.settle(&mut script.history, witness, &past));
    assert_eq!(script.history.operations().count(), 0);
    script.did(put("c", None), Ok(Response::Put(PutResult { revision: Revision(6), prev_kv: None })));
    assert_eq!(script.rule(), Some(Rule::Unexplained));
}
