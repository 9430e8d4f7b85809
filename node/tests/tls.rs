//! TLS on both ports: who is let in, who is not, and what the tools say.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::{Node, cluster_of, free_port, http_get, joiner_of, real_etcd, run};
use quorate_api::authpb::UserAddOptions;
use quorate_api::etcdserverpb as pb;
use quorate_api::etcdserverpb::auth_client::AuthClient;
use quorate_api::etcdserverpb::cluster_client::ClusterClient;
use quorate_api::etcdserverpb::kv_client::KvClient;
use quorate_api::quorate::peer::v1::peer_client::PeerClient;
use quorate_tls::{Connector, Files, Trust, Versions};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tonic::transport::{Channel, Endpoint};

/// A certificate authority with a folder of its own.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// A certificate for 127.0.0.1 that serves and connects, in files named for its owner.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, key_file) = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Files { cert: Some(cert), key: Some(key_file), trusted_ca: Some(self.folder.join("ca.pem")) }
    }
}

/// The flags that make `files` those of the port that `prefix` names.
fn flags(prefix: &'static str, files: &Files, client_auth: bool) -> Vec<(&'static str, String)> {
    let [cert, key, ca, auth] = match prefix {
        "" => ["--cert-file", "--key-file", "--trusted-ca-file", "--client-cert-auth"],
        _ => ["--peer-cert-file", "--peer-key-file", "--peer-trusted-ca-file", "--peer-client-cert-auth"],
    };
    let text = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    let mut flags = vec![(cert, text(&files.cert)), (key, text(&files.key))];
    if client_auth {
        flags.extend([(ca, text(&files.trusted_ca)), (auth, String::new())]);
    }
    flags
}

fn connector(files: &Files) -> Connector {
    Connector::new(files, Trust::Verified, Versions::Tls12, Versions::Tls13).unwrap()
}

fn endpoint(scheme: &str, port: u16) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("{scheme}://127.0.0.1:{port}")).unwrap();
    endpoint.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(10))
}

/// Puts a key through a connection made with `connector`; the error's whole chain as text.
async fn put(node: &Node, connector: Connector) -> Result<(), String> {
    let channel: Channel =
        endpoint("https", node.client_port).connect_with_connector(connector).await.map_err(|it| format!("{it:?}"))?;
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    KvClient::new(channel).put(put).await.map(drop).map_err(|status| format!("{status:?}"))
}

/// Waits until the log says that a connection to `port` was rejected for `reason`.
async fn rejected(node: &Node, port: u16, reason: &str) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    let port = format!(":{port}\"");
    let is_it = |line: &str| ["rejected connection", reason, &port].iter().all(|part| line.contains(part));
    while !node.log().lines().any(is_it) {
        assert!(std::time::Instant::now() < until, "{reason}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_serve_and_talk_by_mutual_tls_and_let_nobody_else_in() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let server = ours.sign("server", |_| {});
    let more = [flags("", &server, true), flags("peer-", &server, true)].concat();
    let mut nodes = cluster_of(folder.path(), 3, "https", &more);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| node.wait_ready(1));

    let client = ours.sign("client", |_| {});
    put(&nodes[0], connector(&client)).await.unwrap();
    let channel = endpoint("https", nodes[1].client_port).connect_with_connector(connector(&client)).await.unwrap();
    let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(KvClient::new(channel).range(range).await.unwrap().get_ref().count, 1, "peers replicate over TLS");

    let ca_only = Files { trusted_ca: server.trusted_ca.clone(), ..Files::default() };
    let stranger = Files { trusted_ca: server.trusted_ca.clone(), ..theirs.sign("stranger", |_| {}) };
    let expired = ours.sign("expired", |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    });
    let serves_only = ours.sign("serves", |params| params.extended_key_usages.truncate(1));
    // What the client learns depends on who is faster; the server's log has the reason.
    for (files, reason) in [
        (&ca_only, "peer sent no certificates"),
        (&stranger, "invalid peer certificate: UnknownIssuer"),
        (&expired, "invalid peer certificate: certificate expired"),
        (&serves_only, "invalid peer certificate: certificate does not allow extended key usage"),
    ] {
        put(&nodes[0], connector(files)).await.unwrap_err();
        rejected(&nodes[0], nodes[0].client_port, reason).await;
        let channel = endpoint("https", nodes[0].peer_port).connect_with_connector(connector(files)).await;
        let answer = match channel {
            Ok(channel) => PeerClient::new(channel).exchange(tokio_stream::empty()).await.map(drop),
            Err(error) => Err(tonic::Status::unknown(format!("{error:?}"))),
        };
        answer.unwrap_err();
        rejected(&nodes[0], nodes[0].peer_port, reason).await;
    }
    // The client's own check of the server.
    let misled = Files { trusted_ca: Some(theirs.folder.join("ca.pem")), ..client.clone() };
    let error = put(&nodes[0], connector(&misled)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let careless = Connector::new(&client, Trust::Anyone, Versions::Tls12, Versions::Tls12).unwrap();
    put(&nodes[0], careless).await.unwrap();

    // Plain HTTP to an https port ends at once and disturbs nobody.
    let mut plain = TcpStream::connect(("127.0.0.1", nodes[0].client_port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer); // A reset is an end too.
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(nodes[0].log().contains("rejected connection"), "{}", nodes[0].log());
    put(&nodes[0], connector(&client)).await.unwrap();

    etcdctl_works(&nodes, &ours, &client);
}

/// etcdctl's flags for TLS, where there is an etcdctl.
fn etcdctl_works(nodes: &[Node], ours: &Authority, client: &Files) {
    let Some(etcdctl) = real_etcd("etcdctl") else {
        assert!(std::env::var_os("QUORATE_CI").is_none(), "skipped: no etcdctl in QUORATE_ETCD");
        return eprintln!("skipped: no etcdctl in QUORATE_ETCD");
    };
    let endpoints = nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect::<Vec<_>>().join(",");
    let text = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    let ca = ours.folder.join("ca.pem").display().to_string();
    let call = |args: &[&str]| {
        let output = Command::new(&etcdctl).args(["--endpoints", &endpoints]).args(args).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    // On a busy machine even what works takes its time.
    let patient = ["--command-timeout", "30s"];
    let known = ["--cacert", &ca, "--cert", &text(&client.cert), "--key", &text(&client.key)];
    let (done, stdout, stderr) = call(&[&known[..], &patient, &["put", "tool", "works"]].concat());
    assert!(done && stdout == "OK\n", "{stdout}{stderr}");
    let (_, stdout, stderr) = call(&[&known[..], &patient, &["get", "tool", "--print-value-only"]].concat());
    assert_eq!(stdout, "works\n", "{stderr}");
    let careless = ["--insecure-skip-tls-verify", known[2], known[3], known[4], known[5]];
    assert!(call(&[&careless[..], &patient, &["get", "tool"]].concat()).0);
    for refused in [&known[..2], &["--insecure-transport=false"], &[]] {
        assert!(!call(&[refused, &["--command-timeout", "2s", "get", "tool"]].concat()).0, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_by_mutual_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = ours.sign("server", |_| {});
    let more = [flags("", &server, true), flags("peer-", &server, true)].concat();
    let mut first = cluster_of(folder.path(), 1, "https", &more).remove(0);
    first.start();
    first.wait_ready(1);
    let client = ours.sign("client", |_| {});
    put(&first, connector(&client)).await.unwrap();

    let mut second = joiner_of(folder.path(), 2, "https");
    let channel = endpoint("https", first.client_port).connect_with_connector(connector(&client)).await.unwrap();
    let add = pb::MemberAddRequest { peer_ur_ls: vec![second.peer_url()], ..Default::default() };
    let added = ClusterClient::new(channel).member_add(add).await.unwrap().into_inner();
    second.joins(&added.members, added.member.unwrap().id);
    for (flag, value) in &more {
        second.add_flags(&[format!("{flag}={}", if value.is_empty() { "true" } else { value }).as_str()]);
    }
    second.start();
    second.wait_ready(1);
    // Now it takes both to write.
    put(&second, connector(&client)).await.unwrap();
    let channel = endpoint("https", second.client_port).connect_with_connector(connector(&client)).await.unwrap();
    let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
    let found = KvClient::new(channel).range(range).await.unwrap().into_inner();
    assert_eq!((found.count, found.kvs[0].version), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_both_schemes_where_both_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = ours.sign("server", |_| {});
    let mut node = cluster_of(folder.path(), 1, "http", &flags("", &server, false)).remove(0);
    let other = free_port();
    let both = format!("http://127.0.0.1:{0},https://127.0.0.1:{0},https://127.0.0.1:{other}", node.client_port);
    node.add_flags(&["--listen-client-urls", &both]);
    node.start();
    node.wait_ready(1);
    let ca_only = Files { trusted_ca: server.trusted_ca.clone(), ..Files::default() };
    put(&node, connector(&ca_only)).await.unwrap();
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    node.kv().await.put(put.clone()).await.unwrap();
    let channel = endpoint("https", other).connect_with_connector(connector(&ca_only)).await.unwrap();
    KvClient::new(channel).put(put.clone()).await.unwrap();
    let plain = endpoint("http", other).connect().await.unwrap();
    KvClient::new(plain).put(put).await.unwrap_err();
    let log = node.log();
    assert!(log.contains("serving client traffic securely"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_user() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = ours.sign("server", |_| {});
    let more = flags("", &server, true);
    let mut node = cluster_of(folder.path(), 1, "http", &more).remove(0);
    node.flag("--listen-client-urls", &format!("https://127.0.0.1:{}", node.client_port));
    node.start();
    node.wait_ready(1);
    let root = ours.sign("root", |_| {});
    let channel = endpoint("https", node.client_port).connect_with_connector(connector(&root)).await.unwrap();
    let mut auth = AuthClient::new(channel);
    let options = Some(UserAddOptions { no_password: true });
    auth.user_add(pb::AuthUserAddRequest { name: "root".into(), options, ..Default::default() }).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    auth.role_add(pb::AuthRoleAddRequest { name: "root".into() }).await.unwrap();
    auth.user_grant_role(grant).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    put(&node, connector(&root)).await.unwrap();
    let error = put(&node, connector(&ours.sign("someone", |_| {}))).await.unwrap_err();
    assert!(error.contains("etcdserver: permission denied"), "{error}");
    let nameless = ours.sign("nameless", |params| params.distinguished_name = DistinguishedName::new());
    let error = put(&node, connector(&nameless)).await.unwrap_err();
    assert!(error.contains("etcdserver: user name is empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_http_and_metrics_can_be_served_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = cluster_of(folder.path(), 1, "http", &[]).remove(0);
    let (http, metrics) = (free_port(), free_port());
    node.flag("--listen-client-http-urls", &format!("http://127.0.0.1:{http}"));
    node.flag("--listen-metrics-urls", &format!("http://127.0.0.1:{metrics}"));
    node.start();
    node.wait_ready(1);
    let status = |port, path| http_get(port, path)[9..12].to_owned();
    let of = |path| [node.client_port, http, metrics].map(|port| status(port, path));
    assert_eq!(of("/health"), ["404", "200", "200"]);
    assert_eq!(of("/metrics"), ["404", "200", "200"]);
    assert_eq!(of("/version"), ["404", "200", "404"]);
    assert_eq!(of("/v3/kv/range"), ["404", "501", "404"]);
    let put = pb::PutRequest { key: "k".into(), ..Default::default() };
    node.kv().await.put(put.clone()).await.unwrap();
    KvClient::new(endpoint("http", http).connect().await.unwrap()).put(put).await.unwrap_err();
}

#[test]
fn certificates_that_cannot_be_used_keep_a_member_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let (one, two) = (ours.sign("one", |_| {}), ours.sign("two", |_| {}));
    let text = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    let empty = folder.path().join("empty").display().to_string();
    std::fs::write(&empty, "").unwrap();
    let (cert, key, other) = (text(&one.cert), text(&one.key), text(&two.key));
    for (given, error) in [
        (vec![], "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:"),
        (vec![("--cert-file", cert.clone())], "KeyFile and CertFile must both be present[key: , cert: "),
        (vec![("--cert-file", "/no/such".to_owned()), ("--key-file", key.clone())], "open /no/such: no such file"),
        (
            vec![("--cert-file", empty.clone()), ("--key-file", key)],
            "tls: failed to find any PEM data in certificate input",
        ),
        (vec![("--cert-file", cert), ("--key-file", other)], "one.pem: "),
    ] {
        let mut node = cluster_of(folder.path(), 1, "http", &given).remove(0);
        node.add_flags(&["--listen-client-urls", &format!("https://127.0.0.1:{}", node.client_port)]);
        let (code, _, stderr) = run(&node.flags(), &[]);
        assert!(code == 1 && stderr.contains(error), "{error}: {stderr}");
    }
}
