//! The fuzz targets' bodies: plain functions from bytes to nothing, or a panic.
//!
//! `core/tests/fuzz_corpus.rs` includes this file and runs every body on its committed corpus (`corpus/<target>/`) and on
//! small changes of it, so that ordinary tests keep what fuzzing found.

use core::time::Duration;

use bytes::Bytes;
use quorate_core::command::Envelope;
use quorate_core::entry::{
    Configuration, Entry, FEATURE_LEVEL, HardState, Identity, Payload, Record, Recovered, Standing,
};
use quorate_core::format::codec;
use quorate_core::format::wal::{Checkpoint, Damage, Found, Recovery, Remains, Segment};
use quorate_core::replica::{self, Input, Output, PeerMessage, Replica};
use quorate_core::{ClusterId, Generation, Incarnation, Instant, LogIndex, NodeId, Term, raft};

/// `bytes` are a segment file: whatever they are, it is read or called damaged.
pub fn wal(bytes: &[u8]) {
    let mut recovery = Recovery::new();
    if recovery.segment(1, bytes, true).is_ok() {
        let found = recovery.finish();
        assert!(!matches!(found, Err(Damage::Empty)), "a segment was read");
        if let Ok(found) = found {
            assert!(found.proven <= found.end && found.end as usize <= bytes.len());
        }
    }
    let _ = Remains::of([(1, bytes.to_vec())]);
}

/// `bytes` are an encoded list of records, then how to damage the segment they are written to. Without damage the log
/// reads back as written; with it, as a prefix of that, or it is called damaged.
pub fn records(bytes: &[u8]) {
    let (damage, records) = bytes.split_at(bytes.len().min(6));
    let Ok(records) = codec::decode_copying::<Vec<Record>>(records) else { return };
    let identity =
        Identity { cluster: ClusterId(1), member: NodeId(1), incarnation: Incarnation(1), standing: Standing::Trusted };
    let mut checkpoint = Checkpoint::new(identity, HardState::default(), Configuration::default());
    let (mut segment, mut file) = Segment::begin(1, 0, &checkpoint);
    let mut states = vec![checkpoint.clone()];
    let mut sensible = true;
    for record in &records {
        segment.frame(record, &mut file);
        if record_is_synced(record) {
            segment.synced();
        }
        sensible &= checkpoint.apply(record).is_ok();
        if sensible {
            states.push(checkpoint.clone());
        }
    }
    match read(&file) {
        Ok(found) => assert!(sensible && found.checkpoint == checkpoint && found.end as usize == file.len()),
        Err(error) => assert!(!sensible && matches!(error, Damage::Impossible { .. }), "{error}"),
    }

    let [kind, value, at @ ..] = damage else { return };
    let Some(at) = at.iter().fold(0_usize, |at, byte| at << 8 | usize::from(*byte)).checked_rem(file.len()) else {
        return;
    };
    match kind % 3 {
        0 => file.truncate(at),
        1 => file[at] ^= value,
        _ => file[at..].iter_mut().take(4096).for_each(|byte| *byte = *value),
    }
    if let Ok(found) = read(&file) {
        assert!(states.contains(&found.checkpoint), "not a prefix of what was written");
    }
}

/// Some records are followed by a sync, so that tails and damage both occur.
fn record_is_synced(record: &Record) -> bool {
    matches!(record, Record::HardState(_) | Record::Compact { .. })
}

fn read(file: &[u8]) -> Result<Found, Damage> {
    let mut recovery = Recovery::new();
    recovery.segment(1, file, true)?;
    recovery.finish()
}

/// `bytes` are a frame from a peer: refused, or a message that encodes and decodes to itself.
pub fn peer(bytes: &[u8]) {
    if let Ok(message) = codec::decode::<PeerMessage>(Bytes::copy_from_slice(bytes)) {
        assert_eq!(codec::decode_copying::<PeerMessage>(&codec::encode(&message)).as_ref(), Ok(&message));
    }
}

/// `bytes` are a command from the log: refused, or a command that encodes and decodes to itself.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = codec::decode::<Envelope>(Bytes::copy_from_slice(bytes)) {
        assert_eq!(codec::decode_copying::<Envelope>(&codec::encode(&command)).as_ref(), Ok(&command));
    }
}

/// `bytes` are what peers say to one member, and when its clock moves on: it may believe them or not, but goes on.
pub fn member(bytes: &[u8]) {
    let Ok(events) = codec::decode_copying::<Vec<(u8, PeerMessage)>>(bytes) else { return };
    let mut member = a_member();
    let (mut now, mut out) = (Instant(0), Vec::new());
    for (kind, message) in events {
        if kind & 0x80 != 0 {
            now = member.deadline().min(now + Duration::from_secs(60));
            member.step(now, Input::Wake, &mut out);
        }
        let from = NodeId(u64::from(kind % 4) + 1);
        if from != NodeId(1) {
            member.step(now, Input::Receive { from, message }, &mut out);
        }
        let persisted = out.iter().filter_map(|output| match output {
            Output::Persist { write, .. } => Some(*write),
            _ => None,
        });
        if let Some(write) = persisted.last() {
            member.step(now, Input::Persisted { write }, &mut Vec::new());
        }
        out.clear();
    }
}

fn a_member() -> Replica {
    let voters = (1..=3).map(|id| (NodeId(id), Incarnation(id))).collect();
    let entries =
        (1..=5).map(|index| Entry { term: Term(1), index: LogIndex(index), payload: Payload::Empty }).collect();
    let recovered = Recovered {
        identity: Identity {
            cluster: ClusterId(1),
            member: NodeId(1),
            incarnation: Incarnation(1),
            standing: Standing::Trusted,
        },
        hard_state: HardState { term: Term(1), vote: Some(NodeId(2)), commit: LogIndex(3) },
        start_index: LogIndex(0),
        start_term: Term(0),
        config: Configuration { voters, ..Configuration::default() },
        entries,
        generation: Generation(0),
    };
    let config = replica::Config {
        raft: raft::Config {
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            seed: 0,
            append_bytes_max: 1000,
            inflight_messages_max: 4,
            inflight_bytes_max: 10_000,
            catchup_entries: 2,
            catchup_bytes: 10_000,
            understands: FEATURE_LEVEL,
        },
        session: Incarnation(9),
        request_timeout: Duration::from_secs(7),
        read_retry: Duration::from_millis(500),
        apply_lag_max: 100,
        held_max: 10,
        lease_checkpoint: Duration::from_secs(300),
        auto_compaction: None,
        publish: None,
        founders: Vec::new(),
    };
    Replica::new(config, recovered, LogIndex(3), &[], std::sync::Arc::default(), Instant(0))
}
