//! How fast the checkers are: `cargo run --release -p quorate-jepsen --example speed`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use quorate_core::command::Command;
use quorate_core::request::{KeyRange, PutRequest, RangeRequest};
use quorate_core::rng::Rng;
use quorate_core::{Blob, Ttl};
use quorate_jepsen::history::{History, Op, Response};
use quorate_jepsen::model::Model;
use quorate_jepsen::{linearize, witness};

fn main() {
    for unknown in [0, 1] {
        let history = history(1_000_000, unknown);
        let began = Instant::now();
        let verdict = witness::check(&history).map(|witness| witness.kv.revision());
        let took = began.elapsed();
        println!("witness: 1,000,000 operations, {unknown} % of unknown outcome: {took:?}, {verdict:?}");
    }
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut logs: Vec<_> =
        fs::read_dir(testdata.join("jepsen")).expect("testdata").flatten().map(|e| e.path()).collect();
    logs.sort();
    let logs: Vec<_> = logs.iter().map(|log| fs::read_to_string(log).expect("a log")).collect();
    let began = Instant::now();
    for log in &logs {
        let calls = linearize::register::parse(log).expect("a Jepsen log");
        let _ = linearize::check(&linearize::register::Register, &calls, u64::MAX);
    }
    println!("linearize: {} Jepsen logs: {:?}", logs.len(), began.elapsed());
    for name in ["c10-ok", "c10-bad", "c50-ok", "c50-bad"] {
        let log = fs::read_to_string(testdata.join(format!("kv/{name}.txt"))).expect("a log");
        let calls = linearize::kv::parse(&log).expect("a kv log");
        let began = Instant::now();
        let verdict = linearize::check(&linearize::kv::Strings, &calls, u64::MAX).is_ok();
        println!("linearize: {name}: {:?}, linearizable: {verdict}", began.elapsed());
    }
}

/// Half puts, half reads, of 1,000 keys by 16 clients at a time.
fn history(operations: usize, unknown_percent: u64) -> History {
    let (mut rng, mut model, mut history) = (Rng::new(1), Model::new(Ttl(0)), History::new());
    let mut now = 0;
    while history.operations().count() < operations {
        let started: Vec<_> = (0..16)
            .map(|client| {
                let key = Blob::copy(format!("key{:04}", rng.below(1000)).as_bytes());
                let value = Blob::copy(&rng.next_u64().to_le_bytes());
                let op = if rng.chance(1, 2) {
                    let (lease, prev_kv, ignore_value, ignore_lease) = (None, rng.chance(1, 2), false, false);
                    Op::Put(PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease })
                } else {
                    Op::Range(RangeRequest::new(KeyRange::Key(key)))
                };
                now += 1;
                (history.invoke(client, now, op.clone()), op)
            })
            .collect();
        for (id, op) in started {
            now += 1;
            let response = match op {
                Op::Put(put) => Response::of(model.apply(&Command::Put(put)).expect("a put succeeds")),
                Op::Range(range) => model.range(&range).ok().map(Response::Range),
                _ => None,
            };
            if rng.chance(unknown_percent, 100) {
                history.unknown(id);
            } else {
                history.complete(id, now, response.expect("an answer"));
            }
        }
    }
    history
}
