//! Clients that follow a script, and the run that is written down as one; and what is told of a run to people.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::LeaseId;
use quorate_core::entry::Standing;
use quorate_core::raft::Role;
use quorate_jepsen::history::Op;

use super::World;
use super::event::{Event, link};
use crate::call::{Answer, CallError, Rpc};
use crate::chronicle::{Happened, Moment};
use crate::heap::{MICRO, MILLI, Nanos};
use crate::member::CallId;
use crate::schedule::{Fault, Strike};
use crate::script::{self, Asked, Deed, Shows, What};
use crate::wire;
use crate::workload::client::Subject;
use crate::workload::operator::Task;
use crate::workload::watcher::Watcher;

/// Leases whose grant was never answered; members do not choose such IDs here.
const UNHEARD: i64 = 1 << 61;

impl World {
    /// Schedules a script; whether there is one.
    pub(super) fn begin_script(&mut self) -> bool {
        let Some(script) = self.setup.script.clone() else { return false };
        for (deed, Deed { at, client, what }) in script.iter().enumerate() {
            let line = if matches!(what, What::Ask { .. }) { *client } else { self.line_of_watcher(*client) };
            self.heap.push(*at, link::client(line, 2), Event::Deed(deed));
        }
        true
    }

    /// Does what the script says.
    pub(super) fn perform(&mut self, now: Nanos, number: usize) {
        if !self.finale.clients_work() {
            return;
        }
        let Some(Deed { client, what, .. }) = self.setup.script.as_ref().and_then(|script| script.get(number)).cloned()
        else {
            return;
        };
        match what {
            What::Ask { member, patience, shows, rpc, bytes } => {
                let operator = client.checked_sub(self.operator(0));
                let pending = operator
                    .map_or_else(|| &self.clients[client].caller.pending, |at| &self.operators[at].caller.pending);
                if pending.is_some() {
                    self.heap.push(now + MILLI, link::client(client, 2), Event::Deed(number));
                    return;
                }
                let task = script::task(rpc, &bytes).expect("a script is readable");
                if let Some(at) = operator {
                    let Asked::Task(task) = task else { return };
                    let operator = &mut self.operators[at];
                    operator.caller.member = member;
                    let token = shows.token(Some(&operator.badge));
                    let subject = self.subject(now, client, task);
                    return self.operator_asks(now, client, subject, token, patience);
                }
                let subject = self.begin_request(now, client, task);
                self.clients[client].caller.member = member;
                let token = shows.token(self.badges.get(client));
                self.ask(now, client, subject, token, patience);
            }
            What::Watch { member, new } => {
                self.leave(now, client);
                let new = new.into_iter().filter_map(|create| Watcher::from_create(create).ok()).collect();
                self.connect(now, client, member, new);
            }
            What::Progress => self.ask_progress(now, client),
        }
    }

    /// A client is about to ask for this.
    pub(super) fn begin_request(&mut self, now: Nanos, client: usize, asked: Asked) -> Subject {
        match asked {
            Asked::Task(Task::Op(op)) => self.begin_op(now, client, op),
            Asked::Task(Task::Chore(chore)) => Subject::Chore(chore),
            Asked::KeepAlive(lease) => Subject::KeepAlive(lease),
            Asked::TimeToLive(lease) => Subject::TimeToLive(lease),
        }
    }

    /// Writes down and tells that a client sends a request.
    pub(super) fn note_call(
        &mut self,
        now: Nanos,
        CallId { client, call }: CallId,
        member: usize,
        (rpc, bytes): (Rpc, &Bytes),
        shows: Shows,
        patience: Nanos,
    ) {
        let patience = patience / MICRO * MICRO;
        self.write_down(now, client, || {
            let bytes = match wire::operation(rpc, bytes) {
                // Whoever follows the script always names its leases: an ID that a member chooses could be one that the
                // script has for another lease. Once answered, this one has its own name there.
                Some(Op::LeaseGrant { id: None, ttl }) => {
                    let id = Some(LeaseId(UNHEARD | (client as i64) << 32 | call.cast_signed()));
                    wire::encode(&Op::LeaseGrant { id, ttl }).1
                }
                _ => bytes.clone(),
            };
            What::Ask { member, patience, shows, rpc, bytes }
        });
        self.tell(now, || Happened::Asked { client, call, member, text: script::describe(rpc, bytes) });
    }

    /// Writes down what a client does, if this run is to become a script.
    pub(super) fn write_down(&mut self, now: Nanos, client: usize, what: impl FnOnce() -> What) {
        if let Some(script) = self.deeds.as_mut().filter(|_| self.finale.clients_work()) {
            script.push(Deed { at: now / MICRO * MICRO, client, what: what() });
        }
    }

    /// The lease that a client was granted: whoever follows the script asks for it by this name.
    pub(super) fn write_down_grant(&mut self, client: usize, op: &Op) {
        let mut deeds = self.deeds.iter_mut().flatten().rev();
        let grant = deeds.find(|deed| deed.client == client && matches!(deed.what, What::Ask { .. }));
        if let Some(Deed { what: What::Ask { bytes, .. }, .. }) = grant {
            *bytes = wire::encode(op).1;
        }
    }

    /// Writes down what was done to a leader by someone who harasses leaders.
    pub(super) fn write_down_strike(&mut self, at: Nanos, fault: Fault) {
        let until = at + fault.span();
        self.tell(at, || Happened::Fault { text: fault.to_string(), members: fault.members(), until });
        if self.deeds.is_some() {
            self.strikes.push(Strike { at: at / MICRO * MICRO, fault: fault.in_micros() });
        }
    }

    /// A partition that was written down ended sooner, after `span`.
    pub(super) fn shorten_strike(&mut self, at: Nanos, side: u64, span: Nanos) {
        let is_it = |fault: &Fault| matches!(fault, Fault::Partition { side: other, .. } if *other == side);
        let strike =
            self.strikes.iter_mut().rev().find(|strike| strike.at == at / MICRO * MICRO && is_it(&strike.fault));
        let shorter = Fault::Partition { side, span }.in_micros();
        strike.into_iter().for_each(|strike| strike.fault = shorter);
        let moments = self.chronicle.iter_mut().flat_map(|chronicle| chronicle.moments.iter_mut().rev());
        for moment in moments.take_while(|moment| moment.at >= at) {
            if let Happened::Fault { text, members, until } = &mut moment.what
                && moment.at == at
                && *members == side
            {
                (*text, *until) = (shorter.to_string(), at + span);
            }
        }
    }

    /// Tells people, if they asked.
    pub(super) fn tell(&mut self, at: Nanos, what: impl FnOnce() -> Happened) {
        if let Some(chronicle) = &mut self.chronicle {
            chronicle.moments.push(Moment { at, what: what() });
        }
    }

    /// Tells what a member says of itself, if that is new: its commit index every tenth of a second at most.
    pub(super) fn tell_status(&mut self, now: Nanos, member: usize) {
        let Some(chronicle) = &mut self.chronicle else { return };
        let Some(process) = &self.machines[member].process else { return };
        let raft = process.replica().raft();
        let status = raft.status();
        let (role, standing) = (role_name(status.role), standing_name(status.standing));
        let (term, commit) = (status.term.0, status.commit.0);
        chronicle.status(now, member, Happened::Status { member, role, standing, term, commit });
    }

    /// Tells of a message, if people want to know even that.
    pub(super) fn tell_frame(&mut self, at: Nanos, what: impl FnOnce() -> Happened) {
        if self.chronicle.as_ref().is_some_and(|chronicle| chronicle.with_frames) {
            self.tell(at, what);
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "Follower",
        Role::PreCandidate => "PreCandidate",
        Role::Candidate => "Candidate",
        Role::Leader => "Leader",
    }
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Fresh => "Fresh",
        Standing::Amnesiac => "Amnesiac",
        Standing::Trusted => "Trusted",
    }
}

/// The answer in few words.
pub(super) fn outcome(answer: &Answer) -> String {
    match answer {
        Ok(_) => "answered".into(),
        Err(CallError::Status(status)) => format!("refused, {}", status.message),
        Err(CallError::Refused) => "nobody listens".into(),
        Err(CallError::Broken) => "the connection breaks".into(),
    }
}

/// New watchers, each as the request that creates it.
pub(super) fn creates(new: &[Watcher]) -> Vec<Bytes> {
    new.iter().map(|watcher| watcher.create().encode_to_vec().into()).collect()
}
