//! Streams between members: opaque frames, dropped rather than waited for, since consensus tolerates loss.
//!
//! Each member dials every other one twice: one stream for what is urgent, one for snapshots. Frames flow from the
//! dialling side; the answer is a hello and then silence, whose end tells that the stream is dead. Nothing queues while
//! there is no stream, so nothing old is sent when there is one again.

mod accept;
mod dial;
mod directory;
pub mod join;
pub mod over;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_api::quorate::peer::v1 as pb;
use quorate_core::{ClusterId, Incarnation, NodeId};
use tokio::sync::mpsc;

pub use accept::router;
pub use directory::{Directory, Network};

/// The peer protocols this build speaks.
const PROTOCOL: (u32, u32) = (1, 1);

/// Bytes that may wait for one stream; what exceeds it is dropped.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes of one message on a stream: a frame may hold a request of the largest size, or a megabyte of snapshot rows.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What a removed member is told. (etcd's words)
const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Who this member is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its ID.
    pub member: NodeId,
    /// The life of its disk.
    pub incarnation: Incarnation,
}

/// Why two members do not talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first message was no hello.
    #[error("the first message was no hello")]
    Missing,
    /// Another cluster's member.
    #[error("cluster ID mismatch: the peer is of cluster {theirs:x}, this member of cluster {ours:x}")]
    Cluster {
        /// The peer's cluster.
        theirs: u64,
        /// This member's.
        ours: u64,
    },
    /// The URL leads to another member.
    #[error("the peer wants member {wanted:x}, this is member {ours:x}")]
    Member {
        /// Whom the peer looks for.
        wanted: u64,
        /// Who this is.
        ours: u64,
    },
    /// No protocol in common.
    #[error("no common peer protocol: the peer speaks {min} to {max}, this member {} to {}", PROTOCOL.0, PROTOCOL.1)]
    Protocol {
        /// The peer's lowest.
        min: u32,
        /// The peer's highest.
        max: u32,
    },
}

impl Identity {
    /// The first message to `to`, from a member that is reached at `urls`.
    fn hello(self, to: NodeId, urls: &[String]) -> pb::Message {
        let hello = pb::Hello {
            cluster_id: self.cluster.0,
            member_id: self.member.0,
            incarnation: self.incarnation.0,
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            to: to.0,
            peer_urls: urls.to_vec(),
        };
        pb::Message { message: Some(pb::message::Message::Hello(hello)) }
    }

    /// The sender of a stream's first message, if it speaks to this member, and where it is reached.
    fn check(self, first: Option<pb::Message>) -> Result<(NodeId, Vec<String>), HelloError> {
        let Some(pb::Message { message: Some(pb::message::Message::Hello(hello)) }) = first else {
            return Err(HelloError::Missing);
        };
        if hello.cluster_id != self.cluster.0 {
            return Err(HelloError::Cluster { theirs: hello.cluster_id, ours: self.cluster.0 });
        }
        if hello.to != self.member.0 {
            return Err(HelloError::Member { wanted: hello.to, ours: self.member.0 });
        }
        if hello.protocol_max < PROTOCOL.0 || hello.protocol_min > PROTOCOL.1 {
            return Err(HelloError::Protocol { min: hello.protocol_min, max: hello.protocol_max });
        }
        Ok((NodeId(hello.member_id), hello.peer_urls))
    }
}

/// A way to one peer: a queue while there is a stream, nothing while there is none.
#[derive(Debug, Default)]
struct Lane {
    queue: Mutex<Option<Queue>>,
}

/// The queue of one stream; its bytes are counted down by the other end.
#[derive(Debug)]
struct Queue {
    batches: mpsc::UnboundedSender<Vec<Bytes>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Lane {
    /// Queues a batch; false if there is no stream, or too much waits for it.
    fn send(&self, batch: Vec<Bytes>, bytes: usize) -> bool {
        let queue = self.queue.lock().expect("no holder panics");
        let Some(queue) = &*queue else { return false };
        if queue.waiting_bytes.load(Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            return false;
        }
        queue.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.batches.send(batch).is_ok()
    }

    /// Begins a queue for a new stream.
    fn open(&self) -> (mpsc::UnboundedReceiver<Vec<Bytes>>, Arc<AtomicUsize>) {
        let (batches, receiver) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::default();
        *self.queue.lock().expect("no holder panics") =
            Some(Queue { batches, waiting_bytes: Arc::clone(&waiting_bytes) });
        (receiver, waiting_bytes)
    }

    fn close(&self) {
        *self.queue.lock().expect("no holder panics") = None;
    }
}

#[cfg(test)]
mod tests;
