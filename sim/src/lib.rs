//! Deterministic simulation of whole Quorate clusters: seeded faults, oracles, reproducible traces.

#[cfg(not(madsim))]
compile_error!(
    "quorate-sim needs `--cfg madsim`, which .cargo/config.toml sets for every target; a RUSTFLAGS variable in the \
     environment (or another `build.rustflags`) replaces that setting: unset it"
);

pub mod backend;
pub mod clock;
pub mod disk;
pub mod heap;
pub mod network;
pub mod schedule;
pub mod swarm;
pub mod trace;
