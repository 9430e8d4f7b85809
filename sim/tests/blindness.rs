//! An oracle that is blind lets a mistake through that it notices when it sees: whatever it says, no other one says as well.
#![cfg(feature = "mutants")]

use quorate_core::mutant::{Mutant, blind, plant};
use quorate_sim::heap::SECOND;
use quorate_sim::run::run;
use quorate_sim::swarm::Setup;

/// So many seeds are tried, from the one that showed it first.
const SEEDS_MAX: u64 = 400;

/// A blindness, a mistake that the oracle notices, and a seed of so many seconds in which no other one does.
const SHOWN: [(Mutant, Mutant, u64, u64); 18] = [
    (Mutant::O01, Mutant::R25, 10, 0),
    (Mutant::O03, Mutant::R44, 10, 6),
    (Mutant::O04, Mutant::R43, 10, 8),
    (Mutant::O07, Mutant::R42, 10, 0),
    (Mutant::O11, Mutant::R26, 10, 0),
    (Mutant::O13, Mutant::K12, 10, 11),
    (Mutant::O14, Mutant::K13, 10, 0),
    (Mutant::O15, Mutant::K16, 10, 0),
    (Mutant::O16, Mutant::K03, 10, 7),
    (Mutant::O19, Mutant::W11, 10, 0),
    (Mutant::O23, Mutant::Q06, 20, 36),
    (Mutant::O24, Mutant::U14, 10, 6),
    (Mutant::O25, Mutant::U08, 10, 6),
    (Mutant::O26, Mutant::A14, 20, 25),
    (Mutant::O27, Mutant::Q01, 10, 13),
    (Mutant::O28, Mutant::Q04, 10, 10),
    (Mutant::O29, Mutant::A01, 10, 14),
    (Mutant::O30, Mutant::R44, 10, 6),
];

/// The oracle that notices.
fn noticed(seed: u64, seconds: u64) -> Option<&'static str> {
    let report = run(Setup::draw_with(seed, Some(seconds * SECOND)), false);
    report.violation.map(|(violation, _)| violation.oracle)
}

#[test]
fn a_blind_oracle_lets_a_mistake_through_that_it_notices_when_it_sees() {
    let mut unnoticed = Vec::new();
    for (blindness, mistake, seconds, first) in SHOWN {
        let shows = |seed: &u64| {
            plant(Some(mistake));
            let sound = noticed(*seed, seconds);
            blind(Some(blindness));
            let shown = sound.filter(|_| noticed(*seed, seconds).is_none());
            blind(None);
            plant(None);
            shown.map(|oracle| (*seed, oracle))
        };
        match (first..first + SEEDS_MAX).find_map(|seed| shows(&seed)) {
            Some((seed, oracle)) => {
                println!("{} {:<55} {} in seed {seed}: {oracle}", blindness.name(), blindness.text(), mistake.name());
            }
            None => unnoticed.push(blindness.name()),
        }
    }
    assert!(unnoticed.is_empty(), "nothing shows that {unnoticed:?} see");
}
