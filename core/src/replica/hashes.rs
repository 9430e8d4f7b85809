//! Comparing the running state hash with the other members': the one held by a majority of voters is right.

use alloc::collections::BTreeMap;

use crate::entry::Configuration;
use crate::{LogIndex, NodeId};

/// Hashes kept of each member.
const KEPT: usize = 64;

type History = BTreeMap<LogIndex, u64>;

#[derive(Debug, Default)]
pub(super) struct Hashes {
    ours: History,
    theirs: BTreeMap<NodeId, History>,
}

/// A point of the log where this member's state was not the majority's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) index: LogIndex,
    pub(super) ours: u64,
    pub(super) theirs: u64,
}

impl Hashes {
    /// Takes note of this member's hashes; whether there were any.
    pub(super) fn ours(&mut self, hashes: &[(LogIndex, u64)]) -> bool {
        remember(&mut self.ours, hashes);
        !hashes.is_empty()
    }

    pub(super) fn heard(&mut self, from: NodeId, hashes: &[(LogIndex, u64)]) {
        remember(self.theirs.entry(from).or_default(), hashes);
    }

    /// The state was replaced: what was computed before says nothing about it.
    pub(super) fn forget_ours(&mut self) {
        self.ours.clear();
    }

    /// The latest index at which a majority of `config`'s voters agrees on a hash that is not ours.
    ///
    /// An index that every voter agrees on settles everything before it, which is dropped.
    pub(super) fn difference(&mut self, member: NodeId, config: &Configuration) -> Option<Difference> {
        let majority = config.voters.len() / 2 + 1;
        let mut settled = None;
        for (&index, &ours) in self.ours.iter().rev() {
            let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
            for voter in config.voters.keys() {
                let hash = if *voter == member { Some(ours) } else { self.of(*voter, index) };
                if let Some(hash) = hash {
                    *counts.entry(hash).or_default() += 1;
                }
            }
            match counts.iter().find(|(_, count)| **count >= majority) {
                Some((&theirs, _)) if theirs != ours => return Some(Difference { index, ours, theirs }),
                Some((_, &count)) if count == config.voters.len() => {
                    settled = Some(index);
                    break;
                }
                _ => {}
            }
        }
        if let Some(settled) = settled {
            self.ours.retain(|&index, _| index >= settled);
            for history in self.theirs.values_mut() {
                history.retain(|&index, _| index >= settled);
            }
        }
        None
    }

    fn of(&self, voter: NodeId, index: LogIndex) -> Option<u64> {
        self.theirs.get(&voter)?.get(&index).copied()
    }
}

fn remember(history: &mut History, hashes: &[(LogIndex, u64)]) {
    history.extend(hashes.iter().copied());
    while history.len() > KEPT {
        history.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;

    fn voters(count: u64) -> Configuration {
        Configuration { voters: (1..=count).map(|id| (NodeId(id), Incarnation(1))).collect(), ..Default::default() }
    }

    #[test]
    fn the_minority_is_wrong_and_only_it() {
        let (index, config) = (LogIndex(128), voters(3));
        let mut odd = Hashes::default();
        odd.ours(&[(index, 7)]);
        odd.heard(NodeId(2), &[(index, 8)]);
        assert_eq!(odd.difference(NodeId(1), &config), None, "one voice against one decides nothing");
        odd.heard(NodeId(3), &[(index, 8)]);
        assert_eq!(odd.difference(NodeId(1), &config), Some(Difference { index, ours: 7, theirs: 8 }));

        let mut even = Hashes::default();
        even.ours(&[(index, 8)]);
        even.heard(NodeId(1), &[(index, 7)]);
        even.heard(NodeId(3), &[(index, 8)]);
        assert_eq!(even.difference(NodeId(2), &config), None);
    }

    #[test]
    fn a_member_that_does_not_vote_is_not_asked() {
        let (index, config) = (LogIndex(128), voters(3));
        let mut hashes = Hashes::default();
        hashes.ours(&[(index, 7)]);
        hashes.heard(NodeId(9), &[(index, 8)]);
        hashes.heard(NodeId(8), &[(index, 8)]);
        assert_eq!(hashes.difference(NodeId(1), &config), None);
    }
}
