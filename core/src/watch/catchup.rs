//! Watchers that have fallen behind or start in the past: fed in passes from the ring or from history, many at once.
//!
//! Passes go on where the last one ended, as far as somebody waits there, and begin anew with whoever has fallen behind most
//! only when they have come to the end: those who keep coming with old revisions would hold up all others for ever.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::index::Index;
use super::ring::Shared;
use super::watcher::Place;
use super::{Delivered, Name, Output, Previous, Response, WatchHub};
use crate::mutant::{self, Mutant};
use crate::request::KeyValue;
use crate::store::RevisionEvents;
use crate::{JobId, Revision, StreamId, WatchId};

/// Watchers that share one pass over the ring or one history read.
const GROUP_MAX: usize = 512;

/// A history read under way.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    job: JobId,
    from: Revision,
    through: Revision,
    /// Those still in [`Place::Reading`] take part; the others have been cancelled meanwhile.
    group: Vec<Name>,
}

impl WatchHub {
    /// Delivers one published revision to the watchers that keep up. Those whose stream is full fall behind here, at
    /// exactly this revision.
    pub(super) fn live(&mut self, shared: &Arc<Shared>, previous: &dyn Previous, out: &mut Vec<Output>) {
        let revision = shared.revision;
        for (name, events) in self.collect(&self.index, core::slice::from_ref(shared), previous) {
            if self.streams[&name.0].full() {
                reach!(WatcherFallsBehind);
                self.place(name, Place::Parked, revision);
            } else {
                self.deliver(name, revision, events, out);
                self.watchers.get_mut(&name).expect("collected watchers are held").next = revision.next();
            }
        }
    }

    /// Feeds one bounded pass to watchers that are behind, and asks for history if some need it.
    pub(super) fn catch_up(&mut self, previous: &dyn Previous, out: &mut Vec<Output>) {
        let ring_from = self.ring.from();
        if self.reading.is_none() {
            let group = self.gather((Revision(i64::MIN), ring_from), self.history_next);
            if let Some(&first) = group.first() {
                self.read_history(self.watchers[&first].next, group, out);
            }
        }
        let group = self.gather((ring_from, Revision(i64::MAX)), self.ring_next);
        if let Some(first) = group.first() {
            let from = self.watchers[first].next;
            let bytes_max = self.config.history_bytes_max;
            let (revisions, through) = self.ring.read(from, self.revision, bytes_max, self.want_previous(&group));
            self.ring_next = through.next();
            self.feed(group, &revisions, through, previous, out);
        }
    }

    /// Whether another pass would do something.
    pub(super) fn wants_pass(&self) -> bool {
        let in_ring = (self.ring.from(), (StreamId(0), WatchId(i64::MIN)));
        (self.reading.is_none() && !self.ready.is_empty()) || self.ready.range(in_ring..).next().is_some()
    }

    /// Answer to a history read.
    pub(super) fn history(
        &mut self,
        job: JobId,
        through: Revision,
        events: Vec<RevisionEvents>,
        previous: &dyn Previous,
        out: &mut Vec<Output>,
    ) {
        let reading = self.reading.take().expect("history is answered once");
        assert_eq!(job, reading.job, "history of another question");
        assert!(reading.from <= through, "history through {through} does not reach its start {}", reading.from);
        assert!(through <= reading.through, "history through {through} goes beyond {}", reading.through);
        let revisions: Vec<_> = events.into_iter().map(|events| Arc::new(Shared::from(events))).collect();
        let group = self.still_reading(reading.group);
        self.history_next = through.next();
        self.feed(group, &revisions, through, previous, out);
    }

    /// A history read found its start compacted: the group goes on, without those the floor has overtaken.
    pub(super) fn history_compacted(&mut self, job: JobId, compacted: Revision, out: &mut Vec<Output>) {
        let reading = self.reading.take().expect("history is answered once");
        assert_eq!(job, reading.job, "history of another question");
        assert!(reading.from < compacted, "{} is not below the floor {compacted}", reading.from);
        for name in self.still_reading(reading.group) {
            let next = self.watchers[&name].next;
            self.place(name, Place::Ready, next);
        }
        self.raise_floor(compacted, out);
    }

    /// Cancels every watcher whose next revision the floor has overtaken.
    pub(super) fn raise_floor(&mut self, compacted: Revision, out: &mut Vec<Output>) {
        self.compacted = self.compacted.max(compacted);
        while let Some(&(next, name)) = self.lagging.first()
            && next < self.compacted
        {
            reach!(WatcherCompacted);
            self.cancel_compacted(name, out);
        }
    }

    /// The state jumped to `revision`: what came between was not published, so everyone who kept up is behind now.
    pub(super) fn restored(&mut self, revision: Revision, compacted: Revision, out: &mut Vec<Output>) {
        assert!(revision >= self.revision, "restored from {} back to {revision}", self.revision);
        if revision > self.revision {
            reach!(WatchersSkipAhead if !self.watchers.is_empty());
            let unseen = self.revision.next();
            self.revision = revision;
            self.ring.reset(revision);
            let synced = self.watchers.iter().filter(|(_, watcher)| {
                let is_left_out = mutant::is_on(Mutant::W09) && watcher.start >= unseen;
                watcher.place == Place::Synced && !is_left_out
            });
            let behind = synced.map(|(&name, watcher)| match mutant::is_on(Mutant::W01) {
                false if mutant::is_on(Mutant::W02) => (name, unseen),
                false => (name, watcher.next.max(unseen)),
                true => (name, watcher.start.max(Revision(1))),
            });
            for (name, next) in behind.filter(|&(_, next)| next <= revision).collect::<Vec<_>>() {
                self.place(name, Place::Ready, next);
            }
        }
        self.raise_floor(compacted, out);
    }

    fn read_history(&mut self, from: Revision, group: Vec<Name>, out: &mut Vec<Output>) {
        for &name in &group {
            let next = self.watchers[&name].next;
            self.place(name, Place::Reading, next);
        }
        reach!(HistoryRead);
        // The ring has the rest, or will have lost it to the next read.
        let through = Revision(self.ring.from().0 - 1);
        self.jobs = self.jobs.next();
        let (job, bytes_max, previous) = (self.jobs, self.config.history_bytes_max, self.want_previous(&group));
        self.reading = Some(Reading { job, from, through, group });
        out.push(Output::ReadHistory { job, from, through, bytes_max, previous });
    }

    /// Watchers that are ready with a next revision in `from..to`, lowest first: those from `next` on or, if there are none,
    /// all. Those whose stream is full are parked.
    fn gather(&mut self, (from, to): (Revision, Revision), next: Revision) -> Vec<Name> {
        let lowest = (StreamId(0), WatchId(i64::MIN));
        let waiting = |from: Revision| self.ready.range((from, lowest)..(to, lowest)).take(GROUP_MAX).copied();
        let mut found: Vec<_> = waiting(next.clamp(from, to)).collect();
        if found.is_empty() {
            found = waiting(from).collect();
        }
        let mut group = Vec::new();
        for (next, name) in found {
            if self.streams[&name.0].full() {
                self.place(name, Place::Parked, next);
            } else {
                group.push(name);
            }
        }
        group
    }

    /// Whether a pass for `group` also loads states before changes.
    fn want_previous(&self, group: &[Name]) -> bool {
        group.iter().any(|name| self.watchers[name].prev_kv)
    }

    fn still_reading(&self, mut group: Vec<Name>) -> Vec<Name> {
        let before = group.len();
        // A watcher created anew under a name of the group cannot be reading: there is one read at a time.
        group.retain(|name| self.watchers.get(name).is_some_and(|watcher| watcher.place == Place::Reading));
        reach!(WatcherGoneWhileReading if group.len() < before);
        group
    }

    /// Gives `revisions`, which are all there is up to `through`, to the watchers of `group`.
    fn feed(
        &mut self,
        group: Vec<Name>,
        revisions: &[Arc<Shared>],
        through: Revision,
        previous: &dyn Previous,
        out: &mut Vec<Output>,
    ) {
        let mut index = Index::new(0);
        for &name in &group {
            index.insert(&self.watchers[&name].range, name);
        }
        let mut collected: BTreeMap<_, _> = self.collect(&index, revisions, previous).into_iter().collect();
        for name in group {
            let mut next = self.watchers[&name].next.max(through.next());
            if let Some(events) = collected.remove(&name) {
                if self.streams[&name.0].full() {
                    if mutant::is_on(Mutant::W08) {
                        self.deliver(name, self.revision, events.clone(), out);
                    }
                    reach!(WatcherParkedAgain);
                    next = events[0].event.kv.mod_revision;
                    self.place(name, Place::Parked, next);
                    continue;
                }
                self.deliver(name, self.revision, events, out);
            }
            if next <= self.revision && mutant::is_on(Mutant::W13) {
                next = next.next();
            }
            self.place(name, if next > self.revision { Place::Synced } else { Place::Ready }, next);
        }
    }

    fn deliver(&mut self, name: Name, revision: Revision, mut events: Vec<Delivered>, out: &mut Vec<Output>) {
        if events.len() > 1 && mutant::is_on(Mutant::W11) {
            let rest = events.split_off(1);
            self.deliver(name, revision, events, out);
            return self.deliver(name, revision, rest, out);
        }
        let watcher = self.watchers.get_mut(&name).expect("collected watchers are held");
        watcher.active = self.now;
        let response = Response { events, fragment: watcher.fragment, ..Response::to(name.1, revision) };
        self.send(name.0, response, out);
    }

    /// The events of `revisions` by watcher: those of `index` that want any.
    fn collect(
        &self,
        index: &Index,
        revisions: &[Arc<Shared>],
        previous: &dyn Previous,
    ) -> Vec<(Name, Vec<Delivered>)> {
        let mut found: Vec<(Name, Delivered)> = Vec::new();
        for shared in revisions {
            for event in &shared.events {
                let mut looked_up: Option<Option<Arc<KeyValue>>> = None;
                index.matches(&event.kv.key, &mut |name| {
                    let watcher = &self.watchers[&name];
                    if watcher.wants(event, shared.revision) {
                        let mut look_up =
                            || looked_up.get_or_insert_with(|| previous.previous(event).map(Arc::new)).clone();
                        let prev_kv = if watcher.prev_kv { look_up() } else { None };
                        found.push((name, Delivered { event: Arc::clone(event), prev_kv }));
                    }
                });
            }
        }
        found.sort_by_key(|&(name, _)| name); // Stable: a watcher's events stay in order.
        let mut collected: Vec<(Name, Vec<Delivered>)> = Vec::new();
        for (name, delivered) in found {
            match collected.last_mut() {
                Some((last, events)) if *last == name => events.push(delivered),
                _ => collected.push((name, alloc::vec![delivered])),
            }
        }
        collected
    }
}
