//! TLS for the server and its tools: from files to rustls configurations, connections with and without, and the names in
//! certificates.
//!
//! The only place that knows rustls and its one provider of cryptography, aws-lc-rs.

mod client;
mod files;
mod name;
mod server;

pub use client::{Connector, Trust};
pub use files::{Files, TlsError, Versions};
pub use name::common_name;
pub use server::{Accepted, Acceptor};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What all configurations are built with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
