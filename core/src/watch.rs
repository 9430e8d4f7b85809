//! Watchers: every event once, in order, whole revisions, with bounded memory. (etcd: Watch; semantics.md section 8)
//!
//! The hub lives beside the store: it is given every applied revision's events right after they are published, and so
//! always knows exactly which revision a new watcher starts after. What it no longer holds it asks for by
//! [`Output::ReadHistory`].
//!
//! A watcher is in one of two states. One that *keeps up* is in an index by key and range, and gets each published
//! revision at once: one response a revision, the revision in its header. One that is *behind*, because it starts in
//! the past, its client does not read, or a snapshot jumped ahead, is no more than the number of the next revision it
//! needs: nothing is queued for it. Passes, one a step and bounded in bytes, feed up to 512 such watchers at once from
//! the newest events in memory or, if those do not reach back far enough, from one shared read of history; when a pass
//! reaches the newest revision its watchers keep up again.
//!
//! Memory is bounded by `ring_bytes_max`, one pass, and per stream `stream_bytes_max` and one response. A stream is full
//! when that much was sent and not [`Input::Taken`]; its watchers then fall behind one by one, each at the first event
//! that has no room, and go on when half is taken. Answers to a client's own requests are always sent, so whoever
//! reads a stream's requests stops reading while the stream is full.
//!
//! - **Invariant:** the responses of a watcher, joined, are exactly the events it wants from its start up to the last one
//!   sent, ascending, and no revision is split over two responses. (`watchers_get_every_event_once_in_order_and_whole`)
//! - **Invariant:** progress at revision r is sent only after every event up to r that its watchers want. (the same)
//! - **Invariant:** a watcher whose next revision compaction has overtaken is cancelled with the floor; nothing is ever
//!   left out silently. (the same, and `testdata/watch/slow.txt`)
//! - **Invariant:** a snapshot never moves a watcher back, nor one that waits for a future revision at all.
//!   (`testdata/watch/restore.txt`)

mod catchup;
mod index;
mod progress;
mod ring;
mod stream;
mod watcher;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::request::{KeyRange, KeyValue};
use crate::rng::Rng;
use crate::store::{Event, RevisionEvents};
use crate::{Instant, JobId, Revision, StreamId, WatchId};

use catchup::Reading;
use index::Index;
use ring::{Ring, Shared};
use stream::Stream;
use watcher::{Place, Watcher};

/// What does not change while a hub runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A watcher that wants it gets a progress response after this long without events. (etcd: 10 min, at least 100 ms)
    pub progress_interval: Duration,
    /// Bytes of responses a stream may have under way before its watchers fall back to catching up.
    pub stream_bytes_max: u64,
    /// Bytes of recent events kept in memory so that catching up rarely reads the backend.
    pub ring_bytes_max: u64,
    /// Bytes of events, previous states included where they are wanted, that one pass or history read should bring.
    pub history_bytes_max: u64,
    /// All of this machine's randomness: the jitter of progress.
    pub seed: u64,
}

/// What a client asks of a new watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The keys; `None` if the wire's range is empty: answered by a refusal.
    pub range: Option<KeyRange>,
    /// The first revision wanted; `None` is "from now on"; negative is refused as compacted.
    pub start: Option<Revision>,
    /// The ID wanted; `None` lets the hub choose.
    pub id: Option<WatchId>,
    /// Send progress when idle.
    pub progress_notify: bool,
    /// Drop puts.
    pub no_put: bool,
    /// Drop deletes.
    pub no_delete: bool,
    /// Give each event's previous state.
    pub prev_kv: bool,
    /// The client accepts responses split over several messages.
    pub fragment: bool,
}

/// Everything that can happen to the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A client opened a stream.
    Open(StreamId),
    /// The stream ended, with all its watchers.
    Close(StreamId),
    /// (etcd: create_request)
    Create(StreamId, Create),
    /// (etcd: cancel_request)
    Cancel(StreamId, WatchId),
    /// (etcd: progress_request)
    Progress(StreamId),
    /// The client took responses of so many bytes from the stream ([`Response::bytes`]).
    Taken(StreamId, u64),
    /// These revisions are applied and published; ascending, continuing the last ones. `revision` is the store's.
    Published {
        /// The store's revision now.
        revision: Revision,
        /// The compaction floor now.
        compacted: Revision,
        /// What changed.
        events: Vec<RevisionEvents>,
    },
    /// The state was replaced by a snapshot: everything between the last published revision and this one was not seen
    /// and must be read.
    Restored {
        /// The store's revision now; never lower than before.
        revision: Revision,
        /// The compaction floor now.
        compacted: Revision,
    },
    /// Answer to [`Output::ReadHistory`]: what changed from its `from` through `through`.
    History {
        /// The question.
        job: JobId,
        /// The last revision that was looked at.
        through: Revision,
        /// What changed.
        events: Vec<RevisionEvents>,
    },
    /// Answer to [`Output::ReadHistory`]: its `from` is below the floor by now.
    HistoryCompacted {
        /// The question.
        job: JobId,
        /// The floor.
        compacted: Revision,
    },
    /// Nothing but time: `now` has reached [`WatchHub::deadline`].
    Wake,
}

/// Everything the hub can ask of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Give this to the client, in order per stream.
    Send(StreamId, Response),
    /// Read history and answer, off this thread. At most one question is open at a time; it is shared by all watchers
    /// that need old revisions, and watchers whose client does not read are in none.
    ReadHistory {
        /// The question's name.
        job: JobId,
        /// First revision wanted.
        from: Revision,
        /// Last revision wanted.
        through: Revision,
        /// Stop after the revision that brings the total above this.
        bytes_max: u64,
        /// The states before the changes count as well: they will be looked up.
        previous: bool,
    },
}

/// An event as delivered: shared by all watchers that want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The change.
    pub event: Arc<Event>,
    /// The key's previous state, for watchers that asked for it; shared too.
    pub prev_kv: Option<Arc<KeyValue>>,
}

/// One response on a stream. (etcd: WatchResponse)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The watcher; `None` is etcd's -1, "the whole stream".
    pub watch: Option<WatchId>,
    /// `header.revision`; `None` is 0.
    pub revision: Option<Revision>,
    /// Answer to a create.
    pub created: bool,
    /// The watcher is gone (or never was, with `created`).
    pub canceled: bool,
    /// The floor that made it impossible to go on.
    pub compact_revision: Option<Revision>,
    /// etcd's text.
    pub cancel_reason: String,
    /// Whole revisions, ascending.
    pub events: Vec<Delivered>,
    /// The client accepts that the wire splits this response.
    pub fragment: bool,
}

/// Where the hub finds an event's previous state when a watcher wants it: the view and rows published with it.
pub trait Previous {
    /// See [`crate::store::View::previous`].
    fn previous(&self, event: &Event) -> Option<KeyValue>;
}

/// A watcher, unique on this member while it lives.
type Name = (StreamId, WatchId);

/// All watchers of one member.
///
/// **Invariant:** a watcher is either in `index` and has everything up to `revision`, or in `lagging` under the first
/// revision it still needs.
#[derive(Clone, Debug)]
pub struct WatchHub {
    config: Config,
    now: Instant,
    rng: Rng,
    /// The last published revision.
    revision: Revision,
    compacted: Revision,
    streams: BTreeMap<StreamId, Stream>,
    watchers: BTreeMap<Name, Watcher>,
    /// Those that keep up, future ones too.
    index: Index,
    /// All others.
    lagging: BTreeSet<(Revision, Name)>,
    /// Those of `lagging` that the next pass may feed.
    ready: BTreeSet<(Revision, Name)>,
    ring: Ring,
    /// The last job asked for.
    jobs: JobId,
    reading: Option<Reading>,
    /// Where the last read of history ended, and the last pass over the ring.
    history_next: Revision,
    ring_next: Revision,
    /// When which watcher's progress is to be considered.
    timers: BTreeSet<(Instant, Name)>,
}

/// How much a hub holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open streams. (etcd_debugging_mvcc_watch_stream_total)
    pub streams: usize,
    /// Watchers. (etcd_debugging_mvcc_watcher_total)
    pub watchers: usize,
    /// Watchers that are behind. (etcd_debugging_mvcc_slow_watcher_total)
    pub lagging: usize,
}

impl WatchHub {
    /// A hub without watchers over a store at `revision`.
    #[must_use]
    pub fn new(config: Config, revision: Revision, compacted: Revision) -> Self {
        let ring = Ring::new(config.ring_bytes_max, revision);
        Self {
            now: Instant(0),
            rng: Rng::new(config.seed),
            revision,
            compacted,
            streams: BTreeMap::new(),
            watchers: BTreeMap::new(),
            index: Index::new(config.seed),
            lagging: BTreeSet::new(),
            ready: BTreeSet::new(),
            ring,
            jobs: JobId(0),
            reading: None,
            history_next: Revision(0),
            ring_next: Revision(0),
            timers: BTreeSet::new(),
            config,
        }
    }

    /// Takes one input at time `now` and appends what must be done about it to `out`.
    ///
    /// Inputs about a stream that is not open are ignored: they may have crossed its end.
    ///
    /// # Panics
    /// If `now` runs backwards, or the driver breaks what it promised in [`Input`].
    pub fn step(&mut self, now: Instant, input: Input, previous: &dyn Previous, out: &mut Vec<Output>) {
        assert!(now >= self.now, "clock ran backwards: {now:?} < {:?}", self.now);
        self.now = now;
        match input {
            Input::Open(stream) => self.open(stream),
            Input::Close(stream) => self.close(stream),
            Input::Create(stream, create) => self.create(stream, create, out),
            Input::Cancel(stream, watch) => self.cancel((stream, watch), out),
            Input::Progress(stream) => self.request_progress(stream, out),
            Input::Taken(stream, bytes) => self.taken(stream, bytes),
            Input::Published { revision, compacted, events } => {
                self.published(revision, events, previous, out);
                self.raise_floor(compacted, out);
            }
            Input::Restored { revision, compacted } => self.restored(revision, compacted, out),
            Input::History { job, through, events } => self.history(job, through, events, previous, out),
            Input::HistoryCompacted { job, compacted } => self.history_compacted(job, compacted, out),
            Input::Wake => {}
        }
        self.catch_up(previous, out);
        self.send_due_progress(out);
        self.check();
    }

    /// When [`Input::Wake`] is due at the latest; the time of the last step if there is more to do at once.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        if self.wants_pass() {
            return self.now;
        }
        self.timers.first().map_or(Instant::FAR, |&(at, _)| at)
    }

    /// How many streams and watchers there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { streams: self.streams.len(), watchers: self.watchers.len(), lagging: self.lagging.len() }
    }

    fn published(
        &mut self,
        revision: Revision,
        events: Vec<RevisionEvents>,
        previous: &dyn Previous,
        out: &mut Vec<Output>,
    ) {
        for events in events {
            assert!(!events.events.is_empty(), "revision {} has no events", events.revision);
            assert!(events.revision > self.revision, "{} published after {}", events.revision, self.revision);
            let shared = Arc::new(Shared::from(events));
            self.live(&shared, previous, out);
            self.revision = shared.revision;
            self.ring.push(shared);
        }
        assert!(revision >= self.revision, "store at {revision} published {}", self.revision);
        self.revision = revision;
    }

    fn check(&self) {
        let (synced, lagging, all) = (self.index.len(), self.lagging.len(), self.watchers.len());
        assert!(synced + lagging == all, "{synced} watchers keep up, {lagging} do not, {all} exist");
        assert!(self.ready.len() <= lagging, "{} ready of {lagging}", self.ready.len());
        assert!(self.ring.from() <= self.revision.next(), "ring from {} at {}", self.ring.from(), self.revision);
    }

    /// Every promise about the state, in O(n).
    ///
    /// # Panics
    /// If one of them is broken.
    pub fn check_deep(&self) {
        self.check();
        for (&name, watcher) in &self.watchers {
            let at = (watcher.next, name);
            let parked = self.streams[&name.0].parked.contains(&(watcher.next, name.1));
            assert_eq!(self.lagging.contains(&at), watcher.place != Place::Synced, "{name:?} {watcher:?}");
            assert_eq!(self.ready.contains(&at), watcher.place == Place::Ready, "{name:?} {watcher:?}");
            assert_eq!(parked, watcher.place == Place::Parked, "{name:?} {watcher:?}");
            assert!(watcher.place == Place::Synced || watcher.next <= self.revision, "{name:?} {watcher:?}");
            assert!(watcher.place == Place::Synced || watcher.next >= self.compacted, "{name:?} {watcher:?}");
        }
        let parked: usize = self.streams.values().map(|stream| stream.parked.len()).sum();
        assert!(parked + self.ready.len() <= self.lagging.len(), "{parked} parked, {} ready", self.ready.len());
    }
}

impl Response {
    /// Nothing yet, for watcher `watch`, at `revision`.
    fn to(watch: WatchId, revision: Revision) -> Self {
        Self {
            watch: Some(watch),
            revision: Some(revision),
            created: false,
            canceled: false,
            compact_revision: None,
            cancel_reason: String::new(),
            events: Vec::new(),
            fragment: false,
        }
    }

    /// What the response costs in memory, about: the measure of [`Config::stream_bytes_max`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let events = self.events.iter().map(|delivered| {
            let previous = delivered.prev_kv.as_ref().map_or(0, |_| delivered.event.previous_cost());
            ring::event_bytes(&delivered.event) + previous
        });
        128 + self.cancel_reason.len() as u64 + events.sum::<u64>()
    }
}
