//! Scripts from seeds: every call with every option, four valid ones for each that must be refused.
//!
//! It hears what the reference answers, so that it can ask for revisions, leases and watchers that exist; a script once
//! made is plain data and runs again as it is.

mod auth;
mod cluster;
mod draw;
mod kv;
mod lease;
mod maintenance;
mod txn;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_core::rng::Rng;

use crate::api::{Reply, Request};
use crate::op::Op;
use crate::session::Outcome;

/// Makes one seed's script, step by step.
#[derive(Debug)]
pub(crate) struct Generator {
    rng: Rng,
    members: usize,
    /// The keys of this seed: few or many.
    keys: Vec<Vec<u8>>,
    /// Steps decided on but not yet taken.
    next: VecDeque<Op>,
    revision: i64,
    /// Nothing below it can be read.
    floor: i64,
    /// Compacted at revision 0, which does nothing.
    zeroed: bool,
    leases: BTreeSet<i64>,
    /// How many leases the servers have named.
    named: i64,
    streams: BTreeMap<usize, watch::Stream>,
    /// Where most calls go at the moment.
    member: usize,
    /// Who makes them.
    user: Option<&'static str>,
    /// Whether it matters who.
    enabled: bool,
    /// Servers name some leases themselves; then what they store is not the same to the byte.
    names_leases: bool,
}

/// Decides on some steps, which shall be refused if `true`.
type Kind = fn(&mut Generator, bool);

/// What kinds of steps there are, with how often they are drawn.
const KINDS: &[(u64, Kind)] = &[
    (260, Generator::put),
    (260, Generator::range),
    (60, Generator::delete),
    (170, Generator::txn),
    (8, Generator::compact),
    (30, Generator::lease_grant),
    (16, Generator::lease_revoke),
    (26, Generator::time_to_live),
    (8, Generator::lease_list),
    (16, Generator::keep_alive),
    (40, Generator::watch),
    (14, Generator::watch_sync),
    (8, Generator::member_list),
    (4, Generator::status),
    (8, Generator::alarm),
    (60, Generator::auth),
    (20, Generator::range_stream),
    (10, Generator::hash),
    (4, Generator::maintenance),
    (20, Generator::lock),
    (20, Generator::election),
];

impl Generator {
    /// The script of `seed` for a cluster of `members`.
    pub(crate) fn new(seed: u64, members: usize) -> Self {
        let mut rng = Rng::new(seed).split(1);
        let keys = draw::keys(&mut rng);
        Self {
            rng,
            members,
            keys,
            next: VecDeque::new(),
            revision: 1,
            floor: 0,
            zeroed: false,
            leases: BTreeSet::new(),
            named: 0,
            streams: BTreeMap::new(),
            member: 0,
            user: None,
            enabled: false,
            names_leases: seed.is_multiple_of(2),
        }
    }

    /// The next step.
    pub(crate) fn next(&mut self) -> Op {
        while self.next.is_empty() {
            if self.rng.chance(1, 4) {
                self.member = self.below(self.members);
            }
            self.user = self.caller();
            let invalid = self.rng.chance(1, 5);
            let total: u64 = KINDS.iter().map(|(weight, _)| weight).sum();
            let mut draw = self.rng.below(total);
            for (weight, kind) in KINDS {
                if draw < *weight {
                    kind(self, invalid);
                    break;
                }
                draw -= weight;
            }
        }
        self.next.pop_front().expect("it was just filled")
    }

    /// Takes note of what the reference answered.
    pub(crate) fn learn(&mut self, op: &Op, outcome: &Outcome) {
        let (Op::Call { request, .. }, Outcome::Answer(Ok(reply))) = (op, outcome) else { return };
        let mut reply = reply.clone();
        if let Some(header) = reply.header() {
            self.revision = self.revision.max(header.revision);
        }
        match (request, &reply) {
            (Request::Compact(compact), _) => {
                self.floor = self.floor.max(compact.revision);
                self.zeroed |= compact.revision == 0;
            }
            (Request::LeaseGrant(asked), Reply::LeaseGrant(granted)) => {
                self.leases.insert(granted.id);
                self.named += i64::from(asked.id == 0);
            }
            (Request::AuthEnable(_), _) => self.enabled = true,
            (Request::AuthDisable(_), _) => self.enabled = false,
            (Request::LeaseRevoke(revoke), _) => {
                self.leases.remove(&revoke.id);
            }
            _ => {}
        }
    }

    fn call(&mut self, request: impl Into<Request>) {
        let op = Op::Call { member: self.member, user: self.user, request: request.into() };
        self.next.push_back(op);
    }
}
