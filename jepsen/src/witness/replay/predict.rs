//! One operation on the replayed store, and its answer compared with the one that was given.

use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{RangeRequest, TxnResult};
use quorate_core::{LeaseId, Revision};

use super::super::footprint::same_txn;
use super::super::times::serializable;
use super::{Author, Conflict, History, KeyRange, Op, OpId, Response, Rule, Scope, Sighting, Violation, Witness};
use crate::model::{Change, Kv};

/// Lets `op` happen if it can, answer unknown; whether it changed anything.
pub(super) fn happen(kv: &mut Kv, op: &Op) -> bool {
    let before = kv.revision();
    match op {
        Op::Put(put) if kv.check_put(put, before).is_ok() => {
            kv.put(put);
        }
        Op::DeleteRange(delete) => {
            kv.delete_range(delete);
        }
        Op::Txn(txn) if kv.check_txn(txn, before, UNCOMPACTED, &any_lease).is_ok() => {
            kv.txn(txn);
        }
        Op::LeaseRevoke(lease) => {
            kv.delete_attached(*lease);
        }
        Op::Put(_) | Op::Txn(_) | Op::Range(_) | Op::Compact(_) | Op::LeaseGrant { .. } => {}
    }
    kv.revision() > before
}

/// Executes an answered write at the next revision.
pub(super) fn write(history: &History, kv: &mut Kv, id: OpId) -> Result<(), Conflict> {
    let operation = history.get(id);
    let before = kv.revision();
    let possible = match &operation.op {
        Op::Put(put) => kv.check_put(put, before),
        Op::Txn(txn) => kv.check_txn(txn, before, UNCOMPACTED, &any_lease),
        _ => Ok(()),
    };
    if let Err(error) = possible {
        return Err(conflict(history, id, &format!("at revision {before} it had to be refused: {error}")));
    }
    let expected = match (&operation.op, operation.response()) {
        (Op::Put(put), Some(Response::Put(given))) => {
            let expected = kv.put(put);
            (expected != *given).then_some(Response::Put(expected))
        }
        (Op::DeleteRange(delete), Some(Response::DeleteRange(given))) => {
            let expected = kv.delete_range(delete);
            (expected != *given).then_some(Response::DeleteRange(expected))
        }
        (Op::Txn(txn), Some(Response::Txn(given))) => {
            let expected = kv.txn(txn);
            (!same(&expected, given)).then_some(Response::Txn(expected))
        }
        _ => None,
    };
    wrong(history, kv, id, before, expected)
}

/// Checks an answer of an operation that changed nothing, at revision `now`, which `author` made: the newest one, but for
/// serializable reads.
pub(super) fn read(
    history: &History,
    kv: &mut Kv,
    id: OpId,
    now: Revision,
    author: Option<Author>,
) -> Result<(), Conflict> {
    let operation = history.get(id);
    let newest = kv.revision();
    let refused = |error| conflict(history, id, &format!("at revision {now} it had to be refused: {error}"));
    let expected = match (&operation.op, operation.response()) {
        (Op::Range(range), Some(Response::Range(given))) => {
            kv.check_range(range, now, UNCOMPACTED).map_err(refused)?;
            let expected = kv.range(range, now);
            (expected != *given && !mutant::is_on(Mutant::J02)).then_some(Response::Range(expected))
        }
        (Op::DeleteRange(delete), Some(Response::DeleteRange(given))) => {
            let expected = kv.delete_range(delete);
            (expected != *given).then_some(Response::DeleteRange(expected))
        }
        (Op::Txn(txn), Some(Response::Txn(given))) => {
            kv.check_txn(txn, now, UNCOMPACTED, &any_lease).map_err(refused)?;
            let expected = if serializable(&operation.op) { kv.read(txn, now) } else { kv.txn(txn) };
            (!same(&expected, given)).then_some(Response::Txn(expected))
        }
        (Op::Compact(at), _) if *at > now => {
            return Err(refused(quorate_core::error::Error::FutureRevision));
        }
        (Op::LeaseGrant { id: asked, ttl }, Some(Response::LeaseGrant(lease, _))) => {
            if asked.is_some_and(|asked| asked != lease.id) || lease.ttl < *ttl {
                return Err(conflict(history, id, "another lease was granted than was asked for"));
            }
            if kv.attached(lease.id).next().is_some() {
                return Err(lease_conflict(history, id, &format!("at revision {now} this lease exists and has keys")));
            }
            None
        }
        (Op::LeaseRevoke(revoked), _) => {
            if author != Some(Author::Op(id)) && kv.attached(*revoked).next().is_some() {
                return Err(lease_conflict(
                    history,
                    id,
                    &format!("at revision {now} keys are still attached to the lease"),
                ));
            }
            None
        }
        _ => None,
    };
    kv.rewind(newest);
    wrong(history, kv, id, now, expected)
}

/// Checks what was seen of a revision.
pub(super) fn sighting(history: &History, witness: &Witness, sighting: &Sighting) -> Result<(), Conflict> {
    let revision = sighting.revision();
    let changes = witness.kv.changes(revision);
    let (key, right) = match sighting {
        Sighting::Revision(_) => return Ok(()),
        Sighting::Whole { changes: count, .. } => (None, changes.len() == *count as usize),
        Sighting::Put(seen) => {
            (Some(&seen.key), changes.iter().any(|c| matches!(c, Change::Put { kv, .. } if kv == seen)))
        }
        Sighting::Delete { key, .. } => {
            (Some(key), changes.iter().any(|c| matches!(c, Change::Delete { prev, .. } if prev.key == *key)))
        }
    };
    if right {
        return Ok(());
    }
    let author: Vec<OpId> = witness.author(revision).and_then(Author::operation).into_iter().collect();
    let what = format!("{sighting}, but revision {revision} did {changes:?}");
    let scope = Scope { all: key.is_none(), ranges: key.map(|key| KeyRange::Key(key.clone())).into_iter().collect() };
    Err(Conflict { violation: Violation::new(history, Rule::Sighting, &author, &what), scope })
}

/// Compaction is not replayed: what it forbids is checked in real time.
const UNCOMPACTED: Revision = Revision(-1);

fn any_lease(_: LeaseId) -> bool {
    true
}

fn same(expected: &TxnResult, given: &TxnResult) -> bool {
    expected.revision == given.revision && same_txn(expected, given)
}

fn wrong(history: &History, kv: &Kv, id: OpId, before: Revision, expected: Option<Response>) -> Result<(), Conflict> {
    let Some(expected) = expected else { return Ok(()) };
    let mut conflict = conflict(history, id, &format!("expected: {expected}"));
    super::ranges(&history.get(id).op, &mut |range| {
        let mut first = RangeRequest::new(range.clone());
        first.limit = 3;
        for stored in kv.range(&first, before).kvs {
            conflict.violation.text.push_str(&format!("\n  stored at revision {before}: {}", super::show_kv(&stored)));
        }
    });
    Err(conflict)
}

fn conflict(history: &History, id: OpId, what: &str) -> Conflict {
    let scope = Scope::of(&history.get(id).op);
    Conflict { violation: Violation::new(history, Rule::Answer, &[id], what), scope }
}

fn lease_conflict(history: &History, id: OpId, what: &str) -> Conflict {
    let scope = Scope { all: true, ranges: Vec::new() };
    Conflict { violation: Violation::new(history, Rule::Lease, &[id], what), scope }
}
