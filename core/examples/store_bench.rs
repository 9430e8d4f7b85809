//! What applying costs: puts a second by batch size, and memory per key. `cargo run --release --example store_bench`

use std::hint::black_box;
use std::ops::ControlFlow;

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{KeyRange, PutRequest, RangeRequest};
use quorate_core::rows::{MemRows, Rows};
use quorate_core::store::Store;
use quorate_core::{Blob, Incarnation, LogIndex, NodeId, Term};

/// Keeps nothing: puts read nothing back, so what grows is the store's own memory.
struct NoRows;

impl Rows for NoRows {
    fn get(&self, _: &[u8]) -> Option<Blob> {
        None
    }
    fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {}
}

/// The result of `work` and the processor time it took, in seconds: a busy machine does not change it much.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let spent = || {
        let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap() as f64 / 1e9
    };
    let start = spent();
    let result = work();
    (result, spent() - start)
}

fn put(index: u64, key: &str, value: &Blob) -> Entry {
    let origin = Origin { member: NodeId(2), incarnation: Incarnation(1), sequence: index };
    let command = Command::Put(PutRequest {
        key: Blob::copy(key.as_bytes()),
        value: value.clone(),
        lease: None,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    });
    let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Nobody }));
    Entry { term: Term(1), index: LogIndex(index), payload }
}

/// Keys as Kubernetes has them, in no order.
fn key(n: u64) -> String {
    format!("/registry/pods/namespace-{:03}/pod-{:012x}", n % 100, n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16)
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn main() {
    let count = 400_000_u64;
    let value = Blob::from(vec![b'v'; 256]);

    // First, while nothing was freed yet.
    let mut store = Store::load(NodeId(1), &NoRows).unwrap();
    let before = resident_bytes();
    let mut at = 0;
    let mut grow = |store: &mut Store, keys: std::ops::RangeInclusive<u64>| {
        let (start, len) = (resident_bytes(), keys.end() - keys.start() + 1);
        for n in keys {
            at += 1;
            drop(store.apply(&[put(at, &key(n), &value)], &NoRows));
        }
        (resident_bytes() - start) as f64 / len as f64
    };
    let bytes = grow(&mut store, 1..=1_000_000);
    println!("{bytes:.0} B a key of {} B", key(1).len());
    for revision in 2..=4 {
        println!("{:.0} B more a key with revision {revision}", grow(&mut store, 1..=1_000_000));
    }
    println!("{} MB in all", (resident_bytes() - before) >> 20);
    drop(store);

    for batch in [1_usize, 8, 64, 512] {
        let mut store = Store::load(NodeId(1), &NoRows).unwrap();
        let new: Vec<Entry> = (1..=count).map(|n| put(n, &key(n), &value)).collect();
        let known: Vec<Entry> = (1..=count).map(|n| put(count + n, &key(n), &value)).collect();
        let mut run = |entries: &[Entry]| {
            let ((), seconds) = timed(|| {
                for entries in entries.chunks(batch) {
                    let published = store.view(); // Readers hold the last state while the next is made.
                    black_box(store.apply(entries, &NoRows));
                    drop(published);
                }
            });
            count as f64 / seconds
        };
        let (new, known) = (run(&new), run(&known));
        println!("batches of {batch}: {new:.0} puts/s of new keys, {known:.0} of known ones");
    }

    let mut rows = MemRows::default();
    let mut store = Store::load(NodeId(1), &rows).unwrap();
    let entries: Vec<Entry> = (1..=count).map(|n| put(n, &key(n), &value)).collect();
    let ((), seconds) = timed(|| {
        for entries in entries.chunks(64) {
            let batch = store.apply(entries, &rows);
            rows.write(&batch.writes);
        }
    });
    println!("with rows in memory, batches of 64: {:.0} puts/s", count as f64 / seconds);
    let (_, seconds) = timed(|| black_box(Store::load(NodeId(1), &rows).unwrap()));
    println!("load: {:.0} records/s", count as f64 / seconds);
    let request = RangeRequest::new(KeyRange::From("\0".into()));
    let (found, seconds) = timed(|| store.view().range(&rows, &request).unwrap());
    println!("list: {:.0} keys/s", found.kvs.len() as f64 / seconds);
}
