//! Plain HTTP beside gRPC on the client port: health, version, metrics. (etcd: /health, /livez, /readyz, /version)

mod access;
pub(crate) mod deadline;
mod drained;
mod pings;
mod serve;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::replica::Request::ReadIndex;
use quorate_core::rows::Rows;

use crate::gateway;
use crate::grpc::{self, Caller, CommonName, Server};
use crate::metrics::Metrics;
use crate::service::maintenance::{alarms, own_alarms};
use crate::service::{CLUSTER_VERSION, ETCD_VERSION};

pub use self::access::Access;
pub use self::serve::{Origin, Routes, Security, Tuning, serve};

/// The version of Quorate itself.
pub const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");

const PLAIN: &str = "text/plain; charset=utf-8";

/// What plain HTTP offers beside gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Whether the API is served as JSON. (etcd: `--enable-grpc-gateway`)
    pub gateway: bool,
    /// Who may use it.
    pub access: Access,
}

/// Everything on the client port: gRPC and plain HTTP.
///
/// gRPC is over HTTP/2 alone: a page in a browser can send HTTP/1.1 to any path, with any type of content, and
/// `--host-whitelist` is what keeps it away.
pub fn client_routes<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>, plain: &Plain) -> Routes {
    let routes = plain_routes(server, plain);
    let http2 = grpc::router(Arc::clone(server)).merge(access::guard(routes.clone(), &plain.access));
    Routes { http2, http1: access::guard(routes.fallback(not_found), &plain.access) }
}

/// gRPC alone, where plain HTTP has listeners of its own.
pub fn grpc_routes<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>) -> Routes {
    Routes { http2: grpc::router(Arc::clone(server)), http1: Router::new().fallback(not_found) }
}

/// Plain HTTP alone. (etcd: `--listen-client-http-urls`)
pub fn plain_router<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>, plain: &Plain) -> Router {
    access::guard(plain_routes(server, plain).fallback(not_found), &plain.access)
}

/// What etcd answers to paths that are not there.
pub(crate) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, PLAIN)], "404 page not found\n").into_response()
}

fn plain_routes<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>, plain: &Plain) -> Router {
    let mut router = metrics_router(server).route("/version", get(version));
    if plain.gateway {
        let gateway = gateway::routes(grpc::router(Arc::clone(server)), server.message_bytes_max());
        router = router.merge(gateway.layer(from_fn_with_state(Arc::clone(server), refuse_names)));
    }
    router
}

/// Refuses users that only a certificate names: the gateway's calls are not theirs. (etcd: the same text)
async fn refuse_names<S: Rows + Send + Sync + 'static>(
    State(server): State<Arc<Server<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let is_named = request.extensions().get::<CommonName>().is_some();
    if is_named && server.picture().local(&server.settings).view.auth().is_enabled() {
        let text = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    next.run(request).await
}

/// Metrics and health. (etcd: `--listen-metrics-urls`)
pub fn metrics_router<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>) -> Router {
    let it = Arc::clone(server);
    let mut router = Router::new().route("/metrics", get(move || async move { metrics(&it) }));
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
        metrics.auth_revision.set(signed(local.view.auth().revision().0));
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
        if !serializable {
            // Apart from the read, since a learner can do this as well, although it does so for no client. (etcd)
            self.ask(ReadIndex).await.map_err(|status| status.message)?;
        }
        let range = pb::RangeRequest { key: "health".into(), limit: 1, serializable: true, ..Default::default() };
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
