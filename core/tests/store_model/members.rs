//! The membership's rules, spelled out: every count by walking a list.

use quorate_core::NodeId;
use quorate_core::error::Error;
use quorate_core::request::{Member, MemberChange};

#[derive(Clone, Default)]
pub(crate) struct Members {
    pub(crate) list: Vec<Member>,
    removed: Vec<NodeId>,
}

impl Members {
    pub(crate) fn change(&mut self, change: &MemberChange) -> Result<Vec<Member>, Error> {
        let at = |members: &Self, id: NodeId| members.list.iter().position(|member| member.id == id);
        match change {
            MemberChange::Found(founders) => {
                let before = self.clone();
                for founder in founders {
                    if at(&before, founder.id).is_none() && !self.removed.contains(&founder.id) {
                        self.list.retain(|member| member.id != founder.id);
                        self.list.push(founder.clone());
                    }
                }
            }
            MemberChange::Add { member, learners_max, strict } => {
                let single = self.voters() == 1 && self.started() == 1;
                if *strict && !member.is_learner && !single && self.started() < self.voters().div_ceil(2) + 1 {
                    return Err(Error::NotEnoughStarted);
                }
                if self.removed.contains(&member.id) {
                    return Err(Error::MemberNotFound);
                }
                if at(self, member.id).is_some() {
                    return Err(Error::MemberExists);
                }
                self.free(member.id, &member.peer_urls)?;
                if member.is_learner && self.list.len() - self.voters() + 1 > *learners_max as usize {
                    return Err(Error::TooManyLearners);
                }
                self.list.push(member.clone());
            }
            MemberChange::Remove { id, strict } => {
                let mut rest = self.clone();
                rest.list.retain(|member| member.id != *id);
                let is_learner = at(self, *id).is_some_and(|n| self.list[n].is_learner);
                if *strict && !is_learner && rest.started() < rest.voters() / 2 + 1 {
                    return Err(Error::NotEnoughStarted);
                }
                if at(self, *id).is_none() {
                    return Err(Error::MemberNotFound);
                }
                if !is_learner && rest.voters() == 0 {
                    return Err(Error::NotEnoughStarted);
                }
                self.list = rest.list;
                self.removed.push(*id);
            }
            MemberChange::Update { id, peer_urls } => {
                let n = at(self, *id).ok_or(Error::MemberNotFound)?;
                self.free(*id, peer_urls)?;
                self.list[n].peer_urls.clone_from(peer_urls);
            }
            MemberChange::Promote { id, strict } => {
                if *strict && self.started() + 1 < self.voters().div_ceil(2) + 1 {
                    return Err(Error::NotEnoughStarted);
                }
                let n = at(self, *id).ok_or(Error::MemberNotFound)?;
                if !self.list[n].is_learner {
                    return Err(Error::MemberNotLearner);
                }
                self.list[n].is_learner = false;
            }
        }
        self.list.sort_by_key(|member| member.id);
        Ok(self.list.clone())
    }

    pub(crate) fn publish(&mut self, published: &Member) {
        for member in self.list.iter_mut().filter(|member| member.id == published.id) {
            member.name.clone_from(&published.name);
            member.client_urls.clone_from(&published.client_urls);
        }
    }

    fn voters(&self) -> usize {
        self.list.iter().filter(|member| !member.is_learner).count()
    }

    fn started(&self) -> usize {
        self.list.iter().filter(|member| !member.is_learner && !member.name.is_empty()).count()
    }

    fn free(&self, id: NodeId, urls: &[String]) -> Result<(), Error> {
        let is_taken = |url| self.list.iter().any(|member| member.id != id && member.peer_urls.contains(url));
        if urls.iter().any(is_taken) { Err(Error::PeerUrlExists) } else { Ok(()) }
    }
}
