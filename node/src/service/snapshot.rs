//! A member's state as a file, streamed. (etcd: Maintenance.Snapshot)

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::rows::Rows;

use super::{CLUSTER_VERSION, MemberStatus};
use crate::applier::Published;
use crate::snapshot::{CHECKSUM_BYTES, Export};

/// Bytes of the file in one message. (etcd)
const BLOB_BYTES: usize = 32 << 10;

/// A snapshot on its way to a client.
pub struct SnapshotStream<S> {
    export: Export<S>,
    /// Of the piece under way.
    rest: Bytes,
    /// Bytes of the file that are still to come.
    remaining: u64,
}

impl<S: Rows> SnapshotStream<S> {
    /// Of the state that was published with `published`, by a member of this status. Takes a while.
    #[must_use]
    pub fn new(published: Arc<Published<S>>, status: &MemberStatus) -> Self {
        let voters: Vec<_> = status.raft.config.voters.keys().copied().collect();
        let export = Export::new(published, status.raft.term, &voters);
        Self { remaining: export.bytes(), export, rest: Bytes::new() }
    }

    /// The next message: the file, then its checksum alone; `None` at the end. May take a while.
    ///
    /// # Panics
    /// If a row is missing: the backend is corrupt.
    pub fn next_message(&mut self) -> Option<pb::SnapshotResponse> {
        if self.rest.is_empty() {
            self.rest = self.export.next_piece()?.into();
        }
        let blob = self.rest.split_to(self.rest.len().min(BLOB_BYTES));
        self.remaining = match self.remaining {
            0 => {
                assert_eq!(blob.len(), CHECKSUM_BYTES, "the file is followed by its checksum");
                0
            }
            remaining => remaining.checked_sub(blob.len() as u64).expect("the file is as long as planned"),
        };
        let version = CLUSTER_VERSION.to_owned();
        Some(pb::SnapshotResponse { header: None, remaining_bytes: self.remaining, blob, version })
    }
}
