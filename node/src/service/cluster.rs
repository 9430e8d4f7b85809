//! Who the members are, and how that changes. (etcd: service Cluster)

use quorate_api::etcdserverpb as pb;
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::request::{Member, MemberChange};
use quorate_core::store::Need;
use quorate_core::{ClusterId, NodeId, Revision};
use sha1::{Digest as _, Sha1};

use super::{Access, Local, Method, Settings, mismatch};
use crate::status::Status;
use crate::url::Url;
use crate::wire::response;

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
        Ok(pb::MemberListResponse { header: header(local), members })
    }
}

impl Method for pb::MemberAddRequest {
    type Reply = pb::MemberAddResponse;
    /// The new member's ID.
    type Rest = NodeId;
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberAdd";

    fn access(_: &NodeId) -> Access<'_> {
        Access::Command
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, NodeId), Status> {
        let now = settings.wall_clock.unix_seconds();
        let peer_urls = peer_urls(&self.peer_ur_ls)?;
        // etcd leaves the cluster's token out.
        let id = member_id(&peer_urls, "", Some(now));
        let (name, client_urls) = (String::new(), Vec::new());
        let member = Member { id, name, peer_urls, client_urls, is_learner: self.is_learner };
        let (learners_max, strict) = (settings.learners_max, settings.strict_reconfig_check);
        Ok((Some(ask(MemberChange::Add { member, learners_max, strict })), id))
    }

    fn finish(id: NodeId, answer: Option<Response>, local: &Local<'_>) -> Result<pb::MemberAddResponse, Status> {
        let members = changed(answer);
        let member = members.iter().find(|member| member.id == id.0).cloned();
        Ok(pb::MemberAddResponse { header: header(local), member, members })
    }
}

impl Method for pb::MemberRemoveRequest {
    type Reply = pb::MemberRemoveResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberRemove";

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, ()), Status> {
        let strict = settings.strict_reconfig_check;
        Ok((Some(ask(MemberChange::Remove { id: NodeId(self.id), strict })), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::MemberRemoveResponse, Status> {
        Ok(pb::MemberRemoveResponse { header: header(local), members: changed(answer) })
    }
}

impl Method for pb::MemberUpdateRequest {
    type Reply = pb::MemberUpdateResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberUpdate";

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    // Differs from etcd: it takes any text for a URL here, and its members end in a panic when they dial it.
    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        let peer_urls = peer_urls(&self.peer_ur_ls)?;
        Ok((Some(ask(MemberChange::Update { id: NodeId(self.id), peer_urls })), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::MemberUpdateResponse, Status> {
        Ok(pb::MemberUpdateResponse { header: header(local), members: changed(answer) })
    }
}

impl Method for pb::MemberPromoteRequest {
    type Reply = pb::MemberPromoteResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberPromote";

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, ()), Status> {
        let strict = settings.strict_reconfig_check;
        Ok((Some(ask(MemberChange::Promote { id: NodeId(self.id), strict })), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::MemberPromoteResponse, Status> {
        Ok(pb::MemberPromoteResponse { header: header(local), members: changed(answer) })
    }
}

/// etcd leaves the revision out of these headers.
fn header(local: &Local<'_>) -> Option<pb::ResponseHeader> {
    Some(local.header(Revision(0)))
}

fn ask(change: MemberChange) -> Request {
    Request::Command(Command::Members(change))
}

fn changed(answer: Option<Response>) -> Vec<pb::Member> {
    match answer {
        Some(Response::Outcome(Outcome::Members(members))) => members.into_iter().map(response::member).collect(),
        answer => mismatch(answer.as_ref()),
    }
}

/// Peer URLs as etcd keeps them: sorted, and each one a URL.
fn peer_urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let urls: Result<Vec<Url>, String> = texts.iter().map(|text| text.trim().parse()).collect();
    let mut urls = urls.ok().filter(|urls| !urls.is_empty()).ok_or(Error::BadMemberUrls)?;
    urls.sort();
    Ok(urls.iter().map(Url::to_string).collect())
}

/// Every member, ascending by ID. Before the founders are recorded, which is a moment after the first election, as the
/// command line names them.
#[must_use]
pub fn members(local: &Local<'_>) -> Vec<Member> {
    let recorded: Vec<Member> = local.view.members().iter().cloned().collect();
    if recorded.is_empty() { local.settings.initial_cluster.clone() } else { recorded }
}

/// The ID etcd gives a member: of its sorted peer URLs, the token of the cluster it founds, and the time it is added at.
#[must_use]
pub fn member_id(sorted_peer_urls: &[String], token: &str, added_unix_seconds: Option<u64>) -> NodeId {
    let mut hash = Sha1::new();
    sorted_peer_urls.iter().for_each(|url| hash.update(url));
    hash.update(token);
    if let Some(seconds) = added_unix_seconds {
        hash.update(seconds.to_string());
    }
    NodeId(first_eight(hash))
}

/// The ID etcd gives a cluster: of its founding members' IDs, ascending.
#[must_use]
pub fn cluster_id(ascending: impl Iterator<Item = NodeId>) -> ClusterId {
    let mut hash = Sha1::new();
    ascending.for_each(|id| hash.update(id.0.to_be_bytes()));
    ClusterId(first_eight(hash))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        let of = |texts: &[&str]| peer_urls(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["http://b:1", " http://a:1"]).unwrap(), ["http://a:1", "http://b:1"]);
        for bad in [&[][..], &["a:1"], &["http://a"], &["http://a:1", "ftp://b:1"], &["http://a:1/x"]] {
            assert_eq!(of(bad).unwrap_err().message, "etcdserver: given member URLs are invalid", "{bad:?}");
        }
    }

    #[test]
    fn a_member_that_is_added_again_has_another_id() {
        let urls = ["http://127.0.0.1:2380".to_owned()];
        let ids = [member_id(&urls, "", Some(1)), member_id(&urls, "", Some(2)), member_id(&urls, "", None)];
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
    }
}
