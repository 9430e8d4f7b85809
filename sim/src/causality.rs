//! When was a failure decided? The run is repeated up to a time and its future redrawn, several times: as long as most
//! futures are good nothing is decided, and where nearly all of them fail, it is.

use std::fmt::Write as _;

use crate::chronicle::seconds;
use crate::heap::{MILLI, Nanos};
use crate::report::Report;
use crate::run::{cpu_seconds, run};
use crate::shrink::signature;
use crate::swarm::Setup;

/// Times that are tried first.
const COARSE: u64 = 12;
/// Futures of each.
const SAMPLES: u64 = 6;
/// Futures of the times between which the curve is steep.
const FIRM: u64 = 24;
/// Times closer together are not told apart.
const RESOLUTION: Nanos = MILLI;
/// What is drawn of a curve in a terminal.
const WIDTH: usize = 40;

/// How often futures from one time fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// From when on the future was redrawn.
    pub at: Nanos,
    /// How many futures there were.
    pub samples: u64,
    /// In how many the same promise was broken.
    pub failures: u64,
}

impl Point {
    /// The probability of failure, in thousandths.
    #[must_use]
    pub fn permille(&self) -> u64 {
        self.failures * 1_000 / self.samples.max(1)
    }
}

/// The curve of a run that came to `report`, within about `cpu_seconds_max`; `None` if nothing was broken. It is finest
/// where it is steepest.
#[must_use]
pub fn curve(setup: &Setup, report: &Report, cpu_seconds_max: f64, tell: &mut dyn FnMut(&Point)) -> Option<Vec<Point>> {
    let (violation, end) = report.violation.as_ref()?;
    let began = cpu_seconds();
    let is_over = || cpu_seconds() - began >= cpu_seconds_max;
    let mut runs = 0;
    let mut sample = |point: &mut Point| {
        let enough = point.samples + SAMPLES;
        while point.samples < enough && (point.samples == 0 || !is_over()) {
            runs += 1;
            let future = run(Setup { future: Some((point.at, runs)), ..setup.clone() }, false).violation;
            point.samples += 1;
            let same = future.is_some_and(|(other, _)| signature(&other) == signature(violation));
            point.failures += u64::from(same);
        }
        tell(point);
    };
    let end = (*end).min(setup.duration);
    let mut points: Vec<Point> = Vec::new();
    for n in 0..=COARSE {
        if !is_over() || points.is_empty() {
            let mut point = Point { at: end / COARSE * n, samples: 0, failures: 0 };
            sample(&mut point);
            points.push(point);
        }
    }
    while !is_over() {
        let pairs = points.windows(2).enumerate().filter(|(_, pair)| pair[1].at - pair[0].at > RESOLUTION);
        let steepest = pairs.max_by_key(|(n, pair)| (pair[1].permille().abs_diff(pair[0].permille()), usize::MAX - n));
        let Some((before, _)) = steepest.filter(|(_, pair)| pair[0].permille() != pair[1].permille()) else { break };
        // Few futures differ by luck: a step is believed, and looked into, once both its ends are firm.
        match (before..before + 2).min_by_key(|end| points[*end].samples).filter(|end| points[*end].samples < FIRM) {
            Some(loose) => sample(&mut points[loose]),
            None => {
                let at = points[before].at + (points[before + 1].at - points[before].at) / 2;
                let mut middle = Point { at, samples: 0, failures: 0 };
                sample(&mut middle);
                points.insert(before + 1, middle);
            }
        }
    }
    Some(points)
}

/// The curve for a terminal, and between which times the failure was decided.
#[must_use]
pub fn plot(points: &[Point]) -> String {
    let mut text = String::from("     from (s)  futures that fail\n");
    for point in points {
        let bar = "#".repeat(usize::try_from(point.permille()).unwrap_or(0) * WIDTH / 1_000);
        let Point { at, samples, failures } = point;
        writeln!(text, "{:>13}  {failures:>3} of {samples:<3} {bar}", seconds(*at)).expect("writing to a string");
    }
    let rise = |pair: &[Point]| pair[1].permille().saturating_sub(pair[0].permille());
    match points.windows(2).max_by_key(|pair| rise(pair)).filter(|pair| rise(pair) >= 250) {
        Some(pair) => {
            let (from, to) = (seconds(pair[0].at), seconds(pair[1].at));
            write!(text, "decided between {from} s and {to} s")
        }
        None => write!(text, "not decided at any one time"),
    }
    .expect("writing to a string");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::SECOND;
    use crate::report::Keep;
    use crate::run::run_and_keep;

    #[test]
    fn a_future_shares_its_past() {
        let setup = Setup::draw_with(3, Some(10 * SECOND));
        let log = |future| {
            let keep = Keep { log: true, ..Keep::default() };
            run_and_keep(Setup { future, ..setup.clone() }, keep).log.expect("asked for")
        };
        let own = log(None);
        let late = log(Some((100_000 * SECOND, 1)));
        assert_eq!(own, late, "a future that never begins changes nothing");
        let (one, two) = (log(Some((5 * SECOND, 1))), log(Some((5 * SECOND, 2))));
        let parted = |other: &[String]| own.iter().zip(other).take_while(|(one, two)| one == two).count();
        for other in [&one, &two] {
            assert!(parted(other) > 100 && parted(other) < own.len(), "{} of {}", parted(other), own.len());
            let time: f64 = own[parted(other)].split_whitespace().next().expect("a time").parse().expect("a number");
            assert!((5.0..5.5).contains(&time), "they part at {time}");
        }
        assert_ne!(one, two);
    }

    #[test]
    fn a_curve_names_the_decision() {
        let point = |at, failures| Point { at: at * SECOND, samples: 4, failures };
        let text = plot(&[point(0, 0), point(1, 0), point(2, 4), point(3, 4)]);
        assert!(text.ends_with("decided between 1.000000 s and 2.000000 s"), "{text}");
        assert!(text.contains(&format!("4 of 4   {}", "#".repeat(40))), "{text}");
        assert!(plot(&[point(0, 2), point(1, 2)]).ends_with("not decided at any one time"));
    }
}
