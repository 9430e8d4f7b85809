//! A sequential model of etcd's KV, txn and lease API: naive, and predicting every field of every answer.

use std::collections::BTreeMap;

use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::request::{Lease, PutRequest, RangeRequest, RangeResult, TxnRequest, TxnResult};
use quorate_core::{LeaseId, Revision, Ttl};

mod kv;
mod range;
mod txn;

pub use kv::{Change, Kv};

/// The longest time to live of a lease in seconds. (etcd: MaxLeaseTTL)
pub const TTL_MAX: Ttl = Ttl(9_000_000_000);

/// The whole store as one client after the other sees it.
///
/// Requests are well-formed: what validation refuses before consensus is not the model's concern, nor are quotas and alarms.
#[derive(Clone, Debug)]
pub struct Model {
    kv: Kv,
    /// History below it is gone; -1 until the first compaction.
    compacted: Revision,
    leases: BTreeMap<LeaseId, Ttl>,
    /// Shorter leases are raised to it.
    ttl_min: Ttl,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(Ttl(0))
    }
}

impl Model {
    /// An empty store, at revision 1, which raises the time to live of leases to `ttl_min`.
    #[must_use]
    pub fn new(ttl_min: Ttl) -> Self {
        Self { kv: Kv::default(), compacted: Revision(-1), leases: BTreeMap::new(), ttl_min }
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.kv.revision()
    }

    /// The oldest revision still readable; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The keys and their history.
    #[must_use]
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// All leases with their granted time to live.
    #[must_use]
    pub fn leases(&self) -> &BTreeMap<LeaseId, Ttl> {
        &self.leases
    }

    /// Does `command`.
    ///
    /// # Errors
    /// Those of the request; nothing has changed then.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Error> {
        Ok(match command {
            Command::Put(request) => {
                self.check_lease(request)?;
                self.kv.check_put(request, self.revision())?;
                Outcome::Put(self.kv.put(request))
            }
            Command::DeleteRange(request) => Outcome::DeleteRange(self.kv.delete_range(request)),
            Command::Txn(request) => {
                self.check_txn(request)?;
                Outcome::Txn(self.kv.txn(request))
            }
            Command::Compact { revision } => Outcome::Compact(self.compact(*revision)?),
            Command::LeaseGrant(lease) => Outcome::LeaseGrant(self.grant(*lease)?, self.revision()),
            Command::LeaseRevoke(id) => {
                self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
                self.kv.delete_attached(*id);
                Outcome::LeaseRevoke(self.revision())
            }
            Command::LeaseExpire(ids) => {
                for id in ids {
                    if self.leases.remove(id).is_some() {
                        self.kv.delete_attached(*id);
                    }
                }
                Outcome::Done
            }
            Command::Downgrade(_) => Outcome::Done,
            Command::RaiseAlarm(_) | Command::ClearAlarm(_) => Outcome::Alarms(Vec::new()),
            // Users, roles and members are no part of this model.
            Command::LeaseCheckpoint(_)
            | Command::Publish(_)
            | Command::RaiseFeatureLevel(_)
            | Command::Auth(_)
            | Command::Members(_) => Outcome::Done,
        })
    }

    /// Reads a range.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] and [`Error::Compacted`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResult, Error> {
        self.kv.check_range(request, self.revision(), self.compacted)?;
        Ok(self.kv.range(request, self.revision()))
    }

    /// Answers a txn that has only ranges, as members do from their own state.
    ///
    /// # Errors
    /// Those of its ranges.
    pub fn read(&self, request: &TxnRequest) -> Result<TxnResult, Error> {
        self.check_txn(request)?;
        Ok(self.kv.read(request, self.revision()))
    }

    /// Forgets what revisions before `oldest` changed: [`Kv::changes`] is not asked for them any more.
    pub fn forget(&mut self, oldest: Revision) {
        self.kv.forget(oldest);
    }

    fn check_lease(&self, request: &PutRequest) -> Result<(), Error> {
        match request.lease {
            Some(id) if !self.leases.contains_key(&id) => Err(Error::LeaseNotFound),
            _ => Ok(()),
        }
    }

    fn check_txn(&self, request: &TxnRequest) -> Result<(), Error> {
        self.kv.check_txn(request, self.revision(), self.compacted, &|id| self.leases.contains_key(&id))
    }

    fn compact(&mut self, revision: Revision) -> Result<Revision, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted { oldest: self.compacted });
        }
        if revision > self.revision() {
            return Err(Error::FutureRevision);
        }
        self.compacted = revision;
        self.kv.compact(revision);
        Ok(self.revision())
    }

    fn grant(&mut self, lease: Lease) -> Result<Lease, Error> {
        if lease.ttl > TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&lease.id) {
            return Err(Error::LeaseExists);
        }
        let granted = Lease { id: lease.id, ttl: lease.ttl.max(self.ttl_min) };
        self.leases.insert(granted.id, granted.ttl);
        Ok(granted)
    }
}
