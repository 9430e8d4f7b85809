//! The API as JSON, over the plain HTTP of a real member.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use process::{Node, cluster};

fn started(folder: &tempfile::TempDir, flags: &[&str]) -> Node {
    let mut node = cluster(folder.path(), 1).remove(0);
    node.add_flags(flags);
    node.start();
    node.wait_ready(1);
    node
}

/// A connection on which `request` line, headers and `body` were sent.
fn send(node: &Node, request: &str, headers: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}").unwrap();
    BufReader::new(stream)
}

/// The answer's status and headers.
fn head(stream: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "the answer ended within its head: {head}");
    }
    (head[9..12].parse().unwrap(), head.to_lowercase())
}

/// POSTs `body`; the status and the whole answer, with what differs from run to run masked.
fn post(node: &Node, path: &str, body: &str) -> (u16, String) {
    let mut stream = send(node, &format!("POST {path}"), "Connection: close\r\n", body);
    let (status, head) = head(&mut stream);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (status, masked(&if head.contains("transfer-encoding: chunked") { joined(&answer) } else { answer }))
}

/// What chunks carry.
fn joined(mut chunks: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
        text.push_str(chunk);
        chunks = rest.strip_prefix("\r\n").unwrap();
    }
    text
}

/// Without the parts of headers that are random.
fn masked(answer: &str) -> String {
    let mut text = answer.to_owned();
    for name in ["cluster_id", "member_id"] {
        let quoted = format!("\"{name}\":\"");
        while let Some(at) = text.find(&quoted) {
            let value = at + quoted.len();
            let end = value + text[value..].find('"').unwrap();
            text.replace_range(at..end + 2, "");
        }
    }
    text
}

#[test]
fn calls_are_answered_by_protobufs_rules_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let header = |revision: u32| format!(r#"{{"header":{{"revision":"{revision}","raft_term":"1"}}"#);
    for (path, body, status, answer) in [
        ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#, 200, header(2) + "}"),
        // Either spelling of names, numbers as numbers, unknown fields and enum names.
        (
            "kv/put",
            r#"{"key":"Zm9v","value":"eA==","prevKv":true,"lease":0,"nope":[1,{}]}"#,
            200,
            header(3)
                + r#","prev_kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}}"#,
        ),
        (
            "kv/range",
            r#"{"key":"Zm9v"}"#,
            200,
            header(3)
                + r#","kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"eA=="}],"count":"1"}"#,
        ),
        (
            "kv/range",
            r#"{"key":"Zm9v","count_only":true,"sort_order":"DESCEND","sort_target":2} trailing"#,
            200,
            header(3) + r#","count":"1"}"#,
        ),
        (
            "kv/txn",
            r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"EQUAL","version":"2"}],
            "success":[{"request_put":{"key":"Zm9v","value":"eQ=="}},{"requestRange":{"key":"Zm9v"}}]}"#,
            200,
            header(4)
                + r#","succeeded":true,"responses":[{"response_put":{"header":{"revision":"4"}}},{"response_range":{"header":{"revision":"4"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"4","version":"3","value":"eQ=="}],"count":"1"}}]}"#,
        ),
        ("lease/grant", r#"{"TTL":60,"ID":"7"}"#, 200, header(4) + r#","ID":"7","TTL":"60"}"#),
        ("kv/lease/leases", "", 200, header(4) + r#","leases":[{"ID":"7"}]}"#),
        (
            "lease/keepalive",
            r#"{"ID":7}{"ID":"7"}"#,
            200,
            (r#"{"result":"#.to_owned() + &header(4) + r#","ID":"7","TTL":"60"}}"# + "\n").repeat(2),
        ),
        ("lease/revoke", r#"{"ID":7}"#, 200, header(4) + "}"),
        ("kv/deleterange", r#"{"key":"Zm9v"}"#, 200, header(5) + r#","deleted":"1"}"#),
        ("election/leader", r#"{"name":"Zm9v"}"#, 500, r#"{"code":2,"message":"election: no leader"}"#.to_owned()),
        ("kv/put", "{}", 400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#.to_owned()),
        (
            "kv/range",
            r#"{"key":"Zm9v","revision":99}"#,
            400,
            r#"{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#.to_owned(),
        ),
        (
            "lease/revoke",
            r#"{"ID":7}"#,
            404,
            r#"{"code":5,"message":"etcdserver: requested lease not found"}"#.to_owned(),
        ),
        ("nope", "{}", 404, r#"{"code":5,"message":"Not Found"}"#.to_owned()),
    ] {
        assert_eq!(post(&node, &format!("/v3/{path}"), body), (status, answer), "{path} {body}");
    }
    // The older prefix.
    assert_eq!(post(&node, "/v3beta/kv/range", r#"{"key":"Zm9v"}"#), (200, header(5) + "}"));
    for bad in [r#"{"key":"%%"}"#, "{", "[]", r#"{"key":1}"#, r#"{"limit":"x"}"#, "\"\\ud800\""] {
        let (status, answer) = post(&node, "/v3/kv/range", bad);
        assert!(
            status == 400 && answer.starts_with(r#"{"code":3,"message":"proto: (line 1:"#),
            "{bad}: {status} {answer}"
        );
    }
    // Deeper than any stack, in what is known and in what is passed over.
    for deep in [r#"{"success":[{"request_txn":"#, r#"{"nope":["#] {
        let (status, answer) = post(&node, "/v3/kv/txn", &deep.repeat(100_000));
        assert!(status == 400 && answer.starts_with(r#"{"code":3,"message":"proto: (line 1:"#), "{status} {answer}");
    }
    let mut get = send(&node, "GET /v3/kv/range", "", "");
    assert_eq!(head(&mut get).0, 501);
    let big = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "A".repeat(3 << 20));
    let (status, answer) = post(&node, "/v3/kv/put", &big);
    assert_eq!(status, 429);
    assert_eq!(answer, r#"{"code":8,"message":"grpc: received message larger than max (2359306 vs. 2097152)"}"#);
    let big = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "A".repeat(9 << 20));
    assert_eq!(post(&node, "/v3/kv/put", &big).0, 429, "refused before all of it is taken in");
}

#[test]
fn a_watch_goes_on_line_by_line_until_the_client_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    let create = r#"{"create_request":{"key":"Zm9v"}}"#;
    let mut watch = send(&node, "POST /v3/watch", "", create);
    let (status, head) = head(&mut watch);
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    let mut next = || {
        let mut line = String::new();
        while !line.ends_with("}\n") {
            line.clear(); // The chunks' lengths.
            watch.read_line(&mut line).unwrap();
        }
        masked(&line)
    };
    assert_eq!(next(), "{\"result\":{\"header\":{\"revision\":\"1\",\"raft_term\":\"1\"},\"created\":true}}\n");
    assert_eq!(post(&node, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).0, 200);
    assert_eq!(
        next(),
        "{\"result\":{\"header\":{\"revision\":\"2\",\"raft_term\":\"1\"},\"events\":[{\"kv\":{\"key\":\"Zm9v\",\
         \"create_revision\":\"2\",\"mod_revision\":\"2\",\"version\":\"1\",\"value\":\"YmFy\"}}]}}\n"
    );
    assert_eq!(post(&node, "/v3/kv/deleterange", r#"{"key":"Zm9v"}"#).0, 200);
    assert!(next().contains(r#""events":[{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"3"}}]"#));
    let streams = || process::http_get(node.client_port, "/metrics");
    assert!(streams().contains("etcd_debugging_mvcc_watch_stream_total 1"), "{}", streams());
    drop(watch);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !streams().contains("etcd_debugging_mvcc_watch_stream_total 0") {
        assert!(std::time::Instant::now() < until, "a watch outlives its client");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, answer) = post(&node, "/v3/watch", "nonsense");
    assert!(status == 400 && answer.starts_with(r#"{"code":3,"#), "{status} {answer}");
}

#[test]
fn metadata_and_deadlines_travel_along() {
    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &[]);
    assert_eq!(post(&node, "/v3/lease/grant", r#"{"TTL":60,"ID":1}"#).0, 200);
    assert_eq!(post(&node, "/v3/lease/grant", r#"{"TTL":60,"ID":2}"#).0, 200);
    assert_eq!(post(&node, "/v3/lock/lock", r#"{"name":"bA==","lease":1}"#).0, 200);
    let headers = "Grpc-Timeout: 200m\r\nGrpc-Metadata-HasLeader: true\r\nConnection: close\r\n";
    let mut second = send(&node, "POST /v3/lock/lock", headers, r#"{"name":"bA==","lease":2}"#);
    let (status, _) = head(&mut second);
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert_eq!((status, answer.as_str()), (504, r#"{"code":4,"message":"context deadline exceeded"}"#));
}

#[test]
fn browsers_are_let_in_as_the_flags_say() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--cors", "http://good.example,http://fine.example", "--host-whitelist", "localhost"];
    let node = started(&folder, &flags);
    let call = |request: &str, headers: &str| head(&mut send(&node, request, headers, ""));
    let (status, head) = call("OPTIONS /v3/kv/range", "Origin: http://good.example\r\n");
    assert!(status == 200 && head.contains("access-control-allow-origin: http://good.example"), "{head}");
    assert!(head.contains("access-control-allow-methods: post, get, options, put, delete"), "{head}");
    let (status, head) = call("GET /health", "Origin: http://evil.example\r\n");
    assert!(status == 200 && !head.contains("access-control"), "{head}");
    let stream = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
    write!(&stream, "GET /version HTTP/1.1\r\nHost: rebound.example:2379\r\n\r\n").unwrap();
    assert_eq!(self::head(&mut BufReader::new(stream)).0, 421);
    // A page can send whatever bytes it likes: no way round leads to gRPC.
    for content_type in ["application/grpc", "text/plain"] {
        let stream = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
        let headers = format!("Host: rebound.example:2379\r\nContent-Type: {content_type}\r\nContent-Length: 8");
        write!(&stream, "POST /etcdserverpb.KV/Range HTTP/1.1\r\n{headers}\r\n\r\n\0\0\0\0\x03\n\x01k").unwrap();
        assert_eq!(self::head(&mut BufReader::new(stream)).0, 421, "{content_type}");
        let headers = format!("Content-Type: {content_type}\r\n");
        let mut stream = send(&node, "POST /etcdserverpb.KV/Range", &headers, "\0\0\0\0\x03\n\x01k");
        assert_eq!(self::head(&mut stream).0, 404, "{content_type}");
    }

    let folder = tempfile::tempdir().unwrap();
    let node = started(&folder, &["--enable-grpc-gateway=false"]);
    assert_eq!(post(&node, "/v3/kv/range", "{}"), (404, "404 page not found\n".to_owned()));
    let (_, head) = self::head(&mut send(&node, "GET /health", "", ""));
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
}
