//! The store of `quorate-core` and the model of this crate, written apart from each other, say the same of everything.

mod support;

use proptest::prelude::*;
use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{Lease, ResponseOp, TxnResult};
use quorate_core::rows::MemRows;
use quorate_core::store::Store;
use quorate_core::{Incarnation, LeaseId, LogIndex, NodeId, Revision, Term};
use quorate_jepsen::history::{Op, Response};
use quorate_jepsen::model::{Change, Model};
use support::{BUSY, history};

/// Nested txns' revisions are not on the wire: nobody needs to agree on them.
fn without_nested_revisions(mut txn: TxnResult) -> TxnResult {
    for response in &mut txn.responses {
        if let ResponseOp::Txn(inner) = response {
            inner.revision = Revision(0);
            *inner = without_nested_revisions(inner.clone());
        }
    }
    txn
}

fn comparable(response: Response) -> Response {
    match response {
        Response::Txn(txn) => Response::Txn(without_nested_revisions(txn)),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn store_and_model_agree(seed: u64) {
        let world = history(seed, BUSY);
        let (mut model, mut rows) = (Model::default(), MemRows::default());
        let mut store = Store::load(NodeId(1), &rows).unwrap();
        for (i, (_, operation)) in (1..).zip(world.history.operations()) {
            let command = match operation.op.clone() {
                Op::Range(request) => {
                    prop_assert_eq!(store.view().range(&rows, &request), model.range(&request), "{:?}", request);
                    Command::LeaseExpire(vec![LeaseId(1 + i as i64 % 20)])
                }
                Op::Put(put) => Command::Put(put),
                Op::DeleteRange(delete) => Command::DeleteRange(delete),
                Op::Txn(txn) => Command::Txn(txn),
                Op::Compact(revision) => Command::Compact { revision },
                Op::LeaseGrant { id, ttl } => Command::LeaseGrant(Lease { id: id.unwrap_or(LeaseId(7)), ttl }),
                Op::LeaseRevoke(id) => Command::LeaseRevoke(id),
            };
            let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: i };
            let payload = Payload::Command(codec::encode(&Envelope { origin, command: command.clone(), author: Author::Nobody }));
            let batch = store.apply(&[Entry { term: Term(1), index: LogIndex(i), payload }], &rows);
            rows.write(&batch.writes);
            let given = batch.applied.results.into_iter().next().expect("an own command is answered").1;
            let before = model.revision();
            let expected = model.apply(&command);
            let comparable = |answer| Result::map(answer, |outcome| Response::of(outcome).map(comparable));
            prop_assert_eq!(comparable(given), comparable(expected), "{:?}", command);
            // Events, with their previous states.
            let mut told = batch.events.iter().flat_map(|made| &made.events);
            for revision in before.0 + 1..=model.revision().0 {
                for change in model.kv().changes(Revision(revision)) {
                    let event = told.next().expect("an event for each change");
                    prop_assert_eq!(&event.kv.key, change.key());
                    prop_assert_eq!(event.kv.mod_revision, Revision(revision));
                    let prev = match change {
                        Change::Put { prev, .. } => prev.clone(),
                        Change::Delete { prev, .. } => Some(prev.clone()),
                    };
                    let readable = prev.is_some() && revision > model.compacted().0;
                    prop_assert!(!readable || store.view().previous(&rows, event) == prev, "{:?}", event);
                }
            }
            prop_assert!(told.next().is_none());
        }
    }
}
