//! Runs `testdata/raft/*.txt`: commands, `----`, what happened. `UPDATE=1` rewrites what happened.
//!
//! Commands, one a line; nothing happens by itself, and every member has a clock of its own:
//! - `members N [fresh] [setting=number]...`: N voters, all trusted, or without a past. Life `k` of member `m` is `imk`.
//! - `campaign M`, `tick M`: M's clock jumps to its deadline. `wait M [MS]`: M's clock moves, short of its
//!   deadline: by then it has lost patience with a silent leader.
//! - `pass M n`: n times, `tick M` and `settle`; messages and writes are not shown.
//! - `target M v1,2 l3 r4`: M is told who should vote, learn, leave. `join M`: M starts as an amnesiac without a log.
//! - `propose M text...`, `read M number`, `transfer M [to]`, `applied M index [durable]`.
//! - `persisted M [write]`: all of M's writes, or up to one, are durable.
//! - `deliver FROM TO [n]`: all messages under way on that link, or the first n. `drop FROM TO` loses them.
//! - `keep FROM TO NAME`: sets them aside; `release NAME`: delivers them now.
//! - `crash M`, `start M`, `wipe M`: writes that are not durable are lost; the disk is replaced by an empty one.
//! - `install M index term`, `sent M TO [index]`: the two ends of the snapshot lane.
//! - `settle [M...]`: delivers and persists everything between these members until nothing is left; messages and writes
//!   are not shown. `status M`.

#[path = "support/scenario.rs"]
mod scenario;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use quorate_core::entry::{Configuration, HardState, Identity, Record, Recovered, Standing};
use quorate_core::raft::{Config, Input, Message, Output, Raft, Target};
use quorate_core::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term, WriteId};

#[test]
fn raft_scenarios_happen_as_written() {
    scenario::happen_as_written("raft", run);
}

/// The scenario with what really happened in place of what was written.
fn run(text: &str) -> String {
    let mut world = World::default();
    let mut happened = String::new();
    for block in text.trim_end().split("\n\n") {
        let (commands, _) = block.split_once("\n----").unwrap_or((block, ""));
        world.log.clear();
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            eprintln!("  {command}");
            world.run(command);
        }
        write!(happened, "{commands}\n----\n{}\n", world.log).unwrap();
    }
    happened.truncate(happened.trim_end().len());
    happened + "\n"
}

struct Member {
    raft: Option<Raft>,
    now: Instant,
    life: u64,
    log: Recovered,
    pending: VecDeque<(WriteId, Vec<Record>)>,
    given: LogIndex,
}

#[derive(Default)]
struct World {
    members: BTreeMap<NodeId, Member>,
    config: Option<Config>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    kept: BTreeMap<String, (NodeId, NodeId, VecDeque<Message>)>,
    log: String,
    is_quiet: bool,
}

impl World {
    fn run(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
        let member = NodeId(number(1).unwrap_or(0));
        let other = || NodeId(number(2).expect(command));
        match words[0] {
            "members" => self.create(&words[1..]),
            "campaign" | "tick" => self.wake(member),
            "wait" => {
                let m = self.members.get_mut(&member).unwrap();
                let deadline = m.raft.as_ref().unwrap().deadline();
                m.now = number(2).map_or(Instant(deadline.0 - 1), |ms| m.now + Duration::from_millis(ms));
                assert!(m.now < deadline, "{command}: beyond the deadline");
            }
            "pass" => {
                for _ in 0..number(2).unwrap() {
                    self.is_quiet = true;
                    self.wake(member);
                    self.settle(&[]);
                }
            }
            "propose" => {
                let commands = words[2..].iter().map(|word| Blob::copy(word.as_bytes())).collect();
                self.step(member, Input::Propose { commands });
            }
            "read" => self.step(member, Input::ReadIndex { read: number(2).unwrap() }),
            "target" => {
                let mut target = Target::default();
                for word in &words[2..] {
                    let ids = word[1..].split(',').map(|id| NodeId(id.parse().unwrap())).collect();
                    match &word[..1] {
                        "v" => target.voters = ids,
                        "l" => target.learners = ids,
                        _ => target.removed = ids,
                    }
                }
                self.step(member, Input::Target(target));
            }
            "join" => {
                let initial: Vec<NodeId> = self.members.keys().copied().collect();
                let log = recovered(member, 1, &initial, Standing::Amnesiac);
                let (pending, given) = (VecDeque::new(), LogIndex(0));
                let now = self.members.values().map(|m| m.now).max().unwrap();
                self.members.insert(member, Member { raft: None, now, life: 1, log, pending, given });
                self.start(member);
            }
            "transfer" => self.step(member, Input::Transfer { to: number(2).map(NodeId) }),
            "applied" => {
                let index = LogIndex(number(2).unwrap());
                let durable = number(3).map_or(index, LogIndex);
                self.step(member, Input::Applied { index, durable });
            }
            "persisted" => self.persisted(member, number(2).map(WriteId)),
            "deliver" => self.deliver(member, other(), number(3)),
            "drop" => self.links.entry((member, other())).or_default().clear(),
            "keep" => {
                let messages = std::mem::take(self.links.entry((member, other())).or_default());
                for message in &messages {
                    writeln!(self.log, "{} keeps {message}", words[3]).unwrap();
                }
                self.kept.insert(words[3].into(), (member, other(), messages));
            }
            "release" => {
                let (from, to, messages) = self.kept.remove(words[1]).unwrap();
                for message in messages {
                    self.step(to, Input::Receive { from, message });
                }
            }
            "crash" => {
                let m = self.members.get_mut(&member).unwrap();
                m.raft = None;
                m.pending.clear();
            }
            "start" => self.start(member),
            "wipe" => {
                let initial = self.members[&member].log.config.voters.keys().copied().collect::<Vec<_>>();
                let m = self.members.get_mut(&member).unwrap();
                m.life += 1;
                m.pending.clear();
                m.log = recovered(member, m.life, &initial, Standing::Fresh);
                m.given = LogIndex(0);
            }
            "install" => {
                let (index, term) = (LogIndex(other().0), Term(number(3).unwrap()));
                let config = self.members.values().filter_map(|m| m.raft.as_ref()?.config_at(index)).next().unwrap();
                self.step(member, Input::Install { index, term, config, generation: Generation(2) });
            }
            "sent" => self.step(member, Input::SnapshotSent { to: other(), index: number(3).map(LogIndex) }),
            "settle" => self.settle(&(1..words.len()).map(|n| NodeId(number(n).unwrap())).collect::<Vec<_>>()),
            "status" => {
                let s = self.members[&member].raft.as_ref().unwrap().status();
                let (role, standing) = (s.role, s.standing);
                let indexes = format!("commit={} last={}", s.commit, s.last);
                writeln!(self.log, "{member} is {role:?} {standing:?} term={} {indexes} {}", s.term, s.config).unwrap();
            }
            _ => panic!("unknown command: {command}"),
        }
    }

    fn create(&mut self, words: &[&str]) {
        let count: u64 = words[0].parse().unwrap();
        let setting = |name: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.parse::<u64>().unwrap())
        };
        self.config = Some(Config {
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            seed: 1,
            append_bytes_max: setting("append_bytes").unwrap_or(1 << 20),
            inflight_messages_max: setting("inflight").unwrap_or(256),
            inflight_bytes_max: 1 << 20,
            catchup_entries: setting("catchup").unwrap_or(1000),
            catchup_bytes: 1 << 20,
            understands: FeatureLevel(0),
        });
        let standing = if words.contains(&"fresh") { Standing::Fresh } else { Standing::Trusted };
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        for &id in &ids {
            let log = recovered(id, 1, &ids, standing);
            let (pending, given) = (VecDeque::new(), LogIndex(0));
            self.members.insert(id, Member { raft: None, now: Instant(0), life: 1, log, pending, given });
            self.start(id);
        }
    }

    fn start(&mut self, id: NodeId) {
        let m = self.members.get_mut(&id).unwrap();
        let config = Config { seed: id.0, ..self.config.clone().unwrap() };
        let applied = m.given.min(LogIndex(m.log.start_index.0 + m.log.entries.len() as u64));
        m.given = applied;
        m.raft = Some(Raft::new(config, m.log.clone(), applied, m.now));
        if m.log.identity.standing == Standing::Fresh {
            self.step(id, Input::Wake);
        }
    }

    fn wake(&mut self, id: NodeId) {
        let m = self.members.get_mut(&id).unwrap();
        let raft = m.raft.as_mut().unwrap();
        if raft.deadline() == m.now {
            raft.step(m.now, Input::Wake, &mut Vec::new()); // A start's first step.
        }
        m.now = raft.deadline();
        self.step(id, Input::Wake);
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some(m) = self.members.get_mut(&id) else { return }; // Not started yet: nobody listens there.
        let Some(raft) = &mut m.raft else { return };
        let mut out = Vec::new();
        raft.step(m.now, input, &mut out);
        raft.check_deep();
        for output in out {
            self.perform(id, output);
        }
    }

    fn perform(&mut self, id: NodeId, output: Output) {
        let m = self.members.get_mut(&id).unwrap();
        let line = match output {
            Output::Send { to, message } => {
                let line = (!self.is_quiet).then(|| format!("-> {to} {message}"));
                self.links.entry((id, to)).or_default().push_back(message);
                line
            }
            Output::Persist { write, records } => {
                let shown: Vec<String> = records.iter().map(show).collect();
                m.pending.push_back((write, records));
                (!self.is_quiet).then(|| format!("persist w{write} {}", shown.join("; ")))
            }
            Output::Commit { entries } => {
                m.given = entries.last().unwrap().index;
                let shown: Vec<String> = entries.iter().map(ToString::to_string).collect();
                Some(format!("commit {}", shown.join(", ")))
            }
            Output::Restore { index, generation } => {
                m.given = index;
                Some(format!("restore {index} from generation {generation}"))
            }
            Output::Unneeded { generation } => Some(format!("does not need generation {generation}")),
            Output::ReadReady { read, index } => Some(format!("read {read} ready at {index}")),
            Output::ReadLost { read } => Some(format!("read {read} lost")),
            Output::Rejected { commands } => Some(format!("rejects {} commands", commands.len())),
            Output::NeedsSnapshot { to } => Some(format!("needs a snapshot for {to}")),
            Output::Changed(status) => {
                let leader = status.leader.map_or("none".into(), |id| id.to_string());
                let (role, standing, config) = (status.role, status.standing, status.config);
                Some(format!("now {role:?} {standing:?} term={} leader={leader} {config}", status.term))
            }
        };
        if let Some(line) = line {
            writeln!(self.log, "{id} {line}").unwrap();
        }
    }

    fn persisted(&mut self, id: NodeId, write: Option<WriteId>) {
        let m = self.members.get_mut(&id).unwrap();
        let Some(write) = write.or(m.pending.back().map(|(write, _)| *write)) else {
            return writeln!(self.log, "{id} has nothing to persist").unwrap();
        };
        while m.pending.front().is_some_and(|(first, _)| *first <= write) {
            for record in m.pending.pop_front().unwrap().1 {
                store(&mut m.log, record);
            }
        }
        self.step(id, Input::Persisted { write });
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, count: Option<u64>) {
        let link = self.links.entry((from, to)).or_default();
        let count = count.map_or(link.len(), |count| count as usize);
        if count == 0 || count > link.len() {
            return writeln!(self.log, "nothing to deliver from {from} to {to}").unwrap();
        }
        let messages: Vec<Message> = link.drain(..count).collect();
        for message in messages {
            self.step(to, Input::Receive { from, message });
        }
    }

    fn settle(&mut self, only: &[NodeId]) {
        self.is_quiet = true;
        let is_in = |id: NodeId| only.is_empty() || only.contains(&id);
        loop {
            let link = self.links.iter().find(|((a, b), link)| is_in(*a) && is_in(*b) && !link.is_empty());
            if let Some((from, to)) = link.map(|(link, _)| *link) {
                self.deliver(from, to, None);
                continue;
            }
            let pending = self.members.iter().find(|(id, m)| is_in(**id) && !m.pending.is_empty());
            let Some(id) = pending.map(|(id, _)| *id) else { break };
            self.persisted(id, None);
        }
        self.is_quiet = false;
    }
}

fn life(id: NodeId, life: u64) -> Incarnation {
    Incarnation(id.0 * 10 + life)
}

/// An empty log. A trusted member's says how the cluster began.
fn recovered(id: NodeId, n: u64, voters: &[NodeId], standing: Standing) -> Recovered {
    let trusted = standing == Standing::Trusted;
    let incarnation = |voter| match voter {
        voter if voter == id => life(id, n),
        voter if trusted => life(voter, 1),
        _ => Incarnation(0),
    };
    let voters = voters.iter().map(|voter| (*voter, incarnation(*voter))).collect();
    Recovered {
        identity: Identity { cluster: ClusterId(1), member: id, incarnation: life(id, n), standing },
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config: Configuration { voters, ..Configuration::default() },
        entries: Vec::new(),
        generation: Generation(0),
    }
}

fn store(log: &mut Recovered, record: Record) {
    match record {
        Record::Identity(identity) => log.identity = identity,
        Record::HardState(hard_state) => log.hard_state = hard_state,
        Record::Entry(entry) => {
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

fn show(record: &Record) -> String {
    match record {
        Record::Identity(identity) => format!("{:?} i{}", identity.standing, identity.incarnation),
        Record::HardState(HardState { term, vote, commit }) => {
            format!("term={term} vote={} commit={commit}", vote.map_or("none".into(), |vote| vote.to_string()))
        }
        Record::Entry(entry) => format!("entry {entry}"),
        Record::Compact { index, term, config } => format!("compact {index}@{term} {config}"),
        Record::Snapshot { index, term, config, .. } => format!("snapshot {index}@{term} {config}"),
    }
}
