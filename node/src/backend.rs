//! Where a member keeps its applied rows: an ordered store behind a trait that says what a crash may leave of it.

use quorate_core::rows::{RowWrite, Rows};
use quorate_core::{Generation, LogIndex};

#[cfg(feature = "server")]
pub mod fjall;

/// One generation of applied state, open for reading and writing.
///
/// **Crash contract.** Whatever happens to the process or the power, opening the same generation again either gives
/// exactly the rows of the first n batches committed to it, for some n that includes every batch up to the last
/// [`Backend::durable`] ever returned; or it fails. It never gives part of a batch, a batch without its predecessors,
/// or a row that a later batch of the prefix had replaced or removed. Batches after n are committed again by the
/// caller, from its log.
pub trait Backend {
    /// See [`Backend::snapshot`].
    type Snapshot: Rows + Clone + Send + Sync + 'static;

    /// A consistent picture of everything committed so far; later commits do not change it. Cheap.
    ///
    /// A snapshot keeps the versions it sees from being cleaned up, so it should not be held for minutes.
    fn snapshot(&self) -> Self::Snapshot;

    /// Commits one atomic batch that takes the state to log index `applied`. Not durable on return. Of several writes of
    /// one key the last counts; `writes` may be empty.
    ///
    /// # Errors
    /// After any error the backend is unusable: the caller ends the process.
    fn commit(&mut self, applied: LogIndex, writes: &[RowWrite]) -> Result<(), BackendError>;

    /// The highest `applied` that survives a power cut from here on: the log is needed only after it. Cheap; never
    /// goes back.
    fn durable(&self) -> LogIndex;

    /// Starts making everything committed so far durable, in the background; [`Backend::durable`] tells when it is.
    ///
    /// # Errors
    /// Like [`Backend::commit`].
    fn flush(&mut self) -> Result<(), BackendError>;

    /// Bytes used on disk, about.
    fn disk_bytes(&self) -> u64;

    /// Starts giving back what rows that nobody can see any more take on disk; the rest of the work may take long and is
    /// left to whoever runs the job, on any thread, while everything goes on.
    ///
    /// # Errors
    /// Like [`Backend::commit`].
    fn defragment(&mut self) -> Result<Defragmentation, BackendError>;

    /// A job that reads everything that is on disk by now, at a bounded rate, and finds out whether it is still what was
    /// written. To be run on any thread, while everything goes on.
    fn verify(&self) -> Verification;
}

/// Gives space back; afterwards tells how many bytes are used on disk.
pub type Defragmentation = Box<dyn FnOnce() -> Result<u64, BackendError> + Send>;

/// Looks for bits that have rotted; fails with what it found.
pub type Verification = Box<dyn FnOnce() -> Result<(), BackendError> + Send>;

/// All generations of one member's applied state: one is in use, the next is filled by a snapshot and switched to.
pub trait Backends {
    /// An open generation.
    type Backend: Backend;
    /// A generation that is being filled.
    type Filling: Filling;

    /// Opens `generation`, empty if it does not exist yet. `applied` reads from the rows how far they have got (the
    /// store writes it into every batch); that index is the first [`Backend::durable`].
    ///
    /// # Errors
    /// It cannot be read; the caller decides whether to rebuild it.
    fn open(
        &mut self,
        generation: Generation,
        applied: &dyn Fn(&dyn Rows) -> LogIndex,
    ) -> Result<Self::Backend, BackendError>;

    /// Starts filling `generation` with a snapshot's rows, removing whatever it contained. It must not be open.
    ///
    /// # Errors
    /// The disk failed.
    fn fill(&mut self, generation: Generation) -> Result<Self::Filling, BackendError>;

    /// Removes every generation but `generation`.
    ///
    /// # Errors
    /// The disk failed.
    fn retain(&mut self, generation: Generation) -> Result<(), BackendError>;
}

/// Takes the rows of a snapshot in bulk.
pub trait Filling: Send {
    /// Adds a row. Keys come in strictly ascending order.
    ///
    /// # Errors
    /// The disk failed.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackendError>;

    /// Returns once the generation, with all rows, survives a power cut. Without this call it is worthless.
    ///
    /// # Errors
    /// The disk failed.
    fn finish(self) -> Result<(), BackendError>;
}

/// The backend cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// What is on disk is not what was written: it has to come from somewhere else again.
    #[error("{0}")]
    Damaged(String),
    /// The system failed: no file could be opened, no memory or space was left. What is on disk may be as good as ever,
    /// and nothing must be given up for it.
    #[error("{0}")]
    Failed(String),
}
