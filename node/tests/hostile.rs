//! What clients may send by mistake or by malice: a clear answer, no more memory than they deserve, and no end of the
//! member.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes};
use process::{Node, cluster, http_get};
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::kv_client::KvClient;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

fn started(folder: &tempfile::TempDir, flags: &[&str]) -> Node {
    let mut node = cluster(folder.path(), 1).remove(0);
    node.add_flags(flags);
    node.start();
    node.wait_ready(1);
    node
}

/// Messages as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

/// Sends `message` to the call at `path`; the reply's bytes or the refusal.
async fn raw(node: &Node, path: &'static str, message: impl Into<Bytes>) -> Result<Bytes, (Code, String)> {
    let mut grpc = Grpc::new(node.channel().await);
    grpc.ready().await.unwrap();
    let path = axum::http::uri::PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(message.into()), path, Raw).await;
    answer.map(tonic::Response::into_inner).map_err(|status| (status.code(), status.message().to_owned()))
}

/// Still there, and no promise was broken on the way.
async fn still_serves(node: &Node) {
    node.kv().await.put(pb::PutRequest { key: "after".into(), ..Default::default() }).await.unwrap();
    assert!(!node.log().contains("a promise of the code is broken"), "{}", node.log());
}

/// `levels` txns within each other.
fn nested(levels: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for level in 0..2 * levels {
        // TxnRequest.success is field 2, RequestOp.request_txn field 4.
        let mut outer = vec![if level % 2 == 0 { 4 << 3 | 2 } else { 2 << 3 | 2 }];
        prost::encoding::encode_varint(message.len() as u64, &mut outer);
        outer.extend(&message);
        message = outer;
    }
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_are_refused() {
    const RANGE: &str = "/etcdserverpb.KV/Range";
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let range = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
    for (what, path, message) in [
        ("a truncated field", RANGE, range[..range.len() - 1].to_vec()),
        ("a length without end", RANGE, vec![10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("an unknown wire type", RANGE, vec![15]),
        ("the field number 0", RANGE, vec![0, 0]),
        ("a number of eleven bytes", RANGE, [&[24][..], &[0xff; 11]].concat()),
        ("a name that is no UTF-8", "/etcdserverpb.Auth/Authenticate", vec![10, 2, 0xff, 0xfe]),
        ("txns nested very deeply", "/etcdserverpb.KV/Txn", nested(2000)),
    ] {
        let (code, text) = raw(&node, path, message).await.expect_err(what);
        assert_eq!(code, Code::Internal, "{what}: {text}");
        assert!(text.starts_with("grpc: error unmarshalling request: "), "{what}: {text}");
    }
    // Fields of later versions are passed over; so is what a field says twice.
    let later = [&range[..], &[0xfa, 0x3e, 1, 7], &range[..]].concat();
    raw(&node, RANGE, later).await.unwrap();
    raw(&node, "/etcdserverpb.KV/Txn", nested(40)).await.unwrap();
    let (code, text) = raw(&node, "/etcdserverpb.KV/Nope", range).await.unwrap_err();
    assert_eq!((code, text.as_str()), (Code::Unimplemented, "unknown method Nope for service etcdserverpb.KV"));
    still_serves(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range_are_taken_as_etcd_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let mut kv = node.kv().await;
    kv.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
    for odd in [
        pb::RangeRequest { revision: i64::MIN, ..range.clone() },
        pb::RangeRequest { limit: i64::MAX, ..range.clone() },
        pb::RangeRequest { min_mod_revision: i64::MIN, max_create_revision: i64::MAX, ..range.clone() },
    ] {
        assert_eq!(kv.range(odd.clone()).await.unwrap().get_ref().count, 1, "{odd:?}");
    }
    for (odd, code) in [
        (pb::RangeRequest { revision: i64::MAX, ..range.clone() }, Code::OutOfRange),
        (pb::RangeRequest { sort_order: 77, ..range.clone() }, Code::InvalidArgument),
        (pb::RangeRequest { sort_target: i32::MIN, ..range }, Code::InvalidArgument),
    ] {
        assert_eq!(kv.range(odd.clone()).await.unwrap_err().code(), code, "{odd:?}");
    }
    for revision in [i64::MIN, -1, i64::MAX] {
        kv.compact(pb::CompactionRequest { revision, physical: false }).await.unwrap_err();
    }
    let mut lease = LeaseClient::new(node.channel().await);
    for (ttl, id) in [(i64::MIN, 1), (0, i64::MIN), (9_000_000_000, -1)] {
        let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl, id }).await.unwrap().into_inner();
        assert!(granted.ttl > 0 && granted.id == id, "{granted:?}");
    }
    let refused = lease.lease_grant(pb::LeaseGrantRequest { ttl: i64::MAX, id: 9 }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, "etcdserver: too large lease TTL"));
    still_serves(&node).await;
}

fn create(key: &'static str, watch_id: i64) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), watch_id, ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// What a client takes without reading.
const CLIENT_WINDOW_BYTES: u32 = 65_535;

/// A watch stream whose client may send `ahead` requests that nobody takes.
async fn watch(node: &Node, ahead: usize) -> (mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>) {
    let (sender, requests) = mpsc::channel(ahead);
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", node.client_port)).unwrap();
    let channel = endpoint.initial_stream_window_size(CLIENT_WINDOW_BYTES).connect().await.unwrap();
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    (sender, client.watch(ReceiverStream::new(requests)).await.unwrap().into_inner())
}

/// The value of the metric whose line begins with `name` and contains `label`.
fn metric(node: &Node, name: &str, label: &str) -> u64 {
    let metrics = http_get(node.client_port, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(label));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
}

/// How many calls of `method` ended with `code`.
fn handled(node: &Node, code: &str, method: &str) -> u64 {
    metric(node, "grpc_server_handled_total", &format!("grpc_code=\"{code}\",grpc_method=\"{method}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_may_have_thousands_of_watchers() {
    const WATCHERS: i64 = 5000;
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let (sender, mut responses) = watch(&node, 8).await;
    let requests = tokio::spawn(async move {
        for id in 1..=WATCHERS {
            sender.send(create("k", id)).await.unwrap();
        }
        sender
    });
    for id in 1..=WATCHERS {
        let created = responses.message().await.unwrap().unwrap();
        assert!(created.created && created.watch_id == id, "{created:?}");
    }
    node.kv().await.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..WATCHERS {
        let event = responses.message().await.unwrap().unwrap();
        assert!(event.events.len() == 1 && told.insert(event.watch_id), "{event:?}");
    }
    // Closing the requests' side ends no watcher.
    drop(requests.await.unwrap());
    node.kv().await.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    assert_eq!(responses.message().await.unwrap().unwrap().events.len(), 1);
    drop(responses);
    still_serves(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_without_reading_is_not_listened_to() {
    const REQUESTS: i64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let (sender, mut responses) = watch(&node, REQUESTS as usize).await;
    for id in 1..=REQUESTS {
        sender.send(create("k", id)).await.unwrap();
    }
    // What was taken stands in buffers of known sizes: the client's window, what the connection is ahead, and
    // BACKLOG_MAX responses.
    let mut taken = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = metric(&node, "grpc_server_msg_received_total", "grpc_method=\"Watch\"");
        if now == taken && now > 0 {
            break;
        }
        taken = now;
    }
    assert!(taken < 10_000, "{taken} requests were taken from a client that reads nothing");
    for id in 1..=REQUESTS {
        assert_eq!(responses.message().await.unwrap().unwrap().watch_id, id, "nothing is lost by that");
    }
}

/// Of one MiB each.
const SLOW_WRITES: u8 = 200;

/// Writes 200 MiB under one key while `watchers` watch it without reading; the server's peak of memory, and the streams.
async fn memory_with(watchers: usize) -> (u64, Vec<tonic::Streaming<pb::WatchResponse>>, Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &["--quota-backend-bytes=-1"]);
    let mut streams = Vec::new();
    for _ in 0..watchers {
        let (sender, mut responses) = watch(&node, 8).await;
        sender.send(create("k", 1)).await.unwrap();
        assert!(responses.message().await.unwrap().unwrap().created);
        streams.push(responses);
    }
    let mut kv = node.kv().await;
    for n in 0..SLOW_WRITES {
        let put = pb::PutRequest { key: "k".into(), value: vec![n; 1 << 20].into(), ..Default::default() };
        kv.put(put).await.unwrap();
    }
    (node.memory_peak(), streams, node, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_cost_bounded_memory_and_miss_nothing() {
    let (alone, ..) = memory_with(0).await;
    let (watched, streams, _node, _folder) = memory_with(2).await;
    // Each stream may hold 16 MiB of events and some encoded replies; both together were seen to cost 60 to 110 MiB.
    // Unbounded it is 400 MiB, whatever else the two servers' peaks differ by.
    let cost = watched.saturating_sub(alone) >> 20;
    eprintln!("peak {} MiB alone, {} MiB with slow watchers", alone >> 20, watched >> 20);
    assert!(cost < 200, "slow watchers cost {cost} MiB");
    for mut stream in streams {
        let mut seen = Vec::new();
        while seen.len() < usize::from(SLOW_WRITES) {
            let response = stream.message().await.unwrap().unwrap();
            seen.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().value[0]));
        }
        assert!(seen.iter().copied().eq(0..SLOW_WRITES), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_refuse_what_is_too_large_or_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let (sender, mut responses) = watch(&node, 8).await;
    let large = pb::WatchCreateRequest { key: vec![7; 3 << 20].into(), ..Default::default() };
    let large = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(large)) };
    let bytes = large.encoded_len();
    sender.send(large).await.unwrap();
    let refused = responses.message().await.unwrap_err();
    let text = format!("grpc: received message larger than max ({bytes} vs. 2097152)");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text.as_str()));

    for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        let mut grpc = Grpc::new(node.channel().await);
        grpc.ready().await.unwrap();
        let path = axum::http::uri::PathAndQuery::from_static(path);
        let requests = tokio_stream::once(Bytes::from_static(&[8]));
        let answer = grpc.streaming(Request::new(requests), path.clone(), Raw).await;
        let refused = answer.unwrap().into_inner().message().await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{path}: {refused:?}");
        assert!(refused.message().starts_with("grpc: error unmarshalling request: "), "{path}: {refused:?}");
    }
    // A client that has nothing to renew any more.
    let mut lease = LeaseClient::new(node.channel().await);
    let mut renewals = lease.lease_keep_alive(tokio_stream::empty()).await.unwrap().into_inner();
    assert!(renewals.message().await.unwrap().is_none());
    still_serves(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_end_their_own_connection_only() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let huge = [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 70_000]].concat();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    for (what, bytes, answer) in [
        ("noise", vec![0xa5; 4096], &b""[..]),
        ("noise in HTTP/2", [PREFACE, &[0xa5; 4096]].concat(), b""),
        ("a frame of 16 MiB", [PREFACE, &settings, &huge].concat(), b"\0\0\0\x06"),
        ("pings without pause", [PREFACE, &settings, &ping.repeat(5)].concat(), b"too_many_pings"),
    ] {
        for port in [node.client_port, node.peer_port] {
            if port == node.peer_port && answer == b"too_many_pings" {
                continue; // Members may ping each other as they like.
            }
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let _ = stream.write_all(&bytes); // It may be over before all was sent.
            let mut heard = Vec::new();
            match stream.read_to_end(&mut heard) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("{what}: the connection stays open: {error}"),
            }
            let found = answer.is_empty() || heard.windows(answer.len()).any(|it| it == answer);
            assert!(found, "{what}: {heard:?}");
        }
    }
    still_serves(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_the_files_that_the_log_needs() {
    const FILES: u32 = 172;
    let folder = tempfile::tempdir().unwrap();
    let mut node = cluster(folder.path(), 1).remove(0);
    node.limit_files(Some(FILES));
    node.start();
    node.wait_ready(1);
    let mut kv = node.kv().await;
    // More than files, and fewer than the system lets wait to be accepted.
    let idle: Vec<TcpStream> = (0..155).map(|_| TcpStream::connect(("127.0.0.1", node.client_port)).unwrap()).collect();
    let until = Instant::now() + Duration::from_secs(10);
    while !node.log().contains("too many connections") {
        assert!(Instant::now() < until, "{} files are open: {}", node.open_files(), node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Several segments of the log, and tables.
    for n in 0..150 {
        let put = pb::PutRequest { key: vec![n].into(), value: vec![n; 1 << 20].into(), ..Default::default() };
        kv.put(put).await.unwrap();
    }
    let segments = std::fs::read_dir(node.data_dir().join("member/wal")).unwrap().count();
    assert!(segments > 2, "{segments} files: the log did not need another one");
    // Who comes now waits, and is served once others have gone.
    let mut late = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
    late.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late.read(&mut [0]).is_err(), "more connections than there are places");
    drop(idle);
    late.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    still_serves(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_by_its_deadline_on_the_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let mut lease = LeaseClient::new(node.channel().await);
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 1 }).await.unwrap();
    let mut grpc = Grpc::new(node.channel().await);
    grpc.ready().await.unwrap();
    let path = axum::http::uri::PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    // In the metadata alone: the client itself would wait for ever.
    let mut request = Request::new(tokio_stream::pending::<Bytes>());
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let began = Instant::now();
    let mut answer = grpc.streaming(request, path, Raw).await.unwrap().into_inner();
    let ended = answer.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::DeadlineExceeded, "context deadline exceeded"));
    assert!(began.elapsed() >= Duration::from_millis(300));
    let until = Instant::now() + Duration::from_secs(10);
    while metric(&node, "etcd_debugging_mvcc_watch_stream_total", "") > 0 {
        assert!(Instant::now() < until, "the stream outlives its deadline");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(handled(&node, "DeadlineExceeded", "Watch"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_leader_is_told_when_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(folder.path(), 3);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    fn led<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        request
    }
    let channel = nodes[0].channel().await;
    let (sender, requests) = mpsc::channel(8);
    sender.send(create("k", 1)).await.unwrap();
    let mut watcher = WatchClient::new(channel.clone());
    let mut watching = watcher.watch(led(ReceiverStream::new(requests))).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().unwrap().created);
    let (_renew, renewals) = mpsc::channel::<pb::LeaseKeepAliveRequest>(8);
    let mut lease = LeaseClient::new(channel.clone());
    let mut renewing = lease.lease_keep_alive(led(ReceiverStream::new(renewals))).await.unwrap().into_inner();
    let (_patient, mut patient) = watch(&nodes[0], 8).await;

    nodes[1].kill();
    nodes[2].kill();
    let lost = (Code::Unavailable, "etcdserver: no leader".to_owned());
    let of = |status: Status| (status.code(), status.message().to_owned());
    assert_eq!(of(watching.message().await.unwrap_err()), lost);
    assert_eq!(of(renewing.message().await.unwrap_err()), lost);
    let mut kv = KvClient::new(channel);
    let range = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    assert_eq!(of(kv.range(led(range.clone())).await.unwrap_err()), lost);
    kv.range(range).await.unwrap();
    // What is refused or given up is counted too.
    let before = handled(&nodes[0], "Unavailable", "Watch");
    let refused = watcher.watch(led(tokio_stream::pending())).await.unwrap_err();
    assert_eq!((of(refused), handled(&nodes[0], "Unavailable", "Watch")), (lost, before + 1));
    let put = pb::PutRequest { key: "k".into(), ..Default::default() };
    let given_up = tokio::time::timeout(Duration::from_millis(300), kv.put(put)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let until = Instant::now() + Duration::from_secs(10);
    while handled(&nodes[0], "Canceled", "Put") == 0 {
        assert!(Instant::now() < until, "a call that was given up is not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let silent = tokio::time::timeout(Duration::from_millis(200), patient.message()).await;
    assert!(silent.is_err(), "who did not ask for a leader goes on waiting: {silent:?}");
}
