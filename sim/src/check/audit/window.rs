//! The states that a member can have been in while it dealt with a call, and what any of them says to the answer.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::request::{AlarmKind, Lease, RequestOp, TxnRequest};
use quorate_core::{LeaseId, LogIndex};
use quorate_jepsen::auth::{Monitor, Question};
use quorate_jepsen::history::Op;
use quorate_node::status::Status;

use super::super::reference::Reference;
use super::{Arrival, Call};
use crate::member::hash_of;
use crate::wire;
use crate::workload::Token;
use crate::workload::chore::{Chore, listed, wire_permission};
use crate::workload::client::Subject;

/// From which states a call may be answered.
pub(super) struct Window<'a> {
    pub(super) reference: &'a Reference,
    pub(super) call: &'a Call,
    pub(super) arrival: Arrival,
    /// The member's state when the answer was made.
    pub(super) applied: LogIndex,
}

impl Window<'_> {
    /// What was committed when the call arrived is known to whatever answers it.
    pub(super) fn since(&self) -> u64 {
        self.arrival.committed.0.min(self.applied.0)
    }

    /// The states that the member can have been in from this one on until it answered.
    pub(super) fn states(&self, from: u64) -> impl Iterator<Item = LogIndex> {
        self.reference.states(LogIndex(from), self.applied)
    }

    pub(super) fn judge_answer(&self, bytes: &Bytes) -> Result<(), String> {
        let now = self.applied;
        let asked = |at| self.reference.monitor(at).enabled;
        if self.call.is_stale && !is_open(&self.call.subject) && self.states(self.arrival.applied.0).all(asked) {
            return Err("its session had run out".into());
        }
        match &self.call.subject {
            Subject::Op(_, op) => match command(op) {
                Some(command) => self.some_state_allows(&command),
                None => {
                    if !is_serializable(op) && now < self.arrival.committed {
                        return Err("the state it was answered from is older than the question".into());
                    }
                    self.allows(now).map_err(|error| format!("it had to be refused: {error}"))
                }
            },
            // Decided before the leader is asked, by the state as the member has it.
            Subject::KeepAlive(_) => {
                self.any_from(self.arrival.applied.0.min(self.since()), |at| self.allows(at).is_ok())
            }
            Subject::TimeToLive(_) => self.allows(now).map_err(|error| format!("it had to be refused: {error}")),
            Subject::Chore(Chore::Login { name, password }) => self.judge_login(name, password, bytes),
            Subject::Chore(Chore::Change(command)) => self.some_state_allows(&Command::Auth(command.clone())),
            Subject::Chore(Chore::Disarm(member)) => {
                let alarm = quorate_core::request::Alarm { kind: AlarmKind::NoSpace, member: *member };
                self.some_state_allows(&Command::ClearAlarm(alarm))
            }
            Subject::Chore(chore) => {
                self.allows(now).map_err(|error| format!("it had to be refused: {error}"))?;
                self.judge_reading(chore, bytes)
            }
        }
    }

    /// A session's user had that password when it was opened.
    fn judge_login(&self, name: &str, password: &str, bytes: &Bytes) -> Result<(), String> {
        let reply: pb::AuthenticateResponse = wire::message(bytes.clone());
        let session = self.reference.session(&reply.token).ok_or("the log has no such session")?;
        if session.user != name {
            return Err(format!("the session is {}'s", session.user));
        }
        if session.opened.0 <= self.since() || !session.had_hash(&hash_of(password)) {
            return Err(format!("the password was another one when the session was opened by {}", session.opened));
        }
        Ok(())
    }

    /// What is told of users, roles and alarms is true, and not older than the question.
    fn judge_reading(&self, chore: &Chore, bytes: &Bytes) -> Result<(), String> {
        let monitor = self.reference.monitor(self.applied);
        let told = |right: bool| if right { Ok(()) } else { Err(format!("the log says {monitor:?}")) };
        // Of leases a member tells what it knows. (etcd)
        let is_local = matches!(chore, Chore::HashKv(_) | Chore::Defragment | Chore::Leases);
        if !is_local && self.applied < self.arrival.committed {
            return Err("the state it was answered from is older than the question".into());
        }
        match chore {
            Chore::AuthStatus => {
                let reply: pb::AuthStatusResponse = wire::message(bytes.clone());
                told((reply.enabled, reply.auth_revision) == (monitor.enabled, monitor.revision().0))
            }
            Chore::UserGet(name) => {
                let reply: pb::AuthUserGetResponse = wire::message(bytes.clone());
                told(monitor.users.get(name).is_some_and(|(roles, _)| roles.iter().eq(reply.roles.iter())))
            }
            Chore::UserList => {
                let reply: pb::AuthUserListResponse = wire::message(bytes.clone());
                told(monitor.users.keys().eq(reply.users.iter()))
            }
            Chore::RoleList => {
                let reply: pb::AuthRoleListResponse = wire::message(bytes.clone());
                told(monitor.roles.keys().eq(reply.roles.iter()))
            }
            Chore::RoleGet(role) => {
                let reply: pb::AuthRoleGetResponse = wire::message(bytes.clone());
                let mut known: Vec<_> = monitor.roles.get(role).into_iter().flatten().map(wire_permission).collect();
                known.sort_by(|one, two| (&one.key, &one.range_end).cmp(&(&two.key, &two.range_end)));
                told(role == "root" || known == reply.perm)
            }
            Chore::Alarms => {
                let reply: pb::AlarmResponse = wire::message(bytes.clone());
                let is_on = self.reference.is_alarmed(AlarmKind::NoSpace, self.applied);
                told(is_on != reply.alarms.is_empty())
            }
            Chore::Leases => {
                let leases = self.reference.leases(self.applied);
                let right = listed(bytes).into_iter().eq(leases.iter().copied());
                if right { Ok(()) } else { Err(format!("the log says {leases:?}")) }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn judge_refusal(&self, status: &Status) -> Result<(), String> {
        if *status == Error::AuthOldRevision.into() {
            let changes = |at: u64| self.reference.monitor(LogIndex(at)).changes;
            let changed = changes(self.applied.0) - changes(self.arrival.applied.0.min(self.since()));
            let text = || format!("users changed {changed} times meanwhile: it had to be asked again");
            return if changed >= RETRIES { Ok(()) } else { Err(text()) };
        }
        let refusals = [Error::PermissionDenied, Error::UserEmpty];
        let Some(error) = refusals.into_iter().find(|error| *status == error.clone().into()) else { return Ok(()) };
        // A serializable read, and what the member answers by itself, may be refused by an old state, too.
        let from = match &self.call.subject {
            Subject::Op(_, op) if command(op).is_some() || !is_serializable(op) => self.since(),
            Subject::Chore(Chore::Change(_) | Chore::Disarm(_)) => self.since(),
            _ => self.arrival.applied.0.min(self.since()),
        };
        self.any_from(from, |at| self.allows(at) == Err(error.clone())).map_err(|_| "every state allowed it".into())
    }

    fn any_from(&self, from: u64, test: impl Fn(LogIndex) -> bool) -> Result<(), String> {
        let found = self.states(from).any(test);
        if found { Ok(()) } else { Err("no state allowed it".into()) }
    }

    /// A command is decided by the state that it changes. Who asks for keys is recognised by that state, too; who asks
    /// for something else may have been recognised by the state as its member had it. (etcd)
    fn some_state_allows(&self, command: &Command) -> Result<(), String> {
        let is_of_keys = match command {
            Command::Txn(txn) => !txn.is_void(),
            other => matches!(other, Command::Put(_) | Command::DeleteRange(_) | Command::LeaseRevoke(_)),
        };
        let old = self.arrival.applied.0.min(self.since());
        let recognised = |at: LogIndex| match &self.call.token {
            None => true,
            Some(token) if is_of_keys => self.session_at(token, at),
            Some(token) => self.reference.states(LogIndex(old), at).any(|at| self.session_at(token, at)),
        };
        self.any_from(self.since(), |at| {
            let monitor = self.reference.monitor(at);
            !monitor.enabled || (recognised(at) && self.permits(monitor, command, at).is_ok())
        })
    }

    fn session_at(&self, token: &Token, at: LogIndex) -> bool {
        self.reference.session(token).is_some_and(|session| session.is_open(at))
    }

    fn user(&self) -> Option<&str> {
        Some(&self.reference.session(self.call.token.as_ref()?)?.user)
    }

    fn permits(&self, monitor: &Monitor, command: &Command, at: LogIndex) -> Result<(), Error> {
        let author = match self.user() {
            Some(name) => Author::User { name: name.into(), revision: monitor.revision() },
            None => Author::Nobody,
        };
        monitor.check(&author, command, &|lease| self.reference.attached(lease, at).to_vec())
    }

    /// Whether the state after `at` allows the call, token and all.
    fn allows(&self, at: LogIndex) -> Result<(), Error> {
        let monitor = self.reference.monitor(at);
        if !monitor.enabled {
            return Ok(());
        }
        if let Some(token) = &self.call.token
            && !self.session_at(token, at)
        {
            return if is_open(&self.call.subject) { Ok(()) } else { Err(Error::InvalidAuthToken) };
        }
        let keys = |lease: LeaseId| self.reference.attached(lease, at);
        let user = self.user();
        match &self.call.subject {
            Subject::Op(_, op) => match (command(op), op) {
                (Some(command), _) => self.permits(monitor, &command, at),
                (None, Op::Range(range)) => monitor.answer(user, Question::Read(&range.range)),
                (None, Op::Txn(txn)) => monitor.answer(user, Question::Txn(txn)),
                (None, other) => unreachable!("{other:?} is a command"),
            },
            Subject::KeepAlive(lease) => monitor.answer(user, Question::WriteKeys(keys(*lease))),
            Subject::TimeToLive(lease) => monitor.answer(user, Question::ReadKeys(keys(*lease))),
            Subject::Chore(chore) => match chore {
                Chore::Login { .. } | Chore::AuthStatus => Ok(()),
                Chore::Change(command) => self.permits(monitor, &Command::Auth(command.clone()), at),
                Chore::UserGet(name) => monitor.answer(user, Question::User(name)),
                Chore::RoleGet(role) => monitor.answer(user, Question::Role(role)),
                Chore::UserList | Chore::RoleList | Chore::HashKv(_) | Chore::Defragment | Chore::Disarm(_) => {
                    monitor.answer(user, Question::Root)
                }
                Chore::Alarms => monitor.answer(user, Question::AnyUser),
                Chore::Leases => monitor.answer(user, Question::ReadKeys(&self.reference.all_attached(at))),
            },
        }
    }
}

/// So often at least a member asks again by itself when users have changed.
const RETRIES: u64 = 9;

/// Whether whoever asks is answered, whatever they show.
fn is_open(subject: &Subject) -> bool {
    matches!(subject, Subject::Chore(Chore::Login { .. }))
}

/// The command that an operation becomes; `None` if members answer it by themselves.
fn command(op: &Op) -> Option<Command> {
    Some(match op.clone() {
        Op::Range(_) => return None,
        Op::Txn(txn) if only_reads(&txn) => return None,
        Op::Txn(txn) => Command::Txn(txn),
        Op::Put(put) => Command::Put(put),
        Op::DeleteRange(delete) => Command::DeleteRange(delete),
        Op::Compact(revision) => Command::Compact { revision },
        Op::LeaseGrant { id, ttl } => Command::LeaseGrant(Lease { id: id.unwrap_or(LeaseId(1)), ttl }),
        Op::LeaseRevoke(id) => Command::LeaseRevoke(id),
    })
}

fn only_reads(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(_)))
}

fn is_serializable(op: &Op) -> bool {
    match op {
        Op::Range(range) => range.serializable,
        Op::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
        }
        _ => false,
    }
}
