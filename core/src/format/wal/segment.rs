//! Writing a segment, byte for byte; and which segments are still needed.

use alloc::vec::Vec;

use super::{CRC, Checkpoint, FRAME_BYTES, HEADER_BYTES, MAGIC, VERSION, offset, u32_at};
use crate::LogIndex;
use crate::entry::Record;
use crate::format::codec;
use crate::mutant::{self, Mutant};

/// Where the next frame of a segment goes and what it must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    sequence: u64,
    /// The header's CRC: ties frames to this file.
    header_crc: u32,
    /// `stated <= synced <= end`
    end: u32,
    synced: u32,
    /// The highest `synced` that a frame carries.
    stated: u32,
}

impl Segment {
    /// Begins segment `sequence` after one that is synced up to `previous_end` (0 for the first), when the log says
    /// `checkpoint`. Also gives the segment's first bytes, which must be synced before the segment gets its name.
    #[must_use]
    pub fn begin(sequence: u64, previous_end: u32, checkpoint: &Checkpoint) -> (Self, Vec<u8>) {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(previous_end.to_le_bytes());
        bytes.extend([0; 4]);
        assert_eq!(bytes.len(), HEADER_BYTES);
        codec::encode_into(checkpoint, &mut bytes);
        let checkpoint_len = offset(bytes.len() - HEADER_BYTES);
        bytes[28..32].copy_from_slice(&checkpoint_len.to_le_bytes());
        let header_crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&header_crc.to_le_bytes());
        pad(&mut bytes);
        let end = offset(bytes.len());
        (Self { sequence, header_crc, end, synced: end, stated: end }, bytes)
    }

    /// Appends to `buffer`, which belongs at offset [`Segment::end`] of the file, the frame of `record`.
    pub fn frame(&mut self, record: &Record, buffer: &mut Vec<u8>) {
        self.write(buffer, |buffer| codec::encode_into(record, buffer));
    }

    /// Like [`Segment::frame`], for a mark: proof that what is synced now had been synced. Does nothing if the frames
    /// already prove it.
    pub fn mark(&mut self, buffer: &mut Vec<u8>) {
        if self.stated < self.synced {
            self.write(buffer, |_| ());
        }
    }

    /// Everything up to [`Segment::end`] is on stable storage.
    pub fn synced(&mut self) {
        self.synced = self.end;
    }

    /// The offset at which the next frame begins.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The segment's number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn write(&mut self, buffer: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = buffer.len();
        buffer.extend([0; FRAME_BYTES]);
        payload(buffer);
        let len = offset(buffer.len() - start - FRAME_BYTES);
        let payload_crc = CRC.checksum(&buffer[start + FRAME_BYTES..]);
        let frame = Frame { len, synced: self.synced, payload_crc };
        let header = &mut buffer[start..start + FRAME_BYTES];
        header[0..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&self.synced.to_le_bytes());
        header[8..12].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = frame.crc(self.sequence, self.header_crc, self.end);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        while !(buffer.len() - start).is_multiple_of(8) {
            buffer.push(0);
        }
        self.end = self.end.checked_add(offset(buffer.len() - start)).expect("segments are shorter than 4 GiB");
        self.stated = self.synced;
    }
}

/// A frame's header without its CRC.
pub(super) struct Frame {
    pub(super) len: u32,
    pub(super) synced: u32,
    pub(super) payload_crc: u32,
}

impl Frame {
    /// The frame header in the first bytes of `bytes`, and the CRC it claims.
    pub(super) fn read(bytes: &[u8]) -> (Self, u32) {
        let frame = Self { len: u32_at(bytes, 0), synced: u32_at(bytes, 4), payload_crc: u32_at(bytes, 8) };
        (frame, u32_at(bytes, 12))
    }

    pub(super) fn crc(&self, sequence: u64, header_crc: u32, at: u32) -> u32 {
        let mut covered = [0; 28];
        let is_placed = !mutant::is_on(Mutant::P19);
        let (sequence, header_crc, at) = if is_placed { (sequence, header_crc, at) } else { (0, 0, 0) };
        covered[0..8].copy_from_slice(&sequence.to_le_bytes());
        for (i, part) in [header_crc, at, self.len, self.synced, self.payload_crc].into_iter().enumerate() {
            covered[8 + 4 * i..12 + 4 * i].copy_from_slice(&part.to_le_bytes());
        }
        CRC.checksum(&covered)
    }
}

/// The CRC over the version and everything after the CRC's own place, for a header with its checkpoint.
pub(super) fn header_crc(header: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&header[8..12]);
    digest.update(&header[16..]);
    digest.finalize()
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Which segments exist, and which of them still hold entries that may be needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In order, with the highest index of any entry written into it.
    segments: Vec<(u64, LogIndex)>,
}

impl Layout {
    /// Segment `sequence` was begun.
    pub fn begin(&mut self, sequence: u64) {
        self.segments.push((sequence, LogIndex(0)));
    }

    /// `record` was written into the newest segment.
    pub fn note(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                let (_, high) = self.segments.last_mut().expect("a segment has been begun");
                *high = entry.index.max(*high);
            }
            Record::Snapshot { .. } => self.segments.iter_mut().for_each(|(_, high)| *high = LogIndex(0)),
            Record::Identity(_) | Record::HardState(_) | Record::Compact { .. } => {}
        }
    }

    /// Forgets, and gives in ascending order, the segments that nothing needs once the log starts after `start_index`:
    /// the oldest ones that hold no later entry. The newest stays.
    pub fn release(&mut self, start_index: LogIndex) -> Vec<u64> {
        let older = &self.segments[..self.segments.len().saturating_sub(1)];
        let free = older.iter().take_while(|(_, high)| *high <= start_index).count();
        self.segments.drain(..free).map(|(sequence, _)| sequence).collect()
    }
}
