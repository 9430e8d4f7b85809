//! Controllers of a control plane, as API servers let them drive etcd: each lists all objects, page by page at one revision,
//! watches from there on, and keeps by that a cache, from which it creates, updates and deletes objects. Every write is
//! guarded by the revision at which its object was written last; one that comes too late goes on from what it is told then.
//! (kube-apiserver: storage/etcd3/store.go; client-go: reflector and pager)

use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, KeyValue, PutRequest, RangeRequest,
    RangeResult, RequestOp, ResponseOp, TxnRequest, TxnResult,
};
use quorate_core::rng::Rng;
use quorate_core::{Blob, Revision};
use quorate_jepsen::history::{Op, Response};

use super::cache::Cache;
use super::caller::{Caller, pick};
use super::client::Subject;
use super::contender::Outcome;
use super::ear::Ear;
use super::watcher::Told;
use crate::check::cache::Figures;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::swarm::ControlPlane;
use crate::world::redraw::anew;

/// Where the objects are: in front of all keys that other clients use.
const OBJECTS: &str = "/registry/pods/";
/// The end of [`OBJECTS`]' range.
const OBJECTS_END: &str = "/registry/pods0";
/// A write that comes too late so often is given up.
const TRIES_MAX: u64 = 6;

/// All objects.
#[must_use]
pub fn objects() -> KeyRange {
    KeyRange::Bounded { start: OBJECTS.into(), end: OBJECTS_END.into() }
}

/// What a controller does next.
#[derive(Clone, Debug)]
pub enum Next {
    /// It asks this.
    Ask(Op),
    /// It opens its watch, or opens it anew.
    Listen,
    /// It asks for a bookmark.
    AskProgress,
    /// It does nothing for so long.
    Rest(Nanos),
}

/// What a controller has of the objects, and the watch by which that stays new.
#[derive(Clone, Debug)]
pub struct Reflection {
    /// What it has.
    pub cache: Cache,
    /// The watch.
    pub ear: Ear,
}

/// A list that is not complete.
#[derive(Clone, Debug, Default)]
struct Listing {
    /// Of its first page, and so of all.
    revision: Option<Revision>,
    /// As many objects there are, as the first page said.
    count: i64,
    objects: Vec<KeyValue>,
    /// It comes in one page.
    is_whole: bool,
}

/// What is to become of an object.
#[derive(Clone, Debug)]
enum Intent {
    Create { key: Blob },
    Update { key: Blob, known: Revision, tries: u64 },
    Delete { key: Blob, known: Revision, tries: u64 },
    Get { key: Blob },
}

/// One controller: a cache, and one call at a time.
#[derive(Clone, Debug)]
pub struct Controller {
    rng: Rng,
    number: usize,
    plane: ControlPlane,
    /// Its calls.
    pub caller: Caller,
    /// What it has; `None` while it lists.
    pub reflection: Option<Reflection>,
    /// What it had before and is not judged yet.
    pub past: Vec<Reflection>,
    /// Which of its plans is the latest one.
    pub plan: u64,
    /// How many of what.
    pub figures: Figures,
    /// How often it was told of changes.
    pub changes: usize,
    listing: Listing,
    intent: Option<Intent>,
    connections: u64,
    written: u64,
}

impl Controller {
    /// A controller that begins with `member`.
    #[must_use]
    pub fn new(rng: Rng, number: usize, plane: ControlPlane, member: usize) -> Self {
        Self {
            rng,
            number,
            plane,
            caller: Caller::new(member),
            reflection: None,
            past: Vec::new(),
            plan: 0,
            figures: Figures::default(),
            changes: 0,
            listing: Listing::default(),
            intent: None,
            connections: 0,
            written: 0,
        }
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// Whether it changes nothing from now on, once the end has begun.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.caller.pending.as_ref().is_none_or(|pending| matches!(&pending.subject, Subject::Op(_, op) if is_page(op)))
    }

    /// Whether it has everything, and is told of what changes.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.reflection.as_ref().is_some_and(|reflection| reflection.ear.is_live())
    }

    /// The oldest revision that it may still tell of.
    #[must_use]
    pub fn oldest(&self) -> Option<Revision> {
        self.reflection.as_ref().map(|reflection| reflection.cache.revision).or(self.listing.revision)
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { number, caller: Caller { member, pending, .. }, reflection, listing, .. } = self;
        let has = reflection.as_ref().map_or_else(
            || format!("lists at {:?}, {} of {} so far", listing.revision, listing.objects.len(), listing.count),
            |Reflection { cache, ear }| format!("has everything as of {}, hears by {ear:?}", cache.revision),
        );
        format!("controller {number} {has}, asks {member} {pending:?}")
    }

    /// Draws what to do next; `is_last`: the end has begun, and nothing is changed any more.
    pub fn next(&mut self, is_last: bool) -> Next {
        let Some(reflection) = &self.reflection else { return Next::Ask(self.page()) };
        let is_connected = reflection.ear.connected;
        match if is_last { u64::MAX } else { self.rng.below(300) } {
            // It starts anew, and so do its list and its watch.
            0..2 => {
                self.start_over(false);
                return Next::Ask(self.page());
            }
            2..8 => return Next::Listen,
            8..25 if is_connected => return Next::AskProgress,
            _ if !is_connected => return Next::Listen,
            u64::MAX => return Next::Rest(50 * MILLI + self.rng.below(SECOND / 2)),
            _ => {}
        }
        let intent = self.intent.take().unwrap_or_else(|| self.intend());
        let op = self.request(&intent);
        self.intent = Some(intent);
        Next::Ask(op)
    }

    /// Lists again. What it had is judged later.
    fn start_over(&mut self, is_whole: bool) {
        self.past.extend(self.reflection.take());
        self.listing = Listing { is_whole, ..Listing::default() };
        self.intent = None;
    }

    /// The next page of its list.
    fn page(&self) -> Op {
        let Listing { revision, objects, is_whole, .. } = &self.listing;
        let start = objects.last().map_or(OBJECTS.into(), |last| Blob::from([&last.key[..], &[0]].concat()));
        let limit = if *is_whole { 0 } else { self.plane.page };
        let range = KeyRange::Bounded { start, end: OBJECTS_END.into() };
        Op::Range(RangeRequest { limit, revision: *revision, ..RangeRequest::new(range) })
    }

    /// A page was answered.
    fn listed(&mut self, page: RangeResult) -> Result<(), String> {
        self.figures.pages += 1;
        let listing = &mut self.listing;
        let revision = *listing.revision.get_or_insert(page.revision);
        if listing.objects.is_empty() {
            listing.count = page.count;
        }
        listing.objects.extend(page.kvs);
        let (has, count) = (listing.objects.len() as i64, listing.count);
        if page.more && has < count {
            return Ok(());
        }
        if page.more || has != count {
            return Err(format!("a list at {revision} ends with {has} objects of {count}"));
        }
        self.figures.lists += 1;
        let cache = Cache::listed(std::mem::take(&mut self.listing).objects, revision);
        self.connections += 1;
        self.reflection = Some(Reflection { cache, ear: Ear::judged(objects(), revision.next(), self.connections) });
        Ok(())
    }

    /// Draws what it wants of one of the objects, as far as it knows them.
    fn intend(&mut self) -> Intent {
        let name = self.rng.below(self.plane.objects);
        let key = Blob::from(format!("{OBJECTS}p{name:03}").into_bytes());
        let choice = self.rng.below(20);
        let known = self.reflection.as_ref().and_then(|it| it.cache.objects.get(&key)).map(|kv| kv.mod_revision);
        match (known, choice) {
            (_, 0..2) => Intent::Get { key },
            (None, _) => Intent::Create { key },
            (Some(known), 2..14) => Intent::Update { key, known, tries: 1 },
            (Some(known), _) => Intent::Delete { key, known, tries: 1 },
        }
    }

    /// What to ask for it.
    fn request(&mut self, intent: &Intent) -> Op {
        let get = |key: &Blob| RangeRequest::new(KeyRange::Key(key.clone()));
        let (key, known, then, or_else) = match intent {
            Intent::Get { key } => return Op::Range(get(key)),
            Intent::Create { key } => (key, Revision(0), RequestOp::Put(self.write(key)), vec![]),
            Intent::Update { key, known, .. } => {
                (key, *known, RequestOp::Put(self.write(key)), vec![RequestOp::Range(get(key))])
            }
            Intent::Delete { key, known, .. } => {
                let delete = DeleteRangeRequest { range: KeyRange::Key(key.clone()), prev_kv: false };
                (key, *known, RequestOp::DeleteRange(delete), vec![RequestOp::Range(get(key))])
            }
        };
        let (range, target) = (KeyRange::Key(key.clone()), CompareTarget::Mod(known));
        let guard = Compare { range, result: CompareResult::Equal, target };
        Op::Txn(TxnRequest { compare: vec![guard], success: vec![then], failure: or_else })
    }

    /// A value that nobody else writes.
    fn write(&mut self, key: &Blob) -> PutRequest {
        self.written += 1;
        let mut value = format!("controller {} {}", self.number, self.written).into_bytes();
        if self.rng.chance(1, 10) {
            let padding = self.rng.below(600);
            value.resize(value.len() + usize::try_from(padding).expect("small values"), b'.');
        }
        let (value, ignore_value, ignore_lease) = (Blob::from(value), false, false);
        PutRequest { key: key.clone(), value, lease: None, prev_kv: false, ignore_value, ignore_lease }
    }

    /// What it learns from the end of its call.
    ///
    /// # Errors
    /// An answer that no store gives.
    pub fn heard(&mut self, op: &Op, outcome: Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Answered(Response::Range(page)) if is_page(op) => self.listed(page),
            Outcome::Refused(Error::Compacted { .. }) if is_page(op) => {
                // The continue token is too old. It takes everything at once, or tries again.
                self.figures.lists_expired += 1;
                let is_whole = self.rng.chance(1, 2);
                self.start_over(is_whole);
                Ok(())
            }
            Outcome::Answered(Response::Txn(result)) => self.wrote(&result),
            // It tries once more.
            Outcome::Unseen => Ok(()),
            _ => {
                self.intent = None;
                Ok(())
            }
        }
    }

    /// A guarded write was answered.
    fn wrote(&mut self, result: &TxnResult) -> Result<(), String> {
        let Some(intent) = self.intent.take() else { return Ok(()) };
        let (Intent::Update { key, known, tries } | Intent::Delete { key, known, tries }) = &intent else {
            return Ok(());
        };
        if result.succeeded {
            self.figures.writes_won += 1;
            return Ok(());
        }
        self.figures.writes_lost += 1;
        let [ResponseOp::Range(found)] = &result.responses[..] else {
            return Err(format!("a guarded write of {key:?} came to {result:?}"));
        };
        let Some(now) = found.kvs.first() else { return Ok(()) };
        if now.key != *key || now.mod_revision == *known {
            return Err(format!("a write of {key:?} guarded by {known} is told that there is {now:?}"));
        }
        let (key, known, tries) = (key.clone(), now.mod_revision, tries + 1);
        self.intent = (tries <= TRIES_MAX).then_some(match intent {
            Intent::Delete { .. } => Intent::Delete { key, known, tries },
            _ => Intent::Update { key, known, tries },
        });
        Ok(())
    }

    /// It opens its watch on a member; gives what to send.
    pub fn listen(&mut self, member: usize) -> Option<(u64, pb::WatchRequest)> {
        self.connections += 1;
        let connection = self.connections;
        Some((connection, self.reflection.as_mut()?.ear.connect(member, connection)))
    }

    /// What its watch told; whether it has to list again.
    pub fn told(&mut self, told: Vec<Told>) -> bool {
        for told in told {
            let Some(Reflection { cache, .. }) = &mut self.reflection else { break };
            match told {
                Told::Created { .. } => {}
                Told::Progress(revision) => cache.reach(revision),
                Told::Events { events, .. } => {
                    self.changes += 1;
                    cache.apply(events);
                }
                Told::Compacted(_) => {
                    self.figures.watches_expired += 1;
                    return true;
                }
            }
        }
        false
    }

    /// Its watch cannot go on, for what was next is compacted: it lists again.
    pub fn expired(&mut self) {
        self.start_over(false);
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        match self.rng.below(10) {
            0 => 10 * MILLI + self.rng.below(200 * MILLI),
            _ => 300 * MILLI + self.rng.below(4 * SECOND),
        }
    }

    /// How long to think.
    pub fn think(&mut self) -> Nanos {
        MILLI + self.rng.below(2 * self.plane.pause)
    }

    /// How long it takes to read what it is told: as a rule no time at all.
    pub fn pace(&mut self) -> Nanos {
        if self.rng.chance(1, 100) { self.rng.below(3 * SECOND) } else { 0 }
    }

    /// Draws one of these members.
    pub fn pick(&mut self, members: &[usize]) -> usize {
        pick(&mut self.rng, members)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.caller.move_on(&mut self.rng, members);
    }

    /// Whether to change the member for no reason.
    pub fn is_restless(&mut self) -> bool {
        self.rng.chance(1, 20)
    }
}

/// Whether it is for a page of a list.
fn is_page(op: &Op) -> bool {
    matches!(op, Op::Range(RangeRequest { range: KeyRange::Bounded { .. }, .. }))
}
