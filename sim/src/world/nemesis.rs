//! Carries out the schedule of faults.

use quorate_core::FeatureLevel;
use quorate_core::Term;
use quorate_core::raft::Role;
use quorate_core::replica::Request;
use quorate_core::rng::Rng;

use super::World;
use super::event::{Event, link};
use super::machine::Machine;
use super::redraw::anew;
use crate::call::CallError;
use crate::chronicle::Happened;
use crate::clock::Clock;
use crate::heap::{MILLI, Nanos, SECOND, tail};
use crate::member::Process;
use crate::network::{Aim, Quality};
use crate::schedule::{Fault, Plight, Strike};
use crate::trace::Kind;

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relief {
    /// The members of one side can talk to the others again.
    Partition(u64),
    /// The link works again.
    Cut(usize, usize),
    /// Links are as before, as far as this number goes.
    Links(u64),
    /// A leader that was cut off at that time is back.
    Topple(Nanos),
    /// The process goes on.
    Pause(usize, u64),
    /// The disk is as fast as before.
    SlowDisk(usize, u64),
    /// There is room on the disk again.
    Full(usize),
    /// The applier is as fast as before.
    SlowApply(usize, u64),
}

/// Who strikes new leaders.
#[derive(Debug)]
pub(super) struct Harassment {
    rng: Rng,
    after: Nanos,
    until: Nanos,
    /// The last term whose leader was struck.
    term: Term,
}

impl Harassment {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, after: 0, until: 0, term: Term(0) }
    }

    pub(super) fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }
}

/// Members that are left out, and what is wrong with each.
type Outcasts = Vec<(usize, Plight)>;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// The system lives on with all that was written.
    Process,
    /// What was not synced is lost, in part.
    Power,
    /// Everything is lost.
    Disk,
    /// A bit of the log flips while nobody looks.
    Rot,
}

impl World {
    pub(super) fn strike(&mut self, now: Nanos, number: usize) {
        let strike: Strike = self.setup.schedule[number];
        if self.calm {
            return;
        }
        self.trace.event(now, Kind::Fault, 0, number as u64, &[], || strike.to_string());
        self.inflict(now, strike.fault);
    }

    pub(super) fn inflict(&mut self, now: Nanos, fault: Fault) {
        self.totals.faults += 1;
        self.tell(now, || Happened::Fault {
            text: fault.to_string(),
            members: fault.members(),
            until: now + fault.span(),
        });
        self.bring_about(now, fault);
    }

    /// What a fault does.
    pub(super) fn bring_about(&mut self, now: Nanos, fault: Fault) {
        if self.calm {
            return;
        }
        let is_quiet =
            matches!(fault, Fault::Skew { .. } | Fault::Decay { .. } | Fault::WallClock { .. } | Fault::Outcast { .. });
        if !is_quiet {
            self.troubled = now;
        }
        if let Fault::Storm { span, .. } | Fault::Throttle { span, .. } = fault {
            self.rough_until = self.rough_until.max(now + span);
        }
        let later = |world: &mut Self, span: Nanos, relief: Relief| {
            world.heap.push(now + span, link::NEMESIS, Event::Relief(relief));
        };
        match fault {
            Fault::Kill { member, down } => self.kill(now, member, down, Death::Process),
            Fault::Upgrade { member, level, down } if self.may_upgrade(member, FeatureLevel(level)) => {
                let machine = &mut self.machines[member];
                machine.level = FeatureLevel(level);
                machine.level_said = machine.level_said.max(machine.level);
                self.totals.upgrades += 1;
                self.kill(now, member, down, Death::Process);
            }
            Fault::Upgrade { .. } => {}
            Fault::Power { member, down } => self.kill(now, member, down, Death::Power),
            Fault::Wipe { member, down } if self.may_wipe(member) => self.kill(now, member, down, Death::Disk),
            Fault::Rot { member, down } if self.may_wipe(member) && self.may_forget(member) => {
                self.kill(now, member, down, Death::Rot);
            }
            Fault::Wipe { .. } | Fault::Rot { .. } => {}
            Fault::Skew { member } => self.skew(member),
            Fault::Decay { member } => self.decay(now, member),
            Fault::LoseState { member, down } => self.lose_state(now, member, down),
            Fault::Blackout { down } => self.blackout(now, down),
            Fault::Pause { member, span } => self.pause(now, member, span),
            Fault::Partition { side, span } => {
                self.each_crossing(side, |network, from, to| network.cut(from, to));
                later(self, span, Relief::Partition(side));
            }
            Fault::Cut { from, to, span } => {
                self.network.cut(from, to);
                later(self, span, Relief::Cut(from, to));
            }
            Fault::Storm { aim, loss_ppm, duplicate_ppm, straggle_ppm, straggle_max, span } => {
                let storm = Quality { loss_ppm, duplicate_ppm, straggle_ppm, straggle_max, ..Quality::PERFECT };
                let number = self.network.burden(aim, storm);
                later(self, span, Relief::Links(number));
            }
            Fault::SlowDisk { member, factor, span } => {
                self.machines[member].slowness *= factor;
                later(self, span, Relief::SlowDisk(member, factor));
            }
            Fault::Stall { member, span } => {
                let stalled = &mut self.machines[member].stalled;
                *stalled = (*stalled).max(now + span);
            }
            Fault::SlowApply { member, factor, span } => {
                self.machines[member].apply_slowness *= factor;
                later(self, span, Relief::SlowApply(member, factor));
            }
            Fault::Fail { member, ill } => {
                let machine = &mut self.machines[member];
                let rng = Rng::new(machine.rng.next_u64());
                machine.disk.ail(ill, rng);
            }
            Fault::Full { member, room, span } => {
                let machine = &mut self.machines[member];
                machine.disk.set_room(Some(room));
                machine.full_until = machine.full_until.max(now + span);
                later(self, span, Relief::Full(member));
            }
            Fault::Trip { member, changes, power, down } => {
                let machine = &mut self.machines[member];
                machine.disk.set_fuse(changes);
                machine.dies = Some((if power { Death::Power } else { Death::Process }, down));
            }
            Fault::Throttle { aim, bandwidth, queue, span } => {
                let number = self.network.burden(aim, Quality { bandwidth, queue, ..Quality::PERFECT });
                later(self, span, Relief::Links(number));
            }
            Fault::ClockRate { member, ppm } => {
                self.machines[member].clock.set_rate(now, ppm);
                self.rouse_again(now, member);
            }
            Fault::WallClock { member, by } => self.machines[member].wall.jump(by),
            Fault::Harass { after, span } => {
                let harassment = &mut self.harassment;
                // Two at once are as quick as the quicker one.
                let others = if now < harassment.until { harassment.after } else { Nanos::MAX };
                (harassment.after, harassment.until) = (after.min(others), harassment.until.max(now + span));
            }
            Fault::Topple { after, span } => self.begin_topple(now, after, span),
            Fault::Outcast { member, plight } => self.outcasts.push((member, plight)),
            Fault::Transfer { member } => {
                if let Some(leader) = self.leader()
                    && let Some(to) = self.machines[member].id
                    && let Some(process) = &mut self.machines[leader].process
                {
                    process.ask(Request::Transfer(to));
                    self.rouse(now, leader);
                }
            }
        }
    }

    /// A member leads: while there is harassment it will not for long.
    pub(super) fn harass(&mut self, now: Nanos, leader: usize, term: Term) {
        let Harassment { rng, after, until, term: struck } = &mut self.harassment;
        if now < *until && term > *struck {
            *struck = term;
            let at = now + 1 + rng.below((*after).max(1));
            let epoch = self.machines[leader].epoch;
            self.heap.push(at, link::NEMESIS, Event::Hit { leader, epoch });
        }
    }

    /// Whether who led still does.
    pub(super) fn may_strike(&self, leader: usize, epoch: u64) -> bool {
        let machine = &self.machines[leader];
        let is_leading = |process: &Process| process.status().role == Role::Leader;
        !self.calm && machine.epoch == epoch && machine.process.as_ref().is_some_and(is_leading)
    }

    /// Strikes a leader, or it and others: most mistakes of consensus need a change of leaders at the wrong moment.
    pub(super) fn hit(&mut self, now: Nanos, leader: usize, epoch: u64) {
        if !self.may_strike(leader, epoch) {
            return;
        }
        if now < self.harassment.until {
            // One that lives through it is struck again.
            let again = self.setup.knobs.election / 2;
            let at = now + again + self.harassment.rng.below(4 * again);
            self.heap.push(at, link::NEMESIS, Event::Hit { leader, epoch });
        }
        let blows = self.draw_blows(now, leader);
        for (wait, fault) in blows {
            self.write_down_strike(now + wait, fault);
            match wait {
                0 => self.bring_about(now, fault),
                _ => self.heap.push(now + wait, link::NEMESIS, Event::Blow(fault)),
            }
        }
    }

    /// What is done to a leader, and after how long.
    fn draw_blows(&mut self, now: Nanos, leader: usize) -> Vec<(Nanos, Fault)> {
        let (election, members) = (self.setup.knobs.election, self.machines.len());
        let rng = &mut self.harassment.rng;
        let span = election / 10 * (1 + rng.below(40));
        let down = if rng.chance(1, 2) { MILLI * (1 + rng.below(20)) } else { span };
        let other = (leader + 1 + usize::try_from(rng.below(members as u64 - 1)).expect("few members")) % members;
        let way = rng.below(12);
        let soon = 1 + rng.below(election / 10);
        self.trace.event(now, Kind::Fault, leader, way, &[], || format!("leader {leader} is struck, way {way}"));
        let cuts = |cuts: &dyn Fn(usize, usize) -> bool| {
            let links = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
            let links = links.filter(|&(from, to)| from != to && cuts(from, to));
            links.map(|(from, to)| (0, Fault::Cut { from, to, span })).collect()
        };
        let isolated = |member: usize| Fault::Partition { side: 1 << member, span };
        let power = |member| (0, Fault::Power { member, down });
        match way {
            0 => vec![(0, isolated(leader))],
            1 => vec![(0, Fault::Pause { member: leader, span })],
            2 => vec![power(leader)],
            3 => vec![(0, isolated(leader)), power(other)],
            4 => vec![(0, isolated(other)), power(leader)],
            5 => {
                let others = (0..members).filter(|other| *other != leader);
                std::iter::once((0, isolated(leader))).chain(others.map(power)).collect()
            }
            // It hands over, and is cut off meanwhile: the next one is elected while it believes to lead.
            6 | 7 => vec![(0, Fault::Transfer { member: other }), (soon, isolated(leader))],
            // Nobody hears it; it hears nobody; only one hears it.
            8 => cuts(&|from, _| from == leader),
            9 => cuts(&|_, to| to == leader),
            10 => cuts(&|from, to| from == leader && to != other),
            _ => (0..members).map(|member| (0, Fault::SlowDisk { member, factor: 20, span })).collect(),
        }
    }

    fn pause(&mut self, now: Nanos, member: usize, span: Nanos) {
        let machine = &mut self.machines[member];
        if machine.process.is_some() && !machine.paused {
            machine.paused = true;
            let epoch = machine.epoch;
            self.heap.push(now + span, link::NEMESIS, Event::Relief(Relief::Pause(member, epoch)));
        }
    }

    pub(super) fn relieve(&mut self, now: Nanos, relief: Relief) {
        if self.calm {
            return; // That was the end of every fault.
        }
        self.trace.event(now, Kind::Fault, 0, 0, &[], || format!("relief {relief:?}"));
        match relief {
            Relief::Partition(side) => self.each_crossing(side, |network, from, to| network.heal(from, to)),
            Relief::Cut(from, to) => self.network.heal(from, to),
            Relief::Topple(since) => self.end_topple(now, since),
            Relief::Links(number) => self.network.lift(number),
            Relief::Pause(member, epoch) if self.machines[member].epoch == epoch => self.resume(now, member),
            Relief::Pause(..) => {}
            Relief::SlowDisk(member, factor) => self.machines[member].slowness /= factor,
            Relief::Full(member) if now >= self.machines[member].full_until => {
                self.machines[member].disk.set_room(None);
            }
            Relief::Full(_) => {}
            Relief::SlowApply(member, factor) => self.machines[member].apply_slowness /= factor,
        }
    }

    /// Who is to be left out when the others are healed, and what is wrong with it; and the others. Nobody, if they are no
    /// majority that remembers.
    pub(super) fn take_outcasts(&mut self) -> Option<(Outcasts, Vec<usize>)> {
        let outcasts = std::mem::take(&mut self.outcasts);
        let is_left = |member: &usize| outcasts.iter().all(|(outcast, _)| outcast != member);
        let left: Vec<usize> = self.members().into_iter().filter(is_left).collect();
        let is_odd = self.machines.iter().any(|machine| machine.wrong.is_doubtful());
        let suffices =
            2 * left.len() > self.setup.members && left.iter().all(|member| self.machines[*member].is_sound());
        (!outcasts.is_empty() && suffices && !is_odd && self.setup.churn.is_none()).then_some((outcasts, left))
    }

    /// Leaves a member out while the others are well.
    pub(super) fn cast_out(&mut self, now: Nanos, member: usize, plight: Plight) {
        self.totals.outcasts += 1;
        self.trace.event(now, Kind::Fault, member, 0, &[], || format!("is left out, {plight}"));
        self.tell(now, || Happened::Fault {
            text: format!("leaves a member out, {plight}"),
            members: 1 << member,
            until: now + SECOND,
        });
        let silence = Quality { loss_ppm: 1_000_000, ..Quality::PERFECT };
        let (said, heard) = (Aim { from: Some(member), to: None }, Aim { from: None, to: Some(member) });
        match plight {
            // Until it is healed, too.
            Plight::Down => self.kill(now, member, 3_600 * SECOND, Death::Process),
            Plight::Isolated => {
                self.network.burden(said, silence);
                self.network.burden(heard, silence);
            }
            Plight::Deaf => _ = self.network.burden(heard, silence),
            Plight::Mute => _ = self.network.burden(said, silence),
            Plight::Slow => self.machines[member].slowness *= 500,
        }
    }

    /// Ends every fault for good.
    pub(super) fn make_calm(&mut self, now: Nanos) {
        self.calm = true;
        let quality = Quality { delay_min: 200_000, delay_tail: 100_000, ..Quality::CALM };
        // Cuts end with their own relief; calm shortens that by cancelling them all.
        self.network.reset(quality);
        // Those on which nobody runs, too: somebody may, later.
        for member in 0..self.machines.len() {
            self.hasten(now, member);
            self.resume(now, member);
            let machine = &mut self.machines[member];
            machine.disk.heal();
            machine.dies = None;
            if machine.id.is_some() && machine.process.is_none() {
                let epoch = machine.epoch;
                self.heap.push(now, link::NEMESIS, Event::Start { member, epoch });
            }
        }
    }

    fn resume(&mut self, now: Nanos, member: usize) {
        let machine = &mut self.machines[member];
        if !machine.paused {
            return;
        }
        (machine.paused, machine.resumed) = (false, now);
        // What waited comes in the order in which it arrived, but of peers' connections any may be read first; turns are
        // scheduled afresh.
        (machine.next_turn, machine.next_apply) = (None, None);
        let rng = &mut machine.rng;
        let read = [0; 8].map(|_: u8| if rng.chance(1, 2) { tail(rng, MILLI) } else { 0 });
        let waited = std::mem::take(&mut machine.stash).into_iter();
        let waited = waited.filter(|event| !matches!(event, Event::Turn { .. } | Event::Apply { .. }));
        for (n, event) in waited.enumerate() {
            let delay = if let Event::Frame { from, .. } = event { read[from] } else { 0 };
            self.heap.push(now + delay + n as u64, link::member(member, 5), event);
        }
        self.rouse(now, member);
    }

    pub(super) fn blackout(&mut self, now: Nanos, down: Nanos) {
        for member in self.members() {
            let more = self.machines[member].rng.below(200 * MILLI);
            self.kill(now, member, down + more, Death::Power);
        }
    }

    pub(super) fn kill(&mut self, now: Nanos, member: usize, down: Nanos, death: Death) {
        let machine = &mut self.machines[member];
        let Some(id) = machine.id else { return };
        machine.paused = false;
        let stash = std::mem::take(&mut machine.stash);
        let process = machine.process.take();
        let (calls, subscriptions) = process.as_ref().map(Process::connections).unwrap_or_default();
        drop(process);
        machine.epoch += 1;
        let epoch = machine.epoch;
        if machine.rng.chance(1, 2) {
            machine.heard_since = epoch;
        }
        machine.backends.crash();
        let lost = match death {
            Death::Process => 0,
            Death::Rot => {
                machine.rotten |= machine.disk.rot(&mut machine.rng);
                machine.trusted &= !machine.rotten;
                machine.blank |= machine.rotten;
                u64::from(machine.rotten)
            }
            Death::Power => machine.disk.power_cut(&mut machine.rng),
            Death::Disk => {
                machine.replace_disk();
                0
            }
        };
        // The clock of a restarted process begins anew.
        let offset = machine.rng.below(1_000_000_000);
        let ppm = machine.clock.ppm();
        machine.clock = Clock::new(now, offset, ppm);
        self.trace
            .event(now, Kind::Disk, member, lost, &[death as u8], || format!("{death:?} dies, {lost} bytes lost"));
        self.tell(now, || Happened::Died { member, text: format!("dies ({death:?}), {lost} bytes lost") });
        match death {
            Death::Process => self.totals.kills += 1,
            Death::Power => {
                self.totals.power_cuts += 1;
                self.totals.power_cuts_with_loss += u64::from(lost > 0);
            }
            Death::Disk => self.totals.wipes += 1,
            Death::Rot => self.totals.rots += lost,
        }
        if matches!(death, Death::Disk | Death::Rot) {
            self.membership.forgot(id);
        }
        for call in calls {
            self.reply(now, call, Err(CallError::Broken));
        }
        for subscription in subscriptions {
            self.break_stream(now, subscription);
        }
        for event in stash {
            match event {
                Event::Request { call, .. } => self.reply(now, call, Err(CallError::Broken)),
                Event::Finish { due, .. } => self.reply(now, due.call(), Err(CallError::Broken)),
                Event::Subscribe { subscription, .. } => self.break_stream(now, subscription),
                _ => {}
            }
        }
        self.heap.push(now + down, link::NEMESIS, Event::Start { member, epoch });
    }

    /// Whether no member can meet a feature level that it does not understand, once this machine has a build of `level`.
    /// The cluster's level may become what all builds have ever said that they understand. (While members come and go
    /// nobody goes back: whoever holds the level down may leave.)
    fn may_upgrade(&self, member: usize, level: FeatureLevel) -> bool {
        if self.setup.churn.is_some() && level < self.machines[member].level {
            return false;
        }
        let after = self.members().into_iter().map(|other| {
            let Machine { level: build, level_said: said, .. } = self.machines[other];
            if other == member { (level, said.max(level)) } else { (build, said) }
        });
        let (builds, said): (Vec<_>, Vec<_>) = after.unzip();
        builds.iter().min() >= said.iter().min()
    }

    /// Whether the others can do without this member's memory: no more than a minority may be without theirs.
    pub(super) fn may_wipe(&self, member: usize) -> bool {
        if self.setup.churn.is_some() {
            return self.may_lose(member);
        }
        // While nobody is trusted nothing was ever promised; but who lost a disk then may be an amnesiac to the others.
        let is_born = self.machines.iter().any(|machine| machine.trusted);
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != member);
        let forgetful = others
            .filter(
                |(_, machine)| if is_born { !machine.trusted || machine.wrong.is_doubtful() } else { machine.blank },
            )
            .count()
            + 1;
        forgetful <= (self.machines.len() - 1) / 2
    }

    pub(super) fn each_crossing(&mut self, side: u64, act: impl Fn(&mut crate::network::Network, usize, usize)) {
        let members = self.machines.len();
        for from in 0..members {
            for to in 0..members {
                if (side >> from) & 1 != (side >> to) & 1 {
                    act(&mut self.network, from, to);
                }
            }
        }
    }

    /// The clock changed: what was scheduled by it is scheduled again.
    fn rouse_again(&mut self, now: Nanos, member: usize) {
        (self.machines[member].next_turn, self.machines[member].next_apply) = (None, None);
        self.rouse(now, member);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::Keep;
    use crate::swarm::Setup;

    /// A learner that came after all faults were over was slow for good, and nobody waited so long for it.
    #[test]
    fn machines_on_which_nobody_runs_are_healed_too() {
        let setup = (0..).map(Setup::draw).find(|setup| setup.machines() > setup.members).expect("one of many");
        let mut world = World::new(Arc::new(setup), Keep::default());
        let last = world.machines.len() - 1;
        assert_eq!(world.machines[last].id, None);
        world.machines[last].slowness *= 50;
        world.make_calm(0);
        assert_eq!(world.machines[last].slowness, 1);
    }
}
