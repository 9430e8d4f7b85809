//! One watcher: created, moved between keeping up and catching up, cancelled.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Create, Name, Output, Response, WatchHub};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::KeyRange;
use crate::store::Event;
use crate::{Instant, Revision, StreamId, WatchId};

/// One watcher.
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    pub(super) range: KeyRange,
    /// As asked for; 0 if "from now on".
    pub(super) start: Revision,
    /// Nothing below it is (any longer) to be delivered. While [`Place::Synced`] the hub's next revision counts if higher.
    pub(super) next: Revision,
    pub(super) place: Place,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    /// When progress is to be considered, if the client wants it.
    pub(super) progress: Option<Instant>,
    /// When it last got something.
    pub(super) active: Instant,
}

/// How a watcher gets its next events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has everything: in the index, fed as revisions are published.
    Synced,
    /// It has fallen behind (or started in the past): in `ready`, goes on with the next pass.
    Ready,
    /// It has fallen behind and its stream is full: in the stream's `parked`.
    Parked,
    /// In the group of the history read under way.
    Reading,
}

impl Watcher {
    pub(super) fn wants(&self, event: &Event, revision: Revision) -> bool {
        revision >= self.next && !(if event.deleted { self.no_delete } else { self.no_put })
    }
}

impl WatchHub {
    pub(super) fn create(&mut self, stream: StreamId, create: Create, out: &mut Vec<Output>) {
        if !self.streams.contains_key(&stream) {
            return; // Closed meanwhile.
        }
        if create.start.is_some_and(|start| start < Revision(0)) && !mutant::is_on(Mutant::W10) {
            let reason = Error::Compacted { oldest: self.compacted }.to_string();
            return self.refuse(stream, &reason, out);
        }
        let range = match create.range {
            Some(KeyRange::Bounded { start, end }) if end <= start => None,
            range => range,
        };
        let Some(range) = range else {
            return self.refuse(stream, "mvcc: watcher range is empty", out);
        };
        let Some(id) = self.choose_id(stream, create.id) else {
            return self.refuse(stream, "mvcc: duplicate watch ID provided on the WatchStream", out);
        };
        let name = (stream, id);
        let now = self.now;
        let start = create.start.unwrap_or(Revision(0));
        let next = match start {
            Revision(1..) => start,
            _ if mutant::is_on(Mutant::A17) => Revision(1),
            Revision(..=-1) => start,
            _ => self.revision.next(),
        };
        let watcher = Watcher {
            range: range.clone(),
            start,
            next,
            place: Place::Synced,
            no_put: create.no_put,
            no_delete: create.no_delete,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress: None,
            active: now,
        };
        self.index.insert(&range, name);
        self.watchers.insert(name, watcher);
        if create.progress_notify {
            self.arm_progress(name, now);
        }
        self.send(stream, Response { created: true, ..Response::to(id, self.revision) }, out);
        if next < self.compacted {
            self.cancel_compacted(name, out);
        } else if next <= self.revision {
            self.place(name, Place::Ready, next);
        }
    }

    /// Answers a cancel request; an unknown watcher has none. (etcd)
    pub(super) fn cancel(&mut self, name: Name, out: &mut Vec<Output>) {
        if self.watchers.contains_key(&name) {
            self.forget(name);
            self.send(name.0, Response { canceled: true, ..Response::to(name.1, self.revision) }, out);
        }
    }

    /// The history this watcher still needs is gone.
    pub(super) fn cancel_compacted(&mut self, name: Name, out: &mut Vec<Output>) {
        self.forget(name);
        let response = Response {
            revision: None,
            canceled: true,
            compact_revision: Some(self.compacted),
            ..Response::to(name.1, self.revision)
        };
        self.send(name.0, response, out);
    }

    fn refuse(&mut self, stream: StreamId, reason: &str, out: &mut Vec<Output>) {
        let response = Response {
            watch: mutant::is_on(Mutant::W12).then_some(WatchId(0)),
            created: true,
            canceled: true,
            cancel_reason: String::from(reason),
            ..Response::to(WatchId(0), self.revision)
        };
        self.send(stream, response, out);
    }

    /// Moves a watcher; `next` is the first revision it still needs.
    pub(super) fn place(&mut self, name: Name, place: Place, next: Revision) {
        self.unplace(name);
        let watcher = self.watchers.get_mut(&name).expect("only held watchers are moved");
        assert!(next >= watcher.next, "watcher {name:?} goes back from {} to {next}", watcher.next);
        (watcher.place, watcher.next) = (place, next);
        match place {
            Place::Synced => {
                assert!(next > self.revision, "watcher {name:?} is behind: {next} of {}", self.revision);
                self.index.insert(&watcher.range, name);
                return;
            }
            Place::Ready => _ = self.ready.insert((next, name)),
            Place::Parked => {
                let stream = self.streams.get_mut(&name.0).expect("a watcher's stream is open");
                assert!(stream.full(), "stream {} has room", name.0);
                stream.parked.insert((next, name.1));
            }
            Place::Reading => {}
        }
        self.lagging.insert((next, name));
    }

    /// Its stream has room again.
    pub(super) fn unpark(&mut self, name: Name, next: Revision) {
        let watcher = self.watchers.get_mut(&name).expect("a parked watcher is held");
        assert_eq!((watcher.place, watcher.next), (Place::Parked, next), "watcher {name:?}");
        watcher.place = Place::Ready;
        self.ready.insert((next, name));
    }

    /// Removes a watcher.
    pub(super) fn forget(&mut self, name: Name) {
        self.unplace(name);
        let watcher = self.watchers.remove(&name).expect("only held watchers are removed");
        if let Some(at) = watcher.progress {
            self.timers.remove(&(at, name));
        }
    }

    fn unplace(&mut self, name: Name) {
        let watcher = self.watchers.get(&name).expect("only held watchers have a place");
        let at = (watcher.next, name);
        match watcher.place {
            Place::Synced => return self.index.remove(&watcher.range, name),
            Place::Ready => _ = self.ready.remove(&at),
            Place::Parked => {
                let stream = self.streams.get_mut(&name.0).expect("a watcher's stream is open");
                stream.parked.remove(&(watcher.next, name.1));
            }
            Place::Reading => {}
        }
        self.lagging.remove(&at);
    }
}
