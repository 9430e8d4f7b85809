//! Leases and the keys attached to them. When one expires is the leader's clock's business, not the state's.

use alloc::vec::Vec;

use super::LeaseRecord;
use crate::request::Lease;
use crate::tree::{Item, Tree};
use crate::{Blob, LeaseId, Ttl};

/// Longer leases are refused. (etcd)
pub(super) const TTL_MAX: Ttl = Ttl(9_000_000_000);

/// What a lease costs. (etcd: leaseOverhead)
const LEASE_BYTES: u64 = 64;

/// All leases. Cloning is O(1) and a clone is a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    leases: Tree<LeaseRecord>,
    /// Lease ID, then key.
    attached: Tree<()>,
}

impl Item for LeaseRecord {}

impl Leases {
    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&LeaseRecord> {
        self.leases.get(&prefix(id))
    }

    /// What all of them cost, as the quota counts it.
    pub(super) fn bytes(&self) -> u64 {
        self.leases.weight(&[], None) * LEASE_BYTES
    }

    /// In order of their IDs.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LeaseRecord> {
        self.leases.range(&[], None).map(|(_, record)| record)
    }

    /// The keys attached to `id`, in order.
    pub(super) fn keys(&self, id: LeaseId) -> Vec<Blob> {
        let (from, to) = (prefix(id), id.0.checked_add(1).map(|next| prefix(LeaseId(next))));
        let to = to.as_ref().map(|to| &to[..]);
        self.attached.range(&from, to).map(|(key, ())| Blob::copy(&key[from.len()..])).collect()
    }

    pub(super) fn grant(&mut self, lease: Lease, remaining: Option<Ttl>) {
        self.leases.insert(&prefix(lease.id), LeaseRecord { lease, remaining });
    }

    /// Whether there is such a lease.
    pub(super) fn checkpoint(&mut self, id: LeaseId, remaining: Option<Ttl>) -> bool {
        self.leases.modify(&prefix(id), |record| record.remaining = remaining).is_some()
    }

    /// Removes a lease that has no keys any more.
    pub(super) fn remove(&mut self, id: LeaseId) {
        self.leases.remove(&prefix(id));
    }

    /// `key` leaves lease `from` for lease `to`.
    pub(super) fn moved(&mut self, key: &[u8], from: Option<LeaseId>, to: Option<LeaseId>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.attached.remove(&attachment(from, key));
        }
        if let Some(to) = to {
            self.attached.insert(&attachment(to, key), ());
        }
    }

    /// All attachments.
    pub(super) fn attachments(&self) -> impl Iterator<Item = (LeaseId, &[u8])> {
        self.attached.range(&[], None).map(|(key, ())| {
            let (id, key) = key.split_first_chunk().expect("an attachment begins with its lease");
            (LeaseId((u64::from_be_bytes(*id) ^ SIGN).cast_signed()), key)
        })
    }
}

const SIGN: u64 = 1 << 63;

/// The ID such that bytes stand in the order of numbers.
fn prefix(id: LeaseId) -> [u8; 8] {
    (id.0.cast_unsigned() ^ SIGN).to_be_bytes()
}

fn attachment(id: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + key.len());
    bytes.extend_from_slice(&prefix(id));
    bytes.extend_from_slice(key);
    bytes
}
