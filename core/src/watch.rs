//! Watchers: every event once, in order, whole revisions, with bounded memory. (etcd: Watch; semantics.md section 8)
//!
//! The hub lives beside the store: it is given every applied revision's events right after they are published, and so
//! always knows exactly which revision a new watcher starts after. What it no longer holds it asks for by
//! [`Output::ReadHistory`].

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::request::{KeyRange, KeyValue};
use crate::store::{Event, RevisionEvents};
use crate::{Instant, JobId, Revision, StreamId, WatchId};

/// What does not change while a hub runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A watcher that wants it gets a progress response after this long without events. (etcd: 10 min, at least 100 ms)
    pub progress_interval: Duration,
    /// Bytes of responses a stream may have under way before its watchers fall back to catching up.
    pub stream_bytes_max: u64,
    /// Bytes of recent events kept in memory so that catching up rarely reads the backend.
    pub ring_bytes_max: u64,
    /// Bytes of events one history read should bring.
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
    /// Read history and answer. At most one question is open at a time per hub... and a stalled reader stalls nobody
    /// else.
    ReadHistory {
        /// The question's name.
        job: JobId,
        /// First revision wanted.
        from: Revision,
        /// Last revision wanted.
        through: Revision,
        /// Stop after the revision that exceeds this.
        bytes_max: u64,
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

/// All watchers of one member.
#[derive(Debug)]
pub struct WatchHub {
    config: Config,
}

impl WatchHub {
    /// A hub without watchers over a store at `revision`.
    #[must_use]
    pub fn new(config: Config, revision: Revision, compacted: Revision) -> Self {
        let _ = (revision, compacted);
        Self { config }
    }

    /// Takes one input at time `now` and appends what must be done about it to `out`.
    pub fn step(&mut self, now: Instant, input: Input, previous: &dyn Previous, out: &mut Vec<Output>) {
        let _ = (now, input, previous, out, &self.config);
        unimplemented!()
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        unimplemented!()
    }
}

impl Response {
    /// What the response costs in memory: the measure of [`Config::stream_bytes_max`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
}
