//! What clients do: a closed loop of operations over few keys, so that they meet each other.

use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use quorate_core::rng::Rng;
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::Op;

use crate::swarm::{self, Mix};
use crate::world::redraw::anew;

pub mod badge;
pub mod cache;
pub mod caller;
pub mod chore;
pub mod client;
pub mod compactor;
pub mod contender;
pub mod controller;
pub mod ear;
pub mod members;
pub mod observer;
pub mod operator;
pub mod watcher;

/// What a session's owner shows.
pub type Token = std::sync::Arc<str>;

/// What a client knows of the store and may refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The highest revision seen.
    pub revision: Revision,
    /// The highest compaction asked for.
    pub compacted: Revision,
    /// A lease it holds.
    pub lease: Option<LeaseId>,
}

/// Draws operations.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
    keys: u64,
    mix: Mix,
    client: usize,
    written: u64,
}

impl Generator {
    /// Operations of `client` over `keys` keys.
    #[must_use]
    pub fn new(rng: Rng, client: usize, keys: u64, mix: Mix) -> Self {
        Self { rng, keys, mix, client, written: 0 }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// Whether this client does nothing but linearizable reads. A client that also writes soon waits for a write when its
    /// member is cut off, and no longer reads there what may be old.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        self.client % 4 == 1
    }

    /// The next operation on keys.
    pub fn operation(&mut self, known: Known) -> Op {
        if self.only_reads() {
            let mut range = self.range(known);
            (range.serializable, range.revision) = (false, None);
            return Op::Range(range);
        }
        let Mix { puts, ranges, deletes, txns, compactions, .. } = self.mix;
        match swarm::pick(&mut self.rng, &[(puts, 0), (ranges, 1), (deletes, 2), (txns, 3), (compactions, 4)]) {
            0 => Op::Put(self.put(known)),
            1 => Op::Range(self.range(known)),
            2 => Op::DeleteRange(self.delete()),
            3 => Op::Txn(self.txn(known, 1)),
            _ => Op::Compact(self.compaction(known)),
        }
    }

    /// What a client's next step may have to do with leases: below 18, something.
    pub fn lease_ticket(&mut self) -> u64 {
        let ticket = self.rng.below(100);
        if self.only_reads() || ticket >= self.mix.leases { 99 } else { ticket % 18 }
    }

    /// A key that clients share.
    pub fn key(&mut self) -> Blob {
        let key = self.rng.below(self.keys);
        Blob::from(format!("k{key:03}").into_bytes())
    }

    /// Some of the shared keys.
    pub fn keys(&mut self) -> KeyRange {
        match self.rng.below(10) {
            0..6 => KeyRange::Key(self.key()),
            6..9 => {
                // Sometimes empty: the end may lie before the start.
                let (start, end) = (self.key(), self.key());
                KeyRange::Bounded { start, end }
            }
            _ => KeyRange::From(self.key()),
        }
    }

    fn value(&mut self) -> Blob {
        self.written += 1;
        let mut value = format!("{}.{}", self.client, self.written).into_bytes();
        if self.rng.chance(1, 20) {
            let padding = self.rng.below(3_000);
            value.resize(value.len() + usize::try_from(padding).expect("small values"), b'.');
        }
        Blob::from(value)
    }

    fn put(&mut self, known: Known) -> PutRequest {
        let lease = if self.rng.chance(1, 4) { known.lease } else { None };
        let mut put = PutRequest {
            key: self.key(),
            value: self.value(),
            lease,
            prev_kv: self.rng.chance(1, 3),
            ignore_value: false,
            ignore_lease: false,
        };
        match self.rng.below(20) {
            0 => (put.ignore_value, put.value) = (true, Blob::EMPTY),
            1 => (put.ignore_lease, put.lease) = (true, None),
            _ => {}
        }
        put
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let range = if self.rng.chance(4, 5) { KeyRange::Key(self.key()) } else { self.keys() };
        DeleteRangeRequest { range, prev_kv: self.rng.chance(1, 3) }
    }

    /// A revision around those known, now and then one that does not exist yet or no more.
    fn revision(&mut self, known: Known) -> Revision {
        let newest = u64::try_from(known.revision.0.max(1)).expect("revisions are positive");
        let back = if self.rng.chance(1, 5) { self.rng.below(newest + 1) } else { self.rng.below(20.min(newest)) };
        let ahead = if self.rng.chance(1, 20) { 1_000 } else { 0 };
        Revision(i64::try_from(newest - back.min(newest - 1) + ahead).expect("small revisions"))
    }

    fn range(&mut self, known: Known) -> RangeRequest {
        let mut range = RangeRequest::new(self.keys());
        let rng = &mut self.rng;
        range.serializable = rng.chance(1, 4);
        range.keys_only = rng.chance(1, 10);
        range.count_only = rng.chance(1, 10);
        if rng.chance(1, 4) {
            range.limit = rng.below(5);
        }
        if rng.chance(1, 4) {
            range.sort_order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][pick(rng, 3)];
            // Creations and keys differ between keys, or the order of ties, which etcd leaves open, would matter.
            range.sort_target = [SortTarget::Key, SortTarget::Mod, SortTarget::Value][pick(rng, 3)];
        }
        if rng.chance(1, 4) {
            range.revision = Some(self.revision(known));
        }
        if self.rng.chance(1, 10) {
            let bound = self.revision(known);
            match self.rng.below(4) {
                0 => range.min_mod_revision = bound,
                1 => range.max_mod_revision = bound,
                2 => range.min_create_revision = bound,
                _ => range.max_create_revision = bound,
            }
        }
        range
    }

    fn compare(&mut self, known: Known) -> Compare {
        let range = if self.rng.chance(9, 10) { KeyRange::Key(self.key()) } else { self.keys() };
        let target = match self.rng.below(5) {
            0 => CompareTarget::Version(i64::try_from(self.rng.below(4)).expect("small")),
            1 => CompareTarget::Create(self.revision(known)),
            2 => CompareTarget::Mod(self.revision(known)),
            3 => CompareTarget::Value(Blob::from(format!("{}.", self.rng.below(10)).into_bytes())),
            _ => CompareTarget::Lease(known.lease.map_or(0, |lease| lease.0)),
        };
        let result = match self.rng.below(4) {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            _ => CompareResult::NotEqual,
        };
        Compare { range, result, target }
    }

    fn txn(&mut self, known: Known, nesting: u32) -> TxnRequest {
        let reads_only = self.rng.chance(1, 5);
        let compares = self.rng.below(3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare(known)).collect(),
            success: self.branch(known, nesting, reads_only),
            failure: self.branch(known, nesting, reads_only),
        }
    }

    /// Operations of which no two write the same key: a txn that did would be refused.
    fn branch(&mut self, known: Known, nesting: u32, reads_only: bool) -> Vec<RequestOp> {
        let mut branch = Vec::new();
        let mut writes = false;
        for _ in 0..self.rng.below(4) {
            branch.push(match self.rng.below(10) {
                0..4 if !reads_only && !writes => {
                    let mut put = self.put(known);
                    put.ignore_lease = false;
                    RequestOp::Put(put)
                }
                4 | 5 if !reads_only && !writes => {
                    writes = true;
                    RequestOp::DeleteRange(self.delete())
                }
                6 if !reads_only && nesting > 0 && !writes => {
                    writes = true;
                    RequestOp::Txn(self.txn(known, nesting - 1))
                }
                _ => {
                    let mut range = self.range(known);
                    if !reads_only {
                        range.serializable = false;
                    }
                    RequestOp::Range(range)
                }
            });
        }
        branch
    }

    fn compaction(&mut self, known: Known) -> Revision {
        // Mostly something that can be compacted.
        let newest = known.revision.0.max(1);
        let oldest = known.compacted.0.clamp(0, newest);
        let span = u64::try_from(newest - oldest).expect("ordered");
        let ahead = self.rng.below(span + 1) * self.rng.below(4) / 3;
        Revision(oldest + i64::try_from(ahead).expect("small revisions"))
    }

    /// A TTL to ask for.
    pub fn ttl(&mut self) -> Ttl {
        Ttl([1, 2, 3, 5, 10][pick(&mut self.rng, 5)])
    }

    /// What it draws from.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// True with this probability.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.rng.chance(numerator, denominator)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }
}

fn pick(rng: &mut Rng, len: usize) -> usize {
    usize::try_from(rng.below(len as u64)).expect("a short list")
}
