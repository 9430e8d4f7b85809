//! Calls with one request and one reply.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::routing::post;
use quorate_core::rows::Rows;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::refused::refused;
use super::{Caller, Server};
use crate::http::deadline::Deadline;
use crate::metrics::Call;
use crate::service::Method;
use crate::status::{Code, Status};

/// Adds the route of `M`.
pub(super) fn route<M: Method, S: Rows + Send + Sync + 'static>(router: Router, server: &Arc<Server<S>>) -> Router {
    let call = |server: Arc<Server<S>>, caller: Caller, request: M| async move { server.call(&caller, request).await };
    route_to(router, server, M::PATH, call)
}

/// Adds a route that `handler` answers: it must ask the gate itself what the caller may have.
pub(super) fn route_to<M, R, S, H, F>(router: Router, server: &Arc<Server<S>>, path: &str, handler: H) -> Router
where
    M: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
    S: Rows + Send + Sync + 'static,
    H: Fn(Arc<Server<S>>, Caller, M) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Result<R, Status>> + Send + 'static,
{
    let server = Arc::clone(server);
    let counters = server.metrics.call(path);
    let serve = move |request: Request| {
        let (server, counters) = (Arc::clone(&server), Arc::clone(&counters));
        async move {
            let codec = ProstCodec::<R, M>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(server.message_bytes_max());
            let running = counters.begin(Deadline::among(request.extensions()));
            let unary = Unary { server, counters, handler, method: PhantomData::<fn(M)> };
            let response = grpc.unary(unary, request).await;
            // Only a failed call has its status in the headers.
            let Some(status) = tonic::Status::from_header_map(response.headers()) else {
                running.handled(Code::Ok);
                return response.into_response();
            };
            match refused(&status) {
                Some(status) => {
                    running.handled(status.code);
                    tonic::Status::from(status).into_http::<axum::body::Body>()
                }
                None => {
                    running.handled(Code::from(status.code()));
                    response.into_response()
                }
            }
        }
    };
    router.route(path, post(serve))
}

struct Unary<M, S, H> {
    server: Arc<Server<S>>,
    counters: Arc<Call>,
    handler: H,
    method: PhantomData<fn(M)>,
}

impl<M, R, S, H, F> tonic::server::UnaryService<M> for Unary<M, S, H>
where
    M: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
    S: Rows + Send + Sync + 'static,
    H: Fn(Arc<Server<S>>, Caller, M) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Result<R, Status>> + Send + 'static,
{
    type Response = R;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<R>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<M>) -> Self::Future {
        let (server, counters, handler) = (Arc::clone(&self.server), Arc::clone(&self.counters), self.handler);
        Box::pin(async move {
            let caller = Caller::from(&request);
            let leader = server.check_leader(request.metadata().as_ref());
            let request = request.into_inner();
            counters.received(request.encoded_len());
            let result = match leader {
                Ok(()) => handler(server, caller, request).await,
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(reply) => {
                    counters.sent(reply.encoded_len());
                    Ok(tonic::Response::new(reply))
                }
                Err(status) => Err(status.into()),
            }
        })
    }
}
