//! Whose word counts: lives of disks, genesis, amnesia and readmission.
//!
//! Raft assumes that a member never forgets a vote or an acknowledgement. A disk that was wiped, replaced or damaged
//! does forget. So what counts here is not a member but one *life* of its disk, named by a random [`Incarnation`]:
//! a configuration names one life per voter, and a vote, an acknowledgement or a heartbeat's answer counts only if it
//! comes from the life that the counting member's latest configuration names, *and* that life says it is trusted.
//!
//! # Genesis
//!
//! A member that finds no log is [`Standing::Fresh`]. It cannot know whether the cluster is new or its disk is, so it
//! does nothing but ask every other initial member, and decides when each has answered *this* life:
//!
//! - the other is Fresh too, or it was when it first heard of this life (`genesis`): whatever earlier lives of the
//!   asker did, they did without that member;
//! - the other is Trusted and cannot say that: the asker has, or may have, a past. It becomes [`Standing::Amnesiac`];
//! - the other is Amnesiac: it knows nothing; its slot is skipped. At most a minority of slots may be.
//!
//! A cluster made from a snapshot file has its genesis just so, on top of the one state that all its members were given
//! ([`RESTORED`]). A member that was given it alone, while the others have a past, stays Fresh: it would take the end of
//! that state for a place in their log.
//!
//! What was so in the beginning is known for as long as the log goes back to it; and longer where that is [`RESTORED`], since
//! the entry at its end is of no member's making, or the first entry of all, a configuration that every log has: either names
//! the lives that began.
//!
//! A member that nobody began with has nobody to ask: were it one that others have joined since, and its disk a new one,
//! they would be looking for it. So it listens for a while ([`ALONE`]), and whoever says anything to it, or opens a stream to
//! it ([`super::Input::Called`]), knows of a past. If it was held up meanwhile, what was said may still be waiting to be heard,
//! and it begins to listen again.
//! Cut off from all of them it begins another cluster, as nothing on its disk or in its settings tells it not to: whoever
//! replaces its disk says that the cluster exists.
//!
//! If no answer was of the second kind, the asker is Trusted. **Why that is safe**: suppose an earlier life of the
//! asker helped to commit or elect anything. It did so in a quorum of members, and unless a majority of disks were
//! lost, one of that quorum never lost its own. That member acted before the asker's present life began, so it was not
//! Fresh when it first heard of that life; it is neither Fresh nor Amnesiac now; its answer is of the second kind.
//!
//! Two members may come out of their genesis with different lives for a third that was wiped meanwhile. By the above a
//! life that both could count does not exist: either the third's earlier life never acted with anyone, or its later
//! one is Amnesiac and counts nowhere. The first entry of every log is a configuration, so from then on they agree.
//!
//! # Readmission
//!
//! An amnesiac life `b` of member `m` follows and stores, and counts for nothing. Once it has caught up, a leader
//! appends an entry `r`, a configuration that names `b`; `b` becomes Trusted, durably, when it knows that `r` is
//! committed. Call `a` the life (or lives) before.
//!
//! **Claim**: at no time is an entry that is committed lost, nor are two leaders elected in one term, although
//! messages of `a` may arrive and count, at members whose log lacks `r`, at any later time.
//!
//! *The quorum of `r`, Q2, does not contain `m`*: `r` itself is in the log of the leader that counts, so `a` does not
//! count for it, and `b` is not trusted before `r` is committed. Let `r` be of term `t`.
//!
//! *A vote of `a`* helps candidate C in term `s`, by a quorum Q1 containing `m`. Q1 without `m` has at least a
//! majority less one of the other voters, Q2 has a majority of them: they share a member X other than `m`.
//! - `s > t`: X acknowledged `r` in term `t`, later voted in term `s`. So C's log is at least as up to date as X's
//!   and (by Raft's leader completeness, whose induction over terms uses only quorums that share such an X) contains
//!   `r`. Then C's configuration names `b` and it does not count the vote of `a`.
//! - `s = t`: C is the leader of `t` itself, elected before it wrote `r`; `b` could vote for another in that same term.
//!   *Therefore `b` gives away its vote of the term in which it becomes Trusted* (it votes for itself without
//!   standing for election). In any later term the case above applies.
//! - `s < t`: the vote elects a leader of an earlier term, as any late message may; X has moved on to `t`, so this
//!   leader commits nothing that the leader of `t` lacks.
//!
//! *An acknowledgement of `a`* helps the leader of term `s` to commit entry `e` by a quorum Q1 containing `m`.
//! - `s > t`: that leader has `r`, as above, and does not count `a`.
//! - `s = t`: if `e` is before `r` in the one log, committing `r` has committed `e`; if it is after `r`, the leader's
//!   configuration names `b` by then.
//! - `s < t`: the leader of `t` was elected by a quorum that met Q1; in a member other than `m`, or in `a`, which
//!   acknowledged `e` before it voted. So the leader of `t` has `e` before `r`, and every log with `r` has it.
//!   A quorum of a later term that meets Q1 only in `b` elects a candidate at least as up to date as `b`, whose
//!   log contains `r`.
//!
//! *An answer of `a`* to a round of term `s` for a read: had a leader of a later term been elected without any member
//! of Q1 other than `m` knowing, `m` would have voted for it as a life before `a`, against the first case.
//!
//! Readmissions are ordered by the log, one at a time and only after an entry of the leader's own term is committed,
//! so the argument repeats for each in turn. With two voters a lost disk is never readmitted: its partner alone is no
//! quorum. That is intended; the member's status shows it.
//!
//! # Changes of membership
//!
//! ([`super::reconfigure`]) Let `c1, c2, ...` be the configurations in the order of the log. Each is appended only when
//! the one before is committed, by a leader that has committed an entry of its own term. Raft's induction (§6) needs one
//! thing of any two neighbours: *a quorum of the one and a quorum of the other share a life that has not forgotten*.
//! - *Learners come, go or are named*: the voters and their lives are the same; any two quorums share one.
//! - *`c` becomes joint*: its outgoing voters are those of `c` with the same lives, and a quorum of the joint one holds
//!   a majority of them.
//! - *The joint one is left*: the same of its incoming voters.
//! - *A life is readmitted*: the claim above. It is never done in a joint configuration, so both sides have one set.
//!
//! A life enters the voters in two places only. A readmission is one; the other is step 3 of a change, which takes over
//! the life that a readmission has named for the learner, so the word of a life nobody has named counts nowhere: not
//! while it is [`super::UNKNOWN`], since no disk has that life, and not when the learner's disk is lost between being
//! named and being promoted, since then the named life is silent and its successor an amnesiac like any other. As a
//! learner it is Trusted too early for nothing: whoever is named gives away its vote of that term, as above, and what it
//! promises later it keeps. It starts as an amnesiac, without genesis: the cluster has a past, and it has none in it.
//!
//! A member's ID is never used again, so a removed one, whatever it believes and however late its messages are, appears
//! in no later configuration; and as it can win no pre-vote while a leader is heard, it does not disturb one.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::progress::Progress;
use super::quorum::is_quorum;
use super::{Becoming, Body, Input, Message, Output, Raft};
use crate::entry::{Configuration, Identity, Payload, RESTORED, Record, Standing};
use crate::mutant::{self, Mutant};
use crate::{Incarnation, Instant, LogIndex, NodeId};

/// How long a member that begins a cluster alone listens for others, at least: they try to reach it several times in it.
const ALONE: Duration = Duration::from_millis(600);
/// It looks up this often meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// If it looks up so much later, it was held up.
const LATE: Duration = Duration::from_millis(150);

/// What a Fresh member has heard from the others about its own past.
#[derive(Clone, Debug, Default)]
pub(super) struct Greetings {
    /// Per other member: the life that answered, and whether it vouches for us (or else is Amnesiac).
    answers: BTreeMap<NodeId, (Incarnation, bool)>,
    /// When to ask again those that have not vouched.
    pub(super) deadline: Instant,
    /// Nobody is there to be asked, and it listens until then.
    listens: Option<Instant>,
}

impl Raft {
    /// Asks those who have not answered yet, and decides if nobody is left to ask.
    pub(super) fn greet(&mut self, out: &mut Vec<Output>) {
        if self.becoming.is_some() || self.now < self.greetings.deadline {
            return;
        }
        if !self.log.config().voters.contains_key(&self.id()) {
            self.become_standing(Standing::Amnesiac, None); // Not an initial member: the log will tell.
            return;
        }
        if self.is_alone() && !self.has_listened() {
            return;
        }
        self.greetings.deadline = self.now + self.config.heartbeat;
        let answers = &self.greetings.answers;
        let vouches = |id: &NodeId| answers.get(id).is_some_and(|(_, vouches)| *vouches);
        let ids: Vec<NodeId> =
            self.log.config().voters.keys().copied().filter(|id| *id != self.id() && !vouches(id)).collect();
        for to in ids {
            self.send(to, Body::Greeting, out);
        }
        self.decide();
    }

    /// Whether nobody else was there in the beginning.
    fn is_alone(&self) -> bool {
        self.log.config().voters.len() == 1
    }

    /// Whether it has listened long enough without being held up; if not, it begins or goes on.
    fn has_listened(&mut self) -> bool {
        let was_held_up = self.now > self.greetings.deadline + LATE;
        let until = match self.greetings.listens {
            Some(until) if !was_held_up && self.now >= until => return true,
            Some(until) if !was_held_up => until,
            _ => self.now + ALONE.max(self.config.election_timeout * 3 / 5),
        };
        self.greetings.listens = Some(until);
        self.greetings.deadline = until.min(self.now + LOOK);
        false
    }

    /// Whether its log is what a snapshot file gave it.
    fn is_restored(&self) -> bool {
        self.log.start() == RESTORED.0
    }

    /// A Fresh member learns of a past from whoever says something to it, or reaches out to it.
    pub(super) fn overhear(&mut self, input: &Input) {
        let from = match input {
            Input::Called { from } => *from,
            Input::Receive { from, message } if message.is_plausible() => match message.body {
                Body::Greeting | Body::GreetingReply { .. } => return,
                _ => *from,
            },
            _ => return,
        };
        // A cluster that is yet to begin has no other members.
        let is_fresh = self.standing() == Standing::Fresh && self.becoming.is_none();
        if !is_fresh || from == self.id() || self.log.config().voters.contains_key(&from) {
            return;
        }
        if !self.is_restored() {
            self.become_standing(Standing::Amnesiac, None);
        } else if self.is_alone() {
            self.greetings.deadline = Instant::FAR; // It stays out, and nobody else is there to keep it.
        }
    }

    /// [`Body::Greeting`]
    pub(super) fn on_greeting(&mut self, from: NodeId, life: Incarnation, out: &mut Vec<Output>) {
        if self.standing() == Standing::Fresh {
            if self.becoming.is_some() {
                return; // Neither Fresh nor anything else: it asks again.
            }
            if self.greetings.answers.get(&from).is_some_and(|(known, _)| *known != life) {
                reach!(OtherLifeAsks);
                // Another life than the one that answered. Which one is alive? Ask.
                self.greetings.answers.remove(&from);
                self.greetings.deadline = self.now;
            }
        }
        let genesis = self.genesis.get(&from) == Some(&life);
        let standing = self.standing();
        self.send(from, Body::GreetingReply { to: life, standing, genesis }, out);
    }

    /// [`Body::GreetingReply`]
    pub(super) fn on_greeting_reply(&mut self, from: NodeId, message: &Message) {
        let Body::GreetingReply { to, standing, genesis } = message.body else { return };
        let is_asked = self.standing() == Standing::Fresh && self.becoming.is_none() && to == self.incarnation();
        if !is_asked || !self.log.config().voters.contains_key(&from) {
            return;
        }
        let life = message.incarnation;
        match standing {
            Standing::Fresh => _ = self.greetings.answers.insert(from, (life, true)),
            Standing::Trusted if genesis || mutant::is_on(Mutant::R24) => {
                _ = self.greetings.answers.insert(from, (life, true))
            }
            // What a restored member holds is no part of that cluster's past: it stays out. Nothing but its folder is lost
            // if that is removed; then it comes back as an amnesiac.
            Standing::Trusted if self.is_restored() => return,
            Standing::Trusted => {
                reach!(ForgotEverything);
                return self.become_standing(Standing::Amnesiac, None);
            }
            // What it said before it forgot still holds.
            Standing::Amnesiac => {
                reach!(AmnesiacVouchesNot);
                self.greetings.answers.entry(from).or_insert((life, false));
            }
        }
        self.decide();
    }

    /// Becomes Trusted if nobody's answer is missing.
    fn decide(&mut self) {
        let own = self.id();
        let config = self.log.config();
        let voters = config.voters.len();
        let answers = &self.greetings.answers;
        let skipped = answers.values().filter(|(_, vouches)| !vouches).count();
        let is_minority = skipped < voters - voters / 2;
        let all = config.voters.keys().all(|id| *id == own || answers.contains_key(id));
        if self.becoming.is_some() || !all || !is_minority {
            return;
        }
        reach!(BornWithoutAll if skipped > 0);
        let life = |id: &NodeId| answers.get(id).map_or(self.incarnation(), |(life, _)| *life);
        let voters = config.voters.keys().map(|id| (*id, life(id))).collect();
        let config = Configuration { voters, ..config.clone() };
        self.become_standing(Standing::Trusted, Some(config));
    }

    /// The number of the heartbeat round that begins next; only a leader's has a meaning.
    #[must_use]
    pub fn next_round(&self) -> u64 {
        self.leader.as_ref().map_or(0, |leader| leader.round + 1)
    }

    /// Whether a quorum that does not contain `id` was heard lately, and has answered heartbeat round `since` or a later one.
    /// Only a leader knows.
    #[must_use]
    pub fn has_quorum_without(&self, id: NodeId, since: u64) -> bool {
        self.leader.is_some()
            && is_quorum(self.log.config(), |other, life| {
                let heard = |progress: &Progress| progress.is_alive(self.now, &self.config) && progress.round >= since;
                other != id && (self.is_self(other, life) || self.counted(other, life).is_some_and(heard))
            })
    }

    /// Leaders are told, or not any more, that the state which this member's log is applied to is damaged.
    pub fn set_damaged(&mut self, is_damaged: bool) {
        self.is_damaged = is_damaged;
    }

    /// Lives in the latest configuration that were heard lately, and whose last answer to a heartbeat came with the word that
    /// their state is damaged; and the round of that. Only a leader knows.
    pub fn damaged(&self) -> impl Iterator<Item = (NodeId, Incarnation, u64)> {
        let peers = self.leader.iter().flat_map(|leader| &leader.peers);
        peers.filter_map(|(id, progress)| {
            let round = progress.damaged.filter(|round| progress.trusted && *round >= progress.round)?;
            let life = (*id, progress.incarnation);
            let is_member = self.log.config().members().any(|member| member == life);
            (is_member && progress.is_alive(self.now, &self.config)).then_some((life.0, life.1, round))
        })
    }

    /// Whether the others are enough for a quorum, were they all here.
    #[must_use]
    pub fn could_do_without(&self, id: NodeId) -> bool {
        is_quorum(self.log.config(), |other, _| other != id)
    }

    /// Has the new standing written; it is taken up once that is durable.
    fn become_standing(&mut self, standing: Standing, genesis: Option<Configuration>) {
        assert!(self.becoming.is_none(), "two changes of standing at once");
        assert!(self.standing() != Standing::Trusted, "trust is not lost by deciding so");
        if let Some(config) = &genesis {
            let config = config.clone();
            let index = self.log.start();
            let term = self.log.term(index).expect("the start's term is kept");
            self.records.push(Record::Compact { index, term, config });
        }
        self.records.push(Record::Identity(Identity { standing, ..self.identity.clone() }));
        self.becoming = Some(Becoming { write: self.next_write, standing, genesis });
    }

    /// Takes up a new standing that has become durable.
    pub(super) fn become_durably(&mut self) {
        let Some(becoming) = self.becoming.take_if(|becoming| becoming.write <= self.persisted) else { return };
        self.identity.standing = becoming.standing;
        self.reset_election_deadline();
        if let Some(config) = becoming.genesis {
            self.genesis = config.voters.clone();
            self.log.set_initial(config);
            self.hasten_first_election();
        }
    }

    /// An amnesiac becomes Trusted once a configuration that names its present life is committed.
    pub(super) fn recognise(&mut self) {
        if self.standing() != Standing::Amnesiac || self.becoming.is_some() || self.commit < self.log.start() {
            return;
        }
        let (index, config) = self.log.config_at(self.commit);
        let is_named = config.members().any(|member| member == (self.id(), self.incarnation()));
        // What it began with is nobody's word but its own.
        if *index == LogIndex(0) || (*index, self.log.start()) == (RESTORED.0, RESTORED.0) || !is_named {
            return;
        }
        if self.vote.is_none() {
            // A former life may have voted in this very term.
            reach!(VoteWithheld);
            self.promise(self.id());
        }
        self.become_standing(Standing::Trusted, None);
    }

    /// Readmits `id` with its present life if that is not the configured one and has caught up.
    pub(super) fn readmit(&mut self, id: NodeId) {
        let Some(leader) = &self.leader else { return };
        let Some(progress) = leader.peers.get(&id) else { return };
        let config = self.log.config();
        let life = progress.incarnation;
        let sets = [&config.voters, &config.learners];
        if sets.iter().all(|set| set.get(&id).is_none_or(|configured| *configured == life)) {
            return;
        }
        let is_caught_up = progress.target.is_some_and(|target| progress.matched >= target);
        let is_settled = self.log.config_index() <= self.commit && config.outgoing.is_empty();
        reach!(ReadmissionWaits if !is_caught_up);
        if !is_caught_up || !is_settled || self.commit < leader.term_start || leader.transfer.is_some() {
            return;
        }
        reach!(Readmitted);
        let mut config = config.clone();
        for set in [&mut config.voters, &mut config.learners] {
            if let Some(configured) = set.get_mut(&id) {
                *configured = life;
            }
        }
        self.append_own(Payload::Config(config));
    }
}
