//! The schedule of faults that a seed draws: single strikes by class, and patterns made of many.
//!
//! A new fault is a variant of [`Fault`] with its line of text, what [`crate::world`] does about it (`world/nemesis.rs`),
//! a switch in [`Classes`](super::Classes), and a line here with a stream number that was never used.

use quorate_core::entry::FEATURE_LEVEL;
use quorate_core::rng::Rng;

use super::draw::{self, pick, ppm};
use super::{Setup, Stream, stream};
use crate::disk::Ill;
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::network::Aim;
use crate::schedule::{Fault, Plight, Strike};

/// Draws strikes of every class that is on, one stream per class: switching one class off leaves the others' strikes.
pub(super) fn draw_schedule(setup: &Setup) -> Vec<Strike> {
    let mut schedule = Vec::new();
    let Setup { classes, duration, .. } = *setup;
    let members = setup.machines();
    // The cluster has a moment to come up, and healing begins before the nemesis' last span can reach far beyond.
    let (begin, end) = (SECOND / 2, duration - 3 * SECOND);
    let mut class = |number: usize, on: bool, mean: Nanos, draw: &dyn Fn(&mut Rng) -> Fault| {
        let rng = &mut stream(setup.seed, Stream::Schedule, number);
        let mean = mean * pick(rng, &[(1, 1), (2, 2), (1, 6)]);
        // Now and then the first one comes while the cluster is still being born.
        let mut at = if rng.chance(1, 6) { rng.below(begin) } else { begin + rng.below(2 * mean) };
        while on && at < end {
            let at_micros = at / MICRO * MICRO;
            schedule.push(Strike { at: at_micros, fault: draw(rng).in_micros() });
            at += MILLI + rng.below(2 * mean);
        }
    };
    let member = |rng: &mut Rng| usize::try_from(rng.below(members as u64)).expect("few members");
    let down = |rng: &mut Rng| pick(rng, &[(2, 50), (2, 1_000), (1, 8_000)]) * MILLI / 100 * (1 + rng.below(100));
    class(1, classes.kill, 3 * SECOND, &|rng| Fault::Kill { member: member(rng), down: down(rng) });
    class(2, classes.power, 3 * SECOND, &|rng| Fault::Power { member: member(rng), down: down(rng) });
    class(3, classes.wipe, 6 * SECOND, &|rng| Fault::Wipe { member: member(rng), down: down(rng) });
    class(13, classes.rot, 8 * SECOND, &|rng| Fault::Rot { member: member(rng), down: down(rng) });
    let skews = if setup.churn.is_some() { 2 * SECOND } else { 5 * SECOND };
    class(40, classes.skew, skews, &|rng| Fault::Skew { member: member(rng) });
    class(4, classes.power, 12 * SECOND, &|rng| Fault::Blackout { down: down(rng) });
    class(5, classes.pause, 3 * SECOND, &|rng| Fault::Pause { member: member(rng), span: down(rng) });
    class(6, classes.partition, 4 * SECOND, &|rng| Fault::Partition {
        side: 1 + rng.below((1 << members) - 2),
        span: down(rng),
    });
    class(7, classes.partition, 4 * SECOND, &|rng| {
        let (from, to) = draw::link(rng, members);
        Fault::Cut { from, to, span: down(rng) }
    });
    class(8, classes.storm, 6 * SECOND, &|rng| Fault::Storm {
        aim: Aim::ALL,
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
    class(15, classes.slow_disk, 8 * SECOND, &|rng| Fault::Stall { member: member(rng), span: down(rng) });
    class(16, classes.slow_apply, 4 * SECOND, &|rng| Fault::SlowApply {
        member: member(rng),
        factor: pick(rng, &[(2, 20), (1, 1_000)]),
        span: down(rng),
    });
    class(17, classes.disk_error, 4 * SECOND, &|rng| Fault::Fail {
        member: member(rng),
        ill: pick(rng, &[(3, Ill::Sync), (2, Ill::Write), (1, Ill::Read)]),
    });
    class(18, classes.full, 6 * SECOND, &|rng| Fault::Full {
        member: member(rng),
        room: pick(rng, &[(2, 0), (1, 1_000), (1, 20_000)]),
        span: down(rng),
    });
    class(19, classes.trip, 3 * SECOND, &|rng| Fault::Trip {
        member: member(rng),
        changes: u32::try_from(pick(rng, &[(2, 10), (1, 100)]) * rng.below(10) / 10).expect("few changes"),
        power: rng.chance(1, 2),
        down: down(rng),
    });
    class(20, classes.throttle, 8 * SECOND, &|rng| Fault::Throttle {
        aim: Aim::ALL,
        bandwidth: pick(rng, &[(1, 20_000), (2, 200_000)]),
        queue: pick(rng, &[(1, 20), (1, 500)]) * MILLI,
        span: down(rng),
    });
    class(10, classes.clock, 5 * SECOND, &|rng| Fault::ClockRate { member: member(rng), ppm: ppm(rng) });
    class(42, classes.clock, 5 * SECOND, &|rng| Fault::WallClock { member: member(rng), by: wall_jump(rng) });
    class(12, classes.harass, 4 * SECOND, &|rng| Fault::Harass {
        after: pick(rng, &[(2, 5), (2, 100), (1, 3_000)]) * MILLI,
        span: 2 * SECOND + 8 * down(rng),
    });
    class(11, classes.transfer, 3 * SECOND, &|rng| Fault::Transfer { member: member(rng) });
    // Half of what happens to links happens to some of them only.
    let aims = &mut stream(setup.seed, Stream::Schedule, 41);
    for strike in &mut schedule {
        if let Fault::Storm { aim, .. } | Fault::Throttle { aim, .. } = &mut strike.fault
            && aims.chance(1, 2)
        {
            *aim = draw::aim(aims, members);
        }
    }
    let relentless = &mut stream(setup.seed, Stream::Schedule, 14);
    if classes.harass && relentless.chance(1, 2) {
        let after = pick(relentless, &[(1, 1), (1, 10), (1, 100)]) * MILLI;
        schedule.push(Strike { at: begin, fault: Fault::Harass { after, span: end - begin } });
    }
    for pattern in [swizzles, flaps, rolling_restarts, upgrades, decays, losses, topples, outcasts] {
        schedule.append(&mut pattern(setup, begin, end));
    }
    schedule.sort_by_key(|strike| strike.at);
    schedule
}

/// Seconds, either way: a correction, or somebody set it wrong.
fn wall_jump(rng: &mut Rng) -> i64 {
    let far = pick(rng, &[(3, 10), (1, 100_000)]);
    rng.below(2 * far + 1).cast_signed() - far.cast_signed()
}

fn micros(rng: &mut Rng, below: Nanos) -> Nanos {
    rng.below(below) / MICRO * MICRO
}

fn shuffled(rng: &mut Rng, members: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members).collect();
    for n in (1..members).rev() {
        order.swap(n, usize::try_from(rng.below(n as u64 + 1)).expect("few members"));
    }
    order
}

/// Members are cut off one by one, and come back one by one in another order. (FoundationDB)
fn swizzles(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 30), Vec::new());
    let mut at = begin + micros(rng, 10 * SECOND);
    while setup.classes.swizzle && at < end {
        let gap = setup.knobs.election / 10 * (1 + rng.below(20));
        let chosen = 1 + usize::try_from(rng.below(setup.machines() as u64)).expect("few members");
        let (out, back) = (shuffled(rng, setup.machines()), shuffled(rng, setup.machines()));
        for (n, member) in out.into_iter().take(chosen).enumerate() {
            let leaves = at + n as u64 * gap;
            let returns = at + (chosen as u64 + back[member] as u64) * gap;
            let span = (returns - leaves + micros(rng, gap)) / MICRO * MICRO;
            strikes.push(Strike { at: leaves / MICRO * MICRO, fault: Fault::Partition { side: 1 << member, span } });
        }
        at += 2 * chosen as u64 * gap + micros(rng, 20 * SECOND);
    }
    strikes.retain(|strike| strike.at < end);
    strikes
}

/// Leaders are cut off in turns, for a while or all the time.
fn topples(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 45), Vec::new());
    let mut at = begin + micros(rng, 5 * SECOND);
    let is_relentless = rng.chance(1, 2);
    while setup.classes.topple && at < end {
        let after = setup.knobs.election * pick(rng, &[(2, 1), (1, 4)]);
        let span = if is_relentless { end - at } else { 10 * setup.knobs.election + micros(rng, 10 * SECOND) };
        strikes.push(Strike { at: at / MICRO * MICRO, fault: Fault::Topple { after, span }.in_micros() });
        at += span + micros(rng, 10 * SECOND);
    }
    strikes
}

/// Up to a minority is left out when the others are healed.
fn outcasts(setup: &Setup, _begin: Nanos, end: Nanos) -> Vec<Strike> {
    let rng = &mut stream(setup.seed, Stream::Schedule, 33);
    if !setup.classes.outcast {
        return Vec::new();
    }
    let count = 1 + usize::try_from(rng.below((setup.members as u64 - 1) / 2)).expect("few members");
    let chosen = shuffled(rng, setup.members).into_iter().take(count);
    let plights = [(1, Plight::Down), (1, Plight::Isolated), (1, Plight::Deaf), (1, Plight::Mute), (1, Plight::Slow)];
    let outcast = |member| Strike { at: end, fault: Fault::Outcast { member, plight: pick(rng, &plights) } };
    chosen.map(outcast).collect()
}

/// One direction of a link goes up and down for a while.
fn flaps(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 31), Vec::new());
    let mut at = begin + micros(rng, 10 * SECOND);
    while setup.classes.flap && at < end {
        let (from, to) = draw::link(rng, setup.machines());
        let period = setup.knobs.election / 10 * (1 + rng.below(20));
        let until = (at + 5 * SECOND).min(end);
        while at < until {
            let span = period / 4 + micros(rng, period / 2);
            strikes.push(Strike { at: at / MICRO * MICRO, fault: Fault::Cut { from, to, span: span / MICRO * MICRO } });
            at += period;
        }
        at += micros(rng, 15 * SECOND);
    }
    strikes
}

/// Every member is stopped and started again, one after the other, as in an upgrade.
fn rolling_restarts(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 32), Vec::new());
    let mut at = begin + micros(rng, 20 * SECOND);
    while setup.classes.rolling && at < end {
        let (down, pause) = (MILLI * (1 + rng.below(1_000)), setup.knobs.election / 10 * (1 + rng.below(60)));
        for member in shuffled(rng, setup.machines()) {
            strikes.push(Strike { at: at / MICRO * MICRO, fault: Fault::Kill { member, down } });
            at += down + pause;
        }
        at += micros(rng, 30 * SECOND);
    }
    strikes.retain(|strike| strike.at < end);
    strikes
}

/// Members are stopped one by one, and each is started again with a build that understands the next feature level. Some
/// upgrades stop half way; of these, some are taken back and others go on later.
fn upgrades(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Upgrade, 0), Vec::new());
    let (mut at, mut level) = (begin + micros(rng, 20 * SECOND), FEATURE_LEVEL.0);
    while setup.classes.upgrade && at < end {
        let (down, pause) = (MILLI * (1 + rng.below(1_000)), setup.knobs.election / 10 * (1 + rng.below(60)));
        let order = shuffled(rng, setup.machines());
        let is_whole = rng.chance(1, 2);
        let upgraded = if is_whole { order.len() } else { draw_below(rng, order.len()) };
        let is_taken_back = !is_whole && rng.chance(1, 2);
        let upgrade = order[..upgraded].iter().map(|member| (*member, level + 1));
        let back = order[..upgraded].iter().map(|member| (*member, level)).filter(|_| is_taken_back);
        for (member, level) in upgrade.chain(back) {
            strikes.push(Strike { at: at / MICRO * MICRO, fault: Fault::Upgrade { member, level, down } });
            at += down + pause;
        }
        level += u32::from(is_whole);
        at += micros(rng, 20 * SECOND);
    }
    strikes.retain(|strike| strike.at < end);
    strikes
}

/// Members that were started together scrub together, too, and more than one may find something.
fn decays(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 43), Vec::new());
    let mut at = begin + micros(rng, 10 * SECOND);
    while setup.classes.decay && at < end {
        let gap = pick(rng, &[(1, MILLI), (2, 100 * MILLI)]);
        let found = pick(rng, &[(1, 1), (2, 2)]);
        for (n, member) in (0..).zip(shuffled(rng, setup.machines()).into_iter().take(found)) {
            strikes.push(Strike { at: at / MICRO * MICRO + n * gap, fault: Fault::Decay { member } });
        }
        at += SECOND + micros(rng, 20 * SECOND);
    }
    strikes
}

/// Members whose states are lost, one or more within a short time: what was wrong with one machine's disk may be with others'.
/// Some are asked to lead before they have another one. Or a minority loses its disks, and is still taken for there when the
/// next one loses its state.
fn losses(setup: &Setup, begin: Nanos, end: Nanos) -> Vec<Strike> {
    let (rng, mut strikes) = (&mut stream(setup.seed, Stream::Schedule, 44), Vec::new());
    let mut at = begin + SECOND + micros(rng, 10 * SECOND);
    while setup.classes.lose_state && at < end {
        let gap = pick(rng, &[(1, MILLI), (2, 100 * MILLI), (1, 2 * SECOND)]);
        let lost = pick(rng, &[(2, 1), (2, 2), (1, 3)]);
        let members = shuffled(rng, setup.machines());
        let disks = if rng.chance(1, 3) { (members.len() - 1) / 2 } else { 0 };
        if let Some(member) = members.last().copied().filter(|_| disks > 0) {
            strikes.push(Strike { at: (at - SECOND / 2) / MICRO * MICRO, fault: Fault::Transfer { member } });
        }
        for (n, member) in (0..).zip(members.into_iter().take(disks + lost)) {
            let longest = pick(rng, &[(2, 50), (1, 5_000)]);
            let down = MILLI * (1 + rng.below(longest));
            let lost = at / MICRO * MICRO + n * gap;
            let is_disk = n < disks as u64;
            let fault = if is_disk { Fault::Wipe { member, down } } else { Fault::LoseState { member, down } };
            strikes.push(Strike { at: lost, fault });
            if rng.chance(1, 2) {
                let asked = lost + down + micros(rng, 2 * SECOND);
                strikes.push(Strike { at: asked, fault: Fault::Transfer { member } });
            }
        }
        at += SECOND + micros(rng, 15 * SECOND);
    }
    strikes.retain(|strike| strike.at < end);
    strikes
}

fn draw_below(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).expect("few members")
}
