//! One client of watches: a stream with a few watchers, read at its own pace, opened again where it broke off.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::request::KeyRange;
use quorate_core::{Blob, Revision};

use super::Generator;
use crate::check::watch::Judged;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::wire;

/// Why a watch from no revision is refused. (etcd)
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// What a watcher wants, for all its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The keys.
    pub range: KeyRange,
    /// Drop puts.
    pub no_put: bool,
    /// Drop deletes.
    pub no_delete: bool,
    /// Give each event's previous state.
    pub prev_kv: bool,
    /// Send progress when idle.
    pub progress_notify: bool,
}

impl Wish {
    fn everything() -> Self {
        let range = KeyRange::From(Blob::copy(&[0]));
        Self { range, no_put: false, no_delete: false, prev_kv: true, progress_notify: false }
    }

    fn is_everything(&self) -> bool {
        *self == Self::everything()
    }
}

/// One thing a watcher was told, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// It was created on some member, to start at `from`.
    Created {
        /// The first revision asked for; `None`: from now on.
        from: Option<Revision>,
        /// The store's revision then.
        header: Revision,
    },
    /// Events, all fragments put together.
    Events {
        /// The store's revision.
        header: Revision,
        /// What changed.
        events: Vec<mvccpb::Event>,
    },
    /// Nothing more will come up to this revision.
    Progress(Revision),
    /// History it still needed is gone.
    Compacted(Revision),
}

/// A request for progress on a whole stream.
#[must_use]
pub fn progress_request() -> pb::WatchRequest {
    use pb::watch_request::RequestUnion;
    pb::WatchRequest { request_union: Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})) }
}

/// A watcher over all its connections.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// What it wants.
    pub wish: Wish,
    /// What it was told since it was last judged.
    pub told: Vec<Told>,
    /// The judge's notes.
    pub judged: Judged,
    /// How often it was told of changes.
    changes: usize,
    /// Where the connection at hand started; `None`: then.
    from: Option<Revision>,
    /// It was told that this was compacted.
    compacted: Option<Revision>,
    /// Where the next connection starts; `None`: now.
    pub next: Option<Revision>,
    /// It was canceled for good.
    pub finished: bool,
    /// It is told things on the connection at hand.
    live: bool,
    /// When it was last told anything that was for it alone.
    pub(super) heard: Nanos,
    /// Fragments of a response.
    partial: Vec<mvccpb::Event>,
}

/// A message that waits to be read.
#[derive(Clone, Debug)]
struct Unread {
    message: Bytes,
    bytes: u64,
}

/// One client of watches.
#[derive(Clone, Debug)]
pub struct WatchClient {
    generator: Generator,
    /// The member it talks to.
    pub member: usize,
    /// The number of its connection.
    pub connection: u64,
    /// The connection holds.
    pub connected: bool,
    /// All watchers ever.
    pub watchers: Vec<Watcher>,
    /// Those on the stream at hand, by watch ID.
    on_stream: Vec<usize>,
    unread: VecDeque<Unread>,
    /// Events of the message read last.
    news: Vec<mvccpb::Event>,
    /// It reads one message at a time; a reading is under way.
    pub reading: bool,
    /// It reads slowly now and then.
    slow: bool,
    /// One of its watchers always wants everything from the beginning: what it sees settles for the history what
    /// operations of unknown outcome did.
    audits: bool,
    /// A watcher was refused by the message read last.
    pub refused: bool,
    /// Creates on the stream at hand that make no sense and have not been refused yet.
    absurd: usize,
    /// Of watchers that are gone: how often they were told of changes, and of which compaction.
    past: (usize, Option<Revision>),
}

impl WatchClient {
    /// How often its watchers were told of changes.
    pub fn changes(&self) -> usize {
        self.past.0 + self.watchers.iter().map(|watcher| watcher.changes).sum::<usize>()
    }

    /// A client that begins with `member`.
    #[must_use]
    pub fn new(generator: Generator, member: usize, audits: bool) -> Self {
        Self {
            generator,
            audits,
            member,
            connection: 0,
            connected: false,
            watchers: Vec::new(),
            on_stream: Vec::new(),
            unread: VecDeque::new(),
            news: Vec::new(),
            reading: false,
            slow: !audits,
            refused: false,
            absurd: 0,
            past: (0, None),
        }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.generator.redraw(sample);
    }

    /// Draws watchers until there are as many as wanted that are not finished.
    pub fn draw_missing(&mut self, newest: Revision, wanted: usize) -> Vec<Watcher> {
        let mut new = Vec::new();
        if self.audits && self.watchers.iter().all(|watcher| watcher.finished || !watcher.wish.is_everything()) {
            let from = self.watchers.iter().map(|watcher| watcher.compacted).max().flatten().max(self.past.1);
            new.push(Watcher { next: from.or(Some(Revision(1))), ..Watcher::of(Wish::everything(), Vec::new()) });
        }
        let unfinished = self.watchers.iter().filter(|watcher| !watcher.finished).count();
        while unfinished + new.len() < wanted {
            new.push(self.draw(newest));
        }
        if self.generator.chance(1, 4) {
            // There is no such revision: it is refused, whatever else is on the stream.
            let start = -1 - self.generator.below(3).cast_signed();
            new.push(Watcher { next: Some(Revision(start)), ..self.draw(newest) });
        }
        new
    }

    /// Opens a stream on `member`; gives the messages to send: every unfinished watcher where it broke off, and new ones.
    pub fn connect(&mut self, member: usize, new: Vec<Watcher>) -> Vec<pb::WatchRequest> {
        self.member = member;
        self.connection += 1;
        self.connected = true;
        self.on_stream.clear();
        self.unread.clear();
        self.reading = false;
        self.absurd = 0;
        self.forget_judged();
        self.watchers.extend(new);
        let mut requests = Vec::new();
        for (number, watcher) in self.watchers.iter_mut().enumerate().filter(|(_, watcher)| !watcher.finished) {
            if watcher.next.is_some_and(|next| next < Revision(0)) {
                watcher.finished = true;
                self.absurd += 1;
            } else {
                self.on_stream.push(number);
            }
            requests.push(pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watcher.begin())),
            });
        }
        requests
    }

    /// Watchers that are finished and judged are gone.
    fn forget_judged(&mut self) {
        let Self { watchers, past, .. } = self;
        watchers.retain(|watcher| {
            let is_gone = watcher.finished && watcher.told.is_empty();
            if is_gone {
                *past = (past.0 + watcher.changes, past.1.max(watcher.compacted));
            }
            !is_gone
        });
    }

    fn draw(&mut self, newest: Revision) -> Watcher {
        let generator = &mut self.generator;
        let mut range = generator.keys();
        while let KeyRange::Bounded { start, end } = &range
            && end <= start
        {
            range = generator.keys(); // refused at once: tested elsewhere
        }
        let next = match generator.below(4) {
            0 => {
                let back = generator.below(200).cast_signed();
                Some(Revision((newest.0 - back).max(1)))
            }
            1 => Some(Revision(newest.0 + generator.below(50).cast_signed() + 1)),
            _ => None,
        };
        let wish = Wish {
            range,
            no_put: generator.chance(1, 10),
            no_delete: generator.chance(1, 10),
            prev_kv: generator.chance(1, 2),
            progress_notify: generator.chance(1, 3),
        };
        Watcher { next, ..Watcher::of(wish, Vec::new()) }
    }

    /// The connection broke.
    pub fn broken(&mut self) {
        self.connected = false;
        for watcher in &mut self.watchers {
            watcher.live = false;
        }
        self.unread.clear();
        self.reading = false;
    }

    /// A message arrived.
    pub fn arrived(&mut self, message: Bytes, bytes: u64) {
        self.unread.push_back(Unread { message, bytes });
    }

    /// Whether there is a message to be read.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The events of the message read last.
    pub fn take_news(&mut self) -> Vec<mvccpb::Event> {
        std::mem::take(&mut self.news)
    }

    /// How long reading one message takes.
    pub fn pace(&mut self) -> Nanos {
        if self.slow && self.generator.chance(1, 100) { self.generator.below(3 * SECOND) } else { MILLI / 10 }
    }

    /// Whether to ask for progress on an open stream, now and then.
    pub fn is_curious(&mut self) -> bool {
        self.generator.chance(1, 3)
    }

    /// Whether to go to another member, for no reason or to begin watching everything again.
    pub fn is_restless(&mut self) -> bool {
        let blind =
            self.audits && self.watchers.iter().all(|watcher| watcher.finished || !watcher.wish.is_everything());
        self.generator.chance(1, 20) || blind
    }

    /// Reads slowly now and then, or not.
    pub fn set_slow(&mut self, slow: bool) {
        self.slow = slow && !self.audits;
    }

    /// How long until the next whim.
    pub fn think(&mut self) -> Nanos {
        100 * MILLI + self.generator.below(2 * SECOND)
    }

    /// Draws one of these members.
    pub fn pick(&mut self, members: &[usize]) -> usize {
        members[usize::try_from(self.generator.below(members.len() as u64)).expect("few members")]
    }

    /// Reads one message at `now`; gives the highest revision in it and what to give back to the stream.
    ///
    /// # Errors
    /// The protocol was broken.
    pub fn read(&mut self, now: Nanos) -> Result<(Revision, u64), String> {
        let Unread { message, bytes } = self.unread.pop_front().expect("there is something to read");
        let response: pb::WatchResponse = wire::message(message);
        let header = Revision(response.header.as_ref().map_or(0, |header| header.revision));
        if response.watch_id == -1 {
            if response.created && response.canceled && response.events.is_empty() {
                // Whoever may not watch is told so first.
                let is_absurd = self.absurd > 0 && response.cancel_reason == COMPACTED;
                self.absurd -= usize::from(is_absurd);
                self.refused = !is_absurd;
                return Ok((header, bytes));
            }
            if response.canceled || !response.events.is_empty() {
                return Err(format!("a message to the whole stream: {response:?}"));
            }
            for &number in &self.on_stream {
                let watcher = &mut self.watchers[number];
                if !watcher.live || watcher.finished {
                    continue;
                }
                watcher.progress(header);
            }
            return Ok((header, bytes));
        }
        // IDs are given in the order of the creates, from 0.
        let number = usize::try_from(response.watch_id).ok().and_then(|id| self.on_stream.get(id).copied());
        let Some(number) = number else { return Err(format!("no such watcher: {response:?}")) };
        self.news.clone_from(&response.events);
        self.watchers[number].heard = now;
        self.watchers[number].hear(response, header)?;
        Ok((header, bytes))
    }
}

impl Watcher {
    /// What to ask for: what it wants, from where it broke off.
    #[must_use]
    pub fn create(&self) -> pb::WatchCreateRequest {
        let (key, range_end) = wire::key_range(&self.wish.range);
        let wish = &self.wish;
        let filters = [(wish.no_put, 0), (wish.no_delete, 1)];
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next.map_or(0, |next| next.0),
            progress_notify: wish.progress_notify,
            filters: filters.iter().filter(|(on, _)| *on).map(|(_, filter)| *filter).collect(),
            prev_kv: wish.prev_kv,
            watch_id: 0,
            fragment: true,
        }
    }

    /// A new connection: what to ask for.
    pub fn begin(&mut self) -> pb::WatchCreateRequest {
        self.live = false;
        self.partial.clear();
        self.create()
    }

    /// A watcher that asks for this.
    ///
    /// # Errors
    /// It is no such request.
    pub fn from_create(create: Bytes) -> Result<Self, prost::DecodeError> {
        let create = pb::WatchCreateRequest::decode(create)?;
        let wish = Wish {
            range: wire::keys_of(create.key, create.range_end),
            no_put: create.filters.contains(&0),
            no_delete: create.filters.contains(&1),
            prev_kv: create.prev_kv,
            progress_notify: create.progress_notify,
        };
        let next = (create.start_revision != 0).then_some(Revision(create.start_revision));
        Ok(Self { next, ..Self::of(wish, Vec::new()) })
    }

    /// Whether it is told things at this moment.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live && !self.finished
    }

    /// Whether it should have been told that nothing has happened, with the store at `newest`: members do so every 5 s,
    /// and an interval later if something was in the way.
    #[must_use]
    pub fn is_neglected(&self, now: Nanos, newest: Revision) -> bool {
        let waits = self.from.is_some_and(|from| from > newest);
        self.wish.progress_notify && self.is_live() && !waits && now > self.heard + 12 * SECOND
    }

    /// A watcher that was told this.
    #[must_use]
    pub fn of(wish: Wish, told: Vec<Told>) -> Self {
        Self {
            wish,
            told,
            judged: Judged::default(),
            changes: 0,
            from: None,
            compacted: None,
            next: None,
            finished: false,
            live: false,
            heard: 0,
            partial: Vec::new(),
        }
    }

    /// It is told this.
    ///
    /// # Errors
    /// The protocol was broken.
    pub fn hear(&mut self, response: pb::WatchResponse, header: Revision) -> Result<(), String> {
        if self.finished {
            return Err(format!("a message to a canceled watcher: {response:?}"));
        }
        if response.created {
            if self.live || response.canceled || !response.events.is_empty() {
                return Err(format!("not the create expected: {response:?}"));
            }
            self.live = true;
            self.from = self.next;
            self.told.push(Told::Created { from: self.next, header });
            self.next.get_or_insert(header.next());
            return Ok(());
        }
        if !self.live {
            return Err(format!("a message before the answer to the create: {response:?}"));
        }
        if response.canceled {
            if response.compact_revision == 0 {
                return Err(format!("canceled for no reason: {response:?}"));
            }
            self.finished = true;
            self.compacted = Some(Revision(response.compact_revision));
            self.told.push(Told::Compacted(Revision(response.compact_revision)));
            return Ok(());
        }
        if response.events.is_empty() {
            self.progress(header);
            return Ok(());
        }
        self.partial.extend(response.events);
        if !response.fragment {
            let events = std::mem::take(&mut self.partial);
            let last = events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
            self.next = last.map(|last| Revision(last + 1));
            self.changes += 1;
            self.told.push(Told::Events { header, events });
        }
        Ok(())
    }

    pub(super) fn progress(&mut self, revision: Revision) {
        self.told.push(Told::Progress(revision));
        self.next = self.next.max(Some(revision.next()));
    }
}
