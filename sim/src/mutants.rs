//! The kill matrix: which planted mistakes the default swarm notices, by which oracle, after how many seeds.

use std::io::{self, Write};

use quorate_core::mutant::{self, Mutant};

use crate::run::{cpu_seconds, run};
use crate::swarm::Setup;

mod ledger;

pub use ledger::{Ledger, Try};

/// How hard to try.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The first seed; each try begins with fresh ones.
    pub from: u64,
    /// How often each mutant is to be killed.
    pub tries: u64,
    /// A row is given up after so many CPU seconds, all tries together.
    pub cpu_seconds_max: f64,
}

/// Mistakes others shipped that have no place in this code to be planted in, or none that is simulated: with the type that
/// prevents them, or the test that would notice, as `path::name`.
pub const ABSENT: &[(&str, &str)] = &[
    (
        "R29",
        "no leader answers reads by a lease: core/testdata/raft/read_rounds.txt has one deposed that does not; R34 and R36 \
         plant such answers",
    ),
    (
        "R30",
        "as R29; a leader that nobody answers: \
         core/tests/replica.rs::without_a_quorum_requests_are_given_up_and_reads_are_not_answered",
    ),
    (
        "P14",
        "a snapshot fills a generation of its own: \
         node/tests/applier.rs::a_snapshot_takes_the_place_of_a_state_that_is_being_defragmented",
    ),
    (
        "P17",
        "a log that begins behind a snapshot begins with the next entry: core/src/format/wal.rs::Checkpoint refuses a gap, \
         node/src/boot.rs::a_log_that_does_not_meet_the_applied_state_is_found_out",
    ),
    (
        "A03",
        "a defragmentation is a flush and a compaction of the backend's: \
         node/tests/backend_crash.rs::a_snapshot_keeps_what_it_saw",
    ),
    (
        "A07",
        "what is applied is a core/src/command.rs::Envelope, which knows no client that waits: \
         core/tests/replica_proposals.rs::a_put_that_nobody_waits_for_any_more_is_applied_all_the_same",
    ),
    (
        "A13",
        "readers hold no lock but a node/src/applier.rs::Published, which nobody changes: \
         core/tests/store_model.rs::store_agrees_with_the_model, node/tests/backend_crash.rs::a_snapshot_keeps_what_it_saw",
    ),
    (
        "A16",
        "a txn's response and events are made anew: core/tests/store_model.rs::store_agrees_with_the_model compares both",
    ),
    (
        "K05",
        "a lease is due once, and on the leader alone: core/src/replica/lease_clock.rs::agrees_with_the_model; one that is \
         gone is passed over: core/testdata/lease/lease.txt",
    ),
    (
        "K07",
        "a TTL is bounded when it is granted: core/testdata/lease/lease.txt, and counted in a Duration: \
         core/src/replica/lease_clock.rs::the_longest_ttl_does_not_overflow",
    ),
    (
        "K09",
        "no server is built with mistakes (node/src/lib.rs), and none is simulated: node/src/grpc/lock.rs::lock has the \
         check, and node/tests/single.rs::locks_and_elections_queue_up notices if it is gone",
    ),
    (
        "K10",
        "what core knows of time is a core/src/time.rs::Instant, monotonic: it is no_std and has no clock (ci/check.sh). The \
         sim/src/clock.rs::WallClock of each simulated machine differs and jumps",
    ),
    (
        "P20",
        "fjall's business: node/tests/backend_crash.rs::a_snapshot_keeps_what_it_saw holds it to the backend's contract",
    ),
    (
        "P21",
        "as P20; fjall's journal is never trusted: \
         node/tests/backend_crash.rs::a_power_cut_leaves_a_prefix_of_the_batches_1",
    ),
];

/// Seeds between the first ones of two tries.
const STRIDE: u64 = 100_000;

/// Tries to kill each of `mutants` and writes a line for each; whether all were killed.
///
/// # Errors
/// The ledger cannot be written, or `out`.
pub fn matrix(mutants: &[Mutant], effort: Effort, ledger: &mut Ledger, out: &mut impl Write) -> io::Result<bool> {
    writeln!(out, "{:<7}{:<14}{:>8}{:>8}{:>11}  mistake", "mutant", "killed by", "seeds", "CPU s", "seed")?;
    let (mut alive, mut all_kills) = (0, Vec::new());
    for &mutant in mutants {
        let tries = row(mutant, effort, ledger)?;
        let mut kills: Vec<&Try> = tries.iter().filter(|made| made.oracle.is_some()).collect();
        kills.sort_by(|one, two| one.cpu_seconds.total_cmp(&two.cpu_seconds));
        let lives = (kills.len() as u64) < effort.tries;
        alive += usize::from(lives);
        let (oracle, seeds, cpu_seconds, seed) = match kills.get(effort.tries as usize / 2) {
            Some(Try { oracle, seeds, cpu_seconds, seed, .. }) => (oracle.as_deref(), *seeds, *cpu_seconds, *seed),
            // A try that it lived through, or that there was no time for, is worse than any that killed it.
            None => {
                let (seeds, cpu_seconds) = (tries.iter().map(|made| made.seeds).sum(), spent(&tries));
                (None, seeds, cpu_seconds, tries.last().map_or(effort.from, |made| made.seed))
            }
        };
        all_kills.extend(kills.iter().map(|made| (made.cpu_seconds, mutant.name())));
        let oracle = oracle.unwrap_or("ALIVE");
        writeln!(
            out,
            "{:<7}{oracle:<14}{seeds:>8}{cpu_seconds:>8.1}{seed:>11}  {}{}",
            mutant.name(),
            mutant.text(),
            if lives { format!(" (killed in {} of {} tries)", kills.len(), effort.tries) } else { String::new() }
        )?;
        out.flush()?;
    }
    writeln!(out, "{} of {} killed", mutants.len() - alive, mutants.len())?;
    if mutants.len() == Mutant::ALL.iter().filter(|mutant| !mutant.is_in_checker()).count() {
        writeln!(out, "cannot be planted:")?;
        for (row, reason) in ABSENT {
            writeln!(out, "{row:<7}{reason}")?;
        }
    }
    if !all_kills.is_empty() {
        writeln!(out, "{}", proof(all_kills))?;
    }
    Ok(alive == 0)
}

/// The tries to kill `mutant`, until one fails or the time of all is up.
fn row(mutant: Mutant, effort: Effort, ledger: &mut Ledger) -> io::Result<Vec<Try>> {
    let mut tries = Vec::new();
    for number in 0..effort.tries {
        let left = effort.cpu_seconds_max - spent(&tries);
        let made = match ledger.find(effort, mutant, number) {
            Some(made) => made,
            None => {
                let made = attempt(mutant, number, effort.from + number * STRIDE, left);
                ledger.add(effort, made.clone())?;
                made
            }
        };
        let was_killed = made.oracle.is_some();
        tries.push(made);
        if !was_killed || spent(&tries) >= effort.cpu_seconds_max {
            break;
        }
    }
    Ok(tries)
}

fn spent(tries: &[Try]) -> f64 {
    tries.iter().map(|made| made.cpu_seconds).sum()
}

/// How long a build without mistakes has to be clean to have shown something: ten times as long as the slowest kill took.
/// `kills`, at least one: CPU seconds and the mutant of each.
fn proof(mut kills: Vec<(f64, &str)>) -> String {
    kills.sort_by(|one, two| one.0.total_cmp(&two.0));
    let ((median, _), (slowest, name)) = (kills[kills.len() / 2], kills[kills.len() - 1]);
    let clean = 10.0 * slowest;
    format!(
        "a kill took {median:.1} CPU s (the median), the slowest, of {name}, {slowest:.1}. Without a mistake, seeds must be \
         clean for ten times that: {clean:.0} CPU s"
    )
}

/// Runs seeds from `first` on with `mutant` planted, until one fails or so many CPU seconds are over.
fn attempt(mutant: Mutant, number: u64, first: u64, cpu_seconds_max: f64) -> Try {
    mutant::plant(Some(mutant));
    let began = cpu_seconds();
    let mut made = Try { mutant: mutant.name().into(), number, oracle: None, seeds: 0, seed: first, cpu_seconds: 0.0 };
    for seed in first.. {
        let report = run(Setup::draw(seed), false);
        (made.seeds, made.seed, made.cpu_seconds) = (made.seeds + 1, seed, cpu_seconds() - began);
        made.oracle = report.violation.map(|(violation, _)| violation.oracle.into());
        if made.oracle.is_some() || made.cpu_seconds >= cpu_seconds_max {
            break;
        }
    }
    mutant::plant(None);
    made
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What a matrix says of tries that were made before: what each took, and whether it killed.
    fn told(cpu_seconds_max: f64, rows: &[(Mutant, &[(f64, bool)])]) -> (bool, String) {
        let effort = Effort { from: 0, tries: 3, cpu_seconds_max };
        let mut ledger = Ledger::open(None).expect("in memory");
        for (mutant, tries) in rows {
            for (number, (cpu_seconds, killed)) in (0..).zip(*tries) {
                let (mutant, oracle) = (mutant.name().into(), killed.then(|| "leader".into()));
                let made = Try { mutant, number, oracle, seeds: 7, seed: number, cpu_seconds: *cpu_seconds };
                ledger.add(effort, made).expect("in memory");
            }
        }
        let mutants: Vec<Mutant> = rows.iter().map(|(mutant, _)| *mutant).collect();
        let mut out = Vec::new();
        let good = matrix(&mutants, effort, &mut ledger, &mut out).expect("a vector takes everything");
        (good, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn ten_times_the_slowest_kill_is_how_long_seeds_must_be_clean() {
        let rows: [(Mutant, &[_]); 2] = [
            (Mutant::R01, &[(9.0, true), (3.0, true), (20.0, true)]),
            (Mutant::R02, &[(5.0, true), (4.0, true), (70.0, false)]),
        ];
        let (good, text) = told(600.0, &rows);
        assert!(!good, "one lived once");
        let last = "a kill took 5.0 CPU s (the median), the slowest, of R01, 20.0. Without a mistake, seeds must be clean for \
                    ten times that: 200 CPU s";
        assert_eq!(text.lines().last(), Some(last));
        let (_, text) = told(600.0, &[(Mutant::R01, &[(601.0, false)])]);
        assert_eq!(text.lines().last(), Some("0 of 1 killed"));
    }

    #[test]
    fn the_time_of_a_row_is_that_of_all_its_tries() {
        let line = |text: &str| text.lines().nth(1).expect("a row").split_whitespace().map(str::to_owned).collect();
        let row = |tries: &[(f64, bool)]| {
            let (good, text) = told(40.0, &[(Mutant::R01, tries)]);
            let words: Vec<String> = line(&text);
            (good, words[1..5].join(" "), text.contains("(killed in "))
        };
        assert_eq!(row(&[(30.0, true), (5.0, true), (9.0, true)]), (true, "leader 7 9.0 2".into(), false));
        // No time is left for a third try; then not even for a second.
        assert_eq!(row(&[(30.0, true), (15.0, true)]), (false, "leader 7 30.0 0".into(), true));
        assert_eq!(row(&[(50.0, true)]), (false, "ALIVE 7 50.0 0".into(), true));
        assert_eq!(row(&[(30.0, true), (11.0, false)]), (false, "ALIVE 14 41.0 1".into(), true));
    }

    #[test]
    fn what_prevents_a_mistake_exists() {
        assert!(ABSENT.len() <= 15, "{} rows", ABSENT.len());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (row, reason) in ABSENT {
            let words = reason.split([' ', '(', ')', ',', ';']).map(|word| word.trim_end_matches(':'));
            for word in words.filter(|word| word.contains('/')) {
                let (path, name) = word.split_once("::").unwrap_or((word, ""));
                let text =
                    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{row}: {path}: {error}"));
                let is_there = ["fn", "struct"].iter().any(|kind| text.contains(&format!("{kind} {name}")));
                assert!(name.is_empty() || is_there, "{row}: there is no {name} in {path}");
            }
        }
    }
}
