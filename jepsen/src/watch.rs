//! What a watcher was told, against what the store did: ordered, unique, atomic, complete, resumable, and true. (etcd: Watch)
//!
//! The truth is a [`Kv`] that has every revision, such as the [`crate::witness::Witness`] of the writers' history gives.

use std::fmt;

use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{KeyRange, KeyValue};
use quorate_core::{Blob, Revision};

use crate::history::show_kv;
use crate::model::{Change, Kv};

/// What a client asked of one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision wanted; `None` is "from now on".
    pub start: Option<Revision>,
    /// Give each event's previous state.
    pub prev_kv: bool,
    /// Drop puts.
    pub no_put: bool,
    /// Drop deletes.
    pub no_delete: bool,
}

/// One event as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of a delete only key and mod_revision, all else zero or empty.
    pub kv: KeyValue,
    /// The key was removed.
    pub delete: bool,
    /// As it was before.
    pub prev_kv: Option<KeyValue>,
}

/// One response of the watcher, or one of the whole stream that holds for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `header.revision`; 0 if absent.
    pub revision: Revision,
    /// The answer to the request.
    pub created: bool,
    /// The last response.
    pub canceled: bool,
    /// Why it is the last: history below this is gone.
    pub compact_revision: Option<Revision>,
    /// None, and neither created nor canceled: progress.
    pub events: Vec<Event>,
    /// More parts of this response follow.
    pub fragment: bool,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The response that broke it, by number; one past the last if something never came.
    pub response: usize,
    /// What was wrong.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watch response {}: {}", self.response, self.text)
    }
}

impl std::error::Error for Violation {}

/// What the store did, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'k> {
    /// Every revision that a watcher can be told of.
    pub kv: &'k Kv,
    /// The furthest revision that may have been compacted by now: previous states before it may be missing.
    pub compacted: Revision,
}

/// Follows one watcher from response to response.
#[derive(Clone, Debug)]
pub struct Watcher {
    request: Request,
    /// Everything below was delivered or was not to be; `None` until the watcher is created.
    next: Option<Revision>,
    canceled: bool,
    /// Parts of a response that is not complete.
    parts: Vec<Event>,
    seen: usize,
}

/// Checks all responses of a watcher; gives the revision from which another one would continue without loss.
///
/// `compacted` is the furthest revision that may ever have been compacted, -1 if none; `through`, if given, is the revision up to which
/// everything must have arrived by the end, unless the watcher was canceled.
///
/// # Errors
/// The first broken promise.
pub fn check(
    truth: &Kv,
    compacted: Revision,
    request: &Request,
    responses: &[Response],
    through: Option<Revision>,
) -> Result<Option<Revision>, Violation> {
    let truth = Truth { kv: truth, compacted };
    let mut watcher = Watcher::new(request.clone());
    for response in responses {
        watcher.receive(truth, response)?;
    }
    if let Some(through) = through {
        watcher.must_have(truth, through)?;
    }
    Ok(watcher.next())
}

impl Watcher {
    /// A watcher that has been asked for and has no answer yet.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { request, next: None, canceled: false, parts: Vec::new(), seen: 0 }
    }

    /// The first revision of which nothing was told yet: where to resume. `None` before the watcher is created.
    #[must_use]
    pub fn next(&self) -> Option<Revision> {
        self.next
    }

    /// Takes the next response, which tells of nothing that is not known by now.
    ///
    /// # Errors
    /// The promise it breaks.
    pub fn receive(&mut self, truth: Truth<'_>, response: &Response) -> Result<(), Violation> {
        if self.canceled {
            return self.wrong("a response after the last one");
        }
        if response.created {
            self.created(truth, response)?;
        } else if self.next.is_none() {
            return self.wrong("a response before the watcher was created");
        }
        if response.canceled {
            self.canceled(truth, response)?;
        } else if !response.events.is_empty() || response.fragment {
            self.events(truth, response)?;
        } else if !response.created {
            self.progress(truth, response.revision)?;
        }
        self.seen += 1;
        Ok(())
    }

    /// Demands that everything up to `through` has arrived.
    ///
    /// # Errors
    /// What is missing.
    pub fn must_have(&self, truth: Truth<'_>, through: Revision) -> Result<(), Violation> {
        if self.canceled {
            return Ok(());
        }
        let Some(next) = self.next else { return self.wrong("the watcher was never created") };
        match self.expected(truth, next, through).next() {
            Some(change) => self.wrong(&format!("never delivered: {}", show(change))),
            None => Ok(()),
        }
    }

    fn created(&mut self, truth: Truth<'_>, response: &Response) -> Result<(), Violation> {
        if self.next.is_some() {
            return self.wrong("created twice");
        }
        if !response.events.is_empty() {
            return self.wrong("created with events");
        }
        // Else it would be excused from everything up to there.
        if response.revision > truth.kv.revision() {
            return self.wrong(&format!("created at {}, which does not exist", response.revision));
        }
        self.next = Some(self.request.start.unwrap_or(Revision(response.revision.0 + 1)));
        Ok(())
    }

    fn canceled(&mut self, truth: Truth<'_>, response: &Response) -> Result<(), Violation> {
        self.canceled = true;
        if !self.parts.is_empty() {
            return self.wrong("canceled amid the parts of a response");
        }
        match (response.compact_revision, self.next) {
            // Nobody asks for the end of a watcher that is judged here.
            (None, _) => self.wrong("canceled for no reason"),
            (Some(floor), _) if floor > truth.compacted => {
                self.wrong(&format!("canceled since {floor} was compacted, which it was not"))
            }
            (Some(floor), Some(next)) if next >= floor => {
                self.wrong(&format!("canceled since {floor} was compacted, but it had come to {next}"))
            }
            _ => Ok(()),
        }
    }

    fn events(&mut self, truth: Truth<'_>, response: &Response) -> Result<(), Violation> {
        self.parts.extend_from_slice(&response.events);
        if response.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut self.parts);
        let Some((next, last)) = self.next.zip(events.last().map(|event| event.kv.mod_revision)) else {
            return self.wrong("parts without an event");
        };
        if last > response.revision || last > truth.kv.revision() {
            return self.wrong(&format!("an event of revision {last}, which does not exist"));
        }
        // The revisions that the response speaks of must be in it whole, and none between may be left out.
        let mut received = events.iter();
        for expected in self.expected(truth, next, last) {
            match received.next() {
                Some(event) => self.compare(truth, event, expected)?,
                None if mutant::is_on(Mutant::J07) => break,
                None => return self.wrong(&format!("missing: {}", show(expected))),
            }
        }
        if let Some(event) = received.next().filter(|_| !mutant::is_on(Mutant::J08)) {
            let what = format!("not expected at {next} and above: {} at {}", show_kv(&event.kv), event.kv.mod_revision);
            return self.wrong(&what);
        }
        self.next = Some(Revision(last.0 + 1));
        Ok(())
    }

    fn progress(&mut self, truth: Truth<'_>, revision: Revision) -> Result<(), Violation> {
        if !self.parts.is_empty() {
            return self.wrong("progress amid the parts of a response");
        }
        if revision > truth.kv.revision() {
            return self.wrong(&format!("progress to {revision}, which does not exist"));
        }
        let Some(next) = self.next else { return Ok(()) };
        if let Some(change) = self.expected(truth, next, revision).next() {
            return self.wrong(&format!("progress to {revision} without {}", show(change)));
        }
        self.next = Some(next.max(Revision(revision.0 + 1)));
        Ok(())
    }

    /// What the watcher is to be told of `from..=through`.
    fn expected<'k>(
        &self,
        truth: Truth<'k>,
        from: Revision,
        through: Revision,
    ) -> impl Iterator<Item = &'k Change> + use<'k> {
        let Request { range, no_put, no_delete, .. } = self.request.clone();
        let through = through.min(truth.kv.revision());
        (from.0.max(2)..=through.0).flat_map(move |revision| truth.kv.changes(Revision(revision))).filter(
            move |change| {
                let dropped = match change {
                    Change::Put { .. } => no_put,
                    Change::Delete { .. } => no_delete,
                };
                !dropped && range.contains(change.key())
            },
        )
    }

    fn compare(&self, truth: Truth<'_>, event: &Event, expected: &Change) -> Result<(), Violation> {
        let (kv, delete, prev) = match expected {
            Change::Put { kv, prev } => (kv.clone(), false, prev.as_ref()),
            Change::Delete { revision, prev } => (tombstone(&prev.key, *revision), true, Some(prev)),
        };
        if (event.delete, &event.kv) != (delete, &kv) {
            let word = if event.delete { "a delete" } else { "a put" };
            return self.wrong(&format!("{word} of {}, expected {}", show_kv(&event.kv), show(expected)));
        }
        // The previous state is the one at the revision before, which may have been compacted.
        let gone = kv.mod_revision <= truth.compacted;
        let right = match (&event.prev_kv, self.request.prev_kv) {
            (None, true) => prev.is_none() || gone,
            (given, true) => given.as_ref() == prev,
            (given, false) => given.is_none(),
        };
        if right || mutant::is_on(Mutant::J09) {
            Ok(())
        } else {
            self.wrong(&format!("{} before {}", show_prev(event), show(expected)))
        }
    }

    fn wrong<T>(&self, what: &str) -> Result<T, Violation> {
        Err(Violation { response: self.seen, text: format!("{what} (watching {:?})", self.request) })
    }
}

impl Event {
    /// The event that tells of `change`, with its previous state if `prev_kv`.
    #[must_use]
    pub fn of(change: &Change, prev_kv: bool) -> Self {
        let (kv, delete, prev) = match change {
            Change::Put { kv, prev } => (kv.clone(), false, prev.clone()),
            Change::Delete { revision, prev } => (tombstone(&prev.key, *revision), true, Some(prev.clone())),
        };
        Self { kv, delete, prev_kv: prev.filter(|_| prev_kv) }
    }
}

fn tombstone(key: &Blob, revision: Revision) -> KeyValue {
    KeyValue {
        key: key.clone(),
        create_revision: Revision(0),
        mod_revision: revision,
        version: 0,
        value: Blob::EMPTY,
        lease: None,
    }
}

fn show(change: &Change) -> String {
    match change {
        Change::Put { kv, .. } => format!("the put {}", show_kv(kv)),
        Change::Delete { revision, prev } => format!("the delete at {revision} of {}", show_kv(prev)),
    }
}

fn show_prev(event: &Event) -> String {
    event
        .prev_kv
        .as_ref()
        .map_or_else(|| "no previous state".to_owned(), |kv| format!("previous state {}", show_kv(kv)))
}
