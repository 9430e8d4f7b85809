//! A seed is a whole run: the same inputs, outputs, disk operations, messages and answers at the same times, every time.

use quorate_sim::heap::SECOND;
use quorate_sim::run::run;
use quorate_sim::swarm::Setup;

fn setup(seed: u64) -> Setup {
    Setup::draw_with(seed, Some(15 * SECOND))
}

#[test]
fn every_seed_run_twice_leaves_the_same_trace() {
    for seed in 0..6 {
        let (one, two) = (run(setup(seed), false), run(setup(seed), true));
        let apart = || {
            let again = run(setup(seed), true);
            let (two, again) = (two.log.clone().unwrap_or_default(), again.log.unwrap_or_default());
            two.iter().zip(&again).find(|(two, again)| two != again).map(|(two, again)| format!("{two}\n{again}"))
        };
        assert_eq!((one.hash, one.events, one.totals), (two.hash, two.events, two.totals), "{seed}: {:?}", apart());
        assert!(one.events > 1_000, "seed {seed} did something: {} events", one.events);
    }
}

#[test]
fn different_seeds_leave_different_traces() {
    assert_ne!(run(setup(1), false).hash, run(setup(2), false).hash);
}
