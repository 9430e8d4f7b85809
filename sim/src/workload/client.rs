//! One client of keys and leases: asks, waits, gives up, goes to another member.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::request::{KeyRange, RangeRequest};
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{Op, OpId};

use super::caller::Caller;
use super::chore::Chore;
use super::{Generator, Known};
use crate::call::Rpc;
use crate::heap::{MILLI, Nanos, SECOND};

/// What a call was about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An operation of the history.
    Op(OpId, Op),
    /// The renewal of a lease.
    KeepAlive(LeaseId),
    /// A question about a lease.
    TimeToLive(LeaseId),
    /// What is not about keys or leases.
    Chore(Chore),
}

/// A call that waits for its answer.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its number.
    pub call: u64,
    /// What it is about.
    pub subject: Subject,
    /// When it was sent.
    pub sent: Nanos,
}

/// A lease that a client works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its ID.
    pub id: LeaseId,
    /// As granted.
    pub ttl: Ttl,
    /// Renewed now and then, or left to run out.
    pub renews: bool,
}

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends this operation, which the history then has a name for.
    Ask(Op),
    /// Renews.
    KeepAlive(LeaseId),
    /// Asks what is left.
    TimeToLive(LeaseId),
    /// Asks for something else.
    Chore(Chore),
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    generator: Generator,
    /// Its calls.
    pub caller: Caller,
    /// What it knows.
    pub known: Known,
    /// Its lease.
    pub held: Option<Held>,
    /// A lease that it was told is revoked: somewhere else, too, it must be gone.
    gone: Option<LeaseId>,
}

impl Client {
    /// A client that begins with `member`.
    #[must_use]
    pub fn new(generator: Generator, member: usize) -> Self {
        Self { generator, caller: Caller::new(member), known: Known::default(), held: None, gone: None }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.generator.redraw(sample);
    }

    /// Draws what to do next.
    pub fn step(&mut self) -> Step {
        if let Some(gone) = self.gone.take() {
            return Step::KeepAlive(gone);
        }
        match (self.generator.lease_ticket(), self.held) {
            (0..8, None) => {
                let id = self.generator.chance(1, 3).then(|| LeaseId(1 + self.generator.below(20) as i64));
                Step::Ask(Op::LeaseGrant { id, ttl: self.generator.ttl() })
            }
            (0..12, Some(held)) if held.renews => Step::KeepAlive(held.id),
            (0..1, Some(held)) => Step::KeepAlive(held.id),
            (12..14, Some(held)) => Step::Ask(Op::LeaseRevoke(held.id)),
            (14..16, Some(held)) => Step::TimeToLive(held.id),
            (16..18, Some(_)) => {
                self.held = None;
                Step::Ask(self.generator.operation(self.known))
            }
            _ => {
                self.known.lease = self.held.map(|held| held.id);
                Step::Ask(self.generator.operation(self.known))
            }
        }
    }

    /// Something was answered at this revision.
    pub fn saw(&mut self, revision: Revision) {
        self.known.revision = self.known.revision.max(revision);
    }

    /// A lease was granted.
    pub fn granted(&mut self, id: LeaseId, ttl: Ttl) {
        self.held = Some(Held { id, ttl, renews: self.generator.chance(1, 2) });
    }

    /// Its lease is revoked. One time in two it asks another member for a renewal: who does not know must not promise one.
    pub fn revoked(&mut self, id: LeaseId) {
        self.held = None;
        self.gone = self.generator.chance(1, 2).then_some(id);
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        match self.generator.below(10) {
            0 => 10 * MILLI + self.generator.below(200 * MILLI),
            1..6 => 300 * MILLI + self.generator.below(2 * SECOND),
            _ => 2 * SECOND + self.generator.below(8 * SECOND),
        }
    }

    /// How long to think, given the mean.
    pub fn think(&mut self, mean: Nanos) -> Nanos {
        MILLI + self.generator.below(2 * mean)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.caller.move_on(self.generator.rng(), members);
    }

    /// Whether to change the member, for no reason or to hear what another one says.
    pub fn is_restless(&mut self) -> bool {
        self.generator.chance(1, 50) || self.gone.is_some()
    }
}

/// The method and encoded request of a call that is not part of the history.
#[must_use]
pub fn lease_request(subject: &Subject) -> Option<(Rpc, Bytes)> {
    match subject {
        Subject::Op(..) => None,
        Subject::Chore(chore) => Some(chore.encode()),
        Subject::KeepAlive(id) => {
            Some((Rpc::LeaseKeepAlive, pb::LeaseKeepAliveRequest { id: id.0 }.encode_to_vec().into()))
        }
        Subject::TimeToLive(id) => {
            Some((Rpc::LeaseTimeToLive, pb::LeaseTimeToLiveRequest { id: id.0, keys: true }.encode_to_vec().into()))
        }
    }
}

/// A linearizable read of every key.
#[must_use]
pub fn read_all() -> Op {
    Op::Range(RangeRequest::new(KeyRange::From(Blob::copy(&[0]))))
}
