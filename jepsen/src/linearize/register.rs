//! One register that is read, written, and compared and set; and the logs of it that Jepsen writes.

use std::collections::BTreeMap;

use super::{Call, Effect, Spec};

/// The register, initially nil.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// A call of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Found this value; `None` is nil.
    Read(Option<i64>),
    /// Wrote a value.
    Write(i64),
    /// Set the register to the second value if it held the first.
    Cas {
        /// The value wanted.
        from: i64,
        /// The value to set.
        to: i64,
        /// Whether the register held it; `None` if that is not known.
        held: Option<bool>,
    },
}

impl Spec for Register {
    type Op = Op;
    type State = Option<i64>;
    type Partition = ();

    fn initial(&self) -> Option<i64> {
        None
    }

    fn partition(&self, _: &Op) {}

    fn step(&self, state: &Option<i64>, op: &Op) -> Effect<Option<i64>> {
        let to = match *op {
            Op::Read(value) if value == *state => return Effect::Same,
            Op::Read(_) => return Effect::Wrong,
            Op::Write(value) => value,
            Op::Cas { from, to, held } => match (*state == Some(from), held) {
                (holds, Some(held)) if holds != held => return Effect::Wrong,
                (true, _) => to,
                (false, _) => return Effect::Same,
            },
        };
        if *state == Some(to) { Effect::Same } else { Effect::To(Some(to)) }
    }
}

/// Reads a log of lines such as `INFO  jepsen.util - 3 :ok :cas [2 4]`, with tabs before the words; its lines are its clock.
///
/// Reads that failed say nothing and are left out; so are writes that failed, which have not happened.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(log: &str) -> Result<Vec<Call<Op>>, String> {
    let mut calls: Vec<Option<Call<Op>>> = Vec::new();
    let mut pending: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, at) in log.lines().zip(0..) {
        let bad = || format!("line {}: {line}", at + 1);
        let mut words = line.strip_prefix("INFO  jepsen.util - ").ok_or_else(bad)?.split('\t');
        let mut word = || words.next().ok_or_else(bad);
        let (process, kind, name, value) = (word()?.trim(), word()?, word()?, word()?);
        match kind {
            ":invoke" => {
                pending.insert(process, calls.len());
                let op = invoked(name, value).ok_or_else(bad)?;
                calls.push(Some(Call { op, invoked: at, returned: None }));
            }
            ":ok" | ":fail" => {
                let slot = &mut calls[pending.remove(process).ok_or_else(bad)?];
                let call = slot.as_mut().ok_or_else(bad)?;
                call.returned = Some(at);
                match (&mut call.op, kind == ":ok") {
                    (Op::Read(found), true) => *found = number(value).ok_or_else(bad)?,
                    (Op::Cas { held, .. }, ok) => *held = Some(ok),
                    (Op::Write(_), true) => {}
                    (Op::Read(_) | Op::Write(_), false) => *slot = None,
                }
            }
            ":info" => {
                let i = pending.remove(process).ok_or_else(bad)?;
                if matches!(calls[i], Some(Call { op: Op::Read(_), .. })) {
                    calls[i] = None;
                }
            }
            _ => return Err(bad()),
        }
    }
    // A read that was never answered found nothing that could be wrong.
    for i in pending.into_values() {
        if matches!(calls[i], Some(Call { op: Op::Read(_), .. })) {
            calls[i] = None;
        }
    }
    Ok(calls.into_iter().flatten().collect())
}

fn invoked(name: &str, value: &str) -> Option<Op> {
    Some(match name {
        ":read" => Op::Read(None),
        ":write" => Op::Write(number(value)??),
        ":cas" => {
            let (from, to) = value.strip_prefix('[')?.strip_suffix(']')?.split_once(' ')?;
            Op::Cas { from: number(from)??, to: number(to)??, held: None }
        }
        _ => return None,
    })
}

/// A number or nil; `None` if it is neither.
fn number(text: &str) -> Option<Option<i64>> {
    if text == "nil" { Some(None) } else { text.parse().ok().map(Some) }
}
