//! The fuzz targets' bodies: plain functions from bytes to nothing, or a panic.
//!
//! `core/tests/fuzz_corpus.rs` includes this file and runs every body on its committed corpus (`corpus/<target>/`) and on
//! small changes of it, so that ordinary tests keep what fuzzing found.

use bytes::Bytes;
use quorate_core::command::Envelope;
use quorate_core::entry::{Configuration, HardState, Identity, Record, Standing};
use quorate_core::format::codec;
use quorate_core::format::wal::{Checkpoint, Damage, Found, Recovery, Segment};
use quorate_core::replica::PeerMessage;
use quorate_core::{ClusterId, Incarnation, NodeId};

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
