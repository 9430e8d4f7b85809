//! Clients that look on while others are elected. (etcd: Observe)

use std::collections::BTreeMap;

use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::request::{KeyValue, RangeRequest, RangeResult};
use quorate_core::rng::Rng;
use quorate_core::{Blob, Revision};
use quorate_jepsen::history::Op;

use super::caller::Caller;
use super::contender::{Next, queue};
use super::ear::Ear;
use super::watcher::Told;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::wire;
use crate::world::redraw::anew;

/// A key in the queue, as an observer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    /// When its key was created.
    pub place: Revision,
    /// When it was written last.
    pub proclaimed: Revision,
}

/// What an observer saw without a gap.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The revision it began with: who leads then comes first, if anybody does.
    pub from: Revision,
    /// And the last one it was told of.
    pub through: Revision,
    /// Whoever led, one after the other, and what each proclaimed.
    pub leaders: Vec<Leader>,
}

/// One client that looks on: it sees every leader and every proclamation.
#[derive(Clone, Debug)]
pub struct Observer {
    rng: Rng,
    /// Its calls.
    pub caller: Caller,
    /// Its watch.
    pub ear: Option<Ear>,
    /// Everything it saw.
    pub sights: Vec<Sight>,
    /// Which of its plans is the latest one.
    pub plan: u64,
    places: BTreeMap<Blob, Leader>,
    connections: u64,
}

impl Observer {
    /// An observer that begins with `member`.
    #[must_use]
    pub fn new(rng: Rng, member: usize) -> Self {
        Self {
            rng,
            caller: Caller::new(member),
            ear: None,
            sights: Vec::new(),
            plan: 0,
            places: BTreeMap::new(),
            connections: 0,
        }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// What to do next.
    pub fn next(&mut self, is_last: bool) -> Next {
        let Some(ear) = &self.ear else {
            let serializable = self.rng.chance(1, 3);
            return Next::Ask(Op::Range(RangeRequest { serializable, ..RangeRequest::new(queue()) }));
        };
        if !ear.connected || (!is_last && self.rng.chance(1, 8)) {
            return Next::Listen;
        }
        Next::Rest(self.think())
    }

    /// It read the queue, and watches from there on.
    pub fn read(&mut self, result: RangeResult) {
        let RangeResult { revision, kvs, .. } = result;
        let known = |kv: KeyValue| (kv.key, Leader { place: kv.create_revision, proclaimed: kv.mod_revision });
        self.places = kvs.into_iter().map(known).collect();
        let leaders = self.leader().into_iter().collect();
        self.sights.push(Sight { from: revision, through: revision, leaders });
        self.connections += 1;
        self.ear = Some(Ear::new(queue(), revision.next(), self.connections));
    }

    fn leader(&self) -> Option<Leader> {
        self.places.values().min().copied()
    }

    /// It opens its watch on a member; gives what to send.
    pub fn listen(&mut self, member: usize) -> Option<(u64, pb::WatchRequest)> {
        self.connections += 1;
        let connection = self.connections;
        Some((connection, self.ear.as_mut()?.connect(member, connection)))
    }

    /// What its watch told.
    pub fn told(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Created { .. } => {}
                Told::Compacted(_) => self.ear = None,
                Told::Progress(through) => {
                    let sight = self.sights.last_mut().expect("it read before it watched");
                    sight.through = sight.through.max(through);
                }
                Told::Events { events, .. } => {
                    for change in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
                        self.see(change);
                    }
                }
            }
        }
    }

    /// One revision changed this.
    fn see(&mut self, change: &[mvccpb::Event]) {
        for event in change {
            let Some(kv) = event.kv.clone() else { continue };
            let kv = wire::key_value(kv);
            if event.r#type == mvccpb::event::EventType::Delete as i32 {
                self.places.remove(&kv.key);
            } else {
                self.places.insert(kv.key, Leader { place: kv.create_revision, proclaimed: kv.mod_revision });
            }
        }
        let leader = self.leader();
        let sight = self.sights.last_mut().expect("it read before it watched");
        sight.through = revision_of(&change[0]);
        if let Some(leader) = leader.filter(|leader| sight.leaders.last() != Some(leader)) {
            sight.leaders.push(leader);
        }
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        300 * MILLI + self.rng.below(4 * SECOND)
    }

    /// How long to think.
    pub fn think(&mut self) -> Nanos {
        50 * MILLI + self.rng.below(2 * SECOND)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.caller.move_on(&mut self.rng, members);
    }
}

fn revision_of(event: &mvccpb::Event) -> Revision {
    Revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}
