//! When leases run out, by the leader's own monotonic clock. (etcd: lessor; semantics.md section 7)
//!
//! Every member keeps the table of leases, fed by what its store applied; only the leader keeps time. The store alone
//! decides what exists: the clock merely proposes, by [`LeaseClock::due`] and [`LeaseClock::checkpoints`].
//!
//! **Invariant:** a lease is never due before its TTL has passed on this clock since it was last granted or renewed
//! here, or since this member took over. A new leader starts from the checkpointed remaining time or the full TTL, plus
//! one election timeout: as long as its predecessor may go on answering keep-alives without knowing better.
//! (`replica::lease_clock::tests::agrees_with_the_model`)

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::store::{LeaseChange, LeaseRecord};
use crate::{Instant, LeaseId, Ttl};

/// What does not change while a clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Added to every lease when this member takes over: one election timeout.
    pub grace: Duration,
    /// Leases longer than this have their remaining TTL written down this often. (etcd: 5 min)
    pub checkpoint_interval: Duration,
}

/// The answer to a keep-alive. (etcd: LeaseKeepAlive)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed.
    Renewed {
        /// The granted TTL, which counts from now again.
        ttl: Ttl,
        /// A checkpoint is in force or under way: answer the client only once `LeaseCheckpoint([(id, None)])`, proposed
        /// after this, is applied. Otherwise a next leader would count from the checkpoint, that is too early.
        uncheckpoint: bool,
    },
    /// It has run out and waits for its revocation: answer TTL 0 once that is applied.
    Expired,
    /// There is no such lease: answer TTL 0.
    Unknown,
    /// This member does not keep time: ask the leader.
    NotLeading,
}

/// All leases of one member and, while it leads, when they run out.
#[derive(Clone, Debug)]
pub struct LeaseClock {
    config: Config,
    leases: BTreeMap<LeaseId, Held>,
    leading: bool,
    /// Leases not yet given out by [`LeaseClock::due`]. Empty unless leading.
    expiries: BTreeSet<(Instant, LeaseId)>,
    /// Leases longer than the interval and not given out as due. Empty unless leading.
    checkpoints: BTreeSet<(Instant, LeaseId)>,
}

/// One lease. The instants mean something only while leading.
#[derive(Clone, Debug)]
struct Held {
    ttl: Ttl,
    /// The applied checkpoint.
    remaining: Option<Ttl>,
    /// A checkpoint was given out and not yet seen applied.
    checkpointing: bool,
    expiry: Instant,
    checkpoint: Instant,
    /// Given out by [`LeaseClock::due`]: its revocation is proposed.
    due: bool,
}

impl LeaseClock {
    /// The clock of a member that does not lead, with the leases its store holds.
    #[must_use]
    pub fn new(config: Config, leases: impl IntoIterator<Item = LeaseRecord>) -> Self {
        let mut clock = Self {
            config,
            leases: BTreeMap::new(),
            leading: false,
            expiries: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
        };
        clock.restore(leases);
        clock
    }

    /// Replaces all leases: a snapshot was installed.
    ///
    /// # Panics
    /// If this member leads: a leader never installs a snapshot.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = LeaseRecord>) {
        assert!(!self.leading, "a leader's state is never replaced");
        let held = |record: LeaseRecord| (record.lease.id, Held::new(record.lease.ttl, record.remaining));
        self.leases = leases.into_iter().map(held).collect();
    }

    /// Takes note of what an applied entry did to a lease.
    pub fn change(&mut self, now: Instant, change: &LeaseChange) {
        match change {
            LeaseChange::Granted(lease) => {
                self.unqueue(lease.id);
                self.leases.insert(lease.id, Held::new(lease.ttl, None));
                self.restart(now, lease.id);
            }
            LeaseChange::Revoked(id) => {
                self.unqueue(*id);
                self.leases.remove(id);
            }
            LeaseChange::Checkpointed(id, remaining) => {
                if let Some(held) = self.leases.get_mut(id) {
                    held.remaining = *remaining;
                    held.checkpointing = false;
                }
            }
        }
        self.check();
    }

    /// This member leads *and has applied the first entry of its own term*, so that it knows every lease an earlier
    /// leader granted. Time starts for all of them. Leading already, it changes nothing.
    pub fn promote(&mut self, now: Instant) {
        if self.leading {
            return;
        }
        self.leading = true;
        let (mut expiries, mut checkpoints) = (Vec::new(), Vec::new());
        for (&id, held) in &mut self.leases {
            (held.due, held.checkpointing) = (false, false);
            held.expiry = now + self.config.grace + span(held.remaining.unwrap_or(held.ttl));
            held.checkpoint = now + self.config.checkpoint_interval;
            expiries.push((held.expiry, id));
            if span(held.ttl) > self.config.checkpoint_interval {
                checkpoints.push((held.checkpoint, id));
            }
        }
        self.expiries = expiries.into_iter().collect();
        self.checkpoints = checkpoints.into_iter().collect();
        self.check();
    }

    /// This member no longer leads: it stops keeping time.
    pub fn demote(&mut self) {
        self.leading = false;
        self.expiries.clear();
        self.checkpoints.clear();
    }

    /// Whether this member keeps time.
    #[must_use]
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// A client keeps the lease alive. O(log n).
    pub fn renew(&mut self, now: Instant, id: LeaseId) -> Renewal {
        if !self.leading {
            return Renewal::NotLeading;
        }
        let Some(held) = self.leases.get(&id) else {
            return Renewal::Unknown;
        };
        // Once it may have been proposed for revocation, a "renewed" would be a lie.
        if held.due || held.expiry <= now {
            return Renewal::Expired;
        }
        let renewed = Renewal::Renewed { ttl: held.ttl, uncheckpoint: held.remaining.is_some() || held.checkpointing };
        self.unqueue(id);
        self.restart(now, id);
        self.check();
        renewed
    }

    /// The TTL as granted; `None` if there is no such lease.
    #[must_use]
    pub fn granted(&self, id: LeaseId) -> Option<Ttl> {
        self.leases.get(&id).map(|held| held.ttl)
    }

    /// Whole seconds left, rounded down; 0 once expired. `None` if there is no such lease or this member does not lead.
    #[must_use]
    pub fn remaining(&self, now: Instant, id: LeaseId) -> Option<Ttl> {
        let held = self.leases.get(&id).filter(|_| self.leading)?;
        Some(Ttl(i64::try_from(held.expiry.since(now).as_secs()).unwrap_or(i64::MAX)))
    }

    /// All leases, those with the least time left first while leading, by ID otherwise. (etcd: LeaseLeases)
    #[must_use]
    pub fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<(Instant, LeaseId)> = self.leases.iter().map(|(&id, held)| (held.expiry, id)).collect();
        if self.leading {
            ids.sort_unstable();
        }
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// At most `max` leases that have run out, earliest first: to be proposed as one `LeaseExpire`.
    ///
    /// Each is given out once for as long as this member leads. Its own log keeps the proposal that long; proposing it
    /// again could hit a lease that a client granted anew under the same ID between the two. A proposal that was *not*
    /// appended is returned by [`LeaseClock::refused`].
    #[must_use]
    pub fn due(&mut self, now: Instant, max: usize) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(&(expiry, id)) = self.expiries.first()
            && expiry <= now
        {
            self.unqueue(id);
            self.leases.get_mut(&id).expect("every queued lease exists").due = true;
            due.push(id);
        }
        self.check();
        due
    }

    /// A proposal of [`LeaseClock::due`] was refused and will never take effect: these are due again.
    pub fn refused(&mut self, ids: &[LeaseId]) {
        for &id in ids {
            if let Some(held) = self.leases.get_mut(&id).filter(|held| self.leading && held.due) {
                held.due = false;
                self.expiries.insert((held.expiry, id));
            }
        }
        self.check();
    }

    /// At most `max` checkpoints to propose as one `LeaseCheckpoint`: whole seconds left, rounded up. A lost proposal
    /// does no harm: the next one follows an interval later.
    #[must_use]
    pub fn checkpoints(&mut self, now: Instant, max: usize) -> Vec<(LeaseId, Option<Ttl>)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&(at, id)) = self.checkpoints.first()
            && at <= now
        {
            self.checkpoints.pop_first();
            let held = self.leases.get_mut(&id).expect("every queued lease exists");
            let left = held.expiry.since(now);
            if left.is_zero() {
                continue; // Due: its revocation is next.
            }
            held.checkpoint = now + self.config.checkpoint_interval;
            held.checkpointing = true;
            self.checkpoints.insert((held.checkpoint, id));
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            // Rounding up and the grace of a takeover may not make it longer than granted.
            taken.push((id, Some(Ttl(i64::try_from(seconds).unwrap_or(i64::MAX)).min(held.ttl))));
        }
        self.check();
        taken
    }

    /// When [`LeaseClock::due`] or [`LeaseClock::checkpoints`] has something next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let expiry = self.expiries.first().map_or(Instant::FAR, |&(at, _)| at);
        let checkpoint = self.checkpoints.first().map_or(Instant::FAR, |&(at, _)| at);
        expiry.min(checkpoint)
    }

    /// Counts the full TTL from now, if this member keeps time. The lease must not be queued.
    fn restart(&mut self, now: Instant, id: LeaseId) {
        let Some(held) = self.leases.get_mut(&id).filter(|_| self.leading) else {
            return;
        };
        held.expiry = now + span(held.ttl);
        held.checkpoint = now + self.config.checkpoint_interval;
        self.expiries.insert((held.expiry, id));
        if span(held.ttl) > self.config.checkpoint_interval {
            self.checkpoints.insert((held.checkpoint, id));
        }
    }

    fn unqueue(&mut self, id: LeaseId) {
        if let Some(held) = self.leases.get(&id) {
            self.expiries.remove(&(held.expiry, id));
            self.checkpoints.remove(&(held.checkpoint, id));
        }
    }

    fn check(&self) {
        let (queued, leases) = (self.expiries.len(), self.leases.len());
        assert!(queued <= leases, "{queued} expiries of {leases} leases");
        assert!(self.checkpoints.len() <= leases, "{} checkpoints of {leases} leases", self.checkpoints.len());
        assert!(self.leading || queued == 0, "only a leader keeps time");
    }

    /// Every promise about the state, in O(n).
    ///
    /// # Panics
    /// If one of them is broken.
    pub fn check_deep(&self) {
        self.check();
        for (&id, held) in &self.leases {
            let queued = self.expiries.contains(&(held.expiry, id));
            assert_eq!(queued, self.leading && !held.due, "lease {id} must be queued or given out");
        }
        for (_, id) in self.expiries.iter().chain(&self.checkpoints) {
            assert!(self.leases.contains_key(id), "lease {id} is queued but gone");
        }
    }
}

impl Held {
    fn new(ttl: Ttl, remaining: Option<Ttl>) -> Self {
        Self { ttl, remaining, checkpointing: false, expiry: Instant(0), checkpoint: Instant(0), due: false }
    }
}

/// A TTL as a span; the store admits none below 1 s or above 9,000,000,000 s, and any other number is harmless here.
fn span(ttl: Ttl) -> Duration {
    Duration::from_secs(u64::try_from(ttl.0).unwrap_or(0))
}
