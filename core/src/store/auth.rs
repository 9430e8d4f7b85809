//! Who the users are and what their roles allow: part of the replicated state. (etcd: auth store)

mod change;
mod permit;
mod spans;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bincode::{Decode, Encode};

pub use permit::Need;

use crate::Blob;
use crate::auth::{Allows, AuthRevision, Permission, ROOT};
use crate::blob::Source;
use crate::format::codec::MESSAGE_BYTES_MAX;
use spans::Spans;

/// Users and roles. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Auth {
    enabled: bool,
    revision: AuthRevision,
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct User {
    /// The hash of its password; `None` if it has none.
    pub password: Option<String>,
    /// It cannot authenticate.
    pub no_password: bool,
    /// Its roles. `root` may be among them without existing. (etcd)
    pub roles: BTreeSet<String>,
}

impl User {
    fn is_root(&self) -> bool {
        self.roles.contains(ROOT)
    }

    /// What its roles add up to: more than its row has.
    fn bytes(&self) -> usize {
        let password = self.password.as_ref().map_or(0, String::len);
        password + self.roles.iter().map(|role| role.len() + ITEM_BYTES).sum::<usize>()
    }
}

/// A role. What it allows is kept in two forms: as granted, and merged.
#[derive(Clone, Debug, Default)]
struct Role {
    /// By key and range end.
    permissions: BTreeMap<(Blob, Blob), Allows>,
    reads: Spans,
    writes: Spans,
}

impl Role {
    fn of(permissions: BTreeMap<(Blob, Blob), Allows>) -> Self {
        let merged = |wanted: fn(Allows) -> bool| {
            let granted = permissions.iter().filter(|(_, allows)| wanted(**allows));
            Spans::merge(granted.map(|((key, end), _)| spans::span(key, end)))
        };
        let (reads, writes) = (merged(Allows::reading), merged(Allows::writing));
        Self { permissions, reads, writes }
    }
}

/// All that is stored about users and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthState {
    /// Whether requests are checked at all.
    pub enabled: bool,
    /// Counts changes.
    pub revision: AuthRevision,
    /// By name.
    pub users: BTreeMap<String, User>,
    /// Their permissions by name.
    pub roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for AuthState {
    fn default() -> Self {
        Auth::default().state()
    }
}

/// The row of the state as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub(super) struct AuthRow {
    pub(super) enabled: bool,
    pub(super) revision: AuthRevision,
}

/// The row of a role: its permissions by key and range end.
pub(super) type RoleRow = Vec<Permission>;

impl Default for Auth {
    fn default() -> Self {
        Self { enabled: false, revision: AuthRevision(1), users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Auth {
    /// Whether requests are checked at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes.
    #[must_use]
    pub fn revision(&self) -> AuthRevision {
        self.revision
    }

    /// The user of that name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// All users' names, in order of their bytes.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// All roles' names, in order of their bytes.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The permissions of a role by key; `None` if there is no such role. The role root has all of them.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<Vec<Permission>> {
        let role = self.roles.get(name)?;
        if name == ROOT {
            let (key, range_end) = (Blob::EMPTY, Blob::copy(&[0]));
            return Some(alloc::vec![Permission { allows: Allows::ReadWrite, key, range_end }]);
        }
        Some(role.row())
    }

    /// Everything, as it is stored.
    #[must_use]
    pub fn state(&self) -> AuthState {
        let users = self.users.iter().map(|(name, user)| (name.clone(), (**user).clone()));
        let roles = self.roles.iter().map(|(name, role)| (name.clone(), role.row()));
        let (enabled, revision) = (self.enabled, self.revision);
        AuthState { enabled, revision, users: users.collect(), roles: roles.collect() }
    }

    /// Takes over the row of the state as a whole.
    pub(super) fn restore(&mut self, row: AuthRow) {
        (self.enabled, self.revision) = (row.enabled, row.revision);
    }

    pub(super) fn restore_user(&mut self, name: String, user: User) {
        self.users.insert(name, Arc::new(user));
    }

    pub(super) fn restore_role(&mut self, name: String, row: RoleRow) {
        let permissions = row.into_iter().map(|permission| {
            let Permission { allows, key, range_end } = permission;
            ((key, range_end), allows)
        });
        self.roles.insert(name, Arc::new(Role::of(permissions.collect())));
    }

    /// What contradicts itself after all rows were restored.
    pub(super) fn contradiction(&self) -> Option<String> {
        if self.revision.0 == 0 {
            return Some("users of revision 0".into());
        }
        for (name, user) in &self.users {
            if let Some(role) = user.roles.iter().find(|role| *role != ROOT && !self.roles.contains_key(*role)) {
                return Some(alloc::format!("user {name:?} has role {role:?}, which does not exist"));
            }
        }
        None
    }

    /// What is larger than any change would have let it become.
    pub(super) fn excess(&self) -> Option<String> {
        let roles = self.roles.iter().map(|(name, role)| ("role", name, role_bytes(&role.permissions)));
        let users = self.users.iter().map(|(name, user)| ("user", name, user.bytes()));
        let (what, name, bytes) = roles.chain(users).find(|(_, _, bytes)| *bytes > CONTENT_BYTES_MAX)?;
        Some(alloc::format!("{what} {name:?} has {bytes} bytes, more than {CONTENT_BYTES_MAX}"))
    }
}

impl Role {
    fn row(&self) -> RoleRow {
        let permission = |((key, range_end), allows): (&(Blob, Blob), &Allows)| Permission {
            allows: *allows,
            key: key.clone(),
            range_end: range_end.clone(),
        };
        self.permissions.iter().map(permission).collect()
    }
}

/// What the permissions of a role add up to: more than their row has.
fn role_bytes(permissions: &BTreeMap<(Blob, Blob), Allows>) -> usize {
    permissions.keys().map(|(key, range_end)| key.len() + range_end.len() + ITEM_BYTES).sum()
}

/// What an item costs beyond its name or keys.
const ITEM_BYTES: usize = 64;

/// The most that one user's roles, or one role's permissions, may add up to: each change copies, stores and hashes all of
/// them, and a snapshot sends them in one piece. A permission may be as long as requests are by default, twice.
const CONTENT_BYTES_MAX: usize = 4 << 20;
const _: () = assert!(CONTENT_BYTES_MAX < MESSAGE_BYTES_MAX / 4, "a row is encoded in one piece, and a chunk holds it");

/// The longest name that has a row: its key is the name and a tag.
pub(super) const NAME_BYTES_MAX: usize = crate::rows::ROW_KEY_BYTES_MAX - 1;
