//! `watch`, for one watch from the command line or for many from stdin.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use quorate_api::mvccpb::Event;
use tokio::sync::mpsc;

use crate::commands::{Context, kv};
use crate::failure::{Failure, Result};
use crate::flags::{Args, Flag};
use crate::print::{WatchEvents, type_name, write_stdout};
use crate::watcher::Watcher;
use crate::{go, words};

pub(super) const FLAGS: &[Flag] = &[
    Flag::bool("interactive", "read watches from stdin").or('i'),
    Flag::bool("prefix", "watch all keys that begin with the given one"),
    Flag::bool("prev-kv", "show what the key held before"),
    Flag::bool("progress-notify", "have the server report how far the watch has come"),
    Flag::int("rev", "0", "revision to start at (0: now)"),
];

/// A watch, and the command to run for each of its events.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    request: WatchCreateRequest,
    exec: Vec<String>,
}

/// `watch`.
pub(super) async fn watch(context: &Context) -> Result<()> {
    let interactive = context.args.bool("interactive");
    let wanted = match interactive {
        true => None,
        false => Some(wanted(&context.args, &context.vars)?),
    };
    let (watcher, mut responses) = Watcher::start(Arc::new(context.client()?));
    let mut execs = Vec::new();
    if let Some(wanted) = wanted {
        watcher.create(wanted.request).await;
        execs.push(wanted.exec);
    }
    let mut lines = interactive.then(read_stdin);
    loop {
        tokio::select! {
            line = next_line(&mut lines) => match line {
                Some(line) => command(context, &watcher, &mut execs, &line).await,
                None => return Err(Failure::invalid_input("error reading watch request line: EOF")),
            },
            response = responses.recv() => match response {
                Some((number, response)) => {
                    let canceled = response.canceled;
                    show(context, response, &execs[number]).await?;
                    if canceled && !interactive {
                        return Err(Failure::interrupted("watch is canceled by the server"));
                    }
                }
                None => return Err(Failure::interrupted("watch is canceled by the server")),
            },
        }
    }
}

/// Lines of stdin, read by a thread of their own: stdin cannot be waited for otherwise.
fn read_stdin() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn next_line(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// Carries out a line of `watch -i`.
async fn command(context: &Context, watcher: &Watcher, execs: &mut Vec<Vec<String>>, line: &str) {
    let mut words = words::split(line);
    match words.first().map(String::as_str) {
        None => eprintln!("Invalid command: {line} (watch and progress supported)"),
        Some("progress") => watcher.progress().await,
        Some("watch") if words.len() < 2 && !context.vars.contains_key("ETCDCTL_WATCH_KEY") => {
            eprintln!("Invalid command {line} (command type or key is not provided)");
        }
        Some("watch") => {
            words.remove(0);
            let wanted = Args::parse(FLAGS, &words).map_err(Failure::bad_args);
            match wanted.and_then(|args| self::wanted(&args, &context.vars)) {
                Ok(wanted) => {
                    execs.push(wanted.exec);
                    watcher.create(wanted.request).await;
                }
                Err(failure) => eprintln!("Invalid command {line} ({})", failure.message.unwrap_or_default()),
            }
        }
        Some(_) => eprintln!("Invalid command {line} (only support watch)"),
    }
}

/// The watch that arguments and environment ask for.
fn wanted(args: &Args, vars: &BTreeMap<String, String>) -> Result<Wanted> {
    let var = |name: &str| vars.get(name).map_or("", String::as_str);
    let (env_key, env_end) = (var("ETCDCTL_WATCH_KEY"), var("ETCDCTL_WATCH_RANGE_END"));
    let (words, exec) = args.split_at_dash();
    if env_key.is_empty() && !env_end.is_empty() {
        let end = go::quote(env_end.as_bytes());
        return Err(Failure::bad_args(format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}")));
    }
    let (key, end) = match words {
        [] if !env_key.is_empty() => (env_key, env_end),
        [] => return Err(Failure::bad_args("bad number of arguments")),
        _ if !env_key.is_empty() => {
            return Err(Failure::bad_args("bad number of arguments (found conflicting environment key)"));
        }
        [key] => (key.as_str(), ""),
        [key, end, ..] => (key.as_str(), end.as_str()),
    };
    let (key, range_end) = match args.bool("prefix") {
        true if !end.is_empty() => {
            return Err(Failure::bad_args("`range_end` and `--prefix` are mutually exclusive"));
        }
        true => kv::prefix_range(key),
        false => (Bytes::from(key.to_owned()), Bytes::from(end.to_owned())),
    };
    let request = WatchCreateRequest {
        key,
        range_end,
        start_revision: args.int("rev"),
        progress_notify: args.bool("progress-notify"),
        prev_kv: args.bool("prev-kv"),
        ..WatchCreateRequest::default()
    };
    Ok(Wanted { request, exec: exec.unwrap_or_default().to_vec() })
}

async fn show(context: &Context, response: WatchResponse, exec: &[String]) -> Result<()> {
    if response.canceled {
        let reason = match (response.cancel_reason.as_str(), response.compact_revision) {
            ("", 0) => "etcdserver: mvcc: required revision is a future revision",
            ("" | "mvcc: required revision has been compacted", _) => {
                "etcdserver: mvcc: required revision has been compacted"
            }
            (reason, _) => reason,
        };
        eprintln!("watch was canceled ({reason})");
    }
    let revision = response.header.as_ref().map_or(0, |h| h.revision);
    let quiet = response.events.is_empty() && !response.canceled && !response.created;
    if quiet && response.compact_revision == 0 && revision != 0 {
        write_stdout(format!("progress notify: {revision}\n").as_bytes())?;
    }
    let response = WatchEvents(response);
    context.printer.show(&response)?;
    if let Some((program, args)) = exec.split_first() {
        for event in &response.0.events {
            run(program, args, exec, revision, event).await?;
        }
    }
    Ok(())
}

/// Runs a command for one event, which it finds in its environment.
async fn run(program: &str, args: &[String], exec: &[String], revision: i64, event: &Event) -> Result<()> {
    let kv = event.kv.clone().unwrap_or_default();
    let status = tokio::process::Command::new(program)
        .args(args)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(type_name(event).as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quote(&kv.value))
        .status()
        .await;
    let error = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => exit_text(status),
        Err(error) => error.to_string(),
    };
    let exec: Vec<String> = exec.iter().map(|word| go::quote(word.as_bytes())).collect();
    eprintln!("command [{}] error ({error})", exec.join(" "));
    Err(Failure::silent(1))
}

/// A child's end in Go's words.
pub(super) fn exit_text(status: std::process::ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit status {code}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], vars: &[(&str, &str)]) -> Result<Wanted> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        wanted(&Args::parse(FLAGS, &words).unwrap(), &vars)
    }

    #[test]
    fn keys_come_from_arguments_or_environment() {
        let keys = |w: Wanted| (w.request.key.to_vec(), w.request.range_end.to_vec(), w.exec);
        let none: Vec<String> = vec![];
        assert_eq!(keys(parse(&["a"], &[]).unwrap()), (b"a".to_vec(), vec![], none.clone()));
        let echo = vec!["echo".to_owned(), "--rev".to_owned()];
        let found = parse(&["a", "b", "--rev", "3", "--", "echo", "--rev"], &[]).unwrap();
        assert_eq!(found.request.start_revision, 3);
        assert_eq!(keys(found), (b"a".to_vec(), b"b".to_vec(), echo.clone()));
        let vars = [("ETCDCTL_WATCH_KEY", "k"), ("ETCDCTL_WATCH_RANGE_END", "z")];
        assert_eq!(keys(parse(&["--", "echo", "--rev"], &vars).unwrap()), (b"k".to_vec(), b"z".to_vec(), echo));
        assert_eq!(keys(parse(&["", "--prefix"], &[]).unwrap()), (vec![0], vec![0], none));
    }

    #[test]
    fn keys_from_both_or_neither_are_refused() {
        let message = |words: &[&str], vars: &[(&str, &str)]| parse(words, vars).unwrap_err().message.unwrap();
        assert_eq!(message(&[], &[]), "bad number of arguments");
        let conflict = "bad number of arguments (found conflicting environment key)";
        assert_eq!(message(&["x"], &[("ETCDCTL_WATCH_KEY", "k")]), conflict);
        let end = r#"ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END="z""#;
        assert_eq!(message(&["x"], &[("ETCDCTL_WATCH_RANGE_END", "z")]), end);
    }
}
