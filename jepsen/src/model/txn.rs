//! Transactions: every compare first, then every check, then the operations in order.

use std::cmp::Ordering;

use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, KeyValue, PutRequest, RequestOp, ResponseOp, TxnRequest, TxnResult,
};
use quorate_core::{LeaseId, Revision};

use super::kv::Kv;

/// Which branches a txn and the txns nested in its chosen branch take.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn ops<'t>(&self, txn: &'t TxnRequest) -> &'t [RequestOp] {
        if self.succeeded { &txn.success } else { &txn.failure }
    }
}

impl Kv {
    /// Whether a put outside of txns finds what it is told to keep, as of revision `at`.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`]
    pub fn check_put(&self, put: &PutRequest, at: Revision) -> Result<(), Error> {
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && self.get(&put.key, at).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    /// Whether the branches that `txn` takes at revision `now` can be executed.
    ///
    /// # Errors
    /// That of the first operation, in their order, that cannot. (etcd: checkPut, checkRange)
    pub fn check_txn(
        &self,
        txn: &TxnRequest,
        now: Revision,
        compacted: Revision,
        lease_exists: &dyn Fn(LeaseId) -> bool,
    ) -> Result<(), Error> {
        let path = self.path(txn, now);
        each(txn, &path, &mut |op| match op {
            RequestOp::Put(put) => {
                if put.lease.is_some_and(|id| !lease_exists(id)) && !mutant::is_on(Mutant::J16) {
                    return Err(Error::LeaseNotFound);
                }
                self.check_put(put, now)
            }
            RequestOp::Range(range) => self.check_range(range, now, compacted),
            _ => Ok(()),
        })
    }

    /// Executes a checked txn.
    pub fn txn(&mut self, txn: &TxnRequest) -> TxnResult {
        let path = self.path(txn, self.revision());
        let responses = self.execute(txn, &path);
        self.finish();
        TxnResult { revision: self.revision(), succeeded: path.succeeded, responses }
    }

    /// Answers a txn without writes as of revision `now`.
    ///
    /// # Panics
    /// If it would write.
    #[must_use]
    pub fn read(&self, txn: &TxnRequest, now: Revision) -> TxnResult {
        self.read_path(txn, &self.path(txn, now), now, now)
    }

    fn read_path(&self, txn: &TxnRequest, path: &Path, now: Revision, shown: Revision) -> TxnResult {
        let mut nested = path.nested.iter();
        let responses = path.ops(txn).iter().map(|op| match op {
            RequestOp::Range(range) => ResponseOp::Range(self.range(range, now)),
            RequestOp::Txn(inner) => {
                let path = nested.next().expect("one path for each nested txn");
                ResponseOp::Txn(self.read_path(inner, path, now, Revision(0)))
            }
            RequestOp::Put(_) | RequestOp::DeleteRange(_) => panic!("a txn that writes is not a read"),
        });
        TxnResult { revision: shown, succeeded: path.succeeded, responses: responses.collect() }
    }

    fn path(&self, txn: &TxnRequest, at: Revision) -> Path {
        let mut path = Path { succeeded: txn.compare.iter().all(|c| self.holds(c, at)), nested: Vec::new() };
        for op in path.ops(txn) {
            if let RequestOp::Txn(inner) = op {
                path.nested.push(self.path(inner, at));
            }
        }
        path
    }

    fn execute(&mut self, txn: &TxnRequest, path: &Path) -> Vec<ResponseOp> {
        let mut nested = path.nested.iter();
        let execute = |op: &RequestOp| match op {
            RequestOp::Range(range) => ResponseOp::Range(self.range(range, self.reading())),
            RequestOp::Put(put) => ResponseOp::Put(self.put_in_txn(put)),
            RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete_in_txn(delete)),
            RequestOp::Txn(inner) => {
                let path = nested.next().expect("one path for each nested txn");
                let responses = self.execute(inner, path);
                ResponseOp::Txn(TxnResult { revision: Revision(0), succeeded: path.succeeded, responses })
            }
        };
        path.ops(txn).iter().map(execute).collect()
    }

    fn holds(&self, compare: &Compare, at: Revision) -> bool {
        let (mut any, mut all) = (false, true);
        self.visit(&compare.range, at, |kv| {
            any = true;
            all &= holds_of(compare, Some(kv));
        });
        if any { all } else { holds_of(compare, None) }
    }
}

fn each(txn: &TxnRequest, path: &Path, check: &mut dyn FnMut(&RequestOp) -> Result<(), Error>) -> Result<(), Error> {
    let mut nested = path.nested.iter();
    for op in path.ops(txn) {
        match op {
            RequestOp::Txn(inner) => each(inner, nested.next().expect("one path for each nested txn"), check)?,
            op => check(op)?,
        }
    }
    Ok(())
}

fn holds_of(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let number = |of: fn(&KeyValue) -> i64, given: i64| kv.map_or(0, of).cmp(&given);
    let order = match &compare.target {
        CompareTarget::Version(given) => number(|kv| kv.version, *given),
        CompareTarget::Create(given) => number(|kv| kv.create_revision.0, given.0),
        CompareTarget::Mod(given) => number(|kv| kv.mod_revision.0, given.0),
        CompareTarget::Lease(given) => number(|kv| kv.lease.map_or(0, |l| l.0), *given),
        CompareTarget::Value(given) => match kv {
            Some(kv) => kv.value.cmp(given),
            None => return false,
        },
        CompareTarget::Unknown => Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Unknown => true,
    }
}
