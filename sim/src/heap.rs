//! What happens when: one queue of timed events, whose order depends on nothing but the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use quorate_core::rng::Rng;

/// Nanoseconds of true time since the simulation began. Members never see it: they have a [`crate::clock::Clock`].
pub type Nanos = u64;

/// A microsecond.
pub const MICRO: Nanos = 1_000;
/// A millisecond.
pub const MILLI: Nanos = 1_000_000;
/// A second.
pub const SECOND: Nanos = 1_000_000_000;

/// Time, hash, and the slot of an event; the earliest is the greatest.
type Place = Reverse<(Nanos, u64, usize)>;

/// Later than so much ahead is far.
const FAR: Nanos = 50 * MILLI;

/// Events ordered by (time, hash(seed, link, n)), `n` counting the events of a link.
///
/// Events of different links at the same instant come in an order that the seed decides, and one event more on a link
/// leaves all others' order as it was. A link is whatever the caller numbers: a directed pair of members, a client.
///
/// Events stay where they were put while their order is found: they are several times as large as what orders them. And
/// those that are far ahead, mostly timeouts, wait apart: few are left among which the others find their place.
#[derive(Debug)]
pub struct Heap<E> {
    seed: u64,
    near: BinaryHeap<Place>,
    far: BinaryHeap<Place>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    counts: Vec<u64>,
    now: Nanos,
}

impl<E> Heap<E> {
    /// An empty queue at time 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (near, far) = (BinaryHeap::new(), BinaryHeap::new());
        Self { seed, near, far, slots: Vec::new(), free: Vec::new(), counts: Vec::new(), now: 0 }
    }

    /// The time of the event that was taken last.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Lets `event` happen at `at`, or now if that has passed.
    pub fn push(&mut self, at: Nanos, link: usize, event: E) {
        if self.counts.len() <= link {
            self.counts.resize(link + 1, 0);
        }
        self.counts[link] += 1;
        let tie = Rng::new(self.seed).split(link as u64).split(self.counts[link]).next_u64();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        let heap = if at > self.now + FAR { &mut self.far } else { &mut self.near };
        heap.push(Reverse((at.max(self.now), tie, slot)));
    }

    /// The next event and its time, which becomes [`Heap::now`].
    pub fn pop(&mut self) -> Option<(Nanos, E)> {
        let heap = if self.far.peek() > self.near.peek() { &mut self.far } else { &mut self.near };
        let Reverse((at, _, slot)) = heap.pop()?;
        assert!(at >= self.now, "time ran backwards: {at} < {}", self.now);
        self.now = at;
        self.free.push(slot);
        let event = self.slots[slot].take().expect("an event is taken once");
        Some((at, event))
    }

    /// When the next event happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Nanos> {
        self.far.peek().max(self.near.peek()).map(|Reverse((at, ..))| *at)
    }
}

/// A delay with a long tail: usually below `2 * scale`, at times many times that. 0 if `scale` is 0.
pub fn tail(rng: &mut Rng, scale: Nanos) -> Nanos {
    if scale == 0 {
        return 0;
    }
    // The number of leading zeros is geometric: half the draws have none.
    let doublings = u64::from(rng.next_u64().leading_zeros().min(8));
    scale * doublings / 2 + rng.below(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(seed: u64, extra: bool) -> Vec<usize> {
        let mut heap = Heap::new(seed);
        for link in 0..20 {
            heap.push(5, link, link);
        }
        if extra {
            heap.push(5, 20, 99);
        }
        std::iter::from_fn(|| heap.pop()).map(|(_, event)| event).collect()
    }

    #[test]
    fn ties_are_broken_by_the_seed_and_not_by_insertion() {
        assert_eq!(drain(1, false), drain(1, false));
        assert_ne!(drain(1, false), drain(2, false));
        assert_ne!(drain(1, false), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn one_event_more_does_not_permute_the_others() {
        let with: Vec<_> = drain(7, true).into_iter().filter(|&event| event != 99).collect();
        assert_eq!(with, drain(7, false));
    }
}
