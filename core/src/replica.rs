//! One member around consensus: requests and forwarding, read waits, lease timing, the snapshot lane, hash exchange.
//!
//! [`Replica::step`] never touches stored values and takes no long work on itself; what is long or needs the state goes
//! to the applier as an [`Output`] and comes back as an [`Input`].

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::auth::Author;
use crate::command::{Command, Outcome};
use crate::entry::{Entry, Record, Recovered};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::raft::{self, Raft, Role};
use crate::request::{Alarm, Member};
use crate::store::{Applied, LeaseRecord, Members};
use crate::{
    Blob, FeatureLevel, Generation, Incarnation, Instant, LeaseId, LogIndex, NodeId, RequestId, Revision, Term, Ttl,
    WriteId,
};

pub mod lease_clock;

mod compactor;
mod fence;
mod hashes;
mod lease;
mod level;
mod membership;
mod peer;
mod proposal;
mod read;
mod snapshot;
mod wait;

pub use compactor::AutoCompaction;
pub use peer::{LeaderAnswer, LeaderQuestion, PeerMessage, SnapshotChunk, SnapshotId};

use compactor::Compactor;
use fence::Fence;
use hashes::Hashes;
use lease::{Asker, Leases};
use level::Level;
use membership::Membership;
use proposal::Proposals;
use read::{Reads, Then};
use snapshot::{Receiver, Sender};
use wait::Waits;

/// Requests that may wait for their answers; more are refused.
const WAITING_MAX: usize = 100_000;

/// What does not change while a member runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Consensus.
    pub raft: raft::Config,
    /// This process's life, drawn at random at each start: it names this process's proposals.
    pub session: Incarnation,
    /// How long a request may wait before it is given up with an unknown outcome. (etcd: 5 s + 2 election timeouts)
    pub request_timeout: Duration,
    /// A read round without answer is asked afresh after this. (etcd: 500 ms)
    pub read_retry: Duration,
    /// Committed entries that may wait to be applied before new proposals are refused. (etcd: 5000)
    pub apply_lag_max: u64,
    /// Proposals a member holds while it knows no leader.
    pub held_max: usize,
    /// Leases longer than this have their remaining TTL written down this often. (etcd: 5 min)
    pub lease_checkpoint: Duration,
    /// How much history is kept, if the leader compacts by itself.
    pub auto_compaction: Option<AutoCompaction>,
    /// What this member tells about itself once it has started; nothing if `None`.
    pub publish: Option<Member>,
    /// The members that founded the cluster, as far as this one was told: the first leader has them recorded.
    pub founders: Vec<Member>,
}

/// What a client's request asks of consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Replicate and apply; answered by [`Response::Outcome`].
    Command(Command),
    /// The same on somebody's behalf. Where authentication is on, most commands of nobody are refused.
    CommandBy(Author, Command),
    /// Wait until everything acknowledged anywhere before now is applied here; answered by [`Response::Readable`].
    ReadIndex,
    /// Renew a lease; the leader does it once it has confirmed that it leads.
    KeepAlive(LeaseId),
    /// How much of a lease is left, by the leader's clock. What it says is applied here before the answer.
    TimeToLive(LeaseId),
    /// Hand leadership over; answered once the new leader is known. Refused unless this member leads.
    Transfer(NodeId),
}

/// What a request is answered, if it is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a command.
    Outcome(Outcome),
    /// To a read index: the published view is recent enough.
    Readable,
    /// To a keep-alive: the granted TTL, or `None` if there is no such lease (any more).
    KeptAlive(Option<Ttl>),
    /// To a time-to-live: granted and remaining TTL, or `None` if there is no such lease.
    TimeToLive(Option<(Ttl, Ttl)>),
    /// To a transfer.
    Transferred,
}

/// Everything that can happen to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `message` arrived from a peer: late, twice or out of order, but never altered.
    Receive {
        /// The sender.
        from: NodeId,
        /// What it sent.
        message: PeerMessage,
    },
    /// A peer opened a stream to this member.
    Called {
        /// Who did.
        from: NodeId,
    },
    /// Clients ask; each is answered by one [`Output::Respond`].
    Requests(Vec<(RequestId, Request)>),
    /// All writes up to and including `write` are on stable storage.
    Persisted {
        /// The latest of them.
        write: WriteId,
    },
    /// Entries were applied and published.
    Applied {
        /// What it did.
        applied: Applied,
        /// The applied index that a crash now would leave.
        durable: LogIndex,
    },
    /// Answer to [`Output::Restore`]: the state of the snapshot is published.
    Restored {
        /// Its applied index.
        index: LogIndex,
        /// Its leases.
        leases: Vec<LeaseRecord>,
        /// Its state hash, for checkers.
        hash: u64,
        /// Its revision.
        revision: Revision,
        /// Its alarms.
        alarms: Vec<Alarm>,
        /// Its members.
        members: Arc<Members>,
        /// Its feature level.
        level: FeatureLevel,
    },
    /// Answer to [`Output::ReadSnapshot`].
    SnapshotRead {
        /// The question.
        snapshot: SnapshotId,
        /// The follower it is for.
        to: NodeId,
        /// The applied index of the picture, and its term.
        index: LogIndex,
        /// See `index`.
        term: Term,
        /// Its next rows, in key order.
        rows: Vec<(Blob, Blob)>,
        /// Nothing follows.
        last: bool,
    },
    /// Answer to [`Output::WriteSnapshot`]: these rows, and if it was the last chunk all of them durably, are stored.
    SnapshotWritten {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The chunk.
        sequence: u64,
        /// The folder.
        generation: Generation,
    },
    /// Hand leadership to whoever can take it: this member is about to stop.
    StepDown,
    /// The applied state is damaged where it is stored. This life is to be ended, in its turn, once the others can do without.
    Damaged,
    /// Nothing but time: `now` has reached [`Replica::deadline`].
    Wake,
}

/// Everything a member can ask of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send, at most once, whenever convenient.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to send; [`PeerMessage::is_bulk`] says whether it goes on the snapshot lane.
        message: PeerMessage,
    },
    /// Store durably, in the order of `write`; then answer with [`Input::Persisted`].
    Persist {
        /// The write's name.
        write: WriteId,
        /// What to append to the log file.
        records: Vec<Record>,
    },
    /// Apply in order; answered by [`Input::Applied`].
    Apply {
        /// Committed and durable here, contiguous.
        entries: Vec<Entry>,
    },
    /// Replace the applied state by the one in `generation`; answered by [`Input::Restored`].
    Restore {
        /// The snapshot's last index.
        index: LogIndex,
        /// Where its rows are.
        generation: Generation,
    },
    /// Read the next rows of a picture of the applied state; answered by [`Input::SnapshotRead`]. The picture is taken at
    /// the first question of this name and let go after the last one, or after [`Output::DropSnapshot`].
    ReadSnapshot {
        /// The picture's name.
        snapshot: SnapshotId,
        /// The follower it is for.
        to: NodeId,
    },
    /// The picture is not needed any more.
    DropSnapshot {
        /// The picture's name.
        snapshot: SnapshotId,
    },
    /// Store rows of a snapshot being received in a folder of their own; chunk 0 starts it afresh. Answered by
    /// [`Input::SnapshotWritten`].
    WriteSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The chunk's number, from 0 without gaps.
        sequence: u64,
        /// Rows in key order.
        rows: Vec<(Blob, Blob)>,
        /// All rows are there: make them durable before answering.
        last: bool,
    },
    /// Nothing more comes of a snapshot being received, or it is not needed: what is stored of it may go.
    AbandonSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Answer a client.
    Respond {
        /// The request.
        id: RequestId,
        /// Its answer.
        result: Result<Response, Error>,
    },
    /// Role, term, leader or standing changed.
    Changed(raft::Status),
    /// The members changed: messages go to these from now on, too.
    Members(Arc<Members>),
    /// This member was removed, and takes part in nothing any more: soon, no messages go there, and none come from there.
    Parted(NodeId),
    /// This member was removed from the cluster, which is committed: it has no part in anything any more.
    Removed,
    /// This member's applied state differs from the majority's: it has stopped serving, reads of its published state
    /// included, which are the driver's to refuse.
    Suspected {
        /// Where the hashes were compared.
        index: LogIndex,
        /// This member's hash.
        ours: u64,
        /// The majority's.
        theirs: u64,
    },
    /// The state that was wrong is replaced: this member serves again.
    Unsuspected,
    /// This life of this member is over: it does nothing any more. It is to be started again with a new life, as if its
    /// disk had been lost.
    Fenced,
}

/// One member.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    member: NodeId,
    now: Instant,
    raft: Raft,
    /// Outputs of `raft` on their way through [`Replica::consensus`]; empty between steps.
    scratch: Vec<raft::Output>,
    /// What consensus last said of itself.
    status: raft::Status,
    /// Everything up to here is applied and published.
    applied: LogIndex,
    waits: Waits,
    proposals: Proposals,
    reads: Reads,
    leases: Leases,
    membership: Membership,
    /// A leadership transfer that a client waits for, and to whom.
    transfer: Option<(RequestId, NodeId)>,
    senders: BTreeMap<NodeId, Sender>,
    snapshots_sent: u64,
    receiver: Option<Receiver>,
    hashes: Hashes,
    fence: Fence,
    /// This life is over.
    fenced: bool,
    /// The store's revision.
    revision: Revision,
    compactor: Compactor,
    level: Level,
}

impl Replica {
    /// A member as it starts, from what its log holds and its applied state: the last applied index, and the leases and
    /// members there.
    #[must_use]
    pub fn new(
        config: Config,
        recovered: Recovered,
        applied: LogIndex,
        leases: &[LeaseRecord],
        members: Arc<Members>,
        now: Instant,
    ) -> Self {
        let member = recovered.identity.member;
        let raft = Raft::new(config.raft.clone(), recovered, applied, now);
        let status = raft.status().clone();
        Self {
            member,
            now,
            status,
            raft,
            scratch: Vec::new(),
            applied,
            waits: Waits::default(),
            proposals: Proposals::new(member, &config),
            reads: Reads::default(),
            leases: Leases::new(&config, leases),
            membership: Membership::new(members),
            transfer: None,
            senders: BTreeMap::new(),
            snapshots_sent: 0,
            receiver: None,
            hashes: Hashes::default(),
            fence: Fence::new(now),
            fenced: false,
            revision: Revision(0),
            compactor: Compactor::new(config.auto_compaction, now),
            level: Level::default(),
            config,
        }
    }

    /// What else its applied state says as it starts: the revision, the alarms that are on, and the feature level.
    #[must_use]
    pub fn with_state(mut self, revision: Revision, alarms: Vec<Alarm>, level: FeatureLevel) -> Self {
        self.revision = revision;
        self.level.applied(level);
        self.alarms_changed(alarms);
        self
    }

    /// It has its log, and no state that the log goes on from; `applied` is where the log starts. It votes, acknowledges
    /// and, if it is elected, gives leadership away; it serves nobody, and says that this life is to be ended. Whoever drives
    /// it answers no [`Output::Apply`] and no [`Output::ReadSnapshot`] before an [`Output::Restore`].
    #[must_use]
    pub fn without_state(mut self) -> Self {
        self.fence.state_lost();
        self.raft.set_damaged(true);
        self
    }

    /// Whether its state is known to be wrong, or lost: it serves nobody.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.fence.is_suspect()
    }

    /// Takes one input at time `now` and appends what must be done about it to `out`.
    ///
    /// Every output may be carried out at once; one that depends on a write comes only after it is persisted.
    ///
    /// # Panics
    /// If `now` runs backwards, or an invariant is broken.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        assert!(now >= self.now, "clock ran backwards: {now:?} < {:?}", self.now);
        self.now = now;
        if self.fenced {
            self.refuse_all(input, out);
            return;
        }
        match input {
            Input::Receive { from, message } => self.receive(from, message, out),
            Input::Requests(requests) => {
                for (id, request) in requests {
                    self.request(id, request, out);
                }
            }
            Input::Persisted { write } => self.consensus(raft::Input::Persisted { write }, out),
            Input::Applied { applied, durable } => self.applied(applied, durable, out),
            Input::Restored { index, leases, hash: _, revision, alarms, members, level } => {
                self.revision = revision;
                self.level.applied(level);
                self.state_replaced(alarms, out);
                self.restored(index, &leases, &members, out);
            }
            Input::SnapshotRead { snapshot, to, index, term, rows, last } => {
                self.snapshot_read(snapshot, to, (index, term), rows, last, out);
            }
            Input::SnapshotWritten { snapshot, sequence, generation } => {
                self.snapshot_written(snapshot, sequence, generation, out);
            }
            Input::StepDown => self.consensus(raft::Input::Transfer { to: None }, out),
            Input::Called { from } => self.consensus(raft::Input::Called { from }, out),
            Input::Damaged => self.damage_found(),
            Input::Wake => {}
        }
        self.pass_time(out);
        self.run_members(out);
        self.raise_level(out);
        self.flush_proposals(out);
        self.flush_reads(out);
        self.clear_checkpoints(out);
        self.check();
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        if self.fenced {
            return Instant::FAR;
        }
        [
            self.raft.deadline(),
            self.waits.deadline(),
            self.reads.deadline(&self.config),
            self.leases.deadline(&self.config),
            self.proposals.deadline(),
            self.compactor.deadline(),
            self.fence_deadline(),
            self.senders.values().map(Sender::deadline).min().unwrap_or(Instant::FAR),
            self.receiver.as_ref().map_or(Instant::FAR, Receiver::deadline),
        ]
        .into_iter()
        .min()
        .expect("the list is not empty")
    }

    /// Role, term, leader, standing and indexes of consensus.
    #[must_use]
    pub fn status(&self) -> &raft::Status {
        &self.status
    }

    /// Everything up to here is applied and published.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.applied
    }

    /// [`Raft::redraw`]
    pub fn redraw(&mut self, number: u64) {
        self.raft.redraw(number);
    }

    /// Consensus itself, for checkers.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What is in memory on behalf of clients, whether they still wait or not: bytes of commands, about, and reads. For
    /// checkers.
    #[must_use]
    pub fn kept_for_clients(&self) -> (u64, usize) {
        (self.proposals.bytes(), self.reads.len())
    }

    fn leads(&self) -> bool {
        self.status.role == Role::Leader
    }

    /// The leader, if it is another member.
    fn remote_leader(&self) -> Option<NodeId> {
        self.status.leader.filter(|&leader| leader != self.member)
    }

    fn receive(&mut self, from: NodeId, message: PeerMessage, out: &mut Vec<Output>) {
        // Two removed members would turn each other away for ever, as fast as the network is.
        if message != PeerMessage::Removed && self.turn_away(from, out) {
            return;
        }
        match message {
            PeerMessage::Raft(message) => self.consensus(raft::Input::Receive { from, message }, out),
            PeerMessage::Forward { commands, hops } => self.forwarded(from, commands, hops),
            PeerMessage::ReadIndex { read, session } => self.read_asked(from, read, session, out),
            PeerMessage::ReadIndexReply { read, session, index } => self.read_answered(read, session, index, out),
            PeerMessage::Lease { question, session, ask } => self.leader_asked(from, question, session, ask, out),
            PeerMessage::LeaseReply { question, session, answer } => {
                self.leader_answered(question, session, answer, out);
            }
            PeerMessage::Hashes { life, hashes, asks } => {
                let told = self.hashes.heard(from, life, &hashes, asks);
                self.tell_hashes(told, false, out);
                self.judge(out);
            }
            PeerMessage::Snapshot(chunk) => self.snapshot_chunk(from, chunk, out),
            PeerMessage::SnapshotAck { snapshot, sequence, installed } => {
                self.snapshot_acked(from, snapshot, sequence, installed, out);
            }
            PeerMessage::Removed => self.told_removed(out),
        }
    }

    fn request(&mut self, id: RequestId, request: Request, out: &mut Vec<Output>) {
        if self.waits.len() >= WAITING_MAX || self.fence.is_suspect() {
            let error = if self.fence.is_suspect() { Error::Stopped } else { Error::TooManyRequests };
            return out.push(Output::Respond { id, result: Err(error) });
        }
        self.waits.open(id, self.now, self.now + self.config.request_timeout);
        match request {
            Request::Command(Command::Members(change)) => self.change_members(id, Author::Nobody, change, out),
            Request::CommandBy(author, Command::Members(change)) => self.change_members(id, author, change, out),
            Request::Command(command) => self.propose(id, Author::Nobody, command, out),
            Request::CommandBy(author, command) => self.propose(id, author, command, out),
            Request::ReadIndex => self.reads.queue(Then::Client(id)),
            Request::KeepAlive(lease) => self.ask_leader(id, LeaderQuestion::KeepAlive(lease), out),
            Request::TimeToLive(lease) => self.ask_leader(id, LeaderQuestion::TimeToLive(lease), out),
            Request::Transfer(to) => self.start_transfer(id, to, out),
        }
    }

    fn respond(&mut self, id: RequestId, result: Result<Response, Error>, out: &mut Vec<Output>) {
        self.membership.forget(id);
        if self.waits.close(id) {
            out.push(Output::Respond { id, result });
        }
    }

    /// Hands one input to consensus and carries out what it asks for.
    fn consensus(&mut self, input: raft::Input, out: &mut Vec<Output>) {
        let mut outputs = core::mem::take(&mut self.scratch);
        self.raft.step(self.now, input, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                raft::Output::Send { to, message } => {
                    out.push(Output::Send { to, message: PeerMessage::Raft(message) });
                }
                raft::Output::Persist { write, records } => out.push(Output::Persist { write, records }),
                raft::Output::Commit { entries } => out.push(Output::Apply { entries }),
                raft::Output::Restore { index, generation } => out.push(Output::Restore { index, generation }),
                raft::Output::Unneeded { .. } => self.abandon_snapshot(out),
                raft::Output::ReadReady { read, index } => self.read_ready(read, index, out),
                raft::Output::ReadLost { read } => self.read_lost(read, out),
                raft::Output::Rejected { commands } => {
                    self.proposals.rejected(commands, self.now + self.config.read_retry)
                }
                raft::Output::NeedsSnapshot { to } => self.start_snapshot(to, out),
                raft::Output::Changed(status) => self.changed(status, out),
            }
        }
        self.scratch = outputs;
    }

    fn changed(&mut self, status: raft::Status, out: &mut Vec<Output>) {
        let before = core::mem::replace(&mut self.status, status.clone());
        if before.leader != status.leader || before.term != status.term {
            if before.leader.is_some() && status.leader != before.leader {
                self.waits.leader_lost(self.now);
                if mutant::is_on(Mutant::R41) {
                    for id in self.proposals.waiting_ids() {
                        self.respond(id, Err(Error::TooManyRequests), out);
                    }
                }
            }
            self.proposals.leader_changed(status.leader);
            self.reads.leader_changed();
            self.leases.leader_changed();
            if let (Some((id, to)), Some(leader)) = (self.transfer, status.leader) {
                self.transfer = None;
                let arrived = if leader == to { Ok(Response::Transferred) } else { Err(Error::TimeoutLeaderTransfer) };
                self.respond(id, arrived, out);
            }
        }
        if before.role == Role::Leader && status.role != Role::Leader {
            self.leases.demote();
            self.demote_fence();
            self.drop_senders(out);
        }
        out.push(Output::Changed(status));
    }

    fn applied(&mut self, applied: Applied, durable: LogIndex, out: &mut Vec<Output>) {
        assert!(applied.index >= self.applied, "applied {} after {}", applied.index, self.applied);
        self.applied = applied.index;
        self.revision = applied.revision;
        for (origin, result) in applied.results {
            match (self.proposals.applied(&origin), result) {
                (Some(id), Ok(Outcome::Members(members))) => self.membership.done(id, members),
                (Some(id), result) => self.respond(id, result.map(Response::Outcome), out),
                (None, _) => {}
            }
        }
        for change in &applied.leases {
            self.lease_changed(change, out);
        }
        if self.leads() && applied.term == self.status.term {
            self.leases.promote(self.now);
        }
        self.membership.applied(applied.term);
        self.level.applied(applied.level);
        if let Some(members) = &applied.members {
            self.members_changed(members, out);
        }
        self.readable(out);
        self.alarms_applied(applied.index, applied.alarms, out);
        self.consensus(raft::Input::Applied { index: applied.index, durable }, out);
        let told = self.hashes.applied(&applied.hashes);
        self.tell_hashes(told, false, out);
    }

    fn restored(&mut self, index: LogIndex, leases: &[LeaseRecord], members: &Arc<Members>, out: &mut Vec<Output>) {
        assert!(index >= self.applied, "restored {index} after {}", self.applied);
        self.applied = index;
        self.leases.reset(leases);
        if !mutant::is_on(Mutant::R22) {
            self.members_changed(members, out);
        }
        self.snapshot_installed(index, out);
        self.readable(out);
        self.consensus(raft::Input::Applied { index, durable: index }, out);
    }

    /// All other members of the configuration.
    fn peers(&self) -> Vec<NodeId> {
        let config = &self.status.config;
        let mut peers: Vec<NodeId> = config.members().map(|(id, _)| id).collect();
        peers.sort_unstable();
        peers.dedup();
        peers.retain(|&peer| peer != self.member);
        peers
    }

    /// A fenced member serves nobody and takes part in nothing.
    fn refuse_all(&mut self, input: Input, out: &mut Vec<Output>) {
        if let Input::Requests(requests) = input {
            out.extend(requests.into_iter().map(|(id, _)| Output::Respond { id, result: Err(Error::Stopped) }));
        }
    }

    fn start_transfer(&mut self, id: RequestId, to: NodeId, out: &mut Vec<Output>) {
        let refused = if !self.leads() {
            Some(Err(Error::NotLeader))
        } else if to == self.member {
            Some(Ok(Response::Transferred))
        } else if !self.status.config.voters.contains_key(&to) {
            Some(Err(Error::BadLeaderTransferee))
        } else if self.transfer.is_some() {
            Some(Err(Error::TimeoutLeaderTransfer))
        } else {
            None
        };
        match refused {
            Some(result) => self.respond(id, result, out),
            None => {
                self.transfer = Some((id, to));
                self.consensus(raft::Input::Transfer { to: Some(to) }, out);
            }
        }
    }

    fn pass_time(&mut self, out: &mut Vec<Output>) {
        if self.now >= self.raft.deadline() {
            self.consensus(raft::Input::Wake, out);
        }
        let leader_known = self.status.leader.is_some();
        while let Some((id, error)) = self.waits.overdue(self.now, leader_known) {
            let transferring = self.transfer.is_some_and(|(waiting, _)| waiting == id);
            let error = if transferring { Error::TimeoutLeaderTransfer } else { error };
            if transferring {
                self.transfer = None;
            }
            self.forget(id);
            out.push(Output::Respond { id, result: Err(error) });
        }
        self.proposals.drop_given_up();
        self.retry_reads();
        self.run_leases(out);
        self.run_compactor(out);
        self.publish();
        self.run_fence(out);
        self.retry_snapshots(out);
    }

    /// Nobody waits for the answer to `id` any more.
    fn forget(&mut self, id: RequestId) {
        self.proposals.forget(id);
        self.leases.forget(id);
        self.membership.forget(id);
        let (waits, leads) = (&self.waits, self.leads());
        self.reads.forget_one(|then| match then {
            Then::Client(id) | Then::Lease(Asker::Client(id), _) => waits.is_open(*id),
            Then::Lease(Asker::Peer { .. }, _) => leads,
        });
    }

    fn check(&self) {
        let commit = self.raft.status().commit;
        assert!(self.applied <= commit, "applied {} > commit {commit}", self.applied);
        assert!(self.scratch.is_empty(), "{} outputs of consensus were not carried out", self.scratch.len());
    }
}
