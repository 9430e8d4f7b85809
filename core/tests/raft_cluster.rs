//! Consensus under random faults, by itself: a few members, a hostile network, disks that forget what was not synced
//! and disks that are wiped. After every step Raft's promises are checked from outside; then all faults end and progress
//! is demanded. `RAFT_SEEDS=100..20000 cargo test -p quorate-core --test raft_cluster` runs other seeds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Recovered, Standing};
use quorate_core::raft::{Body, Config, Input, Message, Output, Raft, Role};
use quorate_core::rng::Rng;
use quorate_core::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term, WriteId};

const MS: u64 = 1_000_000;

/// A write-ahead log: the fold of its durable records, and the writes under way.
#[derive(Clone)]
struct Disk {
    durable: Recovered,
    pending: VecDeque<(WriteId, Vec<Record>)>,
}

impl Disk {
    fn new(voters: u64, member: NodeId, incarnation: Incarnation) -> Self {
        let life = |id| if id == member { incarnation } else { Incarnation(0) };
        let voters = (1..=voters).map(|id| (NodeId(id), life(NodeId(id)))).collect();
        let identity = Identity { cluster: ClusterId(1), member, incarnation, standing: Standing::Fresh };
        let durable = Recovered {
            identity,
            hard_state: HardState::default(),
            start_index: LogIndex(0),
            start_term: Term(0),
            config: Configuration { voters, ..Configuration::default() },
            entries: Vec::new(),
            generation: Generation(0),
        };
        Self { durable, pending: VecDeque::new() }
    }

    fn store(&mut self, record: Record) {
        let log = &mut self.durable;
        let last = log.start_index.0 + log.entries.len() as u64;
        match record {
            Record::Identity(identity) => log.identity = identity,
            Record::HardState(hard_state) => {
                assert!(hard_state.term >= log.hard_state.term, "the term on disk falls");
                log.hard_state = hard_state;
            }
            Record::Entry(entry) => {
                assert!(entry.index.0 <= last + 1 && entry.index > log.start_index, "a gap on disk");
                log.entries.truncate((entry.index.0 - log.start_index.0 - 1) as usize);
                log.entries.push(entry);
            }
            Record::Compact { index, term, config } => {
                log.entries.drain(..(index.0 - log.start_index.0) as usize);
                (log.start_index, log.start_term, log.config) = (index, term, config);
            }
            Record::Snapshot { index, term, config, generation } => {
                log.entries.clear();
                (log.start_index, log.start_term, log.config, log.generation) = (index, term, config, generation);
            }
        }
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.durable.start_index.0 + self.durable.entries.len() as u64)
    }
}

struct Member {
    raft: Option<Raft>,
    disk: Disk,
    /// Distinguishes what was meant for an earlier process.
    process: u64,
    /// Lives of the disk so far.
    lives: u64,
    /// The backend: applied index and term, and those that survive a crash.
    applied: (LogIndex, Term),
    durable: (LogIndex, Term),
    /// Given out by consensus.
    given: LogIndex,
    paused: bool,
}

enum Event {
    Deliver { from: usize, to: usize, message: Message },
    Persisted { member: usize, process: u64, write: WriteId },
    Applied { member: usize, process: u64, index: LogIndex, term: Term },
    Snapshot { from: usize, to: usize },
    Install { from: usize, to: usize, process: u64, index: LogIndex, term: Term, config: Configuration },
    SnapshotSent { from: usize, to: usize, index: Option<LogIndex> },
    Start { member: usize },
    Wipe { member: usize },
    Isolate { member: usize },
    Nemesis,
    Client,
}

#[derive(Default, Debug)]
struct Totals {
    steps: u64,
    elections: u64,
    wipes: u64,
    readmissions: u64,
    installs: u64,
    truncations: u64,
    reads: u64,
    rejoined_at_genesis: u64,
    former_lives_heard: u64,
    committed: u64,
}

struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    next: u64,
    events: BTreeMap<(u64, u64), Event>,
    members: Vec<Member>,
    config: Config,
    /// Per mille.
    loss: u64,
    duplicates: u64,
    late: u64,
    /// Longest ordinary delay of a message and of a sync.
    delay: u64,
    sync: u64,
    /// Longest time between two faults.
    nemesis: u64,
    /// `cut[from][to]`
    cut: Vec<Vec<bool>>,
    faults: bool,
    wipes: bool,
    // What the whole cluster has promised.
    leaders: BTreeMap<Term, (usize, Incarnation)>,
    votes: BTreeMap<(usize, Incarnation, Term), NodeId>,
    /// Every entry ever created, with its predecessor's term.
    entries: BTreeMap<(LogIndex, Term), (Payload, Term)>,
    /// Every entry given out as committed, with the term of who gave it out first.
    truth: BTreeMap<LogIndex, (Entry, Term)>,
    /// The highest commit index ever claimed.
    committed: LogIndex,
    reads: BTreeMap<u64, LogIndex>,
    proposals: u64,
    totals: Totals,
    trace: VecDeque<String>,
}

impl World {
    fn new(seed: u64, count: Option<usize>) -> Self {
        let mut rng = Rng::new(seed);
        let drawn = [1, 2, 3, 3, 3, 3, 4, 5, 5][rng.below(9) as usize];
        let count = count.unwrap_or(drawn);
        let pick = |rng: &mut Rng, from: &[u64]| from[rng.below(from.len() as u64) as usize];
        // Half of the worlds are restless: terms are short, and something happens all the time.
        let is_restless = count > 2 && rng.chance(1, 2);
        let config = Config {
            heartbeat: Duration::from_millis(if is_restless { 20 } else { 100 }),
            election_timeout: Duration::from_millis(if is_restless { 150 } else { 1000 }),
            seed,
            append_bytes_max: pick(&mut rng, &[1, 100, 1 << 20]),
            inflight_messages_max: pick(&mut rng, &[1, 3, 256]),
            inflight_bytes_max: pick(&mut rng, &[1, 300, 1 << 20]),
            catchup_entries: pick(&mut rng, &[0, 1, 10, 1000]),
            catchup_bytes: pick(&mut rng, &[100, 1 << 20, 1 << 20]),
            understands: FeatureLevel(0),
        };
        let mut world = Self {
            seed,
            now: 0,
            next: 0,
            events: BTreeMap::new(),
            members: Vec::new(),
            config,
            loss: pick(&mut rng, &[0, 10, 50, 200]),
            duplicates: pick(&mut rng, &[0, 20, 200]),
            late: pick(&mut rng, &[0, 10, 50]),
            delay: pick(&mut rng, if is_restless { &[1, 10, 30] } else { &[1, 10, 80] }) * MS,
            sync: pick(&mut rng, if is_restless { &[1, 10, 50] } else { &[1, 10, 300] }) * MS,
            nemesis: if is_restless { 150 * MS } else { 800 * MS },
            cut: vec![vec![false; count]; count],
            faults: true,
            wipes: count >= 3 && rng.chance(2, 3),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            entries: BTreeMap::new(),
            truth: BTreeMap::new(),
            committed: LogIndex(0),
            reads: BTreeMap::new(),
            proposals: 0,
            totals: Totals::default(),
            trace: VecDeque::new(),
            rng,
        };
        for member in 0..count {
            let disk = Disk::new(count as u64, NodeId(member as u64 + 1), life(member, 1));
            let zero = (LogIndex(0), Term(0));
            let (applied, durable) = (zero, zero);
            let given = LogIndex(0);
            let member = Member { raft: None, disk, process: 0, lives: 1, applied, durable, given, paused: false };
            world.members.push(member);
        }
        for member in 0..count {
            let delay = world.rng.below(300 * MS);
            world.after(delay, Event::Start { member });
        }
        if world.wipes && world.rng.chance(1, 2) {
            let (delay, member) = (world.rng.below(1000 * MS), world.rng.below(count as u64) as usize);
            world.after(delay, Event::Wipe { member });
        }
        world.after(50 * MS, Event::Nemesis);
        world.after(10 * MS, Event::Client);
        world
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    fn note(&mut self, what: String) {
        if std::env::var_os("RAFT_TRACE").is_some() {
            eprintln!("{:>9.3} {what}", self.now as f64 / 1e6);
        }
        if self.trace.len() == 200 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9.3} {what}", self.now as f64 / 1e6));
    }

    fn start(&mut self, member: usize) {
        let m = &mut self.members[member];
        m.process += 1;
        m.applied = m.durable;
        m.given = m.durable.0;
        let mut config = self.config.clone();
        config.seed = self.rng.next_u64();
        let raft = Raft::new(config, m.disk.durable.clone(), m.applied.0, Instant(self.now));
        m.raft = Some(raft);
        self.note(format!("{} starts", member + 1));
    }

    /// What was not synced may be lost, from some record on.
    fn crash(&mut self, member: usize) {
        let m = &mut self.members[member];
        m.raft = None;
        m.paused = false;
        let records: Vec<Record> = m.disk.pending.drain(..).flat_map(|(_, records)| records).collect();
        let survive = self.rng.below(records.len() as u64 + 1) as usize;
        for record in records.into_iter().take(survive) {
            let restored = match &record {
                Record::Snapshot { index, term, .. } => Some((*index, *term)),
                _ => None,
            };
            m.disk.store(record);
            m.durable = restored.unwrap_or(m.durable);
        }
        self.note(format!("{} crashes", member + 1));
    }

    fn wipe(&mut self, member: usize) {
        let count = self.members.len() as u64;
        let m = &mut self.members[member];
        m.lives += 1;
        m.disk = Disk::new(count, NodeId(member as u64 + 1), life(member, m.lives));
        m.durable = (LogIndex(0), Term(0));
        self.totals.wipes += 1;
        self.note(format!("{} is wiped", member + 1));
    }

    fn step(&mut self, member: usize, input: Input) {
        let Some(mut raft) = self.members[member].raft.take() else { return };
        self.note(format!("{} <= {}", member + 1, show(&input)));
        let mut out = Vec::new();
        let before = raft.status().clone();
        raft.step(Instant(self.now), input, &mut out);
        self.totals.steps += 1;
        if self.totals.steps.is_multiple_of(8) {
            raft.check_deep();
        }
        let status = raft.status().clone();
        if status.role == Role::Leader && (before.role, before.term) != (Role::Leader, status.term) {
            self.elected(member, &raft);
        }
        if before.standing != Standing::Trusted && status.standing == Standing::Trusted {
            match before.standing {
                Standing::Amnesiac => self.totals.readmissions += 1,
                _ if self.members[member].lives > 1 => self.totals.rejoined_at_genesis += 1,
                _ => {}
            }
        }
        self.committed = self.committed.max(status.commit);
        self.members[member].raft = Some(raft);
        for output in out {
            self.perform(member, output);
        }
    }

    /// Election safety and leader completeness.
    fn elected(&mut self, member: usize, raft: &Raft) {
        let term = raft.status().term;
        let life = raft.identity().incarnation;
        self.totals.elections += 1;
        self.note(format!("{} leads term {term}", member + 1));
        let leader = self.leaders.insert(term, (member, life));
        assert!(leader.is_none_or(|leader| leader == (member, life)), "two leaders in term {term}");
        for (index, (entry, committed_in)) in &self.truth {
            if *committed_in < term && *index > raft.start() {
                assert_eq!(raft.entry(*index), Some(entry), "the leader of term {term} lacks a committed entry");
            }
        }
    }

    fn perform(&mut self, member: usize, output: Output) {
        match output {
            Output::Send { to, message } => self.send(member, to.0 as usize - 1, message),
            Output::Persist { write, records } => self.persist(member, write, records),
            Output::Commit { entries } => {
                for entry in entries {
                    self.give(member, entry);
                }
            }
            Output::Restore { index, .. } => {
                // The state is the snapshot's from now on. (That it is durable was checked by `persisted`.)
                let m = &mut self.members[member];
                assert_eq!(m.disk.durable.start_index.max(index), m.disk.durable.start_index, "restored too early");
                let term = m.disk.durable.start_term;
                m.given = index;
                m.applied = (index, term);
                m.durable = m.applied;
                self.totals.installs += 1;
            }
            Output::ReadReady { read, index } => {
                let needed = self.reads.remove(&read).expect("a read is answered once");
                assert!(index >= needed, "stale read: {index} < {needed}");
                self.totals.reads += 1;
            }
            Output::ReadLost { read } => {
                self.reads.remove(&read).expect("a read is answered once");
            }
            Output::Rejected { .. } | Output::Unneeded { .. } | Output::Changed(_) => {}
            Output::NeedsSnapshot { to } => {
                let delay = self.rng.below(100 * MS);
                self.after(delay, Event::Snapshot { from: member, to: to.0 as usize - 1 });
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let disk = &self.members[from].disk;
        let term_on_disk = disk.durable.hard_state.term;
        match message.body {
            Body::VoteReply { granted: true, .. } => {
                assert!(term_on_disk >= message.term, "a vote that is not durable");
                let vote = disk.durable.hard_state.vote;
                assert!(term_on_disk > message.term || vote == Some(NodeId(to as u64 + 1)), "another vote is durable");
                let key = (from, message.incarnation, message.term);
                let voted = self.votes.insert(key, NodeId(to as u64 + 1));
                assert!(voted.is_none_or(|id| id.0 == to as u64 + 1), "two votes in term {}", message.term);
            }
            Body::Accepted { matched } | Body::HeartbeatReply { matched, .. } => {
                assert!(term_on_disk >= message.term, "acknowledged in a term that is not durable");
                // It may have been cut off since, in a later term; then this was held for longer than that.
                let is_superseded =
                    self.members[from].raft.as_ref().is_some_and(|raft| raft.status().term > message.term);
                assert!(disk.last() >= matched || is_superseded, "acknowledged {matched}, durable {}", disk.last());
            }
            _ => {}
        }
        if self.rng.chance(self.loss * u64::from(self.faults), 1000) {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.duplicates * u64::from(self.faults), 1000));
        for _ in 0..copies {
            let late = self.rng.chance(self.late * u64::from(self.faults), 1000);
            let delay = if late { self.rng.below(8000 * MS) } else { self.rng.below(self.delay) };
            self.after(delay, Event::Deliver { from, to, message: message.clone() });
        }
    }

    /// Log matching: an entry is its index and term, and so is all before it.
    fn persist(&mut self, member: usize, write: WriteId, records: Vec<Record>) {
        let raft = self.members[member].raft.as_ref().expect("it just stepped");
        for record in &records {
            let Record::Entry(entry) = record else { continue };
            let before = LogIndex(entry.index.0 - 1);
            let start = (before == raft.start()).then_some(Term(0));
            let Some(before) = raft.entry(before).map(|entry| entry.term).or(start) else { continue };
            let value = (entry.payload.clone(), before);
            let known = self.entries.entry((entry.index, entry.term)).or_insert_with(|| value.clone());
            assert_eq!(known.0, value.0, "two entries {}@{}", entry.index, entry.term);
            assert!(
                known.1 == value.1 || value.1 == Term(0) || known.1 == Term(0),
                "entry {}: other past",
                entry.index
            );
            if entry.index <= self.members[member].disk.last() {
                self.totals.truncations += 1;
            }
        }
        let m = &mut self.members[member];
        assert!(m.disk.pending.back().is_none_or(|(last, _)| *last < write), "writes out of order");
        m.disk.pending.push_back((write, records));
        let process = m.process;
        let delay = self.rng.below(self.sync);
        self.after(delay, Event::Persisted { member, process, write });
    }

    fn persisted(&mut self, member: usize, write: WriteId) {
        let disk = &mut self.members[member].disk;
        while disk.pending.front().is_some_and(|(first, _)| *first <= write) {
            let (_, records) = disk.pending.pop_front().expect("just seen");
            for record in records {
                let restored = match &record {
                    Record::Snapshot { index, term, .. } => Some((*index, *term)),
                    _ => None,
                };
                disk.store(record);
                if let Some(restored) = restored {
                    self.members[member].durable = restored;
                    return self.persisted_rest(member, write);
                }
            }
        }
        self.step(member, Input::Persisted { write });
    }

    /// A snapshot record stands alone in its write.
    fn persisted_rest(&mut self, member: usize, write: WriteId) {
        self.persisted(member, write);
    }

    /// State machine safety.
    fn give(&mut self, member: usize, entry: Entry) {
        let m = &mut self.members[member];
        assert_eq!(entry.index, m.given.next(), "given out with a gap");
        assert!(entry.index <= m.disk.last(), "given out before it was durable");
        m.given = entry.index;
        let term = m.raft.as_ref().expect("it just stepped").status().term;
        let process = m.process;
        let (index, entry_term) = (entry.index, entry.term);
        self.totals.committed += u64::from(!self.truth.contains_key(&index));
        let known = self.truth.entry(entry.index).or_insert_with(|| (entry.clone(), term));
        assert_eq!(known.0, entry, "two entries committed at {index}");
        let delay = self.rng.below(5 * MS);
        self.after(delay, Event::Applied { member, process, index, term: entry_term });
    }

    fn applied(&mut self, member: usize, index: LogIndex, term: Term) {
        let m = &mut self.members[member];
        if index <= m.applied.0 {
            return; // Delays reorder these; the applier would not.
        }
        m.applied = (index, term);
        if self.rng.chance(1, 2) {
            m.durable = m.applied;
        }
        let durable = m.durable.0;
        self.step(member, Input::Applied { index, durable });
    }

    fn run(&mut self, until: u64) {
        loop {
            let event = self.events.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let awake = self.members.iter().enumerate().filter(|(_, m)| !m.paused);
            let wake = awake.filter_map(|(n, m)| Some((m.raft.as_ref()?.deadline().0, n))).min();
            let wake = wake.unwrap_or((u64::MAX, 0));
            if event.min(wake.0) > until {
                self.now = until;
                return;
            }
            if wake.0 <= event {
                self.now = self.now.max(wake.0);
                self.step(wake.1, Input::Wake);
                continue;
            }
            let ((at, _), event) = self.events.pop_first().expect("just seen");
            self.now = self.now.max(at);
            self.happen(event);
        }
    }

    fn is_process(&self, member: usize, process: u64) -> bool {
        self.members[member].process == process && self.members[member].raft.is_some()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if self.members[to].paused {
                    return self.after(50 * MS, Event::Deliver { from, to, message });
                }
                if self.faults && self.cut[from][to] {
                    return;
                }
                if message.incarnation != life(from, self.members[from].lives) {
                    self.totals.former_lives_heard += 1;
                }
                self.step(to, Input::Receive { from: NodeId(from as u64 + 1), message });
            }
            Event::Persisted { member, process, write } => {
                if self.is_process(member, process) {
                    self.persisted(member, write);
                }
            }
            Event::Applied { member, process, index, term } => {
                if self.is_process(member, process) {
                    self.applied(member, index, term);
                }
            }
            Event::Snapshot { from, to } => self.take_snapshot(from, to),
            Event::Install { from, to, process, index, term, config } => {
                let lost = self.rng.chance(self.loss * u64::from(self.faults), 1000);
                if lost || !self.is_process(to, process) {
                    return self.after(MS, Event::SnapshotSent { from, to, index: None });
                }
                self.step(to, Input::Install { index, term, config, generation: Generation(1) });
                self.after(200 * MS, Event::SnapshotSent { from, to, index: Some(index) });
            }
            Event::SnapshotSent { from, to, index } => {
                // The receiver says what it has installed, if that is so by now.
                let has = |index: &LogIndex| self.members[to].disk.last() >= *index;
                let index = index.filter(has);
                self.step(from, Input::SnapshotSent { to: NodeId(to as u64 + 1), index });
            }
            Event::Start { member } if self.members[member].raft.is_none() => self.start(member),
            Event::Start { .. } => {}
            // Disks of a minority may be lost, or being made up for, at a time.
            Event::Wipe { member } if self.unready() < (self.members.len() - 1) / 2 => {
                self.crash(member);
                self.wipe(member);
                self.start(member);
            }
            Event::Wipe { .. } => {}
            Event::Isolate { member } => {
                for other in (0..self.members.len()).filter(|other| *other != member) {
                    (self.cut[member][other], self.cut[other][member]) = (true, true);
                }
            }
            Event::Nemesis => self.nemesis(),
            Event::Client => self.client(),
        }
    }

    fn take_snapshot(&mut self, from: usize, to: usize) {
        let Some(raft) = &self.members[from].raft else { return };
        let (index, term) = self.members[from].applied;
        let process = self.members[to].process;
        let delay = self.rng.below(100 * MS);
        match raft.config_at(index) {
            Some(config) if index > LogIndex(0) => {
                self.after(delay, Event::Install { from, to, process, index, term, config });
            }
            _ => self.after(delay, Event::SnapshotSent { from, to, index: None }),
        }
    }

    /// How many members' disks cannot be believed at present.
    fn unready(&self) -> usize {
        self.members.iter().filter(|m| m.disk.durable.identity.standing != Standing::Trusted && m.lives > 1).count()
    }

    fn nemesis(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.rng.below(self.nemesis);
        self.after(delay, Event::Nemesis);
        let count = self.members.len() as u64;
        let random = self.rng.below(count) as usize;
        let member = self.leader().filter(|_| self.rng.chance(1, 3)).unwrap_or(random);
        match self.rng.below(14) {
            0..=2 if self.members[member].raft.is_some() => {
                self.crash(member);
                if self.rng.chance(1, 2) {
                    self.start(member);
                }
            }
            3 if self.wipes => self.happen(Event::Wipe { member }),
            4 => self.members[member].paused = self.members[member].raft.is_some(),
            5 | 6 => {
                for from in 0..count as usize {
                    for to in 0..count as usize {
                        self.cut[from][to] = self.rng.chance(1, 3);
                    }
                }
            }
            7 => self.step(member, Input::Transfer { to: None }),
            // A change of leaders that the old one does not notice.
            9 | 10 => {
                self.step(member, Input::Transfer { to: None });
                let delay = self.rng.below(5 * self.delay);
                self.after(delay, Event::Isolate { member });
            }
            8 => {
                let to = NodeId(self.rng.below(count) + 1);
                self.step(member, Input::Transfer { to: Some(to) });
            }
            _ => {
                self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
                for member in 0..count as usize {
                    self.members[member].paused = false;
                    if self.members[member].raft.is_none() {
                        self.start(member);
                    }
                }
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|m| m.raft.as_ref().is_some_and(|raft| raft.status().role == Role::Leader))
    }

    fn client(&mut self) {
        let delay = self.rng.below(40 * MS);
        self.after(delay, Event::Client);
        let random = self.rng.below(self.members.len() as u64) as usize;
        let is_leader = |m: &Member| m.raft.as_ref().is_some_and(|raft| raft.status().role == Role::Leader);
        let leader = match self.rng.chance(1, 2) {
            true => self.members.iter().position(is_leader),
            false => self.members.iter().rposition(is_leader),
        };
        let member = if self.rng.chance(1, 8) { random } else { leader.unwrap_or(random) };
        if self.members[member].raft.is_none() || self.members[member].paused {
            return;
        }
        if self.rng.chance(1, 3) {
            let read = self.next;
            self.reads.insert(read, self.committed);
            self.step(member, Input::ReadIndex { read });
        } else {
            let mut commands = Vec::new();
            for _ in 0..=self.rng.below(4) {
                self.proposals += 1;
                commands.push(Blob::copy(self.proposals.to_string().as_bytes()));
            }
            self.step(member, Input::Propose { commands });
        }
    }

    /// Ends all faults and demands progress.
    fn heal(&mut self) {
        self.faults = false;
        self.delay = 5 * MS;
        self.sync = 5 * MS;
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        for member in 0..self.members.len() {
            self.members[member].paused = false;
            if self.members[member].raft.is_none() {
                self.start(member);
            }
        }
        let before = self.committed;
        self.run(self.now + 20_000 * MS);
        assert!(self.committed > before, "no progress after healing");
        // Without load, everybody gets everything.
        self.events.retain(|_, event| !matches!(event, Event::Client));
        self.run(self.now + 5_000 * MS);
        let last = *self.truth.last_key_value().expect("there was progress").0;
        for (n, m) in self.members.iter().enumerate() {
            let raft = m.raft.as_ref().expect("healed");
            let status = raft.status();
            assert_eq!(status.standing, Standing::Trusted, "member {} is {:?}", n + 1, status);
            assert_eq!(m.applied.0, last, "member {} lags: {status:?}", n + 1);
        }
    }
}

/// The `n`th life of `member`'s disk.
fn life(member: usize, n: u64) -> Incarnation {
    Incarnation((member as u64 + 1) * 100 + n)
}

fn show(input: &Input) -> String {
    match input {
        Input::Receive { from, message } => format!("from {from}: {message}"),
        other => format!("{other:?}"),
    }
}

fn run(seed: u64, totals: &mut Totals) {
    let mut world = World::new(seed, None);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let until = if world.nemesis < 200 * MS { 8_000 } else { 30_000 } + world.rng.below(10_000);
        world.run(until * MS);
        world.heal();
    }));
    if let Err(panic) = result {
        if std::env::var_os("RAFT_TRACE").is_none() {
            world.trace.iter().for_each(|line| eprintln!("{line}"));
        }
        eprintln!("RAFT_TRACE=1 RAFT_SEEDS={}..{} fails", world.seed, world.seed + 1);
        std::panic::resume_unwind(panic);
    }
    let t = &world.totals;
    for (sum, n) in [
        (&mut totals.steps, t.steps),
        (&mut totals.elections, t.elections),
        (&mut totals.wipes, t.wipes),
        (&mut totals.readmissions, t.readmissions),
        (&mut totals.installs, t.installs),
        (&mut totals.truncations, t.truncations),
        (&mut totals.reads, t.reads),
        (&mut totals.rejoined_at_genesis, t.rejoined_at_genesis),
        (&mut totals.former_lives_heard, t.former_lives_heard),
        (&mut totals.committed, t.committed),
    ] {
        *sum += n;
    }
}

#[test]
fn consensus_survives_random_faults_and_then_makes_progress() {
    let seeds = std::env::var("RAFT_SEEDS").unwrap_or_else(|_| "0..20".into());
    let (from, to) = seeds.split_once("..").expect("RAFT_SEEDS is FROM..TO");
    let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
    let mut totals = Totals::default();
    for seed in from..to {
        run(seed, &mut totals);
    }
    eprintln!("seeds {seeds}: {totals:?}");
    if to - from >= 20 {
        // A swarm that no longer reaches the rare cases proves nothing about them.
        assert!(totals.elections > 50, "{totals:?}");
        assert!(totals.readmissions > 5, "{totals:?}");
        assert!(totals.installs > 20, "{totals:?}");
        assert!(totals.truncations > 5, "{totals:?}");
        assert!(totals.former_lives_heard > 20, "{totals:?}");
        assert!(totals.reads > 500, "{totals:?}");
    }
}

#[test]
fn a_dead_leader_is_replaced_within_three_election_timeouts() {
    for count in [3, 5] {
        let mut world = World::new(count as u64, Some(count));
        (world.config.heartbeat, world.config.election_timeout) = (Duration::from_millis(100), Duration::from_secs(1));
        (world.faults, world.delay, world.sync) = (false, 5 * MS, 20 * MS);
        let mut slow = 0;
        for _ in 0..50 {
            world.run(world.now + 3000 * MS);
            let leader = world.leader().expect("nothing is wrong");
            let died = world.now;
            world.crash(leader);
            while world.leader().is_none() {
                world.run(world.now + 10 * MS);
                assert!(world.now - died < 6000 * MS, "no leader for six election timeouts");
            }
            slow += u32::from(world.now - died > 3000 * MS);
            world.start(leader);
        }
        assert!(slow <= 2, "{slow} of 50 elections took longer, with {count} members");
    }
}
