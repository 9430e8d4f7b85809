//! How clusters begin, and how a member tells a new one from one that it has forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_core::entry::{Configuration, HardState, Identity, RESTORED, Record, Recovered, Standing};
use quorate_core::raft::{Body, Config, Input, Message, Output, Raft, Role, Target};
use quorate_core::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term};

const MILLI: Duration = Duration::from_millis(1);

fn config(seed: u64) -> Config {
    Config {
        heartbeat: 100 * MILLI,
        election_timeout: 1000 * MILLI,
        seed,
        append_bytes_max: 1 << 20,
        inflight_messages_max: 64,
        inflight_bytes_max: 1 << 20,
        catchup_entries: 1000,
        catchup_bytes: 1 << 20,
        understands: FeatureLevel(0),
    }
}

/// A disk as it is at the first start of a member; if it is `restored`, with what a snapshot file gave it.
fn new_disk(id: u64, life: u64, voters: &[u64], standing: Standing, restored: bool) -> Recovered {
    let mut voters: BTreeMap<NodeId, Incarnation> = voters.iter().map(|id| (NodeId(*id), Incarnation(0))).collect();
    if standing == Standing::Fresh {
        voters.insert(NodeId(id), Incarnation(life));
    }
    let (start_index, start_term) = if restored { RESTORED } else { (LogIndex(0), Term(0)) };
    Recovered {
        identity: Identity { cluster: ClusterId(1), member: NodeId(id), incarnation: Incarnation(life), standing },
        hard_state: HardState::default(),
        start_index,
        start_term,
        config: Configuration { voters, ..Configuration::default() },
        entries: Vec::new(),
        generation: Generation(0),
    }
}

fn store(disk: &mut Recovered, record: Record) {
    match record {
        Record::Identity(identity) => disk.identity = identity,
        Record::HardState(hard_state) => disk.hard_state = hard_state,
        Record::Entry(entry) => {
            let kept = usize::try_from(entry.index.0 - disk.start_index.0 - 1).expect("a short log");
            disk.entries.truncate(kept);
            disk.entries.push(entry);
        }
        Record::Compact { index, term, config } => {
            assert_eq!((index, term), (disk.start_index, disk.start_term), "nothing is compacted here");
            disk.config = config;
        }
        Record::Snapshot { .. } => unreachable!("nobody lags"),
    }
}

/// Members with disks that are at once done, and a network that loses what it is told to.
#[derive(Default)]
struct World {
    now: Instant,
    members: BTreeMap<NodeId, (Raft, Recovered)>,
    mail: VecDeque<(NodeId, NodeId, Message)>,
}

impl World {
    fn start(&mut self, disk: Recovered) {
        let id = disk.identity.member;
        let raft = Raft::new(config(id.0), disk.clone(), disk.start_index, self.now);
        self.members.insert(id, (raft, disk));
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some((raft, disk)) = self.members.get_mut(&id) else { return };
        let mut out = Vec::new();
        raft.step(self.now, input, &mut out);
        raft.check_deep();
        let mut answers = Vec::new();
        for output in out {
            match output {
                Output::Send { to, message } => self.mail.push_back((id, to, message)),
                Output::Persist { write, records } => {
                    records.into_iter().for_each(|record| store(disk, record));
                    answers.push(Input::Persisted { write });
                }
                Output::Commit { entries } => {
                    let index = entries.last().expect("something was committed").index;
                    answers.push(Input::Applied { index, durable: index });
                }
                _ => {}
            }
        }
        answers.into_iter().for_each(|answer| self.step(id, answer));
    }

    /// Delivers all messages but those that are lost.
    fn deliver(&mut self, is_lost: impl Fn(NodeId, &Message) -> bool) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            if !is_lost(to, &message) {
                self.step(to, Input::Receive { from, message });
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.deliver(|_, _| false);
            let next = self.members.iter().map(|(id, (raft, _))| (raft.deadline(), *id)).min().expect("members");
            if next.0 > end {
                break;
            }
            self.now = self.now.max(next.0);
            self.step(next.1, Input::Wake);
        }
        self.now = end;
    }

    fn raft(&self, id: u64) -> &Raft {
        &self.members[&NodeId(id)].0
    }

    fn standing(&self, id: u64) -> Standing {
        self.raft(id).identity().standing
    }

    /// Member 1 has begun alone, 2 and 3 have joined, and `leader` leads.
    fn grown(leader: u64) -> Self {
        let mut world = Self::default();
        world.start(new_disk(1, 11, &[1], Standing::Fresh, false));
        world.run(3000 * MILLI);
        assert_eq!(world.raft(1).status().role, Role::Leader);
        for id in [2, 3] {
            world.start(new_disk(id, 10 * id + 1, &[1, 2, 3], Standing::Amnesiac, false));
        }
        let voters = [1, 2, 3].map(NodeId).into_iter().collect();
        world.step(NodeId(1), Input::Target(Target { voters, ..Target::default() }));
        world.run(5000 * MILLI);
        assert_eq!(world.raft(1).status().config.voters.len(), 3);
        world.step(NodeId(1), Input::Transfer { to: Some(NodeId(leader)) });
        world.run(3000 * MILLI);
        assert_eq!(world.raft(leader).status().role, Role::Leader);
        world
    }

    /// Member 1 is gone, and after a while there with another disk.
    fn replace(&mut self, down: Duration, disk: Recovered) {
        self.members.remove(&NodeId(1));
        self.mail.clear();
        self.run(down);
        self.start(disk);
    }
}

/// Those who follow say nothing to it for as long as they take it for the leader; but they reach out to it.
#[test]
fn a_founder_that_led_and_lost_its_disk_does_not_begin_another_cluster() {
    let mut world = World::grown(1);
    world.replace(100 * MILLI, new_disk(1, 12, &[1], Standing::Fresh, false));
    world.run(250 * MILLI);
    world.step(NodeId(1), Input::Called { from: NodeId(2) });
    world.run(500 * MILLI);
    assert_eq!(world.standing(1), Standing::Amnesiac);
    world.step(NodeId(1), Input::Propose { commands: vec![Blob::from("a")] });
    world.run(10_000 * MILLI);
    assert_eq!(world.standing(1), Standing::Trusted, "it is readmitted");
    for index in (1..=world.raft(2).status().commit.0).map(LogIndex) {
        assert_eq!(world.raft(1).entry(index), world.raft(2).entry(index));
    }
}

/// It had listened for long enough as it looked up, and decided before it heard what had arrived meanwhile.
#[test]
fn a_founder_that_is_held_up_while_it_listens_listens_again() {
    for late in [590, 600, 700, 749, 751, 2000] {
        let mut world = World::grown(1);
        world.replace(100 * MILLI, new_disk(1, 12, &[1], Standing::Fresh, false));
        world.step(NodeId(1), Input::Wake);
        world.now = world.now + late * MILLI;
        world.step(NodeId(1), Input::Wake);
        world.step(NodeId(1), Input::Called { from: NodeId(2) });
        world.run(10 * MILLI);
        assert_eq!(world.standing(1), Standing::Amnesiac, "held up for {late} ms");
    }
}

#[test]
fn a_founder_hears_who_called_before_it_looks_at_the_time() {
    let mut world = World::grown(1);
    world.replace(100 * MILLI, new_disk(1, 12, &[1], Standing::Fresh, false));
    for _ in 0..6 {
        world.step(NodeId(1), Input::Wake);
        world.now = world.now + 100 * MILLI;
    }
    world.step(NodeId(1), Input::Called { from: NodeId(2) });
    world.run(10 * MILLI);
    assert_eq!(world.standing(1), Standing::Amnesiac);
}

#[test]
fn who_knows_of_a_past_or_of_none_has_no_use_for_calls() {
    let mut world = World::default();
    (1..=3).for_each(|id| world.start(new_disk(id, 10 + id, &[1, 2, 3], Standing::Fresh, false)));
    world.step(NodeId(1), Input::Called { from: NodeId(2) });
    world.run(5000 * MILLI);
    world.step(NodeId(1), Input::Called { from: NodeId(9) });
    world.run(5000 * MILLI);
    assert_eq!([1, 2, 3].map(|id| world.standing(id)), [Standing::Trusted; 3]);
}

/// Time is looked at before what has arrived.
#[test]
fn a_founder_that_was_held_up_has_not_listened() {
    let mut world = World::default();
    world.start(new_disk(1, 12, &[1], Standing::Fresh, false));
    world.step(NodeId(1), Input::Wake);
    world.now = world.now + 1000 * MILLI;
    let body = Body::Heartbeat { round: 1, commit: LogIndex(0) };
    let message = Message { term: Term(7), incarnation: Incarnation(21), trusted: true, body };
    world.step(NodeId(1), Input::Receive { from: NodeId(2), message });
    world.run(10 * MILLI);
    assert_eq!(world.standing(1), Standing::Amnesiac);
}

/// It took the end of its state for a place in the others' log, trusted itself, and counted.
#[test]
fn who_was_restored_while_the_others_have_a_past_stays_out() {
    for initial in [&[1][..], &[1, 2]] {
        let mut world = World::grown(3);
        world.replace(3000 * MILLI, new_disk(1, 12, initial, Standing::Fresh, true));
        world.step(NodeId(1), Input::Called { from: NodeId(2) });
        world.run(10_000 * MILLI);
        assert_eq!(world.standing(1), Standing::Fresh, "initially {initial:?}");
        assert_eq!(world.raft(1).status().last, LogIndex(1), "initially {initial:?}");
    }
}

/// They did not once they had started again, and whoever was slow waited for ever.
#[test]
fn members_that_were_restored_together_vouch_for_each_other_whenever_they_start() {
    for restored in [false, true] {
        let (mut world, ids) = (World::default(), [1, 2, 3]);
        ids.iter().for_each(|id| world.start(new_disk(*id, 10 + id, &ids, Standing::Fresh, restored)));
        ids.iter().for_each(|id| world.step(NodeId(*id), Input::Wake));
        world.deliver(|to, message| to == NodeId(3) && matches!(message.body, Body::GreetingReply { .. }));
        assert_eq!(ids.map(|id| world.standing(id)), [Standing::Trusted, Standing::Trusted, Standing::Fresh]);
        for id in ids.map(NodeId) {
            let (_, disk) = world.members.remove(&id).expect("a member");
            world.start(disk);
        }
        world.run(10_000 * MILLI);
        assert_eq!(world.standing(3), Standing::Trusted, "restored: {restored}");
    }
}
