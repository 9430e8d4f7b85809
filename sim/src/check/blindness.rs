//! Whoever judges others is judged as well: of each blindness that can be planted in an oracle, the oracle's own tests notice
//! it here, or else `tests/blindness.rs` shows a seed in which it lets a mistake of core through.
//!
//! This program of tests runs itself once for each, named in its environment: tests run in the order of their names then,
//! and the first one plants it.

use std::env;
use std::process::Command;

use quorate_core::mutant::{Mutant, blind};

const BLINDNESS: &str = "QUORATE_BLINDNESS";

/// Whose tests have to notice which.
const HOMES: [(&str, &[Mutant]); 8] = [
    ("check::cache::", &[Mutant::O21, Mutant::O22]),
    ("check::consensus::", &[Mutant::O02, Mutant::O05, Mutant::O06]),
    ("check::lease::", &[Mutant::O13, Mutant::O14, Mutant::O15]),
    ("check::level::", &[Mutant::O12]),
    ("check::lock::", &[Mutant::O17, Mutant::O18]),
    ("check::membership::", &[Mutant::O08, Mutant::O09, Mutant::O10]),
    ("check::watch::", &[Mutant::O19, Mutant::O20]),
    ("world::actions::", &[Mutant::O31]),
];

#[test]
fn a_blindness_is_planted_first() {
    if let Ok(name) = env::var(BLINDNESS) {
        let blindness = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        blind(Some(*blindness.expect("a blindness")));
    }
}

#[test]
fn every_blindness_is_noticed() {
    let mut unnoticed = Vec::new();
    for (home, blindness) in HOMES.iter().flat_map(|(home, all)| all.iter().map(move |one| (home, one))) {
        let run = Command::new(env::current_exe().expect("this program"))
            .args(["--test-threads=1", "a_blindness_is_planted_first", home])
            .env(BLINDNESS, blindness.name())
            .output()
            .expect("this program runs");
        let said = String::from_utf8_lossy(&run.stdout);
        let failed: Vec<&str> = said.lines().filter_map(|line| line.strip_suffix(" ... FAILED")).collect();
        println!("{:<5}{:<60}{}", blindness.name(), blindness.text(), failed.join(", "));
        if run.status.success() || failed.is_empty() {
            unnoticed.push(blindness.name());
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices {unnoticed:?}");
}

#[test]
fn every_blindness_has_a_home() {
    let others = include_str!("../../tests/blindness.rs");
    let has_home = |blindness: &Mutant| HOMES.iter().any(|(_, all)| all.contains(blindness));
    for blindness in Mutant::ALL.iter().filter(|mutant| mutant.name().starts_with('O')) {
        let is_shown = others.contains(&format!("(Mutant::{}, ", blindness.name()));
        assert!(has_home(blindness) || is_shown, "{} is shown by nothing", blindness.name());
    }
}
