//! What the log says, done by a store too simple to be wrong: every committed command is checked by the reference monitor
//! and the alarms and executed by the sequential model, once; every member must have come to the same answers, revisions,
//! floors and alarms. No alarm lets a put through, nobody does what no role allows, and what the cluster compacts by
//! itself leaves as much history as it was told to, and never moves the floor back (`floor`). A lease that nobody renews any
//! more runs out (`lease`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_core::auth::{AuthCommand, Author};
use quorate_core::command::{Command, Envelope, Origin, Outcome};
use quorate_core::entry::{Entry, Payload};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::mutant::{self, Mutant};
use quorate_core::replica::AutoCompaction;
use quorate_core::request::{Alarm, AlarmKind, RequestOp, ResponseOp, TxnRequest, TxnResult};
use quorate_core::store::{Applied, View};
use quorate_core::{Blob, Incarnation, LeaseId, LogIndex, NodeId, Revision};
use quorate_jepsen::auth::Monitor;
use quorate_jepsen::model::Model;

use super::track::Track;
use super::{Verdict, Violation};
use crate::clock::DRIFT_PPM_MAX;
use crate::heap::Nanos;

/// What an entry's command came to.
type Result = std::result::Result<Outcome, Error>;

/// The store after the entry of its place in the log.
#[derive(Clone, Debug)]
struct State {
    revision: Revision,
    floor: Revision,
    monitor: Arc<Monitor>,
    alarms: Arc<BTreeSet<Alarm>>,
    leases: Arc<BTreeSet<LeaseId>>,
}

/// A session that the log opened.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose.
    pub user: String,
    /// By which entry.
    pub opened: LogIndex,
    /// And ended by which one.
    pub closed: Option<LogIndex>,
    /// Whether the password that was to be compared is the user's, as of `opened`.
    hash: Option<String>,
}

/// A compaction that a member asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfCompaction {
    /// The new floor.
    pub at: Revision,
    /// The store's revision then.
    pub revision: Revision,
}

/// The reference.
#[derive(Debug)]
pub struct Reference {
    mode: Option<AutoCompaction>,
    tracks_leases: bool,
    model: Model,
    monitor: Monitor,
    passwords: BTreeMap<String, Option<String>>,
    sessions: BTreeMap<String, Session>,
    /// Their tokens, in the order of the log.
    tokens: Vec<String>,
    alarms: Arc<BTreeSet<Alarm>>,
    leases: Arc<BTreeSet<LeaseId>>,
    /// Where it is said that there is no space, and by whom.
    complaints: Vec<(LogIndex, NodeId)>,
    admitted: Admitted,
    /// After no entry: any member may be without a state.
    empty: State,
    /// After an entry.
    states: Track<State>,
    answers: BTreeMap<Origin, (LogIndex, Result)>,
    /// When a revision was committed.
    made: Track<Nanos>,
    /// The keys of each lease, from an entry on.
    attached: BTreeMap<LeaseId, Vec<(LogIndex, Vec<Blob>)>>,
    /// Leases that have keys now.
    holding: BTreeSet<LeaseId>,
    /// Logical bytes after an entry, and who said so first.
    bytes: BTreeMap<LogIndex, (u64, usize)>,
    /// Answers that were compared.
    pub compared: u64,
    /// Commands that users were refused.
    pub refused: u64,
    /// Commands that alarms refused.
    pub alarmed: u64,
    /// Alarms that were raised.
    pub raised: u64,
}

impl Reference {
    /// The empty store, which compacts itself or not. It remembers which keys leases had, or not.
    #[must_use]
    pub fn new(mode: Option<AutoCompaction>, tracks_leases: bool) -> Self {
        let empty = State {
            revision: Revision(1),
            floor: Revision(-1),
            monitor: Arc::default(),
            alarms: Arc::default(),
            leases: Arc::default(),
        };
        Self {
            mode,
            tracks_leases,
            model: Model::default(),
            monitor: Monitor::default(),
            passwords: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tokens: Vec::new(),
            alarms: Arc::default(),
            leases: Arc::default(),
            complaints: Vec::new(),
            admitted: Admitted::default(),
            empty: empty.clone(),
            states: Track::of(0, empty),
            answers: BTreeMap::new(),
            made: Track::new(2),
            attached: BTreeMap::new(),
            holding: BTreeSet::new(),
            bytes: BTreeMap::new(),
            compared: 0,
            refused: 0,
            alarmed: 0,
            raised: 0,
        }
    }

    /// The last entry that anyone was told is committed.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.states.next() - 1)
    }

    /// The states that a member can have been in from one through another: of those that are forgotten only the empty one.
    pub fn states(&self, from: LogIndex, through: LogIndex) -> impl Iterator<Item = LogIndex> {
        let known = from.0.max(self.states.first())..=through.0;
        let empty = (from == LogIndex(0) && !known.contains(&0)).then_some(from);
        empty.into_iter().chain(known.map(LogIndex))
    }

    /// Users and roles after the entry.
    #[must_use]
    pub fn monitor(&self, at: LogIndex) -> &Monitor {
        &self.state(at).monitor
    }

    /// Logical bytes of the states that members have shown, from one entry through another.
    pub fn bytes(&self, from: LogIndex, through: LogIndex) -> impl Iterator<Item = u64> {
        self.bytes.range(from..=through).map(|(_, (bytes, _))| *bytes)
    }

    /// As [`Reference::bytes`], and after which entry.
    pub fn sizes(&self, from: LogIndex, through: LogIndex) -> impl Iterator<Item = (LogIndex, u64)> {
        let shown = (from <= through).then(|| self.bytes.range(from..=through));
        shown.into_iter().flatten().map(|(at, (bytes, _))| (*at, *bytes))
    }

    /// Whether this alarm was on after the entry.
    #[must_use]
    pub fn has_alarm(&self, alarm: Alarm, at: LogIndex) -> bool {
        self.alarms_at(at).contains(&alarm)
    }

    /// Where the log was told since the last call that there is no space, and by whom.
    pub fn take_complaints(&mut self) -> Vec<(LogIndex, NodeId)> {
        std::mem::take(&mut self.complaints)
    }

    /// Whether an alarm of this kind was on after the entry.
    #[must_use]
    pub fn is_alarmed(&self, kind: AlarmKind, at: LogIndex) -> bool {
        self.alarms_at(at).iter().any(|alarm| alarm.kind == kind)
    }

    /// The session of a token, if there ever was one.
    #[must_use]
    pub fn session(&self, token: &str) -> Option<&Session> {
        self.sessions.get(token)
    }

    /// The tokens of all sessions that were opened through the entry, but the first `known` ones.
    pub fn tokens(&self, known: usize, through: LogIndex) -> impl Iterator<Item = &str> {
        let tokens = self.tokens[known..].iter().map(String::as_str);
        tokens.take_while(move |token| self.sessions[*token].opened <= through)
    }

    /// The keys of a lease after the entry.
    #[must_use]
    pub fn attached(&self, lease: LeaseId, at: LogIndex) -> &[Blob] {
        let Some(history) = self.attached.get(&lease) else { return &[] };
        let known = history.partition_point(|(since, _)| *since <= at);
        if known == 0 { &[] } else { &history[known - 1].1 }
    }

    /// The keys of all leases after the entry.
    #[must_use]
    pub fn all_attached(&self, at: LogIndex) -> Vec<Blob> {
        self.attached.keys().flat_map(|lease| self.attached(*lease, at)).cloned().collect()
    }

    /// The leases that there were after the entry.
    #[must_use]
    pub fn leases(&self, at: LogIndex) -> &BTreeSet<LeaseId> {
        &self.state(at).leases
    }

    /// A member hands these committed entries to its store at `now`; gives what members compacted by themselves.
    ///
    /// # Errors
    /// They compacted more than they were told to.
    pub fn committed(&mut self, now: Nanos, entries: &[Entry]) -> std::result::Result<Vec<SelfCompaction>, Violation> {
        let mut compactions = Vec::new();
        for entry in entries {
            if entry.index <= self.last() {
                continue;
            }
            if let Payload::Command(bytes) = &entry.payload {
                let Envelope { origin, command, author } = codec::decode(bytes.0.clone())
                    .map_err(|error| Violation::new("reference", format!("entry {}: {error}", entry.index)))?;
                if self.admitted.admit(origin, entry.index) {
                    let before = self.model.compacted();
                    let result = self.execute(&author, &command, entry.index);
                    if let (Author::Member, Command::Compact { revision: at }, Ok(_)) = (&author, &command, &result) {
                        self.judge_compaction(now, *at, before)?;
                        compactions.push(SelfCompaction { at: *at, revision: self.model.revision() });
                    }
                    if is_of_members(&command) && matches!(result, Err(Error::UserEmpty | Error::PermissionDenied)) {
                        let text = format!("entry {}: members are refused what they propose: {command:?}", entry.index);
                        return Err(Violation::new("reference", text));
                    }
                    self.answers.insert(origin, (entry.index, result));
                }
            }
            self.note(now, entry.index);
        }
        Ok(compactions)
    }

    fn execute(&mut self, author: &Author, command: &Command, at: LogIndex) -> Result {
        let attached = |lease| self.model.kv().attached(lease).cloned().collect();
        self.monitor.check(author, command, &attached).inspect_err(|_| self.refused += 1)?;
        let alarms = &self.alarms;
        if changes(command) && alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
            self.alarmed += 1;
            return Err(Error::Corrupt);
        }
        if may_put(command) && alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
            self.alarmed += 1;
            return Err(Error::NoSpace);
        }
        match command {
            Command::Auth(command) => self.change_users(command, at),
            Command::RaiseAlarm(alarm) => {
                if alarm.kind == AlarmKind::NoSpace {
                    self.complaints.push((at, alarm.member));
                }
                if Arc::make_mut(&mut self.alarms).insert(*alarm) {
                    self.raised += 1;
                }
                Ok(Outcome::Alarms(vec![*alarm]))
            }
            Command::ClearAlarm(alarm) => {
                let is_meant = |on: &&Alarm| {
                    let fenced = matches!(on.kind, AlarmKind::Fenced(_)) && on.member == alarm.member;
                    *on == alarm || (fenced && alarm.kind == AlarmKind::Corrupt)
                };
                let cleared: Vec<Alarm> = alarms.iter().filter(is_meant).copied().collect();
                Arc::make_mut(&mut self.alarms).retain(|on| !cleared.contains(on));
                Ok(Outcome::Alarms(cleared))
            }
            Command::LeaseGrant(_) | Command::LeaseRevoke(_) | Command::LeaseExpire(_) => {
                let outcome = self.model.apply(command)?;
                self.leases = Arc::new(self.model.leases().keys().copied().collect());
                Ok(outcome)
            }
            other => self.model.apply(other),
        }
    }

    fn change_users(&mut self, command: &AuthCommand, at: LogIndex) -> Result {
        self.monitor.change(command)?;
        match command {
            AuthCommand::OpenSession { name, secret, .. } => {
                let hash = self.passwords.get(name).cloned().flatten();
                let session = Session { user: name.clone(), opened: at, closed: None, hash };
                self.tokens.push(format!("{secret}.{at}"));
                self.sessions.insert(format!("{secret}.{at}"), session);
                return Ok(Outcome::SessionOpened(at));
            }
            AuthCommand::UserAdd { name, password, no_password } => {
                self.passwords.insert(name.clone(), password.clone().filter(|_| !no_password));
            }
            AuthCommand::UserDelete(name) => {
                self.passwords.remove(name);
                self.close(at, |session| session.user == *name);
            }
            AuthCommand::UserChangePassword { name, password } => {
                if let Some(known @ Some(_)) = self.passwords.get_mut(name) {
                    known.clone_from(password);
                }
                self.close(at, |session| session.user == *name);
            }
            AuthCommand::Disable => self.close(at, |_| true),
            _ => {}
        }
        Ok(Outcome::Done)
    }

    fn close(&mut self, at: LogIndex, ends: impl Fn(&Session) -> bool) {
        for session in self.sessions.values_mut().filter(|session| session.closed.is_none() && ends(session)) {
            session.closed = Some(at);
        }
    }

    /// No member can come back to a state before `before`, and nobody asks for one.
    pub fn forget(&mut self, before: LogIndex) {
        self.states.forget(before.0);
        self.bytes = self.bytes.split_off(&before);
        self.answers.retain(|_, (index, _)| *index >= before);
        self.attached.retain(|_, history| {
            let known = history.partition_point(|(since, _)| *since <= before);
            history.drain(..known.saturating_sub(1));
            history.len() > 1 || history.first().is_some_and(|(since, keys)| *since > before || !keys.is_empty())
        });
        self.made.forget(self.model.compacted().0.max(0).unsigned_abs());
        self.model.forget(self.model.compacted());
        self.admitted.forget();
    }

    /// Writes down where the store stands after entry `at`.
    fn note(&mut self, now: Nanos, at: LogIndex) {
        while self.made.next() <= self.model.revision().0.unsigned_abs() {
            self.made.push(now);
        }
        let State { revision: before, monitor, .. } = self.states.last().expect("never empty");
        let monitor = if **monitor == self.monitor { Arc::clone(monitor) } else { Arc::new(self.monitor.clone()) };
        if self.model.revision() > *before && self.tracks_leases {
            self.note_attached(at);
        }
        self.states.push(State {
            revision: self.model.revision(),
            floor: self.model.compacted(),
            monitor,
            alarms: Arc::clone(&self.alarms),
            leases: Arc::clone(&self.leases),
        });
    }

    fn note_attached(&mut self, at: LogIndex) {
        let kv = self.model.kv();
        let holding: BTreeSet<LeaseId> = kv.leases_with_keys().collect();
        for &lease in holding.union(&self.holding) {
            let history = self.attached.entry(lease).or_default();
            let last = history.last().map_or(&[][..], |(_, keys)| keys);
            if !kv.attached(lease).eq(last.iter()) {
                history.push((at, kv.attached(lease).cloned().collect()));
            }
        }
        self.holding = holding;
    }

    /// (etcd: --auto-compaction-mode)
    fn judge_compaction(&self, now: Nanos, at: Revision, floor: Revision) -> Verdict {
        let fail = |text: String| Err(Violation::new("floor", text));
        if at <= floor {
            return fail(format!("the floor goes from {floor} to {at}"));
        }
        match self.mode {
            _ if mutant::is_on(Mutant::O28) => Ok(()),
            None => fail(format!("compacted at {at} by itself, although it was not told to")),
            Some(AutoCompaction::Revisions { keep, .. }) if at.0 > self.model.revision().0 - keep => fail(format!(
                "compacted at {at} by itself, {keep} revisions were to be kept of {}",
                self.model.revision()
            )),
            Some(AutoCompaction::Revisions { .. }) => Ok(()),
            Some(AutoCompaction::Periodic(period)) => {
                let period = u64::try_from(period.as_nanos()).expect("short periods");
                let slowest = period / (1_000_000 + DRIFT_PPM_MAX as u64) * 1_000_000;
                let made = u64::try_from(at.0).ok().and_then(|at| self.made.get(at)).copied().unwrap_or(0);
                if made + slowest > now {
                    return fail(format!(
                        "compacted at {at} by itself at {now}, which was made at {made}, within {period}"
                    ));
                }
                Ok(())
            }
        }
    }

    /// A member has applied a batch.
    ///
    /// # Errors
    /// It came to something else than the log says.
    pub fn applied(&mut self, member: usize, applied: &Applied) -> Verdict {
        let at = applied.index;
        let fail = |what: String| Err(Violation::new("reference", format!("member {member} at {at}: {what}")));
        let &State { revision, floor, .. } = self.state(at);
        let alarms = self.alarms_at(at);
        if (applied.revision, applied.compacted) != (revision, floor) {
            let found = (applied.revision, applied.compacted);
            return fail(format!("revision and floor are {found:?}, the log says {:?}", (revision, floor)));
        }
        if let Some(found) = &applied.alarms
            && !found.iter().eq(alarms.iter())
        {
            return fail(format!("alarms are {found:?}, the log says {alarms:?}"));
        }
        for (origin, result) in &applied.results {
            let Some((index, expected)) = self.answers.get(origin) else {
                return fail(format!("{origin:?} was answered {result:?}, the log has no such command"));
            };
            self.compared += 1;
            if !same(result, expected) && !mutant::is_on(Mutant::O27) {
                return fail(format!("entry {index} was answered {result:?}, the log says {expected:?}"));
            }
        }
        Ok(())
    }

    /// A member shows this state.
    ///
    /// # Errors
    /// It is another one than the log says, or than another member has.
    pub fn published(&mut self, member: usize, at: LogIndex, view: &View) -> Verdict {
        let fail = |what: String| Err(Violation::new("reference", format!("member {member} at {at}: {what}")));
        let &State { revision, floor, .. } = self.state(at);
        if mutant::is_on(Mutant::O29) {
            return Ok(());
        }
        let alarms = self.alarms_at(at);
        if (view.revision(), view.compacted()) != (revision, floor) {
            let found = (view.revision(), view.compacted());
            return fail(format!("shows revision and floor {found:?}, the log says {:?}", (revision, floor)));
        }
        if !view.alarms().eq(alarms.iter().copied()) {
            let found: Vec<Alarm> = view.alarms().collect();
            return fail(format!("shows the alarms {found:?}, the log says {alarms:?}"));
        }
        let monitor = self.monitor(at);
        if (view.auth().is_enabled(), view.auth().revision()) != (monitor.enabled, monitor.revision()) {
            let found = (view.auth().is_enabled(), view.auth().revision());
            return fail(format!("users are {found:?}, the log says {:?}", (monitor.enabled, monitor.revision())));
        }
        let bytes = view.logical_bytes();
        let (first, by) = *self.bytes.entry(at).or_insert((bytes, member));
        if bytes != first {
            return fail(format!("counts {bytes} logical bytes, member {by} counted {first}"));
        }
        Ok(())
    }

    /// Whether there is any lease.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        !self.model.leases().is_empty()
    }

    /// Whoever renewed leases has been gone for longer than any of them was granted for.
    ///
    /// # Errors
    /// One of them lives on.
    pub fn ended(&self) -> Verdict {
        match self.model.leases().first_key_value() {
            None => Ok(()),
            Some(_) if mutant::is_on(Mutant::O16) => Ok(()),
            Some((lease, ttl)) => {
                let text = format!("lease {lease}, granted for {} s and renewed by nobody, has not run out", ttl.0);
                Err(Violation::new("lease", text))
            }
        }
    }

    fn state(&self, at: LogIndex) -> &State {
        if at == LogIndex(0) {
            return &self.empty;
        }
        self.states.get(at.0).unwrap_or_else(|| panic!("the state after {at} is not known yet, or forgotten"))
    }

    fn alarms_at(&self, at: LogIndex) -> &BTreeSet<Alarm> {
        &self.state(at).alarms
    }
}

impl Session {
    /// Whether it was open after the entry.
    #[must_use]
    pub fn is_open(&self, at: LogIndex) -> bool {
        self.opened <= at && self.closed.is_none_or(|closed| at < closed)
    }

    /// Whether its user's password had this hash when it was opened.
    #[must_use]
    pub fn had_hash(&self, hash: &str) -> bool {
        self.hash.as_deref() == Some(hash)
    }
}

/// Whether members propose it for the cluster's own purposes.
fn is_of_members(command: &Command) -> bool {
    matches!(
        command,
        Command::LeaseExpire(_) | Command::LeaseCheckpoint(_) | Command::Publish(_) | Command::RaiseFeatureLevel(_)
    )
}

/// Whether a command is one of those that CORRUPT stops.
fn changes(command: &Command) -> bool {
    match command {
        Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact { .. }
        | Command::LeaseRevoke(_)
        | Command::LeaseExpire(_) => true,
        other => may_put(other),
    }
}

/// Whether a command may write more than it removes.
fn may_put(command: &Command) -> bool {
    fn has_put(txn: &TxnRequest) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match op {
            RequestOp::Put(_) => true,
            RequestOp::Txn(inner) => has_put(inner),
            RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
        })
    }
    match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(txn) => has_put(txn),
        _ => false,
    }
}

fn same(given: &Result, expected: &Result) -> bool {
    match (given, expected) {
        (Ok(Outcome::Txn(given)), Ok(Outcome::Txn(expected))) => {
            without_nested_revisions(given.clone()) == without_nested_revisions(expected.clone())
        }
        // The membership is another oracle's.
        (Ok(Outcome::Members(_)) | Err(_), Ok(Outcome::Done)) if is_membership(given) => true,
        _ => given == expected,
    }
}

fn is_membership(given: &Result) -> bool {
    match given {
        Ok(outcome) => matches!(outcome, Outcome::Members(_)),
        Err(error) => matches!(
            error,
            Error::MemberExists
                | Error::PeerUrlExists
                | Error::MemberNotFound
                | Error::NotEnoughStarted
                | Error::MemberNotLearner
                | Error::LearnerNotReady
                | Error::TooManyLearners
                | Error::Unhealthy
                | Error::BadMemberUrls
        ),
    }
}

/// A nested txn's revision is not on the wire: nobody needs to agree on it.
fn without_nested_revisions(mut txn: TxnResult) -> TxnResult {
    for response in &mut txn.responses {
        if let ResponseOp::Txn(inner) = response {
            inner.revision = Revision(0);
            *inner = without_nested_revisions(inner.clone());
        }
    }
    txn
}

/// Each proposal once: what a window of 1024 of each of the eight lives of a member heard of last tells. (Part of the
/// replicated state: the rule is the store's.)
#[derive(Debug, Default)]
struct Admitted {
    seen: BTreeSet<Origin>,
    lives: BTreeMap<NodeId, BTreeMap<Incarnation, (LogIndex, u64)>>,
    retired: BTreeSet<(NodeId, Incarnation)>,
}

impl Admitted {
    /// Forgets what is refused by its number alone.
    fn forget(&mut self) {
        let Self { seen, lives, .. } = self;
        seen.retain(|origin| {
            let life = lives.get(&origin.member).and_then(|lives| lives.get(&origin.incarnation));
            life.is_some_and(|(_, highest)| *highest - origin.sequence < 1024)
        });
    }

    fn admit(&mut self, origin: Origin, at: LogIndex) -> bool {
        let life = (origin.member, origin.incarnation);
        if self.retired.contains(&life) {
            return false;
        }
        let lives = self.lives.entry(origin.member).or_default();
        if !lives.contains_key(&origin.incarnation) && lives.len() == 8 {
            let oldest = *lives.iter().min_by_key(|(_, (heard, _))| *heard).expect("eight lives").0;
            lives.remove(&oldest);
            self.retired.insert((origin.member, oldest));
        }
        let (heard, highest) = lives.entry(origin.incarnation).or_insert((at, origin.sequence));
        *highest = (*highest).max(origin.sequence);
        if *highest - origin.sequence >= 1024 || !self.seen.insert(origin) {
            return false;
        }
        *heard = at;
        true
    }
}
