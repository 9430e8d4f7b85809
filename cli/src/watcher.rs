//! Watches on one stream, which outlive the connection: a broken stream is resumed behind the last event seen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_api::etcdserverpb::watch_request::RequestUnion;
use quorate_api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::client::Client;
use crate::failure::status_text;

const PAUSE: Duration = Duration::from_millis(100);

enum Command {
    Create(WatchCreateRequest),
    Progress,
}

/// Several watches, numbered from 0 in the order of their creation.
#[derive(Debug)]
pub struct Watcher {
    commands: mpsc::Sender<Command>,
}

impl Watcher {
    /// A stream of watches, and what comes from it: the watch's number and the response.
    ///
    /// Only responses with events, with progress and with an end are passed on.
    pub fn start(client: Arc<Client>) -> (Watcher, mpsc::Receiver<(usize, WatchResponse)>) {
        let (commands, receiver) = mpsc::channel(16);
        let (responses, output) = mpsc::channel(16);
        tokio::spawn(Stream { client, watches: Vec::new(), responses }.run(receiver));
        (Watcher { commands }, output)
    }

    /// Adds a watch.
    pub async fn create(&self, request: WatchCreateRequest) {
        let _ = self.commands.send(Command::Create(request)).await;
    }

    /// Asks how far the stream has come.
    pub async fn progress(&self) {
        let _ = self.commands.send(Command::Progress).await;
    }
}

/// One watch as it is to be created when the stream is opened anew.
struct Watch {
    /// Its start revision moves on with every response.
    request: WatchCreateRequest,
    ended: bool,
}

/// Why a stream came to its end.
enum End {
    Broken,
    /// Nobody listens any more, or the server will not have it.
    Done,
}

struct Stream {
    client: Arc<Client>,
    watches: Vec<Watch>,
    responses: mpsc::Sender<(usize, WatchResponse)>,
}

impl Stream {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        // The server answers a new stream with its first watch: there must be one.
        while self.watches.is_empty() {
            match commands.recv().await {
                Some(Command::Create(request)) => self.watches.push(Watch { request, ended: false }),
                Some(Command::Progress) => {}
                None => return,
            }
        }
        while let End::Broken = self.connection(&mut commands).await {
            self.client.disconnect().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Runs all watches over one connection.
    async fn connection(&mut self, commands: &mut mpsc::Receiver<Command>) -> End {
        let (requests, receiver) = mpsc::channel(self.watches.len() + 16);
        // Numbers of the watches whose creation the server has yet to answer, in the order of the requests.
        let mut pending = VecDeque::new();
        let mut numbers = BTreeMap::new();
        for (number, watch) in self.watches.iter().enumerate().filter(|(_, w)| !w.ended) {
            pending.push_back(number);
            let _ = requests.send(create(&watch.request)).await;
        }
        let mut stream = match self.client.watch_stream(ReceiverStream::new(receiver)).await {
            Ok(stream) => stream,
            Err(status) => return self.broken(&status).await,
        };
        let mut open = true;
        loop {
            tokio::select! {
                command = commands.recv(), if open => match command {
                    Some(Command::Create(request)) => {
                        let _ = requests.send(create(&request)).await;
                        pending.push_back(self.watches.len());
                        self.watches.push(Watch { request, ended: false });
                    }
                    Some(Command::Progress) => {
                        let union = RequestUnion::ProgressRequest(WatchProgressRequest {});
                        let _ = requests.send(WatchRequest { request_union: Some(union) }).await;
                    }
                    None => open = false,
                },
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        if response.created && let Some(number) = pending.pop_front() {
                            numbers.insert(response.watch_id, number);
                        }
                        if !self.pass_on(response, &numbers).await {
                            return End::Done;
                        }
                    }
                    Ok(None) => return End::Broken,
                    Err(status) => return self.broken(&status).await,
                },
            }
        }
    }

    /// Passes `response` on to whom it is for. False if nobody listens.
    async fn pass_on(&mut self, response: WatchResponse, numbers: &BTreeMap<i64, usize>) -> bool {
        let revision = response.header.as_ref().map_or(0, |h| h.revision);
        // A progress report for the whole stream carries no watch's ID.
        let receivers: Vec<usize> = match numbers.get(&response.watch_id) {
            Some(number) => vec![*number],
            None if response.watch_id == -1 => numbers.values().copied().collect(),
            None => return true,
        };
        for number in receivers {
            let watch = &mut self.watches[number];
            let last = response.events.last().and_then(|e| e.kv.as_ref());
            watch.ended |= response.canceled;
            watch.request.start_revision = match last {
                Some(kv) => kv.mod_revision + 1,
                None if response.created && watch.request.start_revision > 0 => watch.request.start_revision,
                None => watch.request.start_revision.max(revision + 1),
            };
            let silent = response.created && !response.canceled && response.events.is_empty();
            if !silent && self.responses.send((number, response.clone())).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn broken(&mut self, status: &Status) -> End {
        let lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
        if lost && !status.message().starts_with("etcdserver: ") {
            return End::Broken;
        }
        let reason = status_text(status);
        for number in 0..self.watches.len() {
            let end = WatchResponse { canceled: true, cancel_reason: reason.clone(), ..WatchResponse::default() };
            if !self.watches[number].ended {
                let _ = self.responses.send((number, end)).await;
            }
        }
        End::Done
    }
}

fn create(request: &WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(request.clone())) }
}
