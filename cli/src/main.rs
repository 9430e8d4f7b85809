//! The `quoratectl` binary. Under the name `etcdctl` it says so of itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_default();
    let name = program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("quoratectl").to_owned();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(quorate_cli::commands::run(&name, args.collect(), std::env::vars().collect()));
    // Reads of stdin cannot be interrupted: do not wait for their thread.
    runtime.shutdown_background();
    ExitCode::from(code)
}
