//! What answers and sightings say of revisions that no answer claims.

use std::collections::BTreeMap;
use std::fmt;

use quorate_core::request::KeyValue;
use quorate_core::{Blob, Revision};

use super::super::footprint::{deletes, puts};
use super::{Change, History, Op, Sighting, seen, show_kv, text};

/// Something that a gap's revision must have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Put exactly this; the flag says whether value and lease are known.
    Put(KeyValue, bool),
    /// Created the key.
    Create(Blob),
    /// Removed the key.
    Delete(Blob),
    /// Changed so many keys.
    Whole(u32),
}

/// The evidence of all revisions that `wanted` names.
pub(super) fn gather(history: &History, wanted: impl Fn(Revision) -> bool) -> BTreeMap<Revision, Vec<Evidence>> {
    let mut found: BTreeMap<Revision, Vec<Evidence>> = BTreeMap::new();
    let mut note = |revision: Revision, evidence: Evidence| {
        let list = found.entry(revision).or_default();
        if !list.contains(&evidence) {
            list.push(evidence);
        }
    };
    let mut see = |kv: &KeyValue, whole: bool| {
        if wanted(kv.mod_revision) {
            note(kv.mod_revision, Evidence::Put(kv.clone(), whole));
        } else if wanted(kv.create_revision) {
            note(kv.create_revision, Evidence::Create(kv.key.clone()));
        }
    };
    for (_, operation) in history.operations() {
        if let Some(response) = operation.response() {
            seen(&operation.op, response, &mut see);
        }
    }
    for sighting in history.sightings() {
        if let Sighting::Put(kv) = sighting {
            see(kv, true);
        }
    }
    for sighting in history.sightings() {
        match sighting {
            Sighting::Delete { key, revision } if wanted(*revision) => note(*revision, Evidence::Delete(key.clone())),
            Sighting::Whole { revision, changes } if wanted(*revision) => note(*revision, Evidence::Whole(*changes)),
            _ => {}
        }
    }
    found
}

impl Evidence {
    pub(super) fn key(&self) -> Option<&Blob> {
        match self {
            Self::Put(kv, _) => Some(&kv.key),
            Self::Create(key) | Self::Delete(key) => Some(key),
            Self::Whole(_) => None,
        }
    }

    /// Whether `op` may do it, as far as its request tells.
    pub(super) fn may_be_of(&self, op: &Op) -> bool {
        let mut may = false;
        match self {
            Self::Put(kv, whole) => puts(op, &mut |put| {
                let value = !whole || put.ignore_value || put.value == kv.value;
                let lease = !whole || put.ignore_lease || put.lease == kv.lease;
                may |= put.key == kv.key && value && lease;
            }),
            Self::Create(key) => puts(op, &mut |put| may |= put.key == *key),
            Self::Delete(_) if matches!(op, Op::LeaseRevoke(_)) => may = true,
            Self::Delete(key) => deletes(op, &mut |range| may |= range.contains(key)),
            Self::Whole(_) => may = true,
        }
        may
    }

    /// Whether these changes did it.
    pub(super) fn agrees(&self, changes: &[Change]) -> bool {
        if let Self::Whole(count) = self {
            return changes.len() == *count as usize;
        }
        changes.iter().any(|change| match (self, change) {
            (Self::Put(seen, true), Change::Put { kv, .. }) => seen == kv,
            (Self::Put(seen, false), Change::Put { kv, .. }) => {
                (&seen.key, seen.create_revision, seen.version) == (&kv.key, kv.create_revision, kv.version)
            }
            (Self::Create(key), Change::Put { kv, .. }) => *key == kv.key && kv.create_revision == kv.mod_revision,
            (Self::Delete(key), Change::Delete { prev, .. }) => *key == prev.key,
            _ => false,
        })
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(kv, _) => write!(f, "put {}", show_kv(kv)),
            Self::Create(key) => write!(f, "created {}", text(key)),
            Self::Delete(key) => write!(f, "deleted {}", text(key)),
            Self::Whole(changes) => write!(f, "{changes} changes"),
        }
    }
}
