//! Leaders are cut off in turns, each until the next one is: then the one before is back with what it could not pass on,
//! and what the next one began may have reached nobody. (Raft, Fig. 8)

use quorate_core::Term;
use quorate_core::rng::Rng;

use super::World;
use super::event::{Event, link};
use super::nemesis::Relief;
use super::redraw::anew;
use crate::heap::Nanos;
use crate::schedule::Fault;
use crate::trace::Kind;

/// A leader is back after so many election timeouts, whether there is another one or not.
const AWAY_ELECTIONS_MAX: u64 = 6;
/// Leaders are cut off within 1/1, 1/2, 1/4 or 1/8 of the time that there is for it.
const OCTAVES: u64 = 4;

/// Who cuts off leaders.
#[derive(Debug)]
pub(super) struct Topple {
    rng: Rng,
    after: Nanos,
    until: Nanos,
    /// The last term whose leader was seen.
    term: Term,
    /// Who is, and since when.
    away: Option<(usize, Nanos)>,
}

impl Topple {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, after: 0, until: 0, term: Term(0), away: None }
    }

    pub(super) fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }
}

impl World {
    /// Leaders are cut off from now on, each up to `after` after its election.
    pub(super) fn begin_topple(&mut self, now: Nanos, after: Nanos, span: Nanos) {
        (self.topple.after, self.topple.until) = (after, self.topple.until.max(now + span));
    }

    /// A member leads.
    pub(super) fn may_topple(&mut self, now: Nanos, leader: usize, term: Term) {
        let Topple { rng, after, until, term: seen, .. } = &mut self.topple;
        if now < *until && term > *seen {
            *seen = term;
            let within = *after >> rng.below(OCTAVES);
            let at = now + 1 + rng.below(within.max(1));
            let epoch = self.machines[leader].epoch;
            self.heap.push(at, link::NEMESIS, Event::Topple { leader, epoch });
        }
    }

    /// Cuts a leader off, and lets the one before come back.
    pub(super) fn topple(&mut self, now: Nanos, leader: usize, epoch: u64) {
        let is_away = self.topple.away.is_some_and(|(away, _)| away == leader);
        if is_away || !self.may_strike(leader, epoch) {
            return;
        }
        self.bring_back(now);
        self.troubled = now;
        self.trace
            .event(now, Kind::Fault, leader, 0, &[], || format!("leader {leader} is cut off until the next one is"));
        self.each_crossing(1 << leader, |network, from, to| network.cut(from, to));
        self.topple.away = Some((leader, now));
        let longest = AWAY_ELECTIONS_MAX * self.setup.knobs.election;
        self.write_down_strike(now, Fault::Partition { side: 1 << leader, span: longest });
        self.heap.push(now + longest, link::NEMESIS, Event::Relief(Relief::Topple(now)));
    }

    /// Nobody came after the one that is away since then.
    pub(super) fn end_topple(&mut self, now: Nanos, since: Nanos) {
        if self.topple.away.is_some_and(|(_, began)| began == since) {
            self.bring_back(now);
        }
    }

    fn bring_back(&mut self, now: Nanos) {
        if let Some((member, since)) = self.topple.away.take() {
            self.each_crossing(1 << member, |network, from, to| network.heal(from, to));
            self.shorten_strike(since, 1 << member, now - since);
        }
    }
}
