//! One worker, many callers, no thread in between: whoever brings work to an idle worker does it, whoever finds the
//! worker busy leaves it and goes on. (Flat combining, Hendler et al. 2010)
//!
//! Handing a request to a thread of its own and its answer back costs two wake-ups; here the caller steps the driver
//! itself, and what arrives meanwhile is done by it in one more turn.

use std::mem;
use std::ops::BitOrAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Whom a turn left something to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "somebody must do it or be woken"]
pub(super) struct Due {
    pub(super) log: bool,
    pub(super) applier: bool,
}

impl BitOrAssign for Due {
    fn bitor_assign(&mut self, other: Self) {
        self.log |= other.log;
        self.applier |= other.applier;
    }
}

/// What a [`Combiner`] guards.
pub(super) trait Worker: Send {
    /// A piece of work.
    type Item: Send;

    /// Does everything in `items`, and what time demands.
    fn turn(&mut self, items: &mut Vec<Self::Item>) -> Due;

    /// When the next turn is due at the latest, whatever arrives.
    fn deadline(&self) -> Option<Instant>;

    /// Whether patient items had better wait for the next urgent one.
    fn is_busy(&self) -> bool;
}

/// A worker and its inbox.
#[derive(Debug)]
pub(super) struct Combiner<W: Worker> {
    worker: Mutex<W>,
    inbox: Mutex<Inbox<W::Item>>,
    /// The worker said so after its last turn.
    busy: AtomicBool,
    timer: Mutex<Timer>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inbox<T> {
    items: Vec<T>,
    /// One of `items` does not wait.
    urgent: bool,
}

#[derive(Debug)]
struct Timer {
    deadline: Option<Instant>,
    closed: bool,
}

impl<W: Worker> Combiner<W> {
    pub(super) fn new(worker: W) -> Self {
        let timer = Timer { deadline: worker.deadline(), closed: false };
        Self {
            worker: Mutex::new(worker),
            inbox: Mutex::new(Inbox { items: Vec::new(), urgent: false }),
            busy: AtomicBool::new(false),
            timer: Mutex::new(timer),
            changed: Condvar::new(),
        }
    }

    /// Brings work that does not wait. What is left to do after a turn is told to whoever gave it.
    pub(super) fn send(&self, items: impl IntoIterator<Item = W::Item>) -> Due {
        let mut inbox = self.inbox.lock().expect("no holder of this lock panics");
        inbox.items.extend(items);
        inbox.urgent = true;
        drop(inbox);
        self.run()
    }

    /// Brings work that waits while the worker is busy.
    pub(super) fn send_patient(&self, item: W::Item) -> Due {
        self.inbox.lock().expect("no holder of this lock panics").items.push(item);
        // The order matters: the worker says that it is no longer busy before it looks into the inbox a last time.
        if self.busy.load(Ordering::SeqCst) { Due::default() } else { self.run() }
    }

    /// Gives the worker turns until nothing is left that does not wait. If it is at work already, whoever gives it its
    /// turn looks into the inbox again afterwards.
    fn run(&self) -> Due {
        let mut items = Vec::new();
        let mut due = Due::default();
        while let Ok(mut worker) = self.worker.try_lock() {
            let mut inbox = self.inbox.lock().expect("no holder of this lock panics");
            mem::swap(&mut inbox.items, &mut items);
            inbox.urgent = false;
            drop(inbox);
            due |= worker.turn(&mut items);
            items.clear();
            self.busy.store(worker.is_busy(), Ordering::SeqCst);
            self.set_timer(worker.deadline());
            drop(worker);
            let inbox = self.inbox.lock().expect("no holder of this lock panics");
            if inbox.items.is_empty() || (!inbox.urgent && self.busy.load(Ordering::SeqCst)) {
                break;
            }
        }
        due
    }

    fn set_timer(&self, deadline: Option<Instant>) {
        let mut timer = self.timer.lock().expect("no holder of this lock panics");
        let is_earlier = match (deadline, timer.deadline) {
            (Some(new), Some(old)) => new < old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        timer.deadline = deadline;
        drop(timer);
        if is_earlier {
            self.changed.notify_one(); // A later deadline is noticed when the earlier one has come.
        }
    }

    /// Gives the worker its turns when only time passes, until [`Combiner::close`]. For a thread of its own.
    pub(super) fn keep_time(&self, see_to: impl Fn(Due)) {
        let mut timer = self.timer.lock().expect("no holder of this lock panics");
        while !timer.closed {
            let left = timer.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                timer.deadline = None;
                drop(timer);
                see_to(self.wait_turn());
                timer = self.timer.lock().expect("no holder of this lock panics");
                continue;
            }
            // A day stands for "for ever": the loop goes around.
            let left = left.unwrap_or(Duration::from_secs(86_400));
            timer = self.changed.wait_timeout(timer, left).expect("no holder of this lock panics").0;
        }
    }

    /// A turn for time's sake, after the one under way.
    fn wait_turn(&self) -> Due {
        drop(self.worker.lock().expect("no holder of this lock panics"));
        self.run()
    }

    /// Ends [`Combiner::keep_time`].
    pub(super) fn close(&self) {
        self.timer.lock().expect("no holder of this lock panics").closed = true;
        self.changed.notify_one();
    }

    /// The worker, between turns.
    pub(super) fn with<R>(&self, body: impl FnOnce(&mut W) -> R) -> R {
        body(&mut self.worker.lock().expect("no holder of this lock panics"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Sum {
        total: u64,
        turns: u64,
        busy: bool,
    }

    impl Worker for Sum {
        type Item = u64;
        fn turn(&mut self, items: &mut Vec<u64>) -> Due {
            self.turns += 1;
            self.busy = items.iter().any(|item| item % 2 == 1);
            let sum = items.drain(..).sum::<u64>();
            self.total += sum;
            Due { log: sum > 0, applier: false }
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn is_busy(&self) -> bool {
            self.busy
        }
    }

    #[test]
    fn nothing_is_left_behind_whoever_works() {
        let combiner = Arc::new(Combiner::new(Sum { total: 0, turns: 0, busy: false }));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let combiner = Arc::clone(&combiner);
                std::thread::spawn(move || {
                    for item in 0..10_000 {
                        let _ = if item % 3 == 0 { combiner.send([item]) } else { combiner.send_patient(item) };
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        let _ = combiner.send([0]);
        assert_eq!(combiner.with(|sum| sum.total), 4 * (0..10_000).sum::<u64>());
    }

    #[test]
    fn patient_items_wait_while_the_worker_is_busy() {
        let combiner = Combiner::new(Sum { total: 0, turns: 0, busy: false });
        assert!(combiner.send([1]).log);
        assert!(!combiner.send_patient(10).log, "nothing was done");
        assert_eq!(combiner.with(|sum| (sum.total, sum.turns)), (1, 1));
        assert!(combiner.send([2]).log);
        assert_eq!(combiner.with(|sum| (sum.total, sum.turns)), (13, 2));
    }
}
