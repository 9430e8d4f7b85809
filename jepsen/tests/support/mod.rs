//! Correct histories: random clients of the model, interleaved at random, some of whose answers are lost.
#![allow(dead_code, missing_docs, unreachable_pub)]

use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::request::*;
use quorate_core::rng::Rng;
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{History, Op, OpId, Response, Sighting};
use quorate_jepsen::model::{Change, Model};

/// What histories to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub clients: u64,
    pub operations: usize,
    pub keys: u64,
    /// Of 100 operations, how many are of unknown outcome; half of them happen all the same.
    pub unknown_percent: u64,
    /// Of 100 changes, how many are seen by a watcher.
    pub seen_percent: u64,
    /// Puts write values that nobody else writes.
    pub unique_values: bool,
    pub leases: bool,
    pub compaction: bool,
}

pub const BUSY: Shape = Shape {
    clients: 6,
    operations: 300,
    keys: 8,
    unknown_percent: 8,
    seen_percent: 30,
    unique_values: false,
    leases: true,
    compaction: true,
};

/// A client's operation under way.
enum Pending {
    Idle,
    Invoked(OpId),
    Executed(OpId, Result<Response, Error>),
}

pub struct World {
    pub rng: Rng,
    pub model: Model,
    pub history: History,
    shape: Shape,
    now: u64,
    values: u64,
}

/// A correct history, with the model that made it.
pub fn history(seed: u64, shape: Shape) -> World {
    let model = Model::new(Ttl(2));
    let mut world = World { rng: Rng::new(seed), model, history: History::new(), shape, now: 0, values: 0 };
    let mut clients: Vec<Pending> = (0..shape.clients).map(|_| Pending::Idle).collect();
    // Operations given up by their clients that will happen all the same.
    let mut late: Vec<OpId> = Vec::new();
    while world.history.operations().count() < shape.operations {
        world.now += world.below(3);
        let client = usize::try_from(world.below(shape.clients)).unwrap();
        clients[client] = match std::mem::replace(&mut clients[client], Pending::Idle) {
            Pending::Idle => {
                let op = world.any_op();
                Pending::Invoked(world.history.invoke(client as u64, world.now, op))
            }
            Pending::Invoked(id) if world.percent(shape.unknown_percent) => {
                world.history.unknown(id);
                if world.percent(50) {
                    late.push(id);
                }
                Pending::Idle
            }
            Pending::Invoked(id) if world.percent(2) => {
                world.history.fail(id, world.now);
                Pending::Idle
            }
            Pending::Invoked(id) => {
                let answer = world.execute(id);
                Pending::Executed(id, answer)
            }
            Pending::Executed(id, answer) => {
                match answer {
                    _ if world.percent(shape.unknown_percent / 2) => world.history.unknown(id),
                    answer => world.history.answer(id, world.now, answer),
                }
                Pending::Idle
            }
        };
        if !late.is_empty() && world.percent(10) {
            let i = usize::try_from(world.below(late.len() as u64)).unwrap();
            let id = late.swap_remove(i);
            let _ = world.execute(id);
        }
        if shape.leases && world.percent(2) {
            let leases: Vec<LeaseId> = world.model.leases().keys().copied().collect();
            if let Some(lease) = world.pick(&leases) {
                world.apply(&Command::LeaseExpire(vec![lease])).unwrap();
            }
        }
    }
    world
}

impl World {
    pub fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n.max(1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[usize::try_from(self.below(of.len() as u64)).unwrap()]) }
    }

    fn apply(&mut self, command: &Command) -> Result<quorate_core::command::Outcome, Error> {
        let before = self.model.revision();
        let outcome = self.model.apply(command);
        for revision in before.0 + 1..=self.model.revision().0 {
            let changed = self.model.kv().changes(Revision(revision)).to_vec();
            if self.shape.seen_percent == 100 {
                let changes = u32::try_from(changed.len()).unwrap();
                self.history.saw(self.now, Sighting::Whole { revision: Revision(revision), changes });
            }
            for change in changed {
                if self.percent(self.shape.seen_percent) {
                    let sighting = match change {
                        Change::Put { kv, .. } => Sighting::Put(kv),
                        Change::Delete { revision, prev } => Sighting::Delete { key: prev.key, revision },
                    };
                    self.history.saw(self.now, sighting);
                }
            }
        }
        outcome
    }

    fn execute(&mut self, id: OpId) -> Result<Response, Error> {
        let command = match self.history.get(id).op.clone() {
            Op::Range(range) => {
                // A serializable read may be of any earlier state.
                let now = self.model.revision().0;
                let lag = if range.serializable { self.below(4) as i64 } else { 0 };
                let at = Revision((now - lag).max(self.model.compacted().0).max(1));
                self.model.kv().check_range(&range, at, self.model.compacted())?;
                return Ok(Response::Range(self.model.kv().range(&range, at)));
            }
            Op::Put(put) => Command::Put(put),
            Op::DeleteRange(delete) => Command::DeleteRange(delete),
            Op::Txn(txn) => Command::Txn(txn),
            Op::Compact(revision) => Command::Compact { revision },
            Op::LeaseGrant { id, ttl } => {
                let id = id.unwrap_or_else(|| LeaseId(1000 + self.below(1 << 40) as i64));
                Command::LeaseGrant(Lease { id, ttl })
            }
            Op::LeaseRevoke(id) => Command::LeaseRevoke(id),
        };
        self.apply(&command).map(|outcome| Response::of(outcome).unwrap())
    }

    pub fn any_op(&mut self) -> Op {
        match self.below(20) {
            0..6 => Op::Put(self.put()),
            6..9 => Op::DeleteRange(DeleteRangeRequest { range: self.range(), prev_kv: self.percent(50) }),
            9..12 => Op::Txn(self.txn(2)),
            12..17 => Op::Range(self.range_request()),
            17 if self.shape.compaction => Op::Compact(Revision(self.model.revision().0 - self.below(9) as i64 + 1)),
            18 if self.shape.leases => {
                let id = LeaseId(1 + self.below(4) as i64);
                let id = Some(id).filter(|_| self.percent(80));
                Op::LeaseGrant { id, ttl: Ttl(self.below(5) as i64) }
            }
            19 if self.shape.leases => Op::LeaseRevoke(self.lease()),
            _ => Op::Put(self.put()),
        }
    }

    fn key(&mut self) -> Blob {
        Blob::copy(format!("k{}", self.below(self.shape.keys)).as_bytes())
    }

    /// One of those that are named by who asks for them, or one from a list: its grant may not have been answered.
    fn lease(&mut self) -> LeaseId {
        let listed: Vec<LeaseId> = self.model.leases().keys().copied().collect();
        let listed = if self.percent(30) { self.pick(&listed) } else { None };
        listed.unwrap_or_else(|| LeaseId(1 + self.below(4) as i64))
    }

    fn value(&mut self) -> Blob {
        self.values += 1;
        let value = if self.shape.unique_values { self.values } else { self.below(3) };
        Blob::copy(format!("v{value}").as_bytes())
    }

    fn range(&mut self) -> KeyRange {
        match self.below(4) {
            0 => KeyRange::Bounded { start: self.key(), end: self.key() },
            1 if self.percent(30) => KeyRange::From(self.key()),
            _ => KeyRange::Key(self.key()),
        }
    }

    fn put(&mut self) -> PutRequest {
        let lease = self.shape.leases && self.percent(25);
        let lease = lease.then(|| self.lease());
        let ignore_value = self.percent(5);
        let ignore_lease = lease.is_none() && self.percent(5);
        let value = if ignore_value { Blob::EMPTY } else { self.value() };
        PutRequest { key: self.key(), value, lease, prev_kv: self.percent(50), ignore_value, ignore_lease }
    }

    fn range_request(&mut self) -> RangeRequest {
        let now = self.model.revision().0;
        let mut request = RangeRequest::new(self.range());
        request.limit = if self.percent(30) { self.below(4) } else { 0 };
        request.revision = self.percent(20).then(|| Revision((now - self.below(12) as i64 + 2).max(1)));
        request.sort_order = self.pick(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]).unwrap();
        let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        request.sort_target = self.pick(&targets).unwrap();
        request.serializable = self.percent(20);
        request.keys_only = self.percent(10);
        request.count_only = self.percent(10);
        if self.percent(10) {
            request.min_mod_revision = Revision(self.below(now as u64) as i64);
        }
        if self.percent(10) {
            request.max_create_revision = Revision(self.below(now as u64) as i64);
        }
        request
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let compare = (0..self.below(3)).map(|_| self.compare()).collect();
        // Two puts of one key in one txn are refused before they reach the store.
        let mut keys = Vec::new();
        let success = self.ops(depth, &mut keys);
        keys.clear();
        let failure = self.ops(depth, &mut keys);
        TxnRequest { compare, success, failure }
    }

    fn ops(&mut self, depth: u32, keys: &mut Vec<Blob>) -> Vec<RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..self.below(4) {
            match self.below(6) {
                0 | 1 => {
                    let put = self.put();
                    if !keys.contains(&put.key) {
                        keys.push(put.key.clone());
                        ops.push(RequestOp::Put(put));
                    }
                }
                2 => {
                    let key = self.key();
                    if !keys.contains(&key) {
                        keys.push(key.clone());
                        let prev_kv = self.percent(50);
                        ops.push(RequestOp::DeleteRange(DeleteRangeRequest { range: KeyRange::Key(key), prev_kv }));
                    }
                }
                3 if depth > 0 => {
                    let compare = (0..self.below(2)).map(|_| self.compare()).collect();
                    let success = self.ops(depth - 1, keys);
                    let failure = self.ops(depth - 1, keys);
                    ops.push(RequestOp::Txn(TxnRequest { compare, success, failure }));
                }
                _ => ops.push(RequestOp::Range(self.range_request())),
            }
        }
        ops
    }

    fn compare(&mut self) -> Compare {
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        let number = self.below(4) as i64;
        let target = match self.below(5) {
            0 => CompareTarget::Version(number),
            1 => CompareTarget::Create(Revision(number)),
            2 => CompareTarget::Mod(Revision(self.model.revision().0 - number)),
            3 => CompareTarget::Value(self.value()),
            _ => CompareTarget::Lease(number),
        };
        Compare { range: self.range(), result: self.pick(&results).unwrap(), target }
    }
}
