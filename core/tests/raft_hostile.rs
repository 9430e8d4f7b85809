//! No message of a peer, however senseless, makes a member panic or break its own invariants: sequences of arbitrary
//! messages, mixed with everything its driver does.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Recovered, Standing};
use quorate_core::raft::{Body, Config, Input, Message, Output, Raft};
use quorate_core::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term, WriteId};

/// Mostly numbers that mean something here, sometimes ones at which arithmetic ends.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..8u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 4), 1 => Just(u64::MAX / 2), 1 => any::<u64>()]
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

/// The lives of the members are 11, 21 and 31; 12, 22 and 32 come after them.
fn life() -> impl Strategy<Value = Incarnation> {
    prop_oneof![Just(11), Just(21), Just(22), Just(31), Just(32), Just(0)].prop_map(Incarnation)
}

fn config() -> impl Strategy<Value = Configuration> {
    let set = || proptest::collection::btree_map((1..5u64).prop_map(NodeId), life(), 0..4);
    (set(), set(), set()).prop_map(|(voters, outgoing, learners)| Configuration { voters, outgoing, learners })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![Just(Payload::Empty), Just(Payload::Command(Blob::from("x"))), config().prop_map(Payload::Config)]
}

fn entries(prev: LogIndex) -> impl Strategy<Value = Vec<Entry>> {
    let in_order = vec((0..8u64, payload()), 0..5).prop_map(move |mut entries| {
        entries.sort_by_key(|(term, _)| *term);
        let entry = |(n, (term, payload)): (usize, (u64, Payload))| Entry {
            term: Term(term),
            index: LogIndex(prev.0.wrapping_add(n as u64 + 1)),
            payload,
        };
        entries.into_iter().enumerate().map(entry).collect()
    });
    let senseless = (term(), index(), payload()).prop_map(|(term, index, payload)| Entry { term, index, payload });
    prop_oneof![9 => in_order, 1 => vec(senseless, 0..4)]
}

fn body() -> impl Strategy<Value = Body> {
    let append = (index(), term(), index()).prop_flat_map(|(prev_index, prev_term, commit)| {
        entries(prev_index).prop_map(move |entries| Body::Append { prev_index, prev_term, entries, commit })
    });
    let standing = prop_oneof![Just(Standing::Fresh), Just(Standing::Amnesiac), Just(Standing::Trusted)];
    prop_oneof![
        8 => append,
        1 => Just(Body::Greeting),
        2 => (life(), standing, any::<bool>())
            .prop_map(|(to, standing, genesis)| Body::GreetingReply { to, standing, genesis }),
        2 => (index(), term()).prop_map(|(last_index, last_term)| Body::PreVote { last_index, last_term }),
        4 => (term(), any::<bool>()).prop_map(|(campaign, granted)| Body::PreVoteReply { campaign, granted }),
        3 => (index(), term(), any::<bool>())
            .prop_map(|(last_index, last_term, transfer)| Body::Vote { last_index, last_term, transfer }),
        4 => (life(), any::<bool>()).prop_map(|(to, granted)| Body::VoteReply { to, granted }),
        4 => index().prop_map(|matched| Body::Accepted { matched }),
        3 => (index(), index(), term()).prop_map(|(prev_index, hint_index, hint_term)| Body::Refused {
            prev_index,
            hint_index,
            hint_term
        }),
        2 => (number(), index()).prop_map(|(round, commit)| Body::Heartbeat { round, commit }),
        4 => (number(), index(), index(), any::<u32>().prop_map(FeatureLevel))
            .prop_map(|(round, received, matched, level)| Body::HeartbeatReply { round, received, matched, level }),
        2 => index().prop_map(|commit| Body::Commit { commit }),
        1 => Just(Body::TimeoutNow),
        1 => Just(Body::Stale),
        2 => number().prop_map(|round| Body::Damaged { round }),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    /// A message in a term this far from the receiver's (most messages are of its present term), or any other.
    Receive {
        from: u64,
        ahead: Option<u64>,
        term: u64,
        life: Incarnation,
        trusted: bool,
        body: Body,
    },
    Wake,
    Persist,
    Apply {
        durable: bool,
    },
    Propose,
    Read,
    Transfer {
        to: Option<u64>,
    },
    Install {
        index: LogIndex,
        term: Term,
        config: Configuration,
    },
    SnapshotSent {
        to: u64,
        index: Option<u64>,
    },
    SnapshotCarried {
        to: u64,
        bytes: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let receive = (0..5u64, proptest::option::weighted(0.9, 0..2u64), number(), life(), any::<bool>(), body())
        .prop_map(|(from, ahead, term, life, trusted, body)| Op::Receive { from, ahead, term, life, trusted, body });
    prop_oneof![
        20 => receive,
        3 => Just(Op::Wake),
        6 => Just(Op::Persist),
        2 => any::<bool>().prop_map(|durable| Op::Apply { durable }),
        2 => Just(Op::Propose),
        1 => Just(Op::Read),
        1 => proptest::option::of(0..5u64).prop_map(|to| Op::Transfer { to }),
        1 => (index(), term(), config()).prop_map(|(index, term, config)| Op::Install { index, term, config }),
        1 => (0..5u64, proptest::option::of(0..9u64)).prop_map(|(to, index)| Op::SnapshotSent { to, index }),
        1 => (0..5u64, any::<u64>()).prop_map(|(to, bytes)| Op::SnapshotCarried { to, bytes }),
    ]
}

fn member(standing: Standing, voters: u64) -> Raft {
    let config = Config {
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        seed: 1,
        append_bytes_max: 100,
        inflight_messages_max: 2,
        inflight_bytes_max: 200,
        catchup_entries: 0,
        catchup_bytes: 1000,
        understands: FeatureLevel(1),
    };
    let voters: BTreeMap<_, _> = (1..=voters).map(|id| (NodeId(id), Incarnation(id * 10 + 1))).collect();
    let identity = Identity { cluster: ClusterId(1), member: NodeId(1), incarnation: Incarnation(11), standing };
    let recovered = Recovered {
        identity,
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config: Configuration { voters, ..Configuration::default() },
        entries: Vec::new(),
        generation: Generation(0),
    };
    Raft::new(config, recovered, LogIndex(0), Instant(0))
}

fn run(standing: Standing, voters: u64, ops: Vec<Op>) {
    let mut raft = member(standing, voters);
    let mut now = Instant(0);
    let (mut issued, mut given) = (WriteId(0), LogIndex(0));
    let mut out = Vec::new();
    for op in ops {
        let current = raft.status().term.0;
        let input = match op {
            Op::Receive { from, ahead, term, life, trusted, body } => {
                let term = Term(ahead.map_or(term, |ahead| current + ahead));
                let message = Message { term, incarnation: life, trusted, body };
                Input::Receive { from: NodeId(from), message }
            }
            Op::Wake => {
                let deadline = raft.deadline();
                now = if deadline == Instant::FAR { now } else { now.max(deadline) };
                Input::Wake
            }
            Op::Persist => Input::Persisted { write: issued },
            Op::Apply { durable } => {
                Input::Applied { index: given, durable: if durable { given } else { LogIndex(0) } }
            }
            Op::Propose => Input::Propose { commands: vec![Blob::from("p"), Blob::from("q")] },
            Op::Read => Input::ReadIndex { read: 1 },
            Op::Transfer { to } => Input::Transfer { to: to.map(NodeId) },
            Op::Install { index, term, config } => Input::Install { index, term, config, generation: Generation(1) },
            Op::SnapshotSent { to, index } => Input::SnapshotSent { to: NodeId(to), index: index.map(LogIndex) },
            Op::SnapshotCarried { to, bytes } => Input::SnapshotCarried { to: NodeId(to), bytes },
        };
        raft.step(now, input, &mut out);
        raft.check_deep();
        for output in out.drain(..) {
            match output {
                Output::Persist { write, .. } => issued = write,
                Output::Commit { entries } => given = entries.last().expect("never empty").index,
                Output::Restore { index, .. } => given = index,
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_makes_a_trusted_member_panic(voters in 1..4u64, ops in vec(op(), 1..80)) {
        run(Standing::Trusted, voters, ops);
    }

    #[test]
    fn no_message_makes_a_fresh_or_amnesiac_member_panic(fresh: bool, voters in 1..4u64, ops in vec(op(), 1..60)) {
        run(if fresh { Standing::Fresh } else { Standing::Amnesiac }, voters, ops);
    }
}
