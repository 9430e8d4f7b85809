//! One simulated member: the machines of a real one, with its threads' queues between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::command::{Command, Envelope};
use quorate_core::entry::{Entry, Payload, Record, Recovered};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::format::wal::Damage;
use quorate_core::replica::{self, Replica, Response};
use quorate_core::request::Member as Published;
use quorate_core::rng::Rng;
use quorate_core::store::RevisionEvents;
use quorate_core::{
    ClusterId, FeatureLevel, Incarnation, Instant, LogIndex, NodeId, RequestId, StreamId, Term, WriteId, raft, watch,
};
use quorate_node::applier::{self, Applier, HistoryRead, OpenError};
use quorate_node::backend::BackendError;
use quorate_node::boot::{self, BootError, Booted, Course, Told};
use quorate_node::driver::{self, Driver};
use quorate_node::service::watch::Encoder;
use quorate_node::service::{Local, MemberStatus, Settings, WallClock};
use quorate_node::status::Status;
use quorate_node::vouch::Voucher;
use quorate_node::wal::{Options, Wal};
use quorate_node::wire::{Limits, Responder};

use crate::backend::{SimBackends, SimSnapshot};
use crate::disk::SimDisk;
use crate::swarm::regime::Regime;
use crate::swarm::{Churn, Knobs};
use crate::workload::Token;

mod gate;
mod visit;

use gate::Gate;
pub use gate::Gated;
use visit::Visit;
pub(crate) use visit::hash_of;

/// The cluster that every run simulates.
pub const CLUSTER: ClusterId = ClusterId(0xC1);

/// The ID of the founder on machine `number`. Members that join later are given theirs by the cluster.
#[must_use]
pub fn founder_id(number: usize) -> NodeId {
    NodeId(number as u64 + 1)
}

/// Where the member on machine `number` is reached, at one of its ports. [`machine_of_url`] is the way back.
#[must_use]
pub fn peer_url(number: usize, port: u64) -> String {
    format!("http://m{number}:{port}")
}

/// The machine behind a [`peer_url`].
#[must_use]
pub fn machine_of_url(url: &str) -> Option<usize> {
    url.strip_prefix("http://m")?.split(':').next()?.parse().ok()
}

/// Which call of which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    /// The client.
    pub client: usize,
    /// Its number among the client's calls.
    pub call: u64,
}

/// A watch stream of a client, for as long as the connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription {
    /// The client.
    pub client: usize,
    /// Its number among the client's connections.
    pub connection: u64,
}

/// A call whose next part is due.
pub struct Due {
    visit: Visit,
    answer: Option<Result<Response, Error>>,
}

impl Due {
    /// Which call.
    #[must_use]
    pub fn call(&self) -> CallId {
        self.visit.call
    }
}

/// What consensus hands to the applied state.
pub enum Handed {
    /// Committed entries, and the term that the member is in by now.
    Entries(Term, Vec<quorate_core::entry::Entry>),
    /// A snapshot up to this index takes its place.
    Snapshot(LogIndex),
}

/// What the world carries out for a member's process.
#[derive(Default)]
pub struct Actions {
    /// Frames to send.
    pub frames: Vec<driver::Frame>,
    /// Calls whose second half runs on tasks of their own.
    pub due: Vec<Due>,
    /// Calls that are answered.
    pub answers: Vec<(CallId, Result<Bytes, Status>)>,
    /// Watch messages, in order, with what to give back once the client has taken them.
    pub watch: Vec<(Subscription, Bytes, u64)>,
    /// Tokens that the gate looked at for watchers.
    pub touched: Vec<Token>,
    /// What the gate said to watchers.
    pub gated: Vec<Gated>,
    /// Reads of history on tasks of their own.
    pub history: Vec<HistoryRead<SimSnapshot>>,
    /// What consensus said of itself.
    pub changed: Vec<raft::Status>,
    /// What was given to the applier.
    pub applied: Vec<replica::Input>,
    /// What the revisions that it came to changed.
    pub changes: Vec<RevisionEvents>,
    /// What was handed to the applier, in order.
    pub handed: Vec<Handed>,
    /// The state differs from the majority's.
    pub suspected: Option<(LogIndex, u64, u64)>,
    /// This life of the member is over.
    pub fenced: bool,
    /// Members that are gone, and that this one hears no more.
    pub parted: Vec<NodeId>,
    /// The member was removed from the cluster.
    pub removed: bool,
    /// The entry that is about to be applied wrongly.
    pub tampered: Option<LogIndex>,
    /// Frames that could not be decoded.
    pub malformed: usize,
}

/// A running member. Dropping it is a crash of its process.
pub struct Process {
    driver: Driver,
    inbox: Vec<driver::Event>,
    effects: driver::Effects,
    wal: Wal<SimDisk>,
    /// Records that wait for the log's thread, and the name of the last write.
    unwritten: Vec<Record>,
    unwritten_through: Option<WriteId>,
    /// Written, not yet synced.
    syncing: Option<WriteId>,
    /// The records being synced let go of old segments.
    releases: bool,
    applier: Applier<SimBackends>,
    applier_inbox: VecDeque<applier::Input>,
    applier_effects: applier::Effects<SimSnapshot>,
    published: Arc<applier::Published<SimSnapshot>>,
    status: MemberStatus,
    settings: Settings,
    encoder: Encoder,
    calls: BTreeMap<RequestId, Visit>,
    requests: u64,
    streams: BTreeMap<StreamId, Subscription>,
    stream_ids: BTreeMap<Subscription, StreamId>,
    /// What streams wait for at the gate.
    gates: BTreeMap<StreamId, Gate>,
    opened: u64,
    /// For the tokens of sessions.
    secrets: Rng,
    /// The next value that is put is changed on its way to the applied state.
    tampers: bool,
    /// Members that are gone: their streams are refused.
    parted: BTreeSet<NodeId>,
    /// Where the last configuration stood in its log when it started.
    config_index: LogIndex,
    /// How a member without a readable log came up.
    pub found: boot::Found,
}

/// Why a member did not start.
#[derive(Debug)]
pub enum StartError {
    /// Its log.
    Boot(BootError),
    /// Its applied state.
    Open(OpenError),
    /// Its log says that it was removed.
    Removed,
}

impl StartError {
    /// Whether it might start, if the others could restore it. (The server: `launch::may_be_restored`)
    #[must_use]
    pub fn may_be_restored(&self) -> bool {
        match self {
            Self::Boot(error) => error.may_be_restored(),
            Self::Open(error) => is_damage(error),
            Self::Removed => false,
        }
    }
}

fn is_damage(error: &OpenError) -> bool {
    matches!(error, OpenError::Backend(BackendError::Damaged(_)) | OpenError::Load(_))
}

/// What tells one start from another.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The number of its machine.
    pub machine: usize,
    /// The member.
    pub member: NodeId,
    /// The initial members, as far as it is told; with a log of its own it needs none.
    pub voters: Vec<NodeId>,
    /// It is to join a cluster that runs already.
    pub joins: bool,
    /// The sets of voters that decide, as one of the others says, if any was asked.
    pub in_force: Option<Vec<Vec<NodeId>>>,
    /// How many founders there were.
    pub founders: usize,
    /// How the membership changes.
    pub churn: Option<Churn>,
    /// Its former life is over.
    pub fenced: bool,
    /// The highest feature level that its build understands.
    pub level: FeatureLevel,
    /// Settings.
    pub knobs: &'a Knobs,
    /// More of them.
    pub regime: &'a Regime,
    /// The member's clock.
    pub now: Instant,
}

impl Process {
    /// Starts a member on what its disks hold.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn start(start: &Start<'_>, disk: &SimDisk, backends: &SimBackends, rng: &mut Rng) -> Result<Self, StartError> {
        let Start { member, joins, knobs, regime, now, .. } = *start;
        let voters = start.voters.clone();
        let in_force = start.in_force.clone();
        let incarnation = Incarnation(rng.next_u64());
        let told = Told { cluster: CLUSTER, member, voters, incarnation, joins, in_force };
        let options = Options { segment_bytes: u32::try_from(knobs.segment_bytes).expect("small segments") };
        let mut booted = boot::boot(|| Ok(disk.clone()), options, &told).map_err(StartError::Boot)?;
        if start.fenced {
            booted = boot::forget(disk.clone(), options, &told, Damage::Fenced).map_err(StartError::Boot)?;
        }
        let watch = watch::Config {
            progress_interval: Duration::from_secs(5),
            stream_bytes_max: knobs.stream_bytes_max,
            ring_bytes_max: knobs.ring_bytes_max,
            history_bytes_max: knobs.history_bytes_max,
            seed: rng.next_u64(),
        };
        let open = |recovered: &Recovered| {
            let config = applier::Config {
                member: told.member,
                watch: watch.clone(),
                flush_entries: knobs.flush_batches,
                slices: knobs.slices,
                understands: start.level,
                session_ttl: regime.session_ttl,
                sessions_since: recovered.entries.last().map_or(recovered.start_index, |entry| entry.index),
            };
            Applier::open(config, backends.clone(), recovered.generation).map_err(StartError::Open)
        };
        let mut applier = match open(&booted.recovered) {
            Err(StartError::Open(reason)) if is_damage(&reason) && boot::may_lose_state(&told, &booted.recovered) => {
                backends.wipe();
                open(&booted.recovered)?
            }
            applier => applier?,
        };
        let course = boot::course(&told, &booted.recovered, applier.applied());
        match course.map_err(|missing| StartError::Boot(BootError::Damage(missing)))? {
            Course::Whole => {}
            Course::Bare(_) => applier = applier.bare(),
            Course::Anew(missing) => {
                booted = boot::forget(disk.clone(), options, &told, missing).map_err(StartError::Boot)?;
                applier = open(&booted.recovered)?;
            }
        }
        let Booted { wal, recovered, found } = booted;
        if applier.members().is_removed(member) && boot::is_removed(&recovered, applier.applied()) {
            return Err(StartError::Removed);
        }
        let config = replica_config(start, rng);
        let view = &applier.published().view;
        let applied = if applier.is_bare() { recovered.start_index } else { applier.applied() };
        let config_index = boot::config_index(&recovered);
        let mut replica = Replica::new(config, recovered, applied, &applier.leases(), applier.members(), now)
            .with_state(view.revision(), view.alarms().collect(), view.feature_level());
        if applier.is_bare() {
            replica = replica.without_state();
        }
        let responder = Responder { cluster: CLUSTER, member: told.member };
        let limits = Limits::default();
        let settings = Settings {
            responder,
            limits,
            quota_bytes: regime.quota_bytes,
            initial_cluster: Vec::new(),
            strict_reconfig_check: start.churn.is_none_or(|churn| churn.strict),
            learners_max: start.churn.map_or(1, |churn| churn.learners_max),
            election_timeout: Duration::from_nanos(knobs.election),
            wall_clock: WallClock::default(),
        };
        let status = MemberStatus {
            raft: replica.status().clone(),
            applied: applier.applied(),
            disk_bytes: 0,
            suspect: replica.is_suspect(),
        };
        Ok(Self {
            driver: Driver::new(replica),
            inbox: Vec::new(),
            effects: driver::Effects::default(),
            wal,
            unwritten: Vec::new(),
            unwritten_through: None,
            syncing: None,
            releases: false,
            published: applier.published(),
            applier,
            applier_inbox: VecDeque::new(),
            applier_effects: applier::Effects { changes: Some(Vec::new()), ..applier::Effects::default() },
            status,
            settings,
            encoder: Encoder::new(responder, limits),
            calls: BTreeMap::new(),
            requests: 0,
            streams: BTreeMap::new(),
            stream_ids: BTreeMap::new(),
            gates: BTreeMap::new(),
            opened: 0,
            secrets: rng.split(0x5EC2),
            tampers: false,
            parted: BTreeSet::new(),
            config_index,
            found,
        })
    }

    /// What consensus last said of itself.
    #[must_use]
    pub fn status(&self) -> &raft::Status {
        &self.status.raft
    }

    /// The replica, for oracles.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        self.driver.replica()
    }

    /// The published state.
    #[must_use]
    pub fn published(&self) -> &applier::Published<SimSnapshot> {
        &self.published
    }

    /// Whether the driver has something to take.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// When the driver's next turn is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.driver.deadline()
    }

    /// Whether the log's thread is idle and has something to write.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.syncing.is_none() && self.unwritten_through.is_some()
    }

    /// Whether the applier has something to take.
    #[must_use]
    pub fn can_apply(&self) -> bool {
        !self.applier_inbox.is_empty() || self.applier.has_work()
    }

    /// Whether the applier is to take over a state that came as a snapshot.
    #[must_use]
    pub fn is_to_restore(&self) -> bool {
        self.applier_inbox.iter().any(|input| matches!(input, applier::Input::Restore { .. }))
    }

    /// When the applier's next turn is due at the latest.
    #[must_use]
    pub fn applier_deadline(&self) -> Instant {
        self.applier.deadline()
    }

    /// A frame arrived.
    pub fn receive(&mut self, from: NodeId, bytes: Bytes) {
        self.inbox.push(driver::Event::Frame(from, bytes));
    }

    /// Asks consensus something that nobody waits for.
    pub fn ask(&mut self, request: replica::Request) -> RequestId {
        self.requests += 1;
        self.inbox.push(driver::Event::Request(RequestId(self.requests), request));
        RequestId(self.requests)
    }

    /// The disk is tidied.
    fn defragment(&mut self) {
        self.applier_inbox.push_back(applier::Input::Defragment);
    }

    /// Its machine's wall clock shows this, in Unix seconds.
    pub fn set_wall_clock(&mut self, seconds: u64) {
        self.settings.wall_clock = WallClock::Shows(seconds);
    }

    /// What it leaves to chance is drawn anew.
    pub fn redraw(&mut self, sample: u64) {
        self.driver.redraw(sample);
    }

    /// The next value that is put is not the one that was committed.
    pub fn tamper(&mut self) {
        self.tampers = true;
    }

    /// A scrub has found that its applied state is damaged where it is stored.
    pub fn decay(&mut self) {
        self.inbox.push(driver::Event::Input(replica::Input::Damaged));
    }

    /// Whether it has its log, and no state that the log goes on from.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.applier.is_bare()
    }

    /// What it says to those who ask it and have lost something.
    #[must_use]
    pub fn voucher(&self) -> Voucher {
        Voucher::of(self.replica().raft())
    }

    /// Whether it says that the present life of `other` is over. (The server: `peer::accept`)
    #[must_use]
    pub fn ends(&self, other: &Self) -> bool {
        let asked = other.replica().raft().identity();
        let (view, life) = (&self.published.view, (asked.member, asked.incarnation));
        let knows = !self.status.suspect && view.members().iter().next().is_some();
        knows && self.voucher().is_over(view, life, other.config_index)
    }

    /// Whether it refuses streams of `id`, which is no member any more.
    #[must_use]
    pub fn refuses(&self, id: NodeId) -> bool {
        self.parted.contains(&id)
    }

    /// Whether it dials `id`.
    #[must_use]
    pub fn dials(&self, id: NodeId) -> bool {
        let config = &self.replica().raft().status().config;
        config.members().any(|(member, _)| member == id) || self.published.view.members().get(id).is_some()
    }

    /// Whether it is a learner, and so serves no watches.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.local().is_learner()
    }

    /// A client opened a watch stream.
    pub fn subscribe(&mut self, subscription: Subscription, token: Option<Token>) {
        self.opened += 1;
        let stream = StreamId(self.opened);
        self.gates.insert(stream, Gate::of(token));
        self.streams.insert(stream, subscription);
        self.stream_ids.insert(subscription, stream);
        self.applier_inbox.push_back(applier::Input::Watch(watch::Input::Open(stream)));
    }

    /// The client took responses of so many bytes.
    pub fn taken(&mut self, subscription: Subscription, bytes: u64) {
        if let Some(&stream) = self.stream_ids.get(&subscription) {
            self.applier_inbox.push_back(applier::Input::Watch(watch::Input::Taken(stream, bytes)));
        }
    }

    /// The client closed its watch stream.
    pub fn unsubscribe(&mut self, subscription: Subscription) {
        if let Some(stream) = self.stream_ids.remove(&subscription) {
            self.streams.remove(&stream);
            self.gates.remove(&stream);
            self.applier_inbox.push_back(applier::Input::Watch(watch::Input::Close(stream)));
        }
    }

    /// The calls and watch streams that break if the process dies now.
    #[must_use]
    pub fn connections(&self) -> (Vec<CallId>, Vec<Subscription>) {
        (self.calls.values().map(|visit| visit.call).collect(), self.stream_ids.keys().copied().collect())
    }

    /// One turn of the driver.
    pub fn turn(&mut self, now: Instant, actions: &mut Actions) {
        self.driver.turn(now, &mut self.inbox, &mut self.effects);
        let effects = &mut self.effects;
        actions.frames.append(&mut effects.frames);
        self.unwritten.append(&mut effects.records);
        self.unwritten_through = effects.persist_through.take().or(self.unwritten_through);
        let term = self.driver.replica().raft().status().term;
        for input in effects.applier.drain(..) {
            match &input {
                applier::Input::Apply(entries) => actions.handed.push(Handed::Entries(term, entries.clone())),
                applier::Input::Restore { index, .. } => actions.handed.push(Handed::Snapshot(*index)),
                _ => {}
            }
            let input = match input {
                applier::Input::Apply(mut entries) if self.tampers => {
                    actions.tampered = entries.iter_mut().find_map(tamper);
                    self.tampers = actions.tampered.is_none();
                    applier::Input::Apply(entries)
                }
                input => input,
            };
            self.applier_inbox.push_back(input);
        }
        for (id, answer) in std::mem::take(&mut effects.responses) {
            // Requests of the nemesis have nobody who waits.
            if let Some(visit) = self.calls.remove(&id) {
                actions.due.push(Due { visit, answer: Some(answer) });
            } else {
                self.gate_answered(now, id, answer.map_err(Status::from), actions);
            }
        }
        let effects = &mut self.effects;
        if let Some(status) = effects.changed.last() {
            self.status.raft = status.clone();
        }
        actions.changed.append(&mut effects.changed);
        actions.suspected = effects.suspected.take();
        self.status.suspect &= !std::mem::take(&mut effects.unsuspected);
        self.status.suspect |= actions.suspected.is_some();
        actions.fenced |= std::mem::take(&mut effects.fenced);
        actions.removed |= std::mem::take(&mut effects.removed);
        self.parted.extend(&effects.parted);
        actions.parted.append(&mut effects.parted);
        effects.members = None;
        actions.malformed += effects.malformed.drain(..).count();
    }

    /// The log's thread writes everything there is; [`Process::synced`] follows a sync later. Gives the bytes' count, about.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    ///
    /// # Panics
    /// If a sync is under way.
    pub fn write(&mut self) -> io::Result<usize> {
        assert!(self.syncing.is_none(), "the log's thread does one thing at a time");
        self.syncing = self.unwritten_through.take();
        self.releases |=
            self.unwritten.iter().any(|record| matches!(record, Record::Compact { .. } | Record::Snapshot { .. }));
        let count = self.unwritten.len();
        self.wal.append(&self.unwritten)?;
        self.unwritten.clear();
        Ok(count)
    }

    /// The sync that began with [`Process::write`] ends.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    ///
    /// # Panics
    /// If none is under way.
    pub fn synced(&mut self, mark: bool) -> io::Result<()> {
        self.wal.sync()?;
        let write = self.syncing.take().expect("a sync ends once");
        self.inbox.push(driver::Event::Input(replica::Input::Persisted { write }));
        if std::mem::take(&mut self.releases) {
            self.wal.release()?;
        } else if mark && self.unwritten_through.is_none() {
            self.wal.mark()?;
        }
        Ok(())
    }

    /// One turn of the applier over at most `inputs_max` inputs.
    ///
    /// # Errors
    /// The applied state is damaged.
    pub fn apply(&mut self, now: Instant, inputs_max: usize, actions: &mut Actions) -> Result<(), OpenError> {
        let rest = self.applier_inbox.split_off(inputs_max.min(self.applier_inbox.len()));
        let result = self.applier.turn(now, &mut self.applier_inbox, &mut self.applier_effects);
        self.applier_inbox.extend(rest);
        result?;
        let effects = &mut self.applier_effects;
        if let Some(published) = effects.published.take() {
            self.status.applied = published.applied;
            self.published = published;
        }
        actions.changes.append(effects.changes.as_mut().expect("asked for at the start"));
        actions.applied.extend(effects.driver.iter().cloned());
        self.inbox.extend(effects.driver.drain(..).map(driver::Event::Input));
        let term = self.status.raft.term;
        for (stream, response) in effects.watch.drain(..) {
            let Some(&subscription) = self.streams.get(&stream) else { continue };
            let bytes = response.bytes();
            let replies = self.encoder.replies(term, response);
            let last = replies.len() - 1;
            for (n, reply) in replies.iter().enumerate() {
                let encoded = prost::Message::encode_to_vec(reply).into();
                actions.watch.push((subscription, encoded, if n == last { bytes } else { 0 }));
            }
        }
        self.encoder.end_batch();
        actions.history.append(&mut effects.history);
        effects.compacted = None;
        if let Some(job) = effects.defragment.take() {
            job().map_err(OpenError::Backend)?;
        }
        Ok(())
    }

    /// A read of history ended.
    pub fn history_read(&mut self, input: applier::Input) {
        self.applier_inbox.push_back(input);
    }

    fn local(&self) -> Local<'_> {
        Local { settings: &self.settings, status: &self.status, view: &self.published.view, rows: &self.published.rows }
    }
}

/// Changes the value that `entry` puts, if it puts one.
fn tamper(entry: &mut Entry) -> Option<LogIndex> {
    let Payload::Command(command) = &mut entry.payload else { return None };
    let mut envelope: Envelope = codec::decode(command.0.clone()).expect("the store can read it, too");
    let Command::Put(put) = &mut envelope.command else { return None };
    if put.ignore_value {
        return None;
    }
    put.value = quorate_core::Blob::from([&put.value[..], b"~"].concat());
    *command = codec::encode(&envelope);
    Some(entry.index)
}

fn replica_config(start: &Start<'_>, rng: &mut Rng) -> replica::Config {
    let Start { machine, member, knobs, regime, .. } = *start;
    let published = Published { client_urls: vec![format!("http://m{machine}:2379")], ..record(machine, member) };
    replica::Config {
        raft: raft::Config {
            heartbeat: Duration::from_nanos(knobs.heartbeat),
            election_timeout: Duration::from_nanos(knobs.election),
            seed: rng.next_u64(),
            append_bytes_max: knobs.append_bytes_max,
            inflight_messages_max: knobs.inflight_messages_max,
            inflight_bytes_max: knobs.inflight_bytes_max,
            catchup_entries: knobs.catchup_entries,
            // About as much again in bytes: logs are cut above snapshots being sent, too.
            catchup_bytes: knobs.catchup_entries << 10,
            understands: start.level,
        },
        session: Incarnation(rng.next_u64()),
        request_timeout: Duration::from_nanos(5_000_000_000 + 2 * knobs.election),
        read_retry: Duration::from_nanos(knobs.read_retry),
        apply_lag_max: 5_000,
        held_max: 1_000,
        lease_checkpoint: Duration::from_nanos(knobs.lease_checkpoint),
        auto_compaction: regime.auto_compaction,
        publish: Some(published),
        founders: if start.joins { vec![] } else { (0..start.founders).map(founder).collect() },
    }
}

fn founder(machine: usize) -> Published {
    record(machine, founder_id(machine))
}

fn record(machine: usize, id: NodeId) -> Published {
    let peer_urls = vec![peer_url(machine, 2380)];
    Published { id, name: format!("m{machine}"), peer_urls, client_urls: vec![], is_learner: false }
}
