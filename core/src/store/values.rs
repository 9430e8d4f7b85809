//! Where values come from: what the batch being built has written, else the backend.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::index::Meta;
use super::rows::{self, Record};
use super::{Event, RevisionEvents};
use crate::request::KeyValue;
use crate::rows::Rows;
use crate::{Blob, Revision};

/// Everything stored, at one moment. A row that is missing for a revision that is kept is corruption: it panics.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) rows: &'a dyn Rows,
    /// Changes of the batch being built, ascending and without gaps; not in `rows` yet.
    pub(super) recent: &'a [RevisionEvents],
    /// Changes of the entry being applied; they will be the revision after the last one.
    pub(super) current: (Revision, &'a [Event]),
}

/// From so many values on, reading on from row to row pays, as long as not too many others lie between.
const SCAN_MIN: usize = 16;
/// Rows passed for each row wanted above which single reads are faster (measured of fjall: a read costs 14 rows).
const PASSED_MAX: usize = 8;

impl<'a> Values<'a> {
    /// Of a published state: everything is in `rows`.
    pub(super) fn stored(rows: &'a dyn Rows) -> Self {
        Self { rows, recent: &[], current: (Revision(i64::MAX), &[]) }
    }

    /// The value that the put of `key` at (`main`, `sub`) stored.
    pub(super) fn value(&self, key: &[u8], main: Revision, sub: u32) -> Blob {
        match self.recent(main, sub) {
            Some(event) => event.kv.value.clone(),
            None => self.stored_value(key, main, sub),
        }
    }

    /// The counters that the put of `key` at (`main`, `sub`) stored.
    pub(super) fn meta(&self, key: &[u8], main: Revision, sub: u32) -> Meta {
        if let Some(Event { kv, .. }) = self.recent(main, sub) {
            return Meta { create: kv.create_revision, version: kv.version, lease: kv.lease };
        }
        let record = self.record(main, sub).filter(|record| *record.key == *key).and_then(|record| record.put);
        record.unwrap_or_else(|| panic!("the record of {key:?} at revision {main}.{sub} is missing or damaged")).meta
    }

    /// The record at (`main`, `sub`), which is in the backend.
    pub(super) fn record(&self, main: Revision, sub: u32) -> Option<Record> {
        self.rows.get(&rows::record(main, sub)).and_then(Record::decode)
    }

    /// Fills in the values of `found`, in whatever order they are.
    pub(super) fn fill(&self, found: &mut [(KeyValue, u32)]) {
        let mut wanted: Vec<usize> = Vec::new();
        for (at, (kv, sub)) in found.iter_mut().enumerate() {
            match self.recent(kv.mod_revision, *sub) {
                Some(event) => kv.value = event.kv.value.clone(),
                None => wanted.push(at),
            }
        }
        let mut read = 0;
        if wanted.len() >= SCAN_MIN {
            if !wanted.is_sorted_by(|a, b| found[*a].0.key <= found[*b].0.key) {
                wanted.sort_by(|a, b| found[*a].0.key.cmp(&found[*b].0.key));
            }
            read = self.scan(found, &wanted);
        }
        for at in &wanted[read..] {
            let (kv, sub) = &mut found[*at];
            kv.value = self.stored_value(&kv.key, kv.mod_revision, *sub);
        }
    }

    /// Reads values in the order of their keys from row to row; gives up if too many other rows lie between, or if a
    /// key is too long to stand in order. Returns how many of `wanted` it read.
    fn scan(&self, found: &mut [(KeyValue, u32)], wanted: &[usize]) -> usize {
        let row = |kv: &KeyValue, sub: u32, row: &mut Vec<u8>| rows::value_into(&kv.key, kv.mod_revision, sub, row);
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let ends = [wanted[0], wanted[wanted.len() - 1]].map(|at| &found[at]);
        if !row(&ends[0].0, ends[0].1, &mut first) || !row(&ends[1].0, ends[1].1, &mut last) {
            return 0;
        }
        last.push(0);
        let (mut read, mut passed, mut next) = (0, 0, first.clone());
        self.rows.scan(&first, &last, &mut |key, value| {
            if *key < *next {
                passed += 1;
                return if passed > PASSED_MAX * (read + SCAN_MIN) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                };
            }
            if *key > *next {
                return ControlFlow::Break(()); // Missing: the single read says so.
            }
            found[wanted[read]].0.value = value;
            read += 1;
            let Some((kv, sub)) = wanted.get(read).map(|at| &found[*at]) else { return ControlFlow::Break(()) };
            if row(kv, *sub, &mut next) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        read
    }

    fn stored_value(&self, key: &[u8], main: Revision, sub: u32) -> Blob {
        let value = self.rows.get(&rows::value(key, main, sub));
        value.unwrap_or_else(|| panic!("the value of {key:?} at revision {main}.{sub} is missing from the backend"))
    }

    fn recent(&self, main: Revision, sub: u32) -> Option<&'a Event> {
        let sub = usize::try_from(sub).expect("a 32-bit number");
        if main == self.current.0 {
            return self.current.1.get(sub);
        }
        let first = self.recent.first()?.revision;
        let at = usize::try_from(main.0.checked_sub(first.0)?).ok()?;
        let events = self.recent.get(at)?;
        assert_eq!(events.revision, main, "revisions of a batch follow each other");
        events.events.get(sub)
    }
}
