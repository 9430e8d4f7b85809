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
//! at once, so under load each item costs less, and no write waits for more than one sync. A client's handler that finds
//! the log idle writes and applies itself instead of waking a thread to wait for, see `station`.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::error::Error;
use quorate_core::replica::{self, Replica, Request, Response};
use quorate_core::store::Members;
use quorate_core::{Instant, NodeId, Revision, StreamId, raft, watch};
use tokio::sync::{mpsc, oneshot};

use crate::applier::{self, Applier, HistoryRead, Published};
use crate::backend::{Backend, BackendError, Backends};
use crate::disk::Disk;
use crate::driver::{Driver, Event, Frame};
use crate::service::MemberStatus;
use crate::vouch::Voucher;
use crate::wal::Wal;

mod applying;
mod combiner;
mod driving;
mod log;
mod mailbox;
mod station;

use applying::{ApplyStage, Front};
use combiner::{Combiner, Due};
use driving::{DriverWorker, Standing, ToDriver};
use log::{LogStage, ToLog};
use mailbox::Mailbox;
use station::Station;

/// Sends frames to other members: at once, dropping what cannot be sent. Called from the driver's thread.
pub trait Peers: Send + 'static {
    /// Queues `frames` for their receivers without waiting.
    fn send(&mut self, frames: &mut Vec<Frame>);
    /// The members are these now. Whoever is not among them stays reachable.
    fn update(&mut self, members: &Members);
    /// This member is gone for good: after a while nothing is sent there.
    fn part(&mut self, id: NodeId);
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
    /// This member's state is wrong.
    fn suspected(&self, why: &str);
    /// This member's wrong state was replaced by another one's.
    fn unsuspected(&self);
    /// A peer sent bytes that are no message.
    fn malformed(&self, from: NodeId, error: &str);
    /// The member was removed from the cluster: it has to stop, and its data is of no use any more.
    fn removed(&self);
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
    log: Station<ToLog>,
    applier: Station<applier::Input>,
    front: Arc<Front<S>>,
    epoch: std::time::Instant,
    status: tokio::sync::watch::Receiver<raft::Status>,
    /// The state is wrong: nothing is to be read from it.
    suspect: tokio::sync::watch::Receiver<bool>,
    /// This life of the member is over.
    fenced: tokio::sync::watch::Receiver<bool>,
    next_stream: AtomicU64,
    /// Held by the one client's handler that does the log's or the applier's work.
    carrier: Mutex<()>,
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
        let observer: Arc<dyn Observer> = observer;
        let (to_log, to_applier, history) = (Mailbox::new(), Mailbox::new(), Mailbox::new());
        let front = Arc::new(Front::new(&applier));
        let (suspected, suspect) = tokio::sync::watch::channel(replica.is_suspect());
        let (fence, fenced) = tokio::sync::watch::channel(false);
        let driver = DriverWorker::new(
            Driver::new(replica),
            epoch,
            Box::new(peers),
            Arc::clone(&observer),
            to_log.clone(),
            to_applier.clone(),
            Standing { status: status_changed, suspect: suspected, over: fence },
        );
        let applying = ApplyStage {
            applier,
            front: Arc::clone(&front),
            history: history.clone(),
            observer: Arc::clone(&observer),
            epoch,
            inbox: VecDeque::new(),
            effects: applier::Effects::default(),
        };
        let shared = Arc::new(Shared {
            driver: Combiner::new(driver),
            log: Station::new(to_log, LogStage::new(wal, observer)),
            applier: Station::new(to_applier, applying),
            front,
            epoch,
            status,
            suspect,
            fenced,
            next_stream: AtomicU64::new(1),
            carrier: Mutex::new(()),
            threads: Mutex::new(Vec::new()),
        });
        let threads = [
            spawn("quorate-timer", {
                let shared = Arc::clone(&shared);
                move || shared.driver.keep_time(|due| shared.wake(due))
            }),
            spawn("quorate-log", {
                let shared = Arc::clone(&shared);
                move || shared.log.serve(|events| shared.tell(events.drain(..)))
            }),
            spawn("quorate-apply", {
                let shared = Arc::clone(&shared);
                move || shared.applier.serve(|events| shared.tell(events.drain(..)))
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
        let driver = &self.shared.driver;
        let due = if patient { driver.send_patient(item) } else { driver.send([item]) };
        self.shared.carry_through(due);
        answered.await.unwrap_or(Err(Error::Stopped))
    }

    /// A peer opened a stream to this member.
    pub fn called(&self, from: NodeId) {
        self.shared.tell([ToDriver::Event(Event::Input(replica::Input::Called { from }))]);
    }

    /// Frames of a peer arrived. May wait for the disk, if nobody else does.
    pub fn received(&self, from: NodeId, frames: impl IntoIterator<Item = Bytes>) {
        let events = frames.into_iter().map(|frame| ToDriver::Event(Event::Frame(from, frame)));
        self.shared.carry_through(self.shared.driver.send(events));
    }

    /// The state that readers see.
    #[must_use]
    pub fn published(&self) -> Arc<Published<S>> {
        Arc::clone(&self.shared.front.published.read().expect("no holder panics"))
    }

    /// What the member knows of itself.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        MemberStatus {
            raft: self.shared.status.borrow().clone(),
            applied: self.published().applied,
            disk_bytes: self.shared.front.disk_bytes.load(Ordering::Relaxed),
            suspect: *self.shared.suspect.borrow(),
        }
    }

    /// What the member says to those who ask it and have lost something.
    #[must_use]
    pub fn voucher(&self) -> Voucher {
        let voucher = self.shared.driver.with(|worker| Voucher::of(worker.driver.replica().raft()));
        self.shared.tell([]); // Whoever found the driver busy meanwhile has left its work to this caller.
        voucher
    }

    /// The others have ended this life of the member, see [`Member::fenced`]. It did not see that itself: it has no state.
    pub fn end(&self) {
        self.shared.driver.with(|worker| worker.end());
    }

    /// Returns once this life of the member is over: it is to be started again as if its disk had been lost. Never, if
    /// the member stops before.
    pub fn fenced(&self) -> impl Future<Output = ()> + Send + 'static {
        turns_true(self.shared.fenced.clone())
    }

    /// Returns once the member's state is known to be wrong: nobody is served from then on.
    pub fn suspected(&self) -> impl Future<Output = ()> + Send + 'static {
        turns_true(self.shared.suspect.clone())
    }

    /// Reads everything that is on disk, slowly, and compares it with what was written.
    ///
    /// # Errors
    /// It is something else.
    pub async fn verify(&self) -> Result<(), BackendError> {
        let (answer, answered) = oneshot::channel();
        self.shared.front.verifying.lock().expect("no holder panics").push(answer);
        self.shared.applier.send(applier::Input::Verify);
        answered.await.unwrap_or(Ok(())) // The member stopped first.
    }

    /// What is on disk was found to be something else: this life is to be ended, see [`Member::fenced`], once the others can
    /// do without it.
    pub fn damaged(&self) {
        self.shared.tell([ToDriver::Event(Event::Input(replica::Input::Damaged))]);
    }

    /// The member's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        now(self.shared.epoch)
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
        self.shared.front.streams.lock().expect("no holder panics").insert(id, sender);
        self.shared.applier.send(applier::Input::Watch(watch::Input::Open(id)));
        WatchStream { member: self.clone(), id, responses }
    }

    /// Returns once every row below `floor` is physically gone. (etcd: compaction with physical)
    pub async fn compacted(&self, floor: Revision) {
        let mut compacted = self.shared.front.compacted.subscribe();
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
        self.shared.front.defragmenting.lock().expect("no holder panics").push(answer);
        self.shared.applier.send(applier::Input::Defragment);
        answered.await.unwrap_or_else(|_| Err(BackendError::Failed("the member stopped".to_owned())))
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
            self.shared.tell([ToDriver::Event(Event::Input(replica::Input::StepDown))]);
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
        self.member.shared.front.streams.lock().expect("no holder panics").remove(&self.id);
        self.send(watch::Input::Close(self.id));
    }
}

impl<S> Shared<S> {
    /// Brings events to the driver; whatever they leave to do is done by the threads.
    fn tell(&self, events: impl IntoIterator<Item = ToDriver>) {
        self.wake(self.driver.send(events));
    }

    /// Wakes the threads for what is left to do.
    fn wake(&self, due: Due) {
        if due.log {
            self.log.wake();
        }
        if due.applier {
            self.applier.wake();
        }
    }

    /// Does what the caller's turn left to do, write, sync and apply, if nobody else is at it: for a caller who would
    /// otherwise sleep until three threads have woken each other in turn, or whose peer would. What this leaves to do
    /// goes to the threads, so under load it is they who work, on ever larger batches.
    ///
    /// This blocks a worker of the runtime, though never more than one: the others carry its tasks and its network.
    /// (`block_in_place` would be the general way, and was measured to cost more than the wake-ups saved.)
    fn carry_through(&self, mut due: Due) {
        let has_other_workers =
            || tokio::runtime::Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1);
        if due == Due::default() {
            return;
        }
        let Ok(_only) = self.carrier.try_lock() else { return self.wake(due) };
        if !has_other_workers() {
            return self.wake(due);
        }
        if due.log {
            self.wake(Due { log: false, ..due });
            match self.log.try_turn(|events| self.driver.send(events.drain(..))) {
                Some(next) => due = next,
                None => return self.log.wake(),
            }
        }
        self.wake(Due { applier: false, ..due });
        if due.applier {
            due.log = false;
            due = self.applier.try_turn(|events| self.driver.send(events.drain(..))).unwrap_or(due);
            self.wake(due);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("the system starts a thread")
}

/// Returns once `flag` is set; never, if whoever would set it is gone.
async fn turns_true(mut flag: tokio::sync::watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A member's clock and the system's.
fn now(epoch: std::time::Instant) -> Instant {
    Instant(u64::try_from(epoch.elapsed().as_nanos()).expect("a process runs for less than 584 years"))
}

fn deadline(epoch: std::time::Instant, at: Instant) -> Option<std::time::Instant> {
    (at != Instant::FAR).then(|| epoch + Duration::from_nanos(at.0))
}

fn run_history<S: quorate_core::rows::Rows>(shared: &Shared<S>, history: &Mailbox<HistoryRead<S>>) {
    let mut reads = Vec::new();
    while history.receive(&mut reads, None) {
        for read in reads.drain(..) {
            shared.applier.send(read.run());
        }
    }
}
