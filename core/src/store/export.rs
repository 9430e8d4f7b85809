//! What is kept, for stores that keep it in another way: changes in the order they were made.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::range::key_value;
use super::revisions::Rev;
use super::rows::{self, Record};
use super::values::Values;
use super::{LeaseRecord, View};
use crate::request::KeyValue;
use crate::rows::Rows;
use crate::{Blob, Revision};

/// One change of one key, as its store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// A put's new state; for a delete only `key` and `mod_revision` are set, the rest is 0 or empty.
    pub kv: KeyValue,
    /// Position within its revision.
    pub sub: u32,
    /// Whether the key was removed.
    pub deleted: bool,
    /// Bytes of the value, also where that was not asked for.
    pub value_bytes: u32,
}

/// A piece of [`View::changes`] holds about so many bytes of keys and values...
const PIECE_BYTES: usize = 1 << 20;
/// ...and at most so many changes.
const PIECE_CHANGES: usize = 1000;

impl View {
    /// The next kept changes from (main, sub) on, some at a time, and where to go on; `None` after the last. What
    /// compaction need not keep is left out, whether it is still there or not: equal states give equal changes. Without
    /// `values` those stay empty, and none is read.
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    #[must_use]
    pub fn changes(
        &self,
        rows: &dyn Rows,
        from: (Revision, u32),
        values: bool,
    ) -> (Vec<Change>, Option<(Revision, u32)>) {
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, None);
        let range = [rows::record(from.0, from.1), rows::record(self.revision.next(), 0)];
        if range[0] >= range[1] {
            return (Vec::new(), None);
        }
        rows.scan(&range[0], &range[1], &mut |key, row| {
            let (main, sub) = rows::parse_record(&key[1..]).unwrap_or_else(|| panic!("row key {key:?} is damaged"));
            if bytes >= PIECE_BYTES || found.len() == PIECE_CHANGES {
                next = Some((main, sub));
                return ControlFlow::Break(());
            }
            let record = Record::decode(row).unwrap_or_else(|| panic!("the record of {main}.{sub} is damaged"));
            if main <= self.floor {
                let versions = self.index.get(&record.key);
                if !versions.is_some_and(|versions| versions.is_kept(main, sub, self.floor)) {
                    return ControlFlow::Continue(());
                }
            }
            let value_bytes = record.put.map_or(0, |put| put.value_bytes);
            bytes += record.key.len() + if values { value_bytes as usize } else { 0 };
            let key = Blob::copy(&record.key); // its row may be part of a larger block
            let (kv, deleted) = match record.put {
                Some(put) => (key_value(key, Rev::put(main, sub, value_bytes as usize), put.meta), false),
                None => (super::tombstone(key, main), true),
            };
            found.push((kv, sub, deleted, value_bytes));
            ControlFlow::Continue(())
        });
        if values {
            let puts = found.iter_mut().filter(|(_, _, deleted, _)| !deleted);
            let mut filled: Vec<(KeyValue, u32)> = puts.map(|(kv, sub, _, _)| (kv.clone(), *sub)).collect();
            Values::stored(rows).fill(&mut filled);
            let puts = found.iter_mut().filter(|(_, _, deleted, _)| !deleted);
            puts.zip(filled).for_each(|((kv, ..), (filled, _))| *kv = filled);
        }
        let change = |(kv, sub, deleted, value_bytes)| Change { kv, sub, deleted, value_bytes };
        (found.into_iter().map(change).collect(), next)
    }

    /// All leases, by ID.
    #[must_use]
    pub fn all_leases(&self) -> Vec<LeaseRecord> {
        self.leases.iter().cloned().collect()
    }
}
