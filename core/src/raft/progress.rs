//! A follower as the leader sees it. (Raft figure 2, nextIndex and matchIndex; thesis §10.2.1)

use alloc::collections::{BTreeSet, VecDeque};

use super::Config;
use crate::mutant::{self, Mutant};
use crate::{FeatureLevel, Incarnation, Instant, LogIndex};

/// How the leader feeds a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Not known where the logs agree: one append at a time; while `waiting` for its answer, none.
    Probe {
        /// One is under way. A heartbeat's answer ends the wait too: the append may be lost.
        waiting: bool,
    },
    /// Logs agree: appends follow each other without waiting, within the budget in flight.
    Replicate,
    /// The log no longer reaches the follower: it gets a snapshot, and nothing else until that has ended.
    Snapshot,
}

/// What the leader knows about one follower, all of it about one life of its disk.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The life that spoke last (before it has spoken: the configured one).
    pub(super) incarnation: Incarnation,
    /// That life said that it votes and counts. Once said it stays true.
    pub(super) trusted: bool,
    /// The log of this life is durable and equal to the leader's up to here. Only grows.
    pub(super) matched: LogIndex,
    /// The next entry to send. `matched < next`
    pub(super) next: LogIndex,
    /// How to send it.
    pub(super) pace: Pace,
    /// Appends under way: the last index of each and its bytes. Indexes ascend, within `matched + 1 .. next`.
    inflight: VecDeque<(LogIndex, u64)>,
    /// The sum of their bytes.
    inflight_bytes: u64,
    /// The last heartbeat round it has answered.
    pub(super) round: u64,
    /// The last round with which it said that its applied state is damaged.
    pub(super) damaged: Option<u64>,
    /// The feature level that it understands, as it said there.
    pub(super) level: Option<FeatureLevel>,
    /// A heartbeat round, and the last index sent before it: if the answer says less was received, it was lost.
    pub(super) mark: Option<(u64, LogIndex)>,
    /// The commit index it was last told.
    pub(super) told_commit: LogIndex,
    /// When it was last heard; before it has been, when this leadership (or its membership) began.
    pub(super) heard: Instant,
    /// It was heard of in this leadership.
    pub(super) is_heard: bool,
    /// The snapshot lane is open: no other is asked for.
    pub(super) lane: bool,
    /// Log entries after this index are kept, to be sent after the snapshot.
    pub(super) kept: Option<LogIndex>,
    /// Bytes that the snapshot lane has carried since it was last opened.
    pub(super) carried: u64,
    /// No other life than the configured one was heard of.
    is_configured: bool,
    /// How often another life was heard than the one before, and all was to be learned anew.
    pub(super) renewals: u64,
    /// Lives that are known to have ended, see [`Progress::hear`].
    dead: BTreeSet<Incarnation>,
    /// Other lives heard of in this leadership, of which it is not known whether the present one came after them.
    earlier: BTreeSet<Incarnation>,
    /// The first round that began after this life was first heard; its answer shows that this is the latest life.
    pub(super) first_round: u64,
    /// The commit index when this life was known to be the latest: having that it counts as caught up.
    pub(super) target: Option<LogIndex>,
}

impl Progress {
    /// Whether it was heard within an election timeout.
    pub(super) fn is_alive(&self, now: Instant, config: &Config) -> bool {
        now < self.heard + config.election_timeout
    }

    /// A follower at the start of a leadership, or one that was just configured. `next` is the first index to try.
    pub(super) fn new(incarnation: Incarnation, next: LogIndex, now: Instant) -> Self {
        Self {
            incarnation,
            trusted: false,
            matched: LogIndex(0),
            next,
            pace: Pace::Probe { waiting: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            round: 0,
            damaged: None,
            level: None,
            mark: None,
            told_commit: LogIndex(0),
            heard: now,
            is_heard: false,
            lane: false,
            kept: None,
            carried: 0,
            is_configured: true,
            renewals: 0,
            dead: BTreeSet::new(),
            earlier: BTreeSet::new(),
            first_round: 1,
            target: None,
        }
    }

    /// Hears the life `incarnation` of the follower's disk; false if that life is known to have ended. A life not
    /// heard of before starts from nothing. `round` is the latest heartbeat round, `next` the first index to try.
    ///
    /// Messages overtake each other, so hearing of another life is not always hearing of a later one. Two facts help:
    /// every answer to this leadership comes from the configured life or a later one, as the configuration was there
    /// first; and a life that answers a round which began after it was first heard is later than all heard before.
    /// Until one of these decides, what a life says is taken at its word, but for that life alone.
    pub(super) fn hear(
        &mut self,
        incarnation: Incarnation,
        trusted: bool,
        round: u64,
        next: LogIndex,
        now: Instant,
    ) -> bool {
        if incarnation != self.incarnation && !mutant::is_on(Mutant::R23) {
            if self.dead.contains(&incarnation) {
                reach!(DeadLifeHeard);
                return false;
            }
            let (mut dead, mut earlier) = (core::mem::take(&mut self.dead), core::mem::take(&mut self.earlier));
            if self.is_configured { &mut dead } else { &mut earlier }.insert(self.incarnation);
            earlier.remove(&incarnation);
            reach!(NewLifeHeard);
            let (lane, kept, carried, first_round) = (self.lane, self.kept, self.carried, round + 1);
            let renewals = self.renewals + 1;
            let new = Self::new(incarnation, next, now);
            *self = Self { is_configured: false, renewals, dead, earlier, lane, kept, carried, first_round, ..new };
            if lane {
                reach!(SnapshotLaneBusy);
                self.pace = Pace::Snapshot;
            }
        }
        self.trusted |= trusted;
        self.heard = now;
        self.is_heard = true;
        true
    }

    /// The follower answered heartbeat `round`, and understands `level`. `commit` is the leader's commit index.
    pub(super) fn answered(&mut self, round: u64, level: FeatureLevel, commit: LogIndex) {
        if round >= self.round {
            self.level = Some(level);
        }
        self.round = self.round.max(round);
        if self.target.is_none() && self.round >= self.first_round {
            self.target = Some(commit);
            self.dead.append(&mut self.earlier);
        }
    }

    /// The follower's log is durable and equal to ours up to `index`. Our log is that behind `start` through `last`.
    pub(super) fn accepted(&mut self, index: LogIndex, start: LogIndex, last: LogIndex) {
        let is_news = index > self.matched;
        if mutant::is_on(Mutant::R08) {
            self.matched = index;
        }
        if is_news {
            self.matched = index;
            while self.inflight.front().is_some_and(|(last, _)| *last <= index) {
                let (_, bytes) = self.inflight.pop_front().expect("just seen");
                self.inflight_bytes -= bytes;
            }
        }
        self.next = self.next.max(self.matched.next());
        match self.pace {
            // A probe carries an entry if there is one, so an answer that tells nothing new is an old one. Taking it for the
            // probe's would send the whole window again for every duplicate.
            Pace::Probe { .. } if is_news || (index == self.matched && self.next > last) => {
                self.replicate(self.matched);
            }
            Pace::Snapshot if self.matched >= start && self.matched > LogIndex(0) => self.replicate(self.matched),
            _ => {}
        }
        if self.pace == Pace::Replicate && self.kept.is_some_and(|kept| kept <= self.matched) {
            self.kept = None;
        }
    }

    /// The follower's log does not agree with ours at `prev`, but may at `hint`.
    pub(super) fn refused(&mut self, prev: LogIndex, hint: LogIndex) {
        match self.pace {
            Pace::Replicate if prev > self.matched => {
                reach!(WindowRefused);
                self.probe(self.matched.next());
            }
            Pace::Probe { .. } if prev.next() == self.next => {
                reach!(ProbeGoesBack);
                let next = LogIndex(prev.0.max(1)).min(hint.next()).max(self.matched.next());
                self.probe(next);
            }
            _ => reach!(RefusalOvertaken), // An answer to something long superseded.
        }
    }

    /// The answer to heartbeat `round` says that the follower's log equals ours up to `received`, durable or not.
    pub(super) fn received(&mut self, round: u64, received: LogIndex) {
        if let Pace::Probe { waiting } = &mut self.pace {
            *waiting = false;
        }
        let Some((_, sent)) = self.mark.filter(|(mark, _)| *mark <= round) else { return };
        self.mark = None;
        if self.pace == Pace::Replicate && received < sent {
            reach!(WindowLost);
            // All that was sent after `received` and before the heartbeat is lost, or so late that it may as well be.
            let agreed = if mutant::is_on(Mutant::R10) { received } else { received.max(self.matched) };
            while self.inflight.back().is_some_and(|(last, _)| *last > agreed) {
                let (_, bytes) = self.inflight.pop_back().expect("just seen");
                self.inflight_bytes -= bytes;
            }
            self.next = agreed.next();
        }
    }

    /// Sends nothing but a snapshot from now on; entries after `applied` are kept meanwhile. True if the snapshot lane
    /// must be opened for it.
    pub(super) fn snapshot(&mut self, applied: LogIndex) -> bool {
        self.clear_inflight();
        self.pace = Pace::Snapshot;
        self.kept = Some(self.kept.map_or(applied, |kept| kept.max(applied)));
        let is_opened = !core::mem::replace(&mut self.lane, true);
        if is_opened {
            self.carried = 0;
        }
        is_opened
    }

    /// The snapshot lane ended, having installed a snapshot up to `index` or nothing.
    pub(super) fn snapshot_ended(&mut self, index: Option<LogIndex>) {
        self.lane = false;
        reach!(SnapshotFailed if index.is_none());
        if index.is_none() || self.kept.is_some_and(|kept| kept <= self.matched) {
            self.kept = None;
        }
        if self.pace == Pace::Snapshot {
            self.probe(index.unwrap_or_default().max(self.matched).next());
            // After a failure the next attempt waits for a sign of life.
            self.pace = Pace::Probe { waiting: index.is_none() };
        }
    }

    /// Notes an append under way: entries up to `last` of together `bytes`.
    pub(super) fn sent(&mut self, last: LogIndex, bytes: u64) {
        match &mut self.pace {
            Pace::Probe { waiting } => *waiting = true,
            Pace::Replicate => {
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
                self.next = last.next();
            }
            Pace::Snapshot => unreachable!("nothing is appended beside a snapshot"),
        }
    }

    /// The last index sent.
    pub(super) fn last_sent(&self) -> LogIndex {
        LogIndex(self.next.0 - 1)
    }

    /// Whether the budget in flight is used up.
    pub(super) fn is_full(&self, messages_max: u64, bytes_max: u64) -> bool {
        self.inflight.len() as u64 >= messages_max.max(1)
            || (self.inflight_bytes >= bytes_max && (!self.inflight.is_empty() || mutant::is_on(Mutant::R40)))
    }

    fn replicate(&mut self, matched: LogIndex) {
        self.clear_inflight();
        self.pace = Pace::Replicate;
        self.next = matched.next();
    }

    fn probe(&mut self, next: LogIndex) {
        self.clear_inflight();
        self.pace = Pace::Probe { waiting: false };
        self.next = next;
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        if !mutant::is_on(Mutant::R40) {
            self.inflight_bytes = 0;
        }
        self.mark = None;
    }

    /// O(messages in flight).
    pub(super) fn check_deep(&self, last: LogIndex) {
        assert!(self.matched < self.next, "matched {} >= next {}", self.matched, self.next);
        assert!(self.next <= last.next(), "next {} beyond last {last}", self.next);
        let bytes = self.inflight.iter().map(|(_, bytes)| *bytes).sum::<u64>();
        assert!(bytes == self.inflight_bytes, "{} bytes in flight, not {bytes}", self.inflight_bytes);
        assert!(self.inflight.iter().all(|(last, _)| *last > self.matched && *last < self.next), "{:?}", self.inflight);
        assert!(!self.dead.contains(&self.incarnation), "incarnation {} is dead", self.incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: LogIndex = LogIndex(0);
    const LAST: LogIndex = LogIndex(9);

    #[test]
    fn an_acknowledgement_that_tells_nothing_new_does_not_end_a_probe() {
        // It did once: the whole window was sent again for it, whose refusals began the next probe, and so on for ever
        // where links repeat messages.
        let mut progress = Progress::new(Incarnation(1), LogIndex(6), Instant(0));
        progress.accepted(LogIndex(5), START, LAST);
        assert_eq!((progress.pace, progress.next), (Pace::Replicate, LogIndex(6)));
        progress.sent(LogIndex(6), 1);
        progress.sent(LogIndex(7), 1);
        progress.refused(LogIndex(6), LogIndex(5));
        assert_eq!((progress.pace, progress.next), (Pace::Probe { waiting: false }, LogIndex(6)));
        progress.sent(LogIndex(6), 1);
        progress.accepted(LogIndex(5), START, LAST);
        assert_eq!(progress.pace, Pace::Probe { waiting: true }, "an old answer");
        progress.accepted(LogIndex(6), START, LAST);
        assert_eq!((progress.pace, progress.next), (Pace::Replicate, LogIndex(7)));
        progress.check_deep(LAST);
    }

    #[test]
    fn a_probe_without_an_entry_ends_with_an_answer_that_tells_nothing_new() {
        let mut progress = Progress::new(Incarnation(1), LogIndex(6), Instant(0));
        progress.accepted(LogIndex(5), START, LogIndex(5));
        progress.refused(LogIndex(6), LogIndex(5));
        assert_eq!(progress.pace, Pace::Probe { waiting: false });
        progress.accepted(LogIndex(5), START, LogIndex(5));
        assert_eq!((progress.pace, progress.next), (Pace::Replicate, LogIndex(6)));
    }
}
