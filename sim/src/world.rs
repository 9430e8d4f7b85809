//! A whole cluster with its clients and its nemesis: one queue of events, carried out one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_core::entry::{Configuration, FEATURE_LEVEL};
use quorate_core::rng::Rng;
use quorate_core::{LogIndex, NodeId, Revision};
use quorate_jepsen::history::History;

use crate::backend::SimBackends;
use crate::check::audit::Audit;
use crate::check::consensus::Consensus;
use crate::check::leadership::Leadership;
use crate::check::lease::Leases;
use crate::check::level::Level;
use crate::check::lock::Locks;
use crate::check::membership::Membership;
use crate::check::reference::Reference;
use crate::check::space::Space;
use crate::check::{Verdict, Violation};
use crate::chronicle::Chronicle;
use crate::clock::{Clock, WallClock};
use crate::disk::SimDisk;
use crate::heap::{Heap, Nanos, SECOND};
use crate::member::{Actions, Process, founder_id};
use crate::network::Network;
use crate::report::{Keep, Totals};
use crate::schedule::{Plight, Strike};
use crate::script::Deed;
use crate::swarm::{Setup, Stream};
use crate::trace::Trace;
use crate::workload::badge::Badge;
use crate::workload::client::Client;
use crate::workload::compactor::Compactor;
use crate::workload::contender::Contender;
use crate::workload::controller::Controller;
use crate::workload::members::Admin;
use crate::workload::observer::Observer;
use crate::workload::operator::Operator;
use crate::workload::watcher::WatchClient;

mod actions;
mod bare;
mod churn;
mod clients;
mod contenders;
mod controllers;
mod event;
mod finale;
mod machine;
mod nemesis;
mod operators;
mod outside;
pub(crate) mod redraw;
mod script;
mod settle;
mod skew;
mod succession;
mod topple;
mod traffic;

use event::{Event, link};
use machine::Machine;
use skew::Wrong;

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
    admins: Vec<Admin>,
    contenders: Vec<Contender>,
    observers: Vec<Observer>,
    controllers: Vec<Controller>,
    compactors: Vec<Compactor>,
    /// Of clients, then watch clients, then the probe, operators, administrators, contenders and observers, controllers and
    /// compactors, and watches from outside.
    lines: Vec<Line>,
    /// Those who look after the cluster; their lines are behind the probe's.
    operators: Vec<Operator>,
    /// Of clients, where they have to say who they are.
    badges: Vec<Badge>,
    history: History,
    consensus: Consensus,
    leadership: Leadership,
    /// States after an entry that members had who were wrong.
    wrong_states: BTreeSet<(LogIndex, u64)>,
    leases: Leases,
    locks: Locks,
    reference: Option<Reference>,
    audit: Audit,
    space: Space,
    membership: Membership,
    level: Level,
    /// Links are bad until then.
    rough_until: Nanos,
    /// When anything last changed for the worse.
    troubled: Nanos,
    finale: finale::Finale,
    /// What happened, in numbers.
    pub totals: Totals,
    /// What a process asked for; not here while it is carried out.
    actions: Option<Box<Actions>>,
    /// What clients do, if it is written down.
    pub deeds: Option<Vec<Deed>>,
    /// With it, what was done to leaders that were harassed.
    pub strikes: Vec<Strike>,
    /// What happens, if it is to be told.
    pub chronicle: Option<Chronicle>,
    harassment: nemesis::Harassment,
    topple: topple::Topple,
    /// The highest revision that any client saw, and the highest compaction anyone was told to have worked.
    newest: Revision,
    floor: Revision,
    /// Revisions up to this one were applied somewhere.
    seen: Revision,
    settled: settle::Settled,
    calm: bool,
    /// Since when whoever leads has no state, although nothing keeps another one from leading.
    bare_led: Option<Nanos>,
    /// Who is to be left out when the others are healed, and what is wrong with it.
    outcasts: Vec<(usize, Plight)>,
    /// What comes is no longer what the seed says.
    is_redrawn: bool,
    /// Those who ask and watch without being of this world.
    outside: Option<outside::Outside>,
    /// Which simulated second it is, and how many events it had.
    busy: (Nanos, u64),
}

/// Events of one simulated second at most.
const BUSY_MAX: u64 = 500_000;

impl World {
    /// The world as it is before anything happened, and what is to be kept of it.
    #[must_use]
    pub fn new(setup: Arc<Setup>, keep: Keep) -> Self {
        let seed = setup.seed;
        let machine = |member: usize| {
            let (offset, ppm) = setup.clocks[member];
            Machine {
                id: (member < setup.members).then(|| founder_id(member)),
                joins: false,
                removed: false,
                level: FEATURE_LEVEL,
                level_said: FEATURE_LEVEL,
                wrong: Wrong::default(),
                resumed: 0,
                config: (LogIndex(0), Configuration::default()),
                log_start: LogIndex(0),
                disk: SimDisk::new(),
                backends: SimBackends::new(setup.stream(Stream::Backend, member), setup.knobs.flush_batches),
                clock: Clock::new(0, offset, ppm),
                wall: WallClock::new(setup.wall_clocks[member]),
                process: None,
                epoch: 0,
                heard_since: 0,
                paused: false,
                stash: Vec::new(),
                trusted: false,
                blank: false,
                rotten: false,
                doubtful: false,
                next_turn: None,
                next_apply: None,
                next_sync: None,
                slowness: 1,
                stalled: 0,
                full_until: 0,
                apply_slowness: 1,
                dies: None,
                rng: setup.stream(Stream::Member, member),
            }
        };
        let regime = setup.regime;
        let operators = operators::draw(&setup);
        let (contenders, observers) = (contenders::draw(&setup), contenders::draw_observers(&setup));
        let (controllers, compactors) = (controllers::draw(&setup), controllers::draw_compactors(&setup));
        let parties = contenders.len() + observers.len();
        let others = operators.len() + setup.admins() + parties + controllers.len() + compactors.len();
        let lines = setup.clients + setup.watchers + 1 + others;
        let line = |n| Line { rng: setup.stream(Stream::Client, n), up: 0, down: 0 };
        let mut network = Network::new(setup.machines(), setup.network, &setup.stream(Stream::Network, 0));
        for (aim, quality) in &setup.handicaps {
            network.burden(*aim, *quality);
        }
        let mut world = Self {
            heap: Heap::new(seed),
            trace: Trace::new(keep.log),
            network,
            machines: (0..setup.machines()).map(machine).collect(),
            clients: clients::draw(&setup),
            watchers: clients::draw_watchers(&setup),
            admins: churn::draw(&setup),
            contenders,
            observers,
            controllers,
            compactors,
            lines: (0..lines).map(line).collect(),
            history: History::new(),
            consensus: Consensus::default(),
            leadership: Leadership::new(setup.knobs.election, setup.knobs.heartbeat),
            wrong_states: BTreeSet::new(),
            leases: Leases::new(setup.knobs.election),
            locks: Locks::default(),
            reference: regime.compared.then(|| Reference::new(regime.auto_compaction, regime.auth)),
            audit: Audit::new(regime.compared, regime.quota_bytes, regime.session_ttl),
            space: Space::new(regime.quota_bytes),
            operators,
            badges: operators::draw_badges(&setup),
            membership: Membership::new(setup.churn),
            level: Level::new((0..setup.members).map(founder_id)),
            rough_until: if setup.handicaps.is_empty() { 0 } else { setup.duration },
            troubled: 0,
            finale: finale::Finale::default(),
            totals: Totals::default(),
            actions: None,
            deeds: keep.deeds.then(Vec::new),
            chronicle: keep.chronicle(),
            strikes: Vec::new(),
            harassment: nemesis::Harassment::new(setup.stream(Stream::Schedule, 99)),
            topple: topple::Topple::new(setup.stream(Stream::Schedule, 98)),
            newest: Revision(1),
            floor: Revision(-1),
            seen: Revision(1),
            settled: settle::Settled::default(),
            calm: false,
            bare_led: None,
            outcasts: Vec::new(),
            is_redrawn: false,
            outside: None,
            busy: (0, 0),
            setup,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for member in self.members() {
            let at = self.machines[member].rng.below(self.setup.knobs.start_spread);
            self.heap.push(at, link::NEMESIS, Event::Start { member, epoch: 0 });
        }
        for strike in 0..self.setup.schedule.len() {
            self.heap.push(self.setup.schedule[strike].at, link::NEMESIS, Event::Strike(strike));
        }
        self.begin_clients();
        self.begin_admins();
        self.begin_contest();
        self.begin_control();
        self.heap.push(self.setup.duration, link::NEMESIS, Event::Finale);
    }

    /// Carries out events until the run is over, moving madsim's clock along.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(&mut self) -> Verdict {
        let (time, mut reached) = (madsim::time::TimeHandle::current(), 0);
        while let Some((now, event)) = self.heap.pop() {
            if now > reached {
                time.advance(std::time::Duration::from_nanos(now - reached));
                reached = now;
            }
            self.turn_off(now);
            self.carry_on(now, event)?;
            if self.finale.is_over() {
                break;
            }
        }
        self.sum_up();
        self.judge()
    }

    /// One event, if there were not too many of them already.
    fn carry_on(&mut self, now: Nanos, event: Event) -> Verdict {
        let (second, busy) = &mut self.busy;
        *busy += 1;
        if now / SECOND > *second {
            (*second, *busy) = (now / SECOND, 0);
        }
        if *busy > BUSY_MAX {
            let text = format!("{BUSY_MAX} events within a second: somebody runs in circles");
            return Err(Violation::new("livelock", text));
        }
        self.happen(now, event)
    }

    /// The figures that are counted elsewhere.
    fn sum_up(&mut self) {
        self.totals.simulated_nanos = self.heap.now();
        self.totals.leader_changes = self.consensus.terms_led().saturating_sub(1) as u64;
        self.totals.leases_expired = self.leases.expired;
        self.totals.audit = self.audit.figures;
        if let Some(reference) = &self.reference {
            (self.totals.commands_compared, self.totals.alarms_raised) = (reference.compared, reference.raised);
        }
        self.totals.levels_raised = self.level.raised();
        self.totals.joint_changes = self.membership.joint_changes;
    }

    /// Simulated time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.heap.now()
    }

    fn happen(&mut self, now: Nanos, event: Event) -> Verdict {
        self.settle_past(now)?;
        if let Some(member) = self.paused(&event) {
            self.machines[member].stash.push(event);
            return Ok(());
        }
        if let Some((line, until)) = self.asleep(now, &event) {
            self.put_off(line, until, event);
            return Ok(());
        }
        match event {
            Event::Frame { from, to, epoch, sender, receiver, bytes } => {
                self.deliver(now, (from, to), epoch, (sender, receiver), bytes);
            }
            Event::Turn { member, epoch, at } => self.turn(now, member, epoch, at)?,
            Event::Synced { member, epoch, at } => self.synced(now, member, epoch, at),
            Event::Apply { member, epoch, at } => self.apply(now, member, epoch, at)?,
            Event::Finish { member, epoch, due } => self.finish(now, member, epoch, *due)?,
            Event::History { member, epoch, input } => {
                if let Some(process) = self.alive(member, epoch) {
                    process.history_read(*input);
                    self.rouse(now, member);
                }
            }
            Event::Request { member, call, rpc, token, bytes } => {
                self.request(now, member, call, rpc, token, bytes)?;
            }
            Event::Answer { call, answer } => self.answered(now, call, answer)?,
            Event::Patience { call } => self.out_of_patience(now, call)?,
            Event::Think { client } if client >= self.operator(0) => self.operate(now, client),
            Event::Think { client } => self.act(now, client),
            Event::Subscribe { member, subscription, token, requests } => {
                self.subscribe(now, member, subscription, token, requests)?;
            }
            Event::WatchRequest { member, subscription, request } => {
                self.watch_requests(now, member, subscription, vec![*request])?;
            }
            Event::Taken { member, subscription, bytes } => {
                self.on_stream(now, member, |process| process.taken(subscription, bytes));
            }
            Event::Unsubscribe { member, subscription } => {
                self.on_stream(now, member, |process| process.unsubscribe(subscription));
            }
            Event::WatchMessage { subscription, bytes, cost } => {
                self.watch_message(now, subscription, bytes, cost)?;
            }
            Event::WatchBroken { subscription } => self.watch_broken(now, subscription),
            Event::WatchRead { subscription } => self.watch_read(now, subscription)?,
            Event::Whim { client } => self.whim(now, client),
            Event::Deed(deed) => self.perform(now, deed),
            Event::Strike(strike) => self.strike(now, strike),
            Event::Relief(relief) => self.relieve(now, relief),
            Event::Hit { leader, epoch } => self.hit(now, leader, epoch),
            Event::Topple { leader, epoch } => self.topple(now, leader, epoch),
            Event::Blow(fault) => self.bring_about(now, fault),
            Event::Start { member, epoch } => self.start(now, member, epoch)?,
            Event::Retire { member, id } => self.retire(now, member, id),
            Event::Inquire { member, epoch } => self.inquire(now, member, epoch)?,
            Event::Dial => self.dial(now)?,
            Event::Noticed { member, epoch, since } => self.noticed(now, member, epoch, since)?,
            Event::Administer { admin } => self.administer(now, admin),
            Event::Contend { line, plan } => self.contend(now, line, plan),
            Event::Control { line, plan } => self.control(now, line, plan),
            Event::Listen { listener } => self.connect_listener(now, listener),
            Event::Renew { line, lease } => self.renew(now, line, lease),
            Event::Finale => self.advance_finale(now)?,
        }
        Ok(())
    }

    /// The member to which this happens, if its process is paused.
    fn paused(&self, event: &Event) -> Option<usize> {
        let member = match event {
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
            _ => return None,
        };
        let machine = &self.machines[member];
        (machine.paused && machine.process.is_some()).then_some(member)
    }

    /// The machines on which a member runs, or is to run.
    fn members(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].id.is_some()).collect()
    }

    /// The machine on which this member runs, or is to run.
    fn machine_of(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == Some(id))
    }

    /// The process of that life, if it still runs.
    fn alive(&mut self, member: usize, epoch: u64) -> Option<&mut Process> {
        let machine = &mut self.machines[member];
        if machine.epoch == epoch { machine.process.as_mut() } else { None }
    }
}
