//! From entries to a batch: decode, deduplicate, execute, fold into the state hash.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::hash::{Effect, Fold, digest};
use super::rows::{self, LeaseRow, Put, Record, Totals};
use super::values::Values;
use super::{Applied, Batch, Event, LeaseChange, Need, RevisionEvents, SessionChange, Store, TooNew, lease};
use crate::command::{Command, Envelope, Origin, Outcome};
use crate::entry::{Entry, Payload};
use crate::error::Error;
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::request::{Lease, Member, MemberChange};
use crate::rows::{RowWrite, Rows};
use crate::{Blob, FeatureLevel, LeaseId, LogIndex, Revision, Ttl};

/// What a proposal came to.
type Answer = (Origin, Result<Outcome, Error>);

/// A batch under construction over the state it changes.
pub(super) struct Builder<'a> {
    pub(super) store: &'a mut Store,
    rows: &'a dyn Rows,
    /// Finished revisions.
    events: Vec<RevisionEvents>,
    /// What a compaction at each of them would make removable.
    removable: Vec<u64>,
    /// Changes of the revision being made.
    pub(super) current: Vec<Event>,
    pub(super) fold: Fold,
    pub(super) writes: Vec<RowWrite>,
    /// Rows of users and roles as the batch leaves them: each change rewrites a whole one, which may be large.
    pub(super) auth_rows: BTreeMap<Blob, Option<Blob>>,
    leases: Vec<LeaseChange>,
    pub(super) sessions: Vec<SessionChange>,
    pub(super) alarms_changed: bool,
    members_changed: bool,
    /// Nothing but users and roles was changed.
    only_users: bool,
}

pub(super) fn apply(store: &mut Store, entries: &[Entry], rows: &dyn Rows) -> Batch {
    let mut builder = Builder {
        store,
        rows,
        events: Vec::new(),
        removable: Vec::new(),
        current: Vec::new(),
        fold: Fold::default(),
        writes: Vec::with_capacity(2 * entries.len() + 2),
        auth_rows: BTreeMap::new(),
        leases: Vec::new(),
        sessions: Vec::new(),
        alarms_changed: false,
        members_changed: false,
        only_users: true,
    };
    let (mut results, mut hashes) = (Vec::new(), Vec::with_capacity(entries.len()));
    let mut too_new = None;
    for entry in entries {
        match builder.entry(entry) {
            Ok(result) => results.extend(result),
            Err(reason) => {
                too_new = Some(reason);
                break;
            }
        }
        hashes.push((entry.index, builder.store.hash));
    }
    if !hashes.is_empty() {
        builder.totals();
    }
    let Builder { store, events, writes, leases, sessions, alarms_changed, members_changed, .. } = builder;
    store.check();
    let applied = Applied {
        index: store.applied.0,
        term: store.applied.1,
        revision: store.view.revision,
        compacted: store.view.floor,
        hashes,
        hash: store.hash,
        results,
        leases,
        alarms: alarms_changed.then(|| store.view.alarms().collect()),
        members: members_changed.then(|| store.members()),
        level: store.view.feature_level,
    };
    Batch { applied, events, writes, sessions, too_new }
}

impl Builder<'_> {
    /// Applies the next entry; gives the answer if it was this member's. An entry that this build does not understand
    /// changes nothing.
    fn entry(&mut self, entry: &Entry) -> Result<Option<Answer>, TooNew> {
        let (applied, term) = self.store.applied;
        assert_eq!(entry.index, applied.next(), "entry {} after {applied} was applied", entry.index);
        assert!(entry.term >= term, "entry {} of term {} after one of {term}", entry.index, entry.term);
        self.fold.effect(Effect::Entry).u64(entry.index.0);
        let mut result = None;
        if let Payload::Command(bytes) = &entry.payload {
            let Envelope { origin, command, author } = codec::decode(bytes.0.clone())
                .unwrap_or_else(|error| panic!("entry {} is not known to this build: {error}", entry.index));
            if let Command::RaiseFeatureLevel(level) = command
                && level > self.store.understood
            {
                return Err(TooNew { level, understood: self.store.understood });
            }
            if self.store.dedup.admit(origin, entry.index) || mutant::is_on(Mutant::A15) {
                let permitted = match mutant::is_on(Mutant::U11) {
                    false => self.store.view.check(&author, &Need::Command(&command)),
                    true => Ok(()),
                };
                self.only_users &= matches!(command, Command::Auth(_));
                let outcome = permitted.and_then(|()| self.command(command, entry.index));
                self.finish_revision();
                if let Err(error) = &outcome {
                    self.fold.refused(error);
                }
                result = (origin.member == self.store.member).then_some((origin, outcome));
            } else {
                reach!(ProposalRepeated);
                self.fold.effect(Effect::Duplicate);
            }
        }
        self.fold.i64(self.store.view.revision.0).i64(self.store.view.floor.0);
        self.store.hash = self.fold.chain(self.store.hash);
        self.store.applied = (entry.index, entry.term);
        Ok(result)
    }

    fn command(&mut self, command: Command, index: LogIndex) -> Result<Outcome, Error> {
        let refusal = self.store.view.permit(&command, self.store.member).err();
        if let Some(refusal) = refusal {
            if let Command::LeaseExpire(ids) = command {
                self.leases.extend(ids.into_iter().map(LeaseChange::Kept));
            }
            return Err(refusal);
        }
        match command {
            Command::Put(request) => {
                self.store.view.check_put(&request)?;
                Ok(Outcome::Put(self.put(&request)))
            }
            Command::DeleteRange(request) => Ok(Outcome::DeleteRange(self.delete_range(&request))),
            Command::Txn(request) => self.txn(&request).map(Outcome::Txn),
            Command::Compact { revision } => self.compact(revision).map(Outcome::Compact),
            Command::LeaseGrant(lease) => self.grant(lease),
            Command::LeaseRevoke(id) => {
                if !self.store.view.leases.contains(id) {
                    return Err(Error::LeaseNotFound);
                }
                self.revoke(id);
                Ok(Outcome::LeaseRevoke(self.store.view.revision))
            }
            Command::LeaseExpire(ids) => {
                for id in ids {
                    if self.store.view.leases.contains(id) {
                        if mutant::is_on(Mutant::L03) {
                            let leases = &mut self.store.view.leases;
                            leases.keys(id).iter().for_each(|key| leases.moved(key, Some(id), None));
                        }
                        self.revoke(id);
                    }
                }
                Ok(Outcome::Done)
            }
            Command::LeaseCheckpoint(marks) => {
                for (id, remaining) in marks {
                    self.checkpoint(id, remaining);
                }
                Ok(Outcome::Done)
            }
            Command::Publish(member) => {
                self.publish(member);
                Ok(Outcome::Done)
            }
            Command::RaiseFeatureLevel(level) => {
                self.raise(level);
                Ok(Outcome::Done)
            }
            Command::RaiseAlarm(alarm) => Ok(Outcome::Alarms(self.raise_alarm(alarm))),
            Command::Downgrade(target) => self.downgrade(target).map(|()| Outcome::Done),
            Command::ClearAlarm(alarm) => Ok(Outcome::Alarms(self.clear_alarm(alarm))),
            Command::Auth(command) => self.auth(command, index),
            Command::Members(change) => self.change_members(change).map(Outcome::Members),
        }
    }

    /// Everything stored, this batch's changes included.
    pub(super) fn values(&self) -> Values<'_> {
        Values { rows: self.rows, recent: &self.events, current: (self.making(), &self.current) }
    }

    /// The revision being made, if anything changes.
    pub(super) fn making(&self) -> Revision {
        self.store.view.revision.next()
    }

    /// The store's revision as far as the current entry has come.
    pub(super) fn now(&self) -> Revision {
        if self.current.is_empty() { self.store.view.revision } else { self.making() }
    }

    /// Makes the changes so far a revision of their own, if there are any.
    fn finish_revision(&mut self) {
        if self.current.is_empty() {
            return;
        }
        let main = self.making();
        let events = core::mem::take(&mut self.current);
        for event in events.iter().filter(|event| event.deleted) {
            self.store.ledger.tombstone(event.kv.key.len());
        }
        let removable = self.store.ledger.removable();
        for event in &events {
            self.record(main, event, removable);
        }
        self.store.view.revision = main;
        self.events.push(RevisionEvents { revision: main, events });
        self.removable.push(removable);
    }

    /// Writes the rows of one change.
    fn record(&mut self, main: Revision, event: &Event, removable: u64) {
        let Event { kv, deleted, sub, .. } = event;
        let removable = if *sub == 0 { removable } else { 0 };
        let mut put = None;
        if *deleted {
            self.fold.effect(Effect::Delete).bytes(&kv.key);
        } else {
            let (digest, value_bytes) =
                (digest(&kv.value), u32::try_from(kv.value.len()).expect("checked by the index"));
            let meta = super::index::Meta { create: kv.create_revision, version: kv.version, lease: kv.lease };
            put = Some(Put { meta, value_bytes, digest });
            self.writes.push(rows::write(rows::value(&kv.key, main, *sub), kv.value.clone()));
            self.fold.effect(Effect::Put).bytes(&kv.key).i64(meta.create.0).i64(meta.version);
            self.fold.i64(meta.lease.map_or(0, |lease| lease.0)).u64(digest);
        }
        let record = Record { key: kv.key.clone(), put, removable };
        self.writes.push(rows::write(rows::record(main, *sub), record.encode()));
    }

    /// (etcd: Compact) What nobody can see any more is removed later, in slices.
    fn compact(&mut self, revision: Revision) -> Result<Revision, Error> {
        let view = &self.store.view;
        if revision <= view.floor && !mutant::is_on(Mutant::Q05) {
            return Err(Error::Compacted { oldest: view.floor });
        }
        if revision > view.revision {
            return Err(Error::FutureRevision);
        }
        let removable = self.removable(revision);
        self.store.ledger.compact(removable);
        self.store.view.floor = revision;
        self.fold.effect(Effect::Floor);
        Ok(self.store.view.revision)
    }

    /// `floor < revision <= current`, so the revision's records are all there.
    fn removable(&self, revision: Revision) -> u64 {
        if revision.0 < 2 {
            return 0; // Nothing was ever written there.
        }
        let made = self.events.first().and_then(|first| revision.0.checked_sub(first.revision.0));
        if let Some(removable) = made.and_then(|at| self.removable.get(usize::try_from(at).ok()?)) {
            return *removable;
        }
        let record = self.values().record(revision, 0);
        record.unwrap_or_else(|| panic!("the record of revision {revision} is missing or damaged")).removable
    }

    fn grant(&mut self, lease: Lease) -> Result<Outcome, Error> {
        if lease.ttl > lease::TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.store.view.leases.contains(lease.id) {
            return Err(Error::LeaseExists);
        }
        self.store.view.leases.grant(lease, None);
        self.write_lease(lease.id);
        self.fold.effect(Effect::LeaseGranted).i64(lease.id.0).i64(lease.ttl.0);
        self.leases.push(LeaseChange::Granted(lease));
        Ok(Outcome::LeaseGrant(lease, self.store.view.revision))
    }

    /// Removes a lease with its keys, in order, in one revision of their own.
    fn revoke(&mut self, id: LeaseId) {
        for key in self.store.view.leases.keys(id) {
            self.delete(key);
        }
        self.finish_revision();
        self.store.view.leases.remove(id);
        self.writes.push(rows::remove(rows::lease(id)));
        self.fold.effect(Effect::LeaseRevoked).i64(id.0);
        self.leases.push(LeaseChange::Revoked(id));
    }

    fn checkpoint(&mut self, id: LeaseId, remaining: Option<Ttl>) {
        if self.store.view.leases.checkpoint(id, remaining) {
            self.write_lease(id);
            self.fold.effect(Effect::LeaseCheckpointed).i64(id.0).encoded(&remaining);
            self.leases.push(LeaseChange::Checkpointed(id, remaining));
        }
    }

    fn write_lease(&mut self, id: LeaseId) {
        let record = self.store.view.leases.get(id).expect("it was just changed");
        let row = LeaseRow { ttl: record.lease.ttl, remaining: record.remaining };
        self.writes.push(rows::write(rows::lease(id), codec::encode(&row)));
    }

    fn publish(&mut self, Member { id, name, client_urls, .. }: Member) {
        if let Some(member) = Arc::make_mut(&mut self.store.view.members).publish(name, client_urls, id) {
            self.write_member(&member);
        }
    }

    fn change_members(&mut self, change: MemberChange) -> Result<Vec<Member>, Error> {
        let changed = Arc::make_mut(&mut self.store.view.members).change(change)?;
        for member in &changed.written {
            self.write_member(member);
        }
        if let Some(id) = changed.removed {
            self.writes.extend([rows::remove(rows::member(id)), rows::write(rows::removed(id), codec::encode(&id))]);
            self.fold.effect(Effect::MemberRemoved).u64(id.0);
            self.members_changed = true;
        }
        Ok(self.store.view.members.iter().cloned().collect())
    }

    fn write_member(&mut self, member: &Member) {
        self.writes.push(rows::write(rows::member(member.id), codec::encode(member)));
        self.fold.effect(Effect::Member).encoded(member);
        self.members_changed = true;
    }

    fn raise(&mut self, level: FeatureLevel) {
        let in_force = &mut self.store.view.feature_level;
        *in_force = level.max(*in_force);
        self.fold.effect(Effect::FeatureLevel).u64(u64::from(in_force.0));
    }

    /// Writes where the state stands after the batch.
    fn totals(&mut self) {
        let rows = core::mem::take(&mut self.auth_rows);
        self.writes.extend(rows.into_iter().map(|(key, value)| RowWrite { key, value }));
        let store = &mut *self.store;
        store.dedup.take_writes(&mut self.writes);
        store.weigh();
        let totals = Totals {
            index: store.applied.0,
            term: store.applied.1,
            revision: store.view.revision,
            floor: store.view.floor,
            keys: store.view.index.len(),
            hash: store.hash,
            feature_level: store.view.feature_level,
            ledger: store.ledger,
        };
        if !(self.only_users && mutant::is_on(Mutant::A08)) {
            self.writes.push(rows::write(rows::totals(), codec::encode(&totals)));
        }
    }
}
