//! Protobuf to core types and back. The only place that knows the wire's sentinels; requests leave it well-formed.
//!
//! Checks run in etcd's order and fail with etcd's texts, since clients tell errors apart by their text.

pub mod request;
pub mod response;

use quorate_api::etcdserverpb as pb;
use quorate_core::{ClusterId, NodeId, Revision, Term};

/// What a request may weigh. (etcd: `--max-request-bytes`, `--max-txn-ops`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest replicated request, in bytes of protobuf.
    pub request_bytes_max: u64,
    /// Longest list of a txn; nested txns share what their parent leaves.
    pub txn_ops_max: u32,
}

/// What gRPC messages may weigh beyond [`Limits::request_bytes_max`]. (etcd: grpcOverheadBytes)
pub const GRPC_OVERHEAD_BYTES: u64 = 512 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes_max: 1_572_864, txn_ops_max: 128 }
    }
}

/// Who answers: the constant part of every response header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responder {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member that answers, also for work another member did.
    pub member: NodeId,
}

impl Responder {
    /// The header of a response at `revision`, given while the member is in `term`.
    #[must_use]
    pub fn header(self, term: Term, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster.0,
            member_id: self.member.0,
            revision: revision.0,
            raft_term: term.0,
        }
    }
}
