//! A watch that somebody opens for a purpose of its own: the only one on its stream, opened again where it broke off.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::Revision;
use quorate_core::request::KeyRange;

use super::watcher::{Told, Watcher, Wish};
use crate::heap::Nanos;
use crate::wire;

/// A watch for one purpose, over all its connections.
#[derive(Clone, Debug)]
pub struct Ear {
    /// What it wants and was told.
    pub watcher: Watcher,
    /// What it was told is kept for the judge.
    is_judged: bool,
    /// The member it is connected to.
    pub member: usize,
    /// The number of its connection.
    pub connection: u64,
    /// The connection holds.
    pub connected: bool,
}

impl Ear {
    /// A watch of `range` from `next` on, not connected yet.
    #[must_use]
    pub fn new(range: KeyRange, next: Revision, connection: u64) -> Self {
        let wish = Wish { range, no_put: false, no_delete: false, prev_kv: false, progress_notify: false };
        let mut watcher = Watcher::of(wish, Vec::new());
        watcher.next = Some(next);
        Self { watcher, is_judged: false, member: 0, connection, connected: false }
    }

    /// One that is told all there is to tell, previous states and bookmarks, and judged by it.
    #[must_use]
    pub fn judged(range: KeyRange, next: Revision, connection: u64) -> Self {
        let mut ear = Self::new(range, next, connection);
        (ear.watcher.wish.prev_kv, ear.watcher.wish.progress_notify, ear.is_judged) = (true, true, true);
        ear
    }

    /// Connects, where it broke off; gives what to send.
    pub fn connect(&mut self, member: usize, connection: u64) -> pb::WatchRequest {
        (self.member, self.connection, self.connected) = (member, connection, true);
        let create = pb::watch_request::RequestUnion::CreateRequest(self.watcher.begin());
        pb::WatchRequest { request_union: Some(create) }
    }

    /// The member and the number of the stream, if it is open.
    #[must_use]
    pub fn stream(&self) -> Option<(usize, u64)> {
        self.connected.then_some((self.member, self.connection))
    }

    /// Whether it is told things at this moment.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.connected && self.watcher.is_live()
    }

    /// A message arrived: what it tells, and at which revision of the store.
    ///
    /// # Errors
    /// The protocol was broken.
    pub fn hear(&mut self, now: Nanos, message: Bytes) -> Result<(Revision, Vec<Told>), String> {
        let response: pb::WatchResponse = wire::message(message);
        let header = Revision(response.header.as_ref().map_or(0, |header| header.revision));
        let known = self.watcher.told.len();
        let is_progress = !response.created && !response.canceled && response.events.is_empty();
        match response.watch_id {
            0 => {
                self.watcher.heard = now;
                self.watcher.hear(response, header)?;
            }
            -1 if self.is_judged && is_progress => {
                if self.is_live() {
                    self.watcher.progress(header);
                }
            }
            _ => return Err(format!("a message to nobody on the stream: {response:?}")),
        }
        let told = &mut self.watcher.told;
        Ok((header, if self.is_judged { told[known..].to_vec() } else { std::mem::take(told) }))
    }
}
