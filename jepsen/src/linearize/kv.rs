//! Keys with strings that are read, written and appended to, and logs of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Call, Effect, Spec};

/// Independent keys, initially empty strings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strings;

/// A call about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: String,
    /// What was done.
    pub action: Action,
}

/// What was done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Found this; `None` if that is not known.
    Get(Option<String>),
    /// Replaced the string.
    Put(String),
    /// Added to its end.
    Append(String),
}

impl Spec for Strings {
    type Op = Op;
    type State = Arc<str>;
    type Partition = String;

    fn initial(&self) -> Arc<str> {
        Arc::from("")
    }

    fn partition(&self, op: &Op) -> String {
        op.key.clone()
    }

    fn step(&self, state: &Arc<str>, op: &Op) -> Effect<Arc<str>> {
        match &op.action {
            Action::Get(Some(found)) if found[..] != state[..] => Effect::Wrong,
            Action::Get(_) => Effect::Same,
            Action::Put(value) if value[..] == state[..] => Effect::Same,
            Action::Put(value) => Effect::To(Arc::from(value.as_str())),
            Action::Append(value) if value.is_empty() => Effect::Same,
            Action::Append(value) => Effect::To([state, value.as_str()].concat().into()),
        }
    }
}

/// Reads a log of lines such as `{:process 9, :type :ok, :f :get, :key "0", :value "x"}`; its lines are its clock.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(log: &str) -> Result<Vec<Call<Op>>, String> {
    let mut calls: Vec<Call<Op>> = Vec::new();
    let mut pending: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, at) in log.lines().zip(0..) {
        let bad = || format!("line {}: {line}", at + 1);
        let (process, kind, name, key, value) = fields(line).ok_or_else(bad)?;
        match kind {
            ":invoke" => {
                let action = match name {
                    ":get" => Action::Get(None),
                    ":put" => Action::Put(value.to_owned()),
                    ":append" => Action::Append(value.to_owned()),
                    _ => return Err(bad()),
                };
                pending.insert(process, calls.len());
                calls.push(Call { op: Op { key: key.to_owned(), action }, invoked: at, returned: None });
            }
            ":ok" => {
                let call = &mut calls[pending.remove(process).ok_or_else(bad)?];
                call.returned = Some(at);
                if let Action::Get(found) = &mut call.op.action {
                    *found = Some(value.to_owned());
                }
            }
            _ => return Err(bad()),
        }
    }
    Ok(calls)
}

/// Process, type, function, key and value, the latter two without their quotes.
fn fields(line: &str) -> Option<(&str, &str, &str, &str, &str)> {
    let line = line.strip_prefix("{:process ")?.strip_suffix('}')?;
    let (process, line) = line.split_once(", :type ")?;
    let (kind, line) = line.split_once(", :f ")?;
    let (name, line) = line.split_once(", :key ")?;
    let (key, value) = line.split_once(", :value ")?;
    Some((process, kind, name, key.trim_matches('"'), value.trim_matches('"')))
}
