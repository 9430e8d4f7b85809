//! Tries that were made before, in a file: a matrix goes on where another one ended.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write};
use std::path::Path;
use std::str::FromStr;

use quorate_core::mutant::Mutant;

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

    pub(super) fn find(&self, mutant: Mutant, number: u64) -> Option<Try> {
        self.tries.iter().find(|made| made.mutant == mutant.name() && made.number == number).cloned()
    }

    pub(super) fn add(&mut self, made: &Try) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{made}")?;
        }
        self.tries.push(made.clone());
        Ok(())
    }
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
}
