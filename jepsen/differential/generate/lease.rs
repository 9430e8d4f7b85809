//! Leases. They live so long that none expires during a script, except those that are revoked at once.

use quorate_api::etcdserverpb as pb;

use super::Generator;
use crate::names::AUTO;
use crate::op::Op;

/// No script takes so many seconds.
const LONG: i64 = 3600;

impl Generator {
    pub(super) fn lease_grant(&mut self, invalid: bool) {
        let mut grant = pb::LeaseGrantRequest { ttl: LONG + self.between(0, 1000), id: 0 };
        if !self.names_leases || self.chance(3, 4) {
            grant.id = self.pick(&[1, 2, 3, 4, 5, 6, 77, -1, -2, i64::MIN + 1, 0x0123_4567_89ab_cdef]);
        }
        if invalid {
            match self.below(4) {
                0 => grant.ttl = self.pick(&[9_000_000_001, i64::MAX]),
                1 => grant.ttl = 9_000_000_000,
                2 => return self.short_lease(),
                _ => grant.id = self.lease(),
            }
        }
        if grant.id == 0 && !self.names_leases {
            grant.id = 1;
        }
        self.call(grant);
    }

    /// A TTL that is raised to the smallest one.
    fn short_lease(&mut self) {
        let ttl = self.pick(&[0, 1, -1, i64::MIN, 2]);
        let id = 31_337;
        self.call(pb::LeaseGrantRequest { ttl, id });
        self.call(pb::LeaseRevokeRequest { id });
    }

    pub(super) fn lease_revoke(&mut self, invalid: bool) {
        let id = if invalid { self.any_lease() } else { self.lease() };
        self.call(pb::LeaseRevokeRequest { id });
    }

    pub(super) fn time_to_live(&mut self, invalid: bool) {
        let id = if invalid { self.any_lease() } else { self.lease() };
        let keys = self.chance(2, 3);
        self.call(pb::LeaseTimeToLiveRequest { id, keys });
    }

    pub(super) fn lease_list(&mut self, _: bool) {
        self.call(pb::LeaseLeasesRequest {});
    }

    pub(super) fn keep_alive(&mut self, invalid: bool) {
        let mut ids: Vec<i64> = (0..self.below(3)).map(|_| self.lease()).collect();
        if invalid {
            let lease = self.any_lease();
            ids.insert(0, lease);
        }
        self.next.push_back(Op::KeepAlive { member: self.member, user: self.user, ids });
    }

    /// A lease that does not exist, or no longer.
    fn any_lease(&mut self) -> i64 {
        let former = AUTO + self.between(0, self.named);
        if self.chance(1, 3) && !self.leases.contains(&former) { former } else { self.no_lease() }
    }
}
