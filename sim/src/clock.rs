//! A member's monotonic clock: it starts anywhere and runs a little too fast or too slow. And its machine's wall clock,
//! which may show anything.

use quorate_core::Instant;

use crate::heap::{Nanos, SECOND};

/// How far a clock's rate may be from true time, in parts per million: what we assume of real machines, exaggerated.
pub const DRIFT_PPM_MAX: i64 = 50_000;

const MILLION: u64 = 1_000_000;

/// A clock that never runs backwards, with a rate that may change.
#[derive(Clone, Debug)]
pub struct Clock {
    since: Nanos,
    shown: u64,
    ppm: i64,
}

impl Clock {
    /// A clock that shows `offset` at true time `now` and runs `ppm` parts per million too fast.
    ///
    /// # Panics
    /// If `ppm` is beyond [`DRIFT_PPM_MAX`].
    #[must_use]
    pub fn new(now: Nanos, offset: u64, ppm: i64) -> Self {
        assert!(ppm.abs() <= DRIFT_PPM_MAX, "a rate of {ppm} ppm is beyond the declared drift");
        Self { since: now, shown: offset, ppm }
    }

    /// What the clock shows at true time `now`.
    #[must_use]
    pub fn read(&self, now: Nanos) -> Instant {
        // In two steps no product is too large for 64 bits: every event asks this.
        let passed = now.saturating_sub(self.since);
        Instant(self.shown + passed / MILLION * self.rate() + passed % MILLION * self.rate() / MILLION)
    }

    /// The first true time at which the clock shows at least `shown`; `None` for [`Instant::FAR`] and the like.
    #[must_use]
    pub fn when(&self, shown: Instant) -> Option<Nanos> {
        let Some(ahead) = shown.0.checked_sub(self.shown) else { return Some(self.since) };
        let rest = (ahead % self.rate() * MILLION).div_ceil(self.rate());
        let passed = (ahead / self.rate()).checked_mul(MILLION)?.checked_add(rest)?;
        self.since.checked_add(passed).filter(|&at| at < u64::MAX / 4)
    }

    /// So much it shows for a million.
    fn rate(&self) -> u64 {
        MILLION.checked_add_signed(self.ppm).expect("drift is below 100 %")
    }

    /// How much too fast it runs, in parts per million.
    #[must_use]
    pub fn ppm(&self) -> i64 {
        self.ppm
    }

    /// Changes the rate from `now` on; what it shows stays continuous.
    pub fn set_rate(&mut self, now: Nanos, ppm: i64) {
        *self = Self::new(now, self.read(now).0, ppm);
    }
}

/// What a wall clock that is right shows when a run begins, in Unix seconds.
const BEGINNING: i64 = 1_700_000_000;

/// A machine's wall clock: somebody set it, more or less right, and may do so again.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    ahead: i64,
}

impl WallClock {
    /// A clock that is so many seconds ahead.
    #[must_use]
    pub fn new(ahead: i64) -> Self {
        Self { ahead }
    }

    /// Unix seconds, as it shows them at true time `now`.
    #[must_use]
    pub fn read(&self, now: Nanos) -> u64 {
        u64::try_from(BEGINNING.saturating_add(self.ahead)).unwrap_or(0) + now / SECOND
    }

    /// Sets it so many seconds forward, or back.
    pub fn jump(&mut self, by: i64) {
        self.ahead = self.ahead.saturating_add(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_jumps_both_ways_and_stays_a_time() {
        let mut clock = WallClock::new(-10);
        let before = clock.read(5 * SECOND);
        clock.jump(-7);
        assert_eq!(clock.read(12 * SECOND), before);
        clock.jump(i64::MIN);
        assert_eq!(clock.read(SECOND), 1);
        clock.jump(i64::MAX);
        clock.jump(i64::MAX);
        assert!(clock.read(SECOND) > 0);
    }

    #[test]
    fn when_is_the_first_moment_that_shows_it() {
        for ppm in [-50_000, -1, 0, 3, 50_000] {
            let clock = Clock::new(17, 1_000, ppm);
            for shown in [1_000, 1_001, 77_777, 5 * SECOND] {
                let at = clock.when(Instant(shown)).unwrap();
                assert!(clock.read(at).0 >= shown, "{ppm} {shown}");
                assert!(at == 17 || clock.read(at - 1).0 < shown, "{ppm} {shown}");
            }
        }
        assert_eq!(Clock::new(0, 0, 0).when(Instant::FAR), None);
    }

    #[test]
    fn a_new_rate_does_not_make_the_clock_jump() {
        let mut clock = Clock::new(0, 5, 40_000);
        let before = clock.read(3 * SECOND);
        clock.set_rate(3 * SECOND, -40_000);
        assert_eq!(clock.read(3 * SECOND), before);
        assert_eq!(clock.read(4 * SECOND).0 - before.0, 960_000_000);
    }
}
