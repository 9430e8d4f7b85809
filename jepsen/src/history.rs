//! What clients asked, when, and what they were told.

use std::collections::BTreeSet;

use quorate_core::command::Outcome;
use quorate_core::error::Error;
use quorate_core::request::{
    DeleteRangeRequest, DeleteRangeResult, KeyValue, Lease, PutRequest, PutResult, RangeRequest, RangeResult,
    TxnRequest, TxnResult,
};
use quorate_core::{Blob, LeaseId, Revision, Ttl};

mod show;

pub(crate) use show::{show_kv, text};

/// The name of an operation within its [`History`], in the order of invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u32);

/// A point of the one clock by which the whole history was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds; only for the reader.
    pub at: u64,
    /// How many things had been recorded before: what the checkers order by.
    pub turn: u32,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// (etcd: Put)
    Put(PutRequest),
    /// (etcd: DeleteRange)
    DeleteRange(DeleteRangeRequest),
    /// (etcd: Txn) Read-only ones too.
    Txn(TxnRequest),
    /// (etcd: Range)
    Range(RangeRequest),
    /// (etcd: Compact)
    Compact(Revision),
    /// (etcd: LeaseGrant)
    LeaseGrant {
        /// `None`: the server picks one.
        id: Option<LeaseId>,
        /// As asked for; the server may raise it.
        ttl: Ttl,
    },
    /// (etcd: LeaseRevoke)
    LeaseRevoke(LeaseId),
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Op::Put`].
    Put(PutResult),
    /// To [`Op::DeleteRange`].
    DeleteRange(DeleteRangeResult),
    /// To [`Op::Txn`]; the revisions of nested txns are not looked at, since the wire does not carry them.
    Txn(TxnResult),
    /// To [`Op::Range`].
    Range(RangeResult),
    /// To [`Op::Compact`]: the store's revision.
    Compact(Revision),
    /// To [`Op::LeaseGrant`]: the lease as granted, and the store's revision.
    LeaseGrant(Lease, Revision),
    /// To [`Op::LeaseRevoke`]: the store's revision after it.
    LeaseRevoke(Revision),
}

impl Response {
    /// The store's revision when the operation was executed, of the response's header.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(r) => r.revision,
            Self::DeleteRange(r) => r.revision,
            Self::Txn(r) => r.revision,
            Self::Range(r) => r.revision,
            Self::Compact(r) | Self::LeaseGrant(_, r) | Self::LeaseRevoke(r) => *r,
        }
    }

    /// The response of a command's outcome; `None` for commands that no client sends.
    #[must_use]
    pub fn of(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Put(r) => Self::Put(r),
            Outcome::DeleteRange(r) => Self::DeleteRange(r),
            Outcome::Txn(r) => Self::Txn(r),
            Outcome::Compact(r) => Self::Compact(r),
            Outcome::LeaseGrant(lease, r) => Self::LeaseGrant(lease, r),
            Outcome::LeaseRevoke(r) => Self::LeaseRevoke(r),
            Outcome::Done | Outcome::Alarms(_) | Outcome::SessionOpened(_) | Outcome::Members(_) => return None,
        })
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet answered, and perhaps never: it may take effect at any time from its invocation on, or never.
    Open,
    /// Answered.
    Returned(Response),
    /// The store looked at it and refused it, with a reason that is checked.
    Refused(Error),
    /// It has definitely not happened and never will.
    Failed,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// What for.
    pub op: Op,
    /// When it was sent.
    pub invoked: Moment,
    /// When the answer arrived; `None` while [`End::Open`].
    pub ended: Option<Moment>,
    /// The answer.
    pub end: End,
}

impl Operation {
    /// The response of an operation that was answered.
    #[must_use]
    pub fn response(&self) -> Option<&Response> {
        match &self.end {
            End::Returned(response) => Some(response),
            End::Open | End::Refused(_) | End::Failed => None,
        }
    }
}

/// Something a client learned of the store other than by an operation's response, such as a watch event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The store has reached this revision.
    Revision(Revision),
    /// `kv.mod_revision` put exactly this.
    Put(KeyValue),
    /// `revision` removed `key`.
    Delete {
        /// The removed key.
        key: Blob,
        /// The revision that removed it.
        revision: Revision,
    },
    /// The revision changed so many keys and no more: seen by someone who sees everything.
    Whole {
        /// The revision.
        revision: Revision,
        /// Puts and deletes.
        changes: u32,
    },
}

impl Sighting {
    /// The revision that the store had reached when this was seen.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Revision(revision) | Self::Delete { revision, .. } | Self::Whole { revision, .. } => *revision,
        }
    }
}

/// One thing that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The operation was sent.
    Invoke(OpId),
    /// The operation was answered.
    End(OpId),
    /// The sighting of this number.
    Saw(u32),
}

/// All operations of all clients on one store that began empty.
///
/// Record in the order of time: of two calls at the same nanosecond the first is taken to have happened first. Whoever merges
/// logs whose clocks are no finer than that puts invocations before answers.
///
/// One that never ends is checked and forgotten piece by piece, by [`crate::witness::Checker::settle`]; names and numbers
/// stay what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What was kept when all else of its time was forgotten; ascending.
    carried: Vec<(OpId, Operation)>,
    /// How many operations, sightings and turns lie before those that follow here.
    forgotten: Forgotten,
    /// Indexed by [`OpId`].
    operations: Vec<Operation>,
    sightings: Vec<Sighting>,
    turns: Vec<Turn>,
    /// Operations that may still be answered.
    under_way: BTreeSet<OpId>,
    /// The time of the last call.
    now: u64,
}

/// How much of a history lies before what it still has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forgotten {
    operations: u32,
    sightings: u32,
    turns: u32,
}

/// A point of a history up to which it can be forgotten: nothing from before it is still waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first operation after it.
    pub(crate) first: OpId,
    /// Where it is.
    pub(crate) moment: Moment,
}

impl History {
    /// A history without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `client` sends `op` at `now`, in nanoseconds.
    ///
    /// # Panics
    /// If time runs backwards, here and below, or above 2^32 operations.
    pub fn invoke(&mut self, client: u64, now: u64, op: Op) -> OpId {
        let id = self.next_id();
        let invoked = self.turn(now, Turn::Invoke(id));
        self.under_way.insert(id);
        self.operations.push(Operation { client, op, invoked, ended: None, end: End::Open });
        id
    }

    /// The answer to `id` arrived.
    pub fn complete(&mut self, id: OpId, now: u64, response: Response) {
        self.end(id, now, End::Returned(response));
    }

    /// The operation has definitely not happened and never will.
    pub fn fail(&mut self, id: OpId, now: u64) {
        self.end(id, now, End::Failed);
    }

    /// The store refused the operation for this reason, which is checked against the states it may have seen.
    pub fn refuse(&mut self, id: OpId, now: u64, error: Error) {
        self.end(id, now, End::Refused(error));
    }

    /// Nobody will know what became of the operation: it may still happen, at any later time, but is not waited for.
    ///
    /// # Panics
    /// If it has been answered.
    pub fn unknown(&mut self, id: OpId) {
        assert_eq!(self.get(id).end, End::Open, "{id:?} has been answered");
        self.under_way.remove(&id);
    }

    /// The answer to `id` as a client of the API gets it: errors that leave the outcome open keep it open.
    pub fn answer(&mut self, id: OpId, now: u64, answer: Result<Response, Error>) {
        match answer {
            Ok(response) => self.complete(id, now, response),
            Err(
                error @ (Error::KeyNotFound
                | Error::Compacted { .. }
                | Error::FutureRevision
                | Error::LeaseNotFound
                | Error::LeaseExists),
            ) => self.refuse(id, now, error),
            Err(
                Error::EmptyKey
                | Error::ValueProvided
                | Error::LeaseProvided
                | Error::TooManyOps
                | Error::DuplicateKey
                | Error::InvalidSortOption
                | Error::LeaseTtlTooLarge
                | Error::RequestTooLarge
                | Error::TooManyRequests
                | Error::NotSupportedForLearner
                | Error::NoSpace
                | Error::PermissionDenied
                | Error::UserEmpty
                | Error::UserNotFound
                | Error::InvalidAuthToken
                | Error::AuthOldRevision,
            ) => self.fail(id, now),
            Err(_) => self.unknown(id),
        }
    }

    /// A client learned something in another way, for example from a watch.
    pub fn saw(&mut self, now: u64, sighting: Sighting) {
        let number = self.forgotten.sightings.checked_add(self.sightings.len() as u32);
        self.turn(now, Turn::Saw(number.expect("more than 2^32 sightings")));
        self.sightings.push(sighting);
    }

    /// The operation of that name.
    ///
    /// # Panics
    /// If it is of another history, or forgotten.
    #[must_use]
    pub fn get(&self, id: OpId) -> &Operation {
        self.find(id).unwrap_or_else(|| panic!("{id:?} is not of this history, or forgotten"))
    }

    /// The operation of that name, unless it is forgotten.
    #[must_use]
    pub fn find(&self, id: OpId) -> Option<&Operation> {
        match id.0.checked_sub(self.forgotten.operations) {
            Some(position) => self.operations.get(position as usize),
            None => {
                let position = self.carried.binary_search_by_key(&id, |(id, _)| *id).ok()?;
                Some(&self.carried[position].1)
            }
        }
    }

    /// All operations that are not forgotten, in the order of invocation.
    pub fn operations(&self) -> impl Iterator<Item = (OpId, &Operation)> {
        let carried = self.carried.iter().map(|(id, operation)| (*id, operation));
        carried.chain((self.forgotten.operations..).map(OpId).zip(&self.operations))
    }

    /// All sightings that are not forgotten, in the order of time.
    #[must_use]
    pub fn sightings(&self) -> &[Sighting] {
        &self.sightings
    }

    /// The sighting of a [`Turn::Saw`] that is not forgotten.
    pub(crate) fn sighting(&self, number: u32) -> &Sighting {
        &self.sightings[(number - self.forgotten.sightings) as usize]
    }

    /// Everything that is not forgotten, in the order of time.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The first operation of which it, and everything after it, is there.
    pub(crate) fn first(&self) -> OpId {
        OpId(self.forgotten.operations)
    }

    /// How much of it could be forgotten at most.
    pub(crate) fn cut(&self) -> Cut {
        let end = || Moment { at: self.now, turn: self.next_turn() };
        match self.under_way.first() {
            Some(first) => Cut { first: *first, moment: self.get(*first).invoked },
            None => Cut { first: self.next_id(), moment: end() },
        }
    }

    /// How many operations there are from [`History::first`] on.
    pub(crate) fn recent(&self) -> usize {
        self.operations.len()
    }

    /// Forgets everything before `cut`, except for operations that are to be kept: those whose answers came later are.
    pub(crate) fn forget(&mut self, cut: Cut, keep: impl Fn(OpId) -> bool) {
        self.carried.retain(|(id, _)| keep(*id));
        let first = self.forgotten.operations;
        let old = self.operations.drain(..(cut.first.0 - first) as usize);
        self.carried.extend((first..).map(OpId).zip(old).filter(|(id, _)| keep(*id)));
        let turns = self.turns.drain(..(cut.moment.turn - self.forgotten.turns) as usize);
        let sightings = turns.filter(|turn| matches!(turn, Turn::Saw(_))).count();
        self.sightings.drain(..sightings);
        self.forgotten.operations = cut.first.0;
        self.forgotten.turns = cut.moment.turn;
        self.forgotten.sightings += u32::try_from(sightings).expect("fewer than 2^32 sightings");
    }

    fn end(&mut self, id: OpId, now: u64, end: End) {
        let ended = self.turn(now, Turn::End(id));
        let operation = &mut self.operations[(id.0 - self.forgotten.operations) as usize];
        assert_eq!(operation.end, End::Open, "{id:?} has been answered");
        operation.ended = Some(ended);
        operation.end = end;
        self.under_way.remove(&id);
    }

    /// The name of the next operation.
    pub(crate) fn next_id(&self) -> OpId {
        let id = self.forgotten.operations.checked_add(self.operations.len() as u32);
        OpId(id.expect("more than 2^32 operations"))
    }

    fn next_turn(&self) -> u32 {
        self.forgotten.turns.checked_add(self.turns.len() as u32).expect("more than 2^32 turns")
    }

    fn turn(&mut self, now: u64, turn: Turn) -> Moment {
        assert!(now >= self.now, "clock ran backwards: {now} < {}", self.now);
        self.now = now;
        let moment = Moment { at: now, turn: self.next_turn() };
        self.turns.push(turn);
        moment
    }

    /// A changed copy of an operation's end, for tests that a checker must not pass.
    #[must_use]
    pub fn with_end(&self, id: OpId, end: End) -> Self {
        let mut changed = self.clone();
        changed.operations[(id.0 - self.forgotten.operations) as usize].end = end;
        changed
    }
}
