//! The dialling side of a stream: connect, say hello, send what is queued; begin again when it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quorate_api::quorate::peer::v1 as pb;
use quorate_api::quorate::peer::v1::peer_client::PeerClient;
use quorate_core::NodeId;
use quorate_tls::Connector;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use super::{Directory, Lane, MESSAGE_BYTES_MAX, REMOVED};
use crate::url::Url;

/// Pauses between attempts: short at first, since peers often start together.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// A peer that does not answer a ping for this long is gone, whatever TCP still hopes for.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Batches packed into one message at most.
const BATCHES_PER_MESSAGE: usize = 64;

/// Which of a peer's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything that must not wait.
    Urgent,
    /// Snapshots.
    Bulk,
}

/// One lane to one peer, and who keeps it alive.
pub(super) struct Dial {
    pub(super) directory: Arc<Directory>,
    pub(super) to: NodeId,
    pub(super) lane: Arc<Lane>,
    pub(super) kind: Kind,
}

impl Dial {
    /// Keeps the lane alive for as long as it is let.
    pub(super) async fn run(self, urls: Vec<Url>) {
        let mut pause = RETRY_MIN;
        let mut complained = false;
        for url in urls.iter().cycle() {
            let end = self.connect(url, &mut pause, &mut complained).await;
            if self.kind == Kind::Urgent && !complained {
                complained = true;
                warn!(
                    peer = format!("{:x}", self.to.0),
                    url = url.to_string(),
                    reason = end,
                    "lost the stream to a peer"
                );
            }
            if end == REMOVED {
                self.directory.told_removed();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One life of the stream; the reason for its end.
    async fn connect(&self, url: &Url, pause: &mut Duration, complained: &mut bool) -> String {
        let Self { directory, to, lane, kind } = self;
        let (to, identity) = (*to, directory.identity());
        let attempt = || {
            let (url, connector) = (url.clone(), directory.connector().clone());
            async move { open_channel(&url, &connector).await }
        };
        let channel = match staggered(attempt).await {
            Ok(channel) => channel,
            Err(error) => return chain(&error),
        };
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, waiting_bytes) = lane.open();
        let outgoing = Outgoing { hello: Some(identity.hello(to, &directory.urls())), queue, waiting_bytes };
        let answer = match kind {
            Kind::Urgent => client.exchange(outgoing).await,
            Kind::Bulk => client.snapshot(outgoing).await,
        };
        let mut incoming = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                lane.close();
                return status.message().to_owned();
            }
        };
        let end = match incoming.message().await.map(|first| identity.check(first)) {
            Ok(Ok((peer, _))) if peer == to => {
                *pause = RETRY_MIN;
                *complained = false;
                if *kind == Kind::Urgent {
                    directory.active(to).set(1);
                    info!(peer = format!("{:x}", to.0), url = url.to_string(), "opened the stream to a peer");
                }
                // The peer says nothing more: the next thing heard is the end.
                match incoming.message().await {
                    Ok(_) => "the peer closed the stream".to_owned(),
                    Err(status) => status.message().to_owned(),
                }
            }
            Ok(Ok((peer, _))) => format!("the URL leads to member {:x}", peer.0),
            Ok(Err(error)) => error.to_string(),
            Err(status) => status.message().to_owned(),
        };
        lane.close();
        if *kind == Kind::Urgent {
            directory.active(to).set(0);
        }
        end
    }
}

/// What the first of several attempts to end gives: another one begins every [`RETRY_MAX`]. Where packets are dropped, since
/// nobody is there yet, one alone would notice only seconds later that somebody is; and a founder that has lost its disk
/// listens for no longer than it takes a few to reach it.
async fn staggered<T: Send + 'static, F: Future<Output = T> + Send + 'static>(attempt: impl Fn() -> F) -> T {
    let mut attempts = JoinSet::new();
    loop {
        attempts.spawn(attempt());
        if let Ok(Some(ended)) = tokio::time::timeout(RETRY_MAX, attempts.join_next()).await {
            return ended.expect("no attempt panics");
        }
    }
}

pub(super) async fn open_channel(url: &Url, connector: &Connector) -> Result<Channel, tonic::transport::Error> {
    const WINDOW_BYTES: u32 = 16 << 20;
    Endpoint::from_shared(url.to_string())?
        .connect_timeout(PING_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(connector.clone())
        .await
}

/// An error with everything that caused it: tonic's own text is only "transport error".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What flows to the peer: the hello, then whatever is queued, several batches in one message.
struct Outgoing {
    hello: Option<pb::Message>,
    queue: mpsc::UnboundedReceiver<Vec<Bytes>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Stream for Outgoing {
    type Item = pb::Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::Message>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let mut batches = Vec::new();
        let taken = std::task::ready!(self.queue.poll_recv_many(context, &mut batches, BATCHES_PER_MESSAGE));
        if taken == 0 {
            return Poll::Ready(None);
        }
        let frames = match <[Vec<Bytes>; 1]>::try_from(batches) {
            Ok([only]) => only,
            Err(several) => several.into_iter().flatten().collect(),
        };
        self.waiting_bytes.fetch_sub(frames.iter().map(Bytes::len).sum(), Ordering::Relaxed);
        Poll::Ready(Some(pb::Message { message: Some(pb::message::Message::Frames(pb::Frames { frames })) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_that_hangs_does_not_keep_others_from_trying() {
        let begun = AtomicUsize::new(0);
        let attempt = || {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            async move { if number < 2 { std::future::pending().await } else { number } }
        };
        assert_eq!(staggered(attempt).await, 2);
    }
}
