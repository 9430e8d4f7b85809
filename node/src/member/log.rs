//! The log's turn: everything that waits is written in one piece and synced once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_core::WriteId;
use quorate_core::entry::Record;
use quorate_core::replica;

use super::Observer;
use super::driving::ToDriver;
use super::station::Stage;
use crate::disk::Disk;
use crate::driver::Event;
use crate::wal::Wal;

/// Records to store, and the name of the last write among them.
pub(super) struct ToLog {
    pub(super) records: Vec<Record>,
    pub(super) through: WriteId,
}

/// After so long without a write the log is marked, see [`Wal::mark`].
const LOG_IDLE: Duration = Duration::from_millis(100);

/// Owns the log.
pub(super) struct LogStage<D> {
    wal: Wal<D>,
    observer: Arc<dyn Observer>,
    records: Vec<Record>,
    mark_at: Option<Instant>,
}

impl<D: Disk> LogStage<D> {
    pub(super) fn new(wal: Wal<D>, observer: Arc<dyn Observer>) -> Self {
        Self { wal, observer, records: Vec::new(), mark_at: Some(Instant::now() + LOG_IDLE) }
    }

    fn fatal(&self, error: &std::io::Error) -> ! {
        self.observer.fatal(&format!("the write-ahead log cannot be written: {error}"))
    }
}

impl<D: Disk + Send> Stage for LogStage<D> {
    type Item = ToLog;

    fn turn(&mut self, items: &mut Vec<ToLog>, events: &mut Vec<ToDriver>) {
        let Some(write) = items.last().map(|item| item.through) else {
            if self.mark_at.is_some_and(|at| at <= Instant::now()) {
                // Say on disk that the last records are durable. No sync, the system writes it back in time.
                self.wal.mark().unwrap_or_else(|error| self.fatal(&error));
                self.mark_at = None;
            }
            return;
        };
        self.records.extend(items.drain(..).flat_map(|item| item.records));
        let began = Instant::now();
        self.mark_at = Some(began + LOG_IDLE);
        if let Err(error) = self.wal.append(&self.records).and_then(|()| self.wal.sync()) {
            self.fatal(&error);
        }
        self.observer.synced(began.elapsed(), self.records.len());
        events.push(ToDriver::Event(Event::Input(replica::Input::Persisted { write })));
    }

    fn tidy(&mut self) {
        let releases = |record: &Record| matches!(record, Record::Compact { .. } | Record::Snapshot { .. });
        if self.records.iter().any(releases)
            && let Err(error) = self.wal.release()
        {
            self.observer.fatal(&format!("the write-ahead log's old segments cannot be removed: {error}"));
        }
        self.records.clear();
    }

    fn deadline(&self) -> Option<Instant> {
        self.mark_at
    }

    fn finish(&mut self) {
        if let Err(error) = self.wal.mark().and_then(|()| self.wal.sync()) {
            self.observer.fatal(&format!("the write-ahead log cannot be closed: {error}"));
        }
    }
}
