//! Linearizability of histories whose answers carry no revisions: the search of Wing and Gong as sped up by Lowe.
//!
//! (Wing & Gong 1993: "Testing and verifying concurrent objects"; Lowe 2017: "Testing for linearizability".) Calls are partitioned first,
//! then for each partition an order is searched depth first, remembering every (calls done, state) ever reached. A call that
//! leaves the state as it is is done as soon as it can be and never reconsidered, since doing it later gains nothing.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Debug};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use quorate_core::mutant::{self, Mutant};

pub mod kv;
pub mod register;

/// What a call does to a state, given how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<S> {
    /// The answer is wrong in this state.
    Wrong,
    /// The answer is right and the state stays.
    Same,
    /// The answer is right and this is the state afterwards.
    To(S),
}

/// A sequential object.
pub trait Spec {
    /// A call together with its answer, as far as it is known.
    type Op;
    /// The object between two calls.
    type State: Clone + Eq + Hash;
    /// Calls of different partitions do not bear on each other.
    type Partition: Ord + Debug;

    /// The object before the first call.
    fn initial(&self) -> Self::State;

    /// The independent part of the object that `op` is about.
    fn partition(&self, op: &Self::Op) -> Self::Partition;

    /// What `op` does. If it was not answered: what it does when it does take place.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Effect<Self::State>;
}

/// A call in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O> {
    /// What was called and answered.
    pub op: O,
    /// When it was called, on one clock for all calls.
    pub invoked: u64,
    /// When it was answered; `None` if it may take place at any later time, or never.
    pub returned: Option<u64>,
}

/// How far the search came in the partition that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The longest correct order that was found: indices of calls.
    pub longest: Vec<usize>,
    /// The call that had returned by then and fits nowhere.
    pub stuck: usize,
}

/// Why a history was not found linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no correct order.
    NotLinearizable(Counterexample),
    /// The search was given up after as many steps as were allowed.
    Undecided,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable(Counterexample { longest, stuck }) => {
                write!(f, "not linearizable: call {stuck} fits nowhere after the {} calls {longest:?}", longest.len())
            }
            Self::Undecided => write!(f, "undecided: the search was given up"),
        }
    }
}

impl std::error::Error for Failure {}

/// Whether there is an order of `calls` that `spec` agrees with, each call between its invocation and its return.
///
/// At most `steps_max` calls are tried, in all partitions together. A return at the same time as an invocation is taken to be the later one.
///
/// # Errors
/// [`Failure`] with the partition's longest correct order.
pub fn check<S: Spec>(spec: &S, calls: &[Call<S::Op>], steps_max: u64) -> Result<(), Failure> {
    let mut partitions: BTreeMap<S::Partition, Vec<usize>> = BTreeMap::new();
    for (i, call) in calls.iter().enumerate() {
        partitions.entry(spec.partition(&call.op)).or_default().push(i);
    }
    let mut left = steps_max;
    let mut searches: Vec<_> = partitions.values().map(|indices| Search::new(spec, calls, indices)).collect();
    // Turn by turn, longer and longer: one partition that fails soon must not wait for one that takes for ever.
    let mut turn = 1000;
    while !searches.is_empty() {
        let mut undecided = Vec::new();
        for mut search in searches {
            let mut steps = turn.min(left);
            left -= steps;
            if !search.run(&mut steps)? {
                undecided.push(search);
            }
            left += steps;
        }
        if left == 0 && !undecided.is_empty() {
            return Err(Failure::Undecided);
        }
        searches = undecided;
        turn *= 4;
    }
    Ok(())
}

/// The beginning or the end of a call.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Index into the partition's calls.
    call: usize,
    is_return: bool,
}

/// A call that was put into the order.
struct Frame<S> {
    /// Its invocation.
    entry: usize,
    /// The state before it; `None` if it left the state as it is, and there is no point in trying anything else instead.
    before: Option<S>,
}

/// The search in one partition.
struct Search<'c, S: Spec> {
    spec: &'c S,
    calls: &'c [Call<S::Op>],
    indices: &'c [usize],
    /// In the order of time; a doubly linked list through `next` and `prev` of those not yet in the order, entry 0 being its head.
    entries: Vec<Entry>,
    next: Vec<usize>,
    prev: Vec<usize>,
    /// The return of each call; 0 if there is none.
    returns: Vec<usize>,
    /// Answered calls not yet in the order.
    left: usize,
    state: S::State,
    done: Vec<u64>,
    order: Vec<Frame<S::State>>,
    reached: HashSet<Reached<S::State>, BuildHasherDefault<Mix>>,
    /// The entry to look at next.
    at: usize,
    longest: Option<Counterexample>,
}

/// The calls that are done, and the state they led to.
#[derive(PartialEq, Eq, Hash)]
struct Reached<S>(Box<[u64]>, S);

impl<'c, S: Spec> Search<'c, S> {
    fn new(spec: &'c S, calls: &'c [Call<S::Op>], indices: &'c [usize]) -> Self {
        let mut entries = vec![Entry { call: usize::MAX, is_return: false }];
        for (call, i) in indices.iter().enumerate() {
            entries.push(Entry { call, is_return: false });
            if calls[*i].returned.is_some() {
                entries.push(Entry { call, is_return: true });
            }
        }
        let time = |entry: &Entry| {
            let call = &calls[indices[entry.call]];
            let at = if entry.is_return { call.returned.unwrap_or(u64::MAX) } else { call.invoked };
            (at, entry.is_return, entry.call)
        };
        entries[1..].sort_unstable_by_key(time);
        let mut returns = vec![0; indices.len()];
        for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.is_return) {
            returns[entry.call] = at;
        }
        let n = entries.len();
        Self {
            spec,
            calls,
            indices,
            at: usize::from(n > 1),
            longest: None,
            next: (1..=n).map(|i| if i == n { 0 } else { i }).collect(),
            prev: (0..n).map(|i| if i == 0 { n - 1 } else { i - 1 }).collect(),
            left: returns.iter().filter(|at| **at != 0).count(),
            entries,
            returns,
            state: spec.initial(),
            done: vec![0; indices.len().div_ceil(64)],
            order: Vec::new(),
            reached: HashSet::default(),
        }
    }

    /// Searches on for so many steps, which are counted down; whether an order was found.
    fn run(&mut self, steps: &mut u64) -> Result<bool, Failure> {
        while self.left > 0 {
            let entry = self.entries[self.at];
            if entry.is_return {
                if self.longest.as_ref().is_none_or(|longest| longest.longest.len() < self.order.len()) {
                    self.longest = Some(self.counterexample(entry.call));
                }
                match self.back() {
                    Some(taken_back) => self.at = self.next[taken_back],
                    None => return Err(self.longest.take().map_or(Failure::Undecided, Failure::NotLinearizable)),
                }
                continue;
            }
            let Some(fewer) = steps.checked_sub(1) else { return Ok(false) };
            *steps = fewer;
            self.at = if self.take(self.at, entry.call) { self.next[0] } else { self.next[self.at] };
        }
        Ok(true)
    }

    /// Puts the call next in the order, if it is right there and that was not tried before.
    fn take(&mut self, entry: usize, call: usize) -> bool {
        let before = match self.spec.step(&self.state, &self.calls[self.indices[call]].op) {
            Effect::Wrong if mutant::is_on(Mutant::J14) => None,
            Effect::Wrong => return false,
            // An unanswered call without effect need not take place.
            Effect::Same if self.returns[call] == 0 => return false,
            Effect::Same => None,
            Effect::To(state) => {
                self.flip(call);
                let done = if mutant::is_on(Mutant::J15) { &[][..] } else { &self.done };
                if !self.reached.insert(Reached(done.into(), state.clone())) {
                    self.flip(call);
                    return false;
                }
                self.flip(call);
                Some(std::mem::replace(&mut self.state, state))
            }
        };
        self.flip(call);
        self.unlink(entry);
        if self.returns[call] != 0 {
            self.unlink(self.returns[call]);
            self.left -= 1;
        }
        self.order.push(Frame { entry, before });
        true
    }

    /// Takes back calls until one is reached instead of which another may be tried; its entry.
    fn back(&mut self) -> Option<usize> {
        loop {
            let Frame { entry, before } = self.order.pop()?;
            let call = self.entries[entry].call;
            if self.returns[call] != 0 {
                self.link(self.returns[call]);
                self.left += 1;
            }
            self.link(entry);
            self.flip(call);
            if let Some(before) = before {
                self.state = before;
                return Some(entry);
            }
        }
    }

    fn counterexample(&self, stuck: usize) -> Counterexample {
        let longest = self.order.iter().map(|frame| self.indices[self.entries[frame.entry].call]).collect();
        Counterexample { longest, stuck: self.indices[stuck] }
    }

    fn flip(&mut self, call: usize) {
        self.done[call / 64] ^= 1 << (call % 64);
    }

    fn unlink(&mut self, entry: usize) {
        let (prev, next) = (self.prev[entry], self.next[entry]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    /// Undoes the last [`Self::unlink`] that was not undone.
    fn link(&mut self, entry: usize) {
        let (prev, next) = (self.prev[entry], self.next[entry]);
        self.next[prev] = entry;
        self.prev[next] = entry;
    }
}

/// A fast hash without secrets, so that the same search takes the same time always.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(u64::from_le_bytes(word.try_into().expect("8 bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.write_u64(u64::from_le_bytes(last));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }
}
