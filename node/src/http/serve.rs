//! Connections: with TLS or without, HTTP/2 and HTTP/1.1, each request told who sent it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Version;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use quorate_tls::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::warn;

use super::deadline;
use super::pings::Guarded;
use crate::files::Share;
use crate::grpc::CommonName;

/// Where a request comes from: in its extensions, beside the client's [`CommonName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Whether it is encrypted.
    pub is_secure: bool,
}

/// How a listener's connections are protected.
#[derive(Clone)]
pub struct Security {
    tls: Option<Acceptor>,
    /// Whether connections without TLS are served.
    plain: bool,
    /// Whether certificates name users.
    names: bool,
}

impl Security {
    /// Connections with TLS if there is an acceptor, and without if `plain`; a client's certificate names it if `names`.
    ///
    /// # Panics
    /// If no connection could be served.
    #[must_use]
    pub fn new(tls: Option<Acceptor>, plain: bool, names: bool) -> Self {
        assert!(tls.is_some() || plain, "a listener serves something");
        Self { tls, plain, names }
    }

    /// Whether no connection is encrypted.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// The acceptor for this connection; `None` if it goes without TLS.
    async fn of(&self, stream: &TcpStream) -> io::Result<Option<&Acceptor>> {
        /// The first byte of a TLS connection: a handshake record.
        const HANDSHAKE: u8 = 22;
        /// A client that says nothing for so long has gone.
        const SILENCE_MAX: Duration = Duration::from_secs(10);
        if let Some(tls) = &self.tls
            && self.plain
        {
            let mut first = [0];
            tokio::time::timeout(SILENCE_MAX, stream.peek(&mut first)).await??;
            return Ok(Some(tls).filter(|_| first == [HANDSHAKE]));
        }
        Ok(self.tls.as_ref())
    }
}

/// How connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Calls that may be open on one connection. (etcd: `--max-concurrent-streams`)
    pub streams_max: u32,
    /// A client that is silent for so long is pinged, if ever. (etcd: `--grpc-keepalive-interval`)
    pub ping_interval: Option<Duration>,
    /// One that does not answer for so long is gone. (etcd: `--grpc-keepalive-timeout`)
    pub ping_timeout: Duration,
    /// A client that pings more often is cut off, if any. (etcd: `--grpc-keepalive-min-time`)
    pub client_ping_min: Option<Duration>,
    /// How many connections there may be. (etcd: so many as files may be open, but for 150)
    pub share: Share,
}

impl Default for Tuning {
    fn default() -> Self {
        let (ping_interval, ping_timeout) = (Some(Duration::from_secs(7200)), Duration::from_secs(20));
        Self { streams_max: u32::MAX, ping_interval, ping_timeout, client_ping_min: None, share: Share::Others }
    }
}

/// What a listener serves, by the version of HTTP that its client speaks.
#[derive(Clone, Debug)]
pub struct Routes {
    /// To HTTP/2.
    pub http2: Router,
    /// To HTTP/1.1 and before.
    pub http1: Router,
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self { http2: router.clone(), http1: router }
    }
}

/// Serves `routes` on `listener` for ever, gRPC (HTTP/2) and HTTP/1.1 alike; dropping it ends every connection.
///
/// This is hyper without tonic's server around it: tonic would answer a client's deadline itself, with another status
/// than etcd's, while a client keeps its deadline anyway and its request ends when it hangs up.
pub async fn serve(listener: TcpListener, security: Security, tuning: Tuning, routes: impl Into<Routes>) {
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
        .max_concurrent_streams(tuning.streams_max)
        // Clients give up many calls at once when their own deadline passes: no reason to end the connection.
        .max_pending_accept_reset_streams(Some(1024))
        .keep_alive_interval(tuning.ping_interval)
        .keep_alive_timeout(tuning.ping_timeout);
    builder.http1().timer(TokioTimer::new());
    let ping_min = tuning.client_ping_min;
    let Routes { http2, http1 } = routes.into();
    let routes = Routes { http2: http2.with_state(()), http1: http1.with_state(()) };
    let connections = Arc::new(Connections { security, builder, ping_min, routes });
    let local_addr = listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string());
    let places = Places { free: tuning.share.places(), local_addr: local_addr.clone() };
    let mut tasks = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = places.take() => place,
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(error = error.to_string(), "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
        };
        let (connections, local_addr) = (Arc::clone(&connections), local_addr.clone());
        tasks.spawn(async move {
            let _place = place;
            if let Err(error) = connections.serve(stream, address).await {
                let (remote_addr, error) = (address.to_string(), error.to_string());
                warn!(local_addr, remote_addr, error, "rejected connection");
            }
        });
    }
}

/// How many more connections a listener may have.
struct Places {
    free: Arc<Semaphore>,
    local_addr: String,
}

impl Places {
    /// A place for one more connection, once there is one.
    async fn take(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return place;
        }
        warn!(local_addr = self.local_addr, "too many connections: no more are accepted before some end");
        Arc::clone(&self.free).acquire_owned().await.expect("never closed")
    }
}

/// What all connections of a listener share.
struct Connections {
    security: Security,
    builder: Builder<TokioExecutor>,
    ping_min: Option<Duration>,
    routes: Routes,
}

impl Connections {
    /// Serves one connection to its end; an error is of its handshake.
    async fn serve(&self, stream: TcpStream, address: SocketAddr) -> io::Result<()> {
        let _ = stream.set_nodelay(true); // Only slower without.
        let Some(acceptor) = self.security.of(&stream).await? else {
            self.answer(stream, Origin { address, is_secure: false }, None).await;
            return Ok(());
        };
        let accepted = acceptor.accept(stream).await?;
        let name = accepted.common_name.filter(|_| self.security.names).map(CommonName);
        self.answer(accepted.stream, Origin { address, is_secure: true }, name).await;
        Ok(())
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        name: Option<CommonName>,
    ) {
        let service = Connection { routes: self.routes.clone(), origin, name };
        // A broken connection is the client's to notice.
        let _ = match self.ping_min {
            Some(interval) => {
                self.builder.serve_connection(TokioIo::new(Guarded::new(stream, interval)), service).await
            }
            None => self.builder.serve_connection(TokioIo::new(stream), service).await,
        };
    }
}

/// Answers one connection's requests.
struct Connection {
    routes: Routes,
    origin: Origin,
    /// In the client's certificate, if such names mean anything here. (etcd: `--client-cert-auth`)
    name: Option<CommonName>,
}

impl hyper::service::Service<hyper::Request<hyper::body::Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: hyper::Request<hyper::body::Incoming>) -> Answer {
        request.extensions_mut().insert(self.origin);
        if let Some(name) = &self.name {
            request.extensions_mut().insert(name.clone());
        }
        let is_http2 = request.version() == Version::HTTP_2;
        let mut router = if is_http2 { self.routes.http2.clone() } else { self.routes.http1.clone() };
        match deadline::of(request.headers()) {
            None => Answer::Whenever { answer: tower_service::Service::call(&mut router, request) },
            Some(limit) => Answer::InTime { answer: Box::pin(deadline::answer(router, request.map(Body::new), limit)) },
        }
    }
}

pin_project! {
    /// A response to be.
    #[project = Projected]
    enum Answer {
        /// However long it takes.
        Whenever { #[pin] answer: RouteFuture<Infallible> },
        /// Until the client's deadline.
        InTime { answer: Pin<Box<dyn Future<Output = Response> + Send>> },
    }
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Whenever { answer } => answer.poll(context),
            Projected::InTime { answer } => answer.as_mut().poll(context).map(Ok),
        }
    }
}
