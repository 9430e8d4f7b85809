//! `check perf`: writes at a fixed rate for a minute, and says whether the cluster kept up.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::etcdserverpb::{CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Client;
use crate::commands::{Context, kv};
use crate::failure::{Failure, Result, rpc_error, status_text};
use crate::flags::Flag;
use crate::print::write_stdout;

pub(super) const FLAGS: &[Flag] = &[
    Flag::bool("auto-compact", "compact the history that the test wrote"),
    Flag::bool("auto-defrag", "defragment afterwards"),
    Flag::string("load", "s", "s(mall), m(edium), l(arge) or xl(arge)"),
    Flag::string("prefix", "/etcdctl-check-perf/", "where the test's keys are written"),
];

/// What a test demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    /// Writes per second.
    rate: u64,
    clients: usize,
    seconds: u64,
}

impl Load {
    fn parse(name: &str) -> Result<Load> {
        let (rate, clients) = match name {
            "s" | "small" => (150, 50),
            "m" | "medium" => (1_000, 200),
            "l" | "large" => (8_000, 500),
            "xl" | "xLarge" => (15_000, 1_000),
            _ => return Err(Failure::bad_feature(format!("unknown load option {name}"))),
        };
        Ok(Load { rate, clients, seconds: 60 })
    }
}

/// What came of the test.
#[derive(Clone, Debug, Default, PartialEq)]
struct Report {
    /// Seconds each successful write took.
    latencies: Vec<f64>,
    /// How often each error occurred.
    errors: BTreeMap<String, usize>,
    seconds: f64,
}

/// `check perf`.
pub(super) async fn perf(context: &Context) -> Result<()> {
    let load = Load::parse(context.args.string("load"))?;
    let client = context.client()?;
    let prefix = context.args.string("prefix");
    let (key, range_end) = kv::prefix_range(prefix);
    let existing = RangeRequest { key: key.clone(), range_end: range_end.clone(), limit: 1, ..Default::default() };
    if !client.range(existing).await?.kvs.is_empty() {
        let text = format!("prefix {prefix:?} has keys. Delete with 'etcdctl del --prefix {prefix}' first");
        return Err(Failure::invalid_input(text));
    }
    let report = run(&client, prefix, load).await?;
    let deleted = client.delete_range(DeleteRangeRequest { key, range_end, prev_kv: false }).await?;
    if context.args.bool("auto-compact") {
        let revision = deleted.header.map_or(0, |h| h.revision);
        write_stdout(format!("Compacting with revision {revision}\n").as_bytes())?;
        client.compact(CompactionRequest { revision, physical: true }).await?;
        write_stdout(format!("Compacted with revision {revision}\n").as_bytes())?;
    }
    if context.args.bool("auto-defrag") {
        for endpoint in &client.config().endpoints {
            write_stdout(format!("Defragmenting {endpoint:?}\n").as_bytes())?;
            client.only(endpoint).map_err(Failure::bad_connection)?.defragment(DefragmentRequest {}).await?;
            write_stdout(format!("Defragmented {endpoint:?}\n").as_bytes())?;
        }
    }
    let (lines, passed) = verdict(&report, load);
    write_stdout((lines.join("\n") + "\n").as_bytes())?;
    if passed { Ok(()) } else { Err(Failure::silent(1)) }
}

/// Writes at the load's rate until its time is up, over as many connections as it has clients.
async fn run(client: &Client, prefix: &str, load: Load) -> Result<Report> {
    let permits = Arc::new(Semaphore::new(0));
    let (results, mut received) = mpsc::channel(1024);
    let start = Instant::now();
    let end = start + Duration::from_secs(load.seconds);
    let mut clients = Vec::new();
    for number in 0..load.clients {
        let client = Client::new(client.config().clone()).map_err(Failure::bad_connection)?;
        let (permits, results) = (permits.clone(), results.clone());
        let prefix = prefix.to_owned();
        clients.push(tokio::spawn(async move {
            let value = Bytes::from(vec![b'x'; 1024]);
            let mut count = 0u64;
            while let Ok(permit) = permits.acquire().await {
                permit.forget();
                let key = Bytes::from(format!("{prefix}{:0>256}", format!("{number}-{count}")));
                count += 1;
                let begun = Instant::now();
                let request = PutRequest { key, value: value.clone(), ..Default::default() };
                let outcome = client
                    .put(request)
                    .await
                    .map(|_| begun.elapsed())
                    .map_err(|s| if s.message().is_empty() { rpc_error(&s) } else { status_text(&s) });
                if results.send(outcome).await.is_err() {
                    return;
                }
            }
        }));
    }
    drop(results);
    let pacer = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut given = 0;
        while Instant::now() < end {
            ticks.tick().await;
            let due = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX) * load.rate / 1000;
            permits.add_permits(usize::try_from(due - given).unwrap_or(0));
            given = due;
        }
        permits.close();
    });
    let mut report = Report::default();
    let mut shown = 0;
    while let Some(outcome) = received.recv().await {
        match outcome {
            Ok(took) => report.latencies.push(took.as_secs_f64()),
            Err(error) => *report.errors.entry(error).or_default() += 1,
        }
        let elapsed = start.elapsed().as_secs();
        if elapsed > shown && std::io::stderr().is_terminal() {
            shown = elapsed;
            eprint!("\r{shown} / {} s, {} writes", load.seconds, report.latencies.len());
        }
    }
    if shown > 0 {
        eprintln!();
    }
    report.seconds = start.elapsed().as_secs_f64();
    let _ = pacer.await;
    Ok(report)
}

/// The lines that say how it went, and whether everything passed.
fn verdict(report: &Report, load: Load) -> (Vec<String>, bool) {
    let (mut lines, mut passed) = (Vec::new(), true);
    let mut judge = |ok: bool, good: String, bad: String| {
        lines.push(if ok { format!("PASS: {good}") } else { format!("FAIL: {bad}") });
        passed &= ok;
    };
    if !report.errors.is_empty() {
        judge(false, String::new(), "too many errors".to_owned());
        for (error, count) in &report.errors {
            judge(false, String::new(), format!("ERROR({error}) -> {count}"));
        }
    }
    let count = report.latencies.len() as f64;
    let throughput = (count / report.seconds) as u64 + 1;
    judge(
        throughput * 10 > load.rate * 9,
        format!("Throughput is {throughput} writes/s"),
        format!("Throughput too low: {throughput} writes/s"),
    );
    let slowest = report.latencies.iter().copied().fold(0.0, f64::max);
    judge(
        slowest <= 0.5,
        format!("Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let mean = report.latencies.iter().sum::<f64>() / count.max(1.0);
    let variance = report.latencies.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / count.max(1.0);
    let deviation = variance.sqrt();
    judge(deviation <= 0.1, format!("Stddev is {deviation:.6}s"), format!("Stddev too high: {deviation:.6}s"));
    lines.push(if passed { "PASS" } else { "FAIL" }.to_owned());
    (lines, passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_keeps_up_passes() {
        let load = Load::parse("s").unwrap();
        let report = Report { latencies: vec![0.001; 9_000], errors: BTreeMap::new(), seconds: 60.0 };
        let (lines, passed) = verdict(&report, load);
        assert!(passed);
        let expected = [
            "PASS: Throughput is 151 writes/s",
            "PASS: Slowest request took 0.001000s",
            "PASS: Stddev is 0.000000s",
            "PASS",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn errors_slowness_and_low_throughput_fail() {
        let load = Load::parse("m").unwrap();
        let errors = BTreeMap::from([("etcdserver: request timed out".to_owned(), 2)]);
        let report = Report { latencies: vec![0.0, 2.0], errors, seconds: 60.0 };
        let (lines, passed) = verdict(&report, load);
        assert!(!passed);
        let expected = [
            "FAIL: too many errors",
            "FAIL: ERROR(etcdserver: request timed out) -> 2",
            "FAIL: Throughput too low: 1 writes/s",
            "FAIL: Slowest request took too long: 2.000000s",
            "FAIL: Stddev too high: 1.000000s",
            "FAIL",
        ];
        assert_eq!(lines, expected);
        assert_eq!(Load::parse("x").unwrap_err().code, 4);
    }
}
