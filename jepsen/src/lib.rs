//! Histories of a key-value store's clients, a sequential model of etcd's API, and checkers of what the clients were told.
//!
//! Everything here is pure: values in, verdict out; no clocks, threads, files or randomness.

pub mod history;
pub mod linearize;
pub mod model;
pub mod watch;
pub mod witness;
