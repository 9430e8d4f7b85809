//! A member's state as a file, streamed. (etcd: Maintenance.Snapshot)

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::Blob;
use quorate_core::auth::Author;
use quorate_core::error::Error;
use quorate_core::rows::Rows;
use quorate_core::store::Need;

use super::{CLUSTER_VERSION, MemberStatus, trust};
use crate::applier::Published;
use crate::snapshot::{CHECKSUM_BYTES, Export, Standing};

/// Bytes of the file in one message. (etcd)
const BLOB_BYTES: usize = 32 << 10;

/// A snapshot on its way to a client.
pub struct SnapshotStream<S> {
    export: Export<Pinned<S>>,
    /// Of the piece under way.
    rest: Bytes,
    /// Bytes of the file that are still to come.
    remaining: u64,
}

/// The rows of a state that is kept for as long as they are read.
struct Pinned<S>(Arc<Published<S>>);

impl<S: Rows> Rows for Pinned<S> {
    fn get(&self, key: &[u8]) -> Option<Blob> {
        self.0.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], Blob) -> ControlFlow<()>) {
        self.0.rows.scan(from, to, visit);
    }
}

impl<S: Rows> SnapshotStream<S> {
    /// Of the state that was published with `published`, by a member of this status, for `author`. Takes a while.
    ///
    /// # Errors
    /// In that state, the author is not root; or it is known to be wrong.
    pub fn new(author: &Author, published: Arc<Published<S>>, status: &MemberStatus) -> Result<Self, Error> {
        trust(status)?;
        published.view.check(author, &Need::Root)?;
        let voters = status.raft.config.voters.keys().copied().collect();
        let standing = Standing { applied: published.applied, term: status.raft.term, voters };
        let export = Export::new(published.view.clone(), Pinned(published), &standing);
        Ok(Self { remaining: export.bytes(), export, rest: Bytes::new() })
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
