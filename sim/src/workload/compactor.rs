//! Who compacts for a control plane, as an API server does: every interval it writes down under one key, whose version all
//! compactors count, at which revision the store is; whoever comes first compacts at what it wrote down an interval ago.
//! (kube-apiserver: storage/etcd3/compact.go)

use quorate_core::request::{
    Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
    TxnResult,
};
use quorate_core::rng::Rng;
use quorate_core::{Blob, Revision};
use quorate_jepsen::history::{Op, Response};

use super::caller::Caller;
use super::contender::Outcome;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::world::redraw::anew;

/// What its version counts the compactions by. (Kubernetes)
pub const COUNTER: &str = "compact_rev_key";

/// One of those who compact.
#[derive(Clone, Debug)]
pub struct Compactor {
    rng: Rng,
    interval: Nanos,
    /// Its calls.
    pub caller: Caller,
    /// The version of [`COUNTER`], as far as it knows.
    version: i64,
    /// The store was there when it last asked.
    revision: Option<Revision>,
    /// It is its turn to compact, there.
    target: Option<Revision>,
}

impl Compactor {
    /// A compactor that begins with `member`.
    #[must_use]
    pub fn new(rng: Rng, interval: Nanos, member: usize) -> Self {
        Self { rng, interval, caller: Caller::new(member), version: 0, revision: None, target: None }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// What to ask next.
    #[must_use]
    pub fn next(&self) -> Op {
        if let Some(target) = self.target {
            return Op::Compact(target);
        }
        let key = || KeyRange::Key(COUNTER.into());
        let value = Blob::from(self.revision.unwrap_or(Revision(0)).to_string().into_bytes());
        let (ignore_value, ignore_lease) = (false, false);
        let put = PutRequest { key: COUNTER.into(), value, lease: None, prev_kv: false, ignore_value, ignore_lease };
        let target = CompareTarget::Version(self.version);
        Op::Txn(TxnRequest {
            compare: vec![Compare { range: key(), result: CompareResult::Equal, target }],
            success: vec![RequestOp::Put(put)],
            failure: vec![RequestOp::Range(RangeRequest::new(key()))],
        })
    }

    /// Its call came to this; gives how long it rests.
    pub fn heard(&mut self, outcome: Outcome) -> Nanos {
        self.target = None;
        if let Outcome::Answered(Response::Txn(TxnResult { revision, succeeded, responses })) = outcome {
            let before = self.revision.replace(revision);
            if succeeded {
                self.version += 1;
                self.target = before;
            } else if let [ResponseOp::Range(found)] = &responses[..] {
                self.version = found.kvs.first().map_or(0, |kv| kv.version);
            }
        }
        if self.target.is_some() { MILLI } else { self.interval / 2 + self.rng.below(self.interval) }
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        SECOND + self.rng.below(4 * SECOND)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.caller.move_on(&mut self.rng, members);
    }
}
