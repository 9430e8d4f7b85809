//! Responses to the wire. Inner responses of a txn carry a header with nothing but a revision, as etcd's do.

use bytes::Bytes;
use quorate_api::{authpb, etcdserverpb as pb, mvccpb};
use quorate_core::auth::{Allows, Permission};
use quorate_core::request::{DeleteRangeResult, KeyValue, Member, PutResult, RangeResult, ResponseOp, TxnResult};

/// One key as protobuf; its bytes are shared, not copied.
#[must_use]
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key.0,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value.0,
        lease: kv.lease.map_or(0, |lease| lease.0),
    }
}

/// The answer to a range.
#[must_use]
pub fn range(header: pb::ResponseHeader, result: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: result.kvs.into_iter().map(key_value).collect(),
        more: result.more,
        count: result.count,
    }
}

/// The answer to a put.
#[must_use]
pub fn put(header: pb::ResponseHeader, result: PutResult) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: result.prev_kv.map(key_value) }
}

/// The answer to a delete.
#[must_use]
pub fn delete_range(header: pb::ResponseHeader, result: DeleteRangeResult) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: result.deleted,
        prev_kvs: result.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// The answer to a txn.
#[must_use]
pub fn txn(header: pb::ResponseHeader, result: TxnResult) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: result.succeeded,
        responses: result.responses.into_iter().map(response_op).collect(),
    }
}

fn response_op(op: ResponseOp) -> pb::ResponseOp {
    use pb::response_op::Response;
    let inner = |revision: quorate_core::Revision| pb::ResponseHeader { revision: revision.0, ..Default::default() };
    let response = match op {
        ResponseOp::Range(result) => Response::ResponseRange(range(inner(result.revision), result)),
        ResponseOp::Put(result) => Response::ResponsePut(put(inner(result.revision), result)),
        ResponseOp::DeleteRange(result) => Response::ResponseDeleteRange(delete_range(inner(result.revision), result)),
        ResponseOp::Txn(result) => Response::ResponseTxn(txn(pb::ResponseHeader::default(), result)),
    };
    pb::ResponseOp { response: Some(response) }
}

/// A member of the cluster.
#[must_use]
pub fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// What a role may do.
#[must_use]
pub fn permission(permission: Permission) -> authpb::Permission {
    use authpb::permission::Type;
    let perm_type = match permission.allows {
        Allows::Read => Type::Read as i32,
        Allows::Write => Type::Write as i32,
        Allows::ReadWrite => Type::Readwrite as i32,
        Allows::Unknown(number) => number,
    };
    authpb::Permission { perm_type, key: permission.key.0, range_end: permission.range_end.0 }
}

/// The keys of a lease, as its time-to-live answers them.
#[must_use]
pub fn keys(keys: Vec<quorate_core::Blob>) -> Vec<Bytes> {
    keys.into_iter().map(Bytes::from).collect()
}
