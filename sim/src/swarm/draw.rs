//! What of a seed's cluster is drawn how often.

use quorate_core::rng::Rng;
use quorate_node::applier::Slices;

use super::regime::Regime;
use super::{Churn, Classes, Contest, ControlPlane, Knobs, MACHINES_MAX, Mix, Setup, Stream, stream};
use crate::clock::DRIFT_PPM_MAX;
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::network::{Aim, Quality};

/// One of the choices, with the probability of its weight.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, choices: &[(u64, T)]) -> T {
    let mut ticket = rng.below(choices.iter().map(|(weight, _)| weight).sum());
    for (weight, choice) in choices {
        if ticket < *weight {
            return *choice;
        }
        ticket -= weight;
    }
    unreachable!("a ticket is below the sum of all weights")
}

pub(super) fn ppm(rng: &mut Rng) -> i64 {
    let span = 2 * DRIFT_PPM_MAX as u64 + 1;
    rng.below(span) as i64 - DRIFT_PPM_MAX
}

/// Whether and how the membership changes; and the clocks of the machines on which no founder runs.
pub(super) fn churn(seed: u64, members: usize, regime: &Regime) -> (Option<Churn>, Vec<(u64, i64)>) {
    let rng = &mut stream(seed, Stream::Churn, 0);
    // Administrators have no password: where users do, they have nothing to say.
    if !rng.chance(1, 3) || regime.auth {
        return (None, Vec::new());
    }
    let churn = Churn {
        admins: pick(rng, &[(2, 1), (1, 2)]),
        machines: (members + pick(rng, &[(1, 1), (2, 2), (2, 3)])).min(MACHINES_MAX),
        pause: pick(rng, &[(1, 100), (2, 500), (1, 2_000)]) * MILLI,
        strict: rng.chance(3, 4),
        learners_max: pick(rng, &[(3, 1), (1, 3)]),
    };
    (Some(churn), (members..churn.machines).map(|_| (rng.below(1_000 * SECOND), ppm(rng))).collect())
}

/// Whether clients contend. Not where users would have to let them, and nobody but they may delete their keys.
pub(super) fn contest(seed: u64, regime: &Regime) -> Option<Contest> {
    let rng = &mut stream(seed, Stream::Contender, 1_000);
    let contest = Contest {
        contenders: pick(rng, &[(2, 2), (3, 4), (1, 8)]),
        is_election: rng.chance(1, 2),
        pause: pick(rng, &[(2, 2), (2, 10), (1, 60)]) * MILLI,
    };
    let is_drawn = rng.chance(2, 3) && !regime.auth && regime.quota_bytes.is_none();
    is_drawn.then_some(contest)
}

/// Whether there is a control plane: in a fifth of all runs. Not where users would have to let it, and nobody but it may delete
/// its objects.
pub(super) fn control_plane(seed: u64, regime: &Regime) -> Option<ControlPlane> {
    let rng = &mut stream(seed, Stream::Controller, 1_000);
    let plane = ControlPlane {
        controllers: pick(rng, &[(2, 2), (3, 3), (1, 5)]),
        objects: pick(rng, &[(1, 4), (3, 16), (2, 60)]),
        page: pick(rng, &[(1, 1), (2, 3), (2, 10), (1, 500)]),
        pause: pick(rng, &[(1, 10), (3, 30), (1, 200)]) * MILLI,
        compaction: pick(rng, &[(1, 300), (2, 2_000), (2, 8_000)]) * MILLI,
    };
    let is_drawn = rng.chance(1, 3) && !regime.auth && regime.quota_bytes.is_none();
    is_drawn.then_some(plane)
}

/// Which classes of faults there are, for so many members at the beginning.
pub(super) fn classes(rng: &mut Rng, seed: u64, members: usize, churn: Option<&Churn>, regime: &Regime) -> Classes {
    // An operator's audit knows nothing of alarms that members raise and clear.
    let may_go_wrong = !regime.has_operator();
    // Without a majority of others nobody is rebuilt, and nothing is changed any more.
    let stay = members >= 3 && churn.is_none();
    // Members that are rebuilt while others go or join are rare enough as it is.
    let skew = churn.is_some() || (members >= 3 && stream(seed, Stream::Churn, 1_000).chance(1, 3));
    let lose_state = (churn.is_some() || members >= 3) && stream(seed, Stream::Churn, 1_002).chance(1, 3);
    // A probe has no password, and nobody is there to make room.
    let may_probe = stay && !regime.auth && regime.quota_bytes.is_none();
    let members = churn.map_or(members, |churn| churn.machines);
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
        disk_error: rng.chance(1, 3),
        full: rng.chance(1, 5),
        trip: rng.chance(1, 3),
        slow_apply: rng.chance(1, 4),
        throttle: rng.chance(1, 6) && members >= 2,
        swizzle: rng.chance(1, 4) && members >= 3,
        flap: rng.chance(1, 5) && members >= 2,
        rolling: rng.chance(1, 5),
        upgrade: stream(seed, Stream::Upgrade, 1_000).chance(1, 4),
        skew: skew && may_go_wrong,
        decay: stay && may_go_wrong && stream(seed, Stream::Churn, 1_001).chance(1, 3),
        lose_state: lose_state && may_go_wrong,
        topple: members >= 2 && stream(seed, Stream::Schedule, 1_001).chance(1, 6),
        outcast: may_probe && stream(seed, Stream::Schedule, 1_000).chance(1, 3),
    }
}

/// In half of the seeds of everything something; else some things are left out and others are frequent. Without writes
/// nothing would be left to read.
pub(super) fn mix(seed: u64) -> Mix {
    let rng = &mut stream(seed, Stream::Workload, 1_000);
    let usual = Mix { puts: 35, ranges: 25, deletes: 12, txns: 25, compactions: 3, leases: 18 };
    if rng.chance(1, 2) {
        return usual;
    }
    let mut vary = |weight: u64, least: u64| pick(rng, &[(1, least), (1, weight), (1, 3 * weight)]);
    Mix {
        puts: vary(usual.puts, 5),
        ranges: vary(usual.ranges, 0),
        deletes: vary(usual.deletes, 0),
        txns: vary(usual.txns, 0),
        compactions: vary(usual.compactions, 0),
        leases: vary(usual.leases, 0),
    }
}

pub(super) fn knobs(rng: &mut Rng, election: Nanos) -> Knobs {
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

pub(super) fn network(rng: &mut Rng, election: Nanos) -> Quality {
    Quality {
        delay_min: pick(rng, &[(1, 20), (2, 200), (1, 5_000)]) * MICRO,
        // Up to what an election can live with.
        delay_tail: pick(rng, &[(2, 20 * MICRO), (4, 200 * MICRO), (2, 10 * MILLI), (1, election / 20)]),
        bandwidth: pick(rng, &[(3, 0), (1, 1 << 20)]),
        ..Quality::CALM
    }
}

/// In a third of the seeds some links are not like the others: a member is far away, hears or is heard badly, or a link
/// is narrow. An election can live with all of it.
pub(super) fn handicaps(setup: &Setup) -> Vec<(Aim, Quality)> {
    let rng = &mut stream(setup.seed, Stream::Network, 1_000);
    let election = setup.knobs.election;
    let count = if setup.machines() >= 2 && rng.chance(1, 3) { 1 + rng.below(3) } else { 0 };
    let handicap = |_| {
        let aimed = aim(rng, setup.machines());
        let far = Quality { delay_min: election / 40, delay_tail: election / 80, ..Quality::PERFECT };
        let ppm = |rng: &mut Rng| pick(rng, &[(1, 0), (1, 1_000), (2, 20_000)]);
        let bad = Quality {
            loss_ppm: ppm(rng),
            duplicate_ppm: ppm(rng),
            straggle_ppm: ppm(rng),
            straggle_max: election / 2,
            ..Quality::PERFECT
        };
        let narrow = Quality { bandwidth: pick(rng, &[(1, 100_000), (2, 1 << 20)]), ..Quality::PERFECT };
        (aimed, pick(rng, &[(2, far), (2, bad), (1, narrow)]))
    };
    (0..count).map(handicap).collect()
}

/// A member and another one.
pub(super) fn link(rng: &mut Rng, members: usize) -> (usize, usize) {
    let mut below = |bound: usize| usize::try_from(rng.below(bound as u64)).expect("few members");
    let from = below(members);
    (from, (from + 1 + below(members - 1)) % members)
}

/// What a member sends, what it is sent, or what one of them sends to another.
pub(super) fn aim(rng: &mut Rng, members: usize) -> Aim {
    let (from, to) = link(rng, members);
    let (from, to) = (Some(from), Some(to));
    pick(rng, &[(1, Aim { from, to: None }), (1, Aim { from: None, to }), (1, Aim { from, to })])
}
