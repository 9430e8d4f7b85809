//! A mistake is planted, noticed and taken away again. It is there for the whole process: no other test may run beside.
#![cfg(feature = "mutants")]

use quorate_core::mutant::{self, Mutant};
use quorate_sim::mutants::{Effort, Ledger, matrix};

#[test]
fn a_mutant_is_killed_and_the_rest_of_the_process_is_sound_again() {
    let effort = Effort { from: 0, tries: 1, cpu_seconds_max: 60.0 };
    let mut out = Vec::new();
    let mut ledger = Ledger::open(None).unwrap();
    assert!(matrix(&[Mutant::A15], effort, &mut ledger, &mut out).unwrap(), "{}", String::from_utf8_lossy(&out));
    assert!(!mutant::is_on(Mutant::A15));
}
