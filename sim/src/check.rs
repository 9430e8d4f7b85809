//! Oracles: what must hold whatever happens, one file per promise of the whole cluster.

use std::fmt;

pub mod audit;
pub mod cache;
pub mod consensus;
pub mod leadership;
pub mod lease;
pub mod level;
pub mod lock;
pub mod membership;
pub mod reference;
pub mod space;
pub mod track;
pub mod watch;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which oracle noticed.
    pub oracle: &'static str,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// A violation noticed by `oracle`.
    #[must_use]
    pub fn new(oracle: &'static str, text: impl Into<String>) -> Self {
        Self { oracle, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.text)
    }
}

/// What every oracle gives.
pub type Verdict = Result<(), Violation>;
