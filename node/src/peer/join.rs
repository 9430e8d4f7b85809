//! Joining a running cluster: who its members are, and which of them this one is to be. (etcd: --initial-cluster-state)

use quorate_api::quorate::peer::v1 as pb;
use quorate_api::quorate::peer::v1::peer_client::PeerClient;
use quorate_core::{ClusterId, NodeId};
use quorate_tls::Connector;

use super::dial::{chain, open_channel};
use crate::config::InitialMember;
use crate::url::Url;

/// Who this member is, as the cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member's ID, which it was given when it was added.
    pub member: NodeId,
    /// The others: their IDs and peer URLs.
    pub others: Vec<(NodeId, Vec<Url>)>,
    /// Those that are to vote, itself among them unless it is a learner.
    pub voters: Vec<NodeId>,
    /// The sets of voters that may be needed now, unless whoever was asked does not know.
    pub in_force: Option<Vec<Vec<NodeId>>>,
}

/// Asks the other members of `--initial-cluster`, one after the other, until one knows of all of them.
///
/// # Errors
/// etcd's text: nobody could be asked, or what they say is not what `initial` says.
pub async fn join(initial: &[InitialMember], name: &str, connector: &Connector) -> Result<Joined, String> {
    ask_all(initial, name, connector, |cluster| match_up(cluster, initial, name)).await
}

/// Asks them for a member that knows who it is, but not who decides, until one knows that.
///
/// # Errors
/// Nobody could be asked, or nobody knows.
pub async fn consult(
    initial: &[InitialMember],
    name: &str,
    (cluster, member): (ClusterId, NodeId),
    connector: &Connector,
) -> Result<Joined, String> {
    ask_all(initial, name, connector, |theirs| {
        if theirs.cluster_id != cluster.0 {
            return Err(format!(
                "asked a member of another cluster, {:x} instead of {:x}",
                theirs.cluster_id, cluster.0
            ));
        }
        if theirs.in_force.is_empty() {
            return Err("whoever can be asked does not know who decides, or is too old to say".to_owned());
        }
        let others = theirs.members.iter().filter(|other| other.id != member.0);
        let others = others.map(|other| {
            let urls = other.peer_urls.iter().filter_map(|url| url.parse().ok()).collect();
            (NodeId(other.id), urls)
        });
        Ok(Joined { cluster, member, others: others.collect(), voters: voters(theirs), in_force: in_force(theirs) })
    })
    .await
}

async fn ask_all(
    initial: &[InitialMember],
    name: &str,
    connector: &Connector,
    judge: impl Fn(&pb::MembersResponse) -> Result<Joined, String>,
) -> Result<Joined, String> {
    let mut mismatch = None;
    for url in initial.iter().filter(|member| member.name != name).flat_map(|member| &member.peer_urls) {
        match ask(url, None, connector).await {
            Ok(cluster) => match judge(&cluster) {
                Ok(joined) => return Ok(joined),
                Err(error) => mismatch = Some(error), // It may lag: another one may know more.
            },
            Err(error) => tracing::warn!(url = url.to_string(), error, "failed to get cluster response"),
        }
    }
    Err(mismatch.unwrap_or_else(|| {
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
            .to_owned()
    }))
}

fn voters(cluster: &pb::MembersResponse) -> Vec<NodeId> {
    cluster.members.iter().filter(|theirs| !theirs.is_learner).map(|theirs| NodeId(theirs.id)).collect()
}

fn in_force(cluster: &pb::MembersResponse) -> Option<Vec<Vec<NodeId>>> {
    let sets = cluster.in_force.iter().map(|set| set.ids.iter().copied().map(NodeId).collect());
    (!cluster.in_force.is_empty()).then(|| sets.collect())
}

/// Asks whoever is at `url` whether `life` is over.
///
/// # Errors
/// It does not answer, or not for that cluster.
pub(super) async fn is_over(url: &Url, life: &pb::Life, connector: &Connector) -> Result<bool, String> {
    let answer = ask(url, Some(*life), connector).await?;
    if answer.cluster_id != life.cluster_id {
        return Err(format!("a member of another cluster, {:x}", answer.cluster_id));
    }
    Ok(answer.is_over)
}

async fn ask(url: &Url, life: Option<pb::Life>, connector: &Connector) -> Result<pb::MembersResponse, String> {
    let channel = open_channel(url, connector).await.map_err(|error| chain(&error))?;
    let answer = PeerClient::new(channel).members(pb::MembersRequest { life }).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

/// Matches members by their peer URLs. (etcd: ValidateClusterAndAssignIDs)
fn match_up(cluster: &pb::MembersResponse, initial: &[InitialMember], name: &str) -> Result<Joined, String> {
    let refused = |why: &str| format!("error validating peerURLs {}: {why}", describe(cluster));
    if cluster.members.len() != initial.len() {
        return Err(refused("member count is unequal"));
    }
    let (mut member, mut others) = (None, Vec::new());
    for theirs in &cluster.members {
        let urls: Option<Vec<Url>> = theirs.peer_urls.iter().map(|url| url.parse().ok()).collect();
        let Some(urls) = urls.map(sorted) else { return Err(refused("a peer URL is malformed")) };
        let Some(ours) = initial.iter().find(|ours| ours.peer_urls == urls) else {
            let why = format!("PeerURLs: no match found for existing member ({:x}, {:?})", theirs.id, theirs.peer_urls);
            return Err(refused(&why));
        };
        if ours.name == name {
            member = Some(NodeId(theirs.id));
        } else {
            others.push((NodeId(theirs.id), urls));
        }
    }
    let member = member.ok_or_else(|| refused("this member is not among them"))?;
    let (voters, in_force) = (voters(cluster), in_force(cluster));
    Ok(Joined { cluster: ClusterId(cluster.cluster_id), member, others, voters, in_force })
}

fn sorted(mut urls: Vec<Url>) -> Vec<Url> {
    urls.sort();
    urls
}

/// As etcd prints a cluster.
fn describe(cluster: &pb::MembersResponse) -> String {
    let list = |texts: &[String]| texts.join(" ");
    let member = |member: &pb::Member| {
        let (peers, clients) = (list(&member.peer_urls), list(&member.client_urls));
        let (id, name, learner) = (member.id, &member.name, member.is_learner);
        format!(
            "&{{ID:{id:x} RaftAttributes:{{PeerURLs:[{peers}] IsLearner:{learner}}} \
             Attributes:{{Name:{name} ClientURLs:[{clients}]}}}}"
        )
    };
    let members: Vec<String> = cluster.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", cluster.cluster_id, members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(names: &[&str]) -> Vec<InitialMember> {
        let member = |name: &&str| InitialMember {
            id: NodeId(0),
            name: (*name).to_owned(),
            peer_urls: vec![format!("http://{name}:2380").parse().unwrap()],
        };
        names.iter().map(member).collect()
    }

    fn cluster(names: &[&str]) -> pb::MembersResponse {
        let member = |(n, name): (usize, &&str)| pb::Member {
            id: n as u64 + 7,
            peer_urls: vec![format!("http://{name}:2380")],
            ..pb::Member::default()
        };
        let members = names.iter().enumerate().map(member).collect();
        pb::MembersResponse { cluster_id: 0xc1, members, ..pb::MembersResponse::default() }
    }

    #[test]
    fn a_member_is_whom_the_cluster_says_has_its_urls() {
        let mut theirs = cluster(&["a", "b"]);
        theirs.members[1].is_learner = true;
        let joined = match_up(&theirs, &initial(&["b", "a"]), "b").unwrap();
        assert_eq!(joined.in_force, None, "an older build does not say");
        theirs.in_force = vec![pb::Voters { ids: vec![7] }];
        let joined = match_up(&theirs, &initial(&["b", "a"]), "b").unwrap();
        assert_eq!(joined.in_force, Some(vec![vec![NodeId(7)]]));
        assert_eq!((joined.cluster, joined.member, joined.voters), (ClusterId(0xc1), NodeId(8), vec![NodeId(7)]));
        assert_eq!(joined.others, [(NodeId(7), vec!["http://a:2380".parse().unwrap()])]);
    }

    #[test]
    fn another_membership_than_told_is_refused() {
        let of = |theirs: &[&str], ours: &[&str]| match_up(&cluster(theirs), &initial(ours), "b").unwrap_err();
        let unequal = of(&["a"], &["a", "b"]);
        assert_eq!(
            unequal,
            "error validating peerURLs {ClusterID:c1 Members:[&{ID:7 RaftAttributes:{PeerURLs:[http://a:2380] \
             IsLearner:false} Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}: member count is unequal"
        );
        let other = of(&["a", "c"], &["a", "b"]);
        assert!(other.ends_with("PeerURLs: no match found for existing member (8, [\"http://c:2380\"])"), "{other}");
        assert!(of(&["a", "c"], &["a", "c"]).ends_with("this member is not among them"));
    }
}
