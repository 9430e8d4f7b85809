//! Real members coming and going: growing under load, replacing the dead, learners, and what is refused.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use process::{Node, cluster, joiner};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::cluster_client::ClusterClient;
use quorate_node::grpc::METHODS;
use quorate_node::service::Method as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn client(node: &Node) -> ClusterClient<Channel> {
    ClusterClient::new(node.channel().await)
}

fn started(folder: &tempfile::TempDir, size: usize) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), size);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

async fn list(node: &Node) -> Vec<pb::Member> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match client(node).await.member_list(pb::MemberListRequest { linearizable: true }).await {
            Ok(answer) => return answer.into_inner().members,
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
    }
}

async fn id_of(name: &str, by: &Node) -> u64 {
    list(by).await.iter().find(|member| member.name == name).expect("a member").id
}

/// Adds `node` through `by`, as often as it takes until those added before have started.
async fn add(by: &Node, node: &mut Node, is_learner: bool) -> pb::MemberAddResponse {
    let request = pb::MemberAddRequest { peer_ur_ls: vec![node.peer_url()], is_learner };
    let until = Instant::now() + Duration::from_secs(60);
    let added = loop {
        match client(by).await.member_add(request.clone()).await {
            Ok(added) => break added.into_inner(),
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    node.joins(&added.members, added.member.as_ref().unwrap().id);
    added
}

async fn remove(by: &Node, id: u64) -> Vec<pb::Member> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match client(by).await.member_remove(pb::MemberRemoveRequest { id }).await {
            Ok(removed) => return removed.into_inner().members,
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn put(node: &Node, key: &str) -> Result<(), Status> {
    let request = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
    node.kv().await.put(request).await.map(drop)
}

async fn eventually_put(node: &Node, key: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(status) = put(node, key).await {
        assert!(Instant::now() < until, "{status}");
    }
}

async fn keys(node: &Node) -> Vec<String> {
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), keys_only: true, ..Default::default() };
    let found = node.kv().await.range(all).await.unwrap().into_inner();
    found.kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

/// Puts one key after the other until told to stop; the keys that were acknowledged.
fn load(node: &Node) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<String>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, port) = (Arc::clone(&stop), node.client_port);
    let writer = tokio::spawn(async move {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let mut kv = quorate_api::etcdserverpb::kv_client::KvClient::new(endpoint.connect_lazy());
        let mut acknowledged = Vec::new();
        for n in 0.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("load{n:06}");
            let request = pb::PutRequest { key: key.clone().into(), value: "v".into(), ..Default::default() };
            if kv.put(request).await.is_ok() {
                acknowledged.push(key);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        acknowledged
    });
    (stop, writer)
}

fn assert_kept(acknowledged: &[String], found: &[String]) {
    let lost: Vec<&String> = acknowledged.iter().filter(|key| found.binary_search(key).is_err()).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged keys are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_to_five_and_shrinks_to_two_under_load_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 1);
    let (stop, writer) = load(&nodes[0]);
    for n in 2..=5 {
        let mut node = joiner(folder.path(), n);
        let added = add(&nodes[n - 2], &mut node, false).await;
        assert_eq!(added.header.unwrap().revision, 0, "etcd leaves it out");
        let member = added.member.unwrap();
        assert_eq!((member.name.as_str(), &member.peer_ur_ls[..]), ("", &[node.peer_url()][..]));
        node.start();
        node.wait_ready(1);
        nodes.push(node);
    }
    let names = |members: &[pb::Member]| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_secs(30);
    while names(&list(&nodes[4]).await).contains(&String::new()) {
        assert!(Instant::now() < until, "a member does not publish itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(list(&nodes[4]).await, list(&nodes[0]).await);
    // The last one is asked to go by itself, the first one leads or did.
    for gone in [4, 0, 2] {
        if gone == 0 {
            stop.store(true, Ordering::Relaxed); // Its client goes with it.
        }
        let by = if gone == 4 { 4 } else { 1 };
        let id = id_of(&format!("m{}", gone + 1), &nodes[by]).await;
        assert!(remove(&nodes[by], id).await.iter().all(|member| member.id != id));
        assert_eq!(nodes[gone].wait_end(Duration::from_secs(20)), Some(0), "{}", nodes[gone].log());
        assert!(nodes[gone].log().contains("data-dir used by this member must be removed"));
        nodes[gone].start();
        assert_eq!(nodes[gone].wait_end(Duration::from_secs(20)), Some(1), "a removed member stays away");
        assert!(nodes[gone].log().contains("server is stopping"), "{}", nodes[gone].log());
    }
    assert_eq!(list(&nodes[1]).await.len(), 2);
    eventually_put(&nodes[3], "last").await;
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged.len() > 100, "only {} writes got through", acknowledged.len());
    assert_kept(&acknowledged, &keys(&nodes[3]).await);
    // Two are left: both are needed.
    nodes[1].kill();
    let alone = tokio::time::timeout(Duration::from_secs(2), put(&nodes[3], "alone")).await;
    assert!(alone.is_err() || alone.unwrap().is_err(), "one of two wrote alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_at_its_own_address_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3);
    put(&nodes[0], "before").await.unwrap();
    let dead = id_of("m3", &nodes[0]).await;
    nodes[2].kill();
    std::fs::remove_dir_all(nodes[2].data_dir()).unwrap();
    assert_eq!(remove(&nodes[1], dead).await.len(), 2);
    let again = client(&nodes[1]).await.member_remove(pb::MemberRemoveRequest { id: dead }).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::NotFound, "etcdserver: member not found"));
    let mut next = nodes.pop().unwrap();
    let added = add(&nodes[0], &mut next, false).await;
    assert_ne!(added.member.unwrap().id, dead, "an ID is used once");
    next.start();
    next.wait_ready(2); // Its predecessor wrote to the same log.
    // It starts again from its own data, whatever it is told about the cluster's beginning.
    assert_eq!(next.terminate().0, Some(143));
    next.start();
    next.wait_ready(3);
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes[0].kill();
    eventually_put(&next, "after").await;
    assert_eq!(keys(&next).await, ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_answers_little_and_votes_once_it_is_promoted() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 2);
    put(&nodes[0], "k").await.unwrap();
    let refused = |result: Result<_, Status>| {
        let status = result.map(|_: tonic::Response<()>| ()).unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let text = |code, text: &str| (code, format!("etcdserver: {text}"));
    let mut learner = joiner(folder.path(), 3);
    let added = add(&nodes[0], &mut learner, true).await;
    assert!(added.members.iter().any(|member| member.is_learner && member.peer_ur_ls == [learner.peer_url()]));
    let id = added.member.unwrap().id;
    let promote = pb::MemberPromoteRequest { id };
    let early = client(&nodes[1]).await.member_promote(promote).await;
    let not_ready = text(Code::FailedPrecondition, "can only promote a learner member which is in sync with leader");
    assert_eq!(refused(early.map(|it| it.map(drop))), not_ready);
    let mut more = pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
    let second = client(&nodes[1]).await.member_add(more.clone()).await;
    let too_many = text(Code::FailedPrecondition, "too many learner members in cluster");
    assert_eq!(refused(second.map(|it| it.map(drop))), too_many);
    more.peer_ur_ls = vec![nodes[0].peer_url()];
    let known = client(&nodes[1]).await.member_add(more.clone()).await;
    let exists = text(Code::FailedPrecondition, "Peer URLs already exists");
    assert_eq!(refused(known.map(|it| it.map(drop))), exists);
    more.peer_ur_ls = vec!["127.0.0.1:1".into()];
    let malformed = client(&nodes[1]).await.member_add(more).await;
    let invalid = text(Code::InvalidArgument, "given member URLs are invalid");
    assert_eq!(refused(malformed.map(|it| it.map(drop))), invalid);

    learner.start();
    let local = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = match learner.try_channel().await {
            Some(channel) => kv(channel).range(local.clone()).await.map(|found| found.into_inner().count),
            None => Ok(0),
        };
        if matches!(found, Ok(1)) {
            break;
        }
        assert!(Instant::now() < until, "the learner does not catch up: {found:?}\n{}", learner.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let linearizable = learner.kv().await.range(pb::RangeRequest { serializable: false, ..local }).await;
    let unsupported = text(Code::FailedPrecondition, "rpc not supported for learner");
    assert_eq!(refused(linearizable.map(|it| it.map(drop))), unsupported);
    assert_eq!(refused(put(&learner, "x").await.map(tonic::Response::new)), unsupported);
    // It says so to everything else, and before anything else; but it lives, as far as its own probes go.
    let answered = [pb::StatusRequest::PATH, "/etcdserverpb.Maintenance/Snapshot"];
    let more = [
        "/v3lockpb.Lock/Lock",
        "/v3lockpb.Lock/Unlock",
        "/v3electionpb.Election/Campaign",
        "/v3electionpb.Election/Proclaim",
        "/v3electionpb.Election/Leader",
        "/v3electionpb.Election/Observe",
        "/v3electionpb.Election/Resign",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ];
    for path in METHODS.iter().map(|(path, _)| *path).chain(more) {
        let answer = empty(&learner, path).await;
        if answered.contains(&path) {
            answer.expect(path);
        } else {
            assert_eq!(refused(answer.map(tonic::Response::new)), unsupported, "{path}");
        }
    }
    assert!(process::http_get(learner.client_port, "/health").contains(r#""health":"true""#));
    let ready = process::http_get(learner.client_port, "/readyz?verbose");
    assert!(ready.contains("[-]non_learner failed: not supported for learner"), "{ready}");
    assert!(ready.contains("[+]linearizable_read ok"), "{ready}");

    let until = Instant::now() + Duration::from_secs(30);
    let promoted = loop {
        match client(&nodes[1]).await.member_promote(promote).await {
            Ok(promoted) => break promoted.into_inner().members,
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(promoted.iter().all(|member| !member.is_learner));
    let voting = client(&nodes[1]).await.member_promote(promote).await;
    let no_learner = text(Code::FailedPrecondition, "can only promote a learner member");
    assert_eq!(refused(voting.map(|it| it.map(drop))), no_learner);
    nodes[0].kill();
    eventually_put(&learner, "x").await;
}

/// Sends an empty message to `path` and takes the first answer, whatever it says.
async fn empty(node: &Node, path: &'static str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(node.channel().await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = axum::http::uri::PathAndQuery::from_static(path);
    let mut answers = client.streaming(tonic::Request::new(tokio_stream::iter([()])), path, codec).await?.into_inner();
    let first = tokio::time::timeout(Duration::from_secs(5), answers.message()).await;
    first.expect("an answer comes").map(drop)
}

fn kv(channel: Channel) -> quorate_api::etcdserverpb::kv_client::KvClient<Channel> {
    quorate_api::etcdserverpb::kv_client::KvClient::new(channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_added_cannot_join() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(&folder, 1);
    let mut stranger = joiner(folder.path(), 2);
    stranger.joins(&list(&nodes[0]).await, 0);
    stranger.start();
    assert_eq!(stranger.wait_end(Duration::from_secs(20)), Some(1));
    assert!(stranger.log().contains("member count is unequal"), "{}", stranger.log());
    drop(nodes);
    stranger.start();
    assert_eq!(stranger.wait_end(Duration::from_secs(20)), Some(1));
    assert!(stranger.log().contains("cannot fetch cluster info from peer urls"), "{}", stranger.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moves_is_found_at_its_new_address_whatever_was_said_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3);
    let flags = nodes[2].flags();
    let founders = &flags[flags.iter().position(|flag| flag == "--initial-cluster").unwrap() + 1];
    let id = id_of("m3", &nodes[0]).await;
    nodes[2].kill();
    nodes[2].moves();
    let update = pb::MemberUpdateRequest { id, peer_ur_ls: vec![nodes[2].peer_url()] };
    let members = client(&nodes[0]).await.member_update(update).await.unwrap().into_inner().members;
    assert!(members.iter().any(|member| member.id == id && member.peer_ur_ls == [nodes[2].peer_url()]));
    put(&nodes[0], "k").await.unwrap();
    nodes[2].flag("--initial-cluster", founders);
    nodes[2].start();
    nodes[2].wait_ready(2);
    nodes[0].kill();
    eventually_put(&nodes[2], "x").await;
}

/// Writes `k` before its disk is replaced, and `x` once it serves again.
async fn comes_back_with_another_disk(node: &mut Node) {
    put(node, "k").await.unwrap();
    node.kill();
    std::fs::remove_dir_all(node.data_dir()).unwrap();
    node.start();
    node.wait_ready(2);
    eventually_put(node, "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_finds_those_that_have_moved_since_its_command_line_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3);
    for moved in [1, 2] {
        let id = id_of(&nodes[moved].name, &nodes[0]).await;
        nodes[moved].kill();
        nodes[moved].moves();
        let update = pb::MemberUpdateRequest { id, peer_ur_ls: vec![nodes[moved].peer_url()] };
        client(&nodes[0]).await.member_update(update).await.unwrap();
        nodes[moved].start();
        nodes[moved].wait_ready(2);
    }
    comes_back_with_another_disk(&mut nodes[0]).await;
}

/// It has the flags of one that begins a cluster, and those who follow it say nothing as long as they take it for the leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_led_and_lost_its_disk_comes_back_as_a_member() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 1);
    for n in 2..=3 {
        let mut node = joiner(folder.path(), n);
        let id = add(&nodes[0], &mut node, true).await.member.unwrap().id;
        node.start();
        node.wait_ready(1);
        nodes.push(node);
        let until = Instant::now() + Duration::from_secs(30);
        // Once that is answered it votes.
        while let Err(status) = client(&nodes[0]).await.member_promote(pb::MemberPromoteRequest { id }).await {
            assert!(Instant::now() < until, "{status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    comes_back_with_another_disk(&mut nodes[0]).await;
    assert_eq!(keys(&nodes[0]).await, ["k", "x"]);
    assert_eq!(list(&nodes[0]).await, list(&nodes[1]).await);
}
