//! Contenders and observers in the world: what they ask, hear and learn, how long they sleep, and that each of them gets its
//! turn once all faults are over.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::{LeaseId, Ttl};
use quorate_jepsen::history::{Op, Response};

use super::World;
use super::event::{Event, link};
use super::script::outcome;
use crate::call::{Answer, CallError};
use crate::check::{Verdict, Violation};
use crate::chronicle::Happened;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::member::{CallId, Subscription};
use crate::script;
use crate::swarm::{Setup, Stream};
use crate::trace::Kind;
use crate::wire;
use crate::workload::client::{Pending, Subject, lease_request};
use crate::workload::contender::{Contender, Lesson, Next, Outcome};
use crate::workload::ear::Ear;
use crate::workload::observer::Observer;

/// Everybody who still wants it gets a turn within so long after healing, beside what recovering takes: one lease after the
/// other may have to run out.
const PATIENCE: Nanos = 60 * SECOND;

pub(super) fn draw(setup: &Setup) -> Vec<Contender> {
    let contest = setup.contest.iter();
    let all = contest.flat_map(|contest| (0..contest.contenders).map(|number| (*contest, number)));
    all.map(|(contest, n)| Contender::new(setup.stream(Stream::Contender, n), n, contest, n % setup.members)).collect()
}

pub(super) fn draw_observers(setup: &Setup) -> Vec<Observer> {
    let observers =
        if setup.contest.is_some_and(|contest| contest.is_election && contest.contenders > 0) { 2 } else { 0 };
    (0..observers).map(|n| Observer::new(setup.stream(Stream::Contender, 100 + n), n % setup.members)).collect()
}

/// Who contends or looks on, by the number of its line among theirs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Party {
    Contender(usize),
    Observer(usize),
}

impl World {
    /// The line of a contender; observers are behind them.
    pub(super) fn line_of_party(&self, party: Party) -> usize {
        let first = self.operator(self.operators.len()) + self.admins.len();
        match party {
            Party::Contender(number) => first + number,
            Party::Observer(number) => first + self.contenders.len() + number,
        }
    }

    /// The contender or observer on this line.
    pub(super) fn party_of(&self, line: usize) -> Option<Party> {
        let number = line.checked_sub(self.line_of_party(Party::Contender(0)))?;
        match number.checked_sub(self.contenders.len()) {
            None => Some(Party::Contender(number)),
            Some(number) => (number < self.observers.len()).then_some(Party::Observer(number)),
        }
    }

    /// Whose stream this is.
    fn party_on(&self, subscription: Subscription) -> Option<Party> {
        self.party_of(self.line_of_watcher(subscription.client))
    }

    fn ear(&mut self, party: Party) -> &mut Option<Ear> {
        match party {
            Party::Contender(number) => &mut self.contenders[number].ear,
            Party::Observer(number) => &mut self.observers[number].ear,
        }
    }

    pub(super) fn begin_contest(&mut self) {
        let contenders = (0..self.contenders.len()).map(Party::Contender);
        for party in contenders.chain((0..self.observers.len()).map(Party::Observer)) {
            let line = self.line_of_party(party);
            let at = self.setup.clients_from + self.lines[line].rng.below(2 * SECOND);
            self.plan(party, at);
        }
    }

    /// Members whom it makes sense to ask.
    pub(super) fn askable(&self) -> Vec<usize> {
        if self.finale.has_begun() { self.recorded() } else { self.members() }
    }

    /// Lets somebody act at that time, and not when it meant to before.
    fn plan(&mut self, party: Party, at: Nanos) {
        let line = self.line_of_party(party);
        let plan = match party {
            Party::Contender(number) => &mut self.contenders[number].plan,
            Party::Observer(number) => &mut self.observers[number].plan,
        };
        *plan += 1;
        let plan = *plan;
        self.heap.push(at, link::client(line, 2), Event::Contend { line, plan });
    }

    /// The line of the contender that this reaches, and until when it sleeps, if it does.
    pub(super) fn asleep(&self, now: Nanos, event: &Event) -> Option<(usize, Nanos)> {
        let line = match event {
            Event::Answer { call, .. } | Event::Patience { call } => call.client,
            Event::Contend { line, .. } | Event::Renew { line, .. } => *line,
            Event::WatchMessage { subscription, .. } | Event::WatchBroken { subscription } => {
                self.line_of_watcher(subscription.client)
            }
            _ => return None,
        };
        let Some(Party::Contender(number)) = self.party_of(line) else { return None };
        let until = self.contenders[number].asleep_until;
        (until > now).then_some((line, until))
    }

    /// Puts off what reaches a contender while it sleeps.
    pub(super) fn put_off(&mut self, line: usize, until: Nanos, event: Event) {
        // What arrived first comes first.
        let down = &mut self.lines[line].down;
        *down = until.max(*down + 1);
        self.heap.push(*down, link::client(line, 1), event);
    }

    /// Somebody does what comes next.
    pub(super) fn contend(&mut self, now: Nanos, line: usize, plan: u64) {
        let (is_last, members) = (self.finale.has_begun(), self.askable());
        let Some(party) = self.party_of(line) else { return };
        let next = match party {
            Party::Contender(number) => {
                let contender = &mut self.contenders[number];
                if contender.plan != plan || contender.pending.is_some() {
                    return;
                }
                if contender.is_restless() {
                    contender.move_on(&members);
                }
                contender.next(now, is_last)
            }
            Party::Observer(number) => {
                let observer = &mut self.observers[number];
                if observer.plan != plan || observer.caller.pending.is_some() {
                    return;
                }
                let is_forgotten = |ear: &Ear| is_last && !members.contains(&ear.member);
                let is_lost = observer.ear.as_ref().is_some_and(is_forgotten);
                if is_lost { Next::Listen } else { observer.next(is_last) }
            }
        };
        match next {
            Next::Ask(op) => self.contender_asks(now, party, op),
            Next::Listen => self.listen(now, party),
            Next::Rest(span) => self.plan(party, now + span),
            Next::Sleep(span) => {
                if let Party::Contender(number) = party {
                    self.contenders[number].asleep_until = now + span;
                    self.tell_of(now, number, || format!("sleeps for {} ms", span / MILLI));
                }
                self.plan(party, now + span);
            }
            Next::Done => {}
        }
        self.settle(now, party);
    }

    fn tell_of(&mut self, now: Nanos, number: usize, what: impl FnOnce() -> String) {
        let client = self.line_of_party(Party::Contender(number)) - self.clients.len();
        self.tell(now, || Happened::Watch { client, text: format!("contender {number} {}", what()) });
    }

    /// What everybody needs to know after somebody did or learned something.
    fn settle(&mut self, now: Nanos, party: Party) {
        let Party::Contender(number) = party else { return };
        if self.contenders[number].holds().is_none() {
            self.locks.left(number);
        }
        if !self.contenders[number].waits() {
            self.close(now, party);
            self.contenders[number].ear = None;
        }
    }

    fn contender_asks(&mut self, now: Nanos, party: Party, op: Op) {
        let client = self.line_of_party(party);
        self.totals.operations += 1;
        let subject = self.begin_op(now, client, op.clone());
        let (pending, request) = (|call| Pending { call, subject: subject.clone(), sent: now }, wire::encode(&op));
        let (call, member, patience) = match party {
            Party::Contender(number) => {
                let contender = &mut self.contenders[number];
                (contender.sent(pending, false), contender.member, contender.patience())
            }
            Party::Observer(number) => {
                let observer = &mut self.observers[number];
                (observer.caller.asked(subject.clone(), now), observer.caller.member, observer.patience())
            }
        };
        self.audit.sent(now, client, call, &subject, None);
        self.send_as(now, CallId { client, call }, member, request, patience);
    }

    pub(super) fn send_as(
        &mut self,
        now: Nanos,
        call: CallId,
        member: usize,
        request: (crate::call::Rpc, Bytes),
        patience: Nanos,
    ) {
        let CallId { client, call: number } = call;
        let text = if self.trace.logs() { script::describe(request.0, &request.1) } else { String::new() };
        self.trace.event(now, Kind::Client, client, request.0 as u64, &request.1, || text);
        self.tell(now, || {
            let text = script::describe(request.0, &request.1);
            Happened::Asked { client, call: number, member, text }
        });
        self.send_call(now, member, call, request, None, patience);
    }

    /// A contender renews its lease.
    pub(super) fn renew(&mut self, now: Nanos, line: usize, lease: LeaseId) {
        let Some(Party::Contender(number)) = self.party_of(line) else { return };
        let contender = &mut self.contenders[number];
        if !contender.renews(lease) {
            return;
        }
        let pace = contender.pace();
        if contender.renewal.is_none() {
            let subject = Subject::KeepAlive(lease);
            let request = lease_request(&subject).expect("not an operation");
            let pending = |call| Pending { call, subject: subject.clone(), sent: now };
            let (call, member) = (contender.sent(pending, true), contender.member);
            self.audit.sent(now, line, call, &subject, None);
            self.send_as(now, CallId { client: line, call }, member, request, 2 * pace);
        }
        self.heap.push(now + pace, link::client(line, 2), Event::Renew { line, lease });
    }

    /// A call was answered, or it is waited for no longer (`None`).
    pub(super) fn contender_answered(&mut self, now: Nanos, call: CallId, answer: Option<Answer>) -> Verdict {
        let Some(party) = self.party_of(call.client) else { return Ok(()) };
        let pending = match party {
            Party::Contender(number) => self.contenders[number].ended(call.call),
            Party::Observer(number) => self.observers[number].caller.ended(call.call),
        };
        let Some(Pending { subject, sent, .. }) = pending else { return Ok(()) };
        self.tell(now, || {
            let text = answer.as_ref().map_or("gives up".into(), outcome);
            Happened::Ended { client: call.client, call: call.call, text }
        });
        let members = self.askable();
        let failed = !matches!(answer, Some(Ok(_)));
        match (party, &subject) {
            (Party::Contender(number), Subject::Op(id, op)) => {
                let outcome = known(op, answer.as_ref());
                if self.record(now, *id, op, answer)? {
                    self.contender_learns(now, call.client, &outcome, op, sent)?;
                }
                let is_last = self.finale.has_begun();
                let contender = &mut self.contenders[number];
                let lesson = contender.heard(op, sent, outcome, is_last);
                let lesson = lesson.map_err(|text| Violation::new("lock", text))?;
                self.judge_lesson(now, number, lesson)?;
                let contender = &mut self.contenders[number];
                if failed {
                    contender.move_on(&members);
                }
                let at = if contender.waits() { now } else { now + contender.think() };
                self.plan(party, at);
            }
            (Party::Contender(number), _) => {
                self.renewed(now, number, &subject, sent, answer)?;
                if failed {
                    self.contenders[number].move_on(&members);
                }
            }
            (Party::Observer(number), Subject::Op(id, op)) => {
                let outcome = known(op, answer.as_ref());
                self.record(now, *id, op, answer)?;
                let observer = &mut self.observers[number];
                if let Outcome::Answered(Response::Range(result)) = outcome {
                    observer.read(result);
                }
                if failed {
                    observer.move_on(&members);
                }
                let at = now + observer.think() / 10;
                self.plan(party, at);
            }
            (Party::Observer(_), _) => {}
        }
        self.settle(now, party);
        Ok(())
    }

    /// What everybody takes from the answer to a contender's operation.
    fn contender_learns(&mut self, now: Nanos, line: usize, outcome: &Outcome, op: &Op, sent: Nanos) -> Verdict {
        match (op, outcome) {
            (_, Outcome::Answered(Response::LeaseGrant(lease, _))) => {
                self.leases.promised(lease.id, lease.ttl, sent)?;
                self.heap.push(now + MILLI, link::client(line, 2), Event::Renew { line, lease: lease.id });
            }
            (Op::LeaseRevoke(lease), _) => self.leases.revoked(*lease, now),
            _ => {}
        }
        Ok(())
    }

    fn renewed(
        &mut self,
        now: Nanos,
        number: usize,
        subject: &Subject,
        sent: Nanos,
        answer: Option<Answer>,
    ) -> Verdict {
        let (Subject::KeepAlive(lease), Some(Ok(bytes))) = (subject, answer) else { return Ok(()) };
        let reply: pb::LeaseKeepAliveResponse = wire::message(bytes);
        if reply.ttl > 0 {
            self.leases.promised(*lease, Ttl(reply.ttl), sent)?;
            self.totals.renewals += 1;
            self.contenders[number].renewed(*lease, Ttl(reply.ttl), sent);
            return Ok(());
        }
        let lesson = self.contenders[number].ran_out(*lease);
        let is_waiting = self.contenders[number].pending.is_none();
        self.judge_lesson(now, number, lesson)?;
        if is_waiting {
            let at = now + self.contenders[number].think();
            self.plan(Party::Contender(number), at);
        }
        Ok(())
    }

    fn judge_lesson(&mut self, now: Nanos, number: usize, lesson: Option<Lesson>) -> Verdict {
        match lesson {
            None => Ok(()),
            Some(Lesson::Holds { place, at }) => {
                let Some((lease, _)) = self.contenders[number].holds() else { return Ok(()) };
                self.trace.event(now, Kind::Client, number, place.0.cast_unsigned(), &[], || {
                    format!("contender {number} has its turn, at place {place}")
                });
                self.tell_of(now, number, || format!("has its turn by lease {lease}, at place {place}"));
                self.locks.holds(number, (lease, place, at), &self.leases, now)
            }
            Some(Lesson::Gone { lease, by }) => self.locks.gone(number, lease, by, &self.leases, now),
        }
    }

    /// Opens a watch, on any member.
    fn listen(&mut self, now: Nanos, party: Party) {
        let members = self.askable();
        self.close(now, party);
        let opened = match party {
            Party::Contender(number) => {
                let contender = &mut self.contenders[number];
                contender.move_on(&members);
                contender.listen(contender.member).map(|opened| (contender.member, opened))
            }
            Party::Observer(number) => {
                let observer = &mut self.observers[number];
                observer.move_on(&members);
                observer.listen(observer.caller.member).map(|opened| (observer.caller.member, opened))
            }
        };
        let Some((member, (connection, request))) = opened else { return };
        let line = self.line_of_party(party);
        let subscription = Subscription { client: line - self.clients.len(), connection };
        let at = self.up(now, line);
        let subscribe = Event::Subscribe { member, subscription, token: None, requests: vec![request] };
        self.heap.push(at, link::client(line, 0), subscribe);
        let lull = match party {
            Party::Contender(number) => SECOND / 2 + self.contenders[number].think(),
            Party::Observer(number) => self.observers[number].think(),
        };
        self.plan(party, now + lull);
    }

    /// Closes a watch that is open.
    fn close(&mut self, now: Nanos, party: Party) {
        let line = self.line_of_party(party);
        let client = line - self.clients.len();
        let Some(ear) = self.ear(party).as_mut().filter(|ear| ear.connected) else { return };
        ear.connected = false;
        let (member, subscription) = (ear.member, Subscription { client, connection: ear.connection });
        let at = self.up(now, line);
        self.heap.push(at, link::client(line, 0), Event::Unsubscribe { member, subscription });
    }

    /// Whoever listens on this stream, if it still does.
    fn listener(&mut self, subscription: Subscription) -> Option<Party> {
        let party = self.party_on(subscription)?;
        let ear = self.ear(party).as_ref()?;
        (ear.connected && ear.connection == subscription.connection).then_some(party)
    }

    /// A contest's stream broke; whether it is one.
    pub(super) fn contest_stream_broke(&mut self, now: Nanos, subscription: Subscription) -> bool {
        if let Some(party) = self.listener(subscription) {
            self.ear(party).as_mut().expect("it listens").connected = false;
            self.trace.event(now, Kind::Client, subscription.client, 0, &[], || format!("{subscription:?} broke"));
            let line = self.line_of_party(party);
            let at = now + self.lines[line].rng.below(SECOND / 5);
            self.plan_unless_asking(party, at);
        }
        self.party_on(subscription).is_some()
    }

    fn plan_unless_asking(&mut self, party: Party, at: Nanos) {
        let pending = match party {
            Party::Contender(number) => &self.contenders[number].pending,
            Party::Observer(number) => &self.observers[number].caller.pending,
        };
        if pending.is_none() {
            self.plan(party, at);
        }
    }

    /// Something was told on a contest's stream; whether it is one.
    pub(super) fn contest_stream_told(
        &mut self,
        now: Nanos,
        subscription: Subscription,
        bytes: &Bytes,
        cost: u64,
    ) -> Result<bool, Violation> {
        let Some(party) = self.listener(subscription) else { return Ok(self.party_on(subscription).is_some()) };
        self.trace.event(now, Kind::Client, subscription.client, cost, bytes, || format!("{subscription:?} is told"));
        let ear = self.ear(party).as_mut().expect("it listens");
        let member = ear.member;
        let (header, told) = ear.hear(now, bytes.clone()).map_err(|text| Violation::new("watch", text))?;
        self.took_in(now, member, subscription, (header, cost), 0);
        self.see_told(now, &told);
        match party {
            Party::Contender(number) => {
                if self.contenders[number].told(&told) {
                    let at = now + self.contenders[number].think() / 4;
                    self.plan(party, at);
                }
            }
            Party::Observer(number) => {
                self.observers[number].told(told);
                if self.observers[number].ear.is_none() {
                    let at = now + self.observers[number].think() / 4;
                    self.plan(party, at);
                }
            }
        }
        self.settle(now, party);
        Ok(true)
    }

    /// Whether everybody had a turn since all faults are over.
    ///
    /// # Errors
    /// Somebody waits in vain.
    pub(super) fn everybody_had_a_turn(&mut self, now: Nanos) -> Result<bool, Violation> {
        let done = self.contenders.iter().filter(|contender| contender.is_done()).count();
        let since = self.finale.served(now, done);
        let late = self.contenders.iter().find(|contender| !contender.is_done());
        match late {
            None => Ok(true),
            // Where watchers are told of a revision at a time, each of those who wait takes long to learn of its turn.
            Some(_) if now < since + self.recovery() + PATIENCE => Ok(false),
            Some(late) => {
                let text = format!(
                    "a turn did not come within {} ms after healing:\n  {}",
                    (now - self.finale.healed()) / MILLI,
                    late.describe()
                );
                Err(Violation::new("lock", text))
            }
        }
    }

    /// What the contest came to, over the whole run.
    pub(super) fn judge_contest(&mut self, kv: &quorate_jepsen::model::Kv) -> Verdict {
        if self.setup.contest.is_none() {
            return Ok(());
        }
        let last = self.finale.last();
        let alive = |observer: &Observer| observer.ear.as_ref().is_some_and(Ear::is_live);
        let observers = self.observers.iter();
        let seen = observers.map(|observer| (&observer.sights[..], last.filter(|_| alive(observer))));
        let verdict = self.locks.judge(kv, seen);
        self.totals.locks = self.locks.figures;
        verdict
    }
}

/// What a contender may take an answer for.
pub(super) fn known(op: &Op, answer: Option<&Answer>) -> Outcome {
    match answer {
        Some(Ok(bytes)) => Outcome::Answered(wire::decode(op, bytes.clone())),
        Some(Err(CallError::Refused)) => Outcome::Unseen,
        Some(Err(CallError::Status(status))) => wire::error(status).map_or(Outcome::Unknown, Outcome::Refused),
        Some(Err(CallError::Broken)) | None => Outcome::Unknown,
    }
}
