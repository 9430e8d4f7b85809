//! Where the log ends at the back: compaction, and snapshots for followers beyond it. (Raft §7)

use alloc::vec::Vec;

use super::message::{is_plausible_index, is_plausible_term};
use super::progress::Progress;
use super::{Output, Raft, Role};
use crate::entry::{Configuration, Record, Standing};
use crate::mutant::{self, Mutant};
use crate::{Generation, LogIndex, NodeId, Term};

/// So many times [`super::Config::catchup_bytes`] are kept at most for a follower that is receiving a snapshot...
const KEPT_CATCHUPS_MAX: u64 = 4;
/// ...and so many times what it was sent by now. Without that, a large state would never arrive while clients write; one
/// that arrives at less than half the pace at which the log grows would be of no use.
const KEPT_CARRIED_MAX: u64 = 2;

impl Raft {
    /// [`super::Input::Applied`]
    pub(super) fn applied(&mut self, index: LogIndex, durable: LogIndex) {
        if index < self.log.start() {
            return; // Of the state that a snapshot has replaced since.
        }
        assert!(index <= self.given, "applied {index}, but only {} was given out", self.given);
        assert!(durable <= index, "applied durably {durable} > applied {index}");
        if self.log.durable() < index {
            return; // Likewise: nothing is applied on top of a snapshot before that is durable.
        }
        self.log.set_applied(index);
        let config = &self.config;
        // What follows a snapshot being sent is kept, unless its receiver is gone or memory runs short. A lane ends by
        // itself when nothing goes on in it, and until then a follower that pauses for a moment need not start over.
        let is_alive = |it: &Progress| it.lane || it.is_alive(self.now, config);
        let catchups = config.catchup_bytes.saturating_mul(KEPT_CATCHUPS_MAX);
        let most = |it: &Progress| catchups.saturating_add(it.carried.saturating_mul(KEPT_CARRIED_MAX));
        let peers = self.leader.iter().flat_map(|leader| leader.peers.values());
        let served = peers.filter(|it| is_alive(it) && self.log.applied_bytes() <= most(it));
        let limit = served.filter_map(|progress| progress.kept).fold(durable, LogIndex::min);
        reach!(LogKeptForSnapshot if limit < durable);
        let Some(point) = self.log.compaction_point(config.catchup_entries, config.catchup_bytes, limit) else {
            return;
        };
        self.log.compact(point);
        let term = self.log.term(point).expect("the compaction point's term is kept");
        let config = self.log.config_at(point).1.clone();
        self.records.push(Record::Compact { index: point, term, config });
    }

    /// [`super::Input::Install`]
    pub(super) fn install(
        &mut self,
        (index, term): (LogIndex, Term),
        config: Configuration,
        generation: Generation,
        out: &mut Vec<Output>,
    ) {
        let is_valid = index > LogIndex(0)
            && term > Term(0)
            && is_plausible_term(term)
            && is_plausible_index(index)
            && !config.voters.is_empty();
        let is_fresh = self.standing() == Standing::Fresh;
        if !is_valid || is_fresh || self.role == Role::Leader || index <= self.commit {
            out.push(Output::Unneeded { generation });
        } else if self.log.term(index) == Some(term) || (self.log.last() >= index && mutant::is_on(Mutant::P12)) {
            reach!(InstallAfterLog);
            // The log arrived first. It may go beyond the snapshot, and that may have been acknowledged: it stays.
            if self.role != Role::Follower {
                // By what is committed now it may have no vote.
                self.follow(self.term, None, out);
            }
            self.commit = index;
            self.received = self.received.max(index);
            out.push(Output::Unneeded { generation });
        } else {
            reach!(InstallReplaces if self.log.last() > self.log.start());
            // A candidate gives up: by this configuration it may have no vote.
            self.follow(term.max(self.term), None, out);
            // Entries that go are committed and in the snapshot, or differ from a committed entry and will never be.
            self.log.restore(index, term, config.clone(), self.next_write);
            self.records.push(Record::Snapshot { index, term, config, generation });
            (self.commit, self.given) = (index, index);
            self.received = self.received.max(index);
            self.hold(self.next_write, Output::Restore { index, generation });
        }
        if let Some(leader) = self.leader_id.filter(|id| *id != self.id()) {
            self.acknowledge(leader, self.commit, out); // What is committed is the leader's too.
        }
    }

    /// [`super::Input::SnapshotCarried`]
    pub(super) fn snapshot_carried(&mut self, to: NodeId, bytes: u64) {
        if let Some(progress) = self.leader.as_mut().and_then(|leader| leader.peers.get_mut(&to)) {
            progress.carried = progress.carried.saturating_add(bytes);
        }
    }

    /// [`super::Input::SnapshotSent`]
    pub(super) fn snapshot_sent(&mut self, to: NodeId, index: Option<LogIndex>) {
        let last = self.log.last();
        let Some(progress) = self.leader.as_mut().and_then(|leader| leader.peers.get_mut(&to)) else { return };
        progress.snapshot_ended(index.filter(|index| *index <= last));
    }
}
