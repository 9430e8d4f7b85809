//! The standard health check. etcd knows one service, the empty name: the whole server, which serves while it answers.

use std::sync::Arc;

use axum::Router;
use quorate_api::grpc::health::v1::health_check_response::ServingStatus;
use quorate_api::grpc::health::v1::health_server::{Health, HealthServer};
use quorate_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use quorate_core::rows::Rows;
use tonic::{Request, Response, Status};

use super::stream::Replies;
use super::{Server, wants_leader};

pub(super) fn routes<S: Rows + Send + Sync + 'static>(router: Router, server: &Arc<Server<S>>) -> Router {
    let service = HealthServer::new(Checks(Arc::clone(server)));
    router
        .route_service("/grpc.health.v1.Health/Check", service.clone())
        .route_service("/grpc.health.v1.Health/List", service.clone())
        .route_service("/grpc.health.v1.Health/Watch", service)
}

struct Checks<S>(Arc<Server<S>>);

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl<S: Rows + Send + Sync + 'static> Health for Checks<S> {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(answer(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = [(String::new(), answer(ServingStatus::Serving))].into();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Replies<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        let wanted = wants_leader(request.metadata().as_ref());
        Ok(Arc::clone(&self.0).run_stream(wanted, 2, |_, sender| {
            sender.try_send(Ok(answer(status))).expect("nothing was sent yet, and the receiver is still here");
            async move {
                // The stream stays open: nothing changes while the member serves.
                sender.closed().await;
                Ok(())
            }
        }))
    }
}
