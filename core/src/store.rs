//! The replicated state: keys with their history, leases, members. Same entries, same state, on every member.
//!
//! [`Store::apply`] turns committed entries into a [`Batch`]: the rows to write, the answers, the events. The driver
//! commits the rows in one atomic batch and then publishes [`Store::view`]; readers never see a state between.

use alloc::vec::Vec;

use crate::command::{Origin, Outcome};
use crate::entry::Entry;
use crate::error::Error;
use crate::request::{KeyValue, Lease, Member};
use crate::rows::{RowWrite, Rows};
use crate::{FeatureLevel, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

/// What applying a batch of entries did, as far as other machines care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The last applied index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The store's revision after it.
    pub revision: Revision,
    /// The compaction floor after it; -1 before the first compaction.
    pub compacted: Revision,
    /// The running state hash after every entry whose index is a multiple of [`HASH_INTERVAL`] in this batch.
    pub hashes: Vec<(LogIndex, u64)>,
    /// The running state hash after `index`.
    pub hash: u64,
    /// Answers to this member's own proposals, in order. A duplicate delivery has none.
    pub results: Vec<(Origin, Result<Outcome, Error>)>,
    /// What happened to leases, in order.
    pub leases: Vec<LeaseChange>,
}

/// State hashes are compared between members at multiples of this many entries.
pub const HASH_INTERVAL: u64 = 128;

/// What an entry did to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// It exists from now on.
    Granted(Lease),
    /// It is gone, by revoke or expiry.
    Revoked(LeaseId),
    /// The leader wrote down how much is left; `None`: it was renewed, the full TTL counts again.
    Checkpointed(LeaseId, Option<Ttl>),
}

/// A lease as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its ID and granted TTL.
    pub lease: Lease,
    /// What the last checkpoint said was left, if one is in force.
    pub remaining: Option<Ttl>,
}

/// One change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// A put's new state; for a delete only `key` and `mod_revision` are set, the rest is 0 or empty. (etcd)
    pub kv: KeyValue,
    /// Whether the key was removed.
    pub deleted: bool,
    /// Position within its revision.
    pub sub: u32,
    /// The key's revision (main, sub) before this change, if it existed: where its previous state is found.
    pub previous: Option<(Revision, u32)>,
}

/// All changes of one revision, in order of `sub`; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The main revision.
    pub revision: Revision,
    /// Its changes.
    pub events: Vec<Event>,
}

/// The outcome of [`Store::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// For `Replica`.
    pub applied: Applied,
    /// For `WatchHub`, ascending.
    pub events: Vec<RevisionEvents>,
    /// For the backend, to be committed atomically, later writes of the same row winning.
    pub writes: Vec<RowWrite>,
}

/// One slice of physical compaction: rows that no readable revision needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionSlice {
    /// Rows to remove.
    pub writes: Vec<RowWrite>,
    /// Nothing is left to remove below the floor as it is now.
    pub finished: bool,
}

/// Why a backend's rows cannot be read as a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A row is missing, malformed or contradicts another.
    #[error("the applied state is damaged: {0}")]
    Damaged(alloc::string::String),
}

/// The replicated state of one member.
#[derive(Debug)]
pub struct Store {
    member: NodeId,
}

/// The published state at one revision: cheap to clone, answers reads on any thread.
#[derive(Clone, Debug)]
pub struct View {
    revision: Revision,
}

/// The last applied index that `rows` hold, 0 if none: all that must be read to know how far a backend has got.
#[must_use]
pub fn applied_index(rows: &dyn Rows) -> LogIndex {
    let _ = rows;
    unimplemented!()
}

impl Store {
    /// The store that `rows` hold; the empty store if there are none. `member` is whose answers to keep.
    ///
    /// # Errors
    /// If the rows are not those of a store.
    pub fn load(member: NodeId, rows: &dyn Rows) -> Result<Self, LoadError> {
        let _ = rows;
        Ok(Self { member })
    }

    /// Applies `entries` in order. `rows` is the backend as of the last batch.
    ///
    /// # Panics
    /// If the entries do not continue the applied index, or one of them cannot be decoded.
    pub fn apply(&mut self, entries: &[Entry], rows: &dyn Rows) -> Batch {
        let _ = (entries, rows, self.member);
        unimplemented!()
    }

    /// The state to publish once the last batch's rows are committed.
    #[must_use]
    pub fn view(&self) -> View {
        unimplemented!()
    }

    /// The last applied index and its term; 0 in an empty store.
    #[must_use]
    pub fn applied(&self) -> (LogIndex, Term) {
        unimplemented!()
    }

    /// The running state hash.
    #[must_use]
    pub fn hash(&self) -> u64 {
        unimplemented!()
    }

    /// All leases, by ID.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseRecord> {
        unimplemented!()
    }

    /// What all members have agreed to understand.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        unimplemented!()
    }

    /// The next at most `keys` keys' worth of rows below the floor that nothing readable needs. Not part of the
    /// replicated state: members may be at different points of it. `pin` is the oldest revision still being read.
    pub fn compact_slice(&mut self, rows: &dyn Rows, keys: usize, pin: Option<Revision>) -> CompactionSlice {
        let _ = (rows, keys, pin);
        unimplemented!()
    }
}

impl View {
    /// The store's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The compaction floor; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        unimplemented!()
    }

    /// Answers a range. (etcd: Range; semantics.md section 3)
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(
        &self,
        rows: &dyn Rows,
        request: &crate::request::RangeRequest,
    ) -> Result<crate::request::RangeResult, Error> {
        let _ = (rows, request);
        unimplemented!()
    }

    /// Executes a txn that only reads.
    ///
    /// # Errors
    /// As [`View::range`].
    ///
    /// # Panics
    /// If it may write.
    pub fn txn(
        &self,
        rows: &dyn Rows,
        request: &crate::request::TxnRequest,
    ) -> Result<crate::request::TxnResult, Error> {
        let _ = (rows, request);
        unimplemented!()
    }

    /// The changes of `from..=through` (clipped to what exists), whole revisions, stopping after the first one that
    /// brings the total above `bytes_max`. Also returns the last revision looked at.
    ///
    /// # Errors
    /// [`Error::Compacted`] if `from` is below the floor.
    pub fn history(
        &self,
        rows: &dyn Rows,
        from: Revision,
        through: Revision,
        bytes_max: u64,
    ) -> Result<(Vec<RevisionEvents>, Revision), Error> {
        let _ = (rows, from, through, bytes_max);
        unimplemented!()
    }

    /// The state of a key before `event`; `None` if it was created by it, or if compaction has removed the state.
    #[must_use]
    pub fn previous(&self, rows: &dyn Rows, event: &Event) -> Option<KeyValue> {
        let _ = (rows, event);
        unimplemented!()
    }

    /// A lease with its attached keys in order. (etcd: LeaseTimeToLive's keys)
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<(LeaseRecord, Vec<crate::Blob>)> {
        let _ = id;
        unimplemented!()
    }

    /// All leases' IDs. (etcd: LeaseLeases)
    #[must_use]
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        unimplemented!()
    }

    /// The members as published.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }

    /// Logical bytes of all kept history: what the quota is decided on.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        unimplemented!()
    }
}
