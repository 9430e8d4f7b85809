//! The witness check accepts every correct history and sees each way in which one is spoilt.

mod support;

use quorate_jepsen::witness::check;
use support::{BUSY, Shape, history};

#[test]
fn correct_histories_pass() {
    for seed in 0..400 {
        for shape in [BUSY, Shape { unique_values: true, seen_percent: 100, unknown_percent: 20, ..BUSY }] {
            let world = history(seed, shape);
            match check(&world.history) {
                Ok(_) => {}
                Err(failure) => panic!("seed {seed}: {failure}"),
            }
        }
    }
}
