//! Makes a failing script shorter: whatever it fails without goes.

use crate::cluster::Setup;
use crate::op::Op;
use crate::run::{Failure, again};

/// The shortest script found with `budget` runs that still ends in a difference; `None` if it does not fail again.
pub(crate) async fn shrink(setup: &Setup, failure: Failure, budget: usize) -> anyhow::Result<Option<Failure>> {
    let mut left = budget;
    let kind = failure.script.last().map(Op::name);
    let mut best = failure;
    let mut reproduced = false;
    // Halves, quarters and so on; the step that differs stays.
    let mut pieces = 1;
    while left > 0 {
        let steps = best.script.len() - 1;
        let size = steps.div_ceil(pieces).max(1);
        let mut start = 0;
        let mut shorter = false;
        while start < best.script.len() - 1 && left > 0 {
            let end = (start + size).min(best.script.len() - 1);
            let script = [&best.script[..start], &best.script[end..]].concat();
            left -= 1;
            match again(setup, &script).await? {
                // Another difference would be another story.
                Some(found) if found.script.last().map(Op::name) == kind => {
                    (best, shorter, reproduced) = (found, true, true);
                }
                _ => start = end,
            }
        }
        if size == 1 && !shorter {
            break;
        }
        if !shorter {
            pieces = (pieces * 2).min(steps.max(1));
        }
    }
    Ok(reproduced.then_some(best))
}
