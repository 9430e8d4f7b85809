//! What a controller has of the objects it looks after: a list, and everything a watch told since. (Kubernetes: reflector)

use std::collections::BTreeMap;

use quorate_api::mvccpb;
use quorate_core::request::KeyValue;
use quorate_core::{Blob, Revision};

use crate::wire;

/// Something that made a cache what it is, until it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything was replaced by a list, which is as of this revision.
    Listed {
        /// What every page but the first asked for.
        revision: Revision,
        /// All pages, in order.
        objects: Vec<KeyValue>,
    },
    /// It moved on to this revision.
    Reached {
        /// Of the last event, or of the bookmark.
        revision: Revision,
        /// What changed on the way, and what the cache has of it now.
        changed: Vec<(Blob, Option<KeyValue>)>,
    },
}

/// All objects under one prefix, as of one revision.
#[derive(Clone, Debug)]
pub struct Cache {
    /// By key.
    pub objects: BTreeMap<Blob, KeyValue>,
    /// As of then.
    pub revision: Revision,
    /// How it came about, since it was last judged.
    pub steps: Vec<Step>,
    /// As of then it was judged.
    pub judged: Revision,
}

impl Cache {
    /// A list of all objects as of `revision`.
    #[must_use]
    pub fn listed(objects: Vec<KeyValue>, revision: Revision) -> Self {
        let by_key = objects.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
        Self { objects: by_key, revision, steps: vec![Step::Listed { revision, objects }], judged: revision }
    }

    /// A watch tells of changes, the last of them the newest.
    pub fn apply(&mut self, events: Vec<mvccpb::Event>) {
        let mut changed = Vec::new();
        for event in events {
            let is_delete = event.r#type == mvccpb::event::EventType::Delete as i32;
            let kv = wire::key_value(event.kv.unwrap_or_default());
            self.revision = self.revision.max(kv.mod_revision);
            let (key, now) = (kv.key.clone(), (!is_delete).then_some(kv));
            match &now {
                Some(kv) => self.objects.insert(key.clone(), kv.clone()),
                None => self.objects.remove(&key),
            };
            changed.push((key, now));
        }
        self.steps.push(Step::Reached { revision: self.revision, changed });
    }

    /// A watch tells that there is nothing more to tell of up to `revision`. (Kubernetes: bookmark)
    pub fn reach(&mut self, revision: Revision) {
        if revision > self.revision {
            self.revision = revision;
            self.steps.push(Step::Reached { revision, changed: Vec::new() });
        }
    }
}
