//! Carries out what a process asked for, and lets the oracles see it.

use bytes::Bytes;
use quorate_core::Revision;
use quorate_core::entry::Standing;
use quorate_core::mutant::{self, Mutant};
use quorate_core::raft::{self, Role};
use quorate_core::replica;
use quorate_core::request::KeyValue;
use quorate_core::store::RevisionEvents;
use quorate_jepsen::history::Sighting;
use quorate_node::applier;
use quorate_node::status::Status;

use super::World;
use super::event::{Event, link};
use crate::call::CallError;
use crate::check::lease::Asker;
use crate::check::{Verdict, Violation};
use crate::heap::{Nanos, tail};
use crate::member::{Actions, CallId, Handed, Process, Subscription};
use crate::trace::Kind;

impl World {
    /// Carries out what a process asked for, and lets the oracles see it.
    pub(super) fn carry_out(&mut self, now: Nanos, member: usize) -> Verdict {
        let mut actions = self.actions.take().unwrap_or_default();
        let is_spreading = self.carry_out_each(now, member, &mut actions)?;
        let is_over = std::mem::take(&mut actions.fenced);
        self.actions = Some(actions);
        if is_over {
            return self.end_life(now, member);
        }
        if is_spreading {
            self.stop_spreading(now, member);
        }
        Ok(())
    }

    /// Gives whether the member would hand on a state that it must not. Most of the time there is little to do: what is not
    /// there is not even looked at.
    fn carry_out_each(&mut self, now: Nanos, member: usize, actions: &mut Actions) -> Result<bool, Violation> {
        if !actions.changed.is_empty() {
            self.see_changed(now, member, &mut actions.changed)?;
        }
        self.see_fence(now, member, actions)?;
        if std::mem::take(&mut actions.malformed) > 0 && !mutant::is_on(Mutant::O31) {
            return Err(Violation::new("codec", format!("member {member} got a frame it cannot decode")));
        }
        if !actions.handed.is_empty() {
            self.see_handed(now, member, &mut actions.handed)?;
        }
        if !actions.applied.is_empty() {
            for input in actions.applied.drain(..) {
                self.see_applied(now, member, input, &mut actions.changes)?;
            }
            actions.changes.clear();
        }
        let mut is_spreading = false;
        if !actions.frames.is_empty() {
            for frame in actions.frames.drain(..) {
                if frame.bulk && !self.may_hand(member, frame.to, &frame.bytes) {
                    is_spreading = true;
                    continue;
                }
                self.send(now, member, frame.to, frame.bytes, frame.bulk);
            }
        }
        self.part(now, member, actions)?;
        let epoch = self.machines[member].epoch;
        if !actions.due.is_empty() {
            for due in actions.due.drain(..) {
                let at = now + 1 + self.machines[member].rng.below(2 * self.setup.latencies.turn);
                self.heap.push(at, link::member(member, 3), Event::Finish { member, epoch, due: Box::new(due) });
            }
        }
        if !actions.answers.is_empty() {
            for (call, answer) in actions.answers.drain(..) {
                self.answer(now, member, call, answer)?;
            }
        }
        if !actions.touched.is_empty() || !actions.gated.is_empty() {
            self.see_gate(now, member, actions)?;
        }
        if !actions.watch.is_empty() {
            self.tell_watchers(now, member, &mut actions.watch);
        }
        if !actions.history.is_empty() {
            for read in actions.history.drain(..) {
                let at = now + 1 + tail(&mut self.machines[member].rng, self.setup.latencies.apply);
                let input = Box::new(read.run());
                self.heap.push(at, link::member(member, 4), Event::History { member, epoch, input });
            }
        }
        Ok(is_spreading)
    }

    /// Consensus said of itself that it changed.
    fn see_changed(&mut self, now: Nanos, member: usize, changed: &mut Vec<raft::Status>) -> Verdict {
        for status in changed.drain(..) {
            self.trace.event(now, Kind::Member, member, status.term.0, &[status.role as u8], || format!("{status:?}"));
            let id = self.machines[member].id.expect("a process is somebody's");
            self.consensus.changed(member, id, &status)?;
            self.membership.campaigned(now, id, &status)?;
            if status.role == Role::Leader {
                self.harass(now, member, status.term);
                self.may_topple(now, member, status.term);
            }
            let machine = &mut self.machines[member];
            if status.standing == Standing::Trusted && !machine.trusted {
                machine.trusted = true;
                self.totals.readmissions += u64::from(machine.epoch > 1);
                machine.blank = false;
            }
        }
        Ok(())
    }

    /// Consensus handed something to the applied state.
    fn see_handed(&mut self, now: Nanos, member: usize, handed: &mut Vec<Handed>) -> Verdict {
        for handed in handed.drain(..) {
            match handed {
                Handed::Entries(term, entries) => {
                    self.consensus.committed(member, term, &entries)?;
                    self.membership.committed(&entries)?;
                    self.level.committed(&entries)?;
                    self.see_committed(now, &entries)?;
                }
                Handed::Snapshot(index) => self.consensus.installed(member, index)?,
            }
        }
        Ok(())
    }

    /// The gate looked at tokens of watchers, and answered some.
    fn see_gate(&mut self, now: Nanos, member: usize, actions: &mut Actions) -> Verdict {
        for token in actions.touched.drain(..) {
            let time = self.machines[member].clock.read(now);
            self.audit.touched(member, token, time);
        }
        for gated in actions.gated.drain(..) {
            self.see_gated(member, &gated)?;
        }
        Ok(())
    }

    /// Messages for watchers set out.
    fn tell_watchers(&mut self, now: Nanos, member: usize, messages: &mut Vec<(Subscription, Bytes, u64)>) {
        for (subscription, bytes, cost) in messages.drain(..) {
            // Without a state nobody is served. (The server: `grpc::Server::watch`)
            if self.is_wrong(member) || self.is_bare(member) {
                self.break_stream(now, subscription);
                continue;
            }
            let (line, at) = self.down(now, self.line_of_watcher(subscription.client));
            self.heap.push(at, link::client(line, 1), Event::WatchMessage { subscription, bytes, cost });
        }
    }

    /// A member answers a client; if its state is wrong, or lost, nobody hears it.
    pub(super) fn answer(&mut self, now: Nanos, member: usize, call: CallId, answer: Result<Bytes, Status>) -> Verdict {
        self.leases.replied(now, member, &Asker::of(call));
        if self.is_wrong(member) || self.is_bare(member) {
            self.check_silence(now, member, answer.is_ok())?;
            self.reply(now, call, Err(CallError::Broken));
            return Ok(());
        }
        self.see_answer(now, member, call, &answer)?;
        self.reply(now, call, answer.map_err(CallError::Status));
        Ok(())
    }

    fn see_applied(
        &mut self,
        now: Nanos,
        member: usize,
        input: replica::Input,
        changes: &mut Vec<RevisionEvents>,
    ) -> Verdict {
        match input {
            replica::Input::Applied { applied, .. } => {
                self.trace.event(now, Kind::Backend, member, applied.hash, &[], || format!("state {}", applied.index));
                let status = self.machines[member].process.as_ref().map(Process::status);
                let term = status.filter(|status| status.role == Role::Leader).map(|status| status.term);
                self.leases.applied(member, term, &applied);
                if self.is_harmed(member, &applied) {
                    return Ok(());
                }
                self.consensus.applied(member, &applied)?;
                if let Some(reference) = &mut self.reference {
                    reference.applied(member, &applied)?;
                }
                self.settled.shown(applied.index, applied.compacted);
                let through = changes.partition_point(|change| change.revision <= applied.revision);
                self.see_revisions(now, member, applied.revision, changes.drain(..through).collect())?;
                for change in &applied.leases {
                    self.leases.changed(change, now)?;
                }
            }
            replica::Input::Restored { index, hash, .. } => {
                self.trace.event(now, Kind::Backend, member, hash, &[], || format!("restored {index}"));
                self.totals.snapshot_installs += 1;
                self.judge_snapshot(member, index, hash)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the history what new revisions changed, as soon as the first member has applied them: it settles what
    /// operations of unknown outcome did. Whoever reads its history is told the same, as far as it is not compacted.
    fn see_revisions(
        &mut self,
        now: Nanos,
        member: usize,
        revision: Revision,
        mut changes: Vec<RevisionEvents>,
    ) -> Verdict {
        let Some(process) = &self.machines[member].process else { return Ok(()) };
        if revision <= self.seen {
            return Ok(());
        }
        let fail = |text: String| Err(Violation::new("history", format!("member {member} {text}")));
        changes.retain(|change| change.revision > self.seen);
        if changes.len() as i64 != revision.0 - self.seen.0 {
            return fail(format!("goes from {} to {revision} with {} changes", self.seen, changes.len()));
        }
        let applier::Published { view, rows, .. } = process.published();
        let from = self.seen.max(view.compacted()).next();
        if from <= revision {
            let (read, through) = match view.history(rows, from, revision, u64::MAX, false) {
                Ok(read) => read,
                Err(error) => return fail(format!("cannot read {from}: {error}")),
            };
            let told = &changes[changes.partition_point(|change| change.revision < from)..];
            if through != revision || !read.iter().map(essence).eq(told.iter().map(essence)) {
                return fail(format!("reads from {from} through {through} {read:?}, it was told {told:?}"));
            }
        }
        for RevisionEvents { revision, events } in changes {
            let changes = u32::try_from(events.len()).expect("small txns");
            self.history.saw(now, Sighting::Whole { revision, changes });
            if !self.contenders.is_empty() {
                self.locks.saw(revision, events.iter().map(|event| (&event.kv, event.deleted)))?;
            }
            for event in events {
                self.history.saw(
                    now,
                    match event.deleted {
                        true => Sighting::Delete { key: event.kv.key, revision },
                        false => Sighting::Put(event.kv),
                    },
                );
            }
        }
        self.seen = revision;
        Ok(())
    }
}

/// What a revision changed, without what compaction may have taken from what was before.
fn essence(change: &RevisionEvents) -> (Revision, Vec<(&KeyValue, bool, u32)>) {
    (change.revision, change.events.iter().map(|event| (&event.kv, event.deleted, event.sub)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::Keep;
    use crate::swarm::Setup;

    #[test]
    fn a_frame_that_cannot_be_decoded_is_noticed() {
        let mut world = World::new(Arc::new(Setup::draw(1)), Keep::default());
        assert_eq!(world.carry_out(0, 0), Ok(()));
        world.actions.get_or_insert_default().malformed = 1;
        assert_eq!(world.carry_out(0, 0).unwrap_err().oracle, "codec");
    }
}
