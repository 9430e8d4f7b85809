//! The running state hash: a chain over what every entry did, equal on members that did the same.
//!
//! It covers what entries *mean* (records with their counters and values, leases, members, the floor, branches taken,
//! values a decision read, refusals); batches, clocks, sizes on disk and physical compaction stay out of it.

use alloc::vec::Vec;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::Error;
use crate::format::codec;

/// What the current entry did so far, as bytes.
#[derive(Debug, Default)]
pub(super) struct Fold(Vec<u8>);

/// Tells effects apart.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Effect {
    Entry = 1,
    Duplicate,
    Refused,
    Put,
    Delete,
    Branch,
    Read,
    Floor,
    LeaseGranted,
    LeaseRevoked,
    LeaseCheckpointed,
    Member,
    FeatureLevel,
    AlarmRaised,
    AlarmCleared,
    Downgrade,
    Auth,
    MemberRemoved,
}

impl Fold {
    pub(super) fn effect(&mut self, effect: Effect) -> &mut Self {
        self.0.push(effect as u8);
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn i64(&mut self, number: i64) -> &mut Self {
        self.u64(number.cast_unsigned())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64).0.extend_from_slice(bytes);
        self
    }

    pub(super) fn encoded<T: bincode::Encode>(&mut self, value: &T) -> &mut Self {
        codec::encode_into(value, &mut self.0);
        self
    }

    pub(super) fn refused(&mut self, error: &Error) {
        self.effect(Effect::Refused).encoded(error);
    }

    /// The chain after `hash`; what was folded is forgotten.
    pub(super) fn chain(&mut self, hash: u64) -> u64 {
        let next = xxh3_64_with_seed(&self.0, hash);
        self.0.clear();
        next
    }
}

/// What stands for a value in hashes and records.
pub(super) fn digest(value: &[u8]) -> u64 {
    xxh3_64(value)
}
