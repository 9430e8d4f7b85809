//! Whole replicas with real stores whose membership changes: who may, who is answered, who is told.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;

use quorate_core::command::{Command, Outcome};
use quorate_core::entry::Standing;
use quorate_core::error::Error;
use quorate_core::replica::{Config, Input, PeerMessage, Request, Response};
use quorate_core::request::{Alarm, AlarmKind, Member as MemberInfo, MemberChange};
use quorate_core::{Incarnation, NodeId};
use support::{Cluster, MILLI, Member, put};

fn config(member: u64) -> Config {
    Config { publish: Some(info(member, "published")), founders: founders(), ..support::config(member) }
}

/// Records for every member a test may begin with.
fn founders() -> Vec<MemberInfo> {
    (1..=5).map(|id| info(id, "n")).collect()
}

fn info(id: u64, name: &str) -> MemberInfo {
    let peer_urls = vec![format!("http://127.0.0.1:{id}")];
    MemberInfo { id: NodeId(id), name: name.into(), peer_urls, client_urls: vec![], is_learner: false }
}

fn elected(count: u64) -> Cluster {
    Cluster::with(count, config, &Arc::default()).elected()
}

fn change(change: MemberChange) -> Request {
    Request::Command(Command::Members(change))
}

fn add(id: u64, is_learner: bool) -> Request {
    change(MemberChange::Add { member: MemberInfo { is_learner, ..info(id, "") }, learners_max: 1, strict: true })
}

fn remove(id: NodeId) -> Request {
    change(MemberChange::Remove { id, strict: true })
}

fn promote(id: u64) -> Request {
    change(MemberChange::Promote { id: NodeId(id), strict: true })
}

impl Cluster {
    /// What `at` says to a change within two seconds.
    fn ask_change(&mut self, at: NodeId, request: Request) -> Result<Vec<u64>, Error> {
        let id = self.ask(at, request);
        self.run(2000 * MILLI);
        match self.answer(at, id).expect("answered").clone() {
            Ok(Response::Outcome(Outcome::Members(members))) => Ok(members.iter().map(|member| member.id.0).collect()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    /// Starts a member that was added.
    fn join(&mut self, id: u64) {
        let voters = self.members.keys().map(|id| (*id, Incarnation(0))).collect();
        let mut member = Member::new(NodeId(id), config(id), Arc::default(), &voters, Standing::Amnesiac);
        member.replica.step(self.now, Input::Wake, &mut Vec::new());
        self.members.insert(NodeId(id), member);
    }

    fn voters(&self, at: NodeId) -> Vec<u64> {
        self.members[&at].replica.status().config.voters.keys().map(|id| id.0).collect()
    }
}

#[test]
fn the_founders_are_recorded_and_each_publishes_itself() {
    let cluster = elected(3);
    for member in cluster.members.values() {
        let members = member.store.members();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["published"; 3], "no more than are in the configuration");
    }
}

#[test]
fn a_member_is_added_through_any_other_and_votes_once_it_has_caught_up() {
    let mut cluster = elected(3);
    let follower = cluster.follower();
    assert_eq!(cluster.ask_change(follower, add(4, false)), Ok(vec![1, 2, 3, 4]));
    assert_eq!(cluster.voters(follower), [1, 2, 3], "it has not started");
    cluster.join(4);
    cluster.run(3000 * MILLI);
    assert_eq!(cluster.voters(NodeId(4)), [1, 2, 3, 4]);
    assert_eq!(cluster.members[&NodeId(4)].replica.status().standing, Standing::Trusted);
    assert_eq!(cluster.members[&follower].store.members().get(NodeId(4)).unwrap().name, "published");
    let id = cluster.ask(NodeId(4), put("k", "v"));
    cluster.run(200 * MILLI);
    assert!(matches!(cluster.answer(NodeId(4), id), Some(Ok(_))));
}

#[test]
fn a_learner_is_promoted_when_it_is_in_sync_and_not_before() {
    let mut cluster = elected(3);
    let follower = cluster.follower();
    assert_eq!(cluster.ask_change(follower, add(4, true)), Ok(vec![1, 2, 3, 4]));
    assert_eq!(cluster.ask_change(follower, promote(4)), Err(Error::LearnerNotReady));
    assert_eq!(cluster.ask_change(follower, add(5, true)), Err(Error::TooManyLearners));
    cluster.join(4);
    cluster.run(3000 * MILLI);
    assert_eq!(cluster.voters(follower), [1, 2, 3], "nobody asked for its promotion");
    assert_eq!(cluster.ask_change(follower, promote(4)), Ok(vec![1, 2, 3, 4]));
    assert_eq!(cluster.voters(follower), [1, 2, 3, 4]);
    assert_eq!(cluster.ask_change(follower, promote(4)), Err(Error::MemberNotLearner));
}

/// Found by the simulator: a member that had just joined knew nothing of the learner that it was asked to promote, which
/// was itself, and passed the promotion on without a look at what the leader had said.
#[test]
fn a_member_that_lags_does_not_judge_by_its_old_records() {
    let mut cluster = elected(3);
    let follower = cluster.follower();
    assert_eq!(cluster.ask_change(follower, add(4, true)), Ok(vec![1, 2, 3, 4]));
    cluster.join(4);
    let asked = cluster.ask(NodeId(4), promote(4));
    let leader = cluster.leader();
    let to_leader = cluster.members[&NodeId(4)].replica.status().leader;
    assert_eq!(to_leader, None, "it knows nobody yet, and its records are empty");
    cluster.members.get_mut(&NodeId(4)).unwrap().slow_disk = true;
    cluster.run(2000 * MILLI);
    assert_eq!(cluster.members[&NodeId(4)].replica.status().leader, Some(leader));
    assert_eq!(cluster.answer(NodeId(4), asked), None, "it waits for the records of the leader's time");
    assert!(cluster.members[&leader].store.members().get(NodeId(4)).unwrap().is_learner);
    cluster.members.get_mut(&NodeId(4)).unwrap().slow_disk = false;
    cluster.write(NodeId(4));
    cluster.run(1000 * MILLI);
    assert_eq!(cluster.answer(NodeId(4), asked), Some(&Err(Error::LearnerNotReady)));
}

/// Found by the simulator: the alarm stayed on for ever, and no other member could be fenced.
#[test]
fn the_alarm_of_a_fenced_member_goes_when_that_is_removed() {
    let mut cluster = elected(5);
    let (leader, asleep) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(asleep);
    cluster.run(2000 * MILLI);
    let alarm = Alarm { kind: AlarmKind::Fenced(Incarnation(99)), member: asleep };
    cluster.ask(leader, Request::Command(Command::RaiseAlarm(alarm)));
    cluster.run(3000 * MILLI);
    let alarms = |cluster: &Cluster| cluster.members[&leader].store.view().alarms().collect::<Vec<_>>();
    assert_eq!(alarms(&cluster), [alarm]);
    assert_eq!(cluster.ask_change(leader, remove(asleep)).map(|left| left.len()), Ok(4));
    cluster.run(3000 * MILLI);
    assert_eq!(alarms(&cluster), []);
}

#[test]
fn a_removed_member_answers_and_knows_whether_it_was_asked_led_or_slept() {
    let mut cluster = elected(5);
    let (leader, asleep) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(asleep);
    cluster.run(2000 * MILLI);
    assert_eq!(cluster.ask_change(leader, remove(asleep)).map(|left| left.len()), Ok(4));
    assert_eq!(cluster.ask_change(leader, remove(leader)).map(|left| left.len()), Ok(3), "it answers before it goes");
    assert!(cluster.removed.contains(&leader));
    let next = cluster.leader();
    assert_ne!(next, leader);
    let follower = cluster.follower();
    let follower = if follower == leader {
        *cluster.members.keys().find(|id| ![leader, asleep, next].contains(id)).unwrap()
    } else {
        follower
    };
    assert_eq!(cluster.ask_change(follower, remove(follower)).map(|left| left.len()), Ok(2));
    assert!(cluster.removed.contains(&follower) && !cluster.removed.contains(&asleep));
    let term = cluster.members[&next].replica.status().term;
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    assert!(cluster.removed.contains(&asleep), "it is told when it wakes up");
    assert_eq!(cluster.members[&next].replica.status().term, term, "and it disturbs nobody");
    assert_eq!(cluster.removed.len(), 3);
    let id = cluster.ask(next, put("k", "v"));
    cluster.run(200 * MILLI);
    assert!(matches!(cluster.answer(next, id), Some(Ok(_))));
}

#[test]
fn two_removed_members_do_not_go_on_telling_each_other() {
    let mut cluster = elected(5);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    assert_eq!(cluster.ask_change(leader, remove(follower)).map(|left| left.len()), Ok(4));
    assert_eq!(cluster.ask_change(leader, remove(leader)).map(|left| left.len()), Ok(3));
    // The cluster of the tests fails if this never ends.
    for (from, to) in [(leader, follower), (follower, leader)] {
        cluster.mail.push_back((from, to, PeerMessage::Removed));
        cluster.run(MILLI);
    }
}

#[test]
fn a_change_that_could_cost_the_quorum_is_refused() {
    let mut cluster = elected(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(follower);
    cluster.run(2000 * MILLI);
    let other = *cluster.members.keys().find(|id| ![leader, follower].contains(id)).unwrap();
    assert_eq!(cluster.ask_change(leader, add(4, false)), Err(Error::Unhealthy));
    assert_eq!(cluster.ask_change(leader, add(4, true)), Err(Error::Unhealthy));
    assert_eq!(cluster.ask_change(leader, remove(other)), Err(Error::Unhealthy), "one of two would be left");
    assert_eq!(cluster.ask_change(other, remove(follower)).map(|left| left.len()), Ok(2), "what is down is no loss");
    assert_eq!(cluster.ask_change(other, remove(follower)), Err(Error::MemberNotFound));
    assert_eq!(cluster.voters(other).len(), 2);
}

#[test]
fn a_removal_waits_for_those_it_needs_and_is_not_forgotten() {
    let mut cluster = elected(3);
    let (leader, asleep) = (cluster.leader(), cluster.follower());
    cluster.cut_off.insert(asleep);
    cluster.run(2000 * MILLI);
    cluster.ask(leader, change(MemberChange::Remove { id: leader, strict: false }));
    cluster.run(2000 * MILLI);
    assert_eq!(cluster.voters(leader).len(), 3, "the one that is left awake could not decide");
    cluster.cut_off.clear();
    cluster.run(3000 * MILLI);
    assert!(cluster.removed.contains(&leader));
    assert_eq!(cluster.voters(asleep).len(), 2);
}
