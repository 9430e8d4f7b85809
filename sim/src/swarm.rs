//! What a seed means: it draws the cluster, its settings, which classes of faults exist, and the schedule of faults.
//!
//! Whole classes are on or off (swarm testing, Groce et al. 2012): a run where everything happens at once hides what
//! only a few things together can cause.

use quorate_core::rng::Rng;
use quorate_node::applier::Slices;

use crate::clock::DRIFT_PPM_MAX;
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::network::Quality;
use crate::schedule::{Fault, Strike};

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
}

/// The stream of `seed` for a purpose and the number of a member, link or client.
#[must_use]
pub fn stream(seed: u64, purpose: Stream, number: usize) -> Rng {
    Rng::new(seed).split(purpose as u64).split(number as u64 + 1)
}

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
    pub rot: bool,
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

/// How long things take inside a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// From an input's arrival to the turn that takes it.
    pub turn: Nanos,
    /// A sync of the log.
    pub sync: Nanos,
    /// A batch of the applier.
    pub apply: Nanos,
    /// Between client and member.
    pub client: Nanos,
}

/// Everything drawn before a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Where everything comes from.
    pub seed: u64,
    /// Number of members.
    pub members: usize,
    /// Number of clients.
    pub clients: usize,
    /// Mean pause of a client between two operations.
    pub think: Nanos,
    /// Keys the clients use.
    pub keys: u64,
    /// When the nemesis and the clients stop and healing begins.
    pub duration: Nanos,
    /// Which faults there are.
    pub classes: Classes,
    /// Members' settings.
    pub knobs: Knobs,
    /// Members' speed.
    pub latencies: Latencies,
    /// How links behave outside of storms.
    pub network: Quality,
    /// Per member: where its clock starts and how much too fast it runs, in ppm.
    pub clocks: Vec<(u64, i64)>,
    /// What the nemesis does.
    pub schedule: Vec<Strike>,
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
        let members = pick(rng, &[(10, 1), (5, 2), (60, 3), (5, 4), (20, 5)]);
        let classes = draw_classes(rng, members);
        let election = pick(rng, &[(1, 100), (2, 300), (2, 1_000), (1, 2_000)]) * MILLI;
        let clients = pick(rng, &[(1, 4), (4, 10), (1, 16)]);
        let clock_rate = |rng: &mut Rng| if classes.clock { ppm(rng) } else { 0 };
        let clocks = (0..members).map(|_| (rng.below(1_000 * SECOND), clock_rate(rng))).collect();
        let mut setup = Self {
            seed,
            members,
            clients,
            think: SECOND / 150 * clients as u64,
            keys: pick(rng, &[(1, 3), (3, 20), (1, 200)]),
            duration: duration.unwrap_or(60 * SECOND),
            classes,
            knobs: draw_knobs(rng, election),
            latencies: Latencies {
                turn: pick(rng, &[(3, 10), (1, 100)]) * MICRO,
                // A vote is given after a sync: no disk is so slow that nobody can be elected.
                sync: (pick(rng, &[(1, 100), (2, 1_000), (1, 10_000)]) * MICRO).min(election / 30),
                apply: pick(rng, &[(3, 100), (1, 2_000), (1, 20_000)]) * MICRO,
                client: pick(rng, &[(2, 100), (1, 2_000)]) * MICRO,
            },
            network: draw_network(rng, election),
            clocks,
            schedule: Vec::new(),
        };
        setup.schedule = draw_schedule(&setup);
        setup
    }

    /// Whether the schedule fits the cluster.
    ///
    /// # Errors
    /// The first strike that names a member that does not exist.
    pub fn check(&self) -> Result<(), String> {
        for strike in &self.schedule {
            let named = match strike.fault {
                Fault::Kill { member, .. }
                | Fault::Power { member, .. }
                | Fault::Wipe { member, .. }
                | Fault::Rot { member, .. }
                | Fault::Pause { member, .. }
                | Fault::SlowDisk { member, .. }
                | Fault::ClockRate { member, .. }
                | Fault::Transfer { member } => member,
                Fault::Cut { from, to, .. } => from.max(to),
                Fault::Blackout { .. } | Fault::Partition { .. } | Fault::Storm { .. } | Fault::Harass { .. } => 0,
            };
            if named >= self.members {
                return Err(format!("{strike}: there are {} members", self.members));
            }
            if matches!(strike.fault, Fault::ClockRate { ppm, .. } if ppm.abs() > DRIFT_PPM_MAX) {
                return Err(format!("{strike}: the declared drift is {DRIFT_PPM_MAX} ppm"));
            }
        }
        Ok(())
    }

    /// The settings in words, as comments of a schedule.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { seed, members, clients, keys, classes, knobs, latencies, network, clocks, .. } = self;
        format!(
            "# seed {seed}: {members} members, {clients} clients, {keys} keys\n# {classes:?}\n# {knobs:?}\n# \
             {latencies:?}\n# {network:?}\n# clocks {clocks:?}"
        )
    }
}

/// One of the choices, with the probability of its weight.
fn pick<T: Copy>(rng: &mut Rng, choices: &[(u64, T)]) -> T {
    let mut ticket = rng.below(choices.iter().map(|(weight, _)| weight).sum());
    for (weight, choice) in choices {
        if ticket < *weight {
            return *choice;
        }
        ticket -= weight;
    }
    unreachable!("a ticket is below the sum of all weights")
}

fn ppm(rng: &mut Rng) -> i64 {
    let span = 2 * DRIFT_PPM_MAX as u64 + 1;
    rng.below(span) as i64 - DRIFT_PPM_MAX
}

fn draw_classes(rng: &mut Rng, members: usize) -> Classes {
    Classes {
        kill: rng.chance(1, 2),
        power: rng.chance(1, 2),
        wipe: rng.chance(1, 2) && members >= 3,
        pause: rng.chance(1, 2),
        partition: rng.chance(1, 2) && members >= 2,
        storm: rng.chance(1, 2) && members >= 2,
        slow_disk: rng.chance(1, 3),
        clock: rng.chance(1, 2),
        transfer: rng.chance(1, 3) && members >= 2,
        harass: rng.chance(1, 3) && members >= 2,
        rot: rng.chance(1, 3) && members >= 3,
    }
}

fn draw_knobs(rng: &mut Rng, election: Nanos) -> Knobs {
    Knobs {
        heartbeat: election / 10,
        election,
        append_bytes_max: pick(rng, &[(1, 1), (1, 1_000), (2, 1 << 20)]),
        inflight_messages_max: pick(rng, &[(1, 1), (1, 4), (2, 256)]),
        inflight_bytes_max: pick(rng, &[(1, 2_000), (3, 16 << 20)]),
        catchup_entries: pick(rng, &[(1, 1), (1, 30), (2, 1_000)]),
        segment_bytes: pick(rng, &[(1, 8 << 10), (2, 64 << 10), (1, 1 << 20)]),
        lease_checkpoint: pick(rng, &[(1, 1), (1, 4), (2, 300)]) * SECOND,
        stream_bytes_max: pick(rng, &[(1, 200), (1, 4_000), (2, 1 << 20)]),
        ring_bytes_max: pick(rng, &[(1, 0), (1, 2_000), (2, 1 << 20)]),
        history_bytes_max: pick(rng, &[(1, 1), (1, 2_000), (2, 1 << 20)]),
        apply_inputs_max: pick(rng, &[(1, 1), (1, 4), (2, 1_000)]),
        flush_batches: pick(rng, &[(1, 1), (2, 20), (1, 500)]),
        read_retry: pick(rng, &[(1, 20), (1, 100), (2, 500)]) * MILLI,
        slices: Slices {
            chunk_bytes: pick(rng, &[(1, 500), (2, 4_000), (1, 1 << 20)]),
            batch_entries: pick(rng, &[(1, 1), (1, 5), (2, 2_048)]),
            compaction_keys: pick(rng, &[(1, 1), (1, 7), (2, 1_000)]),
        },
        start_spread: pick(rng, &[(3, 50), (1, 1_000)]) * MILLI,
    }
}

fn draw_network(rng: &mut Rng, election: Nanos) -> Quality {
    Quality {
        delay_min: pick(rng, &[(1, 20), (2, 200), (1, 5_000)]) * MICRO,
        // Up to what an election can live with.
        delay_tail: pick(rng, &[(2, 20 * MICRO), (4, 200 * MICRO), (2, 10 * MILLI), (1, election / 20)]),
        bandwidth: pick(rng, &[(3, 0), (1, 1 << 20)]),
        ..Quality::CALM
    }
}

/// Draws strikes of every class that is on, one stream per class: switching one class off leaves the others' strikes.
fn draw_schedule(setup: &Setup) -> Vec<Strike> {
    let mut schedule = Vec::new();
    let Setup { members, classes, duration, .. } = *setup;
    // The cluster has a moment to come up, and healing begins before the nemesis' last span can reach far beyond.
    let (begin, end) = (SECOND / 2, duration - 3 * SECOND);
    let mut class = |number: usize, on: bool, mean: Nanos, draw: &dyn Fn(&mut Rng) -> Fault| {
        let rng = &mut stream(setup.seed, Stream::Schedule, number);
        let mean = mean * pick(rng, &[(1, 1), (2, 2), (1, 6)]);
        // Now and then the first one comes while the cluster is still being born.
        let mut at = if rng.chance(1, 6) { rng.below(begin) } else { begin + rng.below(2 * mean) };
        while on && at < end {
            let at_micros = at / MICRO * MICRO;
            schedule.push(Strike { at: at_micros, fault: whole_micros(draw(rng)) });
            at += MILLI + rng.below(2 * mean);
        }
    };
    let member = |rng: &mut Rng| usize::try_from(rng.below(members as u64)).expect("few members");
    let down = |rng: &mut Rng| pick(rng, &[(2, 50), (2, 1_000), (1, 8_000)]) * MILLI / 100 * (1 + rng.below(100));
    class(1, classes.kill, 3 * SECOND, &|rng| Fault::Kill { member: member(rng), down: down(rng) });
    class(2, classes.power, 3 * SECOND, &|rng| Fault::Power { member: member(rng), down: down(rng) });
    class(3, classes.wipe, 6 * SECOND, &|rng| Fault::Wipe { member: member(rng), down: down(rng) });
    class(13, classes.rot, 8 * SECOND, &|rng| Fault::Rot { member: member(rng), down: down(rng) });
    class(4, classes.power, 12 * SECOND, &|rng| Fault::Blackout { down: down(rng) });
    class(5, classes.pause, 3 * SECOND, &|rng| Fault::Pause { member: member(rng), span: down(rng) });
    class(6, classes.partition, 4 * SECOND, &|rng| Fault::Partition {
        side: 1 + rng.below((1 << members) - 2),
        span: down(rng),
    });
    class(7, classes.partition, 4 * SECOND, &|rng| {
        let from = member(rng);
        let to = (from + 1 + usize::try_from(rng.below(members as u64 - 1)).expect("few members")) % members;
        Fault::Cut { from, to, span: down(rng) }
    });
    class(8, classes.storm, 6 * SECOND, &|rng| Fault::Storm {
        loss_ppm: pick(rng, &[(1, 0), (2, 50_000), (1, 300_000)]),
        duplicate_ppm: pick(rng, &[(1, 0), (1, 50_000), (1, 300_000)]),
        straggle_ppm: pick(rng, &[(1, 0), (1, 50_000), (1, 300_000)]),
        straggle_max: pick(rng, &[(1, 10), (2, 500), (1, 5_000)]) * MILLI,
        span: 5 * down(rng),
    });
    class(9, classes.slow_disk, 5 * SECOND, &|rng| Fault::SlowDisk {
        member: member(rng),
        factor: pick(rng, &[(2, 20), (1, 500)]),
        span: down(rng),
    });
    class(10, classes.clock, 5 * SECOND, &|rng| Fault::ClockRate { member: member(rng), ppm: ppm(rng) });
    class(12, classes.harass, 4 * SECOND, &|rng| Fault::Harass {
        after: pick(rng, &[(2, 5), (2, 100), (1, 3_000)]) * MILLI,
        span: 2 * SECOND + 8 * down(rng),
    });
    class(11, classes.transfer, 3 * SECOND, &|rng| Fault::Transfer { member: member(rng) });
    let relentless = &mut stream(setup.seed, Stream::Schedule, 14);
    if classes.harass && relentless.chance(1, 2) {
        let after = pick(relentless, &[(1, 1), (1, 10), (1, 100)]) * MILLI;
        schedule.push(Strike { at: begin, fault: Fault::Harass { after, span: end - begin } });
    }
    schedule.sort_by_key(|strike| strike.at);
    schedule
}

/// Schedules are written in microseconds: spans are drawn so that nothing is lost in print.
fn whole_micros(mut fault: Fault) -> Fault {
    let round = |span: &mut Nanos| *span = *span / MICRO * MICRO;
    match &mut fault {
        Fault::Kill { down, .. }
        | Fault::Power { down, .. }
        | Fault::Wipe { down, .. }
        | Fault::Rot { down, .. }
        | Fault::Blackout { down } => round(down),
        Fault::Pause { span, .. }
        | Fault::Partition { span, .. }
        | Fault::Cut { span, .. }
        | Fault::SlowDisk { span, .. } => round(span),
        Fault::Harass { after, span } => {
            round(after);
            round(span);
        }
        Fault::Storm { straggle_max, span, .. } => {
            round(straggle_max);
            round(span);
        }
        Fault::ClockRate { .. } | Fault::Transfer { .. } => {}
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_and_class_is_drawn() {
        let setups: Vec<_> = (0..200).map(Setup::draw).collect();
        for size in 1..=5 {
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
