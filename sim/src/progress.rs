//! How far a run of many seeds has come: a bar on a terminal, elsewhere a line now and then. What fails is said at once.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Seconds from one line to the next.
const PACE: u64 = 30;

/// Of some number of seeds. All of it goes to the standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    /// When the next line is due, in seconds since the beginning.
    due: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    /// Before the first of `seeds` seeds.
    pub(crate) fn new(seeds: u64) -> Self {
        let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}";
        let style = ProgressStyle::with_template(style).expect("the template is right");
        let bar = ProgressBar::new(seeds).with_style(style);
        Self { bar, is_terminal: io::stderr().is_terminal(), due: AtomicU64::new(PACE), failed: AtomicU64::new(0) }
    }

    /// One more seed is done.
    pub(crate) fn done(&self) {
        self.bar.inc(1);
        let (now, due) = (self.bar.elapsed().as_secs(), self.due.load(Ordering::Relaxed));
        let is_due = !self.is_terminal && now >= due;
        // Of those that find it due one says so.
        if is_due && self.due.compare_exchange(due, now + PACE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.tell();
        }
    }

    /// A seed failed: `what` it was.
    pub(crate) fn failed(&self, seed: u64, what: &str) {
        let number = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(format!("({number} failed)"));
        let line = what.lines().next().unwrap_or_default();
        self.bar.suspend(|| eprintln!("seed {seed} FAILED: {line}"));
    }

    /// Nothing more is to come.
    pub(crate) fn finish(&self) {
        if !self.is_terminal {
            self.tell();
        }
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        let (done, all, failed) =
            (self.bar.position(), self.bar.length().unwrap_or_default(), self.failed.load(Ordering::Relaxed));
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(0.001);
        let left = (all - done) as f64 / rate.max(0.001);
        eprintln!("{done} of {all} seeds in {seconds:.0} s, {rate:.1} a second, {left:.0} s left, {failed} failed");
    }
}
