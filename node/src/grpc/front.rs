//! What stands in front of streams, of locks and elections, and of health checks: etcd's interceptors. What stands in
//! front of a single call is the first half of it, see [`service::begin`].

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use quorate_core::error::Error;
use quorate_core::rows::Rows;

use super::{Server, stream};
use crate::service;
use crate::status::Status;

/// `routes`, behind [`service::admit`].
pub(super) fn guarded<S: Rows + Send + Sync + 'static>(routes: Router, server: &Arc<Server<S>>) -> Router {
    let server = Arc::clone(server);
    routes.route_layer(middleware::from_fn(move |request: Request, next: Next| {
        let refused = server.refuses(request.uri().path(), request.headers());
        async move {
            match refused {
                Err(error) => tonic::Status::from(Status::from(error)).into_http(),
                Ok(()) => next.run(request).await,
            }
        }
    }))
}

impl<S: Rows + Send + Sync + 'static> Server<S> {
    fn refuses(&self, path: &str, headers: &HeaderMap) -> Result<(), Error> {
        service::admit(path == stream::SNAPSHOT, &self.picture().local(&self.settings))?;
        self.check_leader(headers)
    }
}
