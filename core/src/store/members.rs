//! The members as the cluster has agreed on them: who they are, and which IDs are used up. (etcd: package membership)
//!
//! What these records say *should* be so; consensus brings its configuration there (`raft::reconfigure`). Everything that
//! can be decided from the records alone is decided here, when the entry is applied, and so identically everywhere.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::NodeId;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::raft::Target;
use crate::request::{Member, MemberChange};

/// All members, and all that ever were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    by_id: BTreeMap<NodeId, Member>,
    /// Never used again.
    removed: BTreeSet<NodeId>,
}

impl Members {
    /// The member `id`.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// All members, by ID.
    pub fn iter(&self) -> impl Iterator<Item = &Member> + Clone {
        self.by_id.values()
    }

    /// Whether `id` was a member once and is none any more. It never will be again.
    #[must_use]
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// All that were members once and are none any more, by ID.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.removed.iter().copied()
    }

    /// What consensus should make of its configuration.
    #[must_use]
    pub fn target(&self) -> Target {
        let ids = |learner| self.iter().filter(move |member| member.is_learner == learner).map(|member| member.id);
        let (voters, learners) = (ids(false).collect(), ids(true).collect());
        Target { voters, learners, removed: self.removed.clone(), ending: BTreeSet::new() }
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| !member.is_learner)
    }

    /// Checks what a member of its own accord must not risk: after `change`, the voters that have started (published
    /// their name) must be able to form a quorum. (etcd: --strict-reconfig-check)
    ///
    /// # Errors
    /// [`Error::NotEnoughStarted`].
    pub fn check_started(&self, change: &MemberChange) -> Result<(), Error> {
        let is_started = |member: &&Member| !member.name.is_empty();
        let (voters, started) = (self.voters().count(), self.voters().filter(is_started).count());
        let is_enough = match change {
            // A single member may get a second one.
            MemberChange::Add { member, .. } => {
                member.is_learner || (voters, started) == (1, 1) || started > voters.div_ceil(2)
            }
            MemberChange::Remove { id, .. } => {
                let (gone, started_gone) = match self.get(*id) {
                    Some(member) if member.is_learner => return Ok(()),
                    Some(member) => (1, usize::from(is_started(&member))),
                    None => (0, 0),
                };
                started - started_gone > (voters - gone) / 2
            }
            MemberChange::Promote { .. } => started + 1 > voters.div_ceil(2),
            MemberChange::Found(_) | MemberChange::Update { .. } => true,
        };
        if is_enough { Ok(()) } else { Err(Error::NotEnoughStarted) }
    }

    /// Applies `change`; says which members have a new record and which are gone.
    ///
    /// # Errors
    /// etcd's, in etcd's order; nothing is changed then.
    pub(super) fn change(&mut self, change: MemberChange) -> Result<Changed, Error> {
        if change.is_strict() {
            self.check_started(&change)?;
        }
        match change {
            MemberChange::Found(founders) => {
                let is_new = |member: &Member| !self.is_removed(member.id) && self.get(member.id).is_none();
                let new: Vec<Member> = founders.into_iter().filter(is_new).collect();
                self.by_id.extend(new.iter().map(|member| (member.id, member.clone())));
                Ok(Changed { written: new, removed: None })
            }
            MemberChange::Add { member, learners_max, .. } => {
                if self.is_removed(member.id) {
                    return Err(Error::MemberNotFound);
                }
                if self.get(member.id).is_some() {
                    return Err(Error::MemberExists);
                }
                self.check_urls(member.id, &member.peer_urls)?;
                let learners = self.iter().filter(|member| member.is_learner).count() as u64;
                if member.is_learner && learners >= u64::from(learners_max) {
                    return Err(Error::TooManyLearners);
                }
                Ok(self.write(member))
            }
            MemberChange::Remove { id, .. } => {
                let member = self.get(id).ok_or(Error::MemberNotFound)?;
                if !member.is_learner && self.voters().count() == 1 {
                    return Err(Error::NotEnoughStarted); // Nobody could decide anything any more.
                }
                self.by_id.remove(&id);
                self.removed.insert(id);
                Ok(Changed { written: Vec::new(), removed: Some(id) })
            }
            MemberChange::Update { id, peer_urls } => {
                let member = self.get(id).ok_or(Error::MemberNotFound)?.clone();
                self.check_urls(id, &peer_urls)?;
                let is_learner = member.is_learner && !mutant::is_on(Mutant::R21);
                Ok(self.write(Member { peer_urls, is_learner, ..member }))
            }
            MemberChange::Promote { id, .. } => {
                let member = self.get(id).ok_or(Error::MemberNotFound)?.clone();
                if !member.is_learner {
                    return Err(Error::MemberNotLearner);
                }
                Ok(self.write(Member { is_learner: false, ..member }))
            }
        }
    }

    /// A member tells its name and client URLs; the rest of its record is not its to tell. Nothing comes of it if it is no
    /// member.
    pub(super) fn publish(&mut self, name: String, client_urls: Vec<String>, id: NodeId) -> Option<Member> {
        let member = self.by_id.get_mut(&id)?;
        (member.name, member.client_urls) = (name, client_urls);
        Some(member.clone())
    }

    /// As a row says.
    pub(super) fn restore(&mut self, member: Member) {
        self.by_id.insert(member.id, member);
    }

    /// As a row says.
    pub(super) fn restore_removed(&mut self, id: NodeId) {
        self.removed.insert(id);
    }

    fn check_urls(&self, id: NodeId, urls: &[String]) -> Result<(), Error> {
        let mut others = self.iter().filter(|member| member.id != id);
        match others.any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            true => Err(Error::PeerUrlExists),
            false => Ok(()),
        }
    }

    fn write(&mut self, member: Member) -> Changed {
        self.by_id.insert(member.id, member.clone());
        Changed { written: alloc::vec![member], removed: None }
    }
}

/// What a change did to the records.
pub(super) struct Changed {
    pub(super) written: Vec<Member>,
    pub(super) removed: Option<NodeId>,
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec;

    use super::*;

    fn member(id: u64, name: &str, is_learner: bool) -> Member {
        let peer_urls = vec![alloc::format!("http://{id}")];
        Member { id: NodeId(id), name: name.into(), peer_urls, client_urls: vec![], is_learner }
    }

    fn members(of: &[Member]) -> Members {
        let mut members = Members::default();
        assert!(members.change(MemberChange::Found(of.to_vec())).is_ok());
        members
    }

    fn started(count: u64) -> Vec<Member> {
        (1..=count).map(|id| member(id, "n", false)).collect()
    }

    fn add(member: Member) -> MemberChange {
        MemberChange::Add { member, learners_max: 1, strict: true }
    }

    fn refusal(members: &mut Members, change: MemberChange) -> String {
        let before = members.clone();
        let text = members.change(change).err().map_or("none".into(), |error| error.to_string());
        assert!(text == "none" || *members == before, "a refused change changed something");
        text
    }

    #[test]
    fn a_change_is_refused_as_etcd_does() {
        let mut all = members(&started(3));
        let exists = add(member(2, "", false));
        assert_eq!(refusal(&mut all, exists), "etcdserver: member ID already exist");
        let url = add(Member { peer_urls: vec!["http://3".into()], ..member(9, "", false) });
        assert_eq!(refusal(&mut all, url), "etcdserver: Peer URLs already exists");
        assert_eq!(refusal(&mut all, add(member(4, "", true))), "none");
        assert_eq!(refusal(&mut all, add(member(5, "", true))), "etcdserver: too many learner members in cluster");
        let promote = |id| MemberChange::Promote { id: NodeId(id), strict: true };
        assert_eq!(refusal(&mut all, promote(1)), "etcdserver: can only promote a learner member");
        assert_eq!(refusal(&mut all, promote(7)), "etcdserver: member not found");
        assert_eq!(refusal(&mut all, promote(4)), "none");
        let update = |id, url: &str| MemberChange::Update { id: NodeId(id), peer_urls: vec![url.into()] };
        assert_eq!(refusal(&mut all, update(7, "http://7")), "etcdserver: member not found");
        assert_eq!(refusal(&mut all, update(1, "http://2")), "etcdserver: Peer URLs already exists");
        assert_eq!(refusal(&mut all, update(1, "http://1")), "none");
        let remove = |id| MemberChange::Remove { id: NodeId(id), strict: true };
        assert_eq!(refusal(&mut all, remove(4)), "none");
        assert_eq!(refusal(&mut all, remove(4)), "etcdserver: member not found");
        assert_eq!(refusal(&mut all, add(member(4, "", false))), "etcdserver: member not found", "an ID is used once");
    }

    /// (etcd: IsReadyToAddVotingMember, IsReadyToRemoveVotingMember, IsReadyToPromoteMember, with their tests' cases)
    #[test]
    fn strictness_asks_for_a_quorum_of_started_voters() {
        let of = |names: &str| -> Vec<Member> {
            let member = |(n, c): (usize, char)| member(n as u64 + 1, if c == '1' { "n" } else { "" }, false);
            names.chars().enumerate().map(member).collect()
        };
        let adds =
            [("1", true), ("0", false), ("11", true), ("10", false), ("111", true), ("110", false), ("100", false)];
        for (names, expected) in adds {
            let all = members(&of(names));
            assert_eq!(all.check_started(&add(member(9, "", false))).is_ok(), expected, "add to {names}");
            assert!(all.check_started(&add(member(9, "", true))).is_ok(), "a learner is no risk");
        }
        let removes =
            [("1", 1, false), ("10", 1, false), ("10", 2, true), ("11", 1, true), ("110", 1, false), ("110", 3, true)];
        for (names, id, expected) in removes {
            let remove = MemberChange::Remove { id: NodeId(id), strict: true };
            assert_eq!(members(&of(names)).check_started(&remove).is_ok(), expected, "remove {id} of {names}");
        }
        for (names, expected) in
            [("1", true), ("10", true), ("110", true), ("100", false), ("1100", true), ("1000", false)]
        {
            let promote = MemberChange::Promote { id: NodeId(9), strict: true };
            assert_eq!(members(&of(names)).check_started(&promote).is_ok(), expected, "promote beside {names}");
        }
    }

    #[test]
    fn the_last_voter_stays_however_lenient_one_is() {
        let mut all = members(&started(1));
        let remove = MemberChange::Remove { id: NodeId(1), strict: false };
        assert!(refusal(&mut all, remove).contains("not enough started members"));
    }

    #[test]
    fn a_member_publishes_its_name_and_nothing_else() {
        let mut all = members(&[member(1, "n", false), member(2, "", true)]);
        assert!(all.publish("x".into(), vec!["http://c".into()], NodeId(2)).unwrap().is_learner);
        assert!(all.publish("y".into(), vec![], NodeId(3)).is_none());
        assert_eq!(all.get(NodeId(2)).unwrap().peer_urls, ["http://2"]);
    }
}
