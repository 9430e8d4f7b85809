//! Calls with streams on one side or both, watches apart: keep-alives, ranges in chunks, snapshots.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::routing::post;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::rows::Rows;
use quorate_core::store::Need;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::server::{Grpc, ServerStreamingService, StreamingService};
use tonic_prost::ProstCodec;

use super::refused::refused;
use super::{Caller, Server, wants_leader};
use crate::metrics::Call;
use crate::service::Access;
use crate::service::kv::RangeStream;
use crate::service::lease::KeepAlive;
use crate::service::snapshot::SnapshotStream;
use crate::status::Status;

pub(super) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(super) const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";

pub(super) const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// Replies that may wait for a client before the work for it stops.
const REPLIES_AHEAD: usize = 4;

/// Replies on their way to a client.
pub(super) type Replies<T> = ReceiverStream<Result<T, tonic::Status>>;
/// Where replies to a client begin their way.
pub(super) type Sender<T> = mpsc::Sender<Result<T, tonic::Status>>;
/// The future of a handler that answers with a stream.
pub(super) type Opening<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<Replies<T>>, tonic::Status>> + Send>>;

pub(super) fn routes<S: Rows + Send + Sync + 'static>(router: Router, server: &Arc<Server<S>>) -> Router {
    let keep_alive = Arc::clone(server);
    let range_stream = Arc::clone(server);
    let snapshot = Arc::clone(server);
    router
        .route(
            KEEP_ALIVE,
            post(move |request: Request| async move {
                let codec = ProstCodec::<pb::LeaseKeepAliveResponse, pb::LeaseKeepAliveRequest>::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(keep_alive.message_bytes_max());
                grpc.streaming(KeepAlives(keep_alive), request).await.into_response()
            }),
        )
        .route(
            RANGE_STREAM,
            post(move |request: Request| async move {
                let codec = ProstCodec::<pb::RangeStreamResponse, pb::RangeRequest>::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(range_stream.message_bytes_max());
                grpc.server_streaming(Ranges(range_stream), request).await.into_response()
            }),
        )
        .route(
            SNAPSHOT,
            post(move |request: Request| async move {
                let codec = ProstCodec::<pb::SnapshotResponse, pb::SnapshotRequest>::default();
                Grpc::new(codec).server_streaming(Snapshots(snapshot), request).await.into_response()
            }),
        )
}

struct KeepAlives<S>(Arc<Server<S>>);

impl<S: Rows + Send + Sync + 'static> StreamingService<pb::LeaseKeepAliveRequest> for KeepAlives<S> {
    type Response = pb::LeaseKeepAliveResponse;
    type ResponseStream = Replies<pb::LeaseKeepAliveResponse>;
    type Future = Opening<pb::LeaseKeepAliveResponse>;

    fn call(&mut self, request: tonic::Request<Streaming<pb::LeaseKeepAliveRequest>>) -> Self::Future {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let counters = server.metrics.call(KEEP_ALIVE);
            let (wanted, caller) = (wants_leader(request.metadata().as_ref()), Caller::from(&request));
            Ok(server.run_stream(wanted, REPLIES_AHEAD, |server, sender| async move {
                server.keep_alive(&caller, request.into_inner(), &sender, &counters).await
            }))
        })
    }
}

struct Ranges<S>(Arc<Server<S>>);

impl<S: Rows + Send + Sync + 'static> ServerStreamingService<pb::RangeRequest> for Ranges<S> {
    type Response = pb::RangeStreamResponse;
    type ResponseStream = Replies<pb::RangeStreamResponse>;
    type Future = Opening<pb::RangeStreamResponse>;

    fn call(&mut self, request: tonic::Request<pb::RangeRequest>) -> Self::Future {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let counters = server.metrics.call(RANGE_STREAM);
            let (wanted, caller) = (wants_leader(request.metadata().as_ref()), Caller::from(&request));
            let (ask, range) = RangeStream::start(request.into_inner(), &server.settings)?;
            if let Some(ask) = ask {
                server.ask(ask).await?;
            }
            server.permit(&caller, range.access()).await?;
            Ok(server.run_stream(wanted, REPLIES_AHEAD, |server, sender| async move {
                server.range_stream(&caller, range, &sender, &counters).await
            }))
        })
    }
}

struct Snapshots<S>(Arc<Server<S>>);

impl<S: Rows + Send + Sync + 'static> ServerStreamingService<pb::SnapshotRequest> for Snapshots<S> {
    type Response = pb::SnapshotResponse;
    type ResponseStream = Replies<pb::SnapshotResponse>;
    type Future = Opening<pb::SnapshotResponse>;

    fn call(&mut self, request: tonic::Request<pb::SnapshotRequest>) -> Self::Future {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let counters = server.metrics.call(SNAPSHOT);
            let (wanted, caller) = (wants_leader(request.metadata().as_ref()), Caller::from(&request));
            server.permit(&caller, Access::State(Need::Root)).await?;
            Ok(server.run_stream(wanted, REPLIES_AHEAD, |server, sender| async move {
                server.snapshot(&caller, &sender, &counters).await
            }))
        })
    }
}

impl<S: Rows + Send + Sync + 'static> Server<S> {
    /// Opens a stream whose replies come from what `serve` gives, run on a task of its own until it ends, or until the
    /// stream is [interrupted](Server::interrupted): an error of either is the last that the client hears. Up to `ahead`
    /// replies may wait for the client.
    ///
    /// What `serve` itself sends comes before all that, even if the stream is interrupted from the start.
    pub(super) fn run_stream<T, F>(
        self: Arc<Self>,
        wants_leader: bool,
        ahead: usize,
        serve: impl FnOnce(Arc<Self>, Sender<T>) -> F,
    ) -> tonic::Response<Replies<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, replies) = mpsc::channel(ahead);
        let served = serve(Arc::clone(&self), sender.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                why = self.interrupted(wants_leader) => Err(why.into()),
                end = served => end,
            };
            if let Err(status) = end {
                let _ = sender.send(Err(status.into())).await; // The client may have gone.
            }
        });
        tonic::Response::new(ReceiverStream::new(replies))
    }

    /// Sends this member's state as a file, for as long as the client takes it.
    async fn snapshot(
        &self,
        caller: &Caller,
        replies: &Sender<pb::SnapshotResponse>,
        counters: &Call,
    ) -> Result<(), Status> {
        let picture = self.picture();
        let author = self.author(caller, &picture)?;
        let super::Picture { status, published } = picture;
        let mut stream = tokio::task::block_in_place(|| SnapshotStream::new(&author, published, &status))?;
        while let Some(reply) = tokio::task::block_in_place(|| stream.next_message()) {
            counters.sent(reply.encoded_len());
            if replies.send(Ok(reply)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Answers keep-alives in the order they come, until the client ends the stream.
    async fn keep_alive(
        &self,
        caller: &Caller,
        mut requests: Streaming<pb::LeaseKeepAliveRequest>,
        replies: &Sender<pb::LeaseKeepAliveResponse>,
        counters: &Call,
    ) -> Result<(), Status> {
        loop {
            let request = match requests.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(end) => return refused(&end).map_or(Ok(()), Err),
            };
            counters.received(request.encoded_len());
            let (ask, renewal) = KeepAlive::start(&request, &self.picture().local(&self.settings))?;
            let answer = self.pass(caller, Some(ask), renewal.access(), None).await?;
            let reply =
                renewal.finish(answer.expect("a keep-alive always asks"), &self.picture().local(&self.settings))?;
            counters.sent(reply.encoded_len());
            if replies.send(Ok(reply)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn range_stream(
        &self,
        caller: &Caller,
        mut range: RangeStream,
        replies: &Sender<pb::RangeStreamResponse>,
        counters: &Call,
    ) -> Result<(), Status> {
        let mut picture = self.picture();
        let author = self.author(caller, &picture)?;
        loop {
            let next = tokio::task::block_in_place(|| range.next(&author, &picture.local(&self.settings)))?;
            let Some(reply) = next else { return Ok(()) };
            counters.sent(reply.encoded_len());
            if replies.send(Ok(reply)).await.is_err() {
                return Ok(());
            }
            picture = self.picture();
        }
    }
}
