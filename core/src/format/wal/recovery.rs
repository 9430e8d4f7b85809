//! Reading a log back: the fold of its records, or what is wrong with it.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::segment::{Frame, header_crc};
use super::{CRC, Checkpoint, FRAME_BYTES, HEADER_BYTES, INDEX_END, Layout, MAGIC, VERSION, offset, u32_at, u64_at};
use crate::LogIndex;
use crate::entry::{Configuration, Entry, Identity, Payload, Record, Recovered};
use crate::format::codec;
use crate::mutant::{self, Mutant};

/// The log cannot be believed. Each variant names the segment and, where there is one, the byte offset in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not a segment at all, or its first bytes are damaged.
    #[error("write-ahead log file {segment:016x}.wal: damaged header")]
    Header {
        /// The segment's number.
        segment: u64,
    },
    /// Written by a newer build: nothing is damaged, but this build must not touch it.
    #[error("write-ahead log file {segment:016x}.wal: format version {version} is newer than this program's {VERSION}")]
    Newer {
        /// The segment's number.
        segment: u64,
        /// Its version.
        version: u32,
    },
    /// A record that had been made durable is not there any more.
    #[error("write-ahead log file {segment:016x}.wal: damaged record at byte offset {offset}")]
    Record {
        /// The segment's number.
        segment: u64,
        /// Where the bad frame begins.
        offset: u32,
    },
    /// A record is intact but makes no sense.
    #[error("write-ahead log file {segment:016x}.wal: impossible record at byte offset {offset}: {reason}")]
    Impossible {
        /// The segment's number.
        segment: u64,
        /// Where its frame begins.
        offset: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A segment does not continue the one before it.
    #[error("write-ahead log file {segment:016x}.wal: does not continue the segment before it")]
    Discontinuous {
        /// The segment's number.
        segment: u64,
    },
    /// Entries that are still needed were in segments that are gone.
    #[error("write-ahead log: entries {first} to {last} are missing")]
    Missing {
        /// The first entry that should be there.
        first: LogIndex,
        /// The last one that is not.
        last: LogIndex,
    },
    /// There is no segment at all.
    #[error("write-ahead log: no segment found")]
    Empty,
    /// The log is sound, but the member was told that its state is wrong: this life of it is over.
    #[error("this member's state was not that of the majority, or its disk has rotted")]
    Fenced,
}

/// What a log contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The fold of its records.
    pub recovered: Recovered,
    /// What the next segment's checkpoint must say.
    pub checkpoint: Checkpoint,
    /// Which segments there are.
    pub layout: Layout,
    /// The newest segment...
    pub sequence: u64,
    /// ...and where its good part ends: what follows, if anything, was never promised to anybody.
    pub end: u32,
    /// `proven <= end`: its frames prove that everything up to here was synced. What follows was read, perhaps from
    /// memory only, so it must be written and synced again before anything builds on it.
    pub proven: u32,
}

/// Folds segments, oldest first.
#[derive(Debug, Default)]
pub struct Recovery {
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    checkpoint: Checkpoint,
    /// Index of `entries[0]`, or where it would be. `first + entries.len() == checkpoint.last_index + 1`
    first: LogIndex,
    entries: Vec<Entry>,
    layout: Layout,
    sequence: u64,
    end: u32,
    proven: u32,
}

impl Recovery {
    /// Before any segment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds segment `sequence`, whose file contains `bytes`. `newest` says that no other follows.
    ///
    /// # Errors
    /// The log is damaged or newer than this build; nothing more can be read from it.
    pub fn segment(&mut self, sequence: u64, bytes: &[u8], newest: bool) -> Result<(), Damage> {
        let header = Header::read(sequence, bytes)?;
        let state = match &mut self.state {
            None => self.state.insert(State {
                first: header.checkpoint.last_index.next(),
                checkpoint: header.checkpoint,
                entries: Vec::new(),
                layout: Layout::default(),
                sequence,
                end: 0,
                proven: 0,
            }),
            Some(state) => {
                if state.end < header.previous_end {
                    return Err(Damage::Record { segment: state.sequence, offset: state.end });
                }
                if (state.sequence.checked_add(1), state.end, &state.checkpoint)
                    != (Some(sequence), header.previous_end, &header.checkpoint)
                {
                    return Err(Damage::Discontinuous { segment: sequence });
                }
                state
            }
        };
        state.sequence = sequence;
        state.layout.begin(sequence);

        let frames = Frames { bytes, sequence, header_crc: header.crc };
        let mut at = header.end;
        state.proven = offset(at);
        while let Some((payload, synced)) = frames.payload(at) {
            state.proven = state.proven.max(synced);
            if !payload.is_empty() {
                let impossible = |reason| Damage::Impossible { segment: sequence, offset: offset(at), reason };
                let record = codec::decode_copying(payload).map_err(|error| impossible(error.to_string()))?;
                state.fold(record).map_err(|reason| impossible(reason.to_string()))?;
            }
            at += FRAME_BYTES + payload.len().next_multiple_of(8);
        }
        state.end = offset(at);
        let is_torn = || bytes[at..].iter().any(|byte| *byte != 0);
        reach!(TornTail if newest && is_torn());
        let is_damaged = || !mutant::is_on(Mutant::P03) && frames.prove_synced(at);
        // Asked of the newest segment only: it means to look at every offset behind the end.
        if newest && (is_damaged() || (mutant::is_on(Mutant::P05) && is_torn())) {
            reach!(LogDamaged);
            return Err(Damage::Record { segment: sequence, offset: state.end });
        }
        Ok(())
    }

    /// The whole log, once every segment has been folded.
    ///
    /// # Errors
    /// Parts of it are missing.
    pub fn finish(self) -> Result<Found, Damage> {
        let State { checkpoint, first, entries, layout, sequence, end, proven } = self.state.ok_or(Damage::Empty)?;
        if first > checkpoint.start_index.next() {
            return Err(Damage::Missing { first: checkpoint.start_index.next(), last: LogIndex(first.0 - 1) });
        }
        assert_eq!(first, checkpoint.start_index.next());
        assert_eq!(first.0 + entries.len() as u64, checkpoint.last_index.next().0);
        let recovered = recovered(&checkpoint, entries);
        Ok(Found { recovered, checkpoint, layout, sequence, end, proven })
    }
}

const ZEROS: [u8; 4096] = [0; 4096];

/// What a damaged log still says of whose it is and of who decides. Every intact record counts, before the damage and
/// behind it; where whole segments cannot be read, their neighbours' headers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whose log it is, as last said.
    pub identity: Identity,
    /// The highest commit index spoken of.
    commit: LogIndex,
    /// Configurations, by where they stand; the first may be that at the log's start.
    configs: BTreeMap<LogIndex, Configuration>,
    /// Entries up to here may have been in segments that cannot be read, configurations among them.
    unknown: LogIndex,
}

impl Remains {
    /// Reads segments, oldest first: their numbers and what their files contain. `None` if no header can be read.
    #[must_use]
    pub fn of(segments: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Option<Self> {
        let (mut found, mut is_cut) = (None, true);
        for (sequence, bytes) in segments {
            let Ok(header) = Header::read(sequence, &bytes) else {
                is_cut = true;
                continue;
            };
            let remains = found.get_or_insert_with(|| Self::new(&header.checkpoint));
            remains.begin(&header.checkpoint);
            if core::mem::take(&mut is_cut) {
                remains.unknown = remains.unknown.max(header.checkpoint.last_index);
            }
            let frames = Frames { bytes: &bytes, sequence, header_crc: header.crc };
            let mut at = header.end;
            // Most of a segment is zeros: it is made before it is filled.
            let end = bytes.chunks(ZEROS.len()).rposition(|chunk| chunk != &ZEROS[..chunk.len()]);
            let end = end.map_or(0, |chunk| (chunk + 1) * ZEROS.len());
            while at < end {
                let payload = frames.payload(at).map(|(payload, _)| payload);
                if let Some(Ok(record)) = payload.filter(|it| !it.is_empty()).map(codec::decode_copying) {
                    remains.note(record);
                }
                at += payload.map_or(8, |payload| FRAME_BYTES + payload.len().next_multiple_of(8));
            }
        }
        if is_cut && let Some(remains) = &mut found {
            remains.unknown = INDEX_END;
        }
        found
    }

    /// The configurations that may be in force, as far as is known: the last one that is surely committed, and those after
    /// it. `None` if some of them may be missing.
    #[must_use]
    pub fn in_force(&self) -> Option<impl Iterator<Item = &Configuration>> {
        let (since, _) = self.configs.range(..=self.commit).next_back()?;
        (*since >= self.unknown).then(|| self.configs.range(since..).map(|(_, config)| config))
    }

    fn new(checkpoint: &Checkpoint) -> Self {
        let (commit, unknown) = (LogIndex(0), LogIndex(0));
        Self { identity: checkpoint.identity.clone(), commit, configs: BTreeMap::new(), unknown }
    }

    /// A segment begins, when the log says this.
    fn begin(&mut self, checkpoint: &Checkpoint) {
        self.identity = checkpoint.identity.clone();
        self.commit = self.commit.max(checkpoint.hard_state.commit);
        self.configs.retain(|at, _| *at <= checkpoint.last_index);
        self.start(checkpoint.start_index, checkpoint.config.clone());
    }

    fn start(&mut self, index: LogIndex, config: Configuration) {
        self.configs.retain(|at, _| *at > index);
        self.configs.insert(index, config);
        self.commit = self.commit.max(index);
    }

    fn note(&mut self, record: Record) {
        match record {
            Record::Identity(identity) => self.identity = identity,
            Record::HardState(hard_state) => self.commit = self.commit.max(hard_state.commit),
            Record::Entry(Entry { index, payload, .. }) => {
                self.configs.retain(|at, _| *at < index);
                if let Payload::Config(config) = payload {
                    self.configs.insert(index, config);
                }
            }
            Record::Compact { index, config, .. } => self.start(index, config),
            Record::Snapshot { index, config, .. } => {
                self.configs.clear();
                self.start(index, config);
            }
        }
    }
}

fn recovered(checkpoint: &Checkpoint, entries: Vec<Entry>) -> Recovered {
    Recovered {
        identity: checkpoint.identity.clone(),
        hard_state: checkpoint.hard_state,
        start_index: checkpoint.start_index,
        start_term: checkpoint.start_term,
        config: checkpoint.config.clone(),
        entries,
        generation: checkpoint.generation,
    }
}

impl State {
    fn fold(&mut self, record: Record) -> Result<(), &'static str> {
        self.checkpoint.apply(&record)?;
        self.layout.note(&record);
        match record {
            Record::Entry(entry) => {
                if entry.index < self.first {
                    self.first = entry.index;
                }
                reach!(EntriesReplacedInLog if entry.index.0 < self.first.0 + self.entries.len() as u64);
                self.entries.truncate(position(self.first, entry.index));
                self.entries.push(entry);
            }
            Record::Compact { index, .. } => {
                if index >= self.first {
                    self.entries.drain(..position(self.first, index.next()));
                    self.first = index.next();
                }
            }
            Record::Snapshot { index, .. } => {
                self.entries.clear();
                self.first = index.next();
            }
            Record::Identity(_) | Record::HardState(_) => {}
        }
        Ok(())
    }
}

fn position(first: LogIndex, index: LogIndex) -> usize {
    usize::try_from(index.0 - first.0).expect("entries are in memory")
}

struct Header {
    crc: u32,
    previous_end: u32,
    checkpoint: Checkpoint,
    /// Where the first frame begins.
    end: usize,
}

impl Header {
    fn read(sequence: u64, bytes: &[u8]) -> Result<Self, Damage> {
        let damaged = Damage::Header { segment: sequence };
        if bytes.len() < HEADER_BYTES || u32::try_from(bytes.len()).is_err() || bytes[..8] != MAGIC {
            return Err(damaged);
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(Damage::Newer { segment: sequence, version });
        }
        let crc = u32_at(bytes, 12);
        let end = HEADER_BYTES.checked_add(u32_at(bytes, 28) as usize);
        let end = end.filter(|end| end.next_multiple_of(8) <= bytes.len());
        let Some(end) = end.filter(|end| header_crc(&bytes[..*end]) == crc) else {
            return Err(damaged);
        };
        if version != VERSION || u64_at(bytes, 16) != sequence {
            return Err(damaged);
        }
        let checkpoint: Checkpoint = codec::decode_copying(&bytes[HEADER_BYTES..end]).map_err(|_| damaged.clone())?;
        if checkpoint.start_index > checkpoint.last_index || checkpoint.last_index == INDEX_END {
            return Err(damaged);
        }
        Ok(Self { crc, previous_end: u32_at(bytes, 24), checkpoint, end: end.next_multiple_of(8) })
    }
}

struct Frames<'a> {
    bytes: &'a [u8],
    sequence: u64,
    header_crc: u32,
}

impl<'a> Frames<'a> {
    /// The payload of the frame at offset `at` and its `synced`, if it is intact.
    fn payload(&self, at: usize) -> Option<(&'a [u8], u32)> {
        let frame = self.header(at, 0)?;
        let len = frame.len as usize;
        let payload = self.bytes.get(at + FRAME_BYTES..)?.get(..len.next_multiple_of(8))?.get(..len)?;
        (CRC.checksum(payload) == frame.payload_crc || mutant::is_on(Mutant::P06)).then_some((payload, frame.synced))
    }

    /// Whether a frame after `bad` says that `bad` had been synced.
    fn prove_synced(&self, bad: usize) -> bool {
        (bad..self.bytes.len()).step_by(8).skip(1).any(|at| self.header(at, offset(bad) + 1).is_some())
    }

    /// The frame header at offset `at`, if it is intact and its `synced` is in `synced_min..=at`.
    fn header(&self, at: usize, synced_min: u32) -> Option<Frame> {
        let header = self.bytes.get(at..)?.get(..FRAME_BYTES)?;
        let (frame, crc) = Frame::read(header);
        let at = offset(at);
        // The cheap test comes first: `prove_synced` asks about millions of offsets.
        let plausible = (synced_min..=at).contains(&frame.synced);
        (plausible && frame.crc(self.sequence, self.header_crc, at) == crc).then_some(frame)
    }
}
