//! The applier's turn, and what readers and watchers see of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use quorate_core::rows::Rows;
use quorate_core::{Revision, StreamId, watch};
use tokio::sync::{mpsc, oneshot};

use super::driving::ToDriver;
use super::mailbox::Mailbox;
use super::station::Stage;
use super::{Observer, deadline, now, spawn};
use crate::applier::{self, Applier, HistoryRead, OpenError, Published};
use crate::backend::{Backend, BackendError, Backends};
use crate::driver::Event;

/// The outside of the applied state.
pub(super) struct Front<S> {
    pub(super) published: RwLock<Arc<Published<S>>>,
    pub(super) disk_bytes: AtomicU64,
    pub(super) streams: Mutex<HashMap<StreamId, mpsc::UnboundedSender<watch::Response>>>,
    /// The floor below which nothing is left on disk either.
    pub(super) compacted: tokio::sync::watch::Sender<Revision>,
    /// Those who wait for the next verification.
    pub(super) verifying: Mutex<Vec<oneshot::Sender<Result<(), BackendError>>>>,
    /// Those who wait for the next defragmentation.
    pub(super) defragmenting: Mutex<Vec<oneshot::Sender<Result<(), BackendError>>>>,
}

impl<S> Front<S> {
    pub(super) fn new<B>(applier: &Applier<B>) -> Self
    where
        B: Backends<Backend: Backend<Snapshot = S>>,
        S: Rows,
    {
        Self {
            published: RwLock::new(applier.published()),
            disk_bytes: AtomicU64::new(applier.backend().disk_bytes()),
            streams: Mutex::new(HashMap::new()),
            compacted: tokio::sync::watch::Sender::new(Revision(-1)),
            verifying: Mutex::default(),
            defragmenting: Mutex::default(),
        }
    }
}

/// Owns the applied state.
pub(super) struct ApplyStage<B: Backends, S> {
    pub(super) applier: Applier<B>,
    pub(super) front: Arc<Front<S>>,
    pub(super) history: Mailbox<HistoryRead<S>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) epoch: Instant,
    pub(super) inbox: VecDeque<applier::Input>,
    pub(super) effects: applier::Effects<S>,
}

impl<B, S> Stage for ApplyStage<B, S>
where
    B: Backends<Backend: Backend<Snapshot = S> + Send, Filling: Send> + Send,
    S: Rows + Send + Sync + 'static,
{
    type Item = applier::Input;

    fn turn(&mut self, items: &mut Vec<applier::Input>, events: &mut Vec<ToDriver>) {
        let Self { applier, front, effects, .. } = self;
        self.inbox.extend(items.drain(..));
        let began = Instant::now();
        if let Err(error) = applier.turn(now(self.epoch), &mut self.inbox, effects) {
            self.observer.fatal(&match error {
                OpenError::TooNew(reason) => reason.to_string(),
                error => format!("the applied state cannot be kept: {error}"),
            });
        }
        if let Some(published) = effects.published.take() {
            let (puts, deletes) = (std::mem::take(&mut effects.puts), std::mem::take(&mut effects.deletes));
            self.observer.applied(began.elapsed(), puts, deletes);
            *front.published.write().expect("no holder panics") = published;
            front.disk_bytes.store(applier.backend().disk_bytes(), Ordering::Relaxed);
        }
        if !effects.watch.is_empty() {
            let streams = front.streams.lock().expect("no holder panics");
            for (stream, response) in effects.watch.drain(..) {
                if let Some(sender) = streams.get(&stream) {
                    let _ = sender.send(response); // The client may have gone.
                }
            }
        }
        events.extend(effects.driver.drain(..).map(|input| ToDriver::Event(Event::Input(input))));
        if !effects.history.is_empty() {
            self.history.send_all(effects.history.drain(..));
        }
        if let Some(floor) = effects.compacted.take() {
            front.compacted.send_replace(floor);
        }
        if let Some(job) = effects.verify.take() {
            let waiting = std::mem::take(&mut *front.verifying.lock().expect("no holder panics"));
            drop(spawn("quorate-verify", move || {
                let result = job();
                for answer in waiting {
                    let _ = answer.send(result.clone());
                }
            }));
        }
        if let Some(job) = effects.defragment.take() {
            let front = Arc::clone(front);
            let waiting = std::mem::take(&mut *front.defragmenting.lock().expect("no holder panics"));
            // Not joined: whoever stops the member does not wait for it, and it leaves nothing half done.
            drop(spawn("quorate-defrag", move || {
                let result = job();
                if let Ok(disk_bytes) = &result {
                    front.disk_bytes.store(*disk_bytes, Ordering::Relaxed);
                }
                for answer in waiting {
                    let _ = answer.send(result.clone().map(drop));
                }
            }));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.applier.has_work() { Some(Instant::now()) } else { deadline(self.epoch, self.applier.deadline()) }
    }

    fn finish(&mut self) {
        self.front.defragmenting.lock().expect("no holder panics").clear();
        self.front.verifying.lock().expect("no holder panics").clear();
        self.front.streams.lock().expect("no holder panics").clear();
        self.history.close();
    }
}
