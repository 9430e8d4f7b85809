//! A lease never ends before its time by any clock within the declared drift: not before its TTL has passed since the last
//! renewal that was answered was sent. And what is revoked stays revoked: nobody renews it afterwards. What is told of a
//! lease is true: see `lease/left.rs`.
//!
//! The other bound, that a lease which nobody renews does end, is demanded when the run is over, of what the log says:
//! `Reference::ended` in `reference.rs`, under the same name.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::mutant::{self, Mutant};
use quorate_core::store::LeaseChange;
use quorate_core::{LeaseId, Ttl};

use super::{Verdict, Violation};
use crate::clock::DRIFT_PPM_MAX;
use crate::heap::{Nanos, SECOND};

mod left;

pub use left::Asker;
use left::Left;

#[derive(Clone, Debug, Default)]
struct Life {
    /// It must live until then: TTL after the last answered renewal was *sent*.
    until: Nanos,
    /// When it ended on the member that was first to know.
    ended: Option<Nanos>,
    /// For how long it was granted, every time; once, if members chose its ID.
    granted: BTreeSet<Ttl>,
    /// When the member knew that was first to know of that.
    since: Option<Nanos>,
    /// By any leader's clock it has run out then, whatever leaders were asked so far; unless one takes over.
    latest: Nanos,
}

/// All leases, as clients and members tell of them.
#[derive(Debug)]
pub struct Leases {
    /// The life of a lease ID that was granted last.
    lives: BTreeMap<LeaseId, Life>,
    /// Someone asked to revoke it, or to grant it more than once: it may end at any time.
    excused: BTreeSet<LeaseId>,
    /// When its revocation was answered.
    revoked: BTreeMap<LeaseId, Nanos>,
    /// Leases that ran out.
    pub expired: u64,
    left: Left,
}

impl Leases {
    /// Leases of a cluster with this election timeout: that much longer they live whenever a leader takes over.
    #[must_use]
    pub fn new(election: Nanos) -> Self {
        Self {
            lives: BTreeMap::new(),
            excused: BTreeSet::new(),
            revoked: BTreeMap::new(),
            expired: 0,
            left: Left::new(election),
        }
    }

    /// A client is about to ask for the lease to be revoked, or to be granted under this ID.
    pub fn meddled(&mut self, id: LeaseId) {
        self.excused.insert(id);
    }

    /// A client that asked at `sent` was told at `now` that the lease lives for `ttl`.
    ///
    /// # Errors
    /// It had ended already, or before the time just promised.
    pub fn promised(&mut self, id: LeaseId, ttl: Ttl, sent: Nanos) -> Verdict {
        if let Some(revoked) = self.revoked.get(&id)
            && *revoked < sent
            && !has_many_lives(id)
        {
            let text = format!("lease {id} was renewed at {sent} although its revocation was answered at {revoked}");
            return Err(Violation::new("lease", text));
        }
        let life = self.lives.entry(id).or_default();
        if !life.granted.is_empty() && !life.granted.contains(&ttl) {
            let text = format!("lease {id} is said to live for {ttl} s, it was granted for {:?}", life.granted);
            return Err(Violation::new("lease", text));
        }
        let fastest = nanos(ttl) / (1_000_000 + DRIFT_PPM_MAX as u64) * 1_000_000;
        life.until = life.until.max(sent + fastest);
        self.judge(id)
    }

    /// Its revocation was answered.
    pub fn revoked(&mut self, id: LeaseId, now: Nanos) {
        self.revoked.insert(id, now);
    }

    /// A member applied this at `now`.
    ///
    /// # Errors
    /// A lease ended early.
    pub fn changed(&mut self, change: &LeaseChange, now: Nanos) -> Verdict {
        match change {
            LeaseChange::Granted(lease) => {
                let life = self.lives.entry(lease.id).or_default();
                life.granted.insert(lease.ttl);
                life.since.get_or_insert(now);
                Ok(())
            }
            LeaseChange::Revoked(id) => {
                let life = self.lives.entry(*id).or_default();
                if life.ended.is_none() {
                    life.ended = Some(now);
                    self.expired += u64::from(!self.excused.contains(id));
                }
                self.judge(*id)
            }
            LeaseChange::Checkpointed(..) | LeaseChange::Kept(_) => Ok(()),
        }
    }

    /// Whether nobody doubts that the lease lives at `now`: not before what was promised has passed.
    #[must_use]
    pub fn surely_lives(&self, id: LeaseId, now: Nanos) -> bool {
        !self.excused.contains(&id) && self.lives.get(&id).is_some_and(|life| now < life.until)
    }

    /// Whether the lease had ended before this time, for good.
    #[must_use]
    pub fn is_over(&self, id: LeaseId, before: Nanos) -> bool {
        let ended = self.lives.get(&id).and_then(|life| life.ended);
        !has_many_lives(id) && ended.is_some_and(|ended| ended < before)
    }

    /// Forgets the leases that had ended before this time: nobody tells of them any more.
    pub fn forget(&mut self, before: Nanos) {
        let mut gone: Vec<LeaseId> = self.lives.keys().copied().collect();
        gone.retain(|id| self.is_over(*id, before));
        for id in gone {
            self.lives.remove(&id);
            self.excused.remove(&id);
            self.revoked.remove(&id);
        }
        self.left.forget(&self.lives);
    }

    fn judge(&self, id: LeaseId) -> Verdict {
        let life = &self.lives[&id];
        match life.ended {
            Some(ended) if ended < life.until && !self.excused.contains(&id) && !mutant::is_on(Mutant::O13) => {
                let text = format!("lease {id} ended at {ended}, promised to live until {}", life.until);
                Err(Violation::new("lease", text))
            }
            _ => Ok(()),
        }
    }
}

/// IDs that clients choose are small and are granted again and again.
fn has_many_lives(id: LeaseId) -> bool {
    id.0 < 1_000
}

fn nanos(ttl: Ttl) -> Nanos {
    u64::try_from(ttl.0).expect("granted TTLs are positive") * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LeaseId = LeaseId(5_000);

    #[test]
    fn an_early_end_is_noticed_whichever_is_known_first() {
        let mut leases = Leases::new(SECOND);
        leases.promised(ID, Ttl(10), SECOND).unwrap();
        assert!(leases.changed(&LeaseChange::Revoked(ID), 10 * SECOND).is_err());
        let mut leases = Leases::new(SECOND);
        leases.changed(&LeaseChange::Revoked(ID), 10 * SECOND).unwrap();
        assert!(leases.promised(ID, Ttl(10), SECOND).is_err());
        let mut leases = Leases::new(SECOND);
        leases.promised(ID, Ttl(10), SECOND).unwrap();
        leases.changed(&LeaseChange::Revoked(ID), 11 * SECOND).unwrap();
    }

    #[test]
    fn a_renewal_after_the_answer_to_a_revocation_is_noticed() {
        let mut leases = Leases::new(SECOND);
        leases.promised(ID, Ttl(10), 0).unwrap();
        leases.meddled(ID);
        leases.changed(&LeaseChange::Revoked(ID), 1).unwrap();
        leases.revoked(ID, 2);
        leases.promised(ID, Ttl(10), 1).unwrap();
        assert!(leases.promised(ID, Ttl(10), 3).is_err());
    }
}
