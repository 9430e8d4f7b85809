//! Under which rules a cluster is run: with users, with a quota, cleaning up by itself. Each in a share of the seeds.

use std::time::Duration;

use quorate_core::replica::AutoCompaction;

use super::{pick, stream};
use crate::swarm::Stream;

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// An administrator keeps changing users and roles, and clients log in.
    pub auth: bool,
    /// A session that is not used for so long is forgotten.
    pub session_ttl: Duration,
    /// The quota of history.
    pub quota_bytes: Option<u64>,
    /// How the cluster compacts by itself.
    pub auto_compaction: Option<AutoCompaction>,
    /// Whole crowds of leases run out at once.
    pub lease_storms: bool,
    /// What members apply is compared with what the log says.
    pub compared: bool,
}

impl Regime {
    /// That of `seed`.
    pub(super) fn draw(seed: u64) -> Self {
        let rng = &mut stream(seed, Stream::Regime, 0);
        let auth = rng.chance(1, 4);
        let long = rng.chance(1, 2);
        let short = Duration::from_millis(pick(rng, &[(1, 500), (2, 3_000), (1, 10_000)]));
        let quota = pick(rng, &[(1, 3_000), (2, 12_000), (1, 40_000)]);
        let quota_bytes = rng.chance(1, 6).then_some(quota);
        let period = AutoCompaction::Periodic(Duration::from_millis(pick(rng, &[(1, 300), (2, 3_000), (1, 12_000)])));
        let revisions = AutoCompaction::Revisions {
            keep: pick(rng, &[(1, 1), (1, 20), (2, 200)]),
            interval: Duration::from_millis(pick(rng, &[(1, 100), (2, 2_000)])),
        };
        let mode = if rng.chance(1, 2) { period } else { revisions };
        let auto_compaction = rng.chance(1, 5).then_some(mode);
        let lease_storms = rng.chance(1, 8);
        let sampled = rng.chance(1, 8);
        Self {
            auth,
            session_ttl: if long || !auth { Duration::from_secs(300) } else { short },
            quota_bytes,
            auto_compaction,
            lease_storms,
            compared: sampled || auth || quota_bytes.is_some() || auto_compaction.is_some() || lease_storms,
        }
    }

    /// Whether somebody looks after the cluster.
    #[must_use]
    pub fn has_operator(&self) -> bool {
        self.auth || self.quota_bytes.is_some() || self.auto_compaction.is_some() || self.lease_storms
    }
}
