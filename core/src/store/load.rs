//! A store from its rows, without reading a value.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::ControlFlow;

use super::compact::Cleaning;
use super::index::Meta;
use super::revisions::Rev;
use super::rows::{self, Cleaned, Kind, LeaseRow, Record, Totals};
use super::{LoadError, Store, TooNew};
use crate::blob::Source;
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::request::{Lease, Member};
use crate::rows::Rows;
use crate::{Blob, FeatureLevel, LeaseId, LogIndex, NodeId, Revision};

pub(super) fn load(member: NodeId, understood: FeatureLevel, rows: &dyn Rows) -> Result<Store, LoadError> {
    // First of all: what else a newer build has written may mean nothing to this one.
    if let Some(row) = rows.get(&rows::totals())
        && let Ok(Totals { feature_level: level, .. }) = decode("the totals", &row)
        && level > understood
    {
        return Err(TooNew { level, understood }.into());
    }
    load_rows(member, understood, rows).map_err(LoadError::Damaged)
}

pub(super) fn applied_index(rows: &dyn Rows) -> LogIndex {
    let Some(row) = rows.get(&rows::totals()) else { return LogIndex(0) };
    let totals: Totals = decode("the totals", &row).unwrap_or_else(|error| panic!("{error}"));
    totals.index
}

fn load_rows(member: NodeId, understood: FeatureLevel, rows: &dyn Rows) -> Result<Store, String> {
    let mut store = Store::empty(member, understood);
    let Some(totals) = rows.get(&rows::totals()) else {
        return each(rows, Kind::Any, |key, _| {
            Err(format!("row {key:?} without a row that says where the state stands"))
        })
        .map(|()| store);
    };
    let totals: Totals = decode("the totals", &totals)?;
    let ordered = totals.revision.0 >= 1 && totals.floor <= totals.revision && totals.index.0 > 0;
    if !ordered || !totals.ledger.is_consistent() {
        return Err(format!("contradictory totals: {totals:?}"));
    }
    store.applied = (totals.index, totals.term);
    store.hash = totals.hash;
    store.view.feature_level = totals.feature_level;
    store.ledger = totals.ledger;
    store.view.revision = totals.revision;
    store.view.floor = totals.floor;
    if let Some(row) = rows.get(&rows::cleaned()) {
        let cleaned: Cleaned = decode("the progress of compaction", &row)?;
        if cleaned.main > totals.floor {
            return Err(format!("compaction has come to {}, above the floor {}", cleaned.main, totals.floor));
        }
        store.cleaning = Cleaning { cleaned, ..Cleaning::default() };
    }
    leases(&mut store, rows)?;
    store.weigh();
    auth(&mut store, rows)?;
    members(&mut store, rows)?;
    each(rows, Kind::Alarms, |key, _| {
        let alarm = rows::parse_alarm(key).ok_or("an alarm row's key is damaged")?;
        if mutant::is_on(Mutant::Q03) {
            return Ok(());
        }
        Arc::make_mut(&mut store.view.alarms).insert(alarm);
        Ok(())
    })?;
    if let Some(row) = rows.get(&rows::downgrade()) {
        let target: String = decode("the downgrade's target", &row)?;
        store.view.downgrade = Some(Arc::from(target));
    }
    each(rows, Kind::Lives, |key, row| {
        let (member, incarnation) = rows::parse_life(key).ok_or("a life row's key is damaged")?;
        store.dedup.restore(member, incarnation, decode("a life", &row)?);
        Ok(())
    })?;
    each(rows, Kind::Retired, |key, row| {
        let member = NodeId(rows::parse_id(key).ok_or("a row key of retired lives is damaged")?);
        store.dedup.restore_retired(member, decode("retired lives", &row)?);
        Ok(())
    })?;
    records(&mut store, rows)?;
    let keys = store.view.index.len();
    if keys != totals.keys {
        return Err(format!("records of {keys} keys in a store of {}", totals.keys));
    }
    Ok(store)
}

fn leases(store: &mut Store, rows: &dyn Rows) -> Result<(), String> {
    each(rows, Kind::Leases, |key, row| {
        let id = LeaseId(rows::parse_id(key).ok_or("a lease row's key is damaged")?.cast_signed());
        let LeaseRow { ttl, remaining } = decode("a lease", &row)?;
        store.view.leases.grant(Lease { id, ttl }, remaining);
        Ok(())
    })
}

fn members(store: &mut Store, rows: &dyn Rows) -> Result<(), String> {
    let members = Arc::make_mut(&mut store.view.members);
    each(rows, Kind::Members, |key, row| {
        let id = NodeId(rows::parse_id(key).ok_or("a member row's key is damaged")?);
        let member: Member = decode("a member", &row)?;
        if member.id != id {
            return Err(format!("member {} is stored as {id}", member.id));
        }
        members.restore(member);
        Ok(())
    })?;
    each(rows, Kind::Removed, |key, row| {
        let id = NodeId(rows::parse_removed(key).ok_or("the row key of a removed member is damaged")?);
        let stored: NodeId = decode("a removed member", &row)?;
        if stored != id {
            return Err(format!("removed member {stored} is stored as {id}"));
        }
        members.restore_removed(id);
        Ok(())
    })
}

fn auth(store: &mut Store, rows: &dyn Rows) -> Result<(), String> {
    if mutant::is_on(Mutant::A09) {
        return Ok(());
    }
    let name = |key: &[u8]| String::from_utf8(key.to_vec()).map_err(|_| "a user's or a role's row key is damaged");
    let auth = Arc::make_mut(&mut store.view.auth);
    if let Some(row) = rows.get(&rows::auth()) {
        auth.restore(decode("whether users are asked for", &row)?);
    }
    each(rows, Kind::Roles, |key, row| {
        auth.restore_role(name(key)?, decode("a role", &row)?);
        Ok(())
    })?;
    each(rows, Kind::Users, |key, row| {
        auth.restore_user(name(key)?, decode("a user", &row)?);
        Ok(())
    })?;
    auth.contradiction().map_or(Ok(()), Err)
}

fn records(store: &mut Store, rows: &dyn Rows) -> Result<(), String> {
    let (revision, floor) = (store.view.revision, store.view.floor);
    let mut records = Records::new(revision, floor);
    each(rows, Kind::Records, |key, row| {
        let (main, sub) = rows::parse_record(key).ok_or("a record's key is damaged")?;
        let record = Record::decode(row).ok_or_else(|| format!("the record of revision {main}.{sub} is malformed"))?;
        records.add(store, main, sub, &record)
    })?;
    if records.last.0 < revision {
        return Err(format!("records end at revision {}, the store is at {revision}", records.last.0));
    }
    for (lease, key) in store.view.leases.attachments() {
        if !store.view.leases.contains(lease) {
            return Err(format!("{key:?} is attached to lease {lease}, which does not exist"));
        }
    }
    Ok(())
}

/// Takes records into a store's memory, in order of their revisions.
pub(super) struct Records {
    revision: Revision,
    floor: Revision,
    /// The last one above the floor.
    last: (Revision, u32),
}

impl Records {
    /// For a store with this revision and this floor.
    pub(super) fn new(revision: Revision, floor: Revision) -> Self {
        let floor = Revision(floor.0.max(1));
        Self { revision, floor, last: (floor, u32::MAX) }
    }

    pub(super) fn add(&mut self, store: &mut Store, main: Revision, sub: u32, record: &Record) -> Result<(), String> {
        if main.0 < 2 || main > self.revision {
            return Err(format!("a record of revision {main} in a store at revision {}", self.revision));
        }
        if main > self.floor {
            // No revision above the floor may be missing, nor any change but the last ones of a revision.
            let (last, last_sub) = self.last;
            let next = if main == last { (last, last_sub.wrapping_add(1)) } else { (last.next(), 0) };
            if (main, sub) != next {
                return Err(format!("revision {main}.{sub} follows {last}.{last_sub}"));
            }
            self.last = (main, sub);
        }
        restore(store, main, sub, record, main > self.floor)
    }
}

/// `whole`: the key's state before it must be known, since compaction has not reached it.
fn restore(store: &mut Store, main: Revision, sub: u32, record: &Record, whole: bool) -> Result<(), String> {
    let Record { key, put, .. } = record;
    if put.is_none() && mutant::is_on(Mutant::A12) {
        return Ok(());
    }
    let known = store.view.index.get(key);
    let before = known.and_then(|versions| versions.live());
    let consistent = match (before, put) {
        (Some((_, old)), Some(put)) => put.meta.create == old.create && put.meta.version == old.version + 1,
        (Some(_), None) => true,
        (None, Some(put)) if known.is_some() || whole => put.meta.create == main && put.meta.version == 1,
        // Every version is one change, so there are no more than revisions, and the next one is a number, too.
        (None, Some(put)) => (1..=main.0).contains(&put.meta.version) && put.meta.create <= main,
        (None, None) => known.is_none() && !whole,
    };
    if !consistent {
        return Err(format!("{key:?} at revision {main}.{sub} does not follow from its state before"));
    }
    let (rev, meta) = match put {
        Some(put) => (Rev::put(main, sub, put.value_bytes as usize), put.meta),
        None => (Rev::tombstone(main, sub), Meta { create: Revision(0), version: 0, lease: None }),
    };
    store.view.leases.moved(key, before.and_then(|(_, meta)| meta.lease), meta.lease);
    store.view.index.restore(key, rev, meta);
    Ok(())
}

fn each(rows: &dyn Rows, kind: Kind, mut visit: impl FnMut(&[u8], Blob) -> Result<(), String>) -> Result<(), String> {
    let mut result = Ok(());
    rows::all(rows, kind, |key, row| {
        result = visit(key, row);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    result
}

fn decode<T: bincode::Decode<Source>>(what: &str, row: &[u8]) -> Result<T, String> {
    codec::decode_copying(row).map_err(|error| format!("{what}: {error}"))
}
