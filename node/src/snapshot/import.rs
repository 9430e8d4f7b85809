//! From a snapshot file, ours or etcd's, or the file in etcd's own data directory, to a store's history.

use prost::Message as _;
use quorate_api::{authpb, etcdserverpb as pb, mvccpb};
use quorate_core::auth::AuthRevision;
use quorate_core::request::{Alarm, AlarmKind, KeyValue, Lease};
use quorate_core::store::{AuthState, Change, History, Import, ImportError, LeaseRecord, User};
use quorate_core::{Blob, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};

use super::{LeaseValue, names, parse_revision_key, revision_key};
use crate::bolt::{BoltError, Bucket, Reader, Source};
use crate::wire::request;

/// Why a file is no snapshot, or cannot be made a state of.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// It is a bbolt file, but not of etcd.
    #[error("not a snapshot of etcd: it has no bucket {0:?}")]
    Foreign(String),
    /// An entry of it is not what it should be.
    #[error("bucket {bucket:?}, key {key}: {reason}")]
    Malformed {
        /// The bucket.
        bucket: String,
        /// The key, escaped.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// It contradicts itself.
    #[error("the history is damaged: {0}")]
    History(#[from] ImportError),
    /// What was made of it could not be stored.
    #[error("{0}")]
    Write(String),
}

pub(super) fn malformed(bucket: &[u8], key: &[u8], reason: impl Into<String>) -> SnapshotError {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    SnapshotError::Malformed { bucket: text(bucket), key: text(key), reason: reason.into() }
}

/// An open file of etcd's backend.
#[derive(Debug)]
pub struct EtcdFile<S> {
    reader: Reader<S>,
    keys: Bucket,
}

impl<S: Source> EtcdFile<S> {
    /// Opens the bbolt file that `source` holds; no checksum may follow it.
    ///
    /// # Errors
    /// It is none, or has no keys.
    pub fn open(source: S) -> Result<Self, SnapshotError> {
        let reader = Reader::open(source)?;
        let keys = reader.bucket(names::KEY)?.ok_or_else(|| SnapshotError::Foreign("key".to_owned()))?;
        Ok(Self { reader, keys })
    }

    /// What it holds beside its history: for a log that starts after entry `index` of `term`.
    ///
    /// # Errors
    /// Part of it is malformed.
    pub fn import(&self, index: LogIndex, term: Term) -> Result<Import, SnapshotError> {
        let (leases, alarms, auth) = (self.leases()?, self.alarms()?, self.auth()?);
        Ok(Import { leases, alarms, auth, floor: self.floor()?, bump: 0, index, term })
    }

    fn leases(&self) -> Result<Vec<LeaseRecord>, SnapshotError> {
        let mut leases = Vec::new();
        self.each(names::LEASE, |key, value| {
            let lease = LeaseValue::decode(value).map_err(|error| malformed(names::LEASE, key, error.to_string()))?;
            if *key != lease.id.to_be_bytes() {
                return Err(malformed(names::LEASE, key, format!("it holds lease {:x}", lease.id)));
            }
            let remaining = (lease.remaining > 0).then_some(Ttl(lease.remaining));
            leases.push(LeaseRecord { lease: Lease { id: LeaseId(lease.id), ttl: Ttl(lease.ttl) }, remaining });
            Ok(())
        })?;
        Ok(leases)
    }

    fn alarms(&self) -> Result<Vec<Alarm>, SnapshotError> {
        let mut alarms = Vec::new();
        self.each(names::ALARM, |key, _| {
            let wrong = |reason: String| malformed(names::ALARM, key, reason);
            let alarm = pb::AlarmMember::decode(key).map_err(|error| wrong(error.to_string()))?;
            let kind = match alarm.alarm() {
                pb::AlarmType::Nospace => AlarmKind::NoSpace,
                pb::AlarmType::Corrupt => AlarmKind::Corrupt,
                pb::AlarmType::None => return Err(wrong(format!("alarm {}", alarm.alarm))),
            };
            alarms.push(Alarm { kind, member: NodeId(alarm.member_id) });
            Ok(())
        })?;
        Ok(alarms)
    }

    fn auth(&self) -> Result<AuthState, SnapshotError> {
        let mut auth = AuthState::default();
        self.each(names::AUTH, |key, value| {
            let wrong = || malformed(names::AUTH, key, format!("{value:?}"));
            if *key == *names::AUTH_ENABLED {
                auth.enabled = *value == [1];
            } else if *key == *names::AUTH_REVISION {
                // 0 before anything was ever changed.
                auth.revision = AuthRevision(u64::from_be_bytes(value.try_into().map_err(|_| wrong())?).max(1));
            }
            Ok(())
        })?;
        self.each(names::AUTH_ROLES, |key, value| {
            let wrong = |reason: String| malformed(names::AUTH_ROLES, key, reason);
            let role = authpb::Role::decode(value).map_err(|error| wrong(error.to_string()))?;
            let name = String::from_utf8(key.to_vec()).map_err(|error| wrong(error.to_string()))?;
            auth.roles.insert(name, role.key_permission.into_iter().map(request::permission).collect());
            Ok(())
        })?;
        self.each(names::AUTH_USERS, |key, value| {
            let wrong = |reason: String| malformed(names::AUTH_USERS, key, reason);
            let user = authpb::User::decode(value).map_err(|error| wrong(error.to_string()))?;
            let name = String::from_utf8(key.to_vec()).map_err(|error| wrong(error.to_string()))?;
            let password = String::from_utf8(user.password.into()).map_err(|error| wrong(error.to_string()))?;
            let user = User {
                password: (!password.is_empty()).then_some(password),
                no_password: user.options.is_some_and(|options| options.no_password),
                roles: user.roles.into_iter().collect(),
            };
            auth.users.insert(name, user);
            Ok(())
        })?;
        Ok(auth)
    }

    /// The newest compaction, done or begun: etcd finishes one when it starts.
    fn floor(&self) -> Result<Revision, SnapshotError> {
        let mut floor = Revision(-1);
        self.each(names::META, |key, value| {
            if *key == *names::SCHEDULED_COMPACTION || *key == *names::FINISHED_COMPACTION {
                let (main, ..) =
                    parse_revision_key(value).ok_or_else(|| malformed(names::META, key, "not a revision"))?;
                floor = floor.max(main);
            }
            Ok(())
        })?;
        Ok(if floor.0 > 0 { floor } else { Revision(-1) })
    }

    /// Every key of a bucket, which may not exist.
    fn each(
        &self,
        bucket: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Some(bucket) = self.reader.bucket(bucket)? else { return Ok(()) };
        let mut cursor = self.reader.walk(&bucket);
        while let Some((key, value)) = cursor.next()? {
            visit(&key, &value)?;
        }
        Ok(())
    }
}

impl<S: Source> History for EtcdFile<S> {
    type Error = SnapshotError;

    fn changes(&self, visit: &mut dyn FnMut(Change) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
        let mut cursor = self.reader.walk(&self.keys);
        while let Some((key, value)) = cursor.next()? {
            visit(change(&key, value)?)?;
        }
        Ok(())
    }

    fn value(&self, revision: Revision, sub: u32) -> Result<Blob, SnapshotError> {
        let key = revision_key(revision, sub, false);
        let value = self.reader.get(&self.keys, &key)?;
        let value = value.ok_or_else(|| malformed(names::KEY, &key, "found in passing, but not by its name"))?;
        Ok(change(&key, value)?.kv.value)
    }
}

fn change(key: &[u8], value: bytes::Bytes) -> Result<Change, SnapshotError> {
    let wrong = |reason: String| malformed(names::KEY, key, reason);
    let (main, sub, deleted) = parse_revision_key(key).ok_or_else(|| wrong("not a revision".to_owned()))?;
    let kv = mvccpb::KeyValue::decode(value).map_err(|error| wrong(error.to_string()))?;
    // Where etcdutl bumped the revision it leaves an empty message.
    let is_mark = kv.key.is_empty();
    if !deleted && !is_mark && kv.mod_revision != main.0 {
        return Err(wrong(format!("it holds a change of revision {}", kv.mod_revision)));
    }
    let value_bytes = u32::try_from(kv.value.len()).map_err(|_| wrong("its value is too long".to_owned()))?;
    let kv = if deleted { mvccpb::KeyValue { key: kv.key, ..mvccpb::KeyValue::default() } } else { kv };
    let kv = KeyValue {
        key: Blob(kv.key),
        create_revision: Revision(kv.create_revision),
        mod_revision: main,
        version: kv.version,
        value: Blob(kv.value),
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    };
    Ok(Change { kv, sub, deleted, value_bytes: if deleted { 0 } else { value_bytes } })
}
