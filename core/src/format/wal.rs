//! The write-ahead log's bytes. `node::wal` moves them between memory and files.
//!
//! The log is a chain of segment files numbered without gaps. Integers are little endian, CRCs are CRC-32C.
//!
//! ```text
//! segment    = header checkpoint padding frame*     (then zeros, or what a recycled file contained)
//! header     = magic[8] version:u32 crc:u32 sequence:u64 previous_end:u32 checkpoint_len:u32
//! checkpoint = codec bytes of a Checkpoint; crc covers version and all from sequence to the end of the checkpoint
//! frame      = len:u32 synced:u32 payload_crc:u32 frame_crc:u32 payload[len] padding
//! payload    = codec bytes of an entry::Record; a frame with len 0 is a mark and says nothing but its `synced`
//! frame_crc  covers sequence:u64 crc:u32 (of the header) offset:u32 len:u32 synced:u32 payload_crc:u32
//! ```
//!
//! Padding (zeros) makes checkpoints and payloads end at a multiple of 8. Since `frame_crc` covers the segment and the
//! frame's offset in it, a block that was written to the wrong place, or belonged to a file recycled as this segment,
//! is no frame.
//!
//! # A torn tail or a damaged log?
//!
//! After a power cut any subset of the unsynced pages survives, so good frames may follow a bad one, and reading must
//! stop at the bad one and forget the rest. If the bad one had been synced, however, it must not be forgotten: somebody
//! was promised it. `synced` tells the two apart. It is the offset up to which the segment was known to be on stable
//! storage *when the frame was written*. So for the first bad frame, at offset B:
//!
//! - A good frame header anywhere after B with `synced > B` proves that B had been synced: the log is damaged.
//! - A next segment whose `previous_end > B` proves it too, since a segment is only begun when the one before is synced
//!   up to `previous_end`. What follows `previous_end` is no part of the log, and a good frame right there is damage:
//!   a tail is cut where a bad one begins.
//! - Otherwise it is a torn tail: the log ends at B.
//!
//! **Guaranteed:** a log without damage is never called damaged, and a synced record is never lost from it. A damaged
//! record that had been synced is found, if anything was written after that sync and reached the disk: a later frame,
//! or the *mark* a member writes when it is idle and when it stops. What remains is damage to the last synced batch
//! together with a power cut before a mark was written back: this looks like a torn tail, on any log.
//!
//! A tail is cut by beginning the next segment with that `previous_end`, so good frames after the cut can never come
//! back to life. A segment is made under another name, synced, and only then renamed: one with a bad header is damaged.

mod recovery;
mod segment;

pub use recovery::{Damage, Found, Recovery, Remains};
pub use segment::{Layout, Segment};

use alloc::format;
use alloc::string::String;

use bincode::{Decode, Encode};

use crate::entry::{Configuration, HardState, Identity, Record};
use crate::{Generation, LogIndex, Term};

/// The version in a segment's header. A build that must change the format raises it and reads both.
pub const VERSION: u32 = 1;

/// The name of the file that holds segment `sequence`.
#[must_use]
pub fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The segment that file `name` holds, if it is such a file's name.
#[must_use]
pub fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

const MAGIC: [u8; 8] = *b"QuorWAL\n";
/// No log gets this far; so every index in a log has a next one.
const INDEX_END: LogIndex = LogIndex(u64::MAX);
const HEADER_BYTES: usize = 32;
const FRAME_BYTES: usize = 16;

const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// What the log said up to the beginning of a segment, apart from its entries: older segments are needed for these only.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Checkpoint {
    /// The last identity.
    pub identity: Identity,
    /// The last hard state.
    pub hard_state: HardState,
    /// The log starts after this index...
    pub start_index: LogIndex,
    /// ...whose entry had this term.
    pub start_term: Term,
    /// The configuration at `start_index`.
    pub config: Configuration,
    /// The folder that holds the applied state.
    pub generation: Generation,
    /// `start_index <= last_index`: the last entry's index, or `start_index` if there is none.
    pub last_index: LogIndex,
}

impl Checkpoint {
    /// The state of a log that has no record yet; its applied state begins in a generation of its own.
    #[must_use]
    pub fn new(identity: Identity, hard_state: HardState, config: Configuration) -> Self {
        Self {
            generation: Generation::first(identity.incarnation),
            identity,
            hard_state,
            start_index: LogIndex(0),
            start_term: Term(0),
            config,
            last_index: LogIndex(0),
        }
    }

    /// What the log says after `record`.
    ///
    /// # Errors
    /// No member writes such a record in this state.
    pub fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Identity(identity) => {
                if (identity.cluster, identity.member) != (self.identity.cluster, self.identity.member) {
                    return Err("the identity of another member");
                }
                self.identity = identity.clone();
            }
            Record::HardState(hard_state) => self.hard_state = *hard_state,
            Record::Entry(entry) => {
                if entry.index <= self.start_index {
                    return Err("an entry before the log's start");
                }
                if entry.index > self.last_index.next() || entry.index == INDEX_END {
                    return Err("an entry after a gap");
                }
                self.last_index = entry.index;
            }
            Record::Compact { index, term, config } => {
                if !(self.start_index..=self.last_index).contains(index) {
                    return Err("a compaction outside the log");
                }
                (self.start_index, self.start_term, self.config) = (*index, *term, config.clone());
            }
            Record::Snapshot { index, term, config, generation } => {
                if *index == INDEX_END {
                    return Err("a snapshot after the last index");
                }
                (self.start_index, self.start_term, self.config) = (*index, *term, config.clone());
                (self.last_index, self.generation) = (*index, *generation);
            }
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("segments are shorter than 4 GiB")
}
