//! The store against a model too simple to be wrong, and against itself: batched, restarted and cleaned differently.

#[path = "store_model/any.rs"]
mod any;
#[path = "store_model/members.rs"]
mod members;
#[path = "store_model/model.rs"]
mod model;

use any::{Step, any_steps};
use model::Model;
use proptest::prelude::*;
use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin, Outcome};
use quorate_core::entry::{Entry, Payload};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::rows::MemRows;
use quorate_core::store::{Batch, Event, KvHash, Store, View};
use quorate_core::{Incarnation, LogIndex, NodeId, Revision, Term};

/// One member: its store and its backend.
struct Replica {
    store: Store,
    rows: MemRows,
    /// Committed, not yet applied.
    waiting: Vec<Entry>,
}

impl Replica {
    fn new(member: u64) -> Self {
        let rows = MemRows::default();
        Self { store: Store::load(NodeId(member), &rows).unwrap(), rows, waiting: Vec::new() }
    }

    fn apply_waiting(&mut self) -> Batch {
        let entries = std::mem::take(&mut self.waiting);
        let batch = self.store.apply(&entries, &self.rows);
        self.rows.write(&batch.writes);
        batch
    }

    fn clean(&mut self, keys: usize, pin: Option<i64>) -> bool {
        let slice = self.store.compact_slice(&self.rows, keys, pin.map(Revision));
        self.rows.write(&slice.writes);
        slice.finished
    }

    /// Everything in memory is rebuilt from the rows.
    fn restart(&mut self, member: u64) {
        let all =
            |store: &Store| (store.applied(), store.hash(), store.leases(), store.members(), store.feature_level());
        let before = all(&self.store);
        self.store = Store::load(NodeId(member), &self.rows).unwrap();
        assert_eq!(before, all(&self.store));
        self.store.check_deep(&self.rows);
    }
}

/// A view kept for later, with the backend as of its publication and what it must answer.
struct Kept {
    view: View,
    rows: MemRows,
    model: Model,
}

struct Run {
    model: Model,
    /// Applies each entry on its own and is compared with the model.
    eager: Replica,
    /// Applies in batches, restarts and cleans on its own.
    lazy: Replica,
    eager_results: Vec<(Origin, Result<Outcome, Error>)>,
    lazy_results: Vec<(Origin, Result<Outcome, Error>)>,
    sent: Vec<Payload>,
    index: u64,
    kept: Vec<Kept>,
    turn: usize,
}

impl Run {
    fn step(&mut self, step: &Step) {
        self.turn += 1;
        match step {
            Step::Apply { member, command } => self.propose(*member, command),
            Step::Again(back) => {
                if let Some(at) = self.sent.len().checked_sub(1 + back) {
                    let batch = self.commit(self.sent[at].clone());
                    assert!(batch.applied.results.is_empty() && batch.events.is_empty(), "a duplicate was applied");
                }
            }
            Step::Nothing => {
                self.commit(Payload::Empty);
            }
            Step::Read(request) => self.each_view(|Kept { view, rows, model }| {
                let expected = model.readable(request.revision);
                let expected = expected.map(|()| model.range(model.newest(), model.revision(), request));
                assert_eq!(view.range(rows, request), expected, "{request:?}");
            }),
            Step::ReadTxn(txn) => self.each_view(|Kept { view, rows, model }| {
                assert_eq!(view.txn(rows, txn), model.read_txn(txn), "{txn:?}");
            }),
            Step::History { from, bytes_max } => self.each_view(|kept| {
                history(kept, *from, *bytes_max);
                history(kept, kept.model.floor.max(0), *bytes_max);
                // Events as they were published, asked about later.
                for event in kept.model.events.values().flatten() {
                    assert_eq!(kept.view.previous(&kept.rows, event), kept.model.previous(event), "{event:?}");
                }
            }),
            Step::KeepView => {
                let kept = self.newest();
                self.kept.push(kept);
            }
            Step::Clean { keys, pin } => {
                self.lazy.clean(*keys, *pin);
                if self.turn.is_multiple_of(2) {
                    self.eager.clean(*keys, *pin);
                }
            }
            Step::Restart => {
                self.lazy_batch();
                self.lazy.restart(2);
                if self.turn.is_multiple_of(2) {
                    self.eager.restart(1);
                }
            }
            Step::EndBatch => self.lazy_batch(),
        }
        let newest = self.newest();
        state(&newest, &self.eager.store);
    }

    fn propose(&mut self, member: u64, command: &Command) {
        let sequence = self.sent.len() as u64;
        // A new life now and then, more than are kept apart.
        let origin = Origin { member: NodeId(member), incarnation: Incarnation(sequence / 4), sequence };
        let payload =
            Payload::Command(codec::encode(&Envelope { origin, command: command.clone(), author: Author::Nobody }));
        self.sent.push(payload.clone());
        let (revision, expected) = (self.model.revision(), self.model.apply(command));
        let batch = self.commit(payload);
        let own = (member == 1).then_some((origin, expected));
        assert_eq!(batch.applied.results, own.into_iter().collect::<Vec<_>>(), "{command:?}");
        let made: Vec<_> = self.model.events.range(revision + 1..).map(|(_, events)| events.clone()).collect();
        assert_eq!(batch.events.iter().map(|made| made.events.clone()).collect::<Vec<_>>(), made, "{command:?}");
    }

    fn commit(&mut self, payload: Payload) -> Batch {
        self.index += 1;
        let entry = Entry { term: Term(1), index: LogIndex(self.index), payload };
        self.lazy.waiting.push(entry.clone());
        self.eager.waiting.push(entry);
        let batch = self.eager.apply_waiting();
        self.eager_results.extend(batch.applied.results.clone());
        batch
    }

    fn lazy_batch(&mut self) {
        let batch = self.lazy.apply_waiting();
        self.lazy_results.extend(batch.applied.results);
        assert_eq!(self.lazy.store.hash(), self.eager.store.hash(), "the state hash depends on batches");
        assert_eq!(self.lazy.store.view().logical_bytes(), self.eager.store.view().logical_bytes());
    }

    /// The keys' hash at some revisions, on both.
    fn hashes(&self) -> Vec<Result<KvHash, Error>> {
        let revisions = [None, Some(self.model.floor), Some(self.model.floor + 1), Some(self.model.revision() - 1)];
        let of = |replica: &Replica| {
            let hash = |revision: &Option<i64>| replica.store.view().hash_kv(&replica.rows, revision.map(Revision));
            revisions.iter().map(hash).collect::<Vec<_>>()
        };
        assert_eq!(of(&self.eager), of(&self.lazy));
        of(&self.eager)
    }

    fn newest(&self) -> Kept {
        Kept { view: self.eager.store.view(), rows: self.eager.rows.clone(), model: self.model.clone() }
    }

    fn each_view(&self, check: impl Fn(&Kept)) {
        check(&self.newest());
        self.kept.iter().for_each(check);
    }

    fn finish(mut self) {
        self.lazy_batch();
        let hashes = self.hashes();
        for replica in [&mut self.eager, &mut self.lazy] {
            replica.store.check_deep(&replica.rows);
            while !replica.clean(3, None) {}
            replica.store.check_deep(&replica.rows);
        }
        let rows =
            |replica: &Replica| replica.rows.iter().map(|(key, row)| (key.to_vec(), row.clone())).collect::<Vec<_>>();
        assert_eq!(rows(&self.eager), rows(&self.lazy), "cleaned members keep the same rows");
        assert_eq!(hashes, self.hashes(), "what compaction has removed does not count");
        // Everything written but removed is gone: what is left weighs what the ledger says.
        let kept: usize = self.eager.store.view().history_bytes(&self.eager.rows);
        let kept = kept + 64 * self.eager.store.leases().len();
        assert_eq!(kept as u64, self.eager.store.view().logical_bytes());
        let of = |member: u64, results: &[(Origin, _)]| results.iter().all(|(origin, _)| origin.member.0 == member);
        assert!(of(1, &self.eager_results) && of(2, &self.lazy_results));
        self.eager.restart(1);
        self.lazy.restart(2);
        self.each_view(|kept| history(kept, 0, u64::MAX));
    }
}

/// The record rows' own account of what is kept, but for tombstones at the floor.
trait HistoryBytes {
    fn history_bytes(&self, rows: &MemRows) -> usize;
}

impl HistoryBytes for View {
    fn history_bytes(&self, rows: &MemRows) -> usize {
        // A value row's key ends in 12 bytes of revision after an escaped key; a record's row ends in the key itself.
        // So count records (tag 10) by what their keys and values weigh, independently of the store's own reading.
        let floor = self.compacted().0.to_be_bytes();
        let counts = |key: &[u8], row: &[u8]| key[0] == 0x10 && (row[0] & 1 != 0 || key[1..9] != floor);
        let records = rows.iter().filter(|(key, row)| counts(key, row)).count();
        let values: usize = rows.iter().filter(|(key, _)| matches!(key[0], 0x20 | 0x21)).map(|(_, v)| v.len()).sum();
        let keys: usize = rows.iter().filter(|(key, row)| counts(key, row)).map(|(_, row)| key_in_record(row)).sum();
        records * 64 + values + keys
    }
}

fn key_in_record(row: &[u8]) -> usize {
    let mut at = 1;
    let leb = |at: &mut usize| {
        while row[*at] >= 0x80 {
            *at += 1;
        }
        *at += 1;
    };
    leb(&mut at);
    if row[0] & 1 != 0 {
        (0..3).for_each(|_| leb(&mut at));
        at += 8;
    }
    if row[0] & 2 != 0 {
        at += 8;
    }
    row.len() - at
}

fn state(Kept { view, model, .. }: &Kept, store: &Store) {
    assert_eq!((view.revision().0, view.compacted().0), (model.revision(), model.floor));
    assert_eq!(view.logical_bytes(), model.logical_bytes());
    assert_eq!(view.downgrade(), model.downgrade.as_deref());
    assert!(view.alarms().eq(model.alarms.iter().copied()));
    let leases: Vec<_> = store.leases().into_iter().map(|l| (l.lease.id.0, (l.lease.ttl, l.remaining))).collect();
    assert_eq!(leases, model.leases.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(view.lease_ids().len(), leases.len());
    for id in view.lease_ids() {
        assert_eq!(view.lease(id).unwrap().1, model.keys_of(id));
    }
}

fn history(Kept { view, rows, model }: &Kept, from: i64, bytes_max: u64) {
    let (from, through) = (Revision(from), Revision(model.revision()));
    if from.0 < model.floor {
        let error = Error::Compacted { oldest: Revision(model.floor) };
        assert_eq!(view.history(rows, from, through, bytes_max, true), Err(error));
        return;
    }
    let (mut found, mut next) = (Vec::new(), from);
    let with_previous = bytes_max % 2 == 1;
    let weight = |event: &Event| {
        let previous = event.previous.filter(|_| with_previous);
        let previous = previous.map_or(0, |_| 64 + event.kv.key.len() as u64 + u64::from(event.previous_bytes));
        64 + event.kv.key.len() as u64 + event.kv.value.len() as u64 + previous
    };
    while next <= through {
        let (events, last) = view.history(rows, next, through, bytes_max, with_previous).unwrap();
        assert!(last >= next, "no progress from {next}");
        let but_the_last = events.split_last().map_or(&events[..], |(_, rest)| rest);
        let bytes: u64 = but_the_last.iter().flat_map(|revision| &revision.events).map(weight).sum();
        assert!(bytes <= bytes_max, "went on after {bytes} of {bytes_max} bytes");
        found.extend(events);
        next = last.next();
    }
    assert_eq!(found, model.history(from.0));
    for event in found.iter().flat_map(|revision| &revision.events) {
        assert_eq!(view.previous(rows, event), model.previous(event));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn store_agrees_with_the_model(steps in any_steps()) {
        let mut run = Run {
            model: Model::new(),
            eager: Replica::new(1),
            lazy: Replica::new(2),
            eager_results: Vec::new(),
            lazy_results: Vec::new(),
            sent: Vec::new(),
            index: 0,
            kept: Vec::new(),
            turn: 0,
        };
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}
