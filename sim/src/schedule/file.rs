//! A schedule as a file: how its lines are written and read.

use std::fmt;
use std::mem::discriminant;
use std::str::FromStr;

use super::{Fault, Plight, Set, Strike};
use crate::disk::Ill;
use crate::heap::{MICRO, Nanos, SECOND};
use crate::network::Aim;
use crate::script::{self, Deed, What};

/// Nothing that a schedule's file names lasts longer: a day, as long as the longest run.
const SPAN_MAX: Nanos = 86_400 * SECOND;
/// Ten times what a seed draws.
const FACTOR_MAX: u64 = 10_000;
/// The product of such factors that are in force at once.
const SLOWNESS_MAX: u64 = 1_000_000_000;
/// Every single time.
const PPM_MAX: u64 = 1_000_000;

/// What a schedule's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The seed that it was made for, if it says so.
    pub seed: Option<u64>,
    /// What differs from the seed's own settings.
    pub sets: Vec<Set>,
    /// The faults.
    pub strikes: Vec<Strike>,
    /// What clients do.
    pub deeds: Vec<Deed>,
}

/// A schedule as a file: what differs from the seed's own settings, then the faults, one a line.
///
/// # Errors
/// The first line that is neither or makes no sense, with its number.
pub fn read(text: &str) -> Result<File, ParseError> {
    let mut file = File::default();
    for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
        file.add(line).map_err(|error| ParseError(format!("line {number}: {error}")))?;
    }
    // Whether other settings make sense depends on it.
    file.sets.sort_by_key(|set| !matches!(set, Set::Duration(_)));
    // As they are printed: what happens at the same time is told apart by its place.
    file.strikes.sort_by_key(|strike| strike.at);
    file.deeds.sort_by_key(|deed| deed.at);
    for (n, strike) in file.strikes.iter().enumerate() {
        if slowed(&file.strikes[..n], strike) > SLOWNESS_MAX {
            return Err(ParseError(format!("{strike}: too slow, together with what is still slow by then")));
        }
    }
    Ok(file)
}

impl File {
    fn add(&mut self, line: &str) -> Result<(), ParseError> {
        match line {
            "" => {}
            _ if line.starts_with('#') => match (self.seed, seed_of(line)) {
                (Some(seed), Some(other)) if seed != other => {
                    return Err(ParseError(format!("it is for seed {other}, and a line before it for seed {seed}")));
                }
                (seed, other) => self.seed = seed.or(other),
            },
            _ if line.starts_with("set ") => {
                let set: Set = line.parse()?;
                if self.sets.iter().any(|other| discriminant(other) == discriminant(&set)) {
                    return Err(ParseError(format!("{set}: it is set twice")));
                }
                self.sets.push(set);
            }
            _ if script::is_deed(line) => {
                let deed: Deed = line.parse().map_err(ParseError)?;
                if matches!(deed.what, What::Ask { patience: SPAN_MAX.., .. }) {
                    return Err(ParseError(format!("{deed}: a patience of a day or more")));
                }
                self.deeds.push(deed);
            }
            _ => self.strikes.push(line.parse()?),
        }
        Ok(())
    }
}

/// How many times as long things take from `strike` on, by what came before it too.
fn slowed(before: &[Strike], strike: &Strike) -> u64 {
    let slow = |fault: Fault| match fault {
        Fault::SlowDisk { member, factor, .. } => Some((false, member, factor)),
        Fault::SlowApply { member, factor, .. } => Some((true, member, factor)),
        _ => None,
    };
    let Some((kind, member, factor)) = slow(strike.fault) else { return 1 };
    let in_force = |other: &&Strike| (other.at..other.at.saturating_add(other.fault.span())).contains(&strike.at);
    let others = before.iter().filter(in_force).filter_map(|other| slow(other.fault));
    others.filter(|other| (other.0, other.1) == (kind, member)).fold(factor, |all, other| all.saturating_mul(other.2))
}

/// The seed that a schedule was printed for: its first comment begins with it.
fn seed_of(comment: &str) -> Option<u64> {
    comment.strip_prefix("# seed ")?.split(':').next()?.parse().ok()
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(span) => write!(f, "set duration={}", Span(*span)),
            Self::ClientsFrom(at) => write!(f, "set clients-from={}", Span(*at)),
            Self::Clients(clients) => write!(f, "set clients={clients}"),
            Self::Watchers(watchers) => write!(f, "set watchers={watchers}"),
            Self::Admins(admins) => write!(f, "set admins={admins}"),
            Self::Contenders(contenders) => write!(f, "set contenders={contenders}"),
            Self::Controllers(controllers) => write!(f, "set controllers={controllers}"),
            Self::Fate(fate) => write!(f, "set fate={fate}"),
            Self::Script => write!(f, "set clients-follow=script"),
            Self::CatchupEntries(entries) => write!(f, "set catchup-entries={entries}"),
            Self::FlushBatches(batches) => write!(f, "set flush-batches={batches}"),
        }
    }
}

impl FromStr for Set {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let (name, value) = line
            .strip_prefix("set ")
            .and_then(|rest| rest.trim().split_once('='))
            .ok_or_else(|| ParseError(format!("{line} is not set name=value")))?;
        let number = || value.parse::<u64>().map_err(|_| ParseError(format!("{value} is not a number")));
        let count = || value.parse::<usize>().map_err(|_| ParseError(format!("{value} is not a number")));
        Ok(match name {
            "duration" => Self::Duration(parse_span(value)?),
            "clients-from" => Self::ClientsFrom(parse_span(value)?),
            "clients" => Self::Clients(count()?),
            "watchers" => Self::Watchers(count()?),
            "admins" => Self::Admins(count()?),
            "contenders" => Self::Contenders(count()?),
            "controllers" => Self::Controllers(count()?),
            "fate" => Self::Fate(number()?),
            "catchup-entries" => Self::CatchupEntries(number()?),
            "flush-batches" => Self::FlushBatches(number()?),
            "clients-follow" if value == "script" => Self::Script,
            other => return Err(ParseError(format!("there is no setting {other}"))),
        })
    }
}

/// Shows a span in whole microseconds, the resolution of schedules.
struct Span(Nanos);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0 / MICRO)
    }
}

/// Behind the name of a fault: nothing, if it is about every link.
impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut end = |name: &str, member: Option<usize>| member.map_or(Ok(()), |member| write!(f, " {name}={member}"));
        end("from", self.from)?;
        end("to", self.to)
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Span(self.at), self.fault)
    }
}

const PLIGHTS: [(Plight, &str); 5] = [
    (Plight::Down, "down"),
    (Plight::Isolated, "isolated"),
    (Plight::Deaf, "deaf"),
    (Plight::Mute, "mute"),
    (Plight::Slow, "slow"),
];

impl fmt::Display for Plight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = PLIGHTS.iter().find(|(plight, _)| plight == self).expect("all are named");
        f.write_str(name)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kill { member, down } => write!(f, "kill member={member} down={}", Span(down)),
            Self::Upgrade { member, level, down } => {
                write!(f, "upgrade member={member} level={level} down={}", Span(down))
            }
            Self::Power { member, down } => write!(f, "power member={member} down={}", Span(down)),
            Self::Wipe { member, down } => write!(f, "wipe member={member} down={}", Span(down)),
            Self::Rot { member, down } => write!(f, "rot member={member} down={}", Span(down)),
            Self::Skew { member } => write!(f, "skew member={member}"),
            Self::Decay { member } => write!(f, "decay member={member}"),
            Self::LoseState { member, down } => write!(f, "lose-state member={member} down={}", Span(down)),
            Self::Blackout { down } => write!(f, "blackout down={}", Span(down)),
            Self::Pause { member, span } => write!(f, "pause member={member} span={}", Span(span)),
            Self::Partition { side, span } => write!(f, "partition side={side} span={}", Span(span)),
            Self::Cut { from, to, span } => write!(f, "cut from={from} to={to} span={}", Span(span)),
            Self::Storm { aim, loss_ppm, duplicate_ppm, straggle_ppm, straggle_max, span } => write!(
                f,
                "storm{aim} loss={loss_ppm} duplicate={duplicate_ppm} straggle={straggle_ppm} late={} span={}",
                Span(straggle_max),
                Span(span)
            ),
            Self::SlowDisk { member, factor, span } => {
                write!(f, "slow-disk member={member} factor={factor} span={}", Span(span))
            }
            Self::Stall { member, span } => write!(f, "stall member={member} span={}", Span(span)),
            Self::SlowApply { member, factor, span } => {
                write!(f, "slow-apply member={member} factor={factor} span={}", Span(span))
            }
            Self::Fail { member, ill: Ill::Sync } => write!(f, "fail-sync member={member}"),
            Self::Fail { member, ill: Ill::Write } => write!(f, "fail-write member={member}"),
            Self::Fail { member, ill: Ill::Read } => write!(f, "fail-read member={member}"),
            Self::Full { member, room, span } => write!(f, "full member={member} room={room} span={}", Span(span)),
            Self::Trip { member, changes, power, down } => {
                let name = if power { "trip-power" } else { "trip" };
                write!(f, "{name} member={member} changes={changes} down={}", Span(down))
            }
            Self::Throttle { aim, bandwidth, queue, span } => {
                write!(f, "throttle{aim} bandwidth={bandwidth} queue={} span={}", Span(queue), Span(span))
            }
            Self::ClockRate { member, ppm } => write!(f, "clock-rate member={member} ppm={ppm}"),
            Self::WallClock { member, by } => write!(f, "wall-clock member={member} by={by}"),
            Self::Harass { after, span } => write!(f, "harass after={} span={}", Span(after), Span(span)),
            Self::Topple { after, span } => write!(f, "topple after={} span={}", Span(after), Span(span)),
            Self::Transfer { member } => write!(f, "transfer member={member}"),
            Self::Outcast { member, plight } => write!(f, "outcast member={member} plight={plight}"),
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

    fn at_most(&self, name: &str, max: u64) -> Result<u64, ParseError> {
        let value = self.get(name)?;
        if value > max { Err(ParseError(format!("{name}={value} is more than {max}"))) } else { Ok(value) }
    }

    fn span(&self, name: &str) -> Result<Nanos, ParseError> {
        let text = self.get::<String>(name)?;
        let span = parse_span(&text)?;
        if span > SPAN_MAX { Err(ParseError(format!("{name}={text} is longer than a day"))) } else { Ok(span) }
    }

    fn plight(&self) -> Result<Plight, ParseError> {
        let text = self.get::<String>("plight")?;
        let plight = PLIGHTS.iter().find(|(_, name)| *name == text).map(|(plight, _)| *plight);
        plight
            .ok_or_else(|| ParseError(format!("plight={text} is none of {}", PLIGHTS.map(|(_, name)| name).join(", "))))
    }

    /// Which links: all, unless a line says where they begin or end.
    fn aim(&self) -> Result<Aim, ParseError> {
        let end = |name| self.0.iter().any(|(key, _)| *key == name).then(|| self.get(name)).transpose();
        Ok(Aim { from: end("from")?, to: end("to")? })
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
        for (n, (key, _)) in fields.0.iter().enumerate() {
            if fields.0[..n].iter().any(|(other, _)| other == key) {
                return Err(ParseError(format!("{key}= twice")));
            }
        }
        let fault = match name {
            "kill" => Fault::Kill { member: fields.get("member")?, down: fields.span("down")? },
            "upgrade" => Fault::Upgrade {
                member: fields.get("member")?,
                level: fields.get("level")?,
                down: fields.span("down")?,
            },
            "power" => Fault::Power { member: fields.get("member")?, down: fields.span("down")? },
            "wipe" => Fault::Wipe { member: fields.get("member")?, down: fields.span("down")? },
            "rot" => Fault::Rot { member: fields.get("member")?, down: fields.span("down")? },
            "skew" => Fault::Skew { member: fields.get("member")? },
            "decay" => Fault::Decay { member: fields.get("member")? },
            "lose-state" => Fault::LoseState { member: fields.get("member")?, down: fields.span("down")? },
            "blackout" => Fault::Blackout { down: fields.span("down")? },
            "pause" => Fault::Pause { member: fields.get("member")?, span: fields.span("span")? },
            "partition" => Fault::Partition { side: fields.get("side")?, span: fields.span("span")? },
            "cut" => Fault::Cut { from: fields.get("from")?, to: fields.get("to")?, span: fields.span("span")? },
            "storm" => Fault::Storm {
                aim: fields.aim()?,
                loss_ppm: fields.at_most("loss", PPM_MAX)?,
                duplicate_ppm: fields.at_most("duplicate", PPM_MAX)?,
                straggle_ppm: fields.at_most("straggle", PPM_MAX)?,
                straggle_max: fields.span("late")?,
                span: fields.span("span")?,
            },
            "slow-disk" => Fault::SlowDisk {
                member: fields.get("member")?,
                factor: fields.at_most("factor", FACTOR_MAX)?,
                span: fields.span("span")?,
            },
            "stall" => Fault::Stall { member: fields.get("member")?, span: fields.span("span")? },
            "slow-apply" => Fault::SlowApply {
                member: fields.get("member")?,
                factor: fields.at_most("factor", FACTOR_MAX)?,
                span: fields.span("span")?,
            },
            "fail-sync" => Fault::Fail { member: fields.get("member")?, ill: Ill::Sync },
            "fail-write" => Fault::Fail { member: fields.get("member")?, ill: Ill::Write },
            "fail-read" => Fault::Fail { member: fields.get("member")?, ill: Ill::Read },
            "full" => {
                Fault::Full { member: fields.get("member")?, room: fields.get("room")?, span: fields.span("span")? }
            }
            "trip" | "trip-power" => Fault::Trip {
                member: fields.get("member")?,
                changes: fields.get("changes")?,
                power: name == "trip-power",
                down: fields.span("down")?,
            },
            "throttle" => Fault::Throttle {
                aim: fields.aim()?,
                bandwidth: fields.get("bandwidth")?,
                queue: fields.span("queue")?,
                span: fields.span("span")?,
            },
            "clock-rate" => Fault::ClockRate { member: fields.get("member")?, ppm: fields.get::<i32>("ppm")?.into() },
            "wall-clock" => Fault::WallClock { member: fields.get("member")?, by: fields.get::<i32>("by")?.into() },
            "harass" => Fault::Harass { after: fields.span("after")?, span: fields.span("span")? },
            "topple" => Fault::Topple { after: fields.span("after")?, span: fields.span("span")? },
            "transfer" => Fault::Transfer { member: fields.get("member")? },
            "outcast" => Fault::Outcast { member: fields.get("member")?, plight: fields.plight()? },
            other => return Err(ParseError(format!("unknown fault {other}"))),
        };
        let strike = Self { at, fault };
        // What was not asked for has no place in what is printed.
        let printed = strike.to_string();
        let unknown = fields.0.iter().find(|(key, _)| !printed.split([' ', '=']).any(|word| word == *key));
        match unknown {
            Some((key, _)) => Err(ParseError(format!("{name} has no {key}="))),
            None => Ok(strike),
        }
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
        assert_eq!(kinds.len(), 29, "the swarm draws every kind of fault: {kinds:?}");
    }

    #[test]
    fn what_a_seed_draws_survives_being_written_and_read() {
        for seed in 0..200 {
            let setup = Setup::draw_with(seed, Some(30 * SECOND));
            let file = read(&setup.file()).expect("it is one's own");
            assert_eq!(Setup::draw(seed).with(file), Ok(setup));
        }
    }

    #[test]
    fn settings_survive_being_printed_and_read() {
        let clients =
            [Set::Duration(MICRO), Set::ClientsFrom(0), Set::Clients(3), Set::Watchers(0), Set::Admins(2), Set::Script];
        let sets = [
            &clients[..],
            &[
                Set::Contenders(3),
                Set::Controllers(2),
                Set::Fate(u64::MAX),
                Set::CatchupEntries(1),
                Set::FlushBatches(2),
            ],
        ]
        .concat();
        let text: String = sets.iter().map(|set| format!("{set}\n")).collect();
        assert_eq!(read(&format!("# a comment\n\n{text}")), Ok(File { sets, ..File::default() }));
        assert_eq!(read("set fate=1\nset luck=2"), Err(ParseError("line 2: there is no setting luck".into())));
        assert_eq!(
            read("set clients-from=7us\nset duration=9us").map(|file| file.sets),
            Ok(vec![Set::Duration(9 * MICRO), Set::ClientsFrom(7 * MICRO)])
        );
        assert_eq!(read("# seed 7: 3 members\n# seed 7\n# seed 8 fails too").map(|file| file.seed), Ok(Some(7)));
        assert_eq!(
            read("# seed 7: 3 members\n# seed 8: 5 members"),
            Err(ParseError("line 2: it is for seed 8, and a line before it for seed 7".into()))
        );
        assert_eq!(read("\n5us fry x=1"), Err(ParseError("line 2: unknown fault fry".into())));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!("5us fry member=1".parse::<Strike>(), Err(ParseError("unknown fault fry".into())));
        assert_eq!("5us kill member=1".parse::<Strike>(), Err(ParseError("no down=".into())));
        assert_eq!("5us heal-all span=1us".parse::<Strike>(), Err(ParseError("unknown fault heal-all".into())));
        assert_eq!(
            "5us kill member=1 down=1us span=2us".parse::<Strike>(),
            Err(ParseError("kill has no span=".into()))
        );
        assert_eq!("5us kill member=1 member=2 down=1us".parse::<Strike>(), Err(ParseError("member= twice".into())));
        assert!("soon kill".parse::<Strike>().is_err());
    }
}
