//! Whole replicas of which one lags behind the log, and gets a snapshot.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::raft;
use quorate_core::replica::{Config, Request, Response};
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, KeyRange, Member as Info, PutRequest, RequestOp, TxnRequest,
};
use quorate_core::rows::RowWrite;
use quorate_core::{Blob, NodeId};
use support::{Cluster, MILLI, put};

/// Little log is kept.
fn config(member: u64) -> Config {
    let info =
        |id| Info { id: NodeId(id), name: "n".into(), peer_urls: vec![], client_urls: vec![], is_learner: false };
    let usual = support::config(member);
    let raft = raft::Config { catchup_entries: 10, catchup_bytes: 16 << 10, ..usual.raft };
    Config { raft, founders: (1..=3).map(info).collect(), ..usual }
}

fn elected() -> Cluster {
    Cluster::with(3, config, &Arc::default()).elected()
}

/// A put of its own key with 2 KiB.
fn large_put(number: usize) -> Request {
    let Request::Command(Command::Put(put)) = put("", "") else { unreachable!() };
    let (key, value) = (Blob::from(format!("{number:08}").into_bytes()), Blob::from(vec![7; 2 << 10]));
    Request::Command(Command::Put(PutRequest { key, value, ..put }))
}

/// A cluster, its leader, and the member that was cut off during [`large_put`]s 0 to 499: the log has them no more.
fn left_behind() -> (Cluster, NodeId, NodeId) {
    let mut cluster = elected();
    let (leader, lagging) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(lagging);
    for number in 0..500 {
        cluster.ask(leader, large_put(number));
    }
    cluster.run(1000 * MILLI);
    cluster.cut_off.clear();
    (cluster, leader, lagging)
}

#[test]
fn a_snapshot_arrives_while_clients_write_more_than_the_log_keeps() {
    // It did not once: the log was cut above the picture, and the transfer began again with a newer one, for ever.
    let (mut cluster, leader, lagging) = left_behind();
    // 160 KiB a second of a MiB, while 100 KiB a second are written. For two seconds, nothing arrives.
    cluster.lane_delay = 100 * MILLI;
    for number in 500..1030 {
        match number {
            600 => _ = cluster.cut_off.insert(lagging),
            700 => cluster.cut_off.clear(),
            _ => {}
        }
        cluster.ask(leader, large_put(number));
        cluster.run(20 * MILLI);
    }
    assert_eq!(cluster.members[&lagging].restored, 1, "within ten seconds: it did not begin again");
    cluster.run(2000 * MILLI);
    let applied = |id: NodeId| cluster.members[&id].replica.applied_index();
    assert_eq!(applied(lagging), applied(leader), "and the log goes on from there");
    assert_eq!(cluster.members[&lagging].restored, 1);
    cluster.ask(leader, put("one", "more"));
    cluster.run(1000 * MILLI);
    assert!(log(&cluster, leader) < 20, "what was kept for the follower is not kept any more");
}

/// How many entries a member's log has.
fn log(cluster: &Cluster, id: NodeId) -> u64 {
    let raft = cluster.members[&id].replica.raft();
    raft.status().last.0 - raft.start().0
}

#[test]
fn the_log_does_not_grow_without_bounds_for_a_follower_that_takes_nothing() {
    let (mut cluster, leader, lagging) = left_behind();
    cluster.lane_delay = Duration::from_secs(3600);
    for number in 500..1500 {
        cluster.ask(leader, large_put(number));
        cluster.run(20 * MILLI);
        let kept = log(&cluster, leader);
        assert!(kept <= 4 * 8 + 2, "{kept} entries of 2 KiB, with a budget of 4 times 16 KiB");
    }
    assert_eq!(cluster.members[&lagging].restored, 0);
}

#[test]
fn a_member_that_knows_that_it_is_wrong_serves_again_once_a_snapshot_has_replaced_its_state() {
    let mut cluster = elected();
    cluster.may_differ = true;
    let (leader, odd) = (cluster.leader(), cluster.follower());
    cluster.ask(leader, put("k", "v"));
    cluster.run(1000 * MILLI);
    // It goes wrong, and finds out; what it says of its state does not arrive, and then it hears nothing at all.
    cluster.mute.insert(odd);
    let member = cluster.members.get_mut(&odd).expect("a member");
    let (key, _) = member.rows.iter().filter(|(key, _)| key[0] == 0x20).last().expect("the value's row");
    let write = RowWrite { key: Blob::copy(key), value: Some("w".into()) };
    member.rows.write(&[write]);
    let Request::Command(Command::Put(then)) = put("then", "1") else { unreachable!() };
    let (range, target) = (KeyRange::Key("k".into()), CompareTarget::Value("v".into()));
    let compare = vec![Compare { range, result: CompareResult::Equal, target }];
    let txn = TxnRequest { compare, success: vec![RequestOp::Put(then)], failure: vec![] };
    cluster.ask(leader, Request::Command(Command::Txn(txn)));
    cluster.run(1000 * MILLI);
    assert!(cluster.members[&odd].suspected.is_some(), "it noticed");
    let refused = cluster.ask(odd, Request::ReadIndex);
    assert_eq!(cluster.answer(odd, refused), Some(&Err(Error::Stopped)));
    cluster.cut_off.insert(odd);
    cluster.mute.clear();
    for number in 0..100 {
        cluster.ask(leader, large_put(number));
    }
    cluster.run(1000 * MILLI);
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    let member = &cluster.members[&odd];
    assert_eq!((member.restored, member.suspected, member.fenced), (1, None, None));
    assert_eq!(member.store.hash(), cluster.members[&leader].store.hash());
    let id = cluster.ask(odd, Request::ReadIndex);
    cluster.run(1000 * MILLI);
    assert_eq!(cluster.answer(odd, id), Some(&Ok(Response::Readable)));
}
