//! Status, alarms, hashes, and what else operators ask of one member.

use quorate_api::etcdserverpb as pb;

use super::Generator;

impl Generator {
    pub(super) fn status(&mut self, _: bool) {
        self.call(pb::StatusRequest {});
    }

    /// An alarm is raised for a moment, in which writes are refused.
    pub(super) fn alarm(&mut self, _: bool) {
        let alarm = |action, alarm| pb::AlarmRequest { action, member_id: 0, alarm };
        if self.chance(1, 2) {
            let (action, kind) = self.pick(&[(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (0, 9)]);
            return self.call(alarm(action, kind));
        }
        let kind = self.pick(&[1, 2]);
        self.call(alarm(1, kind));
        for _ in 0..self.below(6) {
            match self.below(6) {
                0 => self.lease_grant(false),
                1 => self.delete(false),
                2 => self.txn(false),
                3 => self.status(false),
                4 => self.range(false),
                _ => self.put(false),
            }
        }
        let listed = self.pick(&[0, 1, 2]);
        self.call(alarm(0, listed));
        self.call(alarm(2, kind));
    }

    /// Not at a compacted revision: see "stored-hashes" in justified.rs.
    pub(super) fn hash(&mut self, invalid: bool) {
        if self.names_leases {
            return self.status(invalid);
        }
        let revision = match self.below(3) {
            _ if invalid => self.unreadable().max(self.revision + 1),
            0 if !self.zeroed => 0,
            _ => self.between(self.floor + 1, self.revision),
        };
        self.call(pb::HashKvRequest { revision });
    }

    pub(super) fn maintenance(&mut self, _: bool) {
        match self.below(4) {
            0 => self.call(pb::DefragmentRequest {}),
            1 if self.members == 1 => self.call(pb::MoveLeaderRequest { target_id: 12345 }),
            _ => {
                let action = self.pick(&[0, 0, 0, 2, 7]);
                let version = self.pick(&["3.6", "3.6.0", "3.5", "3.7", "4.0", "3", "", "x.y", "3.6.1-rc"]);
                self.call(pb::DowngradeRequest { action, version: version.into() });
            }
        }
    }
}
