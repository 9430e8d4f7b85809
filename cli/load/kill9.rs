//! Kills members with SIGKILL under load: every acknowledged write must be there afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_api::etcdserverpb::{PutRequest, RangeRequest};
use quorate_cli::client::Client;
use quorate_cli::failure::Failure;
use quorate_cli::flags::Args;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::report::percentile;
use crate::{Random, numbers};

const WRITERS: usize = 8;

/// Keys whose writes were acknowledged. Each key is written once, so a late duplicate cannot hide a loss.
type Acknowledged = Arc<Mutex<BTreeSet<String>>>;

/// `quorate-load kill9`.
pub(crate) async fn kill9(args: &Args) -> Result<(), Failure> {
    let binary = args.string("quorate");
    if binary.is_empty() {
        return Err(Failure::bad_args("give --quorate"));
    }
    let (mut passed, mut failed) = (0, 0);
    let wipe = args.bool("wipe");
    for members in numbers(args, "members")? {
        if wipe && members < 3 {
            return Err(Failure::bad_args("--wipe: fewer than three members cannot do without one"));
        }
        let dir = Path::new(args.string("dir")).join(format!("kill9-{members}"));
        match trial(args, binary, members, &dir).await {
            Ok(line) => {
                println!("ok: {line}");
                passed += 1;
                let _ = std::fs::remove_dir_all(&dir);
            }
            Err(failure) => {
                println!("FAILED: {members} members: {}", failure.message.unwrap_or_default());
                println!("        data and logs are in {}", dir.display());
                failed += 1;
            }
        }
    }
    println!("kill9: {passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err(Failure::silent(1)) }
}

/// All rounds on one cluster. Gives the line that sums them up.
async fn trial(args: &Args, binary: &str, members: usize, dir: &Path) -> Result<String, Failure> {
    let rounds = usize::try_from(args.int("rounds")).unwrap_or(0);
    let (election_ms, wipe) = (args.int("election-ms"), args.bool("wipe"));
    let mut random = Random::new(args.int("seed").unsigned_abs() + members as u64);
    let mut cluster = Cluster::start(binary, members, args.int("port"), dir, election_ms).await?;
    let everyone: Vec<usize> = (0..members).collect();
    let acknowledged = Acknowledged::default();
    let writers: Vec<JoinHandle<()>> = (0..WRITERS)
        .map(|i| Ok(tokio::spawn(write(cluster.client(&everyone, Duration::from_secs(2))?, i, acknowledged.clone()))))
        .collect::<Result<_, Failure>>()?;
    let (mut waits, mut leaders_killed) = (Vec::new(), 0);
    for round in 0..rounds {
        sleep(Duration::from_millis(300 + random.below(700))).await;
        let leader = cluster.leader().await;
        let victim = match leader {
            Some(leader) if random.below(3) < 2 => leader,
            _ => usize::try_from(random.below(members as u64)).unwrap_or(0),
        };
        leaders_killed += usize::from(leader == Some(victim));
        cluster.kill(victim);
        let killed = Instant::now();
        if members == 1 {
            cluster.restart(victim)?;
        }
        if wipe {
            cluster.wipe(victim)?;
        }
        let others: Vec<usize> = everyone.iter().copied().filter(|&m| m != victim || members == 1).collect();
        let wait = answered(&cluster, &others, &format!("probe/{round}"), killed).await?;
        waits.push(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
        sleep(Duration::from_millis(random.below(500))).await;
        if members > 1 {
            cluster.restart(victim)?;
        }
        cluster.serving(victim, Duration::from_secs(30)).await?;
        eprintln!(
            "{members} members, round {round}: m{victim} killed, a leader answered after {} ms",
            wait.as_millis()
        );
    }
    for writer in &writers {
        writer.abort();
    }
    // Nothing may depend on what a process still remembers: kill them all before the last look.
    everyone.iter().for_each(|&m| cluster.kill(m));
    everyone.iter().try_for_each(|&m| cluster.restart(m))?;
    let expected = acknowledged.lock().expect("no writer panics with the lock").clone();
    for &member in &everyone {
        cluster.serving(member, Duration::from_secs(30)).await?;
        let lost = missing(&cluster.client(&[member], Duration::from_secs(30))?, &expected).await?;
        if let Some(first) = lost.first() {
            let (lost, all) = (lost.len(), expected.len());
            return Err(Failure::error(format!("m{member} lost {lost} of {all} acknowledged writes, {first:?} first")));
        }
    }
    let line = judge(members, &mut waits, leaders_killed, expected.len(), election_ms)?;
    Ok(if wipe { format!("{line}; each victim's disk was wiped") } else { line })
}

/// Writes one key after the other, and notes those acknowledged.
async fn write(client: Client, writer: usize, acknowledged: Acknowledged) {
    for number in 0u64.. {
        let key = format!("w{writer}/{number:010}");
        let request = PutRequest { key: key.clone().into(), value: key.clone().into(), ..Default::default() };
        match client.put(request).await {
            Ok(_) => drop(acknowledged.lock().expect("no writer panics with the lock").insert(key)),
            Err(_) => {
                client.disconnect().await;
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// How long after `since` a write succeeded at one of `members`.
async fn answered(cluster: &Cluster, members: &[usize], key: &str, since: Instant) -> Result<Duration, Failure> {
    let mut clients = Vec::new();
    for &member in members {
        clients.push(cluster.client(&[member], Duration::from_millis(300))?);
    }
    while since.elapsed() < Duration::from_secs(60) {
        for client in &clients {
            let request = PutRequest { key: key.to_owned().into(), ..Default::default() };
            if client.put(request).await.is_ok() {
                return Ok(since.elapsed());
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(Failure::error("no leader answered within a minute"))
}

/// Those of `expected` that a linearizable read does not find, or finds with another value.
async fn missing(client: &Client, expected: &BTreeSet<String>) -> Result<Vec<String>, Failure> {
    let mut found = BTreeSet::new();
    let mut key = b"w".to_vec();
    loop {
        let request =
            RangeRequest { key: key.clone().into(), range_end: "x".into(), limit: 10_000, ..Default::default() };
        let response = client.range(request).await?;
        let Some(last) = response.kvs.last() else { break };
        key = last.key.to_vec();
        key.push(0);
        let right = response.kvs.iter().filter(|kv| kv.key == kv.value);
        found.extend(right.map(|kv| String::from_utf8_lossy(&kv.key).into_owned()));
    }
    Ok(expected.difference(&found).cloned().collect())
}

/// Whether a leader answered soon enough often enough.
fn judge(
    members: usize,
    waits: &mut [u32],
    leaders_killed: usize,
    writes: usize,
    election_ms: i64,
) -> Result<String, Failure> {
    waits.sort_unstable();
    let within = |timeouts: i64| waits.iter().filter(|&&wait| i64::from(wait) <= timeouts * election_ms).count();
    let (three, six) = (within(3), within(6));
    let line = format!(
        "{members} members, {} killed ({leaders_killed} leaders): {writes} acknowledged writes, none lost; \
         a leader answered after p50 {} ms, max {} ms; {three} within 3 election timeouts, {six} within 6",
        waits.len(),
        percentile(waits, 50),
        waits.last().copied().unwrap_or(0),
    );
    // A single member has no election: only what it lost counts.
    let late = members > 1 && (six < waits.len() || three * 50 < waits.len() * 48);
    if late { Err(Failure::error(format!("too slow: {line}"))) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_slow_elections_of_fifty_are_borne_and_a_third_is_not() {
        let mut waits = vec![900; 48];
        waits.extend([5_900, 5_900]);
        assert!(judge(3, &mut waits, 30, 1, 1000).is_ok());
        waits.sort_unstable();
        waits[0] = 5_900;
        assert!(judge(3, &mut waits.clone(), 30, 1, 1000).is_err());
        assert!(judge(1, &mut waits.clone(), 30, 1, 1000).is_ok());
        waits[0] = 900;
        *waits.last_mut().unwrap() = 6_100;
        assert!(judge(5, &mut waits, 30, 1, 1000).is_err());
    }
}
