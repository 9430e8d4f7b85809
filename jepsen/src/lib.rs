//! Histories of a key-value store's clients, a sequential model of etcd's API, and checkers of what the clients were told.
//!
//! Everything here is pure: values in, verdict out; no clocks, threads, files or randomness.
//!
//! - [`history`]: what clients asked, when, and what they were told.
//! - [`witness`]: whether that is what one store would have told, found by revisions, a million operations a second.
//! - [`watch`]: whether watchers were told of everything that happened, in order and once.
//! - [`model`]: the sequential store itself, also for tests of others.
//! - [`auth`]: who may do what, to hold a store of users and roles against.
//! - [`linearize`]: the same question for objects whose answers carry no revisions: locks, registers.
//!
//! Here one client's put is acknowledged and another one, asking later, is told that there is nothing:
//!
//! ```
//! use quorate_core::request::{KeyRange, PutRequest, PutResult, RangeRequest, RangeResult};
//! use quorate_core::{Blob, Revision};
//! use quorate_jepsen::history::{History, Op, Response};
//! use quorate_jepsen::witness::{self, Rule};
//!
//! let put = PutRequest {
//!     key: Blob::from("motto"),
//!     value: Blob::from("calm"),
//!     lease: None,
//!     prev_kv: false,
//!     ignore_value: false,
//!     ignore_lease: false,
//! };
//! let mut history = History::new();
//! let write = history.invoke(1, 1_000, Op::Put(put));
//! history.complete(write, 2_000, Response::Put(PutResult { revision: Revision(2), prev_kv: None }));
//! assert!(witness::check(&history).is_ok());
//!
//! let read = history.invoke(2, 3_000, Op::Range(RangeRequest::new(KeyRange::Key(Blob::from("motto")))));
//! let nothing = RangeResult { revision: Revision(1), kvs: vec![], more: false, count: 0 };
//! history.complete(read, 4_000, Response::Range(nothing));
//! let failure = witness::check(&history).unwrap_err();
//! assert_eq!(failure.violation().rule, Rule::RealTime);
//! assert_eq!(
//!     failure.to_string(),
//!     "RealTime: revision 2 was known before #1 was invoked, yet its answer is of revision 1\n  \
//!      #0 client 1: put b\"motto\" = b\"calm\" -> revision 2 (1.000 us .. 2.000 us)\n  \
//!      #1 client 2: range b\"motto\" -> revision 1, count 0 (3.000 us .. 4.000 us)"
//! );
//! ```

pub mod auth;
pub mod history;
pub mod linearize;
pub mod model;
pub mod watch;
pub mod witness;
