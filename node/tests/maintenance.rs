//! Upkeep over the wire: alarms and the quota.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use process::{Node, cluster, http_get};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::alarm_request::AlarmAction;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A running cluster, each member with these flags.
fn started(folder: &tempfile::TempDir, size: usize, flags: &[(&str, &str)]) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), size);
    for node in &mut nodes {
        flags.iter().for_each(|(name, value)| node.flag(name, value));
        node.start();
    }
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

fn put(key: &str, bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: vec![b'v'; bytes].into(), ..Default::default() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("the call must fail");
    (status.code(), status.message().to_owned())
}

async fn maintenance(node: &Node) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(node.channel().await)
}

async fn member_id(node: &Node) -> u64 {
    maintenance(node).await.status(pb::StatusRequest {}).await.unwrap().into_inner().header.unwrap().member_id
}

/// All alarms, with the names that etcd gives them.
async fn alarms(node: &Node) -> Vec<(u64, &'static str)> {
    let reply = maintenance(node).await.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
    assert!(reply.header.unwrap().revision > 0);
    reply.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm().as_str_name())).collect()
}

async fn act(node: &Node, action: AlarmAction, member_id: u64, alarm: pb::AlarmType) -> Vec<u64> {
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
    let reply = maintenance(node).await.alarm(request).await.unwrap().into_inner();
    reply.alarms.iter().map(|alarm| alarm.member_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_what_grows_on_every_member_until_it_is_disarmed() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3, &[("--quota-backend-bytes", "20000")]);
    let no_space = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
    let mut revision = 0;
    for _ in 0..4 {
        revision = nodes[0].kv().await.put(put("a", 4000)).await.unwrap().into_inner().header.unwrap().revision;
    }
    assert_eq!(alarms(&nodes[1]).await, [], "it has applied all of them by now");
    assert_eq!(refusal(nodes[1].kv().await.put(put("a", 4000)).await), no_space);
    let full = member_id(&nodes[1]).await;
    for node in &nodes {
        // Raised before the refusal; every member learns of it in the order of the log.
        assert_eq!(alarms(node).await, [(full, "NOSPACE")]);
        assert_eq!(refusal(node.kv().await.put(put("b", 1)).await), no_space, "whatever its size");
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        assert_eq!(refusal(LeaseClient::new(node.channel().await).lease_grant(grant).await), no_space);
        let op = |request| pb::RequestOp { request: Some(request) };
        let inner = pb::TxnRequest {
            failure: vec![op(pb::request_op::Request::RequestPut(put("b", 1)))],
            ..Default::default()
        };
        let txn =
            pb::TxnRequest { success: vec![op(pb::request_op::Request::RequestTxn(inner))], ..Default::default() };
        assert_eq!(refusal(node.kv().await.txn(txn).await), no_space);
        let status = maintenance(node).await.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.errors, [format!("memberID:{full} alarm:NOSPACE")]);
        assert_eq!(status.db_size_quota, 20_000);
        let health = http_get(node.client_port, "/health");
        assert!(
            health.contains("503") && health.contains(r#"{"health":"false","reason":"ALARM NOSPACE"}"#),
            "{health}"
        );
        assert!(http_get(node.client_port, "/health?exclude=NOSPACE").contains(r#"{"health":"true","reason":""}"#));
        assert!(http_get(node.client_port, "/readyz").ends_with("ok\n"));
        let series = format!(r#"etcd_debugging_server_alarms{{alarm_type="NOSPACE",server_id="{full:x}"}} 1"#);
        assert!(http_get(node.client_port, "/metrics").contains(&series));
    }
    // Disarming alone brings the alarm back with the next put; another member's alarm is another one.
    assert_eq!(act(&nodes[2], AlarmAction::Deactivate, 1, pb::AlarmType::Nospace).await, []);
    assert_eq!(act(&nodes[2], AlarmAction::Deactivate, full, pb::AlarmType::None).await, []);
    assert_eq!(act(&nodes[2], AlarmAction::Deactivate, full, pb::AlarmType::Nospace).await, [full]);
    assert_eq!(alarms(&nodes[1]).await, [], "it knows of that by now");
    assert_eq!(refusal(nodes[1].kv().await.put(put("a", 4000)).await), no_space);
    assert_eq!(alarms(&nodes[0]).await, [(full, "NOSPACE")]);
    // It lasts over restarts, as the space does.
    nodes[1].kill();
    nodes[1].start();
    nodes[1].wait_ready(2);
    assert_eq!(alarms(&nodes[1]).await, [(full, "NOSPACE")]);
    assert_eq!(refusal(nodes[1].kv().await.put(put("b", 1)).await), no_space);

    let mut kv = nodes[0].kv().await;
    kv.delete_range(pb::DeleteRangeRequest { key: "b".into(), ..Default::default() }).await.unwrap();
    kv.compact(pb::CompactionRequest { revision, physical: false }).await.unwrap();
    assert_eq!(refusal(kv.put(put("b", 1)).await), no_space, "space alone does not end the alarm");
    assert_eq!(act(&nodes[0], AlarmAction::Deactivate, full, pb::AlarmType::Nospace).await, [full]);
    kv.put(put("b", 1)).await.unwrap();
    assert_eq!(alarms(&nodes[2]).await, []);
    assert!(http_get(nodes[2].client_port, "/health").contains(r#"{"health":"true","reason":""}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_cluster_changes_nothing_and_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, 1, &[]).remove(0);
    let mut kv = node.kv().await;
    kv.put(put("a", 1)).await.unwrap();
    assert_eq!(act(&node, AlarmAction::Activate, 7, pb::AlarmType::None).await, []);
    assert_eq!(act(&node, AlarmAction::Activate, 7, pb::AlarmType::Corrupt).await, [7]);
    assert_eq!(act(&node, AlarmAction::Activate, 7, pb::AlarmType::Corrupt).await, [7], "again is no mistake");
    assert_eq!(act(&node, AlarmAction::Get, 0, pb::AlarmType::Nospace).await, []);
    assert_eq!(act(&node, AlarmAction::Get, 0, pb::AlarmType::Corrupt).await, [7]);
    let corrupt = (Code::DataLoss, "etcdserver: corrupt cluster".to_owned());
    assert_eq!(refusal(kv.put(put("a", 1)).await), corrupt);
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    assert_eq!(refusal(kv.delete_range(delete).await), corrupt);
    assert_eq!(refusal(kv.compact(pb::CompactionRequest { revision: 2, physical: false }).await), corrupt);
    let get = pb::RangeRequest { key: "a".into(), ..Default::default() };
    assert_eq!(kv.range(get).await.unwrap().into_inner().count, 1);
    assert!(http_get(node.client_port, "/health").contains("ALARM CORRUPT"));
    let ready = http_get(node.client_port, "/readyz");
    assert!(ready.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{ready}");
    assert!(http_get(node.client_port, "/livez").ends_with("ok\n"));
    assert_eq!(act(&node, AlarmAction::Deactivate, 7, pb::AlarmType::Corrupt).await, [7]);
    kv.put(put("a", 1)).await.unwrap();
}

fn refused_by(code: Code, text: &str) -> (Code, String) {
    (code, text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_hash_their_keys_alike_and_as_etcd_does() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(&folder, 3, &[]);
    let mut kv = nodes[0].kv().await;
    for (key, value) in [("a", "1"), ("b", "2"), ("", ""), ("c", "3"), ("b", "4")] {
        if key.is_empty() {
            kv.delete_range(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
        } else {
            kv.put(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }).await.unwrap();
        }
    }
    for node in &nodes {
        // A read through the log: this member has applied everything.
        node.kv().await.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
        let mut client = maintenance(node).await;
        for (revision, hash, at) in [(0, 2_563_944_494, 6), (3, 1_827_592_406, 3), (6, 2_563_944_494, 6)] {
            let reply = client.hash_kv(pb::HashKvRequest { revision }).await.unwrap().into_inner();
            assert_eq!((reply.hash, reply.hash_revision, reply.compact_revision), (hash, at, -1));
            assert_eq!(reply.header.unwrap().revision, 6);
        }
        let future = refused_by(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        assert_eq!(refusal(client.hash_kv(pb::HashKvRequest { revision: 7 }).await), future);
        assert_ne!(client.hash(pb::HashRequest {}).await.unwrap().into_inner().hash, 0);
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await.unwrap();
    for node in &nodes {
        node.kv().await.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
        let mut client = maintenance(node).await;
        let reply = client.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
        assert_eq!((reply.hash, reply.hash_revision, reply.compact_revision), (2_347_218_661, 6, 4));
        let compacted = refused_by(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(refusal(client.hash_kv(pb::HashKvRequest { revision: 3 }).await), compacted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defragmenting_gives_space_back_while_the_member_serves() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, 1, &[]).remove(0);
    let mut kv = node.kv().await;
    let mut random = 7_u64;
    for n in 0..60 {
        // Bytes that do not shrink by themselves.
        let value: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random.to_be_bytes()[0]
        })
        .take(500_000)
        .collect();
        let key = format!("k{}", n % 5);
        kv.put(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }).await.unwrap();
    }
    let mut client = maintenance(&node).await;
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 29_000_000, "{status:?}");
    kv.compact(pb::CompactionRequest { revision: 61, physical: false }).await.unwrap();
    let writes = tokio::spawn(async move {
        let mut writes = 0;
        loop {
            kv.put(put("k", 10)).await.unwrap();
            writes += 1;
            if writes > 1000 {
                return;
            }
        }
    });
    client.defragment(pb::DefragmentRequest {}).await.unwrap();
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!((2_400_000..6_000_000).contains(&status.db_size), "{status:?}");
    writes.await.unwrap();
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    assert_eq!(node.kv().await.range(all).await.unwrap().into_inner().count, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_checked_begun_once_and_cancelled() {
    use pb::downgrade_request::DowngradeAction;
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, 1, &[]).remove(0);
    let mut client = maintenance(&node).await;
    let ask = |action: DowngradeAction, version: &str| pb::DowngradeRequest {
        action: action.into(),
        version: version.to_owned(),
    };
    for action in [DowngradeAction::Validate, DowngradeAction::Enable] {
        let wrong = refused_by(Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
        for text in ["", "three", "3", "3.x"] {
            assert_eq!(refusal(client.downgrade(ask(action, text)).await), wrong);
        }
        let invalid = refused_by(Code::InvalidArgument, "etcdserver: invalid downgrade target version");
        for text in ["3.5.0", "3.7", "2.6.0"] {
            assert_eq!(refusal(client.downgrade(ask(action, text)).await), invalid);
        }
    }
    for action in [DowngradeAction::Cancel, DowngradeAction::Validate, DowngradeAction::Enable] {
        assert_eq!(client.downgrade(ask(action, "3.6")).await.unwrap().into_inner().version, "3.7");
    }
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner().downgrade_info.unwrap();
    assert_eq!((status.enabled, status.target_version.as_str()), (true, "3.6.0"));
    for action in [DowngradeAction::Validate, DowngradeAction::Enable] {
        let under_way = refused_by(Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress");
        assert_eq!(refusal(client.downgrade(ask(action, "3.6.0")).await), under_way);
    }
    client.downgrade(ask(DowngradeAction::Cancel, "")).await.unwrap();
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner().downgrade_info.unwrap();
    assert_eq!((status.enabled, status.target_version.as_str()), (false, ""));
}
