//! Keep-alive and time-to-live: only the leader's clock knows, and only while the leader is confirmed to lead.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::lease_clock::{self, LeaseClock, Renewal};
use super::membership::Survey;
use super::read::Then;
use super::{Config, LeaderAnswer, LeaderQuestion, Output, PeerMessage, Replica, Response};
use crate::command::Command;
use crate::mutant::{self, Mutant};
use crate::store::{LeaseChange, LeaseRecord};
use crate::{Incarnation, Instant, LeaseId, LogIndex, NodeId, RequestId, Ttl};

/// Leases in one proposal of expiry or checkpoints.
const LEASES_PER_PROPOSAL: usize = 1000;

/// Who waits for an answer of this leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// A client of this member.
    Client(RequestId),
    /// Another member.
    Peer { from: NodeId, question: u64, session: Incarnation },
}

/// Who waits, by what they wait for.
type Askers = BTreeMap<LeaseId, BTreeSet<Asker>>;

/// A client's question on its way to the leader.
#[derive(Clone, Copy, Debug)]
struct Asked {
    question: LeaderQuestion,
    /// When to ask again; the past if it was not asked yet.
    retry: Instant,
}

#[derive(Debug)]
pub(super) struct Leases {
    clock: LeaseClock,
    /// Questions of this member's clients that another member must answer.
    asked: BTreeMap<RequestId, Asked>,
    /// The earliest of their retries.
    retry: Instant,
    /// Answers that wait until this member has applied as much as the leader had.
    late: BTreeMap<LogIndex, Vec<(RequestId, Response)>>,
    /// Keep-alives of leases that have run out but are not revoked yet: answered once they are. (etcd)
    expiring: Askers,
    /// Keep-alives of leases with a checkpoint in force: answered once it is cleared, or the next leader might count
    /// from it and expire the lease early.
    clearing: Askers,
    /// The same of this step, whose clearing is not proposed yet; empty between steps.
    marked: Askers,
}

impl Leases {
    pub(super) fn new(config: &Config, leases: &[LeaseRecord]) -> Self {
        let clock =
            lease_clock::Config { grace: config.raft.election_timeout, checkpoint_interval: config.lease_checkpoint };
        Self {
            clock: LeaseClock::new(clock, leases.iter().cloned()),
            asked: BTreeMap::new(),
            retry: Instant::FAR,
            late: BTreeMap::new(),
            expiring: BTreeMap::new(),
            clearing: BTreeMap::new(),
            marked: BTreeMap::new(),
        }
    }

    pub(super) fn reset(&mut self, leases: &[LeaseRecord]) {
        self.clock.restore(leases.iter().cloned());
    }

    pub(super) fn promote(&mut self, now: Instant) {
        self.clock.promote(now);
    }

    pub(super) fn demote(&mut self) {
        self.clock.demote();
    }

    pub(super) fn leader_changed(&mut self) {
        for asked in self.asked.values_mut() {
            asked.retry = Instant(0);
        }
        self.retry = if self.asked.is_empty() { Instant::FAR } else { Instant(0) };
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.asked.remove(&id);
    }

    pub(super) fn deadline(&self, _config: &Config) -> Instant {
        let retry = if self.asked.is_empty() { Instant::FAR } else { self.retry };
        self.clock.deadline().min(retry)
    }
}

impl Replica {
    pub(super) fn ask_leader(&mut self, id: RequestId, question: LeaderQuestion, out: &mut Vec<Output>) {
        if self.leads() && mutant::is_on(Mutant::K11) {
            return self.answer_lease(Asker::Client(id), question, out);
        }
        if self.leads() {
            self.reads.queue(Then::Lease(Asker::Client(id), question));
            return;
        }
        self.leases.asked.insert(id, Asked { question, retry: self.now + self.config.read_retry });
        self.leases.retry = self.leases.retry.min(self.now + self.config.read_retry);
        self.send_question(id, question, out);
    }

    fn send_question(&mut self, id: RequestId, ask: LeaderQuestion, out: &mut Vec<Output>) {
        if let Some(to) = self.remote_leader() {
            let message = PeerMessage::Lease { question: id.0, session: self.config.session, ask };
            out.push(Output::Send { to, message });
        }
    }

    /// A follower asks.
    pub(super) fn leader_asked(
        &mut self,
        from: NodeId,
        question: u64,
        session: Incarnation,
        ask: LeaderQuestion,
        out: &mut Vec<Output>,
    ) {
        let asker = Asker::Peer { from, question, session };
        if self.leads() && mutant::is_on(Mutant::K11) {
            self.answer_lease(asker, ask, out);
        } else if self.leads() {
            self.reads.queue(Then::Lease(asker, ask));
        } else {
            self.tell(asker, None, out);
        }
    }

    /// The leader answers.
    pub(super) fn leader_answered(
        &mut self,
        question: u64,
        session: Incarnation,
        answer: Option<LeaderAnswer>,
        out: &mut Vec<Output>,
    ) {
        if session != self.config.session {
            return;
        }
        let id = RequestId(question);
        // Without an answer the question stays: it is asked again when its time comes.
        let Some(answer) = answer else { return };
        if self.leases.asked.remove(&id).is_none() {
            return;
        }
        match answer {
            LeaderAnswer::KeptAlive(ttl) => self.respond(id, Ok(Response::KeptAlive(ttl)), out),
            LeaderAnswer::TimeToLive { left, index } => {
                let index = if mutant::is_on(Mutant::K14) { LogIndex(0) } else { index };
                self.leases.late.entry(index).or_default().push((id, Response::TimeToLive(left)));
                self.answer_late(out);
            }
            LeaderAnswer::Members { heard, in_sync, index } => self.surveyed(id, Survey { heard, in_sync, index }),
        }
    }

    fn answer_late(&mut self, out: &mut Vec<Output>) {
        while let Some(first) = self.leases.late.first_entry() {
            if *first.key() > self.applied {
                return;
            }
            for (id, response) in first.remove() {
                self.respond(id, Ok(response), out);
            }
        }
    }

    /// Answers from this leader's clock; called once leadership was confirmed after the question came.
    pub(super) fn answer_lease(&mut self, asker: Asker, question: LeaderQuestion, out: &mut Vec<Output>) {
        if let Asker::Client(id) = asker
            && !self.waits.is_open(id)
        {
            return;
        }
        let answer = match question {
            LeaderQuestion::KeepAlive(id) => match self.leases.clock.renew(self.now, id) {
                Renewal::Renewed { ttl, uncheckpoint: false } => Some(LeaderAnswer::KeptAlive(Some(ttl))),
                Renewal::Renewed { uncheckpoint: true, .. } => return wait(&mut self.leases.marked, id, asker),
                Renewal::Unknown => Some(LeaderAnswer::KeptAlive(mutant::is_on(Mutant::K02).then_some(Ttl(10)))),
                Renewal::Expired => return wait(&mut self.leases.expiring, id, asker),
                Renewal::NotLeading => None,
            },
            LeaderQuestion::TimeToLive(_) if !self.leases.clock.leading() => None,
            LeaderQuestion::TimeToLive(id) => {
                let clock = &self.leases.clock;
                let left = clock.granted(id).zip(clock.remaining(self.now, id));
                Some(LeaderAnswer::TimeToLive { left, index: self.applied })
            }
            LeaderQuestion::Members => self.leads().then(|| self.survey()),
        };
        match (asker, answer) {
            (Asker::Client(id), None) => self.ask_leader_again(id, question),
            (asker, answer) => self.tell(asker, answer, out),
        }
    }

    /// This member does not lead after all: the question waits for who does.
    fn ask_leader_again(&mut self, id: RequestId, question: LeaderQuestion) {
        self.leases.asked.insert(id, Asked { question, retry: self.now });
        self.leases.retry = self.now;
    }

    fn tell(&mut self, asker: Asker, answer: Option<LeaderAnswer>, out: &mut Vec<Output>) {
        match (asker, answer) {
            (Asker::Peer { from, question, session }, answer) => {
                let message = PeerMessage::LeaseReply { question, session, answer };
                out.push(Output::Send { to: from, message });
            }
            (Asker::Client(id), Some(LeaderAnswer::KeptAlive(ttl))) => {
                self.respond(id, Ok(Response::KeptAlive(ttl)), out);
            }
            (Asker::Client(id), Some(LeaderAnswer::TimeToLive { left, .. })) => {
                self.respond(id, Ok(Response::TimeToLive(left)), out);
            }
            (Asker::Client(id), Some(LeaderAnswer::Members { heard, in_sync, index })) => {
                self.surveyed(id, Survey { heard, in_sync, index });
            }
            (Asker::Client(_), None) => {}
        }
    }

    /// Proposes to clear the checkpoints of all leases that were renewed in this step.
    pub(super) fn clear_checkpoints(&mut self, out: &mut Vec<Output>) {
        while !self.leases.marked.is_empty() {
            let next = self.leases.marked.keys().nth(LEASES_PER_PROPOSAL).copied();
            let rest = next.map(|id| self.leases.marked.split_off(&id)).unwrap_or_default();
            let marked = core::mem::replace(&mut self.leases.marked, rest);
            reach!(CheckpointCleared);
            let clear = marked.keys().map(|&id| (id, None)).collect();
            let is_proposed = self.leads() && self.propose_here(Command::LeaseCheckpoint(clear), out);
            for (id, asker) in marked.into_iter().flat_map(|(id, askers)| askers.into_iter().map(move |it| (id, it))) {
                match asker {
                    asker if is_proposed => wait(&mut self.leases.clearing, id, asker),
                    Asker::Client(request) => self.ask_leader_again(request, LeaderQuestion::KeepAlive(id)),
                    Asker::Peer { .. } => self.tell(asker, None, out),
                }
            }
        }
    }

    pub(super) fn lease_changed(&mut self, change: &LeaseChange, out: &mut Vec<Output>) {
        self.leases.clock.change(self.now, change);
        let (askers, ttl) = match change {
            LeaseChange::Granted(_) | LeaseChange::Checkpointed(_, Some(_)) => return,
            LeaseChange::Kept(id) => {
                // It lives on, and may be renewed as before.
                for asker in self.leases.expiring.remove(id).unwrap_or_default() {
                    self.reads.queue(Then::Lease(asker, LeaderQuestion::KeepAlive(*id)));
                }
                return;
            }
            LeaseChange::Checkpointed(id, None) => {
                (self.leases.clearing.remove(id).unwrap_or_default(), self.leases.clock.granted(*id))
            }
            LeaseChange::Revoked(id) => {
                let mut askers = self.leases.expiring.remove(id).unwrap_or_default();
                askers.extend(self.leases.clearing.remove(id).unwrap_or_default());
                (askers, None)
            }
        };
        for asker in askers {
            self.tell(asker, Some(LeaderAnswer::KeptAlive(ttl)), out);
        }
    }

    /// Proposes what the clock says is due, and asks unanswered questions again.
    pub(super) fn run_leases(&mut self, out: &mut Vec<Output>) {
        if self.leads() && self.leases.clock.deadline() <= self.now {
            let due = self.leases.clock.due(self.now, LEASES_PER_PROPOSAL);
            if !due.is_empty() && !self.propose_here(Command::LeaseExpire(due.clone()), out) {
                // Not at once: whatever refuses proposals does so for a while.
                self.leases.clock.refused(&due, self.now + self.config.raft.heartbeat);
            }
            let checkpoints = self.leases.clock.checkpoints(self.now, LEASES_PER_PROPOSAL);
            if !checkpoints.is_empty() && !self.propose_here(Command::LeaseCheckpoint(checkpoints.clone()), out) {
                self.leases.clock.not_checkpointed(&checkpoints);
            }
        }
        if !self.leads() {
            let waiting = core::mem::take(&mut self.leases.expiring).into_iter();
            for (lease, askers) in waiting.chain(core::mem::take(&mut self.leases.clearing)) {
                for asker in askers {
                    match asker {
                        Asker::Client(id) => self.ask_leader_again(id, LeaderQuestion::KeepAlive(lease)),
                        Asker::Peer { .. } => self.tell(asker, None, out),
                    }
                }
            }
        }
        self.answer_late(out);
        self.retry_questions(out);
    }

    fn retry_questions(&mut self, out: &mut Vec<Output>) {
        if self.leases.asked.is_empty() || self.now < self.leases.retry {
            return;
        }
        if self.leads() {
            for (id, asked) in core::mem::take(&mut self.leases.asked) {
                self.reads.queue(Then::Lease(Asker::Client(id), asked.question));
            }
            return;
        }
        let next = self.now + self.config.read_retry;
        let mut due = Vec::new();
        for (&id, asked) in &mut self.leases.asked {
            if asked.retry <= self.now {
                asked.retry = next;
                due.push((id, asked.question));
            }
        }
        self.leases.retry = self.leases.asked.values().map(|asked| asked.retry).min().unwrap_or(Instant::FAR);
        for (id, question) in due {
            self.send_question(id, question, out);
        }
    }
}

fn wait(waiting: &mut Askers, id: LeaseId, asker: Asker) {
    waiting.entry(id).or_default().insert(asker);
}
