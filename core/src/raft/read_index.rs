//! Linearizable reads: a leader proves, after a read was asked, that it still led. (Raft §8; thesis §6.4)
//!
//! A *round* is one heartbeat to everyone with a number never used before in the term. A read joins the next round to
//! begin, together with the commit index of that moment, and is ready when a quorum answered that round or a later
//! one. An answer to an earlier round proves nothing for it: it may have been sent before the read was asked.

use alloc::vec::Vec;

use super::progress::Pace;
use super::quorum::agreed;
use super::{Body, Output, Raft, Round};
use crate::entry::Standing;
use crate::mutant::{self, Mutant};

impl Raft {
    /// [`super::Input::ReadIndex`]
    pub(super) fn read_index(&mut self, read: u64, out: &mut Vec<Output>) {
        let trusts_itself = mutant::is_on(Mutant::R34) || (mutant::is_on(Mutant::R36) && self.has_heard_quorum());
        let index = self.commit;
        match self.leader.as_mut() {
            Some(leader) if trusts_itself && index >= leader.term_start => out.push(Output::ReadReady { read, index }),
            Some(leader) => leader.reads.push(read),
            None => out.push(Output::ReadLost { read }),
        }
    }

    /// Starts a round if reads wait for one and none is under way; more reads collect meanwhile.
    pub(super) fn start_waiting_reads(&mut self, out: &mut Vec<Output>) {
        let Some(leader) = &self.leader else { return };
        // Before an entry of its own term is committed a leader does not know what is. (thesis §6.4, step 1)
        let knows = self.commit >= leader.term_start || mutant::is_on(Mutant::R31);
        if leader.rounds.is_empty() && !leader.reads.is_empty() && knows {
            self.start_round(out);
        }
    }

    /// Sends a heartbeat with a fresh round number to everyone.
    pub(super) fn start_round(&mut self, out: &mut Vec<Output>) {
        let header = self.header();
        let Some(leader) = self.leader.as_mut() else { return };
        leader.round += 1;
        let round = leader.round;
        let knows = self.commit >= leader.term_start || mutant::is_on(Mutant::R31);
        reach!(ReadWaitsForTerm if !knows && !leader.reads.is_empty());
        if knows && !leader.reads.is_empty() {
            let reads = core::mem::take(&mut leader.reads);
            leader.rounds.push_back(Round { round, index: self.commit, reads });
        }
        for (to, progress) in &mut leader.peers {
            let commit = progress.matched.min(self.commit);
            progress.told_commit = progress.told_commit.max(commit);
            if progress.mark.is_none() && progress.pace == Pace::Replicate {
                progress.mark = Some((round, progress.last_sent()));
            }
            out.push(Output::Send { to: *to, message: header.with(Body::Heartbeat { round, commit }) });
        }
        if let Some(transfer) = leader.transfer.as_mut() {
            transfer.told = false; // In case that message was lost.
        }
        self.confirm_reads(out);
    }

    /// Gives out the reads whose round a quorum has answered.
    pub(super) fn confirm_reads(&mut self, out: &mut Vec<Output>) {
        let Some(leader) = &self.leader else { return };
        if leader.rounds.is_empty() {
            return;
        }
        assert!(self.standing() == Standing::Trusted, "an untrusted leader");
        let confirmed = agreed(self.log.config(), |id, incarnation| match self.counted(id, incarnation) {
            Some(progress) => progress.round,
            None if self.is_self(id, incarnation) => leader.round,
            None => 0,
        });
        let leader = self.leader.as_mut().expect("just seen");
        while leader.rounds.front().is_some_and(|round| round.round <= confirmed) {
            let Round { index, reads, .. } = leader.rounds.pop_front().expect("just seen");
            out.extend(reads.into_iter().map(|read| Output::ReadReady { read, index }));
        }
    }
}
