//! quorate-jepsen: tests of real servers. `differential` makes a real etcd and Quorate do the same and compares every
//! field of every answer.

mod api;
mod cluster;
mod generate;
mod justified;
mod names;
mod op;
mod report;
mod run;
mod session;
mod shrink;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Tests of real servers. Exit code 0: all is well; 1: a difference; 2: the test itself failed.
#[derive(Debug, Parser)]
#[command(name = "quorate-jepsen", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a real etcd and Quorate do the same and compares every field of every answer
    Differential(Differential),
}

#[derive(Debug, Args)]
struct Differential {
    /// The seeds A..B (B excluded), each a script of its own on fresh clusters
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "0..10")]
    seeds: (u64, u64),
    /// Steps of each script
    #[arg(long, default_value_t = 5000)]
    ops: usize,
    /// Sizes of the clusters: seeds take turns
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    members: Vec<usize>,
    /// The etcd binary
    #[arg(long, env = "QUORATE_ETCD_BIN")]
    etcd: PathBuf,
    /// The quorate binary
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
    /// Where the servers keep their data
    #[arg(long, default_value_os_t = cluster::fast_dir())]
    dir: PathBuf,
    /// Scripts that run at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How often a failing script is run again to make it shorter
    #[arg(long, default_value_t = 60)]
    shrink: usize,
    /// Go on after seeds that fail, and show them all
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write it as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to { Ok((from, to)) } else { Err(format!("{from}..{to} is empty")) }
}

fn main() -> ExitCode {
    let Command::Differential(arguments) = Arguments::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run::run(&arguments)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("quorate-jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}
