//! Whole replicas: in which order proposals come into the log, how many entries they are, and what is kept for whom.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::replica::{Config, Request, Response};
use quorate_core::request::{Alarm, AlarmKind, Lease, Member as Info, PutRequest};
use quorate_core::{Blob, LeaseId, NodeId, RequestId, Ttl};
use support::{Cluster, MILLI, put};

fn config(member: u64) -> Config {
    let info =
        |id| Info { id: NodeId(id), name: "n".into(), peer_urls: vec![], client_urls: vec![], is_learner: false };
    Config { founders: (1..=3).map(info).collect(), ..support::config(member) }
}

fn elected(count: u64) -> Cluster {
    Cluster::with(count, config, &Arc::default()).elected()
}

/// Grants a lease that runs out after two seconds, and goes to one millisecond before.
fn with_a_lease_about_to_end(mut cluster: Cluster, at: NodeId, id: LeaseId) -> Cluster {
    let granted = cluster.ask(at, Request::Command(Command::LeaseGrant(Lease { id, ttl: Ttl(2) })));
    cluster.run(1999 * MILLI);
    assert!(matches!(cluster.answer(at, granted), Some(Ok(_))));
    cluster
}

#[test]
fn puts_are_not_overtaken_by_what_the_leader_proposes_itself() {
    // They were once: the store took what came 1024 numbers behind that for applied, and nobody was ever answered.
    for members in [1, 3] {
        let mut cluster = elected(members);
        let leader = cluster.leader();
        cluster = with_a_lease_about_to_end(cluster, leader, LeaseId(7));
        cluster.now = cluster.now + MILLI;
        let ids = cluster.ask_all(leader, vec![put("k", "v"); 1200]);
        cluster.run(200 * MILLI);
        let answered = |id: &&RequestId| matches!(cluster.answer(leader, **id), Some(Ok(_)));
        assert_eq!(ids.iter().filter(answered).count(), 1200, "of {members} members");
        let gone = cluster.ask(leader, Request::KeepAlive(LeaseId(7)));
        cluster.run(200 * MILLI);
        assert_eq!(cluster.answer(leader, gone), Some(&Ok(Response::KeptAlive(None))), "and the lease has ended");
    }
}

#[test]
fn puts_that_wait_for_the_log_are_not_overtaken_either() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster.ask(only, Request::Command(Command::LeaseGrant(Lease { id: LeaseId(6), ttl: Ttl(3) })));
    cluster = with_a_lease_about_to_end(cluster, only, LeaseId(7));
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    cluster.ask(only, put("a write", "under way"));
    let ids = cluster.ask_all(only, vec![put("k", "v"); 1023]);
    assert_eq!(cluster.members[&only].writes.len(), 1, "they wait");
    cluster.run(1500 * MILLI);
    cluster.members.get_mut(&only).expect("it").slow_disk = false;
    cluster.write(only);
    cluster.run(200 * MILLI);
    assert!(ids.iter().all(|id| matches!(cluster.answer(only, *id), Some(Ok(_)))));
}

fn large_put(value: &Blob) -> Request {
    let Request::Command(Command::Put(put)) = put("k", "") else { unreachable!() };
    Request::Command(Command::Put(PutRequest { value: value.clone(), ..put }))
}

#[test]
fn proposals_beyond_their_memory_are_refused_until_others_are_answered() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    let value = Blob::from(vec![7; 1 << 20]);
    let ids: Vec<RequestId> = (0..100).map(|_| cluster.ask(only, large_put(&value))).collect();
    let refused = |cluster: &Cluster| {
        ids.iter().filter(|id| cluster.answer(only, **id) == Some(&Err(Error::TooManyRequests))).count()
    };
    assert_eq!(refused(&cluster), 36, "64 MiB may wait");
    cluster.members.get_mut(&only).expect("it").slow_disk = false;
    cluster.write(only);
    cluster.run(1000 * MILLI);
    assert_eq!(refused(&cluster), 36);
    assert!(ids.iter().all(|id| cluster.answer(only, *id).is_some()));
    let id = cluster.ask(only, large_put(&value));
    cluster.run(1000 * MILLI);
    assert!(matches!(cluster.answer(only, id), Some(Ok(_))));
}

/// What is kept after so many seconds in which one member alone is asked more than it can keep.
fn kept_while_alone(mut cluster: Cluster, alone: NodeId, seconds: u32) -> (u64, usize) {
    cluster.cut_off = cluster.members.keys().copied().collect();
    let value = Blob::from(vec![7; 1 << 20]);
    let (mut ids, mut most) = (vec![], (0, 0));
    for _ in 0..seconds * 2 {
        ids.extend(cluster.ask_all(alone, vec![large_put(&value); 20]));
        ids.extend(cluster.ask_all(alone, vec![Request::ReadIndex; 500]));
        ids.extend(cluster.ask_all(alone, vec![Request::KeepAlive(LeaseId(1)); 10]));
        cluster.run(500 * MILLI);
        let kept = cluster.members[&alone].replica.kept_for_clients();
        most = (kept.0.max(most.0), kept.1.max(most.1));
    }
    let given_up =
        |id: &&RequestId| matches!(cluster.answer(alone, **id), Some(Err(Error::Timeout | Error::TimeoutLeaderFailed)));
    assert!(ids.iter().filter(given_up).count() > ids.len() / 2, "etcd's clients are told that it takes too long");
    most
}

#[test]
fn what_nobody_waits_for_any_more_is_not_kept() {
    // It was once: 64 MiB of puts every seven seconds, and each read for as long as there was no leader.
    for is_leader in [false, true] {
        let cluster = elected(3);
        let alone = if is_leader { cluster.leader() } else { cluster.follower() };
        let (bytes, reads) = kept_while_alone(cluster, alone, 21);
        assert!(bytes <= (2 * 65) << 20, "{bytes} bytes, each counted twice");
        assert!(reads < 2 * 8 * 1000, "{reads} reads, of which a thousand come in a second and wait for seven");
    }
}

#[test]
fn what_waits_for_a_log_that_stands_still_is_not_kept_for_those_given_up() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    cluster.ask(only, put("a write", "under way"));
    for _ in 0..3 {
        cluster.ask_all(only, vec![put("k", "v"); 1000]);
        cluster.run(7500 * MILLI);
        assert_eq!(cluster.members[&only].replica.kept_for_clients(), (0, 0));
    }
}

#[test]
fn a_put_that_nobody_waits_for_any_more_is_applied_all_the_same() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    let id = cluster.ask(only, put("k", "v"));
    cluster.run(7500 * MILLI);
    assert!(matches!(cluster.answer(only, id), Some(Err(Error::Timeout | Error::TimeoutLeaderFailed))));
    cluster.members.get_mut(&only).expect("it").slow_disk = false;
    cluster.write(only);
    let id = cluster.ask(only, put("k", "w"));
    cluster.run(100 * MILLI);
    assert!(matches!(cluster.answer(only, id), Some(Ok(_))));
    assert_eq!(cluster.members[&only].store.view().revision().0, 3, "both are there");
}

#[test]
fn renewals_of_a_step_clear_their_checkpoints_in_one_entry() {
    let often = |id| Config { lease_checkpoint: Duration::from_secs(1), ..config(id) };
    let mut cluster = Cluster::with(3, often, &Arc::default()).elected();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for id in 1..=50 {
        cluster.ask(leader, Request::Command(Command::LeaseGrant(Lease { id: LeaseId(id), ttl: Ttl(60) })));
    }
    cluster.run(1500 * MILLI);
    for at in [leader, follower] {
        cluster.run(1500 * MILLI);
        let before = cluster.members[&leader].replica.raft().status().last;
        let ids = cluster.ask_all(at, (1..=50).map(|id| Request::KeepAlive(LeaseId(id))).collect());
        cluster.run(10 * MILLI);
        for id in ids {
            assert_eq!(cluster.answer(at, id), Some(&Ok(Response::KeptAlive(Some(Ttl(60))))), "asked at {at}");
        }
        let entries = cluster.members[&leader].replica.raft().status().last.0 - before.0;
        assert!((1..=2).contains(&entries), "{entries} entries for renewals at {at}");
    }
}

#[test]
fn renewals_that_wait_for_a_revocation_are_answered_if_it_is_refused() {
    let mut cluster = elected(1);
    let only = NodeId(1);
    cluster = with_a_lease_about_to_end(cluster, only, LeaseId(7));
    let alarm = Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) };
    cluster.ask(only, Request::Command(Command::RaiseAlarm(alarm)));
    cluster.members.get_mut(&only).expect("it").slow_disk = true;
    cluster.run(10 * MILLI);
    let ids = cluster.ask_all(only, vec![Request::KeepAlive(LeaseId(7)); 3]);
    assert!(ids.iter().all(|id| cluster.answer(only, *id).is_none()), "it is being revoked");
    cluster.members.get_mut(&only).expect("it").slow_disk = false;
    cluster.write(only);
    for id in ids {
        assert_eq!(
            cluster.answer(only, id),
            Some(&Ok(Response::KeptAlive(Some(Ttl(2))))),
            "nothing is changed any more"
        );
    }
}
