//! Users, roles and permissions: the words in which they are replicated, and who asks for what.
//!
//! What they do to the state, and the one place that decides who may do what, is in `store::auth`.

use alloc::string::String;

use bincode::{Decode, Encode};

use crate::Blob;
use crate::blob::Source;

mod sessions;

pub use sessions::Sessions;

/// The user without whom authentication cannot be enabled, and the role that may do everything. (etcd)
pub const ROOT: &str = "root";

/// On whose behalf a command is replicated, or a request answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Author {
    /// A client that did not say who it is, or was not asked to.
    #[default]
    Nobody,
    /// A member of the cluster, for the cluster's own purposes.
    Member,
    /// A user, whom a member has recognised.
    User {
        /// Its name.
        name: String,
        /// The [`AuthRevision`] at which it was recognised: what it asks for keys is refused once that has changed.
        revision: AuthRevision,
    },
}

/// Counts the changes of users, roles and permissions; 1 before the first. (etcd: authRevision)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct AuthRevision(pub u64);

/// What a permission allows. (etcd: Permission.Type)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub enum Allows {
    Read,
    Write,
    ReadWrite,
    /// A number outside etcd's enum: stored and answered, and allows nothing, as etcd has it.
    Unknown(i32),
}

impl Allows {
    pub(crate) fn reading(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    pub(crate) fn writing(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// One permission of a role, with the keys as they are on the wire: that is how they are told apart when revoked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct Permission {
    /// What it allows.
    pub allows: Allows,
    /// The first key.
    pub key: Blob,
    /// Empty: that key alone. A zero byte: every key from it on. Else the first key no longer covered.
    pub range_end: Blob,
}

/// A change of users, roles and permissions. (etcd: service Auth)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum AuthCommand {
    /// (etcd: AuthEnable)
    Enable,
    /// (etcd: AuthDisable)
    Disable,
    /// (etcd: UserAdd)
    UserAdd {
        /// Its name.
        name: String,
        /// The hash of its password; `None` until the member that was asked has made it, or with `no_password`.
        password: Option<String>,
        /// It cannot authenticate: only a client certificate can name it.
        no_password: bool,
    },
    /// (etcd: UserDelete)
    UserDelete(String),
    /// (etcd: UserChangePassword)
    UserChangePassword {
        /// Its name.
        name: String,
        /// As in `UserAdd`.
        password: Option<String>,
    },
    /// (etcd: UserGrantRole)
    UserGrantRole {
        /// The user.
        name: String,
        /// The role it gets.
        role: String,
    },
    /// (etcd: UserRevokeRole)
    UserRevokeRole {
        /// The user.
        name: String,
        /// The role it loses.
        role: String,
    },
    /// (etcd: RoleAdd)
    RoleAdd(String),
    /// (etcd: RoleDelete)
    RoleDelete(String),
    /// (etcd: RoleGrantPermission)
    RoleGrantPermission {
        /// The role.
        role: String,
        /// What it gets; the client may have left it out.
        permission: Option<Permission>,
    },
    /// (etcd: RoleRevokePermission)
    RoleRevokePermission {
        /// The role.
        role: String,
        /// As granted.
        key: Blob,
        /// As granted.
        range_end: Blob,
    },
    /// (etcd: Authenticate) A member has compared the password and opens a session, on every member.
    OpenSession {
        /// The user.
        name: String,
        /// When the password was compared: the session is not opened if anything has changed since.
        revision: AuthRevision,
        /// The part of the token that nobody can guess.
        secret: String,
    },
}

impl AuthCommand {
    /// Fills in the hash of a password that the client sent.
    pub fn seal(&mut self, hash: String) {
        if let Self::UserAdd { password, .. } | Self::UserChangePassword { password, .. } = self {
            *password = Some(hash);
        }
    }
}
