//! Clients that take turns, by the recipe that etcd's own library and its Lock and Election services follow: a leased key
//! under one prefix for each, and whoever created the oldest one is first. A holder of the lock writes to another key under
//! the protection of its place in the queue; a leader proclaims. Some forget to renew their leases, some sleep while it is
//! their turn and go on writing when they wake up.

use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::error::Error;
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, KeyValue, PutRequest, RangeRequest,
    RangeResult, RequestOp, ResponseOp, SortOrder, SortTarget, TxnRequest, TxnResult,
};
use quorate_core::rng::Rng;
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{Op, Response};

use super::client::Pending;
use super::ear::Ear;
use super::watcher::Told;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::swarm::Contest;
use crate::world::redraw::anew;

/// Where places in the queue are: in front of all keys that other clients use.
pub const QUEUE: &str = "a/q/";
/// The end of [`QUEUE`]'s range.
const QUEUE_END: &str = "a/q0";
/// What only the holder of the lock writes to.
pub const PROTECTED: &str = "a/kept";

/// All places in the queue.
#[must_use]
pub fn queue() -> KeyRange {
    KeyRange::Bounded { start: QUEUE.into(), end: QUEUE_END.into() }
}

/// A lease's place in the queue. (etcd: clientv3/concurrency)
#[must_use]
pub fn key_of(lease: LeaseId) -> Blob {
    Blob::from(format!("{QUEUE}{:x}", lease.0).into_bytes())
}

/// The fence that a value of [`PROTECTED`] was written behind: a key in the queue, and when it was created.
#[must_use]
pub fn fence_of(value: &[u8]) -> Option<(Blob, Revision)> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ').skip(1);
    Some((Blob::copy(words.next()?.as_bytes()), Revision(words.next()?.parse().ok()?)))
}

/// A lease and what its owner thinks of it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its ID.
    pub lease: LeaseId,
    /// As granted.
    pub ttl: Ttl,
    /// It is renewed, or forgotten.
    renews: bool,
    /// By the owner's clock: TTL after the last answered renewal was sent.
    believed_until: Nanos,
    /// A request for a place may still be under way, though nobody waits for its answer any more.
    is_doubtful: bool,
}

/// How a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The key is deleted, whoever made it. (etcd: Unlock)
    Delete,
    /// It is deleted if it is the one that was created then. (etcd: Resign)
    Guarded,
    /// The lease is revoked.
    Revoke,
    /// Nothing is done: the lease runs out.
    Abandon,
}

/// Where a contender stands.
#[derive(Clone, Debug)]
enum Stage {
    /// It wants nothing, or a session first.
    Away,
    /// It asks for a place in the queue.
    Entering,
    /// It asks who is in front of it.
    Looking { place: Revision },
    /// It waits for the key in front of it to be deleted.
    Waiting { place: Revision },
    /// Nobody is in front of it: it asks whether its own key is still there.
    Verifying { place: Revision },
    /// It is its turn, as far as it knows.
    Holding { place: Revision, writes: u64, is_careless: bool },
    /// It ends its turn.
    Leaving { place: Revision, way: Way },
}

/// What a contender does next.
#[derive(Clone, Debug)]
pub enum Next {
    /// It asks this.
    Ask(Op),
    /// It opens its watch, or opens it anew.
    Listen,
    /// It does nothing for so long.
    Rest(Nanos),
    /// It hears and does nothing for so long.
    Sleep(Nanos),
    /// It will never do anything again.
    Done,
}

/// What a call of a contender came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered(Response),
    /// It was refused and has no effect.
    Refused(Error),
    /// Nobody saw it.
    Unseen,
    /// Nobody knows.
    Unknown,
}

/// Something that only an oracle can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// It has its turn: its key, created then, was the oldest one at this revision.
    Holds {
        /// Its place.
        place: Revision,
        /// Of the answer that said so.
        at: Revision,
    },
    /// Its key, or its lease, is gone, and not by its own doing.
    Gone {
        /// The lease.
        lease: LeaseId,
        /// What says so.
        by: Messenger,
    },
}

/// What tells a contender that its turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messenger {
    /// A renewal.
    Renewal,
    /// The refusal of a request that names the lease.
    Refusal,
    /// A read of its key.
    Read,
    /// The fence that it wrote behind.
    Fence,
}

/// Clients that contend, each with a session and one call beside its renewals.
#[derive(Clone, Debug)]
pub struct Contender {
    rng: Rng,
    number: usize,
    contest: Contest,
    /// The member it talks to.
    pub member: usize,
    /// The call under way.
    pub pending: Option<Pending>,
    /// The renewal under way.
    pub renewal: Option<Pending>,
    /// Its lease.
    pub session: Option<Session>,
    /// The watch by which it waits.
    pub ear: Option<Ear>,
    /// It does nothing until then.
    pub asleep_until: Nanos,
    /// Which of its plans is the latest one.
    pub plan: u64,
    stage: Stage,
    calls: u64,
    connections: u64,
    written: u64,
    /// It had its turn since the end began.
    was_served: bool,
}

impl Contender {
    /// A contender that begins with `member`.
    #[must_use]
    pub fn new(rng: Rng, number: usize, contest: Contest, member: usize) -> Self {
        Self {
            rng,
            number,
            contest,
            member,
            pending: None,
            renewal: None,
            session: None,
            ear: None,
            asleep_until: 0,
            plan: 0,
            stage: Stage::Away,
            calls: 0,
            connections: 0,
            written: 0,
            was_served: false,
        }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// Its session and place, while it is its turn as far as it knows.
    #[must_use]
    pub fn holds(&self) -> Option<(LeaseId, Revision)> {
        match (&self.stage, &self.session) {
            (Stage::Holding { place, .. }, Some(session)) => Some((session.lease, *place)),
            _ => None,
        }
    }

    /// Whether it waits for the one in front of it.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    /// Whether it wants nothing any more: it had its turn since the end began.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let is_idle = self.pending.is_none() && self.renewal.is_none();
        self.was_served && is_idle && matches!(self.stage, Stage::Away) && self.session.is_none()
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { number, member, stage, session, pending, ear, .. } = self;
        format!("contender {number}: {stage:?} with {session:?}, asks {member} {pending:?}, hears by {ear:?}")
    }

    /// Draws what to do next; `is_last`: the end has begun, and this is its last turn.
    pub fn next(&mut self, now: Nanos, is_last: bool) -> Next {
        if !is_last && self.rng.chance(1, if matches!(self.stage, Stage::Holding { .. }) { 16 } else { 200 }) {
            let ttl = self.session.map_or(SECOND, |session| nanos(session.ttl));
            return Next::Sleep(self.rng.below(2 * ttl));
        }
        let Some(session) = self.session else {
            self.stage = Stage::Away;
            if is_last && self.was_served {
                return Next::Done;
            }
            let ttl = Ttl([1, 1, 2, 4][self.pick(4)]);
            return Next::Ask(Op::LeaseGrant { id: None, ttl });
        };
        let key = key_of(session.lease);
        match self.stage.clone() {
            Stage::Away if is_last && self.was_served => {
                self.stage = Stage::Leaving { place: Revision(0), way: Way::Revoke };
                self.leave(session, Revision(0), Way::Revoke)
            }
            Stage::Away | Stage::Entering => {
                self.stage = Stage::Entering;
                Next::Ask(self.enter(session.lease))
            }
            Stage::Looking { place } => {
                let ahead = RangeRequest {
                    limit: 1,
                    sort_order: SortOrder::Descend,
                    sort_target: SortTarget::Create,
                    max_create_revision: Revision(place.0 - 1),
                    ..RangeRequest::new(queue())
                };
                Next::Ask(Op::Range(ahead))
            }
            Stage::Waiting { .. } => {
                let is_restless = self.rng.chance(1, 6);
                if self.ear.as_ref().is_none_or(|ear| !ear.connected) || is_restless {
                    return Next::Listen;
                }
                Next::Rest(300 * MILLI + self.rng.below(2 * SECOND))
            }
            Stage::Verifying { .. } => Next::Ask(Op::Range(RangeRequest::new(KeyRange::Key(key)))),
            Stage::Holding { place, writes: 0, .. } => {
                let way = if is_last { Way::Revoke } else { self.way() };
                self.stage = Stage::Leaving { place, way };
                self.leave(session, place, way)
            }
            Stage::Holding { is_careless: false, .. } if now >= session.believed_until => {
                self.part();
                Next::Rest(MILLI)
            }
            Stage::Holding { place, writes, is_careless } => {
                self.stage = Stage::Holding { place, writes: writes - 1, is_careless };
                Next::Ask(self.write(session.lease, place))
            }
            Stage::Leaving { place, way } => self.leave(session, place, way),
        }
    }

    fn way(&mut self) -> Way {
        match self.rng.below(20) {
            0 => Way::Abandon,
            1..4 => Way::Revoke,
            _ if self.contest.is_election => Way::Guarded,
            4..8 => Way::Guarded,
            _ => Way::Delete,
        }
    }

    fn leave(&mut self, session: Session, place: Revision, way: Way) -> Next {
        let delete = DeleteRangeRequest { range: KeyRange::Key(key_of(session.lease)), prev_kv: false };
        match way {
            Way::Delete => Next::Ask(Op::DeleteRange(delete)),
            Way::Guarded => Next::Ask(Op::Txn(TxnRequest {
                compare: vec![created_at(session.lease, place)],
                success: vec![RequestOp::DeleteRange(delete)],
                failure: vec![],
            })),
            Way::Revoke => Next::Ask(Op::LeaseRevoke(session.lease)),
            Way::Abandon => {
                self.part();
                Next::Rest(MILLI)
            }
        }
    }

    /// A place in the queue, or the one it has already.
    fn enter(&mut self, lease: LeaseId) -> Op {
        let (key, value) = (key_of(lease), self.value(None));
        let get = RangeRequest::new(KeyRange::Key(key.clone()));
        Op::Txn(TxnRequest {
            compare: vec![created_at(lease, Revision(0))],
            success: vec![RequestOp::Put(put(key, value, Some(lease)))],
            failure: vec![RequestOp::Range(get)],
        })
    }

    /// What only the first in the queue may write.
    fn write(&mut self, lease: LeaseId, place: Revision) -> Op {
        let key = key_of(lease);
        let write = if self.contest.is_election {
            put(key, self.value(None), Some(lease))
        } else {
            put(PROTECTED.into(), self.value(Some((&key, place))), None)
        };
        Op::Txn(TxnRequest {
            compare: vec![created_at(lease, place)],
            success: vec![RequestOp::Put(write)],
            failure: vec![],
        })
    }

    /// A value that nobody else writes.
    fn value(&mut self, fence: Option<(&Blob, Revision)>) -> Blob {
        self.written += 1;
        let mut text = format!("{}.{}", self.number, self.written);
        if let Some((key, place)) = fence {
            text += &format!(" {} {place}", String::from_utf8_lossy(key));
        }
        Blob::from(text.into_bytes())
    }

    /// Lets go of its session, which is not renewed any more.
    fn part(&mut self) {
        (self.session, self.stage) = (None, Stage::Away);
    }

    /// What it learns from the end of its call.
    ///
    /// # Errors
    /// An answer that no store gives.
    pub fn heard(&mut self, op: &Op, sent: Nanos, outcome: Outcome, is_last: bool) -> Result<Option<Lesson>, String> {
        let Some(session) = &mut self.session else {
            if let (Op::LeaseGrant { .. }, Outcome::Answered(Response::LeaseGrant(lease, _))) = (op, outcome) {
                let renews = is_last || self.rng.chance(11, 12);
                let believed_until = sent + nanos(lease.ttl);
                let session = Session { lease: lease.id, ttl: lease.ttl, renews, believed_until, is_doubtful: false };
                (self.session, self.stage) = (Some(session), Stage::Away);
            }
            return Ok(None);
        };
        let lease = session.lease;
        if matches!(outcome, Outcome::Refused(Error::LeaseNotFound)) {
            let is_own_doing = matches!(self.stage, Stage::Leaving { .. });
            self.part();
            return Ok((!is_own_doing).then_some(Lesson::Gone { lease, by: Messenger::Refusal }));
        }
        let response = match outcome {
            Outcome::Answered(response) => Some(response),
            Outcome::Refused(_) | Outcome::Unseen => return Ok(None),
            Outcome::Unknown => None,
        };
        match (self.stage.clone(), response) {
            (Stage::Entering, None) => session.is_doubtful = true,
            (Stage::Entering, Some(Response::Txn(result))) => {
                let place = entered(&result, &key_of(lease)).ok_or_else(|| format!("{op:?} came to {result:?}"))?;
                self.stage = Stage::Looking { place };
            }
            (Stage::Looking { place }, Some(Response::Range(result))) => match one(result) {
                (Some(ahead), revision) => {
                    self.connections += 1;
                    self.ear = Some(Ear::new(KeyRange::Key(ahead.key), revision.next(), self.connections));
                    self.stage = Stage::Waiting { place };
                }
                (None, _) => self.stage = Stage::Verifying { place },
            },
            (Stage::Verifying { place }, Some(Response::Range(result))) => {
                let (own, at) = one(result);
                if own.is_none_or(|own| own.create_revision != place) {
                    self.part();
                    return Ok(Some(Lesson::Gone { lease, by: Messenger::Read }));
                }
                self.was_served |= is_last;
                let (writes, is_careless) = (self.rng.below(6), self.rng.chance(1, 2));
                self.stage = Stage::Holding { place, writes, is_careless };
                return Ok(Some(Lesson::Holds { place, at }));
            }
            (Stage::Holding { .. }, Some(Response::Txn(result))) if !result.succeeded => {
                self.part();
                return Ok(Some(Lesson::Gone { lease, by: Messenger::Fence }));
            }
            (Stage::Leaving { way: Way::Delete, .. }, None) => self.part(),
            (Stage::Leaving { way, .. }, Some(_)) => {
                self.stage = Stage::Away;
                // What is still under way could take a place that nobody would know of.
                if way == Way::Revoke || session.is_doubtful {
                    self.part();
                }
            }
            // Nothing was learned: it asks again, or writes on.
            _ => {}
        }
        Ok(None)
    }

    /// Whether to renew this lease, if that is still its own.
    #[must_use]
    pub fn renews(&self, lease: LeaseId) -> bool {
        self.session.is_some_and(|session| session.lease == lease && session.renews)
    }

    /// Its lease was renewed by a request that was sent then.
    pub fn renewed(&mut self, lease: LeaseId, ttl: Ttl, sent: Nanos) {
        if let Some(session) = self.session.as_mut().filter(|session| session.lease == lease) {
            session.believed_until = session.believed_until.max(sent + nanos(ttl));
        }
    }

    /// A renewal came too late.
    pub fn ran_out(&mut self, lease: LeaseId) -> Option<Lesson> {
        let is_own_doing = matches!(self.stage, Stage::Leaving { way: Way::Revoke, .. });
        if self.session.is_none_or(|session| session.lease != lease) || is_own_doing {
            return None;
        }
        self.part();
        Some(Lesson::Gone { lease, by: Messenger::Renewal })
    }

    /// It opens its watch on a member; gives what to send.
    pub fn listen(&mut self, member: usize) -> Option<(u64, pb::WatchRequest)> {
        self.connections += 1;
        let connection = self.connections;
        Some((connection, self.ear.as_mut()?.connect(member, connection)))
    }

    /// What its watch told; whether that is a reason to look again.
    pub fn told(&mut self, told: &[Told]) -> bool {
        let Stage::Waiting { place } = self.stage else { return false };
        let is_delete = |event: &mvccpb::Event| event.r#type == mvccpb::event::EventType::Delete as i32;
        let is_over = told.iter().any(|told| match told {
            Told::Events { events, .. } => events.iter().any(is_delete),
            Told::Compacted(_) => true,
            Told::Created { .. } | Told::Progress(_) => false,
        });
        if is_over {
            self.stage = Stage::Looking { place };
        }
        is_over
    }

    /// A call is sent; gives its number.
    pub fn sent(&mut self, pending: impl FnOnce(u64) -> Pending, is_renewal: bool) -> u64 {
        self.calls += 1;
        let slot = if is_renewal { &mut self.renewal } else { &mut self.pending };
        assert!(slot.is_none(), "one call of a kind at a time");
        *slot = Some(pending(self.calls));
        self.calls
    }

    /// The pending call, if it is this one, which is over now.
    pub fn ended(&mut self, call: u64) -> Option<Pending> {
        let renewal = self.renewal.take_if(|pending| pending.call == call);
        renewal.or_else(|| self.pending.take_if(|pending| pending.call == call))
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        match self.rng.below(10) {
            0 => 10 * MILLI + self.rng.below(200 * MILLI),
            _ => 300 * MILLI + self.rng.below(4 * SECOND),
        }
    }

    /// How long to think.
    pub fn think(&mut self) -> Nanos {
        MILLI + self.rng.below(2 * self.contest.pause)
    }

    /// How long from one renewal to the next.
    pub fn pace(&mut self) -> Nanos {
        let ttl = self.session.map_or(SECOND, |session| nanos(session.ttl));
        ttl / 5 + self.rng.below(ttl / 5)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.member = members[self.pick(members.len())];
    }

    /// Whether to change the member for no reason.
    pub fn is_restless(&mut self) -> bool {
        self.rng.chance(1, 20)
    }

    fn pick(&mut self, choices: usize) -> usize {
        usize::try_from(self.rng.below(choices as u64)).expect("few choices")
    }
}

fn nanos(ttl: Ttl) -> Nanos {
    u64::try_from(ttl.0).expect("granted TTLs are positive") * SECOND
}

fn put(key: Blob, value: Blob, lease: Option<LeaseId>) -> PutRequest {
    PutRequest { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false }
}

fn created_at(lease: LeaseId, place: Revision) -> Compare {
    let range = KeyRange::Key(key_of(lease));
    Compare { range, result: CompareResult::Equal, target: CompareTarget::Create(place) }
}

fn one(result: RangeResult) -> (Option<KeyValue>, Revision) {
    (result.kvs.into_iter().next(), result.revision)
}

/// The place that a txn of [`Contender::enter`] took or found.
fn entered(result: &TxnResult, key: &Blob) -> Option<Revision> {
    match (result.succeeded, &result.responses[..]) {
        (true, [ResponseOp::Put(_)]) => Some(result.revision),
        (false, [ResponseOp::Range(found)]) => {
            found.kvs.first().filter(|found| found.key == *key).map(|found| found.create_revision)
        }
        _ => None,
    }
}
