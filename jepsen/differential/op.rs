//! One step of a script.

use quorate_api::etcdserverpb as pb;

use crate::api::Request;

/// What both clusters are made to do, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// A unary call to a member, by a user or nobody.
    Call { member: usize, user: Option<&'static str>, request: Request },
    /// A range in chunks.
    RangeStream { member: usize, user: Option<&'static str>, range: pb::RangeRequest },
    /// Keep-alives on a stream of their own, which the client then ends.
    KeepAlive { member: usize, user: Option<&'static str>, ids: Vec<i64> },
    /// Opens a watch stream, known by a number from now on.
    WatchOpen { stream: usize, user: Option<&'static str>, member: usize },
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
            Self::RangeStream { .. } => "RangeStream",
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
            Self::Call { member, .. }
            | Self::RangeStream { member, .. }
            | Self::KeepAlive { member, .. }
            | Self::WatchOpen { member, .. } => Some(*member),
            Self::WatchSend { .. } | Self::WatchClose { .. } | Self::WatchSync => None,
        }
    }

    /// Whether it is answered from what its member happens to have applied.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Call { request, .. } => match request {
                Request::Range(range) => range.serializable,
                Request::Txn(txn) => is_local(txn),
                Request::LeaseTimeToLive(_)
                | Request::LeaseLeases(_)
                | Request::MemberList(_)
                | Request::Status(_)
                | Request::HashKv(_)
                | Request::Defragment(_)
                | Request::MoveLeader(_)
                | Request::Downgrade(_)
                | Request::AuthStatus(_) => true,
                _ => false,
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
