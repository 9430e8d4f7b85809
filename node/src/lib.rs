//! A real Quorate member: quorate-core's machines over files, fjall, tokio and tonic.
//!
//! Modules outside feature `server` touch nothing of the world by themselves; the simulator runs the same code.

// Mistakes are planted in simulations only.
#[cfg(feature = "server")]
const _: () =
    assert!(!quorate_core::mutant::PLANTABLE, "a server is never built with quorate-core's feature `mutants`");
// Rare branches are counted there only.
#[cfg(feature = "server")]
const _: () = assert!(!quorate_core::reach::COUNTED, "a server is never built with quorate-core's feature `marks`");

pub mod applier;
#[cfg(feature = "server")]
pub mod auth;
pub mod backend;
pub mod bolt;
pub mod boot;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod datadir;
pub mod disk;
pub mod driver;
#[cfg(feature = "server")]
pub mod files;
#[cfg(feature = "server")]
mod gateway;
#[cfg(feature = "server")]
pub mod given;
#[cfg(feature = "server")]
pub mod go;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod launch;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod member;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
pub mod restore;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod url;
pub mod vouch;
pub mod wal;
pub mod wire;
