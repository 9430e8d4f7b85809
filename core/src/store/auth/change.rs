//! What commands do to users, roles and permissions. (etcd: service Auth; semantics.md section 9)

use alloc::string::String;
use alloc::sync::Arc;

use super::{Auth, AuthRow, CONTENT_BYTES_MAX, NAME_BYTES_MAX, Role, User};
use crate::auth::{AuthCommand, AuthRevision, Permission, ROOT};
use crate::command::Outcome;
use crate::error::Error;
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::store::apply::Builder;
use crate::store::hash::Effect;
use crate::store::{SessionChange, rows};
use crate::{Blob, LogIndex};

impl Builder<'_> {
    /// Entry `index` changes users or roles, or opens a session.
    pub(in crate::store) fn auth(&mut self, command: AuthCommand, index: LogIndex) -> Result<Outcome, Error> {
        match command {
            AuthCommand::Enable => self.enable()?,
            AuthCommand::Disable => self.disable(),
            AuthCommand::UserAdd { name, password, no_password } => self.user_add(name, password, no_password)?,
            AuthCommand::UserDelete(name) => self.user_delete(&name)?,
            AuthCommand::UserChangePassword { name, password } => self.change_password(name, password)?,
            AuthCommand::UserGrantRole { name, role } => self.grant_role(name, role)?,
            AuthCommand::UserRevokeRole { name, role } => self.revoke_role(name, &role)?,
            AuthCommand::RoleAdd(name) => self.role_add(name)?,
            AuthCommand::RoleDelete(name) => self.role_delete(&name)?,
            AuthCommand::RoleGrantPermission { role, permission } => self.grant_permission(role, permission)?,
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                self.revoke_permission(role, &(key, range_end))?;
            }
            AuthCommand::OpenSession { name, revision, secret } => {
                return self.open_session(name, revision, secret, index);
            }
        }
        Ok(Outcome::Done)
    }

    fn enable(&mut self) -> Result<(), Error> {
        let auth = self.state();
        if auth.enabled {
            return Ok(());
        }
        let root = auth.user(ROOT).ok_or(Error::RootUserNotExist)?;
        if !root.is_root() {
            return Err(Error::RootRoleNotExist);
        }
        self.change().enabled = true;
        self.write_state();
        Ok(())
    }

    fn disable(&mut self) {
        if self.state().enabled {
            self.change().enabled = false;
            self.sessions.push(SessionChange::AllGone);
            self.changed();
        }
    }

    fn user_add(&mut self, name: String, password: Option<String>, no_password: bool) -> Result<(), Error> {
        check_name(&name, Error::UserEmpty)?;
        if self.state().users.contains_key(&name) {
            return Err(Error::UserExists);
        }
        let password = password.filter(|_| !no_password);
        if password.is_none() && !no_password {
            return Err(Error::NoPasswordUser);
        }
        self.put_user(name, User { password, no_password, ..User::default() })?;
        self.changed();
        Ok(())
    }

    fn user_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.state().enabled && name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.find_user(name)?;
        self.change().users.remove(name);
        self.write(rows::user(name), None);
        self.sessions.push(SessionChange::UserGone(name.into()));
        self.changed();
        Ok(())
    }

    fn change_password(&mut self, name: String, password: Option<String>) -> Result<(), Error> {
        let mut user = self.find_user(&name)?;
        if !user.no_password {
            user.password = Some(password.ok_or(Error::NoPasswordUser)?);
        }
        self.put_user(name.clone(), user)?;
        if !mutant::is_on(Mutant::U12) {
            self.sessions.push(SessionChange::UserGone(name));
        }
        self.changed();
        Ok(())
    }

    fn grant_role(&mut self, name: String, role: String) -> Result<(), Error> {
        let mut user = self.find_user(&name)?;
        if role != ROOT && !self.state().roles.contains_key(&role) {
            return Err(Error::RoleNotFound);
        }
        if user.roles.insert(role) {
            self.put_user(name, user)?;
            self.changed();
        }
        Ok(())
    }

    fn revoke_role(&mut self, name: String, role: &str) -> Result<(), Error> {
        if self.state().enabled && name == ROOT && role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let mut user = self.find_user(&name)?;
        if !user.roles.remove(role) {
            return Err(Error::RoleNotGranted);
        }
        self.write_user(name, user);
        self.changed();
        Ok(())
    }

    fn role_add(&mut self, name: String) -> Result<(), Error> {
        check_name(&name, Error::RoleEmpty)?;
        if self.state().roles.contains_key(&name) {
            return Err(Error::RoleExists);
        }
        self.write_role(name, Role::default());
        self.changed();
        Ok(())
    }

    /// Removes a role, also from all users that have it.
    fn role_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.state().enabled && name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.find_role(name)?;
        self.change().roles.remove(name);
        self.write(rows::role(name), None);
        let holders = self.state().users.iter().filter(|(_, user)| user.roles.contains(name));
        let holders: alloc::vec::Vec<_> = holders.map(|(name, user)| (name.clone(), User::clone(user))).collect();
        for (holder, mut user) in holders {
            user.roles.remove(name);
            self.write_user(holder, user);
        }
        self.changed();
        Ok(())
    }

    fn grant_permission(&mut self, role: String, permission: Option<Permission>) -> Result<(), Error> {
        let Permission { allows, key, range_end } = permission.ok_or(Error::PermissionNotGiven)?;
        let ordered = range_end.is_empty() || range_end[..] == [0] || range_end > key;
        if key.is_empty() || !ordered {
            return Err(Error::InvalidAuthManagement);
        }
        let mut permissions = self.find_role(&role)?.permissions;
        permissions.insert((key, range_end), allows);
        if super::role_bytes(&permissions) > CONTENT_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        self.write_role(role, Role::of(permissions));
        self.changed();
        Ok(())
    }

    fn revoke_permission(&mut self, role: String, keys: &(Blob, Blob)) -> Result<(), Error> {
        let mut permissions = self.find_role(&role)?.permissions;
        permissions.remove(keys).ok_or(Error::PermissionNotGranted)?;
        let changed = match mutant::is_on(Mutant::U06) {
            false => Role::of(permissions),
            true => Role { permissions, ..self.find_role(&role)? },
        };
        self.write_role(role, changed);
        self.changed();
        Ok(())
    }

    fn open_session(
        &mut self,
        user: String,
        revision: AuthRevision,
        secret: String,
        index: LogIndex,
    ) -> Result<Outcome, Error> {
        let auth = self.state();
        if !auth.enabled {
            return Err(Error::AuthNotEnabled);
        }
        if auth.revision != revision {
            return Err(Error::AuthOldRevision);
        }
        self.sessions.push(SessionChange::Opened { index, secret, user });
        Ok(Outcome::SessionOpened(index))
    }

    fn state(&self) -> &Auth {
        &self.store.view.auth
    }

    fn change(&mut self) -> &mut Auth {
        Arc::make_mut(&mut self.store.view.auth)
    }

    fn find_user(&self, name: &str) -> Result<User, Error> {
        self.state().user(name).cloned().ok_or(Error::UserNotFound)
    }

    fn find_role(&self, name: &str) -> Result<Role, Error> {
        self.state().roles.get(name).map(|role| Role::clone(role)).ok_or(Error::RoleNotFound)
    }

    /// Stores a user that may have become larger.
    fn put_user(&mut self, name: String, user: User) -> Result<(), Error> {
        if user.bytes() > CONTENT_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        self.write_user(name, user);
        Ok(())
    }

    fn write_user(&mut self, name: String, user: User) {
        self.write(rows::user(&name), Some(codec::encode(&user)));
        self.change().users.insert(name, Arc::new(user));
    }

    fn write_role(&mut self, name: String, role: Role) {
        self.write(rows::role(&name), Some(codec::encode(&role.row())));
        self.change().roles.insert(name, Arc::new(role));
    }

    /// Something else is true of users and roles than before.
    fn changed(&mut self) {
        let auth = self.change();
        auth.revision = AuthRevision(auth.revision.0 + 1);
        self.write_state();
    }

    fn write_state(&mut self) {
        let row = AuthRow { enabled: self.state().enabled, revision: self.state().revision };
        self.write(rows::auth(), Some(codec::encode(&row)));
    }

    fn write(&mut self, key: Blob, value: Option<Blob>) {
        self.fold.effect(Effect::Auth).bytes(&key);
        if let Some(value) = &value {
            self.fold.bytes(value);
        }
        self.auth_rows.insert(key, value);
    }
}

fn check_name(name: &str, empty: Error) -> Result<(), Error> {
    match name.len() {
        0 => Err(empty),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Error::RequestTooLarge),
    }
}
