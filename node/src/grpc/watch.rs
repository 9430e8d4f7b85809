//! Watch streams: one task a stream, between the client and the hub.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::routing::post;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::rows::Rows;
use quorate_core::store::Need;
use quorate_core::watch::Input;
use tonic::Streaming;
use tonic::server::{Grpc, StreamingService};
use tonic_prost::ProstCodec;

use super::refused::refused;
use super::stream::{Opening, Replies, Sender};
use super::{Caller, Pending, Server, wants_leader};
use crate::metrics::Call;
use crate::service::Access;
use crate::service::watch::{self, Encoder, WatchReply};
use crate::status::{Code, Status};

pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Replies that may wait in front of the connection.
const REPLIES_AHEAD: usize = 16;

/// Responses that may wait before the client's next request is taken: answers to its own requests are never held back,
/// so a client that asks without reading would fill the memory.
const BACKLOG_MAX: usize = 1024;

pub(super) fn route<S: Rows + Send + Sync + 'static>(router: Router, server: &Arc<Server<S>>) -> Router {
    let server = Arc::clone(server);
    let serve = move |request: Request| async move {
        let codec = ProstCodec::<WatchReply, pb::WatchRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(server.message_bytes_max());
        grpc.streaming(Watches(server), request).await.into_response()
    };
    router.route(WATCH, post(serve))
}

struct Watches<S>(Arc<Server<S>>);

impl<S: Rows + Send + Sync + 'static> StreamingService<pb::WatchRequest> for Watches<S> {
    type Response = WatchReply;
    type ResponseStream = Replies<WatchReply>;
    type Future = Opening<WatchReply>;

    fn call(&mut self, request: tonic::Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let counters = server.metrics.call(WATCH);
            let (wanted, caller) = (wants_leader(request.metadata().as_ref()), Caller::from(&request));
            Ok(server.run_stream(wanted, REPLIES_AHEAD, |server, sender| async move {
                let _open = Pending::new(&server.metrics.watch_streams);
                Err(server.watch(&caller, request.into_inner(), &sender, &counters).await)
            }))
        })
    }
}

impl<S: Rows + Send + Sync + 'static> Server<S> {
    /// The answer to a create that the caller is refused. What it may watch is decided here, once. (etcd)
    async fn refused(&self, caller: &Caller, request: &pb::WatchRequest) -> Option<WatchReply> {
        let keys = watch::keys(request)?;
        let status = self.permit(caller, Access::State(Need::Read(&keys))).await.err()?;
        Some(watch::refusal(self.picture().local(&self.settings).header_now(), &status))
    }

    /// Serves one stream until the client goes or the member stops. Requests are taken while the client is slow at
    /// taking replies too, up to [`BACKLOG_MAX`].
    async fn watch(
        &self,
        caller: &Caller,
        mut requests: Streaming<pb::WatchRequest>,
        replies: &Sender<WatchReply>,
        counters: &Call,
    ) -> Status {
        let mut stream = self.member.watch();
        let mut encoder = Encoder::new(self.settings.responder, self.settings.limits);
        let mut outbox: VecDeque<WatchReply> = VecDeque::new();
        let mut outbox_bytes = 0;
        let mut asking = true;
        // Creates that the hub has not answered yet: it may be behind, and the client ahead of it.
        let mut unanswered = 0_usize;
        loop {
            let waiting = outbox.len() + stream.backlog().max(unanswered);
            tokio::select! {
                request = requests.message(), if asking && waiting < BACKLOG_MAX => match request {
                    Ok(Some(request)) => {
                        counters.received(request.encoded_len());
                        if let Some(refused) = self.refused(caller, &request).await {
                            outbox.push_back(refused);
                        } else if let Some(input) = watch::input(stream.id, request) {
                            unanswered += usize::from(matches!(input, Input::Create(..)));
                            stream.send(input);
                        }
                    }
                    // The client has nothing more to ask but still listens.
                    Ok(None) => asking = false,
                    Err(end) => {
                        let gone = || Status::new(Code::Cancelled, "etcdserver: watch canceled");
                        return refused(&end).unwrap_or_else(gone);
                    }
                },
                response = stream.next(), if outbox.is_empty() => {
                    let Some(first) = response else { return Error::Stopped.into() };
                    let term = self.member.status().raft.term;
                    let mut next = Some(first);
                    while let Some(response) = next {
                        outbox_bytes += response.bytes();
                        unanswered -= usize::from(response.created);
                        self.metrics.events.inc_by(response.events.len() as u64);
                        outbox.extend(encoder.replies(term, response));
                        next = if outbox.len() < REPLIES_AHEAD { stream.try_next() } else { None };
                    }
                    encoder.end_batch();
                }
                permit = replies.reserve(), if !outbox.is_empty() => {
                    let Ok(permit) = permit else {
                        return Status::new(Code::Cancelled, "etcdserver: watch canceled");
                    };
                    let reply = outbox.pop_front().expect("the outbox is not empty");
                    counters.sent(reply.encoded_len());
                    permit.send(Ok(reply));
                    if outbox.is_empty() {
                        stream.taken(std::mem::take(&mut outbox_bytes));
                    }
                }
                () = replies.closed() => return Status::new(Code::Cancelled, "etcdserver: watch canceled"),
            }
        }
    }
}
