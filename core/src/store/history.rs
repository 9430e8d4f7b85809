//! What happened, for watchers that catch up.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::range::key_value;
use super::revisions::Rev;
use super::rows::{self, Record};
use super::values::Values;
use super::{Event, RevisionEvents, View};
use crate::Revision;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::KeyValue;
use crate::rows::Rows;

/// What an event costs beyond its key and its value; and its previous state, if that is to be given, too.
const EVENT_BYTES: u64 = 64;

impl Event {
    /// `previous` is the key's revision before this change, if it existed.
    pub(super) fn of(kv: KeyValue, deleted: bool, sub: u32, previous: Option<Rev>) -> Self {
        let (at, bytes) = (previous.map(|rev| (rev.main(), rev.sub())), previous.map_or(0, Rev::value_bytes));
        Self { kv, deleted, sub, previous: at, previous_bytes: bytes }
    }

    /// What the state before it costs in memory, about.
    pub(crate) fn previous_cost(&self) -> u64 {
        self.previous.map_or(0, |_| EVENT_BYTES + self.kv.key.len() as u64 + u64::from(self.previous_bytes))
    }
}

impl View {
    /// The changes of `from..=through` (clipped to what exists), whole revisions, stopping after the first one that
    /// brings the total above `bytes_max`, with `previous` that of the states before the changes included, which are not
    /// read here. Also returns the last revision looked at.
    ///
    /// # Errors
    /// [`Error::Compacted`] if `from` is below the floor.
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    pub fn history(
        &self,
        rows: &dyn Rows,
        from: Revision,
        through: Revision,
        bytes_max: u64,
        previous: bool,
    ) -> Result<(Vec<RevisionEvents>, Revision), Error> {
        if from < self.floor {
            return Err(Error::Compacted { oldest: self.floor });
        }
        let through = through.min(self.revision);
        let first = Revision(from.0.max(2)); // The empty store's revision has no changes.
        if through < first {
            return Ok((Vec::new(), through));
        }
        let whole = first.max(self.floor.next());
        let mut found: Vec<RevisionEvents> = Vec::new();
        let (mut bytes, mut last) = (0, through);
        let range = [rows::record(first, 0), rows::record(through.next(), 0)];
        rows.scan(&range[0], &range[1], &mut |key, row| {
            let (main, sub) = rows::parse_record(&key[1..]).unwrap_or_else(|| panic!("row key {key:?} is damaged"));
            let record = Record::decode(row).unwrap_or_else(|| panic!("the record of {main}.{sub} is damaged"));
            if found.last().is_none_or(|events| events.revision != main) {
                if bytes > bytes_max {
                    last = Revision(main.0 - 1);
                    return ControlFlow::Break(());
                }
                // What compaction leaves of the floor's own changes depends on who compacted: perhaps nothing.
                let next = found.last().map_or(whole, |events| events.revision.next());
                assert!(main == next || main == self.floor, "a record of revision {next} is missing before {main}");
                found.push(RevisionEvents { revision: main, events: Vec::new() });
            }
            bytes += EVENT_BYTES + record.key.len() as u64 + record.put.map_or(0, |put| u64::from(put.value_bytes));
            let event = self.event(main, sub, record);
            bytes += if previous { event.previous_cost() } else { 0 };
            let events = &mut found.last_mut().expect("pushed above").events;
            assert!(sub as usize == events.len() || main == self.floor, "a record of revision {main} is missing");
            events.push(event);
            ControlFlow::Continue(())
        });
        let seen = found.last().map_or(Revision(whole.0 - 1), |events| events.revision);
        assert!(seen >= last, "records of revisions {}..={last} are missing", seen.next());
        if mutant::is_on(Mutant::W04) {
            for events in found.iter_mut().filter(|events| events.revision == self.floor) {
                events.events.retain(|event| !event.deleted);
            }
        }
        let values = Values::stored(rows);
        for event in found.iter_mut().flat_map(|events| &mut events.events).filter(|event| !event.deleted) {
            event.kv.value = values.value(&event.kv.key, event.kv.mod_revision, event.sub);
        }
        Ok((found, last))
    }

    /// A change without its value.
    fn event(&self, main: Revision, sub: u32, record: Record) -> Event {
        let Record { key, put, .. } = record;
        let previous = match self.index.get(&key) {
            // What was below the floor may be gone or not: it is nobody's business any more.
            Some(versions) if main > self.floor => versions.before(main, sub),
            _ => None,
        };
        let kv = match put {
            Some(put) => key_value(key, Rev::put(main, sub, put.value_bytes as usize), put.meta),
            None => super::tombstone(key, main),
        };
        Event::of(kv, put.is_none(), sub, previous)
    }

    /// The state of a key before `event`; `None` if it was created by it, or if compaction has removed the state.
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    #[must_use]
    pub fn previous(&self, rows: &dyn Rows, event: &Event) -> Option<KeyValue> {
        let (main, sub) = event.previous?;
        if event.kv.mod_revision <= self.floor {
            return None;
        }
        let (key, values) = (&event.kv.key, Values::stored(rows));
        let meta = values.meta(key, main, sub);
        let value = values.value(key, main, sub);
        let rev = Rev::put(main, sub, value.len());
        Some(KeyValue { value, ..key_value(key.clone(), rev, meta) })
    }
}
