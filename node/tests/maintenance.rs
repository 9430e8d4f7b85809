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
