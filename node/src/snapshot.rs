//! Snapshot files: the state as etcd's own tools read it, from our rows to such a file and back.
//!
//! A snapshot is the bbolt file of etcd's backend, as version 3.5 lays it out and later ones still read, and behind it
//! the SHA-256 of it. Its buckets (etcd: server/storage/schema):
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | main 8, `_`, sub 8, big endian; `t` behind a tombstone's | mvccpb.KeyValue; a tombstone's has the key alone |
//! | `alarm` | etcdserverpb.AlarmMember | nothing |
//! | `auth` | `authEnabled` | 1 byte: 1 if so |
//! | | `authRevision` | 8 bytes, big endian |
//! | `authRoles`, `authUsers` | name | authpb.Role, authpb.User |
//! | `lease` | ID 8, big endian | leasepb.Lease |
//! | `meta` | `consistent_index`, `term` | 8 bytes, big endian |
//! | | `scheduledCompactRev`, `finishedCompactRev` | a key of bucket `key`, with sub 0 |
//! | | `confState` | the voters, in JSON |
//! | | `storageVersion` | text, since 3.6 |
//!
//! `cluster`, `members` and `members_removed` exist, but are empty: restoring, here and there, gives the cluster new members, so ours does not list them.

mod export;
#[cfg(feature = "server")]
mod file;
mod import;
mod status;

pub use export::{Export, Standing};
#[cfg(feature = "server")]
pub use file::{DiskFile, FileError};
pub use import::{EtcdFile, SnapshotError};
pub use status::{FileStatus, status};

use quorate_core::Revision;

/// The name of a bucket, and of a key in `meta`.
mod names {
    pub(super) const ALARM: &[u8] = b"alarm";
    pub(super) const AUTH: &[u8] = b"auth";
    pub(super) const AUTH_ENABLED: &[u8] = b"authEnabled";
    pub(super) const AUTH_REVISION: &[u8] = b"authRevision";
    pub(super) const AUTH_ROLES: &[u8] = b"authRoles";
    pub(super) const AUTH_USERS: &[u8] = b"authUsers";
    pub(super) const KEY: &[u8] = b"key";
    pub(super) const LEASE: &[u8] = b"lease";
    pub(super) const META: &[u8] = b"meta";
    pub(super) const CONF_STATE: &[u8] = b"confState";
    pub(super) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    pub(super) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
    pub(super) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
    pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
    pub(super) const TERM: &[u8] = b"term";
}

/// How long the SHA-256 behind a snapshot is.
pub const CHECKSUM_BYTES: usize = 32;

/// Whether a snapshot file of this length ends in its checksum: what comes before is whole pages. (etcd)
#[must_use]
pub fn has_checksum(bytes: u64) -> bool {
    bytes % 512 == CHECKSUM_BYTES as u64
}

/// A lease in bucket `lease`. (etcd: leasepb.Lease)
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct LeaseValue {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    /// 0 if no checkpoint is in force.
    #[prost(int64, tag = "3")]
    remaining: i64,
}

/// The key of a change in bucket `key`.
fn revision_key(main: Revision, sub: u32, is_tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&main.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&u64::from(sub).to_be_bytes());
    if is_tombstone {
        key.push(b't');
    }
    key
}

/// The change that `key` of bucket `key` names: main, sub, and whether it is a tombstone.
fn parse_revision_key(key: &[u8]) -> Option<(Revision, u32, bool)> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let (sub, rest) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
    let is_tombstone = match rest {
        b"" => false,
        b"t" => true,
        _ => return None,
    };
    Some((Revision(i64::from_be_bytes(*main)), u32::try_from(u64::from_be_bytes(*sub)).ok()?, is_tombstone))
}

#[cfg(test)]
mod tests;
