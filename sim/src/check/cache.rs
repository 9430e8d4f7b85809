//! A controller's cache is the store: what it has at the revision of the last event, or bookmark, that it was told of, is
//! exactly what the store had under the prefix then. A list is one snapshot, however many pages it came in and whatever was
//! written and compacted meanwhile: that of the revision at which the first page was read. And once all faults are over and
//! nobody writes any more, every cache is what the store came to.
//!
//! That a cache goes on until then, and does not stop somewhere, is demanded by `world/controllers.rs`.

use std::collections::BTreeMap;

use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{KeyRange, KeyValue};
use quorate_core::{Blob, Revision};
use quorate_jepsen::model::Kv;

use super::{Verdict, Violation};
use crate::workload::cache::{Cache, Step};

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Figures {
    pub lists: u64,
    pub pages: u64,
    pub lists_expired: u64,
    pub watches_expired: u64,
    pub writes_won: u64,
    pub writes_lost: u64,
    pub caches_compared: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.lists += other.lists;
        self.pages += other.pages;
        self.lists_expired += other.lists_expired;
        self.watches_expired += other.watches_expired;
        self.writes_won += other.writes_won;
        self.writes_lost += other.writes_lost;
        self.caches_compared += other.caches_compared;
    }
}

/// Compares every step that `cache` took since it was last judged with what happened under `prefix`, and forgets them; gives
/// how many there were.
///
/// # Errors
/// The first difference.
pub fn judge(cache: &mut Cache, prefix: &KeyRange, kv: &Kv) -> Result<u64, Violation> {
    let steps = std::mem::take(&mut cache.steps);
    for step in &steps {
        match step {
            Step::Listed { revision, objects } => {
                same(objects.iter(), prefix, kv, *revision).map_err(|what| wrong("a list", *revision, &what))?;
                cache.judged = *revision;
            }
            Step::Reached { revision, changed } => {
                let from = cache.judged.next();
                follow(changed, prefix, kv, (from, *revision)).map_err(|what| wrong("a cache", *revision, &what))?;
                cache.judged = cache.judged.max(*revision);
            }
        }
    }
    must_be(cache, prefix, kv, cache.revision)?;
    Ok(steps.len() as u64)
}

/// Demands that `cache` is what the store had under `prefix` at `revision`, or at its own, if that is newer.
///
/// # Errors
/// The first difference.
pub fn must_be(cache: &Cache, prefix: &KeyRange, kv: &Kv, revision: Revision) -> Verdict {
    let at = revision.max(cache.revision);
    same(cache.objects.values(), prefix, kv, at).map_err(|what| {
        let what = format!("{what}; it is as of {}", cache.revision);
        wrong("a cache", at, &what)
    })
}

fn wrong(whose: &str, revision: Revision, what: &str) -> Violation {
    Violation::new("cache", format!("{whose} is not the store at {revision}: {what}"))
}

/// Whether these objects are all there were.
fn same<'a>(
    objects: impl Iterator<Item = &'a KeyValue>,
    prefix: &KeyRange,
    kv: &Kv,
    at: Revision,
) -> Result<(), String> {
    if at > kv.revision() {
        return Err(format!("there is no such revision, the newest is {}", kv.revision()));
    }
    let mut expected = Vec::new();
    kv.visit(prefix, at, |kv| expected.push(kv));
    let objects: Vec<&KeyValue> = objects.collect();
    let differs = objects.iter().zip(&expected).position(|(has, was)| has != was);
    match differs.unwrap_or_else(|| objects.len().min(expected.len())) {
        number if number == objects.len() && number == expected.len() => Ok(()),
        _ if mutant::is_on(Mutant::O22) => Ok(()),
        number => Err(format!("it has {}, there was {}", brief(objects.get(number)), brief(expected.get(number)))),
    }
}

/// Whether what changed in these revisions is what was `changed`.
fn follow(
    changed: &[(Blob, Option<KeyValue>)],
    prefix: &KeyRange,
    kv: &Kv,
    (from, through): (Revision, Revision),
) -> Result<(), String> {
    if through > kv.revision() {
        return Err(format!("there is no such revision, the newest is {}", kv.revision()));
    }
    let changed: BTreeMap<&Blob, Option<&KeyValue>> = changed.iter().map(|(key, now)| (key, now.as_ref())).collect();
    for (key, now) in &changed {
        let was = kv.get(key, through);
        if was != *now {
            return Err(format!("it has {} of {key:?}, there was {}", brief(now.as_ref()), brief(was.as_ref())));
        }
    }
    for revision in (from.0..=through.0).map(Revision) {
        let missed = kv.changes(revision).iter().map(quorate_jepsen::model::Change::key);
        let missed = missed.into_iter().find(|key| prefix.contains(key) && !changed.contains_key(key));
        if let Some(key) = missed.filter(|_| !mutant::is_on(Mutant::O21)) {
            return Err(format!("it was not told of what {revision} did to {key:?}"));
        }
    }
    Ok(())
}

fn brief(object: Option<&&KeyValue>) -> String {
    object.map_or("nothing".into(), |kv| {
        let KeyValue { key, create_revision, mod_revision, version, .. } = kv;
        format!("{key:?} created at {create_revision}, version {version}, of {mod_revision}")
    })
}

#[cfg(test)]
mod tests {
    use quorate_api::mvccpb;
    use quorate_core::request::{DeleteRangeRequest, PutRequest};
    use quorate_jepsen::model::Change;

    use super::*;

    fn prefix() -> KeyRange {
        KeyRange::Bounded { start: "o/".into(), end: "o0".into() }
    }

    /// Puts of o/a, o/b and another key at 2, 3 and 4; then o/a again at 5, and o/b deleted at 6.
    fn store() -> Kv {
        let mut kv = Kv::default();
        for (key, value) in [("o/a", "1"), ("o/b", "1"), ("x", "1"), ("o/a", "2")] {
            kv.put(&PutRequest {
                key: key.into(),
                value: value.into(),
                lease: None,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            });
        }
        kv.delete_range(&DeleteRangeRequest { range: KeyRange::Key("o/b".into()), prev_kv: false });
        kv
    }

    fn list(kv: &Kv, at: i64) -> Vec<KeyValue> {
        let mut objects = Vec::new();
        kv.visit(&prefix(), Revision(at), |kv| objects.push(kv.clone()));
        objects
    }

    /// What a watch tells of a revision.
    fn event(kv: &Kv, at: i64) -> mvccpb::Event {
        let (kv, r#type) = match &kv.changes(Revision(at))[0] {
            Change::Put { kv, .. } => (kv.clone(), 0),
            Change::Delete { prev, .. } => (KeyValue { mod_revision: Revision(at), ..prev.clone() }, 1),
        };
        let kv = mvccpb::KeyValue {
            key: kv.key.0.clone(),
            create_revision: kv.create_revision.0,
            mod_revision: kv.mod_revision.0,
            version: kv.version,
            value: kv.value.0.clone(),
            lease: 0,
        };
        mvccpb::Event { r#type, kv: Some(kv), prev_kv: None }
    }

    /// A list at 3, and the events of these revisions, one by one.
    fn told(revisions: &[i64]) -> Cache {
        let kv = store();
        let mut cache = Cache::listed(list(&kv, 3), Revision(3));
        revisions.iter().for_each(|at| cache.apply(vec![event(&kv, *at)]));
        cache
    }

    fn verdict(cache: &mut Cache) -> Result<u64, Violation> {
        judge(cache, &prefix(), &store())
    }

    #[test]
    fn a_cache_that_was_told_everything_is_the_store() {
        let mut cache = told(&[5]);
        assert_eq!(verdict(&mut cache), Ok(2));
        cache.apply(vec![event(&store(), 6)]);
        assert_eq!(verdict(&mut cache), Ok(1));
        assert_eq!(must_be(&cache, &prefix(), &store(), Revision(6)), Ok(()));
    }

    #[test]
    fn a_missed_event_is_noticed() {
        assert!(verdict(&mut told(&[6])).unwrap_err().text.contains("not told of what 5 did"));
        let mut behind = told(&[5]);
        behind.reach(Revision(6));
        assert!(verdict(&mut behind).unwrap_err().text.contains("not told of what 6 did"));
    }

    #[test]
    fn a_bookmark_without_changes_is_true() {
        let mut cache = told(&[]);
        cache.reach(Revision(4));
        assert_eq!(verdict(&mut cache), Ok(2));
    }

    #[test]
    fn a_page_of_another_revision_is_noticed() {
        let kv = store();
        let (early, late) = (list(&kv, 3), list(&kv, 5));
        let torn = vec![late[0].clone(), early[1].clone()];
        assert!(verdict(&mut Cache::listed(torn, Revision(3))).is_err());
        assert!(verdict(&mut Cache::listed(early[..1].to_vec(), Revision(3))).is_err());
        assert_eq!(verdict(&mut Cache::listed(early, Revision(3))), Ok(1));
    }

    #[test]
    fn a_stale_value_is_noticed() {
        let kv = store();
        let mut cache = told(&[5]);
        let stale = list(&kv, 3)[0].clone();
        cache.objects.insert(stale.key.clone(), stale.clone());
        assert!(verdict(&mut cache).is_err());
        let mut cache = told(&[]);
        cache.steps.push(Step::Reached { revision: Revision(5), changed: vec![(stale.key.clone(), Some(stale))] });
        assert!(verdict(&mut cache).is_err());
    }

    #[test]
    fn whoever_stopped_on_the_way_is_not_there_in_the_end() {
        let mut cache = told(&[5]);
        assert_eq!(verdict(&mut cache), Ok(2));
        assert!(must_be(&cache, &prefix(), &store(), Revision(6)).is_err());
    }

    #[test]
    fn a_revision_that_never_was_is_noticed() {
        let mut cache = told(&[5, 6]);
        cache.reach(Revision(7));
        assert!(verdict(&mut cache).is_err());
    }
}
