//! Three real members: what a cluster promises when one of them is killed or loses its disk.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::time::{Duration, Instant};

use process::{Node, cluster};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;

fn started(folder: &tempfile::TempDir) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), 3);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

async fn put(node: &Node, key: &str) -> Result<i64, tonic::Status> {
    let request = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
    node.kv().await.put(request).await.map(|reply| reply.into_inner().header.unwrap().revision)
}

async fn count(node: &Node) -> i64 {
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), count_only: true, ..Default::default() };
    node.kv().await.range(all).await.unwrap().into_inner().count
}

/// The position of the leader, as `node` knows it.
async fn leader(nodes: &[Node], asked: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let mut ids = Vec::new();
        for node in nodes {
            let status = match MaintenanceClient::connect(format!("http://127.0.0.1:{}", node.client_port)).await {
                Ok(mut client) => client.status(pb::StatusRequest {}).await.ok(),
                Err(_) => None,
            };
            ids.push(
                status.map(|status| (status.get_ref().header.as_ref().unwrap().member_id, status.get_ref().leader)),
            );
        }
        let known = ids[asked].map(|(_, leader)| leader);
        if let Some(at) = ids.iter().position(|id| id.is_some_and(|(id, _)| Some(id) == known)) {
            return at;
        }
        assert!(Instant::now() < until, "no leader: {ids:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder);
    for n in 0..30 {
        put(&nodes[n % 3], &format!("k{n:02}")).await.unwrap();
    }
    let lost = leader(&nodes, 0).await;
    nodes[lost].kill();
    let asked = (lost + 1) % 3;
    let next = leader(&nodes, asked).await;
    assert_ne!(next, lost);
    put(&nodes[asked], "k30").await.unwrap();
    nodes[lost].start();
    nodes[lost].wait_ready(2);
    assert_eq!(count(&nodes[lost]).await, 31);
    put(&nodes[lost], "k31").await.unwrap();
    let (code, took) = nodes[next].terminate();
    assert!(code == Some(143) && took < Duration::from_millis(1500), "{code:?} after {took:?}");
    assert_eq!(count(&nodes[lost]).await, 32, "leadership was handed over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_is_wiped_comes_back_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder);
    for n in 0..30 {
        put(&nodes[n % 3], &format!("k{n:02}")).await.unwrap();
    }
    for (n, wiped) in (30..).zip(&mut nodes) {
        wiped.kill();
        std::fs::remove_dir_all(wiped.data_dir()).unwrap();
        wiped.start();
        wiped.wait_ready(2);
        assert!(wiped.log().contains("Amnesiac"), "{}", wiped.log());
        assert_eq!(count(wiped).await, n);
        // It takes part again before the next one is wiped, or two of three would have forgotten.
        let until = Instant::now() + Duration::from_secs(30);
        while wiped.log().matches("\"Trusted\"").count() < 2 {
            assert!(Instant::now() < until, "never trusted again:\n{}", wiped.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        put(wiped, &format!("k{n}")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_survivor_answers_only_what_needs_no_quorum() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder);
    put(&nodes[0], "k0").await.unwrap();
    assert_eq!(count(&nodes[0]).await, 1);
    let (_requests, requests) = tokio::sync::mpsc::channel::<pb::WatchRequest>(1);
    let mut led = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    led.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let mut stream = WatchClient::new(nodes[0].channel().await).watch(led).await.unwrap().into_inner();
    let _ = nodes.drain(1..);
    let until = Instant::now() + Duration::from_secs(10);
    while !process::http_get(nodes[0].client_port, "/health").contains("RAFT NO LEADER") {
        assert!(Instant::now() < until, "a member without a quorum still has a leader");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = pb::RangeRequest { key: "k0".into(), serializable: true, ..Default::default() };
    assert_eq!(nodes[0].kv().await.range(read.clone()).await.unwrap().into_inner().count, 1);
    let mut led = tonic::Request::new(read);
    led.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let status = nodes[0].kv().await.range(led).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    let status = put(&nodes[0], "k1").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().starts_with("etcdserver: request timed out"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_may_not_open_its_files_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(folder.path(), 3);
    for node in &mut nodes {
        node.add_flags(&["--snapshot-count", "5", "--snapshot-catchup-entries", "5"]);
        node.start();
    }
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    for n in 0..40 {
        put(&nodes[0], &format!("k{n:02}")).await.unwrap();
    }
    assert_eq!(count(&nodes[2]).await, 40);
    nodes[2].terminate();
    for files in (14..30).step_by(2) {
        let restored = |node: &Node| node.log().matches("kvstore restored").count();
        let before = restored(&nodes[2]);
        nodes[2].limit_files(Some(files));
        nodes[2].start();
        let until = Instant::now() + Duration::from_secs(30);
        while !nodes[2].has_ended() && restored(&nodes[2]) == before {
            assert!(Instant::now() < until, "{}", nodes[2].log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        nodes[2].kill();
    }
    let log = nodes[2].log();
    assert!(log.contains("the applied state cannot be opened"), "{log}");
    for entry in walk(&nodes[2].data_dir()) {
        assert!(!entry.contains("damaged"), "{entry}");
    }
    let before = log.matches("ready to serve client requests").count();
    nodes[2].limit_files(None);
    nodes[2].start();
    nodes[2].wait_ready(before + 1);
    assert!(!nodes[2].log().contains("recovering from the other members"));
    assert_eq!(count(&nodes[2]).await, 40);
}

/// All paths below `folder`.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(walk(&path));
        }
    }
    found
}
