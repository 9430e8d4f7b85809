//! Server processes of one cluster on loopback ports.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate_api::etcdserverpb::{RangeRequest, StatusRequest};
use quorate_cli::client::{Client, Config};
use quorate_cli::failure::Failure;
use tokio::time::{Instant, sleep};

/// One member's process; `None` while it is down.
#[derive(Debug)]
struct Member {
    child: Option<Child>,
    args: Vec<String>,
    /// `host:port` for clients.
    endpoint: String,
    data: PathBuf,
    log: PathBuf,
}

/// The members of one cluster. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Cluster {
    binary: PathBuf,
    members: Vec<Member>,
}

impl Cluster {
    /// Starts `count` members of `binary` with their data under `dir`, and waits until they serve.
    pub(crate) async fn start(
        binary: &str,
        count: usize,
        port: i64,
        dir: &Path,
        election_ms: i64,
    ) -> Result<Cluster, Failure> {
        fs::create_dir_all(dir).map_err(|e| Failure::error(format!("{}: {e}", dir.display())))?;
        let peer = |i: usize| format!("http://127.0.0.1:{}", port + 2 * i as i64 + 1);
        let initial: Vec<String> = (0..count).map(|i| format!("m{i}={}", peer(i))).collect();
        let members = (0..count).map(|i| {
            let endpoint = format!("127.0.0.1:{}", port + 2 * i as i64);
            let data = dir.join(format!("m{i}"));
            let flags = [
                ("name", format!("m{i}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", format!("http://{endpoint}")),
                ("advertise-client-urls", format!("http://{endpoint}")),
                ("listen-peer-urls", peer(i)),
                ("initial-advertise-peer-urls", peer(i)),
                ("initial-cluster", initial.join(",")),
                ("initial-cluster-token", dir.display().to_string()),
                ("initial-cluster-state", "new".to_owned()),
                ("heartbeat-interval", (election_ms / 10).to_string()),
                ("election-timeout", election_ms.to_string()),
                ("quota-backend-bytes", (4i64 << 30).to_string()),
                ("log-level", "warn".to_owned()),
            ];
            let args = flags.iter().map(|(name, value)| format!("--{name}={value}")).collect();
            Member { child: None, args, endpoint, data, log: dir.join(format!("m{i}.log")) }
        });
        let mut cluster = Cluster { binary: PathBuf::from(binary), members: members.collect() };
        for member in 0..count {
            cluster.restart(member)?;
        }
        for member in 0..count {
            cluster.serving(member, Duration::from_secs(30)).await?;
        }
        Ok(cluster)
    }

    /// Starts a member that is down.
    pub(crate) fn restart(&mut self, member: usize) -> Result<(), Failure> {
        let m = &mut self.members[member];
        let failed = |e: std::io::Error| Failure::error(format!("{}: {e}", self.binary.display()));
        let log = File::options().create(true).append(true).open(&m.log).map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command.args(&m.args).stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        // The flags alone say how a server runs.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        m.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Kills a member's process with SIGKILL.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Deletes the data of a member that is down.
    pub(crate) fn wipe(&self, member: usize) -> Result<(), Failure> {
        let data = &self.members[member].data;
        fs::remove_dir_all(data).map_err(|e| Failure::error(format!("{}: {e}", data.display())))
    }

    /// Waits until a linearizable read succeeds at `member`.
    pub(crate) async fn serving(&mut self, member: usize, limit: Duration) -> Result<Duration, Failure> {
        let start = Instant::now();
        let client = self.client(&[member], Duration::from_millis(500))?;
        while start.elapsed() < limit {
            let read = RangeRequest { key: "health".into(), ..Default::default() };
            if client.range(read).await.is_ok() {
                return Ok(start.elapsed());
            }
            let m = &mut self.members[member];
            if let Some(status) = m.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(Failure::error(format!("m{member} ended with {status}: see {}", m.log.display())));
            }
            sleep(Duration::from_millis(20)).await;
        }
        let log = self.members[member].log.display();
        Err(Failure::error(format!("m{member} does not serve after {limit:?}: see {log}")))
    }

    /// The member that leads, as the members that are up see it.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let mut ids = Vec::new();
        let mut leader = 0;
        for member in 0..self.members.len() {
            let client = self.client(&[member], Duration::from_millis(500)).ok()?;
            let status = client.status(StatusRequest {}).await.unwrap_or_default();
            ids.push(status.header.map_or(0, |h| h.member_id));
            leader = if status.leader != 0 { status.leader } else { leader };
        }
        ids.iter().position(|id| *id == leader && leader != 0)
    }

    /// A client of some of the members whose calls last at most `limit`.
    pub(crate) fn client(&self, members: &[usize], limit: Duration) -> Result<Client, Failure> {
        let config = Config {
            endpoints: members.iter().map(|&m| self.members[m].endpoint.clone()).collect(),
            dial_timeout: limit.min(Duration::from_secs(1)),
            command_timeout: Some(limit),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            max_request_bytes: 2 << 20,
            max_recv_bytes: i32::MAX as usize,
            connector: quorate_tls::Connector::plain(),
            is_secure: false,
            user: None,
            token: None,
        };
        Client::new(config).map(Client::silent).map_err(Failure::error)
    }

    /// `host:port` of every member.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.endpoint.clone()).collect()
    }

    /// Microseconds of CPU that the processes have used so far.
    pub(crate) fn cpu_micros(&self) -> u64 {
        // Linux counts in ticks of 10 ms whatever its own clock does.
        self.pids().filter_map(cpu_ticks).sum::<u64>() * 10_000
    }

    /// Resident memory of all processes, in bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let kib = self.pids().filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
        });
        kib.sum::<u64>() * 1024
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter_map(|m| m.child.as_ref().map(Child::id))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

/// User and system time of a process. Its name, in parentheses, may itself hold blanks.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}
