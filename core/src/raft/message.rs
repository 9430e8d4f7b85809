//! What members say to each other about the log.

use alloc::vec::Vec;
use core::fmt;

use bincode::{Decode, Encode};

use crate::blob::Source;
use crate::entry::{Entry, Standing};
use crate::{FeatureLevel, Incarnation, LogIndex, Term};

/// One message of consensus between two members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct Message {
    /// The sender's term.
    pub term: Term,
    /// The life of the sender's disk.
    pub incarnation: Incarnation,
    /// The sender votes and counts.
    pub trusted: bool,
    /// What it says.
    pub body: Body,
}

/// What a message says. All of it holds for the sender's term only, unless stated otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum Body {
    /// A member without a past asks whether this cluster has one. The term means nothing.
    Greeting,
    /// Answers [`Body::Greeting`]. The term means nothing.
    GreetingReply {
        /// The life of the asker's disk that asked.
        to: Incarnation,
        /// The sender's standing.
        standing: Standing,
        /// The sender was itself still without a past when it first heard of the life `to`: whatever it did since, it
        /// did not do with an earlier life of the asker.
        genesis: bool,
    },
    /// Would you vote for me in the term after this one? (Raft thesis §9.6)
    PreVote {
        /// The sender's last index.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
    },
    /// Answers [`Body::PreVote`]; the sender's term may be lower than the candidate's.
    PreVoteReply {
        /// The term that was asked about.
        campaign: Term,
        /// Yes, I would.
        granted: bool,
    },
    /// Vote for me. (Raft §5.2)
    Vote {
        /// The sender's last index.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// The leader itself asked for this election: that it is alive is no reason to refuse.
        transfer: bool,
    },
    /// Answers [`Body::Vote`].
    VoteReply {
        /// The life of the candidate that asked. A later one must not count it: it has another log.
        to: Incarnation,
        /// The vote.
        granted: bool,
    },
    /// Append `entries` after the entry at `prev_index`, which had `prev_term`. (Raft §5.3)
    Append {
        /// The index before the first entry.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// Contiguous from `prev_index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The sender's log is durable and equal to the leader's up to here.
    Accepted {
        /// The last such index.
        matched: LogIndex,
    },
    /// The sender's log has another entry, or none, at `prev_index` of an append.
    Refused {
        /// That `prev_index`.
        prev_index: LogIndex,
        /// The last index at which both logs may agree...
        hint_index: LogIndex,
        /// ...where the sender's has this term.
        hint_term: Term,
    },
    /// I still lead; do you still follow? Every round has a fresh number. (Raft §5.2, §8)
    Heartbeat {
        /// The round, ascending within a term.
        round: u64,
        /// An index that is committed and that the receiver is known to have.
        commit: LogIndex,
    },
    /// Answers [`Body::Heartbeat`].
    HeartbeatReply {
        /// The round that was asked.
        round: u64,
        /// The last index at which the sender's log, durable or not, is known to equal the leader's.
        received: LogIndex,
        /// As in [`Body::Accepted`].
        matched: LogIndex,
        /// The highest feature level that the sender understands. It is said here because every follower and every
        /// learner answers heartbeats for as long as it runs, to whoever leads, and numbered: an answer that was given
        /// before the sender was replaced by an older build is known for one.
        level: FeatureLevel,
    },
    /// The leader's commit index moved. Not answered; the next heartbeat says it again.
    Commit {
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// Campaign at once. (Raft thesis §3.10)
    TimeoutNow,
    /// Your term is over; mine is this message's.
    Stale,
    /// Sent before each [`Body::HeartbeatReply`] by whose applied state is damaged, or lost: whoever leads is to end this life
    /// of it, once the others can do without. It is said with the round so that what was said long ago, and may be true no
    /// more, is known for that. (Builds that do not know this message drop it, and say so.)
    Damaged {
        /// The round that was asked.
        round: u64,
    },
}

impl Message {
    /// Whether its numbers are of a size that a live system can reach; beyond it, arithmetic could overflow.
    pub(super) fn is_plausible(&self) -> bool {
        let is_index = is_plausible_index;
        is_plausible_term(self.term)
            && match &self.body {
                Body::PreVote { last_index, .. } | Body::Vote { last_index, .. } => is_index(*last_index),
                Body::Append { prev_index, entries, .. } => {
                    is_index(*prev_index) && entries.iter().all(|entry| is_index(entry.index))
                }
                Body::Refused { prev_index, hint_index, .. } => is_index(*prev_index) && is_index(*hint_index),
                Body::PreVoteReply { campaign, .. } => is_plausible_term(*campaign),
                _ => true,
            }
    }
}

/// Whether a live system can reach `term`.
pub(super) fn is_plausible_term(term: Term) -> bool {
    term.0 <= u64::MAX / 4
}

/// Whether a live system can reach `index`.
pub(super) fn is_plausible_index(index: LogIndex) -> bool {
    index.0 <= u64::MAX / 4
}

impl fmt::Display for Message {
    /// One line, as in scenarios and logs: `Append term=2 prev=3@1 entries=[4@2 a] commit=3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let term = self.term;
        match &self.body {
            Body::Greeting => write!(f, "Greeting")?,
            Body::GreetingReply { to, standing, genesis } => {
                write!(f, "GreetingReply to=i{to} {standing:?} genesis={genesis}")?;
            }
            Body::PreVote { last_index, last_term } => write!(f, "PreVote term={term} last={last_index}@{last_term}")?,
            Body::PreVoteReply { campaign, granted } => {
                write!(f, "PreVoteReply term={term} campaign={campaign} granted={granted}")?;
            }
            Body::Vote { last_index, last_term, transfer } => {
                let transfer = if *transfer { " transfer" } else { "" };
                write!(f, "Vote term={term} last={last_index}@{last_term}{transfer}")?;
            }
            Body::VoteReply { to, granted } => write!(f, "VoteReply term={term} to=i{to} granted={granted}")?,
            Body::Append { prev_index, prev_term, entries, commit } => {
                write!(f, "Append term={term} prev={prev_index}@{prev_term} entries=[")?;
                for (n, entry) in entries.iter().enumerate() {
                    write!(f, "{}{entry}", if n == 0 { "" } else { ", " })?;
                }
                write!(f, "] commit={commit}")?;
            }
            Body::Accepted { matched } => write!(f, "Accepted term={term} matched={matched}")?,
            Body::Refused { prev_index, hint_index, hint_term } => {
                write!(f, "Refused term={term} prev={prev_index} hint={hint_index}@{hint_term}")?;
            }
            Body::Heartbeat { round, commit } => write!(f, "Heartbeat term={term} round={round} commit={commit}")?,
            Body::HeartbeatReply { round, received, matched, level } => {
                write!(f, "HeartbeatReply term={term} round={round} received={received} matched={matched}")?;
                if *level > FeatureLevel(0) {
                    write!(f, " level={level}")?;
                }
            }
            Body::Commit { commit } => write!(f, "Commit term={term} commit={commit}")?,
            Body::TimeoutNow => write!(f, "TimeoutNow term={term}")?,
            Body::Stale => write!(f, "Stale term={term}")?,
            Body::Damaged { round } => write!(f, "Damaged term={term} round={round}")?,
        }
        write!(f, " i{}{}", self.incarnation, if self.trusted { "" } else { " untrusted" })
    }
}
