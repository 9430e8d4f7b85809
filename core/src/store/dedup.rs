//! Each proposal at most once, however often it was delivered: a replicated window of what each member has proposed.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bincode::{Decode, Encode};

use super::rows;
use crate::blob::Source;
use crate::command::Origin;
use crate::format::codec;
use crate::rows::RowWrite;
use crate::{Incarnation, LogIndex, NodeId};

/// What was applied for whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Dedup {
    members: BTreeMap<NodeId, Lives>,
    /// Lives with something new since [`Dedup::take_writes`].
    changed: BTreeSet<(NodeId, Incarnation)>,
}

/// One member's lives. A late delivery from a former life is judged by that life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lives {
    lives: BTreeMap<Incarnation, Life>,
    retired: Retired,
}

/// Lives of a member whose window was given up: nothing of them is applied any more. Nobody waits for their answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Retired(Vec<Incarnation>);

/// What one life of a member has proposed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Life {
    /// The last entry that was new from it.
    heard: LogIndex,
    /// The highest sequence applied.
    highest: u64,
    /// Bit `n % 64` of word `n / 64`: `highest - n` was applied.
    applied: [u64; WINDOW / 64],
}

/// A proposal so far behind the highest one counts as applied: its client learns no outcome, which is always true.
const WINDOW: usize = 1024;
/// Lives of a member with a window of their own.
const LIVES_MAX: usize = 8;
/// Lives of a member that are remembered as retired.
const RETIRED_MAX: usize = 256;

impl Dedup {
    pub(super) fn restore(&mut self, member: NodeId, incarnation: Incarnation, life: Life) {
        self.members.entry(member).or_default().lives.insert(incarnation, life);
    }

    pub(super) fn restore_retired(&mut self, member: NodeId, retired: Retired) {
        self.members.entry(member).or_default().retired = retired;
    }

    /// Whether `origin`, proposed by entry `at`, is seen for the first time; from now on it is not.
    pub(super) fn admit(&mut self, origin: Origin, at: LogIndex) -> bool {
        let (admitted, retired) = self.members.entry(origin.member).or_default().admit(origin, at);
        if admitted {
            self.changed.insert((origin.member, origin.incarnation));
        }
        self.changed.extend(retired.map(|incarnation| (origin.member, incarnation)));
        admitted
    }

    /// The rows of what has changed.
    pub(super) fn take_writes(&mut self, writes: &mut Vec<RowWrite>) {
        for (member, incarnation) in core::mem::take(&mut self.changed) {
            let Lives { lives, retired } = &self.members[&member];
            let row = rows::life(member, incarnation);
            match lives.get(&incarnation) {
                Some(life) => writes.push(rows::write(row, codec::encode(life))),
                None => {
                    writes.push(rows::remove(row));
                    writes.push(rows::write(rows::retired(member), codec::encode(retired)));
                }
            }
        }
    }
}

impl Lives {
    /// Also gives the life that had to make room, if any.
    fn admit(&mut self, origin: Origin, at: LogIndex) -> (bool, Option<Incarnation>) {
        if self.retired.0.contains(&origin.incarnation) {
            return (false, None);
        }
        if let Some(life) = self.lives.get_mut(&origin.incarnation) {
            return (life.admit(origin.sequence, at), None);
        }
        let longest_ago = self.lives.iter().min_by_key(|(_, life)| life.heard).map(|(incarnation, _)| *incarnation);
        let retired = longest_ago.filter(|_| self.lives.len() == LIVES_MAX);
        if let Some(incarnation) = retired {
            reach!(LifeRetired);
            self.lives.remove(&incarnation);
            self.retired.0.push(incarnation);
            let forgotten = self.retired.0.len().saturating_sub(RETIRED_MAX);
            self.retired.0.drain(..forgotten);
        }
        self.lives.insert(origin.incarnation, Life::new(origin.sequence, at));
        (true, retired)
    }
}

impl Life {
    fn new(sequence: u64, heard: LogIndex) -> Self {
        let mut applied = [0; WINDOW / 64];
        applied[0] = 1;
        Self { heard, highest: sequence, applied }
    }

    fn admit(&mut self, sequence: u64, at: LogIndex) -> bool {
        if sequence > self.highest {
            self.shift(sequence - self.highest);
            self.highest = sequence;
        }
        let behind = usize::try_from(self.highest - sequence).unwrap_or(usize::MAX);
        let Some(word) = self.applied.get_mut(behind / 64) else { return false };
        let bit = 1 << (behind % 64);
        let first = *word & bit == 0;
        *word |= bit;
        if first {
            self.heard = at;
        }
        first
    }

    /// Makes room for `by` higher sequences.
    fn shift(&mut self, by: u64) {
        let by = usize::try_from(by).unwrap_or(usize::MAX);
        let (words, bits) = (by / 64, by % 64);
        for at in (0..self.applied.len()).rev() {
            let word = |back: usize| at.checked_sub(back).map_or(0, |from| self.applied[from]);
            let carried = if bits == 0 { 0 } else { word(words.saturating_add(1)) >> (64 - bits) };
            self.applied[at] = word(words) << bits | carried;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    fn origin(incarnation: u64, sequence: u64) -> Origin {
        Origin { member: NodeId(1), incarnation: Incarnation(incarnation), sequence }
    }

    #[test]
    fn a_sequence_is_admitted_once_within_the_window_and_never_behind_it() {
        let mut rng = Rng::new(1);
        let (mut dedup, mut seen, mut highest) = (Dedup::default(), BTreeSet::new(), 1 << 40);
        assert!(dedup.admit(origin(1, highest), LogIndex(1)));
        seen.insert(highest);
        for index in 2..100_000 {
            let sequence = match rng.below(20) {
                0 => highest + rng.below(3000),
                1..8 => highest + rng.below(70),
                _ => highest - rng.below(1100),
            };
            let first = sequence + WINDOW as u64 > highest && seen.insert(sequence);
            assert_eq!(dedup.admit(origin(1, sequence), LogIndex(index)), first, "{sequence} of {highest}");
            highest = highest.max(sequence);
        }
    }

    #[test]
    fn a_former_life_is_judged_by_its_own_window_and_refused_once_retired() {
        let mut index = LogIndex(0);
        let mut dedup = Dedup::default();
        let mut admit = |life, sequence| {
            index = index.next();
            dedup.admit(origin(life, sequence), index)
        };
        for life in 0..LIVES_MAX as u64 {
            assert!(admit(life, 5));
        }
        assert!(!admit(0, 5), "a duplicate of the oldest life");
        assert!(admit(0, 4), "a late first delivery of the oldest life; it is the latest heard of now");
        assert!(!admit(1, 5), "a duplicate does not count as being heard of");
        assert!(admit(100, 5), "one life too many");
        assert!(!admit(1, 6), "life 1 was heard of longest ago");
        assert!(admit(0, 6) && admit(2, 6));

        let mut writes = Vec::new();
        dedup.take_writes(&mut writes);
        let removed: Vec<_> = writes.iter().filter(|write| write.value.is_none()).map(|write| &write.key).collect();
        assert_eq!(removed, [&rows::life(NodeId(1), Incarnation(1))]);
        assert_eq!(writes.len(), LIVES_MAX + 2, "a row for each life, one gone, one of those retired");
        assert!(dedup.admit(origin(0, 7), LogIndex(99)));
        writes.clear();
        dedup.take_writes(&mut writes);
        assert_eq!(writes.len(), 1, "later only what has changed");
    }
}
