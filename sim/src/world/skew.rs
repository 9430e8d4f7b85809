//! A member's applied state goes wrong: it must find out, serve nobody, name itself, begin a new life and come back. Or it
//! rots where it is stored: then the member is told, and must begin a new life once the others can do without it.
//!
//! Whatever a wrong member says before it finds out is lost on its way, so that the other oracles judge the cluster by
//! those who are right. Whether it finds out in time, and what it says afterwards, is judged here.

use bytes::Bytes;
use quorate_core::entry::Standing;
use quorate_core::format::codec;
use quorate_core::raft::Role;
use quorate_core::replica::PeerMessage;
use quorate_core::request::{Alarm, AlarmKind};
use quorate_core::store::Applied;
use quorate_core::{LogIndex, NodeId};

use super::World;
use super::event::{Event, link};
use super::machine::Machine;
use super::nemesis::Death;
use crate::check::{Verdict, Violation};
use crate::heap::{MILLI, Nanos, SECOND};
use crate::member::{Actions, Process};
use crate::trace::Kind;

/// What is wrong with a member's state, as the nemesis knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wrong {
    /// Its state is, since it has applied this entry.
    pub(super) since: Option<LogIndex>,
    /// When it was handed that.
    at: Nanos,
    /// It applied that itself, rather than be given the state by another one.
    is_origin: bool,
    /// It was seen to have a wrong state, and may have told its hash.
    was_seen: bool,
    /// Its present life may be ended for it: its hashes were told, even if it has recovered from an older state.
    pub(super) accused: bool,
    /// Somebody whose state is wrong has sent it that, and it has come to no other one since.
    handed: bool,
    /// When it found out.
    pub(super) suspected: Option<Nanos>,
    /// Bits of it have rotted where it is stored: a scrub says so, and the next one again.
    pub(super) decayed: bool,
    /// Its state cannot be used any more; where its log began then.
    pub(super) lost: Option<LogIndex>,
    /// Its life was ended: the next start is that of a new one.
    pub(super) fenced: bool,
}

impl Wrong {
    /// Its present life may be ended for it, now or once it has loaded what it was handed.
    pub(super) fn is_doubtful(&self) -> bool {
        self.accused || self.handed
    }
}

impl World {
    /// Whether any state may go wrong: an operator's audit knows nothing of the alarms that members raise and clear for it.
    pub(super) fn may_go_wrong(&self) -> bool {
        !self.setup.regime.has_operator()
    }

    /// What `member` applies next is not what was committed, where a majority of the voters is sure to be right.
    pub(super) fn skew(&mut self, member: usize) {
        let Some(process) = &self.machines[member].process else { return };
        let (status, id) = (process.status(), self.machines[member].id);
        let voters = &status.config.voters;
        let is_one = id.is_some_and(|id| voters.contains_key(&id)) && status.role == Role::Follower;
        let runs = |id| self.machine_of(id).is_some_and(|machine| self.machines[machine].process.is_some());
        let others = voters.keys().all(|id| runs(*id));
        let is_alone = self.machines.iter().all(|machine| !machine.wrong.is_doubtful());
        let is_trusted = status.standing == Standing::Trusted && status.config.outgoing.is_empty();
        if is_one
            && others
            && is_alone
            && is_trusted
            && voters.len() >= 3
            && self.may_go_wrong()
            && self.may_wipe(member)
        {
            let process = self.machines[member].process.as_mut().expect("just seen");
            process.tamper();
            self.machines[member].wrong.accused = true;
        }
    }

    /// A member learns that its state has rotted where it is stored. What it has in memory is right. Two may be found at
    /// once, where all remember: that they are not both rebuilt at once is for the cluster to see to. Nobody is rebuilt
    /// without a majority of others, and while members come and go there may be none.
    pub(super) fn decay(&mut self, now: Nanos, member: usize) {
        let others_suffice = self.setup.churn.is_none() && self.machines.len() >= 3;
        if !others_suffice || !self.may_go_wrong() {
            return;
        }
        let all_remember = self.machines.iter().all(|it| it.trusted && (!it.wrong.accused || it.wrong.decayed));
        let found = self.machines.iter().filter(|machine| machine.wrong.decayed).count();
        let machine = &mut self.machines[member];
        let Some(process) = machine.process.as_mut().filter(|_| all_remember && found < 2) else { return };
        if machine.wrong.decayed || process.status().standing != Standing::Trusted {
            return;
        }
        process.decay();
        (machine.wrong.decayed, machine.wrong.accused) = (true, true);
        self.totals.decays += 1;
        self.rouse(now, member);
    }

    /// Whether what this member says is not to be believed.
    pub(super) fn is_wrong(&self, member: usize) -> bool {
        self.machines[member].wrong.since.is_some()
    }

    /// What a process found out about its state.
    pub(super) fn see_fence(&mut self, now: Nanos, member: usize, actions: &mut Actions) -> Verdict {
        if let Some(index) = actions.tampered.take() {
            self.trace.event(now, Kind::Fault, member, index.0, &[], || format!("{index} is applied wrongly"));
            let wrong = &mut self.machines[member].wrong;
            (wrong.since, wrong.at, wrong.is_origin) = (Some(index), now, true);
            self.totals.skews += 1;
            if self.is_quiet(now) {
                let epoch = self.machines[member].epoch;
                self.heap.push(now + self.notice(), link::NEMESIS, Event::Noticed { member, epoch, since: now });
            }
        }
        let wrong = self.machines[member].wrong;
        if let Some((index, ours, theirs)) = actions.suspected.take() {
            if wrong.since.is_none_or(|since| index < since) {
                let text = format!("member {member} has {ours:016x} after {index}, the majority {theirs:016x}");
                return Err(Violation::new("state", text));
            }
            self.trace.event(now, Kind::Member, member, index.0, &[], || format!("finds out that {index} is wrong"));
            self.machines[member].wrong.suspected = Some(now);
            self.totals.suspects += 1;
        }
        Ok(())
    }

    /// A member's life is over.
    pub(super) fn end_life(&mut self, now: Nanos, member: usize) -> Verdict {
        let machine = &self.machines[member];
        let (Some(id), Some(process)) = (machine.id, &machine.process) else { return Ok(()) };
        if !machine.wrong.accused {
            return Err(Violation::new("state", format!("member {member} was told that its state is wrong")));
        }
        let life = process.replica().raft().identity().incarnation;
        let is_named = process.published().view.ends((id, life));
        let is_over = is_named || (process.is_bare() && self.is_left_behind(id, life));
        if !is_over {
            return Err(Violation::new("fence", format!("member {member} ends its life, and no alarm names it")));
        }
        self.totals.fenced += 1;
        self.totals.bare_ended += u64::from(process.is_bare());
        let machine = &mut self.machines[member];
        // Often it is back before anyone misses it.
        let span = if machine.rng.chance(1, 2) { 50 * MILLI } else { 2 * self.setup.knobs.election };
        let down = MILLI + machine.rng.below(span);
        self.kill(now, member, down, Death::Process);
        let machine = &mut self.machines[member];
        (machine.wrong.fenced, machine.trusted) = (true, false);
        // The start that is to forget may die of it half way.
        let fate = &mut machine.rng.split(machine.epoch);
        if !self.calm && fate.chance(1, 2) {
            let death = if fate.chance(2, 3) { Death::Power } else { Death::Process };
            machine.disk.set_fuse(u32::try_from(fate.below(24)).expect("few changes"));
            machine.dies = Some((death, 100 * MILLI));
        }
        self.membership.forgot(id);
        Ok(())
    }

    /// A member hands something to `to`. `false` if it keeps that: it is a part of a wrong state's snapshot, and that state
    /// would prevail.
    pub(super) fn may_hand(&mut self, from: usize, to: NodeId, bytes: &Bytes) -> bool {
        let Some(since) = self.machines[from].wrong.since else { return true };
        let Ok(PeerMessage::Snapshot(chunk)) = codec::decode(bytes.clone()) else { return true };
        if chunk.index < since {
            return true;
        }
        let may = !self.would_prevail(from, to);
        if let Some(other) = self.machine_of(to).filter(|_| may) {
            self.machines[other].wrong.handed = true;
        }
        may
    }

    /// Whether those who are right would be no majority any more once `to` has the wrong state of `from`: then no member
    /// can tell, and the wrong would end the life of the right.
    fn would_prevail(&self, from: usize, to: NodeId) -> bool {
        let Some(process) = &self.machines[from].process else { return false };
        let (raft, voters) = (process.replica().raft(), &process.status().config.voters);
        // Who needs a snapshot will have no other state than this one, either.
        let stays_right = |machine: &Machine| {
            let reaches = |other: &Process| other.status().last >= raft.start();
            machine.wrong.since.is_none() && !machine.wrong.handed && machine.process.as_ref().is_some_and(reaches)
        };
        let others = voters.keys().filter(|id| **id != to).filter_map(|id| self.machine_of(*id));
        let right =
            others.filter(|other| stays_right(&self.machines[*other])).count().saturating_sub(self.leaving(None));
        let all = voters.len() + usize::from(!voters.contains_key(&to));
        right <= all / 2
    }

    /// A wrong state is about to prevail: whoever leads with it is gone for a while, and another one serves those who lag.
    pub(super) fn stop_spreading(&mut self, now: Nanos, member: usize) {
        self.trace.event(now, Kind::Fault, member, 0, &[], || "is stopped, or its wrong state would prevail".into());
        self.troubled = now;
        let down = SECOND + 5 * self.setup.knobs.election;
        self.kill(now, member, down, Death::Process);
    }

    /// Whether every member hears every other at its usual pace.
    pub(super) fn is_quiet(&self, now: Nanos) -> bool {
        let members = self.members();
        let is_well = |member: &usize| {
            let machine = &self.machines[*member];
            let calm = machine.slowness == 1 && machine.apply_slowness == 1 && machine.stalled < now && !machine.paused;
            machine.process.is_some() && calm
        };
        let pairs = members.iter().flat_map(|from| members.iter().map(move |to| (*from, *to)));
        members.iter().all(is_well)
            && now > self.rough_until
            && self.leader().is_some()
            && pairs.into_iter().all(|(from, to)| self.network.open(from, to))
    }

    /// A member finds out within a second, and what messages and applying take; another one may have to load its state first.
    fn notice(&self) -> Nanos {
        let (latencies, network) = (self.setup.latencies, self.setup.network);
        let step = latencies.turn + latencies.sync + latencies.apply + network.delay_min + 4 * network.delay_tail;
        SECOND + 20 * step + 2 * latencies.restore
    }

    /// It is time that a member has found out, unless something else has got into its way.
    pub(super) fn noticed(&mut self, now: Nanos, member: usize, epoch: u64, since: Nanos) -> Verdict {
        let machine = &self.machines[member];
        let is_late = machine.epoch == epoch && machine.wrong.since.is_some() && machine.wrong.suspected.is_none();
        // Whoever is no member any more is told no hashes; and what was refused did no harm, whatever went wrong since.
        let is_late = is_late && !machine.removed && machine.wrong.at == since;
        let is_forwarded = machine.process.as_ref().is_some_and(|process| {
            let wrong = machine.wrong.since.unwrap_or_default();
            process.published().applied >= wrong && self.setup.network.bandwidth == 0
        });
        if is_late && is_forwarded && self.is_quiet(now) && self.troubled < since {
            let text = format!("member {member} is wrong since {} ms and has not found out", since / MILLI);
            return Err(Violation::new("fence", text));
        }
        let has_found_out = machine.epoch != epoch || machine.wrong.suspected.is_some();
        self.totals.noticed_in_time += u64::from(has_found_out);
        Ok(())
    }

    /// A member that knows that it is wrong answers something that it read.
    pub(super) fn check_silence(&self, now: Nanos, member: usize, is_answer: bool) -> Verdict {
        let machine = &self.machines[member];
        if is_answer && self.is_bare(member) {
            return Err(Violation::new("fence", format!("member {member} has no state and answers")));
        }
        // What was ready before is on its way for a moment, or for as long as the process was paused.
        let since = machine.wrong.suspected.map(|since| since.max(machine.resumed) + 100 * MILLI);
        if is_answer && machine.wrong.since.is_some() && since.is_some_and(|since| now > since) {
            return Err(Violation::new("fence", format!("member {member} knows that it is wrong and answers")));
        }
        Ok(())
    }

    /// Whether what a member has applied is wrong. What it was handed before that is not, and the first to apply it
    /// tells what it changed; and what was put may have been refused, whatever its value: running hashes that have parted
    /// never meet again.
    pub(super) fn is_harmed(&mut self, member: usize, applied: &Applied) -> bool {
        if self.machines[member].wrong.since.is_none_or(|since| applied.index < since) {
            return false;
        }
        if self.consensus.state_at(applied.index) == Some(applied.hash) {
            // Or else it has started on a snapshot that it had not been seen to take, and what it told before still counts.
            let Wrong { is_origin, was_seen, accused, handed, decayed, lost, .. } =
                std::mem::take(&mut self.machines[member].wrong);
            let wrong = &mut self.machines[member].wrong;
            (wrong.accused, wrong.handed) = (accused && (was_seen || decayed || lost.is_some()), handed);
            (wrong.decayed, wrong.lost) = (decayed, lost);
            self.totals.skews -= u64::from(is_origin && !was_seen);
            return false;
        }
        self.machines[member].wrong.was_seen = true;
        self.wrong_states.insert((applied.index, applied.hash));
        true
    }

    /// A member has started on what its disks held: in a new life, or with a state of before or after it went wrong.
    pub(super) fn judge_recovery(&mut self, member: usize, applied: LogIndex, hash: u64, is_new_life: bool) {
        let is_known_wrong = self.is_known_wrong(applied, hash);
        let wrong = &mut self.machines[member].wrong;
        if is_new_life {
            *wrong = Wrong::default();
        }
        (wrong.suspected, wrong.handed) = (None, false);
        wrong.since = wrong.since.filter(|since| applied >= *since);
        if wrong.since.is_some() {
            self.wrong_states.insert((applied, hash));
        } else if is_known_wrong {
            // The snapshot was not seen to take its state's place.
            (wrong.since, wrong.accused) = (Some(applied), true);
        }
    }

    /// A member's state is now that of a snapshot, which somebody may have made who was wrong, even if it has recovered
    /// from an older state since.
    pub(super) fn judge_snapshot(&mut self, member: usize, index: LogIndex, hash: u64) -> Verdict {
        // It serves again, until it finds out that this state is wrong, too.
        let wrong = &mut self.machines[member].wrong;
        (wrong.suspected, wrong.handed, wrong.decayed, wrong.lost) = (None, false, false, None);
        if !self.is_known_wrong(index, hash) {
            // What it was handed after the snapshot, which it has just come to, may be wrong all the same.
            let since = self.machines[member].wrong.since;
            self.machines[member].wrong.since = since.filter(|since| *since > index);
            return self.consensus.restored(member, index, hash);
        }
        let wrong = &mut self.machines[member].wrong;
        (wrong.since, wrong.is_origin, wrong.accused) = (Some(index), false, true);
        Ok(())
    }

    /// Whether a wrong member had this state, and, as far as anyone has come there, those who are right another one.
    fn is_known_wrong(&self, index: LogIndex, hash: u64) -> bool {
        self.wrong_states.contains(&(index, hash)) && self.consensus.state_at(index) != Some(hash)
    }

    /// A member that is still wrong, or an alarm that is still on. One that was removed may never find out even that.
    pub(super) fn unfinished_fencing(&self) -> Option<String> {
        let is_member = |member: &usize| self.machines[*member].id.is_some_and(|id| !self.membership.is_removed(id));
        if let Some(member) = (0..self.machines.len()).find(|member| self.is_wrong(*member) && is_member(member)) {
            return Some(format!("member {member} is wrong"));
        }
        if let Some(member) = self.machines.iter().position(|machine| machine.wrong.decayed) {
            return Some(format!("what member {member} has stored is damaged"));
        }
        let is_lost = |member: &usize| self.machines[*member].wrong.lost.is_some() && is_member(member);
        if let Some(member) = (0..self.machines.len()).find(is_lost) {
            return Some(format!("member {member} has lost its state"));
        }
        let leader = self.machines[self.leader()?].process.as_ref()?;
        // A majority was always right.
        let is_owed = |alarm: &Alarm| alarm.ended().is_some() || alarm.kind == AlarmKind::Corrupt;
        let alarm = leader.published().view.alarms().find(is_owed)?;
        Some(format!("the alarm {alarm:?} is on"))
    }
}
