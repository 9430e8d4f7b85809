//! The log in memory: entries since the compaction point, durable and not yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::entry::{Configuration, Entry, Payload};
use crate::mutant::{self, Mutant};
use crate::{LogIndex, Term, WriteId};

/// What an entry costs beyond its command, in bytes: for budgets only.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// What `entry` costs in messages and memory, in bytes: for budgets only.
pub(super) fn cost(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        Payload::Empty => 0,
        Payload::Command(command) => command.len(),
        Payload::Config(config) => 16 * (config.voters.len() + config.outgoing.len() + config.learners.len()),
    };
    ENTRY_OVERHEAD_BYTES + payload as u64
}

/// The log since `start`. Terms never fall along it; entries are contiguous.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// The compaction point: the last index that is gone...
    start: LogIndex,
    /// ...and its term.
    start_term: Term,
    /// Entries `start + 1 ..= last`.
    entries: VecDeque<Entry>,
    /// Each term in `entries` with its first index there, ascending.
    runs: VecDeque<(Term, LogIndex)>,
    /// Configurations with the index they are in force from, ascending. The first is that at `start`; never empty.
    configs: VecDeque<(LogIndex, Configuration)>,
    /// This log, up to here, is on stable storage. `durable <= last`; below `start` only until a restore is durable.
    durable: LogIndex,
    /// For each write under way, what will be durable with it; both ascend.
    unpersisted: VecDeque<(WriteId, LogIndex)>,
    /// `start <= applied <= durable` while no restore is under way.
    applied: LogIndex,
    /// The cost of the entries in `start + 1 ..= applied`, in bytes.
    applied_bytes: u64,
}

impl Log {
    /// A recovered log: all of it is durable.
    pub(super) fn new(start: LogIndex, start_term: Term, config: Configuration, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            start,
            start_term,
            entries: VecDeque::with_capacity(entries.len()),
            runs: VecDeque::new(),
            configs: VecDeque::from([(start, config)]),
            durable: start,
            unpersisted: VecDeque::new(),
            applied: start,
            applied_bytes: 0,
        };
        for entry in entries {
            log.append(entry, WriteId(0));
        }
        log.persisted(WriteId(0));
        log
    }

    /// The last index that is gone.
    pub(super) fn start(&self) -> LogIndex {
        self.start
    }

    /// The last index.
    pub(super) fn last(&self) -> LogIndex {
        LogIndex(self.start.0 + self.entries.len() as u64)
    }

    /// The last entry's term.
    pub(super) fn last_term(&self) -> Term {
        self.entries.back().map_or(self.start_term, |entry| entry.term)
    }

    /// The last index that is on stable storage.
    pub(super) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// The last index that was applied.
    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The cost of what is kept in memory behind the applied index, in bytes.
    pub(super) fn applied_bytes(&self) -> u64 {
        self.applied_bytes
    }

    /// The latest configuration, committed or not. (Raft §6: "uses the latest configuration in its log")
    pub(super) fn config(&self) -> &Configuration {
        &self.configs.back().expect("there is always the configuration at the start").1
    }

    /// Where the latest configuration stands; 0 if it is not from the log.
    pub(super) fn config_index(&self) -> LogIndex {
        self.configs.back().expect("there is always the configuration at the start").0
    }

    /// The configuration in force at `index`, which is not below the start, and where it stands.
    pub(super) fn config_at(&self, index: LogIndex) -> &(LogIndex, Configuration) {
        let found = self.configs.iter().rev().find(|(from, _)| *from <= index);
        found.expect("the first configuration is in force from the start")
    }

    /// Replaces the configuration that a log which is still empty starts with.
    pub(super) fn set_initial(&mut self, config: Configuration) {
        assert!(self.last() == self.start, "a genesis at index {}", self.last());
        self.configs = VecDeque::from([(self.start, config)]);
    }

    /// The term at `index`, unless that is compacted or beyond the end.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start {
            return Some(self.start_term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// The entry at `index`.
    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.start.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The largest index up to `index` whose term is at most `term`; the start if there is none above it, and `index`
    /// itself if that is at or below the start. Whole terms are skipped at once. (Raft §5.3, end)
    pub(super) fn find_by_term(&self, index: LogIndex, term: Term) -> LogIndex {
        let index = index.min(self.last());
        if index <= self.start {
            return index;
        }
        let later = self.runs.partition_point(|(run, _)| *run <= term);
        // The first entry with a term beyond `term` ends the search.
        let end = self.runs.get(later).map_or(self.last(), |(_, first)| LogIndex(first.0 - 1));
        index.min(end)
    }

    /// Copies (by reference) entries from `from` on, until they cost `bytes_max`; but at least one, if there is one.
    pub(super) fn slice(&self, from: LogIndex, bytes_max: u64) -> (Vec<Entry>, u64) {
        assert!(from > self.start, "entry {from} is compacted, the log starts after {}", self.start);
        let skip = usize::try_from(from.0 - self.start.0 - 1).expect("an index in memory fits");
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in self.entries.iter().skip(skip) {
            let cost = cost(entry);
            if !entries.is_empty() && bytes + cost > bytes_max {
                break;
            }
            bytes += cost;
            entries.push(entry.clone());
        }
        (entries, bytes)
    }

    /// Copies (by reference) the entries `from ..= to`.
    pub(super) fn range(&self, from: LogIndex, to: LogIndex) -> Vec<Entry> {
        assert!(from > self.start, "entry {from} is compacted, the log starts after {}", self.start);
        assert!(to <= self.last(), "entry {to} is beyond the last, {}", self.last());
        let skip = usize::try_from(from.0 - self.start.0 - 1).expect("an index in memory fits");
        let take = usize::try_from(to.0 - from.0 + 1).expect("an index in memory fits");
        self.entries.iter().skip(skip).take(take).cloned().collect()
    }

    /// Appends `entry`, which `write` will make durable.
    pub(super) fn append(&mut self, entry: Entry, write: WriteId) {
        assert!(entry.index == self.last().next(), "entry {} appended after {}", entry.index, self.last());
        assert!(entry.term >= self.last_term(), "term {} appended after {}", entry.term, self.last_term());
        if entry.term > self.last_term() || self.runs.is_empty() {
            self.runs.push_back((entry.term, entry.index));
        }
        if let Payload::Config(config) = &entry.payload {
            self.configs.push_back((entry.index, config.clone()));
        }
        match self.unpersisted.back_mut() {
            Some((last, to)) if *last == write => *to = entry.index,
            _ => self.unpersisted.push_back((write, entry.index)),
        }
        self.entries.push_back(entry);
    }

    /// Removes the entries from `from` on; configurations among them are void.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.applied, "truncated at {from}, but {} is applied", self.applied);
        let keep = LogIndex(from.0 - 1);
        self.entries.truncate(usize::try_from(keep.0 - self.start.0).expect("an index in memory fits"));
        while self.runs.back().is_some_and(|(_, first)| *first > keep) {
            self.runs.pop_back();
        }
        while self.configs.back().is_some_and(|(index, _)| *index > keep) && !mutant::is_on(Mutant::R17) {
            self.configs.pop_back();
        }
        self.durable = self.durable.min(keep);
        for (_, to) in &mut self.unpersisted {
            *to = (*to).min(keep);
        }
    }

    /// All writes up to `write` are durable.
    pub(super) fn persisted(&mut self, write: WriteId) {
        while self.unpersisted.front().is_some_and(|(first, _)| *first <= write) {
            let (_, to) = self.unpersisted.pop_front().expect("just seen");
            self.durable = self.durable.max(to);
        }
    }

    /// The write that makes `index` durable; `None` if it is.
    pub(super) fn write_of(&self, index: LogIndex) -> Option<WriteId> {
        if index <= self.durable {
            return None;
        }
        let found = self.unpersisted.iter().find(|(_, to)| *to >= index);
        Some(found.expect("what is not durable is being written").0)
    }

    /// Forgets everything for a snapshot that ends with `index`; it is durable with `write`.
    pub(super) fn restore(&mut self, index: LogIndex, term: Term, config: Configuration, write: WriteId) {
        *self = Self::new(index, term, config, Vec::new());
        self.applied = index;
        self.durable = LogIndex(0);
        self.unpersisted.push_back((write, index));
    }

    /// Notes that everything up to `index` was applied.
    pub(super) fn set_applied(&mut self, index: LogIndex) {
        assert!(index <= self.durable, "applied {index}, but only {} is durable", self.durable);
        while self.applied < index {
            let next = self.applied.next();
            self.applied_bytes += cost(self.get(next).expect("durable entries above the start are in memory"));
            self.applied = next;
        }
    }

    /// Where the log can start so that `entries` and `bytes` at most stay behind the applied index, no later than
    /// `limit`; `None` if that is not worth a compaction yet. One is worth it for a tenth of what is kept.
    pub(super) fn compaction_point(&self, entries: u64, bytes: u64, limit: LogIndex) -> Option<LogIndex> {
        let limit = limit.min(self.applied);
        let mut point = LogIndex(self.applied.0.saturating_sub(entries)).min(limit);
        let too_many = point.0.saturating_sub(self.start.0) >= (entries / 10).max(1);
        let too_big = self.applied_bytes > bytes.saturating_add(bytes / 10);
        if too_big {
            let (mut index, mut left) = (self.start, self.applied_bytes);
            while index < limit && left > bytes {
                index = index.next();
                left -= cost(self.get(index).expect("applied entries above the start are in memory"));
            }
            point = point.max(index);
        }
        ((too_many || too_big) && point > self.start).then_some(point)
    }

    /// Drops the entries up to `index`, which are applied.
    pub(super) fn compact(&mut self, index: LogIndex) {
        assert!(index > self.start, "compacted at {index}, but the log starts after {}", self.start);
        assert!(index <= self.applied, "compacted at {index}, but only {} is applied", self.applied);
        let term = self.term(index).expect("an applied index above the start is in memory");
        while self.start < index {
            let entry = self.entries.pop_front().expect("entries reach the applied index");
            self.applied_bytes -= cost(&entry);
            self.start = entry.index;
        }
        self.start_term = term;
        while self.runs.get(1).is_some_and(|(_, first)| first.0 <= index.0 + 1) {
            self.runs.pop_front();
        }
        match (self.entries.is_empty(), self.runs.front_mut()) {
            (true, _) => self.runs.clear(),
            (false, Some((_, first))) => *first = (*first).max(index.next()),
            (false, None) => unreachable!("every entry is in a run"),
        }
        while self.configs.get(1).is_some_and(|(from, _)| *from <= index) {
            self.configs.pop_front();
        }
    }

    /// What `restore`, `compact` and `truncate` must keep true. O(n).
    pub(super) fn check_deep(&self) {
        let mut last = (self.start_term, self.start);
        let mut runs = Vec::new();
        let mut configs = 1;
        let mut applied_bytes = 0;
        for entry in &self.entries {
            assert!(entry.index == last.1.next(), "entry {} after {}", entry.index, last.1);
            assert!(entry.term >= last.0, "term {} after {}", entry.term, last.0);
            if runs.last().is_none_or(|(term, _)| *term != entry.term) {
                runs.push((entry.term, entry.index));
            }
            if let Payload::Config(config) = &entry.payload {
                assert!(*self.config_at(entry.index) == (entry.index, config.clone()), "configuration {}", entry.index);
                configs += 1;
            }
            if entry.index <= self.applied {
                applied_bytes += cost(entry);
            }
            last = (entry.term, entry.index);
        }
        assert!(self.runs.iter().eq(runs.iter()), "runs are {:?}, not {runs:?}", self.runs);
        assert!(self.configs.len() == configs, "{} configurations, not {configs}", self.configs.len());
        assert!(self.applied_bytes == applied_bytes, "applied bytes {} instead of {applied_bytes}", self.applied_bytes);
        assert!(self.durable <= self.last(), "durable {} > last {}", self.durable, self.last());
        let to = self.unpersisted.back().map_or(self.durable, |(_, to)| *to);
        assert!(to.max(self.durable) == self.last(), "writes reach {to}, the log {}", self.last());
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::Blob;

    fn log(terms: &[u64]) -> Log {
        let entry = |(n, term): (usize, &u64)| Entry {
            term: Term(*term),
            index: LogIndex(n as u64 + 1),
            payload: Payload::Command(Blob::from("x")),
        };
        Log::new(LogIndex(0), Term(0), Configuration::default(), terms.iter().enumerate().map(entry).collect())
    }

    #[test]
    fn whole_terms_are_skipped_when_looking_for_a_common_entry() {
        let log = log(&[1, 1, 4, 4, 5, 5, 6, 6, 6]);
        assert_eq!(log.find_by_term(LogIndex(9), Term(4)), LogIndex(4));
        assert_eq!(log.find_by_term(LogIndex(9), Term(3)), LogIndex(2));
        assert_eq!(log.find_by_term(LogIndex(3), Term(9)), LogIndex(3));
        assert_eq!(log.find_by_term(LogIndex(99), Term(9)), LogIndex(9));
        assert_eq!(log.find_by_term(LogIndex(9), Term(0)), LogIndex(0));
    }

    #[test]
    fn truncation_and_compaction_keep_terms_and_durability_right() {
        let mut log = log(&[1, 1, 2, 2]);
        log.append(Entry { term: Term(3), index: LogIndex(5), payload: Payload::Empty }, WriteId(1));
        assert_eq!(log.write_of(LogIndex(5)), Some(WriteId(1)));
        log.truncate(LogIndex(4));
        log.append(Entry { term: Term(4), index: LogIndex(4), payload: Payload::Empty }, WriteId(2));
        log.check_deep();
        log.persisted(WriteId(1));
        assert_eq!(log.durable(), LogIndex(3), "what the first write held beyond 3 is void");
        log.persisted(WriteId(2));
        assert_eq!(log.durable(), LogIndex(4));
        log.set_applied(LogIndex(4));
        for point in 1..=4 {
            log.compact(LogIndex(point));
            log.check_deep();
            assert_eq!(log.last(), LogIndex(4));
        }
        assert_eq!(log.last_term(), Term(4));
    }

    #[test]
    fn compaction_waits_for_a_tenth_and_obeys_both_limits() {
        let mut log = log(&vec![1; 100]);
        log.set_applied(LogIndex(58));
        assert_eq!(log.compaction_point(50, u64::MAX, LogIndex(100)), Some(LogIndex(8)));
        assert_eq!(log.compaction_point(54, u64::MAX, LogIndex(100)), None, "4 of 54 are too few");
        assert_eq!(log.compaction_point(0, u64::MAX, LogIndex(7)), Some(LogIndex(7)));
        assert_eq!(log.compaction_point(1000, 33 * 10, LogIndex(100)), Some(LogIndex(48)));
        assert_eq!(log.compaction_point(1000, u64::MAX, LogIndex(100)), None);
    }
}
