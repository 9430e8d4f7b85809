//! The narrow traits through which the replicated state reads what it does not hold in memory.

use core::ops::ControlFlow;

use crate::Blob;
use crate::tree::Tree;

/// A consistent, read-only picture of a member's applied rows. Infallible: a driver that cannot read stops the member.
pub trait Rows {
    /// The value stored under `key`.
    fn get(&self, key: &[u8]) -> Option<Blob>;

    /// Calls `visit` with every row in `from..to` in ascending bytewise key order until it breaks. `from <= to`.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>);
}

impl<R: Rows + ?Sized> Rows for &R {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        (**self).get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        (**self).scan(from, to, visit);
    }
}

/// One change of a row: a value to store, or `None` to remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowWrite {
    /// The row's key, at most [`ROW_KEY_BYTES_MAX`] bytes.
    pub key: Blob,
    /// The new value; `None` removes the row.
    pub value: Option<Blob>,
}

/// The longest row key: fjall stores lengths of keys in 16 bits.
pub const ROW_KEY_BYTES_MAX: usize = 65_535;

/// Rows in memory: for tests and simulation. Cloning is O(1), and a clone is a snapshot.
#[derive(Clone, Debug, Default)]
pub struct MemRows {
    rows: Tree<Blob>,
}

impl MemRows {
    /// Carries out `writes` in order.
    ///
    /// # Panics
    /// If a key is longer than [`ROW_KEY_BYTES_MAX`]: a real backend could not store it.
    pub fn write(&mut self, writes: &[RowWrite]) {
        for RowWrite { key, value } in writes {
            assert!(key.len() <= ROW_KEY_BYTES_MAX, "row key of {} bytes", key.len());
            match value {
                Some(value) => self.rows.insert(key, value.clone()),
                None => self.rows.remove(key),
            };
        }
    }

    /// All rows in ascending order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Blob)> {
        self.rows.range(&[], None)
    }
}

impl Rows for MemRows {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        self.rows.get(key).cloned()
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        assert!(from <= to, "a scan from {from:?} to {to:?}");
        for (key, value) in self.rows.range(from, Some(to)) {
            if visit(key, value.clone()).is_break() {
                return;
            }
        }
    }
}
