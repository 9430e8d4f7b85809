//! From a published state to a snapshot file, piece by piece, at the pace of whoever takes it.
//!
//! The file begins with where it ends, so the state is gone through twice: first the records alone, whose sizes lay out
//! every page, then with the values. Spooling to a file would read once, but needs as much disk as the backup takes, just
//! when somebody may want one because the disk is full. Meanwhile the state is pinned: what compaction removes stays on
//! disk until the last piece is taken.

use std::collections::BTreeMap;

use prost::Message as _;
use quorate_api::{authpb, etcdserverpb as pb, mvccpb};
use quorate_core::auth::Permission;
use quorate_core::request::{Alarm, AlarmKind};
use quorate_core::rows::Rows;
use quorate_core::store::{AuthState, Change, LeaseRecord, User, View};
use quorate_core::{LogIndex, NodeId, Revision, Term};
use sha2::{Digest as _, Sha256};

use super::{LeaseValue, names, revision_key};
use crate::bolt::{Plan, Writer};
use crate::wire::response;

/// A snapshot file that is being written.
pub struct Export<R> {
    view: View,
    rows: R,
    buckets: Buckets,
    plan: Plan,
    writer: Writer,
    stage: Stage,
    digest: Sha256,
}

/// What stands in each bucket but `key`, by name.
type Buckets = BTreeMap<&'static [u8], BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Clone, Copy, Debug)]
enum Stage {
    Keys(Revision, u32),
    Checksum,
    End,
}

/// Where consensus stands, as the file says it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The last entry that the state contains.
    pub applied: LogIndex,
    /// The current term.
    pub term: Term,
    /// The cluster's voters.
    pub voters: Vec<NodeId>,
}

impl<R: Rows> Export<R> {
    /// Lays the file out: reads every record, so it takes a while. `rows` are those that `view` was published with.
    #[must_use]
    pub fn new(view: View, rows: R, standing: &Standing) -> Self {
        let buckets = buckets(&view, standing);
        let mut writer = Writer::planning();
        before_keys(&mut writer, &buckets);
        let mut next = Some(FIRST);
        while let Some(from) = next {
            let (changes, then) = view.changes(&rows, from, false);
            for change in &changes {
                let (main, sub) = (change.kv.mod_revision, change.sub);
                writer.plan(&revision_key(main, sub, change.deleted), value_bytes(change));
            }
            next = then;
        }
        after_keys(&mut writer, &buckets);
        let plan = writer.finish();
        let mut writer = Writer::new(plan);
        before_keys(&mut writer, &buckets);
        let stage = Stage::Keys(FIRST.0, FIRST.1);
        Self { view, rows, buckets, plan, writer, stage, digest: Sha256::new() }
    }

    /// The file's length without its checksum.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.plan.bytes()
    }

    /// The next piece of the file, of some MiB at most unless a value is larger; at last its checksum, alone.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        loop {
            let from = match self.stage {
                Stage::Keys(main, sub) => (main, sub),
                Stage::Checksum => {
                    self.stage = Stage::End;
                    return Some(self.digest.finalize_reset().to_vec());
                }
                Stage::End => return None,
            };
            let (changes, next) = self.view.changes(&self.rows, from, true);
            for change in changes {
                let key = revision_key(change.kv.mod_revision, change.sub, change.deleted);
                self.writer.put(&key, &value(change));
            }
            self.stage = match next {
                Some((main, sub)) => Stage::Keys(main, sub),
                None => {
                    after_keys(&mut self.writer, &self.buckets);
                    self.writer.finish();
                    Stage::Checksum
                }
            };
            let piece = self.writer.take();
            if !piece.is_empty() {
                self.digest.update(&piece);
                return Some(piece);
            }
        }
    }
}

const FIRST: (Revision, u32) = (Revision(0), 0);

fn before_keys(writer: &mut Writer, buckets: &Buckets) {
    buckets.range(..names::KEY).for_each(|(name, keys)| bucket(writer, name, keys));
    writer.bucket(names::KEY);
}

fn after_keys(writer: &mut Writer, buckets: &Buckets) {
    buckets.range(names::KEY..).for_each(|(name, keys)| bucket(writer, name, keys));
}

fn bucket(writer: &mut Writer, name: &[u8], keys: &BTreeMap<Vec<u8>, Vec<u8>>) {
    writer.bucket(name);
    keys.iter().for_each(|(key, value)| writer.put(key, value));
}

fn buckets(view: &View, standing: &Standing) -> Buckets {
    let empty: [&[u8]; 3] = [b"cluster", b"members", b"members_removed"];
    let mut buckets: Buckets = empty.into_iter().map(|name| (name, BTreeMap::new())).collect();
    auth(view, &mut buckets);
    buckets.insert(names::ALARM, alarms(view));
    buckets.insert(names::LEASE, leases(view));

    let voters = standing.voters.iter().map(|voter| voter.0.to_string()).collect::<Vec<_>>().join(",");
    let mut meta = BTreeMap::new();
    let mut insert = |name: &[u8], value: Vec<u8>| meta.insert(name.to_vec(), value);
    insert(names::CONSISTENT_INDEX, standing.applied.0.to_be_bytes().to_vec());
    insert(names::TERM, standing.term.0.to_be_bytes().to_vec());
    insert(names::CONF_STATE, format!(r#"{{"voters":[{voters}],"auto_leave":false}}"#).into_bytes());
    if view.compacted().0 > 0 {
        let floor = revision_key(view.compacted(), 0, false);
        insert(names::SCHEDULED_COMPACTION, floor.clone());
        insert(names::FINISHED_COMPACTION, floor);
    }
    buckets.insert(names::META, meta);
    buckets
}

fn leases(view: &View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let lease = |LeaseRecord { lease, remaining }: LeaseRecord| {
        let value = LeaseValue { id: lease.id.0, ttl: lease.ttl.0, remaining: remaining.map_or(0, |ttl| ttl.0) };
        (lease.id.0.to_be_bytes().to_vec(), value.encode_to_vec())
    };
    view.all_leases().into_iter().map(lease).collect()
}

/// A fenced member is no business of the cluster that is made of the file.
fn alarms(view: &View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let alarm = |alarm: Alarm| {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => pb::AlarmType::Nospace,
            AlarmKind::Corrupt => pb::AlarmType::Corrupt,
            AlarmKind::Fenced(_) => return None,
        };
        let alarm = pb::AlarmMember { member_id: alarm.member.0, alarm: kind.into() };
        Some((alarm.encode_to_vec(), Vec::new()))
    };
    view.alarms().filter_map(alarm).collect()
}

fn auth(view: &View, buckets: &mut Buckets) {
    let AuthState { enabled, revision, users, roles } = view.auth().state();
    let mut state = BTreeMap::from([(names::AUTH_REVISION.to_vec(), revision.0.to_be_bytes().to_vec())]);
    if enabled {
        state.insert(names::AUTH_ENABLED.to_vec(), vec![1]);
    }
    let user = |(name, user): (String, User)| {
        let value = authpb::User {
            name: name.clone().into(),
            password: user.password.unwrap_or_default().into(),
            roles: user.roles.into_iter().collect(),
            options: Some(authpb::UserAddOptions { no_password: user.no_password }),
        };
        (name.into_bytes(), value.encode_to_vec())
    };
    let role = |(name, permissions): (String, Vec<Permission>)| {
        let key_permission = permissions.into_iter().map(response::permission).collect();
        let value = authpb::Role { name: name.clone().into(), key_permission };
        (name.into_bytes(), value.encode_to_vec())
    };
    buckets.insert(names::AUTH, state);
    buckets.insert(names::AUTH_USERS, users.into_iter().map(user).collect());
    buckets.insert(names::AUTH_ROLES, roles.into_iter().map(role).collect());
}

fn key_value(change: Change) -> mvccpb::KeyValue {
    let kv = change.kv;
    let number = |revision: Revision| if change.deleted { 0 } else { revision.0 };
    mvccpb::KeyValue {
        key: kv.key.0,
        create_revision: number(kv.create_revision),
        mod_revision: number(kv.mod_revision),
        version: kv.version,
        value: kv.value.0,
        lease: kv.lease.map_or(0, |lease| lease.0),
    }
}

fn value(change: Change) -> Vec<u8> {
    key_value(change).encode_to_vec()
}

/// How long [`value`] of the same change with its value is.
fn value_bytes(change: &Change) -> usize {
    let bytes = change.value_bytes as usize;
    let value = if bytes == 0 { 0 } else { 1 + prost::length_delimiter_len(bytes) + bytes };
    key_value(change.clone()).encoded_len() + value
}
