//! Whole replicas of different builds: how far the leader raises the cluster's feature level.

#[path = "support/replicas.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod support;

use std::sync::Arc;

use quorate_core::command::Command;
use quorate_core::entry::Standing;
use quorate_core::replica::{Config, Input, Request};
use quorate_core::request::{Member as Info, MemberChange};
use quorate_core::{FeatureLevel, Incarnation, NodeId};
use support::{Cluster, MILLI, Member};

fn info(id: u64) -> Info {
    let peer_urls = vec![format!("http://127.0.0.1:{id}")];
    Info { id: NodeId(id), name: "n".into(), peer_urls, client_urls: vec![], is_learner: false }
}

/// Of member `id` of the cluster 1, 2, 3, which understands `level`.
fn config(id: u64, level: u32) -> Config {
    let mut config = Config { founders: (1..=3).map(info).collect(), publish: Some(info(id)), ..support::config(id) };
    config.raft.understands = FeatureLevel(level);
    config
}

/// Three members that understand these levels.
fn cluster(levels: [u32; 3]) -> Cluster {
    Cluster::with(3, |id| config(id, levels[usize::try_from(id).unwrap() - 1]), &Arc::default())
}

impl Cluster {
    /// The level in force on every member that is reached.
    fn levels(&self) -> Vec<u32> {
        let reached = self.members.iter().filter(|(id, _)| !self.cut_off.contains(id));
        reached.map(|(_, member)| member.store.feature_level().0).collect()
    }

    fn change(&mut self, change: MemberChange) {
        let leader = self.leader();
        let id = self.ask(leader, Request::Command(Command::Members(change)));
        self.run(2000 * MILLI);
        self.answer(leader, id).expect("answered").as_ref().expect("it works");
    }
}

#[test]
fn the_level_becomes_what_the_oldest_member_understands() {
    for (levels, level) in [([1, 1, 1], 1), ([1, 0, 1], 0), ([0, 1, 1], 0), ([1, 1, 0], 0), ([0, 0, 0], 0)] {
        assert_eq!(cluster(levels).elected().levels(), [level; 3], "{levels:?}");
    }
}

#[test]
fn nothing_is_raised_while_it_is_not_known_what_a_member_understands() {
    let mut cluster = cluster([1; 3]);
    cluster.cut_off.insert(NodeId(3));
    let mut cluster = cluster.elected();
    assert_eq!(cluster.levels(), [0, 0]);
    cluster.cut_off.clear();
    cluster.run(5000 * MILLI);
    assert_eq!(cluster.levels(), [1; 3]);
    let before = cluster.members[&NodeId(1)].replica.applied_index();
    cluster.run(20_000 * MILLI);
    assert_eq!(cluster.members[&NodeId(1)].replica.applied_index(), before, "once is enough");
}

#[test]
fn a_learner_holds_the_level_down_and_who_has_left_does_not() {
    for (joiner, level) in [(0, 0), (1, 1)] {
        let mut cluster = cluster([1, 1, 0]).elected();
        let member = Info { is_learner: true, name: String::new(), ..info(4) };
        cluster.change(MemberChange::Add { member, learners_max: 1, strict: true });
        let voters = cluster.members.keys().map(|id| (*id, Incarnation(0))).collect();
        let learner = Config { founders: vec![], ..config(4, joiner) };
        let mut learner = Member::new(NodeId(4), learner, Arc::default(), &voters, Standing::Amnesiac);
        learner.replica.step(cluster.now, Input::Wake, &mut Vec::new());
        cluster.members.insert(NodeId(4), learner);
        cluster.run(5000 * MILLI);
        assert_eq!(cluster.levels(), [0; 4]);
        cluster.change(MemberChange::Remove { id: NodeId(3), strict: true });
        cluster.cut_off.insert(NodeId(3));
        cluster.run(5000 * MILLI);
        assert_eq!(cluster.levels(), [level; 3], "the learner understands {joiner}");
    }
}
