//! Seeds, several at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::Differential;
use crate::cluster::Setup;
use crate::generate::Generator;
use crate::op::Op;
use crate::report::{self, Totals};
use crate::session::{Difference, Session};
use crate::shrink::shrink;

/// Where a script failed.
pub(crate) struct Failure {
    /// The steps up to the one that differs, which is the last.
    pub(crate) script: Vec<Op>,
    pub(crate) difference: Difference,
}

/// Runs all seeds. Whether both makes did the same in all of them.
pub(crate) async fn run(arguments: &Differential) -> anyhow::Result<bool> {
    let (from, to) = arguments.seeds;
    let began = Instant::now();
    let (next, failed) = (Arc::new(AtomicU64::new(from)), Arc::new(AtomicBool::new(false)));
    let mut jobs = JoinSet::new();
    for _ in 0..arguments.jobs.max(1) {
        let (next, failed) = (Arc::clone(&next), Arc::clone(&failed));
        let (setup, members) = (setup(arguments), arguments.members.clone());
        let (ops, budget, keep_going) = (arguments.ops, arguments.shrink, arguments.keep_going);
        jobs.spawn(async move {
            let mut totals = Totals::default();
            while keep_going || !failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= to {
                    break;
                }
                let at = usize::try_from(seed).unwrap_or(0) % members.len();
                let setup = Setup { members: members[at], ..setup.clone() };
                let failure = script(&setup, seed, ops, &mut totals).await?;
                totals.seeds += 1;
                let Some(failure) = failure else { continue };
                failed.store(true, Ordering::Relaxed);
                println!("{}", report::failure(seed, setup.members, &failure));
                if let Some(short) = shrink(&setup, failure, budget).await? {
                    println!("seed {seed}, shortened:\n{}", report::script(&short));
                }
            }
            anyhow::Ok(totals)
        });
    }
    let mut totals = Totals::default();
    while let Some(job) = jobs.join_next().await {
        totals.add(job??);
    }
    print!("{totals}");
    println!("{:.0} s", began.elapsed().as_secs_f64());
    Ok(!failed.load(Ordering::Relaxed))
}

fn setup(arguments: &Differential) -> Setup {
    Setup { etcd: arguments.etcd.clone(), quorate: arguments.quorate.clone(), dir: arguments.dir.clone(), members: 1 }
}

/// Makes and runs the script of one seed.
async fn script(setup: &Setup, seed: u64, ops: usize, totals: &mut Totals) -> anyhow::Result<Option<Failure>> {
    let mut session = Session::start(setup).await?;
    let mut generator = Generator::new(seed, setup.members);
    let mut script = Vec::with_capacity(ops);
    let mut failure = None;
    for at in 0..=ops {
        let op = if at < ops { generator.next() } else { Op::WatchSync };
        script.push(op.clone());
        match session.step(&op).await {
            Ok(outcome) => {
                generator.learn(&op, &outcome);
                totals.count(&op, &outcome);
            }
            Err(difference) => {
                failure = Some(Failure { script, difference });
                break;
            }
        }
    }
    for (name, uses) in &session.uses {
        *totals.uses.entry(name).or_default() += uses;
    }
    if let Some(logs) = session.end() {
        println!("seed {seed}: a member has ended\n{logs}");
        anyhow::ensure!(failure.is_some(), "a member ended in the course of seed {seed}");
    }
    Ok(failure)
}

/// Runs a script that was made before, up to the first difference.
pub(crate) async fn again(setup: &Setup, script: &[Op]) -> anyhow::Result<Option<Failure>> {
    let mut session = Session::start(setup).await?;
    for (at, op) in script.iter().enumerate() {
        if let Err(difference) = session.step(op).await {
            return Ok(Some(Failure { script: script[..=at].to_vec(), difference }));
        }
    }
    Ok(None)
}
