//! Runs seeds: each on a thread of its own, in a madsim runtime of its own.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use crate::check::Violation;
use crate::report::{Keep, Report};
use crate::swarm::Setup;
use crate::world::World;

thread_local! {
    /// What the panic that this thread is about to catch said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics inside of a simulation become violations instead of text on standard error.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                let place = info.location().map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
                let payload = info.payload();
                let text = payload.downcast_ref::<&str>().copied();
                let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                let said = text.unwrap_or("a panic without words");
                let trace = std::backtrace::Backtrace::capture();
                let trace = if trace.status() == std::backtrace::BacktraceStatus::Captured {
                    format!("\n{trace}")
                } else {
                    String::new()
                };
                PANIC.set(Some(format!("{said} ({place}){trace}")));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs what `setup` says; with `log`, keeps a line for every event.
///
/// # Panics
/// If the system has no thread left.
#[must_use]
pub fn run(setup: Setup, log: bool) -> Report {
    run_and_keep(setup, Keep { log, ..Keep::default() })
}

/// Runs what `setup` says and keeps of it what is asked for.
///
/// # Panics
/// If the system has no thread left.
#[must_use]
pub fn run_and_keep(setup: Setup, keep: Keep) -> Report {
    catch_panics();
    let setup = Arc::new(setup);
    let body = move || {
        QUIET.set(true);
        let config = madsim::Config::default();
        madsim::runtime::Runtime::with_seed_and_config(setup.seed, config).block_on(async { simulate(setup, keep) })
    };
    let thread = std::thread::Builder::new().name("simulation".into()).spawn(body).expect("a thread can be started");
    thread.join().expect("panics are caught inside")
}

fn simulate(setup: Arc<Setup>, keep: Keep) -> Report {
    let seed = setup.seed;
    let mut world = World::new(setup, keep);
    let verdict = panic::catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| {
        let said = PANIC.take().unwrap_or_default();
        Err(Violation::new("assertion", said))
    });
    let now = world.now();
    Report {
        seed,
        hash: world.trace.hash(),
        events: world.trace.events(),
        totals: world.totals,
        deeds: world.deeds.take(),
        strikes: std::mem::take(&mut world.strikes),
        chronicle: world.chronicle.take(),
        violation: verdict.err().map(|violation| (violation, now)),
        log: world.trace.into_log(),
    }
}

/// What this process has used of its processors, in seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may contain anything: state is field 3, user and system time are 14 and 15, in 1/100 s.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(14) + ticks(15)) / 100.0
}
