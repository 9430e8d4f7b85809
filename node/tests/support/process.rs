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
    scheme: &'static str,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    folder: PathBuf,
    flags: Vec<String>,
    /// How many files it may have open, if less than usual.
    files_max: Option<u32>,
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
pub(crate) fn cluster_of(
    folder: &Path,
    size: usize,
    scheme: &'static str,
    more: &[(&'static str, String)],
) -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..=size).map(|n| joiner_of(folder, n, scheme)).collect();
    let members: Vec<String> = nodes.iter().map(|node| format!("{}={}", node.name, node.peer_url())).collect();
    for node in &mut nodes {
        node.configure(&members.join(","), "new", more);
    }
    nodes
}

/// A member that is to join a cluster as number `n`; [`Node::joins`] says which.
pub(crate) fn joiner(folder: &Path, n: usize) -> Node {
    joiner_of(folder, n, "http")
}

/// The same with another scheme in all URLs.
pub(crate) fn joiner_of(folder: &Path, n: usize, scheme: &'static str) -> Node {
    Node {
        name: format!("m{n}"),
        scheme,
        client_port: free_port(),
        peer_port: free_port(),
        folder: folder.to_owned(),
        flags: vec![],
        files_max: None,
        process: None,
    }
}

/// The binary with `args`, run to its end: exit code, stdout, stderr.
pub(crate) fn run(args: &[impl AsRef<std::ffi::OsStr>], env: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

impl Node {
    pub(crate) fn peer_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.peer_port)
    }

    fn configure(&mut self, initial_cluster: &str, state: &str, more: &[(&'static str, String)]) {
        let client = format!("{}://127.0.0.1:{}", self.scheme, self.client_port);
        let peer = self.peer_url();
        self.flags = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_dir().display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", initial_cluster.to_owned()),
            ("--initial-cluster-state", state.to_owned()),
            ("--heartbeat-interval", "50".to_owned()),
            ("--election-timeout", "500".to_owned()),
        ]
        .into_iter()
        .chain(more.iter().cloned())
        // A switch has no value.
        .flat_map(|(flag, value)| [flag.to_owned(), value].into_iter().filter(|word| !word.is_empty()))
        .collect();
    }

    /// Starts will join a cluster of `members`, in which this one has `id`.
    pub(crate) fn joins(&mut self, members: &[quorate_api::etcdserverpb::Member], id: u64) {
        let own = format!("{}={}", self.name, self.peer_url());
        let others = members.iter().filter(|member| member.id != id);
        let others = others.map(|member| format!("{}={}", member.name, member.peer_ur_ls[0]));
        let initial_cluster: Vec<String> = others.chain([own]).collect();
        self.configure(&initial_cluster.join(","), "existing", &[]);
    }

    /// Starts will serve peers at another address, and say so.
    pub(crate) fn moves(&mut self) {
        let before = self.peer_url();
        self.peer_port = free_port();
        let after = self.peer_url();
        self.flags.iter_mut().for_each(|flag| *flag = flag.replace(&before, &after));
    }

    /// Waits until it ends by itself; its exit code.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Option<i32> {
        let until = Instant::now() + patience;
        loop {
            if let Some(ended) = self.process.as_mut().expect("started").try_wait().unwrap() {
                self.process = None;
                return ended.code();
            }
            assert!(Instant::now() < until, "{} does not end:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    pub(crate) async fn try_channel(&self) -> Option<Channel> {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.client_port)).unwrap().connect().await.ok()
    }

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
        let mut command = match self.files_max {
            None => Command::new(env!("CARGO_BIN_EXE_quorate")),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_quorate")]);
                shell
            }
        };
        command.args(&self.flags).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    /// Starts will allow it `files` open ones, or as many as are usual.
    pub(crate) fn limit_files(&mut self, files: Option<u32>) {
        self.files_max = files;
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        let pid = self.process.as_ref().expect("started").id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
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

    /// Stops its time, SIGSTOP.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets its time go on, SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.process.as_ref().expect("started"));
        rustix::process::kill_process(pid, signal).unwrap();
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

/// A real etcd, or one of its tools, in the folder that `QUORATE_ETCD` names.
pub(crate) fn real_etcd(name: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("QUORATE_ETCD")?).join(name);
    path.is_file().then_some(path)
}
