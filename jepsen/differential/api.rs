//! Every unary call as data: what is asked, where, and what comes back.

use std::time::Duration;

use quorate_api::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// A server that stays silent for so long will not answer any more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a server says to a call.
pub(crate) type Answer = Result<Reply, Refusal>;

/// A call that failed: the code and the text that clients go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// gRPC's number; -1 if there was no answer at all.
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code() as i32, message: status.message().to_owned() }
    }
}

macro_rules! calls {
    ($($name:ident($request:ty) -> $reply:ty, $path:literal;)*) => {
        /// A request of any unary method.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum Request { $($name($request)),* }

        /// The reply of any unary method.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum Reply { $($name($reply)),* }

        $(impl From<$request> for Request {
            fn from(request: $request) -> Self {
                Self::$name(request)
            }
        })*

        impl Request {
            /// The method's name.
            pub(crate) fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name)),* }
            }

            /// Asks the server behind `channel`.
            pub(crate) async fn send(self, channel: &Channel, token: Option<&str>) -> Answer {
                match self { $(Self::$name(request) => unary(channel, request, $path, token).await.map(Reply::$name)),* }
            }
        }

        impl Reply {
            /// The header, for those that have one.
            pub(crate) fn header(&mut self) -> Option<&mut pb::ResponseHeader> {
                match self { $(Self::$name(reply) => reply.header.as_mut()),* }
            }
        }
    };
}

calls! {
    Range(pb::RangeRequest) -> pb::RangeResponse, "/etcdserverpb.KV/Range";
    Put(pb::PutRequest) -> pb::PutResponse, "/etcdserverpb.KV/Put";
    DeleteRange(pb::DeleteRangeRequest) -> pb::DeleteRangeResponse, "/etcdserverpb.KV/DeleteRange";
    Txn(pb::TxnRequest) -> pb::TxnResponse, "/etcdserverpb.KV/Txn";
    Compact(pb::CompactionRequest) -> pb::CompactionResponse, "/etcdserverpb.KV/Compact";
    LeaseGrant(pb::LeaseGrantRequest) -> pb::LeaseGrantResponse, "/etcdserverpb.Lease/LeaseGrant";
    LeaseRevoke(pb::LeaseRevokeRequest) -> pb::LeaseRevokeResponse, "/etcdserverpb.Lease/LeaseRevoke";
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest) -> pb::LeaseTimeToLiveResponse, "/etcdserverpb.Lease/LeaseTimeToLive";
    LeaseLeases(pb::LeaseLeasesRequest) -> pb::LeaseLeasesResponse, "/etcdserverpb.Lease/LeaseLeases";
    MemberList(pb::MemberListRequest) -> pb::MemberListResponse, "/etcdserverpb.Cluster/MemberList";
    Status(pb::StatusRequest) -> pb::StatusResponse, "/etcdserverpb.Maintenance/Status";
    Alarm(pb::AlarmRequest) -> pb::AlarmResponse, "/etcdserverpb.Maintenance/Alarm";
    AuthStatus(pb::AuthStatusRequest) -> pb::AuthStatusResponse, "/etcdserverpb.Auth/AuthStatus";
    Authenticate(pb::AuthenticateRequest) -> pb::AuthenticateResponse, "/etcdserverpb.Auth/Authenticate";
    HashKv(pb::HashKvRequest) -> pb::HashKvResponse, "/etcdserverpb.Maintenance/HashKV";
    Defragment(pb::DefragmentRequest) -> pb::DefragmentResponse, "/etcdserverpb.Maintenance/Defragment";
    MoveLeader(pb::MoveLeaderRequest) -> pb::MoveLeaderResponse, "/etcdserverpb.Maintenance/MoveLeader";
    Downgrade(pb::DowngradeRequest) -> pb::DowngradeResponse, "/etcdserverpb.Maintenance/Downgrade";
    AuthEnable(pb::AuthEnableRequest) -> pb::AuthEnableResponse, "/etcdserverpb.Auth/AuthEnable";
    AuthDisable(pb::AuthDisableRequest) -> pb::AuthDisableResponse, "/etcdserverpb.Auth/AuthDisable";
    UserAdd(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse, "/etcdserverpb.Auth/UserAdd";
    UserGet(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse, "/etcdserverpb.Auth/UserGet";
    UserList(pb::AuthUserListRequest) -> pb::AuthUserListResponse, "/etcdserverpb.Auth/UserList";
    UserDelete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse, "/etcdserverpb.Auth/UserDelete";
    UserChangePassword(pb::AuthUserChangePasswordRequest) -> pb::AuthUserChangePasswordResponse,
        "/etcdserverpb.Auth/UserChangePassword";
    UserGrantRole(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse, "/etcdserverpb.Auth/UserGrantRole";
    UserRevokeRole(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse, "/etcdserverpb.Auth/UserRevokeRole";
    RoleAdd(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse, "/etcdserverpb.Auth/RoleAdd";
    RoleGet(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse, "/etcdserverpb.Auth/RoleGet";
    RoleList(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse, "/etcdserverpb.Auth/RoleList";
    RoleDelete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse, "/etcdserverpb.Auth/RoleDelete";
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest) -> pb::AuthRoleGrantPermissionResponse,
        "/etcdserverpb.Auth/RoleGrantPermission";
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest) -> pb::AuthRoleRevokePermissionResponse,
        "/etcdserverpb.Auth/RoleRevokePermission";
    Lock(lock::LockRequest) -> lock::LockResponse, "/v3lockpb.Lock/Lock";
    Unlock(lock::UnlockRequest) -> lock::UnlockResponse, "/v3lockpb.Lock/Unlock";
    Campaign(election::CampaignRequest) -> election::CampaignResponse, "/v3electionpb.Election/Campaign";
    Proclaim(election::ProclaimRequest) -> election::ProclaimResponse, "/v3electionpb.Election/Proclaim";
    Leader(election::LeaderRequest) -> election::LeaderResponse, "/v3electionpb.Election/Leader";
    Resign(election::ResignRequest) -> election::ResignResponse, "/v3electionpb.Election/Resign";
}

async fn unary<Q, R>(channel: &Channel, request: Q, path: &'static str, token: Option<&str>) -> Result<R, Refusal>
where
    Q: prost::Message + Send + Sync + 'static,
    R: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let request = with(token, request);
    let call = async {
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
    };
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Refusal { code: -1, message: format!("no answer within {} s", PATIENCE.as_secs()) }),
    }
}

/// A request with a token, if there is one.
pub(crate) fn with<Q>(token: Option<&str>, request: Q) -> tonic::Request<Q> {
    let mut request = tonic::Request::new(request);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("tokens are ASCII"));
    }
    request
}

/// Sends keep-alives on one stream, ends it, and reads all replies.
pub(crate) async fn keep_alive(
    channel: &Channel,
    ids: &[i64],
    token: Option<&str>,
) -> Result<Vec<pb::LeaseKeepAliveResponse>, Refusal> {
    let requests: Vec<_> = ids.iter().map(|&id| pb::LeaseKeepAliveRequest { id }).collect();
    let mut client = pb::lease_client::LeaseClient::new(channel.clone());
    let call = client.lease_keep_alive(with(token, tokio_stream::iter(requests)));
    whole(async { Ok(call.await?.into_inner()) }).await
}

/// All chunks of a range.
pub(crate) async fn range_stream(
    channel: &Channel,
    range: pb::RangeRequest,
    token: Option<&str>,
) -> Result<Vec<pb::RangeStreamResponse>, Refusal> {
    let mut client = pb::kv_client::KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let call = client.range_stream(with(token, range));
    whole(async { Ok(call.await?.into_inner()) }).await
}

/// Every message of a stream that ends by itself.
async fn whole<R>(stream: impl Future<Output = Result<tonic::Streaming<R>, tonic::Status>>) -> Result<Vec<R>, Refusal> {
    let read = async {
        let mut stream = stream.await?;
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok::<_, tonic::Status>(messages)
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(messages) => Ok(messages?),
        Err(_) => Err(Refusal { code: -1, message: format!("no end of stream within {} s", PATIENCE.as_secs()) }),
    }
}
