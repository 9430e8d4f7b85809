//! In the end leadership goes round: each new leader goes on counting where a lease was last written down, so leases that
//! nobody renews run out all the same.

use quorate_core::replica::Request;

use super::World;
use crate::heap::{Nanos, SECOND};
use crate::trace::Kind;

/// The longest TTL that clients ask for.
const TTL_MAX: Nanos = 10 * SECOND;
/// What elections and slow disks may add to all reigns together.
const SLACK: Nanos = 10 * SECOND;

/// How leadership goes round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Succession {
    /// The next one leads from then on, if anybody counts.
    next: Option<Nanos>,
}

impl World {
    /// What a change of leaders gives to a lease at most: the time since it was last written down, rounded up to a
    /// second, and an election timeout.
    fn gift(&self) -> Nanos {
        self.setup.knobs.lease_checkpoint + SECOND + self.setup.knobs.election
    }

    /// Leadership goes round from now on, if anybody can tell what it does to leases: each leads for twice as long as a
    /// lease gains by the change. Gives how long it takes until all have run out.
    pub(super) fn begin_succession(&mut self, now: Nanos) -> Nanos {
        let reign = 2 * self.gift();
        let counts = self.reference.as_ref().is_some_and(|reference| reference.has_leases());
        if !counts || reign >= TTL_MAX || self.probed().len() < 2 {
            return 0;
        }
        self.finale.succession().next = Some(now);
        2 * TTL_MAX + reign + SLACK
    }

    /// Hands leadership on, when it is time.
    pub(super) fn go_round(&mut self, now: Nanos) {
        if self.finale.succession().next.is_none_or(|next| now < next) {
            return;
        }
        let lives = self.reference.as_ref().is_some_and(|reference| reference.has_leases());
        let next = now + 2 * self.gift();
        self.finale.succession().next = lives.then_some(next);
        let voters = self.probed();
        if let Some(leader) = self.leader().filter(|_| lives)
            && let Some(place) = voters.iter().position(|voter| *voter == leader)
            && let Some(to) = self.machines[voters[(place + 1) % voters.len()]].id
            && let Some(process) = &mut self.machines[leader].process
        {
            process.ask(Request::Transfer(to));
            self.trace.event(now, Kind::Fault, leader, to.0, &[], || format!("is to hand over to {to}"));
            self.rouse(now, leader);
        }
    }
}
