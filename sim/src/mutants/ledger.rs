//! Tries that were made before, in a file: a matrix goes on where another one of the same build ended.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::str::FromStr;

use quorate_core::mutant::Mutant;

use super::Effort;
use crate::trace::Digest;

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

/// A line of a ledger: a try, and what else it would have come out differently for.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    /// The build, as [`this_build`] has it.
    build: u64,
    /// [`Effort::from`].
    from: u64,
    /// [`Effort::cpu_seconds_max`].
    cpu_seconds_max: f64,
    made: Try,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { build, from, cpu_seconds_max, made } = self;
        let Try { mutant, number, oracle, seeds, seed, cpu_seconds } = made;
        let oracle = oracle.as_deref().unwrap_or("-");
        write!(f, "{build:016x} {from} {cpu_seconds_max} {mutant} {number} {oracle} {seeds} {seed} {cpu_seconds:.2}")
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        fn read<T: FromStr>(word: &str) -> Option<T> {
            word.parse().ok()
        }
        let read_words = || {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [build, from, cpu_seconds_max, mutant, number, oracle, seeds, seed, cpu_seconds] = words[..] else {
                return None;
            };
            let made = Try {
                mutant: mutant.into(),
                number: read(number)?,
                oracle: (oracle != "-").then(|| oracle.into()),
                seeds: read(seeds)?,
                seed: read(seed)?,
                cpu_seconds: read(cpu_seconds)?,
            };
            let build = u64::from_str_radix(build, 16).ok()?;
            Some(Self { build, from: read(from)?, cpu_seconds_max: read(cpu_seconds_max)?, made })
        };
        read_words().ok_or_else(|| format!("{line:?} is no line of a ledger of this version: name another file"))
    }
}

/// The tries that this build has made before, and where to write down new ones.
#[derive(Debug)]
pub struct Ledger {
    build: u64,
    lines: Vec<Line>,
    file: Option<File>,
}

impl Ledger {
    /// A ledger in `path`, or in memory only. What other builds wrote down stays in the file, and counts for them alone.
    ///
    /// # Errors
    /// The file cannot be read or written, or is no ledger.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        match path {
            Some(path) => Self::read(path, this_build()?),
            None => Ok(Self { build: 0, lines: Vec::new(), file: None }),
        }
    }

    fn read(path: &Path, build: u64) -> io::Result<Self> {
        let no_ledger = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line is written at once with its end: one without is what is left of a write that was cut short.
        let (whole, torn) = text.split_at(text.rfind('\n').map_or(0, |end| end + 1));
        let mut lines = whole.lines().map(str::parse).collect::<Result<Vec<Line>, _>>().map_err(no_ledger)?;
        if !torn.bytes().take(16).all(|byte| byte.is_ascii_hexdigit()) {
            // Nor is it the beginning of one.
            return Err(no_ledger(format!("{torn:?} is no line of a ledger: name another file")));
        }
        file.set_len(whole.len() as u64)?;
        lines.retain(|line| line.build == build);
        Ok(Self { build, lines, file: Some(file) })
    }

    pub(super) fn find(&self, effort: Effort, mutant: Mutant, number: u64) -> Option<Try> {
        let is_it = |line: &&Line| {
            (line.from, line.cpu_seconds_max) == (effort.from, effort.cpu_seconds_max)
                && (line.made.mutant.as_str(), line.made.number) == (mutant.name(), number)
        };
        self.lines.iter().find(is_it).map(|line| line.made.clone())
    }

    pub(super) fn add(&mut self, effort: Effort, made: Try) -> io::Result<()> {
        let Effort { from, cpu_seconds_max, .. } = effort;
        let line = Line { build: self.build, from, cpu_seconds_max, made };
        if let Some(file) = &mut self.file {
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        self.lines.push(line);
        Ok(())
    }
}

/// What tells this build from any other: a hash of the program that runs. Any of its code may decide what a seed does.
fn this_build() -> io::Result<u64> {
    Ok(Digest::default().bytes(&fs::read(std::env::current_exe()?)?).get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort { from: 7, tries: 3, cpu_seconds_max: 0.1 };

    fn made() -> Try {
        let oracle = Some("completeness".into());
        Try { mutant: "R01".into(), number: 2, oracle, seeds: 7, seed: 200_013, cpu_seconds: 1.25 }
    }

    fn ledger(name: &str, text: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("quorate-sim-{}-{name}.ledger", std::process::id()));
        fs::write(&path, text).expect("a temporary file");
        path
    }

    #[test]
    fn a_line_survives_being_written_and_read() {
        for oracle in [Some("completeness".into()), None] {
            let line = Line { build: 9, from: u64::MAX, cpu_seconds_max: 0.1, made: Try { oracle, ..made() } };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for line in ["R01 2", "R01 2 completeness 7 200006 1.25", "x 0 600 R01 2 completeness 7 200006 1.25"] {
            assert!(line.parse::<Line>().is_err(), "{line}");
        }
    }

    #[test]
    fn a_try_counts_for_its_build_its_seeds_and_its_cap_alone() {
        let path = ledger("keys", "");
        Ledger::read(&path, 1).expect("a new one").add(EFFORT, made()).expect("room");
        let find = |build: u64, effort: Effort, mutant: Mutant, number: u64| {
            Ledger::read(&path, build).expect("one's own").find(effort, mutant, number)
        };
        assert_eq!(find(1, EFFORT, Mutant::R01, 2), Some(made()));
        assert_eq!(find(1, Effort { tries: 9, ..EFFORT }, Mutant::R01, 2), Some(made()));
        assert_eq!(find(2, EFFORT, Mutant::R01, 2), None);
        assert_eq!(find(1, Effort { from: 8, ..EFFORT }, Mutant::R01, 2), None);
        assert_eq!(find(1, Effort { cpu_seconds_max: 0.2, ..EFFORT }, Mutant::R01, 2), None);
        assert_eq!(find(1, EFFORT, Mutant::R02, 2), None);
        assert_eq!(find(1, EFFORT, Mutant::R01, 1), None);
        fs::remove_file(path).expect("just written");
    }

    #[test]
    fn a_write_that_was_cut_short_is_forgotten() {
        let line = Line { build: 1, from: 7, cpu_seconds_max: 0.1, made: made() }.to_string();
        for end in 0..line.len() {
            let path = ledger("torn", &format!("{line}\n{}", &line[..end]));
            let mut read = Ledger::read(&path, 1).expect("the rest is whole");
            assert_eq!(read.lines.len(), 1);
            read.add(EFFORT, Try { number: 0, ..made() }).expect("room");
            let again = Ledger::read(&path, 1).expect("nothing is torn any more");
            assert_eq!(again.find(EFFORT, Mutant::R01, 0).map(|made| made.seed), Some(200_013));
            fs::remove_file(path).expect("just written");
        }
    }

    #[test]
    fn a_file_that_is_no_ledger_stays_as_it_is() {
        for text in ["a shopping list", "milk\n", "R01 0 leader 1 0 9.00\n"] {
            let path = ledger("other", text);
            assert!(Ledger::read(&path, 1).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
            fs::remove_file(path).expect("just written");
        }
    }
}
