//! A key-value store too simple to be wrong: it keeps one whole map per revision.
#![allow(missing_docs, unreachable_pub)] // A test's module: its users are beside it.

use std::collections::BTreeMap;

use quorate_core::request::KeyValue;
use quorate_core::store::{Event, RevisionEvents};
use quorate_core::watch::Previous;
use quorate_core::{Blob, Revision};

/// All history, one whole map per revision.
pub struct History {
    /// The changes of each revision.
    pub revisions: BTreeMap<Revision, Vec<Event>>,
    states: BTreeMap<Revision, BTreeMap<Blob, KeyValue>>,
    /// What reads see; the hub may not have heard yet.
    pub floor: Revision,
}

impl History {
    /// The empty store.
    pub fn new() -> Self {
        Self { revisions: BTreeMap::new(), states: BTreeMap::new(), floor: Revision(-1) }
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.revisions.keys().next_back().map_or(Revision(1), |&revision| revision)
    }

    /// Applies one revision; `None` if its changes change nothing.
    pub fn apply(&mut self, changes: &[(Blob, Option<Blob>)]) -> Option<RevisionEvents> {
        let revision = self.revision().next();
        let mut state = self.states.values().next_back().cloned().unwrap_or_default();
        let mut events: Vec<Event> = Vec::new();
        for (key, value) in changes {
            let put = value.is_some();
            let old = state.get(key).cloned();
            if events.iter().any(|event| event.kv.key == *key) || (old.is_none() && !put) {
                continue;
            }
            let mut kv = KeyValue {
                key: key.clone(),
                create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.as_ref().map_or(1, |old| old.version + 1),
                value: value.clone().unwrap_or_default(),
                lease: None,
            };
            if put {
                state.insert(key.clone(), kv.clone());
            } else {
                state.remove(key);
                (kv.create_revision, kv.version, kv.value) = (Revision(0), 0, Blob::EMPTY);
            }
            let sub = u32::try_from(events.len()).unwrap();
            let previous_bytes = old.as_ref().map_or(0, |old| u32::try_from(old.value.len()).unwrap());
            let previous = old.map(|old| (old.mod_revision, 0));
            events.push(Event { kv, deleted: !put, sub, previous, previous_bytes });
        }
        if events.is_empty() {
            return None;
        }
        self.revisions.insert(revision, events.clone());
        self.states.insert(revision, state);
        Some(RevisionEvents { revision, events })
    }
}

impl Previous for History {
    fn previous(&self, event: &Event) -> Option<KeyValue> {
        let before = Revision(event.kv.mod_revision.0 - 1);
        if before < self.floor {
            return None;
        }
        self.states.range(..=before).next_back()?.1.get(&event.kv.key).cloned()
    }
}
