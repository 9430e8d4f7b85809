//! Comparing the running state hash with the other members': the one held by a majority of voters is right.
//!
//! Every member tells the others its hash at each multiple of [`HASH_INTERVAL`]; and so that a difference is noticed
//! soon in a quiet cluster too, the leader names its applied index now and then, and everyone tells its hash there.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::entry::Configuration;
use crate::mutant::{self, Mutant};
use crate::store::HASH_INTERVAL;
use crate::{Incarnation, LogIndex, NodeId};

/// Points of comparison kept of each member.
const KEPT: usize = 64;
/// Entries whose hash is kept, for points that others name.
const RECENT: usize = 1024;

type History = BTreeMap<LogIndex, u64>;
/// Hashes and where they were taken.
pub(super) type Points = Vec<(LogIndex, u64)>;

#[derive(Debug, Default)]
pub(super) struct Hashes {
    /// Of the last entries applied here, without gaps.
    recent: VecDeque<(LogIndex, u64)>,
    /// This member's, at the points of comparison.
    ours: History,
    /// The others', with the life of the disk they are of.
    theirs: BTreeMap<NodeId, (Incarnation, History)>,
    /// Below it points of this member's were dropped: they are told no more unless asked for.
    floor: LogIndex,
    /// Points that others named before this member came there.
    wanted: BTreeSet<LogIndex>,
}

/// What the hashes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This member's state is not the majority's.
    Wrong { index: LogIndex, ours: u64, theirs: u64 },
    /// This member's is the majority's, and this other one's is not.
    Other { member: NodeId, life: Incarnation },
    /// Everyone has spoken, and no state is a majority's.
    Split,
}

impl Hashes {
    /// Takes note of what was applied here; gives what the others are to be told.
    pub(super) fn applied(&mut self, hashes: &[(LogIndex, u64)]) -> Points {
        let mut told = Points::new();
        for &(index, hash) in hashes {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((index, hash));
            let wanted = self.wanted.remove(&index);
            if wanted || index.0.is_multiple_of(HASH_INTERVAL) {
                told.push((index, hash));
            }
        }
        self.keep(&told);
        told
    }

    /// A point of comparison: the last entry applied here.
    pub(super) fn name(&mut self) -> Option<(LogIndex, u64)> {
        let last = *self.recent.back()?;
        self.keep(&[last]);
        Some(last)
    }

    /// Takes note of what another member told; gives this one's own hashes there, if it has not told them yet or the
    /// other one `asks`.
    pub(super) fn heard(&mut self, from: NodeId, life: Incarnation, hashes: &[(LogIndex, u64)], asks: bool) -> Points {
        let theirs = self.theirs.entry(from).or_default();
        if theirs.0 != life {
            *theirs = (life, History::new());
        }
        remember(&mut theirs.1, hashes);
        let mut told = Points::new();
        for &(index, _) in hashes {
            if let Some(&hash) = self.ours.get(&index) {
                told.extend(asks.then_some((index, hash)));
                continue;
            }
            if index < self.floor && !asks {
                continue; // Members that dropped what they told would tell each other for ever.
            }
            let first = self.recent.front().map_or(LogIndex(0), |(first, _)| *first);
            let at = index.0.checked_sub(first.0).and_then(|at| usize::try_from(at).ok());
            match at.and_then(|at| self.recent.get(at)) {
                Some(&point) => told.push(point),
                None if self.recent.back().is_none_or(|(last, _)| index > *last) => {
                    reach!(HashWanted);
                    self.wanted.insert(index);
                    if self.wanted.len() > KEPT {
                        self.wanted.pop_first();
                    }
                }
                None => {}
            }
        }
        self.keep(&told);
        told
    }

    /// The state was replaced: what was computed before says nothing about it.
    pub(super) fn forget_ours(&mut self) {
        self.ours.clear();
        self.recent.clear();
    }

    /// What `member` said is dealt with.
    pub(super) fn forget(&mut self, member: NodeId) {
        self.theirs.remove(&member);
    }

    /// Whether every voter but `member` has told its hash at `index`.
    pub(super) fn is_complete(&self, member: NodeId, config: &Configuration, index: LogIndex) -> bool {
        let mut others = config.voters.iter().filter(|(id, _)| **id != member);
        others.all(|(id, life)| self.of(*id, *life, index).is_some())
    }

    /// What follows from the latest point that says anything. While voters change, nothing does.
    ///
    /// A point that every voter agrees on settles everything before it, which is dropped.
    pub(super) fn verdict(&mut self, member: NodeId, config: &Configuration) -> Option<Verdict> {
        if !config.outgoing.is_empty() || mutant::is_on(Mutant::H01) {
            return None;
        }
        let majority = config.voters.len() / 2 + 1;
        let mut settled = None;
        for (&index, &ours) in self.ours.iter().rev() {
            let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
            for (voter, life) in &config.voters {
                let hash = if *voter == member { Some(ours) } else { self.of(*voter, *life, index) };
                if let Some(hash) = hash {
                    *counts.entry(hash).or_default() += 1;
                }
            }
            let heard: usize = counts.values().sum();
            match counts.iter().find(|(_, count)| **count >= majority) {
                Some((&theirs, _)) if theirs != ours => return Some(Verdict::Wrong { index, ours, theirs }),
                Some(_) => {
                    let mut others = config.voters.iter().chain(&config.learners).filter(|(id, _)| **id != member);
                    let odd = others.find(|(id, life)| self.of(**id, **life, index).is_some_and(|hash| hash != ours));
                    if let Some((&member, &life)) = odd {
                        return Some(Verdict::Other { member, life });
                    }
                    if heard == config.voters.len() {
                        settled = Some(index);
                        break;
                    }
                }
                None if heard == config.voters.len() => return Some(Verdict::Split),
                None => {}
            }
        }
        if let Some(settled) = settled {
            self.ours.retain(|&index, _| index >= settled);
            self.floor = self.floor.max(settled);
            for (_, history) in self.theirs.values_mut() {
                history.retain(|&index, _| index >= settled);
            }
        }
        None
    }

    fn keep(&mut self, told: &[(LogIndex, u64)]) {
        self.ours.extend(told.iter().copied());
        while self.ours.len() > KEPT {
            let dropped = self.ours.pop_first().map_or(LogIndex(0), |(index, _)| index);
            self.floor = self.floor.max(dropped.next());
        }
    }

    fn of(&self, voter: NodeId, life: Incarnation, index: LogIndex) -> Option<u64> {
        let (known, history) = self.theirs.get(&voter)?;
        history.get(&index).copied().filter(|_| *known == life)
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
    use std::vec;

    use super::*;

    const LIFE: Incarnation = Incarnation(1);
    const AT: LogIndex = LogIndex(128);

    fn voters(count: u64) -> Configuration {
        Configuration { voters: (1..=count).map(|id| (NodeId(id), LIFE)).collect(), ..Default::default() }
    }

    /// What member 1 of `count` thinks, whose own hash at a point is the first, if these are the others'.
    fn verdict(count: u64, hashes: &[u64]) -> Option<Verdict> {
        let mut all = Hashes::default();
        all.applied(&[(AT, hashes[0])]);
        for (id, hash) in (2..).zip(&hashes[1..]) {
            all.heard(NodeId(id), LIFE, &[(AT, *hash)], false);
        }
        all.verdict(NodeId(1), &voters(count))
    }

    #[test]
    fn the_minority_is_wrong_and_only_it() {
        let other = |id| Some(Verdict::Other { member: NodeId(id), life: LIFE });
        assert_eq!(verdict(3, &[7, 8]), None, "one voice against one decides nothing");
        assert_eq!(verdict(3, &[7, 8, 8]), Some(Verdict::Wrong { index: AT, ours: 7, theirs: 8 }));
        assert_eq!(verdict(3, &[8, 7, 8]), other(2));
        assert_eq!(verdict(3, &[8, 8, 8]), None);
        assert_eq!(verdict(3, &[7, 8, 9]), Some(Verdict::Split));
        assert_eq!(verdict(2, &[7, 8]), Some(Verdict::Split));
        assert_eq!(verdict(4, &[7, 7, 8, 8]), Some(Verdict::Split));
        assert_eq!(verdict(4, &[7, 7, 8]), None, "the fourth may decide");
        assert_eq!(verdict(5, &[7, 7, 8, 7]), other(3), "whatever the fifth will say");
    }

    #[test]
    fn members_that_agree_fall_silent() {
        let mut members: Vec<Hashes> = (0..3).map(|_| Hashes::default()).collect();
        let entries: Points = (1..=600).map(|index| (LogIndex(index), index)).collect();
        let mut mail = VecDeque::new();
        let tell = |mail: &mut VecDeque<_>, from: usize, points: Points| {
            for to in (0..3).filter(|to| *to != from && !points.is_empty()) {
                mail.push_back((from, to, points.clone()));
            }
        };
        for (from, member) in members.iter_mut().enumerate() {
            let points = member.applied(&entries);
            tell(&mut mail, from, points);
        }
        let mut heard = 0;
        while let Some((from, to, points)) = mail.pop_front() {
            heard += 1;
            assert!(heard < 1_000, "they tell each other {points:?} for ever");
            let answer = members[to].heard(NodeId(from as u64 + 1), LIFE, &points, false);
            assert_eq!(members[to].verdict(NodeId(to as u64 + 1), &voters(3)), None);
            tell(&mut mail, to, answer);
            // What was said before everyone had settled it comes again, late.
            if heard == 6 {
                tell(&mut mail, from, points);
            }
        }
    }

    #[test]
    fn only_the_configured_lives_of_members_are_heard() {
        let mut hashes = Hashes::default();
        hashes.applied(&[(AT, 7)]);
        hashes.heard(NodeId(9), LIFE, &[(AT, 8)], false);
        hashes.heard(NodeId(8), LIFE, &[(AT, 8)], false);
        hashes.heard(NodeId(2), LIFE, &[(AT, 8)], false);
        hashes.heard(NodeId(3), Incarnation(2), &[(AT, 8)], false);
        assert_eq!(hashes.verdict(NodeId(1), &voters(3)), None);
        hashes.heard(NodeId(3), LIFE, &[(AT, 8)], false);
        assert!(hashes.verdict(NodeId(1), &voters(3)).is_some());
        let joint = Configuration { outgoing: voters(1).voters, ..voters(3) };
        assert_eq!(hashes.verdict(NodeId(1), &joint), None, "while voters change nobody is judged");
    }

    #[test]
    fn a_learner_is_judged_and_does_not_judge() {
        let config = Configuration { learners: BTreeMap::from([(NodeId(9), LIFE)]), ..voters(1) };
        let mut voter = Hashes::default();
        voter.applied(&[(AT, 7)]);
        voter.heard(NodeId(9), LIFE, &[(AT, 8)], false);
        assert_eq!(voter.verdict(NodeId(1), &config), Some(Verdict::Other { member: NodeId(9), life: LIFE }));
        let mut learner = Hashes::default();
        learner.applied(&[(AT, 8)]);
        learner.heard(NodeId(1), LIFE, &[(AT, 7)], false);
        let wrong = Verdict::Wrong { index: AT, ours: 8, theirs: 7 };
        assert_eq!(learner.verdict(NodeId(9), &config), Some(wrong));
    }

    #[test]
    fn a_point_that_another_names_is_answered_once_and_when_it_is_reached() {
        let point = |index: u64| (LogIndex(index), index * 10);
        let mut hashes = Hashes::default();
        assert_eq!(hashes.applied(&[point(127), point(128), point(129)]), [point(128)]);
        let named = [(LogIndex(127), 1), (LogIndex(128), 1), (LogIndex(131), 1), (LogIndex(5), 1)];
        assert_eq!(hashes.heard(NodeId(2), LIFE, &named, false), [point(127)], "128 was told, 5 is forgotten");
        assert_eq!(hashes.heard(NodeId(3), LIFE, &named, false), vec![]);
        assert_eq!(hashes.heard(NodeId(3), LIFE, &named, true), [point(127), point(128)], "if asked, again");
        assert_eq!(hashes.name(), Some(point(129)));
        assert_eq!(hashes.applied(&[point(130), point(131)]), [point(131)]);
    }

    /// With one member missing nothing is settled by everyone; with all, points are dropped. Either way a late or
    /// repeated answer must not be answered.
    #[test]
    fn answers_end() {
        for members in [3, 5] {
            let mut all: Vec<Hashes> = (0..members).map(|_| Hashes::default()).collect();
            let mut mail = Vec::new();
            for round in 0..100 {
                let points: Points = (1..=HASH_INTERVAL).map(|n| (LogIndex(round * HASH_INTERVAL + n), n)).collect();
                for (id, hashes) in (1..).map(NodeId).zip(&mut all) {
                    mail.push((id, hashes.applied(&points), false));
                    mail.extend(hashes.name().map(|point| (id, std::vec![point], true)));
                }
            }
            let asked = mail.len();
            let mut said = 0;
            while let Some((from, points, asks)) = mail.pop() {
                said += 1;
                assert!(said <= asked * members, "{said} messages for {asked}");
                for (id, hashes) in (1..).map(NodeId).zip(&mut all).filter(|(id, _)| *id != from) {
                    let told = hashes.heard(from, LIFE, &points, asks);
                    let _ = hashes.verdict(id, &voters(members as u64 + 1));
                    mail.extend((!told.is_empty()).then_some((id, told, false)));
                }
            }
        }
    }
}
