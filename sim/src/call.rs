//! Calls of clients: encoded protobuf in, the member's real handlers, encoded protobuf or a status out.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::replica::{Request, Response};
use quorate_node::service::lease::KeepAlive;
use quorate_node::service::{self, Begun, Local, Method};
use quorate_node::status::{Code, Status};

/// The methods that clients call; what travels beside the encoded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rpc {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseKeepAlive,
}

/// Why a call brought no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The member said so.
    Status(Status),
    /// Nobody listened: the request was never seen.
    Refused,
    /// The connection broke: the request may have been seen or not.
    Broken,
}

/// What a call came to.
pub type Answer = Result<Bytes, CallError>;

/// The second half of a call, to be run once consensus has answered what was asked.
pub type Finish = Box<dyn FnOnce(Option<Response>, &Local<'_>) -> Result<Bytes, Status>>;

/// The first half of a call: what to ask of consensus, if anything.
///
/// # Errors
/// The status to answer at once.
pub fn start(rpc: Rpc, request: Bytes, local: &Local<'_>) -> Result<(Option<Request>, Finish), Status> {
    match rpc {
        Rpc::Range => begin::<pb::RangeRequest>(request, local),
        Rpc::Put => begin::<pb::PutRequest>(request, local),
        Rpc::DeleteRange => begin::<pb::DeleteRangeRequest>(request, local),
        Rpc::Txn => begin::<pb::TxnRequest>(request, local),
        Rpc::Compact => begin::<pb::CompactionRequest>(request, local),
        Rpc::LeaseGrant => begin::<pb::LeaseGrantRequest>(request, local),
        Rpc::LeaseRevoke => begin::<pb::LeaseRevokeRequest>(request, local),
        Rpc::LeaseTimeToLive => begin::<pb::LeaseTimeToLiveRequest>(request, local),
        Rpc::LeaseKeepAlive => {
            let (ask, rest) = KeepAlive::start(&decode(request)?, local);
            let finish = move |answer: Option<Response>, local: &Local<'_>| {
                let answer = answer.expect("a keep-alive always asks");
                Ok(rest.finish(answer, local).encode_to_vec().into())
            };
            Ok((Some(ask), Box::new(finish)))
        }
    }
}

fn begin<M: Method>(request: Bytes, local: &Local<'_>) -> Result<(Option<Request>, Finish), Status>
where
    M::Rest: 'static,
{
    let Begun { ask, rest } = service::begin(decode::<M>(request)?, local)?;
    let finish = move |answer: Option<Response>, local: &Local<'_>| {
        Begun::<M>::finish(rest, answer.map(Ok), &Author::Nobody, local).map(|reply| reply.encode_to_vec().into())
    };
    Ok((ask, Box::new(finish)))
}

fn decode<M: prost::Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::new(Code::Internal, error.to_string()))
}
