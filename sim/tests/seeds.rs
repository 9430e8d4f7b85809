//! A few seeds keep every promise. Many more are run by `quorate-sim --seeds`.

use quorate_sim::heap::SECOND;
use quorate_sim::report::Totals;
use quorate_sim::run::run;
use quorate_sim::swarm::{Classes, Setup};

fn passes(setup: Setup) -> Totals {
    let seed = setup.seed;
    let report = run(setup, false);
    if let Some((violation, at)) = report.violation {
        panic!("seed {seed} broke a promise after {at} ns: {violation}");
    }
    report.totals
}

#[test]
fn a_few_seeds_keep_every_promise() {
    let mut totals = Totals::default();
    for seed in 0..12 {
        totals.add(&passes(Setup::draw_with(seed, Some(20 * SECOND))));
    }
    for (name, figure) in totals.rare() {
        assert!(figure > 0, "no {name} in these seeds:\n{totals}");
    }
}

#[test]
fn without_faults_nothing_is_lost_nor_unknown() {
    let mut setup = Setup::draw_with(1, Some(20 * SECOND));
    (setup.members, setup.classes, setup.schedule) = (3, Classes::default(), Vec::new());
    (setup.clocks, setup.wall_clocks, setup.handicaps) = (vec![(0, 0); 3], vec![0; 3], Vec::new());
    let totals = passes(setup);
    // Some clients give up after milliseconds by themselves.
    assert!(totals.answered * 10 > totals.operations * 7, "{totals}");
    assert!(totals.leader_changes <= 1, "{totals}");
}

#[test]
fn a_control_plane_lists_watches_and_writes_behind_guards() {
    let planes = (0..).map(|seed| Setup::draw_with(seed, Some(20 * SECOND))).filter(|it| it.controllers() > 0);
    let mut totals = Totals::default();
    planes.take(4).for_each(|setup| totals.add(&passes(setup)));
    let caches = totals.caches;
    assert!(caches.lists > 0 && caches.pages > caches.lists, "{totals}");
    assert!(caches.writes_won > 100 && caches.writes_lost > 0 && caches.caches_compared > 1_000, "{totals}");
}
