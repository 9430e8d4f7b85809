//! Whole replicas with real stores, over a network and disks that the test controls: routing, waiting, giving up.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin, Outcome};
use quorate_core::entry::{Entry, Payload};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::raft;
use quorate_core::replica::{AutoCompaction, Config, Input, PeerMessage, Request, Response};
use quorate_core::request::{Member as Info, *};
use quorate_core::rows::MemRows;
use quorate_core::store::{Members, Store};
use quorate_core::{Incarnation, LeaseId, LogIndex, NodeId, RequestId, Term, Ttl};
use support::{Cluster, MILLI, put};

/// Members compact by themselves.
fn config(member: u64) -> Config {
    Config { auto_compaction: Some(AutoCompaction::revisions(100)), ..support::config(member) }
}

/// Records of so many members.
fn recorded(count: u64) -> Arc<Members> {
    let member = |id| {
        let (name, peer_urls, client_urls) = (String::new(), vec![], vec![]);
        Info { id: NodeId(id), name, peer_urls, client_urls, is_learner: false }
    };
    let command = Command::Members(MemberChange::Found((1..=count).map(member).collect()));
    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: 1 };
    let envelope = Envelope { origin, author: Author::Member, command };
    let payload = Payload::Command(codec::encode(&envelope));
    let rows = MemRows::default();
    let mut store = Store::load(NodeId(1), &rows).expect("no rows are an empty store");
    store.apply(&[Entry { term: Term(1), index: LogIndex(1), payload }], &rows);
    store.members()
}

fn with(count: u64, config: impl Fn(u64) -> Config) -> Cluster {
    Cluster::with(count, config, &recorded(count))
}

fn elected(count: u64) -> Cluster {
    with(count, config).elected()
}

#[test]
fn a_put_is_answered_by_the_member_that_was_asked() {
    let mut cluster = elected(3);
    for at in [cluster.leader(), cluster.follower()] {
        let id = cluster.ask(at, put("k", "v"));
        cluster.run(200 * MILLI);
        assert!(matches!(cluster.answer(at, id), Some(Ok(Response::Outcome(Outcome::Put(_))))), "asked at {at}");
        assert_eq!(cluster.value(at, "k"), Some("v".into()));
    }
}

#[test]
fn a_put_forwarded_to_a_leader_that_dies_is_offered_to_the_next_one_and_applied_once() {
    let mut cluster = elected(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(leader);
    let id = cluster.ask(follower, put("k", "v"));
    cluster.run(4000 * MILLI);
    assert!(matches!(cluster.answer(follower, id), Some(Ok(Response::Outcome(Outcome::Put(_))))));
    assert_eq!(cluster.members[&follower].store.view().revision().0, 2, "one put, one revision");
}

#[test]
fn a_put_that_the_old_leader_did_commit_is_not_applied_again() {
    let mut cluster = elected(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.ask(follower, put("k", "v"));
    // The proposal reaches the leader and is committed; nobody hears of that before the leader is gone.
    while let Some((from, to, message)) = cluster.mail.pop_front() {
        if from == leader && cluster.members[&leader].replica.raft().status().commit.0 > 2 {
            continue;
        }
        cluster.step(to, Input::Receive { from, message });
    }
    cluster.cut_off.insert(leader);
    cluster.run(5000 * MILLI);
    assert!(matches!(cluster.answer(follower, id), Some(Ok(_))));
    assert_eq!(cluster.members[&follower].store.view().revision().0, 2, "one put, one revision");
}

#[test]
fn proposals_gather_while_the_log_is_written() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    let ids: Vec<RequestId> = (0..50).map(|_| cluster.ask(only, put("k", "v"))).collect();
    let writes = cluster.members[&only].writes.len();
    assert_eq!(writes, 1, "one write under way, the rest waits for it");
    cluster.members.get_mut(&only).expect("it").slow_disk = false;
    cluster.write(only);
    assert!(ids.iter().all(|id| matches!(cluster.answer(only, *id), Some(Ok(_)))));
}

#[test]
fn a_member_that_lost_its_leader_before_it_told_its_name_does_not_run_in_circles() {
    // It did once: the time to tell it again came, there was nobody to tell, and it stayed due.
    let publish = |id: u64| {
        let name = format!("m{id}");
        let (peer_urls, client_urls) = (vec![], vec![]);
        Config { publish: Some(Info { id: NodeId(id), name, peer_urls, client_urls, is_learner: false }), ..config(id) }
    };
    let mut cluster = with(3, publish);
    cluster.cut_off = [NodeId(2), NodeId(3)].into();
    let body = raft::Body::Heartbeat { round: 1, commit: LogIndex(0) };
    let message = raft::Message { term: Term(1), incarnation: Incarnation(2), trusted: true, body };
    cluster.step(NodeId(1), Input::Receive { from: NodeId(2), message: PeerMessage::Raft(message) });
    assert_eq!(cluster.members[&NodeId(1)].replica.status().leader, Some(NodeId(2)));
    let told = cluster.mail.iter().any(|(_, _, message)| matches!(message, PeerMessage::Forward { .. }));
    assert!(told, "it tells its name: {:?}", cluster.mail);
    cluster.run(30_000 * MILLI);
    assert_eq!(cluster.members[&NodeId(1)].replica.status().leader, None);
}

#[test]
fn without_a_quorum_requests_are_given_up_and_reads_are_not_answered() {
    let mut cluster = elected(3);
    let leader = cluster.leader();
    cluster.cut_off.extend(cluster.members.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>());
    let (write, read) = (cluster.ask(leader, put("k", "v")), cluster.ask(leader, Request::ReadIndex));
    cluster.run(6900 * MILLI);
    assert_eq!((cluster.answer(leader, write), cluster.answer(leader, read)), (None, None));
    cluster.run(200 * MILLI);
    for id in [write, read] {
        let answer = cluster.answer(leader, id);
        assert!(matches!(answer, Some(Err(Error::Timeout | Error::TimeoutLeaderFailed))), "{answer:?}");
    }
}

#[test]
fn a_read_that_meets_a_change_of_leader_is_asked_again() {
    let mut cluster = elected(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(leader);
    let id = cluster.ask(follower, Request::ReadIndex);
    cluster.run(4000 * MILLI);
    assert_eq!(cluster.answer(follower, id), Some(&Ok(Response::Readable)));
}

#[test]
fn a_lease_is_kept_alive_through_any_member_and_expires_after_that() {
    let mut cluster = elected(3);
    let follower = cluster.follower();
    let lease = Lease { id: LeaseId(7), ttl: Ttl(2) };
    let granted = cluster.ask(follower, Request::Command(Command::LeaseGrant(lease)));
    cluster.run(100 * MILLI);
    assert!(matches!(cluster.answer(follower, granted), Some(Ok(Response::Outcome(Outcome::LeaseGrant(..))))));
    for _ in 0..4 {
        cluster.run(1500 * MILLI);
        let id = cluster.ask(follower, Request::KeepAlive(lease.id));
        cluster.run(100 * MILLI);
        assert_eq!(cluster.answer(follower, id), Some(&Ok(Response::KeptAlive(Some(Ttl(2))))));
    }
    let left = cluster.ask(follower, Request::TimeToLive(lease.id));
    cluster.run(2500 * MILLI);
    assert_eq!(cluster.answer(follower, left), Some(&Ok(Response::TimeToLive(Some((Ttl(2), Ttl(1)))))));
    let gone = cluster.ask(follower, Request::KeepAlive(lease.id));
    cluster.run(100 * MILLI);
    assert_eq!(cluster.answer(follower, gone), Some(&Ok(Response::KeptAlive(None))));
}

#[test]
fn a_short_ttl_is_raised_and_a_long_one_refused() {
    let mut cluster = elected(1);
    let short = Command::LeaseGrant(Lease { id: LeaseId(0), ttl: Ttl(-3) });
    let long = Command::LeaseGrant(Lease { id: LeaseId(0), ttl: Ttl(9_000_000_001) });
    let (short, long) =
        (cluster.ask(NodeId(1), Request::Command(short)), cluster.ask(NodeId(1), Request::Command(long)));
    cluster.run(100 * MILLI);
    let Some(Ok(Response::Outcome(Outcome::LeaseGrant(lease, _)))) = cluster.answer(NodeId(1), short) else {
        panic!("{:?}", cluster.answer(NodeId(1), short))
    };
    assert_eq!(lease.ttl, Ttl(2), "one and a half election timeouts in whole seconds");
    assert!(lease.id.0 > 0);
    assert_eq!(cluster.answer(NodeId(1), long), Some(&Err(Error::LeaseTtlTooLarge)));
}

#[test]
fn leadership_moves_on_request_and_only_from_the_leader() {
    let mut cluster = elected(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let wrong = cluster.ask(follower, Request::Transfer(follower));
    let unknown = cluster.ask(leader, Request::Transfer(NodeId(9)));
    let right = cluster.ask(leader, Request::Transfer(follower));
    cluster.run(1000 * MILLI);
    assert_eq!(cluster.answer(follower, wrong), Some(&Err(Error::NotLeader)));
    assert_eq!(cluster.answer(leader, unknown), Some(&Err(Error::BadLeaderTransferee)));
    assert_eq!(cluster.answer(leader, right), Some(&Ok(Response::Transferred)));
    assert_eq!(cluster.leader(), follower);
}

#[test]
fn the_leader_compacts_by_itself_and_everyone_follows() {
    let mut cluster = elected(3);
    let leader = cluster.leader();
    for _ in 0..150 {
        cluster.ask(leader, put("k", "v"));
    }
    cluster.run(Duration::from_secs(299 - 5));
    assert!(cluster.members.values().all(|member| member.store.view().compacted().0 == -1));
    cluster.run(Duration::from_secs(10));
    for member in cluster.members.values() {
        assert_eq!((member.store.view().revision().0, member.store.view().compacted().0), (151, 51));
    }
    let (index, more) = (cluster.members[&leader].replica.applied_index(), Duration::from_secs(3000));
    cluster.run(more);
    assert_eq!(cluster.members[&leader].replica.applied_index(), index, "nothing new, nothing to compact");
}
