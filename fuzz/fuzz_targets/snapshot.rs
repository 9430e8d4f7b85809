#![no_main]

// Not in the library: core's tests include that, and know nothing of `node`.
#[path = "../src/snapshot.rs"]
mod snapshot;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snapshot::snapshot(bytes));
