//! What clients asked, when, and what they were told.

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Indexed by [`OpId`].
    operations: Vec<Operation>,
    sightings: Vec<Sighting>,
    turns: Vec<Turn>,
    /// The time of the last call.
    now: u64,
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
        let id = OpId(u32::try_from(self.operations.len()).expect("more than 2^32 operations"));
        let invoked = self.turn(now, Turn::Invoke(id));
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

    /// Nobody knows what became of the operation: it may still happen, at any later time.
    ///
    /// # Panics
    /// If it has been answered.
    pub fn unknown(&mut self, id: OpId) {
        assert_eq!(self.get(id).end, End::Open, "{id:?} has been answered");
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
        let number = u32::try_from(self.sightings.len()).expect("more than 2^32 sightings");
        self.turn(now, Turn::Saw(number));
        self.sightings.push(sighting);
    }

    /// The operation of that name.
    ///
    /// # Panics
    /// If it is of another history.
    #[must_use]
    pub fn get(&self, id: OpId) -> &Operation {
        &self.operations[id.0 as usize]
    }

    /// All operations in the order of invocation.
    pub fn operations(&self) -> impl ExactSizeIterator<Item = (OpId, &Operation)> {
        self.operations.iter().enumerate().map(|(id, operation)| (OpId(id as u32), operation))
    }

    /// All sightings in the order of time.
    #[must_use]
    pub fn sightings(&self) -> &[Sighting] {
        &self.sightings
    }

    /// Everything in the order of time.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    fn end(&mut self, id: OpId, now: u64, end: End) {
        let ended = self.turn(now, Turn::End(id));
        let operation = &mut self.operations[id.0 as usize];
        assert_eq!(operation.end, End::Open, "{id:?} has been answered");
        operation.ended = Some(ended);
        operation.end = end;
    }

    fn turn(&mut self, now: u64, turn: Turn) -> Moment {
        assert!(now >= self.now, "clock ran backwards: {now} < {}", self.now);
        self.now = now;
        let moment = Moment { at: now, turn: u32::try_from(self.turns.len()).expect("more than 2^32 turns") };
        self.turns.push(turn);
        moment
    }

    /// A changed copy of an operation's end, for tests that a checker must not pass.
    #[must_use]
    pub fn with_end(&self, id: OpId, end: End) -> Self {
        let mut changed = self.clone();
        changed.operations[id.0 as usize].end = end;
        changed
    }
}
