//! The feature level of a real member, as its log and its state have it, and what becomes of a member that is too old.
#![cfg(feature = "server")]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test file uses what it needs")]
mod process;

use std::time::{Duration, Instant};

use process::{Node, cluster};
use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, FEATURE_LEVEL, Payload, Record, Recovered};
use quorate_core::format::codec;
use quorate_core::{FeatureLevel, Incarnation, watch};
use quorate_node::applier::{Applier, Config, Effects, Input, Slices};
use quorate_node::backend::Backend as _;
use quorate_node::backend::fjall::{FjallBackends, Options};
use quorate_node::datadir::DataDir;
use quorate_node::wal::{self, Wal};

fn stopped(folder: &tempfile::TempDir) -> Node {
    let mut node = cluster(folder.path(), 1).remove(0);
    node.start();
    node.wait_ready(1);
    node.terminate();
    node
}

fn levels_raised(recovered: &Recovered) -> Vec<FeatureLevel> {
    let level = |entry: &Entry| {
        let Payload::Command(command) = &entry.payload else { return None };
        match codec::decode(command.0.clone()) {
            Ok(Envelope { command: Command::RaiseFeatureLevel(level), .. }) => Some(level),
            _ => None,
        }
    };
    recovered.entries.iter().filter_map(level).collect()
}

/// The entry by which a leader of another build raises the level beyond this one, as the next one of this log.
fn raised_beyond(recovered: &Recovered) -> Entry {
    let last = recovered.entries.last().expect("a member that served has entries");
    let origin = Origin { member: recovered.identity.member, incarnation: Incarnation(1), sequence: 1 };
    let command = Command::RaiseFeatureLevel(FeatureLevel(99));
    let envelope = Envelope { origin, command, author: Author::Member };
    Entry { term: last.term, index: last.index.next(), payload: Payload::Command(codec::encode(&envelope)) }
}

/// It ends by itself, and says why; what a newer version needs is all there.
fn assert_refuses(node: &mut Node) {
    let before = node.log().len();
    node.start();
    assert_eq!(node.wait_end(Duration::from_secs(30)), Some(1));
    let text = format!(
        "the cluster's feature level is 99, and this version understands levels up to {FEATURE_LEVEL}: start this member \
         with a version that understands 99"
    );
    let log = node.log();
    assert!(log[before..].contains(&text), "{log}");
    assert!(!log[before..].contains("moved aside") && !log[before..].contains("a promise of the code"), "{log}");
}

#[test]
fn a_member_alone_raises_the_level_to_what_it_understands_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = stopped(&folder);
    node.start();
    node.wait_ready(2);
    node.terminate();
    let (_, recovered) =
        Wal::open(DataDir::open(&node.data_dir()).unwrap().wal().unwrap(), wal::Options::default()).unwrap();
    assert_eq!(levels_raised(&recovered), [FEATURE_LEVEL]);
}

#[test]
fn a_member_that_is_too_old_for_its_log_stops_and_one_too_old_for_its_state_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = stopped(&folder);
    let data_dir = DataDir::open(&node.data_dir()).unwrap();
    let (mut log, recovered) = Wal::open(data_dir.wal().unwrap(), wal::Options::default()).unwrap();
    let raise = raised_beyond(&recovered);
    log.append(&[Record::Entry(raise.clone())]).unwrap();
    log.sync().unwrap();
    drop((log, data_dir));
    assert_refuses(&mut node);
    assert_refuses(&mut node);

    let data_dir = DataDir::open(&node.data_dir()).unwrap();
    let (log, recovered) = Wal::open(data_dir.wal().unwrap(), wal::Options::default()).unwrap();
    assert_eq!(levels_raised(&recovered), [FEATURE_LEVEL, FeatureLevel(99)]);
    let config = Config {
        member: recovered.identity.member,
        watch: watch::Config {
            progress_interval: Duration::from_secs(600),
            stream_bytes_max: 1 << 20,
            ring_bytes_max: 1 << 20,
            history_bytes_max: 1 << 20,
            seed: 1,
        },
        flush_entries: 1,
        session_ttl: Duration::from_secs(300),
        sessions_since: raise.index,
        slices: Slices::default(),
        understands: FeatureLevel(99),
    };
    let backends = FjallBackends::new(&data_dir.kv(), Options::of(config.member)).unwrap();
    let mut newer = Applier::open(config, backends, recovered.generation).unwrap();
    let entries = recovered.entries.iter().filter(|entry| newer.applied() < entry.index && entry.index <= raise.index);
    let entries = entries.cloned().collect();
    newer.turn(quorate_core::Instant(1), &mut [Input::Apply(entries)].into(), &mut Effects::default()).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while newer.backend().durable() < raise.index {
        assert!(Instant::now() < until, "nothing was made durable");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop((newer, log, data_dir));
    assert_refuses(&mut node);
}
