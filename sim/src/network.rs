//! The network between members: every directed link delays, loses, repeats and reorders messages as it was told to.

use quorate_core::rng::Rng;

use crate::world::redraw::anew;

use crate::heap::{MICRO, Nanos, tail};

/// How a directed link treats messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Every message takes at least this long.
    pub delay_min: Nanos,
    /// On top of it a long-tailed delay of this scale.
    pub delay_tail: Nanos,
    /// Messages lost, per million.
    pub loss_ppm: u64,
    /// Messages delivered twice, per million.
    pub duplicate_ppm: u64,
    /// Messages that leave the queue and arrive up to `straggle_max` later, overtaken by others, per million.
    pub straggle_ppm: u64,
    /// How late a straggler may be.
    pub straggle_max: Nanos,
    /// Bytes a second; 0 is unlimited.
    pub bandwidth: u64,
    /// Messages that would wait longer than this for the wire are dropped; 0: none is.
    pub queue: Nanos,
}

impl Quality {
    /// Everything arrives at once and in order: nothing makes a link worse by this.
    pub const PERFECT: Self = Self {
        delay_min: 0,
        delay_tail: 0,
        loss_ppm: 0,
        duplicate_ppm: 0,
        straggle_ppm: 0,
        straggle_max: 0,
        bandwidth: 0,
        queue: 0,
    };
    /// A healthy data centre: tenths of a millisecond, nothing lost, nothing out of order.
    pub const CALM: Self = Self { delay_min: 100 * MICRO, delay_tail: 100 * MICRO, ..Self::PERFECT };

    /// A link that suffers from both: of everything the worse.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let narrower = |one: u64, two: u64| if one == 0 || two == 0 { one.max(two) } else { one.min(two) };
        Self {
            delay_min: self.delay_min.max(other.delay_min),
            delay_tail: self.delay_tail.max(other.delay_tail),
            loss_ppm: self.loss_ppm.max(other.loss_ppm),
            duplicate_ppm: self.duplicate_ppm.max(other.duplicate_ppm),
            straggle_ppm: self.straggle_ppm.max(other.straggle_ppm),
            straggle_max: self.straggle_max.max(other.straggle_max),
            bandwidth: narrower(self.bandwidth, other.bandwidth),
            queue: narrower(self.queue, other.queue),
        }
    }
}

/// Directed links: from one member or from all, to one member or to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aim {
    /// Where they begin; `None`: anywhere.
    pub from: Option<usize>,
    /// Where they end; `None`: anywhere.
    pub to: Option<usize>,
}

impl Aim {
    /// Every link.
    pub const ALL: Self = Self { from: None, to: None };

    fn covers(self, from: usize, to: usize) -> bool {
        self.from.is_none_or(|only| only == from) && self.to.is_none_or(|only| only == to)
    }
}

/// Something that makes links worse until it is lifted.
#[derive(Clone, Copy, Debug)]
struct Burden {
    number: u64,
    aim: Aim,
    quality: Quality,
}

/// Which stream of a link a message takes: a snapshot never stands in front of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Consensus and forwarded requests.
    Frames = 0,
    /// Snapshot chunks.
    Snapshot = 1,
}

#[derive(Clone, Debug)]
struct Link {
    rng: Rng,
    /// How it behaves under all that is upon it now.
    quality: Quality,
    /// How many cuts are in force: partitions may overlap.
    cuts: u32,
    /// Per lane: when the last message that kept its place arrives.
    last: [Nanos; 2],
    /// Per lane: when the wire is free again.
    free: [Nanos; 2],
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// When it arrives, if it does.
    pub first: Option<Nanos>,
    /// When its duplicate arrives.
    pub second: Option<Nanos>,
}

/// All links between `members` members, numbered from 0.
#[derive(Clone, Debug)]
pub struct Network {
    members: usize,
    links: Vec<Link>,
    /// How a link behaves that nothing is upon.
    quality: Quality,
    burdens: Vec<Burden>,
    /// How many burdens there have been.
    numbered: u64,
}

impl Network {
    /// A network without cuts; each link draws from a stream of its own.
    #[must_use]
    pub fn new(members: usize, quality: Quality, rng: &Rng) -> Self {
        let link = |n: usize| Link { rng: rng.split(n as u64), quality, cuts: 0, last: [0; 2], free: [0; 2] };
        Self { members, links: (0..members * members).map(link).collect(), quality, burdens: vec![], numbered: 0 }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        for link in &mut self.links {
            link.rng = anew(&link.rng, sample);
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        assert!(from < self.members && to < self.members, "no link {from} -> {to}");
        &mut self.links[from * self.members + to]
    }

    /// Sends `bytes` bytes at `now`.
    pub fn send(&mut self, now: Nanos, from: usize, to: usize, lane: Lane, bytes: usize) -> Deliveries {
        let link = self.link(from, to);
        let quality = link.quality;
        // Every draw happens whatever the outcome: a cut does not shift the fate of later messages.
        let lost = link.rng.chance(quality.loss_ppm, 1_000_000);
        let twice = link.rng.chance(quality.duplicate_ppm, 1_000_000);
        let straggles = link.rng.chance(quality.straggle_ppm, 1_000_000);
        let delay = quality.delay_min + tail(&mut link.rng, quality.delay_tail);
        let late = link.rng.below(quality.straggle_max.max(1));
        let again = link.rng.below(delay.max(1) + quality.straggle_max);
        if link.cuts > 0 || lost {
            return Deliveries::default();
        }
        let lane = lane as usize;
        let mut start = now;
        if quality.bandwidth > 0 {
            start = start.max(link.free[lane]);
            if quality.queue > 0 && start - now > quality.queue {
                return Deliveries::default();
            }
            let busy = u128::from(bytes as u64) * 1_000_000_000 / u128::from(quality.bandwidth);
            link.free[lane] = start + u64::try_from(busy).expect("a message takes less than a century");
            start = link.free[lane];
        }
        let arrival = if straggles {
            start + delay + late
        } else {
            let arrival = (start + delay).max(link.last[lane] + 1);
            link.last[lane] = arrival;
            arrival
        };
        Deliveries { first: Some(arrival), second: twice.then_some(arrival + 1 + again) }
    }

    /// Cuts the link until [`Network::heal`] is called as often.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    /// Takes back one [`Network::cut`], unless [`Network::reset`] took back all of them.
    pub fn heal(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Makes these links at least so bad until [`Network::lift`] is called with the number that this gives.
    pub fn burden(&mut self, aim: Aim, quality: Quality) -> u64 {
        self.numbered += 1;
        self.burdens.push(Burden { number: self.numbered, aim, quality });
        self.weigh();
        self.numbered
    }

    /// Takes one burden from the links again, unless [`Network::reset`] took all of them.
    pub fn lift(&mut self, number: u64) {
        self.burdens.retain(|burden| burden.number != number);
        self.weigh();
    }

    fn weigh(&mut self) {
        for (n, link) in self.links.iter_mut().enumerate() {
            let (from, to) = (n / self.members, n % self.members);
            let upon = self.burdens.iter().filter(|burden| burden.aim.covers(from, to));
            link.quality = upon.fold(self.quality, |quality, burden| quality.worse(burden.quality));
        }
    }

    /// Takes back every cut and every burden, and makes all links behave like this: whatever is still on its way over a narrow
    /// one does not hold up what is sent from now on.
    pub fn reset(&mut self, quality: Quality) {
        for link in &mut self.links {
            (link.cuts, link.last, link.free) = (0, [0; 2], [0; 2]);
        }
        self.burdens.clear();
        self.quality = quality;
        self.weigh();
    }

    /// Whether messages may pass.
    #[must_use]
    pub fn open(&self, from: usize, to: usize) -> bool {
        self.links[from * self.members + to].cuts == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{MILLI, SECOND};

    fn network(quality: Quality) -> Network {
        Network::new(2, quality, &Rng::new(1))
    }

    #[test]
    fn a_calm_link_keeps_order_and_loses_nothing() {
        let mut network = network(Quality::CALM);
        let mut last = 0;
        for now in 0..1_000 {
            let sent = network.send(now * MICRO, 0, 1, Lane::Frames, 100);
            let arrival = sent.first.unwrap();
            assert!(arrival > last && sent.second.is_none());
            last = arrival;
        }
    }

    #[test]
    fn a_bad_link_loses_repeats_and_reorders() {
        let quality = Quality {
            loss_ppm: 200_000,
            duplicate_ppm: 200_000,
            straggle_ppm: 200_000,
            straggle_max: 100 * MILLI,
            ..Quality::CALM
        };
        let mut network = network(quality);
        let sent: Vec<_> = (0..1_000).map(|now| network.send(now * MILLI, 0, 1, Lane::Frames, 100)).collect();
        let arrivals: Vec<_> = sent.iter().filter_map(|sent| sent.first).collect();
        assert!((700..900).contains(&arrivals.len()), "{}", arrivals.len());
        assert!(sent.iter().filter(|sent| sent.second.is_some()).count() > 100);
        assert!(arrivals.windows(2).any(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn cuts_are_one_way_and_nest() {
        let mut network = network(Quality::CALM);
        network.cut(0, 1);
        network.cut(0, 1);
        network.heal(0, 1);
        assert_eq!(network.send(0, 0, 1, Lane::Frames, 1), Deliveries::default());
        assert!(network.send(0, 1, 0, Lane::Frames, 1).first.is_some());
        network.heal(0, 1);
        assert!(network.send(0, 0, 1, Lane::Frames, 1).first.is_some());
    }

    #[test]
    fn burdens_are_of_single_links_and_add_up() {
        let mut network = network(Quality::CALM);
        let arrives = |network: &mut Network, from, to| network.send(0, from, to, Lane::Frames, 1).first.is_some();
        let loses = Quality { loss_ppm: 1_000_000, ..Quality::PERFECT };
        let out = network.burden(Aim { from: Some(0), to: None }, loses);
        let all = network.burden(Aim::ALL, Quality { bandwidth: 1_000, ..loses });
        assert!(!arrives(&mut network, 0, 1) && !arrives(&mut network, 1, 0));
        network.lift(all);
        assert!(!arrives(&mut network, 0, 1), "the other one is still upon it");
        assert!(arrives(&mut network, 1, 0));
        network.lift(out);
        network.lift(all);
        assert!(arrives(&mut network, 0, 1));
        assert_eq!(network.links[1].quality, Quality::CALM);
    }

    #[test]
    fn of_two_limits_the_narrower_holds() {
        let wide = Quality { bandwidth: 500, queue: 7, ..Quality::PERFECT };
        let narrow = Quality { bandwidth: 20, loss_ppm: 3, ..Quality::PERFECT };
        assert_eq!(wide.worse(narrow), Quality { bandwidth: 20, queue: 7, loss_ppm: 3, ..Quality::PERFECT });
        assert_eq!(narrow.worse(Quality::PERFECT), narrow);
    }

    #[test]
    fn a_cut_does_not_change_the_fate_of_later_messages() {
        let quality = Quality { loss_ppm: 300_000, ..Quality::CALM };
        let (mut cut, mut whole) = (network(quality), network(quality));
        cut.cut(0, 1);
        for now in 0..10 {
            cut.send(now, 0, 1, Lane::Frames, 1);
            whole.send(now, 0, 1, Lane::Frames, 1);
        }
        cut.heal(0, 1);
        for now in 1..100 {
            let (a, b) = (cut.send(now * MILLI, 0, 1, Lane::Frames, 1), whole.send(now * MILLI, 0, 1, Lane::Frames, 1));
            assert_eq!(a.first.is_some(), b.first.is_some());
        }
    }

    /// A minute's worth was waiting on the link, and who had been healed could not answer for as long.
    #[test]
    fn a_link_that_is_repaired_is_free() {
        let mut network = network(Quality { bandwidth: 1_000, ..Quality::CALM });
        assert!(network.send(0, 0, 1, Lane::Frames, 60_000).first.unwrap() > 60 * SECOND);
        network.reset(Quality::CALM);
        assert!(network.send(1, 0, 1, Lane::Frames, 60_000).first.unwrap() < SECOND);
    }

    #[test]
    fn bandwidth_holds_back_what_comes_behind() {
        let mut network = network(Quality { bandwidth: 1_000_000, delay_tail: 0, ..Quality::CALM });
        network.send(0, 0, 1, Lane::Snapshot, 1_000_000);
        assert!(network.send(0, 0, 1, Lane::Snapshot, 1).first.unwrap() > 1_000 * MILLI);
        assert!(network.send(0, 0, 1, Lane::Frames, 1).first.unwrap() < MILLI);
    }
}
