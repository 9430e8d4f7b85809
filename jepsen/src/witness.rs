//! The revision witness: every answer names its revision, so the order of all writes is known and only has to be checked.
//!
//! Three steps: no answer may contradict real time; replaying the writes in the order of their revisions must predict every field of
//! every answer; what has no revision of its own (leases, compaction, refusals) must fit into that order. A revision that no answer
//! claims was made by an operation of unknown outcome or by a lease that ran out: there the replay searches, led by what was seen of
//! that revision. The more of the watch events are recorded as sightings, the less there is to search.

use std::collections::BTreeSet;
use std::fmt;

use quorate_core::{LeaseId, Revision};

use crate::history::{End, History, Op, OpId, Operation};
use crate::model::Kv;

mod base;
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

impl Author {
    fn operation(self) -> Option<OpId> {
        match self {
            Self::Op(id) => Some(id),
            Self::Expiry(_) => None,
        }
    }

    /// The lease that ended by it, if no answer says so.
    fn ended_lease(self, history: &History) -> Option<LeaseId> {
        match self {
            Self::Expiry(lease) => Some(lease),
            Self::Op(id) => match history.get(id) {
                Operation { op: Op::LeaseRevoke(lease), end: End::Open, .. } => Some(*lease),
                _ => None,
            },
        }
    }
}

/// How a correct history came about.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Every key's history, and what each revision changed, as far as it was not forgotten.
    pub kv: Kv,
    /// Everything up to this revision was explained before; 1 for a whole history.
    pub after: Revision,
    /// Who made revision `after` + 1 + i.
    pub authors: Vec<Author>,
    gaps: replay::Gaps,
    /// Refused for what somebody did whose answer is still to come.
    excused: BTreeSet<OpId>,
}

impl Witness {
    /// Of nothing but a store, as it is after all that was explained before.
    fn after(kv: Kv) -> Self {
        let (after, gaps) = (kv.revision(), replay::Gaps::default());
        Self { kv, after, authors: Vec::new(), gaps, excused: BTreeSet::new() }
    }

    /// Each revision that it tells of, and who made it.
    fn authors(&self) -> impl Iterator<Item = (Author, Revision)> {
        self.authors.iter().copied().zip((self.after.0 + 1..).map(Revision))
    }

    /// The operations that made the revisions that it tells of.
    fn operations(&self) -> BTreeSet<OpId> {
        self.authors.iter().filter_map(|author| author.operation()).collect()
    }

    fn author(&self, revision: Revision) -> Option<Author> {
        let i = usize::try_from(revision.0 - self.after.0 - 1).ok()?;
        self.authors.get(i).copied()
    }
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
    Checker::default().check(history)
}

/// Checks a history while it goes on, and lets it forget what is explained: memory stays flat.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    base: base::Base,
}

impl Checker {
    /// As [`check`], for all of the history that is not forgotten.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&self, history: &History) -> Result<Witness, Failure> {
        let times = times::check(history, &self.base).map_err(Failure::Violated)?;
        let mut replay = replay::Replay::new(history, &self.base, &times).map_err(Failure::Violated)?;
        loop {
            replay.run()?;
            let witness = replay.witness();
            match refusals::check(history, &self.base, &times, replay.lives(), witness) {
                Ok(excused) => return Ok(Witness { excused, ..replay.into_witness() }),
                Err(doubt) => replay.revise(doubt)?,
            }
        }
    }

    /// Lets the history forget what was explained by `witness`, which [`Checker::check`] has just given for it, up to the
    /// oldest operation that is still under way. Whether there was anything that could be forgotten.
    ///
    /// What stays, apart from what is new: operations of unknown outcome that may still happen, each key's newest version,
    /// and leases that may be alive.
    pub fn settle(&mut self, history: &mut History, witness: Witness, past: &Past<'_>) -> bool {
        let cut = history.cut();
        let Ok(times) = times::check(history, &self.base) else { return false };
        cut.first != history.first() && self.base.advance(history, cut, &times, witness, past)
    }
}

/// What nobody can tell of any more.
pub struct Past<'a> {
    /// Revisions before this one.
    pub oldest: Revision,
    /// Operations of unknown outcome that were invoked before this time, and have not happened by now: they never will.
    pub lost: u64,
    /// Leases that had ended before that time, and are never granted again.
    pub is_over: &'a dyn Fn(LeaseId, u64) -> bool,
}

impl Past<'_> {
    /// Everything may be told of at any time.
    pub const NOTHING: Self = Self { oldest: Revision(1), lost: 0, is_over: &|_, _| false };
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
