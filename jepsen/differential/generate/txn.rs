//! Txn: compares of all targets, nested txns, and what must be refused in them.

use quorate_api::etcdserverpb::{self as pb, compare::TargetUnion, request_op};

use super::Generator;
use crate::names::AUTO;

impl Generator {
    pub(super) fn txn(&mut self, invalid: bool) {
        let mut txn = self.any_txn(2, invalid);
        while overlooked(&txn) {
            txn = self.any_txn(2, invalid);
        }
        self.call(txn);
    }

    fn any_txn(&mut self, depth: u32, invalid: bool) -> pb::TxnRequest {
        let mut txn = pb::TxnRequest::default();
        for _ in 0..self.below(3) {
            let compare = self.compare();
            txn.compare.push(compare);
        }
        let reads = self.chance(1, 5);
        (txn.success, txn.failure) = (self.ops(depth, reads), self.ops(depth, reads));
        if invalid {
            self.spoil(&mut txn, depth);
        }
        txn
    }

    fn ops(&mut self, depth: u32, reads: bool) -> Vec<pb::RequestOp> {
        // Several writes of few keys in one list are mostly refused, so most lists are short.
        let count = self.pick(&[0, 1, 1, 2, 2, 3, 5]);
        (0..count).map(|_| self.op(depth, reads, false)).collect()
    }

    fn op(&mut self, depth: u32, reads: bool, invalid: bool) -> pb::RequestOp {
        use request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
        let request = match self.below(10) {
            _ if reads => RequestRange(self.any_range(invalid)),
            0..4 => RequestRange(self.any_range(invalid)),
            4..7 => RequestPut(self.any_put(invalid)),
            7 | 8 => RequestDeleteRange(self.any_delete(invalid)),
            _ if depth > 0 => RequestTxn(self.any_txn(depth - 1, invalid)),
            _ => RequestPut(self.any_put(invalid)),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let range_end = if self.chance(1, 4) { self.range_end(&key) } else { vec![] };
        let target = self.pick(&[0, 1, 2, 3, 4]);
        let mut result = self.pick(&[0, 1, 2, 3]);
        let target_union = match target {
            0 => TargetUnion::Version(self.between(-1, 4)),
            1 if self.chance(1, 2) => TargetUnion::CreateRevision(0),
            1 => TargetUnion::CreateRevision(self.between(0, self.revision)),
            2 if self.chance(1, 2) => TargetUnion::ModRevision(0),
            2 => TargetUnion::ModRevision(self.between(0, self.revision)),
            3 => TargetUnion::Value(self.value().into()),
            _ => {
                let lease = self.lease();
                // Two servers may name leases in different orders.
                if lease >= AUTO {
                    result = self.pick(&[0, 3]);
                }
                TargetUnion::Lease(lease)
            }
        };
        let target_union = if self.chance(1, 12) { None } else { Some(target_union) };
        let mut compare = pb::Compare { result, target, key: key.into(), range_end: range_end.into(), target_union };
        match self.below(30) {
            // Numbers outside the enums mean something, too.
            0 => compare.result = self.pick(&[4, -1, i32::MAX]),
            1 => compare.target = self.pick(&[5, -1, i32::MAX]),
            _ => {}
        }
        compare
    }

    fn spoil(&mut self, txn: &mut pb::TxnRequest, depth: u32) {
        let put = |key: Vec<u8>| pb::RequestOp {
            request: Some(request_op::Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() })),
        };
        let key = self.key();
        let branch = if self.chance(1, 2) { &mut txn.success } else { &mut txn.failure };
        match self.rng.below(7) {
            0 => branch.extend([put(key.clone()), put(key)]),
            1 => {
                let delete =
                    pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0xff; 3].into(), prev_kv: false };
                branch.push(put(key));
                branch.push(pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) });
            }
            2 => branch.push(pb::RequestOp { request: None }),
            3 => branch.extend((0..129_u8).map(|i| put(vec![b'z', i]))),
            4 => {
                // Nested txns share what is left of the budget.
                let inner =
                    pb::TxnRequest { success: (0..127_u8).map(|i| put(vec![b'z', i])).collect(), ..Default::default() };
                branch.push(pb::RequestOp { request: Some(request_op::Request::RequestTxn(inner)) });
                let more = usize::try_from(self.rng.below(3)).expect("small");
                branch.extend((0..more).map(|i| put(vec![b'y', i as u8])));
            }
            5 => txn.compare.push(pb::Compare::default()),
            _ => {
                let op = self.op(depth, false, true);
                let at = self.below(3);
                let list = if self.chance(1, 2) { &mut txn.success } else { &mut txn.failure };
                list.insert(at.min(list.len()), op);
            }
        }
    }
}

/// Whether `txn` would change a key twice without etcd noticing: see "overlooked-overlaps" in justified.rs.
fn overlooked(txn: &pb::TxnRequest) -> bool {
    [&txn.success, &txn.failure].into_iter().any(|ops| {
        let mut writes = Writes::default();
        // etcd looks at the deletes of a list first, then at its txns in order, then at its puts.
        let endless = |writes: &Writes| {
            let ends: Vec<_> = writes.deletes.iter().filter(|(_, end)| end == &[0]).collect();
            ends.iter().any(|(start, _)| writes.puts.iter().any(|put| put >= start))
        };
        let mut later = false;
        for op in ops {
            let Some(request_op::Request::RequestTxn(inner)) = &op.request else { continue };
            let mut more = Writes::default();
            more.add_txn(inner);
            later |= writes.puts.iter().any(|put| more.deletes.iter().any(|range| deletes(range, put)));
            later |= overlooked(inner);
            writes.add_txn(inner);
        }
        let mut all = Writes::default();
        all.add(ops);
        later || endless(&all)
    })
}

fn deletes((start, end): &(Vec<u8>, Vec<u8>), key: &Vec<u8>) -> bool {
    if end.is_empty() { key == start } else { key >= start && (end == &[0] || key < end) }
}

/// Keys put and ranges deleted on any path.
#[derive(Default)]
struct Writes {
    puts: Vec<Vec<u8>>,
    deletes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Writes {
    fn add_txn(&mut self, txn: &pb::TxnRequest) {
        self.add(&txn.success);
        self.add(&txn.failure);
    }

    fn add(&mut self, ops: &[pb::RequestOp]) {
        for op in ops {
            match &op.request {
                Some(request_op::Request::RequestPut(put)) => self.puts.push(put.key.to_vec()),
                Some(request_op::Request::RequestDeleteRange(delete)) => {
                    self.deletes.push((delete.key.to_vec(), delete.range_end.to_vec()));
                }
                Some(request_op::Request::RequestTxn(txn)) => self.add_txn(txn),
                _ => {}
            }
        }
    }
}
