//! Real time: whoever asks after an answer has arrived is not told of an older store.

use quorate_core::Revision;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{RequestOp, TxnRequest};

use super::base::{Base, ByOperation};
use super::footprint::{changed, fits};
use super::{Rule, Violation};
use crate::history::{History, Op, OpId, Turn};

/// What real time says about the order of operations.
#[derive(Debug)]
pub(super) struct Times {
    /// For each operation the newest revision anybody knew of when it was invoked; at least 1.
    floors: ByOperation<Revision>,
    /// The operation that would be invoked next.
    next: OpId,
    /// The newest revision that was ever told.
    pub(super) last: Revision,
}

impl Times {
    /// Every revision up to this one was made before `id` was invoked.
    pub(super) fn floor(&self, id: OpId) -> Revision {
        self.floors[id]
    }

    /// As [`Times::floor`]; `id` may be the operation that is invoked next.
    pub(super) fn known_at(&self, id: OpId) -> Revision {
        if id == self.next { self.last } else { self.floor(id) }
    }
}

pub(super) fn check(history: &History, base: &Base) -> Result<Times, Violation> {
    let floors = base.floors(history, base.revision());
    let mut times = Times { floors, next: history.next_id(), last: base.revision() };
    for turn in history.turns() {
        match *turn {
            Turn::Invoke(id) => times.floors[id] = times.last,
            Turn::Saw(number) => times.last = times.last.max(history.sighting(number).revision()),
            Turn::End(id) if base.is_settled(id) => {}
            Turn::End(id) => {
                let operation = history.get(id);
                let Some(response) = operation.response() else { continue };
                if !fits(&operation.op, response) {
                    return Err(Violation::new(history, Rule::Shape, &[id], "the answer does not fit the request"));
                }
                let (floor, revision) = (times.floor(id), response.revision());
                let late = match changed(response) {
                    Some(true) => revision <= floor,
                    _ => revision < floor && !serializable(&operation.op),
                };
                if (late && !mutant::is_on(Mutant::J01)) || revision < Revision(1) {
                    return Err(violation(history, id, revision, floor));
                }
                times.last = times.last.max(revision);
            }
        }
    }
    Ok(times)
}

/// Whether the operation may be answered from the past.
pub(super) fn serializable(op: &Op) -> bool {
    match op {
        Op::Range(range) => range.serializable,
        Op::Txn(txn) => serializable_txn(txn),
        _ => false,
    }
}

fn serializable_txn(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
}

fn violation(history: &History, id: OpId, revision: Revision, floor: Revision) -> Violation {
    let told = history.turns().iter().find_map(|turn| match *turn {
        Turn::End(id) => (history.get(id).response()?.revision() >= floor).then_some(Some(id)),
        Turn::Saw(number) => (history.sighting(number).revision() >= floor).then_some(None),
        Turn::Invoke(_) => None,
    });
    let operations: Vec<OpId> = told.flatten().into_iter().chain([id]).collect();
    let what =
        format!("revision {floor} was known before #{} was invoked, yet its answer is of revision {revision}", id.0);
    Violation::new(history, Rule::RealTime, &operations, &what)
}
