//! Leases have no revisions of their own: each use must lie between a grant and the next end.

use std::collections::BTreeMap;

use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::{LeaseId, Revision};

use super::base::Base;
use super::times::Times;
use super::{Author, Witness};
use crate::history::{End, History, Op, OpId, Operation, Response};
use crate::model::Change;

/// What is known of one lease ID. A position is the store's revision right after the event.
#[derive(Clone, Debug, Default)]
struct Life {
    /// Positions of answered grants; ascending.
    grants: Vec<Revision>,
    /// A grant of unknown outcome happened after this position, if at all.
    open: Option<Revision>,
    /// How many grants there may have been.
    granted_times: usize,
    /// When the first answered grant was answered, as a turn.
    granted: Option<u32>,
    /// Positions of answered revokes; ascending.
    revoked: Vec<Revision>,
    /// Positions of those ends that the replay has come to believe in; ascending.
    believed: Vec<Revision>,
    /// The latest turn at which something was invoked that found the lease alive.
    alive: Option<u32>,
    /// The first forgotten operation, by the turn at which it ended, that did not find the lease after it was granted.
    missed: Option<(u32, OpId)>,
}

/// All leases that were ever spoken of. Leases without keys may run out unseen.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives {
    named: BTreeMap<LeaseId, Life>,
    /// A grant of unknown outcome that left the name to the store happened after this position, if at all: its lease may have
    /// any name, and somebody may have found it in a list.
    nameless: Option<Revision>,
}

impl Lives {
    pub(super) fn gather(history: &History, base: &Base, times: &Times) -> Self {
        let mut lives = base.lives.clone();
        for (id, operation) in base.unsettled(history) {
            lives.note(operation, times.floor(id));
        }
        for life in lives.named.values_mut() {
            life.sort();
        }
        lives
    }

    /// Notes what an operation tells, which was invoked when revision `floor` was the newest known one.
    pub(super) fn note(&mut self, operation: &Operation, floor: Revision) {
        match (&operation.op, &operation.end) {
            (_, End::Returned(Response::LeaseGrant(lease, revision))) => {
                let life = self.named.entry(lease.id).or_default();
                life.grants.push(*revision);
                life.granted_times += 1;
                let ended = operation.ended.map(|m| m.turn);
                life.granted = life.granted.min(ended).or(ended);
            }
            (Op::LeaseGrant { id: Some(lease), .. }, End::Open) => {
                let life = self.named.entry(*lease).or_default();
                life.open = Some(life.open.map_or(floor, |open| open.min(floor)));
                life.granted_times += 1;
            }
            (Op::LeaseGrant { id: None, .. }, End::Open) => {
                self.nameless = Some(self.nameless.map_or(floor, |open| open.min(floor)));
            }
            (Op::LeaseRevoke(lease), End::Returned(response)) => {
                let life = self.named.entry(*lease).or_default();
                life.revoked.push(response.revision());
                life.alive = life.alive.max(Some(operation.invoked.turn));
            }
            _ => {}
        }
    }

    /// Remembers of an operation that will be forgotten that it did not find its lease. (Not of txns: they may have met any of
    /// several states, which are forgotten, too.)
    pub(super) fn missed(&mut self, id: OpId, operation: &Operation) {
        let (End::Refused(Error::LeaseNotFound), Some(ended)) = (&operation.end, operation.ended) else { return };
        let lease = match &operation.op {
            Op::Put(put) => put.lease,
            Op::LeaseRevoke(lease) => Some(*lease),
            _ => None,
        };
        let life = lease.and_then(|lease| self.named.get_mut(&lease));
        if let Some(life) = life.filter(|life| life.granted.is_some_and(|granted| granted < operation.invoked.turn)) {
            life.missed = life.missed.min(Some((ended.turn, id))).or(Some((ended.turn, id)));
        }
    }

    /// A forgotten operation that did not find its lease, which was found alive later.
    pub(super) fn wrongly_missed(&self) -> Option<OpId> {
        self.named.values().find_map(|life| {
            let (ended, id) = life.missed?;
            (life.granted_times == 1 && life.alive > Some(ended)).then_some(id)
        })
    }

    /// Forgets the positions that nothing after the last of them asks for.
    pub(super) fn shorten(&mut self) {
        for life in self.named.values_mut() {
            life.sort();
            for positions in [&mut life.grants, &mut life.revoked, &mut life.believed] {
                positions.drain(..positions.len().saturating_sub(1));
            }
        }
    }

    /// Forgets the leases that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(LeaseId) -> bool) {
        self.named.retain(|lease, _| keep(*lease));
    }

    /// Whether a key can have been attached to `lease` at `revision`.
    pub(super) fn may_attach(&self, lease: LeaseId, revision: Revision) -> bool {
        self.granted_between(lease, revision, Revision(revision.0 - 1)) || mutant::is_on(Mutant::J05)
    }

    /// Whether a revoke can have succeeded that was answered with `revision`.
    pub(super) fn may_revoke(&self, lease: LeaseId, revision: Revision) -> bool {
        self.granted_between(lease, revision, revision)
    }

    fn granted_between(&self, lease: LeaseId, revision: Revision, latest: Revision) -> bool {
        let life = self.named.get(&lease);
        let is_new = life.is_none_or(|life| life.granted_times == 0 && life.ended_before(revision).is_none());
        life.is_some_and(|life| life.granted_between(revision, latest))
            || (is_new && self.nameless.is_some_and(|floor| floor <= latest))
    }

    /// The replay believes that `lease` ended at `revision`, its newest.
    pub(super) fn believe(&mut self, lease: LeaseId, revision: Revision) {
        self.named.entry(lease).or_default().believed.push(revision);
    }

    /// The replay does not believe in the last end of `lease` any more.
    pub(super) fn doubt(&mut self, lease: LeaseId) {
        self.named.entry(lease).or_default().believed.pop();
    }

    /// Notes when leases were found alive by the writes of a complete replay.
    pub(super) fn with_uses(mut self, history: &History, witness: &Witness) -> Self {
        for (author, revision) in witness.authors() {
            self.used(history, witness, author, revision);
        }
        self
    }

    /// Notes which leases were found alive by what `author` wrote at `revision`.
    pub(super) fn used(&mut self, history: &History, witness: &Witness, author: Author, revision: Revision) {
        let Author::Op(id) = author else { return };
        for change in witness.kv.changes(revision) {
            if let Change::Put { kv, .. } = change
                && let Some(lease) = kv.lease
            {
                let life = self.named.entry(lease).or_default();
                life.alive = life.alive.max(Some(history.get(id).invoked.turn));
            }
        }
    }

    /// Whether anybody may have granted the lease at all.
    pub(super) fn was_granted(&self, lease: LeaseId) -> bool {
        self.nameless.is_some() || self.named.get(&lease).is_some_and(|life| life.granted_times > 0)
    }

    /// Whether the lease may have been missing at some time from `invoked` on and before `ended`.
    pub(super) fn may_miss(&self, lease: LeaseId, invoked: u32, ended: u32) -> bool {
        self.named.get(&lease).is_none_or(|life| {
            let alive =
                life.granted.is_some_and(|granted| granted < invoked) && life.alive.is_some_and(|turn| turn > ended);
            !(life.granted_times == 1 && alive) || mutant::is_on(Mutant::J06)
        })
    }
}

impl Life {
    fn sort(&mut self) {
        self.grants.sort_unstable();
        self.revoked.sort_unstable();
    }

    /// Whether it can have been granted after its last end before `revision` and not after `latest`.
    fn granted_between(&self, revision: Revision, latest: Revision) -> bool {
        let ended = self.ended_before(revision);
        let granted = self.grants[..self.grants.partition_point(|grant| *grant <= latest)].last();
        granted.is_some_and(|grant| Some(*grant) >= ended) || self.open.is_some_and(|floor| floor <= latest)
    }

    /// Its last end before `revision`.
    fn ended_before(&self, revision: Revision) -> Option<Revision> {
        before(&self.revoked, revision).max(before(&self.believed, revision))
    }
}

/// The last position before `revision`.
fn before(positions: &[Revision], revision: Revision) -> Option<Revision> {
    positions[..positions.partition_point(|position| *position < revision)].last().copied()
}
