//! A client's stream: names its watchers and limits what is under way to it.

use alloc::collections::BTreeSet;

use super::{Name, Output, Response, WatchHub};
use crate::{Revision, StreamId, WatchId};

/// One stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// The next ID to try for a watcher that has no wish.
    next_id: i64,
    /// Bytes sent and not yet taken.
    untaken: u64,
    /// Set when `untaken` reaches the limit, cleared when it has fallen to half: meanwhile no events are sent.
    full: bool,
    /// Watchers that have fallen behind and wait for room, with the next revision of each.
    pub(super) parked: BTreeSet<(Revision, WatchId)>,
}

impl Stream {
    /// Events have to wait.
    pub(super) fn full(&self) -> bool {
        self.full
    }
}

impl WatchHub {
    pub(super) fn open(&mut self, id: StreamId) {
        let old = self.streams.insert(id, Stream::default());
        assert!(old.is_none(), "stream {id} is opened twice");
    }

    pub(super) fn close(&mut self, id: StreamId) {
        for name in self.names(id) {
            self.forget(name);
        }
        self.streams.remove(&id);
    }

    /// The client took `bytes`: with enough room again, the stream's waiting watchers go on.
    pub(super) fn taken(&mut self, id: StreamId, bytes: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return; // Closed meanwhile.
        };
        assert!(bytes <= stream.untaken, "{bytes} bytes taken of {}", stream.untaken);
        stream.untaken -= bytes;
        if stream.full && stream.untaken <= self.config.stream_bytes_max / 2 {
            reach!(StreamTakesAgain);
            stream.full = false;
            for (next, watch) in core::mem::take(&mut stream.parked) {
                self.unpark((id, watch), next);
            }
        }
    }

    /// Gives `response` to the client. Answers to its own requests are sent even if the stream is full: whoever reads
    /// requests stops reading them meanwhile.
    pub(super) fn send(&mut self, id: StreamId, response: Response, out: &mut alloc::vec::Vec<Output>) {
        let stream = self.streams.get_mut(&id).expect("only open streams are sent to");
        stream.untaken += response.bytes();
        stream.full |= stream.untaken >= self.config.stream_bytes_max;
        out.push(Output::Send(id, response));
    }

    /// A free ID for a new watcher: the wanted one, else the smallest that was never given and is not in use. `None` if
    /// the wanted one is in use.
    pub(super) fn choose_id(&mut self, id: StreamId, wanted: Option<WatchId>) -> Option<WatchId> {
        let stream = self.streams.get_mut(&id)?;
        if let Some(wanted) = wanted {
            return (!self.watchers.contains_key(&(id, wanted))).then_some(wanted);
        }
        while self.watchers.contains_key(&(id, WatchId(stream.next_id))) {
            stream.next_id += 1;
        }
        stream.next_id += 1;
        Some(WatchId(stream.next_id - 1))
    }

    /// The stream's watchers.
    pub(super) fn names(&self, id: StreamId) -> alloc::vec::Vec<Name> {
        let all = (id, WatchId(i64::MIN))..=(id, WatchId(i64::MAX));
        self.watchers.range(all).map(|(&name, _)| name).collect()
    }
}
