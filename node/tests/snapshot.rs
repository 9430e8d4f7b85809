//! Snapshot files end to end: taken of a running member, made a cluster of, and exchanged with a real etcd.
//!
//! `QUORATE_ETCD` names the folder with `etcd`, `etcdctl` and `etcdutl` 3.5. Without it nothing is exchanged; with
//! `QUORATE_CI=1` that is a failure.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use process::{Node, cluster, free_port, real_etcd};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use quorate_core::store::Imported;
use quorate_node::config::Founding;
use quorate_node::restore::{Restore, RestoreError, restore};
use quorate_node::snapshot::{DiskFile, status};
use sha2::{Digest as _, Sha256};

fn started(nodes: &mut [Node], starts: usize) {
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(starts));
}

async fn put(node: &Node, key: &str, value: &[u8], lease: i64) -> i64 {
    let (key, value) = (key.to_owned().into(), value.to_vec().into());
    let reply = node.kv().await.put(pb::PutRequest { key, value, lease, ..Default::default() }).await;
    reply.unwrap().into_inner().header.unwrap().revision
}

/// History worth keeping: 60 keys of several versions, one deleted, one large, one leased; compacted in the middle.
async fn fill(node: &Node) {
    let mut lease = LeaseClient::new(node.channel().await);
    lease.lease_grant(pb::LeaseGrantRequest { id: 77, ttl: 5000 }).await.unwrap();
    for n in 0..200_u8 {
        put(node, &format!("k{:02}", n % 60), &[n], if n % 60 == 5 { 77 } else { 0 }).await;
    }
    put(node, "large", &vec![b'x'; 1_000_000], 0).await;
    let delete = pb::DeleteRangeRequest { key: "k07".into(), ..Default::default() };
    node.kv().await.delete_range(delete).await.unwrap();
    let compact = pb::CompactionRequest { revision: 150, physical: false };
    node.kv().await.compact(compact).await.unwrap();
}

/// All keys as of each revision since the compaction.
async fn history(node: &Node) -> Vec<Vec<quorate_api::mvccpb::KeyValue>> {
    let mut all = Vec::new();
    for revision in 150..=203 {
        let range = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        all.push(node.kv().await.max_decoding_message_size(1 << 30).range(range).await.unwrap().into_inner().kvs);
    }
    all
}

/// Takes a snapshot, checking what goes with it.
async fn save(node: &Node, path: &Path) {
    let mut client = MaintenanceClient::new(node.channel().await);
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let (mut file, mut messages) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        assert!(message.header.is_none() && message.version == "3.7.0" && message.blob.len() <= 32 << 10);
        file.extend_from_slice(&message.blob);
        messages.push((message.remaining_bytes, file.len() as u64));
    }
    let (body, checksum) = file.split_at(file.len() - 32);
    assert!(messages.iter().all(|(left, sent)| *left == (body.len() as u64).saturating_sub(*sent)), "{messages:?}");
    assert_eq!(messages.last().map(|(left, _)| *left), Some(0));
    assert_eq!(checksum, Sha256::digest(body).as_slice());
    fs::write(path, file).unwrap();
}

fn plan(node: &Node, file: &Path) -> Restore {
    let flags = node.flags();
    let flag = |name: &str| flags[flags.iter().position(|flag| flag == name).unwrap() + 1].clone();
    let founding =
        Founding::parse(&node.name, &flag("--initial-cluster"), "etcd-cluster", &flag("--initial-advertise-peer-urls"));
    let founding = founding.unwrap();
    Restore { file: file.to_owned(), data_dir: node.data_dir(), skip_hash_check: false, bump: 0, founding }
}

fn restored(nodes: &[Node], file: &Path) -> Imported {
    let done: Vec<Imported> = nodes.iter().map(|node| restore(&plan(node, file)).unwrap()).collect();
    assert!(done.iter().all(|other| *other == done[0]), "the same state everywhere, its hash included: {done:?}");
    done[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_of_a_members_snapshot() {
    let (before, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut nodes = cluster(before.path(), 1);
    started(&mut nodes, 1);
    fill(&nodes[0]).await;
    let (expected, file) = (history(&nodes[0]).await, folder.path().join("backup.db"));
    save(&nodes[0], &file).await;

    let mut nodes = cluster(folder.path(), 3);
    let done = restored(&nodes, &file);
    assert_eq!((done.revision.0, done.floor.0, done.keys, done.detached), (203, 150, 60, 0));
    started(&mut nodes, 1);
    for node in &nodes {
        assert_eq!(history(node).await, expected);
        let mut lease = LeaseClient::new(node.channel().await);
        let left = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap();
        let left = left.into_inner();
        assert!(left.granted_ttl == 5000 && left.ttl > 4900 && left.keys == ["k05"], "{left:?}");
        let old = pb::RangeRequest { key: "k01".into(), revision: 149, ..Default::default() };
        let error = node.kv().await.range(old).await.unwrap_err();
        assert_eq!(error.message(), "etcdserver: mvcc: required revision has been compacted");
    }
    assert_eq!(put(&nodes[1], "after", b"1", 0).await, 204);

    // It is a cluster like any other: a member may crash, and may lose its disk.
    nodes[0].kill();
    nodes[0].start();
    nodes[0].wait_ready(2);
    nodes[1].kill();
    fs::remove_dir_all(nodes[1].data_dir()).unwrap();
    nodes[1].start();
    nodes[1].wait_ready(2);
    assert_eq!(history(&nodes[1]).await, expected);

    // A single member that goes back to the backup stays out: what it holds is not the others' past.
    nodes[2].kill();
    fs::remove_dir_all(nodes[2].data_dir()).unwrap();
    restore(&plan(&nodes[2], &file)).unwrap();
    nodes[2].start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(nodes[2].log().matches("ready to serve client requests").count(), 1, "{}", nodes[2].log());
    assert_eq!(put(&nodes[1], "after", b"2", 0).await, 205);
    nodes[2].kill();
    fs::remove_dir_all(nodes[2].data_dir()).unwrap();
    nodes[2].start();
    nodes[2].wait_ready(2);
    assert_eq!(put(&nodes[2], "after", b"3", 0).await, 206);
}

/// Clients watch from the revision in a header, which is the floor right after such a restore, where no change was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_may_begin_where_a_bump_has_put_the_floor() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(folder.path(), 1);
    started(&mut nodes, 1);
    put(&nodes[0], "a", b"1", 0).await;
    let file = folder.path().join("backup.db");
    save(&nodes[0], &file).await;
    nodes[0].kill();
    fs::remove_dir_all(nodes[0].data_dir()).unwrap();
    let done = restore(&Restore { bump: 1000, ..plan(&nodes[0], &file) }).unwrap();
    assert_eq!((done.revision.0, done.floor.0), (1002, 1002));
    nodes[0].start();
    nodes[0].wait_ready(2);
    let mut client = WatchClient::new(nodes[0].channel().await);
    let create = pb::WatchCreateRequest { key: "a".into(), start_revision: 1002, ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let asked = tokio_stream::StreamExt::chain(tokio_stream::once(create), tokio_stream::pending());
    let mut responses = client.watch(asked).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    assert_eq!(put(&nodes[0], "a", b"2", 0).await, 1003);
    let event = responses.message().await.unwrap().unwrap().events.remove(0).kv.unwrap();
    assert_eq!((event.mod_revision, event.version, &event.value[..]), (1003, 2, &b"2"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_trusted_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(folder.path(), 1);
    started(&mut nodes, 1);
    put(&nodes[0], "a", b"1", 0).await;
    let file = folder.path().join("backup.db");
    save(&nodes[0], &file).await;
    let whole = fs::read(&file).unwrap();
    let occupied = restore(&plan(&nodes[0], &file)).unwrap_err();
    assert!(matches!(&occupied, RestoreError::Occupied(path) if *path == nodes[0].data_dir()), "{occupied}");
    nodes[0].kill();
    fs::remove_dir_all(nodes[0].data_dir()).unwrap();
    let before = fs::read_dir(folder.path()).unwrap().count();

    let refused = |bytes: &[u8], skip_hash_check| {
        fs::write(&file, bytes).unwrap();
        let error = restore(&Restore { skip_hash_check, ..plan(&nodes[0], &file) }).unwrap_err().to_string();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "something is left after: {error}");
        error
    };
    assert_eq!(refused(&whole[..whole.len() - 32], false), "snapshot missing hash but --skip-hash-check=false");
    let mut altered = whole.clone();
    altered[9000] ^= 1;
    assert!(refused(&altered, false).starts_with("expected sha256 ["));
    assert!(refused(&whole[..8192], true).starts_with("the file is cut off: 8192 of at least "));
    assert!(refused(&whole[..100], true).starts_with("the file is cut off: 100 of at least "));
    assert!(refused(&[0; 9000], true).starts_with("not a bbolt database: "));
    // Without its checksum it is as good as it ever was, and a damaged page is found by itself.
    let mut damaged = whole[..whole.len() - 32].to_vec();
    let leaf = (3..damaged.len() / 4096).find(|page| damaged[page * 4096 + 8] == 2).unwrap();
    damaged[leaf * 4096 + 11] = 0xff;
    assert!(refused(&damaged, true).starts_with(&format!("page {leaf} is damaged: ")));
    fs::write(&file, &whole[..whole.len() - 32]).unwrap();
    // A shell completes the names of folders with a slash.
    let data_dir = nodes[0].data_dir().join("");
    let done = restore(&Restore { skip_hash_check: true, data_dir, ..plan(&nodes[0], &file) }).unwrap();
    assert_eq!(done.revision.0, 2);
    assert!(nodes[0].data_dir().join("member").is_dir());
}

struct Etcd {
    process: Child,
    port: u16,
}

impl Etcd {
    fn start(data_dir: &Path) -> Self {
        let (port, peer) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let log = File::create(data_dir.with_extension("log")).unwrap();
        let process = Command::new(real_etcd("etcd").unwrap())
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let etcd = Self { process, port };
        let until = Instant::now() + Duration::from_secs(60);
        while !etcdctl(port, "endpoint health").0 {
            assert!(Instant::now() < until, "etcd does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        etcd
    }

    /// SIGTERM: etcd writes out what it holds.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tool(name: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new(real_etcd(name).unwrap()).args(words).stderr(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn etcdctl(port: u16, line: &str) -> (bool, String) {
    let endpoint = format!("--endpoints=127.0.0.1:{port}");
    let words: Vec<&str> = std::iter::once(&endpoint[..]).chain(line.split(' ')).collect();
    tool("etcdctl", &words)
}

/// What must be the same before and after a move.
const QUESTIONS: [&str; 11] = [
    "get k --prefix -w fields",
    "get k --prefix -w fields --rev=40",
    "get k --prefix -w fields --rev=20",
    "get k --prefix -w fields --rev=19",
    "lease list",
    "alarm list",
    "endpoint hashkv",
    "user list",
    "user get u",
    "role list",
    "role get r",
];

fn answers(port: u16) -> Vec<String> {
    let personal = ["ClusterID", "MemberID", "RaftTerm"];
    let answer = |question: &&str| {
        let (ok, text) = etcdctl(port, question);
        let lines = text.lines().filter(|line| !personal.iter().any(|name| line.contains(name)));
        let text = lines.collect::<Vec<_>>().join("\n").replace(&port.to_string(), "port");
        format!("{question}: {ok} {text}")
    };
    QUESTIONS.iter().map(answer).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_etcd_and_back() {
    if ["etcd", "etcdctl", "etcdutl"].iter().any(|name| real_etcd(name).is_none()) {
        assert!(std::env::var_os("QUORATE_CI").is_none(), "skipped: no etcd, etcdctl and etcdutl in QUORATE_ETCD");
        return eprintln!("skipped: no etcd, etcdctl and etcdutl in QUORATE_ETCD");
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&folder.path().join("theirs.etcd"));
    let run = |line: &str| assert!(etcdctl(etcd.port, line).0, "{line}");
    let (_, lease) = etcdctl(etcd.port, "lease grant 5000");
    let lease = lease.split(' ').nth(1).unwrap().to_owned();
    for n in 0..40 {
        run(&format!("put k{} v{n}", n % 15));
    }
    run("del k3");
    run(&format!("put k4 leased --lease={lease}"));
    run("compaction 20");
    for line in [
        "user add root:secret",
        "user add u:password",
        "user add certified --no-password",
        "role add r",
        "role grant-permission r readwrite k l",
        "role grant-permission r read x --prefix",
        "user grant-role u r",
    ] {
        run(line);
    }
    let expected = answers(etcd.port);
    assert!(expected[0].matches("\"Key\" :").count() == 14 && expected[3].contains("false"), "{expected:?}");
    let from = folder.path().join("theirs.db");
    run(&format!("snapshot save {}", from.display()));
    let running = restore(&plan(&cluster(folder.path(), 1)[0], &folder.path().join("theirs.etcd"))).unwrap_err();
    assert!(running.to_string().ends_with("is in use: stop etcd before, or take a snapshot of it"), "{running}");
    etcd.stop();

    // From a snapshot, and from the data directory of the stopped etcd.
    let mut nodes = cluster(folder.path(), 3);
    let done = restored(&nodes, &from);
    assert_eq!((done.revision.0, done.floor.0, done.detached), (43, 20, 0));
    for node in &nodes {
        fs::remove_dir_all(node.data_dir()).unwrap();
    }
    assert_eq!(restored(&nodes, &folder.path().join("theirs.etcd")), done);
    started(&mut nodes, 1);
    for node in &nodes {
        assert_eq!(answers(node.client_port), expected);
    }
    let port = nodes[1].client_port;
    assert!(etcdctl(port, "put k16 ours").0);
    let ours = folder.path().join("ours.db").display().to_string();
    assert!(etcdctl(port, &format!("snapshot save {ours}")).0);

    // And back.
    let (ok, text) = tool("etcdutl", &["snapshot", "status", &ours, "-w", "json"]);
    let own = status(DiskFile::open(ours.as_ref()).unwrap()).unwrap();
    let shape = format!("{{\"hash\":{},\"revision\":{},", own.hash, own.revision);
    assert!(ok && text.starts_with(&shape) && text.contains(&format!("\"totalSize\":{}}}", own.bytes)), "{text}");
    let back = folder.path().join("back.etcd");
    let words = ["snapshot", "restore", &ours, "--data-dir", &back.display().to_string()];
    assert!(tool("etcdutl", &words).0);
    let expected = answers(port);
    let etcd = Etcd::start(&back);
    assert_eq!(answers(etcd.port), expected);
    assert!(etcdctl(etcd.port, "put k17 theirs").0 && etcdctl(etcd.port, "del k --prefix").1.starts_with("16"));
    assert!(etcdctl(etcd.port, "compaction 45").0 && etcdctl(etcd.port, "defrag").0);

    // Passwords and permissions hold in both.
    for port in [port, etcd.port] {
        assert!(etcdctl(port, "auth enable").0);
        assert!(etcdctl(port, "put k1 mine --user u:password").0 && etcdctl(port, "get xy --user u:password").0);
        assert!(!etcdctl(port, "put k1 mine --user u:wrong").0 && !etcdctl(port, "put x mine --user u:password").0);
        assert!(etcdctl(port, "put x mine --user root:secret").0);
    }
}
