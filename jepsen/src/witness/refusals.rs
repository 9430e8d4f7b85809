//! Compaction and refusals: a request may only be refused for a reason that it may have met.

use std::collections::BTreeSet;

use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResult};
use quorate_core::{LeaseId, Revision};

use super::base::{Base, ByOperation, NEVER};
use super::leases::Lives;
use super::times::{Times, serializable};
use super::{Rule, Violation, Witness};
use crate::history::{End, History, Op, OpId, Operation, Turn};
use crate::model::Kv;

/// What was compacted, as seen at one operation's ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floors {
    /// Compacted for certain when it was invoked.
    pub(super) certain: Revision,
    /// Compacted perhaps when it ended.
    possible: Revision,
}

/// A violation, if the replay is right.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) violation: Violation,
    pub(super) bearing: Bearing,
}

/// Which revisions may have to be made otherwise for a violation to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearing {
    /// None: it is one in any case.
    Nothing,
    /// Those up to this one, as far as they touch the keys of this operation.
    Keys(OpId, Revision),
    /// All.
    Everything,
}

/// Checks all refusals; gives those that only a revision explains that nobody has told of yet.
pub(super) fn check(
    history: &History,
    base: &Base,
    times: &Times,
    lives: Lives,
    witness: &Witness,
) -> Result<BTreeSet<OpId>, Doubt> {
    let certain = |violation| Doubt { violation, bearing: Bearing::Nothing };
    compactions_ascend(history, base).map_err(certain)?;
    let lives = &lives.with_uses(history, witness);
    if let Some(id) = lives.wrongly_missed().filter(|_| !mutant::is_on(Mutant::J03)) {
        let violation = Violation::new(history, Rule::Refusal, &[id], "the lease that it did not find was alive later");
        return Err(Doubt { violation, bearing: Bearing::Everything });
    }
    let floors = floors(history, base);
    let ceilings = ceilings(history, witness);
    let untold = untold(history, base, witness);
    let mut excused = BTreeSet::new();
    for (id, operation) in base.unsettled(history) {
        let floors = floors[id];
        match &operation.end {
            End::Returned(_) => {
                let oldest = oldest_read(operation);
                if oldest.is_some_and(|oldest| oldest < floors.certain) {
                    let what = format!("history below revision {} had been compacted", floors.certain);
                    return Err(certain(Violation::new(history, Rule::Compaction, &[id], &what)));
                }
            }
            End::Refused(error) => {
                let ended = operation.ended.map_or(u32::MAX, |ended| ended.turn);
                let newest = ceilings.partition_point(|invoked| *invoked < ended) as i64 + witness.after.0;
                // A member that lags may be asked for what it does not know yet.
                let oldest = if serializable(&operation.op) { Revision(1) } else { times.floor(id) };
                let window = oldest..=Revision(newest);
                let turns = (operation.invoked.turn, ended);
                let states = States { kv: &witness.kv, lives, known: base.oldest, window, turns, floors };
                if states.may_refuse(&operation.op, error) || mutant::is_on(Mutant::J03) {
                    continue;
                }
                let is_last = Revision(newest) == witness.kv.revision();
                if is_last && untold.is_some_and(|turn| turn < ended) && by_state(&operation.op, error) {
                    excused.insert(id);
                } else {
                    let what = "nothing that the request can have met is a reason to refuse it";
                    let violation = Violation::new(history, Rule::Refusal, &[id], what);
                    // The revision after the window bears on it, too: it may be what ends the window.
                    let bearing = match error {
                        Error::LeaseNotFound => Bearing::Everything,
                        _ => Bearing::Keys(id, Revision(newest + 1)),
                    };
                    return Err(Doubt { violation, bearing });
                }
            }
            End::Open | End::Failed => {}
        }
    }
    Ok(excused)
}

/// The turn from which on there may be revisions that nobody has told of: by operations that are not answered, or by leases.
fn untold(history: &History, base: &Base, witness: &Witness) -> Option<u32> {
    if witness.kv.leases_with_keys().next().is_some() {
        return Some(0);
    }
    let used = witness.operations();
    let open = base.open(history).filter(|(id, _)| !used.contains(id));
    open.map(|(_, operation)| operation.invoked.turn).min()
}

/// Whether such a refusal depends on what keys there are.
fn by_state(op: &Op, error: &Error) -> bool {
    match op {
        Op::Put(put) => *error == Error::KeyNotFound && (put.ignore_value || put.ignore_lease),
        Op::Txn(_) => true,
        _ => false,
    }
}

/// The states in which a refused request may have been looked at.
struct States<'w> {
    kv: &'w Kv,
    lives: &'w Lives,
    /// Of earlier states only the empty one may still be met.
    known: Revision,
    window: std::ops::RangeInclusive<Revision>,
    /// When it was invoked and when refused.
    turns: (u32, u32),
    floors: Floors,
}

impl States<'_> {
    fn may_refuse(&self, op: &Op, error: &Error) -> bool {
        if !matches!(
            error,
            Error::KeyNotFound
                | Error::LeaseNotFound
                | Error::LeaseExists
                | Error::FutureRevision
                | Error::Compacted { .. }
        ) {
            return true; // not of the model's world: quotas, alarms, validation
        }
        let floor = *self.window.start();
        match (op, error) {
            (Op::Put(put), Error::LeaseNotFound) => put.lease.is_some_and(|lease| self.missing(lease)),
            (Op::Put(put), Error::KeyNotFound) => self.any(|now| self.kv.check_put(put, now).is_err()),
            (Op::Txn(txn), error) => self.any(|now| self.txn_may_be_refused(txn, now, error)),
            (Op::Range(range), Error::FutureRevision) => range.revision.is_some_and(|revision| revision > floor),
            (Op::Range(RangeRequest { revision: Some(at), .. }), Error::Compacted { .. })
            | (Op::Compact(at), Error::Compacted { .. }) => {
                let equal = matches!(op, Op::Compact(_)) && *at == self.floors.possible;
                *at < self.floors.possible || equal
            }
            (Op::Compact(at), Error::FutureRevision) => *at > floor,
            (Op::LeaseGrant { id: Some(id), .. }, Error::LeaseExists) => self.lives.was_granted(*id),
            (Op::LeaseRevoke(lease), Error::LeaseNotFound) => self.missing(*lease),
            _ => false,
        }
    }

    fn missing(&self, lease: LeaseId) -> bool {
        self.lives.may_miss(lease, self.turns.0, self.turns.1)
    }

    fn any(&self, test: impl Fn(Revision) -> bool) -> bool {
        let (first, last) = (*self.window.start(), *self.window.end());
        test(first) || (first.next().max(self.known).0..=last.0).any(|now| test(Revision(now)))
    }

    fn txn_may_be_refused(&self, txn: &TxnRequest, now: Revision, error: &Error) -> bool {
        let exists = |lease| *error != Error::LeaseNotFound || !self.missing(lease);
        let compacted = if matches!(error, Error::Compacted { .. }) { self.floors.possible } else { NEVER };
        let refusal = self.kv.check_txn(txn, now, compacted, &exists).err();
        refusal.is_some_and(|refusal| std::mem::discriminant(&refusal) == std::mem::discriminant(error))
    }
}

/// The store compacts further and further: answered compactions are different and in the order of time.
fn compactions_ascend(history: &History, base: &Base) -> Result<(), Violation> {
    // What was compacted at, by which operation, and the turns of both its ends.
    let mut answered: Vec<(Revision, OpId, u32, u32)> = Vec::new();
    answered.extend(base.compacted.map(|(at, id, ended)| (at, id, 0, ended)));
    for (id, operation) in history.operations() {
        if let (Op::Compact(at), End::Returned(_), Some(ended)) = (&operation.op, &operation.end, operation.ended) {
            answered.push((*at, id, operation.invoked.turn, ended.turn));
        }
    }
    answered.sort_unstable();
    if let Some(pair) = answered.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let what = format!("the store was compacted at {} twice", pair[0].0);
        return Err(Violation::new(history, Rule::Compaction, &[pair[0].1, pair[1].1], &what));
    }
    // From the furthest on: nothing less far may have been invoked after a further one was answered.
    let mut further: Option<(u32, Revision, OpId)> = None;
    for (at, id, invoked, ended) in answered.into_iter().rev() {
        if let Some((before, other, by)) = further
            && before < invoked
        {
            let what = format!("the store had been compacted at {other} before");
            return Err(Violation::new(history, Rule::Compaction, &[by, id], &what));
        }
        if further.is_none_or(|(first, _, _)| ended < first) {
            further = Some((ended, at, id));
        }
    }
    Ok(())
}

pub(super) fn floors(history: &History, base: &Base) -> ByOperation<Floors> {
    let mut floors = base.compacted(history, NEVER).map(|certain| Floors { certain, possible: NEVER });
    let (mut certain, mut possible) = (base.compacted.map_or(NEVER, |(at, ..)| at), base.compacting);
    for turn in history.turns() {
        match *turn {
            Turn::Invoke(id) => {
                let operation = history.get(id);
                floors[id].certain = certain;
                if let (Op::Compact(at), End::Open | End::Returned(_)) = (&operation.op, &operation.end) {
                    possible = possible.max(*at);
                }
            }
            Turn::End(id) => {
                let operation = history.get(id);
                if let (Op::Compact(at), End::Returned(_)) = (&operation.op, &operation.end) {
                    certain = if mutant::is_on(Mutant::J04) { NEVER } else { certain.max(*at) };
                }
                floors[id].possible = possible;
            }
            Turn::Saw(_) => {}
        }
    }
    floors
}

/// For each revision that the witness tells of, the turn before which it cannot have been made.
fn ceilings(history: &History, witness: &Witness) -> Vec<u32> {
    let mut latest = 0;
    let made = witness.authors.iter().map(|author| {
        if let Some(id) = author.operation() {
            latest = latest.max(history.get(id).invoked.turn);
        }
        latest
    });
    made.collect()
}

/// The oldest revision that an answered, linearizable read looked at, if it named one.
fn oldest_read(operation: &Operation) -> Option<Revision> {
    let named = |range: &RangeRequest| range.revision.filter(|at| at.0 != 0);
    match (&operation.op, operation.response()?) {
        (Op::Range(range), _) if !range.serializable => named(range),
        (Op::Txn(txn), crate::history::Response::Txn(result)) => oldest_in(txn, result),
        _ => None,
    }
}

fn oldest_in(txn: &TxnRequest, result: &TxnResult) -> Option<Revision> {
    let ops = if result.succeeded { &txn.success } else { &txn.failure };
    let oldest = ops.iter().zip(&result.responses).filter_map(|pair| match pair {
        (RequestOp::Range(range), _) if !range.serializable => range.revision.filter(|at| at.0 != 0),
        (RequestOp::Txn(inner), ResponseOp::Txn(result)) => oldest_in(inner, result),
        _ => None,
    });
    oldest.min()
}
