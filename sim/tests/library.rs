//! The simulator as a library: the example's service beside a simulated cluster.

use std::time::Duration;

use quorate_sim::cluster::{Cluster, Config, simulate};
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
        madsim::time::sleep(Duration::from_secs(3)).await;
        let client = cluster.client().with_patience(Duration::from_secs(20));
        client.put("a", "1").await.expect("all members are there");
        let led = cluster.leader().expect("somebody leads");
        cluster.strike(Fault::kill(led, Duration::from_secs(30)));
        cluster.strike(Fault::kill((led + 1) % 5, Duration::from_secs(30)));
        madsim::time::sleep(Duration::from_secs(5)).await;
        let mut value = None;
        for _ in 0..5 {
            value = client.get("a").await.ok().flatten().or(value);
        }
        assert_eq!(value.expect("three of five are enough").value.0, "1");
        assert_ne!(cluster.leader(), Some(led));
        cluster.finish().await.expect("every promise is kept");
    });
}
