//! A service of one's own, tested against a simulated Quorate cluster: two clerks sell the same seats, while members are
//! killed and cut off. `cargo run --release -p quorate-sim --example ticket_office`
//!
//! A seat is sold by a txn that demands that nobody has it yet. A careless clerk looks first and writes then: the simulation
//! finds the seat that it sells twice.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::time::sleep;
use quorate_core::Revision;
use quorate_core::request::{Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest};
use quorate_sim::cluster::{Client, Cluster, Config, Failure, simulate};
use quorate_sim::schedule::Fault;

/// Seats in the house.
const SEATS: usize = 60;

/// How a clerk sells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clerk {
    /// By a txn.
    Careful,
    /// Looks whether the seat is free, and then takes it.
    Careless,
}

/// Tickets that were handed out: seat and buyer.
pub(crate) type Tickets = Arc<Mutex<Vec<(usize, String)>>>;

impl Clerk {
    /// Sells `seat` to `buyer`; whether that got it. An unknown outcome is cleared up by looking.
    async fn sell(self, client: &Client, seat: usize, buyer: &str) -> bool {
        let key = format!("seat/{seat}");
        loop {
            let sold = match self {
                Self::Careful => client.txn(take(&key, buyer)).await.map(|txn| txn.succeeded),
                Self::Careless => match client.get(key.clone()).await {
                    Ok(Some(_)) => Ok(false),
                    Ok(None) => client.put(key.clone(), buyer.to_owned()).await.map(|()| true),
                    Err(failure) => Err(failure),
                },
            };
            match sold {
                Ok(sold) => return sold,
                Err(Failure::Unknown) => {
                    if let Ok(Some(kv)) = client.get(key.clone()).await {
                        return kv.value.0 == buyer.as_bytes();
                    }
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// Puts the key if there is none.
fn take(key: &str, buyer: &str) -> TxnRequest {
    let put = PutRequest {
        key: key.to_owned().into_bytes().into(),
        value: buyer.to_owned().into_bytes().into(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let range = KeyRange::Key(key.to_owned().into_bytes().into());
    let free = Compare { range, result: CompareResult::Equal, target: CompareTarget::Create(Revision(0)) };
    TxnRequest { compare: vec![free], success: vec![RequestOp::Put(put)], failure: Vec::new() }
}

async fn work(clerk: Clerk, name: &'static str, client: Client, tickets: Tickets) {
    for seat in 0..SEATS {
        let buyer = format!("{name}'s customer {seat}");
        if clerk.sell(&client, seat, &buyer).await {
            tickets.lock().expect("one task at a time").push((seat, buyer));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// One evening at the office; the tickets that were sold.
///
/// # Panics
/// If the cluster broke a promise.
pub(crate) fn evening(seed: u64, clerk: Clerk) -> Vec<(usize, String)> {
    simulate(seed, move || async move {
        let cluster = Cluster::start(Config { seed, ..Config::default() }).expect("a sound configuration");
        let tickets = Tickets::default();
        let clerks =
            ["Ada", "Ben"].map(|name| madsim::task::spawn(work(clerk, name, cluster.client(), tickets.clone())));
        for round in 0..4_u64 {
            sleep(Duration::from_millis(900 + 100 * (seed % 5))).await;
            let member = cluster.leader().unwrap_or(0);
            cluster.strike(match (seed + round) % 3 {
                0 => Fault::kill(member, Duration::from_millis(700)),
                1 => Fault::isolate(member, Duration::from_secs(2)),
                _ => Fault::power_cut(member, Duration::from_millis(500)),
            });
        }
        for clerk in clerks {
            clerk.await.expect("no clerk panics");
        }
        let totals = cluster.finish().await.expect("the cluster keeps its promises");
        assert!(totals.kills + totals.power_cuts > 0, "the nemesis was there");
        let sold = tickets.lock().expect("one task at a time");
        sold.clone()
    })
}

/// A seat that was sold more than once.
#[must_use]
pub(crate) fn sold_twice(tickets: &[(usize, String)]) -> Option<usize> {
    (0..SEATS).find(|seat| tickets.iter().filter(|(sold, _)| sold == seat).count() > 1)
}

#[allow(dead_code, reason = "the test that includes this file has a main of its own")]
fn main() {
    for clerk in [Clerk::Careful, Clerk::Careless] {
        let twice = (0..20).find_map(|seed| sold_twice(&evening(seed, clerk)).map(|seat| (seed, seat)));
        match twice {
            Some((seed, seat)) => println!("{clerk:?} clerks sold seat {seat} twice in evening {seed}"),
            None => println!("{clerk:?} clerks sold no seat twice in 20 evenings"),
        }
    }
}
