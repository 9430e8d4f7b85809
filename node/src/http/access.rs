//! Who may use plain HTTP from a browser. (etcd: `--cors`, `--host-whitelist`)

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

use super::Origin;
use super::drained::Drained;

/// Which origins and host names are accepted; `*` stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where pages may come from that call this server.
    pub origins: Vec<String>,
    /// What this server may be called in requests without TLS.
    pub hosts: Vec<String>,
}

/// Puts `access` in front of every route of `router`.
pub(super) fn guard(router: Router, access: &Access) -> Router {
    router.layer(from_fn_with_state(Arc::new(access.clone()), check))
}

async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let request = request.map(|body| Body::new(Drained(body)));
    let is_secure = request.extensions().get::<Origin>().is_some_and(|origin| origin.is_secure);
    // A page that made its name resolve to this address still sends its own name.
    if !is_secure && !access.accepts_host(host(&request)) {
        let text = format!(
            "{:?} is no name of this server. Use TLS, or add the name to --host-whitelist. \
             This protects from DNS rebinding (CVE-2018-5702).\n",
            host(&request)
        );
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    let origin = access.origin(&request);
    let mut response =
        if request.method() == Method::OPTIONS { StatusCode::OK.into_response() } else { next.run(request).await };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers
            .insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

impl Access {
    fn accepts_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|it| it == "*" || it == host)
    }

    /// What to allow, if the request's origin may call this server.
    fn origin(&self, request: &Request) -> Option<HeaderValue> {
        if self.origins.iter().any(|it| it == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = request.headers().get(header::ORIGIN)?;
        self.origins.iter().any(|it| it.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// The name by which the client calls this server, without the port.
fn host(request: &Request) -> &str {
    let header = || request.headers().get(header::HOST)?.to_str().ok();
    let authority = request.uri().authority().map(|it| it.as_str()).or_else(header).unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => authority,
    }
}
