//! The applier over real files: when it makes durable what it applied.
#![cfg(feature = "server")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest};
use quorate_core::{Generation, Incarnation, LogIndex, NodeId, Term, watch};
use quorate_node::applier::{Applier, Config, Effects, FLUSH_BYTES, Input, Slices};
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
