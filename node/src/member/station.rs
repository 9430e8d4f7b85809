//! Work that waits for a device: done by a thread of its own, or by a caller who would only wait for that thread.
//!
//! Under load the thread is awake and works on all that gathered during its last turn. With little load it sleeps, and
//! then handing it one small write and being woken with the result costs more than the write: a caller who may wait does
//! that turn itself, if nobody else is at it ([`Station::try_turn`]).

use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use super::combiner::Due;
use super::driving::ToDriver;
use super::mailbox::Mailbox;

/// After a turn that took longer, the next one is the thread's: callers have other things to do than to wait for a device
/// that stalls, and being woken is cheap beside it.
const CALLER_TURN_MAX: Duration = Duration::from_millis(10);

/// What is done at a [`Station`].
pub(super) trait Stage: Send {
    /// A piece of work.
    type Item: Send;

    /// Does everything in `items`, and what time demands; adds what the driver must hear of it.
    fn turn(&mut self, items: &mut Vec<Self::Item>, events: &mut Vec<ToDriver>);

    /// What is left to do after a turn, once the driver has heard of it.
    fn tidy(&mut self) {}

    /// When the next turn is due at the latest, whatever arrives.
    fn deadline(&self) -> Option<Instant>;

    /// Nothing comes any more.
    fn finish(&mut self);
}

/// A stage and the work that waits for it.
pub(super) struct Station<T> {
    mailbox: Mailbox<T>,
    desk: Mutex<Desk<T>>,
}

struct Desk<T> {
    stage: Box<dyn Stage<Item = T>>,
    items: Vec<T>,
    events: Vec<ToDriver>,
    /// How long the last turn took.
    last_turn: Duration,
}

impl<T: Send> Station<T> {
    pub(super) fn new(mailbox: Mailbox<T>, stage: impl Stage<Item = T> + 'static) -> Self {
        let (items, events) = (Vec::new(), Vec::new());
        let desk = Desk { stage: Box::new(stage), items, events, last_turn: Duration::ZERO };
        Self { mailbox, desk: Mutex::new(desk) }
    }

    /// Brings work, and wakes the thread.
    pub(super) fn send(&self, item: T) {
        self.mailbox.send(item);
    }

    /// Wakes the thread for work that was left in the mailbox.
    pub(super) fn wake(&self) {
        self.mailbox.wake();
    }

    /// The thread's loop, until the mailbox is closed and empty. `tell` brings events to the driver, and does something
    /// about what they leave to do.
    pub(super) fn serve(&self, tell: impl Fn(&mut Vec<ToDriver>)) {
        loop {
            let deadline = self.desk.lock().expect("no holder panics").stage.deadline();
            if !self.mailbox.wait(deadline) {
                return self.desk.lock().expect("no holder panics").stage.finish();
            }
            self.desk.lock().expect("no holder panics").turn(&self.mailbox, &tell);
        }
    }

    /// Does the work there now, on the caller's thread, unless somebody else is at it or it takes long these days. `None`:
    /// nothing was done.
    pub(super) fn try_turn(&self, tell: impl FnOnce(&mut Vec<ToDriver>) -> Due) -> Option<Due> {
        let mut desk = match self.desk.try_lock() {
            Ok(desk) => desk,
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Poisoned(_)) => panic!("no holder of this lock panics"),
        };
        if desk.last_turn > CALLER_TURN_MAX {
            return None;
        }
        let due = desk.turn(&self.mailbox, tell);
        let deadline = desk.stage.deadline();
        drop(desk);
        self.mailbox.wake_by(deadline);
        Some(due)
    }
}

impl<T: Send> Desk<T> {
    fn turn<R: Default>(&mut self, mailbox: &Mailbox<T>, tell: impl FnOnce(&mut Vec<ToDriver>) -> R) -> R {
        mailbox.take(&mut self.items);
        let began = Instant::now();
        self.stage.turn(&mut self.items, &mut self.events);
        self.last_turn = began.elapsed();
        self.items.clear();
        let told = if self.events.is_empty() { R::default() } else { tell(&mut self.events) };
        self.events.clear();
        self.stage.tidy();
        told
    }
}
