//! Real `quorate` processes on loopback ports and temporary folders.

use std::fs::File;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quorate_api::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

/// One member: where it is reached and what it is started with.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    folder: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
}

/// A port that nobody listens on. It is below those the system gives to outgoing connections, or one of these might take
/// it before the member does; and processes start at different places, since tests run side by side.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + n % 20_000).expect("below 30,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Members of one cluster, not yet started.
pub(crate) fn cluster(folder: &Path, size: usize) -> Vec<Node> {
    cluster_of(folder, size, "http", &[])
}

/// The same with another scheme in all URLs and more flags.
pub(crate) fn cluster_of(folder: &Path, size: usize, scheme: &str, more: &[(&'static str, String)]) -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..=size)
        .map(|n| Node {
            name: format!("m{n}"),
            client_port: free_port(),
            peer_port: free_port(),
            folder: folder.to_owned(),
            flags: vec![],
            process: None,
        })
        .collect();
    let members: Vec<String> =
        nodes.iter().map(|node| format!("{}={scheme}://127.0.0.1:{}", node.name, node.peer_port)).collect();
    for node in &mut nodes {
        let client = format!("{scheme}://127.0.0.1:{}", node.client_port);
        let peer = format!("{scheme}://127.0.0.1:{}", node.peer_port);
        node.flags = [
            ("--name", node.name.clone()),
            ("--data-dir", node.data_dir().display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", members.join(",")),
            ("--heartbeat-interval", "50".to_owned()),
            ("--election-timeout", "500".to_owned()),
        ]
        .into_iter()
        .chain(more.iter().cloned())
        // A switch has no value.
        .flat_map(|(flag, value)| [flag.to_owned(), value].into_iter().filter(|word| !word.is_empty()))
        .collect();
    }
    nodes
}

/// The binary with `args`, run to its end: exit code, stdout, stderr.
pub(crate) fn run(args: &[impl AsRef<std::ffi::OsStr>], env: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

impl Node {
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join(format!("{}.etcd", self.name))
    }

    /// What it is started with.
    pub(crate) fn flags(&self) -> Vec<String> {
        self.flags.clone()
    }

    /// Starts it with this flag from now on; the last one of a name wins.
    pub(crate) fn flag(&mut self, name: &str, value: &str) {
        self.flags.extend([name.to_owned(), value.to_owned()]);
    }

    /// More to start it with; the last of equal flags wins.
    pub(crate) fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Starts it without waiting.
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(&self.flags).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    /// Waits until the last start says that it serves.
    pub(crate) fn wait_ready(&mut self, starts: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.log().matches("ready to serve client requests").count() < starts {
            let ended = self.process.as_mut().expect("started").try_wait().unwrap();
            assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name, self.log());
            assert!(Instant::now() < until, "{} does not serve:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The most memory it has had so far, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let pid = self.process.as_ref().expect("started").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM; the exit code and how long it took.
    pub(crate) fn terminate(&mut self) -> (Option<i32>, Duration) {
        let mut process = self.process.take().expect("started");
        let pid = rustix::process::Pid::from_child(&process);
        let began = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        (process.wait().unwrap().code(), began.elapsed())
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.client_port)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(crate) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// GET over HTTP/1.1: status line, headers and body as they come.
pub(crate) fn http_get(port: u16, path: &str) -> String {
    use std::io::Write as _;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
