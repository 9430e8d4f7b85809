//! The state hash tells any two histories apart whose effects differ, and stays the same over versions of this program.

#[path = "store_scenarios/language.rs"]
#[allow(dead_code, reason = "only requests are needed here")]
mod language;

use std::collections::BTreeMap;

use quorate_core::auth::Author;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Configuration, Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{Member, MemberChange};
use quorate_core::rows::MemRows;
use quorate_core::store::Store;
use quorate_core::{FeatureLevel, Incarnation, LogIndex, NodeId, Term};

const BEFORE: [&str; 7] = ["grant 1 60", "grant 2 60", "put a 1", "put b 2 lease=1", "del a", "put c 3", "put c 4"];

fn hash(commands: impl IntoIterator<Item = Command>) -> u64 {
    let rows = MemRows::default();
    let (mut store, mut rows) = (Store::load(NodeId(1), &rows).unwrap(), rows);
    let before = BEFORE.iter().map(|text| language::command(text));
    for command in before.chain(commands) {
        let index = store.applied().0.next();
        let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
        let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Nobody }));
        let batch = store.apply(&[Entry { term: Term(1), index, payload }], &rows);
        rows.write(&batch.writes);
    }
    store.hash()
}

#[test]
fn histories_with_different_effects_have_different_hashes() {
    let texts = [
        "put d 1",
        "put d 2",
        "put e 1",
        "put d 1 lease=1",
        "put d 1 lease=2",
        "put c 4",
        "put b 2",
        "put b 2 keep-lease",
        "put b 2 lease=404",
        "put nothing keep-value",
        "del b",
        "del c",
        "del b..d",
        "del nothing",
        "txn ? put d 1; put e 1",
        "txn ? put e 1; put d 1",
        "txn version(c)=7 ? : put d 1",
        "txn value(c)=4 ? put d 1",
        "txn value(b)=2 ? put d 1",
        "txn ? get c rev=99",
        "compact 2",
        "compact 3",
        "compact 99",
        "grant 3 60",
        "grant 3 61",
        "user u password=h1",
        "user u password=h2",
        "user u no-password",
        "user v no-password",
        "role r",
        "role s",
        "role ''",
        "give u r",
        "open u 1 s",
        "grant 4 60",
        "grant 1 60",
        "revoke 1",
        "revoke 2",
        "checkpoint 1 30",
        "checkpoint 1 31",
        "checkpoint 1 -",
        "checkpoint 2 30",
        "raise nospace 1",
        "raise nospace 2",
        "raise corrupt 1",
        "raise fenced 1",
        "downgrade 3.6.0",
        "downgrade 3.5.0",
        "downgrade -",
    ];
    let mut seen = BTreeMap::new();
    for text in texts {
        let other = seen.insert(hash([language::command(text)]), text);
        assert_eq!(other, None, "{text} hashes like");
    }
    let member = |name: &str| {
        let (peer_urls, client_urls) = (Vec::new(), Vec::new());
        Member { id: NodeId(1), name: name.into(), peer_urls, client_urls, is_learner: false }
    };
    let found = |name| Command::Members(MemberChange::Found(vec![member(name)]));
    let second = Command::Members(MemberChange::Add {
        member: Member { id: NodeId(2), ..member("") },
        learners_max: 1,
        strict: false,
    });
    let update = |url: &str| Command::Members(MemberChange::Update { id: NodeId(1), peer_urls: vec![url.into()] });
    let remove = Command::Members(MemberChange::Remove { id: NodeId(2), strict: false });
    let histories = [
        vec![found("n1")],
        vec![found("n2")],
        vec![found("n1"), Command::Publish(member("n2"))],
        vec![found("n1"), second.clone()],
        vec![found("n1"), second, remove],
        vec![found("n1"), update("a")],
        vec![found("n1"), update("b")],
        vec![Command::RaiseFeatureLevel(FeatureLevel(1))],
    ];
    for commands in histories {
        let other = seen.insert(hash(commands.clone()), "command");
        assert_eq!(other, None, "{commands:?}");
    }
}

#[test]
fn the_hash_of_a_history_never_changes() {
    let after = ["txn value(b)=2 ? put d 1; del c : put e 1", "checkpoint 1 30", "compact 5", "expire 1 2"];
    assert_eq!(hash(after.map(language::command)), 0x7ce5_15b3_f891_c787);
}

/// However entries fall into batches, their hashes are the same.
#[test]
fn every_entry_has_its_hash() {
    let entries: Vec<Entry> = (1..=400)
        .map(|index| {
            let payload = if index % 2 == 0 { Payload::Empty } else { Payload::Config(Configuration::default()) };
            Entry { term: Term(1), index: LogIndex(index), payload }
        })
        .collect();
    let rows = MemRows::default();
    let mut expected = None;
    for batch in [1, 7, 128, 1000] {
        let mut store = Store::load(NodeId(1), &rows).unwrap();
        let batches = entries.chunks(batch).map(|entries| store.apply(entries, &rows).applied);
        let hashes: Vec<(LogIndex, u64)> = batches.flat_map(|applied| applied.hashes).collect();
        let indices: Vec<u64> = hashes.iter().map(|(index, _)| index.0).collect();
        assert!(indices.into_iter().eq(1..=400));
        assert_eq!(*expected.get_or_insert(hashes.clone()), hashes, "batches of {batch}");
    }
}
