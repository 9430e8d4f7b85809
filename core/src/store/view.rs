//! Reading the published state.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::hash::Fold;
use super::txn::{Done, execute};
use super::values::Values;
use super::{LeaseRecord, Members, View};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{RangeRequest, RangeResult, RequestOp, ResponseOp, TxnRequest, TxnResult};
use crate::rows::Rows;
use crate::{FeatureLevel, LeaseId, Revision};

impl View {
    /// The store's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The compaction floor; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.floor
    }

    /// The feature level in force: every member understands what commands of this level mean, and none above it are
    /// proposed. Raised by an entry, never lowered.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// Answers a range. (etcd: Range; semantics.md section 3) `rows` is the backend as published with this view, or
    /// later if nothing this view can see was removed since.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    pub fn range(&self, rows: &dyn Rows, request: &RangeRequest) -> Result<RangeResult, Error> {
        self.readable(request.revision)?;
        Ok(self.read(&Values::stored(rows), request, self.revision))
    }

    /// Executes a txn that only reads.
    ///
    /// # Errors
    /// As [`View::range`].
    ///
    /// # Panics
    /// If it may write; and as [`View::range`].
    pub fn txn(&self, rows: &dyn Rows, request: &TxnRequest) -> Result<TxnResult, Error> {
        let values = Values::stored(rows);
        let path = self.decide(&values, request, &mut Fold::default());
        self.check_txn(request, &path)?;
        Ok(execute(request, &path, &mut |op| {
            let response = op.map(|op| match op {
                RequestOp::Range(range) => ResponseOp::Range(self.read(&values, range, self.revision)),
                op => panic!("a txn that writes goes through the log: {op:?}"),
            });
            Done { response, revision: self.revision }
        }))
    }

    /// A lease with its attached keys in order. (etcd: LeaseTimeToLive's keys)
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<(LeaseRecord, Vec<crate::Blob>)> {
        let record = self.leases.get(id)?.clone();
        let mut keys = self.leases.keys(id);
        if mutant::is_on(Mutant::K16) {
            keys.pop();
        }
        Some((record, keys))
    }

    /// All leases' IDs, ascending. (etcd: LeaseLeases)
    #[must_use]
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.iter().map(|record| record.lease.id).collect()
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Users, roles and permissions.
    #[must_use]
    pub fn auth(&self) -> &super::Auth {
        &self.auth
    }

    /// Logical bytes of all kept history and of all leases: what the quota is decided on.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        self.logical_bytes
    }
}

/// Any thread may read a view while the next batch is applied.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<View>();
};
