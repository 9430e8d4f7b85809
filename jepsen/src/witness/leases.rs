//! Leases have no revisions of their own: each use must lie between a grant and the next end.

use std::collections::BTreeMap;

use quorate_core::{LeaseId, Revision};

use super::times::Times;
use super::{Author, Rule, Violation, Witness};
use crate::history::{End, History, Op, OpId, Response};
use crate::model::Change;

/// What is known of one lease ID. A position is the store's revision right after the event.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Positions of answered grants; ascending.
    grants: Vec<Revision>,
    /// Grants of unknown outcome happened after these positions, if at all.
    open: Vec<Revision>,
    /// When the first answered grant was answered, as a turn.
    granted: Option<u32>,
    /// Positions of revokes and expiries; ascending.
    ends: Vec<Revision>,
    /// Revisions that attached a key.
    uses: Vec<Revision>,
    /// The latest turn at which something was invoked that found the lease alive.
    alive: Option<u32>,
}

pub(super) type Lives = BTreeMap<LeaseId, Life>;

/// Whether each use and each answered revoke of a lease found it alive. Leases without keys may run out unseen.
pub(super) fn check(history: &History, times: &Times, witness: &Witness) -> Result<Lives, Violation> {
    let mut lives = gather(history, times);
    for (author, revision) in witness.authors.iter().zip((2..).map(Revision)) {
        match author {
            Author::Expiry(lease) => lives.entry(*lease).or_default().ends.push(revision),
            Author::Op(id) => uses(&mut lives, history, *id, witness.kv.changes(revision)),
        }
    }
    for (lease, life) in &mut lives {
        life.grants.sort_unstable();
        life.ends.sort_unstable();
        for revision in &life.uses {
            if !life.granted_between(*revision, Revision(revision.0 - 1)) {
                let author = usize::try_from(revision.0 - 2).ok().and_then(|i| witness.authors.get(i));
                let ops: Vec<OpId> = author.into_iter().filter_map(op).collect();
                let what = format!("revision {revision} attached a key to lease {lease}, which did not exist");
                return Err(Violation::new(history, Rule::Lease, &ops, &what));
            }
        }
    }
    for (id, operation) in history.operations() {
        if let (Op::LeaseRevoke(lease), Some(Response::LeaseRevoke(revision))) = (&operation.op, operation.response())
            && !lives[lease].granted_between(*revision, *revision)
        {
            return Err(Violation::new(history, Rule::Lease, &[id], "the revoked lease did not exist"));
        }
    }
    Ok(lives)
}

impl Life {
    /// Whether it can have been granted after its last end before `revision` and not after `latest`.
    fn granted_between(&self, revision: Revision, latest: Revision) -> bool {
        let ended = self.ends[..self.ends.partition_point(|end| *end < revision)].last();
        let ended = ended.copied().unwrap_or(Revision(0));
        let granted = self.grants[..self.grants.partition_point(|grant| *grant <= latest)].last();
        granted.is_some_and(|grant| *grant >= ended) || self.open.iter().any(|floor| *floor <= latest)
    }

    /// Whether anybody may have granted it at all.
    pub(super) fn was_granted(&self) -> bool {
        !self.grants.is_empty() || !self.open.is_empty()
    }

    /// Whether the lease may have been missing at some time from `invoked` on and before `ended`.
    pub(super) fn may_miss(&self, invoked: u32, ended: u32) -> bool {
        let once = self.grants.len() + self.open.len() == 1;
        let alive = self.granted.is_some_and(|granted| granted < invoked) && self.alive.is_some_and(|t| t > ended);
        !(once && alive)
    }
}

fn gather(history: &History, times: &Times) -> Lives {
    let mut lives = Lives::new();
    for (id, operation) in history.operations() {
        match (&operation.op, &operation.end) {
            (_, End::Returned(Response::LeaseGrant(lease, revision))) => {
                let life = lives.entry(lease.id).or_default();
                life.grants.push(*revision);
                let ended = operation.ended.map(|m| m.turn);
                life.granted = life.granted.min(ended).or(ended);
            }
            (Op::LeaseGrant { id: Some(lease), .. }, End::Open) => {
                lives.entry(*lease).or_default().open.push(times.floor(id));
            }
            (Op::LeaseRevoke(lease), End::Returned(response)) => {
                let life = lives.entry(*lease).or_default();
                life.ends.push(response.revision());
                life.alive = life.alive.max(Some(operation.invoked.turn));
            }
            _ => {}
        }
    }
    lives
}

fn uses(lives: &mut Lives, history: &History, id: OpId, changes: &[Change]) {
    for change in changes {
        let Change::Put { kv, .. } = change else { continue };
        let Some(lease) = kv.lease else { continue };
        let life = lives.entry(lease).or_default();
        life.uses.push(kv.mod_revision);
        life.alive = life.alive.max(Some(history.get(id).invoked.turn));
    }
    // A revoke of unknown outcome that turns out to have happened ended the lease, too.
    let operation = history.get(id);
    if let (Op::LeaseRevoke(lease), End::Open, Some(change)) = (&operation.op, &operation.end, changes.first())
        && let Change::Delete { revision, .. } = change
    {
        lives.entry(*lease).or_default().ends.push(*revision);
    }
}

fn op(author: &Author) -> Option<OpId> {
    match author {
        Author::Op(id) => Some(*id),
        Author::Expiry(_) => None,
    }
}
