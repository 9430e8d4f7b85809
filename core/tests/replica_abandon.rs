//! A snapshot on its way in: whatever ends it, the applier is told what may go.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "this test drives one replica by itself")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::entry::{Configuration, Standing};
use quorate_core::replica::{Input, Output, PeerMessage, Replica, SnapshotChunk, SnapshotId};
use quorate_core::store::Members;
use quorate_core::{Generation, Incarnation, Instant, LogIndex, NodeId, Term};

const SENDER: NodeId = NodeId(2);

struct One {
    replica: Replica,
    now: Instant,
}

impl One {
    fn new() -> Self {
        let recovered = support::recovered(NodeId(1), Incarnation(1), voters(), Standing::Trusted);
        let members = Arc::<Members>::default();
        let replica = Replica::new(support::config(1), recovered, LogIndex(0), &[], members, Instant(0));
        Self { replica, now: Instant(0) }
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.replica.step(self.now, input, &mut out);
        out
    }

    /// Receives a chunk, and stores it if asked to.
    fn chunk(&mut self, sequence: u64, last: bool, config: &Configuration) -> Vec<Output> {
        let chunk = SnapshotChunk {
            snapshot: id(),
            term: Term(1),
            sequence,
            index: LogIndex(50),
            index_term: Term(1),
            config: config.clone(),
            rows: vec![("key".into(), "value".into())],
            last,
        };
        let mut out = self.step(Input::Receive { from: SENDER, message: PeerMessage::Snapshot(chunk) });
        if out.iter().any(|output| matches!(output, Output::WriteSnapshot { .. })) {
            out.extend(self.step(Input::SnapshotWritten { snapshot: id(), sequence, generation: Generation(1) }));
        }
        out
    }

    /// Lets time pass; gives when snapshots were abandoned, in seconds.
    fn pass(&mut self, span: Duration) -> Vec<u64> {
        let (end, mut abandoned) = (self.now + span, Vec::new());
        while self.replica.deadline() <= end {
            self.now = self.replica.deadline().max(self.now);
            let out = self.step(Input::Wake);
            abandoned.extend(std::iter::repeat_n(self.now.0 / 1_000_000_000, abandons(&out)));
        }
        self.now = end;
        abandoned
    }
}

fn id() -> SnapshotId {
    SnapshotId { member: SENDER, session: Incarnation(9), number: 1 }
}

fn voters() -> BTreeMap<NodeId, Incarnation> {
    (1..=3).map(|id| (NodeId(id), Incarnation(id))).collect()
}

fn abandons(out: &[Output]) -> usize {
    out.iter().filter(|output| **output == Output::AbandonSnapshot { snapshot: id() }).count()
}

#[test]
fn a_snapshot_whose_sender_is_gone_is_abandoned_once() {
    let mut one = One::new();
    let config = Configuration { voters: voters(), ..Configuration::default() };
    assert_eq!(abandons(&one.chunk(0, false, &config)), 0);
    assert_eq!(one.pass(Duration::from_secs(20)), []);
    assert_eq!(abandons(&one.chunk(1, false, &config)), 0);
    assert_eq!(one.pass(Duration::from_secs(100)), [50], "30 s after the last chunk");
    assert!(one.chunk(2, true, &config).is_empty(), "what comes late is ignored");
}

#[test]
fn a_snapshot_that_consensus_refuses_is_abandoned() {
    let mut one = One::new();
    let out = one.chunk(0, true, &Configuration::default());
    assert_eq!(abandons(&out), 1, "nobody would have a vote: {out:?}");
    assert_eq!(one.pass(Duration::from_secs(100)), []);
}

#[test]
fn a_snapshot_that_is_stored_and_taken_is_kept() {
    let mut one = One::new();
    let config = Configuration { voters: voters(), ..Configuration::default() };
    let out = one.chunk(0, true, &config);
    assert!(out.iter().any(|output| matches!(output, Output::Persist { .. })) && abandons(&out) == 0, "{out:?}");
    assert_eq!(one.pass(Duration::from_secs(100)), [], "it waits for the disk as long as that takes");
}
