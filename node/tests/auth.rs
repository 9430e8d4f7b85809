//! Who may do what, over the wire: every call of every kind of caller, and what becomes of tokens.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::collections::BTreeSet;
use std::pin::Pin;

use process::{Node, cluster, http_get};
use quorate_api::authpb;
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::auth_client::AuthClient;
use quorate_api::etcdserverpb::kv_client::KvClient;
use quorate_api::etcdserverpb::lease_client::LeaseClient;
use quorate_api::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_api::etcdserverpb::watch_client::WatchClient;
use quorate_api::v3electionpb::election_client::ElectionClient;
use quorate_api::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_api::v3lockpb::lock_client::LockClient;
use quorate_api::v3lockpb::{LockRequest, UnlockRequest};
use quorate_node::grpc::METHODS;
use quorate_node::service::Method;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// What a call comes to: gRPC's code and etcd's text.
type Expected = (Code, &'static str);

const OK: Expected = (Code::Ok, "");
const NOBODY: Expected = (Code::InvalidArgument, "etcdserver: user name is empty");
const INVALID: Expected = (Code::Unauthenticated, "etcdserver: invalid auth token");
const DENIED: Expected = (Code::PermissionDenied, "etcdserver: permission denied");
const NO_LEASE: Expected = (Code::NotFound, "etcdserver: requested lease not found");
const FAILED: Expected = (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
const BAD_TRANSFEREE: Expected = (Code::FailedPrecondition, "etcdserver: bad leader transferee");

/// In the order of the columns below: without a token, with a bad one, a user without roles, one who may read `a..c`,
/// one who may write it, root.
const CALLERS: [&str; 6] = ["", "bad", "nothing", "reader", "writer", "root"];

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("token", token.parse().unwrap());
    }
    request
}

fn outcome<T>(result: Result<T, Status>) -> (Code, String) {
    result.map_or_else(|status| (status.code(), status.message().to_owned()), |_| (Code::Ok, String::new()))
}

async fn unary<M: Method>(channel: Channel, token: &str, message: M) -> Result<M::Reply, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<M, M::Reply>::default();
    let path = axum::http::uri::PathAndQuery::from_static(M::PATH);
    client.unary(with(token, message), path, codec).await.map(tonic::Response::into_inner)
}

async fn token(node: &Node, name: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.to_owned(), password: format!("{name}-password") };
    AuthClient::new(node.channel().await).authenticate(request).await.map(|reply| reply.into_inner().token)
}

fn permission(perm_type: authpb::permission::Type, key: &'static str, range_end: &'static str) -> authpb::Permission {
    authpb::Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() }
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Users as in [`CALLERS`], each with the password `<name>-password`; `a` on lease 7; authentication is on.
async fn secured(nodes: &[Node]) {
    let channel = nodes[0].channel().await;
    let mut auth = AuthClient::new(channel.clone());
    for (name, role) in [("root", Some("root")), ("nothing", None), ("reader", Some("r")), ("writer", Some("w"))] {
        let password = format!("{name}-password");
        auth.user_add(pb::AuthUserAddRequest { name: name.into(), password, ..Default::default() }).await.unwrap();
        let Some(role) = role else { continue };
        auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
        auth.user_grant_role(grant).await.unwrap();
    }
    for (role, perm_type) in [("r", authpb::permission::Type::Read), ("w", authpb::permission::Type::Write)] {
        let perm = Some(permission(perm_type, "a", "c"));
        auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: role.into(), perm }).await.unwrap();
    }
    LeaseClient::new(channel.clone()).lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 7 }).await.unwrap();
    KvClient::new(channel).put(pb::PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
}

fn started(folder: &tempfile::TempDir, size: usize) -> Vec<Node> {
    let mut nodes = cluster(folder.path(), size);
    for node in &mut nodes {
        node.flag("--bcrypt-cost", "4");
        node.start();
    }
    nodes.iter_mut().for_each(|node| node.wait_ready(1));
    nodes
}

/// A role is stored in one piece: nobody may make it so large that members cannot.
#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_refused_before_they_are_too_large_to_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 1);
    let mut auth = AuthClient::new(nodes[0].channel().await);
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.unwrap();
    let grant = |key: u8, bytes| pb::AuthRoleGrantPermissionRequest {
        name: "r".into(),
        perm: Some(authpb::Permission { key: vec![key; bytes].into(), ..Default::default() }),
    };
    let too_large = (Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    assert_eq!(outcome(auth.role_grant_permission(grant(1, 1_572_900)).await), too_large, "above --max-request-bytes");
    let long_name = pb::AuthRoleAddRequest { name: "n".repeat(1_572_900) };
    assert_eq!(outcome(auth.role_add(long_name).await), too_large);
    let password = "p".repeat(1_572_900);
    let user = pb::AuthUserAddRequest { name: "u".repeat(1_572_900), password, ..Default::default() };
    assert_eq!(outcome(auth.user_add(user).await).0, Code::ResourceExhausted, "above what gRPC takes");
    let mut outcomes = Vec::new();
    for n in 0..50 {
        outcomes.push(outcome(auth.role_grant_permission(grant(n, 1_500_000)).await));
    }
    let taken = outcomes.iter().take_while(|outcome| outcome.0 == Code::Ok).count();
    assert_eq!(taken, 2);
    assert!(outcomes[taken..].iter().all(|outcome| *outcome == too_large));
    nodes[0].kill();
    nodes[0].start();
    nodes[0].wait_ready(2);
    let role = unary(nodes[0].channel().await, "", pb::AuthRoleGetRequest { role: "r".into() }).await.unwrap();
    assert_eq!(role.perm.len(), taken);
}

/// Makes a call with a token.
type Call = Box<dyn Fn(Channel, String) -> Pin<Box<dyn Future<Output = (Code, String)>>>>;

/// One call and what it comes to for each of [`CALLERS`].
struct Row {
    path: &'static str,
    expected: [Expected; 6],
    call: Call,
}

fn row<M: Method + Clone>(message: M, expected: [Expected; 6]) -> Row {
    let call = move |channel, token: String| {
        let message = message.clone();
        let call = async move { outcome(unary(channel, &token, message).await) };
        Box::pin(call) as Pin<Box<dyn Future<Output = _>>>
    };
    Row { path: M::PATH, expected, call: Box::new(call) }
}

/// For everybody who is somebody.
const ANY_USER: [Expected; 6] = [NOBODY, INVALID, OK, OK, OK, OK];
const ANYBODY: [Expected; 6] = [OK, INVALID, OK, OK, OK, OK];
const READ: [Expected; 6] = [NOBODY, INVALID, DENIED, OK, DENIED, OK];
const WRITE: [Expected; 6] = [NOBODY, INVALID, DENIED, DENIED, OK, OK];
const ROOT: [Expected; 6] = [NOBODY, INVALID, DENIED, DENIED, DENIED, OK];
/// For root, who is told that there is no such member.
const NO_MEMBER: [Expected; 6] =
    [NOBODY, INVALID, DENIED, DENIED, DENIED, (Code::NotFound, "etcdserver: member not found")];
/// There is no user without a name: nobody may look.
const NO_USER: [Expected; 6] = [NOT_FOUND, INVALID, DENIED, DENIED, DENIED, NOT_FOUND];
const NOT_FOUND: Expected = (Code::FailedPrecondition, "etcdserver: user name not found");

fn txn(compare: &'static str, success: Vec<pb::request_op::Request>) -> pb::TxnRequest {
    let compare = pb::Compare { key: compare.into(), ..Default::default() };
    pb::TxnRequest { compare: vec![compare], success: success.into_iter().map(op).collect(), failure: vec![] }
}

/// Every call with one request and one reply. A row that would lock the others out stands at the end.
#[rustfmt::skip]
fn table() -> Vec<Row> {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    let delete = |key: &'static str| pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    let nested = |ops| RequestTxn(pb::TxnRequest { success: ops, ..Default::default() });
    let name = |name: &str| name.to_owned();
    let user = |it: &str| pb::AuthUserGetRequest { name: it.to_owned() };
    let role = |it: &str| pb::AuthRoleGetRequest { role: it.to_owned() };
    vec![
        row(get("a"), READ),
        row(pb::RangeRequest { serializable: true, ..get("a") }, READ),
        row(pb::RangeRequest { range_end: "c".into(), ..get("a") }, READ),
        row(pb::RangeRequest { range_end: "c\0".into(), ..get("a") }, ROOT),
        row(pb::RangeRequest { range_end: "\0".into(), ..get("a") }, ROOT),
        row(pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), count_only: true, ..Default::default() }, ROOT),
        row(put("b", "1"), WRITE),
        row(put("c", "1"), ROOT),
        row(pb::PutRequest { prev_kv: true, ..put("b", "1") }, ROOT),
        row(pb::PutRequest { lease: 7, ..put("b", "1") }, WRITE),
        row(delete("b"), WRITE),
        row(pb::DeleteRangeRequest { prev_kv: true, ..delete("b") }, ROOT),
        row(pb::DeleteRangeRequest { range_end: "\0".into(), ..delete("m") }, ROOT),
        row(txn("a", vec![RequestRange(get("b"))]), READ),
        row(txn("c", vec![RequestRange(get("b"))]), ROOT),
        row(txn("a", vec![RequestPut(put("b", "1"))]), ROOT),
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![RequestPut(put("b", "1"))]) }, WRITE),
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![nested(vec![op(RequestDeleteRange(delete("b")))])]) }, WRITE),
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![nested(vec![op(RequestDeleteRange(delete("c")))])]) }, ROOT),
        // (etcd: CVE-2026-33343, CVE-2026-44283)
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![nested(vec![op(RequestRange(get("z")))])]) }, ROOT),
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![nested(vec![op(RequestPut(pb::PutRequest { prev_kv: true, ..put("b", "1") }))])]) }, ROOT),
        row(pb::TxnRequest::default(), ANYBODY),
        row(pb::TxnRequest { compare: vec![], ..txn("a", vec![nested(vec![])]) }, ANYBODY),
        row(pb::CompactionRequest { revision: 2, physical: false }, ROOT),
        row(pb::LeaseGrantRequest { ttl: 600, id: 0 }, ANY_USER),
        row(pb::LeaseTimeToLiveRequest { id: 7, keys: false }, ANY_USER),
        row(pb::LeaseTimeToLiveRequest { id: 7, keys: true }, READ),
        row(pb::LeaseLeasesRequest {}, READ),
        row(pb::LeaseRevokeRequest { id: 7 }, [NOBODY, INVALID, DENIED, DENIED, OK, NO_LEASE]),
        row(pb::MemberListRequest { linearizable: true }, ANY_USER),
        row(pb::MemberListRequest { linearizable: false }, ANY_USER),
        row(pb::MemberRemoveRequest { id: 1 }, NO_MEMBER),
        row(pb::MemberUpdateRequest { id: 1, peer_ur_ls: vec![name("http://127.0.0.1:1")] }, NO_MEMBER),
        row(pb::MemberPromoteRequest { id: 1 }, NO_MEMBER),
        row(pb::MemberAddRequest { peer_ur_ls: vec![name("http://127.0.0.1:1")], is_learner: true }, ROOT),
        row(pb::StatusRequest {}, ANY_USER),
        row(pb::MoveLeaderRequest { target_id: 1 }, [NOBODY, INVALID, DENIED, DENIED, DENIED, BAD_TRANSFEREE]),
        row(pb::AlarmRequest::default(), ANY_USER),
        row(pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Activate.into(), ..Default::default() }, ROOT),
        row(pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Deactivate.into(), alarm: 1, member_id: 1 }, ROOT),
        row(pb::DefragmentRequest {}, ROOT),
        row(pb::HashRequest {}, ROOT),
        row(pb::HashKvRequest::default(), ROOT),
        row(pb::DowngradeRequest { action: 0, version: name("3.6") }, ROOT),
        row(pb::DowngradeRequest { action: 1, version: name("3.6") }, ROOT),
        row(pb::DowngradeRequest { action: 2, version: String::new() }, ROOT),
        row(pb::AuthStatusRequest {}, [OK, INVALID, OK, OK, OK, OK]),
        row(user(""), NO_USER),
        row(user("reader"), [NOBODY, INVALID, DENIED, OK, DENIED, OK]),
        row(user("root"), ROOT),
        row(role("w"), [NOBODY, INVALID, DENIED, DENIED, OK, OK]),
        row(role("root"), ROOT),
        row(pb::AuthUserListRequest {}, ROOT),
        row(pb::AuthRoleListRequest {}, ROOT),
        row(pb::AuthEnableRequest {}, ROOT),
        row(pb::AuthUserAddRequest { name: name("new"), password: name("p"), ..Default::default() }, ROOT),
        row(pb::AuthRoleAddRequest { name: name("s") }, ROOT),
        row(pb::AuthUserGrantRoleRequest { user: name("new"), role: name("s") }, ROOT),
        row(pb::AuthRoleGrantPermissionRequest { name: name("s"), perm: Some(permission(authpb::permission::Type::Read, "k", "")) }, ROOT),
        row(pb::AuthRoleRevokePermissionRequest { role: name("s"), key: "k".into(), range_end: "".into() }, ROOT),
        row(pb::AuthUserRevokeRoleRequest { name: name("new"), role: name("s") }, ROOT),
        row(pb::AuthUserChangePasswordRequest { name: name("new"), password: name("q"), ..Default::default() }, ROOT),
        row(pb::AuthRoleDeleteRequest { role: name("s") }, ROOT),
        row(pb::AuthUserDeleteRequest { name: name("new") }, ROOT),
        row(pb::AuthDisableRequest {}, ROOT),
    ]
}

/// Calls that [`table`] cannot list, and the test that shows each.
const ELSEWHERE: &[&str] = &[
    "/etcdserverpb.Auth/Authenticate",    // whoever_authenticates_gets_a_token
    "/etcdserverpb.KV/RangeStream",       // streams_are_refused_like_calls
    "/etcdserverpb.Watch/Watch",          // streams_are_refused_like_calls
    "/etcdserverpb.Maintenance/Snapshot", // streams_are_refused_like_calls
    "/etcdserverpb.Lease/LeaseKeepAlive", // streams_are_refused_like_calls
];

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_refused_to_whoever_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(&folder, 1);
    secured(&nodes).await;
    let mut tokens = vec![String::new(), "bad.1".to_owned()];
    for caller in &CALLERS[2..] {
        tokens.push(token(&nodes[0], caller).await.unwrap());
    }
    let channel = nodes[0].channel().await;
    for (n, Row { path, expected, call }) in table().into_iter().enumerate() {
        for ((caller, token), expected) in CALLERS.iter().zip(&tokens).zip(expected) {
            let (code, text) = call(channel.clone(), token.clone()).await;
            assert_eq!((code, text.as_str()), expected, "row {n}, {path} by {caller:?}");
        }
    }
    let listed: BTreeSet<&str> = table().iter().map(|row| row.path).chain(ELSEWHERE.iter().copied()).collect();
    let served: BTreeSet<&str> = METHODS.iter().map(|(path, _)| *path).collect();
    assert_eq!(served.difference(&listed).collect::<Vec<_>>(), Vec::<&&str>::new(), "calls without a row");
    assert_eq!(listed.difference(&served).collect::<Vec<_>>(), Vec::<&&str>::new(), "rows without a call");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_refused_like_calls() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(&folder, 1);
    secured(&nodes).await;
    let channel = nodes[0].channel().await;
    for (column, caller) in CALLERS.into_iter().enumerate() {
        let token = match caller {
            "" => String::new(),
            "bad" => "bad.1".to_owned(),
            user => token(&nodes[0], user).await.unwrap(),
        };
        let check = |what: &str, found: (Code, String), expected: [Expected; 6]| {
            assert_eq!((found.0, found.1.as_str()), expected[column], "{what} by {caller:?}");
        };
        let range = pb::RangeRequest { range_end: "c".into(), ..get("a") };
        let chunks = KvClient::new(channel.clone()).range_stream(with(&token, range)).await;
        let first = match chunks {
            Ok(chunks) => chunks.into_inner().message().await,
            Err(status) => Err(status),
        };
        check("RangeStream", outcome(first), READ);

        let mut maintenance = MaintenanceClient::new(channel.clone());
        let first = match maintenance.snapshot(with(&token, pb::SnapshotRequest {})).await {
            Ok(file) => file.into_inner().message().await,
            Err(status) => Err(status),
        };
        check("Snapshot", outcome(first), ROOT);

        let renewals = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
        let renewed = LeaseClient::new(channel.clone()).lease_keep_alive(with(&token, renewals)).await.unwrap();
        check("LeaseKeepAlive", outcome(renewed.into_inner().message().await), WRITE);

        // A refused watch does not end the stream: the next one may be granted.
        let create = |key: &'static str, range_end: &'static str| pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(pb::WatchCreateRequest {
                key: key.into(),
                range_end: range_end.into(),
                ..Default::default()
            })),
        };
        let (sender, requests) = tokio::sync::mpsc::channel(4);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let replies = WatchClient::new(channel.clone()).watch(with(&token, requests)).await.unwrap();
        let mut replies = replies.into_inner();
        for (key, range_end, expected) in [("a", "\0", ROOT), ("a", "c", READ), ("c", "", ROOT), ("b", "a", READ)] {
            sender.send(create(key, range_end)).await.unwrap();
            let reply = replies.message().await.unwrap().unwrap();
            let (code, text) = expected[column];
            let refused = (code != Code::Ok).then(|| format!("rpc error: code = {code:?} desc = {text}"));
            match refused {
                Some(reason) => {
                    assert_eq!((reply.created, reply.canceled, reply.watch_id), (true, true, -1), "{caller} {reply:?}");
                    assert_eq!(reply.cancel_reason, reason, "watch of {key} by {caller}");
                }
                // Its range has no key, which is refused as that.
                None if range_end == "a" => {
                    assert!(reply.canceled && reply.cancel_reason.contains("empty"), "{reply:?}")
                }
                None => assert!(reply.created && !reply.canceled, "{caller} {reply:?}"),
            }
        }

        // Locks and elections ask for keys of their own: nobody but root may write `lock/..`. etcd asks through its own
        // client library, in which refusals lose their codes.
        let check = |what: &str, found: (Code, String), mut expected: [Expected; 6]| {
            expected.iter_mut().filter(|(code, _)| *code != Code::Ok).for_each(|(code, _)| *code = Code::Unknown);
            check(what, found, expected);
        };
        let mut locks = LockClient::new(channel.clone());
        let lock = locks.lock(with(&token, LockRequest { name: "lock".into(), lease: 0 })).await;
        let key = lock.as_ref().map_or("lock/1".into(), |lock| lock.get_ref().key.clone());
        check("Lock", outcome(lock), ROOT);
        check("Unlock", outcome(locks.unlock(with(&token, UnlockRequest { key })).await), ROOT);
        let mut elections = ElectionClient::new(channel.clone());
        let campaign = CampaignRequest { name: "race".into(), lease: 0, value: "v".into() };
        let campaign = elections.campaign(with(&token, campaign)).await;
        let known = campaign.as_ref().ok().and_then(|won| won.get_ref().leader.clone());
        check("Campaign", outcome(campaign), ROOT);
        let leader =
            Some(known.unwrap_or(LeaderKey { name: "race".into(), key: "race/1".into(), ..Default::default() }));
        let proclaim = ProclaimRequest { leader: leader.clone(), value: "w".into() };
        check("Proclaim", outcome(elections.proclaim(with(&token, proclaim)).await), ROOT);
        let asked = LeaderRequest { name: "race".into() };
        check("Leader", outcome(elections.leader(with(&token, asked.clone())).await), ROOT);
        let observed = elections.observe(with(&token, asked)).await.unwrap().into_inner().message().await;
        check("Observe", outcome(observed), ROOT);
        check("Resign", outcome(elections.resign(with(&token, ResignRequest { leader })).await), ROOT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_authenticates_gets_a_token_that_every_member_takes() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = started(&folder, 3);
    let off = (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned());
    assert_eq!(outcome(token(&nodes[0], "root").await), off);
    // Nobody looks at a token while authentication is off.
    assert_eq!(outcome(unary(nodes[0].channel().await, "bad.1", put("x", "1")).await), (Code::Ok, String::new()));
    secured(&nodes).await;
    assert_eq!(outcome(token(&nodes[1], "ghost").await), (FAILED.0, FAILED.1.to_owned()));
    let wrong = pb::AuthenticateRequest { name: "root".into(), password: "wrong".into() };
    let mut auth = AuthClient::new(nodes[1].channel().await);
    assert_eq!(outcome(auth.authenticate(wrong).await), (FAILED.0, FAILED.1.to_owned()));

    let root = token(&nodes[1], "root").await.unwrap();
    let (secret, index) = root.split_once('.').unwrap();
    assert_eq!(secret.len(), 16);
    index.parse::<u64>().unwrap();
    for node in &nodes {
        unary(node.channel().await, &root, put("z", "1")).await.unwrap();
        unary(node.channel().await, &root, pb::RangeRequest { serializable: true, ..get("z") }).await.unwrap();
        assert!(http_get(node.client_port, "/health").contains(r#""health":"true""#));
        // It begins at 1, and twelve changes were made.
        assert!(http_get(node.client_port, "/metrics").contains("etcd_debugging_auth_revision 13\n"));
    }
    // The other way to send one.
    let mut request = Request::new(get("z"));
    request.metadata_mut().insert("authorization", format!("Bearer {root}").parse().unwrap());
    nodes[2].kv().await.range(request).await.unwrap();

    // A user without a password cannot have a token, and one that is told to have one does not either.
    let options = Some(authpb::UserAddOptions { no_password: true });
    let add =
        pb::AuthUserAddRequest { name: "cn".into(), password: "cn-password".into(), options, ..Default::default() };
    unary(nodes[0].channel().await, &root, add).await.unwrap();
    let text = "auth: authentication failed, password was given for no password user";
    assert_eq!(outcome(token(&nodes[2], "cn").await), (Code::Unknown, text.to_owned()));

    // A new password ends the sessions of the old one, on every member.
    let reader = token(&nodes[0], "reader").await.unwrap();
    unary(nodes[2].channel().await, &reader, get("a")).await.unwrap();
    let password = "another".to_owned();
    let change = pb::AuthUserChangePasswordRequest { name: "reader".into(), password, ..Default::default() };
    unary(nodes[1].channel().await, &root, change).await.unwrap();
    for node in &nodes {
        let refused = outcome(unary(node.channel().await, &reader, get("a")).await);
        assert_eq!(refused, (INVALID.0, INVALID.1.to_owned()));
    }
    assert_eq!(outcome(token(&nodes[0], "reader").await), (FAILED.0, FAILED.1.to_owned()));

    // A restart forgets sessions, not users.
    nodes[1].terminate();
    nodes[1].start();
    nodes[1].wait_ready(2);
    let refused = outcome(unary(nodes[1].channel().await, &root, get("a")).await);
    assert_eq!(refused, (INVALID.0, INVALID.1.to_owned()));
    let again = token(&nodes[1], "root").await.unwrap();
    let status = unary(nodes[1].channel().await, &again, pb::AuthStatusRequest {}).await.unwrap();
    assert!(status.enabled);
    unary(nodes[1].channel().await, &again, get("a")).await.unwrap();
    unary(nodes[0].channel().await, &again, pb::AuthDisableRequest {}).await.unwrap();
    unary(nodes[1].channel().await, "", get("a")).await.unwrap();
}

/// (etcd: issues 8442, 13976) There a change of one role makes requests of others fail that have nothing to do with it.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_roles_do_not_disturb_those_whose_rights_stay() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(&folder, 3);
    secured(&nodes).await;
    let root = token(&nodes[0], "root").await.unwrap();
    let writer = token(&nodes[1], "writer").await.unwrap();
    let channels = [nodes[0].channel().await, nodes[1].channel().await, nodes[2].channel().await];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn({
        let channels = channels.clone();
        async move {
            let mut puts = 0;
            while !*stopped.borrow() {
                unary(channels[puts % 3].clone(), &writer, put("b", "1")).await.unwrap();
                puts += 1;
            }
            puts
        }
    });
    let nothing = token(&nodes[2], "nothing").await.unwrap();
    for round in 0..30 {
        // What was granted by one member is granted on every other from then on; what was taken is taken.
        let grant = pb::AuthUserGrantRoleRequest { user: "nothing".into(), role: "w".into() };
        unary(channels[round % 3].clone(), &root, grant).await.unwrap();
        unary(channels[(round + 1) % 3].clone(), &nothing, put("a", "1")).await.unwrap();
        let revoke = pb::AuthUserRevokeRoleRequest { name: "nothing".into(), role: "w".into() };
        unary(channels[(round + 2) % 3].clone(), &root, revoke).await.unwrap();
        let refused = unary(channels[round % 3].clone(), &nothing, put("a", "1")).await;
        assert_eq!(outcome(refused), (DENIED.0, DENIED.1.to_owned()));
    }
    stop.send(true).unwrap();
    assert!(writing.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_that_runs_out_ends_the_streams_it_opened() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "of nobody else").unwrap();
    let mut nodes = cluster(folder.path(), 1);
    nodes[0].flag("--bcrypt-cost", "4");
    nodes[0].flag("--auth-token", &format!("jwt,sign-method=HS256,priv-key={},ttl=2s", secret.display()));
    nodes[0].start();
    nodes[0].wait_ready(1);
    secured(&nodes).await;
    let token = token(&nodes[0], "writer").await.unwrap();
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    sender.send(pb::LeaseKeepAliveRequest { id: 7 }).await.unwrap();
    let mut leases = LeaseClient::new(nodes[0].channel().await);
    let mut renewed = leases.lease_keep_alive(with(&token, requests)).await.unwrap().into_inner();
    assert_eq!(renewed.message().await.unwrap().unwrap().ttl, 600);
    tokio::time::sleep(std::time::Duration::from_millis(3200)).await; // It is good until a whole second ends.
    sender.send(pb::LeaseKeepAliveRequest { id: 7 }).await.unwrap();
    assert_eq!(outcome(renewed.message().await), (INVALID.0, INVALID.1.to_owned()));
}
