//! Linearizable reads: confirm the leader, then wait until what it had committed is applied here. (Raft thesis §6.4)
//!
//! Reads that arrive while a round is out wait for the next one, so a round serves all reads of its time. A round that
//! is not answered is given up and asked afresh under a new name: an acknowledgement of the old name never confirms
//! reads that came later.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::lease::Asker;
use super::{Config, LeaderQuestion, Output, PeerMessage, Replica, Response, raft};
use crate::mutant::{self, Mutant};
use crate::{Incarnation, Instant, LogIndex, NodeId, RequestId};

/// What to do once a read is safe here.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// Tell the client's handler.
    Client(RequestId),
    /// Answer a question of the leader's lease clock.
    Lease(Asker, LeaderQuestion),
}

/// Whose question a round of this leader answers.
#[derive(Clone, Debug)]
enum Round {
    /// This member's own, the one in `outstanding`.
    Own,
    /// Another member's.
    Peer { from: NodeId, read: u64, session: Incarnation },
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    /// Not yet asked.
    queued: Vec<Then>,
    /// Asked under this name, at this time.
    outstanding: Option<(u64, Instant, Vec<Then>)>,
    /// Confirmed, waiting for an index to be applied.
    confirmed: BTreeMap<LogIndex, Vec<Then>>,
    /// Rounds handed to consensus here.
    rounds: BTreeMap<u64, Round>,
    /// Clients given up since those reads were last looked through.
    given_up: usize,
}

impl Reads {
    pub(super) fn queue(&mut self, then: Then) {
        self.queued.push(then);
    }

    /// Reads that wait, some of which nobody may wait for any more.
    pub(super) fn len(&self) -> usize {
        let outstanding = self.outstanding.as_ref().map_or(0, |(_, _, asked)| asked.len());
        self.queued.len() + outstanding + self.confirmed.values().map(Vec::len).sum::<usize>()
    }

    /// A client was given up. Now and then, all that `is_wanted` does not confirm goes: half of what is kept, or more.
    pub(super) fn forget_one(&mut self, is_wanted: impl Fn(&Then) -> bool) {
        self.given_up += 1;
        if self.given_up * 2 < self.len() {
            return;
        }
        self.given_up = 0;
        self.queued.retain(&is_wanted);
        if let Some((_, _, asked)) = &mut self.outstanding {
            asked.retain(&is_wanted);
        }
        self.confirmed.retain(|_, reads| {
            reads.retain(&is_wanted);
            !reads.is_empty()
        });
    }

    /// Whoever was asked is no longer the one to ask.
    pub(super) fn leader_changed(&mut self) {
        if let Some((_, _, asked)) = self.outstanding.take() {
            self.queued.splice(0..0, asked);
        }
    }

    pub(super) fn deadline(&self, config: &Config) -> Instant {
        self.outstanding.as_ref().map_or(Instant::FAR, |&(_, asked, _)| asked + config.read_retry)
    }

    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The reads asked under `read`, if that is still the name they wait for.
    fn take(&mut self, read: u64) -> Option<Vec<Then>> {
        match &self.outstanding {
            Some((outstanding, _, _)) if *outstanding == read => self.outstanding.take().map(|(_, _, reads)| reads),
            _ => None,
        }
    }
}

impl Replica {
    /// Starts a round for everything queued, unless one is out or there is nobody to ask.
    pub(super) fn flush_reads(&mut self, out: &mut Vec<Output>) {
        if self.reads.queued.is_empty() || self.reads.outstanding.is_some() {
            return;
        }
        let to = self.remote_leader();
        if to.is_none() && !self.leads() {
            return;
        }
        let read = self.reads.name();
        let waiting = core::mem::take(&mut self.reads.queued);
        self.reads.outstanding = Some((read, self.now, waiting));
        match to {
            Some(to) => {
                let message = PeerMessage::ReadIndex { read, session: self.config.session };
                out.push(Output::Send { to, message });
            }
            None => {
                self.reads.rounds.insert(read, Round::Own);
                self.consensus(raft::Input::ReadIndex { read }, out);
            }
        }
    }

    pub(super) fn retry_reads(&mut self) {
        if self.now >= self.reads.deadline(&self.config) {
            reach!(ReadAskedAgain);
            self.reads.leader_changed();
            if mutant::is_on(Mutant::R32) {
                self.reads.next -= 1;
            }
        }
    }

    /// A follower asks.
    pub(super) fn read_asked(&mut self, from: NodeId, read: u64, session: Incarnation, out: &mut Vec<Output>) {
        if !self.leads() {
            reach!(ReadAskedOfFollower);
            let message = PeerMessage::ReadIndexReply { read, session, index: None };
            return out.push(Output::Send { to: from, message });
        }
        let name = self.reads.name();
        self.reads.rounds.insert(name, Round::Peer { from, read, session });
        self.consensus(raft::Input::ReadIndex { read: name }, out);
    }

    /// The leader answers.
    pub(super) fn read_answered(
        &mut self,
        read: u64,
        session: Incarnation,
        index: Option<LogIndex>,
        out: &mut Vec<Output>,
    ) {
        if session != self.config.session {
            reach!(ReadOfFormerProcess);
            return;
        }
        // Without an index nothing is lost: the reads stay out until they are asked afresh.
        let Some(index) = index else { return };
        if let Some(reads) = self.reads.take(read) {
            self.confirmed(index, reads, out);
        } else {
            reach!(ReadRoundOvertaken);
        }
    }

    pub(super) fn read_ready(&mut self, name: u64, index: LogIndex, out: &mut Vec<Output>) {
        match self.reads.rounds.remove(&name) {
            Some(Round::Own) => {
                if let Some(reads) = self.reads.take(name) {
                    self.confirmed(index, reads, out);
                }
            }
            Some(Round::Peer { from, read, session }) => {
                let message = PeerMessage::ReadIndexReply { read, session, index: Some(index) };
                out.push(Output::Send { to: from, message });
            }
            None => {}
        }
    }

    pub(super) fn read_lost(&mut self, name: u64, out: &mut Vec<Output>) {
        match self.reads.rounds.remove(&name) {
            Some(Round::Own) => {
                if let Some(reads) = self.reads.take(name) {
                    self.reads.queued.splice(0..0, reads);
                }
            }
            Some(Round::Peer { from, read, session }) => {
                let message = PeerMessage::ReadIndexReply { read, session, index: None };
                out.push(Output::Send { to: from, message });
            }
            None => {}
        }
    }

    fn confirmed(&mut self, index: LogIndex, reads: Vec<Then>, out: &mut Vec<Output>) {
        self.reads.confirmed.entry(index).or_default().extend(reads);
        self.readable(out);
    }

    /// Serves every confirmed read whose index is applied.
    pub(super) fn readable(&mut self, out: &mut Vec<Output>) {
        while let Some(first) = self.reads.confirmed.first_entry() {
            if *first.key() > self.applied && !mutant::is_on(Mutant::R35) {
                reach!(ReadWaitsForApply);
                return;
            }
            for then in first.remove() {
                match then {
                    Then::Client(id) => self.respond(id, Ok(Response::Readable), out),
                    Then::Lease(asker, question) => self.answer_lease(asker, question, out),
                }
            }
        }
    }
}
