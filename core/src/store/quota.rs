//! Logical bytes of all kept history: a function of the applied entries alone, so the quota is decided alike everywhere.
//!
//! How much a compaction frees must not depend on how far a member has got with removing rows, and must not take long
//! to find out. So each revision remembers, when it is made, what a compaction *at it* would leave nobody able to see,
//! counted from the beginning: all puts that it or an earlier revision superseded, and all tombstones up to it. Moving
//! the floor looks that one number up.
//!
//! Its own tombstones stay, for watchers that begin there, until the floor has passed them; but they are not counted. If
//! they were, whoever deletes everything because space is exceeded and compacts at once might still have no room for the
//! put that would make the next revision.

use bincode::{Decode, Encode};

use crate::blob::Source;

/// Bytes since the beginning of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct Ledger {
    /// Of all records ever written.
    written: u64,
    /// Of puts that a later put or delete of their key superseded.
    superseded: u64,
    /// Of tombstones.
    tombstones: u64,
    /// Of records below the floor that nobody can see, and of the floor's own tombstones.
    freed: u64,
}

/// What a record costs beyond its key and its value.
const RECORD_BYTES: u64 = 64;

fn cost(key: usize, value: usize) -> u64 {
    key as u64 + value as u64 + RECORD_BYTES
}

impl Ledger {
    /// Bytes of what is kept.
    pub(super) fn kept(&self) -> u64 {
        self.written - self.freed
    }

    /// Whether these can be the totals of anything.
    pub(super) fn is_consistent(&self) -> bool {
        let removable = self.superseded.checked_add(self.tombstones);
        removable.is_some_and(|removable| self.freed <= removable && removable <= self.written)
    }

    pub(super) fn put(&mut self, key: usize, value: usize) {
        self.written += cost(key, value);
    }

    /// A put of the key was superseded.
    pub(super) fn supersede(&mut self, key: usize, value: u32) {
        self.superseded += cost(key, value as usize);
    }

    /// Bytes that are not counted any more after a compaction at the revision being made. To be asked once all its changes
    /// were noted.
    pub(super) fn removable(&self) -> u64 {
        self.superseded + self.tombstones
    }

    pub(super) fn tombstone(&mut self, key: usize) {
        self.written += cost(key, 0);
        self.tombstones += cost(key, 0);
    }

    /// The floor moved to a revision with this `removable`.
    pub(super) fn compact(&mut self, removable: u64) {
        assert!(removable >= self.freed, "compaction gave back {} bytes, then {removable}", self.freed);
        assert!(removable <= self.written, "compaction gives back {removable} of {} bytes", self.written);
        self.freed = removable;
    }
}
