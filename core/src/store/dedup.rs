//! Each proposal at most once, however often it was delivered: a replicated window of what each member has proposed.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::blob::Source;
use crate::command::Origin;
use crate::{Incarnation, NodeId};

/// What was applied for whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Dedup {
    members: BTreeMap<NodeId, Lives>,
    /// Members with something new since [`Dedup::take_changed`].
    changed: BTreeSet<NodeId>,
}

/// One member's lives, the one last heard of at the end. A late delivery from a former life is judged by that life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Lives {
    lives: Vec<Life>,
    /// Lives whose window was given up: nothing of them is applied any more. Nobody waits for their answers.
    retired: Vec<Incarnation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
struct Life {
    incarnation: Incarnation,
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
    pub(super) fn restore(&mut self, member: NodeId, lives: Lives) {
        self.members.insert(member, lives);
    }

    /// Whether `origin` is seen for the first time; from now on it is not.
    pub(super) fn admit(&mut self, origin: Origin) -> bool {
        let admitted = self.members.entry(origin.member).or_default().admit(origin);
        if admitted {
            self.changed.insert(origin.member);
        }
        admitted
    }

    /// Members whose rows must be written.
    pub(super) fn take_changed(&mut self) -> Vec<(NodeId, &Lives)> {
        let changed = core::mem::take(&mut self.changed);
        changed.into_iter().map(|member| (member, &self.members[&member])).collect()
    }
}

impl Lives {
    fn admit(&mut self, origin: Origin) -> bool {
        if self.retired.contains(&origin.incarnation) {
            return false;
        }
        let known = self.lives.iter().position(|life| life.incarnation == origin.incarnation);
        let Some(at) = known else {
            self.lives.push(Life::new(origin));
            if self.lives.len() > LIVES_MAX {
                self.retired.push(self.lives.remove(0).incarnation);
            }
            if self.retired.len() > RETIRED_MAX {
                self.retired.remove(0);
            }
            return true;
        };
        let admitted = self.lives[at].admit(origin.sequence);
        if admitted {
            self.lives[at..].rotate_left(1);
        }
        admitted
    }
}

impl Life {
    fn new(origin: Origin) -> Self {
        let mut applied = [0; WINDOW / 64];
        applied[0] = 1;
        Self { incarnation: origin.incarnation, highest: origin.sequence, applied }
    }

    fn admit(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            self.shift(sequence - self.highest);
            self.highest = sequence;
        }
        let behind = usize::try_from(self.highest - sequence).unwrap_or(usize::MAX);
        let Some(word) = self.applied.get_mut(behind / 64) else { return false };
        let bit = 1 << (behind % 64);
        let first = *word & bit == 0;
        *word |= bit;
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
        let (mut lives, mut seen, mut highest) = (Lives::default(), BTreeSet::new(), 1 << 40);
        assert!(lives.admit(origin(1, highest)));
        seen.insert(highest);
        for _ in 0..100_000 {
            let sequence = match rng.below(20) {
                0 => highest + rng.below(3000),
                1..8 => highest + rng.below(70),
                _ => highest - rng.below(1100),
            };
            let behind = sequence + WINDOW as u64 <= highest;
            assert_eq!(lives.admit(origin(1, sequence)), !behind && seen.insert(sequence), "{sequence} of {highest}");
            highest = highest.max(sequence);
        }
    }

    #[test]
    fn a_former_life_is_judged_by_its_own_window_and_refused_once_retired() {
        let mut lives = Lives::default();
        for life in 0..LIVES_MAX as u64 {
            assert!(lives.admit(origin(life, 5)));
        }
        assert!(!lives.admit(origin(0, 5)), "a duplicate of the oldest life");
        assert!(lives.admit(origin(0, 4)), "a late first delivery of the oldest life; it is the latest heard of now");
        assert!(lives.admit(origin(100, 5)), "one life too many");
        assert!(!lives.admit(origin(1, 6)), "life 1 was heard of longest ago");
        assert!(lives.admit(origin(0, 6)));
    }
}
