//! From a failing run to a short story: fewer faults, fewer clients, less time, and still the same promise is broken.
//!
//! Delta debugging (Zeller and Hildebrandt 2002) over the schedule, and halving of everything that is a number. Taking
//! something away shifts the moments of what remains, so each candidate gets a few chances ([`Setup::fate`]); the one
//! that fails is written down.

use crate::check::Violation;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::report::Report;
use crate::run::run;
use crate::swarm::Setup;

/// How many moments a candidate gets to fail in.
const CHANCES: u64 = 4;

/// The shortest run: a cluster needs a moment to come up.
const DURATION_MIN: Nanos = 4 * SECOND;

/// What is left of a failing run.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest that was found.
    pub setup: Setup,
    /// What it breaks, and when.
    pub violation: (Violation, Nanos),
    /// Runs that it took.
    pub runs: u64,
}

struct Search<'a> {
    best: Shrunk,
    runs_max: u64,
    tell: &'a mut dyn FnMut(&Shrunk),
}

/// Makes `setup`, which came to `report`, smaller, in at most about `runs_max` runs. `tell` hears of each success. `None`
/// if nothing was broken.
pub fn shrink(setup: Setup, report: &Report, runs_max: u64, tell: &mut dyn FnMut(&Shrunk)) -> Option<Shrunk> {
    let violation = report.violation.clone()?;
    let mut search = Search { best: Shrunk { setup, violation, runs: 0 }, runs_max, tell };
    loop {
        let before = search.size();
        search.shorten();
        search.drop_strikes();
        search.drop_clients();
        search.begin_later();
        if search.size() >= before || search.is_over() {
            return Some(search.best);
        }
    }
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.best.runs >= self.runs_max
    }

    fn size(&self) -> (usize, usize, Nanos) {
        let Setup { schedule, clients, watchers, duration, clients_from, .. } = &self.best.setup;
        (schedule.len(), clients + watchers, duration.saturating_sub(*clients_from))
    }

    /// Whether `candidate` breaks the same promise; if so it is the best from now on.
    fn fails(&mut self, candidate: &Setup) -> bool {
        for chance in 0..CHANCES {
            if self.is_over() {
                return false;
            }
            let fate = if chance == 0 { candidate.fate } else { self.best.runs + 1 };
            let setup = Setup { fate, ..candidate.clone() };
            self.best.runs += 1;
            match run(setup.clone(), false).violation {
                Some(violation) if violation.0.oracle == self.best.violation.0.oracle => {
                    (self.best.setup, self.best.violation) = (setup, violation);
                    (self.tell)(&self.best);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// Nothing matters that comes after the violation.
    fn shorten(&mut self) {
        let Shrunk { setup, violation: (_, at), .. } = &self.best;
        let mut candidate = setup.clone();
        candidate.duration = setup.duration.min((at + SECOND) / MILLI * MILLI).max(DURATION_MIN);
        candidate.clients_from = candidate.clients_from.min(candidate.duration);
        let duration = candidate.duration;
        candidate.schedule.retain(|strike| strike.at <= duration);
        if candidate != *setup {
            self.fails(&candidate);
        }
    }

    /// Leaves out parts of the schedule, half of it first, single strikes last.
    fn drop_strikes(&mut self) {
        let mut parts = 1;
        while !self.is_over() && !self.best.setup.schedule.is_empty() {
            let len = self.best.setup.schedule.len();
            let size = len.div_ceil(parts);
            let found = (0..len).step_by(size).rev().any(|from| {
                let mut candidate = self.best.setup.clone();
                candidate.schedule.drain(from..(from + size).min(len));
                self.fails(&candidate)
            });
            match found {
                true => parts = parts.saturating_sub(1).max(1),
                false if size == 1 => return,
                false => parts = (2 * parts).min(len),
            }
        }
    }

    fn drop_clients(&mut self) {
        for _ in 0..8 {
            let Setup { clients, watchers, .. } = self.best.setup;
            let fewer = [(clients / 2, watchers), (clients.saturating_sub(1), watchers), (clients, watchers / 2)];
            let smaller = fewer.into_iter().filter(|fewer| *fewer != (clients, watchers)).any(|(clients, watchers)| {
                let candidate = Setup { clients, watchers, ..self.best.setup.clone() };
                self.fails(&candidate)
            });
            if !smaller {
                return;
            }
        }
    }

    /// Clients keep quiet until shortly before.
    fn begin_later(&mut self) {
        for before in [SECOND, 4 * SECOND, 15 * SECOND] {
            let from = self.best.violation.1.saturating_sub(before).min(self.best.setup.duration) / MILLI * MILLI;
            if from > self.best.setup.clients_from {
                let candidate = Setup { clients_from: from, ..self.best.setup.clone() };
                if self.fails(&candidate) {
                    return;
                }
            }
        }
    }
}
