//! The accepting side: check the hello, hand on every frame. Beside it, what etcd answers on its peer port.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bytes::Bytes;
use quorate_api::quorate::peer::v1 as pb;
use quorate_api::quorate::peer::v1::peer_server::{Peer, PeerServer};
use quorate_core::request::Member;
use quorate_core::rows::Rows;
use quorate_core::{Incarnation, LogIndex, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::{Directory, MESSAGE_BYTES_MAX};
use crate::grpc::Server;
use crate::http;
use crate::service::cluster;

/// Everything on the peer port: the streams of the other members, whose frames go to the member, and plain HTTP.
pub fn router<S: Rows + Send + Sync + 'static>(server: &Arc<Server<S>>, directory: &Arc<Directory>) -> Router {
    let streams = Streams { server: Arc::clone(server), directory: Arc::clone(directory) };
    let service = PeerServer::new(streams)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Arc::clone(server);
    Router::new()
        .route_service("/quorate.peer.v1.Peer/Exchange", service.clone())
        .route_service("/quorate.peer.v1.Peer/Snapshot", service.clone())
        .route_service("/quorate.peer.v1.Peer/Members", service)
        .route("/version", get(http::version))
        .route("/members", get(move || async move { members(&server) }))
        .fallback(http::not_found)
}

fn members<S: Rows + Send + Sync + 'static>(server: &Server<S>) -> axum::response::Response {
    let picture = server.picture();
    let members = cluster::members(&picture.local(&server.settings));
    let json = |texts: Vec<String>| serde_json::Value::from(texts).to_string();
    let fields = |member: Member| {
        // In etcd's order.
        let mut fields = format!("\"id\":{},\"peerURLs\":{}", member.id.0, json(member.peer_urls));
        if !member.name.is_empty() {
            fields += &format!(",\"name\":{}", serde_json::Value::from(member.name));
        }
        if !member.client_urls.is_empty() {
            fields += &format!(",\"clientURLs\":{}", json(member.client_urls));
        }
        if member.is_learner {
            fields += ",\"isLearner\":true";
        }
        format!("{{{fields}}}")
    };
    let members: Vec<String> = members.into_iter().map(fields).collect();
    let cluster = format!("{:x}", server.settings.responder.cluster.0);
    let headers = [(header::CONTENT_TYPE.as_str(), "application/json"), ("x-etcd-cluster-id", cluster.as_str())];
    (headers, format!("[{}]\n", members.join(","))).into_response()
}

struct Streams<S> {
    server: Arc<Server<S>>,
    directory: Arc<Directory>,
}

type Answer = Result<Response<ReceiverStream<Result<pb::Message, Status>>>, Status>;

#[tonic::async_trait]
impl<S: Rows + Send + Sync + 'static> Peer for Streams<S> {
    type ExchangeStream = ReceiverStream<Result<pb::Message, Status>>;
    type SnapshotStream = ReceiverStream<Result<pb::Message, Status>>;

    async fn exchange(&self, request: Request<Streaming<pb::Message>>) -> Answer {
        self.accept(request).await
    }

    async fn snapshot(&self, request: Request<Streaming<pb::Message>>) -> Answer {
        self.accept(request).await
    }

    async fn members(&self, request: Request<pb::MembersRequest>) -> Result<Response<pb::MembersResponse>, Status> {
        let picture = self.server.picture();
        let members = picture.local(&self.server.settings).view.members();
        let member = |member: &Member| pb::Member {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        };
        let members: Vec<pb::Member> = members.iter().map(member).collect();
        if members.is_empty() {
            return Err(Status::unavailable("this member does not know the others yet"));
        }
        let cluster_id = self.directory.identity().cluster.0;
        let voucher = self.server.member.voucher();
        let life = request.into_inner().life.filter(|life| life.cluster_id == cluster_id);
        let is_over = life.is_some_and(|life| {
            let (named, member) = ((NodeId(life.member_id), Incarnation(life.incarnation)), &self.server.member);
            !member.status().suspect && voucher.is_over(&member.published().view, named, LogIndex(life.config_index))
        });
        let set = |set: Vec<NodeId>| pb::Voters { ids: set.into_iter().map(|id| id.0).collect() };
        let in_force = voucher.in_force().into_iter().map(set).collect();
        Ok(Response::new(pb::MembersResponse { cluster_id, members, in_force, is_over }))
    }
}

impl<S: Rows + Send + Sync + 'static> Streams<S> {
    async fn accept(&self, request: Request<Streaming<pb::Message>>) -> Answer {
        let address = request.extensions().get::<http::Origin>().map(|it| it.address.to_string());
        let mut incoming = request.into_inner();
        let hello = self.directory.identity().check(incoming.message().await?).map_err(|error| error.to_string());
        let admitted = hello.and_then(|(from, urls)| Ok((from, self.directory.admit(from, &urls)?)));
        let (from, received) = admitted.map_err(|reason| {
            warn!(address, reason, "refused a peer's stream");
            Status::failed_precondition(reason)
        })?;
        self.server.member.called(from);
        let (sender, answers) = mpsc::channel(1);
        let hello = self.directory.identity().hello(from, &self.directory.urls());
        let _ = sender.send(Ok(hello)).await; // The peer may have gone already.
        let (server, directory) = (Arc::clone(&self.server), Arc::clone(&self.directory));
        tokio::spawn(async move {
            // Any error is the end of the stream; the peer dials again.
            while let Ok(Some(pb::Message { message: Some(message) })) = incoming.message().await {
                let pb::message::Message::Frames(pb::Frames { frames }) = message else { break };
                if directory.is_removed(from) {
                    break; // It dials again, and is told.
                }
                received.inc_by(frames.iter().map(Bytes::len).sum::<usize>() as u64);
                server.member.received(from, frames);
            }
            drop(sender);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
