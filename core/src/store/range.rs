//! Reading a range: limits, sorting and filters exactly as etcd has them. (semantics.md section 3)

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::View;
use super::index::Meta;
use super::revisions::Rev;
use super::values::Values;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{KeyValue, RangeRequest, RangeResult, SortOrder, SortTarget};
use crate::{Blob, Revision};

impl View {
    /// Whether a range at `revision` can be answered. A negative one is the newest, unless it is below the floor, as
    /// etcd has it inside txns; elsewhere the wire makes it `None`. 0 is always the newest.
    pub(super) fn readable(&self, revision: Option<Revision>) -> Result<(), Error> {
        match revision.filter(|revision| revision.0 != 0) {
            Some(revision) if revision > self.revision => Err(Error::FutureRevision),
            Some(revision) if revision < self.floor => Err(Error::Compacted { oldest: self.floor }),
            _ => Ok(()),
        }
    }

    /// Answers a range whose revision is [`View::readable`]. `now` is the revision to answer with: the store's, or the
    /// one being made.
    pub(super) fn read(&self, values: &Values, request: &RangeRequest, now: Revision) -> RangeResult {
        let at = request.revision.filter(|revision| revision.0 > 0 && *revision < now);
        if request.count_only {
            let count = self.count(request, at);
            return RangeResult { revision: now, kvs: Vec::new(), more: false, count };
        }
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        // With a limit alone, whatever the target, only so many keys are looked at, in order of keys.
        let needs_all = request.sort_order != SortOrder::None || request.is_filtered() || limit == 0;
        let fetch = if needs_all { usize::MAX } else { limit + 1 };
        let (mut found, count) = self.find(values, request, at, fetch);
        found.retain(|(kv, _)| passes(request, kv));
        let by_value = request.sort_target == SortTarget::Value;
        if by_value {
            values.fill(&mut found);
        }
        sort(request, &mut found);
        let more = limit > 0 && found.len() > limit;
        if more {
            found.truncate(limit);
        }
        if !by_value && !request.keys_only {
            values.fill(&mut found);
        }
        let mut kvs: Vec<KeyValue> = found.into_iter().map(|(kv, _)| kv).collect();
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Blob::EMPTY;
                // etcd answers these from its index, which knows no leases.
                kv.lease = kv.lease.filter(|_| by_value);
            }
        }
        RangeResult { revision: now, kvs, more, count }
    }

    /// Up to `fetch` keys of the range, without their values but with their sub revisions; and how many there are.
    fn find(
        &self,
        values: &Values,
        request: &RangeRequest,
        at: Option<Revision>,
        fetch: usize,
    ) -> (Vec<(KeyValue, u32)>, i64) {
        let mut found = Vec::new();
        for (key, versions) in self.index.iter(&request.range) {
            if found.len() == fetch {
                return (found, self.count(request, at));
            }
            let (rev, meta) = match at {
                None => match versions.live() {
                    Some(live) => live,
                    None => continue,
                },
                Some(at) => match versions.at(at) {
                    Some(rev) if rev == versions.last() => (rev, versions.meta()),
                    Some(rev) => (rev, values.meta(key, rev.main(), rev.sub())),
                    None => continue,
                },
            };
            found.push((key_value(Blob::copy(key), rev, meta), rev.sub()));
        }
        let count = i64::try_from(found.len()).expect("keys fit in memory");
        (found, count)
    }

    fn count(&self, request: &RangeRequest, at: Option<Revision>) -> i64 {
        let count = match at {
            None => self.index.count(&request.range),
            Some(at) => {
                self.index.iter(&request.range).filter(|(_, versions)| versions.at(at).is_some()).count() as u64
            }
        };
        i64::try_from(count).expect("keys fit in memory")
    }
}

/// A state without its value.
pub(super) fn key_value(key: Blob, rev: Rev, meta: Meta) -> KeyValue {
    KeyValue {
        key,
        create_revision: meta.create,
        mod_revision: rev.main(),
        version: meta.version,
        value: Blob::EMPTY,
        lease: meta.lease,
    }
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let min = |bound: Revision, revision: Revision| bound.0 == 0 || bound <= revision;
    let max = |bound: Revision, revision: Revision| bound.0 == 0 || revision <= bound;
    let created = if mutant::is_on(Mutant::L02) { kv.mod_revision } else { kv.create_revision };
    min(request.min_mod_revision, kv.mod_revision)
        && max(request.max_mod_revision, kv.mod_revision)
        && min(request.min_create_revision, created)
        && max(request.max_create_revision, created)
}

/// Ties, which etcd leaves open, stay in order of keys.
fn sort(request: &RangeRequest, found: &mut [(KeyValue, u32)]) {
    let compare = |a: &KeyValue, b: &KeyValue| match request.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match request.sort_order {
        SortOrder::None | SortOrder::Ascend if request.sort_target == SortTarget::Key => {}
        SortOrder::None | SortOrder::Ascend => found.sort_by(|(a, _), (b, _)| compare(a, b)),
        SortOrder::Descend => found.sort_by(|(a, _), (b, _)| match compare(a, b) {
            Ordering::Less => Ordering::Greater,
            Ordering::Equal => Ordering::Equal,
            Ordering::Greater => Ordering::Less,
        }),
    }
}
