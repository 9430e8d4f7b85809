//! Raising the cluster's feature level, so that commands of a newer build may be proposed.
//!
//! Members of different builds work together while a cluster is upgraded. They do what the oldest of them understands: no
//! command is proposed above the level that is in force ([`Command::level`]). Once every member understands a higher one,
//! by what they answer to heartbeats, the leader raises the level by an entry. A member that does not understand that
//! entry (an older build that was added, or put back, since) stops when it is about to apply it: see
//! [`crate::store::TooNew`].

use alloc::vec::Vec;

use super::{Output, Replica};
use crate::command::Command;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::{FeatureLevel, Term};

/// The feature level, as far as this member knows and can raise it.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// As applied here.
    in_force: FeatureLevel,
    /// What this member has proposed as a leader of that term: it is appended there, so it is committed or the term ends.
    proposed: Option<(Term, FeatureLevel)>,
}

impl Level {
    /// The state is one with this level.
    pub(super) fn applied(&mut self, level: FeatureLevel) {
        self.in_force = level;
    }

    /// # Errors
    /// A member of the cluster may not understand `command`.
    pub(super) fn check(&self, command: &Command) -> Result<(), Error> {
        if command.level() > self.in_force { Err(Error::FeatureLevelTooLow) } else { Ok(()) }
    }
}

impl Replica {
    /// Raises the level as far as all members go along, if this member leads and knows the level in force: once it has
    /// applied an entry of its own term, it has applied all that former leaders have raised.
    pub(super) fn raise_level(&mut self, out: &mut Vec<Output>) {
        let (term, own) = (self.status.term, self.config.raft.understands);
        if own <= self.level.in_force || !self.leads() || self.membership.applied_term() != term {
            return;
        }
        let understood = if mutant::is_on(Mutant::F01) { Some(own) } else { self.raft.understood_by_all() };
        let Some(level) = understood.filter(|level| *level > self.level.in_force) else { return };
        let is_under_way = self.level.proposed.is_some_and(|(at, proposed)| at == term && proposed >= level);
        if !is_under_way && self.propose_here(Command::RaiseFeatureLevel(level), out) {
            reach!(LevelRaised);
            self.level.proposed = Some((term, level));
        }
    }
}
