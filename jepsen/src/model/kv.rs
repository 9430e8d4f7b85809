//! Keys with their whole history, without leases' existence and without compaction's floor.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{DeleteRangeRequest, DeleteRangeResult, KeyRange, KeyValue, PutRequest, PutResult};
use quorate_core::{Blob, LeaseId, Revision};

/// What one revision did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put {
        /// As it is now.
        kv: KeyValue,
        /// As it was before; `None` if it did not exist.
        prev: Option<KeyValue>,
    },
    /// The key was removed.
    Delete {
        /// When.
        revision: Revision,
        /// As it was before.
        prev: KeyValue,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Blob {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { prev, .. } => &prev.key,
        }
    }

    fn prev(&self) -> Option<&KeyValue> {
        match self {
            Self::Put { prev, .. } => prev.as_ref(),
            Self::Delete { prev, .. } => Some(prev),
        }
    }
}

/// A key from `since` on until its next version; `None` if it does not exist then.
#[derive(Clone, Debug)]
struct Version {
    since: Revision,
    kv: Option<KeyValue>,
}

/// Every version of every key, and what each revision changed.
#[derive(Clone, Debug)]
pub struct Kv {
    /// The newest revision that is complete.
    revision: Revision,
    /// Ascending in `since`; never empty.
    keys: BTreeMap<Blob, Vec<Version>>,
    /// All changes, ascending in main and sub revision, also of a txn that is being executed.
    changes: Vec<Change>,
    /// Where in `changes` revision `forgotten` + 1 + i ends.
    ends: Vec<usize>,
    /// Nobody knows any more what the revisions up to this one changed.
    forgotten: Revision,
    /// The keys of each lease that has any.
    attached: BTreeMap<LeaseId, BTreeSet<Blob>>,
}

impl Default for Kv {
    fn default() -> Self {
        Self {
            revision: Revision(1),
            keys: BTreeMap::new(),
            changes: Vec::new(),
            ends: Vec::new(),
            forgotten: Revision(1),
            attached: BTreeMap::new(),
        }
    }
}

impl Kv {
    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// `key` as of revision `at`.
    #[must_use]
    pub fn get(&self, key: &[u8], at: Revision) -> Option<&KeyValue> {
        as_of(self.keys.get(key)?, at)
    }

    /// Calls `visit` with each key of `range` as of revision `at`, in key order.
    pub fn visit<'a>(&'a self, range: &KeyRange, at: Revision, mut visit: impl FnMut(&'a KeyValue)) {
        let bounds = match range {
            KeyRange::Key(key) => {
                if let Some(kv) = self.get(key, at) {
                    visit(kv);
                }
                return;
            }
            KeyRange::Bounded { start, end } if end <= start => return,
            KeyRange::Bounded { start, end } => (Bound::Included(&start[..]), Bound::Excluded(&end[..])),
            KeyRange::From(start) => (Bound::Included(&start[..]), Bound::Unbounded),
        };
        for (_, versions) in self.keys.range::<[u8], _>(bounds) {
            if let Some(kv) = as_of(versions, at) {
                visit(kv);
            }
        }
    }

    /// What `revision` changed, in the order of sub revisions; empty for revisions that do not exist or are forgotten.
    #[must_use]
    pub fn changes(&self, revision: Revision) -> &[Change] {
        let Some(i) = usize::try_from(revision.0 - self.forgotten.0 - 1).ok().filter(|i| *i < self.ends.len()) else {
            return &[];
        };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.changes[start..self.ends[i]]
    }

    /// The keys that `lease` would take with it now, in key order.
    pub fn attached(&self, lease: LeaseId) -> impl Iterator<Item = &Blob> {
        self.attached.get(&lease).into_iter().flatten()
    }

    /// The leases that have keys now.
    pub fn leases_with_keys(&self) -> impl Iterator<Item = LeaseId> {
        self.attached.keys().copied()
    }

    /// Writes a key at a new revision. What `ignore_*` keep of a key that does not exist is empty.
    pub fn put(&mut self, request: &PutRequest) -> PutResult {
        let result = self.put_in_txn(request);
        self.finish();
        result
    }

    /// Removes keys, at a new revision if there are any.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResult {
        let result = self.delete_in_txn(request);
        self.finish();
        result
    }

    /// Removes the keys of `lease`; whether that took a revision.
    pub fn delete_attached(&mut self, lease: LeaseId) -> bool {
        for key in self.attached.remove(&lease).unwrap_or_default() {
            self.delete_key(&key);
        }
        self.finish()
    }

    /// Forgets all revisions above `to`, as far as they are known.
    pub fn rewind(&mut self, to: Revision) {
        while self.revision > to {
            self.ends.pop();
            let start = self.ends.last().copied().unwrap_or(0);
            for change in self.changes.split_off(start).into_iter().rev() {
                self.undo(&change);
            }
            self.revision.0 -= 1;
        }
    }

    /// Forgets the versions that no revision from `floor` on shows.
    pub fn compact(&mut self, floor: Revision) {
        self.keys.retain(|_, versions| {
            let newer = versions.partition_point(|v| v.since <= floor);
            versions.drain(..newer.saturating_sub(1));
            if versions[0].since <= floor && versions[0].kv.is_none() {
                versions.remove(0);
            }
            !versions.is_empty()
        });
    }

    /// Forgets what revisions before `oldest` changed, and the versions that no revision from it on shows.
    pub fn forget(&mut self, oldest: Revision) {
        let last = Revision(oldest.0 - 1).min(self.revision);
        let Ok(count @ 1..) = usize::try_from(last.0 - self.forgotten.0) else { return };
        let start = self.ends[count - 1];
        self.changes.drain(..start);
        self.ends.drain(..count);
        self.ends.iter_mut().for_each(|end| *end -= start);
        self.forgotten = last;
        self.compact(oldest);
    }

    /// The revision that a change made now belongs to.
    pub(super) fn next(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }

    /// The revision that a read made now is of: the one being made once a txn has changed something.
    pub(super) fn reading(&self) -> Revision {
        let complete = self.ends.last().copied().unwrap_or(0);
        if self.changes.len() > complete { self.next() } else { self.revision }
    }

    pub(super) fn put_in_txn(&mut self, request: &PutRequest) -> PutResult {
        let revision = self.next();
        let versions = self.keys.entry(request.key.clone()).or_default();
        let prev = versions.last().and_then(|v| v.kv.clone());
        let (create_revision, version) = prev.as_ref().map_or((revision, 1), |p| (p.create_revision, p.version + 1));
        let kept = |keep: bool| prev.as_ref().filter(|_| keep);
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision,
            mod_revision: revision,
            version,
            value: kept(request.ignore_value).map_or_else(|| request.value.clone(), |p| p.value.clone()),
            lease: kept(request.ignore_lease).map_or(request.lease, |p| p.lease),
        };
        versions.push(Version { since: revision, kv: Some(kv.clone()) });
        let before = prev.as_ref().and_then(|p| p.lease);
        if before != kv.lease {
            self.detach(before, &kv.key);
            self.attach(kv.lease, &kv.key);
        }
        let answer = PutResult { revision, prev_kv: prev.clone().filter(|_| request.prev_kv) };
        self.changes.push(Change::Put { kv, prev });
        answer
    }

    pub(super) fn delete_in_txn(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResult {
        let mut prev_kvs = Vec::new();
        self.visit(&request.range, self.next(), |kv| prev_kvs.push(kv.clone()));
        for kv in &prev_kvs {
            if !mutant::is_on(Mutant::J13) {
                self.detach(kv.lease, &kv.key);
            }
            self.delete_key(&kv.key);
        }
        let deleted = i64::try_from(prev_kvs.len()).expect("fewer than 2^63 keys");
        if !request.prev_kv {
            prev_kvs.clear();
        }
        DeleteRangeResult { revision: self.reading(), deleted, prev_kvs }
    }

    /// Completes the revision if anything has changed; whether it has.
    pub(super) fn finish(&mut self) -> bool {
        let changed = self.reading() != self.revision;
        if changed {
            self.ends.push(self.changes.len());
            self.revision = self.next();
        }
        changed
    }

    fn delete_key(&mut self, key: &Blob) {
        let revision = self.next();
        let versions = self.keys.get_mut(key).expect("a key to delete exists");
        let prev = versions.last().and_then(|v| v.kv.clone()).expect("a key to delete is alive");
        versions.push(Version { since: revision, kv: None });
        self.changes.push(Change::Delete { revision, prev });
    }

    fn undo(&mut self, change: &Change) {
        let key = change.key();
        let versions = self.keys.get_mut(key).expect("a changed key has versions");
        versions.pop();
        if versions.is_empty() {
            self.keys.remove(key);
        }
        let before = change.prev().and_then(|p| p.lease);
        let after = match change {
            Change::Put { kv, .. } => kv.lease,
            Change::Delete { .. } => None,
        };
        if before != after {
            self.detach(after, key);
            self.attach(before, key);
        }
    }

    fn attach(&mut self, lease: Option<LeaseId>, key: &Blob) {
        if let Some(lease) = lease {
            self.attached.entry(lease).or_default().insert(key.clone());
        }
    }

    fn detach(&mut self, lease: Option<LeaseId>, key: &Blob) {
        let Some(lease) = lease else { return };
        let Some(keys) = self.attached.get_mut(&lease) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.attached.remove(&lease);
        }
    }
}

fn as_of(versions: &[Version], at: Revision) -> Option<&KeyValue> {
    let newest = versions.last()?;
    if newest.since <= at {
        return newest.kv.as_ref();
    }
    versions[..versions.partition_point(|v| v.since <= at)].last()?.kv.as_ref()
}
