//! The fingerprint of a run: a hash over everything that happened, and on demand its readable log.

use std::fmt::Write as _;

use crate::heap::Nanos;

/// What kind of thing happened. The number is part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An input of a machine.
    Input = 1,
    /// An output of a machine.
    Output,
    /// Something was written, synced, lost.
    Disk,
    /// The backend committed, flushed, recovered.
    Backend,
    /// A message was sent, lost or delivered.
    Network,
    /// A client asked or was answered.
    Client,
    /// The nemesis acted.
    Fault,
    /// A member started, stopped, changed its role.
    Member,
    /// An oracle took note.
    Check,
}

/// A running 64-bit hash, cheap enough for every byte that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Digest {
    /// Folds a number.
    pub fn number(&mut self, word: u64) -> &mut Self {
        // Multiply and fold, as in wyhash; the sum keeps a zero product from forgetting the past.
        let product = u128::from(self.0 ^ word) * 0xA076_1D64_78BD_642F;
        let (low, high) = (product as u64, (product >> 64) as u64);
        self.0 = (low ^ high).wrapping_add(self.0.rotate_left(23) ^ word);
        self
    }

    /// Folds bytes and their number.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.number(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(word));
        }
        self
    }

    /// Folds a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// The hash over everything so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0
    }
}

/// A running hash over all events, with their times.
#[derive(Debug)]
pub struct Trace {
    digest: Digest,
    events: u64,
    log: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace; with `log` it keeps a line for each event.
    #[must_use]
    pub fn new(log: bool) -> Self {
        Self { digest: Digest::default(), events: 0, log: log.then(Vec::new) }
    }

    /// Folds one event: when, what, where, a number and bytes that tell it from others. `text` is called only if a log
    /// is kept.
    pub fn event(
        &mut self,
        now: Nanos,
        kind: Kind,
        place: usize,
        number: u64,
        bytes: &[u8],
        text: impl FnOnce() -> String,
    ) {
        self.events += 1;
        self.digest.number(now ^ ((kind as u64) << 56) ^ ((place as u64) << 48)).number(number).bytes(bytes);
        if let Some(log) = &mut self.log {
            let mut line = String::new();
            let (seconds, nanos) = (now / 1_000_000_000, now % 1_000_000_000);
            write!(
                line,
                "{seconds:>4}.{nanos:09} {:<8} {place:>2} {} #{:016x}",
                format!("{kind:?}"),
                text(),
                self.digest.0
            )
            .expect("writing to a string");
            log.push(line);
        }
    }

    /// The hash over everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.digest.0
    }

    /// How many events were folded.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether lines are kept.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.log.is_some()
    }

    /// The lines, if they were kept.
    #[must_use]
    pub fn into_log(self) -> Option<Vec<String>> {
        self.log
    }
}
