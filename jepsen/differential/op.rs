//! One step of a script.

use quorate_api::etcdserverpb as pb;

use crate::api::Request;

/// What both clusters are made to do, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// A unary call to a member.
    Call { member: usize, request: Request },
    /// Keep-alives on a stream of their own, which the client then ends.
    KeepAlive { member: usize, ids: Vec<i64> },
    /// Opens a watch stream, known by a number from now on.
    WatchOpen { stream: usize, member: usize },
    /// Sends a message on an open watch stream.
    WatchSend { stream: usize, request: pb::WatchRequest },
    /// Ends a watch stream from the client's side.
    WatchClose { stream: usize },
    /// Waits until all watch streams have brought the same.
    WatchSync,
}

impl Op {
    /// What it is counted as.
    pub(crate) fn name(&self) -> &'static str {
        use pb::watch_request::RequestUnion;
        match self {
            Self::Call { request, .. } => request.name(),
            Self::KeepAlive { .. } => "LeaseKeepAlive",
            Self::WatchOpen { .. } => "WatchOpen",
            Self::WatchClose { .. } => "WatchClose",
            Self::WatchSync => "WatchSync",
            Self::WatchSend { request, .. } => match &request.request_union {
                Some(RequestUnion::CreateRequest(_)) => "WatchCreate",
                Some(RequestUnion::CancelRequest(_)) => "WatchCancel",
                Some(RequestUnion::ProgressRequest(_)) => "WatchProgress",
                None => "WatchNothing",
            },
        }
    }

    /// The member it is sent to, if it says so itself.
    pub(crate) fn member(&self) -> Option<usize> {
        match self {
            Self::Call { member, .. } | Self::KeepAlive { member, .. } | Self::WatchOpen { member, .. } => {
                Some(*member)
            }
            Self::WatchSend { .. } | Self::WatchClose { .. } | Self::WatchSync => None,
        }
    }

    /// Whether it is answered from what its member happens to have applied.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Call { request, .. } => match request {
                Request::Range(range) => range.serializable,
                Request::Txn(txn) => is_local(txn),
                Request::Put(_)
                | Request::DeleteRange(_)
                | Request::Compact(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_) => false,
                _ => true,
            },
            _ => true,
        }
    }
}

/// A txn of ranges alone is answered without a quorum if all of them allow that.
fn is_local(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request::RequestRange;
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(&op.request, Some(RequestRange(range)) if range.serializable))
}
