//! Open files: how many this process may have, and what for.
//!
//! A member that cannot open the next file of its log ends. So connections get a fixed part of what the system allows, and
//! wait to be accepted beyond that, however many of them idle.

use std::sync::{Arc, LazyLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// For the log, the way to peers and all that is not counted below. (etcd: the same number)
const OWN: usize = 150;
/// Tables that are kept open, at most. (fjall's default)
const TABLES_MAX: usize = 900;
/// Two generations of the state are open while one takes over from the other.
const GENERATIONS: usize = 2;
/// However low the limit is, every listener takes in so many connections: those of a cluster's members, and some.
const CONNECTIONS_MIN: usize = 32;
/// Beyond any machine's means.
const LIMIT_MAX: usize = 1 << 24;

/// What the files a process may have open are divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tables of one generation of the applied state.
    pub tables: usize,
    /// Connections of clients, on all their listeners together.
    pub clients: usize,
    /// Connections on each listener that is for others: members, and who reads metrics.
    pub others: usize,
}

/// This process's budget. The first call raises its limit as far as it may: only programs that use select(2) need a low one.
pub fn budget() -> Budget {
    static BUDGET: LazyLock<Budget> = LazyLock::new(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        Budget::of(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIMIT_MAX))
    });
    *BUDGET
}

impl Budget {
    fn of(limit: usize) -> Self {
        let limit = limit.min(LIMIT_MAX);
        let tables = (limit / 4).clamp(10, TABLES_MAX);
        let connections = limit.saturating_sub(OWN + GENERATIONS * tables).max(limit / 4);
        // Two listeners that are for others are usual: each has an eighth.
        let others = (connections / 8).max(CONNECTIONS_MIN);
        let clients = (connections - connections / 4).max(CONNECTIONS_MIN);
        Self { tables, clients, others }
    }
}

/// Whose connections a listener takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Those of clients, who share theirs among all listeners of this kind.
    Clients,
    /// Those of others: each listener has its own.
    Others,
}

impl Share {
    /// The places of a listener's connections: one is held by each of them.
    pub(crate) fn places(self) -> Arc<Semaphore> {
        static CLIENTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(budget().clients)));
        match self {
            Self::Clients => Arc::clone(&CLIENTS),
            Self::Others => Arc::new(Semaphore::new(budget().others)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_enough_for_the_log_and_the_state() {
        assert_eq!(Budget::of(1024), Budget { tables: 256, clients: 272, others: 45 });
        for limit in [256, 512, 1024, 4096, 65_536, 1 << 20, usize::MAX] {
            let Budget { tables, clients, others } = Budget::of(limit);
            let left = limit - clients - 2 * others;
            assert!(left >= OWN.min(limit / 2), "{limit}: {left} left");
            assert!(limit < 1024 || left >= OWN + GENERATIONS * tables, "{limit}: {left} left for {tables} tables");
        }
        // The fewest that work at all still answer somebody.
        assert_eq!(Budget::of(64), Budget { tables: 16, clients: 32, others: 32 });
    }
}
