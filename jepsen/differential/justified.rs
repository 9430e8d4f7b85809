//! The differences we mean, each with its reason. Everything else must be the same.

use std::collections::BTreeMap;

use quorate_api::etcdserverpb::{self as pb, request_op, response_op};
use quorate_api::mvccpb::KeyValue;

use crate::api::{Reply, Request};
use crate::op::Op;
use crate::session::Outcome;

/// How often each was met, by name.
pub(crate) type Uses = BTreeMap<&'static str, u64>;

/// A difference with its reason.
pub(crate) struct Justified {
    pub(crate) name: &'static str,
    /// Why ours is right.
    pub(crate) reason: &'static str,
    how: How,
}

/// What makes both sides equal where they differ for this reason, and only there.
enum How {
    /// In the answer to a request.
    Reply(fn(&Request, &mut Reply, &mut Reply)),
    /// In a streamed range.
    Chunks(fn(&pb::RangeRequest, &mut [pb::RangeStreamResponse])),
    /// It is not met: no script contains what would show it, since both sides would go on with different data.
    Avoided,
}

/// The whole list. It must stay short.
pub(crate) const LIST: &[Justified] = &[
    Justified {
        name: "ties",
        reason: "keys that are equal in what they are sorted by have no order in etcd; in Quorate it is that of the keys",
        how: How::Reply(|request, reference, ours| {
            ranges(request, reference, &mut untie);
            ranges(request, ours, &mut untie);
        }),
    },
    Justified {
        name: "overlooked-overlaps",
        reason: "a txn that puts and deletes a key is refused; etcd overlooks it if the delete has no end or is in a later nested txn, and changes the key twice at one revision",
        how: How::Avoided,
    },
    Justified {
        name: "dead-watchers",
        reason: "a watcher that compaction cancelled is gone at once; etcd keeps its ID until the client cancels it again, and answers no question for progress on its stream meanwhile",
        how: How::Avoided,
    },
    Justified {
        name: "stored-hashes",
        reason: "a hash at exactly the compacted revision is computed like any other; etcd answers the one it took during the compaction, and to whoever asks for the newest one after a compaction at 0, that of nothing",
        how: How::Avoided,
    },
    Justified {
        name: "empty-ranges",
        reason: "a range that ends before it begins needs the right to its first key; etcd may refuse it even so, as the shape of its tree of permissions happens to be",
        how: How::Avoided,
    },
    Justified {
        name: "streamed-sorts",
        reason: "a range stream whose chunks are sorted by something else than keys goes on after a chunk's greatest key; etcd goes on after its last one, so it repeats keys and leaves out others, and miscounts what is left behind a limit (no script asks for a second chunk)",
        how: How::Chunks(uncount),
    },
];

/// Applies what the list has for answers, one by one, until both sides agree.
pub(crate) fn outcome(op: &Op, reference: &mut Outcome, ours: &mut Outcome, uses: &mut Uses) -> bool {
    for justified in LIST {
        let before = (reference.clone(), ours.clone());
        match (&justified.how, op, &mut *reference, &mut *ours) {
            (
                How::Reply(adjust),
                Op::Call { request, .. },
                Outcome::Answer(Ok(reference)),
                Outcome::Answer(Ok(ours)),
            ) => {
                adjust(request, reference, ours);
            }
            (
                How::Chunks(adjust),
                Op::RangeStream { range, .. },
                Outcome::Chunks(Ok(reference)),
                Outcome::Chunks(Ok(ours)),
            ) => {
                adjust(range, reference);
                adjust(range, ours);
            }
            _ => {}
        }
        if before != (reference.clone(), ours.clone()) {
            *uses.entry(justified.name).or_default() += 1;
        }
        if reference == ours {
            return true;
        }
    }
    false
}

/// Every range in a request with its answer.
fn ranges(request: &Request, reply: &mut Reply, see: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse)) {
    match (request, reply) {
        (Request::Range(range), Reply::Range(reply)) => see(range, reply),
        (Request::Txn(txn), Reply::Txn(reply)) => txn_ranges(txn, reply, see),
        _ => {}
    }
}

fn txn_ranges(
    txn: &pb::TxnRequest,
    reply: &mut pb::TxnResponse,
    see: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse),
) {
    let ops = if reply.succeeded { &txn.success } else { &txn.failure };
    for (op, response) in ops.iter().zip(&mut reply.responses) {
        match (&op.request, &mut response.response) {
            (Some(request_op::Request::RequestRange(range)), Some(response_op::Response::ResponseRange(reply))) => {
                see(range, reply);
            }
            (Some(request_op::Request::RequestTxn(txn)), Some(response_op::Response::ResponseTxn(reply))) => {
                txn_ranges(txn, reply, see);
            }
            _ => {}
        }
    }
}

/// Forgets how many keys there are if a limit cut them after they were sorted by anything but keys.
fn uncount(range: &pb::RangeRequest, chunks: &mut [pb::RangeStreamResponse]) {
    let last = chunks.last_mut().and_then(|chunk| chunk.range_response.as_mut());
    if let Some(last) = last.filter(|last| last.more && range.sort_order <= 0 && range.sort_target > 0) {
        last.count = 0;
    }
}

/// Puts ties in order of keys. Of ties that a limit may have cut, only their number counts.
fn untie(range: &pb::RangeRequest, reply: &mut pb::RangeResponse) {
    use pb::range_request::SortTarget;
    let tie = |kv: &KeyValue| match SortTarget::try_from(range.sort_target) {
        Ok(SortTarget::Version) => kv.version.to_be_bytes().to_vec(),
        Ok(SortTarget::Create) => kv.create_revision.to_be_bytes().to_vec(),
        Ok(SortTarget::Mod) => kv.mod_revision.to_be_bytes().to_vec(),
        Ok(SortTarget::Value) => kv.value.to_vec(),
        _ => kv.key.to_vec(),
    };
    let cut = reply.more.then(|| reply.kvs.last().map(&tie)).flatten();
    for run in reply.kvs.chunk_by_mut(|a, b| tie(a) == tie(b)) {
        run.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if let Some(cut) = cut {
        for kv in reply.kvs.iter_mut().filter(|kv| tie(kv) == cut) {
            *kv = KeyValue::default();
        }
    }
}
