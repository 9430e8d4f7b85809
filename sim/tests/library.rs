//! The simulator as a library: the example's service beside a simulated cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use madsim::time::sleep;
use quorate_core::request::{KeyRange, PutRequest, RangeRequest};
use quorate_core::{Revision, Ttl};
use quorate_jepsen::history::{Op, Response};
use quorate_sim::cluster::{Client, Cluster, Config, Ended, Failure, Watch, simulate};
use quorate_sim::schedule::Fault;

#[path = "../examples/ticket_office.rs"]
mod ticket_office;

use ticket_office::{Clerk, evening, sold_twice};

#[test]
fn careful_clerks_sell_no_seat_twice_whatever_happens_to_the_cluster() {
    for seed in 0..4 {
        let tickets = evening(seed, Clerk::Careful);
        assert_eq!(sold_twice(&tickets), None, "evening {seed}");
        assert!(tickets.len() >= 50, "{} tickets in evening {seed}", tickets.len());
    }
}

#[test]
fn the_simulation_sees_what_careless_clerks_do() {
    assert!((0..20).any(|seed| sold_twice(&evening(seed, Clerk::Careless)).is_some()));
}

#[test]
fn an_evening_is_the_same_every_time() {
    let one = evening(3, Clerk::Careful);
    assert_eq!(one, evening(3, Clerk::Careful));
}

#[test]
fn a_cluster_that_makes_no_sense_is_refused_and_one_of_five_survives_two() {
    let config = |members| Config { seed: 5, members, schedule: Vec::new() };
    simulate(5, move || async move {
        assert!(Cluster::start(config(0)).is_err());
        assert!(Cluster::start(config(8)).is_err());
        let cluster = Cluster::start(config(5)).expect("a sound configuration");
        sleep(Duration::from_secs(3)).await;
        let client = cluster.client().with_patience(Duration::from_secs(20));
        client.put("a", "1").await.expect("all members are there");
        let led = cluster.leader().expect("somebody leads");
        cluster.strike(Fault::kill(led, Duration::from_secs(30)));
        cluster.strike(Fault::kill((led + 1) % 5, Duration::from_secs(30)));
        sleep(Duration::from_secs(5)).await;
        let mut value = None;
        for _ in 0..5 {
            value = client.get("a").await.ok().flatten().or(value);
        }
        assert_eq!(value.expect("three of five are enough").value.0, "1");
        assert_ne!(cluster.leader(), Some(led));
        cluster.finish().await.expect("every promise is kept");
    });
}

/// A copy of all keys, kept by a watch.
#[derive(Default)]
struct Mirror {
    keys: BTreeMap<String, String>,
    revision: Revision,
    begun_anew: usize,
}

impl Mirror {
    /// Reads everything, and watches from there on.
    async fn begin(&mut self, client: &Client) -> Watch {
        loop {
            let all = RangeRequest::new(KeyRange::From("a".into()));
            let Ok(Response::Range(list)) = client.call(Op::Range(all)).await else { continue };
            self.keys = list.kvs.iter().map(|kv| (text(&kv.key.0), text(&kv.value.0))).collect();
            self.revision = list.revision;
            let next = Revision(list.revision.0 + 1);
            return client.watch(KeyRange::From("a".into()), Some(next)).await.expect("the cluster goes on");
        }
    }

    /// Follows until the watch ends.
    async fn follow(mut self, client: Client) -> Self {
        let mut watch = self.begin(&client).await;
        loop {
            match watch.next().await {
                Ok(changes) => {
                    for change in changes {
                        assert!(change.kv.mod_revision >= self.revision, "{change:?} after {}", self.revision);
                        self.revision = change.kv.mod_revision;
                        let key = text(&change.kv.key.0);
                        let before = if change.deleted {
                            self.keys.remove(&key)
                        } else {
                            self.keys.insert(key, text(&change.kv.value.0))
                        };
                        assert_eq!(change.prev_kv.map(|kv| text(&kv.value.0)), before);
                    }
                }
                Err(Ended::Compacted(_)) => {
                    self.begun_anew += 1;
                    watch = self.begin(&client).await;
                }
                Err(Ended::Finished) => return self,
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("we wrote text")
}

#[test]
fn a_watch_goes_on_wherever_it_breaks_off() {
    for seed in 0..4 {
        simulate(seed, move || async move {
            let cluster = Cluster::start(Config { seed, ..Config::default() }).expect("a sound configuration");
            let mirror = madsim::task::spawn(Mirror::default().follow(cluster.client()));
            let client = cluster.client();
            let mut written = BTreeMap::new();
            for n in 0..200 {
                let (key, value) = (format!("k{}", n % 7), n.to_string());
                while client.put(key.clone(), value.clone()).await.is_err() {}
                written.insert(key, value);
                match n {
                    40 => cluster.strike(Fault::kill(0, Duration::from_millis(300))),
                    80 => cluster.strike(Fault::power_cut(1, Duration::from_millis(500))),
                    120 => cluster.strike(Fault::isolate(2, Duration::from_secs(1))),
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
            let totals = cluster.finish().await.expect("every promise is kept");
            assert!(totals.watch_events >= 200, "{} responses were judged", totals.watch_events);
            let mut mirror = mirror.await.expect("no mirror panics");
            assert_eq!(mirror.keys.remove("k000").as_deref(), Some("probe 4"), "the last thing that `finish` wrote");
            assert_eq!(mirror.keys, written, "seed {seed}");
        });
    }
}

#[test]
fn a_watch_of_what_was_compacted_says_so_and_one_that_is_dropped_is_over() {
    simulate(5, || async {
        let cluster = Cluster::start(Config::default()).expect("a sound configuration");
        sleep(Duration::from_secs(3)).await;
        let client = cluster.client();
        let mut other = client.watch(KeyRange::Key("b".into()), None).await.expect("the cluster is there");
        drop(client.watch(KeyRange::Key("a".into()), Some(Revision(2))).await.expect("the cluster is there"));
        for n in 0..5 {
            client.put("a", n.to_string()).await.expect("nothing fails");
        }
        client.call(Op::Compact(Revision(4))).await.expect("nothing fails");
        let mut late =
            client.watch(KeyRange::Key("a".into()), Some(Revision(2))).await.expect("it is told on the watch");
        assert_eq!(late.next().await, Err(Ended::Compacted(Revision(4))));
        client.put("b", "1").await.expect("nothing fails");
        let changes = other.next().await.expect("it goes on");
        assert_eq!(changes.iter().map(|change| text(&change.kv.value.0)).collect::<Vec<_>>(), ["1"]);
        cluster.finish().await.expect("every promise is kept");
        assert_eq!(late.next().await, Err(Ended::Finished));
        assert_eq!(client.put("a", "late").await, Err(Failure::Unknown));
    });
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive() {
    simulate(6, || async {
        let cluster = Cluster::start(Config::default()).expect("a sound configuration");
        sleep(Duration::from_secs(3)).await;
        let client = cluster.client();
        let lease = client.grant(Ttl(3)).await.expect("nothing fails");
        let put = PutRequest {
            key: "alive".into(),
            value: "yes".into(),
            lease: Some(lease),
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        client.call(Op::Put(put)).await.expect("nothing fails");
        let mut watch = client.watch(KeyRange::Key("alive".into()), None).await.expect("the cluster is there");
        cluster.strike(Fault::kill(cluster.leader().expect("somebody leads"), Duration::from_secs(1)));
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            if let Ok(left) = client.keep_alive(lease).await {
                assert_eq!(left, Some(Ttl(3)));
            }
        }
        assert!(client.get("alive").await.expect("all is well again").is_some());
        let changes = watch.next().await.expect("it goes on");
        assert!(changes.iter().all(|change| change.deleted && change.prev_kv.is_some()), "{changes:?}");
        assert_eq!(client.keep_alive(lease).await, Ok(None), "it is gone");
        let totals = cluster.finish().await.expect("every promise is kept");
        assert_eq!((totals.leases_expired, totals.renewals > 5), (1, true));
    });
}
