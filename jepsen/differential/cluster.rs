//! Server processes of one cluster on loopback ports, with their data in a folder that goes away with them.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use quorate_api::etcdserverpb as pb;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::api::{Reply, Request};
use crate::names::Names;

/// Requests may have so many bytes: few enough that too large ones are cheap, which is what they are there for.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Whose servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Etcd,
    Quorate,
}

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) etcd: PathBuf,
    pub(crate) quorate: PathBuf,
    /// Where the data goes.
    pub(crate) dir: PathBuf,
    pub(crate) members: usize,
}

/// Running members of one make. Dropping it kills them and removes their data.
#[derive(Debug)]
pub(crate) struct Cluster {
    processes: Vec<Child>,
    /// A connection to each member.
    pub(crate) channels: Vec<Channel>,
    pub(crate) names: Names,
    dir: TempDir,
}

impl Cluster {
    /// Starts the members and waits until each of them serves.
    pub(crate) async fn start(setup: &Setup, make: Make) -> anyhow::Result<Cluster> {
        fs::create_dir_all(&setup.dir)?;
        let dir = tempfile::Builder::new().prefix("differential.").tempdir_in(&setup.dir)?;
        let hosts: Vec<(String, String)> =
            (0..setup.members).map(|_| Ok((host()?, host()?))).collect::<anyhow::Result<_>>()?;
        let mut cluster = Cluster { processes: Vec::new(), channels: Vec::new(), names: Names::of(hosts.clone()), dir };
        for (member, (client, _)) in hosts.iter().enumerate() {
            let process = cluster.spawn(setup, make, member)?;
            cluster.processes.push(process);
            let endpoint = Endpoint::from_shared(format!("http://{client}"))?;
            cluster.channels.push(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy());
        }
        for member in 0..setup.members {
            cluster.serving(member).await?;
        }
        cluster.meet().await?;
        Ok(cluster)
    }

    fn spawn(&self, setup: &Setup, make: Make, member: usize) -> anyhow::Result<Child> {
        let hosts = &self.names.hosts;
        let peers: Vec<String> = hosts.iter().enumerate().map(|(i, (_, peer))| format!("m{i}=http://{peer}")).collect();
        let (client, peer) = &hosts[member];
        let path = |name: String| self.dir.path().join(name);
        let mut flags = vec![
            ("name", format!("m{member}")),
            ("data-dir", path(format!("m{member}")).display().to_string()),
            ("listen-client-urls", format!("http://{client}")),
            ("advertise-client-urls", format!("http://{client}")),
            ("listen-peer-urls", format!("http://{peer}")),
            ("initial-advertise-peer-urls", format!("http://{peer}")),
            ("initial-cluster", peers.join(",")),
            ("initial-cluster-token", self.dir.path().display().to_string()),
            ("initial-cluster-state", "new".to_owned()),
            // Long enough that a busy machine holds no elections; it also decides the smallest TTL.
            ("heartbeat-interval", "200".to_owned()),
            ("election-timeout", "2000".to_owned()),
            ("bcrypt-cost", "4".to_owned()),
            ("max-request-bytes", REQUEST_BYTES_MAX.to_string()),
            ("log-level", "warn".to_owned()),
        ];
        let binary = match make {
            Make::Etcd => &setup.etcd,
            Make::Quorate => &setup.quorate,
        };
        if make == Make::Etcd {
            flags.push(("unsafe-no-fsync", "true".to_owned()));
        }
        let mut command = Command::new(binary);
        command.args(flags.iter().map(|(name, value)| format!("--{name}={value}"))).stdin(Stdio::null());
        // The flags alone say how a server runs.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let log = File::create(path(format!("m{member}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("starting {}", binary.display()))
    }

    /// Waits until a linearizable read succeeds at `member`.
    async fn serving(&mut self, member: usize) -> anyhow::Result<()> {
        const ATTEMPTS: usize = 1000;
        for attempt in 1.. {
            let read = Request::Range(pb::RangeRequest { key: "ready".into(), ..Default::default() });
            let answer = tokio::time::timeout(Duration::from_secs(5), read.send(&self.channels[member], None)).await;
            if let Ok(Ok(_)) = answer {
                return Ok(());
            }
            if let Some(status) = self.processes[member].try_wait()? {
                bail!("m{member} ended with {status}:\n{}", self.log(member));
            }
            if attempt == ATTEMPTS {
                bail!("m{member} does not serve: {answer:?}\n{}", self.log(member));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the loop returns")
    }

    /// Learns what the servers call themselves, once they all have said so.
    async fn meet(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let mut told = 0;
            for member in 0..self.channels.len() {
                let list = Request::MemberList(pb::MemberListRequest { linearizable: true });
                let Ok(Reply::MemberList(list)) = list.send(&self.channels[member], None).await else { continue };
                let header = list.header.unwrap_or_default();
                self.names.cluster = header.cluster_id;
                let number = |name: &str| name.strip_prefix('m').and_then(|number| number.parse::<usize>().ok());
                let mut members: Vec<(usize, u64)> =
                    list.members.iter().filter_map(|member| Some((number(&member.name)?, member.id))).collect();
                members.sort_unstable();
                // etcd raises the version of its storage, too, some time after it has begun to serve.
                let status = Request::Status(pb::StatusRequest {}).send(&self.channels[member], None).await;
                let raised = matches!(&status, Ok(Reply::Status(status)) if status.storage_version == "3.7.0");
                if raised && members.len() == self.channels.len() && members[member].1 == header.member_id {
                    self.names.members = members.into_iter().map(|(_, id)| id).collect();
                    told += 1;
                }
            }
            if told == self.channels.len() {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(60) {
                bail!("the members do not know each other's names");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of what a member has logged.
    pub(crate) fn log(&self, member: usize) -> String {
        let path = self.dir.path().join(format!("m{member}.log"));
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Whether all members are still running.
    pub(crate) fn is_whole(&mut self) -> bool {
        self.processes.iter_mut().all(|process| matches!(process.try_wait(), Ok(None)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A loopback address that nobody listens on, below the ports that the kernel gives to clients.
fn host() -> anyhow::Result<String> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Not always the same ones first, so that two runs on one machine do not meet.
    let offset = u16::try_from(std::process::id() % 12_000).expect("small");
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + offset.wrapping_add(step) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    bail!("no loopback port is free")
}

/// Where data is quickest: memory, if there is a file system of it.
pub(crate) fn fast_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}
