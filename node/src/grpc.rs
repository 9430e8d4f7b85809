//! The client port's gRPC: every call of `service` behind its path, over tonic.

mod counted;
mod election;
mod front;
mod gate;
mod health;
mod lock;
mod reflection;
mod refused;
mod session;
mod stream;
mod unary;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, header};
use prometheus::IntGauge;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::error::Error;
use quorate_core::raft;
use quorate_core::replica::{Request, Response};
use quorate_core::rows::Rows;

pub use self::gate::{Caller, CommonName};
use crate::applier::Published;
use crate::auth::Authenticator;
use crate::http;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::service::auth::AUTHENTICATE;
use crate::service::{self, Begun, Local, MemberStatus, Method, Settings};
use crate::status::{Code, Status};
use crate::wire::GRPC_OVERHEAD_BYTES;

/// What the handlers of all calls share.
pub struct Server<S> {
    /// The member that serves.
    pub member: Member<S>,
    /// What does not change.
    pub settings: Settings,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Passwords and tokens.
    pub authenticator: Authenticator,
}

/// One consistent picture of the member, to make replies from.
pub struct Picture<S> {
    status: MemberStatus,
    published: Arc<Published<S>>,
}

impl<S: Rows> Picture<S> {
    /// What replies are made from.
    #[must_use]
    pub fn local<'a>(&'a self, settings: &'a Settings) -> Local<'a> {
        Local::new(settings, &self.status, &self.published)
    }
}

/// Every call that is served, and which sides of it are streams: for the metrics, where each has a series from the start.
pub const METHODS: &[(&str, &str)] = &[
    (pb::RangeRequest::PATH, "unary"),
    (stream::RANGE_STREAM, "server_stream"),
    (pb::PutRequest::PATH, "unary"),
    (pb::DeleteRangeRequest::PATH, "unary"),
    (pb::TxnRequest::PATH, "unary"),
    (pb::CompactionRequest::PATH, "unary"),
    (watch::WATCH, "bidi_stream"),
    (pb::LeaseGrantRequest::PATH, "unary"),
    (pb::LeaseRevokeRequest::PATH, "unary"),
    (stream::KEEP_ALIVE, "bidi_stream"),
    (pb::LeaseTimeToLiveRequest::PATH, "unary"),
    (pb::LeaseLeasesRequest::PATH, "unary"),
    (pb::MemberListRequest::PATH, "unary"),
    (pb::MemberAddRequest::PATH, "unary"),
    (pb::MemberRemoveRequest::PATH, "unary"),
    (pb::MemberUpdateRequest::PATH, "unary"),
    (pb::MemberPromoteRequest::PATH, "unary"),
    (pb::StatusRequest::PATH, "unary"),
    (stream::SNAPSHOT, "server_stream"),
    (pb::MoveLeaderRequest::PATH, "unary"),
    (pb::AlarmRequest::PATH, "unary"),
    (pb::DefragmentRequest::PATH, "unary"),
    (pb::HashRequest::PATH, "unary"),
    (pb::HashKvRequest::PATH, "unary"),
    (pb::DowngradeRequest::PATH, "unary"),
    (pb::AuthStatusRequest::PATH, "unary"),
    (AUTHENTICATE, "unary"),
    (pb::AuthEnableRequest::PATH, "unary"),
    (pb::AuthDisableRequest::PATH, "unary"),
    (pb::AuthUserAddRequest::PATH, "unary"),
    (pb::AuthUserGetRequest::PATH, "unary"),
    (pb::AuthUserListRequest::PATH, "unary"),
    (pb::AuthUserDeleteRequest::PATH, "unary"),
    (pb::AuthUserChangePasswordRequest::PATH, "unary"),
    (pb::AuthUserGrantRoleRequest::PATH, "unary"),
    (pb::AuthUserRevokeRoleRequest::PATH, "unary"),
    (pb::AuthRoleAddRequest::PATH, "unary"),
    (pb::AuthRoleGetRequest::PATH, "unary"),
    (pb::AuthRoleListRequest::PATH, "unary"),
    (pb::AuthRoleDeleteRequest::PATH, "unary"),
    (pb::AuthRoleGrantPermissionRequest::PATH, "unary"),
    (pb::AuthRoleRevokePermissionRequest::PATH, "unary"),
];

/// Every call's route.
pub fn router<S: Rows + Send + Sync + 'static>(server: Arc<Server<S>>) -> Router {
    let mut router = Router::new();
    router = unary::route::<pb::RangeRequest, S>(router, &server);
    router = unary::route::<pb::PutRequest, S>(router, &server);
    router = unary::route::<pb::DeleteRangeRequest, S>(router, &server);
    router = unary::route::<pb::TxnRequest, S>(router, &server);
    router = unary::route::<pb::CompactionRequest, S>(router, &server);
    router = unary::route::<pb::LeaseGrantRequest, S>(router, &server);
    router = unary::route::<pb::LeaseRevokeRequest, S>(router, &server);
    router = unary::route::<pb::LeaseTimeToLiveRequest, S>(router, &server);
    router = unary::route::<pb::LeaseLeasesRequest, S>(router, &server);
    router = unary::route::<pb::MemberListRequest, S>(router, &server);
    router = unary::route::<pb::MemberAddRequest, S>(router, &server);
    router = unary::route::<pb::MemberRemoveRequest, S>(router, &server);
    router = unary::route::<pb::MemberUpdateRequest, S>(router, &server);
    router = unary::route::<pb::MemberPromoteRequest, S>(router, &server);
    router = unary::route::<pb::StatusRequest, S>(router, &server);
    router = unary::route::<pb::MoveLeaderRequest, S>(router, &server);
    router = unary::route::<pb::AlarmRequest, S>(router, &server);
    router = unary::route::<pb::DefragmentRequest, S>(router, &server);
    router = unary::route::<pb::HashRequest, S>(router, &server);
    router = unary::route::<pb::HashKvRequest, S>(router, &server);
    router = unary::route::<pb::DowngradeRequest, S>(router, &server);
    router = unary::route::<pb::AuthStatusRequest, S>(router, &server);
    router = unary::route_to(router, &server, AUTHENTICATE, Server::serve_authenticate);
    router = unary::route::<pb::AuthEnableRequest, S>(router, &server);
    router = unary::route::<pb::AuthDisableRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserAddRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserGetRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserListRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserDeleteRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserChangePasswordRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserGrantRoleRequest, S>(router, &server);
    router = unary::route::<pb::AuthUserRevokeRoleRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleAddRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleGetRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleListRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleDeleteRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleGrantPermissionRequest, S>(router, &server);
    router = unary::route::<pb::AuthRoleRevokePermissionRequest, S>(router, &server);
    router = router.merge(counted::counted(front::guarded(others(&server), &server), &server.metrics));
    reflection::routes(router).fallback(unknown)
}

/// Every route that is not one request and its reply, or is one of a service on top of such calls.
fn others<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>) -> Router {
    let mut router = stream::routes(Router::new(), server);
    router = watch::route(router, server);
    router = lock::routes(router, server);
    router = election::routes(router, server);
    health::routes(router, server)
}

impl<S: Rows + Send + Sync + 'static> Server<S> {
    /// The state as published now.
    #[must_use]
    pub fn picture(&self) -> Picture<S> {
        Picture { status: self.member.status(), published: self.member.published() }
    }

    /// Runs one unary call of `caller` from its request to its reply.
    ///
    /// # Errors
    /// etcd's status.
    pub async fn call<M: Method>(&self, caller: &Caller, request: M) -> Result<M::Reply, Status> {
        let mut picture = self.picture();
        if service::is_beyond_quota(&request, &picture.local(&self.settings)) {
            self.ask(Request::ReadIndex).await?;
            picture = self.picture();
        }
        let Begun { ask, rest } = match service::begin(request, &picture.local(&self.settings)) {
            Ok(begun) => begun,
            Err(status) => {
                // etcd weighs a request last of all, when it knows who has sent it.
                if status == Error::RequestTooLarge.into() {
                    self.author(caller, &picture)?;
                }
                return Err(status);
            }
        };
        let access = Begun::<M>::access(&rest);
        let secret = rest.as_ref().ok().and_then(M::secret);
        // A request that is refused for itself is, whatever becomes of what it asked of consensus.
        let answer = match self.pass(caller, ask, access, secret).await {
            Ok(answer) => answer,
            Err(status) => return Err(rest.err().unwrap_or(status)),
        };
        // The state is taken after consensus has answered: that is what the answer promises.
        let picture = self.picture();
        if let Ok(rest) = &rest
            && let Some(floor) = M::waits_for_compaction(rest)
        {
            self.member.compacted(floor).await;
        }
        if M::DEFRAGMENTS {
            self.defragment().await?;
        }
        let long = rest.as_ref().is_ok_and(M::is_long);
        let decides_late = Begun::<M>::decides_late(&rest);
        let author = if decides_late { self.author(caller, &picture)? } else { Author::Nobody };
        let finish = || Begun::<M>::finish(rest, answer.map(Ok), &author, &picture.local(&self.settings));
        if long { tokio::task::block_in_place(finish) } else { finish() }
    }

    async fn defragment(&self) -> Result<(), Status> {
        let _inflight = Pending::new(&self.metrics.defrag_inflight);
        let _timer = self.metrics.defrag.start_timer();
        self.member.defragment().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<Response, Status> {
        let is_proposal = matches!(request, Request::Command(_) | Request::CommandBy(..));
        let is_read = matches!(request, Request::ReadIndex);
        // A client that hangs up drops the future in the middle: the gauge must come down all the same.
        let _pending = is_proposal.then(|| Pending::new(&self.metrics.proposals_pending));
        let answer = self.member.request(request).await.map_err(Status::from);
        if let Err(Status { code: Code::Unavailable | Code::Unknown, .. }) = &answer {
            if is_proposal {
                self.metrics.proposals_failed.inc();
            } else if is_read {
                self.metrics.read_indexes_failed.inc();
            }
        }
        answer
    }

    pub(crate) fn message_bytes_max(&self) -> usize {
        usize::try_from(self.settings.limits.request_bytes_max + GRPC_OVERHEAD_BYTES).unwrap_or(usize::MAX)
    }

    /// Refuses a call that wants a leader when there is none. (etcd: metadata `hasleader`)
    fn check_leader(&self, headers: &HeaderMap) -> Result<(), Error> {
        if wants_leader(headers) && self.member.status().raft.leader.is_none() {
            return Err(Error::NoLeader);
        }
        Ok(())
    }

    /// Returns why a stream must end now, whatever it is about: the member's state is known to be wrong, or there is no
    /// leader and the call wants one.
    async fn interrupted(&self, wants_leader: bool) -> Error {
        tokio::select! {
            () = self.member.suspected() => Error::Stopped,
            () = self.leader_lost(wants_leader) => Error::NoLeader,
        }
    }

    /// Returns once there was no leader for three election timeouts; never, unless the call wants one.
    async fn leader_lost(&self, wanted: bool) {
        if !wanted {
            return std::future::pending().await;
        }
        let mut changes = self.member.status_changes();
        let led = |status: &raft::Status| status.leader.is_some();
        loop {
            if changes.wait_for(|status| !led(status)).await.is_err() {
                return; // The member has stopped.
            }
            let back = changes.wait_for(led);
            if tokio::time::timeout(3 * self.settings.election_timeout, back).await.is_err() {
                return;
            }
        }
    }
}

/// Counts one more for as long as it lives.
struct Pending<'a>(&'a IntGauge);

impl<'a> Pending<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Answers a path that no call has, in the caller's own protocol.
async fn unknown(request: axum::extract::Request) -> axum::response::Response {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return http::not_found().await;
    }
    let path = request.uri().path().trim_start_matches('/');
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let known = METHODS.iter().any(|(path, _)| path[1..].split_once('/').is_some_and(|(name, _)| name == service));
    let status = if known {
        Status::unimplemented(service, method)
    } else {
        Status::new(Code::Unimplemented, format!("unknown service {service}"))
    };
    tonic::Status::from(status).into_http::<axum::body::Body>()
}
