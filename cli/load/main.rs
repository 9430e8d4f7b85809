//! quorate-load: measures servers, and kills them under load to see that nothing acknowledged is lost.
//!
//! It starts the servers itself, ours or etcd's: both understand the flags it uses.

mod bench;
mod cluster;
mod kill9;
mod report;

use std::process::ExitCode;

use quorate_cli::failure::Failure;
use quorate_cli::flags::{Args, Flag};

const FLAGS: &[Flag] = &[
    Flag::string("clients", "1,64,512", "bench: numbers of clients, separated by commas"),
    Flag::string("dir", "", "where the servers keep their data; must not exist (required)"),
    Flag::int("election-ms", "1000", "election timeout of the servers"),
    Flag::string("etcd", "", "bench: path of the etcd binary to compare with"),
    Flag::int("keys", "100000", "bench: keys of 256 bytes at which memory is measured (0: not at all)"),
    Flag::string("members", "1,3", "sizes of the clusters, separated by commas"),
    Flag::string("ops", "put,txn,get,sget", "bench: operations: put, txn, get (linearizable), sget (serializable)"),
    Flag::int("port", "24790", "first of the loopback ports used"),
    Flag::string("quorate", "", "path of the quorate binary"),
    Flag::int("rounds", "50", "kill9: how many members to kill in each cluster"),
    Flag::int("runs", "5", "bench: how often to measure each server, taking turns"),
    Flag::int("seconds", "3", "bench: how long each measurement lasts"),
    Flag::int("seed", "1", "kill9: draws the victims and the pauses"),
    Flag::bool("wipe", "kill9: delete the victim's data before it comes back under its old name"),
];

const USAGE: &str = "usage: quorate-load bench|kill9 --dir DIR --quorate PATH [--etcd PATH] [flags]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message {
                eprintln!("Error: {message}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut raw: Vec<String> = std::env::args().skip(1).collect();
    if raw.is_empty() {
        return Err(Failure::bad_args(USAGE));
    }
    let command = raw.remove(0);
    let args = Args::parse(FLAGS, &raw).map_err(|error| Failure::bad_args(format!("{error}\n{USAGE}")))?;
    if args.string("dir").is_empty() || !args.words().is_empty() {
        return Err(Failure::bad_args(USAGE));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::error(e.to_string()))?;
    runtime.block_on(async {
        match command.as_str() {
            "bench" => bench::bench(&args).await,
            "kill9" => kill9::kill9(&args).await,
            _ => Err(Failure::bad_args(USAGE)),
        }
    })
}

/// The numbers in flag `name`.
fn numbers(args: &Args, name: &str) -> Result<Vec<usize>, Failure> {
    let parse =
        |text: &str| text.trim().parse().map_err(|_| Failure::bad_args(format!("--{name}: bad number {text:?}")));
    args.string(name).split(',').map(parse).collect()
}

/// A small generator of numbers for load and faults: xorshift64*.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
