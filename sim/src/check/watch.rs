//! What watchers are told: ordered, unique, whole revisions, nothing left out, progress that is true.

use quorate_api::mvccpb;
use quorate_core::Revision;
use quorate_jepsen::model::{Change, Kv};

use super::{Verdict, Violation};
use crate::wire;
use crate::workload::watcher::{Told, Watcher};

/// Compares everything that `watcher` was told with what happened.
///
/// `final_revision` is one that the watcher must have been told everything up to, if it is still alive; `floor` is the
/// highest revision that was ever compacted.
///
/// # Errors
/// The first difference.
pub fn check(watcher: &Watcher, kv: &Kv, final_revision: Option<Revision>, floor: Revision) -> Verdict {
    let mut cursor = Revision(1);
    for told in &watcher.told {
        match told {
            Told::Created { from, header } => cursor = from.unwrap_or(header.next()),
            Told::Events { header, events } => {
                let last = events.iter().map(revision).max().expect("a response has events");
                if last > *header {
                    return Err(Violation::new("watch", format!("event of {last} in a response at {header}")));
                }
                if let Some(early) = events.iter().map(revision).find(|revision| *revision < cursor) {
                    let text = format!("event of {early}, nothing below {cursor} was due: {watcher:?}");
                    return Err(Violation::new("watch", text));
                }
                compare(watcher, kv, cursor, last, events, floor)?;
                cursor = last.next();
            }
            Told::Progress(revision) => {
                compare(watcher, kv, cursor, *revision, &[], floor)?;
                cursor = cursor.max(revision.next());
            }
            Told::Compacted(at) => {
                if cursor >= *at || *at > floor {
                    let text = format!("canceled by a compaction at {at}, next was {cursor}, floor {floor}");
                    return Err(Violation::new("watch", text));
                }
                return Ok(());
            }
        }
    }
    match final_revision {
        Some(last) if !watcher.finished => compare(watcher, kv, cursor, last, &[], floor),
        _ => Ok(()),
    }
}

fn revision(event: &mvccpb::Event) -> Revision {
    Revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}

/// Whether `events` are exactly what the watcher wants of `from..=through`.
fn compare(
    watcher: &Watcher,
    kv: &Kv,
    from: Revision,
    through: Revision,
    events: &[mvccpb::Event],
    floor: Revision,
) -> Verdict {
    if through > kv.revision() {
        let text = format!("told of revision {through}, the last one is {}", kv.revision());
        return Err(Violation::new("watch", text));
    }
    let wish = &watcher.wish;
    let wanted = (from.0..=through.0).flat_map(|revision| kv.changes(Revision(revision))).filter(|change| {
        let filtered = match change {
            Change::Put { .. } => wish.no_put,
            Change::Delete { .. } => wish.no_delete,
        };
        !filtered && wish.range.contains(change.key())
    });
    let mut events = events.iter();
    for change in wanted {
        let Some(event) = events.next() else {
            let text = format!("not told of {change:?} between {from} and {through}: {watcher:?}");
            return Err(Violation::new("watch", text));
        };
        if let Err(text) = same(change, event, wish.prev_kv, floor) {
            let text = format!("{text}: {change:?} told as {event:?}, next was {from}: {watcher:?}");
            return Err(Violation::new("watch", text));
        }
    }
    match events.next() {
        Some(event) => Err(Violation::new("watch", format!("told of {event:?}, which did not happen: {watcher:?}"))),
        None => Ok(()),
    }
}

fn same(change: &Change, event: &mvccpb::Event, wants_previous: bool, floor: Revision) -> Result<(), &'static str> {
    let told = event.kv.clone().map(wire::key_value).ok_or("an event without a key")?;
    let (deleted, before, at) = match change {
        Change::Put { kv, prev } => {
            if *kv != told {
                return Err("another put");
            }
            (false, prev.as_ref(), kv.mod_revision)
        }
        Change::Delete { revision, prev } => {
            let only_key = quorate_core::request::KeyValue {
                key: prev.key.clone(),
                create_revision: Revision(0),
                mod_revision: *revision,
                version: 0,
                value: quorate_core::Blob::EMPTY,
                lease: None,
            };
            if only_key != told {
                return Err("another delete");
            }
            (true, Some(prev), *revision)
        }
    };
    if deleted != (event.r#type == mvccpb::event::EventType::Delete as i32) {
        return Err("a put and a delete confused");
    }
    match (&event.prev_kv, before) {
        (None, None) => Ok(()),
        (None, Some(_)) if !wants_previous => Ok(()),
        // Compaction may have removed the state before.
        (None, Some(_)) if at.0 - 1 < floor.0 => Ok(()),
        (None, Some(_)) => Err("the previous state is missing"),
        (Some(_), _) if !wants_previous => Err("a previous state nobody asked for"),
        (Some(told), Some(before)) if wire::key_value(told.clone()) == *before => Ok(()),
        (Some(_), _) => Err("another previous state"),
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::request::{KeyRange, PutRequest};

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
