//! Measures servers by turns under the same load.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_api::etcdserverpb::kv_client::KvClient;
use quorate_api::etcdserverpb::request_op::Request;
use quorate_api::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use quorate_cli::failure::Failure;
use quorate_cli::flags::Args;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Cluster;
use crate::report::{Cell, Report, Sample, percentile};
use crate::{Random, numbers};

/// Keys that exist before anything is measured.
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 256;
/// Clients that write the first keys.
const FILLERS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Put,
    /// A put that is guarded by the key's mod revision.
    Txn,
    Get,
    SerializableGet,
}

impl Op {
    fn parse(name: &str) -> Result<Op, Failure> {
        Ok(match name {
            "put" => Op::Put,
            "txn" => Op::Txn,
            "get" => Op::Get,
            "sget" => Op::SerializableGet,
            _ => return Err(Failure::bad_args(format!("--ops: unknown operation {name:?}"))),
        })
    }
}

/// `quorate-load bench`.
pub(crate) async fn bench(args: &Args) -> Result<(), Failure> {
    let servers: Vec<(&'static str, &str)> = [("etcd", args.string("etcd")), ("quorate", args.string("quorate"))]
        .into_iter()
        .filter(|(_, binary)| !binary.is_empty())
        .collect();
    if servers.is_empty() {
        return Err(Failure::bad_args("give --quorate or --etcd or both"));
    }
    let (sizes, clients) = (numbers(args, "members")?, numbers(args, "clients")?);
    let ops: Vec<&str> = args.string("ops").split(',').collect();
    let seconds = Duration::from_secs(u64::try_from(args.int("seconds")).unwrap_or(1).max(1));
    let dir = Path::new(args.string("dir"));
    let mut report = Report::default();
    let mut order: Vec<Cell> = Vec::new();
    for &members in &sizes {
        for op in &ops {
            order.extend(clients.iter().map(|&clients| (members, clients, (*op).to_owned())));
        }
    }
    for run in 0..args.int("runs") {
        // Every other run begins with the other server, so that neither always meets the warmer machine.
        let mut turn = servers.clone();
        turn.rotate_left(usize::try_from(run).unwrap_or(0) % servers.len());
        for (server, binary) in turn {
            for &members in &sizes {
                let place = dir.join(format!("{server}-{members}-{run}"));
                let cluster = start(args, binary, members, &place).await?;
                fill(&cluster.endpoints(), KEYS).await?;
                for cell in order.iter().filter(|cell| cell.0 == members) {
                    let sample = measure(&cluster, Op::parse(&cell.2)?, cell.1, seconds).await?;
                    eprintln!("run {run}: {server}, {members} members, {} clients, {}: {sample:.0?}", cell.1, cell.2);
                    report.add(cell.clone(), server, sample);
                }
                drop(cluster);
                let _ = std::fs::remove_dir_all(&place);
            }
            let keys = u64::try_from(args.int("keys")).unwrap_or(0);
            if keys > 0 {
                let place = dir.join(format!("{server}-memory-{run}"));
                let cluster = start(args, binary, 1, &place).await?;
                fill(&cluster.endpoints(), keys).await?;
                sleep(Duration::from_secs(2)).await;
                report.add_memory(server, cluster.rss_bytes());
                drop(cluster);
                let _ = std::fs::remove_dir_all(&place);
            }
        }
    }
    print!("{}", report.render(&order));
    Ok(())
}

async fn start(args: &Args, binary: &str, members: usize, dir: &Path) -> Result<Cluster, Failure> {
    Cluster::start(binary, members, args.int("port"), dir, args.int("election-ms")).await
}

/// Opens several connections for `clients`, spread over all endpoints.
async fn connect(endpoints: &[String], clients: usize) -> Result<Vec<Channel>, Failure> {
    let count = match clients {
        0..8 => clients.max(1),
        8..128 => 8,
        _ => 16,
    };
    let mut channels = Vec::new();
    for i in 0..count {
        let url = format!("http://{}", endpoints[i % endpoints.len()]);
        let endpoint = Endpoint::from_shared(url).map_err(|e| Failure::error(e.to_string()))?.tcp_nodelay(true);
        channels.push(endpoint.connect().await.map_err(|e| Failure::bad_connection(e.to_string()))?);
    }
    Ok(channels)
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:010}"))
}

fn value(random: &mut Random) -> Bytes {
    (0..VALUE_BYTES).map(|_| b'a' + u8::try_from(random.below(26)).unwrap_or(0)).collect()
}

/// Writes keys 0 to `count`.
async fn fill(endpoints: &[String], count: u64) -> Result<(), Failure> {
    let channels = connect(endpoints, FILLERS).await?;
    let tasks: Vec<_> = (0..FILLERS)
        .map(|i| {
            let mut client = KvClient::new(channels[i % channels.len()].clone());
            tokio::spawn(async move {
                let mut random = Random::new(i as u64 + 1);
                for number in (i as u64..count).step_by(FILLERS) {
                    let request = PutRequest { key: key(number), value: value(&mut random), ..Default::default() };
                    client.put(request).await?;
                }
                Ok::<(), Status>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| Failure::error(e.to_string()))??;
    }
    Ok(())
}

/// Lets `clients` repeat `op` for `time`, each waiting for its answer before the next.
async fn measure(cluster: &Cluster, op: Op, clients: usize, time: Duration) -> Result<Sample, Failure> {
    let channels = connect(&cluster.endpoints(), clients).await?;
    let (start, cpu) = (Instant::now(), cluster.cpu_micros());
    let tasks: Vec<_> = (0..clients)
        .map(|i| {
            let load = Load {
                client: KvClient::new(channels[i % channels.len()].clone()),
                op,
                random: Random::new(i as u64 + 1),
                own: key(i as u64 % KEYS),
                revision: 0,
            };
            tokio::spawn(load.run(start + time))
        })
        .collect();
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (mut taken, failed) = task.await.map_err(|e| Failure::error(e.to_string()))?;
        latencies.append(&mut taken);
        errors += failed;
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cluster.cpu_micros() - cpu);
    latencies.sort_unstable();
    Ok(Sample {
        rate: latencies.len() as f64 / elapsed,
        p50: percentile(&latencies, 50),
        p99: percentile(&latencies, 99),
        cpu: cpu as f64 / (latencies.len() as f64).max(1.0),
        errors,
    })
}

/// One client.
struct Load {
    client: KvClient<Channel>,
    op: Op,
    random: Random,
    /// The key this client guards by its revision.
    own: Bytes,
    /// Its mod revision as this client knows it.
    revision: i64,
}

impl Load {
    /// Gives the latencies in microseconds, and how many operations failed.
    async fn run(mut self, end: Instant) -> (Vec<u32>, u64) {
        let (mut latencies, mut errors) = (Vec::new(), 0);
        let mut begun = Instant::now();
        while begun < end {
            let result = self.once().await;
            let now = Instant::now();
            match result {
                Ok(()) => latencies.push(u32::try_from((now - begun).as_micros()).unwrap_or(u32::MAX)),
                Err(_) => {
                    errors += 1;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            begun = now;
        }
        (latencies, errors)
    }

    async fn once(&mut self) -> Result<(), Status> {
        let any = key(self.random.below(KEYS));
        let range = |key, serializable| RangeRequest { key, serializable, ..Default::default() };
        match self.op {
            Op::Put => {
                let value = value(&mut self.random);
                self.client.put(PutRequest { key: any, value, ..Default::default() }).await.map(drop)
            }
            Op::Get => self.client.range(range(any, false)).await.map(drop),
            Op::SerializableGet => self.client.range(range(any, true)).await.map(drop),
            Op::Txn => {
                let put = PutRequest { key: self.own.clone(), value: value(&mut self.random), ..Default::default() };
                let guard = Compare {
                    result: CompareResult::Equal.into(),
                    target: CompareTarget::Mod.into(),
                    key: self.own.clone(),
                    range_end: Bytes::new(),
                    target_union: Some(TargetUnion::ModRevision(self.revision)),
                };
                let request = TxnRequest {
                    compare: vec![guard],
                    success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
                    failure: vec![RequestOp { request: Some(Request::RequestRange(range(self.own.clone(), false))) }],
                };
                let response = self.client.txn(request).await?.into_inner();
                self.revision = match response.succeeded {
                    true => response.header.map_or(0, |h| h.revision),
                    false => found_revision(&response).unwrap_or(0),
                };
                Ok(())
            }
        }
    }
}

/// The mod revision of the key that a guard's failure read.
fn found_revision(response: &quorate_api::etcdserverpb::TxnResponse) -> Option<i64> {
    use quorate_api::etcdserverpb::response_op::Response;
    match response.responses.first()?.response.as_ref()? {
        Response::ResponseRange(range) => Some(range.kvs.first()?.mod_revision),
        _ => None,
    }
}
