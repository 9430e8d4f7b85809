//! The applier over real files: when it makes durable what it applied, and what it leaves of a snapshot that is given up.
#![cfg(feature = "server")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, FEATURE_LEVEL, Payload};
use quorate_core::format::codec;
use quorate_core::replica::{self, SnapshotId};
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use quorate_core::store::TooNew;
use quorate_core::{Blob, FeatureLevel, Generation, Incarnation, LogIndex, NodeId, Term, watch};
use quorate_node::applier::{Applier, Config, Effects, FLUSH_BYTES, Input, OpenError, Slices};
use quorate_node::backend::Backend as _;
use quorate_node::backend::fjall::{FjallBackends, Options};

fn config() -> Config {
    let watch = watch::Config {
        progress_interval: Duration::from_secs(600),
        stream_bytes_max: 1 << 20,
        ring_bytes_max: 1 << 20,
        history_bytes_max: 1 << 20,
        seed: 1,
    };
    Config {
        member: NodeId(1),
        watch,
        flush_entries: u64::MAX,
        session_ttl: Duration::from_secs(300),
        sessions_since: LogIndex(0),
        slices: Slices::default(),
        understands: FEATURE_LEVEL,
    }
}

/// A txn that would put a value of 1 MiB if a key existed that does not.
fn in_vain(index: LogIndex) -> Entry {
    let put = PutRequest {
        key: "k".into(),
        value: vec![0; 1 << 20].into(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let target = CompareTarget::Version(0);
    let exists = Compare { range: KeyRange::Key("none".into()), result: CompareResult::Greater, target };
    let txn = TxnRequest { compare: vec![exists], success: vec![RequestOp::Put(put)], failure: Vec::new() };
    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
    let envelope = Envelope { origin, command: Command::Txn(txn), author: Author::Nobody };
    Entry { term: Term(1), index, payload: Payload::Command(codec::encode(&envelope)) }
}

/// The log, in memory and on disk, goes back to the last durable point: it must not grow without bound where nothing is
/// written.
#[test]
fn commands_that_write_no_rows_are_durable_after_a_bounded_number_of_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { memtable_bytes: 8 << 20, cache_bytes: 1 << 20 };
    let backends = FjallBackends::new(folder.path(), options).unwrap();
    let mut applier = Applier::open(config(), backends, Generation(1)).unwrap();
    let (mut index, mut inbox) = (LogIndex(0), VecDeque::new());
    for round in 1..=3 {
        let before = applier.backend().durable();
        let mut bytes = 0;
        while bytes <= FLUSH_BYTES {
            let durable = applier.backend().durable();
            assert!(durable == before || bytes > FLUSH_BYTES / 2, "flushed in round {round} after {bytes} bytes");
            index = index.next();
            let entry = in_vain(index);
            bytes += 1 << 20;
            inbox.push_back(Input::Apply(vec![entry]));
            applier.turn(quorate_core::Instant(index.0), &mut inbox, &mut Effects::default()).unwrap();
        }
        assert_eq!(applier.applied(), index);
        let until = Instant::now() + Duration::from_secs(30);
        while applier.backend().durable() == before {
            assert!(Instant::now() < until, "nothing was made durable in round {round}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let behind = index.0 - applier.backend().durable().0;
        assert!(behind <= 3, "{behind} commands are left out");
    }
}

#[test]
fn nothing_is_left_of_a_snapshot_that_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let backends =
        FjallBackends::new(folder.path(), Options { memtable_bytes: 8 << 20, cache_bytes: 1 << 20 }).unwrap();
    let mut applier = Applier::open(config(), backends, Generation(1)).unwrap();
    let mut turn = |input| {
        let mut effects = Effects::default();
        applier.turn(quorate_core::Instant(1), &mut VecDeque::from([input]), &mut effects).unwrap();
        let written = |input: &replica::Input| matches!(input, replica::Input::SnapshotWritten { .. });
        effects.driver.iter().filter(|input| written(input)).count()
    };
    let folders = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let id = |number| SnapshotId { member: NodeId(2), session: Incarnation(1), number };
    let chunk = |number, sequence: u64, last| Input::WriteSnapshot {
        snapshot: id(number),
        sequence,
        rows: vec![(Blob::copy(&[1, u8::try_from(sequence).unwrap()]), "row".into())],
        last,
    };
    // In the middle.
    assert_eq!(turn(chunk(1, 0, false)), 1);
    assert_eq!(folders(), ["1", "2.filling"]);
    turn(Input::AbandonSnapshot(id(1)));
    assert_eq!(folders(), ["1"]);
    // All of it was stored.
    assert_eq!(turn(chunk(2, 0, false)) + turn(chunk(2, 1, true)), 2);
    assert_eq!(folders(), ["1", "2"]);
    turn(Input::AbandonSnapshot(id(2)));
    assert_eq!(folders(), ["1"]);
    // Late, when the next one has begun: that goes on.
    assert_eq!(turn(chunk(3, 0, false)), 1);
    turn(Input::AbandonSnapshot(id(2)));
    assert_eq!(turn(chunk(3, 1, true)), 1);
    assert_eq!(folders(), ["1", "2"]);
}

/// Puts `bytes` bytes that differ from entry to entry.
fn put(index: LogIndex, bytes: usize) -> Entry {
    let put = PutRequest {
        key: format!("k{}", index.0 % 10).into_bytes().into(),
        value: vec![u8::try_from(index.0 % 251).unwrap(); bytes].into(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
    let envelope = Envelope { origin, command: Command::Put(put), author: Author::Nobody };
    Entry { term: Term(1), index, payload: Payload::Command(codec::encode(&envelope)) }
}

/// (etcd#20650: both at once, and the database was corrupt.)
#[test]
fn a_snapshot_takes_the_place_of_a_state_that_is_being_defragmented() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let open = |folder: &tempfile::TempDir, generation| {
        let options = Options { memtable_bytes: 1 << 20, cache_bytes: 1 << 20 };
        Applier::open(config(), FjallBackends::new(folder.path(), options).unwrap(), Generation(generation)).unwrap()
    };
    let turn = |applier: &mut Applier<FjallBackends>, input| {
        let mut effects = Effects::default();
        applier.turn(quorate_core::Instant(1), &mut VecDeque::from([input]), &mut effects).unwrap();
        effects
    };
    let entries = |last| (1..=last).map(|index| put(LogIndex(index), 10_000)).collect();
    let (mut lags, mut leads) = (open(&folders[0], 1), open(&folders[1], 1));
    turn(&mut lags, Input::Apply(entries(600)));
    turn(&mut leads, Input::Apply(entries(700)));
    let hash = leads.published().hash;

    let job = turn(&mut lags, Input::Defragment).defragment.unwrap();
    let snapshot = SnapshotId { member: NodeId(2), session: Incarnation(1), number: 1 };
    std::thread::scope(|scope| {
        let job = scope.spawn(job);
        for sequence in 0.. {
            let read = turn(&mut leads, Input::ReadSnapshot { snapshot, to: NodeId(1) }).driver.remove(0);
            let replica::Input::SnapshotRead { rows, last, .. } = read else { panic!("{read:?}") };
            turn(&mut lags, Input::WriteSnapshot { snapshot, sequence, rows, last });
            if last {
                break;
            }
        }
        turn(&mut lags, Input::Restore { index: LogIndex(700), generation: Generation(2) });
        job.join().unwrap().unwrap();
    });
    let is_whole = |applier: &Applier<FjallBackends>| {
        let published = applier.published();
        let all = RangeRequest::new(KeyRange::From("k".into()));
        let found = published.view.range(&published.rows, &all).unwrap();
        assert_eq!((published.applied, published.hash, found.kvs.len()), (LogIndex(700), hash, 10));
        applier.backend().verify()().unwrap();
    };
    is_whole(&lags);
    // The state of before, and whoever still worked on it, left nothing behind.
    drop(lags);
    is_whole(&open(&folders[0], 2));
    let left: Vec<_> = std::fs::read_dir(folders[0].path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["2"]);
}

fn raise(index: LogIndex, level: u32) -> Entry {
    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
    let command = Command::RaiseFeatureLevel(FeatureLevel(level));
    let envelope = Envelope { origin, command, author: Author::Member };
    Entry { term: Term(1), index, payload: Payload::Command(codec::encode(&envelope)) }
}

/// An entry, a snapshot and a state of a level beyond it: nothing of them is applied, shown or changed.
#[test]
fn a_build_that_is_too_old_stops_and_leaves_what_a_newer_one_needs() {
    let folder = tempfile::tempdir().unwrap();
    let open = |generation, understands| {
        let options = Options { memtable_bytes: 8 << 20, cache_bytes: 1 << 20 };
        let backends = FjallBackends::new(folder.path(), options).unwrap();
        let config = Config { understands, flush_entries: 1, ..config() };
        Applier::open(config, backends, Generation(generation))
    };
    let is_too_new = |error: &OpenError| {
        matches!(error, OpenError::TooNew(TooNew { level: FeatureLevel(99), understood: FEATURE_LEVEL }))
    };
    let turn = |applier: &mut Applier<FjallBackends>, inputs: Vec<Input>| {
        let mut effects = Effects::default();
        applier.turn(quorate_core::Instant(1), &mut inputs.into(), &mut effects).map(|()| effects)
    };
    let (index, understands) = (LogIndex(1), FeatureLevel(99));
    let mut old = open(1, FEATURE_LEVEL).unwrap();
    assert!(is_too_new(&turn(&mut old, vec![Input::Apply(vec![raise(index, 99)])]).err().unwrap()));
    assert_eq!((old.published().applied, old.published().view.feature_level()), (LogIndex(0), FeatureLevel(0)));
    drop(old);

    let mut new = open(1, understands).unwrap();
    turn(&mut new, vec![Input::Apply(vec![raise(index, 99)])]).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while new.backend().durable() < index {
        assert!(Instant::now() < until, "nothing was made durable");
        std::thread::sleep(Duration::from_millis(10));
    }
    let snapshot = SnapshotId { member: NodeId(2), session: Incarnation(1), number: 1 };
    let read = turn(&mut new, vec![Input::ReadSnapshot { snapshot, to: NodeId(1) }]).unwrap();
    let Some(replica::Input::SnapshotRead { rows, last: true, .. }) = read.driver.into_iter().next() else {
        panic!("one chunk holds everything");
    };
    drop(new);
    assert!(is_too_new(&open(1, FEATURE_LEVEL).err().unwrap()));
    assert_eq!(open(1, understands).unwrap().published().view.feature_level(), understands);

    std::fs::remove_dir_all(folder.path()).unwrap();
    let mut old = open(1, FEATURE_LEVEL).unwrap();
    turn(&mut old, vec![Input::WriteSnapshot { snapshot, sequence: 0, rows, last: true }]).unwrap();
    assert!(is_too_new(&turn(&mut old, vec![Input::Restore { index, generation: Generation(2) }]).err().unwrap()));
    drop(old);
    assert_eq!(open(2, understands).unwrap().applied(), index);
}
