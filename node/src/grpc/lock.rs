//! Locks as a service. (etcd: v3lockpb)

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_api::v3lockpb::lock_server::{Lock, LockServer};
use quorate_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use quorate_core::rows::Rows;
use tonic::{Request, Response};

use super::session::{Place, on_behalf};
use super::{Caller, Server};
use crate::status::{Code, Status};

pub(super) fn routes<S: Rows + Send + Sync + 'static>(router: Router, server: &Arc<Server<S>>) -> Router {
    let service = LockServer::new(Locks(Arc::clone(server))).max_decoding_message_size(server.message_bytes_max());
    router.route_service("/v3lockpb.Lock/Lock", service.clone()).route_service("/v3lockpb.Lock/Unlock", service)
}

struct Locks<S>(Arc<Server<S>>);

#[tonic::async_trait]
impl<S: Rows + Send + Sync + 'static> Lock for Locks<S> {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        Ok(Response::new(lock(&self.0, &caller, request.into_inner()).await.map_err(on_behalf)?))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        let key = request.into_inner().key;
        let reply =
            self.0.call(&caller, pb::DeleteRangeRequest { key, ..Default::default() }).await.map_err(on_behalf)?;
        Ok(Response::new(UnlockResponse { header: reply.header }))
    }
}

async fn lock<S: Rows + Send + Sync + 'static>(
    server: &Arc<Server<S>>,
    caller: &Caller,
    request: LockRequest,
) -> Result<LockResponse, Status> {
    let mut place = Place::take(server, caller, &request.name, request.lease, Bytes::new()).await?;
    if !place.is_first {
        place.wait().await?;
        // The lease may have run out meanwhile.
        let (is_there, header) = place.is_there().await?;
        if !is_there {
            return Err(Status::new(Code::Unknown, "mutex: session is expired"));
        }
        place.header = header;
    }
    let response = LockResponse { header: place.header.take(), key: place.key.clone() };
    place.keep();
    Ok(response)
}
