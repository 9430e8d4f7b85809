//! From an encoded request back to the operation: requests that were written down are sent again, and the oracles must
//! know what they ask.

use bytes::Bytes;
use prost::Message;
use quorate_api::{authpb, etcdserverpb as pb};
use quorate_core::auth::{Allows, AuthCommand, Permission};
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use quorate_core::{Blob, LeaseId, NodeId, Revision, Ttl};
use quorate_jepsen::history::Op;

use crate::call::Rpc;
use crate::workload::chore::Chore;

/// The operation that [`super::encode`] made these bytes of; `None` if it made them of none.
#[must_use]
pub fn operation(rpc: Rpc, bytes: &Bytes) -> Option<Op> {
    Some(match rpc {
        Rpc::Put => Op::Put(put(read(bytes)?)),
        Rpc::DeleteRange => Op::DeleteRange(delete(read(bytes)?)),
        Rpc::Txn => Op::Txn(txn(read(bytes)?)?),
        Rpc::Range => Op::Range(range(read(bytes)?)?),
        Rpc::Compact => Op::Compact(Revision(read::<pb::CompactionRequest>(bytes)?.revision)),
        Rpc::LeaseGrant => {
            let request: pb::LeaseGrantRequest = read(bytes)?;
            Op::LeaseGrant { id: lease(request.id), ttl: Ttl(request.ttl) }
        }
        Rpc::LeaseRevoke => Op::LeaseRevoke(LeaseId(read::<pb::LeaseRevokeRequest>(bytes)?.id)),
        _ => return None,
    })
}

/// The chore that [`Chore::encode`] made these bytes of; `None` if it made them of none.
#[must_use]
pub fn chore(rpc: Rpc, bytes: &Bytes) -> Option<Chore> {
    let password = |text: String| (!text.is_empty()).then_some(text);
    Some(match rpc {
        Rpc::Authenticate => {
            let request: pb::AuthenticateRequest = read(bytes)?;
            Chore::Login { name: request.name, password: request.password }
        }
        Rpc::AuthStatus => Chore::AuthStatus,
        Rpc::AuthEnable => Chore::Change(AuthCommand::Enable),
        Rpc::AuthDisable => Chore::Change(AuthCommand::Disable),
        Rpc::UserAdd => {
            let pb::AuthUserAddRequest { name, password: text, options, .. } = read(bytes)?;
            let no_password = options.is_some_and(|options| options.no_password);
            Chore::Change(AuthCommand::UserAdd { name, password: password(text), no_password })
        }
        Rpc::UserDelete => Chore::Change(AuthCommand::UserDelete(read::<pb::AuthUserDeleteRequest>(bytes)?.name)),
        Rpc::UserChangePassword => {
            let pb::AuthUserChangePasswordRequest { name, password: text, .. } = read(bytes)?;
            Chore::Change(AuthCommand::UserChangePassword { name, password: password(text) })
        }
        Rpc::UserGrantRole => {
            let pb::AuthUserGrantRoleRequest { user: name, role } = read(bytes)?;
            Chore::Change(AuthCommand::UserGrantRole { name, role })
        }
        Rpc::UserRevokeRole => {
            let pb::AuthUserRevokeRoleRequest { name, role } = read(bytes)?;
            Chore::Change(AuthCommand::UserRevokeRole { name, role })
        }
        Rpc::UserGet => Chore::UserGet(read::<pb::AuthUserGetRequest>(bytes)?.name),
        Rpc::UserList => Chore::UserList,
        Rpc::RoleAdd => Chore::Change(AuthCommand::RoleAdd(read::<pb::AuthRoleAddRequest>(bytes)?.name)),
        Rpc::RoleDelete => Chore::Change(AuthCommand::RoleDelete(read::<pb::AuthRoleDeleteRequest>(bytes)?.role)),
        Rpc::RoleGrantPermission => {
            let pb::AuthRoleGrantPermissionRequest { name: role, perm } = read(bytes)?;
            Chore::Change(AuthCommand::RoleGrantPermission { role, permission: perm.map(permission) })
        }
        Rpc::RoleRevokePermission => {
            let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = read(bytes)?;
            Chore::Change(AuthCommand::RoleRevokePermission { role, key: Blob(key), range_end: Blob(range_end) })
        }
        Rpc::RoleGet => Chore::RoleGet(read::<pb::AuthRoleGetRequest>(bytes)?.role),
        Rpc::RoleList => Chore::RoleList,
        Rpc::Alarm => match read::<pb::AlarmRequest>(bytes)? {
            pb::AlarmRequest { action: 0, .. } => Chore::Alarms,
            pb::AlarmRequest { action: 2, member_id, .. } => Chore::Disarm(NodeId(member_id)),
            _ => return None,
        },
        Rpc::LeaseLeases => Chore::Leases,
        Rpc::HashKv => {
            let revision = read::<pb::HashKvRequest>(bytes)?.revision;
            Chore::HashKv((revision != 0).then_some(Revision(revision)))
        }
        Rpc::Defragment => Chore::Defragment,
        _ => return None,
    })
}

fn permission(permission: authpb::Permission) -> Permission {
    let allows = match permission.perm_type {
        0 => Allows::Read,
        1 => Allows::Write,
        2 => Allows::ReadWrite,
        other => Allows::Unknown(other),
    };
    Permission { allows, key: Blob(permission.key), range_end: Blob(permission.range_end) }
}

/// The keys that the wire means by key and range_end.
#[must_use]
pub fn keys_of(key: Bytes, range_end: Bytes) -> KeyRange {
    match &range_end[..] {
        [] => KeyRange::Key(Blob(key)),
        [0] => KeyRange::From(Blob(key)),
        _ => KeyRange::Bounded { start: Blob(key), end: Blob(range_end) },
    }
}

fn read<M: Message + Default>(bytes: &Bytes) -> Option<M> {
    M::decode(bytes.clone()).ok()
}

fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

fn put(put: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: Blob(put.key),
        value: Blob(put.value),
        lease: lease(put.lease),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete(delete: pb::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest { range: keys_of(delete.key, delete.range_end), prev_kv: delete.prev_kv }
}

fn range(range: pb::RangeRequest) -> Option<RangeRequest> {
    Some(RangeRequest {
        limit: u64::try_from(range.limit).ok()?,
        revision: (range.revision != 0).then_some(Revision(range.revision)),
        sort_order: match range.sort_order {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return None,
        },
        sort_target: match range.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => return None,
        },
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: Revision(range.min_mod_revision),
        max_mod_revision: Revision(range.max_mod_revision),
        min_create_revision: Revision(range.min_create_revision),
        max_create_revision: Revision(range.max_create_revision),
        ..RangeRequest::new(keys_of(range.key, range.range_end))
    })
}

fn compare(compare: pb::Compare) -> Option<Compare> {
    use pb::compare::TargetUnion;
    Some(Compare {
        range: keys_of(compare.key, compare.range_end),
        target: match compare.target_union {
            Some(TargetUnion::Version(version)) => CompareTarget::Version(version),
            Some(TargetUnion::CreateRevision(revision)) => CompareTarget::Create(Revision(revision)),
            Some(TargetUnion::ModRevision(revision)) => CompareTarget::Mod(Revision(revision)),
            Some(TargetUnion::Value(value)) => CompareTarget::Value(Blob(value)),
            Some(TargetUnion::Lease(lease)) => CompareTarget::Lease(lease),
            None => CompareTarget::Unknown,
        },
        result: match compare.result {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            _ => CompareResult::Unknown,
        },
    })
}

fn txn(request: pb::TxnRequest) -> Option<TxnRequest> {
    use pb::request_op::Request;
    let op = |op: pb::RequestOp| {
        Some(match op.request? {
            Request::RequestRange(request) => RequestOp::Range(range(request)?),
            Request::RequestPut(request) => RequestOp::Put(put(request)),
            Request::RequestDeleteRange(request) => RequestOp::DeleteRange(delete(request)),
            Request::RequestTxn(request) => RequestOp::Txn(txn(request)?),
        })
    };
    Some(TxnRequest {
        compare: request.compare.into_iter().map(compare).collect::<Option<_>>()?,
        success: request.success.into_iter().map(op).collect::<Option<_>>()?,
        failure: request.failure.into_iter().map(op).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::swarm::regime::Regime;
    use crate::swarm::{Setup, Stream, stream};
    use crate::workload::operator::{Operator, Task};
    use crate::workload::{Generator, Known};

    #[test]
    fn every_operation_is_read_back_as_it_was() {
        let mut generator = Generator::new(stream(1, Stream::Workload, 0), 0, 5, Setup::draw(0).mix);
        let known = Known { revision: Revision(40), compacted: Revision(3), lease: Some(LeaseId(7)) };
        let leases = [
            Op::LeaseGrant { id: None, ttl: Ttl(3) },
            Op::LeaseGrant { id: Some(LeaseId(9)), ttl: Ttl(3) },
            Op::LeaseRevoke(LeaseId(9)),
        ];
        let drawn: Vec<Op> = (0..2_000).map(|_| generator.operation(known)).collect();
        for op in drawn.into_iter().chain(leases) {
            let (rpc, bytes) = super::super::encode(&op);
            assert_eq!(operation(rpc, &bytes), Some(op));
        }
    }

    #[test]
    fn every_chore_is_read_back_as_it_was() {
        let regime = Regime { auth: true, quota_bytes: Some(1), ..Setup::draw(1).regime };
        let mut operator = Operator::new(stream(1, Stream::Operator, 0), regime, 5);
        let mut methods = BTreeSet::new();
        for n in 0..5_000 {
            operator.alarms = if n % 10 == 0 { vec![NodeId(3)] } else { Vec::new() };
            let Task::Chore(expected) = operator.step(Revision(40), 3) else { continue };
            if let Chore::Change(command) = &expected {
                operator.changed(command, Ok(()));
            }
            let (rpc, bytes) = expected.encode();
            methods.insert(format!("{rpc:?}"));
            assert_eq!(chore(rpc, &bytes), Some(expected));
        }
        assert!(methods.len() >= 18, "{methods:?}");
    }
}
