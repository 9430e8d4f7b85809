//! What watchers are told: ordered, unique, whole revisions, nothing left out, progress that is true.

use quorate_api::mvccpb;
use quorate_core::Revision;
use quorate_jepsen::model::Kv;
use quorate_jepsen::watch;

use super::{Verdict, Violation};
use crate::wire;
use crate::workload::watcher::{Told, Watcher};

/// Compares everything that `watcher` was told, over all its connections, with what happened.
///
/// `final_revision` is one that the watcher must have been told everything up to, if it is still alive; `floor` is the
/// highest revision that was ever compacted.
///
/// # Errors
/// The first difference.
pub fn check(watcher: &Watcher, kv: &Kv, final_revision: Option<Revision>, floor: Revision) -> Verdict {
    let mut checker = watch::Watcher::new(kv, floor, request(watcher, None));
    for (number, told) in watcher.told.iter().enumerate() {
        if let Told::Created { from, .. } = told {
            checker = watch::Watcher::new(kv, floor, request(watcher, *from));
        }
        checker.receive(&response(told)).map_err(|violation| {
            let recent = &watcher.told[number.saturating_sub(3)..=number];
            let recent: Vec<String> = recent.iter().map(brief).collect();
            Violation::new("watch", format!("{}\n  before: {}", violation.text, recent.join("; ")))
        })?;
    }
    match final_revision {
        Some(last) if !watcher.finished => {
            checker.must_have(last).map_err(|violation| Violation::new("watch", violation.text))
        }
        _ => Ok(()),
    }
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
    use quorate_jepsen::model::Change;

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
        check(&Watcher::of(wish, told), &kv, last, Revision(-1))
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
