//! Elections as a service. (etcd: v3electionpb)

use std::sync::Arc;

use axum::Router;
use quorate_api::etcdserverpb as pb;
use quorate_api::mvccpb::KeyValue;
use quorate_api::v3electionpb::election_server::{Election, ElectionServer};
use quorate_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use quorate_core::Blob;
use quorate_core::request::KeyRange;
use quorate_core::rows::Rows;
use tonic::{Request, Response};

use super::session::{self, Place, created_at, next_event, on_behalf, op, prefix, prefix_end};
use super::stream::{Replies, Sender};
use super::{Caller, Server, wants_leader};
use crate::status::{Code, Status};

pub(super) fn routes<S: Rows + Send + Sync + 'static>(mut router: Router, server: &Arc<Server<S>>) -> Router {
    let service = ElectionServer::new(Elections(Arc::clone(server)));
    let service = service.max_decoding_message_size(server.message_bytes_max());
    for method in ["Campaign", "Proclaim", "Leader", "Observe", "Resign"] {
        router = router.route_service(&format!("/v3electionpb.Election/{method}"), service.clone());
    }
    router
}

struct Elections<S>(Arc<Server<S>>);

#[tonic::async_trait]
impl<S: Rows + Send + Sync + 'static> Election for Elections<S> {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        Ok(Response::new(campaign(&self.0, &caller, request.into_inner()).await.map_err(on_behalf)?))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let header = proclaim(&self.0, &caller, &leader.ok_or_else(leader_missing)?, value).await.map_err(on_behalf)?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        let reply =
            self.0.call(&caller, session::oldest(&prefix(&request.into_inner().name))).await.map_err(on_behalf)?;
        let Some(kv) = reply.kvs.into_iter().next() else {
            return Err(Status::new(Code::Unknown, "election: no leader").into());
        };
        Ok(Response::new(LeaderResponse { header: reply.header, kv: Some(kv) }))
    }

    type ObserveStream = Replies<LeaderResponse>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, tonic::Status> {
        let wanted = wants_leader(request.metadata().as_ref());
        let (server, caller) = (Arc::clone(&self.0), Caller::from(&request));
        let prefix = prefix(&request.into_inner().name);
        Ok(server.run_stream(wanted, 1, |server, sender| async move {
            tokio::select! {
                biased;
                end = observe(&server, &caller, &prefix, &sender) => end.map_err(on_behalf),
                () = sender.closed() => Ok(()),
            }
        }))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, tonic::Status> {
        let caller = Caller::from(&request);
        let leader = request.into_inner().leader.ok_or_else(leader_missing)?;
        let resign = session::remove(leader.key, leader.rev);
        let header = self.0.call(&caller, resign).await.map_err(on_behalf)?.header;
        Ok(Response::new(ResignResponse { header }))
    }
}

fn leader_missing() -> Status {
    Status::new(Code::Unknown, "\"leader\" field must be provided")
}

async fn campaign<S: Rows + Send + Sync + 'static>(
    server: &Arc<Server<S>>,
    caller: &Caller,
    request: CampaignRequest,
) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let mut place = Place::take(server, caller, &name, lease, value.clone()).await?;
    let leader = LeaderKey { name, key: place.key.clone(), rev: place.revision, lease: place.lease };
    if place.found.as_ref().is_some_and(|found| found.value != value) {
        proclaim(server, caller, &leader, value).await?;
    }
    place.wait().await?;
    let header = place.header.take();
    place.keep();
    Ok(CampaignResponse { header, leader: Some(leader) })
}

/// Publishes `value` if `leader` still is the key that was created when it says.
async fn proclaim<S: Rows + Send + Sync + 'static>(
    server: &Server<S>,
    caller: &Caller,
    leader: &LeaderKey,
    value: bytes::Bytes,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let put = pb::PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..Default::default() };
    let txn = pb::TxnRequest {
        compare: vec![created_at(leader.key.clone(), leader.rev)],
        success: vec![op(pb::request_op::Request::RequestPut(put))],
        failure: vec![],
    };
    let reply = server.call(caller, txn).await?;
    if reply.succeeded { Ok(reply.header) } else { Err(Status::new(Code::Unknown, "election: not leader")) }
}

/// Sends the leader's key, and again whenever it changes or another one leads. Values in quick succession may be
/// passed over, the last one never.
async fn observe<S: Rows + Send + Sync + 'static>(
    server: &Server<S>,
    caller: &Caller,
    prefix: &[u8],
    sender: &Sender<LeaderResponse>,
) -> Result<(), Status> {
    let mut last: Option<KeyValue> = None;
    loop {
        let reply = server.call(caller, session::oldest(prefix)).await?;
        let revision = reply.header.as_ref().map_or(0, |header| header.revision);
        let leader = reply.kvs.into_iter().next();
        if let Some(kv) = &leader
            && last.as_ref().is_none_or(|last| (&last.key, last.mod_revision) != (&kv.key, kv.mod_revision))
            && sender.send(Ok(LeaderResponse { header: reply.header, kv: Some(kv.clone()) })).await.is_err()
        {
            return Ok(());
        }
        last = leader.or(last);
        let range = KeyRange::Bounded { start: Blob::copy(prefix), end: prefix_end(prefix).into() };
        next_event(server, range, revision + 1, false).await?;
    }
}
