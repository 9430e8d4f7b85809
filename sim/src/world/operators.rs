//! Operators in the world: what they ask and learn, what the audit sees of it, and how the cluster is opened up at the end.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::AuthCommand;
use quorate_core::entry::Entry;
use quorate_core::error::Error;
use quorate_core::request::DeleteRangeRequest;
use quorate_core::{Instant, NodeId, Revision};
use quorate_jepsen::history::{Op, OpId, Response};
use quorate_node::status::Status;

use super::World;
use super::event::{Event, link};
use super::script::outcome;
use crate::call::{Answer, CallError};
use crate::check::Verdict;
use crate::check::audit::Arrival;
use crate::chronicle::Happened;
use crate::heap::{Nanos, SECOND};
use crate::member::{CallId, Gated};
use crate::script::Shows;
use crate::swarm::regime::Regime;
use crate::swarm::{Setup, Stream};
use crate::trace::Kind;
use crate::wire;
use crate::workload::Token;
use crate::workload::badge::{Badge, ROOT, ROOT_PASSWORD};
use crate::workload::chore::{Chore, listed};
use crate::workload::client::{Subject, lease_request};
use crate::workload::operator::{Operator, Task, everything};

/// Whose compactions the members' own are in the history.
const MEMBERS: u64 = u64::MAX;

pub(super) fn draw(setup: &Setup) -> Vec<Operator> {
    let operator = |n| Operator::new(setup.stream(Stream::Operator, n), setup.regime, setup.keys);
    (0..usize::from(setup.regime.has_operator())).map(operator).collect()
}

pub(super) fn draw_badges(setup: &Setup) -> Vec<Badge> {
    let badge = |n: usize| Badge::new(setup.stream(Stream::Operator, 100 + n), n);
    if setup.regime.auth { (0..setup.clients).map(badge).collect() } else { Vec::new() }
}

/// What is in the way of probes, and how it is put out of the way, by the root user.
#[derive(Debug, Default)]
pub(super) struct Opening {
    tasks: VecDeque<Task>,
    token: Option<Token>,
    pending: Option<(u64, Option<OpId>)>,
    tries: usize,
}

impl Opening {
    pub(super) fn new(regime: &Regime, newest: Revision) -> Self {
        let mut opening = Self::default();
        if regime.auth {
            opening.tasks.push_back(login());
            opening.tasks.push_back(Task::Chore(Chore::Change(AuthCommand::Disable)));
        }
        if regime.quota_bytes.is_some() {
            let range = everything();
            opening.tasks.push_back(Task::Op(Op::DeleteRange(DeleteRangeRequest { range, prev_kv: false })));
            opening.tasks.push_back(Task::Chore(Chore::Leases));
            opening.tasks.push_back(Task::Op(Op::Compact(newest)));
            opening.tasks.push_back(Task::Chore(Chore::Alarms));
        }
        opening
    }

    pub(super) fn is_over(&self) -> bool {
        self.tasks.is_empty()
    }
}

fn login() -> Task {
    Task::Chore(Chore::Login { name: ROOT.into(), password: ROOT_PASSWORD.into() })
}

fn alarmed(bytes: &Bytes) -> Vec<NodeId> {
    let reply: pb::AlarmResponse = wire::message(bytes.clone());
    reply.alarms.iter().map(|alarm| NodeId(alarm.member_id)).collect()
}

impl World {
    /// The line of an operator.
    pub(super) fn operator(&self, number: usize) -> usize {
        self.probe_client() + 1 + number
    }

    pub(super) fn begin_operators(&mut self) {
        for number in 0..self.operators.len() {
            let client = self.operator(number);
            let at = self.setup.clients_from + self.lines[client].rng.below(SECOND / 4);
            self.heap.push(at, link::client(client, 2), Event::Think { client });
        }
    }

    /// An operator does what comes next.
    pub(super) fn operate(&mut self, now: Nanos, line: usize) {
        if self.finale.has_begun() {
            return;
        }
        let members = self.machines.len();
        let (newest, number) = (self.newest, line - self.operator(0));
        let operator = &mut self.operators[number];
        if operator.caller.pending.is_some() || self.setup.script.is_some() {
            return;
        }
        if operator.is_restless() {
            operator.move_on(members);
        }
        let login = operator.badge.login().filter(|_| self.setup.regime.auth);
        let token = if login.is_some() { None } else { operator.badge.show() };
        let task = login.map_or_else(|| operator.step(newest, members), Task::Chore);
        let subject = self.subject(now, line, task);
        let patience = self.operators[number].patience();
        self.operator_asks(now, line, subject, token, patience);
    }

    /// An operator sends a request to its member.
    pub(super) fn operator_asks(
        &mut self,
        now: Nanos,
        line: usize,
        subject: Subject,
        token: Option<Token>,
        patience: Nanos,
    ) {
        let number = line - self.operator(0);
        let member = self.operators[number].caller.member;
        self.totals.operations += 1;
        let text = if self.trace.logs() { format!("asks {member} {subject:?}") } else { String::new() };
        let request = encode(&subject);
        self.trace.event(now, Kind::Client, line, request.0 as u64, &request.1, || text);
        let operator = &mut self.operators[number];
        let call = CallId { client: line, call: operator.caller.asked(subject.clone(), now) };
        let shows = Shows::of(token.as_ref(), Some(&operator.badge));
        self.note_call(now, call, member, (request.0, &request.1), shows, patience);
        self.audit.sent(now, line, call.call, &subject, token.as_ref());
        self.send_call(now, member, call, request, token, patience);
    }

    pub(super) fn subject(&mut self, now: Nanos, line: usize, task: Task) -> Subject {
        match task {
            Task::Chore(chore) => Subject::Chore(chore),
            Task::Op(op) => {
                match &op {
                    Op::Compact(revision) => self.floor = self.floor.max(*revision),
                    Op::LeaseRevoke(lease) => self.leases.meddled(*lease),
                    _ => {}
                }
                Subject::Op(self.history.invoke(line as u64, now, op.clone()), op)
            }
        }
    }

    /// An operator was answered, or gave up waiting (`None`).
    pub(super) fn operator_answered(&mut self, now: Nanos, call: CallId, answer: Option<Answer>) -> Verdict {
        let number = call.client - self.operator(0);
        let Some(pending) = self.operators[number].caller.ended(call.call) else { return Ok(()) };
        let text = answer.as_ref().map_or("gives up".into(), outcome);
        self.tell(now, || Happened::Ended { client: call.client, call: call.call, text });
        if let Subject::Op(id, op) = &pending.subject
            && self.record(now, *id, op, answer.clone())?
            && let Some(Ok(bytes)) = &answer
            && let Response::LeaseGrant(lease, _) = wire::decode(op, bytes.clone())
        {
            self.operators[number].granted(lease.id);
            self.write_down_grant(call.client, &Op::LeaseGrant { id: Some(lease.id), ttl: lease.ttl });
            self.leases.promised(lease.id, lease.ttl, pending.sent)?;
        }
        let members = self.machines.len();
        let operator = &mut self.operators[number];
        match (&pending.subject, &answer) {
            (_, None | Some(Err(CallError::Broken | CallError::Refused))) => operator.move_on(members),
            (Subject::Chore(Chore::Login { .. }), Some(answer)) => operator.badge.logged_in(answer),
            (_, Some(answer)) => operator.badge.heard(answer),
        }
        match (&pending.subject, &answer) {
            (Subject::Chore(Chore::Change(command)), Some(answer)) => {
                operator.changed(command, answer.as_ref().map(|_| ()));
            }
            (Subject::Chore(Chore::Alarms), Some(Ok(bytes))) => operator.alarms = alarmed(bytes),
            (Subject::Chore(Chore::Disarm(member)), Some(Ok(_))) => operator.alarms.retain(|known| known != member),
            _ => {}
        }
        let at = now + operator.think();
        self.heap.push(at, link::client(call.client, 2), Event::Think { client: call.client });
        Ok(())
    }

    /// Puts the next thing out of the way.
    pub(super) fn open_up(&mut self, now: Nanos) {
        let opening = self.finale.opening();
        if opening.pending.is_some() {
            return;
        }
        let Some(mut task) = opening.tasks.front().cloned() else { return };
        let (token, member) = (opening.token.clone(), opening.tries % self.machines.len());
        opening.tries += 1;
        if matches!(task, Task::Chore(Chore::Leases)) && !self.has_applied_everything(member) {
            return; // It lists what it knows of; the others take up space for ever.
        }
        if let Task::Op(Op::Compact(revision)) = &mut task {
            *revision = self.newest; // The delete has made one more.
        }
        let line = self.probe_client();
        let subject = self.subject(now, line, task);
        let call = CallId { client: line, call: self.finale.next_call() };
        let id = if let Subject::Op(id, _) = &subject { Some(*id) } else { None };
        self.finale.opening().pending = Some((call.call, id));
        self.audit.sent(now, line, call.call, &subject, token.as_ref());
        self.send_call(now, member, call, encode(&subject), token, 3 * SECOND);
    }

    fn has_applied_everything(&self, member: usize) -> bool {
        let applied = self.machines[member].process.as_ref().map(|process| process.published().applied);
        applied.is_some_and(|applied| applied >= self.consensus.last_committed())
    }

    pub(super) fn opening_answered(&mut self, now: Nanos, call: u64, answer: Option<Answer>) -> Verdict {
        let opening = self.finale.opening();
        let Some((_, id)) = opening.pending.take_if(|(pending, _)| *pending == call) else { return Ok(()) };
        let Some(task) = opening.tasks.pop_front() else { return Ok(()) };
        if let (Some(id), Task::Op(op)) = (id, &task)
            && self.record(now, id, op, answer.clone())?
            && let Op::LeaseRevoke(lease) = op
        {
            self.leases.revoked(*lease, now);
        }
        let opening = self.finale.opening();
        let says = |error: Error| matches!(&answer, Some(Err(CallError::Status(status))) if *status == error.into());
        match (&task, &answer) {
            (Task::Chore(Chore::Login { .. }), Some(Ok(bytes))) => {
                let reply: pb::AuthenticateResponse = wire::message(bytes.clone());
                opening.token = Some(reply.token.into());
            }
            (Task::Chore(Chore::Alarms), Some(Ok(bytes))) => {
                opening.tasks.extend(alarmed(bytes).into_iter().map(|member| Task::Chore(Chore::Disarm(member))));
            }
            (Task::Chore(Chore::Leases), Some(Ok(bytes))) => {
                listed(bytes).into_iter().for_each(|lease| opening.tasks.push_front(Task::Op(Op::LeaseRevoke(lease))));
            }
            (Task::Op(Op::LeaseRevoke(_)), Some(answer)) if answer.is_ok() || says(Error::LeaseNotFound) => {
                let until = now + self.recovery();
                self.finale.allow(until); // There may be hundreds.
            }
            (_, Some(Ok(_))) => {}
            (Task::Chore(Chore::Login { .. }), _) if says(Error::AuthNotEnabled) => opening.token = None,
            (Task::Op(Op::Compact(_)), Some(Err(CallError::Status(_))))
                if says(Error::Compacted { oldest: Revision(0) }) => {}
            (Task::Chore(Chore::Change(_)), Some(Err(CallError::Status(_)))) => {
                opening.tasks.push_front(task);
                opening.tasks.push_front(login());
            }
            _ => opening.tasks.push_front(task),
        }
        Ok(())
    }

    /// A call has reached its member.
    pub(super) fn see_arrival(&mut self, now: Nanos, member: usize, call: CallId, time: Instant) {
        let (Some(reference), Some(process)) = (&self.reference, &self.machines[member].process) else { return };
        let cost = self.audit.cost(call.client, call.call);
        self.space.arrived(now, (call.client, call.call), member, cost, reference.last());
        let published = process.published();
        let (applied, bytes) = (published.applied, published.view.logical_bytes());
        self.audit.arrived(
            call.client,
            call.call,
            member,
            Arrival { committed: reference.last(), applied, bytes, time },
        );
    }

    /// A member answers.
    pub(super) fn see_answer(
        &mut self,
        now: Nanos,
        member: usize,
        call: CallId,
        answer: &Result<Bytes, Status>,
    ) -> Verdict {
        let (Some(reference), Some(process)) = (&self.reference, &self.machines[member].process) else { return Ok(()) };
        let applied = process.published().applied;
        self.space.answered(now, (call.client, call.call), applied, answer);
        self.audit.answered(reference, (call.client, call.call), (member, applied), answer)
    }

    /// The gate of a member said something to a watcher.
    pub(super) fn see_gated(&mut self, member: usize, gated: &Gated) -> Verdict {
        let Some(reference) = &self.reference else { return Ok(()) };
        self.audit.gated(reference, member, gated)
    }

    /// A member hands committed entries to its store.
    pub(super) fn see_committed(&mut self, now: Nanos, entries: &[Entry]) -> Verdict {
        let Some(reference) = &mut self.reference else { return Ok(()) };
        for compaction in reference.committed(now, entries)? {
            self.floor = self.floor.max(compaction.at);
            self.totals.self_compactions += 1;
            let id = self.history.invoke(MEMBERS, now, Op::Compact(compaction.at));
            self.history.complete(id, now, Response::Compact(compaction.revision));
        }
        for (at, id) in self.reference.as_mut().expect("just seen").take_complaints() {
            let machine = self.machine_of(id);
            let reference = self.reference.as_ref().expect("just seen");
            // A member that is gone may have said so while it was there.
            machine.map_or(Ok(()), |machine| self.space.raised(reference, machine, id, at))?;
        }
        Ok(())
    }

    /// A member shows another state.
    pub(super) fn see_published(&mut self, now: Nanos, member: usize) -> Verdict {
        if self.is_wrong(member) || self.is_bare(member) {
            return Ok(());
        }
        let (Some(reference), Some(process)) = (&mut self.reference, &self.machines[member].process) else {
            return Ok(());
        };
        let published = process.published();
        self.audit.shown(reference, member, published.applied, self.machines[member].clock.read(now));
        reference.published(member, published.applied, &published.view)
    }
}

fn encode(subject: &Subject) -> (crate::call::Rpc, Bytes) {
    match subject {
        Subject::Op(_, op) => wire::encode(op),
        other => lease_request(other).expect("not an operation"),
    }
}
