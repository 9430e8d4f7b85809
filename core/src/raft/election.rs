//! Who leads: pre-vote, vote, leader stickiness, check quorum, leadership transfer. (Raft §5.2, §5.4.1; thesis §3.10,
//! §4.2.3, §6.2, §9.6)

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::quorum::is_quorum;
use super::{Body, Leader, Message, Output, Raft, Role, Transfer};
use crate::entry::{Configuration, Payload, RESTORED, Standing};
use crate::mutant::{self, Mutant};
use crate::{Incarnation, Instant, LogIndex, NodeId, Term};

impl Raft {
    /// Does what time demands.
    pub(super) fn tick(&mut self, out: &mut Vec<Output>) {
        match self.role {
            _ if self.standing() == Standing::Fresh => self.greet(out),
            Role::Leader => self.tick_leader(out),
            _ if self.now < self.election_deadline => {}
            _ if self.is_promotable() => self.pre_campaign(out),
            _ => {
                reach!(NotPromotable);
                self.leader_id = None;
                self.heard = None;
                self.role = Role::Follower;
                self.reset_election_deadline();
            }
        }
    }

    fn tick_leader(&mut self, out: &mut Vec<Output>) {
        let leader = self.leader.as_mut().expect("a leader has its state");
        if leader.transfer.as_ref().is_some_and(|transfer| self.now >= transfer.deadline) {
            reach!(TransferTimesOut);
            leader.transfer = None;
        }
        if self.now < leader.heartbeat_deadline {
            return;
        }
        leader.heartbeat_deadline = self.now + self.config.heartbeat;
        let is_checked = self.now >= leader.quorum_deadline;
        self.dismiss();
        if is_checked && !self.has_heard_quorum() && !mutant::is_on(Mutant::R26) {
            reach!(CheckQuorum);
            // Check quorum: a leader that few can hear must not keep clients waiting. (thesis §6.2)
            self.follow(self.term, None, out);
            return;
        }
        self.start_round(out);
    }

    pub(super) fn has_heard_quorum(&self) -> bool {
        is_quorum(self.log.config(), |id, incarnation| {
            self.is_self(id, incarnation)
                || self.counted(id, incarnation).is_some_and(|p| p.is_alive(self.now, &self.config))
        })
    }

    /// Whether this member may lead: it votes and counts by the latest configuration, or did by the one before that is
    /// not known to be committed. (A member that alone holds the entry which removes it must still spread that entry:
    /// nobody with a shorter log can win. Thesis §4.2.2)
    pub(super) fn is_promotable(&self) -> bool {
        let names_us = |config: &Configuration| {
            let sets = [&config.voters, &config.outgoing, &config.learners];
            let sets = if mutant::is_on(Mutant::R18) { &sets[..] } else { &sets[..2] };
            sets.iter().any(|set| set.get(&self.id()).is_some_and(|life| *life == self.incarnation()))
        };
        let is_voter = names_us(self.log.config())
            || (self.log.config_index() > self.commit && names_us(&self.log.config_at(self.commit).1));
        is_voter && self.standing() == Standing::Trusted
    }

    /// Asks whether an election could be won. (thesis §9.6)
    fn pre_campaign(&mut self, out: &mut Vec<Output>) {
        self.role = Role::PreCandidate;
        self.leader_id = None;
        self.heard = None;
        self.votes.clear();
        self.votes.insert(self.id(), (self.incarnation(), true));
        // Nobody is disturbed by asking again soon.
        let half = u64::try_from(self.config.election_timeout.as_nanos() / 2).unwrap_or(u64::MAX).max(1);
        self.election_deadline = Instant((self.now + self.config.heartbeat).0.saturating_add(self.rng.below(half)));
        let body = Body::PreVote { last_index: self.log.last(), last_term: self.log.last_term() };
        self.ask_voters(&body, out);
        self.tally(out);
    }

    /// Stands for election in the next term. (Raft §5.2)
    fn campaign(&mut self, transfer: bool, out: &mut Vec<Output>) {
        assert!(self.is_promotable(), "member {} campaigns but may not lead", self.id());
        self.set_term(self.term.next());
        self.promise(self.id());
        self.role = Role::Candidate;
        self.leader_id = None;
        self.heard = None;
        if !mutant::is_on(Mutant::R25) {
            self.votes.clear();
        }
        self.reset_election_deadline();
        // Asked only once our own vote is durable: a candidate that forgets it could vote for another.
        let body = Body::Vote { last_index: self.log.last(), last_term: self.log.last_term(), transfer };
        self.ask_voters(&body, out);
    }

    fn ask_voters(&mut self, body: &Body, out: &mut Vec<Output>) {
        let config = self.log.config();
        let mut ids: Vec<NodeId> = config.voters.keys().chain(config.outgoing.keys()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| *id != self.id());
        for to in ids {
            self.send_promised(to, body.clone(), out);
        }
    }

    /// Goes on if the votes suffice.
    pub(super) fn tally(&mut self, out: &mut Vec<Output>) {
        if self.role == Role::Candidate && self.promised <= self.persisted {
            self.votes.insert(self.id(), (self.incarnation(), true));
        }
        let votes = &self.votes;
        let won = is_quorum(self.log.config(), |id, life| votes.get(&id).is_some_and(|vote| *vote == (life, true)));
        match self.role {
            Role::PreCandidate if won => self.campaign(false, out),
            Role::Candidate if won => self.lead(out),
            _ => {}
        }
    }

    /// Becomes leader of the current term. Its first entry lets it commit its predecessors'. (Raft §8)
    fn lead(&mut self, out: &mut Vec<Output>) {
        assert!(self.leader.is_none(), "elected twice in term {}", self.term);
        self.role = Role::Leader;
        self.leader_id = Some(self.id());
        self.votes.clear();
        self.leader = Some(Box::new(Leader {
            peers: BTreeMap::new(),
            departing: BTreeMap::new(),
            target: None,
            term_start: self.log.last().next(),
            heartbeat_deadline: self.now + self.config.heartbeat,
            quorum_deadline: self.now + self.config.election_timeout,
            round: 0,
            rounds: VecDeque::new(),
            reads: Vec::new(),
            transfer: None,
        }));
        self.sync_peers();
        // The configuration this member started with may differ from others' in the lives it names: the first entry of
        // all makes it one replicated fact.
        let is_restored = (self.log.start(), self.log.last()) == (RESTORED.0, RESTORED.0);
        let is_genesis = self.log.config_index() == LogIndex(0) || is_restored;
        reach!(GenesisConfig if is_genesis);
        let first = if is_genesis { Payload::Config(self.log.config().clone()) } else { Payload::Empty };
        self.append_own(first);
        self.start_round(out);
    }

    /// A leader was heard less than an election timeout ago (or is this member): elections are refused. (thesis §4.2.3)
    fn has_leader(&self) -> bool {
        self.role == Role::Leader || self.heard.is_some_and(|heard| self.now < heard + self.config.election_timeout)
    }

    /// "At least as up-to-date as ours" (Raft §5.4.1)
    fn is_up_to_date(&self, last_index: LogIndex, last_term: Term) -> bool {
        (last_term, last_index) >= (self.log.last_term(), self.log.last()) || mutant::is_on(Mutant::R44)
    }

    /// [`Body::PreVote`]
    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
        out: &mut Vec<Output>,
    ) {
        if self.standing() != Standing::Trusted || (mutant::is_on(Mutant::R19) && !self.is_promotable()) {
            return;
        }
        let campaign = term.next();
        let granted = campaign > self.term && !self.has_leader() && self.is_up_to_date(last_index, last_term);
        reach!(PreVoteRefused if !granted);
        self.send_promised(from, Body::PreVoteReply { campaign, granted }, out);
    }

    /// [`Body::PreVoteReply`]
    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        life: Incarnation,
        campaign: Term,
        granted: bool,
        out: &mut Vec<Output>,
    ) {
        if self.role == Role::PreCandidate && campaign == self.term.next() {
            self.votes.insert(from, (life, granted));
            self.tally(out);
        }
    }

    /// Whether a request for votes of a later term is to be heard at all.
    pub(super) fn is_election_refused(&self, transfer: bool) -> bool {
        self.standing() != Standing::Trusted || (self.has_leader() && !transfer)
    }

    /// [`Body::Vote`] of a term that is not later than ours (any more).
    pub(super) fn on_vote(
        &mut self,
        from: NodeId,
        message: &Message,
        last_index: LogIndex,
        last_term: Term,
        out: &mut Vec<Output>,
    ) {
        if self.standing() != Standing::Trusted || (mutant::is_on(Mutant::R19) && !self.is_promotable()) {
            return;
        }
        let free = match self.vote {
            Some(vote) => vote == from,
            None => self.leader_id.is_none(),
        };
        let granted = message.term == self.term && free && self.is_up_to_date(last_index, last_term);
        let is_timely = message.term == self.term && free;
        reach!(VoteRefusedForLog if is_timely && !granted);
        reach!(VoteTaken if message.term == self.term && !free);
        reach!(VoteGivenAgain if granted && self.vote.is_some());
        if granted {
            if self.vote.is_none() {
                self.promise(from);
            }
            self.reset_election_deadline();
        }
        // A vote that a crash can forget lets two leaders share a term: it is held until durable.
        let reply = Body::VoteReply { to: message.incarnation, granted };
        if mutant::is_on(Mutant::R02) {
            return self.send(from, reply, out);
        }
        self.send_promised(from, reply, out);
    }

    /// [`Body::VoteReply`] of the current term.
    pub(super) fn on_vote_reply(
        &mut self,
        from: NodeId,
        life: Incarnation,
        to: Incarnation,
        granted: bool,
        out: &mut Vec<Output>,
    ) {
        if self.role == Role::Candidate && to == self.incarnation() {
            self.votes.insert(from, (life, granted));
            self.tally(out);
        }
    }

    /// [`super::Input::Transfer`]
    pub(super) fn transfer(&mut self, to: Option<NodeId>) {
        let Some(leader) = &self.leader else { return };
        let config = self.log.config();
        let is_voter = |id: NodeId| config.voters.get(&id).is_some_and(|life| self.counted(id, *life).is_some());
        let is_alive = |id: NodeId| leader.peers[&id].is_alive(self.now, &self.config);
        let candidates = leader.peers.keys().copied().filter(|id| is_voter(*id) && is_alive(*id));
        let to = match to {
            Some(to) => candidates.into_iter().find(|id| *id == to),
            None => candidates.max_by_key(|id| (leader.peers[id].matched, *id)),
        };
        let deadline = self.now + self.config.election_timeout;
        if let (Some(to), Some(leader)) = (to, self.leader.as_mut()) {
            leader.transfer = Some(Transfer { to, deadline, told: false });
        }
    }

    /// Tells the next leader to campaign once it has everything. (thesis §3.10)
    pub(super) fn hand_over(&mut self, out: &mut Vec<Output>) {
        let last = self.log.last();
        let Some(leader) = self.leader.as_mut() else { return };
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.told) else { return };
        let to = transfer.to;
        match leader.peers.get(&to) {
            Some(progress) if progress.matched == last => transfer.told = true,
            Some(_) => return,
            None => {
                leader.transfer = None;
                return;
            }
        }
        self.send(to, Body::TimeoutNow, out);
    }

    /// [`Body::TimeoutNow`] of the current term.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, out: &mut Vec<Output>) {
        if self.role != Role::Leader && self.leader_id.is_none_or(|id| id == from) && self.is_promotable() {
            reach!(HandedOver);
            self.campaign(true, out);
        }
    }

    /// Becomes a follower in `term`, which is not lower than the current one, of `leader_id` if known.
    pub(super) fn follow(&mut self, term: Term, leader_id: Option<NodeId>, out: &mut Vec<Output>) {
        if term > self.term {
            self.set_term(term);
            self.leader_id = None;
            self.heard = None;
        }
        if let Some(leader) = self.leader.take() {
            reach!(LeaderSteppedDown);
            reach!(ReadsLost if !leader.reads.is_empty() || !leader.rounds.is_empty());
            let asked = leader.rounds.into_iter().flat_map(|round| round.reads).chain(leader.reads);
            let index = self.commit;
            out.extend(asked.map(|read| match mutant::is_on(Mutant::R33) {
                false => Output::ReadLost { read },
                true => Output::ReadReady { read, index },
            }));
            self.leader_id = None;
            self.received = self.commit; // What a leader has is not received.
        }
        if self.role == Role::Candidate && leader_id.is_none() && mutant::is_on(Mutant::R27) {
            return;
        }
        if self.role != Role::Follower {
            self.role = Role::Follower;
            self.votes.clear();
            self.reset_election_deadline();
        }
        if let Some(id) = leader_id {
            assert!(self.leader_id.is_none_or(|known| known == id), "two leaders in term {}: {id}", self.term);
            self.leader_id = Some(id);
            self.heard = Some(self.now);
            self.reset_election_deadline();
        }
    }

    fn set_term(&mut self, term: Term) {
        assert!(term > self.term, "term {term} after {}", self.term);
        self.term = term;
        self.vote = None;
        self.received = self.commit;
        self.is_promise_new = true;
        self.promised = self.next_write;
    }

    /// Records our vote of this term. It is durable with the write in `promised`.
    pub(super) fn promise(&mut self, vote: NodeId) {
        assert!(self.vote.is_none(), "second vote in term {}", self.term);
        self.vote = Some(vote);
        self.is_promise_new = true;
        self.promised = self.next_write;
    }

    /// Nobody leads yet, so nobody is disturbed by an election sooner than usual.
    pub(super) fn hasten_first_election(&mut self) {
        let timeout = self.config.election_timeout;
        self.election_deadline = match self.log.config().voters.len() {
            1 => self.now,
            _ => self.election_deadline - timeout,
        };
    }

    /// Somewhere in `[T, 2T)` from now, T being the election timeout.
    pub(super) fn reset_election_deadline(&mut self) {
        let timeout = u64::try_from(self.config.election_timeout.as_nanos()).unwrap_or(u64::MAX).max(1);
        let jitter = self.rng.below(timeout);
        self.election_deadline = Instant((self.now + self.config.election_timeout).0.saturating_add(jitter));
    }
}
