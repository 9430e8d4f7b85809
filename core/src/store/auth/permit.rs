//! The one place that decides who may do what: every request and every replicated command passes [`View::check`].
//!
//! A request is checked on the very state that answers it, a command on the state it changes, when it is applied: every
//! member decides alike, and nothing that was revoked before is done after.

use super::super::View;
use super::{Auth, User, spans};
use crate::LeaseId;
use crate::auth::{AuthCommand, Author, ROOT};
use crate::command::Command;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{DeleteRangeRequest, KeyRange, PutRequest, RequestOp, TxnRequest};

/// What somebody must be allowed for what it asks.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// Nothing: whoever asks is answered.
    Nothing,
    /// To be some user.
    AnyUser,
    /// To have the role root.
    Root,
    /// To be this user, or to have the role root.
    User(&'a str),
    /// To have this role, or the role root.
    Role(&'a str),
    /// To read these keys.
    Read(&'a KeyRange),
    /// To put what it says.
    Put(&'a PutRequest),
    /// To delete what it says.
    Delete(&'a DeleteRangeRequest),
    /// To execute this txn: every compare and both branches, whichever will be taken.
    Txn(&'a TxnRequest),
    /// To write every key that is attached to the lease.
    WriteLease(LeaseId),
    /// To read every key that is attached to the lease.
    ReadLease(LeaseId),
    /// To read every key that is attached to any lease.
    ReadLeases,
    /// Whatever the command needs.
    Command(&'a Command),
}

impl View {
    /// Refuses `author` what it may not have. Nobody is refused anything while authentication is off.
    ///
    /// # Errors
    /// [`Error::UserEmpty`] without a user; [`Error::AuthOldRevision`] if users or roles have changed since the user was
    /// recognised, and it asks for keys; [`Error::UserNotFound`], [`Error::PermissionDenied`].
    pub fn check(&self, author: &Author, need: &Need) -> Result<(), Error> {
        let auth = &*self.auth;
        if !auth.enabled || *author == Author::Member || matches!(need, Need::Nothing) {
            return Ok(());
        }
        if let Need::Command(command) = need {
            return self.check_command(author, command);
        }
        // (etcd: a txn is as good as what it does, and nobody is asked who they are for nothing; nobody may look at the
        // user without a name, whom there cannot be)
        match need {
            Need::Txn(txn) if txn.is_void() => return Ok(()),
            Need::User("") if *author == Author::Nobody => return Ok(()),
            _ => {}
        }
        let Author::User { name, revision } = author else { return Err(Error::UserEmpty) };
        let user = auth.user(name);
        let is_root = user.is_some_and(User::is_root);
        let denied = if user.is_some() { Error::PermissionDenied } else { Error::UserNotFound };
        let keys = match need {
            Need::Nothing | Need::Command(_) => return Ok(()),
            Need::AnyUser => return user.map(|_| ()).ok_or(denied),
            Need::Root => return if is_root { Ok(()) } else { Err(denied) },
            Need::User(wanted) => return if is_root || wanted == name { Ok(()) } else { Err(denied) },
            Need::Role(wanted) => {
                let has = user.is_some_and(|user| user.roles.contains(*wanted));
                return if is_root || has { Ok(()) } else { Err(denied) };
            }
            keys => keys,
        };
        if *revision < auth.revision {
            return Err(Error::AuthOldRevision);
        }
        let user = user.ok_or(Error::PermissionDenied)?;
        if is_root || self.allows(&Reach { auth, user }, keys) { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    /// Every kind of command, so that a new one does not compile without its rule.
    fn check_command(&self, author: &Author, command: &Command) -> Result<(), Error> {
        let need = match command {
            Command::Put(put) => Need::Put(put),
            Command::DeleteRange(delete) => Need::Delete(delete),
            Command::Txn(txn) => Need::Txn(txn),
            Command::LeaseGrant(_) => Need::AnyUser,
            Command::LeaseRevoke(id) => Need::WriteLease(*id),
            Command::Compact { .. } if mutant::is_on(Mutant::U04) => Need::AnyUser,
            Command::Compact { .. }
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::Downgrade(_)
            | Command::Members(_) => Need::Root,
            // Proposed by members, for whom everything is allowed.
            Command::LeaseExpire(_)
            | Command::LeaseCheckpoint(_)
            | Command::Publish(_)
            | Command::RaiseFeatureLevel(_) => Need::Root,
            Command::Auth(command) => match command {
                AuthCommand::OpenSession { .. } => Need::Nothing,
                AuthCommand::Enable
                | AuthCommand::Disable
                | AuthCommand::UserAdd { .. }
                | AuthCommand::UserDelete(_)
                | AuthCommand::UserChangePassword { .. }
                | AuthCommand::UserGrantRole { .. }
                | AuthCommand::UserRevokeRole { .. }
                | AuthCommand::RoleAdd(_)
                | AuthCommand::RoleDelete(_)
                | AuthCommand::RoleGrantPermission { .. }
                | AuthCommand::RoleRevokePermission { .. } => Need::Root,
            },
        };
        self.check(author, &need)
    }

    /// Whether the user's roles allow what `need` says about keys.
    fn allows(&self, reach: &Reach, need: &Need) -> bool {
        match need {
            Need::Read(range) => reach.reads(range),
            Need::Put(put) => self.allows_put(reach, put),
            Need::Delete(delete) => allows_delete(reach, delete),
            Need::Txn(txn) => self.allows_txn(reach, txn),
            Need::WriteLease(id) => self.writes_lease(reach, *id),
            Need::ReadLease(_) if mutant::is_on(Mutant::U05) => true,
            Need::ReadLease(id) => self.leases.keys(*id).into_iter().all(|key| reach.reads(&KeyRange::Key(key))),
            Need::ReadLeases => {
                self.leases.attachments().all(|(_, key)| reach.reads(&KeyRange::Key(crate::Blob::copy(key))))
            }
            Need::Nothing | Need::AnyUser | Need::Root | Need::User(_) | Need::Role(_) | Need::Command(_) => {
                unreachable!("decided without looking at keys")
            }
        }
    }

    fn allows_txn(&self, reach: &Reach, txn: &TxnRequest) -> bool {
        txn.compare.iter().all(|compare| reach.reads(&compare.range))
            && txn.success.iter().chain(&txn.failure).all(|op| match op {
                RequestOp::Range(range) => reach.reads(&range.range),
                RequestOp::Put(put) => self.allows_put(reach, put),
                RequestOp::DeleteRange(delete) => allows_delete(reach, delete),
                RequestOp::Txn(txn) => mutant::is_on(Mutant::U02) || self.allows_txn(reach, txn),
            })
    }

    /// Whoever attaches a key to a lease decides on the life of all its keys.
    fn allows_put(&self, reach: &Reach, put: &PutRequest) -> bool {
        let key = KeyRange::Key(put.key.clone());
        reach.writes(&key)
            && (!put.prev_kv || reach.reads(&key) || mutant::is_on(Mutant::U03))
            && put.lease.is_none_or(|lease| mutant::is_on(Mutant::U10) || self.writes_lease(reach, lease))
    }

    fn writes_lease(&self, reach: &Reach, id: LeaseId) -> bool {
        self.leases.keys(id).into_iter().all(|key| reach.writes(&KeyRange::Key(key)))
    }
}

fn allows_delete(reach: &Reach, delete: &DeleteRangeRequest) -> bool {
    reach.writes(&delete.range) && (!delete.prev_kv || reach.reads(&delete.range))
}

/// What a user reaches by its roles.
struct Reach<'a> {
    auth: &'a Auth,
    user: &'a User,
}

impl Reach<'_> {
    fn reads(&self, range: &KeyRange) -> bool {
        spans::cover(self.roles().map(|role| &role.reads), range)
    }

    fn writes(&self, range: &KeyRange) -> bool {
        spans::cover(self.roles().map(|role| &role.writes), range)
    }

    fn roles(&self) -> impl Iterator<Item = &super::Role> + Clone {
        // The role root is not looked up: it need not exist, and whoever has it is not asked for keys.
        let names = self.user.roles.iter().filter(|name| *name != ROOT);
        names.filter_map(|name| self.auth.roles.get(name).map(|role| &**role))
    }
}
