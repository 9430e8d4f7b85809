//! Whoever checks others is checked as well: each mistake planted in a checker makes some test of the checkers fail.
//!
//! The tests of the other files are part of this program, too. It runs itself once for each mistake, named in its
//! environment: tests run in the order of their names then, and the first one plants it.

#![expect(clippy::duplicate_mod, reason = "every file of tests brings its support along")]

#[path = "auth.rs"]
mod auth;
#[path = "recorded.rs"]
mod recorded;
#[path = "store.rs"]
mod store;
#[path = "watch.rs"]
mod watch;
#[path = "witness.rs"]
mod witness;

use std::env;
use std::process::Command;

use quorate_core::mutant::{Mutant, plant};

const MISTAKE: &str = "QUORATE_MISTAKE";

/// Whose tests have to notice which mistakes.
const HOMES: [(&str, &[Mutant]); 5] = [
    ("witness::", &[Mutant::J01, Mutant::J02, Mutant::J03, Mutant::J04, Mutant::J05, Mutant::J06]),
    ("watch::", &[Mutant::J07, Mutant::J08, Mutant::J09]),
    ("auth::", &[Mutant::J10, Mutant::J11, Mutant::J12]),
    ("store::", &[Mutant::J13, Mutant::J16]),
    ("recorded::", &[Mutant::J14, Mutant::J15]),
];

#[test]
fn a_mistake_is_planted_first() {
    if let Ok(name) = env::var(MISTAKE) {
        let mistake = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        plant(Some(*mistake.expect("a mistake's name")));
    }
}

#[test]
fn every_mistake_in_a_checker_is_noticed() {
    if env::var(MISTAKE).is_ok() {
        return;
    }
    let mut unnoticed = Vec::new();
    for mistake in Mutant::ALL.iter().filter(|mutant| mutant.name().starts_with('J')) {
        let home = HOMES.iter().find(|(_, mistakes)| mistakes.contains(mistake)).expect("every mistake has a home").0;
        let run = Command::new(env::current_exe().expect("this program"))
            .args(["--test-threads=1", "a_mistake", home])
            .env(MISTAKE, mistake.name())
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .output()
            .expect("this program runs");
        let said = String::from_utf8_lossy(&run.stdout);
        let failed: Vec<&str> = said.lines().filter_map(|line| line.strip_suffix(" ... FAILED")).collect();
        println!("{:<5}{:<70}{}", mistake.name(), mistake.text(), failed.join(", "));
        if run.status.success() || failed.is_empty() {
            unnoticed.push(mistake.name());
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices {unnoticed:?}");
}
