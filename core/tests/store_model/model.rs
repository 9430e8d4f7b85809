//! The store as too simple to be wrong: one whole map per revision, and every rule spelled out where it applies.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::auth::AuthCommand;
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::request::*;
use quorate_core::store::{Event, RevisionEvents};
use quorate_core::{Blob, LeaseId, Revision, Ttl};

type Map = BTreeMap<Blob, KeyValue>;

#[derive(Clone, Default)]
pub(crate) struct Model {
    /// `states[r]` is everything at revision `r`.
    pub(crate) states: Vec<Map>,
    /// Changes by revision.
    pub(crate) events: BTreeMap<i64, Vec<Event>>,
    pub(crate) floor: i64,
    pub(crate) alarms: BTreeSet<Alarm>,
    pub(crate) downgrade: Option<String>,
    pub(crate) leases: BTreeMap<i64, (Ttl, Option<Ttl>)>,
    roles: BTreeSet<String>,
    pub(crate) members: super::members::Members,
}

/// The revision being made.
struct Making {
    map: Map,
    events: Vec<Event>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { states: vec![Map::new(), Map::new()], floor: -1, ..Self::default() }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<Outcome, Error> {
        let mut making = Making { map: self.states.last().unwrap().clone(), events: Vec::new() };
        self.permit(command)?;
        let result = match command {
            Command::Put(put) => {
                if put.lease.is_some_and(|lease| !self.leases.contains_key(&lease.0)) {
                    return Err(Error::LeaseNotFound);
                }
                if (put.ignore_value || put.ignore_lease) && !making.map.contains_key(&put.key) {
                    return Err(Error::KeyNotFound);
                }
                Ok(Outcome::Put(self.put(&mut making, put)))
            }
            Command::DeleteRange(delete) => Ok(Outcome::DeleteRange(self.delete_range(&mut making, delete))),
            Command::Txn(txn) => {
                self.check(txn, &|model, op| match op {
                    RequestOp::Put(put) => {
                        if put.lease.is_some_and(|lease| !model.leases.contains_key(&lease.0)) {
                            return Err(Error::LeaseNotFound);
                        }
                        let keeps = put.ignore_value || put.ignore_lease;
                        if keeps && !model.newest().contains_key(&put.key) { Err(Error::KeyNotFound) } else { Ok(()) }
                    }
                    RequestOp::Range(range) => model.readable(range.revision),
                    _ => Ok(()),
                })?;
                let before = self.newest().clone();
                Ok(Outcome::Txn(self.txn(&before, &mut making, txn)))
            }
            Command::Compact { revision } => {
                if revision.0 <= self.floor {
                    return Err(Error::Compacted { oldest: Revision(self.floor) });
                }
                if revision.0 > self.revision() {
                    return Err(Error::FutureRevision);
                }
                self.floor = revision.0;
                Ok(Outcome::Compact(Revision(self.revision())))
            }
            Command::LeaseGrant(lease) => {
                if lease.ttl.0 > 9_000_000_000 {
                    return Err(Error::LeaseTtlTooLarge);
                }
                if self.leases.contains_key(&lease.id.0) {
                    return Err(Error::LeaseExists);
                }
                self.leases.insert(lease.id.0, (lease.ttl, None));
                Ok(Outcome::LeaseGrant(*lease, Revision(self.revision())))
            }
            Command::LeaseRevoke(id) => {
                if !self.leases.contains_key(&id.0) {
                    return Err(Error::LeaseNotFound);
                }
                self.revoke(*id);
                return Ok(Outcome::LeaseRevoke(Revision(self.revision())));
            }
            Command::LeaseExpire(ids) => {
                for id in ids {
                    if self.leases.contains_key(&id.0) {
                        self.revoke(*id);
                    }
                }
                return Ok(Outcome::Done);
            }
            Command::LeaseCheckpoint(marks) => {
                for (id, remaining) in marks {
                    if let Some(lease) = self.leases.get_mut(&id.0) {
                        lease.1 = *remaining;
                    }
                }
                Ok(Outcome::Done)
            }
            Command::Downgrade(Some(_)) if self.downgrade.is_some() => Err(Error::DowngradeInProcess),
            Command::Downgrade(target) => {
                self.downgrade.clone_from(target);
                Ok(Outcome::Done)
            }
            Command::RaiseAlarm(alarm) => {
                self.alarms.insert(*alarm);
                Ok(Outcome::Alarms(vec![*alarm]))
            }
            Command::ClearAlarm(alarm) => {
                let gone = self.alarms.take(alarm).into_iter().collect();
                Ok(Outcome::Alarms(gone))
            }
            Command::Publish(member) => {
                self.members.publish(member);
                Ok(Outcome::Done)
            }
            Command::Auth(AuthCommand::RoleAdd(role)) if !self.roles.insert(role.clone()) => Err(Error::RoleExists),
            // The rest of users and roles is in testdata/auth.
            Command::RaiseFeatureLevel(_) | Command::Auth(_) => Ok(Outcome::Done),
            Command::Members(change) => self.members.change(change).map(Outcome::Members),
        };
        self.finish(making);
        result
    }

    /// What is refused because of alarms.
    fn permit(&self, command: &Command) -> Result<(), Error> {
        let corrupt = self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
        let full = self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        match command {
            Command::LeaseCheckpoint(_)
            | Command::Publish(_)
            | Command::RaiseFeatureLevel(_)
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::Downgrade(_)
            | Command::Auth(_)
            | Command::Members(_) => Ok(()),
            _ if corrupt => Err(Error::Corrupt),
            Command::Put(_) | Command::LeaseGrant(_) if full => Err(Error::NoSpace),
            // Any put in its text, however deep.
            Command::Txn(txn) if full && format!("{txn:?}").contains("Put(") => Err(Error::NoSpace),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, making: Making) {
        if !making.events.is_empty() {
            self.states.push(making.map);
            self.events.insert(self.revision(), making.events);
        }
    }

    pub(crate) fn newest(&self) -> &Map {
        self.states.last().unwrap()
    }

    fn revoke(&mut self, id: LeaseId) {
        let mut making = Making { map: self.newest().clone(), events: Vec::new() };
        for key in self.keys_of(id) {
            self.delete(&mut making, &key);
        }
        self.finish(making);
        self.leases.remove(&id.0);
    }

    pub(crate) fn keys_of(&self, id: LeaseId) -> Vec<Blob> {
        self.newest().values().filter(|kv| kv.lease == Some(id)).map(|kv| kv.key.clone()).collect()
    }

    fn put(&self, making: &mut Making, put: &PutRequest) -> PutResult {
        let main = Revision(self.revision() + 1);
        let old = making.map.get(&put.key).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            value: if put.ignore_value { old.as_ref().unwrap().value.clone() } else { put.value.clone() },
            lease: if put.ignore_lease { old.as_ref().unwrap().lease } else { put.lease },
        };
        let previous = old.as_ref().map(|old| (old.mod_revision, self.sub_of(old)));
        let sub = making.events.len() as u32;
        let previous_bytes = old.as_ref().map_or(0, |old| old.value.len() as u32);
        making.events.push(Event { kv: kv.clone(), deleted: false, sub, previous, previous_bytes });
        making.map.insert(put.key.clone(), kv);
        PutResult { revision: main, prev_kv: old.filter(|_| put.prev_kv) }
    }

    fn delete_range(&self, making: &mut Making, delete: &DeleteRangeRequest) -> DeleteRangeResult {
        let gone: Vec<KeyValue> = making.map.values().filter(|kv| delete.range.contains(&kv.key)).cloned().collect();
        for kv in &gone {
            self.delete(making, &kv.key);
        }
        let revision = Revision(self.revision() + i64::from(!making.events.is_empty()));
        let deleted = gone.len() as i64;
        DeleteRangeResult { revision, deleted, prev_kvs: if delete.prev_kv { gone } else { Vec::new() } }
    }

    fn delete(&self, making: &mut Making, key: &Blob) {
        let old = making.map.remove(key).unwrap();
        let kv = KeyValue {
            key: key.clone(),
            create_revision: Revision(0),
            mod_revision: Revision(self.revision() + 1),
            version: 0,
            value: Blob::EMPTY,
            lease: None,
        };
        let previous = Some((old.mod_revision, self.sub_of(&old)));
        let sub = making.events.len() as u32;
        making.events.push(Event { kv, deleted: true, sub, previous, previous_bytes: old.value.len() as u32 });
    }

    fn sub_of(&self, kv: &KeyValue) -> u32 {
        self.events[&kv.mod_revision.0].iter().find(|event| event.kv.key == kv.key).unwrap().sub
    }

    fn check(&self, txn: &TxnRequest, check: &dyn Fn(&Self, &RequestOp) -> Result<(), Error>) -> Result<(), Error> {
        let ops = if self.holds(self.newest(), txn) { &txn.success } else { &txn.failure };
        ops.iter().try_for_each(|op| match op {
            RequestOp::Txn(txn) => self.check(txn, check),
            op => check(self, op),
        })
    }

    fn txn(&self, before: &Map, making: &mut Making, txn: &TxnRequest) -> TxnResult {
        let succeeded = self.holds(before, txn);
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            responses.push(match op {
                RequestOp::Range(range) => {
                    let now = self.revision() + i64::from(!making.events.is_empty());
                    ResponseOp::Range(self.range(&making.map, now, range))
                }
                RequestOp::Put(put) => ResponseOp::Put(self.put(making, put)),
                RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete_range(making, delete)),
                RequestOp::Txn(txn) => ResponseOp::Txn(self.txn(before, making, txn)),
            });
        }
        let revision = Revision(self.revision() + i64::from(!making.events.is_empty()));
        TxnResult { revision, succeeded, responses }
    }

    /// A txn that only reads.
    pub(crate) fn read_txn(&self, txn: &TxnRequest) -> Result<TxnResult, Error> {
        self.check(txn, &|model, op| match op {
            RequestOp::Range(range) => model.readable(range.revision),
            _ => Ok(()),
        })?;
        let mut making = Making { map: self.newest().clone(), events: Vec::new() };
        Ok(self.txn(self.newest(), &mut making, txn))
    }

    fn holds(&self, map: &Map, txn: &TxnRequest) -> bool {
        txn.compare.iter().all(|compare| {
            let result = |ordering: std::cmp::Ordering| match compare.result {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Unknown => true,
            };
            let one = |kv: &KeyValue| {
                result(match &compare.target {
                    CompareTarget::Version(version) => kv.version.cmp(version),
                    CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
                    CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
                    CompareTarget::Value(value) => kv.value.cmp(value),
                    CompareTarget::Lease(lease) => kv.lease.map_or(0, |lease| lease.0).cmp(lease),
                    CompareTarget::Unknown => std::cmp::Ordering::Equal,
                })
            };
            let mut matching = map.values().filter(|kv| compare.range.contains(&kv.key)).peekable();
            if matching.peek().is_some() {
                return matching.all(one);
            }
            let nothing = KeyValue {
                key: Blob::EMPTY,
                create_revision: Revision(0),
                mod_revision: Revision(0),
                version: 0,
                value: Blob::EMPTY,
                lease: None,
            };
            !matches!(compare.target, CompareTarget::Value(_)) && one(&nothing)
        })
    }

    pub(crate) fn readable(&self, revision: Option<Revision>) -> Result<(), Error> {
        match revision {
            None | Some(Revision(0)) => Ok(()),
            Some(revision) if revision.0 > self.revision() => Err(Error::FutureRevision),
            Some(revision) if revision.0 < self.floor => Err(Error::Compacted { oldest: Revision(self.floor) }),
            Some(_) => Ok(()),
        }
    }

    /// `map` is the newest state, at revision `now`.
    pub(crate) fn range(&self, map: &Map, now: i64, request: &RangeRequest) -> RangeResult {
        let map = match request.revision {
            Some(revision) if revision.0 > 0 => &self.states[revision.0 as usize],
            _ => map,
        };
        let all: Vec<KeyValue> = map.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
        let count = all.len() as i64;
        if request.count_only {
            return RangeResult { revision: Revision(now), kvs: Vec::new(), more: false, count };
        }
        let bounds = [
            request.max_mod_revision,
            request.min_mod_revision,
            request.max_create_revision,
            request.min_create_revision,
        ];
        let limit = if request.limit == 0 { usize::MAX - 1 } else { request.limit as usize };
        let everything = request.sort_order != SortOrder::None || bounds.iter().any(|bound| bound.0 != 0);
        let mut kvs: Vec<KeyValue> = if everything { all } else { all.into_iter().take(limit + 1).collect() };
        kvs.retain(|kv| bounds[0].0 == 0 || kv.mod_revision <= bounds[0]);
        kvs.retain(|kv| bounds[1].0 == 0 || kv.mod_revision >= bounds[1]);
        kvs.retain(|kv| bounds[2].0 == 0 || kv.create_revision <= bounds[2]);
        kvs.retain(|kv| bounds[3].0 == 0 || kv.create_revision >= bounds[3]);
        if request.sort_order != SortOrder::None || request.sort_target != SortTarget::Key {
            kvs.sort_by(|a, b| {
                let ordering = match request.sort_target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                };
                if request.sort_order == SortOrder::Descend { ordering.reverse() } else { ordering }
            });
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Blob::EMPTY;
                if request.sort_target != SortTarget::Value {
                    kv.lease = None;
                }
            }
        }
        RangeResult { revision: Revision(now), kvs, more, count }
    }

    /// The changes from `from` on, as one who knows only what compaction has left sees them.
    pub(crate) fn history(&self, from: i64) -> Vec<RevisionEvents> {
        let revisions = self.events.range(from..).map(|(revision, events)| {
            let mut events = events.clone();
            if *revision <= self.floor {
                events.iter_mut().for_each(|event| (event.previous, event.previous_bytes) = (None, 0));
            }
            RevisionEvents { revision: Revision(*revision), events }
        });
        revisions.collect()
    }

    pub(crate) fn previous(&self, event: &Event) -> Option<KeyValue> {
        let before = event.kv.mod_revision.0 - 1;
        if before < self.floor { None } else { self.states[before as usize].get(&event.kv.key).cloned() }
    }

    /// Key, value and 64 for each record that is kept, but for tombstones at the floor; and 64 for each lease.
    pub(crate) fn logical_bytes(&self) -> u64 {
        let mut newest_at_floor: BTreeMap<&Blob, &Event> = BTreeMap::new();
        let mut bytes = 64 * self.leases.len() as u64;
        let cost = |event: &Event| (event.kv.key.len() + event.kv.value.len() + 64) as u64;
        for (revision, events) in &self.events {
            for event in events {
                if *revision > self.floor {
                    bytes += cost(event);
                } else {
                    newest_at_floor.insert(&event.kv.key, event);
                }
            }
        }
        bytes + newest_at_floor.values().filter(|event| !event.deleted).map(|event| cost(event)).sum::<u64>()
    }
}
