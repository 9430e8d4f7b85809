//! A running member: the threads that own the driver, the log and the applier, and the handle everyone else has.
//!
//! | thread | owns | hands to |
//! |---|---|---|
//! | log | `Wal` | driver |
//! | applier | `Applier` | readers (published state), driver, watch streams, history |
//! | history | nothing | applier |
//! | timer | nothing | driver |
//!
//! The driver has no thread: whoever brings it something (a client's handler, a peer's stream, one of the threads above)
//! gives it its turn, see `combiner`. It never waits, so its callers do not either. Everyone takes all that is waiting
//! at once, so under load each item costs less, and no write waits for more than one sync.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::entry::Record;
use quorate_core::error::Error;
use quorate_core::replica::{self, Replica, Request, Response};
use quorate_core::{Instant, NodeId, RequestId, Revision, StreamId, WriteId, raft, watch};
use tokio::sync::{mpsc, oneshot};

use crate::applier::{self, Applier, HistoryRead, Published, Snap};
use crate::backend::{Backend, BackendError, Backends};
use crate::disk::Disk;
use crate::driver::{Driver, Effects, Event, Frame};
use crate::service::MemberStatus;
use crate::wal::Wal;

mod combiner;
mod mailbox;

use combiner::{Combiner, Worker};
use mailbox::Mailbox;

/// Sends frames to other members: at once, dropping what cannot be sent. Called from the driver's thread.
pub trait Peers: Send + 'static {
    /// Queues `frames` for their receivers without waiting.
    fn send(&mut self, frames: &mut Vec<Frame>);
}

/// Observes what a member does, for metrics and logs. Called from the member's threads; must not wait.
pub trait Observer: Send + Sync + 'static {
    /// Role, term, leader or standing changed.
    fn changed(&self, status: &raft::Status);
    /// The log was written and synced.
    fn synced(&self, took: Duration, records: usize);
    /// Entries were applied and published, with so many keys written and removed.
    fn applied(&self, took: Duration, puts: u64, deletes: u64);
    /// A proposal was answered, or given up.
    fn answered(&self, failed: bool);
    /// A peer sent bytes that are no message.
    fn malformed(&self, from: NodeId, error: &str);
    /// The member cannot go on. It must not return: the process ends here.
    fn fatal(&self, reason: &str) -> !;
}

/// What a member is started from.
pub struct Parts<D, B: Backends, P, O> {
    /// Consensus, as recovered.
    pub replica: Replica,
    /// Its log, open.
    pub wal: Wal<D>,
    /// Its applied state, open.
    pub applier: Applier<B>,
    /// The way to the others.
    pub peers: P,
    /// Who watches.
    pub observer: Arc<O>,
    /// The instant that is 0 on the member's clock.
    pub epoch: std::time::Instant,
}

enum ToDriver {
    Event(Event),
    Request(Request, oneshot::Sender<Result<Response, Error>>),
}

enum ToLog {
    Write(Vec<Record>, WriteId),
}

/// What clients' handlers and peers' streams hold of a running member. Cheap to clone.
pub struct Member<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Member<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<S> {
    driver: Combiner<DriverWorker>,
    log: Mailbox<ToLog>,
    applier: Mailbox<applier::Input>,
    published: RwLock<Arc<Published<S>>>,
    epoch: std::time::Instant,
    status: tokio::sync::watch::Receiver<raft::Status>,
    disk_bytes: AtomicU64,
    streams: Mutex<HashMap<StreamId, mpsc::UnboundedSender<watch::Response>>>,
    next_stream: AtomicU64,
    /// The floor below which nothing is left on disk either.
    compacted: tokio::sync::watch::Sender<Revision>,
    /// Those who wait for the next defragmentation.
    defragmenting: Mutex<Vec<oneshot::Sender<Result<(), BackendError>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A client's watch stream: dropping it closes it.
pub struct WatchStream<S: Send + Sync + 'static> {
    member: Member<S>,
    /// Its name in the hub.
    pub id: StreamId,
    responses: mpsc::UnboundedReceiver<watch::Response>,
}

impl<S: quorate_core::rows::Rows + Send + Sync + 'static> Member<S> {
    /// Starts the threads.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn start<D, B, P, O>(parts: Parts<D, B, P, O>) -> Self
    where
        D: Disk + Send + 'static,
        B: Backends<Backend: Backend<Snapshot = S> + Send, Filling: Send> + Send + 'static,
        P: Peers,
        O: Observer,
    {
        let Parts { replica, wal, applier, peers, observer, epoch } = parts;
        let (status_changed, status) = tokio::sync::watch::channel(replica.status().clone());
        let (log, to_applier, history) = (Mailbox::new(), Mailbox::new(), Mailbox::new());
        let worker = DriverWorker {
            driver: Driver::new(replica),
            epoch,
            peers: Box::new(peers),
            observer: Arc::clone(&observer) as Arc<dyn Observer>,
            log: log.clone(),
            applier: to_applier.clone(),
            status: status_changed,
            waiting: HashMap::new(),
            next: RequestId(0),
            inbox: Vec::new(),
            effects: Effects::default(),
            writing: None,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            driver: Combiner::new(worker),
            log,
            applier: to_applier,
            published: RwLock::new(applier.published()),
            epoch,
            status,
            disk_bytes: AtomicU64::new(applier.backend().disk_bytes()),
            streams: Mutex::new(HashMap::new()),
            next_stream: AtomicU64::new(1),
            compacted: tokio::sync::watch::Sender::new(Revision(-1)),
            defragmenting: Mutex::default(),
            threads: Mutex::new(Vec::new()),
        });
        let threads = [
            spawn("quorate-timer", {
                let shared = Arc::clone(&shared);
                move || shared.driver.keep_time()
            }),
            spawn("quorate-log", {
                let (shared, observer) = (Arc::clone(&shared), Arc::clone(&observer));
                move || run_log(&shared, wal, &*observer)
            }),
            spawn("quorate-apply", {
                let (shared, history) = (Arc::clone(&shared), history.clone());
                move || run_applier(&shared, applier, &history, &*observer, epoch)
            }),
            spawn("quorate-history", {
                let shared = Arc::clone(&shared);
                move || run_history(&shared, &history)
            }),
        ];
        shared.threads.lock().expect("no holder panics").extend(threads);
        Self { shared }
    }

    /// Asks consensus and waits for the answer.
    ///
    /// # Errors
    /// etcd's; [`Error::Stopped`] if the member ends first: the outcome is unknown then.
    pub async fn request(&self, request: Request) -> Result<Response, Error> {
        let (answer, answered) = oneshot::channel();
        let patient = matches!(request, Request::Command(_) | Request::CommandBy(..));
        let item = ToDriver::Request(request, answer);
        if patient {
            self.shared.driver.send_patient(item)
        } else {
            self.shared.driver.send([item])
        }
        answered.await.unwrap_or(Err(Error::Stopped))
    }

    /// A frame of a peer arrived.
    pub fn received(&self, from: NodeId, frame: Bytes) {
        self.shared.driver.send([ToDriver::Event(Event::Frame(from, frame))]);
    }

    /// The state that readers see.
    #[must_use]
    pub fn published(&self) -> Arc<Published<S>> {
        Arc::clone(&self.shared.published.read().expect("no holder panics"))
    }

    /// The member's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        now(self.shared.epoch)
    }

    /// What the member knows of itself.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        MemberStatus {
            raft: self.shared.status.borrow().clone(),
            applied: self.published().applied,
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
        }
    }

    /// Follows role, term, leader and standing.
    #[must_use]
    pub fn status_changes(&self) -> tokio::sync::watch::Receiver<raft::Status> {
        self.shared.status.clone()
    }

    /// Opens a watch stream.
    #[must_use]
    pub fn watch(&self) -> WatchStream<S> {
        let id = StreamId(self.shared.next_stream.fetch_add(1, Ordering::Relaxed));
        let (sender, responses) = mpsc::unbounded_channel();
        self.shared.streams.lock().expect("no holder panics").insert(id, sender);
        self.shared.applier.send(applier::Input::Watch(watch::Input::Open(id)));
        WatchStream { member: self.clone(), id, responses }
    }

    /// Returns once every row below `floor` is physically gone. (etcd: compaction with physical)
    pub async fn compacted(&self, floor: Revision) {
        let mut compacted = self.shared.compacted.subscribe();
        let _ = compacted.wait_for(|gone| *gone >= floor).await;
    }

    /// Gives space on disk back, while everything goes on. (etcd: Defragment)
    ///
    /// # Errors
    /// The backend failed, or the member stopped.
    pub async fn defragment(&self) -> Result<(), BackendError> {
        // Rows that are about to go had better be gone.
        self.compacted(self.published().view.compacted()).await;
        let (answer, answered) = oneshot::channel();
        self.shared.defragmenting.lock().expect("no holder panics").push(answer);
        self.shared.applier.send(applier::Input::Defragment);
        answered.await.unwrap_or_else(|_| Err(BackendError("the member stopped".to_owned())))
    }

    /// Hands leadership over, waiting for it at most `patience`, and ends the threads once all that was written is
    /// synced. Later requests are answered [`Error::Stopped`].
    pub async fn stop(&self, patience: Duration) {
        let member = {
            let status = self.shared.status.borrow();
            (status.role == raft::Role::Leader && status.config.voters.len() > 1).then_some(status.leader)
        };
        if let Some(this) = member {
            let mut changes = self.status_changes();
            self.shared.driver.send([ToDriver::Event(Event::Input(replica::Input::StepDown))]);
            let other = changes.wait_for(|status| status.leader.is_some() && status.leader != this);
            let _ = tokio::time::timeout(patience, other).await;
        }
        self.shared.driver.with(DriverWorker::stop);
        self.shared.driver.close();
        let threads = std::mem::take(&mut *self.shared.threads.lock().expect("no holder panics"));
        let _ = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        })
        .await;
    }
}

impl<S: Send + Sync + 'static> WatchStream<S> {
    /// Tells the hub something about this stream.
    pub fn send(&self, input: watch::Input) {
        self.member.shared.applier.send(applier::Input::Watch(input));
    }

    /// The next response; `None` once the member stops.
    pub async fn next(&mut self) -> Option<watch::Response> {
        self.responses.recv().await
    }

    /// The next response, if there is one already.
    pub fn try_next(&mut self) -> Option<watch::Response> {
        self.responses.try_recv().ok()
    }

    /// Responses that wait for [`WatchStream::next`].
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.responses.len()
    }

    /// So many bytes of responses were handed to the client.
    pub fn taken(&self, bytes: u64) {
        self.send(watch::Input::Taken(self.id, bytes));
    }
}

impl<S: Send + Sync + 'static> Drop for WatchStream<S> {
    fn drop(&mut self) {
        self.member.shared.streams.lock().expect("no holder panics").remove(&self.id);
        self.send(watch::Input::Close(self.id));
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("the system starts a thread")
}

/// A member's clock and the system's.
fn now(epoch: std::time::Instant) -> Instant {
    Instant(u64::try_from(epoch.elapsed().as_nanos()).expect("a process runs for less than 584 years"))
}

fn deadline(epoch: std::time::Instant, at: Instant) -> Option<std::time::Instant> {
    (at != Instant::FAR).then(|| epoch + Duration::from_nanos(at.0))
}

/// The driver and whom it hands its effects.
struct DriverWorker {
    driver: Driver,
    epoch: std::time::Instant,
    peers: Box<dyn Peers>,
    observer: Arc<dyn Observer>,
    log: Mailbox<ToLog>,
    applier: Mailbox<applier::Input>,
    status: tokio::sync::watch::Sender<raft::Status>,
    waiting: HashMap<RequestId, oneshot::Sender<Result<Response, Error>>>,
    next: RequestId,
    inbox: Vec<Event>,
    effects: Effects,
    /// The last write handed to the log, until it is persisted.
    writing: Option<WriteId>,
    stopped: bool,
}

impl Worker for DriverWorker {
    type Item = ToDriver;

    fn turn(&mut self, items: &mut Vec<ToDriver>) {
        if self.stopped {
            return items.clear(); // Clients learn it from their dropped answers.
        }
        for item in items.drain(..) {
            let event = match item {
                ToDriver::Event(event) => event,
                ToDriver::Request(request, answer) => {
                    self.next = self.next.next();
                    self.waiting.insert(self.next, answer);
                    Event::Request(self.next, request)
                }
            };
            if let Event::Input(replica::Input::Persisted { write }) = &event
                && self.writing.is_some_and(|writing| writing <= *write)
            {
                self.writing = None;
            }
            self.inbox.push(event);
        }
        self.driver.turn(now(self.epoch), &mut self.inbox, &mut self.effects);
        self.carry_out();
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        if self.stopped { None } else { deadline(self.epoch, self.driver.deadline()) }
    }

    /// What is proposed now would wait for the log anyway: it makes a larger batch if it waits here.
    fn is_busy(&self) -> bool {
        self.writing.is_some() && !self.stopped
    }
}

impl DriverWorker {
    fn carry_out(&mut self) {
        let effects = &mut self.effects;
        if !effects.frames.is_empty() {
            self.peers.send(&mut effects.frames);
            effects.frames.clear();
        }
        if let Some(through) = effects.persist_through.take() {
            self.writing = Some(through);
            self.log.send(ToLog::Write(std::mem::take(&mut effects.records), through));
        }
        if !effects.applier.is_empty() {
            self.applier.send_all(effects.applier.drain(..));
        }
        for (id, result) in effects.responses.drain(..) {
            self.observer.answered(result.is_err());
            if let Some(answer) = self.waiting.remove(&id) {
                let _ = answer.send(result); // The client may have gone.
            }
        }
        for status in effects.changed.drain(..) {
            self.observer.changed(&status);
            self.status.send_replace(status);
        }
        for (from, error) in effects.malformed.drain(..) {
            self.observer.malformed(from, &error.to_string());
        }
        if let Some((index, ours, theirs)) = effects.diverged.take() {
            self.observer.fatal(&format!(
                "the applied state at index {index} has hash {ours:016x}, but a majority of members has {theirs:016x}: \
                 this member's state is wrong and must not be served"
            ));
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.waiting.clear();
        self.log.close();
        self.applier.close();
    }
}

/// After so long without a write the log is marked, see [`Wal::mark`].
const LOG_IDLE: Duration = Duration::from_millis(100);

fn run_log<S, D: Disk>(shared: &Shared<S>, mut wal: Wal<D>, observer: &impl Observer) {
    let mut items = Vec::new();
    let mut records = Vec::new();
    let idle = || Some(std::time::Instant::now() + LOG_IDLE);
    let mut mark_at = idle();
    while shared.log.receive(&mut items, mark_at) {
        let mut through = None;
        let mut releases = false;
        for ToLog::Write(more, write) in items.drain(..) {
            releases |= more.iter().any(|record| matches!(record, Record::Compact { .. } | Record::Snapshot { .. }));
            records.extend(more);
            through = Some(write);
        }
        let Some(write) = through else {
            // Nothing to do: say on disk that the last records are durable. No sync, the system writes it back in time.
            if let Err(error) = wal.mark() {
                observer.fatal(&format!("the write-ahead log cannot be written: {error}"));
            }
            mark_at = None;
            continue;
        };
        mark_at = idle();
        let began = std::time::Instant::now();
        if let Err(error) = wal.append(&records).and_then(|()| wal.sync()) {
            observer.fatal(&format!("the write-ahead log cannot be written: {error}"));
        }
        observer.synced(began.elapsed(), records.len());
        records.clear();
        shared.driver.send([ToDriver::Event(Event::Input(replica::Input::Persisted { write }))]);
        if releases && let Err(error) = wal.release() {
            observer.fatal(&format!("the write-ahead log's old segments cannot be removed: {error}"));
        }
    }
    if let Err(error) = wal.mark().and_then(|()| wal.sync()) {
        observer.fatal(&format!("the write-ahead log cannot be closed: {error}"));
    }
}

fn run_applier<S, B>(
    shared: &Arc<Shared<S>>,
    mut applier: Applier<B>,
    history: &Mailbox<HistoryRead<Snap<B>>>,
    observer: &impl Observer,
    epoch: std::time::Instant,
) where
    S: quorate_core::rows::Rows + Send + Sync + 'static,
    B: Backends<Backend: Backend<Snapshot = S>>,
{
    let mut items = Vec::new();
    let mut inbox = VecDeque::new();
    let mut effects = applier::Effects::default();
    loop {
        let until =
            if applier.has_work() { Some(std::time::Instant::now()) } else { deadline(epoch, applier.deadline()) };
        if !shared.applier.receive(&mut items, until) {
            break;
        }
        inbox.extend(items.drain(..));
        let began = std::time::Instant::now();
        if let Err(error) = applier.turn(now(epoch), &mut inbox, &mut effects) {
            observer.fatal(&format!("the applied state cannot be kept: {error}"));
        }
        if let Some(published) = effects.published.take() {
            observer.applied(began.elapsed(), std::mem::take(&mut effects.puts), std::mem::take(&mut effects.deletes));
            *shared.published.write().expect("no holder panics") = published;
            shared.disk_bytes.store(applier.backend().disk_bytes(), Ordering::Relaxed);
        }
        if !effects.watch.is_empty() {
            let streams = shared.streams.lock().expect("no holder panics");
            for (stream, response) in effects.watch.drain(..) {
                if let Some(sender) = streams.get(&stream) {
                    let _ = sender.send(response); // The client may have gone.
                }
            }
        }
        if !effects.driver.is_empty() {
            let inputs = effects.driver.drain(..);
            shared.driver.send(inputs.map(|input| ToDriver::Event(Event::Input(input))));
        }
        if !effects.history.is_empty() {
            history.send_all(effects.history.drain(..));
        }
        if let Some(floor) = effects.compacted.take() {
            shared.compacted.send_replace(floor);
        }
        if let Some(job) = effects.defragment.take() {
            let shared = Arc::clone(shared);
            let waiting = std::mem::take(&mut *shared.defragmenting.lock().expect("no holder panics"));
            // Not joined: whoever stops the member does not wait for it, and it leaves nothing half done.
            drop(spawn("quorate-defrag", move || {
                let result = job();
                if let Ok(disk_bytes) = &result {
                    shared.disk_bytes.store(*disk_bytes, Ordering::Relaxed);
                }
                for answer in waiting {
                    let _ = answer.send(result.as_ref().map(|_| ()).map_err(|error| BackendError(error.0.clone())));
                }
            }));
        }
    }
    shared.defragmenting.lock().expect("no holder panics").clear();
    shared.streams.lock().expect("no holder panics").clear();
    history.close();
}

fn run_history<S: quorate_core::rows::Rows>(shared: &Shared<S>, history: &Mailbox<HistoryRead<S>>) {
    let mut reads = Vec::new();
    while history.receive(&mut reads, None) {
        for read in reads.drain(..) {
            shared.applier.send(read.run());
        }
    }
}
