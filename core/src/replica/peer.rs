//! What members say to each other, beside consensus itself.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::blob::Source;
use crate::entry::Configuration;
use crate::{Blob, Incarnation, LeaseId, LogIndex, NodeId, Term, Ttl, raft};

/// One message from a member to another. May be lost, duplicated and reordered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum PeerMessage {
    /// Consensus.
    Raft(raft::Message),
    /// Proposals for the leader.
    Forward {
        /// Encoded [`crate::command::Envelope`]s.
        commands: Vec<Blob>,
        /// How often they were passed on: two members that each think the other leads must not play ball.
        hops: u8,
    },
    /// From which index on may I read what was acknowledged before now?
    ReadIndex {
        /// The asker's name for the question, never used again within its session.
        read: u64,
        /// The asker's session: an answer to an earlier process is dropped.
        session: Incarnation,
    },
    /// Answer to `ReadIndex`; `None`: ask somebody else.
    ReadIndexReply {
        /// As asked.
        read: u64,
        /// As asked.
        session: Incarnation,
        /// What must be applied before the read.
        index: Option<LogIndex>,
    },
    /// A question only the leader can answer: by its clock, or by whom it hears.
    Lease {
        /// The asker's name for the question.
        question: u64,
        /// The asker's session.
        session: Incarnation,
        /// What is asked.
        ask: LeaderQuestion,
    },
    /// Answer to `Lease`; `None`: this member does not lead.
    LeaseReply {
        /// As asked.
        question: u64,
        /// As asked.
        session: Incarnation,
        /// The answer.
        answer: Option<LeaderAnswer>,
    },
    /// The sender's running state hashes.
    Hashes {
        /// The life of the sender's disk.
        life: Incarnation,
        /// Where, and which.
        hashes: Vec<(LogIndex, u64)>,
        /// The receiver is to tell its own.
        asks: bool,
    },
    /// A piece of a snapshot, from the leader.
    Snapshot(SnapshotChunk),
    /// The receiver has stored chunk `sequence` (or already holds the whole snapshot, if `installed`).
    SnapshotAck {
        /// Which snapshot.
        snapshot: SnapshotId,
        /// The stored chunk.
        sequence: u64,
        /// The receiver has replaced its state by it, durably, or has something newer.
        installed: Option<LogIndex>,
    },
    /// The receiver was removed from the cluster, and that is committed.
    Removed,
}

impl PeerMessage {
    /// Whether the message is large and may wait: it travels on the snapshot lane, behind nothing that is urgent.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::Snapshot(_))
    }
}

/// See [`PeerMessage::Lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaderQuestion {
    /// Renew it.
    KeepAlive(LeaseId),
    /// What is left of it?
    TimeToLive(LeaseId),
    /// Whom do you hear, and which learners are in sync with you?
    Members,
}

/// See [`PeerMessage::LeaseReply`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaderAnswer {
    /// Renewed to this TTL; `None`: there is no such lease.
    KeptAlive(Option<Ttl>),
    /// Granted and remaining TTL; `None`: there is no such lease. The asker answers once it has applied `index`, so
    /// that attached keys it reads are not older than the answer.
    TimeToLive {
        /// Granted and remaining.
        left: Option<(Ttl, Ttl)>,
        /// The leader's applied index.
        index: LogIndex,
    },
    /// Whom the leader hears. The asker judges by it once it has applied `index`, so that the records by which it judges
    /// are not older.
    Members {
        /// The members heard of within an election timeout, the leader among them.
        heard: Vec<NodeId>,
        /// The learners that have nearly everything.
        in_sync: Vec<NodeId>,
        /// The leader's applied index.
        index: LogIndex,
    },
}

/// Names one snapshot in transfer: no two have the same name, over all members and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SnapshotId {
    /// Who sends it.
    pub member: NodeId,
    /// The sending process.
    pub session: Incarnation,
    /// Its number within that process.
    pub number: u64,
}

/// Rows of a snapshot, in key order over all chunks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct SnapshotChunk {
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// The sender's term: a chunk of an earlier term than the receiver's is dropped.
    pub term: Term,
    /// The chunk's number, from 0 without gaps.
    pub sequence: u64,
    /// The last index the snapshot contains.
    pub index: LogIndex,
    /// That index's term.
    pub index_term: Term,
    /// The configuration at that index.
    pub config: Configuration,
    /// The rows.
    pub rows: Vec<(Blob, Blob)>,
    /// Nothing follows.
    pub last: bool,
}
