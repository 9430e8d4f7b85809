//! However long a run is, what it remembers is not: only what may still matter.

use quorate_sim::heap::SECOND;
use quorate_sim::run::run;
use quorate_sim::swarm::Setup;

#[test]
fn a_long_run_remembers_no_more_than_a_short_one() {
    // The second one has a control plane.
    for seed in [3, 5] {
        let report = run(Setup::draw_with(seed, Some(900 * SECOND)), false);
        assert_eq!(report.violation, None, "seed {seed}");
        let totals = report.totals;
        assert!(totals.operations > 80_000, "seed {seed} did something: {totals}");
        assert!(0 < totals.remembered && totals.remembered < 2_000, "seed {seed} remembers {}", totals.remembered);
    }
}
