//! Calls of clients: encoded protobuf in, the member's real handlers, encoded protobuf or a status out.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::replica::{Request, Response};
use quorate_node::service::lease::KeepAlive;
use quorate_node::service::{self, Access, Begun, Local, Method};
use quorate_node::status::{Code, Status};

/// The methods that clients call; what travels beside the encoded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rpc {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseLeases,
    LeaseKeepAlive,
    /// Has no [`Stage`]: a password is compared in its middle.
    Authenticate,
    AuthStatus,
    AuthEnable,
    AuthDisable,
    UserAdd,
    UserDelete,
    UserChangePassword,
    UserGrantRole,
    UserRevokeRole,
    UserGet,
    UserList,
    RoleAdd,
    RoleDelete,
    RoleGrantPermission,
    RoleRevokePermission,
    RoleGet,
    RoleList,
    Alarm,
    HashKv,
    Defragment,
    MemberList,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
}

/// Why a call brought no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The member said so.
    Status(Status),
    /// Nobody listened: the request was never seen.
    Refused,
    /// The connection broke: the request may have been seen or not.
    Broken,
}

/// What a call came to.
pub type Answer = Result<Bytes, CallError>;

/// A call between its two halves.
pub trait Stage {
    /// What the caller must be allowed.
    fn access(&self) -> Access<'_>;

    /// A password to be hashed for the command.
    fn secret(&self) -> Option<&str>;

    /// Whether the state that makes the reply decides once more whether the caller may have it.
    fn decides_late(&self) -> bool;

    /// Whether the member's disk is to be tidied before.
    fn defragments(&self) -> bool;

    /// The refusal of the request for itself, if it is refused.
    fn refusal(&self) -> Option<Status>;

    /// The second half.
    ///
    /// # Errors
    /// The status to answer.
    fn finish(self: Box<Self>, answer: Option<Response>, author: &Author, local: &Local<'_>) -> Result<Bytes, Status>;
}

/// Whether the request is beyond the quota as far as this state knows.
#[must_use]
pub fn is_beyond_quota(rpc: Rpc, request: &Bytes, local: &Local<'_>) -> bool {
    fn is_beyond<M: Method>(request: &Bytes, local: &Local<'_>) -> bool {
        decode::<M>(request.clone()).is_ok_and(|request| service::is_beyond_quota(&request, local))
    }
    match rpc {
        Rpc::Put => is_beyond::<pb::PutRequest>(request, local),
        Rpc::Txn => is_beyond::<pb::TxnRequest>(request, local),
        Rpc::LeaseGrant => is_beyond::<pb::LeaseGrantRequest>(request, local),
        _ => false,
    }
}

/// The first half of a call: what to ask of consensus, if anything, and the rest.
///
/// # Errors
/// The status to answer at once.
///
/// # Panics
/// For `Authenticate`.
pub fn start(rpc: Rpc, request: Bytes, local: &Local<'_>) -> Result<(Option<Request>, Box<dyn Stage>), Status> {
    match rpc {
        Rpc::Range => begin::<pb::RangeRequest>(request, local),
        Rpc::Put => begin::<pb::PutRequest>(request, local),
        Rpc::DeleteRange => begin::<pb::DeleteRangeRequest>(request, local),
        Rpc::Txn => begin::<pb::TxnRequest>(request, local),
        Rpc::Compact => begin::<pb::CompactionRequest>(request, local),
        Rpc::LeaseGrant => begin::<pb::LeaseGrantRequest>(request, local),
        Rpc::LeaseRevoke => begin::<pb::LeaseRevokeRequest>(request, local),
        Rpc::LeaseTimeToLive => begin::<pb::LeaseTimeToLiveRequest>(request, local),
        Rpc::LeaseLeases => begin::<pb::LeaseLeasesRequest>(request, local),
        Rpc::MemberList => begin::<pb::MemberListRequest>(request, local),
        Rpc::MemberAdd => begin::<pb::MemberAddRequest>(request, local),
        Rpc::MemberRemove => begin::<pb::MemberRemoveRequest>(request, local),
        Rpc::MemberUpdate => begin::<pb::MemberUpdateRequest>(request, local),
        Rpc::MemberPromote => begin::<pb::MemberPromoteRequest>(request, local),
        Rpc::LeaseKeepAlive => {
            let (ask, renewal) = KeepAlive::start(&decode(request)?, local)?;
            Ok((Some(ask), Box::new(renewal)))
        }
        Rpc::Authenticate => panic!("a login is no call of two halves"),
        Rpc::AuthStatus => begin::<pb::AuthStatusRequest>(request, local),
        Rpc::AuthEnable => begin::<pb::AuthEnableRequest>(request, local),
        Rpc::AuthDisable => begin::<pb::AuthDisableRequest>(request, local),
        Rpc::UserAdd => begin::<pb::AuthUserAddRequest>(request, local),
        Rpc::UserDelete => begin::<pb::AuthUserDeleteRequest>(request, local),
        Rpc::UserChangePassword => begin::<pb::AuthUserChangePasswordRequest>(request, local),
        Rpc::UserGrantRole => begin::<pb::AuthUserGrantRoleRequest>(request, local),
        Rpc::UserRevokeRole => begin::<pb::AuthUserRevokeRoleRequest>(request, local),
        Rpc::UserGet => begin::<pb::AuthUserGetRequest>(request, local),
        Rpc::UserList => begin::<pb::AuthUserListRequest>(request, local),
        Rpc::RoleAdd => begin::<pb::AuthRoleAddRequest>(request, local),
        Rpc::RoleDelete => begin::<pb::AuthRoleDeleteRequest>(request, local),
        Rpc::RoleGrantPermission => begin::<pb::AuthRoleGrantPermissionRequest>(request, local),
        Rpc::RoleRevokePermission => begin::<pb::AuthRoleRevokePermissionRequest>(request, local),
        Rpc::RoleGet => begin::<pb::AuthRoleGetRequest>(request, local),
        Rpc::RoleList => begin::<pb::AuthRoleListRequest>(request, local),
        Rpc::Alarm => begin::<pb::AlarmRequest>(request, local),
        Rpc::HashKv => begin::<pb::HashKvRequest>(request, local),
        Rpc::Defragment => begin::<pb::DefragmentRequest>(request, local),
    }
}

fn begin<M: Method>(request: Bytes, local: &Local<'_>) -> Result<(Option<Request>, Box<dyn Stage>), Status> {
    let Begun { ask, rest } = service::begin(decode::<M>(request)?, local)?;
    Ok((ask, Box::new(Unary::<M>(rest))))
}

struct Unary<M: Method>(Result<M::Rest, Status>);

impl<M: Method> Stage for Unary<M> {
    fn access(&self) -> Access<'_> {
        Begun::<M>::access(&self.0)
    }

    fn secret(&self) -> Option<&str> {
        self.0.as_ref().ok().and_then(M::secret)
    }

    fn decides_late(&self) -> bool {
        Begun::<M>::decides_late(&self.0)
    }

    fn defragments(&self) -> bool {
        M::DEFRAGMENTS
    }

    fn refusal(&self) -> Option<Status> {
        self.0.as_ref().err().cloned()
    }

    fn finish(self: Box<Self>, answer: Option<Response>, author: &Author, local: &Local<'_>) -> Result<Bytes, Status> {
        Begun::<M>::finish(self.0, answer.map(Ok), author, local).map(|reply| reply.encode_to_vec().into())
    }
}

impl Stage for KeepAlive {
    fn access(&self) -> Access<'_> {
        Self::access(self)
    }

    fn secret(&self) -> Option<&str> {
        None
    }

    fn decides_late(&self) -> bool {
        false
    }

    fn defragments(&self) -> bool {
        false
    }

    fn refusal(&self) -> Option<Status> {
        None
    }

    fn finish(self: Box<Self>, answer: Option<Response>, _: &Author, local: &Local<'_>) -> Result<Bytes, Status> {
        Ok(Self::finish(*self, answer.expect("a keep-alive always asks"), local)?.encode_to_vec().into())
    }
}

/// Decodes what a client sent.
///
/// # Errors
/// gRPC's status for what is no such message.
pub fn decode<M: prost::Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::new(Code::Internal, error.to_string()))
}
