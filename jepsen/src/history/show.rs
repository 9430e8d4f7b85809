//! Operations as one line each, for counterexamples.

use std::fmt::{self, Display, Formatter};

use quorate_core::Blob;
use quorate_core::request::{Compare, KeyRange, KeyValue, RequestOp, ResponseOp, TxnRequest, TxnResult};

use super::{End, History, Op, OpId, Operation, Response, Sighting};

/// `client 3: put k = "v" -> revision 5 (12.5 us .. 99.1 us)`
impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "client {}: {} -> ", self.client, self.op)?;
        match &self.end {
            End::Open => write!(f, "?")?,
            End::Returned(response) => write!(f, "{response}")?,
            End::Refused(error) => write!(f, "refused: {error}")?,
            End::Failed => write!(f, "failed")?,
        }
        write!(f, " ({} .. ", micros(self.invoked.at))?;
        let ended = self.ended.map_or_else(String::new, |ended| micros(ended.at));
        write!(f, "{ended})")
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(put) => {
                write!(f, "put {} = {}", text(&put.key), text(&put.value))?;
                put.lease.map_or(Ok(()), |lease| write!(f, " lease {lease}"))?;
                flags(f, &[(put.ignore_value, "ignore_value"), (put.ignore_lease, "ignore_lease")])
            }
            Self::DeleteRange(delete) => write!(f, "delete {}", keys(&delete.range)),
            Self::Range(range) => {
                write!(f, "range {}", keys(&range.range))?;
                range.revision.map_or(Ok(()), |revision| write!(f, " at {revision}"))?;
                if range.limit > 0 {
                    write!(f, " limit {}", range.limit)?;
                }
                let named = [
                    (range.serializable, "serializable"),
                    (range.keys_only, "keys_only"),
                    (range.count_only, "count_only"),
                ];
                flags(f, &named)
            }
            Self::Txn(txn) => show_txn(f, txn),
            Self::Compact(revision) => write!(f, "compact {revision}"),
            Self::LeaseGrant { id: Some(id), ttl } => write!(f, "grant lease {id} for {ttl} s"),
            Self::LeaseGrant { id: None, ttl } => write!(f, "grant any lease for {ttl} s"),
            Self::LeaseRevoke(id) => write!(f, "revoke lease {id}"),
        }
    }
}

impl Display for Response {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision())?;
        match self {
            Self::Put(put) => put.prev_kv.iter().try_for_each(|kv| write!(f, ", before {}", show_kv(kv))),
            Self::DeleteRange(delete) => {
                write!(f, ", {} deleted", delete.deleted)?;
                delete.prev_kvs.iter().try_for_each(|kv| write!(f, ", before {}", show_kv(kv)))
            }
            Self::Range(range) => show_range(f, range.count, range.more, &range.kvs),
            Self::Txn(txn) => show_responses(f, txn),
            Self::LeaseGrant(lease, _) => write!(f, ", lease {} for {} s", lease.id, lease.ttl),
            Self::Compact(_) | Self::LeaseRevoke(_) => Ok(()),
        }
    }
}

impl Display for Sighting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "revision {revision} was seen"),
            Self::Put(kv) => write!(f, "the put {} was seen", show_kv(kv)),
            Self::Delete { key, revision } => write!(f, "the delete of {} at {revision} was seen", text(key)),
            Self::Whole { revision, changes } => write!(f, "{changes} changes at {revision} were seen"),
        }
    }
}

impl History {
    /// The operation on one line, with its name.
    #[must_use]
    pub fn line(&self, id: OpId) -> String {
        match self.find(id) {
            Some(operation) => format!("#{} {operation}", id.0),
            None => format!("#{} long ago", id.0),
        }
    }
}

/// Bytes as a quoted string, or `None` escaped as Rust would.
pub(crate) fn text(bytes: &Blob) -> String {
    if bytes.len() <= 64 { format!("{bytes:?}") } else { format!("{:?}.. {} B", bytes.0.slice(..48), bytes.len()) }
}

pub(crate) fn show_kv(kv: &KeyValue) -> String {
    let lease = kv.lease.map_or_else(String::new, |lease| format!(" lease {lease}"));
    format!(
        "{}={} (created {}, modified {}, version {}{lease})",
        text(&kv.key),
        text(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version
    )
}

fn show_range(f: &mut Formatter<'_>, count: i64, more: bool, kvs: &[KeyValue]) -> fmt::Result {
    write!(f, ", count {count}{}", if more { ", more" } else { "" })?;
    kvs.iter().try_for_each(|kv| write!(f, ", {}", show_kv(kv)))
}

fn show_txn(f: &mut Formatter<'_>, txn: &TxnRequest) -> fmt::Result {
    write!(f, "if [")?;
    for Compare { range, result, target } in &txn.compare {
        write!(f, "{} {target:?} {result:?};", keys(range))?;
    }
    for (word, ops) in [("then", &txn.success), ("else", &txn.failure)] {
        write!(f, "] {word} [")?;
        for op in ops {
            match op {
                RequestOp::Range(r) => write!(f, "{};", Op::Range(r.clone()))?,
                RequestOp::Put(r) => write!(f, "{};", Op::Put(r.clone()))?,
                RequestOp::DeleteRange(r) => write!(f, "{};", Op::DeleteRange(r.clone()))?,
                RequestOp::Txn(r) => show_txn(f, r)?,
            }
        }
    }
    write!(f, "]")
}

fn show_responses(f: &mut Formatter<'_>, txn: &TxnResult) -> fmt::Result {
    write!(f, ", {} [", if txn.succeeded { "succeeded" } else { "did not succeed" })?;
    for response in &txn.responses {
        match response {
            ResponseOp::Range(r) => write!(f, "{};", Response::Range(r.clone()))?,
            ResponseOp::Put(r) => write!(f, "{};", Response::Put(r.clone()))?,
            ResponseOp::DeleteRange(r) => write!(f, "{};", Response::DeleteRange(r.clone()))?,
            ResponseOp::Txn(r) => show_responses(f, r)?,
        }
    }
    write!(f, "]")
}

fn keys(range: &KeyRange) -> String {
    match range {
        KeyRange::Key(key) => text(key),
        KeyRange::Bounded { start, end } => format!("{}..{}", text(start), text(end)),
        KeyRange::From(start) => format!("{}..", text(start)),
    }
}

fn flags(f: &mut Formatter<'_>, named: &[(bool, &str)]) -> fmt::Result {
    named.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| write!(f, " {name}"))
}

fn micros(ns: u64) -> String {
    format!("{}.{:03} us", ns / 1000, ns % 1000)
}
