//! Everything a Quorate member *does*, as pure machines: values in, values out.
//!
//! Nothing here performs I/O, reads a clock, draws entropy or starts a thread; the crate is `no_std` so that it cannot.
//! Three machines make a member, each driven by `node` in production and by `sim` under simulated faults:
//!
//! - [`replica::Replica`]: consensus (hand-written Raft), routing of requests, read waits, lease timing.
//! - [`store::Store`]: the replicated state; applies committed entries, answers reads of any kept revision.
//! - [`watch::WatchHub`]: matches applied events to watchers, bounded in bytes, exactly once and in order.
//!
//! Around them, [`format`] holds every byte format that is stored or sent between members.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
mod macros;

pub mod auth;
pub mod blob;
pub mod command;
pub mod entry;
pub mod error;
pub mod format;
pub mod mutant;
pub mod raft;
pub mod reach;
pub mod replica;
pub mod request;
pub mod rng;
pub mod rows;
pub mod store;
pub mod time;
mod tree;
pub mod types;
pub mod watch;

pub use blob::Blob;
pub use time::Instant;
pub use types::*;
