//! Removing what nobody can see any more, a slice at a time. The floor has moved at once, when its entry was applied;
//! this is each member's own housekeeping.
//!
//! Which keys have something to remove? A revision is superseded by a later change at or below the floor, and a
//! tombstone goes once the floor has passed it. So it is enough to visit the records from the last finished floor
//! (whose own tombstones were still kept) up to the floor, in order, and to clean their keys. How far that has come is a
//! row written together with the removals, so a restart continues where they stopped. If the floor moves meanwhile,
//! tombstones exactly at the old one that were kept so far are looked at again.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::rows::{self, Cleaned, Record};
use super::{CompactionSlice, Store};
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::rows::Rows;
use crate::{Blob, Revision};

/// How far this member has come.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    pub(super) cleaned: Cleaned,
    /// Everything below this floor is gone: nothing to look for until the next.
    pub(super) finished: Option<Revision>,
}

/// A slice removes at most so many revisions for each record it may visit: one key may have a million.
const REMOVALS_PER_RECORD: usize = 4;

pub(super) fn slice(store: &mut Store, rows: &dyn Rows, records: usize, pin: Option<Revision>) -> CompactionSlice {
    let floor = store.view.floor;
    let target = pin.map_or(floor, |pin| pin.min(floor));
    let finished = store.cleaning.finished.is_some_and(|finished| finished >= target);
    if target.0 < 2 || target < store.cleaning.cleaned.main || finished {
        return CompactionSlice { writes: Vec::new(), finished: target == floor };
    }
    let records = records.max(1);
    let before = store.cleaning.cleaned;
    let from = if before.floor == before.main && before.floor < target { Cleaned { sub: 0, ..before } } else { before };
    let (visits, complete) = visits(rows, from, target, records);
    let (mut writes, mut budget) = (Vec::new(), records * REMOVALS_PER_RECORD);
    let mut reached = complete;
    for (main, sub, key) in visits {
        let removed = store.view.index.compact(&key, target, budget);
        budget -= removed.len();
        for rev in removed {
            writes.push(rows::remove(rows::record(rev.main(), rev.sub())));
            if !rev.is_tombstone() {
                writes.push(rows::remove(rows::value(&key, rev.main(), rev.sub())));
            }
        }
        if budget == 0 {
            reach!(CleaningPaused);
            store.cleaning.cleaned = Cleaned { floor: target, main, sub }; // There may be more of this key: come back.
            reached = false;
            break;
        }
        store.cleaning.cleaned = Cleaned { floor: target, main, sub: sub + 1 };
    }
    if mutant::is_on(Mutant::H03) && !writes.is_empty() {
        store.hash = store.hash.rotate_left(1);
    }
    if reached {
        store.cleaning = Cleaning { cleaned: Cleaned { floor: target, main: target, sub: 0 }, finished: Some(target) };
    }
    if store.cleaning.cleaned != before || !writes.is_empty() {
        writes.push(rows::write(rows::cleaned(), codec::encode(&store.cleaning.cleaned)));
    }
    CompactionSlice { writes, finished: reached && target == floor }
}

/// The next at most `max` records through revision `target` with their keys, and whether these are all.
fn visits(rows: &dyn Rows, from: Cleaned, target: Revision, max: usize) -> (Vec<(Revision, u32, Blob)>, bool) {
    let (mut visits, mut complete) = (Vec::new(), true);
    let range = [rows::record(from.main, from.sub), rows::record(target.next(), 0)];
    rows.scan(&range[0], &range[1], &mut |key, row| {
        if visits.len() == max {
            complete = false;
            return ControlFlow::Break(());
        }
        let (main, sub) = rows::parse_record(&key[1..]).unwrap_or_else(|| panic!("row key {key:?} is damaged"));
        let record = Record::decode(row).unwrap_or_else(|| panic!("the record of {main}.{sub} is damaged"));
        visits.push((main, sub, record.key));
        ControlFlow::Continue(())
    });
    (visits, complete)
}
