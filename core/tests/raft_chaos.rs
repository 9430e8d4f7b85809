//! Consensus under every fault at once, watched from outside: members see only inputs, the oracles only outputs and disks.
//!
//! A second pair of eyes beside `raft_cluster.rs`: it shares nothing with it, folds the log by itself, and checks what
//! each message claims against the sender's disk at the moment it leaves. `CHAOS_SEEDS=a..b` chooses other seeds,
//! `CHAOS_TRACE=1` prints what happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Recovered, Standing};
use quorate_core::raft::{Body, Config, Input, Message, Output, Raft, Role, Target};
use quorate_core::rng::Rng;
use quorate_core::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term, WriteId};

const MILLI: u64 = 1_000_000;
const ELECTION: u64 = 1_000 * MILLI;
const CHAOS: u64 = 60_000 * MILLI;
const CALM: u64 = 60_000 * MILLI;

/// What a member has durably stored: its log, folded, and its applied state.
struct Disk {
    log: Recovered,
    /// Applied entries `1..`, by folder.
    states: BTreeMap<Generation, Vec<Entry>>,
}

struct Member {
    disk: Disk,
    /// Written, not yet durable.
    pending: VecDeque<(WriteId, Vec<Record>)>,
    raft: Option<Raft>,
    boot: u64,
    booted: u64,
    /// This clock's speed in percent.
    rate: u64,
    /// Applied in memory.
    applied: Vec<Entry>,
    generation: Generation,
    was_leader: bool,
    /// As last seen.
    commit: LogIndex,
    paused_until: u64,
}

#[derive(Debug)]
enum Event {
    Deliver(NodeId, NodeId, Message),
    Persisted(NodeId, u64),
    Wake(NodeId, u64),
    Applied(NodeId, u64),
    Boot(NodeId),
    Lane(NodeId, u64, NodeId),
    LaneEnded(NodeId, u64, NodeId, Option<LogIndex>),
    LaneTimeout(NodeId, Generation),
    Ask(NodeId, Input),
    Client,
    Fault,
}

struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    calm: bool,
    trace: bool,
    config: Config,
    members: BTreeMap<NodeId, Member>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    loss: u64,
    duplicates: u64,
    slow: u64,
    /// Of 100 disk writes, those that take up to half a second.
    sluggish: u64,
    /// Between faults, at most.
    fault_gap: u64,
    wipes: bool,
    /// Members come and go.
    churn: bool,
    /// The founding members: 1 up to this.
    size: u64,
    /// Who should take part. IDs are never used again.
    target: Target,
    /// Wiped and not trusted again yet.
    wiped: BTreeSet<NodeId>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    leaders: BTreeMap<Term, (NodeId, u64)>,
    committed: BTreeMap<LogIndex, (Entry, Term)>,
    /// Who ever had an entry durably, by its index and term, whatever became of that disk.
    holders: BTreeMap<(LogIndex, Term), BTreeSet<NodeId>>,
    last_command: u64,
    rejected: BTreeSet<Blob>,
    /// What was committed when the read was asked.
    reads: BTreeMap<u64, LogIndex>,
    lanes: BTreeMap<(NodeId, Generation), (NodeId, u64, LogIndex)>,
    generations: u64,
    stats: BTreeMap<&'static str, u64>,
}

/// Folds one more record into a log.
fn absorb(log: &mut Recovered, record: Record) {
    match record {
        Record::Identity(identity) => log.identity = identity,
        Record::HardState(hard) => {
            assert!(hard.term >= log.hard_state.term, "the term goes back to {}", hard.term);
            if hard.term == log.hard_state.term && log.hard_state.vote.is_some() {
                assert_eq!(hard.vote, log.hard_state.vote, "a second vote in term {}", hard.term);
            }
            log.hard_state = hard;
        }
        Record::Entry(entry) => {
            let at =
                usize::try_from(entry.index.0.checked_sub(log.start_index.0 + 1).expect("above the start")).unwrap();
            assert!(at <= log.entries.len(), "a gap before {} in the log", entry.index);
            log.entries.truncate(at);
            log.entries.push(entry);
        }
        Record::Compact { index, term, config } => {
            assert!(index >= log.start_index, "compaction goes back to {index}");
            let gone = usize::try_from(index.0 - log.start_index.0).unwrap();
            assert!(gone <= log.entries.len(), "compaction at {index} beyond the log");
            log.entries.drain(..gone);
            (log.start_index, log.start_term, log.config) = (index, term, config);
        }
        Record::Snapshot { index, term, config, generation } => {
            log.entries.clear();
            (log.start_index, log.start_term, log.config, log.generation) = (index, term, config, generation);
        }
    }
}

fn no_log() -> Recovered {
    Recovered {
        identity: Identity {
            cluster: ClusterId(1),
            member: NodeId(0),
            incarnation: Incarnation(0),
            standing: Standing::Fresh,
        },
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config: Configuration::default(),
        entries: Vec::new(),
        generation: Generation(0),
    }
}

fn last_index(log: &Recovered) -> LogIndex {
    log.entries.last().map_or(log.start_index, |entry| entry.index)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let size = [1, 2, 3, 3, 3, 4, 5, 5][usize::try_from(rng.below(8)).unwrap()];
        let pick = |rng: &mut Rng, from: &[u64]| from[usize::try_from(rng.below(from.len() as u64)).unwrap()];
        let config = Config {
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_nanos(ELECTION),
            seed: 0,
            append_bytes_max: pick(&mut rng, &[1, 100, 100_000]),
            inflight_messages_max: pick(&mut rng, &[1, 3, 256]),
            inflight_bytes_max: pick(&mut rng, &[50, 1_000, 1_000_000]),
            catchup_entries: pick(&mut rng, &[0, 1, 10, 1_000]),
            catchup_bytes: pick(&mut rng, &[1, 500, 1_000_000]),
            understands: FeatureLevel(0),
        };
        let mut world = Self {
            seed,
            now: MILLI,
            calm: false,
            trace: std::env::var_os("CHAOS_TRACE").is_some(),
            config,
            members: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            loss: pick(&mut rng, &[0, 5, 30]),
            duplicates: pick(&mut rng, &[0, 10]),
            slow: pick(&mut rng, &[0, 2, 10]),
            sluggish: pick(&mut rng, &[1, 10, 40]),
            fault_gap: pick(&mut rng, &[300, 1_500, 4_000]) * MILLI,
            wipes: size >= 3 && rng.chance(2, 3),
            churn: rng.chance(1, 2),
            size,
            target: Target { voters: (1..=size).map(NodeId).collect(), ..Target::default() },
            wiped: BTreeSet::new(),
            blocked: BTreeSet::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            holders: BTreeMap::new(),
            last_command: 0,
            rejected: BTreeSet::new(),
            reads: BTreeMap::new(),
            lanes: BTreeMap::new(),
            generations: 0,
            stats: BTreeMap::new(),
            rng,
        };
        for id in (1..=size).map(NodeId) {
            world.create(id);
        }
        world.after(10 * MILLI, Event::Client);
        world.after(100 * MILLI, Event::Fault);
        world
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    fn create(&mut self, id: NodeId) {
        let drift = self.rng.below(7);
        let member = Member {
            disk: Disk { log: no_log(), states: BTreeMap::new() },
            pending: VecDeque::new(),
            raft: None,
            boot: 0,
            booted: 0,
            rate: 97 + drift,
            applied: Vec::new(),
            generation: Generation(0),
            was_leader: false,
            commit: LogIndex(0),
            paused_until: 0,
        };
        self.members.insert(id, member);
        self.wipe(id);
        let delay = self.rng.below(3_000) * MILLI;
        self.after(delay, Event::Boot(id));
    }

    /// A new, empty disk: the member's next life.
    fn wipe(&mut self, id: NodeId) {
        let incarnation = Incarnation(self.rng.next_u64() | 1);
        let slot = |other: &NodeId| if *other == id { incarnation } else { Incarnation(0) };
        let founders = (1..=self.size).map(NodeId);
        let voters = founders.map(|other| (other, slot(&other))).collect();
        let mut log = no_log();
        if id.0 > self.size {
            log.identity.standing = Standing::Amnesiac; // It joins: whatever it is, it has no past.
        }
        (log.identity.member, log.identity.incarnation, log.config.voters) = (id, incarnation, voters);
        self.members.get_mut(&id).unwrap().disk = Disk { log, states: BTreeMap::from([(Generation(0), Vec::new())]) };
    }

    fn boot(&mut self, id: NodeId) {
        let recovered = self.members[&id].disk.log.clone();
        let mut config = self.config.clone();
        config.seed = self.rng.next_u64();
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        if member.raft.is_some() {
            return;
        }
        member.boot += 1;
        member.booted = now;
        member.generation = recovered.generation;
        member.applied = member.disk.states[&recovered.generation].clone();
        (member.was_leader, member.commit) = (false, LogIndex(0));
        let applied = LogIndex(member.applied.len() as u64);
        assert!(applied >= recovered.start_index, "{id} lost applied entries its log no longer has");
        member.raft = Some(Raft::new(config, recovered, applied, Instant(0)));
        let boot = member.boot;
        self.after(0, Event::Wake(id, boot));
    }

    fn crash(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).unwrap();
        if member.raft.take().is_none() {
            return;
        }
        // Of what was written but not synced, some records survive: always the first ones.
        let written: Vec<Record> = member.pending.drain(..).flat_map(|(_, records)| records).collect();
        let kept = self.rng.below(written.len() as u64 + 1);
        for record in written.into_iter().take(usize::try_from(kept).unwrap()) {
            self.store(id, record);
        }
        self.members.get_mut(&id).unwrap().boot += 1;
        self.count("crashes");
    }

    /// A record becomes durable.
    fn store(&mut self, id: NodeId, record: Record) {
        if let Record::Entry(entry) = &record {
            self.holders.entry((entry.index, entry.term)).or_default().insert(id);
        }
        absorb(&mut self.members.get_mut(&id).unwrap().disk.log, record);
    }

    fn local(&self, id: NodeId) -> Instant {
        let member = &self.members[&id];
        Instant((self.now - member.booted) / 100 * member.rate)
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let local = self.local(id);
        let Some(mut raft) = self.members.get_mut(&id).unwrap().raft.take() else { return };
        if self.trace && !matches!(input, Input::Wake) {
            println!("{:>9} {id} {input:?}", self.now / MILLI);
        }
        let mut out = Vec::new();
        raft.step(local, input, &mut out);
        let status = raft.status().clone();
        let deadline = raft.deadline();
        self.members.get_mut(&id).unwrap().raft = Some(raft);
        for output in out {
            if self.trace {
                println!("{:>9} {id}   -> {output:?}", self.now / MILLI);
            }
            self.perform(id, output);
        }
        let member = self.members.get_mut(&id).unwrap();
        let boot = member.boot;
        let leads = status.role == Role::Leader;
        let elected = leads && !member.was_leader;
        member.was_leader = leads;
        if leads {
            let leader = *self.leaders.entry(status.term).or_insert((id, boot));
            assert_eq!(leader, (id, boot), "two leaders in term {}", status.term);
        }
        if leads && status.commit > member.commit {
            let pending = member.pending.iter().rev().flat_map(|(_, records)| records.iter().rev());
            let entries = pending.filter_map(|record| match record {
                Record::Entry(entry) => Some(entry),
                _ => None,
            });
            let mut entries = entries.chain(member.disk.log.entries.iter().rev());
            let last = entries.find(|entry| entry.index == status.commit).expect("a leader has what it commits");
            assert_eq!(last.term, status.term, "leader {id} commits an earlier term's entry by count");
        }
        member.commit = status.commit;
        if elected {
            self.count("elections");
            self.check_completeness(id, status.term);
        }
        let rate = self.members[&id].rate;
        let booted = self.members[&id].booted;
        if deadline != Instant::FAR {
            let at = booted + (deadline.0.div_ceil(rate) + 1) * 100;
            self.after(at.saturating_sub(self.now), Event::Wake(id, boot));
        }
    }

    /// A leader has every entry that was committed in an earlier term. (Raft figure 3)
    fn check_completeness(&self, id: NodeId, term: Term) {
        let member = &self.members[&id];
        let mut log = member.disk.log.clone();
        member.pending.iter().flat_map(|(_, records)| records.clone()).for_each(|record| absorb(&mut log, record));
        for (index, (entry, committed_in)) in &self.committed {
            if *committed_in < term && *index > log.start_index {
                let at = usize::try_from(index.0 - log.start_index.0 - 1).unwrap();
                assert_eq!(
                    log.entries.get(at),
                    Some(entry),
                    "leader {id} of term {term} lacks what {committed_in} committed"
                );
            }
        }
    }

    fn perform(&mut self, id: NodeId, output: Output) {
        match output {
            Output::Send { to, message } => self.send(id, to, message),
            Output::Persist { write, records } => {
                let member = self.members.get_mut(&id).unwrap();
                assert!(member.pending.back().is_none_or(|(last, _)| *last < write));
                member.pending.push_back((write, records));
                let boot = member.boot;
                let slow = if self.rng.below(100) < self.sluggish && !self.calm { 500 } else { 5 };
                let delay = self.rng.below(slow * MILLI);
                self.after(delay, Event::Persisted(id, boot));
            }
            Output::Commit { entries } => self.commit(id, entries),
            Output::Restore { index, generation } => {
                let member = self.members.get_mut(&id).unwrap();
                member.applied = member.disk.states[&generation].clone();
                assert_eq!(member.applied.len() as u64, index.0);
                member.disk.states.retain(|held, _| *held >= generation);
                member.generation = generation;
                self.count("snapshots installed");
                if let Some((leader, boot, index)) = self.lanes.remove(&(id, generation)) {
                    let delay = self.rng.below(200 * MILLI);
                    self.after(delay, Event::LaneEnded(leader, boot, id, Some(index)));
                }
            }
            Output::Unneeded { generation } => {
                if let Some((leader, boot, _)) = self.lanes.remove(&(id, generation)) {
                    self.after(MILLI, Event::LaneEnded(leader, boot, id, None));
                }
            }
            Output::ReadReady { read, index } => {
                self.count("reads");
                let asked = self.reads.remove(&read).expect("a read is answered once");
                assert!(index >= asked, "read {read} at {index}, but {asked} was committed before it was asked");
            }
            Output::ReadLost { read } => {
                assert!(self.reads.remove(&read).is_some(), "a read is answered once");
            }
            Output::Rejected { commands } => self.rejected.extend(commands),
            Output::NeedsSnapshot { to } => {
                let boot = self.members[&id].boot;
                let delay = self.rng.below(300 * MILLI);
                self.after(delay, Event::Lane(id, boot, to));
            }
            Output::Changed(_) => {}
        }
    }

    /// What a message says must be true of the sender's disk when it leaves.
    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let log = &self.members[&from].disk.log;
        assert_eq!(message.incarnation, log.identity.incarnation, "{from} speaks for another life");
        assert!(
            !message.trusted || log.identity.standing == Standing::Trusted,
            "{from} claims trust it has not stored"
        );
        let HardState { term, vote, .. } = log.hard_state;
        let stored = |candidate| term > message.term || (term, vote) == (message.term, Some(candidate));
        match &message.body {
            Body::VoteReply { granted: true, .. } => assert!(stored(to), "{from} votes before it is durable"),
            Body::Vote { last_index: last, .. } => {
                assert!(stored(from), "{from} campaigns before it is durable");
                // One that was held until its candidacy had ended elects nobody.
                let role = self.members[&from].raft.as_ref().expect("it has just stepped").status().role;
                let durable = last_index(log);
                assert!(role == Role::Follower || *last <= durable, "{from} campaigns with entries it may lose");
            }
            Body::Accepted { matched } | Body::HeartbeatReply { matched, .. } => {
                assert!(*matched <= last_index(log), "{from} says {matched} is durable, but {}", last_index(log));
            }
            _ => {}
        }
        if matches!(message.body, Body::VoteReply { .. } | Body::Accepted { .. } | Body::HeartbeatReply { .. }) {
            assert!(
                message.term <= log.hard_state.term,
                "{from} answers in term {} before it is durable",
                message.term
            );
        }
        if !self.calm && (self.blocked.contains(&(from, to)) || self.rng.below(100) < self.loss) {
            return;
        }
        let copies = 1 + u64::from(!self.calm && self.rng.below(100) < self.duplicates);
        for _ in 0..copies {
            let slow = !self.calm && self.rng.below(100) < self.slow;
            let delay = self.rng.below(if slow { 5_000 } else { 20 } * MILLI);
            self.after(delay, Event::Deliver(from, to, message.clone()));
        }
    }

    fn commit(&mut self, id: NodeId, entries: Vec<Entry>) {
        let size = self.members.len();
        let member = self.members.get_mut(&id).unwrap();
        let log = &member.disk.log;
        let term = member.raft.as_ref().unwrap().status().term;
        for entry in entries {
            assert_eq!(entry.index.0, member.applied.len() as u64 + 1, "{id} commits out of order");
            if entry.index > log.start_index {
                let at = usize::try_from(entry.index.0 - log.start_index.0 - 1).unwrap();
                assert_eq!(log.entries.get(at), Some(&entry), "{id} commits what is not durable");
            }
            if let Payload::Command(command) = &entry.payload {
                assert!(!self.rejected.contains(command), "{command:?} was rejected and yet committed");
            }
            if !self.committed.contains_key(&entry.index) {
                let holders = self.holders.get(&(entry.index, entry.term)).map_or(0, BTreeSet::len);
                assert!(
                    self.churn || holders > size / 2,
                    "{id} commits {entry}, which {holders} of {size} have durably"
                );
            }
            let (agreed, _) = self.committed.entry(entry.index).or_insert_with(|| (entry.clone(), term));
            assert_eq!(*agreed, entry, "{id} commits another entry at {}", entry.index);
            member.applied.push(entry);
        }
        let boot = self.members[&id].boot;
        let delay = self.rng.below(50 * MILLI);
        self.after(delay, Event::Applied(id, boot));
    }

    fn alive(&self, id: NodeId, boot: u64) -> bool {
        self.members[&id].boot == boot && self.members[&id].raft.is_some()
    }

    fn run(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            if let Some(id) = self.paused(&event) {
                let until = self.members[&id].paused_until;
                self.after(until - self.now, event);
                continue;
            }
            self.happen(event);
        }
        self.now = until;
    }

    /// The paused member the event would happen to.
    fn paused(&self, event: &Event) -> Option<NodeId> {
        let id = match event {
            Event::Deliver(_, id, _)
            | Event::Persisted(id, _)
            | Event::Wake(id, _)
            | Event::Applied(id, _)
            | Event::Ask(id, _) => *id,
            _ => return None,
        };
        (self.members[&id].paused_until > self.now).then_some(id)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(from, to, message) => self.step(to, Input::Receive { from, message }),
            Event::Persisted(id, boot) if self.alive(id, boot) => {
                let member = self.members.get_mut(&id).unwrap();
                let count = 1 + self.rng.below(2);
                let written: Vec<_> = (0..count).filter_map(|_| member.pending.pop_front()).collect();
                let durable = written.last().map(|(write, _)| *write);
                for record in written.into_iter().flat_map(|(_, records)| records) {
                    self.store(id, record);
                }
                if let Some(write) = durable {
                    self.step(id, Input::Persisted { write });
                }
            }
            Event::Wake(id, boot) if self.alive(id, boot) => {
                let due = self.members[&id].raft.as_ref().unwrap().deadline() <= self.local(id);
                if due || self.local(id) == Instant(0) {
                    self.step(id, Input::Wake);
                }
            }
            Event::Applied(id, boot) if self.alive(id, boot) => {
                let sync = self.rng.chance(1, 3);
                let member = self.members.get_mut(&id).unwrap();
                if sync {
                    member.disk.states.insert(member.generation, member.applied.clone());
                }
                let durable = LogIndex(member.disk.states[&member.generation].len() as u64);
                let index = LogIndex(member.applied.len() as u64);
                self.step(id, Input::Applied { index, durable });
            }
            Event::Boot(id) => self.boot(id),
            Event::Lane(leader, boot, to) => self.lane(leader, boot, to),
            Event::LaneEnded(leader, boot, to, index) if self.alive(leader, boot) => {
                self.step(leader, Input::SnapshotSent { to, index });
            }
            Event::LaneTimeout(to, generation) => {
                if let Some((leader, boot, _)) = self.lanes.remove(&(to, generation)) {
                    self.after(0, Event::LaneEnded(leader, boot, to, None));
                }
            }
            Event::Ask(id, input) => self.step(id, input),
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            _ => {} // Of a former process.
        }
    }

    fn lane(&mut self, leader: NodeId, boot: u64, to: NodeId) {
        if !self.alive(leader, boot) {
            return;
        }
        let cut =
            self.blocked.contains(&(leader, to)) || self.members[&to].raft.is_none() || self.rng.below(100) < self.loss;
        let from = &self.members[&leader];
        let state = from.applied.clone();
        let index = LogIndex(state.len() as u64);
        let config = from.raft.as_ref().unwrap().config_at(index);
        let (Some(last), Some(config), false) = (state.last(), config, cut && !self.calm) else {
            return self.after(50 * MILLI, Event::LaneEnded(leader, boot, to, None));
        };
        let term = last.term;
        self.generations += 1;
        let generation = Generation(self.generations);
        self.members.get_mut(&to).unwrap().disk.states.insert(generation, state);
        self.lanes.insert((to, generation), (leader, boot, index));
        if self.members[&to].raft.is_some() {
            self.step(to, Input::Install { index, term, config, generation });
        }
        self.after(3_000 * MILLI, Event::LaneTimeout(to, generation));
    }

    fn pick(&mut self) -> NodeId {
        let at = self.rng.below(self.members.len() as u64);
        *self.members.keys().nth(usize::try_from(at).unwrap()).unwrap()
    }

    /// One member more, or one less, or a vote for a learner: as the replicated records would say it.
    fn change_target(&mut self) {
        let wiped = self.members.iter().any(|(id, member)| {
            self.is_wanted(*id) && member.disk.log.identity.standing != Standing::Trusted && id.0 <= self.size
        });
        // A disk that is lost while a smaller set of voters takes over may be one too many.
        if wiped || self.calm || self.committed.is_empty() {
            return;
        }
        let members = self.target.voters.len() + self.target.learners.len();
        let next = NodeId(self.members.len() as u64 + 1);
        let which = |rng: &mut Rng, set: &BTreeSet<NodeId>| {
            (!set.is_empty()).then(|| *set.iter().nth(rng.below(set.len() as u64) as usize).unwrap())
        };
        match self.rng.below(5) {
            0 if members < 7 => {
                self.target.voters.insert(next);
                self.create(next);
                self.count("voters added");
            }
            1 if self.target.learners.len() < 2 => {
                self.target.learners.insert(next);
                self.create(next);
                self.count("learners added");
            }
            2 => {
                let Some(id) = which(&mut self.rng, &self.target.learners) else { return };
                self.target.learners.remove(&id);
                self.target.voters.insert(id);
                self.count("promotions");
            }
            3 => {
                let Some(id) = which(&mut self.rng, &self.target.learners) else { return };
                self.target.learners.remove(&id);
                self.target.removed.insert(id);
                self.count("learners removed");
            }
            _ if self.target.voters.len() > 1 => {
                let id = which(&mut self.rng, &self.target.voters).unwrap();
                self.target.voters.remove(&id);
                self.target.removed.insert(id);
                self.count("voters removed");
            }
            _ => {}
        }
    }

    fn is_wanted(&self, id: NodeId) -> bool {
        self.target.voters.contains(&id) || self.target.learners.contains(&id)
    }

    /// Some leader has committed the configuration that is aimed at, and everyone in it is trusted.
    fn is_target_reached(&self) -> bool {
        let reached = |member: &Member| {
            let Some(raft) = member.raft.as_ref().filter(|raft| raft.is_config_settled()) else { return false };
            let config = &raft.status().config;
            raft.status().role == Role::Leader
                && config.voters.keys().eq(&self.target.voters)
                && config.learners.keys().eq(&self.target.learners)
        };
        let is_trusted = |member: &Member| member.disk.log.identity.standing == Standing::Trusted;
        self.members.values().any(reached)
            && self.members.iter().all(|(id, member)| !self.is_wanted(*id) || is_trusted(member))
    }

    fn client(&mut self) {
        let delay = self.rng.below(60 * MILLI);
        self.after(delay, Event::Client);
        if self.churn {
            if self.rng.chance(1, 60) {
                self.change_target();
            }
            let leads = |member: &&Member| member.was_leader;
            let leaders: Vec<NodeId> =
                self.members.iter().filter(|(_, member)| leads(member)).map(|(id, _)| *id).collect();
            for id in leaders {
                if self.rng.chance(1, 10) {
                    let target = self.target.clone();
                    let delay = self.rng.below(20 * MILLI);
                    self.after(delay, Event::Ask(id, Input::Target(target)));
                }
            }
        }
        let leaders: Vec<NodeId> =
            self.members.iter().filter(|(_, member)| member.was_leader).map(|(id, _)| *id).collect();
        for id in leaders {
            match self.rng.below(20) {
                0..=11 => {
                    let count = 1 + self.rng.below(4);
                    let commands = (0..count).map(|n| Blob::copy(&(self.last_command + n + 1).to_be_bytes())).collect();
                    self.last_command += count;
                    self.after(0, Event::Ask(id, Input::Propose { commands }));
                }
                12..=18 => self.read(id),
                _ if self.rng.chance(1, 20) && !self.calm => {
                    let to = self.pick();
                    let to = (self.rng.chance(1, 2)).then_some(to);
                    self.count("transfers");
                    self.after(0, Event::Ask(id, Input::Transfer { to }));
                }
                _ => {}
            }
        }
        let id = self.pick();
        self.read(id);
    }

    fn read(&mut self, id: NodeId) {
        self.sequence += 1;
        let committed = self.committed.keys().next_back().copied().unwrap_or_default();
        self.reads.insert(self.sequence, committed);
        self.after(0, Event::Ask(id, Input::ReadIndex { read: self.sequence }));
    }

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.rng.below(self.fault_gap);
        self.after(delay, Event::Fault);
        let leader = self.members.iter().find(|(_, member)| member.was_leader && member.raft.is_some());
        let leader = leader.map(|(id, _)| *id).filter(|_| self.rng.chance(1, 2));
        let id = leader.unwrap_or_else(|| self.pick());
        let other = self.pick();
        match self.rng.below(12) {
            0..=2 => {
                self.crash(id);
                let delay = self.rng.below(6_000 * MILLI);
                self.after(delay, Event::Boot(id));
            }
            3 => {
                for id in self.members.keys().copied().collect::<Vec<_>>() {
                    self.crash(id);
                    let delay = self.rng.below(1_000 * MILLI);
                    self.after(delay, Event::Boot(id));
                }
            }
            4 | 5 if self.wipes && self.may_wipe(id) => {
                self.crash(id);
                self.wipe(id);
                self.count("wipes");
                let delay = self.rng.below(2_000 * MILLI);
                self.after(delay, Event::Boot(id));
            }
            6 => _ = self.blocked.insert((id, other)),
            7 => {
                for peer in self.members.keys().copied().collect::<Vec<_>>() {
                    self.blocked.insert((id, peer));
                    self.blocked.insert((peer, id));
                }
            }
            8 | 9 => self.blocked.clear(),
            10 => self.members.get_mut(&id).unwrap().paused_until = self.now + self.rng.below(5_000 * MILLI),
            _ => {}
        }
    }

    /// The promise is for a minority of disks lost at a time, from the first moment on. One that has not joined yet
    /// counts as lost once others have.
    fn may_wipe(&mut self, id: NodeId) -> bool {
        if self.churn && (self.members.len() as u64 > self.size || !self.target.removed.is_empty()) {
            // Disks are lost between changes, not during one: the next set of voters may have no quorum left.
            let voters = self.target.voters.len();
            let allowed = self.is_target_reached() && voters >= 3 && self.is_wanted(id);
            if allowed {
                self.wiped.insert(id);
                self.count("wipes between changes");
            }
            return allowed;
        }
        let members = &self.members;
        let is_trusted = |other: &NodeId| members[other].disk.log.identity.standing == Standing::Trusted;
        let others = || members.keys().filter(|other| **other != id);
        let founding = !members.keys().any(is_trusted);
        self.wiped.retain(|other| !is_trusted(other));
        let lost =
            others().filter(|other| if founding { self.wiped.contains(other) } else { !is_trusted(other) }).count();
        let allowed = lost < (members.len() - 1) / 2;
        if allowed {
            self.wiped.insert(id);
        }
        allowed
    }

    /// Everything works again: there must be a leader, everyone trusted, and one more command applied by all.
    fn settle(&mut self) {
        self.calm = true;
        self.blocked.clear();
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        for id in &ids {
            self.members.get_mut(id).unwrap().paused_until = 0;
            self.after(0, Event::Boot(*id));
        }
        let until = self.now + CALM / 2;
        self.run(until);
        let before = self.committed.len() as u64;
        self.run(until + CALM / 2);
        let seed = self.seed;
        if self.trace {
            for (id, member) in &self.members {
                println!("in the end {id}: {:?}", member.raft.as_ref().map(Raft::status));
            }
            println!("aimed at: {:?}", self.target);
        }
        for id in ids {
            if !self.is_wanted(id) {
                continue;
            }
            let member = &self.members[&id];
            let status = member.raft.as_ref().expect("all are up").status();
            assert!(
                member.applied.len() as u64 > before,
                "seed {seed}: {id} stands at {} of {before}: {status:?}",
                member.applied.len()
            );
            assert_eq!(status.standing, Standing::Trusted, "seed {seed}: {id} is not trusted again");
        }
        assert!(!self.churn || self.is_target_reached(), "seed {seed}: the membership is not {:?}", self.target);
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed);
    world.run(CHAOS);
    world.settle();
    *world.stats.entry("commits").or_default() += world.committed.len() as u64;
    world.stats
}

#[test]
fn nothing_committed_is_lost_and_the_cluster_comes_back() {
    let seeds = std::env::var("CHAOS_SEEDS").unwrap_or_else(|_| String::from("0..20"));
    let (from, to) = seeds.split_once("..").expect("a range of seeds");
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        let result = std::panic::catch_unwind(|| run(seed));
        let stats =
            result.unwrap_or_else(|_| panic!("seed {seed} fails: CHAOS_SEEDS={seed}..{} CHAOS_TRACE=1", seed + 1));
        for (what, count) in stats {
            *totals.entry(what).or_default() += count;
        }
    }
    println!("{totals:?}");
}
