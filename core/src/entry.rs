//! What consensus replicates and what a member must remember about it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use bincode::{Decode, Encode};

use crate::blob::Source;
use crate::{Blob, ClusterId, FeatureLevel, Generation, Incarnation, LogIndex, NodeId, Term};

/// One position of the replicated log. (Raft §5.3)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
    /// What it means.
    pub payload: Payload,
}

/// What an entry means.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum Payload {
    /// Nothing: a new leader's first entry. (Raft §8)
    Empty,
    /// An encoded [`crate::command::Envelope`], opaque to consensus.
    Command(Blob),
    /// The cluster's configuration from this entry on. (Raft §6; takes effect when appended)
    Config(Configuration),
}

/// Who takes part, and with which disk. Voter sets are joint while `outgoing` is not empty. (Raft §6)
///
/// A voter is a member *with one incarnation of its disk*: an acknowledgement or vote from any other incarnation does
/// not count. Readmitting a member that lost its disk is a configuration entry that replaces its incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Configuration {
    /// The (incoming) voters.
    pub voters: BTreeMap<NodeId, Incarnation>,
    /// The outgoing voters of a joint configuration; empty otherwise.
    pub outgoing: BTreeMap<NodeId, Incarnation>,
    /// Members that receive the log and count for nothing.
    pub learners: BTreeMap<NodeId, Incarnation>,
}

impl Configuration {
    /// Everyone who takes part, with the life of the disk: those who vote, in a joint one some of them twice, and learners.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, Incarnation)> {
        let sets = [&self.voters, &self.outgoing, &self.learners];
        sets.into_iter().flatten().map(|(id, life)| (*id, *life))
    }
}

impl fmt::Display for Entry {
    /// One line, as in scenarios and logs: index, term, and the command or configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ", self.index, self.term)?;
        match &self.payload {
            Payload::Empty => write!(f, "empty"),
            Payload::Command(command) => write!(f, "{}", command.escape_ascii()),
            Payload::Config(config) => write!(f, "{config}"),
        }
    }
}

impl fmt::Display for Configuration {
    /// `voters{1:i7 2:i8}`, and likewise `outgoing` and `learners` if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = [("voters", &self.voters), ("outgoing", &self.outgoing), ("learners", &self.learners)];
        for (name, set) in sets.into_iter().filter(|(name, set)| *name == "voters" || !set.is_empty()) {
            write!(f, "{name}{{")?;
            for (n, (id, incarnation)) in set.iter().enumerate() {
                write!(f, "{}{id}:i{incarnation}", if n == 0 { "" } else { " " })?;
            }
            write!(f, "}}")?;
        }
        Ok(())
    }
}

/// What must survive a crash besides the log itself. (Raft figure 2, "persistent state")
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HardState {
    /// The latest term this member has seen.
    pub term: Term,
    /// The member it voted for in `term`, if any.
    pub vote: Option<NodeId>,
    /// A lower bound of the commit index: a hint that shortens recovery, never waited for.
    pub commit: LogIndex,
}

/// How far this member's disk may be believed. See ARCHITECTURE.md, "Amnesia".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Standing {
    /// No log was found. Not known yet whether the cluster is new or this member's disk was lost:
    /// it answers nothing but greetings until every other initial member has said which.
    Fresh,
    /// It lost or doubts what it had stored: it follows, but neither votes nor counts until readmitted
    /// by a configuration entry that carries its new incarnation.
    Amnesiac,
    /// Its promises hold: it votes and counts.
    Trusted,
}

/// Who this member is and how far its disk may be believed. The first record of every log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// The cluster it belongs to; a peer of another cluster is refused.
    pub cluster: ClusterId,
    /// Its own ID.
    pub member: NodeId,
    /// This life of its disk.
    pub incarnation: Incarnation,
    /// How far the disk may be believed.
    pub standing: Standing,
}

/// One durable fact; the write-ahead log is a sequence of these.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum Record {
    /// Replaces the identity. The first record of a log, and again when the standing changes.
    Identity(Identity),
    /// Replaces the hard state.
    HardState(HardState),
    /// Appends this entry; entries from its index on, if any, are void.
    Entry(Entry),
    /// The log now starts after `index`, whose entry had `term`; `config` is the configuration at `index`. Entries up
    /// to `index` are void, later ones stay.
    Compact {
        /// The last index that is gone.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The configuration in force at `index`.
        config: Configuration,
    },
    /// A received snapshot is complete and durable in folder `generation`: the applied state is read from there from
    /// now on, and the *whole* log is void; the next entry is `index + 1`.
    Snapshot {
        /// The last index the snapshot contains.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The configuration in force at `index`.
        config: Configuration,
        /// The folder that holds the applied state.
        generation: Generation,
    },
}

/// Everything a member finds in its log when it starts: the fold of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who it is.
    pub identity: Identity,
    /// Term, vote and commit hint.
    pub hard_state: HardState,
    /// The log starts after this index...
    pub start_index: LogIndex,
    /// ...whose entry had this term.
    pub start_term: Term,
    /// The configuration at `start_index`; later ones are in `entries`.
    pub config: Configuration,
    /// Entries `start_index + 1 ..`, without gaps.
    pub entries: Vec<Entry>,
    /// The folder that holds the applied state.
    pub generation: Generation,
}

/// Where the log of a cluster starts that was made from a snapshot file: the file's contents count as its first entry.
pub const RESTORED: (LogIndex, Term) = (LogIndex(1), Term(1));

/// The highest feature level that this build understands. A build that adds a kind of command, or changes what one does,
/// adds one; see [`crate::command::Command::level`].
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel(1);
