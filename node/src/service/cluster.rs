//! Who the members are. (etcd: service Cluster)

use quorate_api::etcdserverpb as pb;
use quorate_core::replica::{Request, Response};
use quorate_core::request::Member;
use quorate_core::store::Need;

use super::{Access, Local, Method, Settings};
use crate::status::Status;
use crate::wire::response;
use quorate_core::Revision;

impl Method for pb::MemberListRequest {
    type Reply = pb::MemberListResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberList";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::AnyUser)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((self.linearizable.then_some(Request::ReadIndex), ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::MemberListResponse, Status> {
        let members = members(local).into_iter().map(response::member).collect();
        // etcd leaves the revision out of these headers.
        Ok(pb::MemberListResponse { header: Some(local.header(Revision(0))), members })
    }
}

/// Every member of the configuration, ascending by ID: as it has published itself, else as the command line names it.
#[must_use]
pub fn members(local: &Local<'_>) -> Vec<Member> {
    let published = local.view.members();
    let initial = &local.settings.initial_cluster;
    let config = &local.status.raft.config;
    let mut ids: Vec<_> = config.voters.keys().chain(config.outgoing.keys()).chain(config.learners.keys()).collect();
    ids.sort_unstable();
    ids.dedup();
    let named = |id| published.iter().chain(initial).find(|member| member.id == id).cloned();
    ids.into_iter()
        .map(|&id| {
            let unknown = Member { id, name: String::new(), peer_urls: vec![], client_urls: vec![], is_learner: false };
            Member { is_learner: config.learners.contains_key(&id), ..named(id).unwrap_or(unknown) }
        })
        .collect()
}
