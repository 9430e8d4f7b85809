//! The client's side of the protobuf API, written apart from the server's so that a mistake there is noticed here.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::error::Error;
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResult, KeyRange, KeyValue, Lease,
    PutRequest, PutResult, RangeRequest, RangeResult, RequestOp, ResponseOp, SortOrder, SortTarget, TxnRequest,
    TxnResult,
};
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{Op, Response};
use quorate_node::status::Status;

use crate::call::Rpc;

mod back;

pub use back::{chore, keys_of, operation};

/// The method and the encoded request for `op`.
#[must_use]
pub fn encode(op: &Op) -> (Rpc, Bytes) {
    let (rpc, bytes) = match op {
        Op::Put(put) => (Rpc::Put, put_request(put).encode_to_vec()),
        Op::DeleteRange(delete) => (Rpc::DeleteRange, delete_request(delete).encode_to_vec()),
        Op::Txn(txn) => (Rpc::Txn, txn_request(txn).encode_to_vec()),
        Op::Range(range) => (Rpc::Range, range_request(range).encode_to_vec()),
        Op::Compact(revision) => {
            (Rpc::Compact, pb::CompactionRequest { revision: revision.0, physical: false }.encode_to_vec())
        }
        Op::LeaseGrant { id, ttl } => {
            (Rpc::LeaseGrant, pb::LeaseGrantRequest { ttl: ttl.0, id: id.map_or(0, |id| id.0) }.encode_to_vec())
        }
        Op::LeaseRevoke(id) => (Rpc::LeaseRevoke, pb::LeaseRevokeRequest { id: id.0 }.encode_to_vec()),
    };
    (rpc, bytes.into())
}

/// The reply to `op`.
///
/// # Panics
/// If the bytes are no such reply: the server broke the protocol.
#[must_use]
pub fn decode(op: &Op, bytes: Bytes) -> Response {
    match op {
        Op::Put(_) => Response::Put(put_result(message(bytes))),
        Op::DeleteRange(_) => Response::DeleteRange(delete_result(message(bytes))),
        Op::Txn(_) => Response::Txn(txn_result(message(bytes))),
        Op::Range(_) => Response::Range(range_result(message(bytes))),
        Op::Compact(_) => Response::Compact(revision(message::<pb::CompactionResponse>(bytes).header.as_ref())),
        Op::LeaseGrant { .. } => {
            let reply: pb::LeaseGrantResponse = message(bytes);
            Response::LeaseGrant(Lease { id: LeaseId(reply.id), ttl: Ttl(reply.ttl) }, revision(reply.header.as_ref()))
        }
        Op::LeaseRevoke(_) => {
            Response::LeaseRevoke(revision(message::<pb::LeaseRevokeResponse>(bytes).header.as_ref()))
        }
    }
}

/// Decodes a reply.
///
/// # Panics
/// If the bytes are no such message.
#[must_use]
pub fn message<M: prost::Message + Default>(bytes: Bytes) -> M {
    M::decode(bytes).expect("a member sends well-formed protobuf")
}

/// The error behind a status, found by its text as etcd's clients do.
#[must_use]
pub fn error(status: &Status) -> Option<Error> {
    let known = [
        Error::EmptyKey,
        Error::KeyNotFound,
        Error::ValueProvided,
        Error::LeaseProvided,
        Error::TooManyOps,
        Error::DuplicateKey,
        Error::InvalidSortOption,
        Error::Compacted { oldest: Revision(0) },
        Error::FutureRevision,
        Error::NoSpace,
        Error::LeaseNotFound,
        Error::LeaseExists,
        Error::LeaseTtlTooLarge,
        Error::RequestTooLarge,
        Error::TooManyRequests,
        Error::NotSupportedForLearner,
        Error::PermissionDenied,
        Error::UserEmpty,
        Error::UserNotFound,
        Error::InvalidAuthToken,
        Error::AuthOldRevision,
    ];
    known.into_iter().find(|error| error.to_string() == status.message)
}

/// The range of keys as the wire has it: key and range_end.
#[must_use]
pub fn key_range(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::Key(key) => (key.0.clone(), Bytes::new()),
        KeyRange::Bounded { start, end } => (start.0.clone(), end.0.clone()),
        // An empty first key cannot be sent: a zero byte is the smallest that can.
        KeyRange::From(start) if start.is_empty() => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
        KeyRange::From(start) => (start.0.clone(), Bytes::from_static(&[0])),
    }
}

fn lease_number(lease: Option<LeaseId>) -> i64 {
    lease.map_or(0, |lease| lease.0)
}

fn put_request(put: &PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.0.clone(),
        value: put.value.0.clone(),
        lease: lease_number(put.lease),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_request(delete: &DeleteRangeRequest) -> pb::DeleteRangeRequest {
    let (key, range_end) = key_range(&delete.range);
    pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

fn range_request(range: &RangeRequest) -> pb::RangeRequest {
    let (key, range_end) = key_range(&range.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(range.limit).expect("small limits"),
        revision: range.revision.map_or(0, |revision| revision.0),
        sort_order: match range.sort_order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        },
        sort_target: match range.sort_target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Mod => 3,
            SortTarget::Value => 4,
        },
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision.0,
        max_mod_revision: range.max_mod_revision.0,
        min_create_revision: range.min_create_revision.0,
        max_create_revision: range.max_create_revision.0,
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    use pb::compare::TargetUnion;
    let (key, range_end) = key_range(&compare.range);
    let (target, union) = match &compare.target {
        CompareTarget::Version(version) => (0, Some(TargetUnion::Version(*version))),
        CompareTarget::Create(revision) => (1, Some(TargetUnion::CreateRevision(revision.0))),
        CompareTarget::Mod(revision) => (2, Some(TargetUnion::ModRevision(revision.0))),
        CompareTarget::Value(value) => (3, Some(TargetUnion::Value(value.0.clone()))),
        CompareTarget::Lease(lease) => (4, Some(TargetUnion::Lease(*lease))),
        CompareTarget::Unknown => (77, None),
    };
    let result = match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
        CompareResult::Unknown => 77,
    };
    pb::Compare { result, target, key, range_end, target_union: union }
}

fn txn_request(txn: &TxnRequest) -> pb::TxnRequest {
    use pb::request_op::Request;
    let op = |op: &RequestOp| pb::RequestOp {
        request: Some(match op {
            RequestOp::Range(range) => Request::RequestRange(range_request(range)),
            RequestOp::Put(put) => Request::RequestPut(put_request(put)),
            RequestOp::DeleteRange(delete) => Request::RequestDeleteRange(delete_request(delete)),
            RequestOp::Txn(txn) => Request::RequestTxn(txn_request(txn)),
        }),
    };
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: txn.success.iter().map(op).collect(),
        failure: txn.failure.iter().map(op).collect(),
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}

/// A key-value of the wire.
#[must_use]
pub fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: Blob(kv.key),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        value: Blob(kv.value),
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    }
}

fn put_result(reply: pb::PutResponse) -> PutResult {
    PutResult { revision: revision(reply.header.as_ref()), prev_kv: reply.prev_kv.map(key_value) }
}

fn delete_result(reply: pb::DeleteRangeResponse) -> DeleteRangeResult {
    DeleteRangeResult {
        revision: revision(reply.header.as_ref()),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.into_iter().map(key_value).collect(),
    }
}

fn range_result(reply: pb::RangeResponse) -> RangeResult {
    RangeResult {
        revision: revision(reply.header.as_ref()),
        kvs: reply.kvs.into_iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    }
}

fn txn_result(reply: pb::TxnResponse) -> TxnResult {
    use pb::response_op::Response;
    let op = |op: pb::ResponseOp| match op.response.expect("every executed operation has a response") {
        Response::ResponseRange(range) => ResponseOp::Range(range_result(range)),
        Response::ResponsePut(put) => ResponseOp::Put(put_result(put)),
        Response::ResponseDeleteRange(delete) => ResponseOp::DeleteRange(delete_result(delete)),
        Response::ResponseTxn(txn) => ResponseOp::Txn(txn_result(txn)),
    };
    TxnResult {
        revision: revision(reply.header.as_ref()),
        succeeded: reply.succeeded,
        responses: reply.responses.into_iter().map(op).collect(),
    }
}
