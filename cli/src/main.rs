//! The `quoratectl` binary. Under the name `etcdctl` it says so of itself.

use std::process::ExitCode;

use quorate_node::given;

/// etcdctl's exit code for arguments that cannot be used.
const BAD_ARGS: u8 = 128;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default().to_string_lossy().into_owned();
    let name = program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("quoratectl").to_owned();
    let (args, vars) = match (given::words(args), given::variables(std::env::vars_os(), "ETCDCTL_")) {
        (Ok(args), Ok(vars)) => (args, vars),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("Error: {error}; values that are not text can be put from stdin");
            return ExitCode::from(BAD_ARGS);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(quorate_cli::commands::run(&name, args, vars));
    // Reads of stdin cannot be interrupted: do not wait for their thread.
    runtime.shutdown_background();
    ExitCode::from(code)
}
