//! Whole replicas with real stores, over a network and disks that the test controls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::Command;
use quorate_core::entry::{Configuration, FEATURE_LEVEL, HardState, Identity, Recovered, Standing};
use quorate_core::error::Error;
use quorate_core::raft::{self, Role};
use quorate_core::replica::{Config, Input, Output, PeerMessage, Replica, Request, Response, SnapshotId};
use quorate_core::request::{KeyRange, PutRequest, RangeRequest};
use quorate_core::rows::{MemRows, RowWrite};
use quorate_core::store::{Members, Store};
use quorate_core::{Blob, ClusterId, Generation, Incarnation, Instant, LogIndex, NodeId, RequestId, Term, WriteId};

pub(crate) const MILLI: Duration = Duration::from_millis(1);

/// One member: its replica, its applied state, and what its disk has not finished.
pub(crate) struct Member {
    pub(crate) replica: Replica,
    /// What every life of it runs with.
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) rows: MemRows,
    /// Writes under way; persisted at once unless `slow_disk`.
    pub(crate) writes: VecDeque<WriteId>,
    pub(crate) slow_disk: bool,
    pub(crate) responses: BTreeMap<RequestId, Result<Response, Error>>,
    /// Pictures of its state that are being read.
    pictures: BTreeMap<SnapshotId, Picture>,
    /// The rows of a snapshot that is being received.
    filling: Vec<RowWrite>,
    /// Snapshots it has installed.
    pub(crate) restored: u32,
    /// When it found its own state to be wrong, and when its life was over.
    pub(crate) suspected: Option<Instant>,
    pub(crate) fenced: Option<Instant>,
    /// It has lost its state, and applies nothing.
    pub(crate) is_bare: bool,
}

/// A state at some entry.
struct Picture {
    index: LogIndex,
    term: Term,
    /// Those not yet read.
    rows: VecDeque<(Blob, Blob)>,
}

pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) members: BTreeMap<NodeId, Member>,
    founders: BTreeSet<NodeId>,
    pub(crate) mail: VecDeque<(NodeId, NodeId, PeerMessage)>,
    pub(crate) cut_off: BTreeSet<NodeId>,
    /// Whose hashes are lost on their way.
    pub(crate) mute: BTreeSet<NodeId>,
    /// How long snapshots' chunks are under way, and those that are.
    pub(crate) lane_delay: Duration,
    lane: VecDeque<(Instant, NodeId, NodeId, PeerMessage)>,
    /// Who was told that it is no member any more.
    pub(crate) removed: BTreeSet<NodeId>,
    /// The test makes states differ.
    pub(crate) may_differ: bool,
    next: RequestId,
    /// Steps taken at the present instant, to notice one that never ends.
    steps: u32,
}

pub(crate) fn config(member: u64) -> Config {
    Config {
        raft: raft::Config {
            heartbeat: 100 * MILLI,
            election_timeout: 1000 * MILLI,
            seed: member,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 64,
            inflight_bytes_max: 1 << 20,
            catchup_entries: 1000,
            catchup_bytes: 1 << 20,
            understands: FEATURE_LEVEL,
        },
        session: Incarnation(1000 + member),
        request_timeout: 7000 * MILLI,
        read_retry: 500 * MILLI,
        apply_lag_max: 5000,
        held_max: 10_000,
        lease_checkpoint: Duration::from_secs(300),
        auto_compaction: None,
        publish: None,
        founders: vec![],
    }
}

/// An empty log of a life of `member`.
pub(crate) fn recovered(
    member: NodeId,
    incarnation: Incarnation,
    voters: BTreeMap<NodeId, Incarnation>,
    standing: Standing,
) -> Recovered {
    Recovered {
        identity: Identity { cluster: ClusterId(1), member, incarnation, standing },
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config: Configuration { voters, ..Configuration::default() },
        entries: Vec::new(),
        generation: Generation(0),
    }
}

impl Member {
    /// One without a log, that somehow knows these members. Its incarnation is its ID.
    pub(crate) fn new(
        id: NodeId,
        config: Config,
        members: Arc<Members>,
        voters: &BTreeMap<NodeId, Incarnation>,
        standing: Standing,
    ) -> Self {
        let recovered = recovered(id, Incarnation(id.0), voters.clone(), standing);
        let replica = Replica::new(config.clone(), recovered, LogIndex(0), &[], members, Instant(0));
        let rows = MemRows::default();
        let store = Store::load(id, &rows).expect("no rows are an empty store");
        let (writes, responses) = (VecDeque::new(), BTreeMap::new());
        Self {
            replica,
            config,
            store,
            rows,
            writes,
            slow_disk: false,
            responses,
            pictures: BTreeMap::new(),
            filling: Vec::new(),
            restored: 0,
            suspected: None,
            fenced: None,
            is_bare: false,
        }
    }
}

/// Bytes of rows in a chunk of a snapshot.
const CHUNK_BYTES: usize = 16 << 10;

impl Member {
    /// The next chunk of a picture.
    fn read_snapshot(&mut self, snapshot: SnapshotId, to: NodeId) -> Input {
        let picture = self.pictures.entry(snapshot).or_insert_with(|| {
            let (index, term) = self.store.applied();
            let rows = self.rows.iter().map(|(key, value)| (Blob::copy(key), value.clone())).collect();
            Picture { index, term, rows }
        });
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK_BYTES
            && let Some((key, value)) = picture.rows.pop_front()
        {
            bytes += key.len() + value.len();
            rows.push((key, value));
        }
        let last = picture.rows.is_empty();
        Input::SnapshotRead { snapshot, to, index: picture.index, term: picture.term, rows, last }
    }

    /// Its state is that of the snapshot it has received.
    fn restore(&mut self, at: NodeId, index: LogIndex) -> Input {
        self.rows = MemRows::default();
        self.rows.write(&std::mem::take(&mut self.filling));
        self.store = Store::load(at, &self.rows).expect("rows of a store");
        assert_eq!(self.store.applied().0, index, "what the snapshot holds");
        self.restored += 1;
        self.is_bare = false;
        let (store, view) = (&self.store, self.store.view());
        let (hash, members) = (store.hash(), store.members());
        let (leases, revision, alarms) = (store.leases(), view.revision(), view.alarms().collect());
        Input::Restored { index, leases, hash, revision, alarms, members, level: view.feature_level() }
    }
}

impl Cluster {
    /// `count` members that know each other's disks.
    pub(crate) fn with(count: u64, config: impl Fn(u64) -> Config, members: &Arc<Members>) -> Self {
        let voters: BTreeMap<NodeId, Incarnation> = (1..=count).map(|id| (NodeId(id), Incarnation(id))).collect();
        let member = |id: &NodeId| Member::new(*id, config(id.0), Arc::clone(members), &voters, Standing::Trusted);
        Self {
            now: Instant(0),
            members: voters.keys().map(|id| (*id, member(id))).collect(),
            founders: voters.keys().copied().collect(),
            mail: VecDeque::new(),
            cut_off: BTreeSet::new(),
            mute: BTreeSet::new(),
            lane_delay: Duration::ZERO,
            lane: VecDeque::new(),
            removed: BTreeSet::new(),
            may_differ: false,
            next: RequestId(0),
            steps: 0,
        }
    }

    /// Lets its members elect a leader.
    pub(crate) fn elected(mut self) -> Self {
        self.run(5000 * MILLI);
        self
    }

    /// The member comes back as one whose disk was lost.
    pub(crate) fn rebuild(&mut self, at: NodeId, life: Incarnation) {
        let voters = self.members.keys().map(|id| (*id, Incarnation(0))).collect();
        let recovered = recovered(at, life, voters, Standing::Amnesiac);
        let member = self.members.get_mut(&at).expect("a member");
        let config = Config { session: Incarnation(life.0 + 5000), ..member.config.clone() };
        member.replica = Replica::new(config, recovered, LogIndex(0), &[], Arc::default(), self.now);
        member.rows = MemRows::default();
        member.store = Store::load(at, &member.rows).expect("no rows are an empty store");
        (member.suspected, member.fenced, member.is_bare) = (None, None, false);
        member.writes.clear();
    }

    pub(crate) fn step(&mut self, at: NodeId, input: Input) {
        self.steps += 1;
        assert!(self.steps < 100_000, "member {at} goes on and on at {:?}", self.now);
        let mut outputs = Vec::new();
        self.members.get_mut(&at).expect("a member").replica.step(self.now, input, &mut outputs);
        for output in outputs {
            let member = self.members.get_mut(&at).expect("a member");
            match output {
                Output::Send { to, message } if message.is_bulk() && !self.lane_delay.is_zero() => {
                    self.lane.push_back((self.now + self.lane_delay, at, to, message));
                }
                Output::Send { to, message } => self.mail.push_back((at, to, message)),
                Output::Persist { write, .. } => {
                    member.writes.push_back(write);
                    self.write(at);
                }
                Output::Apply { .. } | Output::ReadSnapshot { .. } if member.is_bare => {}
                Output::Apply { entries } => {
                    let batch = member.store.apply(&entries, &member.rows);
                    member.rows.write(&batch.writes);
                    let durable = batch.applied.index;
                    self.step(at, Input::Applied { applied: batch.applied, durable });
                }
                Output::Respond { id, result } => {
                    assert!(member.responses.insert(id, result).is_none(), "{id} was answered twice");
                }
                Output::Changed(_) | Output::Members(_) | Output::Parted(_) => {}
                Output::Removed => _ = self.removed.insert(at),
                Output::Suspected { .. } | Output::Fenced if !self.may_differ => panic!("member {at} differs"),
                Output::Suspected { .. } => member.suspected = Some(self.now),
                Output::Unsuspected => member.suspected = None,
                Output::Fenced => member.fenced = Some(self.now),
                Output::ReadSnapshot { snapshot, to } => {
                    let input = member.read_snapshot(snapshot, to);
                    self.step(at, input);
                }
                Output::DropSnapshot { snapshot } => _ = member.pictures.remove(&snapshot),
                Output::WriteSnapshot { snapshot, sequence, rows, .. } => {
                    if sequence == 0 {
                        member.filling.clear();
                    }
                    member.filling.extend(rows.into_iter().map(|(key, value)| RowWrite { key, value: Some(value) }));
                    self.step(at, Input::SnapshotWritten { snapshot, sequence, generation: Generation(1) });
                }
                Output::AbandonSnapshot { .. } => member.filling.clear(),
                Output::Restore { index, .. } => {
                    let input = member.restore(at, index);
                    self.step(at, input);
                }
            }
        }
    }

    /// Finishes the writes of a member whose disk is not slow.
    pub(crate) fn write(&mut self, at: NodeId) {
        let member = self.members.get_mut(&at).expect("a member");
        if member.slow_disk {
            return;
        }
        let last = member.writes.back().copied();
        member.writes.clear();
        if let Some(write) = last {
            self.step(at, Input::Persisted { write });
        }
    }

    /// Delivers all mail. What comes from or goes to a member that is cut off is lost, and what goes to one that was added
    /// and has not started; whoever founded the cluster is there.
    pub(crate) fn deliver(&mut self) {
        self.deliver_unless(|_, _| false);
    }

    /// The same without what `is_lost`.
    pub(crate) fn deliver_unless(&mut self, mut is_lost: impl FnMut((NodeId, NodeId), &PeerMessage) -> bool) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            let is_cut_off = self.cut_off.contains(&from) || self.cut_off.contains(&to);
            let is_mute = matches!(message, PeerMessage::Hashes { .. }) && self.mute.contains(&from);
            let is_lost = is_mute || is_lost((from, to), &message);
            if !is_cut_off && !is_lost && (self.founders.contains(&to) || self.members.contains_key(&to)) {
                self.step(to, Input::Receive { from, message });
            }
        }
    }

    /// Lets time pass, waking members when they ask for it.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.deliver();
            let (&at, deadline) =
                self.members.iter().map(|(id, it)| (id, it.replica.deadline())).min_by_key(|it| it.1).expect("members");
            if let Some((due, ..)) = self.lane.front().filter(|(due, ..)| *due <= deadline.min(end)) {
                (self.now, self.steps) = (*due, 0);
                self.mail.extend(self.lane.pop_front().map(|(_, from, to, message)| (from, to, message)));
                continue;
            }
            if deadline > end {
                break;
            }
            if deadline > self.now {
                (self.now, self.steps) = (deadline, 0);
            }
            self.step(at, Input::Wake);
        }
        (self.now, self.steps) = (end, 0);
    }

    pub(crate) fn leader(&self) -> NodeId {
        let leads = |(id, member): (&NodeId, &Member)| {
            (member.replica.status().role == Role::Leader && !self.cut_off.contains(id)).then_some(*id)
        };
        self.members.iter().find_map(leads).expect("there is a leader")
    }

    pub(crate) fn follower(&self) -> NodeId {
        let leader = self.leader();
        *self.members.keys().find(|id| **id != leader && !self.cut_off.contains(id)).expect("there is a follower")
    }

    pub(crate) fn ask(&mut self, at: NodeId, request: Request) -> RequestId {
        self.ask_all(at, vec![request])[0]
    }

    /// Asks all of it in one step.
    pub(crate) fn ask_all(&mut self, at: NodeId, requests: Vec<Request>) -> Vec<RequestId> {
        let named: Vec<(RequestId, Request)> = requests
            .into_iter()
            .map(|request| {
                self.next = self.next.next();
                (self.next, request)
            })
            .collect();
        let ids = named.iter().map(|(id, _)| *id).collect();
        self.step(at, Input::Requests(named));
        ids
    }

    /// What `at` has applied.
    pub(crate) fn value(&self, at: NodeId, key: &'static str) -> Option<Blob> {
        let member = &self.members[&at];
        let request = RangeRequest::new(KeyRange::Key(key.into()));
        let range = member.store.view().range(&member.rows, &request).expect("the newest revision");
        range.kvs.first().map(|kv| kv.value.clone())
    }

    pub(crate) fn answer(&self, at: NodeId, id: RequestId) -> Option<&Result<Response, Error>> {
        self.members[&at].responses.get(&id)
    }
}

pub(crate) fn put(key: &'static str, value: &'static str) -> Request {
    Request::Command(Command::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }))
}
