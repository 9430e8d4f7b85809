//! A member whose state went wrong, as a running cluster finds it out and repairs it.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use process::{Node, cluster, http_get};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::auth_client::AuthClient;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use quorate_api::grpc::health::v1::health_client::HealthClient;
use quorate_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use quorate_api::v3electionpb::election_client::ElectionClient;
use quorate_api::v3electionpb::{LeaderRequest, LeaderResponse};
use quorate_core::rows::{RowWrite, Rows as _};
use quorate_core::{Blob, Generation, store};
use quorate_node::backend::fjall::{FjallBackends, Options};
use quorate_node::backend::{Backend as _, Backends as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

fn started(folder: &tempfile::TempDir, flags: &[(&str, &str)]) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), 3);
    for node in &mut nodes {
        flags.iter().for_each(|(name, value)| node.flag(name, value));
        node.start();
    }
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

fn put(key: &str, value: impl Into<Vec<u8>>) -> pb::PutRequest {
    let value: Vec<u8> = value.into();
    pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }
}

async fn alarms(node: &Node) -> Vec<pb::AlarmMember> {
    let mut client = MaintenanceClient::new(node.channel().await);
    client.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms
}

async fn hash(node: &Node) -> (u32, i64) {
    // What was acknowledged before is applied there, too.
    node.kv().await.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let mut client = MaintenanceClient::new(node.channel().await);
    let reply = client.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    (reply.hash, reply.hash_revision)
}

async fn wait_for(what: &str, node: &Node, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < until, "{what}:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `odd` was fenced, rebuilt and readmitted; it has what the others have, and nothing is alarmed.
async fn returns(nodes: &mut [Node], odd: usize) {
    let fenced = async || nodes[odd].log().contains("begins a new life with nothing");
    wait_for("it is not fenced", &nodes[odd], fenced).await;
    comes_back(nodes, odd).await;
}

/// The leader ends the life of a member whose bits have rotted. Or a compaction meets them first and ends the process,
/// which is started again.
async fn ends_a_life(odd: &mut Node) {
    let until = Instant::now() + Duration::from_secs(60);
    while !odd.log().contains("begins a new life with nothing") {
        assert!(Instant::now() < until, "its life goes on:\n{}", odd.log());
        if odd.has_ended() {
            return odd.start();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `odd` is rebuilt and readmitted; it has what the others have, and nothing is alarmed.
async fn comes_back(nodes: &mut [Node], odd: usize) {
    // The others serve meanwhile.
    nodes[(odd + 1) % 3].kv().await.put(put("k", "meanwhile")).await.unwrap();
    wait_for("it does not come back", &nodes[odd], async || {
        nodes[odd].log().matches(r#""standing":"Trusted""#).count() >= 2 && http_get_ok(nodes[odd].client_port)
    })
    .await;
    wait_for("the alarm stays on", &nodes[odd], async || alarms(&nodes[(odd + 1) % 3]).await.is_empty()).await;
    nodes[odd].kv().await.put(put("k", "again")).await.unwrap();
    let expected = hash(&nodes[(odd + 1) % 3]).await;
    assert_eq!(hash(&nodes[odd]).await, expected);
    assert_eq!(hash(&nodes[(odd + 2) % 3]).await, expected);
    assert!(!nodes[(odd + 1) % 3].log().contains("new life") && !nodes[(odd + 2) % 3].log().contains("new life"));
}

fn http_get_ok(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && http_get(port, "/health").contains(r#""true""#)
}

fn generation(node: &Node) -> PathBuf {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(node.data_dir().join("member/kv")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders.remove(0)
}

/// Every value of `k` is something else.
fn spoil(node: &Node) {
    let folder = generation(node);
    let number = Generation(folder.file_name().unwrap().to_str().unwrap().parse().unwrap());
    let mut backends = FjallBackends::new(folder.parent().unwrap(), Options::default()).unwrap();
    let mut backend = backends.open(number, &store::applied_index).unwrap();
    let rows = backend.snapshot();
    let mut writes = Vec::new();
    rows.scan(b"\x20k\0", b"\x20l", &mut |key, _| {
        writes.push(RowWrite { key: Blob::copy(key), value: Some("spoilt".into()) });
        ControlFlow::Continue(())
    });
    assert!(!writes.is_empty(), "the value is not on disk yet");
    backend.commit(store::applied_index(&rows), &writes).unwrap();
    drop(rows);
    backend.defragment().unwrap()().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_decides_differently_is_fenced_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, &[("--snapshot-count", "1")]);
    for n in 0..5 {
        nodes[0].kv().await.put(put("k", format!("v{n}"))).await.unwrap();
    }
    // It is flushed in the background, one flush at a time, when something is applied.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        nodes[2].kv().await.put(put("other", "v")).await.unwrap();
    }
    nodes[2].kill();
    spoil(&nodes[2]);
    nodes[2].start();
    nodes[2].wait_ready(2);
    let spoilt = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    let found = nodes[2].kv().await.range(spoilt).await.unwrap().into_inner();
    assert_eq!(&found.kvs[0].value[..], b"spoilt", "the test's own premise");
    let op = |key: &str| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key, "1"))) };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: "k".into(),
            target: pb::compare::CompareTarget::Value.into(),
            target_union: Some(pb::compare::TargetUnion::Value("v4".into())),
            ..Default::default()
        }],
        success: vec![op("then")],
        failure: vec![op("else")],
    };
    let streams = Streams::open(&nodes[2]).await;
    let range = nodes[2].kv().await;
    let mut maintenance = MaintenanceClient::new(nodes[2].channel().await);
    // It hears of the others' hashes when they can do nothing about it, and so stays alone with what it knows.
    nodes[2].pause();
    assert!(nodes[0].kv().await.txn(txn).await.unwrap().into_inner().succeeded);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    nodes[..2].iter().for_each(Node::pause);
    nodes[2].resume();
    wait_for("it does not find out", &nodes[2], async || nodes[2].log().contains("is not served any more")).await;
    streams.all_end().await;
    let mut all = range.clone();
    let serializable = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    is_silent("Range", all.range(serializable.clone()).await);
    is_silent("RangeStream", all.range_stream(serializable).await);
    is_silent("Snapshot", maintenance.snapshot(pb::SnapshotRequest {}).await);
    is_silent("Health", HealthClient::new(nodes[2].channel().await).check(HealthCheckRequest::default()).await);
    is_silent("Watch", Streams::watch(&nodes[2]).await);
    let login = pb::AuthenticateRequest { name: "root".into(), password: "p".into() };
    is_silent("Authenticate", AuthClient::new(nodes[2].channel().await).authenticate(login).await);
    maintenance.status(pb::StatusRequest {}).await.unwrap();
    nodes[..2].iter().for_each(Node::resume);
    returns(&mut nodes, 2).await;
    assert!(nodes[2].log().contains("this member's state is wrong and is not served any more"));
}

fn is_silent<T>(what: &str, result: Result<T, Status>) {
    let status = result.map(drop).expect_err(what);
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"), "{what}");
}

/// One open stream of every kind, of a client that asks nothing any more.
struct Streams {
    watch: Streaming<pb::WatchResponse>,
    keep_alive: Streaming<pb::LeaseKeepAliveResponse>,
    health: Streaming<HealthCheckResponse>,
    observe: Streaming<LeaderResponse>,
    /// Client's sides that stay open.
    _open: [Box<dyn std::any::Any>; 2],
}

impl Streams {
    async fn open(node: &Node) -> Self {
        let (asks, requests) = mpsc::channel::<pb::LeaseKeepAliveRequest>(1);
        let mut leases = LeaseClient::new(node.channel().await);
        let keep_alive = leases.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut health = HealthClient::new(node.channel().await);
        let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert!(health.message().await.unwrap().is_some());
        let mut elections = ElectionClient::new(node.channel().await);
        let observe = elections.observe(LeaderRequest { name: "nobody".into() }).await.unwrap().into_inner();
        let (watches, mut watch) = Self::watch(node).await.unwrap();
        assert!(watch.message().await.unwrap().unwrap().created);
        Self { watch, keep_alive, health, observe, _open: [Box::new(asks), Box::new(watches)] }
    }

    async fn watch(node: &Node) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), Status> {
        let (sender, requests) = mpsc::channel(1);
        let create = pb::WatchCreateRequest { key: "nothing".into(), ..Default::default() };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        sender.send(pb::WatchRequest { request_union: Some(create) }).await.unwrap();
        let watch = WatchClient::new(node.channel().await).watch(ReceiverStream::new(requests)).await?;
        Ok((sender, watch.into_inner()))
    }

    /// The member ends them by itself, all of them.
    async fn all_end(mut self) {
        async fn end<T>(what: &str, stream: &mut Streaming<T>) -> Status {
            let next = tokio::time::timeout(Duration::from_secs(5), stream.message()).await;
            next.unwrap_or_else(|_| panic!("{what} goes on")).map(drop).expect_err(what)
        }
        is_silent("Watch", Err::<(), _>(end("Watch", &mut self.watch).await));
        is_silent("LeaseKeepAlive", Err::<(), _>(end("LeaseKeepAlive", &mut self.keep_alive).await));
        is_silent("Health.Watch", Err::<(), _>(end("Health.Watch", &mut self.health).await));
        is_silent("Observe", Err::<(), _>(end("Observe", &mut self.observe).await));
    }
}

/// The largest file below `folder`. One that a compaction has removed meanwhile has no size.
fn largest(folder: &Path) -> (u64, PathBuf) {
    let mut found = (0, PathBuf::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let next = if path.is_dir() { largest(&path) } else { (path.metadata().map_or(0, |file| file.len()), path) };
        found = found.max(next);
    }
    found
}

/// Puts a large value, and flips a bit of it where `odd` keeps it.
async fn rot(nodes: &[Node], odd: usize) {
    let mut random = 1_u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.to_be_bytes()[0]
    };
    let value: Vec<u8> = (0..400_000).map(|_| byte()).collect();
    nodes[0].kv().await.put(put("k", value)).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await; // It is flushed.
        nodes[0].kv().await.put(put("other", "v")).await.unwrap();
    }
    assert!(!nodes[odd].log().contains("damaged"), "{}", nodes[odd].log());
    let (size, path) = largest(&generation(&nodes[odd]));
    assert!(size > 300_000, "{}: {size} bytes", path.display());
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut at = [0];
    file.read_exact_at(&mut at, size / 2).unwrap();
    file.write_all_at(&[at[0] ^ 1], size / 2).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_rots_at_rest_is_found_by_the_scrub() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, &[("--snapshot-count", "1"), ("--corrupt-check-time", "1s")]);
    rot(&nodes, 1).await;
    ends_a_life(&mut nodes[1]).await;
    comes_back(&mut nodes, 1).await;
}

/// The scrub counted voters once, and ended a life that the quorum needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_rotten_bits_goes_on_while_another_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, &[("--snapshot-count", "1"), ("--corrupt-check-time", "1s")]);
    nodes[1].kill();
    rot(&nodes, 2).await;
    // A compaction that met the damage would end the process: nothing is written meanwhile.
    let is_found = async || nodes[2].log().contains("the applied state on disk is damaged");
    wait_for("the damage is not found", &nodes[2], is_found).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!nodes[2].log().contains("new life") && !nodes[2].has_ended(), "{}", nodes[2].log());
    assert!(alarms(&nodes[0]).await.is_empty());
    nodes[1].start();
    nodes[1].wait_ready(2);
    // What is written from now on may have a compaction meet the damage before the leader has ended this life.
    ends_a_life(&mut nodes[2]).await;
    comes_back(&mut nodes, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_process_ended_at_rotten_bits_comes_back_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, &[("--snapshot-count", "1"), ("--corrupt-check-time", "24h")]);
    rot(&nodes, 1).await;
    // What nobody has read yet is read from where it is stored.
    let request = pb::RangeRequest { key: "k".into(), serializable: true, ..pb::RangeRequest::default() };
    nodes[1].kv().await.range(request).await.unwrap_err();
    let until = Instant::now() + Duration::from_secs(60);
    while !nodes[1].has_ended() {
        assert!(Instant::now() < until, "it goes on:\n{}", nodes[1].log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(nodes[1].log().contains("the backend cannot be read"), "{}", nodes[1].log());
    nodes[1].start();
    comes_back(&mut nodes, 1).await;
    assert!(nodes[1].log().contains("was found damaged"), "{}", nodes[1].log());
}
