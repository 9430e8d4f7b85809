//! Runs `testdata/{kv,lease,alarm,hash,auth}/*.txt`: a command, `----`, what happened. `UPDATE=1` rewrites what happened.

#[path = "store_scenarios/language.rs"]
mod language;

#[path = "support/scenario.rs"]
mod scenario;

use std::fmt::Write as _;

use language::*;
use quorate_core::auth::{AuthRevision, Author, Permission};
use quorate_core::command::{Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::rows::MemRows;
use quorate_core::store::{LeaseChange, Need, Store, View};
use quorate_core::{Incarnation, LeaseId, LogIndex, NodeId, Revision, Term};

#[test]
fn store_scenarios_happen_as_written() {
    scenario::happen_as_written("kv", run);
    scenario::happen_as_written("lease", run);
    scenario::happen_as_written("alarm", run);
    scenario::happen_as_written("hash", run);
    scenario::happen_as_written("auth", run);
}

/// The scenario with what really happened in place of what was written.
fn run(text: &str) -> String {
    let mut member = Member::new();
    let mut happened = String::new();
    for block in text.trim_end().split("\n\n") {
        let (commands, _) = block.split_once("\n----").unwrap_or((block, ""));
        let _ = write!(happened, "{commands}\n----\n");
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            member.run(command, &mut happened);
            member.store.check_deep(&member.rows);
        }
        happened.push('\n');
    }
    happened.pop();
    happened
}

struct Member {
    store: Store,
    rows: MemRows,
    /// A view kept by `keep`, with its rows.
    kept: Option<(View, MemRows)>,
}

impl Member {
    fn new() -> Self {
        let rows = MemRows::default();
        Self { store: Store::load(NodeId(1), &rows).unwrap(), rows, kept: None }
    }

    fn run(&mut self, text: &str, out: &mut String) {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let view = self.store.view();
        let line = match verb {
            "get" => view.range(&self.rows, &get(rest)).map_or_else(|error| error.to_string(), |r| printed_range(&r)),
            "kept" => {
                let (view, rows) = self.kept.as_ref().unwrap();
                view.range(rows, &get(rest)).map_or_else(|error| error.to_string(), |r| printed_range(&r))
            }
            "read" => view.txn(&self.rows, &txn(rest)).map_or_else(|error| error.to_string(), |r| printed_txn(&r)),
            "keep" => {
                self.kept = Some((view, self.rows.clone()));
                return;
            }
            "history" => {
                let from = Revision(rest.parse().unwrap());
                match view.history(&self.rows, from, Revision(i64::MAX), u64::MAX, false) {
                    Ok((events, last)) => {
                        let lines: Vec<String> = events.iter().map(revision).collect();
                        format!("through {last}\n{}", lines.join("\n"))
                    }
                    Err(error) => error.to_string(),
                }
            }
            "lease" => match view.lease(LeaseId(rest.parse().unwrap())) {
                Some((record, keys)) => {
                    let keys: Vec<String> = keys.iter().map(|key| key.escape_ascii().to_string()).collect();
                    let remaining = record.remaining.map_or(String::new(), |ttl| format!(" remaining {ttl}"));
                    format!("ttl {}{remaining} keys {}", record.lease.ttl, keys.join(" "))
                }
                None => "no lease".into(),
            },
            "clean" => {
                let mut words = rest.split_whitespace().map(|word| word.parse::<i64>().unwrap());
                let records = words.next().map_or(1000, |records| usize::try_from(records).unwrap());
                let slice = self.store.compact_slice(&self.rows, records, words.next().map(Revision));
                self.rows.write(&slice.writes);
                let removed = slice.writes.iter().filter(|write| write.value.is_none()).count();
                format!("{removed} rows removed{}", if slice.finished { ", finished" } else { "" })
            }
            "restart" => {
                self.store = Store::load(NodeId(1), &self.rows).unwrap();
                return;
            }
            "hash" => {
                let revision = rest.parse().ok().map(Revision);
                view.hash_kv(&self.rows, revision).map_or_else(|error| error.to_string(), |hash| format!("{hash:?}"))
            }
            "alarms" => format!("{:?}", view.alarms().collect::<Vec<_>>()),
            "may" => may(&view, rest),
            "users" => users(&view),
            "bytes" => format!("{} bytes", view.logical_bytes()),
            _ => self.apply(text),
        };
        let _ = writeln!(out, "{line}");
    }

    fn apply(&mut self, text: &str) -> String {
        let index = self.store.applied().0.next();
        let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
        let (author, text) = author(&self.store.view(), text);
        let command = command(text);
        let payload = Payload::Command(codec::encode(&Envelope { origin, command, author }));
        let batch = self.store.apply(&[Entry { term: Term(1), index: LogIndex(index.0), payload }], &self.rows);
        self.rows.write(&batch.writes);
        let sessions = batch.sessions.iter().map(|change| format!(", {change:?}")).collect::<String>();
        let mut line = batch.applied.results[0].1.as_ref().map_or_else(|error| error.to_string(), outcome);
        line += &sessions;
        if matches!(text.split(' ').next(), Some("revoke" | "expire" | "checkpoint")) {
            for change in &batch.applied.leases {
                let _ = match change {
                    LeaseChange::Granted(lease) => write!(line, "\ngranted {}", lease.id),
                    LeaseChange::Revoked(id) => write!(line, "\nrevoked {id}"),
                    LeaseChange::Kept(id) => write!(line, "\nkept {id}"),
                    LeaseChange::Checkpointed(id, ttl) => {
                        write!(line, "\ncheckpointed {id} {}", ttl.map_or("-".into(), |ttl| ttl.to_string()))
                    }
                };
            }
            for events in &batch.events {
                let _ = write!(line, "\n{}", revision(events));
            }
        }
        line
    }
}

/// `as u put a 1` is asked by user u as of now, `as u@3 ..` by one recognised at revision 3, `as-member ..` by a member.
fn author<'a>(view: &View, text: &'a str) -> (Author, &'a str) {
    if let Some(rest) = text.strip_prefix("as-member ") {
        return (Author::Member, rest);
    }
    let Some((who, rest)) = text.strip_prefix("as ").and_then(|rest| rest.split_once(' ')) else {
        return (Author::Nobody, text);
    };
    (user(view, who), rest)
}

fn user(view: &View, who: &str) -> Author {
    let (name, revision) = who.split_once('@').map_or((who, None), |(name, revision)| (name, Some(revision)));
    let revision = revision.map_or(view.auth().revision(), |revision| AuthRevision(revision.parse().unwrap()));
    Author::User { name: name.into(), revision }
}

/// `may u read a..c`, `may u txn ..`, `may nobody any-user`...
fn may(view: &View, text: &str) -> String {
    let (who, rest) = text.split_once(' ').unwrap();
    let author = if who == "nobody" { Author::Nobody } else { user(view, who) };
    let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let lease = || LeaseId(rest.parse().unwrap());
    let result = match verb {
        "nothing" => view.check(&author, &Need::Nothing),
        "any-user" => view.check(&author, &Need::AnyUser),
        "root" => view.check(&author, &Need::Root),
        "user" => view.check(&author, &Need::User(rest.trim_matches('\''))),
        "role" => view.check(&author, &Need::Role(rest)),
        "read" => view.check(&author, &Need::Read(&range(rest))),
        "txn" => view.check(&author, &Need::Txn(&txn(rest))),
        "read-lease" => view.check(&author, &Need::ReadLease(lease())),
        "write-lease" => view.check(&author, &Need::WriteLease(lease())),
        "read-leases" => view.check(&author, &Need::ReadLeases),
        _ => panic!("unknown need: {text}"),
    };
    result.map_or_else(|error| error.to_string(), |()| "yes".into())
}

fn users(view: &View) -> String {
    let auth = view.auth();
    let mut text = format!("{} revision {}", if auth.is_enabled() { "on" } else { "off" }, auth.revision().0);
    for name in auth.users() {
        let user = auth.user(name).unwrap();
        let roles: Vec<&str> = user.roles.iter().map(String::as_str).collect();
        let password = user.password.as_deref().map_or("without password".into(), |hash| format!("password {hash}"));
        let _ = write!(text, "\nuser {name} {password} roles [{}]", roles.join(" "));
    }
    for name in auth.roles() {
        let permissions = auth.role(name).unwrap().into_iter().map(|Permission { allows, key, range_end }| {
            format!("{allows:?} {}..{}", key.escape_ascii(), range_end.escape_ascii())
        });
        let _ = write!(text, "\nrole {name} [{}]", permissions.collect::<Vec<_>>().join(", "));
    }
    text
}
