//! `quorate-sim`: one seed with its story, or many seeds until the first that fails.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use quorate_core::reach::{self, Mark};
use quorate_sim::causality::{Point, curve, plot};
use quorate_sim::chronicle;
use quorate_sim::heap::{MILLI, SECOND};
use quorate_sim::page::page;
use quorate_sim::report::{Keep, Report, Totals};
use quorate_sim::run::{run, run_and_keep};
use quorate_sim::schedule;
use quorate_sim::shrink::{Shrunk, shrink};
use quorate_sim::swarm::Setup;

mod progress;

use progress::Progress;

/// A run allocates some millions of small things. (7 % of its time)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A range with so many seeds must have seen every rare thing.
const MANY_SEEDS: u64 = 1_000;
/// How often.
const RARE_MIN: u64 = 100;
/// A seed of which two runs differed is run so often to see two that differ again.
const RUNS_COMPARED: usize = 8;
/// Behind the first seed of a matrix there are more than anybody can run.
const FROM_MAX: u64 = u64::MAX / 2;

/// Runs Quorate clusters under simulated faults. Exit code 0: all promises held; 1: one was broken; 2: usage.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Run this seed and print what it came to
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Run the seeds A..B (B excluded) until the first that fails
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Seeds run at once
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    jobs: usize,
    /// Run each seed twice and compare: the first event that differs is shown
    #[arg(long)]
    check: bool,
    /// Go on after failing seeds, and list them all at the end
    #[arg(long, conflicts_with = "seed")]
    keep_going: bool,
    /// Fail if a rare branch was never reached, and name it; in a build with `--features marks`
    #[arg(long)]
    require_marks: bool,
    /// Fail if more runs than so many have a history that nobody could judge (default: 1 in 1000, and 1 at least)
    #[arg(long, value_name = "RUNS", conflicts_with = "seed")]
    undecided_max: Option<u64>,
    /// Print every event of the seed
    #[arg(long, conflicts_with = "seeds")]
    log: bool,
    /// Print the seed's settings, what a schedule changes in them, the faults and the script, and run nothing
    #[arg(long, conflicts_with_all = ["seeds", "check", "require_marks", "log", "shrink", "report", "causality"])]
    print_schedule: bool,
    /// Use the settings, faults and script in this file instead of the seed's own, as `--print-schedule` prints them
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    schedule: Option<PathBuf>,
    /// If the seed fails, look for less that fails the same way, and write its schedule to this file
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    shrink: Option<PathBuf>,
    /// End the search of `--shrink` after so many CPU seconds; it goes on from its file, given as `--schedule`
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = seconds)]
    #[arg(requires = "shrink", conflicts_with = "seeds")]
    shrink_cpu: f64,
    /// Write the run to this file as a page for a browser: of the shrunk run, if `--shrink` found one
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    report: Option<PathBuf>,
    /// If the seed fails, find out when that was decided: how many futures fail, from which time on
    #[arg(long, conflicts_with = "seeds")]
    causality: bool,
    /// End the search of `--causality` after so many CPU seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    #[arg(requires = "causality", conflicts_with = "seeds")]
    causality_cpu: f64,
    /// Plant this mistake first, in a build with `--features mutants`
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// End faults and operations after so many simulated seconds, a day at most (default 60, or what the schedule sets)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=86_400))]
    duration: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plant known mistakes one by one and show which oracle notices, after how many seeds
    ///
    /// Only in a build with `--features mutants`.
    Mutants {
        /// These only; all, if none is named
        names: Vec<String>,
        /// The first seed
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=FROM_MAX))]
        from: u64,
        /// Kill each so often, on fresh seeds; the median is shown
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        tries: u64,
        /// Give a row up after so many CPU seconds, all its tries together
        #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
        cpu: f64,
        /// Write tries down here, and do not repeat those that the same build wrote down for the same `--from` and `--cpu`
        #[arg(long, value_name = "FILE")]
        ledger: Option<PathBuf>,
    },
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write it as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to { Ok((from, to)) } else { Err(format!("{from}..{to} is empty")) }
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    seconds.ok_or("write a number of seconds above 0")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let out = &mut Patient(io::stdout().lock());
    if let Err(error) = arguments.mutant.as_deref().map_or(Ok(()), plant) {
        eprintln!("quorate-sim: {error:#}");
        return ExitCode::from(2);
    }
    if arguments.require_marks && !reach::COUNTED {
        eprintln!("quorate-sim: nothing counts marks in this build: build it with `--features marks`");
        return ExitCode::from(2);
    }
    let outcome = match (&arguments.command, arguments.seed, arguments.seeds) {
        (Some(command), ..) => run_command(command, out),
        (None, Some(seed), _) => one(&arguments, seed, out),
        (None, None, Some((from, to))) => many(&arguments, from, to, out),
        (None, None, None) => unreachable!("clap demands one of them"),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("quorate-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Goes on when nobody reads any more: the exit code still says how it went.
struct Patient<W>(W);

impl<W: Write> Patient<W> {
    fn unless_closed<T: Default>(result: io::Result<T>, done: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(done),
            result => result,
        }
    }
}

impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::unless_closed(self.0.flush(), ())
    }
}

#[cfg(feature = "mutants")]
fn find(name: &str) -> anyhow::Result<quorate_core::mutant::Mutant> {
    let found = quorate_core::mutant::Mutant::ALL.iter().find(|mutant| mutant.name().eq_ignore_ascii_case(name));
    found.copied().with_context(|| format!("unknown mutant {name}"))
}

#[cfg(feature = "mutants")]
fn plant(name: &str) -> anyhow::Result<()> {
    quorate_core::mutant::plant(Some(find(name)?));
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn plant(_: &str) -> anyhow::Result<()> {
    anyhow::bail!("no mistake can be planted in this build: build it with `--features mutants`")
}

#[cfg(feature = "mutants")]
fn run_command(command: &Command, out: &mut impl Write) -> anyhow::Result<bool> {
    use quorate_core::mutant::Mutant;
    use quorate_sim::mutants::{Effort, Ledger, matrix};
    let Command::Mutants { names, from, tries, cpu, ledger } = command;
    let mut chosen = names.iter().map(|name| find(name)).collect::<anyhow::Result<Vec<Mutant>>>()?;
    if let Some(mutant) = chosen.iter().find(|mutant| mutant.is_in_checker()) {
        anyhow::bail!(
            "{} is a mistake in a checker, which no seed can show: `{}` names what notices",
            mutant.name(),
            mutant.looked_at()
        );
    }
    if chosen.is_empty() {
        chosen = Mutant::ALL.iter().copied().filter(|mutant| !mutant.is_in_checker()).collect();
    }
    let path = ledger.as_deref();
    let named = || format!("the ledger {}", path.unwrap_or(Path::new("")).display());
    let mut ledger = Ledger::open(path).with_context(named)?;
    Ok(matrix(&chosen, Effort { from: *from, tries: *tries, cpu_seconds_max: *cpu }, &mut ledger, out)?)
}

#[cfg(not(feature = "mutants"))]
fn run_command(_: &Command, _: &mut impl Write) -> anyhow::Result<bool> {
    anyhow::bail!("no mistake can be planted in this build: build it with `--features mutants`")
}

/// What the seed itself says.
fn drawn(arguments: &Arguments, seed: u64) -> Setup {
    Setup::draw_with(seed, arguments.duration.map(|seconds| seconds * SECOND))
}

/// What the seed says, or the schedule that is to be used instead.
fn setup(arguments: &Arguments, seed: u64) -> anyhow::Result<Setup> {
    let mut setup = drawn(arguments, seed);
    if let Some(path) = &arguments.schedule {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file = schedule::read(&text).with_context(|| format!("in {}", path.display()))?;
        if let Some(other) = file.seed.filter(|other| *other != seed) {
            anyhow::bail!(
                "{} was made for seed {other}: without its line `# seed {other}` it is for any",
                path.display()
            );
        }
        setup = setup.with(file).map_err(anyhow::Error::msg).with_context(|| format!("in {}", path.display()))?;
    }
    Ok(setup)
}

/// Whether a file can be written there; one that is there stays as it is, and where there is none there is none after.
fn try_to_write(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().append(true).create_new(true).open(path)?;
            fs::remove_file(path)
        }
        opened => opened.map(drop),
    }
}

fn one(arguments: &Arguments, seed: u64, out: &mut impl Write) -> anyhow::Result<bool> {
    let setup = setup(arguments, seed)?;
    if arguments.print_schedule {
        write!(out, "{}", setup.file())?;
        return Ok(true);
    }
    for path in arguments.shrink.iter().chain(&arguments.report) {
        // Before the run, which takes a while: a path that cannot be written is known now.
        try_to_write(path).with_context(|| format!("writing {}", path.display()))?;
    }
    #[expect(clippy::disallowed_types, reason = "how long the user waited is no part of a simulation")]
    let began = std::time::SystemTime::now();
    let report = run(setup.clone(), arguments.log || arguments.check);
    let took = began.elapsed().unwrap_or_default();
    if arguments.log {
        for line in report.log.iter().flatten() {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out, "seed {seed}\n  trace hash      {:016x}\n  events          {}", report.hash, report.events)?;
    write!(out, "{}", report.totals)?;
    writeln!(out, "  wall seconds    {:.3}", took.as_secs_f64())?;
    let mut good = marks(arguments, out)?;
    if let Some((violation, at)) = &report.violation {
        writeln!(out, "FAILED at {} ms\n{violation}", at / MILLI)?;
        good = false;
    }
    if arguments.check {
        good &= compare(&report, &run(setup.clone(), true), out)?;
    }
    if !good {
        writeln!(out, "again: {}", reproduction(arguments, seed, arguments.schedule.as_deref()))?;
    }
    let (mut setup, mut report) = (setup, report);
    if let Some(path) = &arguments.shrink
        && let Some(shrunk) = shorten(&setup, &report, path, arguments, out)?
    {
        report.violation = Some(shrunk.violation);
        setup = shrunk.setup;
    }
    let mut points = Vec::new();
    if arguments.causality {
        let mut tell = |point: &Point| {
            let Point { at, samples, failures } = point;
            eprintln!("{failures} of {samples} futures from {} s fail", chronicle::seconds(*at));
        };
        match curve(&setup, &report, arguments.causality_cpu, &mut tell) {
            Some(found) => points = found,
            None => writeln!(out, "nothing was decided: every promise was kept")?,
        }
        if !points.is_empty() {
            writeln!(out, "{}", plot(&points))?;
        }
    }
    if let Some(path) = &arguments.report {
        let report = run_and_keep(setup.clone(), Keep { chronicle: true, frames: true, ..Keep::default() });
        let page = page(&setup, &report, report.chronicle.as_ref().context("it was asked for")?, &points);
        fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
        writeln!(out, "report: {}", path.display())?;
    }
    Ok(good)
}

/// Writes the shortest schedule that was found to break the same promise, and tells it as a story.
fn shorten(
    setup: &Setup,
    report: &Report,
    path: &Path,
    arguments: &Arguments,
    out: &mut impl Write,
) -> anyhow::Result<Option<Shrunk>> {
    let write = |shrunk: &Shrunk| {
        let Shrunk { setup, violation: (violation, at), .. } = shrunk;
        let text = violation.to_string().replace('\n', "\n# ");
        fs::write(path, format!("{}# breaks after {} ms: {text}\n", setup.file(), at / MILLI))
    };
    let mut tell = |shrunk: &Shrunk| {
        let Shrunk { setup, runs, cpu_seconds, .. } = shrunk;
        let (events, seconds) = (shrunk.events(), setup.duration / SECOND);
        eprintln!("{events} events in {seconds} s, after {runs} runs and {cpu_seconds:.1} CPU s");
        // A search that is interrupted leaves what it has found; if that fails, the end says so.
        let _ = write(shrunk);
    };
    let Some(shrunk) = shrink(setup.clone(), report, arguments.shrink_cpu, &mut tell) else {
        writeln!(out, "nothing to shrink: every promise was kept")?;
        return Ok(None);
    };
    write(&shrunk).with_context(|| format!("writing {}", path.display()))?;
    let Shrunk { setup: small, violation: (violation, at), events_before, runs, cpu_seconds } = &shrunk;
    let story = run_and_keep(small.clone(), Keep { chronicle: true, ..Keep::default() }).chronicle.unwrap_or_default();
    for line in story.story(*at) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{:>12}  BROKEN     {violation}", chronicle::seconds(*at))?;
    let events = shrunk.events();
    writeln!(out, "{events_before} events came down to {events}, in {runs} runs and {cpu_seconds:.1} CPU s")?;
    writeln!(out, "again: {}", reproduction(arguments, small.seed, Some(path)))?;
    Ok(Some(shrunk))
}

/// Whether two runs of a seed were the same; shows where they parted.
fn compare(first: &Report, second: &Report, out: &mut impl Write) -> anyhow::Result<bool> {
    if first.hash == second.hash && first.events == second.events {
        writeln!(out, "seed {}: both runs have trace hash {:016x}", first.seed, first.hash)?;
        return Ok(true);
    }
    writeln!(out, "seed {}: two runs differ, {:016x} and {:016x}", first.seed, first.hash, second.hash)?;
    let (Some(one), Some(two)) = (&first.log, &second.log) else { return Ok(false) };
    let at = one.iter().zip(two).position(|(one, two)| one != two).unwrap_or(one.len().min(two.len()));
    for (mark, number) in (at.saturating_sub(5)..at + 3).map(|number| (if number < at { ' ' } else { '!' }, number)) {
        writeln!(out, "{mark} 1 {}", one.get(number).map_or("(ended)", String::as_str))?;
        if number >= at {
            writeln!(out, "{mark} 2 {}", two.get(number).map_or("(ended)", String::as_str))?;
        }
    }
    Ok(false)
}

/// Two runs of a seed differed: shows where two others part, unless none of a few does.
fn compare_again(mut run: impl FnMut() -> Report, out: &mut impl Write) -> anyhow::Result<()> {
    let first = run();
    for _ in 1..RUNS_COMPARED {
        let other = run();
        if (other.hash, other.events) != (first.hash, first.events) {
            compare(&first, &other, out)?;
            return Ok(());
        }
    }
    writeln!(out, "seed {}: it differed once, not again in {RUNS_COMPARED} runs", first.seed)?;
    Ok(())
}

/// The command that runs a failing seed again.
fn reproduction(arguments: &Arguments, seed: u64, schedule: Option<&Path>) -> String {
    let mut command = format!("cargo run --release -p quorate-sim -- --seed {seed}");
    if let Some(seconds) = arguments.duration {
        command.push_str(&format!(" --duration {seconds}"));
    }
    if arguments.check {
        command.push_str(" --check");
    }
    if let Some(mutant) = &arguments.mutant {
        command = format!("{command} --mutant {mutant}").replace(" -- ", " --features mutants -- ");
    }
    if arguments.require_marks && arguments.seed.is_some() {
        command = format!("{command} --require-marks").replace(" -- ", " --features marks -- ");
    }
    if let Some(path) = schedule {
        command.push_str(&format!(" --schedule {}", path.display()));
    }
    command
}

/// How often rare branches were reached, in a build that counts; whether they were as often as demanded.
fn marks(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<bool> {
    if !reach::COUNTED {
        return Ok(true);
    }
    let mut missed = 0;
    for mark in Mark::ALL {
        let count = reach::count(*mark);
        missed += usize::from(count == 0);
        let spared = if reach::RARE.contains(mark) { " (may be missed)" } else { "" };
        writeln!(out, "  {:<28} {count:>12}  {}{spared}", mark.name(), mark.text())?;
    }
    writeln!(out, "{} of {} marks reached", Mark::ALL.len() - missed, Mark::ALL.len())?;
    if !arguments.require_marks {
        return Ok(true);
    }
    let demanded = Mark::ALL.iter().filter(|mark| !reach::RARE.contains(mark));
    let mut good = true;
    for mark in demanded.filter(|mark| reach::count(**mark) == 0) {
        good = false;
        writeln!(out, "FAILED: mark {} was never reached: {}", mark.name(), mark.text())?;
    }
    Ok(good)
}

/// So many histories of so many seeds may be too hard to judge: what nobody judged was not tested.
fn undecided_max(seeds: u64) -> u64 {
    (seeds / 1_000).max(1)
}

fn many(arguments: &Arguments, from: u64, to: u64, out: &mut impl Write) -> anyhow::Result<bool> {
    let progress = Progress::new(to - from);
    let next = AtomicU64::new(from);
    let totals = Mutex::new(Totals::default());
    let (sender, failures) = mpsc::channel();
    let (unjudged, undecided) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            let (sender, unjudged) = (sender.clone(), unjudged.clone());
            scope.spawn(|| {
                let (sender, unjudged) = (sender, unjudged);
                // Never beyond `to`: behind the last number of all the first would come again.
                let take = |next: u64| (next < to).then(|| next + 1);
                while let Ok(seed) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    let setup = drawn(arguments, seed);
                    let report = run(setup.clone(), false);
                    totals.lock().expect("no holder panics").add(&report.totals);
                    if report.totals.undecided > 0 {
                        let _ = unjudged.send(seed);
                    }
                    let differs = arguments.check && run(setup, false).hash != report.hash;
                    if differs || report.violation.is_some() {
                        let violation = report.violation.map(|(violation, _)| violation);
                        let what = violation.as_ref().map_or("two runs of it differ".into(), ToString::to_string);
                        progress.failed(seed, &what);
                        let _ = sender.send((seed, violation, differs));
                        if !arguments.keep_going {
                            next.store(to, Ordering::Relaxed);
                        }
                    }
                    progress.done();
                }
            });
        }
    });
    drop((sender, unjudged));
    progress.finish();
    let totals = totals.into_inner().expect("no holder panics");
    writeln!(out, "seeds {from}..{to}\n{totals}")?;
    let mut failed: Vec<_> = failures.into_iter().collect();
    failed.sort_by_key(|(seed, ..)| *seed);
    for (seed, violation, differs) in &failed {
        if let Some(violation) = violation {
            writeln!(out, "seed {seed} FAILED: {violation}")?;
        }
        if *differs {
            writeln!(out, "seed {seed} FAILED: two runs of it differ")?;
            let setup = drawn(arguments, *seed);
            compare_again(|| run(setup.clone(), true), out)?;
        }
        writeln!(out, "again: {}", reproduction(arguments, *seed, None))?;
    }
    let mut good = marks(arguments, out)? && failed.is_empty();
    let mut undecided: Vec<u64> = undecided.into_iter().collect();
    undecided.sort_unstable();
    if undecided.len() as u64 > arguments.undecided_max.unwrap_or_else(|| undecided_max(to - from)) {
        let (count, first) = (undecided.len(), undecided[0]);
        writeln!(out, "FAILED: of {} histories {count} could not be judged, that of seed {first} first", to - from)?;
        good = false;
    }
    if good && to - from >= MANY_SEEDS {
        for (name, figure) in totals.rare().into_iter().filter(|(_, figure)| *figure < RARE_MIN) {
            writeln!(out, "FAILED: only {figure} {name} in {} seeds: the simulation no longer tests them", to - from)?;
            good = false;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(hashes: &[u64]) -> String {
        let report = run(Setup::draw_with(1, Some(10 * SECOND)), false);
        let mut hashes = hashes.iter();
        let mut out = Vec::new();
        let run = || Report { hash: hashes.next().copied().unwrap_or(1), ..report.clone() };
        compare_again(run, &mut out).expect("a vector takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn runs_that_differed_are_compared_until_they_differ_again() {
        assert!(compared(&[1, 1, 1, 2]).contains("seed 1: two runs differ, 0000000000000001 and 0000000000000002"));
        assert_eq!(compared(&[1]), "seed 1: it differed once, not again in 8 runs\n");
    }

    #[test]
    fn one_history_in_a_thousand_may_be_undecided() {
        assert_eq!([1, 50, 1_999, 2_000, 20_000].map(undecided_max), [1, 1, 1, 2, 20]);
    }
}
