//! The newest events, in memory and shared, bounded in bytes.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::Revision;
use crate::store::{Event, RevisionEvents};

/// One revision's events, shared by all who deliver them.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) revision: Revision,
    pub(super) events: Vec<Arc<Event>>,
}

impl From<RevisionEvents> for Shared {
    fn from(from: RevisionEvents) -> Self {
        Self { revision: from.revision, events: from.events.into_iter().map(Arc::new).collect() }
    }
}

impl Shared {
    fn bytes(&self) -> u64 {
        self.events.iter().map(|event| event_bytes(event)).sum()
    }
}

/// What an event costs in memory, about: its bytes and its fields.
pub(super) fn event_bytes(event: &Event) -> u64 {
    (event.kv.key.len() + event.kv.value.len()) as u64 + 128
}

/// Every event of revisions `>= from`, up to the last one pushed.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    from: Revision,
    revisions: VecDeque<Arc<Shared>>,
    bytes: u64,
    bytes_max: u64,
}

impl Ring {
    /// A ring that holds everything after `revision`.
    pub(super) fn new(bytes_max: u64, revision: Revision) -> Self {
        Self { from: revision.next(), revisions: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The first revision that catching up can start from here.
    pub(super) fn from(&self) -> Revision {
        self.from
    }

    /// Adds the next revision; drops the oldest ones while there are more than `bytes_max` bytes.
    pub(super) fn push(&mut self, shared: Arc<Shared>) {
        self.bytes += shared.bytes();
        self.revisions.push_back(shared);
        while self.bytes > self.bytes_max {
            let oldest = self.revisions.pop_front().expect("bytes are held, so a revision is");
            self.bytes -= oldest.bytes();
            self.from = oldest.revision.next();
        }
    }

    /// Forgets everything: what is not held any more, or was never seen, ends at `revision`.
    pub(super) fn reset(&mut self, revision: Revision) {
        *self = Self::new(self.bytes_max, revision);
    }

    /// The revisions from `from` on, stopping after the one that brings them above `bytes_max`, with `previous` the states
    /// before their changes included; and the last revision looked at, which is `end` if all were taken.
    pub(super) fn read(
        &self,
        from: Revision,
        end: Revision,
        bytes_max: u64,
        previous: bool,
    ) -> (Vec<Arc<Shared>>, Revision) {
        assert!(from >= self.from, "the ring starts at {}, not at {from}", self.from);
        let first = self.revisions.partition_point(|shared| shared.revision < from);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for shared in self.revisions.range(first..) {
            bytes += shared.bytes();
            if previous {
                bytes += shared.events.iter().map(|event| event.previous_cost()).sum::<u64>();
            }
            taken.push(Arc::clone(shared));
            if bytes > bytes_max {
                return (taken, shared.revision);
            }
        }
        (taken, end)
    }
}
