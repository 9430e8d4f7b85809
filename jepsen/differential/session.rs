//! A real etcd and Quorate side by side, doing the same, one step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use quorate_api::etcdserverpb as pb;

use crate::api::{self, Answer, Refusal, Request};
use crate::cluster::{Cluster, Make, Setup};
use crate::justified::{self, Uses};
use crate::op::Op;
use crate::streams::{Brought, Message, Streams};

/// What a step led to, under the names both sides share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Answer(Answer),
    KeptAlive(Result<Vec<pb::LeaseKeepAliveResponse>, Refusal>),
    Chunks(Result<Vec<pb::RangeStreamResponse>, Refusal>),
    /// There is nothing to compare yet.
    Done,
}

/// Both sides did not do the same.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) reference: String,
    pub(crate) ours: String,
}

struct Side {
    cluster: Cluster,
    streams: Streams,
}

/// Two running clusters of the same size.
pub(crate) struct Session {
    reference: Side,
    ours: Side,
    /// Which members have applied everything that was acknowledged.
    current: Vec<bool>,
    /// Users matter by now.
    secured: bool,
    /// The member of each stream.
    streams: BTreeMap<usize, usize>,
    /// The streams on which watchers of the past were created, and when last.
    catching_up: BTreeSet<usize>,
    last_past: Option<Instant>,
    /// How often each justified difference was met.
    pub(crate) uses: Uses,
}

/// etcd looks every 100 ms for watchers that are behind.
const CATCH_UP: Duration = Duration::from_millis(300);
/// What has not come by then will not come.
const DELIVERY: Duration = Duration::from_secs(5);

impl Session {
    /// Starts both clusters.
    pub(crate) async fn start(setup: &Setup) -> anyhow::Result<Session> {
        let (reference, ours) = tokio::join!(Cluster::start(setup, Make::Etcd), Cluster::start(setup, Make::Quorate));
        let side = |cluster| Side { cluster, streams: Streams::default() };
        Ok(Session {
            reference: side(reference?),
            ours: side(ours?),
            current: vec![false; setup.members],
            secured: false,
            streams: BTreeMap::new(),
            catching_up: BTreeSet::new(),
            last_past: None,
            uses: Uses::default(),
        })
    }

    /// Takes one step on both sides. The reference's outcome, if ours is the same.
    pub(crate) async fn step(&mut self, op: &Op) -> Result<Outcome, Difference> {
        self.catch_up(op).await?;
        if matches!(op, Op::WatchSync) {
            return self.sync().await.map(|()| Outcome::Done);
        }
        self.note(op);
        let (mut reference, mut ours) = tokio::join!(self.reference.step(op), self.ours.step(op));
        let seen = reference.clone();
        // Whoever refuses something may do so before it has applied what others did.
        if let (Op::Call { member, .. }, Outcome::Answer(Ok(_))) = (op, &seen) {
            self.current[*member] |= !op.is_local();
        }
        if reference != ours && !justified::outcome(op, &mut reference, &mut ours, &mut self.uses) {
            return Err(Difference { reference: format!("{reference:#?}"), ours: format!("{ours:#?}") });
        }
        Ok(seen)
    }

    /// Ends both clusters; what a member wrote last, if it is no longer running.
    pub(crate) fn end(mut self) -> Option<String> {
        let mut text = String::new();
        for (name, side) in [("etcd", &mut self.reference), ("quorate", &mut self.ours)] {
            if !side.cluster.is_whole() {
                for member in 0..side.cluster.channels.len() {
                    let _ = writeln!(text, "{name} m{member}:\n{}", side.cluster.log(member));
                }
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Keeps the books on members and streams.
    fn note(&mut self, op: &Op) {
        use pb::watch_request::RequestUnion::CreateRequest;
        match op {
            Op::Call { request, .. } if !op.is_local() => {
                self.secured |= matches!(request, Request::AuthEnable(_));
                self.current.fill(false);
            }
            Op::WatchOpen { stream, member, .. } => {
                self.streams.insert(*stream, *member);
            }
            Op::WatchClose { stream } => {
                self.streams.remove(stream);
                self.catching_up.remove(stream);
            }
            Op::WatchSend { stream, request } => {
                if matches!(&request.request_union, Some(CreateRequest(create)) if create.start_revision != 0) {
                    self.catching_up.insert(*stream);
                    self.last_past = Some(Instant::now());
                }
            }
            _ => {}
        }
    }

    /// Makes sure that a member which answers by itself has applied everything: a quorum may have done without it.
    async fn catch_up(&mut self, op: &Op) -> Result<(), Difference> {
        let stream = match op {
            Op::WatchSend { stream, .. } => self.streams.get(stream).copied(),
            _ => None,
        };
        let Some(member) = op.member().or(stream) else { return Ok(()) };
        // Who may do what is looked up where the call arrives.
        if !(op.is_local() || self.secured) || self.current[member] {
            return Ok(());
        }
        let root = self.secured.then_some("root");
        let read = |side: &Side| {
            let request = Request::Range(pb::RangeRequest { key: "barrier".into(), ..Default::default() });
            let token = side.cluster.names.token(root).map(str::to_owned);
            let channel = side.cluster.channels[member].clone();
            async move { request.send(&channel, token.as_deref()).await.map(|_| ()) }
        };
        let reads = tokio::join!(read(&self.reference), read(&self.ours));
        if reads.0 == reads.1 {
            self.current[member] = true;
            return Ok(());
        }
        Err(Difference {
            reference: format!("a read before: {:?}", reads.0),
            ours: format!("a read before: {:?}", reads.1),
        })
    }

    /// Waits until all streams have brought the same.
    async fn sync(&mut self) -> Result<(), Difference> {
        if let Some(past) = self.last_past.take() {
            tokio::time::sleep(CATCH_UP.saturating_sub(past.elapsed())).await;
        }
        let began = Instant::now();
        loop {
            let reference = self.reference.streams.brought(&mut self.reference.cluster.names);
            let ours = self.ours.streams.brought(&mut self.ours.cluster.names);
            let differs = differing(reference, ours, &self.catching_up);
            if differs.is_empty() {
                break;
            }
            if began.elapsed() > DELIVERY {
                let show = |brought: &Brought| {
                    let of = |key| brought.get(key).map_or(&[][..], Vec::as_slice);
                    differs.iter().map(|key| format!("stream and watcher {key:?}: {:#?}", of(key))).collect()
                };
                return Err(Difference { reference: show(reference), ours: show(ours) });
            }
            tokio::time::sleep(Duration::from_millis(if began.elapsed().as_millis() < 20 { 1 } else { 10 })).await;
        }
        self.reference.streams.forget();
        self.ours.streams.forget();
        Ok(())
    }
}

impl Side {
    async fn step(&mut self, op: &Op) -> Outcome {
        let Self { cluster, streams } = self;
        match op {
            Op::Call { member, user, request } => {
                let token = cluster.names.token(*user).map(str::to_owned);
                let mut translated = request.clone();
                cluster.names.translate(&mut translated);
                let mut answer = translated.send(&cluster.channels[*member], token.as_deref()).await;
                cluster.names.mask(*member, request, &mut answer);
                if let (Request::Authenticate(asked), Ok(_)) = (request, &answer) {
                    known(cluster, &asked.name).await;
                }
                Outcome::Answer(answer)
            }
            Op::RangeStream { member, user, range } => {
                let token = cluster.names.token(*user);
                let mut chunks = api::range_stream(&cluster.channels[*member], range.clone(), token).await;
                if let Ok(chunks) = &mut chunks {
                    cluster.names.chunks(*member, chunks);
                }
                Outcome::Chunks(chunks)
            }
            Op::KeepAlive { member, user, ids } => {
                let real: Vec<i64> = ids.iter().map(|&id| cluster.names.real(id)).collect();
                let token = cluster.names.token(*user);
                let mut replies = api::keep_alive(&cluster.channels[*member], &real, token).await;
                for (reply, (id, real)) in replies.iter_mut().flatten().zip(ids.iter().zip(&real)) {
                    if let Some(header) = &mut reply.header {
                        cluster.names.header(*member, header);
                    }
                    reply.id = if reply.id == *real { *id } else { reply.id };
                }
                Outcome::KeptAlive(replies)
            }
            Op::WatchOpen { stream, user, member } => {
                streams.open(*stream, *member, &cluster.channels[*member], cluster.names.token(*user));
                Outcome::Done
            }
            Op::WatchSend { stream, request } => {
                use pb::watch_request::RequestUnion::CreateRequest;
                // Every create is answered; a cancel or a question for progress only if there is something to say.
                let creates = matches!(request.request_union, Some(CreateRequest(_)));
                let patience = Duration::from_millis(if creates { 5000 } else { 40 });
                let before = streams.answers(*stream);
                streams.send(*stream, request.clone());
                streams.reply(*stream, before, patience).await;
                Outcome::Done
            }
            Op::WatchClose { stream } => {
                streams.close(*stream);
                Outcome::Done
            }
            Op::WatchSync => Outcome::Done,
        }
    }
}

/// Waits until every member knows the user's new token, which it learns by applying it.
async fn known(cluster: &Cluster, user: &str) {
    const UNAUTHENTICATED: i32 = 16;
    for channel in &cluster.channels {
        for _ in 0..400 {
            let read = pb::RangeRequest { key: "barrier".into(), serializable: true, ..Default::default() };
            match Request::from(read).send(channel, cluster.names.token(Some(user))).await {
                Err(refusal) if refusal.code == UNAUTHENTICATED => tokio::time::sleep(Duration::from_millis(5)).await,
                _ => break,
            }
        }
    }
}

/// The watchers that have brought different things. When a watcher of the past reads how much at once is a matter of
/// luck in etcd, and so are its answers' revisions: on such streams the events alone count.
fn differing(reference: &Brought, ours: &Brought, loose: &BTreeSet<usize>) -> Vec<(usize, i64)> {
    let keys: BTreeSet<(usize, i64)> = reference.keys().chain(ours.keys()).copied().collect();
    let same = |key: &(usize, i64)| match (reference.get(key), ours.get(key)) {
        (Some(a), Some(b)) => a == b || (loose.contains(&key.0) && flat(a) == flat(b)),
        _ => false,
    };
    keys.into_iter().filter(|key| !same(key)).collect()
}

/// The same messages with one event in each, whose header tells no more than that it is not too old.
fn flat(messages: &[Message]) -> Vec<Message> {
    let mut flat = Vec::new();
    for message in messages {
        let Message::Response(response) = message else {
            flat.push(message.clone());
            continue;
        };
        if response.events.is_empty() {
            flat.push(message.clone());
        }
        for event in &response.events {
            let mut one = pb::WatchResponse { events: vec![event.clone()], ..(**response).clone() };
            let (header, kv) = (one.header.get_or_insert_default(), event.kv.clone().unwrap_or_default());
            header.revision = i64::from(header.revision >= kv.mod_revision);
            flat.push(Message::Response(Box::new(one)));
        }
    }
    flat
}
