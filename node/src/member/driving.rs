//! The driver's turn: what waits for it goes in, what it wants done goes out to whoever does it.

use std::collections::HashMap;
use std::sync::Arc;

use quorate_core::error::Error;
use quorate_core::replica::{self, Request, Response};
use quorate_core::{RequestId, WriteId, raft};
use tokio::sync::oneshot;

use super::combiner::{Due, Worker};
use super::log::ToLog;
use super::mailbox::Mailbox;
use super::{Observer, Peers, deadline, now};
use crate::applier;
use crate::driver::{Driver, Effects, Event};

/// What comes to the driver.
pub(super) enum ToDriver {
    Event(Event),
    Request(Request, oneshot::Sender<Result<Response, Error>>),
}

/// Who learns how this member stands.
pub(super) struct Standing {
    /// What consensus says of itself.
    pub(super) status: tokio::sync::watch::Sender<raft::Status>,
    /// Its state is wrong: nothing is to be read from it.
    pub(super) suspect: tokio::sync::watch::Sender<bool>,
    /// This life of the member is over.
    pub(super) over: tokio::sync::watch::Sender<bool>,
}

/// The driver and whom it hands its effects.
pub(super) struct DriverWorker {
    pub(super) driver: Driver,
    epoch: std::time::Instant,
    peers: Box<dyn Peers>,
    observer: Arc<dyn Observer>,
    log: Mailbox<ToLog>,
    applier: Mailbox<applier::Input>,
    standing: Standing,
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

    fn turn(&mut self, items: &mut Vec<ToDriver>) -> Due {
        if self.stopped {
            items.clear(); // Clients learn it from their dropped answers.
            return Due::default();
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
        self.carry_out()
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
    pub(super) fn new(
        driver: Driver,
        epoch: std::time::Instant,
        peers: Box<dyn Peers>,
        observer: Arc<dyn Observer>,
        log: Mailbox<ToLog>,
        applier: Mailbox<applier::Input>,
        standing: Standing,
    ) -> Self {
        let (inbox, effects) = (Vec::new(), Effects::default());
        let (waiting, next, writing, stopped) = (HashMap::new(), RequestId(0), None, false);
        Self { driver, epoch, peers, observer, log, applier, standing, waiting, next, inbox, effects, writing, stopped }
    }

    fn carry_out(&mut self) -> Due {
        let mut due = Due::default();
        let effects = &mut self.effects;
        if !effects.frames.is_empty() {
            self.peers.send(&mut effects.frames);
            effects.frames.clear();
        }
        if let Some(through) = effects.persist_through.take() {
            self.writing = Some(through);
            self.log.leave([ToLog { records: std::mem::take(&mut effects.records), through }]);
            due.log = true;
        }
        if !effects.applier.is_empty() {
            self.applier.leave(effects.applier.drain(..));
            due.applier = true;
        }
        let is_wrong = effects.suspected.is_some() || effects.fenced;
        if is_wrong || effects.unsuspected {
            self.standing.suspect.send_replace(is_wrong); // Before anybody is answered.
        }
        for (id, result) in effects.responses.drain(..) {
            self.observer.answered(result.is_err());
            if let Some(answer) = self.waiting.remove(&id) {
                let _ = answer.send(result); // The client may have gone.
            }
        }
        for status in effects.changed.drain(..) {
            self.observer.changed(&status);
            self.standing.status.send_replace(status);
        }
        if let Some(members) = effects.members.take() {
            self.peers.update(&members);
        }
        for id in effects.parted.drain(..) {
            self.peers.part(id);
        }
        if std::mem::take(&mut effects.removed) {
            self.observer.removed();
        }
        for (from, error) in effects.malformed.drain(..) {
            self.observer.malformed(from, &error.to_string());
        }
        if std::mem::take(&mut effects.unsuspected) {
            self.observer.unsuspected();
        }
        if let Some((index, ours, theirs)) = effects.suspected.take() {
            self.observer.suspected(&format!(
                "the applied state at index {index} has hash {ours:016x}, but a majority of members has {theirs:016x}: \
                 this member's state is wrong and is not served any more"
            ));
        }
        if std::mem::take(&mut effects.fenced) {
            self.end();
        }
        due
    }

    /// This life of the member is over.
    pub(super) fn end(&self) {
        self.standing.over.send_replace(true);
    }

    /// Nothing is taken up any more; what was handed out is still done.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.waiting.clear();
        self.log.close();
        self.applier.close();
    }
}
