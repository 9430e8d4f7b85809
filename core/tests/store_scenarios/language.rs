//! Requests and answers as short text.
//!
//! `put a 1 [prev] [lease=7] [keep-value] [keep-lease]`, `del a..c [prev]`, `get a [rev=2 limit=1 desc mod keys ...]`,
//! `txn version(a)=1 value(b..c)>x ? put a 2; get a : del b`; a nested txn stands in braces. Ranges: `a`, `a..c`, `a..`
//! and `*`. A state prints as `key=value c(reate) m(od) v(ersion) [l(ease)]`.

use std::fmt::Write as _;

use quorate_core::auth::{Allows, AuthCommand, AuthRevision, Permission};
use quorate_core::command::{Command, Outcome};
use quorate_core::request::*;
use quorate_core::store::{Event, RevisionEvents};
use quorate_core::{Blob, Incarnation, LeaseId, NodeId, Revision, Ttl};

pub(crate) fn command(text: &str) -> Command {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let number = |at: usize| rest.split_whitespace().nth(at).unwrap().parse::<i64>().unwrap();
    match verb {
        "put" => Command::Put(put(rest)),
        "del" => Command::DeleteRange(delete(rest)),
        "txn" => Command::Txn(txn(rest)),
        "compact" => Command::Compact { revision: Revision(number(0)) },
        "grant" => Command::LeaseGrant(Lease { id: LeaseId(number(0)), ttl: Ttl(number(1)) }),
        "revoke" => Command::LeaseRevoke(LeaseId(number(0))),
        "expire" => Command::LeaseExpire(rest.split(' ').map(|id| LeaseId(id.parse().unwrap())).collect()),
        "checkpoint" => {
            let remaining = rest.split(' ').nth(1).unwrap().parse().ok().map(Ttl);
            Command::LeaseCheckpoint(vec![(LeaseId(number(0)), remaining)])
        }
        "downgrade" => Command::Downgrade((rest != "-").then(|| rest.to_owned())),
        "raise" => Command::RaiseAlarm(alarm(rest)),
        "disarm" => Command::ClearAlarm(alarm(rest)),
        _ => Command::Auth(auth(text)),
    }
}

/// `enable`, `disable`, `user u [password=h] [no-password]`, `no-user u`, `passwd u h`, `give u r`, `take u r`, `role r`,
/// `no-role r`, `allow r read a..c`, `forbid r a..c`, `open u 3 secret`.
fn auth(text: &str) -> AuthCommand {
    let words: Vec<&str> = text.split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or("").replace("''", "");
    match words[0] {
        "enable" => AuthCommand::Enable,
        "disable" => AuthCommand::Disable,
        "user" => AuthCommand::UserAdd {
            name: word(1),
            password: words.iter().find_map(|word| word.strip_prefix("password=")).map(Into::into),
            no_password: words.contains(&"no-password"),
        },
        "no-user" => AuthCommand::UserDelete(word(1)),
        "passwd" => AuthCommand::UserChangePassword { name: word(1), password: words.get(2).map(|&hash| hash.into()) },
        "give" => AuthCommand::UserGrantRole { name: word(1), role: word(2) },
        "take" => AuthCommand::UserRevokeRole { name: word(1), role: word(2) },
        "role" => AuthCommand::RoleAdd(word(1)),
        "no-role" => AuthCommand::RoleDelete(word(1)),
        "allow" => {
            let allows = match words.get(2) {
                Some(&"read") => Allows::Read,
                Some(&"write") => Allows::Write,
                Some(&"both") => Allows::ReadWrite,
                _ => Allows::Unknown(7),
            };
            let permission = words.get(3).map(|keys| wire_range(keys));
            let permission = permission.map(|(key, range_end)| Permission { allows, key, range_end });
            AuthCommand::RoleGrantPermission { role: word(1), permission }
        }
        "forbid" => {
            let (key, range_end) = wire_range(words[2]);
            AuthCommand::RoleRevokePermission { role: word(1), key, range_end }
        }
        "open" => {
            let revision = AuthRevision(word(2).parse().unwrap());
            AuthCommand::OpenSession { name: word(1), revision, secret: word(3) }
        }
        _ => panic!("unknown command: {text}"),
    }
}

/// `nospace 7`: the kind and the member.
fn alarm(text: &str) -> Alarm {
    let (kind, member) = text.split_once(' ').unwrap();
    let kind = match kind {
        "nospace" => AlarmKind::NoSpace,
        "corrupt" => AlarmKind::Corrupt,
        _ => AlarmKind::Fenced(Incarnation(1)),
    };
    Alarm { kind, member: NodeId(member.parse().unwrap()) }
}

fn wire_range(text: &str) -> (Blob, Blob) {
    match range(text) {
        KeyRange::Key(key) => (key, Blob::EMPTY),
        KeyRange::Bounded { start, end } => (start, end),
        KeyRange::From(start) => (start, "\0".into()),
    }
}

fn blob(text: &str) -> Blob {
    Blob::copy(text.replace("\\0", "\0").as_bytes())
}

pub(crate) fn range(text: &str) -> KeyRange {
    match text.split_once("..") {
        _ if text == "*" => KeyRange::From("\0".into()),
        None => KeyRange::Key(blob(text)),
        Some((start, "")) => KeyRange::From(blob(start)),
        Some((start, end)) => KeyRange::Bounded { start: blob(start), end: blob(end) },
    }
}

fn put(text: &str) -> PutRequest {
    let mut words = text.split_whitespace();
    let key = blob(words.next().unwrap());
    let mut put =
        PutRequest { key, value: Blob::EMPTY, lease: None, prev_kv: false, ignore_value: false, ignore_lease: false };
    for word in words {
        match word.split_once('=') {
            None if word == "prev" => put.prev_kv = true,
            None if word == "keep-value" => put.ignore_value = true,
            None if word == "keep-lease" => put.ignore_lease = true,
            Some(("lease", id)) => put.lease = Some(LeaseId(id.parse().unwrap())),
            _ => put.value = blob(word),
        }
    }
    put
}

fn delete(text: &str) -> DeleteRangeRequest {
    let (keys, options) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    DeleteRangeRequest { range: range(keys), prev_kv: options == "prev" }
}

pub(crate) fn get(text: &str) -> RangeRequest {
    let mut words = text.split_whitespace();
    let mut get = RangeRequest::new(range(words.next().unwrap()));
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, "0"));
        let number: i64 = value.parse().unwrap();
        match name {
            "rev" => get.revision = Some(Revision(number)),
            "limit" => get.limit = u64::try_from(number).unwrap(),
            "asc" => get.sort_order = SortOrder::Ascend,
            "desc" => get.sort_order = SortOrder::Descend,
            "by-key" => get.sort_target = SortTarget::Key,
            "by-version" => get.sort_target = SortTarget::Version,
            "by-create" => get.sort_target = SortTarget::Create,
            "by-mod" => get.sort_target = SortTarget::Mod,
            "by-value" => get.sort_target = SortTarget::Value,
            "keys" => get.keys_only = true,
            "count" => get.count_only = true,
            "min-mod" => get.min_mod_revision = Revision(number),
            "max-mod" => get.max_mod_revision = Revision(number),
            "min-create" => get.min_create_revision = Revision(number),
            "max-create" => get.max_create_revision = Revision(number),
            _ => panic!("unknown option: {word}"),
        }
    }
    get
}

pub(crate) fn txn(text: &str) -> TxnRequest {
    let (compares, branches) = text.split_once('?').unwrap();
    let branches = split(branches, ':');
    let ops = |at: usize| {
        let ops = branches.get(at).map_or(Vec::new(), |ops| split(ops, ';'));
        ops.into_iter().map(str::trim).filter(|op| !op.is_empty()).map(op).collect()
    };
    TxnRequest { compare: compares.split_whitespace().map(compare).collect(), success: ops(0), failure: ops(1) }
}

fn op(text: &str) -> RequestOp {
    if let Some(nested) = text.strip_prefix('{') {
        return RequestOp::Txn(txn(nested.strip_suffix('}').unwrap()));
    }
    match text.split_once(' ').unwrap() {
        ("put", rest) => RequestOp::Put(put(rest)),
        ("get", rest) => RequestOp::Range(get(rest)),
        ("del", rest) => RequestOp::DeleteRange(delete(rest)),
        _ => panic!("unknown operation: {text}"),
    }
}

fn compare(text: &str) -> Compare {
    let (name, rest) = text.split_once('(').unwrap();
    let (keys, rest) = rest.split_once(')').unwrap();
    let (result, wanted) = match rest.strip_prefix("!=") {
        Some(wanted) => (CompareResult::NotEqual, wanted),
        None => {
            let result = match &rest[..1] {
                "=" => CompareResult::Equal,
                ">" => CompareResult::Greater,
                "<" => CompareResult::Less,
                _ => CompareResult::Unknown,
            };
            (result, &rest[1..])
        }
    };
    let number = || wanted.parse().unwrap();
    let target = match name {
        "version" => CompareTarget::Version(number()),
        "create" => CompareTarget::Create(Revision(number())),
        "mod" => CompareTarget::Mod(Revision(number())),
        "lease" => CompareTarget::Lease(number()),
        "value" => CompareTarget::Value(blob(wanted)),
        _ => CompareTarget::Unknown,
    };
    Compare { range: range(keys), result, target }
}

/// Splits at separators that are not within braces.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if letter == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Put(put) => printed_put(put),
        Outcome::DeleteRange(delete) => printed_delete(delete),
        Outcome::Txn(txn) => printed_txn(txn),
        Outcome::Compact(revision) | Outcome::LeaseRevoke(revision) => format!("@{revision}"),
        Outcome::LeaseGrant(lease, revision) => format!("@{revision} lease {} ttl {}", lease.id, lease.ttl),
        Outcome::Members(members) => format!("{members:?}"),
        Outcome::Done => "done".into(),
        Outcome::Alarms(alarms) => format!("{alarms:?}"),
        Outcome::SessionOpened(index) => format!("session {index}"),
    }
}

fn printed_put(put: &PutResult) -> String {
    let prev = put.prev_kv.as_ref().map_or(String::new(), |kv| format!(" prev {}", state(kv)));
    format!("@{}{prev}", put.revision)
}

fn printed_delete(delete: &DeleteRangeResult) -> String {
    let mut text = format!("@{} deleted {}", delete.revision, delete.deleted);
    for kv in &delete.prev_kvs {
        let _ = write!(text, ", {}", state(kv));
    }
    text
}

pub(crate) fn printed_range(range: &RangeResult) -> String {
    let mut text = format!("@{} count {}{}", range.revision, range.count, if range.more { " more" } else { "" });
    for kv in &range.kvs {
        let _ = write!(text, ", {}", state(kv));
    }
    text
}

pub(crate) fn printed_txn(txn: &TxnResult) -> String {
    let responses = txn.responses.iter().map(|response| match response {
        ResponseOp::Range(range) => printed_range(range),
        ResponseOp::Put(put) => printed_put(put),
        ResponseOp::DeleteRange(delete) => printed_delete(delete),
        ResponseOp::Txn(txn) => format!("{{{}}}", printed_txn(txn)),
    });
    let responses: Vec<String> = responses.collect();
    format!("@{} {}: {}", txn.revision, if txn.succeeded { "then" } else { "else" }, responses.join("; "))
}

fn state(kv: &KeyValue) -> String {
    let lease = kv.lease.map_or(String::new(), |lease| format!(" l{lease}"));
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    format!("{key}={value} c{} m{} v{}{lease}", kv.create_revision, kv.mod_revision, kv.version)
}

pub(crate) fn revision(events: &RevisionEvents) -> String {
    let event = |event: &Event| {
        let previous = event.previous.map_or(String::new(), |(main, sub)| format!(" after {main}.{sub}"));
        let what = if event.deleted { format!("del {}", event.kv.key.escape_ascii()) } else { state(&event.kv) };
        format!("{what}{previous}")
    };
    let events_text: Vec<String> = events.events.iter().map(event).collect();
    format!("{}: {}", events.revision, events_text.join("; "))
}
