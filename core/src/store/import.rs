//! A store's rows from what another store kept: from a snapshot file of etcd's kind, say.
//!
//! The rows must come out in order of their keys and the first of them counts all the others, but no more than an index
//! of the keys should be held in memory. So the history is gone through three times: to build that index, to count and
//! hash, and to write. What is below the floor and no longer visible is left out, as if compaction had finished.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::auth::{Auth, AuthRow, AuthState, NAME_BYTES_MAX};
use super::export::Change;
use super::hash::{Effect, Fold, digest};
use super::index::Meta;
use super::load::Records;
use super::quota::Ledger;
use super::rows::{self, Cleaned, LeaseRow, Put, Record, Totals};
use super::{LeaseRecord, Store};
use crate::entry::FEATURE_LEVEL;
use crate::format::codec;
use crate::request::Alarm;
use crate::{Blob, FeatureLevel, LogIndex, NodeId, Revision, Term};

/// The changes that another store kept. Every call tells the same.
pub trait History {
    /// Why it cannot be read; or what is wrong with it, or with what is done with it.
    type Error: From<ImportError>;

    /// Calls `visit` with every change, values included, in ascending order of (`kv.mod_revision`, `sub`).
    ///
    /// # Errors
    /// It cannot be read, or `visit` failed.
    fn changes(&self, visit: &mut dyn FnMut(Change) -> Result<(), Self::Error>) -> Result<(), Self::Error>;

    /// The value that the put at this revision stored.
    ///
    /// # Errors
    /// It cannot be read.
    fn value(&self, revision: Revision, sub: u32) -> Result<Blob, Self::Error>;
}

/// What an imported state has beside its history, and what it is to become.
#[derive(Clone, Debug)]
pub struct Import {
    /// The leases.
    pub leases: Vec<LeaseRecord>,
    /// The alarms that are on.
    pub alarms: Vec<Alarm>,
    /// Users and roles.
    pub auth: AuthState,
    /// The compaction floor; -1 if there never was a compaction.
    pub floor: Revision,
    /// Moves the store's revision on by so much and the floor with it: nobody who saw a later state than the imported one
    /// is then told of other changes under revisions that it knows. 0 changes nothing. (etcdutl: --bump-revision)
    pub bump: u64,
    /// The log goes on after this entry; not 0.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// What an import came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The store's revision.
    pub revision: Revision,
    /// Its floor.
    pub floor: Revision,
    /// Keys that exist.
    pub keys: u64,
    /// The running state hash: the same for every import of the same state.
    pub hash: u64,
    /// Keys that named a lease which does not exist, and no longer do.
    pub detached: usize,
}

/// Why a history is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(pub String);

/// Takes one row, key and value.
type WriteRow<'a, E> = dyn FnMut(&[u8], &[u8]) -> Result<(), E> + 'a;

/// Hands every row of the store that `import` and `history` describe to `write`, in ascending order of their keys.
///
/// # Errors
/// Those of `history` and of `write`; [`ImportError`] if the history contradicts itself.
pub fn import<H: History>(
    history: &H,
    import: &Import,
    write: &mut WriteRow<'_, H::Error>,
) -> Result<Imported, H::Error> {
    let survey = Survey::new(history, import)?;
    let mut tally = Tally::new(&survey, import);
    history.changes(&mut |change| {
        tally.add(&change);
        Ok(())
    })?;
    let (ledger, hash) = tally.finish(&mut |_, _, _| ());

    let Survey { store, floor, revision, detached } = &survey;
    let totals = Totals {
        index: import.index,
        term: import.term,
        revision: *revision,
        floor: *floor,
        keys: store.view.index.len(),
        hash,
        feature_level: FeatureLevel(0),
        ledger,
    };
    let mut small = Vec::from([(rows::totals(), codec::encode(&totals))]);
    if floor.0 > 1 {
        small.push((rows::cleaned(), codec::encode(&Cleaned { floor: *floor, main: *floor, sub: 0 })));
    }
    for LeaseRecord { lease, remaining } in &import.leases {
        let row = LeaseRow { ttl: lease.ttl, remaining: *remaining };
        small.push((rows::lease(lease.id), codec::encode(&row)));
    }
    for alarm in &import.alarms {
        small.push((rows::alarm(*alarm), codec::encode(&())));
    }
    users(&import.auth, &mut small)?;
    small.sort();
    small.dedup_by(|a, b| a.0 == b.0);
    for (key, value) in small {
        write(&key, &value)?;
    }

    let mut tally = Tally::new(&survey, import);
    let mut written = Ok(());
    let mut record = |revision, sub, record: &Record| {
        if written.is_ok() {
            written = write(&rows::record(revision, sub), &record.encode());
        }
    };
    history.changes(&mut |change| {
        tally.next(&change, &mut record);
        Ok(())
    })?;
    tally.finish(&mut record);
    written?;
    values(history, store, write)?;
    Ok(Imported { revision: *revision, floor: *floor, keys: totals.keys, hash, detached: detached.len() })
}

/// Adds the rows of users and roles.
fn users(auth: &AuthState, small: &mut Vec<(Blob, Blob)>) -> Result<(), ImportError> {
    if let Some(name) = auth.users.keys().chain(auth.roles.keys()).find(|name| name.len() > NAME_BYTES_MAX) {
        return Err(ImportError(format!("a user's or a role's name of {} bytes", name.len())));
    }
    if *auth == AuthState::default() {
        return Ok(());
    }
    let mut check = Auth::default();
    let row = AuthRow { enabled: auth.enabled, revision: auth.revision };
    check.restore(row);
    auth.roles.iter().for_each(|(name, role)| check.restore_role(name.clone(), role.clone()));
    auth.users.iter().for_each(|(name, user)| check.restore_user(name.clone(), user.clone()));
    if let Some(reason) = check.contradiction().or_else(|| check.excess()) {
        return Err(ImportError(reason));
    }
    small.push((rows::auth(), codec::encode(&row)));
    small.extend(auth.roles.iter().map(|(name, role)| (rows::role(name), codec::encode(role))));
    small.extend(auth.users.iter().map(|(name, user)| (rows::user(name), codec::encode(user))));
    Ok(())
}

/// Writes the values of all kept puts, in order of their rows.
fn values<H: History>(history: &H, store: &Store, write: &mut WriteRow<'_, H::Error>) -> Result<(), H::Error> {
    let (mut row, mut long) = (Vec::new(), BTreeSet::new());
    for (key, versions) in store.view.index.all() {
        for rev in versions.iter().filter(|rev| !rev.is_tombstone()) {
            if rows::value_into(key, rev.main(), rev.sub(), &mut row) {
                write(&row, &history.value(rev.main(), rev.sub())?)?;
            } else {
                long.insert((rev, core::mem::take(&mut row)));
            }
        }
    }
    for (rev, row) in long {
        write(&row, &history.value(rev.main(), rev.sub())?)?;
    }
    Ok(())
}

/// What the first time through a history tells.
struct Survey {
    /// Its index has exactly what is kept.
    store: Store,
    revision: Revision,
    floor: Revision,
    /// Puts in force that name a lease which does not exist.
    detached: BTreeSet<(Revision, u32)>,
}

impl Survey {
    fn new<H: History>(history: &H, import: &Import) -> Result<Self, H::Error> {
        let mut store = Store::empty(NodeId(0), FEATURE_LEVEL);
        for LeaseRecord { lease, remaining } in &import.leases {
            if lease.id.0 == 0 || lease.ttl.0 < 0 || lease.ttl > super::lease::TTL_MAX {
                return Err(ImportError(format!("a lease {} of {} s", lease.id, lease.ttl)).into());
            }
            store.view.leases.grant(*lease, *remaining);
        }
        let floor = match import.bump {
            0 => import.floor,
            bump => bumped(history, import.floor, bump)?,
        };
        let mut records = Records::new(Revision(i64::MAX - 1), floor);
        let mut revision = Revision(floor.0.max(1));
        let mut last = None;
        history.changes(&mut |change| {
            let (main, sub) = (change.kv.mod_revision, change.sub);
            if last.is_some_and(|last| last >= (main, sub)) {
                return Err(ImportError(format!("revision {main}.{sub} comes late")).into());
            }
            last = Some((main, sub));
            revision = revision.max(main);
            survey(&mut store, &mut records, floor, &change).map_err(|error| ImportError(error).into())
        })?;
        let leases = &store.view.leases;
        let homeless = leases.attachments().filter(|(lease, _)| !leases.contains(*lease));
        let detached =
            homeless.filter_map(|(_, key)| store.view.index.live(key).map(|(rev, _)| (rev.main(), rev.sub())));
        Ok(Self { detached: detached.collect(), store, revision, floor })
    }
}

/// The newest revision, moved on by `bump`.
fn bumped<H: History>(history: &H, floor: Revision, bump: u64) -> Result<Revision, H::Error> {
    let mut newest = Revision(floor.0.max(1));
    history.changes(&mut |change| {
        newest = newest.max(change.kv.mod_revision);
        Ok(())
    })?;
    let bumped = i64::try_from(bump).ok().and_then(|bump| newest.0.checked_add(bump));
    let bumped = bumped.filter(|bumped| *bumped < i64::MAX - 1);
    Ok(Revision(bumped.ok_or_else(|| ImportError(format!("revision {newest} cannot be moved on by {bump}")))?))
}

/// Takes one change into the index.
fn survey(store: &mut Store, records: &mut Records, floor: Revision, change: &Change) -> Result<(), String> {
    let Change { kv, sub, deleted, value_bytes } = change;
    let main = kv.mod_revision;
    if kv.value.len() != *value_bytes as usize || kv.value.len() > codec::MESSAGE_BYTES_MAX {
        return Err(format!("the value of {:?} at revision {main}.{sub} has {} bytes", kv.key, kv.value.len()));
    }
    if kv.key.is_empty() {
        // etcdutl leaves one where it bumped the revision.
        let is_mark = main <= floor;
        return if is_mark { Ok(()) } else { Err(format!("an empty key at revision {main}.{sub}")) };
    }
    if main <= floor {
        // Whatever compaction has left of it, only its newest state counts.
        let before = store.view.index.forget(&kv.key);
        store.view.leases.moved(&kv.key, before.and_then(|(_, meta)| meta.lease), None);
        if *deleted && main < floor {
            return Ok(());
        }
    }
    records.add(store, main, *sub, &record(change, 0, 0))
}

fn record(change: &Change, digest: u64, removable: u64) -> Record {
    let kv = &change.kv;
    let meta = Meta { create: kv.create_revision, version: kv.version, lease: kv.lease };
    let put = (!change.deleted).then_some(Put { meta, value_bytes: change.value_bytes, digest });
    Record { key: kv.key.clone(), put, removable }
}

/// Counts and hashes kept changes as applying them would have; and makes their records.
struct Tally<'a> {
    survey: &'a Survey,
    ledger: Ledger,
    fold: Fold,
    hash: u64,
    main: Revision,
    /// The kept changes of `main` so far, without their values; and the values' digests.
    current: Vec<(Change, u64)>,
}

impl<'a> Tally<'a> {
    fn new(survey: &'a Survey, import: &Import) -> Self {
        let mut fold = Fold::default();
        for LeaseRecord { lease, remaining } in &import.leases {
            fold.effect(Effect::LeaseGranted).i64(lease.id.0).i64(lease.ttl.0).encoded(remaining);
        }
        for alarm in &import.alarms {
            fold.effect(Effect::AlarmRaised).encoded(alarm);
        }
        let auth = &import.auth;
        fold.effect(Effect::Auth).u64(auth.revision.0).u64(auth.enabled.into());
        auth.users.iter().for_each(|(name, user)| _ = fold.bytes(name.as_bytes()).encoded(user));
        auth.roles.iter().for_each(|(name, role)| _ = fold.bytes(name.as_bytes()).encoded(role));
        fold.i64(survey.revision.0).i64(survey.floor.0);
        let hash = fold.chain(0);
        Self { survey, ledger: Ledger::default(), fold, hash, main: Revision(0), current: Vec::new() }
    }

    fn add(&mut self, change: &Change) {
        self.next(change, &mut |_, _, _| ());
    }

    fn next(&mut self, change: &Change, record: &mut dyn FnMut(Revision, u32, &Record)) {
        let (main, sub) = (change.kv.mod_revision, change.sub);
        let Survey { store, floor, detached, .. } = self.survey;
        let versions = store.view.index.get(&change.kv.key);
        if main <= *floor && !versions.is_some_and(|versions| versions.is_kept(main, sub, *floor)) {
            return;
        }
        if main != self.main {
            self.end_revision(record);
            self.main = main;
        }
        let digest = digest(&change.kv.value);
        let mut change = change.clone();
        change.kv.value = Blob::EMPTY;
        change.kv.lease = change.kv.lease.filter(|_| !detached.contains(&(main, sub)));
        self.current.push((change, digest));
    }

    fn end_revision(&mut self, record: &mut dyn FnMut(Revision, u32, &Record)) {
        let changes = core::mem::take(&mut self.current);
        for (change, _) in &changes {
            let versions = self.survey.store.view.index.get(&change.kv.key).expect("it is kept");
            if let Some(previous) = versions.before(self.main, change.sub) {
                self.ledger.supersede(change.kv.key.len(), previous.value_bytes());
            }
            if change.deleted {
                self.ledger.tombstone(change.kv.key.len());
            } else {
                self.ledger.put(change.kv.key.len(), change.value_bytes as usize);
            }
        }
        let removable = self.ledger.removable();
        if self.main <= self.survey.floor {
            self.ledger.compact(removable);
        }
        for (change, digest) in changes {
            let made = self::record(&change, digest, if change.sub == 0 { removable } else { 0 });
            self.fold.u64(change.sub.into()).bytes(&made.encode());
            record(self.main, change.sub, &made);
        }
        self.fold.i64(self.main.0);
        self.hash = self.fold.chain(self.hash);
    }

    /// The ledger and the hash after everything.
    fn finish(mut self, record: &mut dyn FnMut(Revision, u32, &Record)) -> (Ledger, u64) {
        self.end_revision(record);
        (self.ledger, self.hash)
    }
}

const _: () = assert!(codec::MESSAGE_BYTES_MAX < 1 << 31, "a value's length has 31 bits");
