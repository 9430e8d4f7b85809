//! Plain HTTP beside gRPC on the client port: health, version, metrics. (etcd: /health, /livez, /readyz, /version)

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quorate_api::etcdserverpb as pb;
use quorate_core::rows::Rows;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::grpc::{self, Server};
use crate::metrics::Metrics;
use crate::service::{CLUSTER_VERSION, ETCD_VERSION};

/// The version of Quorate itself.
pub const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");

const PLAIN: &str = "text/plain; charset=utf-8";

/// Everything on the client port: gRPC and plain HTTP.
pub fn client_router<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>) -> Router {
    let mut router = grpc::router(Arc::clone(server)).route("/version", get(version));
    let it = Arc::clone(server);
    router = router.route("/metrics", get(move || async move { metrics(&it) }));
    let it = Arc::clone(server);
    let health = move |method: Method, uri: Uri| async move { health(&it, &method, &uri).await };
    router = router.route("/health", axum::routing::any(health));
    for (page, checks) in [("/livez", LIVE), ("/readyz", READY)] {
        let it = Arc::clone(server);
        router = router.route(page, get(move |uri: Uri| async move { checked(&it, checks, &uri).await }));
        for check in checks {
            let it = Arc::clone(server);
            let one = move |uri: Uri| async move { checked(&it, &[*check], &uri).await };
            router = router.route(&format!("{page}/{}", check.name()), get(one));
        }
    }
    router
}

/// Serves `router` on `listener`, gRPC and HTTP/1.1 alike, until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    // Windows large enough that one connection with many streams, or a snapshot, is not held up by round trips.
    const STREAM_WINDOW_BYTES: u32 = 4 << 20;
    const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
    tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(u32::MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(7200)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_routes(tonic::service::Routes::from(router))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await
}

/// Which program this is, and whose behaviour it has.
pub async fn version() -> Response {
    let body = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{CLUSTER_VERSION}","storage":"{CLUSTER_VERSION}","quorate":"{QUORATE_VERSION}"}}"#
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn metrics<S: Rows + Send + Sync + 'static>(server: &Server<S>) -> Response {
    server.refresh_metrics();
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], server.metrics.render()).into_response()
}

impl<S: Rows + Send + Sync + 'static> Server<S> {
    /// Brings the gauges up to date that are only looked at when somebody asks.
    fn refresh_metrics(&self) {
        let (metrics, picture) = (&self.metrics, self.picture());
        let local = picture.local(&self.settings);
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let raft = &local.status.raft;
        metrics.has_leader.set(raft.leader.is_some().into());
        metrics.is_leader.set((raft.role == quorate_core::raft::Role::Leader).into());
        metrics.is_learner.set(local.is_learner().into());
        metrics.proposals_committed.set(signed(raft.commit.max(local.status.applied).0));
        metrics.proposals_applied.set(signed(local.status.applied.0));
        metrics.revision.set(local.view.revision().0);
        metrics.compact_revision.set(local.view.compacted().0);
        metrics.db_bytes.set(signed(local.status.disk_bytes));
        metrics.db_bytes_in_use.set(signed(local.view.logical_bytes().min(local.status.disk_bytes)));
        metrics.quota_bytes.set(self.settings.quota_bytes.map_or(0, signed));
    }

    /// Reads one key, through a quorum or only here. The text of what went wrong.
    async fn probe(&self, serializable: bool) -> Result<(), String> {
        let range = pb::RangeRequest { key: "health".into(), limit: 1, serializable, ..Default::default() };
        self.call(range).await.map(drop).map_err(|status| status.message)
    }
}

async fn health<S: Rows + Send + Sync + 'static>(server: &Server<S>, method: &Method, uri: &Uri) -> Response {
    if method != Method::GET {
        let allow = [(header::ALLOW, "GET"), (header::CONTENT_TYPE, PLAIN)];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "Method Not Allowed\n").into_response();
    }
    let serializable = query(uri).any(|(name, value)| name == "serializable" && value == "true");
    let reason = if !serializable && server.member.status().raft.leader.is_none() {
        Some("RAFT NO LEADER".to_owned())
    } else {
        server.probe(serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
    };
    let content_type = [(header::CONTENT_TYPE, PLAIN)];
    match reason {
        None => {
            server.metrics.health_success.inc();
            (content_type, r#"{"health":"true","reason":""}"#).into_response()
        }
        Some(reason) => {
            server.metrics.health_failures.inc();
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            (StatusCode::SERVICE_UNAVAILABLE, content_type, body).into_response()
        }
    }
}

/// One thing that /livez or /readyz looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run<S: Rows + Send + Sync + 'static>(self, server: &Server<S>) -> Result<(), String> {
        match self {
            // A member whose state differs from the majority's does not run any more.
            Self::DataCorruption => Ok(()),
            Self::SerializableRead => server.probe(true).await,
            Self::LinearizableRead => server.probe(false).await,
            Self::NonLearner if server.picture().local(&server.settings).is_learner() => {
                Err("not supported for learner".to_owned())
            }
            Self::NonLearner => Ok(()),
        }
    }
}

async fn checked<S: Rows + Send + Sync + 'static>(server: &Server<S>, checks: &[Check], uri: &Uri) -> Response {
    let excluded: Vec<&str> = query(uri).filter(|(name, _)| *name == "exclude").map(|(_, value)| value).collect();
    let verbose = query(uri).any(|(name, _)| name == "verbose");
    let (mut lines, mut failed) = (String::new(), false);
    for check in checks.iter().filter(|check| !excluded.contains(&check.name())) {
        let name = check.name();
        let _ = match check.run(server).await {
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(error) => {
                failed = true;
                writeln!(lines, "[-]{name} failed: {error}")
            }
        };
    }
    let content_type = [(header::CONTENT_TYPE, PLAIN)];
    match (failed, verbose) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, content_type, lines).into_response(),
        (false, true) => (content_type, format!("{lines}ok\n")).into_response(),
        (false, false) => (content_type, "ok\n").into_response(),
    }
}

/// The pairs of a query string. No value that matters here needs decoding.
fn query(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    uri.query().unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}
