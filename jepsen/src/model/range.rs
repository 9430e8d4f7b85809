//! Reading ranges: limits, filters and sorting in etcd's order.

use quorate_core::error::Error;
use quorate_core::request::{KeyValue, RangeRequest, RangeResult, SortOrder, SortTarget};
use quorate_core::{Blob, Revision};

use super::kv::Kv;

impl Kv {
    /// Whether a store at revision `now`, compacted at `compacted`, can answer.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] and [`Error::Compacted`].
    pub fn check_range(&self, request: &RangeRequest, now: Revision, compacted: Revision) -> Result<(), Error> {
        match request.revision {
            Some(revision) if revision > now => Err(Error::FutureRevision),
            Some(revision) if revision < compacted || revision < Revision(0) => {
                Err(Error::Compacted { oldest: compacted })
            }
            _ => Ok(()),
        }
    }

    /// The answer of a store at revision `now`. Keys that sort as equals stay in key order.
    #[must_use]
    pub fn range(&self, request: &RangeRequest, now: Revision) -> RangeResult {
        let at = request.revision.filter(|r| r.0 != 0).unwrap_or(now);
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { limit };
        // Without an order and without filters etcd fetches no more than it must, and sorts only that.
        let ordered = request.sort_order != SortOrder::None;
        let fetch = if ordered || filters(request) { usize::MAX } else { limit.saturating_add(1) };
        let (mut count, mut found) = (0, Vec::new());
        self.visit(&request.range, at, |kv| {
            count += 1;
            if found.len() < fetch && !request.count_only && passes(request, kv) {
                found.push(kv);
            }
        });
        match request.sort_order {
            SortOrder::None if request.sort_target == SortTarget::Key => {}
            SortOrder::None | SortOrder::Ascend => found.sort_by(|a, b| order(request.sort_target, a, b)),
            SortOrder::Descend => found.sort_by(|a, b| order(request.sort_target, b, a)),
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let kvs = found.into_iter().map(|kv| shown(request, kv)).collect();
        RangeResult { revision: now, kvs, more, count }
    }
}

fn filters(r: &RangeRequest) -> bool {
    [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision].iter().any(|f| f.0 != 0)
}

fn passes(r: &RangeRequest, kv: &KeyValue) -> bool {
    let at_least = |bound: Revision, value| bound.0 == 0 || value >= bound;
    let at_most = |bound: Revision, value| bound.0 == 0 || value <= bound;
    at_least(r.min_mod_revision, kv.mod_revision)
        && at_most(r.max_mod_revision, kv.mod_revision)
        && at_least(r.min_create_revision, kv.create_revision)
        && at_most(r.max_create_revision, kv.create_revision)
}

fn order(target: SortTarget, a: &KeyValue, b: &KeyValue) -> std::cmp::Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// Keys alone come from the index, which knows no leases; sorting by value has read the whole records. (etcd 3.7)
fn shown(request: &RangeRequest, kv: &KeyValue) -> KeyValue {
    if !request.keys_only {
        return kv.clone();
    }
    let lease = kv.lease.filter(|_| request.sort_target == SortTarget::Value);
    KeyValue { value: Blob::EMPTY, lease, ..kv.clone() }
}
