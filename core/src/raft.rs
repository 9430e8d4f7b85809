//! Consensus: one member's part in agreeing on the log. (Raft, Ongaro & Ousterhout 2014; thesis, Ongaro 2014)
//!
//! A pure machine: [`Raft::step`] takes one input at a time and appends what must be done about it to `out`. It holds
//! back every output that depends on a write until that write is [`Input::Persisted`], so a driver cannot lose data by
//! acting in the wrong order.

use alloc::vec::Vec;
use core::time::Duration;

use crate::entry::{Configuration, Entry, Record, Recovered, Standing};
use crate::{Blob, Generation, Instant, LogIndex, NodeId, Term, WriteId};

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
    /// Bytes of entries kept in memory behind the applied index at most.
    pub catchup_bytes: u64,
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

pub mod message;
pub use message::{Body, Message};

/// One member's consensus state.
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    status: Status,
}

impl Raft {
    /// A member as it starts, from what its log holds. Nothing is sent before the first [`Raft::step`].
    ///
    /// `applied` is the applied index of its backend: entries up to it are not given out again.
    #[must_use]
    pub fn new(config: Config, recovered: Recovered, applied: LogIndex, now: Instant) -> Self {
        let _ = (config, recovered, applied, now);
        unimplemented!()
    }

    /// Takes one input at time `now` and appends what must be done about it to `out`.
    ///
    /// Every output may be carried out at once: one that depends on a write is held back until that write is
    /// [`Input::Persisted`].
    ///
    /// # Panics
    /// If `now` runs backwards, or an invariant of consensus is broken.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        let _ = (now, input, out, &self.config);
        unimplemented!()
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        unimplemented!()
    }

    /// The configuration in force at `index`; `None` if the log starts above it or ends below it.
    #[must_use]
    pub fn config_at(&self, index: LogIndex) -> Option<Configuration> {
        let _ = index;
        unimplemented!()
    }

    /// Role, term, leader, standing and indexes.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }
}
