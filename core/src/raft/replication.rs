//! How the log spreads: append, heartbeat, commit. (Raft §5.3, §5.4.2; thesis §10.2)

use alloc::vec::Vec;

use super::progress::{Pace, Progress};
use super::quorum::agreed;
use super::{Body, Message, Output, Raft, Role};
use crate::entry::{Entry, Payload, Record, Standing};
use crate::mutant::{self, Mutant};
use crate::{Blob, LogIndex, NodeId, Term};

impl Raft {
    /// [`super::Input::Propose`]
    pub(super) fn propose(&mut self, commands: Vec<Blob>, out: &mut Vec<Output>) {
        if self.leader.as_ref().is_none_or(|leader| leader.transfer.is_some()) {
            out.push(Output::Rejected { commands });
            return;
        }
        for command in commands {
            self.append_own(Payload::Command(command));
        }
    }

    /// Appends a leader's own entry. It spreads at the end of the step.
    pub(super) fn append_own(&mut self, payload: Payload) {
        assert!(self.role == Role::Leader, "only leaders create entries");
        let is_config = matches!(payload, Payload::Config(_));
        self.append(Entry { term: self.term, index: self.log.last().next(), payload });
        if is_config {
            self.sync_peers();
        }
    }

    /// Appends `entry` and has it written. (Entries are taken over by reference.)
    fn append(&mut self, entry: Entry) {
        self.records.push(Record::Entry(entry.clone()));
        self.log.append(entry, self.next_write);
    }

    /// Sends each follower what it lacks, as far as its budget goes.
    pub(super) fn pump(&mut self, out: &mut Vec<Output>) {
        let header = self.header();
        let Some(leader) = self.leader.as_mut() else { return };
        let config = &self.config;
        for (to, progress) in &mut leader.peers {
            let send = |body| Output::Send { to: *to, message: header.with(body) };
            loop {
                let is_new = progress.next <= self.log.last();
                let is_due = match progress.pace {
                    Pace::Snapshot => false,
                    Pace::Probe { waiting } => !waiting,
                    Pace::Replicate => {
                        is_new && !progress.is_full(config.inflight_messages_max, config.inflight_bytes_max)
                    }
                };
                reach!(WindowFull if is_new && !is_due && progress.pace == Pace::Replicate);
                if !is_due {
                    break;
                }
                let prev_index = LogIndex(progress.next.0 - 1);
                let Some(prev_term) = self.log.term(prev_index) else {
                    if mutant::is_on(Mutant::R39) {
                        let (prev_term, entries) = (Term(0), Vec::new());
                        out.push(send(Body::Append { prev_index, prev_term, entries, commit: self.commit }));
                    }
                    // Not to one that may be gone: it would keep the lane, and log behind it, for nothing.
                    let is_wanted = progress.is_alive(self.now, config) && !leader.departing.contains_key(to);
                    reach!(SnapshotNeeded if is_wanted);
                    if is_wanted && progress.snapshot(self.log.applied()) {
                        out.push(Output::NeedsSnapshot { to: *to });
                    }
                    break;
                };
                let (entries, bytes) = self.log.slice(progress.next, config.append_bytes_max);
                progress.sent(LogIndex(prev_index.0 + entries.len() as u64), bytes);
                progress.told_commit = self.commit;
                out.push(send(Body::Append { prev_index, prev_term, entries, commit: self.commit }));
            }
            if progress.pace == Pace::Replicate && progress.told_commit < self.commit {
                progress.told_commit = self.commit;
                out.push(send(Body::Commit { commit: self.commit }));
            }
        }
    }

    /// A message that only a leader sends, in the current term: true if its sender is that leader.
    fn obey(&mut self, from: NodeId, out: &mut Vec<Output>) -> bool {
        if self.role == Role::Leader || self.leader_id.is_some_and(|id| id != from) {
            return false; // Cannot be: there is one leader a term.
        }
        self.follow(self.term, Some(from), out);
        true
    }

    /// [`Body::Append`] of the current term.
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: (LogIndex, Term),
        entries: Vec<Entry>,
        commit: LogIndex,
        out: &mut Vec<Output>,
    ) {
        if !is_well_formed(self.term, prev, &entries) || !self.obey(from, out) {
            return;
        }
        let (prev_index, prev_term) = prev;
        let last_new = LogIndex(prev_index.0 + entries.len() as u64);
        if prev_index < self.log.start() && mutant::is_on(Mutant::R07) && self.commit < self.log.last() {
            self.log.truncate(self.commit.next());
            self.received = self.commit;
        }
        let is_same = self.log.term(prev_index) == Some(prev_term)
            || (mutant::is_on(Mutant::R39) && self.log.term(prev_index).unwrap_or_default() == prev_term);
        // What is compacted here is committed, hence the leader's too.
        if prev_index >= self.log.start() && !is_same {
            if prev_index <= self.commit {
                return; // Cannot be: committed entries never differ.
            }
            reach!(AppendRefused);
            let hint_index = self.log.find_by_term(LogIndex(prev_index.0 - 1), prev_term);
            let hint_term = self.log.term(hint_index).unwrap_or_default();
            self.send_promised(from, Body::Refused { prev_index, hint_index, hint_term }, out);
            return;
        }
        if !self.merge(entries) {
            return;
        }
        self.received = self.received.max(last_new);
        self.commit = self.commit.max(commit.min(self.received));
        self.acknowledge(from, last_new.max(self.commit.min(self.log.durable())), out);
    }

    /// Takes over `entries` from the first one that is missing or differs; false if that cannot be right.
    fn merge(&mut self, entries: Vec<Entry>) -> bool {
        let is_known = |entry: &Entry| {
            entry.index <= self.log.start() || self.log.term(entry.index).is_some_and(|term| term == entry.term)
        };
        let mut known = entries.iter().take_while(|entry| is_known(entry)).count();
        if mutant::is_on(Mutant::R06) {
            known = entries.iter().take_while(|entry| entry.index <= self.commit).count();
        }
        reach!(AppendRepeated if known > 0 && known == entries.len());
        let Some(first) = entries.get(known) else { return true };
        let before = self.log.term(LogIndex(first.index.0 - 1));
        if first.index <= self.commit || before.is_none_or(|before| first.term < before) {
            return false; // Cannot be: committed entries never differ, terms never fall.
        }
        if first.index <= self.log.last() {
            reach!(EntriesThrownAway);
            // Entries that match stay, whatever follows them: this message may be an old one. (Raft figure 2, step 3)
            self.log.truncate(first.index);
        }
        for entry in entries.into_iter().skip(known) {
            self.append(entry);
        }
        true
    }

    /// Tells the leader that the log is its own up to `index`, once that is durable.
    pub(super) fn acknowledge(&mut self, leader: NodeId, index: LogIndex, out: &mut Vec<Output>) {
        let mut write = self.log.write_of(index).map_or(self.promised, |write| write.max(self.promised));
        if mutant::is_on(Mutant::R43) {
            write = self.promised;
        }
        self.send_after(write, leader, Body::Accepted { matched: index }, out);
    }

    /// [`Body::Heartbeat`] of the current term.
    pub(super) fn on_heartbeat(&mut self, from: NodeId, round: u64, commit: LogIndex, out: &mut Vec<Output>) {
        if !self.obey(from, out) {
            return;
        }
        self.commit = self.commit.max(commit.min(self.received));
        let received = self.received;
        let matched = received.min(self.log.durable());
        let level = self.config.understands;
        if self.is_damaged {
            self.send_promised(from, Body::Damaged { round }, out);
        }
        self.send_promised(from, Body::HeartbeatReply { round, received, matched, level }, out);
    }

    /// [`Body::Commit`] of the current term.
    pub(super) fn on_commit(&mut self, from: NodeId, commit: LogIndex, out: &mut Vec<Output>) {
        if self.obey(from, out) {
            self.commit = self.commit.max(commit.min(self.received));
        }
    }

    /// An answer to the leader, of its current term.
    pub(super) fn on_answer(&mut self, from: NodeId, message: &Message, out: &mut Vec<Output>) {
        let (start, last, commit, next) = (self.log.start(), self.log.last(), self.commit, self.log.last().next());
        let Some(leader) = self.leader.as_mut() else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        let is_possible = match message.body {
            Body::Accepted { matched } => matched <= last,
            Body::HeartbeatReply { round, received, matched, .. } => {
                matched <= received && received <= last && round <= leader.round
            }
            Body::Damaged { round } => round <= leader.round,
            _ => true,
        };
        if !is_possible || !progress.hear(message.incarnation, message.trusted, leader.round, next, self.now) {
            return;
        }
        reach!(AmnesiacUncounted if !message.trusted);
        match message.body {
            Body::Accepted { matched } => progress.accepted(matched, start, last),
            Body::Refused { prev_index, hint_index, hint_term } => {
                if mutant::is_on(Mutant::R11) {
                    progress.accepted(prev_index.min(last), start, last);
                }
                progress.refused(prev_index, self.log.find_by_term(hint_index, hint_term));
            }
            Body::HeartbeatReply { round, received, matched, level } => {
                progress.answered(round, level, commit);
                if matched > progress.matched {
                    progress.accepted(matched, start, last);
                }
                progress.received(round, received);
                self.confirm_reads(out);
            }
            Body::Damaged { round } => progress.damaged = progress.damaged.max(Some(round)),
            _ => unreachable!("only answers are dispatched here"),
        }
        self.advance_commit();
        self.readmit(from);
    }

    /// Commits what a quorum has durably, if it is of this term; earlier terms' entries with it. (Raft §5.4.2, Fig. 8)
    pub(super) fn advance_commit(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let index = LogIndex(agreed(self.log.config(), |id, incarnation| match self.counted(id, incarnation) {
            Some(progress) => progress.matched.0,
            None if self.is_self(id, incarnation) && mutant::is_on(Mutant::R42) => self.log.last().0,
            None if self.is_self(id, incarnation) && self.is_hasty() => self.log.last().0,
            None if self.is_self(id, incarnation) => self.log.durable().0,
            None => 0,
        }));
        let index = if mutant::is_on(Mutant::R12) { index.max(self.learned()) } else { index };
        reach!(EarlierTermWaits if index > self.commit && self.log.term(index) != Some(self.term));
        if index > self.commit && (self.log.term(index) == Some(self.term) || mutant::is_on(Mutant::R01)) {
            self.commit = index;
        }
    }

    /// Whether what this member wrote counts before it is durable: only a planted mistake does that.
    pub(super) fn is_hasty(&self) -> bool {
        mutant::is_on(Mutant::P01) && self.log.config().voters.len() == 1 && self.role == Role::Leader
    }

    /// What a majority of all members has, learners among them: only a planted mistake asks.
    fn learned(&self) -> LogIndex {
        let config = self.log.config();
        let voters = config.voters.iter().chain(&config.learners).map(|(id, life)| (*id, *life)).collect();
        LogIndex(agreed(&crate::entry::Configuration { voters, ..config.clone() }, |id, life| {
            match self.counted(id, life) {
                Some(progress) => progress.matched.0,
                None if self.is_self(id, life) => self.log.durable().0,
                None => 0,
            }
        }))
    }

    /// What is known of `id` if its present life is `incarnation` and trusted: only then it counts. Asked for this
    /// member itself, or by one that does not lead: `None`.
    pub(super) fn counted(&self, id: NodeId, incarnation: crate::Incarnation) -> Option<&Progress> {
        let progress = self.leader.as_ref()?.peers.get(&id)?;
        (progress.trusted && progress.incarnation == incarnation).then_some(progress)
    }

    /// Whether `id` with `incarnation` is this member's present life, trusted.
    pub(super) fn is_self(&self, id: NodeId, incarnation: crate::Incarnation) -> bool {
        id == self.id() && incarnation == self.incarnation() && self.standing() == Standing::Trusted
    }
}

/// Whether a leader of `term` could have sent these entries after `prev`.
fn is_well_formed(term: Term, prev: (LogIndex, Term), entries: &[Entry]) -> bool {
    let (mut index, mut before) = prev;
    let is_somewhere = (index == LogIndex(0)) == (before == Term(0)) || mutant::is_on(Mutant::R39);
    if !is_somewhere || before > term {
        return false;
    }
    entries.iter().all(|entry| {
        let fits = entry.index == index.next() && entry.term >= before && entry.term <= term && entry.term > Term(0);
        (index, before) = (entry.index, entry.term);
        fits && !matches!(&entry.payload, Payload::Config(config) if config.voters.is_empty())
    })
}
