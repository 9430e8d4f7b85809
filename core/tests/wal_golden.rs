//! The write-ahead log's bytes stay what they are: `testdata/wal/small.txt` holds two segments, byte for byte.
//!
//! `UPDATE=1 cargo test` rewrites the file; a change of it is a change of the format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quorate_core::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Standing};
use quorate_core::format::wal::{Checkpoint, Damage, Recovery, Segment};
use quorate_core::{ClusterId, Generation, Incarnation, LogIndex, NodeId, Term};

fn config() -> Configuration {
    Configuration { voters: BTreeMap::from([(NodeId(1), Incarnation(5))]), ..Configuration::default() }
}

fn entry(index: u64) -> Record {
    Record::Entry(Entry { term: Term(2), index: LogIndex(index), payload: Payload::Command("put".into()) })
}

fn small_log() -> (Vec<u8>, Vec<u8>) {
    let identity =
        Identity { cluster: ClusterId(3), member: NodeId(1), incarnation: Incarnation(5), standing: Standing::Trusted };
    let mut checkpoint = Checkpoint::new(identity, HardState::default(), config());
    let (mut segment, mut first) = Segment::begin(1, 0, &checkpoint);
    let hard_state = HardState { term: Term(2), vote: Some(NodeId(1)), commit: LogIndex(0) };
    for record in [Record::HardState(hard_state), entry(1), entry(2)] {
        checkpoint.apply(&record).unwrap();
        segment.frame(&record, &mut first);
        segment.synced();
    }
    segment.mark(&mut first);

    let (mut segment, mut second) = Segment::begin(2, segment.end(), &checkpoint);
    let compact = Record::Compact { index: LogIndex(1), term: Term(2), config: config() };
    let generation = Generation(1);
    let snapshot = Record::Snapshot { index: LogIndex(9), term: Term(2), config: config(), generation };
    for record in [compact, snapshot, entry(10)] {
        segment.frame(&record, &mut second);
    }
    (first, second)
}

fn dump(bytes: &[u8]) -> String {
    bytes.chunks(16).enumerate().fold(String::new(), |mut text, (line, bytes)| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:04x}  {}", line * 16, hex.join(" ")).unwrap();
        text
    })
}

#[test]
fn a_small_log_keeps_its_bytes() {
    let (first, second) = small_log();
    let text = format!(
        "# 0000000000000001.wal: checkpoint, hard state, entries 1 and 2, a mark; each frame synced before the next\n{}\n\
         # 0000000000000002.wal: checkpoint, compaction at 1, snapshot at 9 into generation 1, entry 10; never synced\n{}",
        dump(&first),
        dump(&second)
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/wal/small.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());

    let mut recovery = Recovery::new();
    recovery.segment(1, &first, false).unwrap();
    recovery.segment(2, &second, true).unwrap();
    let found = recovery.finish().unwrap();
    assert_eq!((found.sequence, found.end as usize), (2, second.len()));
    assert_eq!(found.recovered.hard_state.term, Term(2));
    assert_eq!(found.recovered.start_index, LogIndex(9));
    assert_eq!(found.recovered.generation, Generation(1));
    assert_eq!(found.recovered.entries.len(), 1);
}

#[test]
fn a_newer_format_is_refused_and_not_called_damage() {
    let (mut first, _) = small_log();
    first[8] = 2;
    assert_eq!(Recovery::new().segment(1, &first, true), Err(Damage::Newer { segment: 1, version: 2 }));
}

#[test]
fn every_flipped_bit_of_a_marked_log_is_found() {
    let (first, _) = small_log();
    let whole = {
        let mut recovery = Recovery::new();
        recovery.segment(1, &first, true).unwrap();
        recovery.finish().unwrap()
    };
    let mark = first.len() - 16;
    for bit in 0..8 * mark {
        let mut bytes = first.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut recovery = Recovery::new();
        let result = recovery.segment(1, &bytes, true).and_then(|()| recovery.finish());
        // What may be flipped unnoticed is padding, which says nothing.
        assert!(result.is_err() || result == Ok(whole.clone()), "bit {bit}");
    }
}
