//! Requests from the wire: checked as etcd checks them, then decoded.

pub mod overlap;

use bytes::Bytes;
use prost::Message as _;
use quorate_api::{authpb, etcdserverpb as pb};
use quorate_core::auth::{Allows, Permission};
use quorate_core::error::Error;
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, Lease, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use quorate_core::{Blob, LeaseId, Revision, Ttl};

use super::Limits;

/// What etcd's replicated envelope adds to a request: a header with a 64-bit ID, and the request's tag and length.
const ENVELOPE_BYTES: u64 = 17;

/// The keys meant by `key` and `range_end`: an empty end is one key, a single zero byte is no end.
///
/// # Errors
/// [`Error::EmptyKey`].
pub fn key_range(key: Bytes, range_end: Bytes) -> Result<KeyRange, Error> {
    let start = non_empty(key)?;
    Ok(match &range_end[..] {
        [] => KeyRange::Key(start),
        [0] => KeyRange::From(start),
        _ => KeyRange::Bounded { start, end: Blob(range_end) },
    })
}

/// What a role may do.
#[must_use]
pub fn permission(permission: authpb::Permission) -> Permission {
    use authpb::permission::Type;
    let allows = match Type::try_from(permission.perm_type) {
        Ok(Type::Read) => Allows::Read,
        Ok(Type::Write) => Allows::Write,
        Ok(Type::Readwrite) => Allows::ReadWrite,
        Err(_) => Allows::Unknown(permission.perm_type),
    };
    Permission { allows, key: Blob(permission.key), range_end: Blob(permission.range_end) }
}

/// A range outside of any txn. (etcd: checkRangeRequest)
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::InvalidSortOption`].
pub fn range(request: pb::RangeRequest) -> Result<RangeRequest, Error> {
    let mut request = range_op(request)?;
    // Only inside a txn does etcd look at negative revisions.
    request.revision = request.revision.filter(|revision| revision.0 > 0);
    Ok(request)
}

/// A put. (etcd: checkPutRequest)
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`], [`Error::RequestTooLarge`].
pub fn put(request: pb::PutRequest, limits: Limits) -> Result<PutRequest, Error> {
    let bytes = request.encoded_len();
    let request = put_op(request)?;
    within(bytes, limits)?;
    Ok(request)
}

/// A delete. (etcd: checkDeleteRequest)
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::RequestTooLarge`].
pub fn delete_range(request: pb::DeleteRangeRequest, limits: Limits) -> Result<DeleteRangeRequest, Error> {
    let bytes = request.encoded_len();
    let request = delete_op(request)?;
    within(bytes, limits)?;
    Ok(request)
}

/// A txn. (etcd: checkTxnRequest, then checkIntervals)
///
/// # Errors
/// In this order: [`Error::TooManyOps`] and what its parts are refused for, [`Error::DuplicateKey`],
/// [`Error::RequestTooLarge`].
pub fn txn(request: pb::TxnRequest, limits: Limits) -> Result<TxnRequest, Error> {
    let bytes = request.encoded_len();
    let request = txn_op(request, limits.txn_ops_max)?;
    overlap::check(&request)?;
    if !is_read_only(&request) {
        within(bytes, limits)?;
    }
    Ok(request)
}

/// A lease grant; with an ID of 0 the member chooses one. Its TTL is looked at when it is proposed: who may not ask at
/// all is told that first.
#[must_use]
pub fn lease_grant(request: &pb::LeaseGrantRequest) -> Lease {
    Lease { id: LeaseId(request.id), ttl: Ttl(request.ttl) }
}

/// Whether `txn` only reads: ranges alone, in both lists. A nested txn counts as a write, as etcd has it.
#[must_use]
pub fn is_read_only(txn: &TxnRequest) -> bool {
    ops(txn).all(|op| matches!(op, RequestOp::Range(_)))
}

/// Whether a read-only `txn` may be answered without a quorum: all its ranges are serializable, or it has none.
#[must_use]
pub fn is_serializable(txn: &TxnRequest) -> bool {
    ops(txn).all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
}

fn ops(txn: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

fn non_empty(key: Bytes) -> Result<Blob, Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(Blob(key)) }
}

fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// Whether a replicated request whose protobuf has so many bytes may be proposed.
///
/// # Errors
/// [`Error::RequestTooLarge`].
pub fn within(encoded_len: usize, limits: Limits) -> Result<(), Error> {
    let bytes = u64::try_from(encoded_len).unwrap_or(u64::MAX).saturating_add(ENVELOPE_BYTES);
    if bytes > limits.request_bytes_max { Err(Error::RequestTooLarge) } else { Ok(()) }
}

fn range_op(request: pb::RangeRequest) -> Result<RangeRequest, Error> {
    use pb::range_request as sort;
    let range = key_range(request.key, request.range_end)?;
    let sort_order = match sort::SortOrder::try_from(request.sort_order) {
        Ok(sort::SortOrder::None) => SortOrder::None,
        Ok(sort::SortOrder::Ascend) => SortOrder::Ascend,
        Ok(sort::SortOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    let sort_target = match sort::SortTarget::try_from(request.sort_target) {
        Ok(sort::SortTarget::Key) => SortTarget::Key,
        Ok(sort::SortTarget::Version) => SortTarget::Version,
        Ok(sort::SortTarget::Create) => SortTarget::Create,
        Ok(sort::SortTarget::Mod) => SortTarget::Mod,
        Ok(sort::SortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    Ok(RangeRequest {
        range,
        limit: u64::try_from(request.limit).unwrap_or(0),
        revision: (request.revision != 0).then_some(Revision(request.revision)),
        sort_order,
        sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: Revision(request.min_mod_revision),
        max_mod_revision: Revision(request.max_mod_revision),
        min_create_revision: Revision(request.min_create_revision),
        max_create_revision: Revision(request.max_create_revision),
    })
}

fn put_op(request: pb::PutRequest) -> Result<PutRequest, Error> {
    let key = non_empty(request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(PutRequest {
        key,
        value: Blob(request.value),
        lease: lease(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

fn delete_op(request: pb::DeleteRangeRequest) -> Result<DeleteRangeRequest, Error> {
    Ok(DeleteRangeRequest { range: key_range(request.key, request.range_end)?, prev_kv: request.prev_kv })
}

fn txn_op(request: pb::TxnRequest, ops_max: u32) -> Result<TxnRequest, Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = u32::try_from(longest).ok().and_then(|longest| ops_max.checked_sub(longest)).ok_or(Error::TooManyOps)?;
    let ops = |list: Vec<pb::RequestOp>| list.into_iter().map(|op| request_op(op, left)).collect::<Result<_, _>>();
    Ok(TxnRequest {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn request_op(op: pb::RequestOp, ops_max: u32) -> Result<RequestOp, Error> {
    use pb::request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(range)) => RequestOp::Range(range_op(range)?),
        Some(Request::RequestPut(put)) => RequestOp::Put(put_op(put)?),
        Some(Request::RequestDeleteRange(delete)) => RequestOp::DeleteRange(delete_op(delete)?),
        Some(Request::RequestTxn(txn)) => RequestOp::Txn(txn_op(txn, ops_max)?),
        None => return Err(Error::KeyNotFound), // etcd's answer, odd as it is
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Error> {
    use pb::compare::{CompareResult as Wire, CompareTarget as Target, TargetUnion};
    let range = key_range(compare.key, compare.range_end)?;
    let result = match Wire::try_from(compare.result) {
        Ok(Wire::Equal) => CompareResult::Equal,
        Ok(Wire::Greater) => CompareResult::Greater,
        Ok(Wire::Less) => CompareResult::Less,
        Ok(Wire::NotEqual) => CompareResult::NotEqual,
        Err(_) => CompareResult::Unknown,
    };
    // The target says what is compared; a union member of another kind, or none, stands for 0.
    let union = compare.target_union;
    let target = match Target::try_from(compare.target) {
        Ok(Target::Version) => CompareTarget::Version(match union {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(Target::Create) => CompareTarget::Create(match union {
            Some(TargetUnion::CreateRevision(revision)) => Revision(revision),
            _ => Revision(0),
        }),
        Ok(Target::Mod) => CompareTarget::Mod(match union {
            Some(TargetUnion::ModRevision(revision)) => Revision(revision),
            _ => Revision(0),
        }),
        Ok(Target::Value) => CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => Blob(value),
            _ => Blob::EMPTY,
        }),
        Ok(Target::Lease) => CompareTarget::Lease(match union {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        Err(_) => CompareTarget::Unknown,
    };
    Ok(Compare { range, result, target })
}

#[cfg(test)]
mod tests;
