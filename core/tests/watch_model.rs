//! The watch hub against a model that keeps all history: whatever clients, slow streams, compactions, restores and late
//! history reads do, each watcher gets every event it wants once, in order, in whole revisions, or is told it cannot.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_core::request::KeyRange;
use quorate_core::store::{Event, RevisionEvents};
use quorate_core::watch::{Config, Create, Input, Output, Previous, Response, WatchHub};
use quorate_core::{Blob, Instant, JobId, Revision, StreamId, WatchId};

#[path = "support/history.rs"]
mod history;
use history::History;

const STREAM_BYTES_MAX: u64 = 1_500;
const PROGRESS: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Op {
    /// Apply these revisions (each a list of (key, is a put)) and publish them.
    Publish(Vec<Vec<(u8, bool)>>),
    /// Apply them unseen, as part of a snapshot.
    Restore(Vec<Vec<(u8, bool)>>, u8),
    /// Move the floor a share of the way to the newest revision; the hub hears of it now or with the next publish.
    Compact(u8, bool),
    Open,
    Close(u8),
    Create(u8, Wish),
    Cancel(u8, i64),
    Progress(u8),
    /// The client takes some responses.
    Take(u8, usize),
    /// The history read is answered, cut short at a share of what it may bring.
    Answer(u8),
    Advance(u64),
    /// Everything is taken and answered: everyone must have caught up.
    Settle,
}

#[derive(Clone, Debug)]
struct Wish {
    range: Option<KeyRange>,
    /// Relative to the floor and the newest revision: 0..100 between them, above in the future, below compacted.
    start: Option<i64>,
    id: Option<i64>,
    flags: [bool; 4],
}

fn any_op() -> impl Strategy<Value = Op> {
    let stream = 0..3u8;
    let change = (0..5u8, proptest::bool::weighted(0.7));
    let revisions = vec(vec(change, 1..4), 1..4).boxed();
    let key = || (0..6u8).prop_map(|byte| Blob::copy(&[byte]));
    let range = prop_oneof![
        3 => key().prop_map(|key| Some(KeyRange::Key(key))),
        3 => (key(), key()).prop_map(|(start, end)| Some(KeyRange::Bounded { start, end })),
        2 => key().prop_map(|key| Some(KeyRange::From(key))),
        1 => Just(None),
    ];
    let wish = (range, proptest::option::of(-10..120i64), proptest::option::weighted(0.4, 1..5i64), any::<[bool; 4]>())
        .prop_map(|(range, start, id, flags)| Wish { range, start, id, flags });
    prop_oneof![
        12 => revisions.clone().prop_map(Op::Publish),
        1 => (revisions, any::<u8>()).prop_map(|(revisions, floor)| Op::Restore(revisions, floor)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(share, now)| Op::Compact(share, now)),
        2 => Just(Op::Open),
        1 => stream.clone().prop_map(Op::Close),
        6 => (stream.clone(), wish).prop_map(|(stream, wish)| Op::Create(stream, wish)),
        2 => (stream.clone(), 0..6i64).prop_map(|(stream, id)| Op::Cancel(stream, id)),
        2 => stream.clone().prop_map(Op::Progress),
        8 => (stream, 1..6usize).prop_map(|(stream, count)| Op::Take(stream, count)),
        5 => any::<u8>().prop_map(Op::Answer),
        3 => (1..8_000u64).prop_map(Op::Advance),
        1 => Just(Op::Settle),
    ]
}

/// A watcher as the model sees it.
struct Watch {
    create: Create,
    range: KeyRange,
    start: Revision,
    /// Everything wanted up to here was delivered.
    seen: Revision,
}

impl Watch {
    fn wants(&self, event: &Event) -> bool {
        let dropped = if event.deleted { self.create.no_delete } else { self.create.no_put };
        event.kv.mod_revision >= self.start && self.range.contains(&event.kv.key) && !dropped
    }

    fn missing(&self, history: &History, through: Revision) -> Vec<Event> {
        let unseen = history.revisions.iter().filter(|&(&revision, _)| revision > self.seen && revision <= through);
        unseen.flat_map(|(_, events)| events).filter(|event| self.wants(event)).cloned().collect()
    }
}

struct World {
    hub: WatchHub,
    now: Instant,
    history: History,
    /// The floor as the hub knows it.
    floor_told: Revision,
    streams: BTreeMap<StreamId, VecDeque<u64>>,
    opened: u64,
    watches: BTreeMap<(StreamId, WatchId), Watch>,
    job: Option<(JobId, Revision, Revision, u64, bool)>,
    created: Option<(StreamId, Create)>,
    config: Config,
}

/// What an event costs in a pass, its previous state included if that is wanted.
fn cost(event: &Event, previous: bool) -> u64 {
    let key = event.kv.key.len() as u64;
    let previous = event.previous.filter(|_| previous).map_or(0, |_| 64 + key + u64::from(event.previous_bytes));
    128 + key + event.kv.value.len() as u64 + previous
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with(Config {
            progress_interval: PROGRESS,
            stream_bytes_max: STREAM_BYTES_MAX,
            ring_bytes_max: 900,
            history_bytes_max: 700,
            seed,
        })
    }

    fn with(config: Config) -> Self {
        Self {
            hub: WatchHub::new(config.clone(), Revision(1), Revision(-1)),
            config,
            now: Instant(0),
            history: History::new(),
            floor_told: Revision(-1),
            streams: BTreeMap::new(),
            opened: 0,
            watches: BTreeMap::new(),
            job: None,
            created: None,
        }
    }

    fn stream(&self, number: u8) -> StreamId {
        self.streams.keys().nth(usize::from(number)).copied().unwrap_or(StreamId(999))
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Publish(revisions) => {
                let events: Vec<_> = revisions.iter().filter_map(|changes| self.apply(changes)).collect();
                self.publish(events);
            }
            Op::Restore(revisions, share) => {
                for changes in &revisions {
                    self.apply(changes);
                }
                if share < 80 {
                    self.raise_floor(share);
                }
                self.floor_told = self.history.floor;
                self.step(Input::Restored { revision: self.history.revision(), compacted: self.history.floor });
            }
            Op::Compact(share, now) => {
                self.raise_floor(share);
                if now {
                    self.publish(Vec::new());
                }
            }
            Op::Open if self.streams.len() < 3 => {
                self.opened += 1;
                self.streams.insert(StreamId(self.opened), VecDeque::new());
                self.step(Input::Open(StreamId(self.opened)));
            }
            Op::Open => {}
            Op::Close(number) => {
                let stream = self.stream(number);
                self.streams.remove(&stream);
                self.watches.retain(|name, _| name.0 != stream);
                self.step(Input::Close(stream));
            }
            Op::Create(number, wish) => {
                let (floor, newest) = (self.history.floor.0.max(0), self.history.revision().0);
                let start =
                    wish.start.map(|share| Revision(floor + (newest - floor) * share / 100 + share.signum() - 1));
                let [progress_notify, no_put, no_delete, prev_kv] = wish.flags;
                let id = wish.id.map(WatchId);
                let create = Create {
                    range: wish.range,
                    start,
                    id,
                    progress_notify,
                    no_put: no_put && no_delete, // Seldom, or little is left.
                    no_delete: no_delete && !no_put,
                    prev_kv,
                    fragment: prev_kv,
                };
                let stream = self.stream(number);
                self.created = self.streams.contains_key(&stream).then(|| (stream, create.clone()));
                self.step(Input::Create(stream, create));
                assert!(self.created.is_none(), "a create request must be answered");
            }
            Op::Cancel(number, id) => {
                let name = (self.stream(number), WatchId(id));
                let held = self.watches.contains_key(&name);
                let out = self.step(Input::Cancel(name.0, name.1));
                let answered = out.iter().any(|response| response.canceled && response.compact_revision.is_none());
                assert_eq!(answered, held, "a cancel is answered if there is such a watcher");
                self.watches.remove(&name);
            }
            Op::Progress(number) => _ = self.step(Input::Progress(self.stream(number))),
            Op::Take(number, count) => {
                let stream = self.stream(number);
                for _ in 0..count {
                    if let Some(bytes) = self.streams.get_mut(&stream).and_then(VecDeque::pop_front) {
                        self.step(Input::Taken(stream, bytes));
                    }
                }
            }
            Op::Answer(share) => _ = self.answer(share),
            Op::Advance(millis) => {
                self.now = self.now + Duration::from_millis(millis);
                if self.hub.deadline() <= self.now {
                    self.step(Input::Wake);
                }
            }
            Op::Settle => self.settle(),
        }
        self.hub.check_deep();
    }

    fn apply(&mut self, changes: &[(u8, bool)]) -> Option<RevisionEvents> {
        let length = usize::try_from(self.history.revision().0 % 97).unwrap();
        let change = |&(key, put): &(u8, bool)| (Blob::copy(&[key]), put.then(|| Blob::from(vec![7; length])));
        self.history.apply(&changes.iter().map(change).collect::<Vec<_>>())
    }

    fn raise_floor(&mut self, share: u8) {
        let (floor, newest) = (self.history.floor.0.max(1), self.history.revision().0);
        self.history.floor = Revision(floor + (newest - floor) * i64::from(share) / 255);
    }

    fn publish(&mut self, events: Vec<RevisionEvents>) {
        self.floor_told = self.history.floor;
        self.step(Input::Published { revision: self.history.revision(), compacted: self.history.floor, events });
    }

    fn answer(&mut self, share: u8) -> Vec<Response> {
        let Some((job, from, through, bytes_max, previous)) = self.job.take() else {
            return Vec::new();
        };
        if from < self.history.floor {
            return self.step(Input::HistoryCompacted { job, compacted: self.history.floor });
        }
        let (mut events, mut last, mut bytes) = (Vec::new(), through, 0);
        for (&revision, changes) in self.history.revisions.range(from..=through) {
            events.push(RevisionEvents { revision, events: changes.clone() });
            bytes += changes.iter().map(|event| cost(event, previous)).sum::<u64>();
            if bytes > bytes_max * u64::from(share) / 255 {
                last = revision;
                break;
            }
        }
        self.step(Input::History { job, through: last, events })
    }

    fn settle(&mut self) {
        self.publish(Vec::new());
        for _ in 0..10_000 {
            let streams: Vec<_> = self.streams.keys().copied().collect();
            for stream in streams {
                while let Some(bytes) = self.streams.get_mut(&stream).and_then(VecDeque::pop_front) {
                    self.step(Input::Taken(stream, bytes));
                }
            }
            if self.job.is_some() {
                self.answer(255);
            } else if self.hub.deadline() <= self.now {
                self.step(Input::Wake);
            } else if self.streams.values().all(VecDeque::is_empty) {
                break;
            }
        }
        assert_eq!(self.hub.counts().lagging, 0, "nothing holds anyone back, yet some are behind");
        assert_eq!(self.hub.counts().watchers, self.watches.len());
        let revision = self.history.revision();
        for (name, watch) in &mut self.watches {
            assert_eq!(watch.missing(&self.history, revision), [], "{name:?} lacks events");
            watch.seen = watch.seen.max(revision);
        }
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            let mut watches = self.watches.range((stream, WatchId(i64::MIN))..=(stream, WatchId(i64::MAX))).peekable();
            let expected = watches.peek().is_some()
                && watches.all(|(_, watch)| watch.create.start.is_none_or(|start| start <= revision));
            let answered = self.step(Input::Progress(stream)).iter().any(|response| response.watch.is_none());
            assert_eq!(answered, expected, "progress of stream {stream} at {revision}");
        }
    }

    fn step(&mut self, input: Input) -> Vec<Response> {
        let mut out = Vec::new();
        self.hub.step(self.now, input, &self.history, &mut out);
        let mut responses = Vec::new();
        for output in out {
            match output {
                Output::ReadHistory { job, from, through, bytes_max, previous } => {
                    assert!(self.job.is_none(), "two history reads at once");
                    assert!(from <= through, "an empty history read");
                    self.job = Some((job, from, through, bytes_max, previous));
                }
                Output::Send(stream, response) => {
                    self.receive(stream, &response);
                    responses.push(response);
                }
            }
        }
        responses
    }

    fn receive(&mut self, stream: StreamId, response: &Response) {
        let queue = self.streams.get_mut(&stream).expect("sent to a closed stream");
        let untaken: u64 = queue.iter().sum();
        if !response.events.is_empty() {
            assert!(untaken < self.config.stream_bytes_max, "events sent over {untaken} bytes untaken");
        }
        queue.push_back(response.bytes());
        if response.created {
            return self.receive_created(stream, response);
        }
        let newest = self.history.revision();
        let Some(id) = response.watch else {
            assert!(response.events.is_empty() && !response.canceled, "{response:?}");
            assert_eq!(response.revision, Some(newest));
            for (name, watch) in &mut self.watches {
                if name.0 == stream {
                    assert_eq!(watch.missing(&self.history, newest), [], "progress is ahead of {name:?}");
                    assert!(watch.create.start.is_none_or(|start| start <= newest), "progress before its start");
                }
            }
            return;
        };
        let name = (stream, id);
        let watch =
            self.watches.get_mut(&name).unwrap_or_else(|| panic!("response for unknown {name:?}: {response:?}"));
        if let Some(floor) = response.compact_revision {
            assert!(response.canceled && response.revision.is_none() && response.events.is_empty(), "{response:?}");
            assert!(floor == self.floor_told || floor == self.history.floor, "compacted at {floor}");
            assert!(watch.seen.next() < floor, "{name:?} has seen {} and needs nothing below {floor}", watch.seen);
            self.watches.remove(&name);
        } else if response.canceled {
            assert!(response.events.is_empty() && response.revision == Some(newest), "{response:?}");
        } else if let Some(last) = response.events.last() {
            let last = last.event.kv.mod_revision;
            let expected = watch.missing(&self.history, last);
            let got: Vec<Event> = response.events.iter().map(|delivered| (*delivered.event).clone()).collect();
            assert_eq!(got, expected, "{name:?} after {}", watch.seen);
            // A pass is bounded, with all that is loaded for it, but for the revision that brought it there.
            let but_the_last = got.iter().filter(|event| event.kv.mod_revision < last);
            let bytes: u64 = but_the_last.map(|event| cost(event, watch.create.prev_kv)).sum();
            assert!(bytes <= self.config.history_bytes_max, "a pass of {bytes} bytes and more");
            let live = response.revision == Some(last) && got[0].kv.mod_revision == last;
            assert!(live || response.revision == Some(newest), "header of {response:?} at {newest}");
            assert_eq!(response.fragment, watch.create.fragment);
            for delivered in &response.events {
                let previous = self.history.previous(&delivered.event).filter(|_| watch.create.prev_kv);
                assert_eq!(delivered.prev_kv.as_deref(), previous.as_ref(), "prev_kv of {:?}", delivered.event);
            }
            watch.seen = last;
        } else {
            assert!(watch.create.progress_notify, "unasked progress: {response:?}");
            assert_eq!(response.revision, Some(newest));
            assert_eq!(watch.missing(&self.history, newest), [], "progress is ahead of {name:?}");
            watch.seen = watch.seen.max(newest);
        }
    }

    fn receive_created(&mut self, stream: StreamId, response: &Response) {
        let (asked, create) = self.created.take().expect("created without a request");
        let newest = self.history.revision();
        assert_eq!((asked, response.revision), (stream, Some(newest)));
        let negative = create.start.is_some_and(|start| start.0 < 0);
        let range =
            create.range.clone().filter(|range| !matches!(range, KeyRange::Bounded { start, end } if end <= start));
        let taken = create.id.is_some_and(|id| self.watches.contains_key(&(stream, id)));
        assert_eq!(response.canceled, negative || range.is_none() || taken, "{create:?} got {response:?}");
        if response.canceled {
            assert_eq!(response.watch, None);
            assert!(!response.cancel_reason.is_empty());
            return;
        }
        let id = response.watch.expect("an accepted watcher has an ID");
        assert!(create.id.is_none_or(|wanted| wanted == id), "{create:?} got {id}");
        let start = create.start.filter(|start| start.0 > 0).unwrap_or(newest.next());
        let watch = Watch { create, range: range.unwrap(), start, seen: Revision(start.0 - 1) };
        assert!(self.watches.insert((stream, id), watch).is_none(), "{id} is in use");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn watchers_get_every_event_once_in_order_and_whole(ops in vec(any_op(), 1..250), seed in any::<u64>()) {
        let mut world = World::new(seed);
        world.run(Op::Open);
        for op in ops {
            world.run(op);
        }
        world.run(Op::Settle);
    }
}

#[test]
fn thousands_of_watchers_share_each_read_of_history() {
    let mut world = World::new(1);
    world.run(Op::Open);
    for i in 0..40u8 {
        world.run(Op::Publish(vec![vec![(i % 5, true)]]));
    }
    for _ in 0..1_500 {
        let range = Some(KeyRange::From(Blob::from("")));
        world.run(Op::Create(0, Wish { range, start: Some(1), id: None, flags: [false; 4] }));
    }
    let mut reads = 0;
    while world.hub.counts().lagging > 0 {
        reads += usize::from(world.job.is_some());
        world.run(Op::Answer(255));
        world.run(Op::Take(0, 1_000));
        if world.hub.deadline() <= world.now {
            world.run(Op::Advance(1));
        }
    }
    world.run(Op::Settle);
    assert!(reads < 400, "{reads} history reads for 1,500 watchers"); // One each would be several per watcher.
}

/// Deletes are small, what they removed may not be: passes for those who want to see it are bounded by that.
#[test]
fn passes_of_deletes_are_bounded_by_what_was_deleted() {
    for (ring_bytes_max, prev_kv) in [(1 << 20, true), (0, true), (1 << 20, false), (0, false)] {
        let (stream_bytes_max, history_bytes_max) = (1 << 30, 20_000);
        let config =
            Config { progress_interval: PROGRESS, stream_bytes_max, ring_bytes_max, history_bytes_max, seed: 1 };
        let mut world = World::with(config);
        world.run(Op::Open);
        let key = |n: u8| Blob::copy(&[n]);
        let puts = (0..100).map(|n| (key(n), Some(Blob::from(vec![7; 10_000]))));
        let puts = world.history.apply(&puts.collect::<Vec<_>>()).unwrap();
        world.publish(vec![puts]);
        let first = world.history.revision().next();
        for n in 0..100 {
            let delete = world.history.apply(&[(key(n), None)]).unwrap();
            world.publish(vec![delete]);
        }
        let create = Create {
            range: Some(KeyRange::From(Blob::EMPTY)),
            start: Some(first),
            id: None,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv,
            fragment: false,
        };
        world.created = Some((world.stream(0), create.clone()));
        let mut responses = world.step(Input::Create(world.stream(0), create));
        while world.hub.counts().lagging > 0 {
            let more = if world.job.is_some() { world.answer(255) } else { world.step(Input::Wake) };
            responses.extend(more);
        }
        let events = responses.iter().map(|response| response.events.len());
        assert_eq!(events.clone().sum::<usize>(), 100);
        let most = events.max().unwrap();
        if prev_kv { assert_eq!(most, 2) } else { assert!(most >= 100, "{most} deletes at once are small") }
    }
}

/// Each began where everyone else had been, and was served first.
#[test]
fn those_who_keep_coming_do_not_hold_up_whoever_is_ahead() {
    for ring_bytes_max in [0, 1 << 20] {
        let (stream_bytes_max, history_bytes_max) = (1 << 30, 700);
        let config =
            Config { progress_interval: PROGRESS, stream_bytes_max, ring_bytes_max, history_bytes_max, seed: 1 };
        let mut world = World::with(config);
        world.run(Op::Open);
        (0..60).for_each(|n| world.run(Op::Publish(vec![vec![(n % 5, true)]])));
        let range = Some(KeyRange::From(Blob::from("")));
        let from_the_start = Wish { range, start: Some(2), id: None, flags: [false; 4] };
        world.run(Op::Create(0, from_the_start.clone()));
        let first = *world.watches.keys().next().unwrap();
        assert_eq!(world.watches[&first].start, Revision(1));
        let mut passes = 0;
        while !world.watches[&first].missing(&world.history, world.history.revision()).is_empty() {
            passes += 1;
            assert!(passes < 40, "sixty revisions, in passes of a few");
            world.run(Op::Create(0, from_the_start.clone()));
            if world.job.is_some() {
                world.run(Op::Answer(255));
            } else {
                world.run(Op::Advance(1));
            }
        }
        world.run(Op::Settle);
    }
}
