//! Deterministic simulation of whole Quorate clusters: seeded faults, oracles, reproducible traces.
//!
//! Tests of other services get a cluster in their own simulation: [`cluster`].
//!
//! How to add to it:
//! - a **fault**: [`schedule::Fault`], `swarm/faults.rs` says the rest;
//! - a **workload** on keys: [`workload::Generator::operation`] and `Op` of `quorate_jepsen`, whose model predicts every
//!   field of the answer; a call that the model does not know: `workload::client::Subject` (what is asked), [`call::Rpc`]
//!   (the handler), [`wire`] (its protobuf), `world/clients.rs` (what is learned from the answer);
//! - an **oracle**: a file in [`check`] with a paragraph of what it promises, fed from `world/actions.rs` (what members
//!   do), `world/machine.rs` (what can be said between two turns) or `world/finale.rs` (the whole run);
//! - a **mutant**, to show that the oracle sees: `quorate_core::mutant`.
//!
//! Draw from a stream of [`swarm::Stream`] that nobody else draws from: then old seeds keep their meaning elsewhere.

#[cfg(not(madsim))]
compile_error!(
    "quorate-sim needs `--cfg madsim`, which .cargo/config.toml sets for every target; a RUSTFLAGS variable in the \
     environment (or another `build.rustflags`) replaces that setting: unset it"
);

pub mod backend;
pub mod call;
pub mod causality;
pub mod check;
pub mod chronicle;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod heap;
pub mod member;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
pub mod page;
pub mod report;
pub mod run;
pub mod schedule;
pub mod script;
pub mod shrink;
pub mod swarm;
pub mod trace;
pub mod wire;
pub mod workload;
pub mod world;

pub use cluster::Cluster;
