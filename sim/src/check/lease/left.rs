//! What is told of a lease is true. It lives, or is gone, at some moment between question and answer; it was granted for
//! as long as is said; what is left of it is what some leader's clock within the declared drift can show; and the keys it is
//! said to have are those that it has in the state of the answer's revision, which is no older than anything that anybody
//! had seen when it was asked for.
//!
//! A clock shows the time since the lease was granted or renewed last, or since its leader took over, which may give it its
//! whole time again and one election timeout more. So at least what was promised is left: TTL after the last renewal was sent
//! that was answered before the question was. At most it is TTL after the last renewal that can have counted: what a leader
//! was asked, by a client or by another member, counts at any time before it replies. (What a former leader wrote down of it
//! is not looked at here: K03 is noticed by leases that do not end.)
//!
//! IDs that clients choose come back: what has gone and come again in between is not known of them.

use std::collections::BTreeMap;

use quorate_api::etcdserverpb as pb;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::KeyRange;
use quorate_core::store::{Applied, LeaseChange};
use quorate_core::{Blob, Incarnation, LeaseId, NodeId, Revision, Term, Ttl};
use quorate_jepsen::model::Kv;

use super::{Leases, Life, has_many_lives, nanos};
use crate::check::Violation;
use crate::clock::DRIFT_PPM_MAX;
use crate::heap::{MICRO, Nanos, SECOND};
use crate::member::CallId;

/// A lease whose end was refused lives so much longer, at most. (`core/src/replica/lease_clock.rs`)
const REFUSED_RETRY: Nanos = 5 * SECOND;

const MILLION: u128 = 1_000_000;
const DRIFT: u128 = DRIFT_PPM_MAX.unsigned_abs() as u128;

/// Who asked a member to renew a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A client, by a call of its own.
    Client {
        /// Which client.
        client: usize,
        /// The number of its call.
        call: u64,
    },
    /// Another member, for one of its clients; perhaps more than once.
    Member {
        /// Which one.
        id: NodeId,
        /// Its process.
        session: Incarnation,
        /// Its name for the question.
        question: u64,
    },
}

impl Asker {
    /// Whoever sent this call.
    #[must_use]
    pub fn of(CallId { client, call }: CallId) -> Self {
        Self::Client { client, call }
    }
}

/// What a leader's clock takes note of at its next turn.
#[derive(Clone, Copy, Debug)]
enum Note {
    /// It takes over.
    Promoted,
    /// The lease has so much time from now on.
    Restarted(LeaseId, Nanos),
}

/// A question that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Question {
    id: LeaseId,
    sent: Nanos,
    /// How long the lease was promised to live when it was sent.
    until: Nanos,
    /// The newest revision that anybody had seen then.
    seen: Revision,
}

/// What leaders' clocks can show.
#[derive(Debug)]
pub(super) struct Left {
    grace: Nanos,
    /// Renewals that members were asked for and have not replied to, and how often.
    renewals: BTreeMap<(usize, Asker), (LeaseId, u64)>,
    notes: Vec<(usize, Note)>,
    /// The last term in which a member took over.
    terms: BTreeMap<usize, Term>,
    /// When anybody took over last.
    promoted: Option<Nanos>,
    questions: BTreeMap<(usize, u64), Question>,
    /// The keys that a lease was said to have at a revision.
    keys: Vec<(LeaseId, Revision, Vec<Blob>)>,
}

impl Left {
    pub(super) fn new(grace: Nanos) -> Self {
        Self {
            grace,
            renewals: BTreeMap::new(),
            notes: Vec::new(),
            terms: BTreeMap::new(),
            promoted: None,
            questions: BTreeMap::new(),
            keys: Vec::new(),
        }
    }

    /// Forgets what was never replied to, of leases that are forgotten.
    pub(super) fn forget(&mut self, lives: &BTreeMap<LeaseId, Life>) {
        self.renewals.retain(|_, (id, _)| lives.contains_key(id));
    }
}

impl Life {
    /// Its clock may have begun anew at `now`, with its whole time.
    fn renewed(&mut self, now: Nanos) {
        self.latest = self.latest.max(now + slowest(self.longest()));
    }

    fn longest(&self) -> Nanos {
        self.granted.last().map_or(0, |ttl| nanos(*ttl))
    }
}

impl Leases {
    /// The member on this machine has applied this, leading in that term if it leads.
    pub fn applied(&mut self, machine: usize, term: Option<Term>, applied: &Applied) {
        let Some(term) = term else { return };
        for change in &applied.leases {
            let restarted = match change {
                LeaseChange::Granted(lease) => Note::Restarted(lease.id, nanos(lease.ttl)),
                LeaseChange::Kept(id) => Note::Restarted(*id, REFUSED_RETRY),
                LeaseChange::Revoked(_) | LeaseChange::Checkpointed(..) => continue,
            };
            self.left.notes.push((machine, restarted));
        }
        // It knows all leases with the first entry of its own term.
        if applied.term == term && self.left.terms.insert(machine, term) != Some(term) {
            self.left.notes.push((machine, Note::Promoted));
        }
    }

    /// The member on this machine has had a turn.
    pub fn turned(&mut self, now: Nanos, machine: usize) {
        if self.left.notes.is_empty() {
            return;
        }
        for (_, note) in self.left.notes.extract_if(.., |(of, _)| *of == machine) {
            match note {
                Note::Promoted => self.left.promoted = Some(now),
                Note::Restarted(id, span) => {
                    let life = self.lives.entry(id).or_default();
                    life.latest = life.latest.max(now + slowest(span));
                }
            }
        }
    }

    /// A process starts on this machine; what was asked of the last one it has taken with it.
    pub fn started(&mut self, now: Nanos, machine: usize) {
        self.left.notes.retain(|(of, _)| *of != machine);
        self.left.terms.remove(&machine);
        let Self { lives, left, .. } = self;
        left.renewals.retain(|(of, _), (id, _)| {
            let is_over = *of == machine;
            lives.get_mut(id).into_iter().filter(|_| is_over).for_each(|life| life.renewed(now));
            !is_over
        });
    }

    /// The member on this machine is asked to renew the lease: from now on until it replies that may count.
    pub fn asked(&mut self, machine: usize, asker: Asker, id: LeaseId) {
        let (_, times) = self.left.renewals.entry((machine, asker)).or_insert((id, 0));
        *times += 1;
    }

    /// The member on this machine replies to what it was asked.
    pub fn replied(&mut self, now: Nanos, machine: usize, asker: &Asker) {
        let Some((id, times)) = self.left.renewals.get_mut(&(machine, *asker)) else { return };
        self.lives.get_mut(id).into_iter().for_each(|life| life.renewed(now));
        *times -= 1;
        if *times == 0 {
            self.left.renewals.remove(&(machine, *asker));
        }
    }

    /// A client asks what is left of the lease; revision `seen` is the newest that anybody saw.
    pub fn asks_what_is_left(&mut self, call: CallId, id: LeaseId, sent: Nanos, seen: Revision) {
        let until = self.lives.get(&id).map_or(0, |life| life.until);
        self.left.questions.insert((call.client, call.call), Question { id, sent, until, seen });
    }

    /// It waits no longer.
    pub fn not_told(&mut self, call: CallId) {
        self.left.questions.remove(&(call.client, call.call));
    }

    /// It is told so; gives the revision of that.
    ///
    /// # Errors
    /// That cannot be.
    ///
    /// # Panics
    /// If it never asked.
    pub fn told_what_is_left(
        &mut self,
        call: CallId,
        now: Nanos,
        reply: &pb::LeaseTimeToLiveResponse,
    ) -> Result<Revision, Violation> {
        let question = self.left.questions.remove(&(call.client, call.call)).expect("it asked");
        let Question { id, sent, seen, .. } = question;
        let revision = Revision(reply.header.as_ref().map_or(0, |header| header.revision));
        let fail = |what: String| {
            let told = format!("{} of {} s are left, with {} keys", reply.ttl, reply.granted_ttl, reply.keys.len());
            let text = format!("lease {id}, asked after at {sent}, is told of at {now}: {told} at {revision}: {what}");
            Err(Violation::new("lease", text))
        };
        if reply.id != id.0 {
            return fail(format!("that is lease {}", reply.id));
        }
        if revision < seen {
            return fail(format!("somebody had seen {seen} before"));
        }
        let unknown = Life::default();
        let life = self.lives.get(&id).unwrap_or(&unknown);
        let is_known_by = |since: Option<Nanos>| since.is_some_and(|since| since < sent) && !has_many_lives(id);
        if reply.ttl < 0 {
            if (reply.ttl, reply.granted_ttl, reply.keys.len()) != (-1, 0, 0) {
                return fail("what is gone has nothing".into());
            }
            if is_known_by(life.since) && life.ended.is_none() {
                return fail(format!("it was granted at {:?} and has not ended", life.since));
            }
            return Ok(revision);
        }
        if !life.granted.contains(&Ttl(reply.granted_ttl)) {
            return fail(format!("it was granted for {:?}", life.granted));
        }
        if is_known_by(life.ended) {
            return fail(format!("it has ended at {:?}", life.ended));
        }
        let left = u128::from(reply.ttl.unsigned_abs()) * u128::from(SECOND);
        if let Err(what) = self.bounds(&question, life, now, left) {
            return fail(what);
        }
        let keys = reply.keys.iter().map(|key| Blob::from(key.to_vec())).collect();
        self.left.keys.push((id, revision, keys));
        Ok(revision)
    }

    /// Whether so much may be left, rounded down to seconds.
    fn bounds(&self, question: &Question, life: &Life, now: Nanos, left: u128) -> Result<(), String> {
        let Question { id, sent, until, .. } = *question;
        let least = u128::from(until.saturating_sub(now)) * (MILLION + DRIFT) / MILLION;
        if !has_many_lives(id) && left + u128::from(SECOND + MICRO) < least {
            return Err(format!("it was promised to live until {until}"));
        }
        let is_asked = self.left.renewals.values().any(|(of, _)| *of == id);
        let renewed = if is_asked { now + slowest(life.longest()) } else { life.latest };
        let taken_over = self.left.promoted.map_or(0, |at| at + slowest(life.longest() + self.left.grace));
        let latest = renewed.max(taken_over);
        let most = u128::from(latest.saturating_sub(sent)) * (MILLION - DRIFT) / MILLION;
        if left > 0 && left > most + u128::from(MICRO) && !mutant::is_on(Mutant::O14) {
            return Err(format!("by any clock it has run out at {latest}"));
        }
        Ok(())
    }

    /// Compares the keys that leases were said to have with what they had, and forgets them; gives how often any were said.
    ///
    /// # Errors
    /// The first difference.
    pub fn judge_keys(&mut self, kv: &Kv) -> Result<u64, Violation> {
        let all = std::mem::take(&mut self.left.keys);
        let everything = KeyRange::From(Blob::copy(&[0]));
        for (id, revision, said) in &all {
            let mut attached: Vec<&Blob> = Vec::new();
            kv.visit(&everything, *revision, |kv| {
                if kv.lease == Some(*id) {
                    attached.push(&kv.key);
                }
            });
            let is_right = *revision <= kv.revision() && said.iter().eq(attached.iter().copied());
            if !is_right && !mutant::is_on(Mutant::O15) {
                let text = format!("lease {id} is said to have {said:?} at {revision}, it has {attached:?}");
                return Err(Violation::new("lease", text));
            }
        }
        Ok(all.len() as u64)
    }

    /// The oldest revisions that answers may be of.
    pub fn awaited(&self) -> impl Iterator<Item = Revision> {
        self.left.questions.values().map(|question| question.seen)
    }
}

/// How long the slowest clock takes for as much.
fn slowest(span: Nanos) -> Nanos {
    u64::try_from(u128::from(span) * MILLION / (MILLION - DRIFT) + 1).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use quorate_core::request::{Lease, PutRequest};

    use super::*;

    const ID: LeaseId = LeaseId(5_000);
    const CALL: CallId = CallId { client: 3, call: 7 };

    /// A lease of 10 s that a leader on machine 0 grants at 100 s, asked for half a second before.
    fn granted() -> Leases {
        let mut leases = Leases::new(SECOND);
        leases.changed(&LeaseChange::Granted(Lease { id: ID, ttl: Ttl(10) }), 100 * SECOND).unwrap();
        leases.left.notes.push((0, Note::Restarted(ID, 10 * SECOND)));
        leases.turned(100 * SECOND, 0);
        leases.promised(ID, Ttl(10), 100 * SECOND - SECOND / 2).unwrap();
        leases
    }

    fn reply(ttl: i64, granted_ttl: i64, keys: &[&str]) -> pb::LeaseTimeToLiveResponse {
        let header = Some(pb::ResponseHeader { revision: 4, ..Default::default() });
        let keys = keys.iter().map(|key| key.as_bytes().to_vec().into()).collect();
        pb::LeaseTimeToLiveResponse { header, id: ID.0, ttl, granted_ttl, keys }
    }

    /// Asked after at once, and answered 100 ms later.
    fn told(leases: &mut Leases, at: Nanos, reply: &pb::LeaseTimeToLiveResponse) -> Result<Revision, Violation> {
        leases.asks_what_is_left(CALL, ID, at, Revision(4));
        leases.told_what_is_left(CALL, at + SECOND / 10, reply)
    }

    fn left(leases: &mut Leases, at: Nanos) -> Vec<i64> {
        (0..20).filter(|ttl| told(leases, at, &reply(*ttl, 10, &[])).is_ok()).collect()
    }

    #[test]
    fn what_is_left_is_what_a_clock_may_show() {
        assert_eq!(left(&mut granted(), 104 * SECOND), [5, 6], "no less than what was promised");
        assert_eq!(left(&mut granted(), 108 * SECOND), [0, 1, 2]);
        assert_eq!(left(&mut granted(), 111 * SECOND), [0], "by no clock is there more");
    }

    #[test]
    fn a_renewal_counts_from_its_arrival_until_it_is_replied_to() {
        let mut leases = granted();
        let asker = Asker::Member { id: NodeId(2), session: Incarnation(1), question: 1 };
        leases.asked(0, asker, ID);
        assert_eq!(left(&mut leases, 108 * SECOND), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        leases.replied(105 * SECOND, 0, &asker);
        assert_eq!(left(&mut leases, 108 * SECOND), [0, 1, 2, 3, 4, 5, 6, 7]);
        leases.promised(ID, Ttl(10), 104 * SECOND).unwrap();
        assert_eq!(left(&mut leases, 108 * SECOND), [5, 6, 7]);
    }

    #[test]
    fn a_leader_that_takes_over_gives_it_its_time_again_and_more() {
        let mut leases = granted();
        leases.left.notes.push((1, Note::Promoted));
        leases.turned(105 * SECOND, 1);
        assert_eq!(left(&mut leases, 108 * SECOND), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        leases.left.notes.push((1, Note::Promoted));
        leases.started(107 * SECOND, 1);
        leases.turned(107 * SECOND, 1);
        assert_eq!(left(&mut leases, 108 * SECOND), [0, 1, 2, 3, 4, 5, 6, 7, 8], "it died before its turn came");
    }

    #[test]
    fn it_lives_as_long_as_it_was_granted_for_or_it_is_gone() {
        let gone = reply(-1, 0, &[]);
        assert!(told(&mut Leases::new(SECOND), SECOND, &gone).is_ok(), "there never was one");
        assert!(told(&mut Leases::new(SECOND), SECOND, &reply(3, 10, &[])).is_err());
        assert!(told(&mut granted(), 101 * SECOND, &gone).is_err(), "it lives");
        assert!(told(&mut granted(), 99 * SECOND, &gone).is_ok(), "not when that was asked");
        assert!(told(&mut granted(), 101 * SECOND, &reply(8, 9, &[])).is_err(), "granted for something else");
        assert!(granted().promised(ID, Ttl(9), 101 * SECOND).is_err());
        let mut leases = granted();
        leases.meddled(ID);
        leases.changed(&LeaseChange::Revoked(ID), 102 * SECOND).unwrap();
        assert!(told(&mut leases, 103 * SECOND, &reply(7, 10, &[])).is_err(), "it is over");
        assert!(told(&mut leases, 102 * SECOND, &reply(8, 10, &[])).is_ok(), "it was not when that was asked");
        assert!(told(&mut leases, 103 * SECOND, &gone).is_ok());
        assert!(told(&mut leases, 103 * SECOND, &reply(-1, 10, &[])).is_err());
        assert!(told(&mut leases, 103 * SECOND, &reply(-1, 0, &["a"])).is_err());
    }

    #[test]
    fn its_keys_are_those_of_the_answers_revision_which_is_not_an_old_one() {
        let mut kv = Kv::default();
        for (key, lease) in [("a", Some(ID)), ("b", Some(ID)), ("a", None)] {
            let put = PutRequest {
                key: key.into(),
                value: "1".into(),
                lease,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            };
            kv.put(&put);
        }
        let verdict = |keys: &[&str]| {
            let mut leases = granted();
            told(&mut leases, 101 * SECOND, &reply(8, 10, keys)).unwrap();
            leases.judge_keys(&kv)
        };
        assert_eq!(verdict(&["b"]), Ok(1));
        assert!(verdict(&["a", "b"]).is_err(), "a has left it");
        assert!(verdict(&[]).is_err());
        let mut leases = granted();
        leases.asks_what_is_left(CALL, ID, 101 * SECOND, Revision(5));
        assert!(leases.told_what_is_left(CALL, 101 * SECOND, &reply(8, 10, &["b"])).is_err());
        assert_eq!(leases.awaited().count(), 0);
    }
}
