//! What is printed.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::justified::{LIST, Uses};
use crate::op::Op;
use crate::run::Failure;
use crate::session::Outcome;

/// What was done, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    /// Steps by name: how many were answered, and how many refused.
    steps: BTreeMap<&'static str, (u64, u64)>,
    pub(crate) uses: Uses,
}

impl Totals {
    /// Counts a step.
    pub(crate) fn count(&mut self, op: &Op, outcome: &Outcome) {
        let refused = matches!(outcome, Outcome::Answer(Err(_)) | Outcome::KeptAlive(Err(_)) | Outcome::Chunks(Err(_)));
        let (done, denied) = self.steps.entry(op.name()).or_default();
        *if refused { denied } else { done } += 1;
    }

    /// Adds another job's numbers.
    pub(crate) fn add(&mut self, other: Totals) {
        self.seeds += other.seeds;
        for (name, (done, refused)) in other.steps {
            let sum = self.steps.entry(name).or_default();
            (sum.0, sum.1) = (sum.0 + done, sum.1 + refused);
        }
        for (name, uses) in other.uses {
            *self.uses.entry(name).or_default() += uses;
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, refused) = self.steps.values().fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
        writeln!(f, "{} seeds, {} operations: {done} done, {refused} refused", self.seeds, done + refused)?;
        for (name, (done, refused)) in &self.steps {
            writeln!(f, "  {name:<16} {done:>9} {refused:>9}")?;
        }
        writeln!(f, "justified differences met:")?;
        for justified in LIST {
            let uses = self.uses.get(justified.name).copied().unwrap_or(0);
            writeln!(f, "  {:<16} {uses:>9}  {}", justified.name, justified.reason)?;
        }
        Ok(())
    }
}

/// A difference, with how to see it again.
pub(crate) fn failure(seed: u64, members: usize, failure: &Failure) -> String {
    let steps = failure.script.len();
    format!(
        "FAILED: seed {seed}, operation {steps}, {members} members\n{}again: quorate-jepsen differential --seeds {seed}..{} \
         --members {members} --ops {steps}",
        last(failure),
        seed + 1,
    )
}

/// All steps of a short script and what the last one led to.
pub(crate) fn script(failure: &Failure) -> String {
    const LONG: usize = 40;
    let mut text = String::new();
    let from = failure.script.len().saturating_sub(LONG);
    for op in &failure.script[from..] {
        let _ = writeln!(text, "  {}", short(&brief(op), 1200));
    }
    text + &last(failure)
}

fn last(failure: &Failure) -> String {
    let op = failure.script.last().map_or(String::new(), |op| short(&brief(op), 12_000));
    let (reference, ours) = (&failure.difference.reference, &failure.difference.ours);
    format!("{op}\n{}", differing_lines(reference, ours))
}

/// A step without the fields that are as they always are.
fn brief(op: &Op) -> String {
    let mut text = format!("{op:?}");
    for usual in ["user: None", "limit: 0", "revision: 0", "sort_order: None", "sort_target: Key", "lease: 0"] {
        text = text.replace(&format!("{usual}, "), "");
    }
    for field in ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"] {
        text = text.replace(&format!(", {field}: 0"), "");
    }
    for flag in ["serializable", "keys_only", "count_only", "prev_kv", "ignore_value", "ignore_lease"] {
        text = text.replace(&format!(", {flag}: false"), "").replace(&format!("{flag}: false, "), "");
    }
    text.replace("RequestOp { request: Some(", "(")
}

fn short(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// Both texts without what they begin and end with alike, beyond a little around it.
fn differing_lines(reference: &str, ours: &str) -> String {
    const AROUND: usize = 8;
    let (a, b): (Vec<&str>, Vec<&str>) = (reference.lines().collect(), ours.lines().collect());
    let begin = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let end = a[begin..].iter().rev().zip(b[begin..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for (sign, lines) in [('-', &a), ('+', &b)] {
        let _ = writeln!(text, "{}", if sign == '-' { "--- etcd" } else { "+++ quorate" });
        let (from, to) = (begin.saturating_sub(AROUND), (lines.len() - end + AROUND / 2).min(lines.len()));
        for (at, line) in lines[from..to].iter().enumerate().take(120) {
            let mark = if (begin..lines.len() - end).contains(&(from + at)) { sign } else { ' ' };
            let _ = writeln!(text, "{mark} {}", short(line, 300));
        }
    }
    text
}
