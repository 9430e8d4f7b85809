//! A replica that comes back to a log: what it answers before it has applied that.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;

use quorate_core::entry::{Entry, HardState, Payload, Recovered, Standing};
use quorate_core::replica::{Input, Output, Replica, Request, Response};
use quorate_core::rows::MemRows;
use quorate_core::store::Store;
use quorate_core::{Incarnation, Instant, LogIndex, NodeId, RequestId, Term};
use support::{config, recovered};

const ONLY: NodeId = NodeId(1);

/// Entries to be applied, and the requests that were answered.
#[derive(Default)]
struct Seen {
    entries: Vec<Entry>,
    readable: Vec<RequestId>,
}

/// Takes a step, with a disk that is done at once.
fn step(replica: &mut Replica, now: Instant, input: Input, seen: &mut Seen) {
    let mut out = Vec::new();
    replica.step(now, input, &mut out);
    for output in out {
        match output {
            Output::Persist { write, .. } => step(replica, now, Input::Persisted { write }, seen),
            Output::Apply { entries } => seen.entries.extend(entries),
            Output::Respond { id, result } => {
                assert_eq!(result, Ok(Response::Readable));
                seen.readable.push(id);
            }
            _ => {}
        }
    }
}

/// (etcd#3879: old values were read while the log was still replayed.)
#[test]
fn after_a_restart_reads_wait_until_the_log_is_applied() {
    let voters = [(ONLY, Incarnation(1))].into();
    let entries = (1..=3).map(|index| Entry { term: Term(1), index: LogIndex(index), payload: Payload::Empty });
    let log = Recovered {
        hard_state: HardState { term: Term(1), vote: Some(ONLY), commit: LogIndex(3) },
        entries: entries.collect(),
        ..recovered(ONLY, Incarnation(1), voters, Standing::Trusted)
    };
    let rows = MemRows::default();
    let mut store = Store::load(ONLY, &rows).expect("no rows are an empty store");
    let mut replica = Replica::new(config(1), log, LogIndex(0), &[], Arc::default(), Instant(0));
    let mut seen = Seen::default();
    let mut now = Instant(0);
    while replica.raft().status().commit < LogIndex(4) {
        now = replica.deadline();
        assert!(now < Instant(10_000_000_000), "{:?}", replica.raft().status());
        step(&mut replica, now, Input::Wake, &mut seen);
    }
    assert_eq!(seen.entries.len(), 4, "with the first of its term");
    step(&mut replica, now, Input::Requests(vec![(RequestId(1), Request::ReadIndex)]), &mut seen);
    assert_eq!(seen.readable, [], "nothing is applied");
    for entry in std::mem::take(&mut seen.entries) {
        assert_eq!(seen.readable, [], "{} is not applied", entry.index);
        let applied = store.apply(&[entry], &rows).applied;
        step(&mut replica, now, Input::Applied { applied, durable: LogIndex(0) }, &mut seen);
    }
    assert_eq!(seen.readable, [RequestId(1)]);
}
