//! Deterministic simulation of whole Quorate clusters: seeded faults, oracles, reproducible traces.

#[cfg(not(madsim))]
compile_error!(
    "quorate-sim needs `--cfg madsim`, which .cargo/config.toml sets for every target; a RUSTFLAGS variable in the \
     environment (or another `build.rustflags`) replaces that setting: unset it"
);

pub mod backend;
pub mod call;
pub mod check;
pub mod clock;
pub mod disk;
pub mod heap;
pub mod member;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
pub mod report;
pub mod run;
pub mod schedule;
pub mod swarm;
pub mod trace;
pub mod wire;
pub mod workload;
pub mod world;
