//! quoratectl: drives a Quorate or etcd cluster, with etcdctl's commands, flags, variables, outputs and exit codes.

pub mod client;
pub mod clock;
pub mod commands;
pub mod failure;
pub mod flags;
pub mod json;
pub mod print;
pub mod prompt;
pub mod session;
pub mod table;
pub mod watcher;
pub mod words;

pub use quorate_node::go;

/// The version of etcd whose behaviour this release claims.
pub const ETCD_VERSION: &str = "3.7.1";
