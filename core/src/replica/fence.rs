//! What is done about a member whose state is wrong.
//!
//! 1. A member that finds its own state to differ from the majority's is *suspect*: it serves nobody and gives leadership
//!    away. Its log is right as far as anyone knows, so it goes on acknowledging.
//! 2. The leader, if its own state is the majority's, raises [`AlarmKind::Fenced`] with the life of that member: one such
//!    at a time, and only while a quorum lives without it. That a member was there a moment ago is not enough: it may have
//!    lost its disk just before this one was found to be wrong. So the others have to answer once more, from then on.
//! 3. The member, when it applies the alarm, is *fenced*: it does nothing any more, and whoever runs it has it begin a new
//!    life with nothing, as an amnesiac. It gets a snapshot from the leader and is readmitted; see `raft::membership`.
//! 4. Trusted again, it clears the alarm that names its former life. If it was removed meanwhile, the leader does. If its
//!    state went wrong again before it did, that alarm does not stand in the way of the next one: it is about it, too.
//!
//! From before that alarm is in the log until it is cleared, no configuration is entered that needs the life it names
//! ([`raft::Target::ending`]). A leader knows all such alarms: it aims at a configuration, and raises an alarm, only once it
//! has applied what was in its log when it was elected.
//!
//! A member that finds its state damaged where it is stored is no suspect: it serves what it has in memory, and can still read.
//! It says so with every answer to a heartbeat ([`raft::Body::Damaged`]); who leads ends its life in the same way and under
//! the same conditions, as long as it goes on saying so. A leader that is damaged itself ends the others' first, then gives
//! leadership away. Where the others are too few for a quorum, were they all there, it raises CORRUPT in its own name.
//!
//! A suspect whose hash the leader never heard may fall behind the log and get a snapshot: then it is none any more.
//!
//! A member that has started with its log and without its state ([`Replica::without_state`]) is both, suspect and damaged. It
//! applies nothing, so others have to tell whoever runs it that its life is over.
//!
//! Without a majority nobody knows who is right: the leader raises CORRUPT for no member in particular, and nothing is
//! changed any more.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use super::hashes::{Points, Verdict};
use super::{Output, PeerMessage, Replica, raft};
use crate::command::Command;
use crate::entry::Standing;
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::request::{Alarm, AlarmKind};
use crate::{Incarnation, Instant, LogIndex, NodeId};

/// A leader that has applied something names a point of comparison this often.
const COMPARE_INTERVAL: Duration = Duration::from_millis(500);
/// It names the same one again this often while not everyone has told its hash there.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Fence {
    /// The alarms that are on, as far as applied here.
    alarms: Vec<Alarm>,
    /// The alarm that this leader is ending a life with, until its log is applied up to here.
    raising: Option<(LogIndex, Alarm)>,
    /// What the hashes say, unless it has been dealt with.
    verdict: Option<Verdict>,
    /// This member's state is wrong.
    is_suspect: bool,
    /// This member's state is damaged where it is stored.
    is_damaged: bool,
    /// CORRUPT was raised for that, and if somebody clears it, it is not raised again.
    is_corrupt_known: bool,
    /// How often leadership was given away.
    turn: usize,
    /// Lives that are to be ended, and for each the first heartbeat round whose answers show who is there without it: it
    /// began when the reason was known.
    reasons: BTreeMap<(NodeId, Incarnation), u64>,
    /// The last point that was named.
    compared: LogIndex,
    /// Everyone has told its hash there.
    is_complete: bool,
    /// When the next one may be.
    compare: Instant,
    /// When the same one may be named again.
    ask: Instant,
    /// Nothing is proposed before this.
    quiet: Instant,
}

impl Fence {
    pub(super) fn new(now: Instant) -> Self {
        let (alarms, raising, verdict, is_suspect) = (Vec::new(), None, None, false);
        let (compared, is_complete) = (LogIndex(0), true);
        Self {
            alarms,
            raising,
            verdict,
            is_suspect,
            is_damaged: false,
            is_corrupt_known: false,
            turn: 0,
            reasons: BTreeMap::new(),
            compared,
            is_complete,
            compare: now,
            ask: now,
            quiet: now,
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// Whether it has its log, and not its state.
    fn is_bare(&self) -> bool {
        self.is_suspect && self.is_damaged
    }

    /// This member has its log, and not its state.
    pub(super) fn state_lost(&mut self) {
        (self.is_suspect, self.is_damaged) = (!mutant::is_on(Mutant::H07), true);
    }
}

/// What a member has to do about alarms and hashes.
enum Duty {
    /// Do nothing any more.
    Stop,
    /// Give leadership away.
    StepDown,
    /// Raise the alarm that names a life.
    EndLife(Alarm),
    /// Raise or clear another one.
    Propose(Command),
}

impl Replica {
    /// The alarms that are on from now on.
    pub(super) fn alarms_changed(&mut self, alarms: Vec<Alarm>) {
        for (member, _) in self.fence.alarms.iter().chain(&alarms).filter_map(|alarm| alarm.ended()) {
            self.hashes.forget(member);
        }
        self.fence.alarms = alarms;
        self.note_corrupt();
        self.fence.verdict = self.hashes.verdict(self.member, &self.status.config);
    }

    /// Everything up to `index` is applied, and if the alarms are other ones now, these are on.
    pub(super) fn alarms_applied(&mut self, index: LogIndex, alarms: Option<Vec<Alarm>>, out: &mut Vec<Output>) {
        let is_raised = self.fence.raising.take_if(|(last, _)| *last <= index).is_some();
        if is_raised || alarms.is_some() {
            alarms.into_iter().for_each(|alarms| self.alarms_changed(alarms));
            self.aim_again(out);
        }
    }

    /// This member leads no more.
    pub(super) fn demote_fence(&mut self) {
        self.fence.raising = None;
        self.fence.reasons.clear();
    }

    /// Lives that are over, or will be once what this leader's log holds is applied.
    pub(super) fn ending(&self) -> BTreeSet<(NodeId, Incarnation)> {
        let raising = self.fence.raising.map(|(_, alarm)| alarm);
        self.fence.alarms.iter().copied().chain(raising).filter_map(Alarm::ended).collect()
    }

    /// Raises the alarm that ends a life. Consensus is told before: the step that appends the one may append a
    /// configuration, too.
    fn end_life(&mut self, alarm: Alarm, out: &mut Vec<Output>) {
        self.fence.raising = Some((LogIndex(u64::MAX), alarm));
        self.aim_again(out);
        let is_proposed = self.leads() && self.propose_here(Command::RaiseAlarm(alarm), out);
        self.fence.raising = is_proposed.then(|| (self.raft.status().last, alarm));
        self.aim_again(out);
    }

    /// The applied state is another one now, with these alarms: what was said against the one before is settled.
    pub(super) fn state_replaced(&mut self, alarms: Vec<Alarm>, out: &mut Vec<Output>) {
        self.hashes.forget_ours();
        reach!(StateReplaced if self.fence.is_bare());
        self.fence.is_damaged = false;
        self.raft.set_damaged(false);
        self.alarms_changed(alarms);
        if core::mem::take(&mut self.fence.is_suspect) {
            out.push(Output::Unsuspected);
        }
    }

    /// Tells the others this member's hashes at points of comparison.
    pub(super) fn tell_hashes(&mut self, hashes: Points, asks: bool, out: &mut Vec<Output>) {
        if hashes.is_empty() {
            return;
        }
        let life = self.raft.identity().incarnation;
        for to in self.peers() {
            out.push(Output::Send { to, message: PeerMessage::Hashes { life, hashes: hashes.clone(), asks } });
        }
        self.judge(out);
    }

    /// Looks at what the hashes say now.
    pub(super) fn judge(&mut self, out: &mut Vec<Output>) {
        let config = &self.status.config;
        self.fence.is_complete = self.hashes.is_complete(self.member, config, self.fence.compared);
        if self.status.standing != Standing::Trusted {
            return;
        }
        self.fence.verdict = self.hashes.verdict(self.member, &self.status.config);
        if let Some(Verdict::Wrong { index, ours, theirs }) = self.fence.verdict
            && !self.fence.is_suspect
        {
            self.fence.is_suspect = true;
            self.refuse_waiting(out);
            out.push(Output::Suspected { index, ours, theirs });
        }
    }

    /// [`super::Input::Damaged`]
    pub(super) fn damage_found(&mut self) {
        self.fence.is_damaged = true;
        self.raft.set_damaged(true);
        self.note_corrupt();
    }

    fn note_corrupt(&mut self) {
        let own = Alarm { kind: AlarmKind::Corrupt, member: self.member };
        self.fence.is_corrupt_known |= self.fence.is_damaged && self.fence.alarms.contains(&own);
    }

    /// Which lives are to be ended now, and since when that is known.
    fn note_reasons(&mut self) {
        if !self.leads() {
            return;
        }
        let damaged = self.raft.damaged().map(|(member, life, _)| (member, life));
        let (former, next) = (core::mem::take(&mut self.fence.reasons), self.raft.next_round());
        let since = |life| (life, former.get(&life).copied().unwrap_or(next));
        self.fence.reasons = self.odd().into_iter().chain(damaged).map(since).collect();
    }

    /// The life whose state is not the majority's, as this one is.
    fn odd(&self) -> Option<(NodeId, Incarnation)> {
        let Some(Verdict::Other { member, life }) = self.fence.verdict else { return None };
        Some((member, life))
    }

    fn refuse_waiting(&mut self, out: &mut Vec<Output>) {
        for id in self.waits.close_all() {
            self.forget(id);
            out.push(Output::Respond { id, result: Err(Error::Stopped) });
        }
    }

    /// When this leader has a point of comparison to name.
    fn comparison(&self) -> Instant {
        if self.leads() && self.applied > self.fence.compared {
            self.fence.compare
        } else if self.leads() && !self.fence.is_complete {
            self.fence.ask
        } else {
            Instant::FAR
        }
    }

    /// When [`Replica::run_fence`] has something to do.
    pub(super) fn fence_deadline(&self) -> Instant {
        match self.duty() {
            Some(Duty::Stop) => self.now,
            Some(_) => self.comparison().min(self.fence.quiet),
            None => self.comparison(),
        }
    }

    pub(super) fn run_fence(&mut self, out: &mut Vec<Output>) {
        if self.now >= self.comparison() {
            // What was asked may be lost, or not be known to a member that has just come.
            self.fence.compare = self.now + COMPARE_INTERVAL;
            self.fence.ask = self.now + ASK_INTERVAL;
            self.fence.compared = self.applied;
            self.fence.is_complete = false;
            let point = self.hashes.name();
            self.tell_hashes(point.into_iter().collect(), true, out);
        }
        self.note_reasons();
        let Some(duty) = self.duty() else { return };
        match duty {
            Duty::Stop => {
                self.fenced = true;
                self.refuse_waiting(out);
                return out.push(Output::Fenced);
            }
            _ if self.now < self.fence.quiet => return,
            Duty::EndLife(alarm) => self.end_life(alarm, out),
            Duty::Propose(command) if self.leads() => _ = self.propose_here(command, out),
            Duty::Propose(command) => self.proposals.offer(command),
            Duty::StepDown => {
                let to = self.heir();
                self.fence.turn = self.fence.turn.wrapping_add(1);
                reach!(BareLeader if self.fence.is_bare());
                reach!(HeirNamed if to.is_some());
                self.consensus(raft::Input::Transfer { to }, out);
            }
        }
        self.fence.quiet = self.now + self.config.raft.election_timeout;
    }

    /// What is to be done, as soon as it may.
    fn duty(&self) -> Option<Duty> {
        let life = self.raft.identity().incarnation;
        let fenced = |alarm: &&Alarm| alarm.ended().is_some();
        let mut own = self.fence.alarms.iter().filter(fenced).filter(|alarm| alarm.member == self.member);
        let is_on = |kind| self.fence.alarms.iter().any(|alarm| alarm.kind == kind);
        if own.clone().any(|alarm| *alarm == Alarm::ending(self.member, life)) {
            return Some(Duty::Stop);
        }
        if self.status.standing != Standing::Trusted || self.status.leader.is_none() {
            return None;
        }
        if self.fence.is_suspect {
            let gives_way = self.leads() && !(self.fence.is_damaged && mutant::is_on(Mutant::H08));
            return gives_way.then_some(Duty::StepDown);
        }
        if let Some(&former) = own.next().filter(|_| !mutant::is_on(Mutant::H02)) {
            return Some(Duty::Propose(Command::ClearAlarm(former)));
        }
        // Nobody else would: it would stand in the way of the next one. As long as its member counts it must be on.
        let is_gone = |alarm: &&Alarm| {
            fenced(alarm) && self.membership.known.is_removed(alarm.member) && self.is_gone(alarm.member)
        };
        if let Some(&orphan) = self.fence.alarms.iter().find(is_gone).filter(|_| self.leads()) {
            return Some(Duty::Propose(Command::ClearAlarm(orphan)));
        }
        let corrupt = |member| Alarm { kind: AlarmKind::Corrupt, member };
        let is_lost = || self.raft.is_config_settled() && !self.raft.could_do_without(self.member);
        if self.fence.is_damaged && !self.fence.is_corrupt_known && is_lost() {
            return Some(Duty::Propose(Command::RaiseAlarm(corrupt(self.member))));
        }
        if !self.leads() {
            return None;
        }
        match self.fence.verdict {
            Some(Verdict::Split) if !is_on(AlarmKind::Corrupt) => {
                return Some(Duty::Propose(Command::RaiseAlarm(corrupt(NodeId(0)))));
            }
            Some(Verdict::Wrong { .. } | Verdict::Split) => return None,
            Some(Verdict::Other { .. }) | None => {}
        }
        let lives = self.fence.reasons.iter().map(|(life, since)| (*life, *since));
        let mut possible =
            lives.filter(|((member, life), _)| self.may_end(Alarm::ending(*member, *life), 0)).peekable();
        if possible.peek().is_some() {
            let (member, life) = possible.find(|(life, since)| self.is_known_since(*life, *since))?.0;
            return Some(Duty::EndLife(Alarm::ending(member, life)));
        }
        (self.fence.is_damaged && self.may_end(Alarm::ending(self.member, life), 0)).then_some(Duty::StepDown)
    }

    /// Whether answers to heartbeat round `since` and later ones show that this life is to be ended still, and may be.
    fn is_known_since(&self, (member, life): (NodeId, Incarnation), since: u64) -> bool {
        let says_so = |it: (NodeId, Incarnation, u64)| (it.0, it.1) == (member, life) && it.2 >= since;
        let holds = self.odd() == Some((member, life)) || self.raft.damaged().any(says_so);
        holds && self.may_end(Alarm::ending(member, life), since)
    }

    /// Who is to lead instead; `None`: whoever has most, which is tried first if nobody is known to be damaged. Two members
    /// whose states are wrong or damaged would give way to each other for ever, so the others have their turn, one after the
    /// other: some of them may not be able to lead.
    fn heir(&self) -> Option<NodeId> {
        let damaged: BTreeSet<NodeId> = self.raft.damaged().map(|(id, ..)| id).collect();
        let voters = self.status.config.voters.keys().copied().filter(|id| *id != self.member);
        let (damaged, whole): (Vec<NodeId>, Vec<NodeId>) = voters.partition(|id| damaged.contains(id));
        let heirs: Vec<Option<NodeId>> =
            damaged.is_empty().then_some(None).into_iter().chain(whole.into_iter().map(Some)).collect();
        heirs.get(self.fence.turn % heirs.len().max(1)).copied().flatten()
    }

    /// Whether the life that `alarm` names may be ended: no other one is, and a quorum lives without it, as answers to
    /// heartbeat round `since` and later ones show.
    fn may_end(&self, alarm: Alarm, since: u64) -> bool {
        let in_the_way = |on: &Alarm| on.ended().is_some() && (on.member != alarm.member || *on == alarm);
        let is_only_one = self.fence.raising.is_none() && !self.fence.alarms.iter().any(in_the_way);
        let since = if mutant::is_on(Mutant::H10) { 0 } else { since };
        let may = is_only_one && self.is_settled_in() && self.raft.has_quorum_without(alarm.member, since);
        may || (mutant::is_on(Mutant::H05) && self.leads() && !self.fence.alarms.contains(&alarm))
    }
}
