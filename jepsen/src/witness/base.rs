//! What is left of the part of a history that was found correct and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, IndexMut};

use quorate_core::Revision;

use super::footprint::may_write;
use super::leases::Lives;
use super::times::Times;
use super::{Past, Witness, refusals, replay};
use crate::history::{Cut, End, History, Op, OpId, Operation};
use crate::model::Kv;

/// No compaction.
pub(super) const NEVER: Revision = Revision(-1);

/// The store, and what else later answers depend on, when everything up to some revision had been explained.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// As it was then; earlier revisions only as far as somebody may still tell of them.
    pub(super) kv: Kv,
    /// The first revision that somebody may still tell of.
    pub(super) oldest: Revision,
    pub(super) lives: Lives,
    /// The furthest compaction that was answered, and at which turn.
    pub(super) compacted: Option<(Revision, OpId, u32)>,
    /// The furthest compaction that may have happened.
    pub(super) compacting: Revision,
    /// The operations that the history has kept from before.
    carried: BTreeMap<OpId, Carried>,
}

/// An operation from before the rest of the history.
#[derive(Clone, Copy, Debug)]
struct Carried {
    /// The newest revision known when it was invoked.
    floor: Revision,
    /// What had been compacted for certain then.
    compacted: Revision,
    /// It is explained, and still here only since its answer came late.
    settled: bool,
}

impl Default for Base {
    fn default() -> Self {
        Self {
            kv: Kv::default(),
            oldest: Revision(1),
            lives: Lives::default(),
            compacted: None,
            compacting: NEVER,
            carried: BTreeMap::new(),
        }
    }
}

impl Base {
    /// Everything up to it is explained.
    pub(super) fn revision(&self) -> Revision {
        self.kv.revision()
    }

    /// Whether the operation is explained already.
    pub(super) fn is_settled(&self, id: OpId) -> bool {
        self.carried.get(&id).is_some_and(|carried| carried.settled)
    }

    /// The operations that are not explained yet, in the order of invocation.
    pub(super) fn unsettled<'h>(&self, history: &'h History) -> impl Iterator<Item = (OpId, &'h Operation)> {
        history.operations().filter(|(id, _)| !self.is_settled(*id))
    }

    /// Of those the ones of unknown outcome that may write.
    pub(super) fn open<'h>(&self, history: &'h History) -> impl Iterator<Item = (OpId, &'h Operation)> {
        self.unsettled(history).filter(|(_, operation)| operation.end == End::Open && may_write(&operation.op))
    }

    /// One value for each operation: what is known of those from before, and `fresh` for the others.
    pub(super) fn floors(&self, history: &History, fresh: Revision) -> ByOperation<Revision> {
        self.by_operation(history, |carried| carried.floor, fresh)
    }

    /// As [`Base::floors`], of what had been compacted for certain.
    pub(super) fn compacted(&self, history: &History, fresh: Revision) -> ByOperation<Revision> {
        self.by_operation(history, |carried| carried.compacted, fresh)
    }

    fn by_operation(
        &self,
        history: &History,
        known: impl Fn(&Carried) -> Revision,
        fresh: Revision,
    ) -> ByOperation<Revision> {
        let old = self.carried.iter().map(|(id, carried)| (*id, known(carried))).collect();
        ByOperation { first: history.first(), old, rest: vec![fresh; history.recent()] }
    }

    /// Moves on to what was known at `cut`, as `witness` tells it; `history` forgets what is not needed any more. Whether
    /// that was possible.
    pub(super) fn advance(
        &mut self,
        history: &mut History,
        cut: Cut,
        times: &Times,
        witness: Witness,
        past: &Past<'_>,
    ) -> bool {
        let to = times.known_at(cut.first);
        let Some(doubtful) = replay::doubts(history, self, times, &witness, to) else { return false };
        let compacted = refusals::floors(history, self);
        let used = self.believe(history, &witness, to, &doubtful);
        let needed = witness.operations();
        let mut oldest = past.oldest.min(to);
        let mut carried = BTreeMap::new();
        for (id, operation) in history.operations().take_while(|(id, _)| *id < cut.first) {
            let is_explained = match &operation.end {
                End::Returned(response) => response.revision() <= to,
                End::Open => {
                    let is_lost = operation.invoked.at < past.lost && !needed.contains(&id);
                    !may_write(&operation.op) || used.contains(&id) || is_lost
                }
                End::Refused(_) => !witness.excused.contains(&id),
                End::Failed => true,
            };
            let ended = operation.ended.map(|ended| ended.turn);
            let is_late = ended.is_some_and(|ended| ended >= cut.moment.turn);
            if is_explained && !self.is_settled(id) {
                self.lives.note(operation, times.floor(id));
                self.lives.missed(id, operation);
            }
            if let (Op::Compact(at), End::Open | End::Returned(_)) = (&operation.op, &operation.end) {
                self.compacting = self.compacting.max(*at);
                if let Some(ended) = ended.filter(|_| !is_late) {
                    self.compacted = self.compacted.max(Some((*at, id, ended)));
                }
            }
            if let (End::Refused(_), false) = (&operation.end, is_explained) {
                oldest = oldest.min(times.floor(id));
            }
            if !is_explained || is_late {
                let compacted = compacted[id].certain;
                carried.insert(id, Carried { floor: times.floor(id), compacted, settled: is_explained });
            }
        }
        self.carried = carried;
        self.lives.shorten();
        self.lives.retain(|lease| !(past.is_over)(lease, cut.moment.at));
        self.oldest = oldest.max(self.oldest);
        self.kv = witness.kv;
        self.kv.rewind(to);
        self.kv.forget(self.oldest);
        history.forget(cut, |id| self.carried.contains_key(&id));
        true
    }

    /// Takes for true what the witness says of the revisions up to `to`, but for those that others may have made; gives the
    /// operations of unknown outcome that are found to have happened.
    fn believe(
        &mut self,
        history: &History,
        witness: &Witness,
        to: Revision,
        doubtful: &BTreeSet<Revision>,
    ) -> BTreeSet<OpId> {
        let mut used = BTreeSet::new();
        for (author, revision) in witness.authors() {
            if revision > to || doubtful.contains(&revision) {
                continue;
            }
            self.lives.used(history, witness, author, revision);
            if let Some(lease) = author.ended_lease(history) {
                self.lives.believe(lease, revision);
            }
            used.extend(author.operation());
        }
        used
    }
}

/// A value for each operation that a history has.
#[derive(Clone, Debug)]
pub(super) struct ByOperation<T> {
    /// The first of those without a gap.
    first: OpId,
    old: BTreeMap<OpId, T>,
    rest: Vec<T>,
}

impl<T> ByOperation<T> {
    pub(super) fn map<U>(self, each: impl Fn(T) -> U) -> ByOperation<U> {
        let Self { first, old, rest } = self;
        let old = old.into_iter().map(|(id, value)| (id, each(value))).collect();
        ByOperation { first, old, rest: rest.into_iter().map(each).collect() }
    }
}

impl<T> Index<OpId> for ByOperation<T> {
    type Output = T;

    fn index(&self, id: OpId) -> &T {
        match id.0.checked_sub(self.first.0) {
            Some(position) => &self.rest[position as usize],
            None => &self.old[&id],
        }
    }
}

impl<T> IndexMut<OpId> for ByOperation<T> {
    fn index_mut(&mut self, id: OpId) -> &mut T {
        match id.0.checked_sub(self.first.0) {
            Some(position) => &mut self.rest[position as usize],
            None => self.old.get_mut(&id).expect("an operation that was kept"),
        }
    }
}
