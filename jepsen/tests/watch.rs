//! The watch check accepts what a right watcher is told and sees each way in which it is spoilt.

mod support;

use quorate_core::request::KeyRange;
use quorate_core::{Blob, Revision};
use quorate_jepsen::model::Change;
use quorate_jepsen::watch::{Event, Request, Response, check};
use support::{BUSY, Shape, World, history};

const NEVER: Revision = Revision(-1);

/// A world without compaction, a random request, and what a right watcher tells of it, cut into responses at random.
fn watched(seed: u64) -> (World, Request, Vec<Response>) {
    let mut world = history(seed, Shape { compaction: false, ..BUSY });
    let range = match world.below(3) {
        0 => KeyRange::Key(Blob::from("k1")),
        1 => KeyRange::Bounded { start: Blob::from("k2"), end: Blob::from("k6") },
        _ => KeyRange::From(Blob::from("k")),
    };
    let last = world.model.revision();
    let start = world.percent(70).then(|| Revision(1 + world.below(last.0 as u64 / 2) as i64));
    let no_put = world.percent(15);
    let no_delete = world.percent(15);
    let request = Request { range, start, prev_kv: world.percent(50), no_put, no_delete };
    let at = Revision(1 + world.below(last.0 as u64) as i64);
    let mut responses = vec![Response { revision: at, created: true, ..Response::default() }];
    let mut batch = Vec::new();
    for revision in start.map_or(at.0 + 1, |start| start.0)..=last.0 {
        let changes = world.model.kv().changes(Revision(revision)).to_vec();
        let wanted = |change: &&Change| {
            let dropped = if matches!(change, Change::Put { .. }) { no_put } else { no_delete };
            !dropped && request.range.contains(change.key())
        };
        batch.extend(changes.iter().filter(wanted).map(|change| Event::of(change, request.prev_kv)));
        let header = Revision(revision.max(at.0));
        if !batch.is_empty() && world.percent(40) {
            let events = std::mem::take(&mut batch);
            if events.len() > 1 && world.percent(30) {
                let (a, b) = events.split_at(1);
                responses.push(Response { revision: header, events: a.into(), fragment: true, ..Response::default() });
                responses.push(Response { revision: header, events: b.into(), ..Response::default() });
            } else {
                responses.push(Response { revision: header, events, ..Response::default() });
            }
        } else if batch.is_empty() && world.percent(10) {
            responses.push(Response { revision: Revision(revision), ..Response::default() });
        }
    }
    responses.push(Response { revision: last, events: batch, ..Response::default() });
    (world, request, responses)
}

#[test]
fn right_watchers_pass() {
    for seed in 0..100 {
        let (world, request, responses) = watched(seed);
        let through = Some(world.model.revision());
        let next = check(world.model.kv(), NEVER, &request, &responses, through);
        let next = next.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(next.is_some_and(|next| next > Revision(1)));
    }
}

/// Spoils `responses` in one way; `None` if there is nothing to spoil in this way.
fn spoil(world: &mut World, request: &Request, responses: &[Response], way: &str) -> Option<Vec<Response>> {
    let mut spoilt = responses.to_vec();
    let with_events: Vec<usize> = (0..spoilt.len()).filter(|i| !spoilt[*i].events.is_empty()).collect();
    let i = *with_events.get(world.below(with_events.len() as u64) as usize)?;
    let j = world.below(spoilt[i].events.len() as u64) as usize;
    let event = &mut spoilt[i].events[j];
    match way {
        "lost event" => {
            spoilt[i].events.remove(j);
        }
        "lost response" => {
            spoilt.remove(i);
        }
        "repeated event" => {
            let event = event.clone();
            spoilt[i].events.insert(j, event);
        }
        "repeated response" => {
            let again = spoilt[i].clone();
            spoilt.insert(i, again);
        }
        "wrong order" => {
            if spoilt[i].events.len() < 2 {
                return None;
            }
            spoilt[i].events.reverse();
        }
        "split revision" => {
            let events = &mut spoilt[i].events;
            let cut = (1..events.len()).find(|k| events[*k].kv.mod_revision == events[k - 1].kv.mod_revision)?;
            let rest = events.split_off(cut);
            let whole = Response { fragment: false, ..spoilt[i].clone() };
            spoilt[i] = whole.clone();
            spoilt.insert(i + 1, Response { events: rest, ..whole });
        }
        "cut revision" => {
            // The last change of a revision is left out, and nothing follows in the response.
            let [.., before, last] = &spoilt[i].events[..] else { return None };
            if before.kv.mod_revision != last.kv.mod_revision || spoilt[i].fragment {
                return None;
            }
            spoilt[i].events.pop();
        }
        "another key" => {
            if matches!(request.range, KeyRange::From(_)) {
                return None;
            }
            event.kv.key = Blob::from("z");
        }
        "wrong create" if !event.delete => event.kv.create_revision.0 -= 1,
        "wrong version" if !event.delete => event.kv.version += 1,
        "wrong value" if !event.delete => event.kv.value = Blob::from("never written"),
        "wrong kind" => event.delete = !event.delete,
        "stale previous" => event.prev_kv.as_mut()?.version += 1,
        "lost previous" => event.prev_kv = Some(event.prev_kv.take()?).filter(|_| false),
        "progress too early" => {
            let to = spoilt[i].events[0].kv.mod_revision;
            spoilt.insert(i, Response { revision: to, ..Response::default() });
        }
        "future header" => {
            spoilt[i].revision.0 = spoilt[i].events.last()?.kv.mod_revision.0 - 1;
            // Only the last part's header counts.
            spoilt[i].fragment = false;
        }
        "never created" => {
            spoilt.remove(0);
        }
        "goes on after cancel" => spoilt.insert(i, Response { canceled: true, ..Response::default() }),
        "canceled for no reason" => {
            spoilt.truncate(i);
            spoilt.push(Response { canceled: true, ..Response::default() });
        }
        "created in the future" => {
            spoilt.truncate(1);
            spoilt[0].revision.0 = request.start.is_none().then(|| world.model.revision().0 + 1)?;
        }
        "compacted falsely" => {
            spoilt.truncate(i);
            let compact_revision = Some(Revision(1_000_000));
            spoilt.push(Response { canceled: true, compact_revision, ..Response::default() });
        }
        _ => return None,
    }
    Some(spoilt)
}

#[test]
fn spoilt_watchers_are_seen() {
    let ways = [
        "lost event",
        "lost response",
        "repeated event",
        "repeated response",
        "wrong order",
        "split revision",
        "cut revision",
        "another key",
        "wrong create",
        "wrong version",
        "wrong value",
        "wrong kind",
        "stale previous",
        "lost previous",
        "progress too early",
        "future header",
        "never created",
        "goes on after cancel",
        "canceled for no reason",
        "created in the future",
        "compacted falsely",
    ];
    for way in ways {
        let mut tried = 0;
        for seed in 0..1000 {
            if tried == 20 {
                break;
            }
            let (mut world, request, responses) = watched(seed);
            let Some(spoilt) = spoil(&mut world, &request, &responses, way) else { continue };
            tried += 1;
            let through = Some(world.model.revision());
            let verdict = check(world.model.kv(), NEVER, &request, &spoilt, through);
            assert!(verdict.is_err(), "{way}, seed {seed}: {request:?}\n{spoilt:#?}");
        }
        assert_eq!(tried, 20, "{way}");
    }
}

#[test]
fn only_compaction_excuses_a_cancel_or_a_missing_previous_state() {
    let (world, _, _) = watched(1);
    let request = Request {
        range: KeyRange::From(Blob::from("k")),
        start: Some(Revision(2)),
        prev_kv: true,
        no_put: false,
        no_delete: false,
    };
    let created = Response { revision: world.model.revision(), created: true, ..Response::default() };
    let cancel = |at| Response { canceled: true, compact_revision: Some(Revision(at)), ..Response::default() };
    let told = |cancel| check(world.model.kv(), Revision(9), &request, &[created.clone(), cancel], None);
    assert!(told(cancel(9)).is_ok());
    assert!(told(cancel(2)).is_err(), "revision 2 is readable when compacted at 2");
    assert!(told(cancel(10)).is_err(), "nothing was compacted at 10");
    let after = [created.clone(), cancel(9), Response { revision: Revision(20), ..Response::default() }];
    assert!(check(world.model.kv(), Revision(9), &request, &after, None).is_err(), "it goes on after its end");

    let mut events = Vec::new();
    for revision in 2..=20 {
        events.extend(world.model.kv().changes(Revision(revision)).iter().map(|change| Event::of(change, true)));
    }
    let i = events.iter().position(|event| event.prev_kv.is_some()).unwrap();
    let changed = events[i].kv.mod_revision;
    events[i].prev_kv = None;
    let told = Response { revision: Revision(20), events, ..Response::default() };
    let check = |compacted| check(world.model.kv(), compacted, &request, &[created.clone(), told.clone()], None);
    assert!(check(changed).is_ok());
    assert!(check(Revision(changed.0 - 1)).is_err());
}
