//! Faults as data: what the nemesis does and when, drawn before the run, printable, editable, replayable.

use std::fmt;
use std::str::FromStr;

use crate::heap::{MICRO, Nanos};

/// One thing done to the cluster. Members are numbered from 0. Spans end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies and is started again after `down`. What it wrote without syncing stays in the page cache.
    Kill {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The machine dies: any part of what was not synced is lost. Started again after `down`.
    Power {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The machine dies and its disk is replaced by an empty one. Skipped if it were one loss too many.
    Wipe {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The process dies and one bit of its log that must not be lost is damaged. Skipped as a wipe is.
    Rot {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// All members lose power at once.
    Blackout {
        /// How long they are away; each a little longer than the one before.
        down: Nanos,
    },
    /// The process does nothing for a while; its clock goes on and messages wait.
    Pause {
        /// Which member.
        member: usize,
        /// How long.
        span: Nanos,
    },
    /// Members in `side` (a bit each) and the others cannot talk.
    Partition {
        /// Who is on one side.
        side: u64,
        /// How long.
        span: Nanos,
    },
    /// Nothing arrives in one direction.
    Cut {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How long.
        span: Nanos,
    },
    /// Every link loses, repeats, delays and reorders messages.
    Storm {
        /// Lost, per million.
        loss_ppm: u64,
        /// Delivered twice, per million.
        duplicate_ppm: u64,
        /// Overtaken by others, per million.
        straggle_ppm: u64,
        /// By up to so long.
        straggle_max: Nanos,
        /// How long the storm lasts.
        span: Nanos,
    },
    /// A member's syncs take `factor` times as long.
    SlowDisk {
        /// Which member.
        member: usize,
        /// How many times as long.
        factor: u64,
        /// How long.
        span: Nanos,
    },
    /// A member's clock changes its rate, for good.
    ClockRate {
        /// Which member.
        member: usize,
        /// Parts per million too fast.
        ppm: i64,
    },
    /// Whoever becomes leader is struck soon after: cut off, paused, killed, or others with it.
    Harass {
        /// Up to so long after its election.
        after: Nanos,
        /// How long.
        span: Nanos,
    },
    /// Someone asks the leader to hand over to `member`.
    Transfer {
        /// The next leader.
        member: usize,
    },
}

/// A [`Fault`] and when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When.
    pub at: Nanos,
    /// What.
    pub fault: Fault,
}

/// Shows a span in whole microseconds, the resolution of schedules.
struct Span(Nanos);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0 / MICRO)
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", Span(self.at))?;
        match self.fault {
            Fault::Kill { member, down } => write!(f, "kill member={member} down={}", Span(down)),
            Fault::Power { member, down } => write!(f, "power member={member} down={}", Span(down)),
            Fault::Wipe { member, down } => write!(f, "wipe member={member} down={}", Span(down)),
            Fault::Rot { member, down } => write!(f, "rot member={member} down={}", Span(down)),
            Fault::Blackout { down } => write!(f, "blackout down={}", Span(down)),
            Fault::Pause { member, span } => write!(f, "pause member={member} span={}", Span(span)),
            Fault::Partition { side, span } => write!(f, "partition side={side} span={}", Span(span)),
            Fault::Cut { from, to, span } => write!(f, "cut from={from} to={to} span={}", Span(span)),
            Fault::Storm { loss_ppm, duplicate_ppm, straggle_ppm, straggle_max, span } => write!(
                f,
                "storm loss={loss_ppm} duplicate={duplicate_ppm} straggle={straggle_ppm} late={} span={}",
                Span(straggle_max),
                Span(span)
            ),
            Fault::SlowDisk { member, factor, span } => {
                write!(f, "slow-disk member={member} factor={factor} span={}", Span(span))
            }
            Fault::ClockRate { member, ppm } => write!(f, "clock-rate member={member} ppm={ppm}"),
            Fault::Harass { after, span } => write!(f, "harass after={} span={}", Span(after), Span(span)),
            Fault::Transfer { member } => write!(f, "transfer member={member}"),
        }
    }
}

/// Why a line is not a [`Strike`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

/// The `name=number` pairs behind a fault's name.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl Fields<'_> {
    fn get<T: FromStr>(&self, name: &str) -> Result<T, ParseError> {
        let (_, text) = self.0.iter().find(|(key, _)| *key == name).ok_or_else(|| ParseError(format!("no {name}=")))?;
        text.parse().map_err(|_| ParseError(format!("{name}={text} is not a number")))
    }

    fn span(&self, name: &str) -> Result<Nanos, ParseError> {
        parse_span(&self.get::<String>(name)?)
    }
}

fn parse_span(text: &str) -> Result<Nanos, ParseError> {
    let micros = text.strip_suffix("us").and_then(|digits| digits.parse::<Nanos>().ok());
    micros.and_then(|micros| micros.checked_mul(MICRO)).ok_or_else(|| ParseError(format!("{text} is not a span in us")))
}

impl FromStr for Strike {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let mut words = line.split_whitespace();
        let at = parse_span(words.next().unwrap_or_default())?;
        let name = words.next().ok_or_else(|| ParseError("no fault behind the time".into()))?;
        let fields =
            words.map(|word| word.split_once('=').ok_or_else(|| ParseError(format!("{word} is no name=value"))));
        let fields = Fields(fields.collect::<Result<_, _>>()?);
        let fault = match name {
            "kill" => Fault::Kill { member: fields.get("member")?, down: fields.span("down")? },
            "power" => Fault::Power { member: fields.get("member")?, down: fields.span("down")? },
            "wipe" => Fault::Wipe { member: fields.get("member")?, down: fields.span("down")? },
            "rot" => Fault::Rot { member: fields.get("member")?, down: fields.span("down")? },
            "blackout" => Fault::Blackout { down: fields.span("down")? },
            "pause" => Fault::Pause { member: fields.get("member")?, span: fields.span("span")? },
            "partition" => Fault::Partition { side: fields.get("side")?, span: fields.span("span")? },
            "cut" => Fault::Cut { from: fields.get("from")?, to: fields.get("to")?, span: fields.span("span")? },
            "storm" => Fault::Storm {
                loss_ppm: fields.get("loss")?,
                duplicate_ppm: fields.get("duplicate")?,
                straggle_ppm: fields.get("straggle")?,
                straggle_max: fields.span("late")?,
                span: fields.span("span")?,
            },
            "slow-disk" => Fault::SlowDisk {
                member: fields.get("member")?,
                factor: fields.get("factor")?,
                span: fields.span("span")?,
            },
            "clock-rate" => Fault::ClockRate { member: fields.get("member")?, ppm: fields.get("ppm")? },
            "harass" => Fault::Harass { after: fields.span("after")?, span: fields.span("span")? },
            "transfer" => Fault::Transfer { member: fields.get("member")? },
            other => return Err(ParseError(format!("unknown fault {other}"))),
        };
        Ok(Self { at, fault })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::Setup;

    #[test]
    fn a_schedule_survives_being_printed_and_read() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..60 {
            for strike in Setup::draw(seed).schedule {
                let line = strike.to_string();
                kinds.insert(line.split(' ').nth(1).unwrap().to_owned());
                assert_eq!(line.parse(), Ok(strike), "{line}");
            }
        }
        assert_eq!(kinds.len(), 13, "the swarm draws every kind of fault: {kinds:?}");
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!("5us fry member=1".parse::<Strike>(), Err(ParseError("unknown fault fry".into())));
        assert_eq!("5us kill member=1".parse::<Strike>(), Err(ParseError("no down=".into())));
        assert!("soon kill".parse::<Strike>().is_err());
    }
}
