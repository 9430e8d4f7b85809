//! One real member and real clients: every call of the slice over the wire, and what an operator sees around it.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::time::Duration;

use process::{Node, cluster, free_port, http_get, run};
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::auth_client::AuthClient;
use quorate_api::etcdserverpb::cluster_client::ClusterClient;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use quorate_api::v3electionpb::election_client::ElectionClient;
use quorate_api::v3electionpb::{CampaignRequest, LeaderRequest, ResignRequest};
use quorate_api::v3lockpb::lock_client::LockClient;
use quorate_api::v3lockpb::{LockRequest, UnlockRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

fn started(folder: &tempfile::TempDir) -> Node {
    let mut node = cluster(folder.path(), 1).remove(0);
    node.start();
    node.wait_ready(1);
    node
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("the call must fail");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut kv = node.kv().await;
    let first = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert_eq!(first.header.as_ref().unwrap().revision, 2, "the empty store has revision 1");
    let again = kv.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.unwrap().into_inner();
    assert_eq!(again.prev_kv.unwrap().value, "1");
    let found = kv.range(get("a")).await.unwrap().into_inner();
    let key = &found.kvs[0];
    assert_eq!((key.create_revision, key.mod_revision, key.version, &key.value[..]), (2, 3, 2, &b"2"[..]));
    let old = kv.range(pb::RangeRequest { revision: 2, serializable: true, ..get("a") }).await.unwrap().into_inner();
    assert_eq!((&old.kvs[0].value[..], old.header.unwrap().revision), (&b"1"[..], 3));

    let op = |request| pb::RequestOp { request: Some(request) };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: "a".into(),
            target: pb::compare::CompareTarget::Value.into(),
            target_union: Some(pb::compare::TargetUnion::Value("2".into())),
            ..Default::default()
        }],
        success: vec![
            op(pb::request_op::Request::RequestPut(put("b", "3"))),
            op(pb::request_op::Request::RequestRange(get("b"))),
        ],
        failure: vec![],
    };
    let answer = kv.txn(txn).await.unwrap().into_inner();
    assert!(answer.succeeded);
    let Some(pb::response_op::Response::ResponseRange(inner)) = &answer.responses[1].response else {
        panic!("{answer:?}");
    };
    let header = inner.header.as_ref().unwrap();
    assert_eq!((header.revision, header.member_id, &inner.kvs[0].value[..]), (4, 0, &b"3"[..]));

    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true };
    let gone = kv.delete_range(all).await.unwrap().into_inner();
    assert_eq!((gone.deleted, gone.prev_kvs.len(), gone.header.unwrap().revision), (2, 2, 5));

    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    let compacted = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned());
    assert_eq!(refusal(kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await), compacted);
    assert_eq!(refusal(kv.range(pb::RangeRequest { revision: 3, ..get("a") }).await), compacted);
    let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned());
    assert_eq!(refusal(kv.range(pb::RangeRequest { revision: 99, ..get("a") }).await), future);
    let empty = (Code::InvalidArgument, "etcdserver: key is not provided".to_owned());
    assert_eq!(refusal(kv.put(put("", "1")).await), empty);
    let leased = pb::PutRequest { lease: 77, ..put("a", "1") };
    let unknown = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    assert_eq!(refusal(kv.put(leased).await), unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_limits_are_refused_with_etcds_texts() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut kv = node.kv().await;
    let of = |bytes: usize| pb::PutRequest { value: vec![7; bytes].into(), ..put("big", "") };
    assert_eq!(
        refusal(kv.put(of(1_572_864)).await),
        (Code::InvalidArgument, "etcdserver: request is too large".to_owned())
    );
    let (code, text) = refusal(kv.put(of(3 << 20)).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert_eq!(text, "grpc: received message larger than max (3145738 vs. 2097152)");
    kv.put(of(1_500_000)).await.unwrap();
    assert_eq!(kv.range(get("big")).await.unwrap().into_inner().kvs[0].value.len(), 1_500_000);
    // Longer than the backend's own keys can be.
    let long = pb::PutRequest { key: vec![b'k'; 100_000].into(), value: "v".into(), ..Default::default() };
    kv.put(long.clone()).await.unwrap();
    let found = kv.range(pb::RangeRequest { key: long.key, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(&found.kvs[0].value[..], b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_streams_in_chunks_of_one_revision() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut kv = node.kv().await;
    let ops = |from: usize| {
        (from..from + 100)
            .map(|n| {
                let put = pb::PutRequest { key: format!("k{n:03}").into(), value: "v".into(), ..Default::default() };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            })
            .collect()
    };
    for from in [0, 100] {
        kv.txn(pb::TxnRequest { success: ops(from), ..Default::default() }).await.unwrap();
    }
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    for (limit, expected, first) in [(0, 200, 10), (35, 35, 10), (-1, 200, 200)] {
        let mut stream = kv.range_stream(pb::RangeRequest { limit, ..all.clone() }).await.unwrap().into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.message().await.unwrap() {
            chunks.push(chunk.range_response.unwrap());
        }
        assert_eq!(chunks[0].kvs.len(), first);
        let keys: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.kvs).map(|kv| kv.key.clone()).collect();
        assert_eq!(keys.len(), expected);
        assert!(keys.is_sorted());
        let (last, rest) = chunks.split_last().unwrap();
        assert!(rest.iter().all(|chunk| chunk.header.is_none() && chunk.count == 0 && !chunk.more));
        assert_eq!((last.count, last.more, last.header.as_ref().unwrap().revision), (200, limit > 0, 3));
    }
    let sorted = pb::RangeRequest { sort_order: 1, sort_target: 1, ..all };
    let (code, text) = refusal(kv.range_stream(sorted).await);
    assert_eq!((code, text.as_str()), (Code::Unimplemented, "RangeStream does not support custom sort orders"));
}

/// A watch stream with its requests and responses.
async fn watch(node: &Node) -> (mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>) {
    let (sender, requests) = mpsc::channel(8);
    let mut client = WatchClient::new(node.channel().await);
    let responses = client.watch(ReceiverStream::new(requests)).await.unwrap().into_inner();
    (sender, responses)
}

fn create(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_history_then_news_until_they_cancel() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut kv = node.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let (sender, mut responses) = watch(&node).await;
    let all = pb::WatchCreateRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
    sender.send(create(pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..all.clone() })).await.unwrap();
    let created = responses.message().await.unwrap().unwrap();
    assert!(created.created && created.events.is_empty());
    let past = responses.message().await.unwrap().unwrap();
    assert_eq!((past.watch_id, &past.events[0].kv.as_ref().unwrap().value[..]), (created.watch_id, &b"1"[..]));
    kv.delete_range(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    let news = responses.message().await.unwrap().unwrap();
    let event = &news.events[0];
    assert_eq!((event.r#type, event.kv.as_ref().unwrap().mod_revision, news.header.unwrap().revision), (1, 3, 3));
    assert_eq!(&event.prev_kv.as_ref().unwrap().value[..], b"1");

    let progress = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    sender.send(pb::WatchRequest { request_union: Some(progress) }).await.unwrap();
    let answer = responses.message().await.unwrap().unwrap();
    assert_eq!((answer.watch_id, answer.events.len(), answer.header.unwrap().revision), (-1, 0, 3));

    let cancel = pb::WatchCancelRequest { watch_id: created.watch_id };
    let cancel = pb::watch_request::RequestUnion::CancelRequest(cancel);
    sender.send(pb::WatchRequest { request_union: Some(cancel) }).await.unwrap();
    assert!(responses.message().await.unwrap().unwrap().canceled);

    kv.compact(pb::CompactionRequest { revision: 3, physical: false }).await.unwrap();
    sender.send(create(pb::WatchCreateRequest { start_revision: 2, ..all })).await.unwrap();
    assert!(responses.message().await.unwrap().unwrap().created);
    let lost = responses.message().await.unwrap().unwrap();
    assert_eq!((lost.canceled, lost.compact_revision, lost.header.unwrap().revision), (true, 3, 0));

    sender
        .send(create(pb::WatchCreateRequest { start_revision: -1, key: "x".into(), ..Default::default() }))
        .await
        .unwrap();
    let refused = responses.message().await.unwrap().unwrap();
    assert_eq!((refused.created, refused.canceled, refused.watch_id), (true, true, -1));
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_granted_renewed_and_take_their_keys_along() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let (mut kv, mut lease) = (node.kv().await, LeaseClient::new(node.channel().await));
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner();
    assert!(granted.id > 0 && granted.ttl >= 1, "{granted:?}");
    let long = lease.lease_grant(pb::LeaseGrantRequest { ttl: 500, id: 42 }).await.unwrap().into_inner();
    assert_eq!((long.id, long.ttl), (42, 500));
    let taken = lease.lease_grant(pb::LeaseGrantRequest { ttl: 500, id: 42 }).await;
    assert_eq!(refusal(taken), (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned()));
    kv.put(pb::PutRequest { lease: granted.id, ..put("short", "1") }).await.unwrap();
    kv.put(pb::PutRequest { lease: 42, ..put("long", "1") }).await.unwrap();
    let ask = pb::LeaseTimeToLiveRequest { id: 42, keys: true };
    let left = lease.lease_time_to_live(ask).await.unwrap().into_inner();
    assert!((490..=500).contains(&left.ttl) && left.granted_ttl == 500, "{left:?}");
    assert_eq!(left.keys, ["long"]);
    let unknown = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 9, keys: true }).await.unwrap();
    assert_eq!((unknown.get_ref().ttl, unknown.get_ref().granted_ttl), (-1, 0));

    let (sender, requests) = mpsc::channel(4);
    let mut renewals = lease.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for (id, ttl) in [(42, 500), (9, 0), (42, 500)] {
        sender.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
        let renewed = renewals.message().await.unwrap().unwrap();
        assert_eq!((renewed.id, renewed.ttl), (id, ttl));
    }
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while kv.range(get("short")).await.unwrap().into_inner().count > 0 {
        assert!(std::time::Instant::now() < until, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leases = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert_eq!(leases, [pb::LeaseStatus { id: 42 }]);
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 42 }).await.unwrap();
    assert_eq!(kv.range(get("long")).await.unwrap().into_inner().count, 0);
    let gone = lease.lease_revoke(pb::LeaseRevokeRequest { id: 42 }).await;
    assert_eq!(refusal(gone), (Code::NotFound, "etcdserver: requested lease not found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_queue_up() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut lease = LeaseClient::new(node.channel().await);
    for id in [1, 2] {
        lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.unwrap();
    }
    let mut lock = LockClient::new(node.channel().await);
    let held = lock.lock(LockRequest { name: "l".into(), lease: 1 }).await.unwrap().into_inner();
    assert_eq!(&held.key[..], b"l/1");
    let mut second = lock.clone();
    let waiting = tokio::spawn(async move { second.lock(LockRequest { name: "l".into(), lease: 2 }).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "the lock is held");
    lock.unlock(UnlockRequest { key: held.key }).await.unwrap();
    assert_eq!(&waiting.await.unwrap().unwrap().into_inner().key[..], b"l/2");
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 3 }).await.unwrap();
    let mut third = lock.clone();
    let waiting = tokio::spawn(async move { third.lock(LockRequest { name: "l".into(), lease: 3 }).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 3 }).await.unwrap();
    lock.unlock(UnlockRequest { key: "l/2".into() }).await.unwrap();
    let expired = (Code::Unknown, "mutex: session is expired".to_owned());
    assert_eq!(refusal(waiting.await.unwrap()), expired, "a place that is gone is no lock");
    let unknown = lock.lock(LockRequest { name: "l".into(), lease: 99 }).await;
    assert_eq!(refusal(unknown), (Code::Unknown, "etcdserver: requested lease not found".to_owned()));

    let mut election = ElectionClient::new(node.channel().await);
    let campaign = |lease, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let leader = election.campaign(campaign(1, "one")).await.unwrap().into_inner().leader.unwrap();
    let mut observed = election.observe(LeaderRequest { name: "e".into() }).await.unwrap().into_inner();
    assert_eq!(&observed.message().await.unwrap().unwrap().kv.unwrap().value[..], b"one");
    let mut second = election.clone();
    let waiting = tokio::spawn(async move { second.campaign(campaign(2, "two")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "there is a leader");
    let resigned = election.resign(ResignRequest { leader: Some(leader) }).await.unwrap().into_inner();
    let won = waiting.await.unwrap().unwrap().into_inner();
    // Whoever waited is told when it got into the queue. (etcd)
    let won_at = won.leader.as_ref().unwrap().rev;
    assert_eq!(won.header.as_ref().unwrap().revision, won_at);
    assert!(won_at < resigned.header.unwrap().revision);
    assert_eq!(&observed.message().await.unwrap().unwrap().kv.unwrap().value[..], b"two");
    let nobody = election.leader(LeaderRequest { name: "other".into() }).await;
    assert_eq!(refusal(nobody), (Code::Unknown, "election: no leader".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_held_when_it_is_asked_for_again_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut lease = LeaseClient::new(node.channel().await);
    for id in [1, 2] {
        lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.unwrap();
    }
    let mut lock = LockClient::new(node.channel().await);
    let mut election = ElectionClient::new(node.channel().await);
    let again = |lease| LockRequest { name: "l".into(), lease };
    let held = lock.lock(again(1)).await.unwrap().into_inner();
    let campaign = |value: Vec<u8>| CampaignRequest { name: "e".into(), lease: 1, value: value.into() };
    let won = election.campaign(campaign(b"a".to_vec())).await.unwrap().into_inner().leader.unwrap();

    let too_large = election.campaign(campaign(vec![7; 1_600_000])).await;
    assert_eq!(refusal(too_large), (Code::Unknown, "etcdserver: request is too large".to_owned()));
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let no_space = |action: pb::alarm_request::AlarmAction| {
        let alarm = pb::AlarmType::Nospace.into();
        pb::AlarmRequest { action: action.into(), member_id: held.header.as_ref().unwrap().member_id, alarm }
    };
    maintenance.alarm(no_space(pb::alarm_request::AlarmAction::Activate)).await.unwrap();
    let full = (Code::Unknown, "etcdserver: mvcc: database space exceeded".to_owned());
    assert_eq!(refusal(lock.lock(again(1)).await), full);
    maintenance.alarm(no_space(pb::alarm_request::AlarmAction::Deactivate)).await.unwrap();

    tokio::time::sleep(Duration::from_millis(300)).await; // Nothing is undone behind their backs either.
    let mut kv = node.kv().await;
    let found = kv.range(pb::RangeRequest { key: held.key.clone(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(found.kvs.len(), 1, "the lock is lost");
    let leader = election.leader(LeaderRequest { name: "e".into() }).await.unwrap().into_inner().kv.unwrap();
    assert_eq!((&leader.value[..], leader.create_revision), (&b"a"[..], won.rev));
    // Who has it, has it at once; with another value, that is proclaimed.
    let header = lock.lock(again(1)).await.unwrap().into_inner().header.unwrap();
    assert_eq!(header.revision, found.header.unwrap().revision);
    assert_eq!(election.campaign(campaign(b"b".to_vec())).await.unwrap().into_inner().leader, Some(won));
    let leader = election.leader(LeaderRequest { name: "e".into() }).await.unwrap().into_inner().kv.unwrap();
    assert_eq!(&leader.value[..], b"b");

    // Who stops waiting leaves the queue, and so does nobody else.
    let waiting = tokio::time::timeout(Duration::from_millis(300), lock.lock(again(2))).await;
    assert!(waiting.is_err(), "the lock is held");
    let queue = pb::RangeRequest { key: "l/".into(), range_end: "l0".into(), ..Default::default() };
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let keys = kv.range(queue.clone()).await.unwrap().into_inner().kvs;
        assert_eq!(keys[0].key, held.key);
        if keys.len() == 1 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{keys:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((status.version.as_str(), status.leader, status.raft_term), ("3.7.1", header.member_id, 1));
    assert!(status.errors.is_empty() && !status.is_learner && status.raft_applied_index > 0);
    assert!(maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms.is_empty());
    assert_eq!(maintenance.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner().header, None);
    let members = ClusterClient::new(node.channel().await).member_list(pb::MemberListRequest::default()).await.unwrap();
    let member = &members.get_ref().members[0];
    assert_eq!((member.name.as_str(), member.id, member.client_ur_ls.len()), ("m1", header.member_id, 1));
    assert!(
        !AuthClient::new(node.channel().await).auth_status(pb::AuthStatusRequest {}).await.unwrap().get_ref().enabled
    );
    let mut led = Request::new(get("a"));
    led.metadata_mut().insert("hasleader", "true".parse().unwrap());
    node.kv().await.range(led).await.unwrap();

    let health = http_get(node.client_port, "/health");
    assert!(health.starts_with("HTTP/1.1 200 OK"), "{health}");
    assert!(health.ends_with("\r\n\r\n{\"health\":\"true\",\"reason\":\"\"}"), "{health}");
    assert!(http_get(node.client_port, "/version").contains(r#""etcdserver":"3.7.1""#));
    assert!(http_get(node.client_port, "/readyz?verbose").contains("[+]linearizable_read ok\n"));
    assert!(http_get(node.client_port, "/livez").ends_with("ok\n"));
    let metrics = http_get(node.client_port, "/metrics");
    for line in [
        "\netcd_server_has_leader 1\n",
        "\netcd_server_is_leader 1\n",
        "\ngrpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let lost = http_get(node.client_port, "/v2/keys");
    assert!(lost.starts_with("HTTP/1.1 404") && lost.ends_with("404 page not found\n"), "{lost}");
    let members = http_get(node.peer_port, "/members");
    let (id, client, peer) = (header.member_id, node.client_port, node.peer_port);
    let json = format!(
        "[{{\"id\":{id},\"peerURLs\":[\"http://127.0.0.1:{peer}\"],\"name\":\"m1\",\
         \"clientURLs\":[\"http://127.0.0.1:{client}\"]}}]\n"
    );
    assert!(members.contains("x-etcd-cluster-id: ") && members.ends_with(&json), "{members}");
    assert!(http_get(node.peer_port, "/health").ends_with("404 page not found\n"));
}

#[tokio::test]
async fn tools_learn_the_api_from_the_server() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let mut client = ServerReflectionClient::new(node.channel().await);
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("etcdserverpb.KV".to_owned()),
        MessageRequest::FileContainingSymbol("etcdserverpb.Nothing".to_owned()),
    ];
    let requests = questions.map(|it| ServerReflectionRequest { host: String::new(), message_request: Some(it) });
    let mut answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();

    let MessageResponse::ListServicesResponse(services) = next().await else { panic!("not a list") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["etcdserverpb.KV", "etcdserverpb.Watch", "v3lockpb.Lock", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let MessageResponse::FileDescriptorResponse(files) = next().await else { panic!("not a file") };
    let holds = |file: &Vec<u8>, word: &[u8]| file.windows(word.len()).any(|part| part == word);
    assert!(files.file_descriptor_proto.iter().any(|file| holds(file, b"RangeStream")));
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_and_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = started(&folder);
    node.kv().await.put(put("a", "1")).await.unwrap();
    node.kill();
    node.start();
    node.wait_ready(2);
    let mut kv = node.kv().await;
    assert_eq!(&kv.range(get("a")).await.unwrap().into_inner().kvs[0].value[..], b"1");
    kv.put(put("b", "2")).await.unwrap();
    let (_sender, _responses) = watch(&node).await; // An open stream delays nothing.
    let (code, took) = node.terminate();
    assert_eq!(code, Some(143), "{}", node.log());
    assert!(took < Duration::from_millis(1500), "stopping took {took:?}");
    node.start();
    node.wait_ready(3);
    assert_eq!(node.kv().await.range(get("b")).await.unwrap().into_inner().header.unwrap().revision, 3);
}

#[test]
fn command_lines_fail_as_etcds_do() {
    let (code, _, stderr) = run(&["--nope"], &[]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("flag provided but not defined: -nope\nUsage:"), "{stderr}");
    let (code, stdout, _) = run(&["--version"], &[]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("etcd Version: 3.7.1\n"), "{stdout}");
    let (code, stdout, stderr) = run(&["--help"], &[]);
    assert!(code == 0 && stdout.contains("--initial-cluster-token") && stderr.starts_with("Usage:"));
    let (code, _, stderr) = run(&["--election-timeout", "1"], &[]);
    assert!(code == 1 && stderr.contains("failed to verify flags"), "{stderr}");
    let (code, _, stderr) = run(&["--name", "a"], &[("ETCD_NAME", "b")]);
    assert!(code == 1 && stderr.contains("conflicting environment variable"), "{stderr}");
}

#[test]
fn a_port_or_data_directory_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder);
    let (code, _, stderr) = run(&node.flags(), &[]);
    assert!(code == 1 && stderr.contains("bind: Address already in use"), "{stderr}");
    let mut flags = node.flags();
    let (client, peer) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    flags.extend(["--listen-client-urls".to_owned(), client, "--listen-peer-urls".to_owned(), peer]);
    let (code, _, stderr) = run(&flags, &[]);
    assert!(code == 1 && stderr.contains("is in use by another process"), "{stderr}");
}
