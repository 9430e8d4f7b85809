//! All keys in memory, without their values: what a put, a compare of counters or a list of keys needs to know.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::revisions::{Rev, Revisions};
use crate::request::KeyRange;
use crate::tree::{Item, Tree};
use crate::{LeaseId, Revision};

/// The kept revisions of every key that has any. Cloning is O(1) and a clone is a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    keys: Tree<Versions>,
}

/// One key: its newest revision in full, the older kept ones just as revisions.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    /// The newest; `version` is 0 exactly if it is a tombstone.
    last: Rev,
    create: Revision,
    version: i64,
    /// 0 is none.
    lease: LeaseId,
    /// Older than `last`, ascending.
    older: Option<Arc<Revisions>>,
}

/// Counters of one revision of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) create: Revision,
    pub(super) version: i64,
    pub(super) lease: Option<LeaseId>,
}

impl Item for Versions {
    /// Counts keys that exist.
    fn weight(&self) -> u64 {
        u64::from(!self.last.is_tombstone())
    }
}

impl Versions {
    /// The newest revision, if the key exists.
    pub(super) fn live(&self) -> Option<(Rev, Meta)> {
        (!self.last.is_tombstone()).then(|| (self.last, self.meta()))
    }

    /// Counters of the newest revision.
    pub(super) fn meta(&self) -> Meta {
        Meta { create: self.create, version: self.version, lease: (self.lease.0 != 0).then_some(self.lease) }
    }

    pub(super) fn last(&self) -> Rev {
        self.last
    }

    /// The newest revision at `main` or before it, if the key existed then.
    pub(super) fn at(&self, main: Revision) -> Option<Rev> {
        let rev = if self.last.main() <= main { self.last } else { self.newest(|rev| rev.main() <= main)? };
        (!rev.is_tombstone()).then_some(rev)
    }

    /// The revision just before (`main`, `sub`), if it is kept and the key existed then.
    pub(super) fn before(&self, main: Revision, sub: u32) -> Option<Rev> {
        let rev = self.newest(|rev| (rev.main(), rev.sub()) < (main, sub))?;
        (!rev.is_tombstone()).then_some(rev)
    }

    /// The newest of `older` for which `holds`, which does for a beginning of it.
    fn newest(&self, holds: impl Fn(Rev) -> bool) -> Option<Rev> {
        let older = self.older.as_ref()?;
        older.count(holds).checked_sub(1).map(|at| older.get(at))
    }

    /// Whether (`main`, `sub`) is here and visible from `floor` or later.
    pub(super) fn is_kept(&self, main: Revision, sub: u32, floor: Revision) -> bool {
        let is_it = |rev: Rev| (rev.main(), rev.sub()) == (main, sub);
        let older = self.older.as_ref();
        let at = older.map_or(0, |older| older.count(|rev| (rev.main(), rev.sub()) < (main, sub)));
        let found = older.filter(|older| at < older.len()).map_or(self.last, |older| older.get(at));
        is_it(found) && at >= self.removable(floor)
    }

    /// All kept revisions, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Rev> {
        self.older.iter().flat_map(|older| older.iter()).chain([self.last])
    }

    fn push(&mut self, rev: Rev) {
        Arc::make_mut(self.older.get_or_insert_default()).push(self.last);
        assert!(self.last < rev, "a key's revisions ascend: {:?}, {rev:?}", self.last);
        self.last = rev;
    }
}

impl Index {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Versions> {
        self.keys.get(key)
    }

    /// The newest revision of `key`, if it exists.
    pub(super) fn live(&self, key: &[u8]) -> Option<(Rev, Meta)> {
        self.keys.get(key)?.live()
    }

    /// The keys of `range` that have any kept revision, in ascending order.
    pub(super) fn iter<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = (&'a [u8], &'a Versions)> {
        let (point, many) = match range {
            KeyRange::Key(key) => (self.keys.get(key).map(|versions| (&key[..], versions)), None),
            KeyRange::Bounded { start, end } => (None, Some(self.keys.range(start, Some(end)))),
            KeyRange::From(start) => (None, Some(self.keys.range(start, None))),
        };
        point.into_iter().chain(many.into_iter().flatten())
    }

    /// How many keys exist.
    pub(super) fn len(&self) -> u64 {
        self.keys.weight(&[], None)
    }

    /// How many keys of `range` exist.
    pub(super) fn count(&self, range: &KeyRange) -> u64 {
        match range {
            KeyRange::Key(key) => u64::from(self.live(key).is_some()),
            KeyRange::Bounded { start, end } => self.keys.weight(start, Some(end)),
            KeyRange::From(start) => self.keys.weight(start, None),
        }
    }

    /// Adds the put `rev` of `key` and returns its counters and, if the key existed, what it replaces.
    pub(super) fn put(&mut self, key: &[u8], rev: Rev, lease: Option<LeaseId>) -> (Meta, Option<(Rev, Meta)>) {
        let first = Meta { create: rev.main(), version: 1, lease };
        let added = self.keys.modify(key, |versions| {
            let previous = versions.live();
            let meta = match previous {
                Some((_, old)) => Meta { create: old.create, version: old.version + 1, lease },
                None => first,
            };
            versions.push(rev);
            versions.set(meta);
            (meta, previous)
        });
        added.unwrap_or_else(|| {
            self.restore(key, rev, first);
            (first, None)
        })
    }

    /// Adds the tombstone `rev` of `key`, which exists, and returns what it removes.
    pub(super) fn delete(&mut self, key: &[u8], rev: Rev) -> (Rev, Meta) {
        let removed = self.keys.modify(key, |versions| {
            let previous = versions.live().expect("only a key that exists is deleted");
            versions.push(rev);
            versions.set(Meta { create: Revision(0), version: 0, lease: None });
            previous
        });
        removed.expect("only a key that exists is deleted")
    }

    /// Removes a key with all its revisions, and returns the newest if it existed.
    pub(super) fn forget(&mut self, key: &[u8]) -> Option<(Rev, Meta)> {
        let live = self.live(key);
        self.keys.remove(key);
        live
    }

    /// Adds a revision as it was stored. Revisions of a key must come in order.
    pub(super) fn restore(&mut self, key: &[u8], rev: Rev, meta: Meta) {
        let known = self.keys.modify(key, |versions| {
            versions.push(rev);
            versions.set(meta);
        });
        if known.is_none() {
            let mut versions = Versions { last: rev, create: Revision(0), version: 0, lease: LeaseId(0), older: None };
            versions.set(meta);
            self.keys.insert(key, versions);
        }
    }

    /// Removes at most `max` revisions of `key` that no reader at `floor` or above needs, oldest first, and returns
    /// them: what stays is the newest at or below `floor`, unless it is a tombstone below it, and all above.
    pub(super) fn compact(&mut self, key: &[u8], floor: Revision, max: usize) -> Vec<Rev> {
        let Some(versions) = self.keys.get(key) else { return Vec::new() };
        let gone = versions.removable(floor);
        if gone == 0 {
            return Vec::new();
        }
        let removed: Vec<Rev> = versions.iter().take(gone.min(max)).collect();
        let older = versions.older.as_ref().map_or(0, |older| older.len());
        if removed.len() > older {
            self.keys.remove(key);
        } else {
            self.keys.modify(key, |versions| versions.cut(removed.len()));
        }
        removed
    }

    /// All keys with any kept revision, in ascending order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], &Versions)> {
        self.keys.range(&[], None)
    }

    /// Asserts what an index promises, in O(n).
    pub(super) fn check_deep(&self) {
        self.keys.check_deep();
        for (key, versions) in self.all() {
            let last = versions.last;
            assert_eq!(last.is_tombstone(), versions.version == 0, "{key:?} is deleted exactly if its version is 0");
            assert!(versions.create <= last.main(), "{key:?} was created after its last change {last:?}");
        }
    }
}

impl Versions {
    fn set(&mut self, meta: Meta) {
        self.create = meta.create;
        self.version = meta.version;
        self.lease = meta.lease.unwrap_or(LeaseId(0));
    }

    /// How many of the oldest revisions nobody at `floor` or above can see.
    pub(super) fn removable(&self, floor: Revision) -> usize {
        let older = self.older.as_ref();
        let mut below = older.map_or(0, |older| older.count(|rev| rev.main() <= floor));
        let mut newest = below.checked_sub(1).and_then(|at| older.map(|older| older.get(at)));
        if self.last.main() <= floor {
            below += 1;
            newest = Some(self.last);
        }
        // A tombstone exactly at the floor stays: a watch from there must still see it. (etcd#18089)
        match newest {
            Some(rev) if rev.is_tombstone() && rev.main() < floor => below,
            Some(_) => below - 1,
            None => 0,
        }
    }

    /// Removes the `count` oldest of `older`.
    fn cut(&mut self, count: usize) {
        let Some(older) = &mut self.older else { return };
        if count == older.len() {
            self.older = None;
        } else {
            Arc::make_mut(older).cut(count);
        }
    }
}
