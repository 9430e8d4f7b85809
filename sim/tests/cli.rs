//! The command itself: what it refuses, and how it ends.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn simulator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
}

fn run(arguments: &[&str]) -> Output {
    simulator().args(arguments).output().expect("the simulator starts")
}

fn refused(arguments: &[&str], because: &str) {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(text.contains(because), "{arguments:?}: {text}");
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("quorate-sim-{}-{name}", std::process::id()));
    fs::write(&path, text).expect("a temporary file");
    path
}

#[test]
fn a_schedule_with_unknown_or_contradictory_entries_is_refused() {
    let entries = [
        ("5us fry member=1", "line 1: unknown fault fry"),
        ("5us kill member=1", "line 1: no down="),
        ("5us kill member=9 down=1us", "there are"),
        ("5us kill member=1 down=1us down=2us", "down= twice"),
        ("5us kill member=1 down=1us colour=2", "no colour="),
        ("5us clock-rate member=0 ppm=900000", "the declared drift"),
        ("5us slow-disk member=0 factor=0 span=1us", "a factor of 0"),
        ("set luck=7", "no setting luck"),
        ("99000000000us blackout down=1us", "behind the end"),
        ("5us ask client=0 member=0 patience=1us Put=ff", "line 1: ff is no request of Put"),
        ("5us progress client=0", "without `set clients-follow=script`"),
        ("set clients-follow=script\n5us progress client=77", "there are 3 such clients"),
        ("set clients-follow=script\n5us watch client=0 member=9", "there are"),
        ("set clients-follow=whim", "no setting clients-follow"),
        ("5us pause member=0 span=18446744073709551us", "line 1: span=18446744073709551us is longer than a day"),
        (
            "5us slow-disk member=0 factor=10000 span=9us\n6us slow-apply member=0 factor=10000 span=9us\n\
             7us slow-disk member=1 factor=10000 span=9us\n8us slow-disk member=0 factor=10000 span=9us\n\
             9us slow-disk member=0 factor=10000 span=9us",
            "9us slow-disk member=0 factor=10000 span=9us: too slow",
        ),
        (
            "9us slow-disk member=0 factor=10000 span=9us\n7us slow-disk member=0 factor=10000 span=9us\n\
             5us slow-disk member=0 factor=10000 span=9us",
            "9us slow-disk member=0 factor=10000 span=9us: too slow",
        ),
        ("5us slow-disk member=0 factor=999999 span=1us", "line 1: factor=999999 is more than 10000"),
        (
            "5us storm loss=1000001 duplicate=0 straggle=0 late=1us span=1us",
            "line 1: loss=1000001 is more than 1000000",
        ),
        ("5us clock-rate member=0 ppm=-9223372036854775808", "line 1: ppm=-9223372036854775808 is not a number"),
        ("set clients-follow=script\n5us ask client=0 member=0 patience=18446744073709551us Put=", "line 2: "),
        ("set clients=1\nset clients=1", "line 2: set clients=1: it is set twice"),
        ("set clients-from=70000000us", "out of range"),
        ("# seed 2: 3 members", "was made for seed 2"),
        ("# seed 1: 3 members\n# seed 9: 3 members", "line 2: it is for seed 9, and a line before it for seed 1"),
        ("5us cut from=1 to=1 span=1us", "a link from a member to itself"),
        (
            "5us storm from=1 to=1 loss=9 duplicate=0 straggle=0 late=1us span=1us",
            "storm from=1 to=1 loss=9 duplicate=0 straggle=0 late=1us span=1us: a link from a member to itself",
        ),
        ("5us throttle from=1 to=1 bandwidth=9000 queue=1us span=1us", "a link from a member to itself"),
        ("5us outcast member=0 plight=sad", "line 1: plight=sad is none of down, isolated, deaf, mute, slow"),
        ("5us outcast member=0 plight=down\n6us outcast member=0 plight=deaf", "it is left out twice"),
        (
            "5us outcast member=0 plight=down\n6us outcast member=1 plight=deaf\n6us outcast member=2 plight=slow",
            "the others would be no majority",
        ),
        ("5us partition side=0 span=1us", "partition side=0 span=1us: nobody is on that side"),
        ("5us partition side=256 span=1us", "a member that does not exist"),
        ("5us partition side=31 span=1us", "nobody is on the other side"),
    ];
    for (n, (text, because)) in entries.into_iter().enumerate() {
        let path = file(&format!("{n}.schedule"), text);
        refused(&["--seed", "1", "--schedule", path.to_str().expect("UTF-8")], because);
        fs::remove_file(path).expect("just written");
    }
    refused(&["--seed", "1", "--schedule", "/nowhere/at/all"], "reading /nowhere/at/all");
    for fault in ["harass", "topple"] {
        let path = file("alone.schedule", &format!("5us {fault} after=1us span=1us"));
        refused(&["--seed", "3", "--schedule", path.to_str().expect("UTF-8")], "the only member leads");
        fs::remove_file(path).expect("just written");
    }
}

#[test]
fn a_range_that_is_empty_or_reversed_is_refused() {
    refused(&["--seeds", "5..5"], "is empty");
    refused(&["--seeds", "9..5"], "is empty");
    refused(&["--seeds", "9"], "write it as A..B");
    refused(&[], "--seed");
}

#[test]
fn what_is_for_one_seed_is_refused_for_many_and_the_other_way_round() {
    let one = [
        &["--schedule", "/no/such/file"][..],
        &["--report", "page.html"],
        &["--shrink", "story"],
        &["--shrink-cpu", "5"],
        &["--causality"],
        &["--causality-cpu", "5"],
        &["--log"],
        &["--print-schedule"],
    ];
    let many = [&["--jobs", "2"][..], &["--keep-going"], &["--undecided-max", "1"], &["--seeds", "0..2"]];
    let ranges = one.into_iter().map(|option| (["--seeds", "0..2"], option));
    let seeds = many.into_iter().map(|option| (["--seed", "1"], option));
    for (whose, option) in ranges.chain(seeds) {
        refused(&[&whose[..], option].concat(), &format!("'{}", option[0]));
        refused(&[option, &whose].concat(), "cannot be used with");
    }
}

#[test]
fn what_prints_a_schedule_runs_nothing_that_could_be_looked_at() {
    for option in [&["--log"][..], &["--check"], &["--causality"], &["--shrink", "story"], &["--report", "page.html"]] {
        refused(&[&["--seed", "1", "--print-schedule"], option].concat(), "cannot be used with");
    }
}

#[test]
fn what_is_for_any_seed_is_for_many_too() {
    let output = run(&["--seeds", "0..2", "--duration", "10", "--check", "--jobs", "2", "--undecided-max", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_last_seed_of_all_is_not_followed_by_the_first() {
    let last = format!("{}..{}", u64::MAX - 1, u64::MAX);
    let output = run(&["--seeds", &last, "--duration", "10", "--jobs", "2"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 1 seeds in "));
}

#[test]
fn time_that_cannot_be_counted_is_refused() {
    for seconds in ["nan", "inf", "-1", "0", "1e999"] {
        let refused = |option: &str, before: &[&str]| {
            let option = format!("{option}={seconds}");
            refused(&[before, &[option.as_str()]].concat(), &format!("invalid value '{seconds}'"));
        };
        refused("--cpu", &["mutants", "A15"]);
        refused("--shrink-cpu", &["--seed", "1", "--shrink", "story"]);
        refused("--causality-cpu", &["--seed", "1", "--causality"]);
    }
    refused(&["mutants", "--cpu", "soon"], "invalid value 'soon'");
    refused(&["mutants", "--from", "18446744073709551615"], "not in 0..=9223372036854775807");
    refused(&["mutants", "--tries", "0"], "not in 1..=1000");
}

#[test]
fn no_run_is_longer_than_a_day() {
    refused(&["--seed", "1", "--duration", "86401"], "10..=86400");
    refused(&["--seeds", "0..1", "--duration", "100000000000"], "10..=86400");
}

#[test]
fn a_setting_may_need_one_that_comes_behind_it() {
    let path = file("late.schedule", "set clients-from=70000000us\nset duration=71000000us");
    let output = run(&["--seed", "1", "--print-schedule", "--schedule", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0));
    fs::remove_file(path).expect("just written");
}

#[test]
fn a_story_that_is_not_told_leaves_no_file_and_changes_none() {
    let path = file("story", "once");
    let arguments = ["--seed", "1", "--duration", "10", "--shrink", path.to_str().expect("UTF-8")];
    let nothing = |output: Output| {
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to shrink"));
    };
    nothing(run(&arguments));
    assert_eq!(fs::read_to_string(&path).expect("it is still there"), "once");
    fs::remove_file(&path).expect("it is still there");
    nothing(run(&arguments));
    assert!(!path.exists());
}

#[cfg(feature = "mutants")]
#[test]
fn a_run_that_fails_says_how_to_run_it_again() {
    // In some seed, with whatever faults: what matters is how it ends.
    let failing = (0..20).map(|seed| {
        let seed = seed.to_string();
        let output = run(&["--seed", &seed, "--duration", "10", "--mutant", "W12"]);
        (seed, output)
    });
    let (seed, output) = failing.into_iter().find(|(_, output)| !output.status.success()).expect("W12 is noticed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    let again = format!(
        "again: cargo run --release -p quorate-sim --features mutants -- --seed {seed} --duration 10 --mutant W12"
    );
    assert_eq!(text.lines().last(), Some(again.as_str()));
}

#[test]
fn a_file_for_the_shrunk_schedule_that_cannot_be_written_is_refused() {
    refused(&["--seed", "1", "--duration", "10", "--shrink", "/nowhere/at/all"], "writing /nowhere/at/all");
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_the_run() {
    refused(
        &["--seed", "1", "--duration", "86400", "--report", "/nowhere/at/all.html"],
        "writing /nowhere/at/all.html",
    );
}

#[test]
fn a_run_that_keeps_its_promises_has_a_page_and_no_decision() {
    let path = file("page.html", "");
    let arguments = ["--seed", "1", "--duration", "10", "--causality", "--report", path.to_str().expect("UTF-8")];
    let output = run(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("nothing was decided"), "{text}");
    assert!(fs::read_to_string(&path).expect("written").contains("Every promise was kept."));
    fs::remove_file(path).expect("just written");
}

#[cfg(not(feature = "marks"))]
#[test]
fn a_build_that_does_not_count_marks_says_so() {
    refused(&["--seeds", "0..1", "--require-marks"], "--features marks");
}

#[cfg(not(feature = "mutants"))]
#[test]
fn a_build_that_cannot_plant_mistakes_says_so() {
    refused(&["mutants"], "--features mutants");
}

#[cfg(feature = "mutants")]
#[test]
fn an_unknown_mutant_is_refused() {
    refused(&["mutants", "R99"], "unknown mutant R99");
}

#[cfg(feature = "mutants")]
#[test]
fn a_mistake_in_a_checker_is_no_seeds_business() {
    refused(
        &["mutants", "W12", "j01"],
        "J01 is a mistake in a checker, which no seed can show: `cargo test -p quorate-jepsen",
    );
    refused(
        &["mutants", "O01"],
        "O01 is a mistake in a checker, which no seed can show: `cargo test --release -p quorate-sim",
    );
}

#[cfg(feature = "mutants")]
#[test]
fn a_matrix_goes_on_from_its_ledger_and_from_no_other() {
    let path = file("ledger", "");
    let tries = |more: &[&str]| {
        let matrix = ["mutants", "A15", "--ledger", path.to_str().expect("UTF-8")];
        let output = run(&[&matrix[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(&path).expect("a ledger").lines().count()
    };
    assert_eq!(tries(&["--tries", "1"]), 1);
    assert_eq!(tries(&["--tries", "1"]), 1);
    assert_eq!(tries(&["--tries", "1", "--from", "1"]), 2);
    assert_eq!(tries(&["--tries", "1", "--cpu", "60"]), 3);
    assert_eq!(tries(&["--tries", "2"]), 4);
    assert_eq!(tries(&["--tries", "2"]), 4);
    fs::write(&path, "R01 0 leader 1 0 9.00\n").expect("a temporary file");
    refused(&["mutants", "A15", "--ledger", "/nowhere/at/all"], "the ledger /nowhere/at/all: ");
    refused(
        &["mutants", "A15", "--ledger", path.to_str().expect("UTF-8")],
        "\"R01 0 leader 1 0 9.00\" is no line of a ledger",
    );
    fs::remove_file(path).expect("just written");
}

#[test]
fn what_a_schedule_prints_can_be_run() {
    let printed = run(&["--seed", "3", "--duration", "10", "--print-schedule"]);
    let path = file("printed.schedule", &String::from_utf8(printed.stdout).expect("text"));
    let file = path.to_str().expect("UTF-8");
    let (own, read) =
        (run(&["--seed", "3", "--duration", "10"]), run(&["--seed", "3", "--duration", "10", "--schedule", file]));
    let hash = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line.contains("trace hash")).map(str::to_owned)
    };
    assert!(hash(&own).is_some());
    assert_eq!(hash(&own), hash(&read));
    fs::remove_file(path).expect("just written");
}

#[test]
fn what_a_schedule_changes_is_printed_with_its_faults() {
    // In another order than it is printed.
    let lines = [
        "set clients-follow=script",
        "set clients=4",
        "7us blackout down=5us",
        "6us ask client=3 member=1 patience=9us Put=0a016b # put k",
        "5us kill member=1 down=5us",
        "# a comment",
        "set duration=9000000us",
        "set fate=7",
    ];
    let path = file("whole.schedule", &lines.join("\n"));
    let print = || {
        let output = run(&["--seed", "1", "--print-schedule", "--schedule", path.to_str().expect("UTF-8")]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let printed = print();
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        assert!(printed.lines().any(|other| other.starts_with(line)), "{line}: {printed}");
    }
    fs::write(&path, &printed).expect("a temporary file");
    assert_eq!(print(), printed);
    fs::remove_file(path).expect("just written");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let arguments = ["--seed", "1", "--duration", "10", "--log"];
    let mut child = simulator().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), text.as_str()), (Some(0), ""));
}

#[test]
fn how_far_it_has_come_is_said_in_plain_lines_where_there_is_no_terminal() {
    let output = run(&["--seeds", "0..2"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("2 of 2 seeds in ") && text.contains("0 failed"), "{text}");
}
