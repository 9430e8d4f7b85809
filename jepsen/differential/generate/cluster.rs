//! Members, locks and elections.

use quorate_api::etcdserverpb as pb;
use quorate_api::{v3electionpb as election, v3lockpb as lock};

use super::Generator;

impl Generator {
    pub(super) fn member_list(&mut self, _: bool) {
        let linearizable = self.chance(1, 2);
        self.call(pb::MemberListRequest { linearizable });
    }

    /// Nobody waits for a lock here: each is taken and given back.
    pub(super) fn lock(&mut self, invalid: bool) {
        let name = self.pick(&[&b"lock"[..], b"mutex"]);
        let lease = if invalid { self.no_lease() } else { self.pick(&[1, 2, 77, -2]) };
        if !invalid && !self.leases.contains(&lease) {
            self.call(pb::LeaseGrantRequest { ttl: 4000, id: lease });
        }
        self.call(lock::LockRequest { name: name.into(), lease });
        let key = if invalid && self.chance(1, 2) { vec![] } else { place(name, lease) };
        self.call(lock::UnlockRequest { key: key.into() });
    }

    pub(super) fn election(&mut self, invalid: bool) {
        let name = self.pick(&[&b"vote"[..], b"poll"]);
        let lease = self.pick(&[1, 2, 77, -2]);
        if invalid {
            match self.below(4) {
                0 => self.call(election::ProclaimRequest { leader: None, value: vec![].into() }),
                1 => self.call(election::ResignRequest { leader: None }),
                2 => self.call(election::LeaderRequest { name: b"nobody".to_vec().into() }),
                _ => {
                    let lease = self.no_lease();
                    self.call(election::CampaignRequest { name: name.into(), lease, value: vec![].into() });
                }
            }
            return;
        }
        if !self.leases.contains(&lease) {
            self.call(pb::LeaseGrantRequest { ttl: 4000, id: lease });
        }
        let value = self.value();
        self.call(election::CampaignRequest { name: name.into(), lease, value: value.clone().into() });
        self.call(election::LeaderRequest { name: name.into() });
        let key = place(name, lease);
        // The campaign's put is the next revision, unless somebody else's key stands there already.
        let rev = self.revision + self.between(1, 2);
        let leader = election::LeaderKey { name: name.into(), key: key.into(), rev, lease };
        self.call(election::ProclaimRequest { leader: Some(leader.clone()), value: value.into() });
        self.call(election::ResignRequest { leader: Some(leader) });
        // Whoever is left over is removed, or the next campaign would wait for it.
        let key = [name, b"/"].concat();
        let range_end = super::draw::prefix_end(&key);
        self.call(pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false });
    }
}

/// The key of `lease` in the queue of `name`.
fn place(name: &[u8], lease: i64) -> Vec<u8> {
    let sign = if lease < 0 { "-" } else { "" };
    [name, format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat()
}
