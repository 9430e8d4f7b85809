//! Which keys an operation may touch, and what its answer says of them.

use quorate_core::request::{KeyRange, KeyValue, PutRequest, RequestOp, ResponseOp, TxnRequest, TxnResult};

use crate::history::{Op, Response};

/// Calls `touch` with every put that `op` may do, in either branch.
pub(super) fn puts(op: &Op, touch: &mut dyn FnMut(&PutRequest)) {
    match op {
        Op::Put(put) => touch(put),
        Op::Txn(txn) => each(txn, &mut |op| {
            if let RequestOp::Put(put) = op {
                touch(put);
            }
        }),
        _ => {}
    }
}

/// Calls `touch` with every range that `op` may delete, in either branch.
///
/// Revokes delete whatever is attached to the lease: not told here.
pub(super) fn deletes(op: &Op, touch: &mut dyn FnMut(&KeyRange)) {
    match op {
        Op::DeleteRange(delete) => touch(&delete.range),
        Op::Txn(txn) => each(txn, &mut |op| {
            if let RequestOp::DeleteRange(delete) = op {
                touch(&delete.range);
            }
        }),
        _ => {}
    }
}

/// Calls `touch` with every range that `op` may write.
pub(super) fn writes(op: &Op, touch: &mut dyn FnMut(&KeyRange)) {
    puts(op, &mut |put| touch(&KeyRange::Key(put.key.clone())));
    deletes(op, touch);
}

/// Calls `touch` with every range that decides what `op` does and answers.
pub(super) fn ranges(op: &Op, touch: &mut dyn FnMut(&KeyRange)) {
    match op {
        Op::Range(range) => touch(&range.range),
        Op::Txn(txn) => {
            compares(txn, touch);
            each(txn, &mut |op| {
                if let RequestOp::Range(range) = op {
                    touch(&range.range);
                }
            });
            writes(op, touch);
        }
        _ => writes(op, touch),
    }
}

/// Calls `touch` with every operation of both branches, those of nested txns included.
fn each(txn: &TxnRequest, touch: &mut dyn FnMut(&RequestOp)) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            RequestOp::Txn(inner) => each(inner, touch),
            op => touch(op),
        }
    }
}

fn compares(txn: &TxnRequest, touch: &mut dyn FnMut(&KeyRange)) {
    txn.compare.iter().for_each(|compare| touch(&compare.range));
    for op in txn.success.iter().chain(&txn.failure) {
        if let RequestOp::Txn(inner) = op {
            compares(inner, touch);
        }
    }
}

/// Whether `op`, were it to happen, could change a key.
pub(super) fn may_write(op: &Op) -> bool {
    let mut any = matches!(op, Op::LeaseRevoke(_));
    writes(op, &mut |_| any = true);
    any
}

/// How many revisions `op` could lead to at most: its own, and one for each lease it attaches a key to.
pub(super) fn revisions(op: &Op) -> i64 {
    let mut leased = 0;
    puts(op, &mut |put| leased += i64::from(put.lease.is_some()));
    i64::from(may_write(op)) + leased
}

/// Whether the answer says that keys were changed; `None` for revokes, whose answers do not tell.
pub(super) fn changed(response: &Response) -> Option<bool> {
    fn txn_changed(txn: &TxnResult) -> bool {
        txn.responses.iter().any(|response| match response {
            ResponseOp::Put(_) => true,
            ResponseOp::DeleteRange(delete) => delete.deleted > 0,
            ResponseOp::Range(_) => false,
            ResponseOp::Txn(inner) => txn_changed(inner),
        })
    }
    match response {
        Response::Put(_) => Some(true),
        Response::DeleteRange(delete) => Some(delete.deleted > 0),
        Response::Txn(txn) => Some(txn_changed(txn)),
        Response::LeaseRevoke(_) => None,
        Response::Range(_) | Response::Compact(_) | Response::LeaseGrant(..) => Some(false),
    }
}

/// Whether the answer is one to such a request, operation by operation.
pub(super) fn fits(op: &Op, response: &Response) -> bool {
    match (op, response) {
        (Op::Txn(txn), Response::Txn(result)) => txn_fits(txn, result),
        (Op::Put(_), Response::Put(_))
        | (Op::DeleteRange(_), Response::DeleteRange(_))
        | (Op::Range(_), Response::Range(_))
        | (Op::Compact(_), Response::Compact(_))
        | (Op::LeaseGrant { .. }, Response::LeaseGrant(..))
        | (Op::LeaseRevoke(_), Response::LeaseRevoke(_)) => true,
        _ => false,
    }
}

fn txn_fits(txn: &TxnRequest, result: &TxnResult) -> bool {
    let ops = branch(txn, result);
    ops.len() == result.responses.len()
        && ops.iter().zip(&result.responses).all(|pair| match pair {
            (RequestOp::Txn(inner), ResponseOp::Txn(result)) => txn_fits(inner, result),
            (RequestOp::Range(_), ResponseOp::Range(_))
            | (RequestOp::Put(_), ResponseOp::Put(_))
            | (RequestOp::DeleteRange(_), ResponseOp::DeleteRange(_)) => true,
            _ => false,
        })
}

fn branch<'t>(txn: &'t TxnRequest, result: &TxnResult) -> &'t [RequestOp] {
    if result.succeeded { &txn.success } else { &txn.failure }
}

/// Calls `see` with every key-value of a fitting answer, and whether its value is there.
pub(super) fn seen(op: &Op, response: &Response, see: &mut dyn FnMut(&KeyValue, bool)) {
    match (op, response) {
        (Op::Range(request), Response::Range(range)) => range.kvs.iter().for_each(|kv| see(kv, !request.keys_only)),
        (Op::Txn(txn), Response::Txn(result)) => txn_seen(txn, result, see),
        (_, Response::Put(put)) => put.prev_kv.iter().for_each(|kv| see(kv, true)),
        (_, Response::DeleteRange(delete)) => delete.prev_kvs.iter().for_each(|kv| see(kv, true)),
        _ => {}
    }
}

fn txn_seen(txn: &TxnRequest, result: &TxnResult, see: &mut dyn FnMut(&KeyValue, bool)) {
    for pair in branch(txn, result).iter().zip(&result.responses) {
        match pair {
            (RequestOp::Range(request), ResponseOp::Range(range)) => {
                range.kvs.iter().for_each(|kv| see(kv, !request.keys_only));
            }
            (RequestOp::Txn(inner), ResponseOp::Txn(result)) => txn_seen(inner, result, see),
            (_, ResponseOp::Put(put)) => put.prev_kv.iter().for_each(|kv| see(kv, true)),
            (_, ResponseOp::DeleteRange(delete)) => delete.prev_kvs.iter().for_each(|kv| see(kv, true)),
            _ => {}
        }
    }
}

/// Whether two answers to the same txn say the same; nested txns' revisions are not on the wire.
pub(super) fn same_txn(a: &TxnResult, b: &TxnResult) -> bool {
    a.succeeded == b.succeeded
        && a.responses.len() == b.responses.len()
        && a.responses.iter().zip(&b.responses).all(|pair| match pair {
            (ResponseOp::Txn(a), ResponseOp::Txn(b)) => same_txn(a, b),
            (a, b) => a == b,
        })
}

/// Whether any key can be in both ranges.
pub(super) fn overlap(a: &KeyRange, b: &KeyRange) -> bool {
    match (a, b) {
        (KeyRange::Key(key), other) | (other, KeyRange::Key(key)) => other.contains(key),
        (KeyRange::From(start), KeyRange::Bounded { start: low, end })
        | (KeyRange::Bounded { start: low, end }, KeyRange::From(start)) => low < end && start < end,
        (KeyRange::From(_), KeyRange::From(_)) => true,
        (KeyRange::Bounded { start: a, end: b }, KeyRange::Bounded { start: c, end: d }) => a.max(c) < b.min(d),
    }
}
