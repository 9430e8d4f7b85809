//! Nobody is answered what no state of users and roles during the call allowed, nobody is refused what every one of them
//! allowed, and what is told of users, roles, alarms and leases is what the log says. A put is refused for want of space if its
//! member was beyond the quota, by a state that was not behind, or the alarm was on, and only then; and members hash the
//! same history to the same number.

mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{AlarmKind, RequestOp};
use quorate_core::{Instant, LogIndex};
use quorate_jepsen::auth::Question;
use quorate_jepsen::history::Op;
use quorate_node::status::Status;
use window::Window;

use super::reference::Reference;
use super::{Verdict, Violation};
use crate::heap::Nanos;
use crate::member::Gated;
use crate::wire;
use crate::workload::Token;
use crate::workload::chore::Chore;
use crate::workload::client::Subject;

/// A call under way.
#[derive(Clone, Debug)]
struct Call {
    sent: Nanos,
    subject: Subject,
    token: Option<Token>,
    arrival: Option<Arrival>,
    /// Its session was not used on that member for longer than sessions live.
    is_stale: bool,
}

/// What was true when it reached its member.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Committed by then.
    pub committed: LogIndex,
    /// Applied by then, on that member.
    pub applied: LogIndex,
    /// Logical bytes of that member's state.
    pub bytes: u64,
    /// By the member's clock.
    pub time: Instant,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Figures {
    pub logins: u64,
    pub changes_of_users: u64,
    pub answered_to_users: u64,
    pub refused_to_users: u64,
    pub refused_for_space: u64,
    pub hashes_compared: u64,
    pub watchers_refused: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.logins += other.logins;
        self.changes_of_users += other.changes_of_users;
        self.answered_to_users += other.answered_to_users;
        self.refused_to_users += other.refused_to_users;
        self.refused_for_space += other.refused_for_space;
        self.hashes_compared += other.hashes_compared;
        self.watchers_refused += other.watchers_refused;
    }
}

/// The calls under way, and what they came to.
#[derive(Debug, Default)]
pub struct Audit {
    /// There is a reference to go by.
    is_on: bool,
    quota: Option<u64>,
    session_ttl: Duration,
    /// When sessions were last used on a member, by its clock, or opened there: only those that its state has reached.
    used: BTreeMap<(usize, Token), Instant>,
    /// How many sessions each member's state has reached since it started.
    opened: BTreeMap<usize, usize>,
    calls: BTreeMap<(usize, u64), Call>,
    /// What was hashed, up to where and from which floor on; and whose hash was the first.
    hashes: BTreeMap<(i64, i64), (u32, usize)>,
    /// How many of what.
    pub figures: Figures,
}

impl Audit {
    /// An audit, or none, of members with this quota, on which sessions live for so long when they are not used.
    #[must_use]
    pub fn new(is_on: bool, quota: Option<u64>, session_ttl: Duration) -> Self {
        Self { is_on, quota, session_ttl, ..Self::default() }
    }

    /// Forgets the calls that were sent before this time: nobody answers them any more.
    pub fn forget(&mut self, before: Nanos) {
        self.calls.retain(|_, call| call.sent >= before);
    }

    /// A member shows the state after `applied`; sessions that were opened on the way begin to live.
    pub fn shown(&mut self, reference: &Reference, member: usize, applied: LogIndex, time: Instant) {
        let known = self.opened.entry(member).or_default();
        for token in reference.tokens(*known, applied) {
            self.used.insert((member, Token::from(token)), time);
            *known += 1;
        }
    }

    /// A member starts anew: it takes no token from before, but for those that its log has yet to tell it of again.
    pub fn started(&mut self, member: usize) {
        self.used.retain(|(other, _), _| *other != member);
        self.opened.remove(&member);
    }

    /// A member looked at a token. A session that its state has yet to reach does not begin to live by that.
    pub fn touched(&mut self, member: usize, token: Token, time: Instant) {
        if let Some(used) = self.used.get_mut(&(member, token)) {
            *used = time;
        }
    }

    /// A part of a call that shows this token is done on a member.
    pub fn used(&mut self, client: usize, call: u64, member: usize, time: Instant) {
        if let Some(Call { token: Some(token), .. }) = self.calls.get(&(client, call)) {
            self.touched(member, Token::clone(token), time);
        }
    }

    /// A client sends its call of this number.
    pub fn sent(&mut self, now: Nanos, client: usize, call: u64, subject: &Subject, token: Option<&Token>) {
        if self.is_on {
            let (subject, token) = (subject.clone(), token.cloned());
            self.calls.insert((client, call), Call { sent: now, subject, token, arrival: None, is_stale: false });
        }
    }

    /// It has reached a member.
    pub fn arrived(&mut self, client: usize, call: u64, member: usize, arrival: Arrival) {
        let Some(call) = self.calls.get_mut(&(client, call)) else { return };
        call.arrival = Some(arrival);
        if let Some(token) = &call.token
            && let Some(used) = self.used.get_mut(&(member, Token::clone(token)))
        {
            call.is_stale = arrival.time.since(*used) >= self.session_ttl;
            *used = arrival.time;
        }
    }

    /// Bytes that a call under way may add, as the quota counts them.
    #[must_use]
    pub fn cost(&self, client: usize, call: u64) -> u64 {
        match self.calls.get(&(client, call)).map(|call| &call.subject) {
            Some(Subject::Op(_, op)) => cost(op),
            _ => 0,
        }
    }

    /// `member`, which had applied everything through `applied`, answers.
    ///
    /// # Errors
    /// It should not have answered that.
    pub fn answered(
        &mut self,
        reference: &Reference,
        (client, number): (usize, u64),
        (member, applied): (usize, LogIndex),
        answer: &Result<Bytes, Status>,
    ) -> Verdict {
        let Some(call) = self.calls.remove(&(client, number)) else { return Ok(()) };
        let Some(arrival) = call.arrival else { return Ok(()) };
        let window = Window { reference, call: &call, arrival, applied };
        let judged = match answer {
            Ok(_) if mutant::is_on(Mutant::O24) => Ok(()),
            Err(_) if mutant::is_on(Mutant::O25) => Ok(()),
            Ok(bytes) => window.judge_answer(bytes).and_then(|()| self.judge_hash(&call, member, bytes)),
            Err(status) => window.judge_refusal(status),
        };
        judged.and_then(|()| self.judge_space(&window, answer)).map_err(|what| {
            let Arrival { committed, applied: local, .. } = arrival;
            let text = format!(
                "member {member} answered {} to {:?} of {:?}: {what}\n  it arrived with {committed} committed and {local} \
                 applied there, and was answered at {applied}",
                answer.as_ref().map_or_else(|status| status.message.clone(), |_| "well".into()),
                call.subject,
                call.token.as_ref().map(|token| window.reference.session(token).map(|session| &session.user)),
            );
            Violation::new("audit", text)
        })?;
        self.count(reference, &call, applied, answer);
        Ok(())
    }

    /// `member` let somebody watch, or did not.
    ///
    /// # Errors
    /// It should not have.
    pub fn gated(&mut self, reference: &Reference, member: usize, gated: &Gated) -> Verdict {
        let Gated { token, range, refused, applied } = gated;
        let monitor = reference.monitor(*applied);
        let session = token.as_ref().map(|token| reference.session(token).filter(|session| session.is_open(*applied)));
        let expected = match session {
            _ if !monitor.enabled => Ok(()),
            Some(None) => Err(Error::InvalidAuthToken),
            Some(Some(session)) => monitor.answer(Some(&session.user), Question::Read(range)),
            None => monitor.answer(None, Question::Read(range)),
        };
        let denied = refused.as_ref().is_some_and(|status| *status == Error::PermissionDenied.into());
        self.figures.watchers_refused += u64::from(denied);
        let right = match refused {
            None => expected.is_ok(),
            Some(_) if denied => expected == Err(Error::PermissionDenied),
            Some(_) => true,
        };
        if right {
            return Ok(());
        }
        let user = session.flatten().map(|session| &session.user);
        let text =
            format!("member {member} said {refused:?} to {user:?}, who watches {range:?}: the log says {expected:?}");
        Err(Violation::new("audit", text))
    }

    fn count(&mut self, reference: &Reference, call: &Call, applied: LogIndex, answer: &Result<Bytes, Status>) {
        let figures = &mut self.figures;
        match (&call.subject, answer) {
            (Subject::Chore(Chore::Login { .. }), Ok(_)) => figures.logins += 1,
            (Subject::Chore(Chore::Change(_)), Ok(_)) => figures.changes_of_users += 1,
            (_, Ok(_)) if reference.monitor(applied).enabled => figures.answered_to_users += 1,
            (_, Err(status)) if *status == Error::PermissionDenied.into() => figures.refused_to_users += 1,
            (_, Err(status)) if *status == Error::NoSpace.into() => figures.refused_for_space += 1,
            _ => {}
        }
    }

    fn judge_hash(&mut self, call: &Call, member: usize, bytes: &Bytes) -> Result<(), String> {
        if !matches!(call.subject, Subject::Chore(Chore::HashKv(_))) {
            return Ok(());
        }
        let reply: pb::HashKvResponse = wire::message(bytes.clone());
        let what = (reply.hash_revision, reply.compact_revision);
        let (hash, first) = *self.hashes.entry(what).or_insert((reply.hash, member));
        self.figures.hashes_compared += u64::from(first != member);
        if hash == reply.hash || mutant::is_on(Mutant::O26) {
            Ok(())
        } else {
            Err(format!("its hash is {:08x}, member {first}'s was {hash:08x}", reply.hash))
        }
    }

    fn judge_space(&self, window: &Window<'_>, answer: &Result<Bytes, Status>) -> Result<(), String> {
        let (Some(quota), Subject::Op(_, op)) = (self.quota, &window.call.subject) else { return Ok(()) };
        let cost = cost(op);
        // What is beyond it there is weighed once more, by a state that is not behind.
        let is_beyond = |bytes: u64| cost > 0 && bytes + cost >= quota;
        let was_beyond = is_beyond(window.arrival.bytes);
        let shown = || window.reference.bytes(LogIndex(window.since()), window.applied);
        match answer {
            Ok(_) if was_beyond && shown().all(is_beyond) => {
                Err(format!("{} bytes and {cost} more are beyond {quota}", window.arrival.bytes))
            }
            Err(status) if *status == Error::NoSpace.into() && !(was_beyond && shown().any(is_beyond)) => {
                let mut states = window.states(window.since());
                let alarmed = states.any(|at| window.reference.is_alarmed(AlarmKind::NoSpace, at));
                if alarmed && cost > 0 { Ok(()) } else { Err("there was space".into()) }
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that an operation may add, as the quota counts them. (etcd: quota.Cost)
fn cost(op: &Op) -> u64 {
    fn branch(ops: &[RequestOp]) -> u64 {
        ops.iter().map(one).sum()
    }
    fn one(op: &RequestOp) -> u64 {
        match op {
            RequestOp::Put(put) => 256 + put.key.len() as u64 + put.value.len() as u64,
            RequestOp::Txn(txn) => branch(&txn.success).max(branch(&txn.failure)),
            RequestOp::Range(_) | RequestOp::DeleteRange(_) => 0,
        }
    }
    match op {
        Op::Put(put) => one(&RequestOp::Put(put.clone())),
        Op::Txn(txn) => one(&RequestOp::Txn(txn.clone())),
        Op::LeaseGrant { .. } => 64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::auth::{AuthCommand, Author};
    use quorate_core::command::{Command, Envelope, Origin};
    use quorate_core::entry::{Entry, Payload};
    use quorate_core::format::codec;
    use quorate_core::request::PutRequest;
    use quorate_core::{Incarnation, NodeId, Term};
    use quorate_jepsen::auth::Monitor;
    use quorate_jepsen::history::OpId;

    use super::*;

    const TOKEN: &str = "s.4";

    /// Users are asked for who they are from entry 3 on; entry 4 opens root's session.
    fn log() -> Reference {
        let (root, password) = (|| "root".to_string(), Some("hash".to_string()));
        let mut reference = Reference::new(None, false);
        let mut monitor = Monitor::default();
        let users = [
            AuthCommand::UserAdd { name: root(), password, no_password: false },
            AuthCommand::UserGrantRole { name: root(), role: root() },
            AuthCommand::Enable,
        ];
        users.iter().for_each(|command| monitor.change(command).unwrap());
        let login = AuthCommand::OpenSession { name: root(), revision: monitor.revision(), secret: "s".into() };
        for (index, command) in (1..).zip(users.into_iter().chain([login])) {
            let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index };
            let envelope = Envelope { origin, command: Command::Auth(command), author: Author::Nobody };
            let payload = Payload::Command(codec::encode(&envelope));
            reference.committed(0, &[Entry { term: Term(1), index: LogIndex(index), payload }]).unwrap();
        }
        assert_eq!(reference.session(TOKEN).map(|session| session.opened), Some(LogIndex(4)));
        reference
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    /// Member 0's state is the one after `applied` when root's put reaches it.
    fn arrives(audit: &mut Audit, call: u64, applied: u64, time: Instant) {
        let put = PutRequest {
            key: "a".into(),
            value: "1".into(),
            lease: None,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        audit.sent(0, 0, call, &Subject::Op(OpId(0), Op::Put(put)), Some(&Token::from(TOKEN)));
        audit.arrived(0, call, 0, Arrival { committed: LogIndex(4), applied: LogIndex(applied), bytes: 0, time });
    }

    fn is_answered(audit: &mut Audit, reference: &Reference, call: u64) -> Verdict {
        audit.answered(reference, (0, call), (0, LogIndex(4)), &Ok(Bytes::new()))
    }

    #[test]
    fn a_session_that_was_not_used_for_its_ttl_is_over() {
        let (reference, mut audit) = (log(), Audit::new(true, None, Duration::from_secs(10)));
        audit.shown(&reference, 0, LogIndex(4), at(0));
        arrives(&mut audit, 1, 4, at(9));
        assert_eq!(is_answered(&mut audit, &reference, 1), Ok(()));
        arrives(&mut audit, 2, 4, at(18));
        assert_eq!(is_answered(&mut audit, &reference, 2), Ok(()), "used 9 s ago");
        arrives(&mut audit, 3, 4, at(28));
        assert!(is_answered(&mut audit, &reference, 3).is_err(), "used 10 s ago");
    }

    /// It waits for a read index, and by then the member has opened the session.
    #[test]
    fn a_session_does_not_run_out_before_its_member_has_opened_it() {
        let (reference, mut audit) = (log(), Audit::new(true, None, Duration::from_secs(10)));
        audit.shown(&reference, 0, LogIndex(3), at(0));
        arrives(&mut audit, 1, 3, at(1));
        audit.touched(0, Token::from(TOKEN), at(2));
        arrives(&mut audit, 2, 3, at(20));
        audit.shown(&reference, 0, LogIndex(4), at(30));
        assert_eq!(is_answered(&mut audit, &reference, 2), Ok(()));
        arrives(&mut audit, 3, 4, at(40));
        assert!(is_answered(&mut audit, &reference, 3).is_err(), "opened 10 s ago");
    }

    /// A member that lost its disk is told of it by the log again.
    #[test]
    fn a_session_that_a_member_opens_again_begins_to_live_again() {
        let (reference, mut audit) = (log(), Audit::new(true, None, Duration::from_secs(10)));
        audit.shown(&reference, 0, LogIndex(4), at(0));
        audit.started(0);
        audit.shown(&reference, 0, LogIndex(0), at(1));
        arrives(&mut audit, 1, 0, at(2));
        audit.shown(&reference, 0, LogIndex(4), at(5));
        arrives(&mut audit, 2, 4, at(14));
        assert_eq!(is_answered(&mut audit, &reference, 2), Ok(()));
        arrives(&mut audit, 3, 4, at(24));
        assert!(is_answered(&mut audit, &reference, 3).is_err(), "used 10 s ago");
    }
}
