//! Replays the writes in the order of their revisions and predicts every answer on the way.
//!
//! A revision that no answer claims is a *gap*: one open operation or one expiry must have made it. The first candidate
//! that agrees with what was seen of the revision is taken; if the replay runs into a contradiction further on, it goes back to the
//! newest gap whose choice bears on the keys in question (conflict-directed backjumping) and takes the next one.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::request::KeyRange;
use quorate_core::{LeaseId, Revision};

use super::base::Base;
use super::footprint::{changed, may_write, overlap, ranges, revisions, seen, writes};
use super::leases::Lives;
use super::refusals::{Bearing, Doubt};
use super::times::Times;
use super::{Author, Failure, Rule, Violation, Witness};
use crate::history::{End, History, Op, OpId, Operation, Response, Sighting, show_kv, text};
use crate::model::{Change, Kv};

mod evidence;
mod predict;

use evidence::Evidence;

/// The keys a contradiction is about.
#[derive(Clone, Debug, Default)]
struct Scope {
    /// It may be about anything.
    all: bool,
    ranges: Vec<KeyRange>,
}

/// A contradiction at the revision being replayed.
#[derive(Debug)]
struct Conflict {
    violation: Violation,
    scope: Scope,
}

/// A gap and who may have made it.
#[derive(Debug)]
struct Gap {
    revision: Revision,
    candidates: Vec<Author>,
    /// How many candidates have been tried; the last one of them is the current choice.
    tried: usize,
}

/// The revisions that no answer claims, and what is known of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    filled: Vec<Revision>,
    evidence: BTreeMap<Revision, Vec<Evidence>>,
}

/// The replay of one history.
#[derive(Debug)]
pub(super) struct Replay<'h> {
    history: &'h History,
    times: &'h Times,
    /// Who was answered to have made which revision; ascending, unique.
    claims: Vec<(Revision, OpId)>,
    /// Answers of operations that made no revision, or may have not (revokes), by the revision they tell; ascending.
    reads: Vec<(Revision, OpId)>,
    /// By revision; ascending.
    sightings: Vec<(Revision, u32)>,
    /// Operations of unknown outcome that may write, in the order of invocation.
    open: Vec<OpId>,
    /// What answers and sightings say of the gaps.
    evidence: BTreeMap<Revision, Vec<Evidence>>,
    witness: Witness,
    lives: Lives,
    gaps: Vec<Gap>,
    /// The open operations that are chosen somewhere.
    used: BTreeSet<OpId>,
    /// The contradiction at the highest revision, and that revision.
    deepest: Option<(Revision, Violation)>,
    /// Revisions that may still be replayed before the search is given up.
    budget: u64,
}

impl<'h> Replay<'h> {
    pub(super) fn new(history: &'h History, base: &Base, times: &'h Times) -> Result<Self, Violation> {
        let after = base.revision();
        let mut replay = Self {
            history,
            times,
            claims: Vec::new(),
            reads: Vec::new(),
            sightings: Vec::new(),
            open: Vec::new(),
            evidence: BTreeMap::new(),
            witness: Witness::after(base.kv.clone()),
            lives: Lives::gather(history, base, times),
            gaps: Vec::new(),
            used: BTreeSet::new(),
            deepest: None,
            budget: 20_000 + 20 * history.turns().len() as u64,
        };
        let mut possible = after.0 + base.kv.leases_with_keys().count() as i64;
        for (id, operation) in base.unsettled(history) {
            match &operation.end {
                End::Returned(response) => {
                    let claims = changed(response) == Some(true);
                    let list = if claims { &mut replay.claims } else { &mut replay.reads };
                    list.push((response.revision(), id));
                }
                End::Open if may_write(&operation.op) => replay.open.push(id),
                End::Open | End::Refused(_) | End::Failed => {}
            }
            if matches!(operation.end, End::Returned(_) | End::Open) {
                possible += revisions(&operation.op);
            }
        }
        replay.sightings.extend(history.sightings().iter().map(Sighting::revision).zip(0..));
        replay.claims.sort_unstable();
        replay.reads.sort_unstable();
        replay.sightings.sort_unstable();
        replay.check_claims(possible)?;
        if (replay.claims.len() as i64) < times.last.0 - after.0 {
            let wanted = |revision| revision > after && replay.claim(revision).is_none();
            replay.evidence = evidence::gather(history, wanted);
            replay.check_evidence()?;
        }
        Ok(replay)
    }

    /// The leases, with their ends as the replay has it.
    pub(super) fn lives(&self) -> Lives {
        self.lives.clone()
    }

    pub(super) fn witness(&self) -> &Witness {
        &self.witness
    }

    pub(super) fn into_witness(self) -> Witness {
        let filled = self.gaps.iter().map(|gap| gap.revision).collect();
        Witness { gaps: Gaps { filled, evidence: self.evidence }, ..self.witness }
    }

    /// Replays to the newest revision.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        if self.witness.authors.is_empty() {
            self.check_past().map_err(|conflict| Failure::Violated(conflict.violation))?;
        }
        while self.witness.kv.revision() < self.times.last {
            let revision = Revision(self.witness.kv.revision().0 + 1);
            self.spend(1)?;
            if let Err(conflict) = self.step(revision) {
                self.back(revision, conflict)?;
            }
        }
        Ok(())
    }

    /// Finds another way after the whole replay turned out to contradict something else.
    pub(super) fn revise(&mut self, doubt: Doubt) -> Result<(), Failure> {
        let Doubt { violation, bearing } = doubt;
        let (scope, through) = match bearing {
            Bearing::Nothing => return Err(Failure::Violated(violation)),
            Bearing::Keys(id, through) => (Scope::of(&self.history.get(id).op), through),
            Bearing::Everything => (Scope { all: true, ranges: Vec::new() }, self.times.last),
        };
        // Looking at all refusals is the work of many steps.
        self.spend(1 + self.history.turns().len() as u64 / 16)?;
        self.back(through, Conflict { violation, scope })
    }

    /// Checks the answers and sightings of revisions that are explained already.
    fn check_past(&mut self) -> Result<(), Conflict> {
        let told = self.reads.iter().map(|read| read.0).chain(self.sightings.iter().map(|sighting| sighting.0));
        let past: BTreeSet<Revision> = told.filter(|revision| *revision <= self.witness.after).collect();
        past.into_iter().try_for_each(|revision| self.check_answers(revision))
    }

    fn check_claims(&self, possible: i64) -> Result<(), Violation> {
        for pair in self.claims.windows(2) {
            let [(revision, a), (other, b)] = [pair[0], pair[1]];
            if revision == other {
                let what = format!("revision {revision} was made twice");
                return Err(Violation::new(self.history, Rule::Duplicate, &[a, b], &what));
            }
        }
        if self.times.last.0 > possible {
            let what = format!("revision {} was told, but only {possible} can have been reached", self.times.last);
            let told = self.claims.iter().chain(&self.reads).filter(|(revision, _)| *revision == self.times.last);
            let told: Vec<OpId> = told.map(|(_, id)| *id).take(1).collect();
            return Err(Violation::new(self.history, Rule::Unexplained, &told, &what));
        }
        Ok(())
    }

    /// Finds what contradicts the history however its gaps are filled: spares the search from trying all ways.
    fn check_evidence(&self) -> Result<(), Violation> {
        for (revision, evidence) in &self.evidence {
            let candidate = |id: &&OpId| self.times.floor(**id) < *revision;
            for seen in evidence.iter().filter(|seen| matches!(seen, Evidence::Put(..) | Evidence::Create(_))) {
                let mut open = self.open.iter().filter(candidate).map(|id| &self.history.get(*id).op);
                if !open.any(|op| seen.may_be_of(op)) {
                    return Err(self
                        .unexplained(&Gap { revision: *revision, candidates: Vec::new(), tried: 0 })
                        .violation);
                }
            }
        }
        for (id, operation) in self.history.operations() {
            let Some(response) = operation.response() else { continue };
            let mut wrong = None;
            seen(&operation.op, response, &mut |kv, whole| {
                if let Some(by) = self.claim(kv.mod_revision)
                    && !Evidence::Put(kv.clone(), whole).may_be_of(&self.history.get(by).op)
                {
                    wrong = Some((by, show_kv(kv)));
                }
            });
            if let Some((by, kv)) = wrong {
                let what = format!("{kv} is not of the write that made its revision");
                return Err(Violation::new(self.history, Rule::Answer, &[by, id], &what));
            }
        }
        Ok(())
    }

    /// Who was answered to have made `revision`.
    fn claim(&self, revision: Revision) -> Option<OpId> {
        let i = self.claims.binary_search_by_key(&revision, |claim| claim.0).ok()?;
        Some(self.claims[i].1)
    }

    fn step(&mut self, revision: Revision) -> Result<(), Conflict> {
        // Without gaps so far the claims are dense: no need to search.
        let dense = usize::try_from(revision.0 - self.witness.after.0 - 1).ok().and_then(|i| self.claims.get(i));
        let claim = dense.filter(|claim| claim.0 == revision).map(|claim| claim.1).or_else(|| self.claim(revision));
        match claim {
            Some(id) => {
                predict::write(self.history, &mut self.witness.kv, id)?;
                self.witness.authors.push(Author::Op(id));
                if let Some(lease) = self.dead_lease(revision) {
                    let what = format!("revision {revision} attached a key to lease {lease}, which did not exist");
                    let violation = Violation::new(self.history, Rule::Lease, &[id], &what);
                    return Err(Conflict { violation, scope: Scope::of(&self.history.get(id).op) });
                }
            }
            None => {
                let candidates = self.candidates(revision);
                let mut gap = Gap { revision, candidates, tried: 0 };
                if !self.choose(&mut gap) {
                    return Err(self.unexplained(&gap));
                }
                self.gaps.push(gap);
            }
        }
        self.check_answers(revision)
    }

    /// Checks every answer and sighting of the state at `revision`.
    fn check_answers(&mut self, revision: Revision) -> Result<(), Conflict> {
        let first = self.reads.partition_point(|read| read.0 < revision);
        let author = self.witness.author(revision);
        for (at, id) in &self.reads[first..] {
            if *at != revision {
                break;
            }
            predict::read(self.history, &mut self.witness.kv, *id, revision, author)?;
            if let Op::LeaseRevoke(lease) = self.history.get(*id).op
                && !self.lives.may_revoke(lease, revision)
            {
                let violation = Violation::new(self.history, Rule::Lease, &[*id], "the revoked lease did not exist");
                return Err(Conflict { violation, scope: Scope { all: true, ranges: Vec::new() } });
            }
        }
        let first = self.sightings.partition_point(|sighting| sighting.0 < revision);
        for (at, number) in &self.sightings[first..] {
            if *at != revision {
                break;
            }
            predict::sighting(self.history, &self.witness, &self.history.sightings()[*number as usize])?;
        }
        Ok(())
    }

    /// All who may have made the gap at `revision`: answered revokes first, since they must have been somewhere.
    fn candidates(&self, revision: Revision) -> Vec<Author> {
        let first = self.reads.partition_point(|read| read.0 < revision);
        let answered = self.reads[first..].iter().take_while(|read| read.0 == revision).map(|read| read.1);
        let is_revoke = |id: &OpId| matches!(self.history.get(*id).op, Op::LeaseRevoke(_));
        let invoked = |id: &OpId| self.times.floor(*id) < revision;
        let known = answered.filter(is_revoke).filter(invoked);
        let open = self.open.iter().copied().take_while(invoked).filter(|id| !self.used.contains(id));
        let evidence = self.evidence.get(&revision).map_or(&[][..], Vec::as_slice);
        let likely = open.filter(|id| evidence.iter().all(|seen| seen.may_be_of(&self.history.get(*id).op)));
        let expiries = self.witness.kv.leases_with_keys().map(Author::Expiry);
        known.chain(likely).map(Author::Op).chain(expiries).collect()
    }

    /// Takes the next candidate that changes something and agrees with the evidence.
    fn choose(&mut self, gap: &mut Gap) -> bool {
        while let Some(author) = gap.candidates.get(gap.tried).copied() {
            gap.tried += 1;
            let Witness { kv, authors, .. } = &mut self.witness;
            if !act(self.history, kv, author) {
                continue;
            }
            let evidence = self.evidence.get(&gap.revision).map_or(&[][..], Vec::as_slice);
            let agrees = evidence.iter().all(|seen| seen.agrees(kv.changes(gap.revision)));
            authors.push(author);
            if agrees && self.dead_lease(gap.revision).is_none() {
                if let Author::Op(id) = author {
                    self.used.insert(id);
                }
                if let Some(lease) = author.ended_lease(self.history) {
                    self.lives.believe(lease, gap.revision);
                }
                return true;
            }
            self.witness.authors.pop();
            self.witness.kv.rewind(Revision(gap.revision.0 - 1));
        }
        false
    }

    /// Undoes everything from the gap's revision on.
    fn undo(&mut self, gap: &Gap) {
        let before = gap.revision.0 - 1;
        self.witness.kv.rewind(Revision(before));
        self.witness
            .authors
            .truncate(usize::try_from(before - self.witness.after.0).expect("gaps are not explained yet"));
        let chosen = gap.candidates[gap.tried - 1];
        if let Author::Op(id) = chosen {
            self.used.remove(&id);
        }
        if let Some(lease) = chosen.ended_lease(self.history) {
            self.lives.doubt(lease);
        }
    }

    /// A lease that did not exist and yet had a key attached by `revision`.
    fn dead_lease(&self, revision: Revision) -> Option<LeaseId> {
        let attached = self.witness.kv.changes(revision).iter().filter_map(|change| match change {
            Change::Put { kv, .. } => kv.lease,
            Change::Delete { .. } => None,
        });
        attached.into_iter().find(|lease| !self.lives.may_attach(*lease, revision))
    }

    /// Goes back to the newest gap up to `revision` that bears on the contradiction there and can be filled otherwise.
    fn back(&mut self, revision: Revision, conflict: Conflict) -> Result<(), Failure> {
        if self.deepest.as_ref().is_none_or(|(deepest, _)| *deepest < revision) {
            self.deepest = Some((revision, conflict.violation));
        }
        let mut scope = conflict.scope;
        while let Some(mut gap) = self.gaps.pop() {
            self.spend(1)?;
            self.undo(&gap);
            if gap.revision > revision || !self.bears(&gap, &scope) {
                continue;
            }
            if self.choose(&mut gap) {
                let at = gap.revision;
                self.gaps.push(gap);
                match self.check_answers(at) {
                    Ok(()) => return Ok(()),
                    Err(again) => scope.merge(again.scope),
                }
            } else {
                self.widen(&gap, &mut scope);
            }
        }
        let (_, violation) = self.deepest.take().expect("a contradiction was noted");
        Err(Failure::Violated(violation))
    }

    fn bears(&self, gap: &Gap, scope: &Scope) -> bool {
        scope.all
            || gap.candidates.iter().any(|author| match author {
                Author::Expiry(_) => true,
                Author::Op(id) => {
                    let op = &self.history.get(*id).op;
                    let mut any = matches!(op, Op::LeaseRevoke(_));
                    writes(op, &mut |range| any |= scope.touches(range));
                    any
                }
            })
    }

    /// A gap could not be filled otherwise: whatever its candidates depend on is part of the contradiction, and so are operations
    /// that would have been candidates but for an earlier gap.
    fn widen(&self, gap: &Gap, scope: &mut Scope) {
        let evidence = self.evidence.get(&gap.revision).map_or(&[][..], Vec::as_slice);
        for id in gap.candidates.iter().filter_map(|a| if let Author::Op(id) = a { Some(id) } else { None }) {
            scope.include(&self.history.get(*id).op);
        }
        let taken = |id: &&OpId| {
            self.times.floor(**id) < gap.revision
                && evidence.iter().all(|seen| seen.may_be_of(&self.history.get(**id).op))
        };
        if evidence.is_empty() && !self.used.is_empty() {
            scope.all = true;
        }
        self.used.iter().filter(taken).for_each(|id| scope.include(&self.history.get(*id).op));
    }

    fn unexplained(&self, gap: &Gap) -> Conflict {
        let evidence = self.evidence.get(&gap.revision).map_or(&[][..], Vec::as_slice);
        let mut scope = Scope { all: evidence.is_empty(), ranges: Vec::new() };
        scope.ranges.extend(evidence.iter().filter_map(Evidence::key).map(|key| KeyRange::Key(key.clone())));
        self.widen(gap, &mut scope);
        let mut what = format!("revision {} was made by nobody", gap.revision);
        for seen in evidence {
            what.push_str(&format!("; seen of it: {seen}"));
        }
        // The likeliest culprits: what failed for good and yet would explain it.
        let failed = self.history.operations().filter(|(id, operation)| {
            matches!(operation.end, End::Failed | End::Refused(_))
                && may_write(&operation.op)
                && self.times.floor(*id) < gap.revision
                && !evidence.is_empty()
                && evidence.iter().all(|seen| seen.may_be_of(&operation.op))
        });
        let failed: Vec<OpId> = failed.map(|(id, _)| id).take(3).collect();
        if !failed.is_empty() {
            what.push_str("; these are said not to have happened:");
        }
        Conflict { violation: Violation::new(self.history, Rule::Unexplained, &failed, &what), scope }
    }

    fn spend(&mut self, steps: u64) -> Result<(), Failure> {
        if self.budget < steps {
            let last = self.deepest.take().map(|(_, violation)| violation);
            let none = || Violation::new(self.history, Rule::Unexplained, &[], "the history is too long");
            return Err(Failure::Undecided(last.unwrap_or_else(none)));
        }
        self.budget -= steps;
        Ok(())
    }
}

/// Lets the author make the next revision; whether it has changed anything.
fn act(history: &History, kv: &mut Kv, author: Author) -> bool {
    match author {
        Author::Op(id) => predict::happen(kv, &history.get(id).op),
        Author::Expiry(lease) => kv.delete_attached(lease),
    }
}

/// The revisions up to `to` that somebody else may have made as well as the one that the witness names, whatever else that one
/// is needed for. `None` if it is open what one of them changed.
pub(super) fn doubts(
    history: &History,
    base: &Base,
    times: &Times,
    witness: &Witness,
    to: Revision,
) -> Option<BTreeSet<Revision>> {
    let gaps: Vec<Revision> = witness.gaps.filled.iter().copied().filter(|revision| *revision <= to).collect();
    let mut doubtful = BTreeSet::new();
    if gaps.is_empty() {
        return Some(doubtful);
    }
    let open: Vec<(OpId, &Operation)> = base.open(history).collect();
    let mut kv = witness.kv.clone();
    for revision in gaps.into_iter().rev() {
        let before = Revision(revision.0 - 1);
        kv.rewind(before);
        let evidence = witness.gaps.evidence.get(&revision).map_or(&[][..], Vec::as_slice);
        let known = open.iter().take_while(|(id, _)| times.floor(*id) < revision);
        let likely = known.filter(|(_, operation)| evidence.iter().all(|seen| seen.may_be_of(&operation.op)));
        let mut others: Vec<Author> = likely.map(|(id, _)| Author::Op(*id)).collect();
        others.extend(kv.leases_with_keys().map(Author::Expiry));
        others.retain(|other| Some(*other) != witness.author(revision));
        for other in others {
            let agrees = act(history, &mut kv, other) && evidence.iter().all(|seen| seen.agrees(kv.changes(revision)));
            let is_same = kv.changes(revision) == witness.kv.changes(revision);
            kv.rewind(before);
            if agrees {
                doubtful.insert(revision);
                if !is_same {
                    return None;
                }
            }
        }
    }
    Some(doubtful)
}

impl Scope {
    fn of(op: &Op) -> Self {
        let mut scope = Self::default();
        scope.include(op);
        scope
    }

    fn include(&mut self, op: &Op) {
        self.all |= matches!(op, Op::LeaseRevoke(_));
        if !self.all {
            ranges(op, &mut |range| {
                if !self.ranges.contains(range) {
                    self.ranges.push(range.clone());
                }
            });
        }
    }

    fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.ranges.extend(other.ranges);
    }

    fn touches(&self, range: &KeyRange) -> bool {
        self.ranges.iter().any(|mine| overlap(mine, range))
    }
}
