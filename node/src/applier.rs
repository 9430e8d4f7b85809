//! The applier: applies committed entries, commits their rows, publishes the new state, and feeds the watchers.
//!
//! Synchronous, like the driver: `member` runs it on a thread of its own, because a backend stalls its writer now and
//! then and consensus must not; the simulator calls the same [`Applier::turn`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::auth::Sessions;
use quorate_core::entry::{Entry, Payload};
use quorate_core::mutant::{self, Mutant};
use quorate_core::replica::{self, SnapshotId};
use quorate_core::request::KeyValue;
use quorate_core::rows::Rows;
use quorate_core::store::{self, Event, LeaseRecord, Members, RevisionEvents, SessionChange, Store, TooNew, View};
use quorate_core::watch::{self, WatchHub};
use quorate_core::{Blob, FeatureLevel, Generation, Instant, JobId, LogIndex, NodeId, Revision, StreamId, Term};

use crate::backend::{Backend, BackendError, Backends, Defragmentation, Filling, Verification};

/// What does not change while an applier runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose answers are kept.
    pub member: NodeId,
    /// Watchers.
    pub watch: watch::Config,
    /// Entries applied since the last durable point before the backend is told to flush. (etcd: --snapshot-count)
    pub flush_entries: u64,
    /// A session that is not used for so long is forgotten. (etcd: --auth-token-ttl)
    pub session_ttl: Duration,
    /// The last entry in the log when the member started: sessions opened until then are not known any more.
    pub sessions_since: LogIndex,
    /// How much is done at once.
    pub slices: Slices,
    /// The highest feature level that this member understands.
    pub understands: FeatureLevel,
}

/// A flush is due, too, once the commands applied since the last durable point have so many bytes: until then they stay in
/// the log and in memory, and not all of them leave rows behind. (A put on a lease that is gone leaves none.)
pub const FLUSH_BYTES: u64 = 64 << 20;

/// How much an applier does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// Bytes of rows in one snapshot chunk, about; one row always fits.
    pub chunk_bytes: usize,
    /// Entries applied in one batch at most.
    pub batch_entries: usize,
    /// Keys visited by one slice of physical compaction.
    pub compaction_keys: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { chunk_bytes: 1 << 20, batch_entries: 2048, compaction_keys: 1000 }
    }
}

/// Something for the applier to do.
#[derive(Debug)]
pub enum Input {
    /// Committed entries, durable in this member's log, contiguous.
    Apply(Vec<Entry>),
    /// See [`replica::Output::Restore`].
    Restore {
        /// The snapshot's last index.
        index: LogIndex,
        /// Where its rows are.
        generation: Generation,
    },
    /// See [`replica::Output::ReadSnapshot`].
    ReadSnapshot {
        /// The picture.
        snapshot: SnapshotId,
        /// For whom.
        to: NodeId,
    },
    /// See [`replica::Output::DropSnapshot`].
    DropSnapshot(SnapshotId),
    /// See [`replica::Output::WriteSnapshot`].
    WriteSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The chunk.
        sequence: u64,
        /// Rows in key order.
        rows: Vec<(Blob, Blob)>,
        /// All rows are there.
        last: bool,
    },
    /// See [`replica::Output::AbandonSnapshot`].
    AbandonSnapshot(SnapshotId),
    /// For the watchers.
    Watch(watch::Input),
    /// Give space on disk back. (etcd: Defragment)
    Defragment,
    /// Look whether what is on disk is what was written.
    Verify,
}

/// The state that readers see: a view and the rows it was published with.
#[derive(Debug)]
pub struct Published<S> {
    /// The index and its revisions.
    pub view: View,
    /// The backend's rows at that moment.
    pub rows: S,
    /// The last applied index.
    pub applied: LogIndex,
    /// The running state hash there.
    pub hash: u64,
    /// Users' sessions; they go on changing.
    pub sessions: Arc<Mutex<Sessions>>,
}

/// A read of history for watchers that catch up; carried out by [`HistoryRead::run`], on any thread.
#[derive(Debug)]
pub struct HistoryRead<S> {
    job: JobId,
    from: Revision,
    through: Revision,
    bytes_max: u64,
    previous: bool,
    published: Arc<Published<S>>,
}

/// What one turn asks of the world, in this order.
pub struct Effects<S> {
    /// The newest state: readers must see it before `driver` is delivered.
    pub published: Option<Arc<Published<S>>>,
    /// For the driver.
    pub driver: Vec<replica::Input>,
    /// For clients' watch streams, in order per stream.
    pub watch: Vec<(StreamId, watch::Response)>,
    /// To be run; the result goes back as [`Input::Watch`].
    pub history: Vec<HistoryRead<S>>,
    /// Every row below this floor is physically gone.
    pub compacted: Option<Revision>,
    /// To be run, on a thread of its own.
    pub defragment: Option<Defragmentation>,
    /// Likewise.
    pub verify: Option<Verification>,
    /// Keys written.
    pub puts: u64,
    /// Keys removed.
    pub deletes: u64,
    /// What every new revision changed, for whoever wants to know.
    pub changes: Option<Vec<RevisionEvents>>,
}

impl<S> Default for Effects<S> {
    fn default() -> Self {
        Self {
            published: None,
            driver: Vec::new(),
            watch: Vec::new(),
            history: Vec::new(),
            compacted: None,
            defragment: None,
            verify: None,
            puts: 0,
            deletes: 0,
            changes: None,
        }
    }
}

/// The applied state of one member.
pub struct Applier<B: Backends> {
    config: Config,
    backends: B,
    backend: B::Backend,
    generation: Generation,
    store: Store,
    hub: WatchHub,
    sessions: Arc<Mutex<Sessions>>,
    published: Arc<Published<Snap<B>>>,
    hub_outputs: Vec<watch::Output>,
    /// The flush under way, if any, makes everything up to here durable.
    flushing: LogIndex,
    /// Bytes of commands that are applied, and perhaps not durably yet, by the last entry of each batch.
    unflushed: VecDeque<(LogIndex, u64)>,
    unflushed_bytes: u64,
    compacting: bool,
    pictures: BTreeMap<SnapshotId, Picture<Snap<B>>>,
    filling: Option<(SnapshotId, B::Filling)>,
    /// The state is not what the log goes on from.
    is_bare: bool,
}

/// A snapshot being read for a follower.
#[derive(Debug)]
struct Picture<S> {
    rows: S,
    index: LogIndex,
    term: Term,
    /// The last row key read; empty before the first.
    after: Vec<u8>,
}

/// What readers of `B` read.
pub type Snap<B> = <<B as Backends>::Backend as Backend>::Snapshot;

struct PreviousIn<'a, S>(&'a Published<S>);

impl<S: Rows> watch::Previous for PreviousIn<'_, S> {
    fn previous(&self, event: &Event) -> Option<KeyValue> {
        self.0.view.previous(&self.0.rows, event)
    }
}

/// Why the applied state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The backend refuses.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Its rows are not those of a store.
    #[error(transparent)]
    Load(store::LoadError),
    /// It is sound, or was until now, and the cluster is too new for this build: to be left as it is.
    #[error(transparent)]
    TooNew(#[from] TooNew),
}

impl From<store::LoadError> for OpenError {
    fn from(error: store::LoadError) -> Self {
        match error {
            store::LoadError::TooNew(reason) => Self::TooNew(reason),
            error @ store::LoadError::Damaged(_) => Self::Load(error),
        }
    }
}

impl<B: Backends> Applier<B> {
    /// Opens the applied state in `generation`; an empty one if there is none yet.
    ///
    /// # Errors
    /// It is damaged: the caller may rebuild it from the log or from another member.
    pub fn open(config: Config, mut backends: B, generation: Generation) -> Result<Self, OpenError> {
        let backend = backends.open(generation, &store::applied_index)?;
        backends.retain(generation)?;
        let rows = backend.snapshot();
        let store = Store::load_as(config.member, config.understands, &rows)?;
        let sessions = Arc::new(Mutex::new(Sessions::new(config.session_ttl, config.sessions_since)));
        let published = Arc::new(publish(&store, rows, &sessions));
        let hub = WatchHub::new(config.watch.clone(), published.view.revision(), published.view.compacted());
        let flushing = backend.durable();
        Ok(Self {
            config,
            backends,
            backend,
            generation,
            store,
            hub,
            sessions,
            published,
            hub_outputs: Vec::new(),
            flushing,
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
            compacting: true,
            pictures: BTreeMap::new(),
            filling: None,
            is_bare: false,
        })
    }

    /// The state ends before the log begins: nothing is applied to it and no snapshot read from it, until another one takes
    /// its place. See [`replica::Replica::without_state`].
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.is_bare = true;
        self
    }

    /// Whether nothing can be applied.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.is_bare
    }

    /// The state as last published.
    #[must_use]
    pub fn published(&self) -> Arc<Published<Snap<B>>> {
        Arc::clone(&self.published)
    }

    /// The last applied index.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.store.applied().0
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseRecord> {
        self.store.leases()
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.store.members()
    }

    /// The backend, for its figures.
    #[must_use]
    pub fn backend(&self) -> &B::Backend {
        &self.backend
    }

    /// Whether a turn has something to do although nothing arrived.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.compacting
    }

    /// When the next turn is due at the latest, whatever arrives.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.hub.deadline()
    }

    /// Takes everything in `inbox` at time `now` and adds what must be done about it to `effects`.
    ///
    /// # Errors
    /// The backend failed, a snapshot was no state, or the cluster is too new for this build: the member must stop.
    pub fn turn(
        &mut self,
        now: Instant,
        inbox: &mut VecDeque<Input>,
        effects: &mut Effects<Snap<B>>,
    ) -> Result<(), OpenError> {
        while let Some(input) = inbox.pop_front() {
            match input {
                Input::Apply(_) | Input::ReadSnapshot { .. } if self.is_bare => {}
                Input::Apply(mut entries) => {
                    while let Some(Input::Apply(more)) = inbox.front_mut() {
                        if entries.len() + more.len() > self.config.slices.batch_entries {
                            break;
                        }
                        entries.append(more);
                        inbox.pop_front();
                    }
                    self.apply(now, &entries, effects)?;
                }
                Input::Restore { index, generation } => self.restore(now, index, generation, effects)?,
                Input::ReadSnapshot { snapshot, to } => self.read_snapshot(snapshot, to, effects),
                Input::DropSnapshot(snapshot) => {
                    self.pictures.remove(&snapshot);
                }
                Input::WriteSnapshot { snapshot, sequence, rows, last } => {
                    self.write_snapshot(snapshot, sequence, &rows, last, effects)?;
                }
                Input::AbandonSnapshot(snapshot) => self.abandon_snapshot(snapshot)?,
                Input::Watch(input) => self.watch(now, input, effects),
                Input::Verify => effects.verify = Some(self.backend.verify()),
                Input::Defragment => effects.defragment = Some(self.backend.defragment()?),
            }
        }
        if now >= self.hub.deadline() {
            self.watch(now, watch::Input::Wake, effects);
        }
        self.compact(effects)
    }

    fn apply(&mut self, now: Instant, entries: &[Entry], effects: &mut Effects<Snap<B>>) -> Result<(), OpenError> {
        let floor = self.published.view.compacted();
        let batch = self.store.apply(entries, &self.published.rows);
        if let Some(reason) = batch.too_new {
            return Err(reason.into()); // What was understood of the batch is in the log, too.
        }
        // The row that says how far it goes is the last one.
        let (what, how_far) = batch.writes.split_at(batch.writes.len().saturating_sub(1));
        if mutant::is_on(Mutant::A01) {
            self.backend.commit(batch.applied.index, how_far)?;
            self.backend.commit(batch.applied.index, what)?;
        } else if mutant::is_on(Mutant::A02) {
            self.backend.commit(self.published.applied, what)?;
            self.backend.commit(batch.applied.index, how_far)?;
        } else {
            self.backend.commit(batch.applied.index, &batch.writes)?;
        }
        if !batch.sessions.is_empty() {
            self.sessions.lock().expect("no holder panics").apply(now, &batch.sessions);
        }
        self.publish(effects);
        let (revision, compacted) = (batch.applied.revision, batch.applied.compacted);
        self.compacting |= compacted > floor;
        let deletes = batch.events.iter().flat_map(|revision| &revision.events).filter(|event| event.deleted).count();
        let changes: usize = batch.events.iter().map(|revision| revision.events.len()).sum();
        effects.deletes += deletes as u64;
        effects.puts += (changes - deletes) as u64;
        if let Some(told) = &mut effects.changes {
            told.extend_from_slice(&batch.events);
        }
        self.watch(now, watch::Input::Published { revision, compacted, events: batch.events }, effects);
        let bytes = entries.iter().map(command_bytes).sum();
        self.unflushed.push_back((batch.applied.index, bytes));
        self.unflushed_bytes += bytes;
        self.flush()?;
        effects.driver.push(replica::Input::Applied { applied: batch.applied, durable: self.backend.durable() });
        Ok(())
    }

    fn publish(&mut self, effects: &mut Effects<Snap<B>>) {
        self.published = Arc::new(publish(&self.store, self.backend.snapshot(), &self.sessions));
        effects.published = Some(Arc::clone(&self.published));
    }

    /// Asks for a flush once enough was applied since the last durable point, one at a time.
    fn flush(&mut self) -> Result<(), BackendError> {
        let (applied, durable) = (self.applied(), self.backend.durable());
        while let Some((_, bytes)) = self.unflushed.front().filter(|(index, _)| *index <= durable) {
            self.unflushed_bytes -= bytes;
            self.unflushed.pop_front();
        }
        let is_much = applied.0 - durable.0 >= self.config.flush_entries || self.unflushed_bytes > FLUSH_BYTES;
        if durable >= self.flushing && is_much {
            self.flushing = applied;
            self.backend.flush()?;
        }
        Ok(())
    }

    fn restore(
        &mut self,
        now: Instant,
        index: LogIndex,
        generation: Generation,
        effects: &mut Effects<Snap<B>>,
    ) -> Result<(), OpenError> {
        self.pictures.clear();
        (self.filling, self.is_bare) = (None, false);
        let backend = self.backends.open(generation, &store::applied_index)?;
        self.backend = backend;
        self.generation = generation;
        let Config { member, understands, .. } = self.config;
        self.store = Store::load_as(member, understands, &self.backend.snapshot())?;
        // Users may have gone or changed meanwhile.
        self.sessions.lock().expect("no holder panics").apply(now, &[SessionChange::AllGone]);
        assert_eq!(self.applied(), index, "a snapshot said to end at {index} ends at {}", self.applied());
        self.flushing = self.backend.durable();
        self.unflushed.clear();
        self.unflushed_bytes = 0;
        self.compacting = true;
        self.publish(effects);
        self.backends.retain(generation)?;
        let (revision, compacted) = (self.published.view.revision(), self.published.view.compacted());
        self.watch(now, watch::Input::Restored { revision, compacted }, effects);
        effects.driver.push(replica::Input::Restored {
            index,
            leases: self.store.leases(),
            hash: self.store.hash(),
            revision,
            alarms: self.published.view.alarms().collect(),
            members: self.store.members(),
            level: self.store.feature_level(),
        });
        Ok(())
    }

    fn read_snapshot(&mut self, snapshot: SnapshotId, to: NodeId, effects: &mut Effects<Snap<B>>) {
        let picture = self.pictures.entry(snapshot).or_insert_with(|| {
            let (index, term) = self.store.applied();
            Picture { rows: self.backend.snapshot(), index, term, after: Vec::new() }
        });
        let chunk_bytes = self.config.slices.chunk_bytes;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut last = true;
        // The successor of a key is the key with a zero byte behind it; no row key starts with 0xff.
        let mut from = picture.after.clone();
        if !from.is_empty() {
            from.push(0);
        }
        picture.rows.scan(&from, &[0xff], &mut |key, value| {
            if bytes >= chunk_bytes {
                last = false;
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            rows.push((Blob::copy(key), value));
            ControlFlow::Continue(())
        });
        if let Some((key, _)) = rows.last() {
            picture.after = key.to_vec();
        }
        let (index, term) = (picture.index, picture.term);
        if last {
            self.pictures.remove(&snapshot);
        }
        effects.driver.push(replica::Input::SnapshotRead { snapshot, to, index, term, rows, last });
    }

    fn write_snapshot(
        &mut self,
        snapshot: SnapshotId,
        sequence: u64,
        rows: &[(Blob, Blob)],
        last: bool,
        effects: &mut Effects<Snap<B>>,
    ) -> Result<(), OpenError> {
        let generation = self.generation.next();
        if sequence == 0 {
            self.filling = None;
            self.filling = Some((snapshot, self.backends.fill(generation)?));
        }
        let (id, mut filling) = self.filling.take().expect("chunk 0 starts the folder");
        assert_eq!(id, snapshot, "one snapshot is received at a time");
        for (key, value) in rows {
            filling.row(key, value)?;
        }
        if last {
            filling.finish()?;
        } else {
            self.filling = Some((snapshot, filling));
        }
        effects.driver.push(replica::Input::SnapshotWritten { snapshot, sequence, generation });
        Ok(())
    }

    /// Removes what was received of a snapshot, unless another one is being received by now: that begins by removing it.
    fn abandon_snapshot(&mut self, snapshot: SnapshotId) -> Result<(), BackendError> {
        if self.filling.as_ref().is_some_and(|(id, _)| *id != snapshot) {
            return Ok(());
        }
        self.filling = None;
        self.backends.retain(self.generation)
    }

    fn watch(&mut self, now: Instant, input: watch::Input, effects: &mut Effects<Snap<B>>) {
        self.hub.step(now, input, &PreviousIn(&self.published), &mut self.hub_outputs);
        for output in self.hub_outputs.drain(..) {
            match output {
                watch::Output::Send(stream, response) => effects.watch.push((stream, response)),
                watch::Output::ReadHistory { job, from, through, bytes_max, previous } => {
                    let published = Arc::clone(&self.published);
                    effects.history.push(HistoryRead { job, from, through, bytes_max, previous, published });
                }
            }
        }
    }

    /// One slice of physical compaction, if any is due.
    fn compact(&mut self, effects: &mut Effects<Snap<B>>) -> Result<(), OpenError> {
        if !self.compacting {
            return Ok(());
        }
        let slice = self.store.compact_slice(&self.published.rows, self.config.slices.compaction_keys, None);
        if !slice.writes.is_empty() {
            self.backend.commit(self.store.applied().0, &slice.writes)?;
            self.publish(effects);
        }
        if slice.finished {
            self.compacting = false;
            effects.compacted = Some(self.published.view.compacted());
        }
        Ok(())
    }
}

fn command_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        Payload::Command(command) => command.len() as u64,
        Payload::Empty | Payload::Config(_) => 0,
    }
}

fn publish<S>(store: &Store, rows: S, sessions: &Arc<Mutex<Sessions>>) -> Published<S> {
    let sessions = Arc::clone(sessions);
    Published { view: store.view(), rows, applied: store.applied().0, hash: store.hash(), sessions }
}

impl<S: Rows> HistoryRead<S> {
    /// Reads, and gives what to tell the applier.
    #[must_use]
    pub fn run(self) -> Input {
        let Published { view, rows, .. } = &*self.published;
        Input::Watch(match view.history(rows, self.from, self.through, self.bytes_max, self.previous) {
            Ok((events, through)) => watch::Input::History { job: self.job, through, events },
            Err(_) => watch::Input::HistoryCompacted { job: self.job, compacted: view.compacted() },
        })
    }
}
