//! The server binary: etcd's command line around [`quorate_node::launch`].

use std::process::ExitCode;
use std::time::Duration;

use quorate_node::config::{Config, FLAGS_TEXT, Invocation, LogFormat, Refusal, USAGE_TEXT};
use quorate_node::launch::{self, LaunchError, Running};
use quorate_node::service::ETCD_VERSION;
use quorate_node::{given, http, log};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{Level, error, info, warn};

/// A put allocates in one thread and frees in another; the system's allocator spends a sixth of its CPU on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = given::words(std::env::args_os().skip(1));
    let env = given::variables(std::env::vars_os(), "ETCD_");
    let (args, env) = match (args, env) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match Invocation::parse(&args, &env) {
        Ok(Invocation::Serve(config)) => serve(&config),
        Ok(Invocation::Version) => {
            let (os, arch) = (std::env::consts::OS, go_arch());
            println!("etcd Version: {ETCD_VERSION}\nQuorate Version: {}", http::QUORATE_VERSION);
            println!("Git SHA: Not provided\nGo Version: none\nGo OS/Arch: {os}/{arch}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Help) => {
            println!("{FLAGS_TEXT}");
            eprintln!("{USAGE_TEXT}");
            ExitCode::SUCCESS
        }
        Err(Refusal { message, exit_code: 2 }) => {
            eprintln!("{message}\n{USAGE_TEXT}");
            ExitCode::from(2)
        }
        Err(Refusal { message, exit_code }) => {
            log::start(Level::INFO, LogFormat::Json, false);
            warn!(error = message, "failed to verify flags");
            ExitCode::from(exit_code)
        }
    }
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn serve(config: &Config) -> ExitCode {
    log::start(config.log_level, config.log_format, config.log_stdout);
    // A member that goes on after a broken promise loses data; one that stops is an outage.
    std::panic::set_hook(Box::new(|panic| {
        error!(panic = panic.to_string(), "a promise of the code is broken");
        std::process::abort();
    }));
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    // A worker may be waiting for the disk: see `member`.
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error = error.to_string(), "discovery failed");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(config));
    // Whatever still runs is a client's stream.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn run(config: &Config) -> ExitCode {
    info!(
        name = config.name,
        data_dir = config.data_dir.display().to_string(),
        member_id = format!("{:x}", config.member.0),
        cluster_id = format!("{:x}", config.cluster.0),
        etcd_version = ETCD_VERSION,
        quorate_version = http::QUORATE_VERSION,
        heartbeat_interval = format!("{:?}", config.heartbeat),
        election_timeout = format!("{:?}", config.election_timeout),
        "starting an etcd server"
    );
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(terminate), Ok(interrupt)) = signals else {
        error!("discovery failed: signals cannot be received");
        return ExitCode::FAILURE;
    };
    let mut signals = Signals { terminate, interrupt };
    let mut fenced = false;
    loop {
        let ended = match launch::launch(config, fenced).await {
            Ok(running) => until_end(config, running, &mut signals).await,
            Err(reason @ LaunchError::Removed) => {
                error!(error = reason.to_string(), "listener failed");
                Some(ExitCode::FAILURE)
            }
            Err(reason) => {
                error!(error = reason.to_string(), "discovery failed");
                Some(ExitCode::FAILURE)
            }
        };
        match ended {
            Some(code) => return code,
            None => fenced = true,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Serves until the process is to end, with its exit code; `None`: this life of the member is over, but not the process.
async fn until_end(config: &Config, mut running: Running, signals: &mut Signals) -> Option<ExitCode> {
    const SIGINT: u8 = 2;
    const SIGTERM: u8 = 15;
    /// A member stops within 1.5 s, whoever takes over.
    const PATIENCE_MAX: Duration = Duration::from_millis(900);
    let ready = running.ready();
    // Ends with this life of the member.
    let mut announcing = JoinSet::new();
    announcing.spawn(async move {
        ready.await;
        info!("ready to serve client requests");
    });
    /// Time for clients and peers to hear of a member's removal from itself. (etcd)
    const FAREWELL: Duration = Duration::from_secs(1);
    let (fenced, removed) = (running.fenced(), running.removed());
    let (name, number) = tokio::select! {
        _ = signals.terminate.recv() => ("terminated", SIGTERM),
        _ = signals.interrupt.recv() => ("interrupt", SIGINT),
        () = fenced => {
            warn!("this member's state is wrong: it stops serving");
            running.stop(Duration::ZERO).await;
            return None;
        }
        () = removed => {
            let data_dir = config.data_dir.display().to_string();
            warn!(data_dir, "data-dir used by this member must be removed");
            if let Err(error) = running.mark_removed() {
                warn!(error = error.to_string(), "the data directory cannot be marked");
            }
            tokio::time::sleep(FAREWELL).await;
            running.stop(config.election_timeout.min(PATIENCE_MAX)).await;
            return Some(ExitCode::SUCCESS);
        }
        reason = running.failed() => {
            error!(error = reason, "listener failed");
            return Some(ExitCode::FAILURE);
        }
    };
    info!(signal = name, "received signal; shutting down");
    info!(name = config.name, data_dir = config.data_dir.display().to_string(), "closing etcd server");
    running.stop(config.election_timeout.min(PATIENCE_MAX)).await;
    info!(name = config.name, data_dir = config.data_dir.display().to_string(), "closed etcd server");
    // A shell sees what a process killed by the signal would leave; the first process of a container just ends.
    Some(if std::process::id() == 1 { ExitCode::SUCCESS } else { ExitCode::from(128 + number) })
}
