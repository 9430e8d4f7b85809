//! Golden outputs: each kind of response in each format. `UPDATE=1 cargo test` rewrites them; review that as code.

use std::fmt::Write;
use std::path::Path;

use quorate_api::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_api::etcdserverpb::response_op::Response;
use quorate_api::etcdserverpb::*;
use quorate_api::mvccpb::event::EventType;
use quorate_api::mvccpb::{Event, KeyValue};
use quorate_cli::print::*;

fn header() -> Option<ResponseHeader> {
    let (cluster_id, member_id) = (13_455_796_455_940_752_355, 443_629_905_751_424_238);
    Some(ResponseHeader { cluster_id, member_id, revision: 23, raft_term: 2 })
}

fn kv(key: &'static [u8], value: &'static [u8], lease: i64) -> KeyValue {
    KeyValue { key: key.into(), create_revision: 3, mod_revision: 5, version: 2, value: value.into(), lease }
}

fn plain() -> KeyValue {
    kv(b"foo", b"bar", 0)
}

fn odd() -> KeyValue {
    kv(b"k\"<&>", b"line\n\xff\x00end", 0x7fff_f8c7_2531_0040)
}

/// Appends `response` in every format and with both styles, as far as they differ.
fn show(out: &mut String, title: &str, response: &impl Show) {
    let formats = [
        ("simple", Format::Simple),
        ("json", Format::Json),
        ("fields", Format::Fields),
        ("table", Format::Table),
        ("protobuf", Format::Protobuf),
    ];
    for (name, format) in formats {
        let style = Style::default();
        let shown = Printer { format, style }.render(response);
        let hex = Printer { format, style: Style { hex: true, ..style } }.render(response);
        let text = |shown: &quorate_cli::failure::Result<Vec<u8>>| match shown {
            Ok(bytes) if format == Format::Protobuf => format!("{} bytes: {bytes:02x?}\n", bytes.len()),
            Ok(bytes) => bytes.utf8_chunks().fold(String::new(), |text, chunk| {
                text + chunk.valid() + &chunk.invalid().iter().map(|b| format!("<{b:02x}>")).collect::<String>()
            }),
            Err(failure) => format!("exit {}: {}\n", failure.code, failure.message.as_deref().unwrap_or_default()),
        };
        let _ = writeln!(out, "== {title}, {name}\n{}", text(&shown));
        if hex != shown {
            let _ = writeln!(out, "== {title}, {name} --hex\n{}", text(&hex));
        }
    }
}

fn compare(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (e, a)) in expected.lines().zip(actual.lines()).enumerate() {
        assert_eq!(e, a, "{file}, line {}", number + 1);
    }
    assert_eq!(expected, actual, "{file}: one is longer");
}

#[test]
fn keys_and_values() {
    let mut out = String::new();
    let put = PutResponse { header: header(), prev_kv: None };
    show(&mut out, "put", &put);
    show(&mut out, "put --prev-kv", &PutResponse { prev_kv: Some(odd()), ..put.clone() });
    let range = RangeResponse { header: header(), kvs: vec![plain(), odd()], more: true, count: 7 };
    show(&mut out, "get", &range);
    show(&mut out, "get, nothing found", &RangeResponse { header: header(), ..Default::default() });
    let deleted = DeleteRangeResponse { header: header(), deleted: 2, prev_kvs: vec![plain()] };
    show(&mut out, "del --prev-kv", &deleted);
    let inner = Some(ResponseHeader { revision: 23, ..Default::default() });
    let op = |response| ResponseOp { response: Some(response) };
    let txn = TxnResponse {
        header: header(),
        succeeded: true,
        responses: vec![
            op(Response::ResponsePut(PutResponse { header: inner, prev_kv: None })),
            op(Response::ResponseRange(RangeResponse { header: inner, count: 1, kvs: vec![plain()], more: false })),
            op(Response::ResponseDeleteRange(DeleteRangeResponse { header: inner, ..Default::default() })),
        ],
    };
    show(&mut out, "txn", &txn);
    show(&mut out, "txn, failed", &TxnResponse { header: header(), succeeded: false, responses: vec![] });
    compare("kv.txt", &out);
}

#[test]
fn values_alone() {
    let range = RangeResponse { header: header(), kvs: vec![plain(), odd()], more: false, count: 2 };
    let style = Style { value_only: true, hex: false };
    let shown = Printer { format: Format::Simple, style }.render(&range).unwrap();
    assert_eq!(shown, b"bar\nline\n\xff\x00end\n");
}

#[test]
fn events() {
    let mut out = String::new();
    let put = Event { r#type: EventType::Put.into(), kv: Some(plain()), prev_kv: Some(odd()) };
    let gone = KeyValue { key: "foo".into(), mod_revision: 6, ..Default::default() };
    let delete = Event { r#type: EventType::Delete.into(), kv: Some(gone), prev_kv: None };
    let response = WatchResponse { header: header(), events: vec![put, delete], ..Default::default() };
    show(&mut out, "watch", &WatchEvents(response));
    let canceled = WatchResponse {
        header: header(),
        canceled: true,
        compact_revision: 9,
        cancel_reason: "mvcc: required revision has been compacted".to_owned(),
        ..Default::default()
    };
    show(&mut out, "watch, canceled", &WatchEvents(canceled));
    compare("watch.txt", &out);
}

#[test]
fn leases() {
    let mut out = String::new();
    let id = 0x2040_a1f7_f8c7_2531;
    show(&mut out, "lease grant", &LeaseGrantResponse { header: header(), id, ttl: 100, error: String::new() });
    let response = LeaseRevokeResponse { header: header() };
    show(&mut out, "lease revoke", &LeaseRevoked { id: 0x12, response });
    let response = LeaseKeepAliveResponse { header: header(), id, ttl: 100 };
    show(&mut out, "lease keep-alive", &KeepAlive(response));
    let keys = vec!["k1".into(), "k2".into()];
    let response = LeaseTimeToLiveResponse { header: header(), id, ttl: 99, granted_ttl: 100, keys };
    show(&mut out, "lease timetolive --keys", &TimeToLive { keys: true, response: response.clone() });
    let response = LeaseTimeToLiveResponse { keys: vec![], ..response };
    show(&mut out, "lease timetolive", &TimeToLive { keys: false, response: response.clone() });
    let response = LeaseTimeToLiveResponse { ttl: -1, granted_ttl: 0, ..response };
    show(&mut out, "lease timetolive, gone", &TimeToLive { keys: false, response });
    let leases = vec![LeaseStatus { id }, LeaseStatus { id: 1 }];
    show(&mut out, "lease list", &LeaseLeasesResponse { header: header(), leases });
    show(&mut out, "lease list, none", &LeaseLeasesResponse { header: header(), leases: vec![] });
    compare("lease.txt", &out);
}

fn member(id: u64, name: &str, is_learner: bool) -> Member {
    Member {
        id,
        name: name.to_owned(),
        peer_ur_ls: vec![format!("http://127.0.0.1:{}", id % 10_000)],
        client_ur_ls: if name.is_empty() { vec![] } else { vec!["http://a:1".to_owned(), "http://b:2".to_owned()] },
        is_learner,
    }
}

#[test]
fn members() {
    let mut out = String::new();
    let members = vec![member(443_629_905_751_424_238, "n1", false), member(0xa1cc_6280_7fdc_4606, "", true)];
    let header = Some(ResponseHeader { revision: 0, ..header().unwrap() });
    let list = MemberListResponse { header, members: members.clone() };
    show(&mut out, "member list", &list);
    let response = MemberAddResponse { header, member: Some(members[1].clone()), members: members.clone() };
    show(&mut out, "member add", &MemberAdded { name: "n2".to_owned(), response });
    let response = MemberRemoveResponse { header, members: members[..1].to_vec() };
    show(&mut out, "member remove", &MemberRemoved { id: 0xa1cc_6280_7fdc_4606, response });
    let response = MemberUpdateResponse { header, members: vec![] };
    show(&mut out, "member update", &MemberUpdated { id: 0x5, response });
    let response = MemberPromoteResponse { header, members: vec![] };
    show(&mut out, "member promote", &MemberPromoted { id: 0x5, response });
    compare("member.txt", &out);
}

#[test]
fn endpoints() {
    let mut out = String::new();
    let health = |endpoint: &str, error: Option<&str>| Health {
        endpoint: endpoint.to_owned(),
        took: "4.6ms".to_owned(),
        error: error.map(str::to_owned),
    };
    let bad = health("127.0.0.1:2", Some("context deadline exceeded"));
    let complaint = "127.0.0.1:2 is unhealthy: failed to commit proposal: context deadline exceeded";
    assert_eq!(bad.complaint().as_deref(), Some(complaint));
    show(&mut out, "endpoint health", &HealthList(vec![health("127.0.0.1:1", None), bad]));
    let status = StatusResponse {
        header: header(),
        version: "3.7.1".to_owned(),
        db_size: 20_480,
        leader: 443_629_905_751_424_238,
        raft_index: 37,
        raft_term: 2,
        raft_applied_index: 36,
        errors: vec![],
        db_size_in_use: 16_384,
        is_learner: false,
        storage_version: "3.7.0".to_owned(),
        db_size_quota: 2_147_483_648,
        downgrade_info: Some(DowngradeInfo::default()),
    };
    let sick = StatusResponse {
        leader: 5,
        errors: vec!["etcdserver: no leader".to_owned(), "memberID:5 alarm:NOSPACE ".to_owned()],
        is_learner: true,
        downgrade_info: Some(DowngradeInfo { enabled: true, target_version: "3.6".to_owned() }),
        ..status.clone()
    };
    let both = vec![("127.0.0.1:23790".to_owned(), status), ("b:1".to_owned(), sick)];
    show(&mut out, "endpoint status", &Statuses(both));
    let hash = HashKvResponse { header: header(), hash: 3_930_234_371, compact_revision: -1, hash_revision: 23 };
    show(&mut out, "endpoint hashkv", &Hashes(vec![("127.0.0.1:23790".to_owned(), hash)]));
    let alarms = vec![AlarmMember { member_id: 9_265_619_892_315_062_708, alarm: AlarmType::Nospace.into() }];
    show(&mut out, "alarm list", &AlarmResponse { header: header(), alarms });
    show(&mut out, "alarm disarm, none", &AlarmResponse::default());
    let moved = LeaderMoved { from: 0x1f, to: 0xa1cc, response: MoveLeaderResponse::default() };
    show(&mut out, "move-leader", &moved);
    let response = DowngradeResponse { header: header(), version: "3.7".into() };
    show(&mut out, "downgrade enable", &Downgraded { action: DowngradeAction::Enable, response });
    compare("endpoint.txt", &out);
}

#[test]
fn users_and_roles() {
    let mut out = String::new();
    let status = AuthStatusResponse { header: header(), enabled: true, auth_revision: 46 };
    show(&mut out, "auth status", &status);
    let added = AuthUserAddResponse { header: header() };
    show(&mut out, "user add", &Changed::new("User u created".into(), added.header, &added));
    let roles = vec!["r1".to_owned(), "r\"2".to_owned()];
    let user = AuthUserGetResponse { header: header(), roles: roles.clone() };
    show(&mut out, "user get", &User { name: "u".into(), response: user });
    let none = AuthUserGetResponse { header: header(), roles: vec![] };
    show(&mut out, "user get, no roles", &User { name: "u".into(), response: none });
    show(&mut out, "user list", &AuthUserListResponse { header: header(), users: roles.clone() });
    show(&mut out, "role list", &AuthRoleListResponse { header: header(), roles });
    let perm = |perm_type, key: &'static [u8], range_end: &'static [u8]| quorate_api::authpb::Permission {
        perm_type,
        key: key.into(),
        range_end: range_end.into(),
    };
    let perms = vec![
        perm(2, b"", b"\0"),
        perm(1, b"a", b"b"),
        perm(0, b"k1", b""),
        perm(2, b"p/", b"p0"),
        perm(1, b"z", b"\0"),
        perm(1, b"z\xff", b"{"),
        perm(7, b"zz", b"zzz"),
    ];
    let role = AuthRoleGetResponse { header: header(), perm: perms };
    show(&mut out, "role get", &Role { name: "r1".into(), response: role });
    show(&mut out, "role get, nothing", &Role { name: "r1".into(), response: AuthRoleGetResponse::default() });
    compare("auth.txt", &out);
}

#[test]
fn what_is_no_text_is_refused_instead_of_altered() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    let run = |args: &[&std::ffi::OsStr], variable: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quoratectl"));
        let output = command.args(args).env(variable, odd).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["version".as_ref()], "LS_COLORS").0, Some(0));
    let (code, text) = run(&["put".as_ref(), "k".as_ref(), odd], "LS_COLORS");
    assert!(code == Some(128) && text.starts_with(r#"Error: argument 3 is not UTF-8: "\xFF""#), "{text}");
    let (code, text) = run(&["version".as_ref()], "ETCDCTL_USER");
    assert!(code == Some(128) && text.starts_with("Error: ETCDCTL_USER is not UTF-8"), "{text}");
}
