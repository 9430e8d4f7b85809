//! A whole cluster with its clients and its nemesis: one queue of events, carried out one by one.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::entry::Standing;
use quorate_core::format::codec;
use quorate_core::raft::Role;
use quorate_core::replica::{self, PeerMessage};
use quorate_core::rng::Rng;
use quorate_core::store::RevisionEvents;
use quorate_core::{LogIndex, Revision};
use quorate_jepsen::history::{History, Sighting};
use quorate_node::applier;
use quorate_node::boot::Found;

use crate::backend::SimBackends;
use crate::call::{Answer, CallError, Rpc};
use crate::check::consensus::Consensus;
use crate::check::lease::Leases;
use crate::check::{Verdict, Violation};
use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::heap::{Heap, MICRO, MILLI, Nanos, SECOND, tail};
use crate::member::{Actions, CallId, Due, Handed, Process, Start, Subscription, id, number};
use crate::network::{Lane, Network};
use crate::report::Totals;
use crate::swarm::{Setup, Stream, stream};
use crate::trace::{Kind, Trace};
use crate::workload::client::Client;
use crate::workload::watcher::WatchClient;

mod clients;
mod finale;
mod nemesis;

/// Something that happens at its time.
enum Event {
    Frame { from: usize, to: usize, bytes: Bytes },
    Turn { member: usize, epoch: u64, at: Nanos },
    Synced { member: usize, epoch: u64 },
    Apply { member: usize, epoch: u64, at: Nanos },
    Finish { member: usize, epoch: u64, due: Box<Due> },
    History { member: usize, epoch: u64, input: Box<applier::Input> },
    Request { member: usize, call: CallId, rpc: Rpc, bytes: Bytes },
    Answer { call: CallId, answer: Answer },
    Patience { call: CallId },
    Think { client: usize },
    Subscribe { member: usize, subscription: Subscription, requests: Vec<pb::WatchRequest> },
    WatchRequest { member: usize, subscription: Subscription, request: pb::WatchRequest },
    Taken { member: usize, subscription: Subscription, bytes: u64 },
    Unsubscribe { member: usize, subscription: Subscription },
    WatchMessage { subscription: Subscription, bytes: Bytes, cost: u64 },
    WatchBroken { subscription: Subscription },
    WatchRead { subscription: Subscription },
    Whim { client: usize },
    Strike(usize),
    Relief(nemesis::Relief),
    Hit { leader: usize, epoch: u64 },
    Start { member: usize, epoch: u64 },
    Finale,
}

/// A member's machine: what survives its process.
struct Machine {
    disk: SimDisk,
    backends: SimBackends,
    clock: Clock,
    process: Option<Process>,
    /// Grows with every start and every crash: what was scheduled for an earlier life is void.
    epoch: u64,
    /// The process does nothing until it is resumed; what happens to it waits.
    paused: bool,
    stash: Vec<Event>,
    /// It has votes and log that count, as far as the nemesis knows.
    trusted: bool,
    /// Its log has been damaged since it ran last.
    rotten: bool,
    next_turn: Option<Nanos>,
    next_apply: Option<Nanos>,
    /// Syncs take so many times as long.
    slowness: u64,
    rng: Rng,
}

/// A client's connection: messages keep their order in each direction.
#[derive(Clone, Debug)]
struct Line {
    rng: Rng,
    up: Nanos,
    down: Nanos,
}

/// The world of one seed.
pub struct World {
    setup: Arc<Setup>,
    heap: Heap<Event>,
    /// A fingerprint of all that happened.
    pub trace: Trace,
    network: Network,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    watchers: Vec<WatchClient>,
    /// Of clients, then watch clients, then the probe.
    lines: Vec<Line>,
    history: History,
    consensus: Consensus,
    leases: Leases,
    finale: finale::Finale,
    /// What happened, in numbers.
    pub totals: Totals,
    actions: Actions,
    violation: Option<Violation>,
    harassment: nemesis::Harassment,
    /// The highest revision that any client saw, and the highest compaction anyone was told to have worked.
    newest: Revision,
    floor: Revision,
    /// Revisions up to this one were applied somewhere.
    seen: Revision,
    calm: bool,
}

/// Events of one simulated second at most.
const BUSY_MAX: u64 = 500_000;

/// However slow a disk is made, a sync ends after so long.
const SYNC_MAX: Nanos = 3 * SECOND;

/// Watch clients of every run.
const WATCH_CLIENTS: usize = 3;

/// What numbers a queue of the heap.
mod link {
    pub(super) const NEMESIS: usize = 1_000;
    pub(super) fn frame(from: usize, to: usize, lane: usize) -> usize {
        (lane * 8 + from) * 8 + to
    }
    pub(super) fn member(member: usize, queue: usize) -> usize {
        200 + member * 8 + queue
    }
    pub(super) fn client(line: usize, direction: usize) -> usize {
        2_000 + line * 4 + direction
    }
}

impl World {
    /// The world as it is before anything happened.
    #[must_use]
    pub fn new(setup: Arc<Setup>, log: bool) -> Self {
        let seed = setup.seed;
        let machine = |member: usize| {
            let (offset, ppm) = setup.clocks[member];
            Machine {
                disk: SimDisk::new(),
                backends: SimBackends::new(stream(seed, Stream::Backend, member), setup.knobs.flush_batches),
                clock: Clock::new(0, offset, ppm),
                process: None,
                epoch: 0,
                paused: false,
                stash: Vec::new(),
                trusted: false,
                rotten: false,
                next_turn: None,
                next_apply: None,
                slowness: 1,
                rng: stream(seed, Stream::Member, member),
            }
        };
        let lines = setup.clients + WATCH_CLIENTS + 1;
        let line = |n| Line { rng: stream(seed, Stream::Client, n), up: 0, down: 0 };
        let network = Network::new(setup.members, setup.network, &stream(seed, Stream::Network, 0));
        let mut world = Self {
            heap: Heap::new(seed),
            trace: Trace::new(log),
            network,
            machines: (0..setup.members).map(machine).collect(),
            clients: clients::draw(&setup),
            watchers: clients::draw_watchers(&setup),
            lines: (0..lines).map(line).collect(),
            history: History::new(),
            consensus: Consensus::default(),
            leases: Leases::default(),
            finale: finale::Finale::default(),
            totals: Totals::default(),
            actions: Actions::default(),
            violation: None,
            harassment: nemesis::Harassment::new(stream(seed, Stream::Schedule, 99)),
            newest: Revision(1),
            floor: Revision(-1),
            seen: Revision(1),
            calm: false,
            setup,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for member in 0..self.machines.len() {
            let at = self.machines[member].rng.below(50 * MILLI);
            self.heap.push(at, link::NEMESIS, Event::Start { member, epoch: 0 });
        }
        for strike in 0..self.setup.schedule.len() {
            self.heap.push(self.setup.schedule[strike].at, link::NEMESIS, Event::Strike(strike));
        }
        self.begin_clients();
        self.heap.push(self.setup.duration, link::NEMESIS, Event::Finale);
    }

    /// Carries out events until the run is over, moving madsim's clock along.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(&mut self) -> Verdict {
        let mut reached = 0;
        let (mut second, mut busy) = (0, 0);
        while let Some((now, event)) = self.heap.pop() {
            busy += 1;
            if now / SECOND > second {
                (second, busy) = (now / SECOND, 0);
            }
            if busy > BUSY_MAX {
                let text = format!("{BUSY_MAX} events within a second: somebody runs in circles");
                return Err(Violation::new("livelock", text));
            }
            if now > reached {
                madsim::time::advance(std::time::Duration::from_nanos(now - reached));
                reached = now;
            }
            self.happen(now, event)?;
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.finale.is_over() {
                break;
            }
        }
        self.totals.simulated_nanos = self.heap.now();
        self.totals.leader_changes = self.consensus.terms_led().saturating_sub(1) as u64;
        self.totals.leases_expired = self.leases.expired;
        self.judge()
    }

    /// Simulated time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.heap.now()
    }

    fn happen(&mut self, now: Nanos, event: Event) -> Verdict {
        let Some(event) = self.stash(event) else { return Ok(()) };
        match event {
            Event::Frame { from, to, bytes } => self.deliver(now, from, to, bytes),
            Event::Turn { member, epoch, at } => self.turn(now, member, epoch, at)?,
            Event::Synced { member, epoch } => self.synced(now, member, epoch),
            Event::Apply { member, epoch, at } => self.apply(now, member, epoch, at)?,
            Event::Finish { member, epoch, due } => self.finish(now, member, epoch, *due),
            Event::History { member, epoch, input } => {
                if let Some(process) = self.alive(member, epoch) {
                    process.history_read(*input);
                    self.rouse(now, member);
                }
            }
            Event::Request { member, call, rpc, bytes } => self.request(now, member, call, rpc, bytes)?,
            Event::Answer { call, answer } => self.answered(now, call, answer)?,
            Event::Patience { call } => self.out_of_patience(now, call),
            Event::Think { client } => self.act(now, client),
            Event::Subscribe { member, subscription, requests } => self.subscribe(now, member, subscription, requests),
            Event::WatchRequest { member, subscription, request } => {
                self.on_stream(now, member, |process| process.watch(subscription, request));
            }
            Event::Taken { member, subscription, bytes } => {
                self.on_stream(now, member, |process| process.taken(subscription, bytes));
            }
            Event::Unsubscribe { member, subscription } => {
                self.on_stream(now, member, |process| process.unsubscribe(subscription));
            }
            Event::WatchMessage { subscription, bytes, cost } => self.watch_message(now, subscription, bytes, cost),
            Event::WatchBroken { subscription } => self.watch_broken(now, subscription),
            Event::WatchRead { subscription } => self.watch_read(now, subscription)?,
            Event::Whim { client } => self.whim(now, client),
            Event::Strike(strike) => self.strike(now, strike),
            Event::Relief(relief) => self.relieve(now, relief),
            Event::Hit { leader, epoch } => self.hit(now, leader, epoch),
            Event::Start { member, epoch } => self.start(now, member, epoch)?,
            Event::Finale => self.advance_finale(now)?,
        }
        Ok(())
    }

    /// Keeps back what happens to a paused process.
    fn stash(&mut self, event: Event) -> Option<Event> {
        let member = match &event {
            Event::Frame { to, .. } => *to,
            Event::Turn { member, .. }
            | Event::Synced { member, .. }
            | Event::Apply { member, .. }
            | Event::Finish { member, .. }
            | Event::History { member, .. }
            | Event::Request { member, .. }
            | Event::Subscribe { member, .. }
            | Event::WatchRequest { member, .. }
            | Event::Taken { member, .. }
            | Event::Unsubscribe { member, .. } => *member,
            _ => return Some(event),
        };
        let machine = &mut self.machines[member];
        if machine.paused && machine.process.is_some() {
            machine.stash.push(event);
            return None;
        }
        Some(event)
    }

    /// The process of that life, if it still runs.
    fn alive(&mut self, member: usize, epoch: u64) -> Option<&mut Process> {
        let machine = &mut self.machines[member];
        if machine.epoch == epoch { machine.process.as_mut() } else { None }
    }

    fn deliver(&mut self, now: Nanos, from: usize, to: usize, bytes: Bytes) {
        let logs = self.trace.logs();
        let text = if logs { describe(&bytes) } else { String::new() };
        self.trace.event(now, Kind::Input, to, from as u64, &bytes, || format!("<- {from} {text}"));
        if let Some(process) = &mut self.machines[to].process {
            process.receive(id(from), bytes);
            self.rouse(now, to);
        }
    }

    /// Schedules whatever the member's threads have to do next.
    fn rouse(&mut self, now: Nanos, member: usize) {
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
            let records = process.write();
            let digest = machine.disk.digest();
            let took = machine.slowness * (MICRO + latencies.sync / 2 + tail(&mut machine.rng, latencies.sync));
            let took = took.min(SYNC_MAX);
            self.trace.event(now, Kind::Disk, member, digest, &[], || format!("write {records} records, sync {took}"));
            self.heap.push(now + took, link::member(member, 1), Event::Synced { member, epoch });
        }
        let apply = if process.can_apply() {
            Some(now + 1 + tail(&mut machine.rng, latencies.apply))
        } else {
            machine.clock.when(process.applier_deadline()).map(|at| at.max(now + MICRO))
        };
        if let Some(at) = apply.filter(|&at| machine.next_apply.is_none_or(|next| at < next)) {
            machine.next_apply = Some(at);
            self.heap.push(at, link::member(member, 2), Event::Apply { member, epoch, at });
        }
    }

    fn turn(&mut self, now: Nanos, member: usize, epoch: u64, at: Nanos) -> Verdict {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.next_turn != Some(at) {
            return Ok(());
        }
        machine.next_turn = None;
        let Some(process) = &mut machine.process else { return Ok(()) };
        let local = machine.clock.read(now);
        process.turn(local, &mut self.actions);
        self.trace.event(now, Kind::Output, member, local.0, &[], || format!("turn at {}", local.0));
        self.carry_out(now, member)?;
        self.rouse(now, member);
        Ok(())
    }

    fn synced(&mut self, now: Nanos, member: usize, epoch: u64) {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch {
            return;
        }
        let Some(process) = &mut machine.process else { return };
        process.synced(machine.rng.chance(1, 50));
        let digest = machine.disk.digest();
        self.trace.event(now, Kind::Disk, member, digest, &[], || "synced".into());
        self.rouse(now, member);
    }

    fn apply(&mut self, now: Nanos, member: usize, epoch: u64, at: Nanos) -> Verdict {
        let inputs_max = self.setup.knobs.apply_inputs_max;
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.next_apply != Some(at) {
            return Ok(());
        }
        machine.next_apply = None;
        let Some(process) = &mut machine.process else { return Ok(()) };
        if let Err(error) = process.apply(machine.clock.read(now), inputs_max, &mut self.actions) {
            return Err(Violation::new("backend", format!("member {member} cannot keep its state: {error}")));
        }
        let (digest, applied) = (machine.backends.digest(), process.published().applied);
        self.trace.event(now, Kind::Backend, member, digest, &[], || format!("applied {applied}"));
        self.carry_out(now, member)?;
        self.rouse(now, member);
        Ok(())
    }

    /// Carries out what a process asked for, and lets the oracles see it.
    fn carry_out(&mut self, now: Nanos, member: usize) -> Verdict {
        let mut actions = std::mem::take(&mut self.actions);
        for status in actions.changed.drain(..) {
            self.trace.event(now, Kind::Member, member, status.term.0, &[status.role as u8], || format!("{status:?}"));
            self.consensus.changed(member, &status)?;
            if status.role == Role::Leader {
                self.harass(now, member, status.term);
            }
            let machine = &mut self.machines[member];
            if status.standing == Standing::Trusted && !machine.trusted {
                machine.trusted = true;
                self.totals.readmissions += u64::from(machine.epoch > 1);
            }
        }
        if let Some((index, ours, theirs)) = actions.diverged.take() {
            let text = format!("member {member} has {ours:016x} after {index}, the majority {theirs:016x}");
            return Err(Violation::new("state", text));
        }
        if std::mem::take(&mut actions.malformed) > 0 {
            return Err(Violation::new("codec", format!("member {member} got a frame it cannot decode")));
        }
        for handed in actions.handed.drain(..) {
            match handed {
                Handed::Entries(entries) => self.consensus.committed(member, &entries)?,
                Handed::Snapshot(index) => self.consensus.installed(member, index)?,
            }
        }
        for input in actions.applied.drain(..) {
            self.see_applied(now, member, input)?;
        }
        for frame in actions.frames.drain(..) {
            self.send(now, member, number(frame.to), frame.bytes, frame.bulk);
        }
        let epoch = self.machines[member].epoch;
        for due in actions.due.drain(..) {
            let at = now + 1 + self.machines[member].rng.below(2 * self.setup.latencies.turn);
            self.heap.push(at, link::member(member, 3), Event::Finish { member, epoch, due: Box::new(due) });
        }
        for (call, answer) in actions.answers.drain(..) {
            self.reply(now, call, answer.map_err(CallError::Status));
        }
        for (subscription, bytes, cost) in actions.watch.drain(..) {
            let (line, at) = self.down(now, self.line_of_watcher(subscription.client));
            self.heap.push(at, link::client(line, 1), Event::WatchMessage { subscription, bytes, cost });
        }
        for read in actions.history.drain(..) {
            let at = now + 1 + tail(&mut self.machines[member].rng, self.setup.latencies.apply);
            let input = Box::new(read.run());
            self.heap.push(at, link::member(member, 4), Event::History { member, epoch, input });
        }
        self.actions = actions;
        Ok(())
    }

    fn see_applied(&mut self, now: Nanos, member: usize, input: replica::Input) -> Verdict {
        match input {
            replica::Input::Applied { applied, .. } => {
                self.trace.event(now, Kind::Backend, member, applied.hash, &[], || format!("state {}", applied.index));
                self.consensus.applied(member, &applied)?;
                self.see_revisions(now, member, applied.revision)?;
                for change in &applied.leases {
                    self.leases.changed(change, now)?;
                }
            }
            replica::Input::Restored { index, hash, .. } => {
                self.trace.event(now, Kind::Backend, member, hash, &[], || format!("restored {index}"));
                self.totals.snapshot_installs += 1;
                self.consensus.restored(member, index, hash)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the history what new revisions changed, as soon as the first member has applied them: it settles what
    /// operations of unknown outcome did.
    fn see_revisions(&mut self, now: Nanos, member: usize, revision: Revision) -> Verdict {
        let Some(process) = &self.machines[member].process else { return Ok(()) };
        let applier::Published { view, rows, .. } = process.published();
        let from = self.seen.next().max(view.compacted());
        if revision <= self.seen {
            return Ok(());
        }
        let (revisions, through) = view
            .history(rows, from, revision, u64::MAX)
            .map_err(|error| Violation::new("history", format!("member {member} cannot read {from}: {error}")))?;
        if through != revision {
            let text =
                format!("member {member} reads history through {through}, it was asked for all through {revision}");
            return Err(Violation::new("history", text));
        }
        for RevisionEvents { revision, events } in revisions {
            // The first one may have lost changes to a compaction in the same batch.
            if revision > view.compacted() {
                let changes = u32::try_from(events.len()).expect("small txns");
                self.history.saw(now, Sighting::Whole { revision, changes });
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

    fn send(&mut self, now: Nanos, from: usize, to: usize, bytes: Bytes, bulk: bool) {
        let lane = if bulk { Lane::Snapshot } else { Lane::Frames };
        let sent = self.network.send(now, from, to, lane, bytes.len());
        let logs = self.trace.logs();
        let text = if logs { describe(&bytes) } else { String::new() };
        self.trace.event(now, Kind::Network, from, sent.first.unwrap_or(0), &bytes, || {
            format!("-> {to} {} {text}", if sent.first.is_some() { "sent" } else { "lost" })
        });
        self.totals.frames += 1;
        if let Some(again) = sent.second {
            self.heap.push(
                again,
                link::frame(from, to, 2 + lane as usize),
                Event::Frame { from, to, bytes: bytes.clone() },
            );
        }
        if let Some(at) = sent.first {
            self.heap.push(at, link::frame(from, to, lane as usize), Event::Frame { from, to, bytes });
        }
    }

    fn finish(&mut self, now: Nanos, member: usize, epoch: u64, due: Due) {
        let Some(process) = self.alive(member, epoch) else {
            self.reply(now, due.call(), Err(CallError::Broken));
            return;
        };
        let (call, answer) = process.finish(due);
        self.reply(now, call, answer.map_err(CallError::Status));
    }

    fn request(&mut self, now: Nanos, member: usize, call: CallId, rpc: Rpc, bytes: Bytes) -> Verdict {
        self.trace.event(now, Kind::Client, member, call.call, &bytes, || format!("{call:?} {rpc:?}"));
        match &mut self.machines[member].process {
            None => self.reply(now, call, Err(CallError::Refused)),
            Some(process) => {
                process.call(call, rpc, bytes, &mut self.actions);
                self.carry_out(now, member)?;
                self.rouse(now, member);
            }
        }
        Ok(())
    }

    /// Starts a process on what the machine's disks hold.
    fn start(&mut self, now: Nanos, member: usize, epoch: u64) -> Verdict {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch || machine.process.is_some() {
            return Ok(());
        }
        machine.epoch += 1;
        machine.paused = false;
        (machine.next_turn, machine.next_apply) = (None, None);
        let mut rng = stream(self.setup.seed, Stream::Process, member).split(machine.epoch);
        let local = machine.clock.read(now);
        let start = Start { member, members: self.setup.members, knobs: &self.setup.knobs, now: local };
        let process = Process::start(&start, &machine.disk, &machine.backends, &mut rng)
            .map_err(|error| Violation::new("recovery", format!("member {member} does not start: {error:?}")))?;
        let rotten = std::mem::take(&mut machine.rotten);
        match &process.found {
            Found::Damaged { damage, .. } if !rotten => {
                let text = format!("member {member} takes its log for damaged: {damage}");
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
        self.trace.event(now, Kind::Member, member, hash, &[], || {
            format!("starts at {local:?} with {applied} applied, {status:?}")
        });
        machine.process = Some(process);
        if applied > LogIndex(0) {
            self.consensus.started(member, applied, hash)?;
        } else {
            self.consensus.started_empty(member);
        }
        self.totals.starts += 1;
        self.rouse(now, member);
        Ok(())
    }

    fn leader(&self) -> Option<usize> {
        let leads = |machine: &&Machine| machine.process.as_ref().is_some_and(|p| p.status().role == Role::Leader);
        let newest = self
            .machines
            .iter()
            .filter(leads)
            .max_by_key(|machine| machine.process.as_ref().map(|process| process.status().term))?;
        self.machines.iter().position(|machine| std::ptr::eq(machine, newest))
    }
}

/// A frame in words, for logs.
fn describe(bytes: &Bytes) -> String {
    match codec::decode::<PeerMessage>(bytes.clone()) {
        Ok(PeerMessage::Raft(message)) => message.to_string(),
        Ok(PeerMessage::Snapshot(chunk)) => {
            format!(
                "Snapshot {:?} chunk {} of {} rows, last {}",
                chunk.snapshot,
                chunk.sequence,
                chunk.rows.len(),
                chunk.last
            )
        }
        Ok(other) => {
            let mut text = format!("{other:?}");
            text.truncate(300);
            text
        }
        Err(error) => error.to_string(),
    }
}
