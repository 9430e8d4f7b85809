//! A member's applied state is lost, and its log is sound: it starts with that alone, serves nobody, says so, and begins a new
//! life once the others have ended this one. Or a snapshot gives it a state before that.
//!
//! Which states may be lost? What the log says counts on, so a member without a state is no loss to any quorum. But it hands
//! on nothing of what its log no longer has, and no life is ended unless a quorum lives without it. So, while nobody comes or
//! goes, any states may be lost for which somebody else has one that reaches to where each such log begins: whatever was
//! committed later is in those logs, it can be elected with their votes, and the others are rebuilt from it one by one. That
//! holds beside lost disks, too, of which there never are more than a minority. From then on the member counts as one that
//! forgets, since its life may be ended at any time: no disk is lost, and no other state goes wrong, beyond that minority.
//!
//! While members come and go, configurations may be small, and leave behind whoever holds what is missing: then a state is
//! lost only where the whole disk might be. A member that nobody can restore by what its log says is given another disk.

use quorate_core::entry::Standing;
use quorate_core::request::Alarm;
use quorate_core::{Incarnation, LogIndex, NodeId};
use quorate_node::boot::Found;

use super::World;
use super::event::{Event, link};
use super::machine::Machine;
use super::nemesis::Death;
use crate::check::{Verdict, Violation};
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::member::Process;
use crate::trace::Kind;

/// A member without a state asks the others this often. (The server: `peer::over`)
const ASK_INTERVAL: Nanos = SECOND;

impl World {
    /// Whether this member runs, and has no state that its log goes on from.
    pub(super) fn is_bare(&self, member: usize) -> bool {
        self.machines[member].process.as_ref().is_some_and(Process::is_bare)
    }

    /// The process dies, and nothing of its applied state can be used any more.
    pub(super) fn lose_state(&mut self, now: Nanos, member: usize, down: Nanos) {
        let Some(start) = self.may_lose_state(member) else { return };
        let machine = &mut self.machines[member];
        machine.backends.rot();
        (machine.wrong.lost, machine.wrong.accused) = (Some(start), true);
        self.totals.states_lost += 1;
        self.kill(now, member, down, Death::Process);
    }

    /// Where the log of this member begins, if its state may be lost.
    fn may_lose_state(&self, member: usize) -> Option<LogIndex> {
        let machine = &self.machines[member];
        let raft = machine.process.as_ref()?.replica().raft();
        if !machine.is_sound() || !self.may_go_wrong() {
            return None;
        }
        if self.setup.churn.is_some() {
            return self.may_lose(member).then_some(raft.start());
        }
        let others = || self.machines.iter().enumerate().filter(|(other, _)| *other != member).map(|(_, it)| it);
        let is_alone = others().all(|it| !it.wrong.is_doubtful() || it.wrong.lost.is_some());
        let farthest = others().filter_map(|it| it.wrong.lost).chain([raft.start()]).max()?;
        let reaches = |it: &Machine| {
            let raft = it.process.as_ref().map(|process| process.replica().raft());
            it.is_sound() && raft.is_some_and(|raft| raft.status().commit.min(raft.durable()) >= farthest)
        };
        (self.machines.len() >= 3 && is_alone && others().any(reaches)).then_some(raft.start())
    }

    /// A member has started whose state was lost, or should have a state.
    pub(super) fn judge_start(&mut self, now: Nanos, member: usize, process: &Process) -> Verdict {
        let (raft, wrong) = (process.replica().raft(), &mut self.machines[member].wrong);
        let fails = |text: &str| Err(Violation::new("recovery", format!("member {member} {text}")));
        if !process.is_bare() {
            // It applies its whole log again, and nobody hears that it had to; or it has a snapshot, or begins a new life.
            if wrong.lost.take().is_some() && raft.start() == LogIndex(0) {
                wrong.accused = false;
            }
            return Ok(());
        }
        if wrong.lost.is_none() {
            return fails("takes its state for lost");
        }
        if process.found != Found::Log || raft.status().standing != Standing::Trusted || raft.start() == LogIndex(0) {
            return fails("waits without a state, and nobody needs its log");
        }
        self.totals.bare += 1;
        let epoch = self.machines[member].epoch;
        self.heap.push(now + MICRO, link::NEMESIS, Event::Inquire { member, epoch });
        Ok(())
    }

    /// A member leads. Without a state it gives way to a voter that has one, as soon as nothing is in the way of that.
    pub(super) fn judge_leader(&mut self, now: Nanos, member: usize) -> Verdict {
        let is_bare = self.is_bare(member);
        let voters = self.machines[member].process.iter().flat_map(|process| process.status().config.voters.keys());
        let is_whole = |machine: &Machine| {
            machine.trusted && !machine.wrong.is_doubtful() && machine.process.as_ref().is_some_and(|it| !it.is_bare())
        };
        let has_heir = || voters.filter_map(|id| self.machine_of(*id)).any(|other| is_whole(&self.machines[other]));
        if !is_bare || !self.is_quiet(now) || self.setup.network.bandwidth > 0 || !has_heir() {
            self.bare_led = None;
            return Ok(());
        }
        let since = *self.bare_led.get_or_insert(now);
        if now < since + self.handover() {
            return Ok(());
        }
        let text = format!("whoever leads has no state, member {member} now, since {} ms", since / MILLI);
        Err(Violation::new("fence", text))
    }

    /// An heir has to catch up, and each has its turn.
    fn handover(&self) -> Nanos {
        15 * SECOND + 20 * self.setup.knobs.election + self.catching_up()
    }

    /// A member without a state asks the others whether they have ended its life.
    pub(super) fn inquire(&mut self, now: Nanos, member: usize, epoch: u64) -> Verdict {
        let machine = &self.machines[member];
        let Some(process) = machine.process.as_ref().filter(|it| machine.epoch == epoch && it.is_bare()) else {
            return Ok(());
        };
        if !machine.paused && self.reached(member).any(|other| other.ends(process)) {
            self.trace.event(now, Kind::Member, member, 0, &[], || "is told that its life is over".into());
            return self.end_life(now, member);
        }
        self.heap.push(now + ASK_INTERVAL, link::NEMESIS, Event::Inquire { member, epoch });
        Ok(())
    }

    /// Whether the cluster has let go of this life: somebody has applied the alarm that ends it, or no configuration names it
    /// that may be in force, by what whoever has come farthest knows.
    pub(super) fn is_left_behind(&self, id: NodeId, life: Incarnation) -> bool {
        let sound = self.machines.iter().filter_map(|machine| machine.process.as_ref()).filter(|it| !it.is_bare());
        let is_ended = |it: &Process| it.published().view.ends((id, life));
        if sound.clone().any(is_ended) {
            return true;
        }
        let trusted = sound.map(|it| it.replica().raft()).filter(|raft| raft.status().standing == Standing::Trusted);
        let farthest = trusted.max_by_key(|raft| raft.status().commit);
        farthest.is_some_and(|raft| {
            let committed = raft.config_at(raft.status().commit);
            let named = |config: &quorate_core::entry::Configuration| config.members().any(|it| it == (id, life));
            committed.is_some_and(|config| !named(&config)) && !named(&raft.status().config)
        })
    }
}

/// Lives are ended one at a time: of two members at once neither could restore the other.
pub(super) fn one_at_a_time(member: usize, alarms: impl Iterator<Item = Alarm>) -> Verdict {
    let mut ended: Vec<NodeId> = alarms.filter_map(Alarm::ended).map(|(id, _)| id).collect();
    ended.sort_unstable();
    ended.dedup();
    match ended.len() {
        0 | 1 => Ok(()),
        _ => Err(Violation::new("fence", format!("by what member {member} has applied, {ended:?} are to end at once"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::Keep;
    use crate::schedule::Fault;
    use crate::swarm::Setup;

    /// A world of three in which all is well, and members' logs begin behind what was compacted.
    fn world() -> World {
        let mut setup = (0..)
            .map(|seed| Setup::draw_with(seed, Some(20 * SECOND)))
            .find(|it| it.members == 3 && it.churn.is_none() && !it.regime.has_operator() && it.network.bandwidth == 0)
            .expect("one of many");
        (setup.schedule, setup.handicaps) = (Vec::new(), Vec::new());
        (setup.knobs.catchup_entries, setup.knobs.flush_batches) = (1, 1);
        let mut world = World::new(Arc::new(setup), Keep::default());
        world.advance(10 * SECOND).expect("no fault");
        world
    }

    #[test]
    fn states_are_lost_as_long_as_somebody_has_one_that_the_logs_go_on_from() {
        let mut world = world();
        let now = world.now();
        assert!((0..3).all(|member| world.may_lose_state(member).is_some()));
        world.lose_state(now, 0, MILLI);
        world.lose_state(now, 1, MILLI);
        assert_eq!(world.may_lose_state(2), None, "nobody else has one");
        assert!(!world.may_wipe(2) && !world.may_wipe(0), "their lives are about to be ended");
        world.advance(now + SECOND / 2).expect("they start");
        assert!(world.is_bare(0) && world.is_bare(1) && !world.is_bare(2));
        assert_eq!(world.unfinished_fencing(), Some("member 0 has lost its state".into()));
        assert_eq!(world.check_silence(now, 0, true).unwrap_err().oracle, "fence");
        assert_eq!(world.check_silence(now, 2, true), Ok(()));
        world.advance(now + 30 * SECOND).expect("they are rebuilt");
        assert!((0..3).all(|member| !world.is_bare(member)));
        // The start that is to forget may die of it half way; then there is one more, without a state as before.
        assert!(world.totals.bare >= 2);
        assert_eq!(world.totals.bare_ended, world.totals.bare);
    }

    #[test]
    fn a_life_that_is_needed_is_not_left_behind() {
        let mut world = world();
        let now = world.now();
        let identity = world.machines[0].process.as_ref().expect("it runs").replica().raft().identity().clone();
        // Nobody hears that it has no state.
        world.bring_about(now, Fault::Partition { side: 1, span: 10 * SECOND });
        world.lose_state(now, 0, MILLI);
        world.advance(now + 10 * MILLI).expect("it starts");
        assert!(world.is_bare(0));
        assert!(!world.is_left_behind(identity.member, identity.incarnation));
        assert_eq!(world.end_life(now + 10 * MILLI, 0).unwrap_err().oracle, "fence");
        let other = Incarnation(identity.incarnation.0 ^ 1);
        assert!(world.is_left_behind(identity.member, other), "no configuration names it");
    }

    #[test]
    fn two_lives_that_end_at_once_are_noticed() {
        let alarms = |ids: &[u64]| ids.iter().map(|id| Alarm::ending(NodeId(*id), Incarnation(7))).collect::<Vec<_>>();
        assert_eq!(one_at_a_time(0, alarms(&[]).into_iter()), Ok(()));
        assert_eq!(one_at_a_time(0, alarms(&[1, 1]).into_iter()), Ok(()));
        assert_eq!(one_at_a_time(0, alarms(&[1, 2]).into_iter()).unwrap_err().oracle, "fence");
    }
}
