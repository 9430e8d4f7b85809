//! Who is to take part: one change of the configuration at a time, of voters by joint consensus. (Raft §6; thesis §4)
//!
//! The replica says who *should* be a member ([`Target`], from the replicated records); the leader brings the
//! configuration there, step by step. Each step is one entry, appended only when the entry before it is committed and so
//! is one of the leader's own term:
//!
//! 1. whoever is new becomes a learner whose life is not known yet ([`UNKNOWN`]): nothing it says counts;
//! 2. once it is heard of and has caught up, a readmission names its life ([`super::membership`]);
//! 3. once it keeps up, a joint configuration gives it its vote; whoever is removed loses theirs by the same one;
//! 4. when that is committed, the leader leaves it, whichever leader that is.
//!
//! No joint configuration is entered whose new voters hold no quorum that this leader hears and counts. A life that is about
//! to be ended ([`Target::ending`]) does not count: were its end applied first, nothing would be committed any more.
//!
//! So a voter that was added and never started does not weaken a quorum, and a dead member can be replaced by one joint
//! change. A leader that is removed leads until the configuration without it is committed. Whoever was removed is told so
//! for a while: it gets the entries that say it, but counts for nothing.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use super::progress::{Pace, Progress};
use super::quorum::is_quorum;
use super::{Body, Output, Raft, Role};
use crate::entry::{Configuration, Payload};
use crate::mutant::{self, Mutant};
use crate::{FeatureLevel, Incarnation, NodeId};

/// The life of a member that was added and has not been heard of. No disk has it.
pub const UNKNOWN: Incarnation = Incarnation(0);

/// A removed member is told of it for so many election timeouts.
const FAREWELL_TIMEOUTS: u32 = 5;

/// Who should take part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Those who should vote: whoever of them is no member yet becomes one.
    pub voters: BTreeSet<NodeId>,
    /// Those who should only receive the log. Voters among them stay voters.
    pub learners: BTreeSet<NodeId>,
    /// Those who should leave. A member in none of the three sets is left alone.
    pub removed: BTreeSet<NodeId>,
    /// Lives that are over, or will be once what this log holds is applied: no configuration is entered that needs one.
    pub ending: BTreeSet<(NodeId, Incarnation)>,
}

impl Raft {
    /// [`super::Input::Target`]
    pub(super) fn set_target(&mut self, target: Target) {
        if let Some(leader) = self.leader.as_mut() {
            leader.target = Some(target);
        }
    }

    /// Appends the next configuration, if one is due.
    pub(super) fn reconfigure(&mut self) {
        let Some(leader) = &self.leader else { return };
        let config = self.log.config();
        let is_settled = self.log.config_index() <= self.commit;
        if !is_settled || self.commit < leader.term_start || leader.transfer.is_some() {
            return;
        }
        if !config.outgoing.is_empty() && mutant::is_on(Mutant::R15) && self.log.config_index() < leader.term_start {
            return;
        }
        if !config.outgoing.is_empty() {
            reach!(JointLeft);
            let config = Configuration { outgoing: Default::default(), ..config.clone() };
            return self.append_own(Payload::Config(config));
        }
        let Some(target) = &leader.target else { return };
        if let Some(next) = self.next_config(target) {
            return self.append_own(Payload::Config(next));
        }
        // Whoever is to leave may still be there, if those who would be left could not decide at the moment.
        let is_gone = |id: &NodeId| !config.voters.contains_key(id) && !config.learners.contains_key(id);
        if target.voters.iter().all(|id| config.voters.contains_key(id)) && target.removed.iter().all(is_gone) {
            self.leader.as_mut().expect("just seen").target = None; // Reached.
        }
    }

    /// The configuration after the current, simple one on the way to `target`.
    fn next_config(&self, target: &Target) -> Option<Configuration> {
        let config = self.log.config();
        let stays = |id: &NodeId| !target.removed.contains(id);
        let is_member = |id: &NodeId| config.voters.contains_key(id) || config.learners.contains_key(id);
        let lasts = |id: NodeId, life: Incarnation| !target.ending.contains(&(id, life)) || mutant::is_on(Mutant::H04);
        let promoted = |id: &NodeId, life: &Incarnation| {
            target.voters.contains(id) && lasts(*id, *life) && self.is_ready(*id, *life)
        };
        let is_promotion_due = || config.learners.iter().any(|(id, life)| stays(id) && promoted(id, life));
        let wanted = target.voters.iter().chain(&target.learners).filter(|id| stays(id));
        if wanted.clone().all(is_member) && !target.removed.iter().any(is_member) && !is_promotion_due() {
            return None;
        }
        let mut next = config.clone();
        next.learners.retain(|id, _| stays(id));
        let mut voters = config.voters.clone();
        voters.retain(|id, _| stays(id));
        voters.extend(next.learners.iter().filter(|(id, life)| promoted(id, life)));
        if voters != config.voters && self.can_decide(&voters, lasts) {
            next.learners.retain(|id, _| !voters.contains_key(id));
            next.outgoing = core::mem::replace(&mut next.voters, voters);
        }
        next.learners.extend(wanted.filter(|id| !is_member(id)).map(|id| (*id, UNKNOWN)));
        (next != *config).then_some(next)
    }

    /// Whether this leader hears a quorum of `voters` that counts, of lives that last.
    fn can_decide(&self, voters: &BTreeMap<NodeId, Incarnation>, lasts: impl Fn(NodeId, Incarnation) -> bool) -> bool {
        if mutant::is_on(Mutant::R20) {
            return true;
        }
        let is_alive = |progress: &Progress| progress.is_alive(self.now, &self.config);
        let config = Configuration { voters: voters.clone(), ..Configuration::default() };
        is_quorum(&config, |id, life| {
            lasts(id, life) && (self.is_self(id, life) || self.counted(id, life).is_some_and(is_alive))
        })
    }

    /// Whether `id` can vote without holding anything up: its life is the configured one, trusted, here, and keeps up.
    fn is_ready(&self, id: NodeId, life: Incarnation) -> bool {
        if mutant::is_on(Mutant::R20) {
            return true;
        }
        self.counted(id, life).is_some_and(|progress| {
            progress.pace == Pace::Replicate
                && progress.target.is_some_and(|target| progress.matched >= target)
                && self.keeps_up(progress)
                && progress.is_alive(self.now, &self.config)
        })
    }

    /// It has at least nine tenths of what is committed. (etcd: readyPercentThreshold, of the leader's log)
    fn keeps_up(&self, progress: &Progress) -> bool {
        u128::from(progress.matched.0) * 10 >= u128::from(self.commit.0) * 9
    }

    /// Whether the learner `id` is in sync with this leader: it may be promoted. (etcd: MemberPromote)
    #[must_use]
    pub fn is_in_sync(&self, id: NodeId) -> bool {
        let life = self.log.config().learners.get(&id);
        life.and_then(|life| self.counted(id, *life)).is_some_and(|progress| self.keeps_up(progress))
    }

    /// The members that this leader has heard of within an election timeout, itself among them; nobody if it does not lead.
    #[must_use]
    pub fn heard_of(&self) -> BTreeSet<NodeId> {
        let Some(leader) = &self.leader else { return BTreeSet::new() };
        let is_heard = |progress: &Progress| progress.is_heard && progress.is_alive(self.now, &self.config);
        let others = leader.peers.iter().filter(|(_, progress)| is_heard(progress)).map(|(id, _)| *id);
        others.chain([self.id()]).collect()
    }

    /// The highest feature level that every member of the latest configuration understands, learners included, by what
    /// each of them said last in this leadership and within an election timeout. `None` if that is not known of all of
    /// them, or if this member does not lead.
    #[must_use]
    pub fn understood_by_all(&self) -> Option<FeatureLevel> {
        let config = self.log.config();
        let leader = self.leader.as_ref()?;
        let said = |id: NodeId| {
            if id == self.id() {
                return Some(self.config.understands);
            }
            let is_recent = |it: &&Progress| self.now < it.heard + self.config.election_timeout;
            leader.peers.get(&id).filter(is_recent)?.level
        };
        let mut least = self.config.understands;
        for (id, _) in config.members() {
            least = least.min(said(id)?);
        }
        Some(least)
    }

    /// Whether the latest configuration is committed and not joint.
    #[must_use]
    pub fn is_config_settled(&self) -> bool {
        self.log.config_index() <= self.commit && self.log.config().outgoing.is_empty()
    }

    /// One [`Progress`] for every other member of the latest configuration, and for those who have just left it.
    pub(super) fn sync_peers(&mut self) {
        let own = self.id();
        let until = self.now + saturating(self.config.election_timeout, FAREWELL_TIMEOUTS);
        let leader = self.leader.as_mut().expect("only leaders have peers");
        let config = self.log.config();
        let members = || config.voters.iter().chain(&config.outgoing).chain(&config.learners);
        let is_member = |id: &NodeId| members().any(|(member, _)| member == id);
        for id in leader.peers.keys().filter(|id| !is_member(id)) {
            leader.departing.entry(*id).or_insert(until);
        }
        leader.departing.retain(|id, _| !is_member(id));
        for (id, incarnation) in members().filter(|(id, _)| **id != own) {
            let next = self.log.last().next();
            leader.peers.entry(*id).or_insert_with(|| Progress::new(*incarnation, next, self.now));
        }
    }

    /// Forgets those who left long enough ago.
    pub(super) fn dismiss(&mut self) {
        let now = self.now;
        let Some(leader) = self.leader.as_mut().filter(|leader| !leader.departing.is_empty()) else { return };
        let peers = &mut leader.peers;
        leader.departing.retain(|id, until| {
            let stays = *until > now;
            if !stays {
                peers.remove(id);
            }
            stays
        });
    }

    /// Steps down once a configuration without this leader is committed; the next leader need not wait. (Raft §6; thesis
    /// §4.2.2)
    pub(super) fn retire(&mut self, out: &mut alloc::vec::Vec<Output>) {
        let config = self.log.config();
        if self.role != Role::Leader || !self.is_config_settled() || config.voters.contains_key(&self.id()) {
            return;
        }
        reach!(LeaderRemoved);
        let known = config.voters.iter().filter_map(|(id, life)| Some((self.counted(*id, *life)?.matched, *id)));
        if let Some((_, next)) = known.max() {
            self.send(next, Body::TimeoutNow, out);
        }
        self.follow(self.term, None, out);
    }
}

fn saturating(span: Duration, times: u32) -> Duration {
    span.checked_mul(times).unwrap_or(Duration::MAX)
}
