//! A member's machine in the world: started on what its disks hold, its threads given their turns.

use std::io;

use quorate_core::entry::{Configuration, Standing};
use quorate_core::raft::Role;
use quorate_core::rng::Rng;
use quorate_core::store::TooNew;
use quorate_core::{FeatureLevel, LogIndex, NodeId};
use quorate_node::applier::OpenError;
use quorate_node::boot::{BootError, Found};

use super::World;
use super::bare::one_at_a_time;
use super::event::{Event, link};
use super::nemesis::Death;
use super::redraw::anew;
use super::skew::Wrong;
use crate::backend::SimBackends;
use crate::check::{Verdict, Violation};
use crate::chronicle::Happened;
use crate::clock::{Clock, WallClock};
use crate::disk::SimDisk;
use crate::heap::{MICRO, MILLI, Nanos, SECOND, tail};
use crate::member::{Process, Start, StartError};
use crate::swarm::Stream;
use crate::trace::Kind;

/// A member's machine: what survives its process.
pub(super) struct Machine {
    /// The member that runs here, or is to run.
    pub(super) id: Option<NodeId>,
    /// It is started as one that joins a cluster which runs already.
    pub(super) joins: bool,
    /// Its data directory says that it was removed.
    pub(super) removed: bool,
    /// The highest feature level that the build understands which is started here.
    pub(super) level: FeatureLevel,
    /// The highest one that a build of this machine ever understood: others may believe it of its member.
    pub(super) level_said: FeatureLevel,
    /// What is wrong with its state.
    pub(super) wrong: Wrong,
    /// When its process went on after its last pause.
    pub(super) resumed: Nanos,
    /// The latest configuration in its log, as last seen.
    pub(super) config: (LogIndex, Configuration),
    /// Where the log began that it had when it was last looked at.
    pub(super) log_start: LogIndex,
    pub(super) disk: SimDisk,
    pub(super) backends: SimBackends,
    pub(super) clock: Clock,
    pub(super) wall: WallClock,
    pub(super) process: Option<Process>,
    /// Grows with every start and every crash: what was scheduled for an earlier life is void.
    pub(super) epoch: u64,
    /// What was sent before this epoch and is still under way is lost.
    pub(super) heard_since: u64,
    /// The process does nothing until it is resumed; what happens to it waits.
    pub(super) paused: bool,
    pub(super) stash: Vec<Event>,
    /// It has votes and log that count, as far as the nemesis knows.
    pub(super) trusted: bool,
    /// Its disk was replaced, and it has not been trusted since.
    pub(super) blank: bool,
    /// Its log has been damaged since it ran last.
    pub(super) rotten: bool,
    /// Its last start failed half way: the log of a new life may have taken a damaged one's place.
    pub(super) doubtful: bool,
    pub(super) next_turn: Option<Nanos>,
    pub(super) next_apply: Option<Nanos>,
    /// When the sync ends that is under way.
    pub(super) next_sync: Option<Nanos>,
    /// Syncs take so many times as long.
    pub(super) slowness: u64,
    /// No sync ends before.
    pub(super) stalled: Nanos,
    /// Its disk has no room before.
    pub(super) full_until: Nanos,
    /// The applier takes so many times as long.
    pub(super) apply_slowness: u64,
    /// How the process dies once the fuse of its disk has blown, and for how long.
    pub(super) dies: Option<(Death, Nanos)>,
    pub(super) rng: Rng,
}

impl Machine {
    /// Its word counts, it has what it promised, and nothing is wrong with its state, as far as the nemesis knows.
    pub(super) fn is_sound(&self) -> bool {
        self.trusted && !self.rotten && !self.doubtful && !self.wrong.is_doubtful()
    }

    /// Everything that was stored is lost.
    pub(super) fn replace_disk(&mut self) {
        self.disk.wipe();
        self.backends.wipe();
        (self.trusted, self.rotten, self.doubtful) = (false, false, false);
        (self.blank, self.removed) = (true, false);
        self.config = (LogIndex(0), Configuration::default());
        self.log_start = LogIndex(u64::MAX);
        self.wrong = Wrong::default();
    }
}

/// However slow a disk is made, a sync ends after so long.
const SYNC_MAX: Nanos = 3 * SECOND;

impl World {
    /// Starts a process on what the machine's disks hold.
    pub(super) fn start(&mut self, now: Nanos, member: usize, epoch: u64) -> Verdict {
        let machine = &self.machines[member];
        let Some(id) = machine.id.filter(|_| machine.epoch == epoch && machine.process.is_none()) else {
            return Ok(());
        };
        let Some(mut told) = self.instruct(now, member, id) else { return Ok(()) };
        let machine = &mut self.machines[member];
        machine.joins = told.joins;
        machine.epoch += 1;
        machine.paused = false;
        (machine.next_turn, machine.next_apply, machine.next_sync) = (None, None, None);
        let mut rng = self.setup.stream(Stream::Process, member).split(machine.epoch);
        if let Some((_, sample)) = self.setup.future.filter(|_| self.is_redrawn) {
            rng = anew(&rng, sample);
        }
        let local = machine.clock.read(now);
        let process = loop {
            let start = Start {
                machine: member,
                member: id,
                voters: told.voters.clone(),
                joins: told.joins,
                in_force: told.in_force.clone(),
                founders: self.setup.members,
                churn: self.setup.churn,
                fenced: self.machines[member].wrong.fenced,
                level: self.machines[member].level,
                knobs: &self.setup.knobs,
                regime: &self.setup.regime,
                now: local,
            };
            let machine = &self.machines[member];
            match Process::start(&start, &machine.disk, &machine.backends, &mut rng.clone()) {
                // Its log alone does not say that it can be restored.
                Err(reason) if told.in_force.is_none() && reason.may_be_restored() => match self.consult(member, id) {
                    Some(consulted) => told = consulted,
                    None => {
                        self.start_later(now, member);
                        return Ok(());
                    }
                },
                result => break result,
            }
        };
        let machine = &mut self.machines[member];
        let is_damaged = machine.rotten || machine.wrong.lost.is_some();
        let process = match process {
            Ok(process) => process,
            Err(StartError::Removed) => {
                self.trace.event(now, Kind::Member, member, 0, &[], || "was removed".into());
                self.retire(now, member, id);
                return Ok(());
            }
            Err(StartError::Boot(BootError::Io(error))) if error.kind() != io::ErrorKind::NotFound => {
                // The next start knows of neither: it finds what this one has left.
                machine.doubtful |= machine.rotten || machine.wrong.fenced || machine.wrong.lost.is_some();
                machine.wrong.fenced = false;
                self.disk_failed(now, member, &error);
                return Ok(());
            }
            // What can be read of its log, and who was asked, knows too few who could restore it: it is given another disk.
            Err(reason) if reason.may_be_restored() && is_damaged && self.setup.churn.is_some() => {
                self.trace.event(now, Kind::Disk, member, 0, &[], || format!("it does not start: {reason:?}"));
                self.kill(now, member, 100 * MILLI, Death::Disk);
                return Ok(());
            }
            Err(StartError::Open(OpenError::TooNew(reason))) => {
                return self.too_old(now, member, id, &reason);
            }
            Err(error) => return Err(Violation::new("recovery", format!("member {member} does not start: {error:?}"))),
        };
        // A sound log may be what others need: only where it counts for nothing it is given up with the state.
        let may_give_up = machine.wrong.lost.is_some() && !machine.trusted;
        let (rotten, doubtful) = (std::mem::take(&mut machine.rotten), std::mem::take(&mut machine.doubtful));
        match &process.found {
            // An earlier start noticed and died before it had begun the log of a new life, or while it moved this one aside.
            Found::Forgotten { .. } if doubtful => {}
            Found::Forgotten { .. } => {
                return Err(Violation::new("recovery", format!("member {member} ends what it never began")));
            }
            // An earlier start noticed and died, after it had begun the log of a new life.
            Found::Log if doubtful && process.status().standing != Standing::Trusted => {}
            Found::Damaged { damage, .. } if !rotten && !machine.wrong.fenced && !may_give_up => {
                let text = format!("member {member} gives up its log: {damage}");
                return Err(Violation::new("recovery", text));
            }
            Found::Nothing | Found::Log if rotten => {
                let text = format!("member {member} does not notice that its log is damaged");
                return Err(Violation::new("recovery", text));
            }
            _ => {}
        }
        let (applied, hash) = (process.published().applied, process.published().hash);
        let status = process.status().clone();
        machine.trusted = status.standing == Standing::Trusted;
        let is_new_life = process.found != Found::Log || (doubtful && status.standing == Standing::Amnesiac);
        self.judge_recovery(member, applied, hash, is_new_life);
        self.judge_start(now, member, &process)?;
        self.trace.event(now, Kind::Member, member, hash, &[], || {
            format!("starts at {local:?} with {applied} applied, {status:?}")
        });
        self.membership.published(member, applied, process.published().view.members())?;
        let machine = &mut self.machines[member];
        self.level.started(id, machine.level);
        let is_bare = process.is_bare();
        let log_start = process.replica().raft().start();
        self.level.published(member, applied, process.published().view.feature_level())?;
        machine.process = Some(process);
        if machine.wrong.decayed {
            machine.process.iter_mut().for_each(Process::decay); // The next scrub finds it again.
        }
        self.tell(now, || {
            let text = format!("starts with {applied} applied, {:?}, term {}", status.standing, status.term);
            Happened::Started { member, text }
        });
        if is_bare {
            self.consensus.started_wrong(member, log_start);
        } else if self.is_wrong(member) {
            self.consensus.started_wrong(member, applied);
        } else if applied > LogIndex(0) {
            self.consensus.started(member, applied, hash)?;
        } else {
            self.consensus.started_empty(member);
        }
        self.totals.starts += 1;
        self.audit.started(member);
        self.leadership.started(member);
        self.leases.started(now, member);
        if let Some(reference) = &self.reference {
            self.space.started(member, reference.last());
        }
        self.see_published(now, member)?;
        self.rouse(now, member);
        Ok(())
    }

    /// Schedules whatever the member's threads have to do next.
    pub(super) fn rouse(&mut self, now: Nanos, member: usize) {
        let latencies = self.setup.latencies;
        let machine = &mut self.machines[member];
        let epoch = machine.epoch;
        let Some(process) = &mut machine.process else { return };
        let turn = if process.has_mail() {
            Some(now + 1 + machine.rng.below(latencies.turn))
        } else {
            machine.clock.when(process.deadline()).map(|at| at.max(now + MICRO))
        };
        if let Some(at) = turn.filter(|&at| machine.next_turn.is_none_or(|next| at < next)) {
            machine.next_turn = Some(at);
            self.heap.push(at, link::member(member, 0), Event::Turn { member, epoch, at });
        }
        if process.can_write() {
            let records = match process.write() {
                Ok(records) => records,
                Err(error) => return self.disk_failed(now, member, &error),
            };
            let digest = machine.disk.digest();
            let took = machine.slowness * (MICRO + latencies.sync / 2 + tail(&mut machine.rng, latencies.sync));
            let took = took.min(SYNC_MAX).max(machine.stalled.saturating_sub(now));
            self.trace.event(now, Kind::Disk, member, digest, &[], || format!("write {records} records, sync {took}"));
            let at = now + took;
            machine.next_sync = Some(at);
            self.heap.push(at, link::member(member, 1), Event::Synced { member, epoch, at });
        }
        let apply = if process.can_apply() {
            let loading = if process.is_to_restore() { latencies.restore } else { 0 };
            Some(now + 1 + loading + machine.apply_slowness * tail(&mut machine.rng, latencies.apply))
        } else {
            machine.clock.when(process.applier_deadline()).map(|at| at.max(now + MICRO))
        };
        if let Some(at) = apply.filter(|&at| machine.next_apply.is_none_or(|next| at < next)) {
            machine.next_apply = Some(at);
            self.heap.push(at, link::member(member, 2), Event::Apply { member, epoch, at });
        }
    }

    /// A machine is as fast as any: what its disk or its applier held back goes on.
    pub(super) fn hasten(&mut self, now: Nanos, member: usize) {
        let machine = &mut self.machines[member];
        (machine.slowness, machine.apply_slowness, machine.stalled) = (1, 1, 0);
        let soon = now + MICRO + self.setup.latencies.sync;
        if machine.next_sync.is_some_and(|at| at > soon) {
            machine.next_sync = Some(soon);
            let epoch = machine.epoch;
            self.heap.push(soon, link::member(member, 1), Event::Synced { member, epoch, at: soon });
        }
        if !machine.paused {
            self.rouse(now, member);
        }
    }

    pub(super) fn turn(&mut self, now: Nanos, member: usize, epoch: u64, at: Nanos) -> Verdict {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.next_turn != Some(at) {
            return Ok(());
        }
        machine.next_turn = None;
        let Some(process) = &mut machine.process else { return Ok(()) };
        let local = machine.clock.read(now);
        process.turn(local, self.actions.get_or_insert_default());
        self.leases.turned(now, member);
        // What it has made durable it may have told already.
        self.membership.turned(process.replica().raft())?;
        self.trace.event(now, Kind::Output, member, local.0, &[], || format!("turn at {}", local.0));
        self.carry_out(now, member)?;
        self.tell_status(now, member);
        self.inspect(now, member)?;
        self.see_config(member);
        self.rouse(now, member);
        Ok(())
    }

    /// What can be said of a member between two turns.
    fn inspect(&mut self, now: Nanos, member: usize) -> Verdict {
        let machine = &mut self.machines[member];
        let raft = machine.process.as_ref().map(|process| process.replica().raft());
        let kept = raft.map_or(0, |raft| raft.status().last.0 - raft.start().0);
        // The longer a log is the less often all of it is looked at.
        let is_deep = machine.rng.chance(1, 64 + kept / 4);
        let Some(process) = &self.machines[member].process else { return Ok(()) };
        let raft = process.replica().raft();
        let id = raft.identity().member;
        self.leadership.turned(now, (member, id), raft.status(), raft.config_index())?;
        if raft.status().role == Role::Leader {
            let followers = self.machines.iter().map(|machine| machine.process.as_ref().map(|p| p.replica().raft()));
            self.consensus.led(member, raft, &followers.collect::<Vec<_>>())?;
        }
        if is_deep {
            raft.check_deep();
        }
        if raft.status().role == Role::Leader { self.judge_leader(now, member) } else { Ok(()) }
    }

    pub(super) fn synced(&mut self, now: Nanos, member: usize, epoch: u64, at: Nanos) {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.next_sync != Some(at) {
            return;
        }
        machine.next_sync = None;
        let Some(process) = &mut machine.process else { return };
        let mark = machine.rng.chance(1, 50);
        if let Err(error) = process.synced(mark) {
            return self.disk_failed(now, member, &error);
        }
        let digest = machine.disk.digest();
        self.trace.event(now, Kind::Disk, member, digest, &[], || "synced".into());
        self.rouse(now, member);
    }

    /// The disk of a member's log said so: its process ends, and is started again after a while.
    fn disk_failed(&mut self, now: Nanos, member: usize, error: &io::Error) {
        let machine = &mut self.machines[member];
        let how = if machine.disk.fuse_blew() { machine.dies.take() } else { None };
        self.totals.disk_failures += u64::from(how.is_none());
        let (death, down) = how.unwrap_or_else(|| (Death::Process, 100 * MILLI + machine.rng.below(SECOND)));
        self.trace.event(now, Kind::Disk, member, 0, &[], || format!("the log failed: {error}"));
        self.kill(now, member, down, death);
    }

    pub(super) fn apply(&mut self, now: Nanos, member: usize, epoch: u64, at: Nanos) -> Verdict {
        let inputs_max = self.setup.knobs.apply_inputs_max;
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.next_apply != Some(at) {
            return Ok(());
        }
        machine.next_apply = None;
        let Some(process) = &mut machine.process else { return Ok(()) };
        if let Err(error) = process.apply(machine.clock.read(now), inputs_max, self.actions.get_or_insert_default()) {
            if let OpenError::TooNew(reason) = error {
                let id = machine.id.expect("a process is somebody's");
                return self.too_old(now, member, id, &reason);
            }
            return Err(Violation::new("backend", format!("member {member} cannot keep its state: {error}")));
        }
        let (digest, applied) = (machine.backends.digest(), process.published().applied);
        self.trace.event(now, Kind::Backend, member, digest, &[], || format!("applied {applied}"));
        self.membership.published(member, applied, process.published().view.members())?;
        self.level.published(member, applied, process.published().view.feature_level())?;
        one_at_a_time(member, process.published().view.alarms())?;
        self.carry_out(now, member)?;
        self.see_published(now, member)?;
        self.rouse(now, member);
        Ok(())
    }

    /// A member does not understand the cluster's feature level, and stops: that may befall only whoever was removed, whom
    /// nobody waits for any more.
    fn too_old(&mut self, now: Nanos, member: usize, id: NodeId, reason: &TooNew) -> Verdict {
        if !self.membership.is_removed(id) {
            return Err(Violation::new("level", format!("member {member} has to stop: {reason}")));
        }
        self.trace.event(now, Kind::Member, member, id.0, &[], || format!("was removed, and stops: {reason}"));
        self.retire(now, member, id);
        Ok(())
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |machine: &&Machine| machine.process.as_ref().is_some_and(|p| p.status().role == Role::Leader);
        let newest = self
            .machines
            .iter()
            .filter(leads)
            .max_by_key(|machine| machine.process.as_ref().map(|process| process.status().term))?;
        self.machines.iter().position(|machine| std::ptr::eq(machine, newest))
    }
}
