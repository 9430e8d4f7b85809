//! What a watcher was told, over all its connections, is what happened. The nine promises are checked against the whole history
//! by `quorate_jepsen::watch`, to which this file hands every response:
//! - *ordered*, *unique*, *atomic* and *reliable*: events are those that are expected next, one by one and each once, all of a
//!   revision in one response, and none in between left out (`Watcher::events`); in the end nothing is owed ([`must_have`]).
//! - *resumable*: a watcher that comes back elsewhere with the revision after the last it was told of is created anew here
//!   ([`judge`]), and owed everything from there, or told that it was compacted, if it was (`Watcher::canceled`).
//! - *bookmarkable*: progress to a revision is true only if all before was told (`Watcher::progress`). That it comes, where it
//!   was asked for and nothing happens, is `progress`, demanded by `world/finale.rs` and `world/controllers.rs`.
//! - *prev_kv*: the state of before, if asked for, and only then (`Watcher::compare`).
//! - *is-create*: an event's create revision and version are the store's (`Watcher::compare`).
//! - *filter*: only what is in the range and not to be dropped, and all of it (`Watcher::expected`).
//!
//! What breaks the protocol itself, such as a message to a watcher that is not on the stream, has the same name and is noticed
//! by whoever reads it: `world/clients.rs`, `world/controllers.rs`, `world/contenders.rs`.

use std::collections::VecDeque;

use quorate_api::mvccpb;
use quorate_core::Revision;
use quorate_core::mutant::{self, Mutant};
use quorate_jepsen::watch::{self, Truth};

use super::{Verdict, Violation};
use crate::wire;
use crate::workload::watcher::{Told, Watcher};

/// How far what a watcher was told, over all its connections, is judged.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    watcher: Option<watch::Watcher>,
    /// What it was told last, in short.
    recent: VecDeque<String>,
}

/// Compares what `watcher` was told since it was last judged with what happened, and forgets it; gives how often it was told
/// anything.
///
/// # Errors
/// The first difference.
pub fn judge(watcher: &mut Watcher, truth: Truth<'_>) -> Result<u64, Violation> {
    let all = std::mem::take(&mut watcher.told);
    for told in &all {
        let from = if let Told::Created { from, .. } = told { Some(*from) } else { None };
        let new = from.map(|from| watch::Watcher::new(request(watcher, from)));
        let Judged { watcher: checker, recent } = &mut watcher.judged;
        *checker = new.or(checker.take());
        let Some(checker) = checker else {
            return Err(Violation::new("watch", format!("told before it was created: {}", brief(told))));
        };
        let verdict = checker.receive(truth, &response(told));
        if recent.len() == 4 {
            recent.pop_front();
        }
        recent.push_back(brief(told));
        if mutant::is_on(Mutant::O19) {
            continue;
        }
        verdict.map_err(|violation| {
            let recent: Vec<&str> = recent.iter().map(String::as_str).collect();
            Violation::new("watch", format!("{}\n  before: {}", violation.text, recent.join("; ")))
        })?;
    }
    Ok(all.len() as u64)
}

/// Demands of a watcher that was judged, and is still alive, that it was told everything through `last`.
///
/// # Errors
/// What is missing.
pub fn must_have(watcher: &Watcher, truth: Truth<'_>, last: Revision) -> Verdict {
    let checker = watcher.judged.watcher.as_ref().filter(|_| !watcher.finished && !mutant::is_on(Mutant::O20));
    let verdict = checker.map_or(Ok(()), |checker| checker.must_have(truth, last));
    verdict.map_err(|violation| Violation::new("watch", violation.text))
}

fn request(watcher: &Watcher, start: Option<Revision>) -> watch::Request {
    let wish = &watcher.wish;
    let (no_put, no_delete) = (wish.no_put, wish.no_delete);
    watch::Request { range: wish.range.clone(), start, prev_kv: wish.prev_kv, no_put, no_delete }
}

fn response(told: &Told) -> watch::Response {
    let none = watch::Response::default();
    match told {
        Told::Created { header, .. } => watch::Response { revision: *header, created: true, ..none },
        Told::Events { header, events } => {
            watch::Response { revision: *header, events: events.iter().map(event).collect(), ..none }
        }
        Told::Progress(revision) => watch::Response { revision: *revision, ..none },
        Told::Compacted(at) => watch::Response { canceled: true, compact_revision: Some(*at), ..none },
    }
}

fn event(event: &mvccpb::Event) -> watch::Event {
    watch::Event {
        kv: wire::key_value(event.kv.clone().unwrap_or_default()),
        delete: event.r#type == mvccpb::event::EventType::Delete as i32,
        prev_kv: event.prev_kv.clone().map(wire::key_value),
    }
}

/// One response without keys and values.
fn brief(told: &Told) -> String {
    match told {
        Told::Created { from, header } => format!("created at {header}, from {from:?}"),
        Told::Events { header, events } => {
            let revisions: Vec<i64> = events.iter().filter_map(|e| Some(e.kv.as_ref()?.mod_revision)).collect();
            format!("events of {revisions:?} at {header}")
        }
        Told::Progress(revision) => format!("progress {revision}"),
        Told::Compacted(at) => format!("compacted {at}"),
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::request::{KeyRange, PutRequest};
    use quorate_jepsen::model::{Change, Kv};

    use super::*;
    use crate::workload::watcher::Wish;

    fn store() -> Kv {
        let mut kv = Kv::default();
        for value in ["1", "2", "3"] {
            kv.put(&PutRequest {
                key: "a".into(),
                value: value.into(),
                lease: None,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            });
        }
        kv
    }

    fn event(kv: &Kv, revision: i64) -> mvccpb::Event {
        let Change::Put { kv, .. } = &kv.changes(Revision(revision))[0] else { unreachable!("only puts here") };
        mvccpb::Event {
            r#type: 0,
            kv: Some(mvccpb::KeyValue {
                key: kv.key.0.clone(),
                create_revision: kv.create_revision.0,
                mod_revision: kv.mod_revision.0,
                version: kv.version,
                value: kv.value.0.clone(),
                lease: 0,
            }),
            prev_kv: None,
        }
    }

    fn verdict(revisions: &[i64], last: Option<Revision>) -> Verdict {
        let kv = store();
        let wish = Wish {
            range: KeyRange::Key("a".into()),
            no_put: false,
            no_delete: false,
            prev_kv: false,
            progress_notify: false,
        };
        let mut told = vec![Told::Created { from: Some(Revision(2)), header: Revision(4) }];
        let events = revisions.iter().map(|&at| Told::Events { header: Revision(4), events: vec![event(&kv, at)] });
        told.extend(events);
        let (mut watcher, truth) = (Watcher::of(wish, told), Truth { kv: &kv, compacted: Revision(-1) });
        judge(&mut watcher, truth)?;
        last.map_or(Ok(()), |last| must_have(&watcher, truth, last))
    }

    #[test]
    fn gaps_repeats_and_wrong_order_are_noticed() {
        assert_eq!(verdict(&[2, 3, 4], Some(Revision(4))), Ok(()));
        assert_eq!(verdict(&[2, 3], None), Ok(()));
        assert!(verdict(&[2, 3], Some(Revision(4))).is_err());
        assert!(verdict(&[2, 4], None).is_err());
        assert!(verdict(&[2, 2, 3], None).is_err());
        assert!(verdict(&[3, 2], None).is_err());
    }
}
