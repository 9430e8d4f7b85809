//! Plain HTTP beside gRPC on the client port: health, version, metrics. (etcd: /health, /livez, /readyz, /version)

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::rows::Rows;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::warn;

use crate::grpc::{self, Caller, Server};
use crate::metrics::Metrics;
use crate::service::maintenance::{alarms, own_alarms};
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

/// The address of the client that sent a request, in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub SocketAddr);

/// Serves `router` on `listener` for ever, gRPC (HTTP/2) and HTTP/1.1 alike; dropping it ends every connection.
///
/// This is hyper without tonic's server around it: tonic would answer a client's deadline itself, with another status
/// than etcd's, while a client keeps its deadline anyway and its request ends when it hangs up.
pub async fn serve(listener: TcpListener, router: Router) {
    // Windows large enough that one connection with many streams, or a snapshot, is not held up by round trips.
    const STREAM_WINDOW_BYTES: u32 = 4 << 20;
    const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
    /// After a failure to accept, which is a lack of file descriptors, time for some to come free.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(u32::MAX)
        // Clients give up many calls at once when their own deadline passes: no reason to end the connection.
        .max_pending_accept_reset_streams(Some(1024))
        .keep_alive_interval(Some(Duration::from_secs(7200)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder.http1().timer(TokioTimer::new());
    let builder = Arc::new(builder);
    let router: Router = router.with_state(());
    let mut connections = JoinSet::new();
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(error = error.to_string(), "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true); // Only slower without.
        let (builder, service) = (Arc::clone(&builder), Connection { router: router.clone(), address });
        connections.spawn(async move {
            // A broken connection is the client's to notice.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers one connection's requests.
struct Connection {
    router: Router,
    address: SocketAddr,
}

impl hyper::service::Service<hyper::Request<hyper::body::Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as tower_service::Service<hyper::Request<hyper::body::Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        request.extensions_mut().insert(RemoteAddr(self.address));
        tower_service::Service::call(&mut self.router.clone(), request)
    }
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
        metrics.db_bytes.set(signed(local.db_bytes()));
        metrics.db_bytes_in_use.set(signed(local.view.logical_bytes()));
        metrics.alarms.reset();
        for alarm in alarms(local.view.alarms()) {
            let server = format!("{:x}", alarm.member_id);
            metrics.alarms.with_label_values(&[&server, alarm.alarm().as_str_name()]).set(1);
        }
        metrics.quota_bytes.set(self.settings.quota_bytes.map_or(0, signed));
    }

    /// Reads one key, through a quorum or only here. The text of what went wrong.
    async fn probe(&self, serializable: bool) -> Result<(), String> {
        let range = pb::RangeRequest { key: "health".into(), limit: 1, serializable, ..Default::default() };
        match self.call(&Caller::default(), range).await {
            Ok(_) => Ok(()),
            // It could be read, were it somebody else who asks. (etcd)
            Err(status) if status == Error::UserEmpty.into() => Ok(()),
            Err(status) => Err(status.message),
        }
    }
}

async fn health<S: Rows + Send + Sync + 'static>(server: &Server<S>, method: &Method, uri: &Uri) -> Response {
    if method != Method::GET {
        let allow = [(header::ALLOW, "GET"), (header::CONTENT_TYPE, PLAIN)];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "Method Not Allowed\n").into_response();
    }
    let serializable = query(uri).any(|(name, value)| name == "serializable" && value == "true");
    let excluded: Vec<&str> = query(uri).filter(|(name, _)| *name == "exclude").map(|(_, value)| value).collect();
    let alarm = {
        let picture = server.picture();
        own_alarms(&picture.local(&server.settings)).map(|alarm| alarm.as_str_name()).find(|it| !excluded.contains(it))
    };
    let reason = if let Some(alarm) = alarm {
        Some(format!("ALARM {alarm}"))
    } else if !serializable && server.member.status().raft.leader.is_none() {
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
            Self::DataCorruption => {
                let picture = server.picture();
                let corrupt = own_alarms(&picture.local(&server.settings)).any(|it| it == pb::AlarmType::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
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
