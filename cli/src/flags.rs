//! Flags as etcdctl reads them: `--name value`, `--name=value`, `-x value`, `-xvalue`, anywhere among the arguments.
//!
//! The same reader serves the command line, the request lines of `txn` and those of `watch -i`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::go;

/// What a flag's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; alone it means `true`, and it never takes the next argument.
    Bool,
    /// A signed decimal number.
    Int,
    /// A span of time in Go's notation.
    Duration,
    /// Any text.
    String,
    /// Texts separated by commas; repeating the flag appends.
    Strings,
}

/// A flag that a command understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// The one-letter form, if it has one.
    pub short: Option<char>,
    /// What its value looks like.
    pub kind: Kind,
    /// Its value when it is not given.
    pub default: &'static str,
    /// One line for the help text.
    pub about: &'static str,
}

impl Flag {
    /// A truth value that is false unless given.
    pub const fn bool(name: &'static str, about: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Bool, default: "false", about }
    }

    /// A number.
    pub const fn int(name: &'static str, default: &'static str, about: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Int, default, about }
    }

    /// A text.
    pub const fn string(name: &'static str, default: &'static str, about: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::String, default, about }
    }

    /// The same flag with a one-letter form.
    pub const fn or(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }

    fn check(&self, value: &str) -> Result<(), String> {
        match self.kind {
            Kind::Bool => go::parse_bool(value).map(drop),
            Kind::Int => go::parse_int(value, 10).map(drop),
            Kind::Duration => go::parse_duration(value).map(drop),
            Kind::String | Kind::Strings => Ok(()),
        }
    }

    /// The flag's name in messages: `-w, --write-out` or `--hex`.
    pub fn dashed(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// The flags and arguments of one command.
#[derive(Clone, Debug, Default)]
pub struct Args {
    defaults: BTreeMap<&'static str, &'static str>,
    /// Every value has been checked against its flag's kind.
    given: BTreeMap<&'static str, String>,
    words: Vec<String>,
    dash: Option<usize>,
}

impl Args {
    /// Reads `raw` against the `flags` that are understood.
    ///
    /// # Errors
    /// A line for the user: an unknown flag, a missing or a malformed value.
    pub fn parse<'a>(flags: impl IntoIterator<Item = &'a Flag>, raw: &[String]) -> Result<Args, String> {
        let flags: Vec<&Flag> = flags.into_iter().collect();
        let mut args = Args { defaults: flags.iter().map(|f| (f.name, f.default)).collect(), ..Args::default() };
        let mut rest = raw.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                args.dash = Some(args.words.len());
                args.words.extend(rest.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                args.long(&flags, long, &mut rest)?;
            } else if word.len() > 1 && word.starts_with('-') {
                args.shorts(&flags, &word[1..], &mut rest)?;
            } else {
                args.words.push(word.clone());
            }
        }
        Ok(args)
    }

    fn long<'a>(
        &mut self,
        flags: &[&Flag],
        long: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let (name, inline) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: --{long}"));
        }
        let flag = flags.iter().find(|f| f.name == name).ok_or_else(|| format!("unknown flag: --{name}"))?;
        let value = match (inline, flag.kind) {
            (Some(value), _) => value.to_owned(),
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => rest.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?.clone(),
        };
        self.set(flag, value)
    }

    fn shorts<'a>(
        &mut self,
        flags: &[&Flag],
        letters: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let mut tail = letters;
        while let Some(letter) = tail.chars().next() {
            tail = &tail[letter.len_utf8()..];
            let flag = flags
                .iter()
                .find(|f| f.short == Some(letter))
                .ok_or_else(|| format!("unknown shorthand flag: '{letter}' in -{letters}"))?;
            let value = match (tail.strip_prefix('='), flag.kind) {
                (None, Kind::Bool) => Some("true".to_owned()),
                (None, _) if tail.is_empty() => rest.next().cloned(),
                (inline, _) => {
                    let value = inline.unwrap_or(tail).to_owned();
                    tail = "";
                    Some(value)
                }
            };
            let value = value.ok_or_else(|| format!("flag needs an argument: '{letter}' in -{letters}"))?;
            self.set(flag, value)?;
        }
        Ok(())
    }

    /// Gives `flag` a value, as its text on the command line would.
    ///
    /// # Errors
    /// A line for the user if `value` is malformed.
    pub fn set(&mut self, flag: &Flag, value: String) -> Result<(), String> {
        flag.check(&value).map_err(|why| {
            format!(
                "invalid argument {} for {} flag: {why}",
                go::quote(value.as_bytes()),
                go::quote(flag.dashed().as_bytes())
            )
        })?;
        match self.given.get_mut(flag.name) {
            Some(before) if flag.kind == Kind::Strings => {
                before.push(',');
                before.push_str(&value);
            }
            _ => drop(self.given.insert(flag.name, value)),
        }
        Ok(())
    }

    /// Whether flag `name` was given, on the command line or by the environment.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of `name`, or its default.
    pub fn string(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(value) => value,
            None => self.defaults.get(name).expect("commands ask only for flags they declare"),
        }
    }

    /// The value of truth flag `name`.
    pub fn bool(&self, name: &str) -> bool {
        go::parse_bool(self.string(name)).expect("checked when it was set")
    }

    /// The value of number flag `name`.
    pub fn int(&self, name: &str) -> i64 {
        go::parse_int(self.string(name), 10).expect("checked when it was set")
    }

    /// The value of duration flag `name`.
    pub fn duration(&self, name: &str) -> Duration {
        go::parse_duration(self.string(name)).expect("checked when it was set")
    }

    /// The values of list flag `name`.
    pub fn strings(&self, name: &str) -> Vec<String> {
        self.string(name).split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    /// The arguments that are no flags, those behind `--` included.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The arguments in front of `--` and, if there is one, those behind it.
    pub fn split_at_dash(&self) -> (&[String], Option<&[String]>) {
        match self.dash {
            Some(at) => (&self.words[..at], Some(&self.words[at..])),
            None => (&self.words, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [Flag; 5] = [
        Flag::bool("prefix", ""),
        Flag::int("rev", "0", ""),
        Flag::string("write-out", "simple", "").or('w'),
        Flag::bool("interactive", "").or('i'),
        Flag { name: "endpoints", short: None, kind: Kind::Strings, default: "a:1", about: "" },
    ];

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(&FLAGS, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_wherever_they_stand() {
        let args = parse("foo --prefix --rev -3 -wjson bar -i -- --rev x").unwrap();
        assert!(args.bool("prefix") && args.bool("interactive"));
        assert_eq!((args.int("rev"), args.string("write-out")), (-3, "json"));
        assert_eq!(args.words(), ["foo", "bar", "--rev", "x"]);
        let (before, behind) = args.split_at_dash();
        assert_eq!((before.len(), behind.map(<[String]>::len)), (2, Some(2)));
        let args = parse("--prefix=false -w=table -").unwrap();
        assert!(!args.bool("prefix") && args.is_given("prefix") && !args.is_given("rev"));
        assert_eq!((args.string("write-out"), args.words()), ("table", &["-".to_owned()][..]));
    }

    #[test]
    fn lists_split_at_commas_and_grow_when_repeated() {
        assert_eq!(parse("").unwrap().strings("endpoints"), ["a:1"]);
        assert_eq!(parse("--endpoints b:1,c:2 --endpoints d:3").unwrap().strings("endpoints"), ["b:1", "c:2", "d:3"]);
    }

    #[test]
    fn bad_flags_are_refused_in_cobras_words() {
        let cases = [
            ("--foo", "unknown flag: --foo"),
            ("-ix", "unknown shorthand flag: 'x' in -ix"),
            ("--rev", "flag needs an argument: --rev"),
            ("-w", "flag needs an argument: 'w' in -w"),
            ("--rev x", r#"invalid argument "x" for "--rev" flag: strconv.ParseInt: parsing "x": invalid syntax"#),
            ("---x", "bad flag syntax: ---x"),
        ];
        for (line, error) in cases {
            assert_eq!(parse(line).unwrap_err(), error);
        }
    }
}
