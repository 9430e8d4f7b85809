//! Another future: everything left to chance from a moment on is drawn anew. Faults, and the requests of a script, come as
//! they would have.

use quorate_core::rng::Rng;

use super::World;
use crate::heap::Nanos;

/// Streams of a redrawn future are told from all others by this.
const FUTURE: u64 = 0xF07;

/// The stream that takes the place of `rng` in future number `sample`.
pub(crate) fn anew(rng: &Rng, sample: u64) -> Rng {
    rng.split(FUTURE).split(sample)
}

impl World {
    /// Redraws the future, once its time has come.
    pub(super) fn turn_off(&mut self, now: Nanos) {
        let Some((_, sample)) = self.setup.future.filter(|(from, _)| now >= *from && !self.is_redrawn) else { return };
        self.is_redrawn = true;
        for machine in &mut self.machines {
            machine.rng = anew(&machine.rng, sample);
            machine.backends.redraw(sample);
            machine.process.iter_mut().for_each(|process| process.redraw(sample));
        }
        for line in &mut self.lines {
            line.rng = anew(&line.rng, sample);
        }
        self.network.redraw(sample);
        self.harassment.redraw(sample);
        self.topple.redraw(sample);
        self.clients.iter_mut().for_each(|client| client.redraw(sample));
        self.watchers.iter_mut().for_each(|client| client.redraw(sample));
        self.badges.iter_mut().for_each(|badge| badge.redraw(sample));
        self.admins.iter_mut().for_each(|admin| admin.redraw(sample));
        self.contenders.iter_mut().for_each(|contender| contender.redraw(sample));
        self.observers.iter_mut().for_each(|observer| observer.redraw(sample));
        self.controllers.iter_mut().for_each(|controller| controller.redraw(sample));
        self.compactors.iter_mut().for_each(|compactor| compactor.redraw(sample));
        self.operators.iter_mut().for_each(|operator| operator.redraw(sample));
    }
}
