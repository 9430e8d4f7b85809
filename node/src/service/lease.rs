//! Leases: grant, revoke, renew, ask. (etcd: service Lease)

use quorate_api::etcdserverpb as pb;
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::store::Need;
use quorate_core::{LeaseId, Revision};

use super::{Access, Local, Method, Settings, admit, mismatch, trust};
use crate::status::Status;
use crate::wire::{request, response};

impl Method for pb::LeaseGrantRequest {
    type Reply = pb::LeaseGrantResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Lease/LeaseGrant";

    /// (etcd: leaseOverhead)
    fn cost(&self) -> u64 {
        64
    }

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::Command(Command::LeaseGrant(request::lease_grant(&self)))), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::LeaseGrantResponse, Status> {
        match answer {
            Some(Response::Outcome(Outcome::LeaseGrant(lease, revision))) => Ok(pb::LeaseGrantResponse {
                header: Some(local.header(revision)),
                id: lease.id.0,
                ttl: lease.ttl.0,
                error: String::new(),
            }),
            other => mismatch(other.as_ref()),
        }
    }
}

impl Method for pb::LeaseRevokeRequest {
    type Reply = pb::LeaseRevokeResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Lease/LeaseRevoke";

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::Command(Command::LeaseRevoke(LeaseId(self.id)))), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::LeaseRevokeResponse, Status> {
        match answer {
            Some(Response::Outcome(Outcome::LeaseRevoke(revision))) => {
                Ok(pb::LeaseRevokeResponse { header: Some(local.header(revision)) })
            }
            other => mismatch(other.as_ref()),
        }
    }
}

impl Method for pb::LeaseTimeToLiveRequest {
    type Reply = pb::LeaseTimeToLiveResponse;
    /// The lease, and whether its keys are wanted.
    type Rest = (LeaseId, bool);
    const PATH: &'static str = "/etcdserverpb.Lease/LeaseTimeToLive";

    fn access((id, wants_keys): &Self::Rest) -> Access<'_> {
        Access::State(if *wants_keys { Need::ReadLease(*id) } else { Need::AnyUser })
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        let id = LeaseId(self.id);
        Ok((Some(Request::TimeToLive(id)), (id, self.keys)))
    }

    fn finish(
        (id, wants_keys): Self::Rest,
        answer: Option<Response>,
        local: &Local<'_>,
    ) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let Some(Response::TimeToLive(left)) = answer else { mismatch(answer.as_ref()) };
        let (granted, remaining) = left.map_or((0, -1), |(granted, remaining)| (granted.0, remaining.0));
        let keys = match local.view.lease(id) {
            Some((_, keys)) if wants_keys && left.is_some() => response::keys(keys),
            _ => Vec::new(),
        };
        let header = Some(local.header_now());
        Ok(pb::LeaseTimeToLiveResponse { header, id: id.0, ttl: remaining, granted_ttl: granted, keys })
    }
}

impl Method for pb::LeaseLeasesRequest {
    type Reply = pb::LeaseLeasesResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Lease/LeaseLeases";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::ReadLeases)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::LeaseLeasesResponse, Status> {
        let leases = local.view.lease_ids().into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(pb::LeaseLeasesResponse { header: Some(local.header_now()), leases })
    }
}

/// One message of a keep-alive stream; messages are answered in the order they came. (etcd: LeaseKeepAlive)
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    id: LeaseId,
    /// The store's revision before the renewal, as etcd answers it.
    revision: Revision,
}

impl KeepAlive {
    /// What to ask of consensus.
    ///
    /// # Errors
    /// Those of [`admit`].
    pub fn start(request: &pb::LeaseKeepAliveRequest, local: &Local<'_>) -> Result<(Request, Self), Error> {
        admit(false, local)?;
        let id = LeaseId(request.id);
        Ok((Request::KeepAlive(id), Self { id, revision: local.view.revision() }))
    }

    /// What the caller must be allowed.
    #[must_use]
    pub fn access(&self) -> Access<'static> {
        Access::State(Need::WriteLease(self.id))
    }

    /// The reply. A lease that does not exist is answered by a TTL of 0; the stream goes on.
    ///
    /// # Errors
    /// Those of [`trust`].
    ///
    /// # Panics
    /// If `answer` is not one to a keep-alive.
    pub fn finish(self, answer: Response, local: &Local<'_>) -> Result<pb::LeaseKeepAliveResponse, Error> {
        trust(local.status)?;
        let Response::KeptAlive(ttl) = answer else { mismatch(Some(&answer)) };
        let header = Some(local.header(self.revision));
        Ok(pb::LeaseKeepAliveResponse { header, id: self.id.0, ttl: ttl.map_or(0, |ttl| ttl.0) })
    }
}
