//! The write-ahead log's files: appends, syncs, segments that come and go. The bytes are `quorate_core::format::wal`'s.

use std::io;

use quorate_core::LogIndex;
use quorate_core::entry::{Configuration, HardState, Identity, Record, Recovered};
use quorate_core::format::wal::{Checkpoint, Damage, Layout, Recovery, Remains, Segment, file_name, sequence};
use quorate_core::mutant::{self, Mutant};

use crate::disk::Disk;

/// The log of one member, open for appending. One thread owns it.
///
/// After any failed call it refuses all others: a retried sync may report success for bytes that are lost.
#[derive(Debug)]
pub struct Wal<D> {
    disk: D,
    options: Options,
    segment: Segment,
    /// The newest segment's file.
    name: String,
    /// What the log says, up to the last appended record.
    checkpoint: Checkpoint,
    layout: Layout,
    /// Segments before this one may have been cut short, so they are no use as a reserve.
    first_whole: u64,
    has_reserve: bool,
    /// Bytes were written since the last sync.
    dirty: bool,
    failed: bool,
    buffer: Vec<u8>,
}

/// How the log is cut into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Once a segment is this long the next one is begun; at most 1 GiB.
    pub segment_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// Why there is no log to append to.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// What the files contain cannot be believed (or belongs to a newer version: [`Damage::Newer`]).
    #[error(transparent)]
    Damage(#[from] Damage),
    /// The file system failed.
    #[error("write-ahead log: {0}")]
    Io(#[from] io::Error),
}

/// Becomes the next segment: its space is already there, so that deletes and compactions go on when the disk is full.
const RESERVE: &str = "reserve";

/// The first segment of a log that takes another one's place, until that is moved aside. It is durable before anything is
/// moved: from then on the other log is not believed any more, whatever is left of it.
const NEXT: &str = "next";

/// The segments among the files of these names, oldest first.
fn sequences(names: &[String]) -> Vec<u64> {
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence(name)).collect();
    sequences.sort_unstable();
    sequences
}

/// Whether `disk` holds a log, good or bad, or one that is to take another one's place.
///
/// # Errors
/// The file system failed.
pub fn exists<D: Disk>(disk: &mut D) -> io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| begins_log(name)))
}

/// Whether there is a log where there is a file of this name.
#[must_use]
pub fn begins_log(name: &str) -> bool {
    name == NEXT || sequence(name).is_some()
}

/// Ends a [`Wal::replace`] that a crash cut short, and gives the number under which the rest of the former log lies beside;
/// `None` if there was none.
///
/// # Errors
/// The file system failed.
pub fn finish_replacing<D: Disk>(disk: &mut D) -> io::Result<Option<u64>> {
    if !disk.list()?.iter().any(|name| name == NEXT) {
        return Ok(None);
    }
    let aside = move_aside(disk)?;
    disk.rename(NEXT, &file_name(1))?;
    disk.sync_dir()?;
    Ok(Some(aside))
}

/// What can still be read of a damaged log; `None` if no segment says anything.
///
/// # Errors
/// The file system failed.
pub fn remains<D: Disk>(disk: &mut D) -> io::Result<Option<Remains>> {
    let sequences = sequences(&disk.list()?);
    let mut failed = None;
    let segments = sequences[chain_start(&sequences)..].iter().map_while(|sequence| {
        let bytes = disk.read(&file_name(*sequence)).map_err(|error| failed = Some(error)).ok()?;
        Some((*sequence, bytes))
    });
    let remains = Remains::of(segments);
    failed.map_or(Ok(remains), Err)
}

/// Where in `sequences` the newest ones without a gap begin: segments are removed oldest first, but a power cut may bring
/// any of them back.
fn chain_start(sequences: &[u64]) -> usize {
    sequences.windows(2).rposition(|pair| pair[0] + 1 != pair[1]).map_or(0, |gap| gap + 1)
}

/// Renames every file of a log to `<name>.damaged-N`, and gives N: nothing is deleted.
fn move_aside<D: Disk>(disk: &mut D) -> io::Result<u64> {
    let names = disk.list()?;
    let taken = |n: u64| names.iter().any(|name| name.ends_with(&format!(".damaged-{n}")));
    let n = (1..).find(|n| !taken(*n)).expect("some number is free");
    for name in sequences(&names).into_iter().map(file_name) {
        disk.rename(&name, &format!("{name}.damaged-{n}"))?;
    }
    disk.sync_dir()?;
    Ok(n)
}

impl<D: Disk> Wal<D> {
    /// Begins a log that says who the member is and who takes part, and has no entries. Its applied state belongs in
    /// [`quorate_core::Generation::first`] of the incarnation. Durable on return.
    ///
    /// # Errors
    /// The file system failed; or there is a log already (`AlreadyExists`).
    pub fn create(
        mut disk: D,
        options: Options,
        identity: &Identity,
        hard_state: &HardState,
        config: &Configuration,
    ) -> Result<Self, WalError> {
        if exists(&mut disk)? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a write-ahead log already").into());
        }
        let checkpoint = Checkpoint::new(identity.clone(), *hard_state, config.clone());
        Ok(Self::begin(disk, options, &file_name(1), 1, 0, checkpoint, Layout::default())?)
    }

    /// Like [`Wal::create`], in place of the log that is there: its files are renamed to `<name>.damaged-N`, and N is given,
    /// too. A crash leaves either that log as it was, or what [`finish_replacing`] ends.
    ///
    /// # Errors
    /// The file system failed.
    pub fn replace(
        disk: D,
        options: Options,
        identity: &Identity,
        hard_state: &HardState,
        config: &Configuration,
    ) -> io::Result<(Self, u64)> {
        let checkpoint = Checkpoint::new(identity.clone(), *hard_state, config.clone());
        let mut wal = Self::begin(disk, options, NEXT, 1, 0, checkpoint, Layout::default())?;
        let aside = finish_replacing(&mut wal.disk)?.expect("it has just been made");
        Ok((wal, aside))
    }

    /// Opens the log and gives what it says. A torn tail is cut.
    ///
    /// # Errors
    /// The log is damaged, or the file system failed. Nothing has been changed then.
    pub fn open(mut disk: D, options: Options) -> Result<(Self, Recovered), WalError> {
        let sequences = sequences(&disk.list()?);
        let (stale, chain) = sequences.split_at(chain_start(&sequences));

        let mut recovery = Recovery::new();
        let mut bytes = Vec::new();
        for sequence in chain {
            bytes = disk.read(&file_name(*sequence))?;
            if mutant::is_on(Mutant::P09) {
                bytes.truncate(options.segment_bytes as usize);
            }
            recovery.segment(*sequence, &bytes, chain.last() == Some(sequence))?;
        }
        let found = recovery.finish()?;

        // The last process may have died before its last sync, or of its failure, after which the system may hold
        // pages that are not on disk and believe they are.
        let name = file_name(found.sequence);
        disk.write_at(&name, found.proven.into(), &bytes[found.proven as usize..found.end as usize])?;
        disk.sync(&name)?;

        let end = if mutant::is_on(Mutant::P10) { found.proven } else { found.end };
        let (next, previous_end) = (found.sequence + 1, end);
        let (checkpoint, layout) = (found.checkpoint, found.layout);
        let mut wal = Self::begin(disk, options, &file_name(next), next, previous_end, checkpoint, layout)?;
        wal.disk.truncate(&name, previous_end.into())?;
        for sequence in stale {
            wal.disk.remove(&file_name(*sequence))?;
        }
        wal.disk.sync_dir()?;
        Ok((wal, found.recovered))
    }

    fn begin(
        mut disk: D,
        options: Options,
        name: &str,
        sequence: u64,
        previous_end: u32,
        checkpoint: Checkpoint,
        mut layout: Layout,
    ) -> io::Result<Self> {
        assert!(options.segment_bytes <= 1 << 30, "segments of {} bytes", options.segment_bytes);
        let mut has_reserve = disk.list()?.iter().any(|name| name == RESERVE);
        let segment = place(&mut disk, options, name, sequence, previous_end, &checkpoint, &mut has_reserve)?;
        layout.begin(sequence);
        Ok(Self {
            disk,
            options,
            segment,
            name: file_name(sequence), // Soon, if it is `NEXT` now.
            checkpoint,
            layout,
            first_whole: sequence,
            has_reserve,
            dirty: false,
            failed: false,
            buffer: Vec::new(),
        })
    }

    /// Writes `records` in this order, in one piece. They are durable after the next [`Wal::sync`].
    ///
    /// # Errors
    /// The file system failed: the log is unusable, the caller ends the process.
    ///
    /// # Panics
    /// If a record makes no sense after those before it: an entry after a gap, say.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.segment.end() >= self.options.segment_bytes {
            self.rotate()?;
        }
        self.buffer.clear();
        let offset = self.segment.end();
        for record in records {
            self.checkpoint.apply(record).unwrap_or_else(|reason| panic!("{reason}: {record:?}"));
            self.layout.note(record);
            self.segment.frame(record, &mut self.buffer);
        }
        self.write(offset)
    }

    /// Returns once everything appended so far survives a power cut.
    ///
    /// # Errors
    /// Like [`Wal::append`].
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            let skips = mutant::is_on(Mutant::P02) && !(self.segment.end() / 8).is_multiple_of(8);
            self.guard(|disk, name| match if skips { Ok(()) } else { disk.sync(name) } {
                Err(_) if mutant::is_on(Mutant::P04) => disk.sync(name),
                result => result,
            })?;
            self.dirty = false;
            self.segment.synced();
        }
        Ok(())
    }

    /// Writes a proof that everything synced so far was synced, unless there is one: so that damage to the last records
    /// is later not taken for a torn tail. For idle moments; and followed by a sync, before a clean stop.
    ///
    /// # Errors
    /// Like [`Wal::append`].
    pub fn mark(&mut self) -> io::Result<()> {
        self.buffer.clear();
        let offset = self.segment.end();
        self.segment.mark(&mut self.buffer);
        self.write(offset)
    }

    /// Removes the segments that nothing needs since the last `Compact` or `Snapshot` record. Syncs first.
    ///
    /// # Errors
    /// Like [`Wal::append`].
    pub fn release(&mut self) -> io::Result<()> {
        let free = self.layout.release(self.checkpoint.start_index);
        let Some(newest) = free.last().copied() else { return Ok(()) };
        self.sync()?;
        let recycle = newest >= self.first_whole;
        self.guard(|disk, _| {
            for sequence in &free {
                if recycle && *sequence == newest {
                    // Its blocks are written to already: syncing them again is cheaper than those of a new file.
                    disk.rename(&file_name(*sequence), RESERVE)?;
                } else {
                    disk.remove(&file_name(*sequence))?;
                }
            }
            disk.sync_dir()
        })?;
        self.has_reserve |= recycle;
        Ok(())
    }

    /// The index of the last appended entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.checkpoint.last_index
    }

    /// Gives the disk back, without a sync.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let (sequence, previous_end) = (self.segment.sequence() + 1, self.segment.end());
        let (options, mut checkpoint, mut has_reserve) = (self.options, self.checkpoint.clone(), self.has_reserve);
        if mutant::is_on(Mutant::P11) {
            checkpoint.hard_state.vote = None;
        }
        let name = file_name(sequence);
        self.segment =
            self.guard(|disk, _| place(disk, options, &name, sequence, previous_end, &checkpoint, &mut has_reserve))?;
        self.name = name;
        self.has_reserve = has_reserve;
        self.layout.begin(sequence);
        Ok(())
    }

    /// Writes the buffer at `offset` of the newest segment.
    fn write(&mut self, offset: u32) -> io::Result<()> {
        const KEPT_BYTES_MAX: usize = 4 << 20;
        let mut buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            self.guard(|disk, name| disk.write_at(name, offset.into(), &buffer))?;
            self.dirty = true;
        }
        buffer.clear();
        buffer.shrink_to(KEPT_BYTES_MAX);
        self.buffer = buffer;
        Ok(())
    }

    /// Does something to the disk, and maybe to the newest segment's file.
    fn guard<T>(&mut self, act: impl FnOnce(&mut D, &str) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(io::Error::other("the write-ahead log failed before"));
        }
        let result = act(&mut self.disk, &self.name);
        self.failed = result.is_err();
        result
    }
}

/// Turns the reserve into segment `sequence` under `name`, and makes a new reserve if there is room for one.
fn place<D: Disk>(
    disk: &mut D,
    options: Options,
    name: &str,
    sequence: u64,
    previous_end: u32,
    checkpoint: &Checkpoint,
    has_reserve: &mut bool,
) -> io::Result<Segment> {
    let bytes = u64::from(options.segment_bytes);
    if !*has_reserve && !reserve(disk, bytes)? {
        disk.create(RESERVE, 0)?; // What there is may be enough for a long time.
    }
    let (segment, header) = Segment::begin(sequence, previous_end, checkpoint);
    disk.write_at(RESERVE, 0, &header)?;
    disk.sync(RESERVE)?;
    disk.rename(RESERVE, name)?;
    if !mutant::is_on(Mutant::P07) {
        disk.sync_dir()?;
    }
    *has_reserve = reserve(disk, bytes)?;
    Ok(segment)
}

/// Takes the space of the next segment; whether there was so much.
fn reserve<D: Disk>(disk: &mut D, bytes: u64) -> io::Result<bool> {
    match disk.create(RESERVE, bytes) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
