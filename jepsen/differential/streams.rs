//! The watch streams of one cluster, and what they have brought since they were last compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_api::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use crate::api::{Refusal, with};
use crate::names::Names;

/// What one stream has brought, by watcher; each watcher's messages in order. Messages about no watcher are under -1.
pub(crate) type Brought = BTreeMap<(usize, i64), Vec<Message>>;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Response(Box<pb::WatchResponse>),
    /// The server ended the stream.
    End(Result<(), Refusal>),
}

struct Stream {
    member: usize,
    send: mpsc::UnboundedSender<pb::WatchRequest>,
    inbox: Arc<Mutex<Vec<Message>>>,
}

/// The open streams, by number.
#[derive(Default)]
pub(crate) struct Streams {
    open: BTreeMap<usize, Stream>,
    brought: Brought,
}

impl Streams {
    /// Opens stream `number` at `member`.
    pub(crate) fn open(&mut self, number: usize, member: usize, channel: &Channel, token: Option<&str>) {
        let (send, receive) = mpsc::unbounded_channel();
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let mut client = pb::watch_client::WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let requests = with(token, UnboundedReceiverStream::new(receive));
        let filled = Arc::clone(&inbox);
        tokio::spawn(async move {
            let push = |message| filled.lock().expect("nobody panics with it").push(message);
            let end = async {
                let mut stream = client.watch(requests).await?.into_inner();
                while let Some(response) = stream.next().await {
                    push(Message::Response(Box::new(response?)));
                }
                Ok::<(), tonic::Status>(())
            };
            let end = end.await.map_err(Refusal::from);
            push(Message::End(end));
        });
        self.open.insert(number, Stream { member, send, inbox });
    }

    /// Sends on stream `number`, if it is open.
    pub(crate) fn send(&self, number: usize, request: pb::WatchRequest) {
        if let Some(stream) = self.open.get(&number) {
            let _ = stream.send.send(request); // a stream that the server has ended shows that by itself
        }
    }

    /// Waits until more than `before` answers have come on stream `number`, but not for long.
    pub(crate) async fn reply(&self, number: usize, before: usize, patience: Duration) {
        let began = Instant::now();
        while self.answers(number) == before && began.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Messages of stream `number` without events, which are answers to its client, that nobody has looked at.
    pub(crate) fn answers(&self, number: usize) -> usize {
        let Some(stream) = self.open.get(&number) else { return 0 };
        let inbox = stream.inbox.lock().expect("nobody panics with it");
        let is_answer = |message: &&Message| match message {
            Message::Response(response) => response.events.is_empty(),
            Message::End(_) => true,
        };
        inbox.iter().filter(is_answer).count()
    }

    /// Ends stream `number` from this side. What it still brings is of no interest.
    pub(crate) fn close(&mut self, number: usize) {
        self.open.remove(&number);
        self.brought.retain(|(stream, _), _| *stream != number);
    }

    /// Everything brought since [`Streams::forget`], under the names both sides share.
    pub(crate) fn brought(&mut self, names: &mut Names) -> &Brought {
        for (number, stream) in &self.open {
            for mut message in std::mem::take(&mut *stream.inbox.lock().expect("nobody panics with it")) {
                let mut watcher = -1;
                if let Message::Response(response) = &mut message {
                    watcher = response.watch_id;
                    if let Some(header) = &mut response.header {
                        names.header(stream.member, header);
                    }
                    for event in &mut response.events {
                        names.kvs(event.kv.as_mut_slice());
                        names.kvs(event.prev_kv.as_mut_slice());
                    }
                }
                self.brought.entry((*number, watcher)).or_default().push(message);
            }
        }
        &self.brought
    }

    /// What was brought so far has been compared.
    pub(crate) fn forget(&mut self) {
        self.brought.clear();
    }
}
