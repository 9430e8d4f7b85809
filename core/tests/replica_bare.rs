//! Whole replicas, one of which has its log and has lost its state: its word counts, and so it goes on giving it until the
//! others can do without.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;

use quorate_core::entry::{HardState, Recovered, Standing};
use quorate_core::error::Error;
use quorate_core::raft::{Body, Message};
use quorate_core::replica::{Config, Input, PeerMessage, Replica, Request};
use quorate_core::request::Alarm;
use quorate_core::rows::MemRows;
use quorate_core::store::Store;
use quorate_core::{Generation, Incarnation, LogIndex, NodeId};
use support::{Cluster, MILLI, put};

/// Of logs that keep few entries.
fn config(member: u64) -> Config {
    let mut config = support::config(member);
    config.raft.catchup_entries = 3;
    config
}

/// Three members whose logs do not go back to the beginning.
fn three() -> Cluster {
    let mut cluster = Cluster::with(3, config, &Arc::default());
    cluster.may_differ = true;
    let mut cluster = cluster.elected();
    write(&mut cluster, 20);
    assert!(cluster.members.values().all(|member| member.replica.raft().start() > LogIndex(10)));
    cluster
}

/// So many puts, all of which succeed.
fn write(cluster: &mut Cluster, count: u32) {
    for _ in 0..count {
        let leader = cluster.leader();
        let id = cluster.ask(leader, put("k", "v"));
        cluster.run(100 * MILLI);
        assert!(matches!(cluster.answer(leader, id), Some(Ok(_))), "{:?}", cluster.answer(leader, id));
    }
}

impl Cluster {
    /// The member starts again, with nothing but its log.
    fn lose_state(&mut self, at: NodeId) {
        self.lose_state_as(at, config(at.0));
    }

    /// The same with other settings.
    fn lose_state_as(&mut self, at: NodeId, config: Config) {
        let member = self.members.get_mut(&at).expect("a member");
        let raft = member.replica.raft();
        let (status, start) = (raft.status(), raft.start());
        assert!(member.writes.is_empty(), "all of it is durable");
        let recovered = Recovered {
            identity: raft.identity().clone(),
            hard_state: HardState { term: status.term, vote: status.leader, commit: status.commit },
            start_index: start,
            start_term: raft.entry(start.next()).expect("the log goes on").term,
            config: raft.config_at(start).expect("the start's configuration is kept"),
            entries: (start.0 + 1..=status.last.0)
                .map(|n| raft.entry(LogIndex(n)).expect("in the log").clone())
                .collect(),
            generation: Generation(0),
        };
        let config = Config { session: Incarnation(2000 + at.0), ..config };
        member.replica = Replica::new(config, recovered, start, &[], Arc::default(), self.now).without_state();
        member.rows = MemRows::default();
        member.store = Store::load(at, &member.rows).expect("no rows are an empty store");
        member.is_bare = true;
    }

    /// The lives that the members with a state know to be over.
    fn ended(&self) -> Vec<Alarm> {
        let whole = self.members.values().filter(|member| !member.is_bare);
        let mut alarms: Vec<Alarm> =
            whole.flat_map(|member| member.store.view().alarms().collect::<Vec<_>>()).collect();
        alarms.sort();
        alarms.dedup();
        alarms
    }

    /// Bare members begin new lives, each once an alarm says so, until none is left.
    fn rebuild_all(&mut self) {
        for round in 0..10 {
            self.run(10_000 * MILLI);
            let ended: Vec<NodeId> = self.ended().iter().map(|alarm| alarm.member).collect();
            assert!(ended.len() <= 1, "{ended:?} at once");
            let over: Vec<NodeId> = ended.into_iter().filter(|id| self.members[id].is_bare).collect();
            for id in over {
                assert_eq!(self.members[&id].suspected, None, "{id}");
                self.rebuild(id, Incarnation(100 + 10 * round + id.0));
            }
        }
        let bare: Vec<&NodeId> = self.members.iter().filter(|(_, member)| member.is_bare).map(|it| it.0).collect();
        assert!(bare.is_empty(), "{bare:?} are without a state");
        assert_eq!(self.ended(), []);
        for (id, member) in &self.members {
            assert_eq!((member.replica.status().standing, member.suspected), (Standing::Trusted, None), "{id}");
        }
        write(self, 1);
    }
}

/// Its log was forgotten at once, and with it the quorum that the other one needed to be readmitted.
#[test]
fn a_member_without_its_state_is_there_for_the_others_until_they_can_do_without() {
    for led in [false, true] {
        let mut cluster = three();
        let leader = cluster.leader();
        let mut others = cluster.members.keys().copied().filter(|id| *id != leader);
        let (other, blank) = (others.next().unwrap(), others.next().unwrap());
        let bare = if led { leader } else { other };
        cluster.rebuild(blank, Incarnation(99));
        cluster.members.get_mut(&blank).unwrap().slow_disk = true;
        cluster.run(2000 * MILLI);
        cluster.lose_state(bare);
        cluster.run(10_000 * MILLI);
        assert_ne!(cluster.leader(), bare, "it leads for no longer than it must");
        let id = cluster.ask(bare, put("k", "v"));
        assert_eq!(cluster.answer(bare, id), Some(&Err(Error::Stopped)), "it serves nobody");
        write(&mut cluster, 5);
        assert_eq!(cluster.ended(), [], "it is needed");
        cluster.members.get_mut(&blank).unwrap().slow_disk = false;
        cluster.write(blank);
        cluster.run(10_000 * MILLI);
        assert_eq!(cluster.members[&blank].replica.status().standing, Standing::Trusted);
        assert_eq!(cluster.ended(), [Alarm::ending(bare, Incarnation(bare.0))]);
        assert!(cluster.members[&bare].is_bare, "it does not see that itself");
        cluster.rebuild_all();
    }
}

#[test]
fn members_without_their_state_are_rebuilt_one_by_one() {
    let ids = [1, 2, 3].map(NodeId);
    for leader in ids {
        for bare in [&ids[..1], &ids[1..2], &ids[2..], &ids[..2], &ids[1..], &[ids[0], ids[2]]] {
            let mut cluster = three();
            cluster.ask(cluster.leader(), Request::Transfer(leader));
            cluster.run(1000 * MILLI);
            assert_eq!(cluster.leader(), leader);
            bare.iter().for_each(|id| cluster.lose_state(*id));
            cluster.rebuild_all();
        }
    }
}

#[test]
fn a_member_without_its_state_that_falls_behind_the_log_gets_another_one() {
    let mut cluster = three();
    let bare = cluster.follower();
    cluster.lose_state(bare);
    cluster.cut_off.insert(bare);
    write(&mut cluster, 10);
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    assert!(!cluster.members[&bare].is_bare);
    assert_eq!(cluster.ended(), []);
    let id = cluster.ask(bare, put("k", "w"));
    cluster.run(1000 * MILLI);
    assert!(matches!(cluster.answer(bare, id), Some(Ok(_))), "it serves again");
}

/// Its life was ended because the other had been heard a moment ago, whose disk was lost by then.
#[test]
fn who_was_heard_before_a_life_is_to_be_ended_may_be_no_more() {
    let mut cluster = three();
    let leader = cluster.leader();
    let mut others = cluster.members.keys().copied().filter(|id| *id != leader);
    let (bare, blank) = (others.next().unwrap(), others.next().unwrap());
    cluster.cut_off.insert(blank);
    cluster.rebuild(blank, Incarnation(99));
    cluster.lose_state(bare);
    cluster.run(10_000 * MILLI);
    assert_eq!(cluster.ended(), [], "two of three would remember nothing");
    cluster.cut_off.clear();
    cluster.rebuild_all();
}

/// Each of them would give leadership to the other one.
#[test]
fn the_only_member_with_a_state_leads_in_the_end() {
    for whole in [1, 2, 3].map(NodeId) {
        let mut cluster = three();
        let bare: Vec<NodeId> = cluster.members.keys().copied().filter(|id| *id != whole).collect();
        bare.iter().for_each(|id| cluster.lose_state(*id));
        cluster.cut_off.insert(whole);
        cluster.run(10_000 * MILLI);
        assert!(bare.contains(&cluster.leader()));
        cluster.cut_off.clear();
        cluster.rebuild_all();
    }
}

/// Turns were a second long, and leadership was given away every other second: to the same one, which could not lead.
#[test]
fn one_that_cannot_lead_does_not_keep_the_others_from_their_turn() {
    let slow = |member| {
        let mut config = config(member);
        config.raft.election_timeout = 2000 * MILLI;
        config
    };
    for delay in [0, 1000] {
        for (blank, whole) in [(1, 2), (2, 1)] {
            let [blank, whole] = [blank, whole].map(NodeId);
            let mut cluster = Cluster::with(5, slow, &Arc::default());
            cluster.may_differ = true;
            let mut cluster = cluster.elected();
            write(&mut cluster, 20);
            cluster.run(delay * MILLI);
            cluster.rebuild(blank, Incarnation(99));
            cluster.members.get_mut(&blank).unwrap().slow_disk = true;
            cluster.cut_off.insert(whole);
            [3, 4, 5].map(NodeId).into_iter().for_each(|bare| cluster.lose_state_as(bare, slow(bare.0)));
            cluster.run(20_000 * MILLI);
            assert!(cluster.leader().0 > 2, "nobody else can lead");
            cluster.cut_off.clear();
            cluster.run(20_000 * MILLI);
            assert_eq!(cluster.leader(), whole);
        }
    }
}

/// What a member said of a state that it has no more was held against it, and it was rebuilt when somebody else needed it.
#[test]
fn a_member_that_was_given_another_state_keeps_its_life() {
    let mut cluster = three();
    let leader = cluster.leader();
    let bare = cluster.follower();
    let other = *cluster.members.keys().find(|id| ![leader, bare].contains(id)).expect("three");
    // As long as nobody else is there its life is not ended, whatever it says.
    cluster.cut_off.insert(other);
    cluster.lose_state(bare);
    cluster.run(300 * MILLI);
    let mut late = Vec::new();
    while late.is_empty() {
        cluster.now = cluster.members[&leader].replica.deadline().max(cluster.now);
        cluster.step(leader, Input::Wake);
        cluster.deliver_unless(|_, message| {
            let is_said = matches!(message, PeerMessage::Raft(Message { body: Body::Damaged { .. }, .. }));
            late.extend(is_said.then(|| message.clone()));
            is_said
        });
    }
    cluster.cut_off = [bare].into();
    write(&mut cluster, 10);
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    assert!(!cluster.members[&bare].is_bare);
    late.into_iter().for_each(|message| cluster.step(leader, Input::Receive { from: bare, message }));
    cluster.run(10_000 * MILLI);
    assert_eq!((cluster.members[&bare].fenced, cluster.ended()), (None, vec![]));
}
