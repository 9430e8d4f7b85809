//! Whatever a schedule's file may say, healing ends it: Quorate is not blamed for what the nemesis did.

use quorate_sim::heap::SECOND;
use quorate_sim::run::run;
use quorate_sim::schedule;
use quorate_sim::swarm::Setup;

fn blames_nobody(setup: Setup, lines: &str) {
    let file = schedule::read(lines).expect("an accepted schedule");
    let setup = setup.with(file).expect("it fits");
    let seed = setup.seed;
    if let Some((violation, at)) = run(setup, false).violation {
        panic!("seed {seed} with {lines:?} broke a promise after {at} ns: {violation}");
    }
}

fn seed(seed: u64) -> Setup {
    Setup::draw_with(seed, Some(10 * SECOND))
}

#[test]
fn what_a_disk_or_an_applier_holds_back_for_longer_than_the_run_goes_on_when_it_is_healed() {
    let day = "span=86400000000us";
    for fault in ["stall member=0", "slow-apply member=0 factor=10000", "slow-disk member=0 factor=10000"] {
        blames_nobody(seed(1), &format!("5000000us {fault} {day}"));
        blames_nobody(seed(1), &format!("5000000us {fault} {day}\n6000000us pause member=0 {day}"));
    }
    blames_nobody(seed(1), "9000000us stall member=0 span=600000000us");
}

#[test]
fn a_state_rots_only_where_the_others_can_rebuild_it() {
    blames_nobody(seed(3), "3000000us decay member=0"); // It has one member only.
    let such = |is_one: &dyn Fn(&Setup) -> bool| (0..).map(seed).find(|setup| is_one(setup)).expect("one in many");
    let lines = "3000000us decay member=0\n3000500us decay member=1\n4000000us decay member=1";
    blames_nobody(such(&|setup| setup.members == 2 && setup.churn.is_none()), lines);
    blames_nobody(such(&|setup| setup.churn.is_some() && !setup.regime.has_operator()), lines);
}

#[test]
fn no_state_goes_wrong_where_an_audit_knows_nothing_of_it() {
    let audited = (0..).map(seed).filter(|setup| setup.regime.has_operator() && setup.churn.is_none());
    for setup in audited.filter(|setup| setup.members == 3).take(3) {
        blames_nobody(setup, "3000000us decay member=0\n4000000us skew member=1\n6000000us skew member=2");
    }
}
