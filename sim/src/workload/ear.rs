//! A watch that somebody opens for a purpose of its own: the only one on its stream, opened again where it broke off.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::Revision;
use quorate_core::request::KeyRange;

use super::watcher::{Told, Watcher, Wish};
use crate::wire;

/// A watch for one purpose, over all its connections.
#[derive(Clone, Debug)]
pub struct Ear {
    watcher: Watcher,
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
        Self { watcher, member: 0, connection, connected: false }
    }

    /// Connects, where it broke off; gives what to send.
    pub fn connect(&mut self, member: usize, connection: u64) -> pb::WatchRequest {
        (self.member, self.connection, self.connected) = (member, connection, true);
        let create = pb::watch_request::RequestUnion::CreateRequest(self.watcher.begin());
        pb::WatchRequest { request_union: Some(create) }
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
    pub fn hear(&mut self, message: Bytes) -> Result<(Revision, Vec<Told>), String> {
        let response: pb::WatchResponse = wire::message(message);
        let header = Revision(response.header.as_ref().map_or(0, |header| header.revision));
        if response.watch_id != 0 {
            return Err(format!("a message to nobody on the stream: {response:?}"));
        }
        self.watcher.hear(response, header)?;
        Ok((header, std::mem::take(&mut self.watcher.told)))
    }
}
