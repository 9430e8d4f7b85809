//! Whole replicas with real stores, one of which goes wrong: it is found out, its life is ended, and it comes back rebuilt.

#[path = "support/replicas.rs"]
mod support;

use std::sync::Arc;

use quorate_core::command::Command;
use quorate_core::entry::Standing;
use quorate_core::error::Error;
use quorate_core::raft::Role;
use quorate_core::replica::{Config, Input, Request};
use quorate_core::request::{Member as MemberInfo, *};
use quorate_core::rows::RowWrite;
use quorate_core::{Blob, Incarnation, NodeId};
use support::{Cluster, MILLI, Member, put};

fn config(member: u64) -> Config {
    let founders = (1..=5).map(info).collect();
    Config { publish: Some(info(member)), founders, ..support::config(member) }
}

fn info(id: u64) -> MemberInfo {
    let peer_urls = vec![format!("http://127.0.0.1:{id}")];
    MemberInfo { id: NodeId(id), name: "n".into(), peer_urls, client_urls: vec![], is_learner: false }
}

fn elected(count: u64) -> Cluster {
    let mut cluster = Cluster::with(count, config, &Arc::default());
    cluster.may_differ = true;
    cluster.elected()
}

/// A bit of the value of `k` flips in what `at` has applied; then a txn decides on it, everywhere.
fn decide_on_flipped_bits(cluster: &mut Cluster, at: &[NodeId]) {
    let leader = cluster.leader();
    cluster.ask(leader, put("k", "v"));
    cluster.run(100 * MILLI);
    for id in at {
        let member = cluster.members.get_mut(id).expect("a member");
        let (key, _) = member.rows.iter().filter(|(key, _)| key[0] == 0x20).last().expect("the value's row");
        let write = RowWrite { key: Blob::copy(key), value: Some("w".into()) };
        member.rows.write(&[write]);
    }
    let op = |key: &'static str| match put(key, "1") {
        Request::Command(Command::Put(put)) => RequestOp::Put(put),
        _ => unreachable!(),
    };
    let target = CompareTarget::Value("v".into());
    let compare = Compare { range: KeyRange::Key("k".into()), result: CompareResult::Equal, target };
    let txn = TxnRequest { compare: vec![compare], success: vec![op("then")], failure: vec![op("else")] };
    cluster.ask(leader, Request::Command(Command::Txn(txn)));
}

fn alarms(cluster: &Cluster, at: NodeId) -> Vec<Alarm> {
    cluster.members[&at].store.view().alarms().collect()
}

#[test]
fn a_member_whose_state_differs_is_fenced_within_a_second_and_returns_rebuilt() {
    for is_leader in [false, true] {
        let mut cluster = elected(3);
        let odd = if is_leader { cluster.leader() } else { cluster.follower() };
        let since = cluster.now;
        decide_on_flipped_bits(&mut cluster, &[odd]);
        cluster.run(3000 * MILLI);
        let member = &cluster.members[&odd];
        let (suspected, fenced) = (member.suspected.expect("it noticed"), member.fenced.expect("it was told"));
        assert!(suspected < since + 1000 * MILLI, "noticed after {:?}", suspected.since(since));
        assert!(suspected <= fenced && (is_leader || fenced < since + 1000 * MILLI), "{:?}", fenced.since(since));
        for (id, member) in cluster.members.iter().filter(|(id, _)| **id != odd) {
            assert_eq!((member.suspected, member.fenced), (None, None), "{id}");
            let kind = AlarmKind::Fenced(Incarnation(odd.0));
            assert_eq!(alarms(&cluster, *id), [Alarm { kind, member: odd }]);
        }
        // It serves nobody; the others go on.
        let refused = cluster.ask(odd, Request::ReadIndex);
        assert_eq!(cluster.answer(odd, refused), Some(&Err(Error::Stopped)));
        let leader = cluster.members.keys().find(|id| **id != odd && cluster.value(**id, "then").is_some());
        let leader = *leader.expect("both have it");
        let id = cluster.ask(leader, put("k", "x"));
        cluster.run(2000 * MILLI);
        assert!(matches!(cluster.answer(leader, id), Some(Ok(_))));

        cluster.rebuild(odd, Incarnation(99));
        cluster.run(10_000 * MILLI);
        assert_eq!(cluster.members[&odd].replica.status().standing, Standing::Trusted);
        assert_eq!(cluster.members[&odd].fenced, None, "the alarm names its former life");
        assert_eq!(cluster.members[&odd].replica.status().config.voters[&odd], Incarnation(99));
        for id in cluster.members.keys() {
            assert_eq!(alarms(&cluster, *id), [], "cleared by {odd}, seen by {id}");
            assert_eq!(cluster.value(*id, "k"), Some("x".into()));
            assert_eq!(cluster.value(*id, "else"), None);
            assert_eq!(cluster.members[id].store.hash(), cluster.members[&odd].store.hash());
        }
        let id = cluster.ask(odd, put("k", "y"));
        cluster.run(1000 * MILLI);
        assert!(matches!(cluster.answer(odd, id), Some(Ok(_))), "it serves again");
    }
}

/// Whoever leads goes on asking a silent member about the same point; a new one does not wait for its answer.
#[test]
fn a_silent_member_does_not_delay_that_a_difference_is_noticed() {
    for wait in (0..2000).step_by(250) {
        let mut cluster = elected(5);
        let leader = cluster.leader();
        let mut others = cluster.members.keys().copied().filter(|id| *id != leader);
        let (silent, odd) = (others.next().expect("five"), others.next().expect("five"));
        cluster.cut_off.insert(silent);
        cluster.ask(leader, put("k", "v"));
        cluster.run((5000 + wait) * MILLI);
        let since = cluster.now;
        decide_on_flipped_bits(&mut cluster, &[odd]);
        cluster.run(3000 * MILLI);
        let suspected = cluster.members[&odd].suspected.expect("it noticed");
        assert!(suspected < since + 1000 * MILLI, "{wait}: noticed after {:?}", suspected.since(since));
    }
}

#[test]
fn a_member_without_which_there_is_no_quorum_keeps_its_log() {
    let mut cluster = elected(3);
    let odd = cluster.follower();
    let leader = cluster.leader();
    let third = *cluster.members.keys().find(|id| **id != odd && **id != leader).expect("three");
    decide_on_flipped_bits(&mut cluster, &[odd]);
    // The third member applies the txn, tells its hash to those two only in part, and is gone.
    while let Some((from, to, message)) = cluster.mail.pop_front() {
        cluster.step(to, Input::Receive { from, message });
    }
    cluster.run(200 * MILLI);
    cluster.cut_off.insert(third);
    cluster.run(5000 * MILLI);
    assert_eq!(cluster.members[&odd].fenced, None);
    assert_eq!(alarms(&cluster, leader), []);
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    assert!(cluster.members[&odd].fenced.is_some(), "once there are enough others, it is");
}

/// Found by the simulator: a suspect clears no alarm, and while one was on no other was raised, so it stayed wrong for
/// ever.
#[test]
fn a_member_that_goes_wrong_again_before_it_clears_its_alarm_is_fenced_again() {
    let mut cluster = elected(3);
    let odd = cluster.follower();
    cluster.mute.insert(odd);
    decide_on_flipped_bits(&mut cluster, &[odd]);
    cluster.run(1000 * MILLI);
    assert!(cluster.members[&odd].suspected.is_some(), "it alone knows");
    let former = Alarm { kind: AlarmKind::Fenced(Incarnation(99)), member: odd };
    cluster.ask(cluster.leader(), Request::Command(Command::RaiseAlarm(former)));
    cluster.run(1000 * MILLI);
    assert_eq!(alarms(&cluster, odd), [former], "it does not clear it");
    cluster.mute.clear();
    cluster.ask(cluster.leader(), put("k", "w"));
    cluster.run(5000 * MILLI);
    assert!(cluster.members[&odd].fenced.is_some());
    cluster.rebuild(odd, Incarnation(100));
    cluster.run(10_000 * MILLI);
    for id in cluster.members.keys() {
        assert_eq!(alarms(&cluster, *id), [], "both cleared by {odd}, seen by {id}");
    }
}

#[test]
fn without_a_majority_nobody_is_rebuilt_and_nothing_is_changed() {
    let mut cluster = elected(2);
    let odd = cluster.follower();
    decide_on_flipped_bits(&mut cluster, &[odd]);
    cluster.run(2000 * MILLI);
    let leader = cluster.leader();
    for (id, member) in &cluster.members {
        assert_eq!((member.suspected, member.fenced), (None, None), "{id}");
        assert_eq!(alarms(&cluster, *id), [Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) }]);
    }
    let id = cluster.ask(leader, put("k", "x"));
    cluster.run(500 * MILLI);
    assert_eq!(cluster.answer(leader, id), Some(&Err(Error::Corrupt)));
}

fn fenced(id: NodeId, life: Incarnation) -> Alarm {
    Alarm { kind: AlarmKind::Fenced(life), member: id }
}

fn change(change: MemberChange) -> Request {
    Request::Command(Command::Members(change))
}

fn remove(id: NodeId) -> Request {
    change(MemberChange::Remove { id, strict: true })
}

impl Cluster {
    /// A leader and two others.
    fn three(&self) -> (NodeId, NodeId, NodeId) {
        let leader = self.leader();
        let mut others = self.members.keys().copied().filter(|id| *id != leader);
        (leader, others.next().expect("three"), others.next().expect("three"))
    }

    /// `odd` comes back with nothing, and then these two vote.
    fn is_rebuilt(&mut self, odd: NodeId, other: NodeId) {
        self.rebuild(odd, Incarnation(99));
        self.run(10_000 * MILLI);
        let mut voters = [other, odd];
        voters.sort();
        self.is_well(&voters);
    }

    /// All is as it should be: `voters` vote, trusted, and nothing is alarmed.
    fn is_well(&mut self, voters: &[NodeId]) {
        let leader =
            *voters.iter().find(|id| self.members[id].replica.status().role == Role::Leader).expect("a leader");
        let id = self.ask(leader, put("k", "well"));
        self.run(1000 * MILLI);
        assert!(matches!(self.answer(leader, id), Some(Ok(_))), "{:?}", self.answer(leader, id));
        assert_eq!(alarms(self, leader), []);
        let status = self.members[&leader].replica.status();
        assert_eq!(status.config.voters.keys().copied().collect::<Vec<_>>(), voters, "{}", status.config);
        for id in voters {
            assert_eq!(self.members[id].replica.status().standing, Standing::Trusted);
            assert_eq!((self.members[id].fenced, self.members[id].suspected), (None, None));
        }
    }
}

/// It was heard a moment ago, and so a configuration that needs it was entered; nothing was committed any more.
#[test]
fn no_configuration_is_entered_that_needs_a_life_which_is_over() {
    let mut cluster = elected(3);
    let (leader, right, odd) = cluster.three();
    cluster.ask(leader, Request::Command(Command::RaiseAlarm(fenced(odd, Incarnation(odd.0)))));
    cluster.run(MILLI);
    assert!(cluster.members[&odd].fenced.is_some());
    cluster.ask(leader, remove(right));
    cluster.run(3000 * MILLI);
    cluster.is_rebuilt(odd, leader);
}

/// Its alarm was in the log, and not applied yet when the other voter's removal was.
#[test]
fn no_configuration_is_entered_that_needs_a_life_which_is_about_to_be_over() {
    let mut cluster = elected(3);
    let (leader, right, odd) = cluster.three();
    cluster.mute.insert(odd);
    decide_on_flipped_bits(&mut cluster, &[odd]);
    cluster.run(1000 * MILLI);
    for id in [leader, right] {
        cluster.members.get_mut(&id).expect("a member").slow_disk = true;
    }
    cluster.ask(leader, remove(right));
    cluster.run(100 * MILLI);
    let removal = cluster.members[&leader].replica.raft().status().last;
    cluster.mute.clear();
    cluster.run(2500 * MILLI);
    assert!(cluster.members[&leader].replica.raft().status().last > removal, "the alarm is in the log");
    let write = cluster.members.get_mut(&leader).expect("the leader").writes.pop_front().expect("it is being written");
    cluster.step(leader, Input::Persisted { write });
    assert_eq!(cluster.members[&leader].replica.applied_index(), removal, "and not applied");
    cluster.run(MILLI);
    for id in [leader, right] {
        cluster.members.get_mut(&id).expect("a member").slow_disk = false;
        cluster.write(id);
    }
    cluster.run(3000 * MILLI);
    assert!(cluster.members[&odd].fenced.is_some());
    cluster.is_rebuilt(odd, leader);
}

/// The removal came first: then it is the life that goes on.
#[test]
fn no_life_is_ended_that_the_configuration_to_come_needs() {
    let mut cluster = elected(3);
    let (leader, right, odd) = cluster.three();
    decide_on_flipped_bits(&mut cluster, &[odd]);
    cluster.ask(leader, remove(right));
    cluster.run(5000 * MILLI);
    assert_eq!(cluster.members[&odd].fenced, None);
    assert_eq!(alarms(&cluster, leader), [Alarm { kind: AlarmKind::Corrupt, member: NodeId(0) }], "one against one");
}

#[test]
fn a_learner_whose_life_is_over_gets_no_vote_before_its_next_one() {
    let mut cluster = elected(1);
    let (leader, odd) = (NodeId(1), NodeId(2));
    let member = MemberInfo { is_learner: true, name: String::new(), ..info(odd.0) };
    cluster.ask(leader, change(MemberChange::Add { member, learners_max: 1, strict: true }));
    cluster.run(1000 * MILLI);
    let voters = [(leader, Incarnation(0))].into();
    let joining = Member::new(odd, config(odd.0), Arc::default(), &voters, Standing::Amnesiac);
    cluster.members.insert(odd, joining);
    cluster.step(odd, Input::Wake);
    cluster.run(3000 * MILLI);
    cluster.ask(leader, Request::Command(Command::RaiseAlarm(fenced(odd, Incarnation(odd.0)))));
    cluster.run(MILLI);
    assert!(cluster.members[&odd].fenced.is_some());
    cluster.ask(leader, change(MemberChange::Promote { id: odd, strict: true }));
    cluster.run(3000 * MILLI);
    cluster.is_rebuilt(odd, leader);
}

impl Cluster {
    /// Scrubs find these members' states damaged.
    fn decay(&mut self, members: &[NodeId]) {
        members.iter().for_each(|id| self.step(*id, Input::Damaged));
    }

    /// Those whose life is over come back, until there are none. Never is there more than one.
    fn rebuild_all(&mut self) -> Vec<NodeId> {
        let mut rebuilt = Vec::new();
        for round in 0..10 {
            self.run(10_000 * MILLI);
            let over: Vec<NodeId> =
                self.members.iter().filter(|(_, member)| member.fenced.is_some()).map(|it| *it.0).collect();
            assert!(over.len() <= 1, "{over:?} at once");
            over.iter().for_each(|id| self.rebuild(*id, Incarnation(100 + 10 * round + id.0)));
            rebuilt.extend(over);
        }
        rebuilt
    }
}

#[test]
fn damaged_members_are_rebuilt_one_by_one_whoever_leads() {
    let ids = [1, 2, 3].map(NodeId);
    for damaged in [&ids[..1], &ids[1..2], &ids[..2], &ids[1..], &ids] {
        let mut cluster = elected(3);
        cluster.decay(damaged);
        let mut rebuilt = cluster.rebuild_all();
        rebuilt.sort();
        assert_eq!(rebuilt, damaged);
        cluster.is_well(&ids);
    }
}

/// Its scrub counted voters, and so ended a life that the quorum needed.
#[test]
fn a_damaged_member_goes_on_while_another_is_down_or_catches_up() {
    let mut cluster = elected(3);
    let (leader, other, damaged) = cluster.three();
    cluster.cut_off.insert(other);
    cluster.run(2000 * MILLI);
    cluster.decay(&[damaged]);
    cluster.run(10_000 * MILLI);
    assert_eq!((cluster.members[&damaged].fenced, alarms(&cluster, leader)), (None, vec![]));
    // It is back with another disk, and receives nothing yet that would make it count.
    cluster.rebuild(other, Incarnation(99));
    cluster.members.get_mut(&other).expect("it is back").slow_disk = true;
    cluster.cut_off.clear();
    cluster.run(10_000 * MILLI);
    assert_eq!((cluster.members[&damaged].fenced, alarms(&cluster, leader)), (None, vec![]));
    cluster.members.get_mut(&other).expect("it is back").slow_disk = false;
    cluster.write(other);
    assert_eq!(cluster.rebuild_all(), [damaged]);
    cluster.is_well(&[1, 2, 3].map(NodeId));
}

/// It waited for a word of the one that was silent.
#[test]
fn a_damaged_leader_gives_way_while_another_damaged_member_is_silent() {
    let mut cluster = elected(5);
    let (leader, silent, _) = cluster.three();
    cluster.decay(&[silent]);
    while cluster.members[&leader].replica.raft().damaged().next().is_none() {
        cluster.run(MILLI);
    }
    cluster.cut_off.insert(silent);
    cluster.decay(&[leader]);
    cluster.run(5000 * MILLI);
    assert!(cluster.members[&leader].fenced.is_some(), "{:?}", alarms(&cluster, cluster.leader()));
    assert_ne!(cluster.leader(), leader);
}

/// They had the longest logs and the highest IDs, and left it to whoever has most.
#[test]
fn two_members_whose_states_are_wrong_do_not_give_way_to_each_other_for_ever() {
    for odd in [[4, 5], [1, 2], [2, 4]].map(|odd| odd.map(NodeId)) {
        let mut cluster = elected(5);
        cluster.ask(cluster.leader(), Request::Transfer(odd[1]));
        cluster.run(1000 * MILLI);
        assert_eq!(cluster.leader(), odd[1]);
        decide_on_flipped_bits(&mut cluster, &odd);
        cluster.run(20_000 * MILLI);
        assert!(!odd.contains(&cluster.leader()));
        assert!(odd.iter().any(|id| cluster.members[id].fenced.is_some()), "{odd:?}");
    }
}

#[test]
fn a_damaged_leader_without_a_quorum_beside_it_leads_on() {
    let mut cluster = elected(3);
    let (leader, other, _) = cluster.three();
    cluster.cut_off.insert(other);
    cluster.run(2000 * MILLI);
    let term = cluster.members[&leader].replica.raft().status().term;
    cluster.decay(&[leader]);
    cluster.run(10_000 * MILLI);
    assert_eq!((cluster.leader(), cluster.members[&leader].replica.raft().status().term), (leader, term));
    cluster.cut_off.clear();
    assert_eq!(cluster.rebuild_all(), [leader]);
}

#[test]
fn damage_that_nobody_was_told_of_is_told_again() {
    let mut cluster = elected(3);
    let damaged = cluster.follower();
    cluster.cut_off.insert(damaged);
    cluster.decay(&[damaged]);
    cluster.run(5000 * MILLI);
    cluster.cut_off.clear();
    assert_eq!(cluster.rebuild_all(), [damaged]);
    cluster.is_well(&[1, 2, 3].map(NodeId));
}

#[test]
fn a_damaged_member_that_is_always_needed_raises_corrupt_once() {
    for count in [1, 2] {
        let mut cluster = elected(count);
        let damaged = NodeId(count);
        let corrupt = Alarm { kind: AlarmKind::Corrupt, member: damaged };
        cluster.decay(&[damaged]);
        cluster.run(5000 * MILLI);
        assert_eq!(alarms(&cluster, NodeId(1)), [corrupt]);
        cluster.ask(cluster.leader(), Request::Command(Command::ClearAlarm(corrupt)));
        cluster.run(5000 * MILLI);
        assert_eq!(alarms(&cluster, NodeId(1)), [], "an administrator knows better");
        assert_eq!(cluster.members[&damaged].fenced, None);
    }
}
