//! Whoever looks after the cluster: sets up users and keeps changing them, makes room where there is no space, compares
//! hashes, tidies disks.

use std::collections::VecDeque;

use quorate_core::auth::{Allows, AuthCommand, Permission};
use quorate_core::error::Error;
use quorate_core::request::{DeleteRangeRequest, KeyRange, PutRequest, RequestOp, TxnRequest};
use quorate_core::rng::Rng;
use quorate_core::{Blob, LeaseId, NodeId, Revision, Ttl};
use quorate_jepsen::history::Op;

use super::badge::{Badge, PASSWORDS, ROOT, ROOT_PASSWORD, USERS};
use super::caller::Caller;
use super::chore::Chore;
use crate::call::CallError;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::swarm::regime::Regime;
use crate::world::redraw::anew;

/// Roles beside root.
const ROLES: [&str; 3] = ["r0", "r1", "r2"];

/// What it does next.
#[derive(Clone, Debug)]
pub enum Task {
    /// An operation of the history.
    Op(Op),
    /// Anything else.
    Chore(Chore),
}

/// Leases that are granted one after the other and left to run out together.
#[derive(Clone, Debug, Default)]
struct Storm {
    /// How many more to grant.
    missing: u64,
    ttl: Ttl,
    /// Those without a key as yet.
    granted: Vec<LeaseId>,
    /// Keys that were attached in this storm.
    keys: u64,
}

/// Puts of one txn.
const ATTACHED_AT_ONCE: usize = 100;

/// One operator.
#[derive(Clone, Debug)]
pub struct Operator {
    rng: Rng,
    regime: Regime,
    keys: u64,
    /// Its calls.
    pub caller: Caller,
    /// As whom.
    pub badge: Badge,
    /// What must be done first, in this order.
    script: VecDeque<AuthCommand>,
    /// Alarms that it knows of.
    pub alarms: Vec<NodeId>,
    /// Leases for the next storm.
    storm: Storm,
    /// A round of hashes of every member: of which revision, and who comes next.
    round: Option<(Revision, usize)>,
}

impl Operator {
    /// An operator under this regime, of clients that use so many keys.
    #[must_use]
    pub fn new(rng: Rng, regime: Regime, keys: u64) -> Self {
        let badge = Badge::of_root(rng.split(1));
        let script = if regime.auth { script(keys) } else { VecDeque::new() };
        Self {
            rng,
            regime,
            keys,
            caller: Caller::new(0),
            badge,
            script,
            alarms: Vec::new(),
            storm: Storm::default(),
            round: None,
        }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
        self.badge.redraw(sample);
    }

    /// What to do next, with the store at `newest` as far as anybody knows.
    pub fn step(&mut self, newest: Revision, members: usize) -> Task {
        if let Some(command) = self.script.front() {
            return Task::Chore(Chore::Change(command.clone()));
        }
        if let Some(task) = self.brew() {
            return task;
        }
        if let Some((revision, member)) = self.round.filter(|(_, member)| *member < members) {
            self.caller.member = member;
            self.round = Some((revision, member + 1));
            return Task::Chore(Chore::HashKv(Some(revision)));
        }
        self.round = None;
        if !self.alarms.is_empty() || (self.regime.quota_bytes.is_some() && self.rng.chance(1, 8)) {
            return self.make_room(newest);
        }
        match self.rng.below(100) {
            0..10 if self.regime.lease_storms => {
                let missing = 50 + self.rng.below(250);
                self.storm = Storm { missing, ttl: Ttl([3, 6, 8][self.pick(3)]), ..Storm::default() };
                Task::Chore(Chore::Alarms)
            }
            0..60 if self.regime.auth => Task::Chore(self.change_users()),
            60..80 => {
                self.round = Some((newest, 0));
                Task::Chore(Chore::HashKv(None))
            }
            80..84 => Task::Chore(Chore::Defragment),
            84..90 => Task::Chore(Chore::Leases),
            _ => Task::Chore(Chore::Alarms),
        }
    }

    /// The next step of a storm: grants, then keys for what was granted.
    fn brew(&mut self) -> Option<Task> {
        let storm = &mut self.storm;
        if storm.missing > 0 {
            storm.missing -= 1;
            return Some(Task::Op(Op::LeaseGrant { id: None, ttl: storm.ttl }));
        }
        if storm.granted.is_empty() {
            return None;
        }
        let leases = storm.granted.split_off(storm.granted.len().saturating_sub(ATTACHED_AT_ONCE));
        let puts = leases.into_iter().map(|lease| {
            storm.keys += 1;
            RequestOp::Put(PutRequest {
                key: Blob::from(format!("s{:03}", storm.keys).into_bytes()),
                value: Blob::copy(b"storm"),
                lease: Some(lease),
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            })
        });
        Some(Task::Op(Op::Txn(TxnRequest { success: puts.collect(), ..TxnRequest::default() })))
    }

    /// A lease was granted.
    pub fn granted(&mut self, lease: LeaseId) {
        self.storm.granted.push(lease);
    }

    fn make_room(&mut self, newest: Revision) -> Task {
        match self.rng.below(10) {
            0..3 => Task::Op(Op::Compact(newest)),
            3..5 => {
                let range = if self.rng.chance(1, 2) { everything() } else { KeyRange::Key(self.key()) };
                Task::Op(Op::DeleteRange(DeleteRangeRequest { range, prev_kv: false }))
            }
            5..8 if !self.alarms.is_empty() => {
                let at = usize::try_from(self.rng.below(self.alarms.len() as u64)).expect("few members");
                Task::Chore(Chore::Disarm(self.alarms[at]))
            }
            _ => Task::Chore(Chore::Alarms),
        }
    }

    fn change_users(&mut self) -> Chore {
        let user = if self.rng.chance(1, 12) { ROOT } else { USERS[self.pick(USERS.len())] }.to_owned();
        let role = if self.rng.chance(1, 20) { ROOT } else { ROLES[self.pick(ROLES.len())] }.to_owned();
        let password = if user == ROOT { ROOT_PASSWORD } else { PASSWORDS[self.pick(2)] };
        let password = Some(password.to_owned());
        let change = match self.rng.below(100) {
            0..20 => AuthCommand::RoleGrantPermission { role, permission: Some(self.permission()) },
            20..32 => {
                let Permission { key, range_end, .. } = self.permission();
                AuthCommand::RoleRevokePermission { role, key, range_end }
            }
            32..47 => AuthCommand::UserGrantRole { name: user, role },
            47..57 => AuthCommand::UserRevokeRole { name: user, role },
            57..61 => AuthCommand::UserDelete(user),
            61..69 => {
                let no_password = user != ROOT && self.rng.chance(1, 10);
                AuthCommand::UserAdd { name: user, password: password.filter(|_| !no_password), no_password }
            }
            69..75 => AuthCommand::UserChangePassword { name: user, password },
            75..78 => AuthCommand::RoleDelete(role),
            78..84 => AuthCommand::RoleAdd(role),
            84..86 => AuthCommand::Disable,
            86..91 => AuthCommand::Enable,
            91..94 => return Chore::AuthStatus,
            94..96 => return Chore::UserGet(user),
            96..98 => return Chore::RoleGet(role),
            98 => return Chore::UserList,
            _ => return Chore::RoleList,
        };
        Chore::Change(change)
    }

    /// Few different ones, so that what is revoked was granted now and then.
    fn permission(&mut self) -> Permission {
        let allows = [Allows::Read, Allows::Write, Allows::ReadWrite, Allows::ReadWrite][self.pick(4)];
        let edges = self.keys.min(5);
        let edge = |at: u64| Blob::from(format!("k{:03}", at * self.keys / edges).into_bytes());
        let (from, to) = (self.rng.below(edges), 1 + self.rng.below(edges));
        let (key, range_end) = match self.rng.below(8) {
            0 | 1 => (edge(from), Blob::EMPTY),
            2..5 if from < to => (edge(from), edge(to)),
            5 => (edge(from), Blob::copy(&[0])),
            6 => (Blob::copy(&[0]), Blob::copy(&[0])),
            _ => (Blob::copy(b"k"), Blob::copy(b"l")),
        };
        Permission { allows, key, range_end }
    }

    fn key(&mut self) -> Blob {
        Blob::from(format!("k{:03}", self.rng.below(self.keys)).into_bytes())
    }

    fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(len as u64)).expect("a short list")
    }

    /// A change of users was answered.
    pub fn changed(&mut self, command: &AuthCommand, answer: Result<(), &CallError>) {
        let done = match answer {
            Ok(()) => true,
            Err(CallError::Status(status)) => {
                [Error::UserExists, Error::RoleExists].iter().any(|error| *status == error.clone().into())
            }
            Err(_) => false,
        };
        if done && self.script.front() == Some(command) {
            self.script.pop_front();
        }
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        SECOND + self.rng.below(4 * SECOND)
    }

    /// How long to think.
    pub fn think(&mut self) -> Nanos {
        let is_busy = !self.script.is_empty() || self.storm.missing > 0;
        let mean = if is_busy { 2 * MILLI } else { 60 * MILLI };
        MILLI + self.rng.below(2 * mean)
    }

    /// Goes to another of `members` members, or stays.
    pub fn move_on(&mut self, members: usize) {
        self.caller.member = self.pick(members);
    }

    /// Whether to change the member for no reason.
    pub fn is_restless(&mut self) -> bool {
        self.script.is_empty() && self.round.is_none() && self.storm.missing == 0 && self.rng.chance(1, 10)
    }
}

/// Every key.
#[must_use]
pub fn everything() -> KeyRange {
    KeyRange::From(Blob::copy(&[0]))
}

/// Users and roles with which most clients can do most things, and authentication on.
fn script(keys: u64) -> VecDeque<AuthCommand> {
    let mut script = VecDeque::new();
    let add = |name: &str, password: &str| AuthCommand::UserAdd {
        name: name.into(),
        password: Some(password.into()),
        no_password: false,
    };
    script.push_back(add(ROOT, ROOT_PASSWORD));
    script.push_back(AuthCommand::UserGrantRole { name: ROOT.into(), role: ROOT.into() });
    script.extend(ROLES.iter().map(|role| AuthCommand::RoleAdd((*role).into())));
    let middle = format!("k{:03}", keys / 2);
    let grants = [("r0", Allows::ReadWrite, "l"), ("r1", Allows::Read, "l"), ("r2", Allows::Write, middle.as_str())];
    script.extend(grants.map(|(role, allows, end)| {
        let (key, range_end) = (Blob::copy(b"k"), Blob::copy(end.as_bytes()));
        let permission = Some(Permission { allows, key, range_end });
        AuthCommand::RoleGrantPermission { role: role.into(), permission }
    }));
    for (number, user) in USERS.iter().enumerate() {
        script.push_back(add(user, PASSWORDS[0]));
        let roles: &[&str] = [&["r0"][..], &["r0", "r1"], &["r1", "r2"], &["r1"]][number];
        script
            .extend(roles.iter().map(|role| AuthCommand::UserGrantRole { name: (*user).into(), role: (*role).into() }));
    }
    script.push_back(AuthCommand::Enable);
    script
}
