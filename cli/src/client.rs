//! A client of several endpoints: connects to one that answers, and moves on to the next where that is safe.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use quorate_api::etcdserverpb::auth_client::AuthClient;
use quorate_api::etcdserverpb::cluster_client::ClusterClient;
use quorate_api::etcdserverpb::kv_client::KvClient;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use quorate_api::etcdserverpb::*;
use quorate_tls::Connector;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::failure::{NOT_AUTHENTICATED, rpc_error};
use crate::json::Object;

/// How long to wait between two rounds over all endpoints.
const PAUSE: Duration = Duration::from_millis(100);

/// etcd closes a connection that pings more often than every five seconds; grpc-go never pings below ten.
const MIN_KEEPALIVE: Duration = Duration::from_secs(10);

/// How to reach the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`, with or without `http://` or `https://`; at least one.
    pub endpoints: Vec<String>,
    /// Bounds one attempt to connect.
    pub dial_timeout: Duration,
    /// Bounds one call, attempts to connect included. `None`: as long as it takes.
    pub command_timeout: Option<Duration>,
    /// How often to ping an idle connection.
    pub keepalive_time: Duration,
    /// When to give up on a ping.
    pub keepalive_timeout: Duration,
    /// The largest request sent.
    pub max_request_bytes: usize,
    /// The largest response accepted.
    pub max_recv_bytes: usize,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// A token to send instead of asking for one.
    pub token: Option<String>,
    /// Opens connections.
    pub connector: Connector,
    /// Whether endpoints without a scheme are reached with TLS.
    pub is_secure: bool,
}

/// Whether a call may be repeated when its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Reads: repeating changes nothing.
    Always,
    /// Writes: only if the request surely never left.
    Unsent,
}

/// A connection to one of the endpoints.
#[derive(Clone)]
struct Connection {
    channel: Channel,
    endpoint: usize,
    token: Option<String>,
}

/// Calls the cluster. Every call goes to the same endpoint until that one fails.
pub struct Client {
    config: Config,
    connection: Mutex<Option<Connection>>,
    /// Whether failed calls are told on stderr.
    warns: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.config.endpoints).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects with its first call.
    ///
    /// # Errors
    /// A line for the user if an endpoint cannot be used.
    pub fn new(config: Config) -> Result<Client, String> {
        if config.endpoints.is_empty() {
            return Err("etcdclient: no available endpoints".to_owned());
        }
        for endpoint in &config.endpoints {
            address(endpoint, config.is_secure)?;
        }
        Ok(Client { config, connection: Mutex::default(), warns: true })
    }

    /// A client of `endpoint` alone, otherwise like this one.
    ///
    /// # Errors
    /// A line for the user if the endpoint cannot be used.
    pub fn only(&self, endpoint: &str) -> Result<Client, String> {
        Client::new(Config { endpoints: vec![endpoint.to_owned()], ..self.config.clone() })
    }

    /// The same client, which keeps failed calls to itself.
    pub fn silent(self) -> Client {
        Client { warns: false, ..self }
    }

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The connection in use, or a new one: endpoints are tried in turn until one answers.
    async fn connection(&self, last_error: &mut String) -> Result<Connection, Status> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        for round in 0.. {
            for (endpoint, address) in self.config.endpoints.iter().enumerate() {
                match self.dial(address).await {
                    Ok(channel) => {
                        let token = self.authenticate(channel.clone()).await?;
                        let connection = Connection { channel, endpoint, token };
                        *current = Some(connection.clone());
                        return Ok(connection);
                    }
                    Err(error) => *last_error = error,
                }
            }
            if round == 0 {
                self.debug(last_error);
            }
            sleep(PAUSE).await;
        }
        unreachable!("the loop ends by a connection or with the future")
    }

    async fn dial(&self, endpoint: &str) -> Result<Channel, String> {
        let c = &self.config;
        let endpoint = Endpoint::from_shared(address(endpoint, c.is_secure)?)
            .map_err(|e| e.to_string())?
            .connect_timeout(c.dial_timeout)
            .http2_keep_alive_interval(c.keepalive_time.max(MIN_KEEPALIVE))
            .keep_alive_timeout(c.keepalive_timeout);
        endpoint.connect_with_connector(c.connector.clone()).await.map_err(|error| {
            let mut source: &dyn std::error::Error = &error;
            while let Some(deeper) = source.source() {
                source = deeper;
            }
            format!("connection error: desc = \"transport: Error while dialing: {source}\"")
        })
    }

    async fn authenticate(&self, channel: Channel) -> Result<Option<String>, Status> {
        match (&self.config.token, &self.config.user) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some((name, password))) => {
                let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
                match AuthClient::new(channel).authenticate(request).await {
                    Ok(response) => Ok(Some(response.into_inner().token)),
                    // Then nobody asks for it either.
                    Err(status) if status.message() == "etcdserver: authentication is not enabled" => Ok(None),
                    Err(mut status) => {
                        let mark = tonic::metadata::MetadataValue::from_static("true");
                        status.metadata_mut().insert(NOT_AUTHENTICATED, mark);
                        Err(status)
                    }
                }
            }
            (None, None) => Ok(None),
        }
    }

    /// Starts over at the endpoint after the one of `failed`.
    async fn forget(&self, failed: &Connection) {
        let mut current = self.connection.lock().await;
        if current.as_ref().is_some_and(|c| c.endpoint == failed.endpoint) {
            *current = None;
        }
    }

    /// A channel to an endpoint that answers, and the metadata for streams on it. Waits until there is one.
    ///
    /// # Errors
    /// The user cannot be authenticated.
    pub async fn stream<T>(&self, message: T) -> Result<(Channel, Request<T>), Status> {
        let connection = self.connection(&mut String::new()).await?;
        Ok((connection.channel.clone(), self.request(&connection, message)))
    }

    /// Forgets the connection: the stream on it broke.
    pub async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    fn request<T>(&self, connection: &Connection, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", tonic::metadata::MetadataValue::from_static("3.7"));
        if let Some(token) = connection.token.as_ref().and_then(|t| t.parse().ok()) {
            metadata.insert("token", token);
        }
        request
    }

    async fn call<Q: Clone, R, F>(
        &self,
        retry: Retry,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let (mut attempt, mut last_error) = (0u32, String::new());
        let attempts = async {
            loop {
                let connection = self.connection(&mut last_error).await?;
                match send(connection.channel.clone(), self.request(&connection, message.clone())).await {
                    Ok(response) => return Ok(response.into_inner()),
                    // The token has run out, or what it stood for has changed: another one may do.
                    Err(status) if attempt == 0 && self.config.user.is_some() && is_stale(&status) => {
                        attempt += 1;
                        self.forget(&connection).await;
                    }
                    Err(status) if repeatable(&status, retry) => {
                        last_error = rpc_error(&status);
                        attempt += 1;
                        self.forget(&connection).await;
                        sleep(PAUSE).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        };
        let result = match self.config.command_timeout {
            None => attempts.await,
            Some(limit) => timeout(limit, attempts).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(match last_error.as_str() {
                    "" => "context deadline exceeded".to_owned(),
                    error => format!("latest balancer error: last connection error: {error}"),
                }))
            }),
        };
        result.inspect_err(|status| self.warn(attempt, status))
    }

    /// Tells on stderr, as etcd's client does, that a call failed.
    fn warn(&self, attempt: u32, status: &Status) {
        if !self.warns {
            return;
        }
        let line = Object::new()
            .string("level", "warn")
            .string("ts", &crate::clock::now())
            .string("logger", "etcd-client")
            .string("msg", "retrying of unary invoker failed")
            .string("target", &format!("etcd-endpoints://{}", self.config.endpoints.join(",")))
            .raw("attempt", attempt)
            .string("error", &rpc_error(status));
        eprintln!("{}", line.build());
    }

    fn debug(&self, error: &str) {
        if crate::clock::debug_enabled() {
            eprintln!("{}", Object::new().string("level", "debug").string("msg", error).build());
        }
    }
}

/// Whether `status` refused a token, and so did nothing.
fn is_stale(status: &Status) -> bool {
    ["etcdserver: invalid auth token", "etcdserver: revision of auth store is old"].contains(&status.message())
}

/// Whether the call that ended with `status` may be sent again.
fn repeatable(status: &Status, retry: Retry) -> bool {
    let unsent = ["tcp connect error", "Connection refused"].iter().any(|text| status.message().contains(text));
    status.code() == Code::Unavailable && (retry == Retry::Always || unsent)
}

/// The URL of `endpoint`.
fn address(endpoint: &str, is_secure: bool) -> Result<String, String> {
    match endpoint.split_once("://") {
        None if is_secure => Ok(format!("https://{endpoint}")),
        None => Ok(format!("http://{endpoint}")),
        Some(("http" | "https", _)) => Ok(endpoint.to_owned()),
        Some(_) => Err(format!("endpoint {endpoint:?} has a scheme that is not supported")),
    }
}

macro_rules! calls {
    ($($(#[$about:meta])* $name:ident($request:ty) -> $response:ty = $client:ident, $retry:ident;)*) => {
        impl Client {
            $(
                $(#[$about])*
                ///
                /// # Errors
                /// The server's refusal, or that no endpoint answered in time.
                pub async fn $name(&self, message: $request) -> Result<$response, Status> {
                    let (send, receive) = (self.config.max_request_bytes, self.config.max_recv_bytes);
                    self.call(Retry::$retry, message, |channel, request| async move {
                        let client = $client::new(channel);
                        client.max_encoding_message_size(send).max_decoding_message_size(receive).$name(request).await
                    })
                    .await
                }
            )*
        }
    };
}

calls! {
    /// Reads keys. (etcd: Range)
    range(RangeRequest) -> RangeResponse = KvClient, Always;
    /// Writes a key. (etcd: Put)
    put(PutRequest) -> PutResponse = KvClient, Unsent;
    /// Deletes keys. (etcd: DeleteRange)
    delete_range(DeleteRangeRequest) -> DeleteRangeResponse = KvClient, Unsent;
    /// Compares, then reads and writes. (etcd: Txn)
    txn(TxnRequest) -> TxnResponse = KvClient, Unsent;
    /// Discards history. (etcd: Compact)
    compact(CompactionRequest) -> CompactionResponse = KvClient, Unsent;
    /// Creates a lease. (etcd: LeaseGrant)
    lease_grant(LeaseGrantRequest) -> LeaseGrantResponse = LeaseClient, Unsent;
    /// Ends a lease. (etcd: LeaseRevoke)
    lease_revoke(LeaseRevokeRequest) -> LeaseRevokeResponse = LeaseClient, Unsent;
    /// What is left of a lease. (etcd: LeaseTimeToLive)
    lease_time_to_live(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse = LeaseClient, Always;
    /// All leases. (etcd: LeaseLeases)
    lease_leases(LeaseLeasesRequest) -> LeaseLeasesResponse = LeaseClient, Always;
    /// All members. (etcd: MemberList)
    member_list(MemberListRequest) -> MemberListResponse = ClusterClient, Always;
    /// Adds a member. (etcd: MemberAdd)
    member_add(MemberAddRequest) -> MemberAddResponse = ClusterClient, Unsent;
    /// Removes a member. (etcd: MemberRemove)
    member_remove(MemberRemoveRequest) -> MemberRemoveResponse = ClusterClient, Unsent;
    /// Changes a member's peer URLs. (etcd: MemberUpdate)
    member_update(MemberUpdateRequest) -> MemberUpdateResponse = ClusterClient, Unsent;
    /// Makes a learner a voter. (etcd: MemberPromote)
    member_promote(MemberPromoteRequest) -> MemberPromoteResponse = ClusterClient, Unsent;
    /// Turns authentication on. (etcd: AuthEnable)
    auth_enable(AuthEnableRequest) -> AuthEnableResponse = AuthClient, Unsent;
    /// Turns authentication off. (etcd: AuthDisable)
    auth_disable(AuthDisableRequest) -> AuthDisableResponse = AuthClient, Unsent;
    /// Whether authentication is on. (etcd: AuthStatus)
    auth_status(AuthStatusRequest) -> AuthStatusResponse = AuthClient, Always;
    /// Adds a user. (etcd: UserAdd)
    user_add(AuthUserAddRequest) -> AuthUserAddResponse = AuthClient, Unsent;
    /// Deletes a user. (etcd: UserDelete)
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = AuthClient, Unsent;
    /// A user's roles. (etcd: UserGet)
    user_get(AuthUserGetRequest) -> AuthUserGetResponse = AuthClient, Always;
    /// All users. (etcd: UserList)
    user_list(AuthUserListRequest) -> AuthUserListResponse = AuthClient, Always;
    /// Changes a user's password. (etcd: UserChangePassword)
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse = AuthClient, Unsent;
    /// Gives a role to a user. (etcd: UserGrantRole)
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse = AuthClient, Unsent;
    /// Takes a role from a user. (etcd: UserRevokeRole)
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse = AuthClient, Unsent;
    /// Adds a role. (etcd: RoleAdd)
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse = AuthClient, Unsent;
    /// Deletes a role. (etcd: RoleDelete)
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = AuthClient, Unsent;
    /// A role's permissions. (etcd: RoleGet)
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse = AuthClient, Always;
    /// All roles. (etcd: RoleList)
    role_list(AuthRoleListRequest) -> AuthRoleListResponse = AuthClient, Always;
    /// Adds a permission to a role. (etcd: RoleGrantPermission)
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse = AuthClient, Unsent;
    /// Takes a permission from a role. (etcd: RoleRevokePermission)
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse = AuthClient, Unsent;
    /// One member's state. (etcd: Status)
    status(StatusRequest) -> StatusResponse = MaintenanceClient, Always;
    /// A hash over one member's keys. (etcd: HashKV)
    hash_kv(HashKvRequest) -> HashKvResponse = MaintenanceClient, Always;
    /// Lists, raises or clears alarms. (etcd: Alarm)
    alarm(AlarmRequest) -> AlarmResponse = MaintenanceClient, Unsent;
    /// Gives free space in one member's files back. (etcd: Defragment)
    defragment(DefragmentRequest) -> DefragmentResponse = MaintenanceClient, Unsent;
    /// Checks, begins or cancels a downgrade of the cluster. (etcd: Downgrade)
    downgrade(DowngradeRequest) -> DowngradeResponse = MaintenanceClient, Unsent;
    /// Makes another member the leader. (etcd: MoveLeader)
    move_leader(MoveLeaderRequest) -> MoveLeaderResponse = MaintenanceClient, Unsent;
}

impl Client {
    /// Renews a lease once; its TTL is 0 if there is no such lease. (etcd: LeaseKeepAlive)
    ///
    /// # Errors
    /// The server's refusal, or that no endpoint answered in time.
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        self.call(Retry::Always, id, |channel, request| async move {
            let (metadata, extensions, id) = request.into_parts();
            let message = tokio_stream::once(LeaseKeepAliveRequest { id });
            let request = Request::from_parts(metadata, extensions, message);
            let mut responses = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
            let response = responses.message().await?;
            response.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended without an answer"))
        })
        .await
    }

    /// Opens a watch stream. (etcd: Watch)
    ///
    /// # Errors
    /// No connection, or the server's refusal.
    pub async fn watch_stream(
        &self,
        requests: impl tokio_stream::Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<tonic::Streaming<WatchResponse>, Status> {
        let (channel, mut request) = self.stream(requests).await?;
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let mut client = WatchClient::new(channel).max_decoding_message_size(self.config.max_recv_bytes);
        Ok(client.watch(request).await?.into_inner())
    }

    /// Opens the stream of a backup. (etcd: Snapshot)
    ///
    /// # Errors
    /// No connection, or the server's refusal.
    pub async fn snapshot_stream(&self) -> Result<tonic::Streaming<SnapshotResponse>, Status> {
        let (channel, request) = self.stream(SnapshotRequest {}).await?;
        let mut client = MaintenanceClient::new(channel).max_decoding_message_size(self.config.max_recv_bytes);
        Ok(client.snapshot(request).await?.into_inner())
    }
}
