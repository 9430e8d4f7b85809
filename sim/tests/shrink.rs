//! A failing run comes down to a story of a few events, and its file breaks the same promise again.
#![cfg(feature = "mutants")]

use std::fs;
use std::process::Command;

/// Ten mistakes in all parts of a member, each noticed in one of the first seeds and soon told.
const MISTAKES: [&str; 10] = ["A05", "A15", "A17", "H03", "L02", "R41", "U02", "W04", "W07", "W11"];

#[test]
fn a_failing_run_comes_down_to_a_few_events() {
    for mutant in MISTAKES {
        let path = std::env::temp_dir().join(format!("quorate-sim-{}-{mutant}.shrunk", std::process::id()));
        let file = path.to_str().expect("UTF-8");
        let sim = |more: &[&str]| {
            let command = ["--duration", "20", "--mutant", mutant];
            let output = Command::new(env!("CARGO_BIN_EXE_quorate-sim")).args(command).args(more).output();
            let output = output.expect("the simulator starts");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (_, text) = sim(&["--seeds", "0..200"]);
        let failed = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(" FAILED: "));
        let (seed, violation) = failed.unwrap_or_else(|| panic!("{mutant} is never noticed: {text}"));
        let oracle = violation.split(':').next().expect("it has a name");
        let (code, text) = sim(&["--seed", seed, "--shrink", file, "--shrink-cpu", "40"]);
        assert_eq!(code, Some(1), "{text}");
        let summary = text.lines().find(|line| line.contains(" events came down to ")).expect("it says so");
        println!("{mutant}, seed {seed}, {oracle}: {summary}");
        let (before, after) = summary.split_once(" events came down to ").expect("it says so");
        let number = |text: &str| text.split(',').next().and_then(|text| text.parse::<u64>().ok());
        let (before, after) = (number(before).expect("a number"), number(after).expect("a number"));
        assert!(before > 100 && after <= 20, "{mutant}: {before} to {after}: {text}");
        assert!(text.contains("BROKEN") && text.contains(&format!("--mutant {mutant} --schedule {file}")), "{text}");
        let (code, text) = sim(&["--seed", seed, "--schedule", file]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("\n{oracle}: ")), "{text}");
        fs::remove_file(path).expect("just written");
    }
}
