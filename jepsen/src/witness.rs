//! The revision witness: every answer names its revision, so the order of all writes is known and only has to be checked.
//!
//! Three steps: no answer may contradict real time; replaying the writes in the order of their revisions must predict every field of
//! every answer; what has no revision of its own (leases, compaction, refusals) must fit into that order. A revision that no answer
//! claims was made by an operation of unknown outcome or by a lease that ran out: there the replay searches, led by what was seen of
//! that revision. The more of the watch events are recorded as sightings, the less there is to search.

use std::fmt;

use quorate_core::LeaseId;

use crate::history::{History, OpId};
use crate::model::Kv;

mod footprint;
mod leases;
mod refusals;
mod replay;
mod times;

/// Who made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Author {
    /// A client's operation.
    Op(OpId),
    /// This lease ran out and took its keys along.
    Expiry(LeaseId),
}

/// How a correct history came about.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Every key's history, and what each revision changed.
    pub kv: Kv,
    /// Who made revision 2 + i.
    pub authors: Vec<Author>,
}

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An answer fits its request.
    Shape,
    /// What was invoked after an answer arrived happened after what the answer tells of.
    RealTime,
    /// One revision, one write.
    Duplicate,
    /// A revision is made by an operation that may have happened, or by a lease that ran out.
    Unexplained,
    /// An answer is what the sequence of writes predicts.
    Answer,
    /// What was seen of a revision is what its write did.
    Sighting,
    /// Keys are attached to leases that exist.
    Lease,
    /// Compacted history is gone, and only compacted history.
    Compaction,
    /// A refused request had to be refused in a state that it may have met.
    Refusal,
}

/// A broken promise with the operations that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The offending operations.
    pub operations: Vec<OpId>,
    /// What happened and what should have, one fact a line.
    pub text: String,
}

/// Why a history was not found correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is not: no sequence of what may have happened explains it.
    Violated(Violation),
    /// The search was given up: this is as far as it came.
    Undecided(Violation),
}

impl Failure {
    /// The broken promise, or the one at which the search was given up.
    #[must_use]
    pub fn violation(&self) -> &Violation {
        match self {
            Self::Violated(violation) | Self::Undecided(violation) => violation,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violated(violation) => violation.fmt(f),
            Self::Undecided(violation) => write!(f, "undecided, given up at {violation}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Whether the answers of `history` are those of one store that did everything one after the other, each operation
/// between its invocation and its answer; serializable reads may be of the past.
///
/// # Errors
/// The broken promise. [`Failure::Undecided`] if too many operations of unknown outcome fit too many revisions.
pub fn check(history: &History) -> Result<Witness, Failure> {
    let times = times::check(history).map_err(Failure::Violated)?;
    let mut replay = replay::Replay::new(history, &times).map_err(Failure::Violated)?;
    loop {
        replay.run()?;
        let witness = replay.witness();
        match refusals::check(history, &times, replay.lives(), witness) {
            Ok(()) => return Ok(replay.into_witness()),
            Err(doubt) => replay.revise(doubt)?,
        }
    }
}

impl Violation {
    fn new(history: &History, rule: Rule, operations: &[OpId], what: &str) -> Self {
        let mut text = String::from(what);
        for id in operations {
            text.push_str("\n  ");
            text.push_str(&history.line(*id));
        }
        Self { rule, operations: operations.to_vec(), text }
    }
}
