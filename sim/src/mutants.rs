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

/// Mistakes others shipped that have no place in this code to be planted in, and what prevents them.
pub const ABSENT: &[(&str, &str)] = &[
    ("R29", "no leader answers reads by a lease: each read waits for a round; R34 and R36 plant such answers"),
    ("R30", "as R29"),
    ("R35", "a member reads only what it has applied since a round that began after it started"),
    ("P14", "the applier owns the backend and does one thing after the other, each to its end"),
    ("P17", "a log that begins behind a snapshot begins with the next entry: format::wal::Checkpoint refuses a gap"),
    ("A03", "a defragmentation is a flush and a compaction of the backend's: node/tests/backend_crash.rs"),
    ("A07", "a client that goes away reaches nothing but its own wait; entries know no client"),
    ("A13", "readers hold a published view and a picture of the backend, no lock"),
    ("A16", "responses are made anew for every txn"),
    ("K05", "the expiry of a lease that is gone is skipped; a member that does not lead gives out none"),
    ("K07", "a TTL is bounded when it is proposed and counted in seconds of a Duration"),
    ("K09", "the Lock service is the real server's alone: node/tests/single.rs, locks_and_elections_queue_up"),
    ("K10", "core is no_std: it has no wall clock (ci/check.sh)"),
    ("P20", "fjall's business: node/tests/backend_crash.rs holds it to the backend's contract"),
    ("P21", "as P20; fjall's journal is never trusted"),
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
    let mut alive = 0;
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
    Ok(alive == 0)
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
    fn a_mutant_is_killed_and_the_rest_of_the_process_is_sound_again() {
        let effort = Effort { from: 0, tries: 1, cpu_seconds_max: 60.0 };
        let mut out = Vec::new();
        let mut ledger = Ledger::open(None).unwrap();
        assert!(matrix(&[Mutant::A15], effort, &mut ledger, &mut out).unwrap(), "{}", String::from_utf8_lossy(&out));
        assert!(!mutant::is_on(Mutant::A15));
    }
}
