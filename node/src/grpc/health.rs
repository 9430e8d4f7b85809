//! The standard health check. etcd knows one service, the empty name: the whole server, which serves while it answers.

use std::sync::Arc;

use axum::Router;
use quorate_api::grpc::health::v1::health_check_response::ServingStatus;
use quorate_api::grpc::health::v1::health_server::{Health, HealthServer};
use quorate_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use quorate_core::rows::Rows;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Server, wants_leader};
use crate::status;

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

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        let wanted = wants_leader(request.metadata().as_ref());
        let (sender, answers) = mpsc::channel(2);
        let server = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _ = sender.send(Ok(answer(status))).await; // The client may have gone.
            // The stream stays open: nothing changes while the member serves.
            let end = tokio::select! {
                why = server.interrupted(wanted) => status::Status::from(why),
                () = sender.closed() => return,
            };
            let _ = sender.send(Err(end.into())).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
