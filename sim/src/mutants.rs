//! The kill matrix: which planted mistakes the default swarm notices, by which oracle, after how many seeds.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write};
use std::path::Path;
use std::str::FromStr;

use quorate_core::mutant::{self, Mutant};

use crate::run::{cpu_seconds, run};
use crate::swarm::Setup;

/// How hard to try.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The first seed; each try begins with fresh ones.
    pub from: u64,
    /// How often each mutant is to be killed.
    pub tries: u64,
    /// A try is given up after so many CPU seconds.
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

/// One try to kill a mutant.
#[derive(Clone, Debug, PartialEq)]
pub struct Try {
    /// Which mutant.
    pub mutant: String,
    /// Which try.
    pub number: u64,
    /// The oracle that noticed, unless none did.
    pub oracle: Option<String>,
    /// Seeds run, the killing one included.
    pub seeds: u64,
    /// The last seed.
    pub seed: u64,
    /// What that took.
    pub cpu_seconds: f64,
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mutant, number, oracle, seeds, seed, cpu_seconds } = self;
        let oracle = oracle.as_deref().unwrap_or("-");
        write!(f, "{mutant} {number} {oracle} {seeds} {seed} {cpu_seconds:.2}")
    }
}

impl FromStr for Try {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("{line:?} is no line of a ledger");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mutant, number, oracle, seeds, seed, cpu_seconds] = words[..] else { return Err(wrong()) };
        Ok(Self {
            mutant: mutant.into(),
            number: number.parse().map_err(|_| wrong())?,
            oracle: (oracle != "-").then(|| oracle.into()),
            seeds: seeds.parse().map_err(|_| wrong())?,
            seed: seed.parse().map_err(|_| wrong())?,
            cpu_seconds: cpu_seconds.parse().map_err(|_| wrong())?,
        })
    }
}

/// The tries that were made before, and where to write down new ones.
#[derive(Debug)]
pub struct Ledger {
    tries: Vec<Try>,
    file: Option<File>,
}

impl Ledger {
    /// A ledger in `path`, or in memory only.
    ///
    /// # Errors
    /// The file cannot be read or written, or is no ledger.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self { tries: Vec::new(), file: None }) };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut tries = Vec::new();
        for line in BufReader::new(&file).lines() {
            tries.push(line?.parse().map_err(|text: String| io::Error::new(io::ErrorKind::InvalidData, text))?);
        }
        Ok(Self { tries, file: Some(file) })
    }

    fn find(&self, mutant: Mutant, number: u64) -> Option<Try> {
        self.tries.iter().find(|made| made.mutant == mutant.name() && made.number == number).cloned()
    }

    fn add(&mut self, made: &Try) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{made}")?;
        }
        self.tries.push(made.clone());
        Ok(())
    }
}

/// Tries to kill each of `mutants` and writes a line for each; whether all were killed.
///
/// # Errors
/// The ledger cannot be written, or `out`.
pub fn matrix(mutants: &[Mutant], effort: Effort, ledger: &mut Ledger, out: &mut impl Write) -> io::Result<bool> {
    writeln!(out, "{:<7}{:<14}{:>8}{:>8}{:>11}  mistake", "mutant", "killed by", "seeds", "CPU s", "seed")?;
    let (mut alive, mut rows) = (0, Vec::new());
    for &mutant in mutants {
        let mut tries = Vec::new();
        for number in 0..effort.tries {
            let made = match ledger.find(mutant, number) {
                Some(made) => made,
                None => {
                    let made = attempt(mutant, number, effort);
                    ledger.add(&made)?;
                    made
                }
            };
            tries.push(made);
        }
        // One that lived through a try is worse than any that did not.
        tries.sort_by(|one, two| {
            (one.oracle.is_none(), one.cpu_seconds)
                .partial_cmp(&(two.oracle.is_none(), two.cpu_seconds))
                .expect("times")
        });
        let lives = tries.iter().filter(|made| made.oracle.is_none()).count();
        alive += usize::from(lives > 0);
        let Try { oracle, seeds, seed, cpu_seconds, .. } = &tries[tries.len() / 2];
        rows.push((*cpu_seconds, mutant.name()));
        let oracle = oracle.as_deref().unwrap_or("ALIVE");
        writeln!(
            out,
            "{:<7}{oracle:<14}{seeds:>8}{cpu_seconds:>8.1}{seed:>11}  {}{}",
            mutant.name(),
            mutant.text(),
            if lives > 0 { format!(" (alive in {lives} of {} tries)", tries.len()) } else { String::new() }
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
    writeln!(out, "{}", proof(rows))?;
    Ok(alive == 0)
}

/// How long a build without mistakes has to be clean to have shown something: ten times as long as the row takes that is
/// noticed last. `rows`: CPU seconds and the name of each.
fn proof(mut rows: Vec<(f64, &str)>) -> String {
    rows.sort_by(|one, two| one.partial_cmp(two).expect("times"));
    let ((median, _), (slowest, name)) = (rows[rows.len() / 2], rows[rows.len() - 1]);
    let clean = 10.0 * slowest;
    format!(
        "a row takes {median:.1} CPU s (the median), {name} the most: {slowest:.1}. Without a mistake, seeds must be clean for \
         ten times that: {clean:.0} CPU s"
    )
}

/// Runs seeds with `mutant` planted until one fails.
fn attempt(mutant: Mutant, number: u64, effort: Effort) -> Try {
    mutant::plant(Some(mutant));
    let began = cpu_seconds();
    let first = effort.from + number * STRIDE;
    let mut made = Try { mutant: mutant.name().into(), number, oracle: None, seeds: 0, seed: first, cpu_seconds: 0.0 };
    for seed in first.. {
        let report = run(Setup::draw(seed), false);
        (made.seeds, made.seed, made.cpu_seconds) = (made.seeds + 1, seed, cpu_seconds() - began);
        made.oracle = report.violation.map(|(violation, _)| violation.oracle.into());
        if made.oracle.is_some() || made.cpu_seconds > effort.cpu_seconds_max {
            break;
        }
    }
    mutant::plant(None);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_keeps_tries() {
        let made = Try {
            mutant: "R01".into(),
            number: 2,
            oracle: Some("completeness".into()),
            seeds: 7,
            seed: 200_006,
            cpu_seconds: 1.25,
        };
        assert_eq!(made.to_string().parse(), Ok(made.clone()));
        let alive = Try { oracle: None, ..made };
        assert_eq!(alive.to_string().parse(), Ok(alive));
        assert!("R01 2".parse::<Try>().is_err());
    }

    #[test]
    fn ten_times_the_slowest_row_is_how_long_seeds_must_be_clean() {
        let lines = ["R01 0 leader 1 0 9", "R01 1 leader 1 0 3", "R01 2 - 1 0 1", "K12 0 lease 1 0 50"];
        let others = ["R02 0 vote 1 0 5", "R02 1 vote 1 0 5", "R02 2 vote 1 0 5"];
        let tries = lines.iter().chain(&others).map(|line| line.parse().expect("a line of a ledger")).collect();
        let mut ledger = Ledger { tries, file: None };
        let effort = Effort { from: 0, tries: 3, cpu_seconds_max: 0.0 };
        let mut out = Vec::new();
        let good =
            matrix(&[Mutant::R01, Mutant::R02], effort, &mut ledger, &mut out).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("text");
        assert!(!good, "it lived once");
        assert!(
            text.contains("takes 9.0 CPU s") && text.contains("R01 the most: 9.0") && text.ends_with(": 90 CPU s\n"),
            "{text}"
        );
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

    #[test]
    fn a_mutant_is_killed_and_the_rest_of_the_process_is_sound_again() {
        let effort = Effort { from: 0, tries: 1, cpu_seconds_max: 60.0 };
        let mut out = Vec::new();
        let mut ledger = Ledger::open(None).unwrap();
        assert!(matrix(&[Mutant::A15], effort, &mut ledger, &mut out).unwrap(), "{}", String::from_utf8_lossy(&out));
        assert!(!mutant::is_on(Mutant::A15));
    }
}
