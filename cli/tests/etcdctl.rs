//! The same commands by etcdctl and by quoratectl, each against an etcd of its own in the same state: what they print
//! must agree byte for byte.
//!
//! `QUORATE_ETCD` names the folder with `etcd` and `etcdctl` 3.5, else they are looked for in `PATH`. Without them nothing
//! is compared; with `QUORATE_CI=1` that is a failure.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Each line is split like a shell would; `<` begins what goes to stdin, in Go's escapes.
const COMMANDS: &str = r#"
put a 1
put a2 2
put ab 'x	y"z<>&'
put b 3 -w json
put a 5 --prev-kv
put a 6 --prev-kv -w json
put a 7 --prev-kv -w fields
put c < "from stdin\n"
put c --ignore-value
put nokey --ignore-value
put nokey x --ignore-lease
put '' x
put
put d
put d e f
put d e --lease zz
put d e --lease 77
put -w protobuf e 1
get a
get a -w json
get a -w fields
get a -w protobuf
get a --hex
get '' --prefix
get '' --prefix --limit 2 -w json
get '' --prefix --limit 2 -w fields
get a b --keys-only
get a b --keys-only -w json
get a --prefix --count-only -w fields
get a --prefix --print-value-only
get '' --from-key --order descend --sort-by value
get '' --from-key --sort-by version
get '' --from-key --sort-by CREATE --order DESCEND -w json
get a c --sort-by modify
get a --rev 2
get a --rev 99999
get a --consistency s
get a --consistency x
get a --order x
get a --sort-by x
get a b --prefix
get a --prefix --from-key
get a --keys-only --count-only
get a --count-only
get a --print-value-only -w json
get a -w table
get a -w nonsense
get nokey
get nokey -w json
get nokey -w fields
get
ge a
txn < "mod(\"a\") > \"0\"\n\nput k1 \"v1 <x>&\"\nget a --prefix\ndel b --prev-kv\n\n\n"
txn -i < "mod(\"a\") = \"0\"\n\nput k1 v\n\nget a\nput b \"x y\"\n\n"
txn -w json < "ver(\"a\") != \"0\"\nval(\"a\") < \"z\"\ncreate(\"a\") > \"1\"\n\nput k1 \"v1 <x>&\"\nget a --prefix\ndel b --prev-kv\n\n\n"
txn -w fields < "val(\"a\") = \"nothing\"\n\n\nput k1 v --prev-kv\nget a\ndel b --prev-kv\nget a --count-only --prefix\n\n"
txn -w protobuf < "\nput k1 v --prev-kv\n\n\n"
txn < "mod(\"a\") 0\n\n\n\n"
txn < "mod(a) = \"1\"\n\n\n\n"
txn < "mod(\"a\")=\"1\"\n\n\n\n"
txn < "mod(\"a\") = \"x\"\n\n\n\n"
txn < "foo(\"a\") = \"1\"\n\n\n\n"
txn < "\nfoo a\n\n\n"
txn < "\nput a\n\n\n"
txn < "\nget\n\n\n"
txn < "\nput a b\n"
txn x
watch --rev 2 a --prefix --hex -- false
watch --rev 2 a --prefix -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE; exit 3'
watch --rev 2 a --prev-kv -w fields -- false
watch --rev 2 a --prev-kv --hex -- false
watch -i < "watch nokey\nbad\n\nwatch\n"
watch
del a --prev-kv
del ab --prev-kv -w json
del a2 --prev-kv -w fields
del nokey
del b --prefix
del c --from-key -w json
del
del a b --prefix
compaction 5
compaction 5
compaction 99999
compaction x
compaction
get c --rev 3
lease list
lease list -w json
lease list -w fields
lease timetolive 77
lease timetolive 77 -w json
lease timetolive 77 -w fields
lease timetolive zz
lease revoke 77
lease revoke zz
lease grant
lease grant x
lease keep-alive 77
lease keep-alive 77 -w json
lease keep-alive
member list
member list -w json
get a b c
member list --hex -w simple
member remove
member remove zz
alarm list
alarm list -w json
alarm list -w fields
auth status
auth status -w json
auth status -w fields
auth status x
auth enable
auth enable x
auth disable -w json
user add
user add a b
user add :pw
user add u1:pw
user add u1:pw
user add u2:pw -w json
user add u3:pw -w fields
user add u4 --no-password
user add u5 --new-user-password pw
user add u6 --interactive=false < "pw\n"
user get
user get u1
user get u1 -w json
user get u1 -w fields
user get nobody
user list
user list -w json
user list -w fields
user list x
user passwd u1 --interactive=false < "q\n"
user passwd nobody --interactive=false < "q\n"
user passwd
role add
role add r1
role add r1
role add r2 -w json
role add r3 -w fields
role add ''
role add root
role list
role list -w json
role list -w fields
role list x
role grant-permission
role grant-permission r1 read
role grant-permission r1 read k1
role grant-permission r1 readwrite p/ --prefix
role grant-permission r1 write a b
role grant-permission r1 Write z --from-key
role grant-permission r1 WRITE '' --from-key
role grant-permission r1 bad k
role grant-permission nobody read k
role grant-permission r1 read ''
role grant-permission r1 read k --prefix --from-key
role grant-permission r1 read k l --prefix
role grant-permission r1 read k l --from-key
role grant-permission r2 read k l m
role grant-permission r2 read q -w fields
role get r1
role get r1 -w json
role get r1 -w fields
role get r2
role get r3
role get nobody
role get
role revoke-permission
role revoke-permission r1
role revoke-permission r1 k1
role revoke-permission r1 k1
role revoke-permission r1 p/ --prefix
role revoke-permission r1 a b -w json
role revoke-permission r1 z --from-key
role revoke-permission r1 '' --from-key
role revoke-permission nobody k
user grant-role
user grant-role u1 r1
user grant-role u1 r2 -w json
user grant-role nobody r1
user grant-role u1 nobody
user get u1
user get u1 -w json
user get u1 --detail
user get u1 --detail -w json
user get u4 --detail
user revoke-role
user revoke-role u1 r1
user revoke-role u1 r1
user revoke-role u1 r2 -w fields
role delete
role delete r2
role delete r2 -w json
role delete r3 -w fields
user delete
user delete u2
user delete u2 -w json
user delete u3 -w fields
user add root:pw
--user root:pw get a
auth enable
role delete root
auth enable
get a
auth disable
--user root:pw auth status
--user root:pw auth enable
--user root --password pw put a 1
--user root:pw --password pw get a
--user root:wrong get a
--user u4:x get a
--user u6:pw get a
--user u6:pw lease list
--user u6:pw user get u6
--user u6:pw user list
--user u6:pw compaction 2
--user root:pw user delete root
--user root:pw user revoke-role root root
--user root:pw auth disable
auth status
lock
lock l -- sh -c 'exit 7'
elect
elect e
nonsense
"#;

struct Etcd {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start(binary: &Path) -> Etcd {
        let dir = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (port(), port());
        // Both get the same member and cluster IDs, since these come from the advertised URL.
        let child = Command::new(binary)
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg("--advertise-client-urls=http://127.0.0.1:1")
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg("--initial-advertise-peer-urls=http://127.0.0.1:2")
            .arg("--initial-cluster=default=http://127.0.0.1:2")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd { child, endpoint: format!("127.0.0.1:{client}"), _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !healthy(client) {
            assert!(Instant::now() < deadline, "etcd does not serve");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = String::new();
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("\"true\"")
}

#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    /// The line of stderr that says what went wrong.
    error: String,
}

fn run(binary: &Path, endpoint: &str, line: &str) -> Outcome {
    let (words, stdin) = match line.split_once(" < ") {
        Some((words, stdin)) => (words, quorate_cli::go::unquote(stdin).unwrap()),
        None => (line, Vec::new()),
    };
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
        command.env_remove(name);
    }
    let mut child = command
        .arg("--endpoints")
        .arg(endpoint)
        .args(quorate_cli::words::split(words))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(&stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).replace("quoratectl", "etcdctl");
    let error = stderr.lines().find(|line| !line.is_empty() && !line.starts_with('{')).unwrap_or_default();
    Outcome { code: output.status.code(), stdout: output.stdout.escape_ascii().to_string(), error: error.to_owned() }
}

fn find(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("QUORATE_ETCD").or_else(|| std::env::var_os("PATH"))?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn skip(why: &str) {
    assert!(std::env::var_os("QUORATE_CI").is_none(), "skipped: {why}");
    eprintln!("skipped: {why}");
}

#[test]
fn quoratectl_prints_what_etcdctl_prints() {
    let (Some(etcd), Some(etcdctl)) = (find("etcd"), find("etcdctl")) else {
        return skip("no etcd and etcdctl in QUORATE_ETCD or PATH to compare with");
    };
    let version = run(&etcdctl, "127.0.0.1:1", "version").stdout;
    if !version.starts_with("etcdctl version: 3.5.") {
        return skip(&format!("other versions print other shapes: {version}"));
    }
    let (theirs, ours) = (Etcd::start(&etcd), Etcd::start(&etcd));
    let quoratectl = Path::new(env!("CARGO_BIN_EXE_quoratectl"));
    let mut different = Vec::new();
    for line in COMMANDS.lines().filter(|line| !line.is_empty()) {
        let expected = run(&etcdctl, &theirs.endpoint, line);
        let actual = run(quoratectl, &ours.endpoint, line);
        if expected != actual {
            different.push(format!("{line}\n  etcdctl:    {expected:?}\n  quoratectl: {actual:?}"));
        }
    }
    assert!(different.is_empty(), "{} differences:\n{}", different.len(), different.join("\n"));
}
