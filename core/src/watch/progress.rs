//! Progress: promises that a watcher has seen everything up to a revision. (etcd: progress_notify, progress_request)
//!
//! A promise is made only for watchers that keep up, after whatever was sent to them before: a stream is one queue.

use alloc::vec::Vec;
use core::time::Duration;

use super::watcher::{Place, Watcher};
use super::{Name, Output, Response, WatchHub};
use crate::mutant::{self, Mutant};
use crate::{Instant, StreamId, WatchId};

/// (etcd: the least `--watch-progress-notify-interval`)
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl WatchHub {
    /// Answers a progress request if all watchers of the stream keep up and have reached their start. (etcd)
    pub(super) fn request_progress(&mut self, id: StreamId, out: &mut Vec<Output>) {
        let all = (id, WatchId(i64::MIN))..=(id, WatchId(i64::MAX));
        let mut watchers = self.watchers.range(all).map(|(_, watcher)| watcher).peekable();
        if watchers.peek().is_some() && watchers.all(|watcher| self.keeps_up(watcher)) {
            self.send(id, Response { watch: None, ..Response::to(WatchId(0), self.revision) }, out);
        }
    }

    /// Sends progress to watchers that were idle for an interval.
    pub(super) fn send_due_progress(&mut self, out: &mut Vec<Output>) {
        while let Some(&(at, name)) = self.timers.first()
            && at <= self.now
        {
            let watcher = &self.watchers[&name];
            let since = if watcher.active + self.interval() > self.now { watcher.active } else { self.now };
            let is_silent = mutant::is_on(Mutant::W07);
            if since == self.now && self.keeps_up(watcher) && !self.streams[&name.0].full() && !is_silent {
                self.send(name.0, Response::to(name.1, self.revision), out);
            }
            self.arm_progress(name, since);
        }
    }

    /// Considers progress of `name` an interval, and 0 to 10% more, after `since`.
    pub(super) fn arm_progress(&mut self, name: Name, since: Instant) {
        let jitter = self.rng.below(self.interval().as_nanos() as u64 / 10 + 1);
        let at = since + self.interval() + Duration::from_nanos(jitter);
        let watcher = self.watchers.get_mut(&name).expect("only held watchers have timers");
        if let Some(old) = watcher.progress.replace(at) {
            self.timers.remove(&(old, name));
        }
        self.timers.insert((at, name));
    }

    fn keeps_up(&self, watcher: &Watcher) -> bool {
        watcher.place == Place::Synced && watcher.start <= self.revision
    }

    fn interval(&self) -> Duration {
        self.config.progress_interval.max(INTERVAL_MIN)
    }
}
