//! Judges a run while it goes on, and forgets what nothing later depends on: however long it is, memory stays flat.

use std::collections::VecDeque;

use quorate_core::{LogIndex, Revision};
use quorate_jepsen::watch::Truth;
use quorate_jepsen::witness::{Checker, Failure, Past, Witness};

use super::World;
use crate::check::{self, Verdict, Violation};
use crate::heap::{Nanos, SECOND};
use crate::workload::controller::Controller;

/// So much of the history is looked at together. Runs of a minute get here once or twice.
const ENOUGH: usize = 1 << 14;
/// Whatever was answered or sent so long ago has arrived, or never will.
const LATE: Nanos = 30 * SECOND;
/// What was asked for so long ago is in a log, or it is lost: pauses and clocks leave nobody to offer it for longer.
const GIVEN_UP: Nanos = 120 * SECOND;
/// Leases are remembered for so long after their end, and requests for space after they were made: members that were down
/// may still tell of them.
const LONG_AGO: Nanos = 600 * SECOND;

/// How far the run is judged.
#[derive(Debug)]
pub(super) struct Settled {
    checker: Checker,
    /// The next time is when the history has so many turns.
    next: usize,
    /// The floor of history that states have from an entry on; ascending.
    floors: VecDeque<(LogIndex, Revision)>,
    /// When all members ran, and how far any log went then; ascending.
    lasts: VecDeque<(Nanos, LogIndex)>,
    /// Nothing that was asked for before is under way.
    decided: Nanos,
    horizon: Horizon,
    next_horizon: Horizon,
}

/// No member can come back to an earlier state, and none has been shown for a while.
#[derive(Clone, Copy, Debug)]
struct Horizon {
    /// Seen at this time.
    at: Nanos,
    index: LogIndex,
    /// Nobody can ask for earlier revisions.
    floor: Revision,
}

impl Default for Settled {
    fn default() -> Self {
        let beginning = Horizon { at: 0, index: LogIndex(0), floor: Revision(1) };
        Self {
            checker: Checker::default(),
            next: ENOUGH,
            floors: VecDeque::new(),
            lasts: VecDeque::new(),
            decided: 0,
            horizon: beginning,
            next_horizon: beginning,
        }
    }
}

impl Settled {
    /// A state after entry `index` was shown that has this floor.
    pub(super) fn shown(&mut self, index: LogIndex, floor: Revision) {
        if self.floors.back().is_none_or(|(last, before)| *last < index && *before < floor) {
            self.floors.push_back((index, floor));
        }
    }

    /// The floor of the state after entry `index`, or an earlier one.
    fn floor_at(&mut self, index: LogIndex) -> Revision {
        let known = self.floors.partition_point(|(since, _)| *since <= index);
        self.floors.drain(..known.saturating_sub(1));
        self.floors.front().filter(|(since, _)| *since <= index).map_or(Revision(1), |(_, floor)| *floor)
    }
}

impl World {
    /// Judges what there is, if it is much.
    pub(super) fn settle_past(&mut self, now: Nanos) -> Verdict {
        if self.history.turns().len() < self.settled.next {
            return Ok(());
        }
        let is_settled = match self.explain()? {
            Some(witness) => {
                self.judge_told(&witness)?;
                self.forget(now, witness)
            }
            // The rest may decide it.
            None => false,
        };
        let (left, remembered) = (self.history.turns().len(), self.history.operations().count());
        self.totals.remembered = self.totals.remembered.max(remembered as u64);
        self.settled.next = if is_settled { left + ENOUGH } else { 2 * left };
        Ok(())
    }

    /// How the history came about, as far as it goes; `None` if that was not decided.
    ///
    /// # Errors
    /// It is not correct.
    pub(super) fn explain(&self) -> Result<Option<Witness>, Violation> {
        match self.settled.checker.check(&self.history) {
            Ok(witness) => Ok(Some(witness)),
            Err(Failure::Violated(violation)) => Err(Violation::new("history", violation.to_string())),
            Err(Failure::Undecided(_)) => Ok(None),
        }
    }

    /// Compares what watchers, controllers and contenders were told so far with what happened.
    pub(super) fn judge_told(&mut self, witness: &Witness) -> Verdict {
        let truth = Truth { kv: &witness.kv, compacted: self.floor };
        for watcher in self.watchers.iter_mut().flat_map(|client| &mut client.watchers) {
            self.totals.watch_events += check::watch::judge(watcher, truth)?;
        }
        self.totals.leases_asked += self.leases.judge_keys(truth.kv)?;
        self.judge_caches(truth)?;
        self.judge_outside(truth)?;
        if self.setup.contest.is_some() { self.locks.follow(&witness.kv) } else { Ok(()) }
    }

    /// Forgets what `witness` explains, as far as nobody can tell of it any more; whether it could.
    fn forget(&mut self, now: Nanos, witness: Witness) -> bool {
        let seen = self.look_back(now);
        if self.settled.next_horizon.at + LATE <= now {
            self.settled.horizon = std::mem::replace(&mut self.settled.next_horizon, seen);
        }
        let Horizon { index, floor, .. } = self.settled.horizon;
        let awaited = self.watchers.iter().flat_map(|client| &client.watchers).filter(|watcher| !watcher.finished);
        let cached = self.controllers.iter().filter_map(Controller::oldest);
        let oldest = awaited
            .filter_map(|watcher| watcher.next)
            .chain(cached)
            .chain(self.awaited_outside())
            .chain(self.leases.awaited())
            .fold(floor, Revision::min);
        let lost = self.decided_before(index).saturating_sub(GIVEN_UP);
        let is_over = |lease, before| self.leases.is_over(lease, before);
        let past = Past { oldest, lost, is_over: &is_over };
        if !self.settled.checker.settle(&mut self.history, witness, &past) {
            return false;
        }
        self.leases.forget(now.saturating_sub(LONG_AGO));
        self.consensus.forget(index);
        self.audit.forget(now.saturating_sub(LATE));
        self.wrong_states.retain(|(at, _)| *at >= index);
        if let Some(reference) = &mut self.reference {
            reference.forget(index.min(self.space.forget(now.saturating_sub(LONG_AGO))));
        }
        true
    }

    /// A time at which nothing was in any log that is not decided by now, with every log beginning after entry `index`.
    fn decided_before(&mut self, index: LogIndex) -> Nanos {
        while let Some((at, _)) = self.settled.lasts.front().filter(|(_, last)| *last <= index) {
            self.settled.decided = *at;
            self.settled.lasts.pop_front();
        }
        self.settled.decided
    }

    /// The oldest state that any member can come back to: one that it has stored, or one on the way from there along a log
    /// that somebody has.
    fn look_back(&mut self, now: Nanos) -> Horizon {
        let mut index = self.consensus.last_committed();
        for machine in self.machines.iter_mut().filter(|machine| machine.id.is_some()) {
            if let Some(process) = &machine.process {
                machine.log_start = process.replica().raft().start();
            }
            let durable = machine.backends.durable().unwrap_or(index);
            index = index.min(durable).min(machine.log_start);
        }
        let machines = self.machines.iter().filter(|machine| machine.id.is_some());
        let lasts = machines.map(|machine| Some(machine.process.as_ref()?.status().last));
        if let Some(last) = lasts.collect::<Option<Vec<LogIndex>>>().and_then(|lasts| lasts.into_iter().max()) {
            self.settled.lasts.push_back((now, last));
        }
        Horizon { at: now, index, floor: self.settled.floor_at(index).max(Revision(1)) }
    }
}
