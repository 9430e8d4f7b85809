//! Members whose log has rotted, or whose applied state cannot be read, as they are started again.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use process::{Node, cluster, joiner};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::cluster_client::ClusterClient;
use quorate_api::quorate::peer::v1::MembersRequest;
use quorate_api::quorate::peer::v1::peer_client::PeerClient;

fn started(folder: &tempfile::TempDir, size: usize) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), size);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

async fn wait_for(what: &str, node: &Node, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < until, "{what}:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn put(node: &Node, key: &str, value: &str) {
    let request = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    node.kv().await.put(request).await.unwrap();
}

async fn get(node: &Node, key: &str) -> Option<String> {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let found = node.kv().await.range(request).await.unwrap().into_inner();
    found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn members(node: &Node) -> Vec<pb::Member> {
    let mut client = ClusterClient::new(node.channel().await);
    client.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner().members
}

async fn id_of(name: &str, by: &Node) -> u64 {
    members(by).await.iter().find(|member| member.name == name).expect("a member").id
}

/// Adds `node`, a voter, through `by`; the members then.
async fn add(by: &Node, node: &mut Node) -> Vec<pb::Member> {
    let request = pb::MemberAddRequest { peer_ur_ls: vec![node.peer_url()], is_learner: false };
    let until = Instant::now() + Duration::from_secs(60);
    let added = loop {
        match ClusterClient::new(by.channel().await).member_add(request.clone()).await {
            Ok(added) => break added.into_inner(),
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    node.joins(&added.members, added.member.as_ref().unwrap().id);
    added.members
}

/// How many voters there are of whom a majority each may be needed, as `node` says.
async fn in_force(node: &Node) -> Vec<usize> {
    let mut client = PeerClient::connect(node.peer_url()).await.unwrap();
    let answer = client.members(MembersRequest::default()).await.unwrap().into_inner();
    answer.in_force.iter().map(|voters| voters.ids.len()).collect()
}

/// The entries of a member's folder.
fn names(node: &Node, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(node.data_dir().join("member").join(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Flips a bit of the first `text` in the log; done twice, nothing has happened.
fn flip(node: &Node, text: &str) {
    let segments = names(node, "wal").into_iter().filter(|name| name.ends_with(".wal"));
    let paths: Vec<PathBuf> = segments.map(|name| node.data_dir().join("member/wal").join(name)).collect();
    let flipped = |byte: u8| byte ^ 0x80;
    for path in paths {
        let mut bytes = fs::read(&path).unwrap();
        let is_text = |window: &[u8]| {
            window[1..] == text.as_bytes()[1..] && [window[0], flipped(window[0])].contains(&text.as_bytes()[0])
        };
        if let Some(at) = bytes.windows(text.len()).position(is_text) {
            bytes[at] = flipped(bytes[at]);
            return fs::write(path, bytes).unwrap();
        }
    }
    panic!("{text} is nowhere in the log");
}

/// Tells the cluster that `node` has moved, and starts it there; its command line names other IDs from now on.
async fn moves(nodes: &mut [Node], n: usize) {
    let (name, by) = (nodes[n].name.clone(), usize::from(n == 0 && nodes.len() > 1));
    let id = id_of(&name, &nodes[by]).await;
    if nodes.len() > 1 {
        nodes[n].kill();
    }
    nodes[n].moves();
    let update = pb::MemberUpdateRequest { id, peer_ur_ls: vec![nodes[n].peer_url()] };
    ClusterClient::new(nodes[by].channel().await).member_update(update).await.unwrap();
    nodes[n].kill();
    nodes[n].start();
    nodes[n].wait_ready(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_that_has_moved_does_not_give_up_the_only_copy() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 1);
    moves(&mut nodes, 0).await;
    put(&nodes[0], "k", "a-value-of-some-length").await;
    put(&nodes[0], "l", "another one").await;
    nodes[0].kill();
    flip(&nodes[0], "a-value-of-some-length");
    let before = (names(&nodes[0], "wal"), names(&nodes[0], "kv"), names(&nodes[0], ""));
    nodes[0].start();
    assert_eq!(nodes[0].wait_end(Duration::from_secs(20)), Some(1), "{}", nodes[0].log());
    assert!(nodes[0].log().contains("damaged record at byte offset"), "{}", nodes[0].log());
    assert_eq!((names(&nodes[0], "wal"), names(&nodes[0], "kv"), names(&nodes[0], "")), before);
    flip(&nodes[0], "a-value-of-some-length");
    nodes[0].start();
    nodes[0].wait_ready(3);
    assert_eq!(get(&nodes[0], "k").await.as_deref(), Some("a-value-of-some-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_moved_is_restored_as_who_it_is_and_its_former_state_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3);
    let before = members(&nodes[0]).await;
    moves(&mut nodes, 2).await;
    put(&nodes[0], "k", "a-value-of-some-length").await;
    put(&nodes[0], "l", "another one").await;
    assert_eq!(get(&nodes[2], "l").await.as_deref(), Some("another one"), "it has all of that");
    nodes[2].kill();
    let former = names(&nodes[2], "kv");
    flip(&nodes[2], "a-value-of-some-length");
    nodes[2].start();
    nodes[2].wait_ready(3);
    assert!(nodes[2].log().contains("the write-ahead log is damaged and was moved aside"), "{}", nodes[2].log());
    assert_eq!(names(&nodes[2], "kv.damaged-1"), former);
    let trusted = async || nodes[2].log().matches(r#""standing":"Trusted""#).count() >= 3;
    wait_for("it is not readmitted", &nodes[2], trusted).await;
    nodes[0].kill();
    wait_for("its vote does not count", &nodes[2], async || {
        let request = pb::PutRequest { key: "x".into(), ..Default::default() };
        nodes[2].kv().await.put(request).await.is_ok()
    })
    .await;
    let ids = |members: &[pb::Member]| members.iter().map(|member| member.id).collect::<Vec<_>>();
    assert_eq!(ids(&members(&nodes[2]).await), ids(&before));
}

/// Its log has rotted, and lists show three voters; but the third one never started, and is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_joined_member_asks_who_decides_and_not_who_should() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 1);
    let (mut second, mut third) = (joiner(folder.path(), 2), joiner(folder.path(), 3));
    add(&nodes[0], &mut second).await;
    second.start();
    second.wait_ready(1);
    wait_for("it does not get its vote", &second, async || in_force(&second).await == [2]).await;
    let mut members = add(&nodes[0], &mut third).await;
    members.iter_mut().filter(|it| it.name.is_empty()).for_each(|it| it.name.clone_from(&third.name));
    put(&nodes[0], "k", "a-value-of-some-length").await;
    put(&nodes[0], "l", "another one").await;
    assert_eq!(get(&second, "l").await.as_deref(), Some("another one"), "it has all of that");
    let id = id_of("m2", &nodes[0]).await;
    second.joins(&members, id);
    second.kill();
    flip(&second, "a-value-of-some-length");
    let before = names(&second, "wal");
    second.start();
    assert_eq!(second.wait_end(Duration::from_secs(20)), Some(1), "{}", second.log());
    assert!(second.log().contains("damaged record at byte offset"), "{}", second.log());
    assert_eq!(names(&second, "wal"), before);

    // Once the third one votes, the second one can be restored.
    flip(&second, "a-value-of-some-length");
    second.start();
    second.wait_ready(2);
    third.start();
    third.wait_ready(1);
    wait_for("it does not get its vote", &third, async || in_force(&second).await == [3]).await;
    put(&nodes[0], "k", "a-value-of-other-length").await;
    put(&nodes[0], "l", "yet another one").await;
    assert_eq!(get(&second, "l").await.as_deref(), Some("yet another one"), "it has all of that");
    second.kill();
    flip(&second, "a-value-of-other-length");
    second.start();
    second.wait_ready(3);
    assert!(second.log().contains("the write-ahead log is damaged and was moved aside"), "{}", second.log());
    let trusted = async || second.log().matches(r#""standing":"Trusted""#).count() >= 3;
    wait_for("it is not readmitted", &second, trusted).await;
    nodes[0].kill();
    wait_for("its vote does not count", &second, async || {
        let request = pb::PutRequest { key: "x".into(), ..Default::default() };
        second.kv().await.put(request).await.is_ok()
    })
    .await;
}

/// Members whose logs do not go back to the beginning, and whose applied state is on disk.
async fn compacted(folder: &tempfile::TempDir, size: usize) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), size);
    for node in &mut nodes {
        node.flag("--snapshot-count", "1");
        node.flag("--snapshot-catchup-entries", "3");
        node.start();
    }
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    for n in 0..20 {
        put(&nodes[0], &format!("k{n}"), "v").await;
        tokio::time::sleep(Duration::from_millis(50)).await; // It is flushed, one flush at a time.
    }
    nodes
}

/// Its applied state was found damaged where it is stored, and its process has ended. (backend::fjall)
fn loses_state(node: &mut Node) {
    node.kill();
    for generation in names(node, "kv") {
        fs::write(node.data_dir().join("member/kv").join(generation).join("damaged"), "by a test").unwrap();
    }
}

fn wipe(node: &mut Node) {
    node.kill();
    fs::remove_dir_all(node.data_dir()).unwrap();
}

async fn eventually_put(node: &Node, key: &str) {
    wait_for("nothing is written", node, async || {
        let request = pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
        node.kv().await.put(request).await.is_ok()
    })
    .await;
}

const WAITS: &str = "this member has its log, but no applied state";
const ENDED: &str = "this member begins a new life with nothing";

fn count(node: &Node, text: &str) -> usize {
    node.log().matches(text).count()
}

/// It forgot its log at once, while another one that had lost everything needed it to be readmitted.
#[tokio::test(flavor = "multi_thread")]
async fn a_sound_log_without_a_state_counts_until_the_others_can_do_without() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = compacted(&folder, 3).await;
    wipe(&mut nodes[2]);
    eventually_put(&nodes[0], "two are left").await;
    tokio::time::sleep(Duration::from_secs(1)).await; // Who was heard a moment ago counts as there.
    loses_state(&mut nodes[1]);
    let former = names(&nodes[1], "kv");
    nodes[1].start();
    wait_for("it does not wait", &nodes[1], async || count(&nodes[1], WAITS) > 0).await;
    assert!(nodes[1].log().contains("was found damaged: by a test"), "{}", nodes[1].log());
    eventually_put(&nodes[0], "it votes and stores").await;
    let request = pb::RangeRequest { key: "k1".into(), serializable: true, ..Default::default() };
    assert_eq!(nodes[1].kv().await.range(request).await.unwrap_err().message(), "etcdserver: server stopped");
    // Neither a restart nor time changes anything.
    nodes[1].kill();
    nodes[1].start();
    wait_for("it does not wait", &nodes[1], async || count(&nodes[1], WAITS) > 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(count(&nodes[1], ENDED), 0, "{}", nodes[1].log());
    nodes[2].start();
    nodes[2].wait_ready(2);
    wait_for("its life goes on", &nodes[1], async || count(&nodes[1], ENDED) == 1).await;
    assert!(nodes[1].log().contains("the others have ended this life of the member"), "{}", nodes[1].log());
    nodes[1].wait_ready(2);
    let trusted = async || count(&nodes[1], r#""standing":"Trusted""#) >= 4;
    wait_for("it is not readmitted", &nodes[1], trusted).await;
    assert_eq!(names(&nodes[1], "kv.damaged-1"), former);
    nodes[0].kill();
    eventually_put(&nodes[1], "x").await;
    assert_eq!(get(&nodes[2], "k1").await.as_deref(), Some("v"));
    assert_eq!(get(&nodes[1], "it votes and stores").await.as_deref(), Some(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_whose_place_another_one_has_taken_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = compacted(&folder, 3).await;
    nodes[1].kill();
    let kept = folder.path().join("kept");
    fs::rename(nodes[1].data_dir(), &kept).unwrap();
    nodes[1].start();
    nodes[1].wait_ready(2);
    let trusted = async || count(&nodes[1], r#""standing":"Trusted""#) >= 2;
    wait_for("it is not readmitted", &nodes[1], trusted).await;
    // Its former disk is put back, without the applied state; the leader may take its word for it, but needs it no more.
    wipe(&mut nodes[1]);
    fs::rename(kept, nodes[1].data_dir()).unwrap();
    fs::remove_dir_all(nodes[1].data_dir().join("member/kv")).unwrap();
    nodes[1].start();
    wait_for("its life goes on", &nodes[1], async || count(&nodes[1], ENDED) == 1).await;
    nodes[1].wait_ready(3);
    // An amnesiac serves, and counts for nothing.
    let counts =
        async || nodes[1].log().rsplit(ENDED).next().is_some_and(|log| log.contains(r#""standing":"Trusted""#));
    wait_for("its new life does not count", &nodes[1], counts).await;
    nodes[0].kill();
    eventually_put(&nodes[1], "x").await;
    assert_eq!(get(&nodes[1], "k1").await.as_deref(), Some("v"));
}

/// Nobody could ever restore it, so it is for people to decide.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_nobody_can_restore_is_left_alone_and_so_is_the_log() {
    for size in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = compacted(&folder, size).await;
        let last = size - 1;
        loses_state(&mut nodes[last]);
        let before = (names(&nodes[last], "wal"), names(&nodes[last], "kv"), names(&nodes[last], ""));
        nodes[last].start();
        assert_eq!(nodes[last].wait_end(Duration::from_secs(20)), Some(1), "{}", nodes[last].log());
        assert!(nodes[last].log().contains("nobody can restore it"), "{}", nodes[last].log());
        assert_eq!((names(&nodes[last], "kv"), names(&nodes[last], "")), (before.1, before.2));
        let lost: Vec<&String> = before.0.iter().filter(|name| !names(&nodes[last], "wal").contains(name)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
