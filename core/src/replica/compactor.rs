//! When to compact by itself. (etcd: v3compactor) Every member takes notes, only the leader compacts.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Output, Replica};
use crate::command::Command;
use crate::mutant::{self, Mutant};
use crate::{Instant, Revision};

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// As much as was made in this time; never 0.
    Periodic(Duration),
    /// So many revisions.
    Revisions {
        /// How many; never 0.
        keep: i64,
        /// How often they are looked at; never 0.
        interval: Duration,
    },
}

impl AutoCompaction {
    /// So many revisions (never 0), looked at as often as etcd does.
    #[must_use]
    pub fn revisions(keep: i64) -> Self {
        Self::Revisions { keep, interval: REVISIONS_INTERVAL }
    }
}

/// Periodic compactions do not come more rarely than this.
const PERIOD_MAX: Duration = Duration::from_secs(3600);
/// How often revisions are looked at in the other mode. (etcd)
const REVISIONS_INTERVAL: Duration = Duration::from_secs(300);
/// Notes are taken so many times a period...
const NOTES: u32 = 10;
/// ...but not more often than this.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Compactor {
    mode: Option<AutoCompaction>,
    /// The revision at each tick; the first is that of one period ago, once there are enough.
    notes: VecDeque<Revision>,
    /// When the next tick is due; `None` before the first.
    tick: Option<Instant>,
    /// Where history was last cut off.
    last: Revision,
    /// When that was, or since when there is something to cut off.
    since: Instant,
    /// The first compaction was made: the next ones come sooner if periods are long.
    is_running: bool,
}

impl Compactor {
    pub(super) fn new(mode: Option<AutoCompaction>, now: Instant) -> Self {
        let notes = VecDeque::new();
        Self { mode, notes, tick: None, last: Revision(0), since: now, is_running: false }
    }

    pub(super) fn deadline(&self) -> Instant {
        match self.mode {
            Some(_) => self.tick.unwrap_or(Instant(0)),
            None => Instant::FAR,
        }
    }

    /// The revision to compact at, if it is time and this member `leads`; it is at `revision` now.
    fn due(&mut self, now: Instant, revision: Revision, leads: bool) -> Option<Revision> {
        let mode = self.mode.filter(|_| now >= self.deadline())?;
        let is_first = self.tick.is_none();
        let due = match mode {
            AutoCompaction::Periodic(period) => {
                let (at_most, noted) = (period.min(PERIOD_MAX), self.notes.front().copied());
                let interval = (at_most / NOTES).max(INTERVAL_MIN);
                self.tick = Some(now + interval);
                let kept = 1 + usize::try_from(period.as_nanos() / interval.as_nanos()).unwrap_or(usize::MAX - 1);
                self.notes.push_back(revision);
                if self.notes.len() > kept {
                    self.notes.pop_front();
                }
                let wait = if self.is_running { at_most } else { period };
                noted.filter(|noted| now.since(self.since) >= wait && *noted != self.last)
            }
            AutoCompaction::Revisions { keep, interval } => {
                self.tick = Some(now + interval);
                Some(Revision(revision.0.saturating_sub(keep))).filter(|at| at.0 > 0 && *at != self.last)
            }
        };
        let due = due.map(|at| if mutant::is_on(Mutant::Q04) { revision } else { at });
        due.filter(|_| leads && !is_first)
    }

    fn done(&mut self, now: Instant, at: Revision) {
        (self.last, self.since, self.is_running) = (at, now, true);
    }
}

impl Replica {
    /// Cuts history off if it is time to.
    pub(super) fn run_compactor(&mut self, out: &mut Vec<Output>) {
        let leads = self.leads();
        let Some(revision) = self.compactor.due(self.now, self.revision, leads) else { return };
        // Appended is as good as done: that it was compacted further already is no failure.
        if self.propose_here(Command::Compact { revision }, out) {
            self.compactor.done(self.now, revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Runs for so many minutes, one revision a minute from 100 on; when what was compacted.
    fn run(mode: AutoCompaction, minutes: u64, leads: impl Fn(u64) -> bool) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(Some(mode), Instant(0));
        let mut compactions = vec![];
        for minute in 0..minutes {
            let now = Instant(0) + u32::try_from(minute).unwrap() * MINUTE;
            let revision = Revision(100 + i64::try_from(minute).unwrap());
            while compactor.deadline() <= now {
                if let Some(at) = compactor.due(now, revision, leads(minute)) {
                    compactor.done(now, at);
                    compactions.push((minute, at.0));
                }
            }
        }
        compactions
    }

    #[test]
    fn a_period_of_history_is_kept() {
        // Ticks each minute; the first compaction after one period, then one a period.
        let ten = AutoCompaction::Periodic(10 * MINUTE);
        assert_eq!(run(ten, 35, |_| true), [(10, 100), (20, 109), (30, 119)]);
        // Long periods: ticks each 6 minutes, then one compaction an hour.
        let day = AutoCompaction::Periodic(24 * 60 * MINUTE);
        let found = run(day, 24 * 60 + 130, |_| true);
        assert_eq!(found, [(1440, 100), (1500, 154), (1560, 214)]);
    }

    #[test]
    fn only_the_leader_compacts_and_a_new_one_knows_the_past() {
        let ten = AutoCompaction::Periodic(10 * MINUTE);
        assert_eq!(run(ten, 35, |minute| minute > 22), [(23, 112), (33, 122)]);
        assert_eq!(run(ten, 35, |_| false), []);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let mode = AutoCompaction::revisions(102);
        assert_eq!(run(mode, 12, |_| true), [(5, 3), (10, 8)]);
        let mode = AutoCompaction::revisions(1000);
        assert_eq!(run(mode, 100, |_| true), []);
    }

    #[test]
    fn what_did_not_change_is_not_compacted_again() {
        let mut compactor = Compactor::new(Some(AutoCompaction::revisions(10)), Instant(0));
        let mut found = vec![];
        for tick in 0..5 {
            let now = Instant(0) + tick * REVISIONS_INTERVAL;
            if let Some(at) = compactor.due(now, Revision(50), true) {
                compactor.done(now, at);
                found.push((tick, at.0));
            }
        }
        assert_eq!(found, [(1, 40)]);
        assert_eq!(Compactor::new(None, Instant(0)).deadline(), Instant::FAR);
    }
}
