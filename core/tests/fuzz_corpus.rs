//! The fuzz targets as ordinary tests: every committed input, and each of them with small changes.
//!
//! `UPDATE=1 cargo test` writes the inputs that are made here (`made-*`); those that fuzzing found stay.

#[allow(unreachable_pub)] // a library of its own over there
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;
#[path = "support/corpus.rs"]
mod support;

use std::collections::BTreeMap;

use quorate_core::auth::{Allows, AuthCommand, AuthRevision, Author, Permission};
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Standing};
use quorate_core::format::codec;
use quorate_core::format::wal::{Checkpoint, Segment};
use quorate_core::replica::PeerMessage;
use quorate_core::request::*;
use quorate_core::rng::Rng;
use quorate_core::*;
use support::corpus;

/// Runs `body` on every input and on changes of it.
fn run(body: fn(&[u8]), inputs: &[Vec<u8>]) {
    let mut rng = Rng::new(0);
    body(&[]);
    for input in inputs {
        body(input);
        for _ in 0..500 {
            let mut bytes = input.clone();
            for _ in 0..=rng.below(3) {
                let at = usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap();
                let byte = u8::try_from(rng.below(256)).unwrap();
                match rng.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, byte),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
                }
            }
            body(&bytes);
        }
    }
}

fn config() -> Configuration {
    Configuration { voters: BTreeMap::from([(NodeId(1), Incarnation(1))]), ..Configuration::default() }
}

fn some_records() -> Vec<Record> {
    let entry = |index, payload| Record::Entry(Entry { term: Term(1), index: LogIndex(index), payload });
    let identity =
        Identity { cluster: ClusterId(1), member: NodeId(1), incarnation: Incarnation(1), standing: Standing::Trusted };
    vec![
        Record::Identity(identity),
        Record::HardState(HardState { term: Term(1), vote: None, commit: LogIndex(0) }),
        entry(1, Payload::Empty),
        entry(2, Payload::Command(codec::encode(&some_commands()[0]))),
        entry(3, Payload::Config(config())),
        entry(2, Payload::Command("again".into())),
        Record::Compact { index: LogIndex(1), term: Term(1), config: config() },
        entry(3, Payload::Empty),
        Record::Snapshot { index: LogIndex(9), term: Term(2), config: config(), generation: Generation(1) },
        entry(10, Payload::Empty),
    ]
}

fn some_commands() -> Vec<Envelope> {
    let put = PutRequest {
        key: "key".into(),
        value: "value".into(),
        lease: Some(LeaseId(1)),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let compare = Compare {
        range: KeyRange::From("key".into()),
        result: CompareResult::Greater,
        target: CompareTarget::Mod(Revision(7)),
    };
    let all = KeyRange::Bounded { start: "a".into(), end: "z".into() };
    let inner = TxnRequest { success: vec![RequestOp::Put(put.clone())], ..TxnRequest::default() };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp::Put(put.clone()), RequestOp::Range(RangeRequest::new(all.clone()))],
        failure: vec![RequestOp::Txn(inner)],
    };
    let permission = Permission { allows: Allows::Read, key: "a".into(), range_end: "b".into() };
    let member = Member {
        id: NodeId(1),
        name: "one".into(),
        peer_urls: vec!["http://127.0.0.1:2380".into()],
        client_urls: vec!["http://127.0.0.1:2379".into()],
        is_learner: false,
    };
    [
        Command::Put(put),
        Command::DeleteRange(DeleteRangeRequest { range: all, prev_kv: true }),
        Command::Txn(txn),
        Command::Compact { revision: Revision(3) },
        Command::LeaseGrant(Lease { id: LeaseId(5), ttl: Ttl(60) }),
        Command::LeaseExpire(vec![LeaseId(1), LeaseId(2)]),
        Command::LeaseCheckpoint(vec![(LeaseId(1), Some(Ttl(3))), (LeaseId(2), None)]),
        Command::Publish(member.clone()),
        Command::Members(MemberChange::Add { member, learners_max: 1, strict: true }),
        Command::RaiseFeatureLevel(FeatureLevel(1)),
        Command::RaiseAlarm(Alarm { kind: AlarmKind::NoSpace, member: NodeId(1) }),
        Command::ClearAlarm(Alarm { kind: AlarmKind::Corrupt, member: NodeId(1) }),
        Command::Auth(AuthCommand::RoleGrantPermission { role: "r".into(), permission: Some(permission) }),
    ]
    .map(|command| Envelope {
        origin: Origin { member: NodeId(1), incarnation: Incarnation(1 << 60), sequence: 1 },
        command,
        author: Author::User { name: "u".into(), revision: AuthRevision(2) },
    })
    .into()
}

#[test]
fn wal() {
    let Record::Identity(identity) = some_records().remove(0) else { unreachable!() };
    let checkpoint = Checkpoint::new(identity, HardState::default(), config());
    let (mut segment, mut file) = Segment::begin(1, 0, &checkpoint);
    let header = file.clone();
    for record in some_records() {
        segment.frame(&record, &mut file);
        segment.synced();
    }
    segment.mark(&mut file);
    run(fuzz::wal, &corpus("wal", vec![header, file]));
}

#[test]
fn records() {
    let encoded = codec::encode(&some_records());
    let made = (0..3).map(|kind| [&[kind, 9, 0, 0, 0, 130], &encoded[..]].concat()).collect();
    run(fuzz::records, &corpus("records", made));
}

#[test]
fn peer() {
    let commands = some_commands().iter().map(codec::encode).collect();
    let made = [
        PeerMessage::Forward { commands, hops: 1 },
        PeerMessage::Hashes { life: Incarnation(2), hashes: Vec::new(), asks: true },
    ];
    run(fuzz::peer, &corpus("peer", made.iter().map(|message| codec::encode(message).to_vec()).collect()));
}

#[test]
fn command() {
    let made = some_commands().iter().map(|command| codec::encode(command).to_vec()).collect();
    run(fuzz::command, &corpus("command", made));
}

#[test]
fn member() {
    let entry = |term, index| Entry { term: Term(term), index: LogIndex(index), payload: Payload::Empty };
    let from = |from: u8, term, body| {
        let incarnation = Incarnation(u64::from(from) + 1);
        (from, PeerMessage::Raft(raft::Message { term: Term(term), incarnation, trusted: true, body }))
    };
    use raft::Body::*;
    let (last_index, last_term) = (LogIndex(5), Term(1));
    let append = |prev: u64, prev_term, entries: Vec<Entry>, commit| Append {
        prev_index: LogIndex(prev),
        prev_term: Term(prev_term),
        entries,
        commit: LogIndex(commit),
    };
    let led = vec![
        from(1, 2, append(5, 1, vec![entry(2, 6), entry(2, 7)], 4)),
        from(1, 2, append(7, 2, vec![entry(2, 8)], 8)),
        from(2, 3, PreVote { last_index: LogIndex(9), last_term: Term(2) }),
        from(2, 3, Vote { last_index: LogIndex(9), last_term: Term(2), transfer: true }),
        from(2, 3, append(8, 2, vec![entry(3, 9)], 9)),
        (2, PeerMessage::Hashes { life: Incarnation(3), hashes: vec![(LogIndex(4), 7)], asks: true }),
        (2, PeerMessage::ReadIndex { read: 1, session: Incarnation(4) }),
    ];
    let leads = vec![
        from(0x81, 1, PreVoteReply { campaign: Term(2), granted: true }),
        from(1, 2, VoteReply { to: Incarnation(1), granted: true }),
        from(1, 2, Accepted { matched: LogIndex(6) }),
        (0x81, PeerMessage::ReadIndex { read: 1, session: Incarnation(4) }),
        from(2, 2, Vote { last_index, last_term, transfer: false }),
        from(0x82, 2, Greeting),
    ];
    let made = [led, leads].iter().map(|events| codec::encode(events).to_vec()).collect();
    run(fuzz::member, &corpus("member", made));
}
