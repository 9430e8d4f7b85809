//! What a seed means: it draws the cluster, its settings, which classes of faults exist, and the schedule of faults.
//!
//! Whole classes are on or off (swarm testing, Groce et al. 2012): a run where everything happens at once hides what
//! only a few things together can cause.

use std::sync::Arc;

use quorate_core::rng::Rng;
use quorate_node::applier::Slices;

use crate::clock::DRIFT_PPM_MAX;
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::network::{Aim, Quality};
use crate::schedule::{Fault, File, Set, Strike};
use crate::script::{Deed, What};

mod draw;
mod faults;
pub mod regime;

pub(crate) use draw::pick;
use draw::ppm;
use faults::draw_schedule;
use regime::Regime;

/// Random streams, one per purpose: drawing more for one leaves the others as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum Stream {
    Setup = 1,
    Schedule,
    Network,
    Clock,
    Disk,
    Backend,
    Process,
    Member,
    Client,
    Workload,
    Watch,
    Check,
    Churn = 20,
    Regime = 40,
    Operator,
    Contender = 60,
    Controller = 80,
    Upgrade = 100,
}

/// The stream of `seed` for a purpose and the number of a member, link or client.
#[must_use]
pub fn stream(seed: u64, purpose: Stream, number: usize) -> Rng {
    Rng::new(seed).split(purpose as u64).split(number as u64 + 1)
}

/// Links are numbered with three bits for either end.
pub const MACHINES_MAX: usize = 8;

/// Clients of keys may go on when faults are over; they end before this.
const AFTERMATH: Nanos = 300 * SECOND;

/// A day.
const DURATION_MAX: Nanos = 86_400 * SECOND;

/// Which classes of faults a run has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Classes {
    pub kill: bool,
    pub power: bool,
    pub wipe: bool,
    pub pause: bool,
    pub partition: bool,
    pub storm: bool,
    pub slow_disk: bool,
    pub clock: bool,
    pub transfer: bool,
    pub harass: bool,
    pub topple: bool,
    pub rot: bool,
    pub disk_error: bool,
    pub full: bool,
    pub trip: bool,
    pub slow_apply: bool,
    pub throttle: bool,
    pub swizzle: bool,
    pub flap: bool,
    pub rolling: bool,
    pub upgrade: bool,
    pub skew: bool,
    pub decay: bool,
    pub lose_state: bool,
    pub outcast: bool,
}

/// Settings of the members that change how often rare paths are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Leader heartbeat.
    pub heartbeat: Nanos,
    /// Election timeout.
    pub election: Nanos,
    /// Entry bytes of one append message.
    pub append_bytes_max: u64,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: u64,
    /// Entry bytes in flight to one follower.
    pub inflight_bytes_max: u64,
    /// Log entries kept for lagging followers.
    pub catchup_entries: u64,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// How often what is left of long leases is written down.
    pub lease_checkpoint: Nanos,
    /// Bytes of untaken responses before a watch stream is slow.
    pub stream_bytes_max: u64,
    /// Bytes of recent events in memory.
    pub ring_bytes_max: u64,
    /// Bytes of one history read.
    pub history_bytes_max: u64,
    /// Inputs one turn of the applier takes at most.
    pub apply_inputs_max: usize,
    /// The backend flushes after so many batches, on average.
    pub flush_batches: u64,
    /// A read round without answer is asked afresh after this.
    pub read_retry: Nanos,
    /// How much the applier does at once.
    pub slices: Slices,
    /// Members start within so long.
    pub start_spread: Nanos,
}

/// How the membership changes in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// Administrators.
    pub admins: usize,
    /// Machines that members run on, the founders' among them.
    pub machines: usize,
    /// Mean pause of an administrator between two calls.
    pub pause: Nanos,
    /// Whether members refuse changes that risk the quorum.
    pub strict: bool,
    /// Learners there may be.
    pub learners_max: u32,
}

/// Clients that contend for a lock, or for leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contest {
    /// How many.
    pub contenders: usize,
    /// They elect a leader, and observers look on; or they take turns with a lock.
    pub is_election: bool,
    /// Mean pause of a contender between two calls.
    pub pause: Nanos,
}

/// Clients that use the store as the control plane of Kubernetes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// Controllers, each with a cache of all objects.
    pub controllers: usize,
    /// Objects that there may be.
    pub objects: u64,
    /// Objects on a page of a list.
    pub page: u64,
    /// Mean pause of a controller between two calls.
    pub pause: Nanos,
    /// Mean time from one compaction to the next.
    pub compaction: Nanos,
}

/// How often clients do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Of operations on keys, by weight: puts.
    pub puts: u64,
    /// Lists.
    pub ranges: u64,
    /// Deletions.
    pub deletes: u64,
    /// Transactions.
    pub txns: u64,
    /// Compactions.
    pub compactions: u64,
    /// Of a hundred steps so many may be about leases, from 18 on all kinds of them.
    pub leases: u64,
}

/// How long things take inside a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// From an input's arrival to the turn that takes it.
    pub turn: Nanos,
    /// A sync of the log.
    pub sync: Nanos,
    /// A batch of the applier.
    pub apply: Nanos,
    /// Loading a state that came as a snapshot, beside that.
    pub restore: Nanos,
    /// Between client and member.
    pub client: Nanos,
}

/// Everything drawn before a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Where everything comes from.
    pub seed: u64,
    /// 0, or another outcome of what members, disks and networks leave to chance: the same faults and clients, other
    /// moments.
    pub fate: u64,
    /// Number of members.
    pub members: usize,
    /// How the membership changes, if it does.
    pub churn: Option<Churn>,
    /// Who contends for what, if anybody does.
    pub contest: Option<Contest>,
    /// The control plane, if there is one.
    pub control_plane: Option<ControlPlane>,
    /// Number of clients.
    pub clients: usize,
    /// Mean pause of a client between two operations.
    pub think: Nanos,
    /// Clients of watches.
    pub watchers: usize,
    /// Clients begin at this time.
    pub clients_from: Nanos,
    /// Keys the clients use.
    pub keys: u64,
    /// What clients do with them.
    pub mix: Mix,
    /// When the nemesis and the clients stop and healing begins.
    pub duration: Nanos,
    /// Which faults there are.
    pub classes: Classes,
    /// Members' settings.
    pub knobs: Knobs,
    /// Under which rules they run.
    pub regime: Regime,
    /// Members' speed.
    pub latencies: Latencies,
    /// How links behave outside of storms.
    pub network: Quality,
    /// Links that are worse than the others until healing, in which way.
    pub handicaps: Vec<(Aim, Quality)>,
    /// Per member: where its clock starts and how much too fast it runs, in ppm.
    pub clocks: Vec<(u64, i64)>,
    /// Per machine: by how many seconds its wall clock is ahead.
    pub wall_clocks: Vec<i64>,
    /// What the nemesis does.
    pub schedule: Vec<Strike>,
    /// From then on everything left to chance is drawn anew, in a way that has this number.
    pub future: Option<(Nanos, u64)>,
    /// What clients do, if they do not draw it themselves.
    pub script: Option<Arc<[Deed]>>,
}

impl Setup {
    /// What `seed` stands for.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::draw_with(seed, None)
    }

    /// What `seed` stands for, if it is to last as long.
    #[must_use]
    pub fn draw_with(seed: u64, duration: Option<Nanos>) -> Self {
        let rng = &mut stream(seed, Stream::Setup, 0);
        let members = pick(rng, &[(10, 1), (5, 2), (54, 3), (5, 4), (18, 5), (4, 6), (4, 7)]);
        let regime = Regime::draw(seed);
        let (churn, more_clocks) = draw::churn(seed, members, &regime);
        let classes = draw::classes(rng, seed, members, churn.as_ref(), &regime);
        let election = pick(rng, &[(1, 100), (2, 300), (2, 1_000), (1, 2_000)]) * MILLI;
        let clients = pick(rng, &[(1, 4), (4, 10), (1, 16)]);
        let clock_rate = |rng: &mut Rng| if classes.clock { ppm(rng) } else { 0 };
        let mut clocks: Vec<_> = (0..members).map(|_| (rng.below(1_000 * SECOND), clock_rate(rng))).collect();
        clocks.extend(more_clocks);
        let mut setup = Self {
            seed,
            fate: 0,
            members,
            churn,
            contest: draw::contest(seed, &regime),
            control_plane: draw::control_plane(seed, &regime),
            clients,
            think: SECOND / 200 * clients as u64,
            watchers: pick(&mut stream(seed, Stream::Watch, 1_000), &[(1, 1), (3, 3), (1, 8)]),
            clients_from: 100 * MILLI,
            keys: pick(rng, &[(1, 3), (3, 20), (1, 200)]),
            mix: draw::mix(seed),
            duration: duration.unwrap_or(60 * SECOND),
            classes,
            knobs: draw::knobs(rng, election),
            regime,
            latencies: Latencies {
                turn: pick(rng, &[(3, 10), (1, 100)]) * MICRO,
                // A vote is given after a sync: no disk is so slow that nobody can be elected.
                sync: (pick(rng, &[(1, 100), (2, 1_000), (1, 10_000)]) * MICRO).min(election / 30),
                apply: pick(rng, &[(3, 100), (1, 2_000), (1, 20_000)]) * MICRO,
                restore: pick(&mut stream(seed, Stream::Backend, 1_000), &[(3, 0), (1, 300), (1, 3_000)]) * MILLI,
                client: pick(rng, &[(2, 100), (1, 2_000)]) * MICRO,
            },
            network: draw::network(rng, election),
            handicaps: Vec::new(),
            clocks,
            wall_clocks: Vec::new(),
            schedule: Vec::new(),
            future: None,
            script: None,
        };
        if setup.latencies.apply >= MILLI {
            // A read for watchers takes an applier's turn: told of one revision by each, they would fall behind for good.
            setup.knobs.history_bytes_max = setup.knobs.history_bytes_max.max(2_000);
        }
        if setup.latencies.apply >= 10 * MILLI {
            // So does all that watchers say: one by one, they alone would keep it busy.
            setup.knobs.apply_inputs_max = setup.knobs.apply_inputs_max.max(20);
        }
        setup.handicaps = draw::handicaps(&setup);
        let wall_clock = |n| stream(seed, Stream::Clock, 1_000 + n).below(2 * 3_600).cast_signed() - 3_600;
        setup.wall_clocks = (0..setup.machines()).map(wall_clock).collect();
        setup.schedule = draw_schedule(&setup);
        setup
    }

    /// Machines that members may run on: the founders', and those of members that join later.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.churn.map_or(self.members, |churn| churn.machines)
    }

    /// Number of administrators.
    #[must_use]
    pub fn admins(&self) -> usize {
        self.churn.map_or(0, |churn| churn.admins)
    }

    /// Number of contenders.
    #[must_use]
    pub fn contenders(&self) -> usize {
        self.contest.map_or(0, |contest| contest.contenders)
    }

    /// Number of controllers.
    #[must_use]
    pub fn controllers(&self) -> usize {
        self.control_plane.map_or(0, |plane| plane.controllers)
    }

    /// The stream for a purpose and the number of a member, link or client.
    #[must_use]
    pub fn stream(&self, purpose: Stream, number: usize) -> Rng {
        let rng = stream(self.seed, purpose, number);
        match purpose {
            Stream::Network | Stream::Disk | Stream::Backend | Stream::Process | Stream::Member if self.fate > 0 => {
                rng.split(self.fate)
            }
            _ => rng,
        }
    }

    /// Whether the schedule fits the cluster.
    ///
    /// # Errors
    /// The first strike or deed that names what does not exist, or can do nothing.
    pub fn check(&self) -> Result<(), String> {
        let outcasts = |one: Option<usize>| {
            let is_meant =
                |it: &&Strike| matches!(it.fault, Fault::Outcast { member, .. } if one.is_none_or(|one| one == member));
            self.schedule.iter().filter(is_meant).count()
        };
        for strike in &self.schedule {
            let named = match strike.fault {
                Fault::Kill { member, .. }
                | Fault::Upgrade { member, .. }
                | Fault::Power { member, .. }
                | Fault::Wipe { member, .. }
                | Fault::Rot { member, .. }
                | Fault::LoseState { member, .. }
                | Fault::Pause { member, .. }
                | Fault::SlowDisk { member, .. }
                | Fault::Stall { member, .. }
                | Fault::SlowApply { member, .. }
                | Fault::Fail { member, .. }
                | Fault::Full { member, .. }
                | Fault::Trip { member, .. }
                | Fault::Skew { member }
                | Fault::Decay { member }
                | Fault::ClockRate { member, .. }
                | Fault::WallClock { member, .. }
                | Fault::Outcast { member, .. }
                | Fault::Transfer { member } => member,
                Fault::Cut { from, to, .. } => from.max(to),
                Fault::Storm { aim, .. } | Fault::Throttle { aim, .. } => aim.from.max(aim.to).unwrap_or(0),
                Fault::Blackout { .. } | Fault::Partition { .. } | Fault::Harass { .. } | Fault::Topple { .. } => 0,
            };
            let broken = match strike.fault {
                Fault::SlowDisk { factor: 0, .. } | Fault::SlowApply { factor: 0, .. } => Some("a factor of 0"),
                Fault::SlowDisk { factor: 1_000_000.., .. } | Fault::SlowApply { factor: 1_000_000.., .. } => {
                    Some("a factor of a million or more")
                }
                Fault::Throttle { bandwidth: 0..1_000, .. } => Some("less than 1000 bytes a second"),
                Fault::Cut { from, to, .. } if from == to => Some("a link from a member to itself"),
                Fault::Storm { aim: Aim { from: Some(from), to: Some(to) }, .. }
                | Fault::Throttle { aim: Aim { from: Some(from), to: Some(to) }, .. }
                    if from == to =>
                {
                    Some("a link from a member to itself")
                }
                Fault::Partition { side: 0, .. } => Some("nobody is on that side"),
                Fault::Partition { side, .. } if side >> self.machines() != 0 => Some("a member that does not exist"),
                Fault::Partition { side, .. } if side.count_ones() as usize == self.machines() => {
                    Some("nobody is on the other side")
                }
                Fault::Harass { .. } | Fault::Topple { .. } if self.machines() == 1 => {
                    Some("the only member leads: strike it by its number")
                }
                Fault::Outcast { .. } if self.churn.is_some() => Some("members come and go, nobody is left out"),
                Fault::Outcast { .. } if 2 * outcasts(None) >= self.members => Some("the others would be no majority"),
                Fault::Outcast { member, .. } if outcasts(Some(member)) > 1 => Some("it is left out twice"),
                _ if strike.at > self.duration => Some("a time behind the end of the run"),
                _ => None,
            };
            if let Some(broken) = broken {
                return Err(format!("{strike}: {broken}"));
            }
            if named >= self.machines() {
                return Err(format!("{strike}: there are {} members", self.machines()));
            }
            if matches!(strike.fault, Fault::ClockRate { ppm, .. } if ppm.abs() > DRIFT_PPM_MAX) {
                return Err(format!("{strike}: the declared drift is {DRIFT_PPM_MAX} ppm"));
            }
        }
        self.check_script()
    }

    fn check_script(&self) -> Result<(), String> {
        for deed in self.script.iter().flat_map(|script| script.iter()) {
            let operator = self.clients + self.watchers + 1;
            let (clients, member) = match deed.what {
                What::Ask { member, .. } if deed.client == operator && self.regime.has_operator() => {
                    (operator + 1, member)
                }
                What::Ask { member, .. } => (self.clients, member),
                What::Watch { member, .. } => (self.watchers, member),
                What::Progress => (self.watchers, 0),
            };
            let aftermath = if matches!(deed.what, What::Ask { .. }) { AFTERMATH } else { 0 };
            if deed.at > self.duration + aftermath {
                return Err(format!("{deed}: a time behind the end of the run"));
            }
            if deed.client >= clients {
                return Err(format!("{deed}: there are {clients} such clients"));
            }
            if member >= self.machines() {
                return Err(format!("{deed}: there are {} members", self.machines()));
            }
        }
        Ok(())
    }

    /// The same cluster under what a schedule's file says.
    ///
    /// # Errors
    /// The file contradicts itself, or does not fit the cluster.
    pub fn with(mut self, file: File) -> Result<Self, String> {
        for set in file.sets {
            self.set(set)?;
        }
        if let (None, Some(deed)) = (&self.script, file.deeds.first()) {
            return Err(format!("{deed}: without `{}` clients draw what they do", Set::Script));
        }
        if self.script.is_some() {
            self.script = Some(file.deeds.into());
        }
        self.schedule = file.strikes;
        self.check()?;
        Ok(self)
    }

    /// The seed, what differs from its own settings, the faults and what clients do, as a schedule's file.
    #[must_use]
    pub fn file(&self) -> String {
        let mut lines = vec![self.describe()];
        lines.extend(self.differences(&Self::draw(self.seed)).iter().map(ToString::to_string));
        let mut timed: Vec<(Nanos, String)> = self.schedule.iter().map(|it| (it.at, it.to_string())).collect();
        let deeds = self.script.iter().flat_map(|script| script.iter());
        timed.extend(deeds.map(|deed| (deed.at, format!("{deed} # {}", deed.story()))));
        timed.sort_by_key(|(at, _)| *at);
        lines.extend(timed.into_iter().map(|(_, line)| line));
        lines.join("\n") + "\n"
    }

    /// Changes what a line of a schedule sets.
    ///
    /// # Errors
    /// The value makes no sense.
    pub fn set(&mut self, set: Set) -> Result<(), String> {
        match set {
            Set::Fate(fate) => self.fate = fate,
            Set::CatchupEntries(entries @ 1..) => self.knobs.catchup_entries = entries,
            Set::FlushBatches(batches @ 1..) => self.knobs.flush_batches = batches,
            Set::Script => self.script = Some(Arc::from([])),
            Set::Clients(clients @ 0..=100) => self.clients = clients,
            Set::Watchers(watchers @ 0..=100) => self.watchers = watchers,
            Set::Admins(admins @ 0..=8) if self.churn.is_some() || admins == 0 => {
                self.churn.iter_mut().for_each(|churn| churn.admins = admins);
            }
            Set::Contenders(contenders @ 0..=8) if self.contest.is_some() || contenders == 0 => {
                self.contest.iter_mut().for_each(|contest| contest.contenders = contenders);
            }
            Set::Controllers(controllers @ 0..=8) if self.control_plane.is_some() || controllers == 0 => {
                self.control_plane.iter_mut().for_each(|plane| plane.controllers = controllers);
            }
            Set::ClientsFrom(from) if from <= self.duration => self.clients_from = from,
            Set::Duration(duration @ SECOND..=DURATION_MAX) => self.duration = duration,
            other => return Err(format!("{other}: out of range")),
        }
        Ok(())
    }

    /// What [`Setup::set`] must be told for `other` (of the same seed) to become this.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Set> {
        let sets = |setup: &Self| {
            [
                Set::Duration(setup.duration),
                Set::ClientsFrom(setup.clients_from),
                Set::Clients(setup.clients),
                Set::Watchers(setup.watchers),
                Set::Admins(setup.admins()),
                Set::Contenders(setup.contenders()),
                Set::Controllers(setup.controllers()),
                Set::Fate(setup.fate),
                Set::CatchupEntries(setup.knobs.catchup_entries),
                Set::FlushBatches(setup.knobs.flush_batches),
            ]
        };
        let changed = sets(self).into_iter().zip(sets(other)).filter(|(ours, theirs)| ours != theirs);
        changed.map(|(ours, _)| ours).chain(self.script.as_ref().map(|_| Set::Script)).collect()
    }

    /// The settings in words, as comments of a schedule.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self {
            seed,
            members,
            churn,
            contest,
            control_plane,
            clients,
            keys,
            mix,
            classes,
            knobs,
            regime,
            latencies,
            network,
            handicaps,
            clocks,
            wall_clocks,
            ..
        } = self;
        format!(
            "# seed {seed}: {members} members, {clients} clients, {keys} keys\n# {mix:?}\n# {churn:?}\n# {contest:?}\n# {control_plane:?}\n# \
             {classes:?}\n# {knobs:?}\n# {regime:?}\n# {latencies:?}\n# {network:?}\n# {handicaps:?}\n# \
             clocks {clocks:?}, wall clocks ahead by {wall_clocks:?} s"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_and_class_is_drawn() {
        let setups: Vec<_> = (0..2_000).map(Setup::draw).collect();
        for size in 1..=7 {
            assert!(setups.iter().any(|setup| setup.members == size), "size {size}");
        }
        assert!(setups.iter().any(|setup| setup.schedule.is_empty() || setup.classes == Classes::default()));
        assert!(setups.iter().all(|setup| setup.schedule.is_sorted_by_key(|strike| strike.at)));
    }

    #[test]
    fn a_seed_always_means_the_same() {
        assert_eq!(Setup::draw(42), Setup::draw(42));
        assert_ne!(Setup::draw(42).schedule, Setup::draw(43).schedule);
    }
}
