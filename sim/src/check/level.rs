//! The feature level: what it is after an entry, the log alone says, and every state that a member shows agrees. It is only
//! ever raised, and to nothing that a member of the configuration of that time, learners included, did not understand when
//! it last spoke. So nobody ever has to stop for being too old, but whoever was removed. (That it becomes what all members
//! understand once faults are over is asked for with everything else that has to work then: `world/finale.rs`.)

use std::collections::BTreeMap;

use quorate_core::command::{Command, Envelope};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::mutant::{self, Mutant};
use quorate_core::{FeatureLevel, LogIndex, NodeId};

use super::{Verdict, Violation};

/// The feature level as the log has it, and what members understand.
#[derive(Debug)]
pub struct Level {
    /// What is in force after the entry at an index; both ascend.
    versions: Vec<(LogIndex, FeatureLevel)>,
    next: LogIndex,
    /// The members of the last committed configuration.
    members: Vec<NodeId>,
    /// What members understand, as they last started.
    understood: BTreeMap<NodeId, FeatureLevel>,
}

impl Level {
    /// Of a cluster with these founders.
    #[must_use]
    pub fn new(founders: impl Iterator<Item = NodeId>) -> Self {
        Self {
            versions: vec![(LogIndex(0), FeatureLevel(0))],
            next: LogIndex(1),
            members: founders.collect(),
            understood: BTreeMap::new(),
        }
    }

    /// How often the log has raised it.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.versions.len() as u64 - 1
    }

    /// A member starts, with a build that understands `level`.
    pub fn started(&mut self, id: NodeId, level: FeatureLevel) {
        self.understood.insert(id, level);
    }

    /// Entries that a member hands to its store.
    ///
    /// # Errors
    /// One raises the level for nothing, or beyond what a member understands.
    pub fn committed(&mut self, entries: &[Entry]) -> Verdict {
        for entry in entries {
            if entry.index != self.next {
                continue;
            }
            self.next = entry.index.next();
            match &entry.payload {
                Payload::Config(config) => {
                    self.members = config.members().map(|(id, _)| id).collect();
                }
                Payload::Command(command) => {
                    let envelope: Envelope = codec::decode(command.0.clone()).expect("the store can read it, too");
                    if let Command::RaiseFeatureLevel(level) = envelope.command {
                        self.raise(entry.index, level)?;
                    }
                }
                Payload::Empty => {}
            }
        }
        Ok(())
    }

    fn raise(&mut self, index: LogIndex, level: FeatureLevel) -> Verdict {
        let wrong = |text: String| Err(Violation::new("level", format!("index {index} raises it to {level}: {text}")));
        let before = self.at(index);
        if level <= before {
            return wrong(format!("it is {before} already"));
        }
        for id in &self.members {
            let understood = self.understood.get(id).copied();
            if understood.is_none_or(|understood| understood < level) && !mutant::is_on(Mutant::O12) {
                return wrong(format!("{id} understands {understood:?}"));
            }
        }
        self.versions.push((index, level));
        Ok(())
    }

    /// What is in force after this entry.
    fn at(&self, index: LogIndex) -> FeatureLevel {
        let (_, level) = self.versions.iter().rev().find(|(since, _)| *since <= index).expect("it begins at 0");
        *level
    }

    /// A member shows the state after entry `index`, with this level.
    ///
    /// # Errors
    /// It is another one.
    pub fn published(&self, member: usize, index: LogIndex, level: FeatureLevel) -> Verdict {
        let expected = self.at(index);
        if level == expected {
            return Ok(());
        }
        let text = format!("member {member} has {level} after {index}, by the log it is {expected}");
        Err(Violation::new("level", text))
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::auth::Author;
    use quorate_core::command::Origin;
    use quorate_core::entry::Configuration;
    use quorate_core::{Incarnation, Term};

    use super::*;

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry { term: Term(1), index: LogIndex(index), payload }
    }

    fn raise(index: u64, level: u32) -> Entry {
        let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index };
        let command = Command::RaiseFeatureLevel(FeatureLevel(level));
        entry(index, Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Member })))
    }

    fn config(index: u64, voters: &[u64], learners: &[u64]) -> Entry {
        let set = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), Incarnation(1))).collect();
        let (voters, learners) = (set(voters), set(learners));
        entry(index, Payload::Config(Configuration { voters, learners, ..Configuration::default() }))
    }

    fn cluster() -> Level {
        let mut level = Level::new([1, 2].map(NodeId).into_iter());
        level.started(NodeId(1), FeatureLevel(2));
        level.started(NodeId(2), FeatureLevel(1));
        level
    }

    #[test]
    fn the_level_is_raised_to_what_every_member_understands() {
        let mut level = cluster();
        level.committed(&[raise(1, 1)]).unwrap();
        assert!(level.committed(&[raise(2, 2)]).is_err(), "member 2 does not");
        let mut level = cluster();
        level.started(NodeId(2), FeatureLevel(2));
        assert!(level.committed(&[config(1, &[1, 2], &[3]), raise(2, 2)]).is_err(), "nobody knows what member 3 does");
        let mut level = cluster();
        level.committed(&[config(1, &[1], &[]), raise(2, 2)]).unwrap();
        assert!(level.committed(&[raise(3, 2)]).is_err(), "it is so already");
    }

    #[test]
    fn a_state_has_the_level_of_its_place_in_the_log() {
        let mut level = cluster();
        level.committed(&[entry(1, Payload::Empty), raise(2, 1)]).unwrap();
        level.published(0, LogIndex(1), FeatureLevel(0)).unwrap();
        level.published(0, LogIndex(7), FeatureLevel(1)).unwrap();
        assert!(level.published(0, LogIndex(2), FeatureLevel(0)).is_err());
        assert!(level.published(0, LogIndex(1), FeatureLevel(1)).is_err());
    }
}
