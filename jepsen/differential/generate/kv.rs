//! Put, Range, RangeStream, DeleteRange, Compact.

use quorate_api::etcdserverpb as pb;

use super::Generator;
use crate::op::Op;

impl Generator {
    pub(super) fn put(&mut self, invalid: bool) {
        let put = self.any_put(invalid);
        self.call(put);
    }

    pub(super) fn range(&mut self, invalid: bool) {
        let range = self.any_range(invalid);
        self.call(range);
    }

    pub(super) fn range_stream(&mut self, invalid: bool) {
        let mut range = self.any_range(invalid);
        if self.chance(2, 3) {
            // What it does not support has been asked for often enough then.
            (range.sort_order, range.sort_target) = (range.sort_order.min(1), range.sort_target.min(0));
            (range.min_mod_revision, range.max_mod_revision) = (0, 0);
            (range.min_create_revision, range.max_create_revision) = (0, 0);
        }
        if range.sort_order <= 0 && range.sort_target > 0 {
            range.limit = range.limit.clamp(1, 10); // One chunk: see "streamed-sorts" in justified.rs.
        }
        self.next.push_back(Op::RangeStream { member: self.member, user: self.user, range });
    }

    pub(super) fn delete(&mut self, invalid: bool) {
        let delete = self.any_delete(invalid);
        self.call(delete);
    }

    pub(super) fn any_put(&mut self, invalid: bool) -> pb::PutRequest {
        let mut put = pb::PutRequest {
            key: self.key().into(),
            value: self.value().into(),
            prev_kv: self.chance(1, 3),
            ..Default::default()
        };
        if self.chance(1, 4) {
            put.lease = self.lease();
        }
        // Whether the key exists is left to chance.
        if self.chance(1, 12) {
            (put.ignore_value, put.value) = (true, vec![].into());
        }
        if self.chance(1, 12) {
            (put.ignore_lease, put.lease) = (true, 0);
        }
        if invalid {
            match self.below(6) {
                0 => put.key = vec![].into(),
                1 => (put.ignore_value, put.value) = (true, vec![b'x'].into()),
                2 => (put.ignore_lease, put.lease) = (true, 5),
                3 => (put.ignore_lease, put.lease) = (false, self.no_lease()),
                4 => (put.ignore_value, put.value) = (false, self.large_value().into()),
                _ => {
                    put.key = b"never written".to_vec().into();
                    (put.ignore_value, put.value) = (true, vec![].into());
                    put.lease = if self.chance(1, 2) { 0 } else { self.no_lease() };
                    put.ignore_lease = false;
                }
            }
        }
        put
    }

    pub(super) fn any_range(&mut self, invalid: bool) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut range = pb::RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            serializable: self.chance(1, 4),
            keys_only: self.chance(1, 6),
            count_only: self.chance(1, 10),
            ..Default::default()
        };
        if self.chance(1, 3) {
            range.limit = self.between(-1, 12);
        }
        if self.chance(1, 3) {
            range.revision = if self.chance(1, 10) { self.between(-3, -1) } else { self.past() };
        }
        if self.chance(1, 3) {
            range.sort_order = self.pick(&[0, 1, 2]);
            range.sort_target = self.pick(&[0, 1, 2, 3, 4]);
        }
        if self.chance(1, 5) {
            // Bounds around revisions that may be there; sometimes they exclude each other.
            for bound in [
                &mut range.min_mod_revision,
                &mut range.max_mod_revision,
                &mut range.min_create_revision,
                &mut range.max_create_revision,
            ] {
                if self.rng.chance(1, 2) {
                    *bound = i64::try_from(self.rng.below(self.revision.unsigned_abs() + 3)).expect("small") - 1;
                }
            }
        }
        if invalid {
            match self.below(5) {
                0 => range.key = vec![].into(),
                1 => range.sort_order = self.pick(&[3, -1, i32::MAX]),
                2 => range.sort_target = self.pick(&[5, -1, i32::MIN]),
                _ => range.revision = self.unreadable(),
            }
        }
        range
    }

    pub(super) fn any_delete(&mut self, invalid: bool) -> pb::DeleteRangeRequest {
        let key = if invalid { vec![] } else { self.key() };
        // Deletes of everything are rare, or there would be little to read.
        let range_end = if self.chance(1, 3) { self.range_end(&key) } else { vec![] };
        pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: self.chance(1, 2) }
    }

    /// Watchers first: who is still behind the new floor is cancelled, and that is a matter of luck.
    pub(super) fn compact(&mut self, invalid: bool) {
        let revision = match (invalid, self.below(3)) {
            (true, 0) => self.floor,
            (true, 1) => self.between(-3, self.floor),
            (true, _) => self.revision + 1 + self.between(0, 5),
            (false, 0) => self.revision,
            (false, _) => self.between(self.floor + 1, self.revision),
        };
        self.sync();
        let physical = self.chance(1, 3);
        self.call(pb::CompactionRequest { revision, physical });
    }
}
