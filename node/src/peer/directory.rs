//! The members this one talks to: lanes to each, as the membership changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounter;
use quorate_core::NodeId;
use quorate_core::request::Member;
use quorate_core::store::Members;
use quorate_tls::Connector;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::{Identity, Lane, REMOVED, dial};
use crate::driver::Frame;
use crate::metrics::Metrics;
use crate::url::Url;

/// The lanes to a removed member stay open for this long: it may not know yet, and the last entries say it.
const FAREWELL: Duration = Duration::from_secs(5);

/// Everybody this member talks to.
pub struct Directory {
    identity: Identity,
    connector: Connector,
    metrics: Arc<Metrics>,
    runtime: Handle,
    state: Mutex<State>,
    /// Whether this member was told that it is removed.
    told: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    /// Removed for ever.
    removed: BTreeSet<NodeId>,
    /// Where this member is reached, as it was told.
    urls: Vec<String>,
    /// The members that the cluster has agreed on, as far as this one knows, and where each is reached.
    recorded: BTreeMap<NodeId, Vec<String>>,
    /// Where those that called are reached, as they said last.
    told: BTreeMap<NodeId, Vec<String>>,
    is_closed: bool,
}

struct Peer {
    urls: Vec<Url>,
    urgent: Arc<Lane>,
    bulk: Arc<Lane>,
    sent_bytes: IntCounter,
    dropped: IntCounter,
    /// The tasks that keep the lanes alive.
    dials: [AbortHandle; 2],
}

/// The sending side, for the driver.
pub struct Network(Arc<Directory>);

impl Directory {
    /// Knows nobody yet. Tasks run on the current tokio runtime and end with it.
    #[must_use]
    pub fn new(identity: Identity, urls: Vec<String>, connector: Connector, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            connector,
            metrics: Arc::clone(metrics),
            runtime: Handle::current(),
            state: Mutex::new(State { urls, ..State::default() }),
            told: watch::Sender::new(false),
        })
    }

    /// The sending side.
    #[must_use]
    pub fn network(self: &Arc<Self>) -> Network {
        Network(Arc::clone(self))
    }

    /// Starts dialling `id` at `urls`; if it is dialled at others, only there from now on.
    pub fn connect(self: &Arc<Self>, id: NodeId, urls: &[Url]) {
        let mut state = self.state();
        if state.is_closed || id == self.identity.member || urls.is_empty() || state.removed.contains(&id) {
            return;
        }
        let known = state.peers.get(&id);
        if known.is_some_and(|peer| peer.urls == urls) {
            return;
        }
        let (urgent, bulk) =
            known.map_or_else(Default::default, |peer| (Arc::clone(&peer.urgent), Arc::clone(&peer.bulk)));
        if let Some(peer) = known {
            peer.stop();
            self.active(id).set(0);
        }
        let label = format!("{:x}", id.0);
        let dial = |lane: &Arc<Lane>, kind| {
            let dial = dial::Dial { directory: Arc::clone(self), to: id, lane: Arc::clone(lane), kind };
            self.runtime.spawn(dial.run(urls.to_vec())).abort_handle()
        };
        let dials = [dial(&urgent, dial::Kind::Urgent), dial(&bulk, dial::Kind::Bulk)];
        let peer = Peer {
            urls: urls.to_vec(),
            urgent,
            bulk,
            sent_bytes: self.metrics.peer_sent_bytes.with_label_values(&[&label]),
            dropped: self.metrics.peer_sent_failures.with_label_values(&[&label]),
            dials,
        };
        state.peers.insert(id, peer);
    }

    /// Where the others are reached.
    pub(super) fn others(&self) -> Vec<Url> {
        self.state().peers.values().flat_map(|peer| peer.urls.clone()).collect()
    }

    /// Ends all streams to others, for good.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for (id, peer) in std::mem::take(&mut state.peers) {
            peer.stop();
            self.active(id).set(0);
        }
    }

    /// Takes over what the cluster has agreed on.
    pub fn update(self: &Arc<Self>, members: &Members) {
        self.record(members.iter());
    }

    fn record<'a>(self: &Arc<Self>, members: impl Iterator<Item = &'a Member> + Clone) {
        self.state().recorded = members.clone().map(|member| (member.id, member.peer_urls.clone())).collect();
        for member in members {
            self.look_for(member.id);
        }
    }

    /// Dials `id` where the cluster has agreed that it is, and where it said itself.
    fn look_for(self: &Arc<Self>, id: NodeId) {
        let urls = {
            let state = self.state();
            state.recorded_and(id, state.told.get(&id).map_or(&[], Vec::as_slice))
        };
        self.connect(id, &parsed(&urls));
    }

    /// `id` was removed from the cluster: nothing is heard from it any more, and soon nothing is said to it.
    pub fn part(self: &Arc<Self>, id: NodeId) {
        let mut state = self.state();
        if !state.removed.insert(id) || !state.peers.contains_key(&id) {
            return;
        }
        drop(state);
        info!(peer = format!("{:x}", id.0), "removed a peer; its streams end soon");
        let directory = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            let mut state = directory.state();
            state.told.remove(&id);
            if let Some(peer) = state.peers.remove(&id) {
                peer.stop();
                directory.active(id).set(0);
            }
        });
    }

    /// Whether `from`, reached at `urls`, may talk to this member; and where the bytes heard from it are counted.
    ///
    /// Any member of the same cluster may: one that this member has not heard of yet may lead it. And it may have moved, since
    /// the command line was written or since what this member has applied: then it is looked for where it says, too. (If it
    /// leads, nothing more would ever be applied here: answers that do not reach it count for nothing.)
    pub(super) fn admit(self: &Arc<Self>, from: NodeId, urls: &[String]) -> Result<IntCounter, String> {
        if self.is_removed(from) {
            return Err(REMOVED.to_owned());
        }
        self.state().told.insert(from, urls.to_vec());
        self.look_for(from);
        Ok(self.metrics.peer_received_bytes.with_label_values(&[&format!("{:x}", from.0)]))
    }

    /// Whether `id` was a member and is none any more.
    pub(super) fn is_removed(&self, id: NodeId) -> bool {
        self.state().removed.contains(&id)
    }

    /// Another member says that this one is removed.
    pub fn told_removed(&self) {
        if !self.told.send_replace(true) {
            warn!(error = REMOVED, "server error");
        }
    }

    /// Returns once somebody has said that this member is removed.
    pub async fn removed(&self) {
        let mut told = self.told.subscribe();
        let _ = told.wait_for(|told| *told).await;
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// How to connect to a peer.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Where this member is reached: as the cluster has agreed on, and as it was told, which may be newer.
    pub(super) fn urls(&self) -> Vec<String> {
        let state = self.state();
        state.recorded_and(self.identity.member, &state.urls)
    }

    /// Whether there is a stream to `id`, for the metrics.
    pub(super) fn active(&self, id: NodeId) -> prometheus::IntGauge {
        let labels = [format!("{:x}", self.identity.member.0), format!("{:x}", id.0)];
        self.metrics.active_peers.with_label_values(&[&labels[0], &labels[1]])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// Those that can be read; others were refused when they were proposed.
fn parsed(urls: &[String]) -> Vec<Url> {
    urls.iter().filter_map(|url| url.parse().ok()).collect()
}

impl State {
    /// Where the cluster has agreed that `id` is reached, and after that those of `told` that are others.
    fn recorded_and(&self, id: NodeId, told: &[String]) -> Vec<String> {
        let recorded = self.recorded.get(&id).map_or(&[][..], Vec::as_slice);
        let others = told.iter().filter(|url| !recorded.contains(url));
        recorded.iter().chain(others).cloned().collect()
    }
}

impl Peer {
    fn stop(&self) {
        self.dials.iter().for_each(AbortHandle::abort);
        self.urgent.close();
        self.bulk.close();
    }
}

impl crate::member::Peers for Network {
    fn send(&mut self, frames: &mut Vec<Frame>) {
        let mut batches: BTreeMap<(NodeId, bool), Vec<Bytes>> = BTreeMap::new();
        for frame in frames.drain(..) {
            batches.entry((frame.to, frame.bulk)).or_default().push(frame.bytes);
        }
        let state = self.0.state();
        for ((to, bulk), batch) in batches {
            let Some(peer) = state.peers.get(&to) else { continue };
            let bytes = batch.iter().map(Bytes::len).sum();
            let count = batch.len() as u64;
            let lane = if bulk { &peer.bulk } else { &peer.urgent };
            if lane.send(batch, bytes) {
                peer.sent_bytes.inc_by(bytes as u64);
            } else {
                peer.dropped.inc_by(count);
            }
        }
    }

    fn update(&mut self, members: &Members) {
        self.0.update(members);
    }

    fn part(&mut self, id: NodeId) {
        self.0.part(id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use quorate_core::{ClusterId, Incarnation};

    use super::super::QUEUE_BYTES_MAX;
    use super::*;
    use crate::member::Peers as _;
    use crate::metrics::Detail;

    fn directory() -> Arc<Directory> {
        let identity = Identity { cluster: ClusterId(1), member: NodeId(2), incarnation: Incarnation(3) };
        Directory::new(identity, vec![], Connector::plain(), &Arc::new(Metrics::new(NodeId(2), &[], Detail::Basic)))
    }

    #[tokio::test]
    async fn frames_are_dropped_without_a_stream_and_above_the_bound() {
        let directory = directory();
        directory.connect(NodeId(5), &["http://127.0.0.1:1".parse().unwrap()]);
        let (urgent, dropped) = {
            let state = directory.state();
            let peer = &state.peers[&NodeId(5)];
            (Arc::clone(&peer.urgent), peer.dropped.clone())
        };
        let mut network = directory.network();
        let mut send = |bytes: usize, bulk| {
            network.send(&mut vec![Frame { to: NodeId(5), bytes: vec![0; bytes].into(), bulk }]);
        };
        send(1, false);
        assert_eq!(dropped.get(), 1, "no stream yet");
        let (mut queue, waiting_bytes) = urgent.open();
        send(2, false);
        send(3, true);
        assert_eq!(dropped.get(), 2, "the other lane has no stream");
        send(QUEUE_BYTES_MAX, false);
        assert_eq!(dropped.get(), 3, "too much waits");
        assert_eq!(waiting_bytes.load(Ordering::Relaxed), 2);
        assert_eq!(queue.try_recv().unwrap(), [Bytes::from_static(&[0, 0])]);
        assert!(queue.try_recv().is_err());
        urgent.close();
        send(1, false);
        assert_eq!(dropped.get(), 4);
    }

    #[tokio::test]
    async fn whoever_calls_is_looked_for_where_it_says_and_first_where_the_records_say() {
        let identity = Identity { cluster: ClusterId(1), member: NodeId(2), incarnation: Incarnation(3) };
        let metrics = Arc::new(Metrics::new(NodeId(2), &[], Detail::Basic));
        let directory = Directory::new(identity, vec!["http://127.0.0.1:2".into()], Connector::plain(), &metrics);
        let member = |id, url: &str| Member {
            id: NodeId(id),
            name: String::new(),
            peer_urls: vec![url.to_owned()],
            client_urls: vec![],
            is_learner: false,
        };
        let dialled = |id| directory.state().peers[&NodeId(id)].urls.iter().map(Url::to_string).collect::<Vec<_>>();
        let (old, new, third) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        directory.connect(NodeId(7), &[old.parse().unwrap()]);
        directory.admit(NodeId(7), &[]).unwrap();
        directory.admit(NodeId(7), &["nonsense".to_owned()]).unwrap();
        assert_eq!(dialled(7), [old]);
        directory.admit(NodeId(7), &[new.to_owned()]).unwrap();
        assert_eq!(dialled(7), [new], "it has moved since the command line was written");
        directory.record([member(7, third), member(2, new)].iter());
        assert_eq!(dialled(7), [third, new], "the cluster has agreed on another one, before or since");
        directory.admit(NodeId(7), &[old.to_owned(), third.to_owned()]).unwrap();
        assert_eq!(dialled(7), [third, old], "this member may not have heard the last of it");
        directory.record([member(7, third), member(2, new)].iter());
        assert_eq!(dialled(7), [third, old], "that is nothing new");
        directory.record([member(7, old), member(2, third)].iter());
        assert_eq!(dialled(7), [old, third]);
        assert_eq!(directory.urls(), [third, new], "of itself, too");
        directory.admit(NodeId(8), &[new.to_owned()]).unwrap();
        directory.record([member(8, old)].iter());
        assert_eq!(dialled(8), [old, new], "it called before older records were read");
    }

    #[tokio::test]
    async fn a_stranger_of_the_cluster_is_heard_and_can_be_answered() {
        let directory = directory();
        assert!(directory.admit(NodeId(7), &["http://127.0.0.1:1".to_owned()]).is_ok());
        assert!(directory.state().peers.contains_key(&NodeId(7)));
        directory.part(NodeId(7));
        assert_eq!(directory.admit(NodeId(7), &[]).unwrap_err(), REMOVED);
    }
}
