//! Watches of a simulated cluster.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use quorate_api::mvccpb;
use quorate_core::Revision;
use quorate_core::request::{KeyRange, KeyValue};

use super::{Client, Mailbox, Shared, lock};
use crate::wire;
use crate::workload::watcher::Told;

/// A change of a key. (etcd: Event)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key was removed, and not put.
    pub deleted: bool,
    /// Its new state; of a delete only `key` and `mod_revision`, the rest is 0 or empty.
    pub kv: KeyValue,
    /// Its state before, if it existed and that was not compacted.
    pub prev_kv: Option<KeyValue>,
}

/// Why a watch tells nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What it would have to tell next is gone, up to this revision: read everything anew, and watch from there.
    Compacted(Revision),
    /// The cluster is no more.
    Finished,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted(revision) => write!(f, "revision {revision} has been compacted, and what came before"),
            Self::Finished => f.write_str("the cluster is no more"),
        }
    }
}

impl std::error::Error for Ended {}

/// What changes in a range, from some revision on, each change once and in order. It goes on where it broke off, on another
/// member. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    mailbox: Shared,
    number: u64,
}

impl Client {
    /// Watches a range from revision `from` on, or from now on; returns when that has begun.
    ///
    /// # Errors
    /// The cluster is no more.
    pub async fn watch(&self, range: KeyRange, from: Option<Revision>) -> Result<Watch, Ended> {
        let number = lock(&self.mailbox).open_watch(self.member(), range, from);
        let watch = Watch { mailbox: self.mailbox.clone(), number };
        match watch.told().await {
            Some(_) => Ok(watch),
            None => Err(Ended::Finished),
        }
    }
}

impl Watch {
    /// The next changes: all of one revision at least, and whatever else comes with them.
    ///
    /// # Errors
    /// See [`Ended`]. After that nothing more is told.
    pub async fn next(&mut self) -> Result<Vec<Change>, Ended> {
        loop {
            match self.told().await {
                Some(Told::Events { events, .. }) => return Ok(events.into_iter().map(change).collect()),
                Some(Told::Compacted(revision)) => return Err(Ended::Compacted(revision)),
                // It went on elsewhere, or nothing has changed.
                Some(Told::Created { .. } | Told::Progress(_)) => {}
                None => return Err(Ended::Finished),
            }
        }
    }

    async fn told(&self) -> Option<Told> {
        poll_fn(|context| lock(&self.mailbox).poll_told(self.number, context)).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // After a panic nobody asks any more.
        if let Ok(mut mailbox) = self.mailbox.lock() {
            mailbox.told.remove(&self.number);
            mailbox.wakers.remove(&self.number);
            mailbox.closed.push(self.number);
        }
    }
}

impl Mailbox {
    fn open_watch(&mut self, member: usize, range: KeyRange, from: Option<Revision>) -> u64 {
        self.tickets += 1;
        self.told.insert(self.tickets, VecDeque::new());
        self.opened.push_back((self.tickets, member, range, from));
        self.tickets
    }

    fn poll_told(&mut self, number: u64, context: &mut Context<'_>) -> Poll<Option<Told>> {
        if let Some(told) = self.told.get_mut(&number).and_then(VecDeque::pop_front) {
            return Poll::Ready(Some(told));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.wakers.insert(number, context.waker().clone());
        Poll::Pending
    }

    /// Somebody may want to know it.
    pub(super) fn tell(&mut self, number: u64, told: Told) {
        let Some(waiting) = self.told.get_mut(&number) else { return };
        waiting.push_back(told);
        if let Some(waker) = self.wakers.remove(&number) {
            waker.wake();
        }
    }
}

fn change(event: mvccpb::Event) -> Change {
    let kv = event.kv.expect("a member tells of which key");
    Change { deleted: event.r#type == 1, kv: wire::key_value(kv), prev_kv: event.prev_kv.map(wire::key_value) }
}
