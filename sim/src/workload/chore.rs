//! Calls that are not about keys: users and roles, alarms, lists of leases, hashes, logins.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::{authpb, etcdserverpb as pb};
use quorate_core::auth::{Allows, AuthCommand, Permission};
use quorate_core::{LeaseId, NodeId, Revision};

use crate::call::Rpc;
use crate::wire;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Opens a session.
    Login {
        /// Whose.
        name: String,
        /// Right or wrong.
        password: String,
    },
    /// Changes users or roles; passwords are in plain text.
    Change(AuthCommand),
    /// Asks whether users are asked who they are.
    AuthStatus,
    /// Asks for a user's roles.
    UserGet(String),
    /// Asks for a role's permissions.
    RoleGet(String),
    /// Asks for all users.
    UserList,
    /// Asks for all roles.
    RoleList,
    /// Asks which alarms are on.
    Alarms,
    /// Clears NOSPACE of a member.
    Disarm(NodeId),
    /// Asks which leases there are.
    Leases,
    /// Asks for a hash of history; `None` is through the newest revision.
    HashKv(Option<Revision>),
    /// Tidies the disk.
    Defragment,
}

impl Chore {
    /// The method and the encoded request.
    ///
    /// # Panics
    /// For sessions, which nobody opens by a command.
    #[must_use]
    pub fn encode(&self) -> (Rpc, Bytes) {
        let (rpc, bytes) = match self {
            Self::Login { name, password } => {
                let request = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
                (Rpc::Authenticate, request.encode_to_vec())
            }
            Self::Change(command) => change(command),
            Self::AuthStatus => (Rpc::AuthStatus, pb::AuthStatusRequest {}.encode_to_vec()),
            Self::UserGet(name) => (Rpc::UserGet, pb::AuthUserGetRequest { name: name.clone() }.encode_to_vec()),
            Self::RoleGet(role) => (Rpc::RoleGet, pb::AuthRoleGetRequest { role: role.clone() }.encode_to_vec()),
            Self::UserList => (Rpc::UserList, pb::AuthUserListRequest {}.encode_to_vec()),
            Self::RoleList => (Rpc::RoleList, pb::AuthRoleListRequest {}.encode_to_vec()),
            Self::Alarms => (Rpc::Alarm, alarm(pb::alarm_request::AlarmAction::Get, 0, pb::AlarmType::None)),
            Self::Disarm(member) => {
                (Rpc::Alarm, alarm(pb::alarm_request::AlarmAction::Deactivate, member.0, pb::AlarmType::Nospace))
            }
            Self::Leases => (Rpc::LeaseLeases, pb::LeaseLeasesRequest {}.encode_to_vec()),
            Self::HashKv(revision) => {
                let revision = revision.map_or(0, |revision| revision.0);
                (Rpc::HashKv, pb::HashKvRequest { revision }.encode_to_vec())
            }
            Self::Defragment => (Rpc::Defragment, pb::DefragmentRequest {}.encode_to_vec()),
        };
        (rpc, bytes.into())
    }
}

fn alarm(action: pb::alarm_request::AlarmAction, member_id: u64, alarm: pb::AlarmType) -> Vec<u8> {
    pb::AlarmRequest { action: action.into(), member_id, alarm: alarm.into() }.encode_to_vec()
}

fn change(command: &AuthCommand) -> (Rpc, Vec<u8>) {
    let plain = |password: &Option<String>| password.clone().unwrap_or_default();
    match command.clone() {
        AuthCommand::Enable => (Rpc::AuthEnable, pb::AuthEnableRequest {}.encode_to_vec()),
        AuthCommand::Disable => (Rpc::AuthDisable, pb::AuthDisableRequest {}.encode_to_vec()),
        AuthCommand::UserAdd { name, password, no_password } => {
            let options = Some(authpb::UserAddOptions { no_password });
            let password = plain(&password);
            let request = pb::AuthUserAddRequest { name, password, options, ..Default::default() };
            (Rpc::UserAdd, request.encode_to_vec())
        }
        AuthCommand::UserDelete(name) => (Rpc::UserDelete, pb::AuthUserDeleteRequest { name }.encode_to_vec()),
        AuthCommand::UserChangePassword { name, password } => {
            let password = plain(&password);
            let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
            (Rpc::UserChangePassword, request.encode_to_vec())
        }
        AuthCommand::UserGrantRole { name, role } => {
            (Rpc::UserGrantRole, pb::AuthUserGrantRoleRequest { user: name, role }.encode_to_vec())
        }
        AuthCommand::UserRevokeRole { name, role } => {
            (Rpc::UserRevokeRole, pb::AuthUserRevokeRoleRequest { name, role }.encode_to_vec())
        }
        AuthCommand::RoleAdd(name) => (Rpc::RoleAdd, pb::AuthRoleAddRequest { name }.encode_to_vec()),
        AuthCommand::RoleDelete(role) => (Rpc::RoleDelete, pb::AuthRoleDeleteRequest { role }.encode_to_vec()),
        AuthCommand::RoleGrantPermission { role, permission } => {
            let perm = permission.as_ref().map(wire_permission);
            (Rpc::RoleGrantPermission, pb::AuthRoleGrantPermissionRequest { name: role, perm }.encode_to_vec())
        }
        AuthCommand::RoleRevokePermission { role, key, range_end } => {
            let request = pb::AuthRoleRevokePermissionRequest { role, key: key.0, range_end: range_end.0 };
            (Rpc::RoleRevokePermission, request.encode_to_vec())
        }
        AuthCommand::OpenSession { .. } => unreachable!("members open sessions"),
    }
}

/// The leases that a member told of, when it was asked which ones there are.
#[must_use]
pub fn listed(bytes: &Bytes) -> Vec<LeaseId> {
    let reply: pb::LeaseLeasesResponse = wire::message(bytes.clone());
    reply.leases.iter().map(|lease| LeaseId(lease.id)).collect()
}

/// A permission as the wire has it.
#[must_use]
pub fn wire_permission(permission: &Permission) -> authpb::Permission {
    let perm_type = match permission.allows {
        Allows::Read => 0,
        Allows::Write => 1,
        Allows::ReadWrite => 2,
        Allows::Unknown(number) => number,
    };
    authpb::Permission { perm_type, key: permission.key.0.clone(), range_end: permission.range_end.0.clone() }
}
