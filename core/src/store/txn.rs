//! Compare, then one branch or the other. (etcd: Txn; semantics.md section 5)
//!
//! Three passes: every compare, also of nested txns, is decided on the state before the txn; then everything that the
//! chosen branches could be refused for is checked; only then are they executed, each operation seeing the ones before.

use alloc::vec::Vec;

use super::View;
use super::hash::{Effect, Fold, digest};
use super::index::Meta;
use super::values::Values;
use crate::Revision;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{Compare, CompareResult, CompareTarget, PutRequest, RequestOp, ResponseOp, TxnRequest, TxnResult};

/// Which branch a txn takes, and which ones the nested txns in it, in order.
pub(super) struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn ops<'a>(&self, txn: &'a TxnRequest) -> &'a [RequestOp] {
        if self.succeeded { &txn.success } else { &txn.failure }
    }

    /// The chosen operations with the path of those that are txns.
    fn steps<'a>(&'a self, txn: &'a TxnRequest) -> impl Iterator<Item = (&'a RequestOp, Option<&'a Path>)> {
        let mut nested = self.nested.iter();
        self.ops(txn).iter().map(move |op| match op {
            RequestOp::Txn(_) => (op, nested.next()),
            _ => (op, None),
        })
    }
}

/// Executes the chosen operations in order; `leaf` those that are no txns. `revision` is asked after the last one.
pub(super) fn execute(txn: &TxnRequest, path: &Path, leaf: &mut dyn FnMut(Option<&RequestOp>) -> Done) -> TxnResult {
    let mut responses = Vec::with_capacity(path.ops(txn).len());
    for (op, nested) in path.steps(txn) {
        responses.push(match (op, nested) {
            (RequestOp::Txn(txn), Some(path)) => ResponseOp::Txn(execute(txn, path, leaf)),
            _ => leaf(Some(op)).response.expect("every operation is answered"),
        });
    }
    TxnResult { revision: leaf(None).revision, succeeded: path.succeeded, responses }
}

/// What an operation, or none, led to.
pub(super) struct Done {
    pub(super) response: Option<ResponseOp>,
    /// The store's revision, or the one being made.
    pub(super) revision: Revision,
}

impl View {
    /// The branches that `txn` takes.
    pub(super) fn decide(&self, values: &Values, txn: &TxnRequest, fold: &mut Fold) -> Path {
        let succeeded = txn.compare.iter().all(|compare| self.holds(values, compare, fold));
        fold.effect(Effect::Branch).u64(u64::from(succeeded));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let nested = ops.iter().filter_map(|op| match op {
            RequestOp::Txn(txn) => Some(self.decide(values, txn, fold)),
            _ => None,
        });
        let nested = nested.collect();
        Path { succeeded, nested }
    }

    /// What the chosen branches would be refused for: the first of their operations that would be, in their order.
    /// (etcd 3.7; older ones look at all puts before the ranges)
    pub(super) fn check_txn(&self, txn: &TxnRequest, path: &Path) -> Result<(), Error> {
        path.steps(txn).try_for_each(|(op, nested)| match (op, nested) {
            (RequestOp::Txn(txn), Some(path)) => self.check_txn(txn, path),
            (RequestOp::Put(put), _) => self.check_put(put),
            (RequestOp::Range(range), _) if !mutant::is_on(Mutant::A05) => self.readable(range.revision),
            _ => Ok(()),
        })
    }

    /// What a put would be refused for, in or outside of a txn.
    pub(super) fn check_put(&self, put: &PutRequest) -> Result<(), Error> {
        self.check_lease(put)?;
        self.check_kept(put)
    }

    /// `ignore_*` needs something to keep.
    fn check_kept(&self, put: &PutRequest) -> Result<(), Error> {
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && self.index.live(&put.key).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    /// The lease to attach must exist.
    fn check_lease(&self, put: &PutRequest) -> Result<(), Error> {
        match put.lease {
            Some(lease) if !self.leases.contains(lease) => Err(Error::LeaseNotFound),
            _ => Ok(()),
        }
    }

    /// Whether every key in the compare's range satisfies it; no key at all counts as one that has 0 everywhere.
    fn holds(&self, values: &Values, compare: &Compare, fold: &mut Fold) -> bool {
        let mut none = true;
        for (key, versions) in self.index.iter(&compare.range) {
            let Some((rev, meta)) = versions.live() else { continue };
            none = false;
            let ordering = match &compare.target {
                CompareTarget::Value(wanted) => {
                    let value = values.value(key, rev.main(), rev.sub());
                    fold.effect(Effect::Read).u64(digest(&value));
                    value.cmp(wanted)
                }
                other => counters(other, rev.main(), meta),
            };
            if !satisfies(compare.result, ordering) {
                return false;
            }
        }
        if !none {
            return true;
        }
        match &compare.target {
            CompareTarget::Value(_) => false,
            CompareTarget::Create(Revision(1..)) if mutant::is_on(Mutant::L01) => {
                self.index.iter(&compare.range).next().is_some()
            }
            other => {
                let nothing = Meta { create: Revision(0), version: 0, lease: None };
                satisfies(compare.result, counters(other, Revision(0), nothing))
            }
        }
    }
}

fn counters(target: &CompareTarget, modified: Revision, meta: Meta) -> core::cmp::Ordering {
    match target {
        CompareTarget::Version(wanted) => meta.version.cmp(wanted),
        CompareTarget::Create(wanted) => meta.create.cmp(wanted),
        CompareTarget::Mod(wanted) => modified.cmp(wanted),
        CompareTarget::Lease(wanted) => meta.lease.map_or(0, |lease| lease.0).cmp(wanted),
        CompareTarget::Value(_) => unreachable!("values are compared where they are read"),
        CompareTarget::Unknown => core::cmp::Ordering::Equal,
    }
}

fn satisfies(result: CompareResult, ordering: core::cmp::Ordering) -> bool {
    match result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::Unknown => true,
    }
}
