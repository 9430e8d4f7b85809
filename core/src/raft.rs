//! Consensus: one member's part in agreeing on the log. (Raft, Ongaro & Ousterhout 2014; thesis, Ongaro 2014)
//!
//! A pure machine: [`Raft::step`] takes one input at a time and appends what must be done about it to `out`. It holds
//! back every output that depends on a write until that write is [`Input::Persisted`], so a driver cannot lose data by
//! acting in the wrong order.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::entry::{Configuration, Entry, HardState, Identity, RESTORED, Record, Recovered, Standing};
use crate::mutant::{self, Mutant};
use crate::rng::Rng;
use crate::{Blob, FeatureLevel, Generation, Incarnation, Instant, LogIndex, NodeId, Term, WriteId};

/// What does not change while a member runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The leader's interval between heartbeats.
    pub heartbeat: Duration,
    /// Without word from a leader for this long, up to twice as long, a voter campaigns.
    pub election_timeout: Duration,
    /// All of this machine's randomness.
    pub seed: u64,
    /// Entry bytes one append message may carry; one entry always fits.
    pub append_bytes_max: u64,
    /// Append messages sent to one follower and not yet answered.
    pub inflight_messages_max: u64,
    /// Entry bytes sent to one follower and not yet answered.
    pub inflight_bytes_max: u64,
    /// Entries kept behind the applied index for followers that lag, before they need a snapshot.
    pub catchup_entries: u64,
    /// Bytes of entries kept in memory behind the applied index, beside what waits to be durable in the applied state and
    /// what a follower that is receiving a snapshot will need.
    pub catchup_bytes: u64,
    /// The highest feature level that this member understands. It only tells its leader.
    pub understands: FeatureLevel,
}

/// Everything that can happen to consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `message` arrived from a peer: late, twice or out of order, but never altered.
    Receive {
        /// The sender.
        from: NodeId,
        /// What it sent.
        message: Message,
    },
    /// A peer opened a stream to this member. That says something to one that does not know yet whether the cluster is new;
    /// others have no use for it.
    Called {
        /// Who did.
        from: NodeId,
    },
    /// Replicate these commands, in order. Ignored with [`Output::Rejected`] unless this member is a leader that
    /// takes proposals.
    Propose {
        /// Encoded [`crate::command::Envelope`]s.
        commands: Vec<Blob>,
    },
    /// Confirm that this member still leads; answered by [`Output::ReadReady`] or [`Output::ReadLost`].
    ReadIndex {
        /// The caller's name for the question.
        read: u64,
    },
    /// Bring the configuration to this, step by step, for as long as this member leads. Ignored unless it does.
    Target(Target),
    /// Hand leadership to `to` (or, if `None`, to the most up-to-date voter). Nothing happens unless this member leads.
    Transfer {
        /// The next leader.
        to: Option<NodeId>,
    },
    /// All writes up to and including `write` are on stable storage.
    Persisted {
        /// The latest of them.
        write: WriteId,
    },
    /// Everything up to `index` was applied. With [`Config::catchup_entries`] it bounds how much log is kept.
    Applied {
        /// The applied index.
        index: LogIndex,
        /// The applied index that would survive a crash now: the log is never cut above it.
        durable: LogIndex,
    },
    /// A snapshot from the leader is complete and durable in folder `generation`: replace the log by it.
    Install {
        /// The last index it contains.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The configuration at `index`.
        config: Configuration,
        /// Where the rows are.
        generation: Generation,
    },
    /// The snapshot lane to `to` carried so much more, and `to` has stored it.
    SnapshotCarried {
        /// The follower.
        to: NodeId,
        /// Bytes of rows.
        bytes: u64,
    },
    /// The snapshot lane to `to` ended: the follower now has `index`, or nothing if `None`.
    SnapshotSent {
        /// The follower.
        to: NodeId,
        /// What it has durably installed.
        index: Option<LogIndex>,
    },
    /// Nothing but time: `now` has reached [`Raft::deadline`].
    Wake,
}

/// Everything consensus can ask of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send, at most once, whenever convenient.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to send.
        message: Message,
    },
    /// Store durably, in the order of `write`; then answer with [`Input::Persisted`].
    Persist {
        /// The write's name, ascending.
        write: WriteId,
        /// What to append to the log file.
        records: Vec<Record>,
    },
    /// These entries are committed and durable here; apply them in order. Each index comes once, without gaps.
    Commit {
        /// What to apply.
        entries: Vec<Entry>,
    },
    /// Record::Snapshot is durable: from now on the applied state is the one in folder `generation`.
    Restore {
        /// The snapshot's last index.
        index: LogIndex,
        /// Where the rows are.
        generation: Generation,
    },
    /// An [`Input::Install`] came too late to be of use: folder `generation` can be deleted.
    Unneeded {
        /// The folder.
        generation: Generation,
    },
    /// This leader was confirmed after `read` was asked: a read at `index` or later is linearizable.
    ReadReady {
        /// The question.
        read: u64,
        /// What must be applied before the read.
        index: LogIndex,
    },
    /// This member cannot confirm that it leads (any more): ask again elsewhere.
    ReadLost {
        /// The question.
        read: u64,
    },
    /// These proposals were not appended: they will never take effect.
    Rejected {
        /// As given in [`Input::Propose`].
        commands: Vec<Blob>,
    },
    /// `to` is so far behind that the log no longer reaches it: start the snapshot lane.
    NeedsSnapshot {
        /// The follower.
        to: NodeId,
    },
    /// The role, the term, the known leader, the standing or the configuration changed.
    Changed(Status),
}

/// What a member does in its term. (Raft §5.1)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows, learners and amnesiacs too.
    Follower,
    /// Asks whether an election could be won, without disturbing anyone. (Raft thesis §9.6)
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Replicates.
    Leader,
}

/// What others may know of a member's consensus state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Current term.
    pub term: Term,
    /// Role in it.
    pub role: Role,
    /// Its leader, once known.
    pub leader: Option<NodeId>,
    /// How far this member's disk may be believed.
    pub standing: Standing,
    /// Highest committed index known.
    pub commit: LogIndex,
    /// Last index of the log, durable or not.
    pub last: LogIndex,
    /// The configuration in force: the latest in the log.
    pub config: Configuration,
}

mod election;
mod log;
mod membership;
pub mod message;
mod progress;
mod quorum;
mod read_index;
mod reconfigure;
mod replication;
mod snapshot;

pub use message::{Body, Message};
pub use reconfigure::{Target, UNKNOWN};

use log::Log;
use membership::Greetings;
use progress::Progress;

/// One member's consensus state.
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    identity: Identity,
    now: Instant,
    rng: Rng,
    /// The first step has been taken.
    is_started: bool,
    /// As last announced by [`Output::Changed`], but with current indexes.
    status: Status,

    // Persistent state (Raft figure 2); in memory it may be ahead of the disk.
    /// Never falls.
    term: Term,
    /// Set once per term.
    vote: Option<NodeId>,
    log: Log,

    // Volatile state.
    role: Role,
    /// `applied <= given <= commit <= last`; never falls.
    commit: LogIndex,
    /// Given out by [`Output::Commit`] up to here. `given <= durable`, unless a restore is under way.
    given: LogIndex,
    /// The log is known to equal that of this term's leader up to here. `commit <= received <= last`
    received: LogIndex,
    /// The leader of `term`, if known.
    leader_id: Option<NodeId>,
    /// When the leader was last heard.
    heard: Option<Instant>,
    election_deadline: Instant,
    /// Who answered our (pre-)candidacy, with which life of its disk, and what.
    votes: BTreeMap<NodeId, (Incarnation, bool)>,
    /// Present exactly while `role` is Leader.
    leader: Option<Box<Leader>>,
    /// While Fresh: what others say.
    greetings: Greetings,
    /// The lives of others that were heard of in this member's own genesis.
    genesis: BTreeMap<NodeId, Incarnation>,
    /// A change of standing that is being written.
    becoming: Option<Becoming>,
    /// The state that the log is applied to is damaged, or lost: leaders are told.
    is_damaged: bool,

    // Writes.
    /// What this step adds to the log file; it is written as `next_write`.
    records: Vec<Record>,
    next_write: WriteId,
    persisted: WriteId,
    /// `term` or `vote` changed in this step.
    is_promise_new: bool,
    /// The write that holds `term` and `vote`.
    promised: WriteId,
    /// The commit index that was last written.
    hint: LogIndex,
    /// Outputs that wait for a write.
    held: Vec<(WriteId, Output)>,
}

/// What only a leader has.
#[derive(Clone, Debug)]
struct Leader {
    /// Every other member of the latest configuration, and those who have just left it.
    peers: BTreeMap<NodeId, Progress>,
    /// Those of `peers` who are no members any more, and until when they are told.
    departing: BTreeMap<NodeId, Instant>,
    /// Who should take part, as long as that is not reached.
    target: Option<Target>,
    /// The first entry of this leadership.
    term_start: LogIndex,
    heartbeat_deadline: Instant,
    /// From when on a quorum must have been heard within an election timeout.
    quorum_deadline: Instant,
    /// The last heartbeat round.
    round: u64,
    /// Rounds that reads wait for, ascending.
    rounds: VecDeque<Round>,
    /// Reads that wait for the next round to begin.
    reads: Vec<u64>,
    transfer: Option<Transfer>,
}

/// Reads that wait for one heartbeat round (or a later one) to be answered by a quorum.
#[derive(Clone, Debug)]
struct Round {
    round: u64,
    /// The commit index when it began.
    index: LogIndex,
    reads: Vec<u64>,
}

/// Leadership is being handed over; no proposals are taken meanwhile.
#[derive(Clone, Debug)]
struct Transfer {
    to: NodeId,
    /// When it is given up.
    deadline: Instant,
    /// It was told to campaign.
    told: bool,
}

/// A change of standing that is being written.
#[derive(Clone, Debug)]
struct Becoming {
    write: WriteId,
    standing: Standing,
    /// The first configuration, if this is the cluster's beginning.
    genesis: Option<Configuration>,
}

/// What every message of this member says about its sender.
#[derive(Clone, Copy, Debug)]
struct Header {
    term: Term,
    incarnation: Incarnation,
    trusted: bool,
}

impl Header {
    fn with(self, body: Body) -> Message {
        let Self { term, incarnation, trusted } = self;
        Message { term, incarnation, trusted, body }
    }
}

/// What a leader takes a follower for having.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Whose log.
    pub member: NodeId,
    /// Of which life of its disk.
    pub life: Incarnation,
    /// How often this leader has heard another life than before, and forgot what it took that one for having.
    pub renewals: u64,
    /// It equals the leader's up to here, durably.
    pub index: LogIndex,
}

impl Raft {
    /// A member as it starts, from what its log holds. Nothing is sent before the first [`Raft::step`].
    ///
    /// `applied` is the applied index of its backend: entries up to it are not given out again.
    ///
    /// # Panics
    /// If `recovered` has gaps, or `applied` is outside of it: the log never ends before what was applied (a member
    /// that lost its log must empty its backend too), and never starts after it.
    #[must_use]
    pub fn new(config: Config, recovered: Recovered, applied: LogIndex, now: Instant) -> Self {
        let Recovered { identity, hard_state, start_index, start_term, config: initial, entries, .. } = recovered;
        let mut log = Log::new(start_index, start_term, initial, entries);
        log.check_deep();
        assert!(applied >= start_index, "applied {applied}, but the log starts after {start_index}");
        assert!(applied <= log.last(), "applied {applied}, but the log ends at {}", log.last());
        log.set_applied(applied);
        let commit = hard_state.commit.min(log.last()).max(applied);
        let is_first = start_index == LogIndex(0) || (start_index, start_term) == RESTORED;
        let is_genesis_kept = identity.standing == Standing::Trusted && is_first;
        let genesis = if is_genesis_kept { log.config_at(start_index).1.voters.clone() } else { BTreeMap::new() };
        let forgets = mutant::is_on(Mutant::R04);
        let term = if forgets { log.last_term() } else { hard_state.term.max(log.last_term()) };
        let status = Status {
            term,
            role: Role::Follower,
            leader: None,
            standing: identity.standing,
            commit,
            last: log.last(),
            config: log.config().clone(),
        };
        let rng = Rng::new(config.seed).split(identity.member.0);
        let mut raft = Self {
            config,
            identity,
            now,
            rng,
            is_started: false,
            status,
            term,
            vote: if term == hard_state.term && !forgets { hard_state.vote } else { None },
            log,
            role: Role::Follower,
            commit,
            given: applied,
            received: commit,
            leader_id: None,
            heard: None,
            election_deadline: now,
            votes: BTreeMap::new(),
            leader: None,
            greetings: Greetings::default(),
            genesis,
            becoming: None,
            is_damaged: false,
            records: Vec::new(),
            next_write: WriteId(1),
            persisted: WriteId(0),
            is_promise_new: false,
            promised: WriteId(0),
            hint: hard_state.commit.min(commit),
            held: Vec::new(),
        };
        raft.reset_election_deadline();
        if raft.log.config().voters.len() == 1 {
            raft.election_deadline = now; // Nobody to wait for.
        }
        raft
    }

    /// Takes one input at time `now` and appends what must be done about it to `out`.
    ///
    /// Every output may be carried out at once: one that depends on a write is held back until that write is
    /// [`Input::Persisted`].
    ///
    /// # Panics
    /// If `now` runs backwards, or an invariant of consensus is broken.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        assert!(now >= self.now, "clock ran backwards: {now:?} < {:?}", self.now);
        self.now = now;
        self.is_started = true;
        self.overhear(&input); // Before the time is looked at: it may have waited while this member was held up.
        self.tick(out);
        match input {
            Input::Receive { from, message } => self.receive(from, message, out),
            Input::Propose { commands } => self.propose(commands, out),
            Input::ReadIndex { read } => self.read_index(read, out),
            Input::Target(target) => self.set_target(target),
            Input::Transfer { to } => self.transfer(to),
            Input::Persisted { write } => self.persisted(write, out),
            Input::Applied { index, durable } => self.applied(index, durable),
            Input::Install { index, term, config, generation } => self.install((index, term), config, generation, out),
            Input::SnapshotCarried { to, bytes } => self.snapshot_carried(to, bytes),
            Input::SnapshotSent { to, index } => self.snapshot_sent(to, index),
            Input::Called { .. } | Input::Wake => {}
        }
        self.reconfigure();
        self.start_waiting_reads(out);
        self.pump(out);
        self.hand_over(out);
        self.retire(out);
        self.recognise();
        self.give(out);
        self.write(out);
        self.announce(out);
        self.check();
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match &self.leader {
            _ if !self.is_started => self.now,
            _ if self.becoming.is_some() && self.standing() == Standing::Fresh => Instant::FAR,
            _ if self.standing() == Standing::Fresh => self.greetings.deadline,
            Some(leader) => match &leader.transfer {
                Some(transfer) => leader.heartbeat_deadline.min(transfer.deadline),
                None => leader.heartbeat_deadline,
            },
            None => self.election_deadline,
        }
    }

    /// Role, term, leader, standing and indexes.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Leaves to another chance what is drawn from now on, such as how long it is patient with leaders. For simulations.
    pub fn redraw(&mut self, number: u64) {
        self.rng = self.rng.split(number);
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last index on stable storage.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.log.durable()
    }

    /// What this leader takes each follower for having: for checkers. Nothing unless this member leads.
    pub fn matched(&self) -> impl Iterator<Item = Matched> {
        let peers = self.leader.iter().flat_map(|leader| &leader.peers);
        peers.map(|(id, progress)| Matched {
            member: *id,
            life: progress.incarnation,
            renewals: progress.renewals,
            index: progress.matched,
        })
    }

    /// The log starts after this index; up to it, only a snapshot helps a follower.
    #[must_use]
    pub fn start(&self) -> LogIndex {
        self.log.start()
    }

    /// The entry at `index`, if it is still in memory.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(index)
    }

    /// Where the latest configuration in the log stands.
    #[must_use]
    pub fn config_index(&self) -> LogIndex {
        self.log.config_index()
    }

    /// The configuration in force at `index`, as a snapshot up to `index` needs it; `None` if `index` is compacted or
    /// not committed.
    #[must_use]
    pub fn config_at(&self, index: LogIndex) -> Option<Configuration> {
        let is_known = self.log.start() <= index && index <= self.commit;
        is_known.then(|| self.log.config_at(index).1.clone())
    }

    fn id(&self) -> NodeId {
        self.identity.member
    }

    fn incarnation(&self) -> Incarnation {
        self.identity.incarnation
    }

    fn standing(&self) -> Standing {
        self.identity.standing
    }

    /// Sorts a message by its term. (Raft §5.1)
    fn receive(&mut self, from: NodeId, message: Message, out: &mut Vec<Output>) {
        if from == self.id() || !message.is_plausible() {
            return;
        }
        match message.body {
            Body::Greeting => return self.on_greeting(from, message.incarnation, out),
            Body::GreetingReply { .. } => return self.on_greeting_reply(from, &message),
            _ if self.standing() == Standing::Fresh => return,
            // It changes no terms: a member that cannot win disturbs nobody.
            Body::PreVote { last_index, last_term } if message.trusted => {
                return self.on_pre_vote(from, message.term, last_index, last_term, out);
            }
            // Only those that vote and count may ask for votes, give them, or lead.
            Body::PreVote { .. }
            | Body::PreVoteReply { .. }
            | Body::Vote { .. }
            | Body::VoteReply { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::Commit { .. }
            | Body::TimeoutNow
                if !message.trusted =>
            {
                return;
            }
            Body::Vote { transfer, .. } if message.term > self.term && self.is_election_refused(transfer) => {
                reach!(ElectionRefused);
                return;
            }
            _ => {}
        }
        if message.term > self.term {
            self.follow(message.term, None, out);
        }
        let is_current = message.term == self.term;
        let is_late_vote = mutant::is_on(Mutant::R27) && matches!(message.body, Body::VoteReply { .. });
        match message.body {
            Body::PreVoteReply { campaign, granted } => {
                self.on_pre_vote_reply(from, message.incarnation, campaign, granted, out);
            }
            Body::Vote { last_index, last_term, .. } => self.on_vote(from, &message, last_index, last_term, out),
            Body::Append { .. } | Body::Heartbeat { .. } if !is_current => {
                reach!(StaleLeader);
                self.send_promised(from, Body::Stale, out);
            }
            _ if !(is_current || is_late_vote) => {}
            Body::VoteReply { to, granted } => self.on_vote_reply(from, message.incarnation, to, granted, out),
            Body::Append { prev_index, prev_term, entries, commit } => {
                self.on_append(from, (prev_index, prev_term), entries, commit, out);
            }
            Body::Heartbeat { round, commit } => self.on_heartbeat(from, round, commit, out),
            Body::Commit { commit } => self.on_commit(from, commit, out),
            Body::TimeoutNow => self.on_timeout_now(from, out),
            Body::Accepted { .. } | Body::Refused { .. } | Body::HeartbeatReply { .. } | Body::Damaged { .. } => {
                self.on_answer(from, &message, out);
            }
            Body::Stale | Body::Greeting | Body::GreetingReply { .. } | Body::PreVote { .. } => {}
        }
    }

    /// [`Input::Persisted`]
    fn persisted(&mut self, write: WriteId, out: &mut Vec<Output>) {
        assert!(write < self.next_write, "write {write} persisted, but {} was not issued", self.next_write);
        if write <= self.persisted {
            return;
        }
        self.persisted = write;
        self.log.persisted(write);
        for (after, output) in core::mem::take(&mut self.held) {
            if after <= write {
                // A candidacy that ended before it was durable is not announced: the log it speaks of may be gone.
                let is_void = matches!(&output, Output::Send { message: Message { term, body: Body::Vote { .. }, .. }, .. }
                    if self.role != Role::Candidate || *term != self.term);
                reach!(CandidacyVoid if is_void);
                if !is_void {
                    out.push(output);
                }
            } else {
                self.held.push((after, output));
            }
        }
        self.become_durably();
        self.tally(out);
        self.advance_commit();
    }

    fn header(&self) -> Header {
        let trusted = self.standing() == Standing::Trusted;
        Header { term: self.term, incarnation: self.incarnation(), trusted }
    }

    /// Sends what promises nothing.
    fn send(&self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message: self.header().with(body) });
    }

    /// Sends what depends on our term and vote.
    fn send_promised(&mut self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        self.send_after(self.promised, to, body, out);
    }

    /// Sends once `write` is durable. An acknowledgement replaces the one before it that waits for the same write.
    fn send_after(&mut self, write: WriteId, to: NodeId, body: Body, out: &mut Vec<Output>) {
        let message = self.header().with(body);
        if write <= self.persisted {
            out.push(Output::Send { to, message });
            return;
        }
        if let (Body::Accepted { matched }, Some((last_write, Output::Send { to: last_to, message: last }))) =
            (&message.body, self.held.last_mut())
            && *last_write == write
            && *last_to == to
            && last.term == message.term
            && let Body::Accepted { matched: last_matched } = &mut last.body
        {
            reach!(AckMerged);
            *last_matched = (*matched).max(*last_matched);
            return;
        }
        self.hold(write, Output::Send { to, message });
    }

    fn hold(&mut self, write: WriteId, output: Output) {
        self.held.push((write, output));
    }

    /// Gives out what is committed and durable here.
    fn give(&mut self, out: &mut Vec<Output>) {
        let to = if self.is_hasty() { self.commit } else { self.commit.min(self.log.durable()) };
        if to > self.given {
            out.push(Output::Commit { entries: self.log.range(self.given.next(), to) });
            self.given = to;
        }
    }

    /// Has this step's records written. The commit index goes along, but never causes a write.
    fn write(&mut self, out: &mut Vec<Output>) {
        // Of what is durable only: the entries of this write may be torn off behind it.
        let hint = self.commit.min(self.log.durable()).max(self.hint);
        let is_hint_new = !self.records.is_empty() && hint > self.hint;
        if self.is_promise_new || is_hint_new {
            let hard_state = HardState { term: self.term, vote: self.vote, commit: hint };
            self.records.insert(0, Record::HardState(hard_state));
            (self.is_promise_new, self.hint) = (false, hint);
        }
        if !self.records.is_empty() {
            let write = self.next_write;
            self.next_write = write.next();
            out.push(Output::Persist { write, records: core::mem::take(&mut self.records) });
        }
    }

    /// Brings the status up to date and tells of a change.
    fn announce(&mut self, out: &mut Vec<Output>) {
        let status = &mut self.status;
        (status.commit, status.last) = (self.commit, self.log.last());
        let new = (self.term, self.role, self.leader_id, self.identity.standing);
        let is_same = (status.term, status.role, status.leader, status.standing) == new;
        if is_same && status.config == *self.log.config() {
            return;
        }
        (status.term, status.role, status.leader, status.standing) = new;
        status.config.clone_from(self.log.config());
        out.push(Output::Changed(status.clone()));
    }

    /// What must be true between steps. O(1).
    fn check(&self) {
        let last = self.log.last();
        assert!(self.given <= self.commit, "given {} > commit {}", self.given, self.commit);
        assert!(self.log.start() <= self.given, "start {} > given {}", self.log.start(), self.given);
        assert!(self.commit <= last, "commit {} > last {last}", self.commit);
        assert!(self.received >= self.commit || self.role == Role::Leader, "{} < {}", self.received, self.commit);
        assert!(self.received <= last, "received {} > last {last}", self.received);
        assert!(self.log.last_term() <= self.term, "last term {} > term {}", self.log.last_term(), self.term);
        assert!((self.role == Role::Leader) == self.leader.is_some(), "{:?} with the wrong state", self.role);
        let may_lead =
            self.is_promotable() || (self.role == Role::Leader && !self.log.config().voters.contains_key(&self.id()));
        assert!(self.role == Role::Follower || may_lead, "a {:?} that may not lead", self.role);
        assert!(self.promised < self.next_write, "promised by write {}", self.promised);
        assert!(self.records.is_empty(), "{} records not handed out", self.records.len());
    }

    /// What must be true between steps, O(n): for tests and sampled simulation.
    ///
    /// # Panics
    /// If it is not.
    pub fn check_deep(&self) {
        self.check();
        self.log.check_deep();
        for (id, progress) in self.leader.iter().flat_map(|leader| &leader.peers) {
            assert!(*id != self.id(), "a leader is not its own follower");
            progress.check_deep(self.log.last());
        }
        assert!(self.held.iter().all(|(write, _)| *write > self.persisted), "held beyond {}", self.persisted);
    }
}
