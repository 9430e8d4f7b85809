//! Who the members are: what the records say, what the leader must agree to first, and bringing consensus there.
//!
//! A change of the membership is a command like any other: the store decides on it, in order. Two things only the leader
//! knows, whom it hears and which learner is in sync, so it is asked before the command is proposed. The leader then has
//! consensus follow the records (`raft::reconfigure`); a client is answered once consensus has.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{LeaderAnswer, LeaderQuestion, Output, PeerMessage, Replica, Response, raft};
use crate::auth::Author;
use crate::command::{Command, Outcome};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{Member, MemberChange};
use crate::store::Members;
use crate::{LogIndex, NodeId, RequestId, Term};

/// What only the leader knows: [`LeaderAnswer::Members`].
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) heard: Vec<NodeId>,
    pub(super) in_sync: Vec<NodeId>,
    pub(super) index: LogIndex,
}

#[derive(Debug)]
pub(super) struct Membership {
    /// As applied.
    pub(super) known: Arc<Members>,
    /// Changes that clients of this member wait for.
    asked: BTreeMap<RequestId, (Author, MemberChange)>,
    /// What the leader knew when it was asked about those of `asked` that wait for the records of that time.
    surveyed: Vec<(RequestId, Survey)>,
    /// Those of `asked` that are applied, and what to answer once consensus has followed.
    done: Vec<(RequestId, Vec<Member>)>,
    /// The leadership that was last told the target as it is now, and that last proposed the founders.
    aimed: Option<Term>,
    founded: Option<Term>,
    /// The term of the last applied entry: records older than a leadership are not what it should aim at.
    applied: Term,
    /// Removed members that consensus has let go of.
    parted: BTreeSet<NodeId>,
    /// It was said that this member is removed.
    is_told: bool,
}

impl Membership {
    pub(super) fn new(known: Arc<Members>) -> Self {
        Self {
            known,
            asked: BTreeMap::new(),
            surveyed: Vec::new(),
            done: Vec::new(),
            aimed: None,
            founded: None,
            applied: Term(0),
            parted: BTreeSet::new(),
            is_told: false,
        }
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.asked.remove(&id);
    }

    pub(super) fn applied(&mut self, term: Term) {
        self.applied = term;
    }

    /// The term of the last entry applied here; 0 if none was since the start.
    pub(super) fn applied_term(&self) -> Term {
        self.applied
    }

    /// An applied change's answer; the client waits on.
    pub(super) fn done(&mut self, id: RequestId, members: Vec<Member>) {
        self.done.push((id, members));
    }
}

impl Replica {
    /// A client wants to change the membership.
    pub(super) fn change_members(
        &mut self,
        id: RequestId,
        author: Author,
        change: MemberChange,
        out: &mut Vec<Output>,
    ) {
        let is_promotion = matches!(change, MemberChange::Promote { .. });
        let is_asked = is_promotion || change.is_strict();
        if change.is_strict()
            && !is_promotion
            && let Err(error) = self.membership.known.check_started(&change)
        {
            return self.respond(id, Err(error), out);
        }
        self.membership.asked.insert(id, (author.clone(), change.clone()));
        if is_asked {
            return self.ask_leader(id, LeaderQuestion::Members, out);
        }
        self.propose(id, author, Command::Members(change), out);
    }

    /// What this leader knows that no record says.
    pub(super) fn survey(&self) -> LeaderAnswer {
        let learners = self.status.config.learners.keys().copied();
        LeaderAnswer::Members {
            heard: self.raft.heard_of().into_iter().collect(),
            in_sync: learners.filter(|id| self.raft.is_in_sync(*id)).collect(),
            index: self.applied,
        }
    }

    /// The leader has answered; see [`Replica::judge_changes`].
    pub(super) fn surveyed(&mut self, id: RequestId, survey: Survey) {
        self.membership.surveyed.push((id, survey));
    }

    /// Proposes or refuses the changes of which the leader has told all it knows, once the records here are no older: a
    /// member that lags, or has just joined, would take a learner for nobody in particular.
    fn judge_changes(&mut self, out: &mut Vec<Output>) {
        for (id, survey) in core::mem::take(&mut self.membership.surveyed) {
            let Some((author, change)) = self.membership.asked.get(&id).cloned() else { continue };
            if survey.index > self.applied {
                self.membership.surveyed.push((id, survey));
                continue;
            }
            match check_health(&self.membership.known, &change, &survey) {
                Err(error) => self.respond(id, Err(error), out),
                Ok(()) => self.propose(id, author, Command::Members(change), out),
            }
        }
    }

    /// The records changed.
    pub(super) fn members_changed(&mut self, members: &Arc<Members>, out: &mut Vec<Output>) {
        self.membership.known = Arc::clone(members);
        self.membership.aimed = None;
        out.push(Output::Members(Arc::clone(members)));
    }

    /// Does what is due: aims at what the records say, answers clients, notices that this member is gone.
    pub(super) fn run_members(&mut self, out: &mut Vec<Output>) {
        self.aim(out);
        if !self.membership.surveyed.is_empty() {
            self.judge_changes(out);
        }
        if !self.membership.done.is_empty() {
            for (id, members) in core::mem::take(&mut self.membership.done) {
                let Some((_, change)) = self.membership.asked.get(&id) else { continue };
                if self.is_followed(change) {
                    self.respond(id, Ok(Response::Outcome(Outcome::Members(members))), out);
                } else {
                    self.membership.done.push((id, members));
                }
            }
        }
        self.part(out);
    }

    /// Takes leave of removed members that consensus has let go of.
    fn part(&mut self, out: &mut Vec<Output>) {
        let Membership { known, parted, .. } = &self.membership;
        if known.removed().len() == parted.len() {
            return;
        }
        let gone: Vec<NodeId> = known.removed().filter(|id| !parted.contains(id) && self.is_gone(*id)).collect();
        for id in gone {
            self.membership.parted.insert(id);
            if !mutant::is_on(Mutant::R37) {
                out.push(Output::Parted(id));
            }
            if id == self.member {
                self.told_removed(out);
            }
        }
    }

    /// The lives that are about to be ended changed. The leader's consensus knows at once, before another step of it.
    pub(super) fn aim_again(&mut self, out: &mut Vec<Output>) {
        self.membership.aimed = None;
        self.aim(out);
    }

    /// Whether this leader has applied an entry of its own term, and so everything that was in its log when that began.
    pub(super) fn is_settled_in(&self) -> bool {
        self.leads() && self.membership.applied == self.status.term
    }

    fn aim(&mut self, out: &mut Vec<Output>) {
        let term = self.status.term;
        if self.membership.aimed == Some(term) || !self.is_settled_in() {
            return;
        }
        let founders = self.unrecorded();
        if !founders.is_empty() && self.membership.founded != Some(term) {
            let founding = Command::Members(MemberChange::Found(founders));
            if !self.propose_here(founding, out) {
                return; // Leadership is being handed over.
            }
            self.membership.founded = Some(term);
        }
        self.membership.aimed = Some(term);
        let target = raft::Target { ending: self.ending(), ..self.membership.known.target() };
        self.consensus(raft::Input::Target(target), out);
    }

    /// Founders without a record.
    fn unrecorded(&self) -> Vec<Member> {
        let (config, known) = (&self.status.config, &self.membership.known);
        let is_new = |id: NodeId| known.get(id).is_none() && !known.is_removed(id) && config.voters.contains_key(&id);
        self.config.founders.iter().filter(|member| is_new(member.id)).cloned().collect()
    }

    /// Whether consensus has done what `change` asks for.
    fn is_followed(&self, change: &MemberChange) -> bool {
        let config = &self.status.config;
        self.raft.is_config_settled()
            && match change {
                MemberChange::Found(_) | MemberChange::Update { .. } => true,
                MemberChange::Add { member, .. } => {
                    config.voters.contains_key(&member.id) || config.learners.contains_key(&member.id)
                }
                MemberChange::Promote { id, .. } => config.voters.contains_key(id),
                MemberChange::Remove { id, .. } => self.is_gone(*id),
            }
    }

    /// Whether `id` takes part in nothing any more, by what this member has in its log.
    pub(super) fn is_gone(&self, id: NodeId) -> bool {
        self.raft.is_config_settled() && self.status.config.members().all(|(member, _)| member != id)
    }

    /// Whether `from` is no member any more: then it is told so, and not listened to.
    pub(super) fn turn_away(&mut self, from: NodeId, out: &mut Vec<Output>) -> bool {
        let is_removed = self.membership.parted.contains(&from) && !mutant::is_on(Mutant::R37);
        if is_removed {
            out.push(Output::Send { to: from, message: PeerMessage::Removed });
        }
        is_removed
    }

    /// Another member, or this one's own log, says that it is no member any more.
    pub(super) fn told_removed(&mut self, out: &mut Vec<Output>) {
        if !core::mem::replace(&mut self.membership.is_told, true) {
            out.push(Output::Removed);
        }
    }
}

/// Checks what the records do not say: whether enough voters are reachable for `change`, and whether a learner is in sync.
/// (etcd: --strict-reconfig-check, MemberPromote)
///
/// Differs from etcd: the leader's connections count, not those of the member that was asked; and those of the last
/// election timeout, not of five seconds.
fn check_health(known: &Members, change: &MemberChange, survey: &Survey) -> Result<(), Error> {
    let Survey { heard, in_sync, .. } = survey;
    let voters: BTreeSet<NodeId> = known.iter().filter(|it| !it.is_learner).map(|it| it.id).collect();
    let connected = voters.iter().filter(|id| heard.contains(id)).count();
    let is_learner = |id: &NodeId| known.get(*id).is_some_and(|member| member.is_learner);
    match change {
        MemberChange::Add { strict: true, .. } if voters.len() > 1 && connected <= voters.len().div_ceil(2) => {
            Err(Error::Unhealthy)
        }
        // A member that is down is no part of any quorum.
        MemberChange::Remove { id, strict: true } if voters.contains(id) && heard.contains(id) => {
            let left = voters.len() - 1;
            if connected - 1 > left / 2 { Ok(()) } else { Err(Error::Unhealthy) }
        }
        // It may be added before the promotion is applied, and then nobody knows whether it is in sync.
        MemberChange::Promote { id, .. } if known.get(*id).is_none() => Err(Error::MemberNotFound),
        MemberChange::Promote { id, .. } if is_learner(id) && !in_sync.contains(id) => Err(Error::LearnerNotReady),
        MemberChange::Promote { strict: true, .. } => known.check_started(change),
        _ => Ok(()),
    }
}
