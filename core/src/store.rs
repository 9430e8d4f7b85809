//! The replicated state: keys with their history, leases, members. Same entries, same state, on every member.
//!
//! [`Store::apply`] turns committed entries into a [`Batch`]: the rows to write, the answers, the events. The driver
//! commits the rows in one atomic batch and then publishes [`Store::view`]; readers never see a state between.
//!
//! In memory are the keys with their counters and revisions (`store::index`), leases and members, all in persistent trees,
//! so that a [`View`] is O(1) and never changes; values are only in the backend's rows (`store::rows`). A put reads nothing
//! back and writes two rows: its record, by revision, and its value, by key.

mod alarm;
mod apply;
mod auth;
mod compact;
mod dedup;
mod downgrade;
mod export;
mod hash;
mod hash_kv;
mod history;
mod import;
mod index;
mod kv;
mod lease;
mod load;
mod members;
mod quota;
mod range;
mod revisions;
mod rows;
mod txn;
mod values;
mod view;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use auth::{Auth, AuthState, Need, User};
pub use hash_kv::KvHash;
pub use members::Members;

use crate::command::{Origin, Outcome};
use crate::entry::{Entry, FEATURE_LEVEL};
use crate::error::Error;
use crate::request::{Alarm, KeyValue, Lease};
use crate::rows::{RowWrite, Rows};
use crate::{Blob, FeatureLevel, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

pub use export::Change;
pub use import::{History, Import, ImportError, Imported, import};

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
    /// The running state hash after every entry of this batch.
    pub hashes: Vec<(LogIndex, u64)>,
    /// The running state hash after `index`.
    pub hash: u64,
    /// Answers to this member's own proposals, in order. A duplicate delivery has none.
    pub results: Vec<(Origin, Result<Outcome, Error>)>,
    /// What happened to leases, in order.
    pub leases: Vec<LeaseChange>,
    /// The alarms that are on, if that has changed.
    pub alarms: Option<Vec<Alarm>>,
    /// The members after it, if it changed them.
    pub members: Option<Arc<Members>>,
    /// The feature level in force after it.
    pub level: FeatureLevel,
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
    /// Its expiry was refused, since the CORRUPT alarm is on: it lives on.
    Kept(LeaseId),
}

/// What an entry did to the sessions of users: they are not part of the state, but of every member that applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// A session begins.
    Opened {
        /// The entry that opened it.
        index: LogIndex,
        /// The part of its token that nobody can guess.
        secret: alloc::string::String,
        /// Whose it is.
        user: alloc::string::String,
    },
    /// Every session of this user ends.
    UserGone(alloc::string::String),
    /// Every session ends.
    AllGone,
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
    /// Bytes of its value there; 0 if it did not exist.
    pub previous_bytes: u32,
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
    /// For [`crate::auth::Sessions`], in order.
    pub sessions: Vec<SessionChange>,
    /// The next entry raises the feature level beyond what this build understands: neither it nor anything behind it was
    /// applied, and the member has to stop.
    pub too_new: Option<TooNew>,
}

/// One slice of physical compaction: rows that no readable revision needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionSlice {
    /// Rows to remove.
    pub writes: Vec<RowWrite>,
    /// Nothing is left to remove below the floor as it is now.
    pub finished: bool,
}

/// The cluster has been upgraded beyond this build, which cannot tell what its entries and its state mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster's feature level is {level}, and this version understands levels up to {understood}: start this member \
     with a version that understands {level}, on the same data, which is left as it is"
)]
pub struct TooNew {
    /// The cluster's feature level.
    pub level: FeatureLevel,
    /// The highest one that this build understands.
    pub understood: FeatureLevel,
}

/// Why a backend's rows cannot be read as a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// They are those of a cluster that this build does not understand. Nothing is wrong with them.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// A row is missing, malformed or contradicts another.
    #[error("the applied state is damaged: {0}")]
    Damaged(alloc::string::String),
}

/// The replicated state of one member.
#[derive(Debug)]
pub struct Store {
    /// Whose answers to keep.
    member: NodeId,
    /// The state as readers will see it.
    view: View,
    /// The last applied entry.
    applied: (LogIndex, Term),
    /// The chain over everything applied.
    hash: u64,
    /// The highest feature level that this build understands.
    understood: FeatureLevel,
    ledger: quota::Ledger,
    dedup: dedup::Dedup,
    cleaning: compact::Cleaning,
}

/// The published state at one revision: cheap to clone, answers reads on any thread.
#[derive(Clone, Debug)]
pub struct View {
    index: index::Index,
    leases: lease::Leases,
    alarms: Arc<BTreeSet<Alarm>>,
    downgrade: Option<Arc<str>>,
    auth: Arc<Auth>,
    members: Arc<Members>,
    revision: Revision,
    /// -1 <= floor <= revision; -1 before the first compaction.
    floor: Revision,
    logical_bytes: u64,
    feature_level: FeatureLevel,
}

/// The state a delete leaves.
fn tombstone(key: Blob, main: Revision) -> KeyValue {
    let (create_revision, version) = (Revision(0), 0);
    KeyValue { key, create_revision, mod_revision: main, version, value: Blob::EMPTY, lease: None }
}

/// The last applied index that `rows` hold, 0 if none: all that must be read to know how far a backend has got.
///
/// # Panics
/// If the row that says so is damaged.
#[must_use]
pub fn applied_index(rows: &dyn Rows) -> LogIndex {
    load::applied_index(rows)
}

impl Store {
    /// The store that `rows` hold; the empty store if there are none. `member` is whose answers to keep.
    ///
    /// # Errors
    /// If the rows are not those of a store.
    pub fn load(member: NodeId, rows: &dyn Rows) -> Result<Self, LoadError> {
        Self::load_as(member, FEATURE_LEVEL, rows)
    }

    /// The same, of a build that understands feature levels up to `understood`.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_as(member: NodeId, understood: FeatureLevel, rows: &dyn Rows) -> Result<Self, LoadError> {
        load::load(member, understood, rows)
    }

    fn empty(member: NodeId, understood: FeatureLevel) -> Self {
        let view = View {
            index: index::Index::default(),
            leases: lease::Leases::default(),
            members: Arc::default(),
            alarms: Arc::default(),
            downgrade: None,
            auth: Arc::default(),
            revision: Revision(1),
            floor: Revision(-1),
            logical_bytes: 0,
            feature_level: FeatureLevel(0),
        };
        Self {
            member,
            view,
            applied: (LogIndex(0), Term(0)),
            hash: 0,
            understood,
            ledger: quota::Ledger::default(),
            dedup: dedup::Dedup::default(),
            cleaning: compact::Cleaning::default(),
        }
    }

    /// Applies `entries` in order, up to one that this build does not understand ([`Batch::too_new`]). `rows` is the
    /// backend as of the last batch.
    ///
    /// # Panics
    /// If the entries do not continue the applied index, or one of them cannot be decoded.
    pub fn apply(&mut self, entries: &[Entry], rows: &dyn Rows) -> Batch {
        apply::apply(self, entries, rows)
    }

    /// The state to publish once the last batch's rows are committed.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The last applied index and its term; 0 in an empty store.
    #[must_use]
    pub fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    /// The running state hash.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// All leases, by ID.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseRecord> {
        self.view.leases.iter().cloned().collect()
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.view.members)
    }

    /// The feature level in force: see [`View::feature_level`].
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.view.feature_level
    }

    /// The next at most `keys` records' worth of rows below the floor that nothing readable needs. Not part of the
    /// replicated state: members may be at different points of it. `pin` is the oldest revision still being read;
    /// what it holds back is not finished. `rows` is the backend as of the last batch and slice.
    pub fn compact_slice(&mut self, rows: &dyn Rows, keys: usize, pin: Option<Revision>) -> CompactionSlice {
        compact::slice(self, rows, keys, pin)
    }

    /// Brings up to date what the quota is decided on, after changes of the ledger or of the leases.
    fn weigh(&mut self) {
        self.view.logical_bytes = self.ledger.kept() + self.view.leases.bytes();
    }

    /// Asserts what holds after every batch, in O(1).
    fn check(&self) {
        let View { revision, floor, .. } = self.view;
        assert!(revision.0 >= 1, "revision {revision} is before the empty store's");
        assert!(floor <= revision, "floor {floor} > revision {revision}");
        assert!(self.applied.0.0 > 0 || revision.0 == 1, "revision {revision} without an applied entry");
    }

    /// Asserts that memory and `rows` (the backend as of the last batch and slice) tell the same, down to the digest of
    /// every kept value: O(n) and a read of everything.
    ///
    /// # Panics
    /// If they do not, naming the key and the revision.
    pub fn check_deep(&self, rows: &dyn Rows) {
        self.view.index.check_deep();
        let values = values::Values::stored(rows);
        let cleaned = self.cleaning.finished.unwrap_or(Revision(-1));
        let mut attached = 0;
        for (key, versions) in self.view.index.all() {
            assert_eq!(versions.removable(cleaned), 0, "{key:?} has revisions below the floor {cleaned}");
            for rev in versions.iter() {
                let (main, sub) = (rev.main(), rev.sub());
                let record = values.record(main, sub).unwrap_or_else(|| panic!("no record of {key:?} at {main}.{sub}"));
                assert_eq!(record.key, Blob::copy(key), "the key of revision {main}.{sub}");
                assert_eq!(record.put.is_none(), rev.is_tombstone(), "whether {key:?} was deleted at {main}.{sub}");
                let Some(put) = record.put else { continue };
                let value = values.value(key, main, sub);
                assert_eq!(put.value_bytes as usize, value.len(), "bytes of {key:?} at {main}.{sub}");
                assert_eq!(put.digest, hash::digest(&value), "digest of {key:?} at {main}.{sub}");
                assert_eq!(put.value_bytes, rev.value_bytes(), "bytes of {key:?} at {main}.{sub} in memory");
            }
            let Some((rev, meta)) = versions.live() else { continue };
            assert_eq!(values.meta(key, rev.main(), rev.sub()), meta, "counters of {key:?}");
            attached += usize::from(meta.lease.is_some());
        }
        for (lease, key) in self.view.leases.attachments() {
            assert!(self.view.leases.contains(lease), "{key:?} is attached to lease {lease}, which does not exist");
            let live = self.view.index.live(key).and_then(|(_, meta)| meta.lease);
            assert_eq!(live, Some(lease), "the lease of {key:?}");
            attached -= 1;
        }
        assert_eq!(attached, 0, "keys name a lease that does not know them");
    }
}
