//! Runs `testdata/watch/*.txt`: a command, `----`, what happened. `UPDATE=1` rewrites what happened.

#[path = "support/scenario.rs"]
mod scenario;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use quorate_core::request::KeyRange;
use quorate_core::store::RevisionEvents;
use quorate_core::watch::{Config, Create, Input, Output, Response, WatchHub};
use quorate_core::{Blob, Instant, JobId, Revision, StreamId, WatchId};

#[path = "support/history.rs"]
mod history;
use history::History;

struct World {
    hub: WatchHub,
    now: Instant,
    history: History,
    job: Option<(JobId, Revision, Revision)>,
    untaken: BTreeMap<StreamId, u64>,
}

#[test]
fn watch_scenarios_happen_as_written() {
    scenario::happen_as_written("watch", run);
}

/// The scenario with what really happened in place of what was written.
fn run(text: &str) -> String {
    let config = Config {
        progress_interval: Duration::from_secs(600),
        stream_bytes_max: 1_000,
        ring_bytes_max: 400,
        history_bytes_max: 10_000,
        seed: 1,
    };
    let mut world = World {
        hub: WatchHub::new(config, Revision(1), Revision(-1)),
        now: Instant(0),
        history: History::new(),
        job: None,
        untaken: BTreeMap::new(),
    };
    let mut happened = String::new();
    for block in text.split("\n\n") {
        let (commands, _) = block.split_once("\n----").unwrap_or((block, ""));
        let _ = write!(happened, "{commands}\n----\n");
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            let mut out = Vec::new();
            let input = world.input(command);
            world.hub.step(world.now, input, &world.history, &mut out);
            world.hub.check_deep();
            for output in out {
                let _ = writeln!(happened, "{}", world.print(&output));
            }
        }
        happened.push('\n');
    }
    happened.pop();
    happened
}

impl World {
    /// `put a=1 b=2; del a` is two revisions.
    fn apply(&mut self, text: &str) -> Vec<RevisionEvents> {
        let revision = |changes: &str| {
            let change = |word: &str| match word.split_once('=') {
                Some((key, value)) => (Blob::copy(key.as_bytes()), Some(Blob::copy(value.as_bytes()))),
                None => (Blob::copy(word.as_bytes()), None),
            };
            changes.split_whitespace().skip(1).map(change).collect::<Vec<_>>()
        };
        text.split(';').filter_map(|changes| self.history.apply(&revision(changes))).collect()
    }

    fn input(&mut self, command: &str) -> Input {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let stream = || StreamId(words[1].parse().unwrap());
        match words[0] {
            "open" => Input::Open(stream()),
            "close" => Input::Close(stream()),
            "create" => Input::Create(stream(), create(&words[2..])),
            "cancel" => Input::Cancel(stream(), WatchId(number(2))),
            "progress" => Input::Progress(stream()),
            "taken" => {
                let untaken = self.untaken.entry(stream()).or_default();
                let bytes = if words[2] == "all" { *untaken } else { u64::try_from(number(2)).unwrap() };
                *untaken = untaken.saturating_sub(bytes);
                Input::Taken(stream(), bytes)
            }
            "put" | "del" => {
                let events = self.apply(command);
                Input::Published { revision: self.history.revision(), compacted: self.history.floor, events }
            }
            "compact" => {
                self.history.floor = Revision(number(1));
                Input::Published {
                    revision: self.history.revision(),
                    compacted: self.history.floor,
                    events: Vec::new(),
                }
            }
            "restore" => {
                self.apply(command.strip_prefix("restore").unwrap());
                Input::Restored { revision: self.history.revision(), compacted: self.history.floor }
            }
            "answer" => {
                let (job, from, through) = self.job.take().expect("a history read is under way");
                if from < self.history.floor {
                    return Input::HistoryCompacted { job, compacted: self.history.floor };
                }
                let revisions = self.history.revisions.range(from..=through);
                let events =
                    |(&revision, events): (&Revision, &Vec<_>)| RevisionEvents { revision, events: events.clone() };
                Input::History { job, through, events: revisions.map(events).collect() }
            }
            "after" => {
                self.now = self.now + Duration::from_secs(u64::try_from(number(1)).unwrap());
                Input::Wake
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn print(&mut self, output: &Output) -> String {
        match output {
            Output::Send(stream, response) => {
                *self.untaken.entry(*stream).or_default() += response.bytes();
                format!("{stream} <- {}", print(response))
            }
            Output::ReadHistory { job, from, through, .. } => {
                self.job = Some((*job, *from, *through));
                format!("read {from}..={through}")
            }
        }
    }
}

/// `KEY id=.. start=.. prev progress noput nodelete`; the key is `a`, `a..c`, `a..` or `-` for empty.
fn create(words: &[&str]) -> Create {
    let blob = |text: &str| Blob::copy(text.as_bytes());
    let range = match words[0].split_once("..") {
        Some((start, "")) => Some(KeyRange::From(blob(start))),
        Some((start, end)) => Some(KeyRange::Bounded { start: blob(start), end: blob(end) }),
        None if words[0] == "-" => None,
        None => Some(KeyRange::Key(blob(words[0]))),
    };
    let number =
        |name: &str| words.iter().find_map(|word| word.strip_prefix(name)).map(|text| text.parse::<i64>().unwrap());
    Create {
        range,
        start: number("start=").map(Revision),
        id: number("id=").map(WatchId),
        progress_notify: words.contains(&"progress"),
        no_put: words.contains(&"noput"),
        no_delete: words.contains(&"nodelete"),
        prev_kv: words.contains(&"prev"),
        fragment: words.contains(&"fragment"),
    }
}

/// `w0 at 3:` and what it says.
fn print(response: &Response) -> String {
    let mut text = response.watch.map_or_else(|| String::from("all"), |watch| format!("w{watch}"));
    if let Some(revision) = response.revision {
        let _ = write!(text, " at {revision}");
    }
    text.push(':');
    for (set, word) in [(response.created, " created"), (response.canceled, " canceled")] {
        text.push_str(if set { word } else { "" });
    }
    if let Some(floor) = response.compact_revision {
        let _ = write!(text, " compacted {floor}");
    }
    if !response.cancel_reason.is_empty() {
        let _ = write!(text, " \"{}\"", response.cancel_reason);
    }
    let words = |blob: &Blob| String::from_utf8_lossy(blob).into_owned();
    for delivered in &response.events {
        let (kv, deleted) = (&delivered.event.kv, delivered.event.deleted);
        let _ = write!(
            text,
            " {}{}@{}",
            words(&kv.key),
            if deleted { "-".into() } else { format!("={}", words(&kv.value)) },
            kv.mod_revision
        );
        if let Some(previous) = &delivered.prev_kv {
            let _ = write!(text, "(was {}@{})", words(&previous.value), previous.mod_revision);
        }
    }
    if text.ends_with(':') {
        text.push_str(" progress");
    }
    let _ = write!(text, " [{}]", response.bytes());
    text
}
