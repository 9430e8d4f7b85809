//! Runs seeds: each on a thread of its own, in a madsim runtime of its own.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use crate::check::Violation;
use crate::report::Report;
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
    catch_panics();
    let setup = Arc::new(setup);
    let body = move || {
        QUIET.set(true);
        let config = madsim::Config::default();
        madsim::runtime::Runtime::with_seed_and_config(setup.seed, config).block_on(async { simulate(setup, log) })
    };
    let thread = std::thread::Builder::new().name("simulation".into()).spawn(body).expect("a thread can be started");
    thread.join().expect("panics are caught inside")
}

fn simulate(setup: Arc<Setup>, log: bool) -> Report {
    let seed = setup.seed;
    let mut world = World::new(setup, log);
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
        violation: verdict.err().map(|violation| (violation, now)),
        log: world.trace.into_log(),
    }
}
