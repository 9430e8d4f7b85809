//! The reference monitor: who may do what, as too simple to be wrong. (etcd: auth; semantics.md section 9)
//!
//! Nothing is merged, indexed or remembered. A range is allowed if each of its *critical* keys is: where it begins, and
//! wherever some permission begins or ends within it; between two of those nothing can change.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::auth::{Allows, AuthCommand, Author, Permission};
use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{KeyRange, PutRequest, RequestOp, TxnRequest};
use quorate_core::{Blob, LeaseId};

/// Users, roles and permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitor {
    /// Whether anybody is asked who they are.
    pub enabled: bool,
    /// Changes so far; the store counts from 1.
    pub changes: u64,
    /// Roles of each user, and whether it has a password.
    pub users: BTreeMap<String, (BTreeSet<String>, bool)>,
    /// What was granted to each role, in no order.
    pub roles: BTreeMap<String, Vec<Permission>>,
}

/// What a user wants with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Read,
    Write,
}

/// Something asked of the store that is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// Whoever asks is answered.
    Open,
    /// For users.
    AnyUser,
    /// For root.
    Root,
    /// For root and this user.
    User(&'a str),
    /// For root and who has this role.
    Role(&'a str),
    /// What is in these keys.
    Read(&'a KeyRange),
    /// A txn that only reads.
    Txn(&'a TxnRequest),
    /// To let a lease with these keys live on.
    WriteKeys(&'a [Blob]),
    /// To be told that these keys are attached to a lease.
    ReadKeys(&'a [Blob]),
}

impl Monitor {
    /// What `user` is refused for `question`, if anything; `None` does not say who it is.
    ///
    /// # Errors
    /// The store's.
    pub fn answer(&self, user: Option<&str>, question: Question<'_>) -> Result<(), Error> {
        let is_open = match question {
            Question::Open => true,
            Question::Txn(txn) => txn.is_void(),
            Question::User(other) => other.is_empty() && user.is_none(),
            _ => false,
        };
        if !self.enabled || is_open {
            return Ok(());
        }
        let name = user.ok_or(Error::UserEmpty)?;
        let roles = self.users.get(name).map(|(roles, _)| roles);
        let is_root = roles.is_some_and(|roles| roles.contains("root"));
        let covers = |want, range: &KeyRange| roles.is_some_and(|roles| self.covers(roles, want, range));
        let each = |want, keys: &[Blob]| keys.iter().all(|key| covers(want, &KeyRange::Key(key.clone())));
        let allowed = match question {
            Question::Open => true,
            Question::AnyUser => return roles.map(|_| ()).ok_or(Error::UserNotFound),
            Question::Root | Question::Role(_) | Question::User(_)
                if roles.is_none() && question != Question::User(name) =>
            {
                return Err(Error::UserNotFound);
            }
            Question::Root => false,
            Question::User(other) => other == name,
            Question::Role(role) => roles.is_some_and(|roles| roles.contains(role)),
            Question::Read(range) => covers(Want::Read, range),
            Question::Txn(txn) => roles.is_some_and(|roles| self.allows_txn(roles, txn, &|_| Vec::new())),
            Question::WriteKeys(keys) => roles.is_some() && each(Want::Write, keys),
            Question::ReadKeys(keys) => roles.is_some() && each(Want::Read, keys),
        };
        if allowed || is_root { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    /// What `author` is refused for `command`, if anything. `attached` tells the keys of a lease.
    ///
    /// # Errors
    /// The store's.
    pub fn check(
        &self,
        author: &Author,
        command: &Command,
        attached: &dyn Fn(LeaseId) -> Vec<Blob>,
    ) -> Result<(), Error> {
        if !self.enabled
            || *author == Author::Member
            || matches!(command, Command::Auth(AuthCommand::OpenSession { .. }))
            || matches!(command, Command::Txn(txn) if txn.is_void())
        {
            return Ok(());
        }
        let Author::User { name, revision } = author else { return Err(Error::UserEmpty) };
        let roles = self.users.get(name).map(|(roles, _)| roles);
        let is_root = roles.is_some_and(|roles| roles.contains("root"));
        let allowed = match command {
            Command::LeaseGrant(_) => return roles.map(|_| ()).ok_or(Error::UserNotFound),
            Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_) | Command::LeaseRevoke(_) => {
                if *revision != self.revision() {
                    return Err(Error::AuthOldRevision);
                }
                is_root || roles.is_some_and(|roles| self.allows(roles, command, attached))
            }
            _ if roles.is_none() => return Err(Error::UserNotFound),
            _ => is_root,
        };
        if allowed { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    /// The store's count of changes.
    #[must_use]
    pub fn revision(&self) -> quorate_core::auth::AuthRevision {
        quorate_core::auth::AuthRevision(self.changes + 1)
    }

    /// Whether `user` may read all of `range`.
    #[must_use]
    pub fn reads(&self, user: &str, range: &KeyRange) -> bool {
        let Some((roles, _)) = self.users.get(user) else { return false };
        roles.contains("root") || self.covers(roles, Want::Read, range)
    }

    fn allows(&self, roles: &BTreeSet<String>, command: &Command, attached: &dyn Fn(LeaseId) -> Vec<Blob>) -> bool {
        let one = |op| TxnRequest { success: vec![op], ..TxnRequest::default() };
        match command {
            Command::Put(put) => self.allows_txn(roles, &one(RequestOp::Put(put.clone())), attached),
            Command::DeleteRange(delete) => {
                self.allows_txn(roles, &one(RequestOp::DeleteRange(delete.clone())), attached)
            }
            Command::Txn(txn) => self.allows_txn(roles, txn, attached),
            Command::LeaseRevoke(id) => self.writes_all(roles, attached(*id)),
            other => panic!("{other:?} is not about keys"),
        }
    }

    fn allows_txn(&self, roles: &BTreeSet<String>, txn: &TxnRequest, attached: &dyn Fn(LeaseId) -> Vec<Blob>) -> bool {
        let reads = |range: &KeyRange| self.covers(roles, Want::Read, range);
        let writes = |range: &KeyRange| self.covers(roles, Want::Write, range);
        let puts = |put: &PutRequest| {
            let key = KeyRange::Key(put.key.clone());
            let lease = put.lease.map(attached).unwrap_or_default();
            writes(&key) && (!put.prev_kv || reads(&key)) && self.writes_all(roles, lease)
        };
        for compare in &txn.compare {
            if !reads(&compare.range) {
                return false;
            }
        }
        for op in txn.success.iter().chain(&txn.failure) {
            let allowed = match op {
                RequestOp::Range(range) => reads(&range.range),
                RequestOp::Put(put) => puts(put),
                RequestOp::DeleteRange(delete) => writes(&delete.range) && (!delete.prev_kv || reads(&delete.range)),
                RequestOp::Txn(nested) => mutant::is_on(Mutant::J11) || self.allows_txn(roles, nested, attached),
            };
            if !allowed {
                return false;
            }
        }
        true
    }

    fn writes_all(&self, roles: &BTreeSet<String>, keys: Vec<Blob>) -> bool {
        keys.into_iter().all(|key| self.covers(roles, Want::Write, &KeyRange::Key(key)))
    }

    fn covers(&self, roles: &BTreeSet<String>, want: Want, range: &KeyRange) -> bool {
        let granted: Vec<&Permission> = roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .filter(|permission| match (permission.allows, want) {
                (Allows::Read, Want::Read) | (Allows::Write, Want::Write) | (Allows::ReadWrite, _) => true,
                (Allows::Read | Allows::Write | Allows::Unknown(_), _) => false,
            })
            .collect();
        let is_granted = |key: &[u8]| granted.iter().any(|permission| contains(permission, key));
        let mut critical: Vec<Vec<u8>> = vec![range.start().to_vec()];
        for permission in &granted {
            critical.push(permission.key.to_vec());
            critical.push(permission.range_end.to_vec());
            critical.push([&permission.key[..], &[0]].concat());
        }
        critical.truncate(if mutant::is_on(Mutant::J10) { 1 } else { usize::MAX });
        critical.iter().filter(|key| range.contains(key) || **key == range.start().to_vec()).all(|key| is_granted(key))
    }

    /// What `command` does to users and roles, once it is allowed.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub fn change(&mut self, command: &AuthCommand) -> Result<(), Error> {
        let before = self.clone();
        let result = self.try_change(command);
        if result.is_err() {
            *self = before;
        }
        result
    }

    fn try_change(&mut self, command: &AuthCommand) -> Result<(), Error> {
        let locked = self.enabled;
        let root = |name: &str| locked && name == "root";
        match command {
            AuthCommand::Enable => {
                let (roles, _) = self.users.get("root").ok_or(Error::RootUserNotExist)?;
                if !roles.contains("root") {
                    return Err(Error::RootRoleNotExist);
                }
                self.enabled = true;
                return Ok(());
            }
            AuthCommand::Disable if !self.enabled => return Ok(()),
            AuthCommand::Disable => self.enabled = false,
            AuthCommand::UserAdd { name, .. } if name.is_empty() => return Err(Error::UserEmpty),
            AuthCommand::UserAdd { name, password, no_password } => {
                if self.users.contains_key(name) {
                    return Err(Error::UserExists);
                }
                if password.is_none() && !no_password {
                    return Err(Error::NoPasswordUser);
                }
                self.users.insert(name.clone(), (BTreeSet::new(), !no_password));
            }
            AuthCommand::UserDelete(name) if root(name) => return Err(Error::InvalidAuthManagement),
            AuthCommand::UserDelete(name) => drop(self.users.remove(name).ok_or(Error::UserNotFound)?),
            AuthCommand::UserChangePassword { name, password } => {
                let (_, has_one) = self.users.get(name).ok_or(Error::UserNotFound)?;
                if *has_one && password.is_none() {
                    return Err(Error::NoPasswordUser);
                }
            }
            AuthCommand::UserGrantRole { name, role } => {
                let exists = role == "root" || self.roles.contains_key(role);
                let (roles, _) = self.users.get_mut(name).ok_or(Error::UserNotFound)?;
                if !exists {
                    return Err(Error::RoleNotFound);
                }
                if !roles.insert(role.clone()) {
                    return Ok(());
                }
            }
            AuthCommand::UserRevokeRole { name, role } => {
                if root(name) && root(role) {
                    return Err(Error::InvalidAuthManagement);
                }
                let (roles, _) = self.users.get_mut(name).ok_or(Error::UserNotFound)?;
                if !roles.remove(role) {
                    return Err(Error::RoleNotGranted);
                }
            }
            AuthCommand::RoleAdd(role) if role.is_empty() => return Err(Error::RoleEmpty),
            AuthCommand::RoleAdd(role) => {
                if self.roles.insert(role.clone(), Vec::new()).is_some() {
                    return Err(Error::RoleExists);
                }
            }
            AuthCommand::RoleDelete(role) if root(role) => return Err(Error::InvalidAuthManagement),
            AuthCommand::RoleDelete(role) => {
                self.roles.remove(role).ok_or(Error::RoleNotFound)?;
                for (roles, _) in self.users.values_mut().filter(|_| !mutant::is_on(Mutant::J12)) {
                    roles.remove(role);
                }
            }
            AuthCommand::RoleGrantPermission { role, permission } => {
                let permission = permission.clone().ok_or(Error::PermissionNotGiven)?;
                let (key, end) = (&permission.key, &permission.range_end);
                if key.is_empty() || !(end.is_empty() || end[..] == [0] || key < end) {
                    return Err(Error::InvalidAuthManagement);
                }
                let permissions = self.roles.get_mut(role).ok_or(Error::RoleNotFound)?;
                permissions.retain(|old| (&old.key, &old.range_end) != (key, end));
                permissions.push(permission);
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                let permissions = self.roles.get_mut(role).ok_or(Error::RoleNotFound)?;
                let before = permissions.len();
                permissions.retain(|old| (&old.key, &old.range_end) != (key, range_end));
                if permissions.len() == before {
                    return Err(Error::PermissionNotGranted);
                }
            }
            AuthCommand::OpenSession { revision, .. } => {
                if !self.enabled {
                    return Err(Error::AuthNotEnabled);
                }
                return if *revision == self.revision() { Ok(()) } else { Err(Error::AuthOldRevision) };
            }
        }
        self.changes += 1;
        Ok(())
    }
}

fn contains(permission: &Permission, key: &[u8]) -> bool {
    let (first, end) = (&permission.key[..], &permission.range_end[..]);
    match end {
        [] => key == first,
        [0] => key >= first,
        _ => key >= first && key < end,
    }
}
