//! Locks and elections, as the recipe on top of leases, txns and watches promises them. A write behind a fence, and a
//! proclamation, is done at no revision but one at which the writer's key is the oldest in the queue, and fences only ever
//! rise. While the lease of a holder is sure to live, nobody else whose lease is, too, is told that it holds, and nobody
//! takes the holder's key away: neither its renewals nor its fence say that its turn is over. Whoever is told that it holds
//! was the first in the queue at the revision of that answer. An observer sees every leader and every proclamation once and
//! in order, from where it began to look.
//!
//! That waiters get their turn at last, once all faults are over, is demanded by `world/contenders.rs`.

use std::collections::BTreeMap;

use quorate_core::mutant::{self, Mutant};
use quorate_core::request::KeyValue;
use quorate_core::{Blob, LeaseId, Revision};
use quorate_jepsen::model::{Change, Kv};

use super::lease::Leases;
use super::{Verdict, Violation};
use crate::heap::Nanos;
use crate::workload::contender::{Messenger, PROTECTED, QUEUE, fence_of};
use crate::workload::observer::{Leader, Sight};

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Figures {
    pub turns: u64,
    pub handovers: u64,
    pub fenced_writes: u64,
    pub fenced_off: u64,
    pub lost_turns: u64,
    pub leaders_seen: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.handovers += other.handovers;
        self.fenced_writes += other.fenced_writes;
        self.fenced_off += other.fenced_off;
        self.lost_turns += other.lost_turns;
        self.leaders_seen += other.leaders_seen;
    }
}

/// Whoever has its turn, as far as it was told; and the queue as the store has it.
#[derive(Debug)]
pub struct Locks {
    /// By contender.
    holds: BTreeMap<usize, LeaseId>,
    last: Option<usize>,
    /// The queue is as of this revision; `None` if it was not told of every one.
    through: Option<Revision>,
    /// The first in the queue at this revision, as somebody was told.
    told: Vec<(Revision, Revision)>,
    queue: Queue,
    /// The queue as the history has it, through this revision.
    judged: Queue,
    judged_through: Revision,
    /// How many of what.
    pub figures: Figures,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            holds: BTreeMap::new(),
            last: None,
            through: Some(Revision(1)),
            told: Vec::new(),
            queue: Queue::default(),
            judged: Queue::default(),
            judged_through: Revision(1),
            figures: Figures::default(),
        }
    }
}

impl Locks {
    /// A contender is told at `now` that it holds: its key, created at `place`, was the oldest at revision `at`.
    ///
    /// # Errors
    /// Another one rightly believes that it holds.
    pub fn holds(
        &mut self,
        contender: usize,
        (lease, place, at): (LeaseId, Revision, Revision),
        leases: &Leases,
        now: Nanos,
    ) -> Verdict {
        self.told.push((at, place));
        self.figures.turns += 1;
        self.figures.handovers += u64::from(self.last.is_some_and(|last| last != contender));
        self.last = Some(contender);
        self.holds.insert(contender, lease);
        if !leases.surely_lives(lease, now) {
            return Ok(());
        }
        let others = self.holds.iter().filter(|(other, _)| **other != contender);
        match others.into_iter().find(|(_, theirs)| leases.surely_lives(**theirs, now)) {
            None => Ok(()),
            Some((other, theirs)) => fail(format!(
                "contender {contender} is told at {now} that it holds, by lease {lease} at place {place}, while {other} \
                 does by lease {theirs}"
            )),
        }
    }

    /// A contender no longer believes that it holds: it may have asked for its key to be deleted.
    pub fn left(&mut self, contender: usize) {
        self.holds.remove(&contender);
    }

    /// A contender that was told of a lease, and did nothing to end it, is told at `now` that it, or its key, is gone.
    ///
    /// # Errors
    /// The lease is sure to live.
    pub fn gone(&mut self, contender: usize, lease: LeaseId, by: Messenger, leases: &Leases, now: Nanos) -> Verdict {
        self.figures.lost_turns += u64::from(self.holds.contains_key(&contender));
        self.figures.fenced_off += u64::from(by == Messenger::Fence);
        if leases.surely_lives(lease, now) {
            return fail(format!(
                "contender {contender} is told by its {by:?} at {now} that its turn is over, although lease {lease} lives"
            ));
        }
        Ok(())
    }

    /// A new revision of the store, with what it wrote (`false`) and deleted. After one that was left out no more is
    /// judged before the end.
    ///
    /// # Errors
    /// It has a write that nobody but the first in the queue may make.
    pub fn saw<'a>(&mut self, revision: Revision, changes: impl Iterator<Item = (&'a KeyValue, bool)>) -> Verdict {
        self.through = self.through.filter(|through| through.next() == revision).map(|_| revision);
        if self.through.is_none() {
            return Ok(());
        }
        self.queue.step(revision, changes.map(|(kv, deleted)| (&kv.key, (!deleted).then_some(kv))))
    }

    /// More of the history is known, and with it what was told of it.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn follow(&mut self, kv: &Kv) -> Verdict {
        for revision in (self.judged_through.0 + 1..=kv.revision().0).map(Revision) {
            let change = |change: &'_ Change| match change {
                Change::Put { kv, .. } => (kv.clone(), false),
                Change::Delete { prev, .. } => (prev.clone(), true),
            };
            let changes: Vec<(KeyValue, bool)> = kv.changes(revision).iter().filter(concerns).map(change).collect();
            self.judged.step(revision, changes.iter().map(|(kv, deleted)| (&kv.key, (!deleted).then_some(kv))))?;
        }
        self.judged_through = kv.revision();
        self.figures.fenced_writes = self.judged.fenced_writes;
        for (at, place) in self.told.drain(..) {
            let first = self.judged.first_at(at);
            if first.map(|first| first.place) != Some(place) && !mutant::is_on(Mutant::O18) {
                return fail(format!("somebody is told that place {place} was the first at {at}, it was {first:?}"));
            }
        }
        Ok(())
    }

    /// The whole run, as the history has it, and what observers saw of it. `last` is a revision that an observer must have
    /// been told everything up to, if it is still there.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn judge<'a>(&mut self, kv: &Kv, observers: impl Iterator<Item = (&'a [Sight], Option<Revision>)>) -> Verdict {
        self.follow(kv)?;
        for (sights, last) in observers {
            for (number, sight) in sights.iter().enumerate() {
                let through =
                    last.filter(|_| number + 1 == sights.len()).map_or(sight.through, |last| last.max(sight.through));
                self.figures.leaders_seen += sight.leaders.len() as u64;
                self.judged.judge(sight, through)?;
            }
        }
        Ok(())
    }
}

fn concerns(change: &&Change) -> bool {
    is_place(change.key()) || change.key()[..] == *PROTECTED.as_bytes()
}

fn is_place(key: &Blob) -> bool {
    key.starts_with(QUEUE.as_bytes())
}

fn fail(text: String) -> Verdict {
    Err(Violation::new("lock", text))
}

/// The queue, revision by revision.
#[derive(Debug, Default)]
struct Queue {
    /// The oldest is first; with the revision at which each was written last.
    places: BTreeMap<Revision, (Blob, Revision)>,
    keys: BTreeMap<Blob, Revision>,
    /// Since when who is the first in the queue.
    firsts: Vec<(Revision, Option<Leader>)>,
    /// The fence of the last write, and which one that was.
    fence: (Revision, Revision),
    fenced_writes: u64,
}

impl Queue {
    /// What a revision changed: keys, and what they are now unless they were deleted.
    fn step<'a>(
        &mut self,
        revision: Revision,
        changes: impl Iterator<Item = (&'a Blob, Option<&'a KeyValue>)>,
    ) -> Verdict {
        let before = self.places.first_key_value().map(|(place, (key, _))| (key.clone(), *place));
        let mut is_changed = false;
        for (key, kv) in changes {
            if key[..] == *PROTECTED.as_bytes() {
                if let Some(kv) = kv {
                    self.wrote(revision, kv, before.as_ref())?;
                }
            } else if is_place(key) {
                is_changed = true;
                self.moved(revision, key, kv, before.as_ref())?;
            }
        }
        if is_changed {
            let first = self.places.first_key_value();
            let first = first.map(|(place, (_, written))| Leader { place: *place, proclaimed: *written });
            if self.firsts.last().and_then(|(_, last)| *last) != first {
                self.firsts.push((revision, first));
            }
        }
        Ok(())
    }

    /// The protected key was written.
    fn wrote(&mut self, revision: Revision, kv: &KeyValue, first: Option<&(Blob, Revision)>) -> Verdict {
        let fence = fence_of(&kv.value);
        if mutant::is_on(Mutant::O17) {
            return Ok(());
        }
        if fence.as_ref() != first {
            return fail(format!("a write behind the fence {fence:?} was done at {revision}, the first was {first:?}"));
        }
        let (_, place) = fence.expect("just compared");
        let (before, at) = self.fence;
        if place < before {
            return fail(format!("fences go back: from {before} at {at} to {place} at {revision}"));
        }
        self.fence = (place, revision);
        self.fenced_writes += 1;
        Ok(())
    }

    /// Somebody took a place, proclaimed something, or left.
    fn moved(
        &mut self,
        revision: Revision,
        key: &Blob,
        kv: Option<&KeyValue>,
        first: Option<&(Blob, Revision)>,
    ) -> Verdict {
        let Some(kv) = kv else {
            if let Some(place) = self.keys.remove(key) {
                self.places.remove(&place);
            }
            return Ok(());
        };
        let place = kv.create_revision;
        if place != revision {
            if first.is_none_or(|(first, _)| first != key) {
                return fail(format!("{key:?} proclaims at {revision}, the first was {first:?}"));
            }
            self.fenced_writes += 1;
        }
        if let Some(before) = self.keys.insert(key.clone(), place) {
            self.places.remove(&before);
        }
        self.places.insert(place, (key.clone(), revision));
        Ok(())
    }

    /// The first in the queue at this revision.
    fn first_at(&self, at: Revision) -> Option<Leader> {
        let known = self.firsts.partition_point(|(since, _)| *since <= at);
        if known == 0 { None } else { self.firsts[known - 1].1 }
    }

    /// Compares what an observer saw, which should know everything through that revision.
    fn judge(&self, sight: &Sight, through: Revision) -> Verdict {
        let later = self.firsts.iter().filter(|(at, _)| (sight.from.next()..=through).contains(at));
        let mut expected: Vec<Leader> = self.first_at(sight.from).into_iter().collect();
        expected.extend(later.filter_map(|(_, leader)| *leader));
        if sight.leaders == expected {
            return Ok(());
        }
        let at = sight.leaders.iter().zip(&expected).position(|(seen, led)| seen != led);
        let at = at.unwrap_or_else(|| sight.leaders.len().min(expected.len()));
        let (seen, led) = (sight.leaders.get(at), expected.get(at));
        fail(format!(
            "an observer from {} through {through} saw {seen:?} as leader number {at}, it was {led:?}",
            sight.from
        ))
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Ttl;
    use quorate_core::request::{DeleteRangeRequest, KeyRange, PutRequest};

    use super::*;
    use crate::heap::SECOND;
    use crate::workload::contender::key_of;

    const ONE: LeaseId = LeaseId(5_001);
    const TWO: LeaseId = LeaseId(5_002);

    fn write(kv: &mut Kv, key: Blob, value: &str) -> Revision {
        let (value, lease) = (Blob::copy(value.as_bytes()), None);
        kv.put(&PutRequest { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false }).revision
    }

    fn delete(kv: &mut Kv, lease: LeaseId) {
        kv.delete_range(&DeleteRangeRequest { range: KeyRange::Key(key_of(lease)), prev_kv: false });
    }

    fn verdict(kv: &Kv) -> Verdict {
        Locks::default().judge(kv, std::iter::empty())
    }

    fn fenced(kv: &mut Kv, lease: LeaseId, place: Revision) {
        write(kv, PROTECTED.into(), &format!("1.1 {} {place}", String::from_utf8_lossy(&key_of(lease))));
    }

    #[test]
    fn a_write_behind_the_fence_of_anybody_but_the_first_is_noticed() {
        let mut kv = Kv::default();
        let (one, two) = (write(&mut kv, key_of(ONE), "1"), write(&mut kv, key_of(TWO), "2"));
        fenced(&mut kv, ONE, one);
        let waiter = &mut kv.clone();
        fenced(waiter, TWO, two);
        assert!(verdict(waiter).is_err(), "of who waits");
        delete(&mut kv, ONE);
        fenced(&mut kv, TWO, two);
        assert_eq!(verdict(&kv), Ok(()));
        let former = &mut kv.clone();
        fenced(former, ONE, one);
        assert!(verdict(former).is_err(), "of who was the first");
        delete(&mut kv, TWO);
        fenced(&mut kv, TWO, two);
        assert!(verdict(&kv).is_err(), "of who left, with nobody behind");
    }

    #[test]
    fn a_proclamation_of_anybody_but_the_first_is_noticed() {
        let mut kv = Kv::default();
        write(&mut kv, key_of(ONE), "1");
        write(&mut kv, key_of(TWO), "2");
        write(&mut kv, key_of(ONE), "3");
        assert_eq!(verdict(&kv), Ok(()));
        write(&mut kv, key_of(TWO), "4");
        assert!(verdict(&kv).is_err());
    }

    #[test]
    fn two_who_rightly_believe_that_they_hold_are_noticed() {
        let mut leases = Leases::new(SECOND);
        leases.promised(ONE, Ttl(2), SECOND).unwrap();
        leases.promised(TWO, Ttl(10), SECOND).unwrap();
        let hold = |lease| (lease, Revision(2), Revision(3));
        let told = |at| {
            let mut locks = Locks::default();
            locks.holds(1, hold(ONE), &leases, SECOND).and_then(|()| locks.holds(2, hold(TWO), &leases, at))
        };
        assert!(told(2 * SECOND).is_err());
        assert_eq!(told(3 * SECOND), Ok(()));
        let mut locks = Locks::default();
        locks.holds(1, hold(ONE), &leases, SECOND).unwrap();
        locks.left(1);
        assert_eq!(locks.holds(2, hold(TWO), &leases, 2 * SECOND), Ok(()));
        assert!(locks.gone(1, ONE, Messenger::Renewal, &leases, 2 * SECOND).is_err());
        assert_eq!(locks.gone(1, ONE, Messenger::Renewal, &leases, 3 * SECOND), Ok(()));
    }

    #[test]
    fn who_is_told_that_it_holds_must_have_been_the_first() {
        let mut kv = Kv::default();
        let (one, two) = (write(&mut kv, key_of(ONE), "1"), write(&mut kv, key_of(TWO), "2"));
        let told = |place, at| {
            let mut locks = Locks::default();
            locks.holds(1, (ONE, place, at), &Leases::new(SECOND), SECOND).unwrap();
            locks.judge(&kv, std::iter::empty())
        };
        assert_eq!(told(one, two), Ok(()));
        assert!(told(two, two).is_err());
        assert!(told(one, Revision(1)).is_err());
    }

    #[test]
    fn an_observer_that_misses_repeats_or_reorders_leaders_is_noticed() {
        let mut kv = Kv::default();
        let (one, two) = (write(&mut kv, key_of(ONE), "1"), write(&mut kv, key_of(TWO), "2"));
        let three = write(&mut kv, key_of(ONE), "3");
        delete(&mut kv, ONE);
        let led = |place, proclaimed| Leader { place, proclaimed };
        let right = [led(one, one), led(one, three), led(two, two)];
        let seen = |from, through, leaders: &[Leader], last| {
            let sight = Sight { from, through, leaders: leaders.to_vec() };
            Locks::default().judge(&kv, [(&[sight][..], last)].into_iter())
        };
        let end = Revision(5);
        assert_eq!(seen(Revision(1), end, &right, None), Ok(()));
        assert_eq!(seen(two, end, &right, Some(end)), Ok(()));
        assert_eq!(seen(three, end, &right[1..], None), Ok(()));
        assert_eq!(seen(Revision(1), three, &right[..2], None), Ok(()));
        assert!(seen(Revision(1), three, &right[..2], Some(end)).is_err(), "the end is missing");
        assert!(seen(Revision(1), end, &[right[0], right[2]], None).is_err(), "one is missing");
        assert!(seen(Revision(1), end, &[right[0], right[0], right[1], right[2]], None).is_err(), "one comes twice");
        assert!(seen(Revision(1), end, &[right[1], right[0], right[2]], None).is_err(), "order");
    }
}
