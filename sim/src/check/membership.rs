//! Who the members are: the records follow the log by etcd's rules, lists are linearizable, consensus changes one step at
//! a time and counts those only who count, and whoever was removed has no say any more. What a leader commits, a majority of
//! those who vote then has durably (`quorum`).
//!
//! The rules are written down here once more, apart from the store's: every member's published records must be what they
//! make of the log.

use std::collections::{BTreeMap, BTreeSet};

use quorate_api::etcdserverpb as pb;
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Configuration, Entry, Payload};
use quorate_core::format::codec;
use quorate_core::mutant::{self, Mutant};
use quorate_core::raft::{Raft, Role, Status};
use quorate_core::request::{Member, MemberChange};
use quorate_core::store::Members;
use quorate_core::{Incarnation, LogIndex, NodeId, Term};

use super::{Verdict, Violation};
use crate::heap::{Nanos, SECOND};
use crate::swarm::Churn;

/// What was said before a member was known to be gone may arrive so late.
const LATE: Nanos = 15 * SECOND;

type Records = BTreeMap<NodeId, Member>;

/// What a client was told about the members.
pub enum Told<'a> {
    /// All of them, in a list that is linearizable, or not.
    List(&'a [pb::Member], bool),
    /// All of them after a change that has worked.
    Changed(&'a [pb::Member]),
}

/// The membership as the log has it, and what was said about it.
#[derive(Debug, Default)]
pub struct Membership {
    /// The records after the entry at an index, ascending.
    versions: Vec<(LogIndex, Records)>,
    removed: BTreeSet<NodeId>,
    origins: BTreeSet<Origin>,
    /// Somebody may be refused by what they may not: the rules here know nothing of that.
    is_guarded: bool,
    next: LogIndex,
    /// The last committed configuration, and all later ones that were seen in a log.
    committed: Option<(LogIndex, Configuration)>,
    seen: BTreeMap<LogIndex, Vec<Configuration>>,
    /// How far the log of a life of a member's disk has ever been durable.
    durable: BTreeMap<(NodeId, Incarnation), LogIndex>,
    lives: BTreeMap<NodeId, Incarnation>,
    /// What leaders had committed: term, commit index, index of the latest configuration.
    led: BTreeMap<NodeId, (Term, LogIndex, LogIndex)>,
    /// When a member first knew of another that it is gone.
    parted: BTreeMap<(NodeId, NodeId), Nanos>,
    /// How much was committed when the promotion of a learner was first asked for.
    promotions: BTreeMap<NodeId, LogIndex>,
    /// The version that whoever asks now has to see, or a later one.
    floor: usize,
    strict: bool,
    /// Changes of the voters that were committed.
    pub joint_changes: u64,
    /// Learners that became voters by a client's wish.
    pub promoted: u64,
}

impl Membership {
    /// Nobody is recorded.
    #[must_use]
    pub fn new(churn: Option<Churn>) -> Self {
        let strict = churn.is_none_or(|churn| churn.strict);
        Self { versions: vec![(LogIndex(0), Records::new())], next: LogIndex(1), strict, ..Self::default() }
    }

    /// The records after the last entry that anyone has.
    #[must_use]
    pub fn latest(&self) -> &Records {
        &self.versions.last().expect("there is always one").1
    }

    /// Whether the founders are recorded.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.versions.len() > 1
    }

    /// Whether this was a member and is none any more.
    #[must_use]
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// The configurations that may be in force somewhere, now or later.
    pub fn configs(&self) -> impl Iterator<Item = &Configuration> {
        self.committed.iter().map(|(_, config)| config).chain(self.seen.values().flatten())
    }

    /// Entries that a member hands to its store.
    ///
    /// # Errors
    /// A configuration that must not follow the one before, or that was not committed by those it names.
    pub fn committed(&mut self, entries: &[Entry]) -> Verdict {
        for entry in entries {
            if entry.index != self.next {
                continue;
            }
            self.next = entry.index.next();
            match &entry.payload {
                Payload::Config(config) => self.configured(entry.index, config)?,
                Payload::Command(command) => {
                    let envelope: Envelope = codec::decode(command.0.clone()).expect("the store can read it, too");
                    self.apply(entry.index, envelope)?;
                }
                Payload::Empty => {}
            }
        }
        Ok(())
    }

    fn configured(&mut self, index: LogIndex, config: &Configuration) -> Verdict {
        let wrong = |text: String| Err(Violation::new("membership", format!("index {index}: {config} {text}")));
        if let Some((before, last)) = &self.committed
            && let Some(text) = misstep(last, config)
        {
            return wrong(format!("follows {last} of index {before}: {text}"));
        }
        for voters in [&config.voters, &config.outgoing].into_iter().filter(|voters| !voters.is_empty()) {
            let holds = voters.iter().filter(|(id, life)| self.durable_at(**id, **life) >= index).count();
            if holds <= voters.len() / 2 {
                return wrong(format!("is committed, and only {holds} of {} voters have it durably", voters.len()));
            }
        }
        self.joint_changes += u64::from(!config.outgoing.is_empty());
        self.seen = self.seen.split_off(&index.next());
        self.committed = Some((index, config.clone()));
        Ok(())
    }

    fn durable_at(&self, id: NodeId, life: Incarnation) -> LogIndex {
        self.durable.get(&(id, life)).copied().unwrap_or_default()
    }

    fn apply(&mut self, index: LogIndex, envelope: Envelope) -> Verdict {
        let Envelope { origin, command, .. } = envelope;
        if matches!(command, Command::Auth(_)) {
            self.is_guarded = true;
        }
        if !matches!(command, Command::Members(_) | Command::Publish(_)) || !self.origins.insert(origin) {
            return Ok(());
        }
        let mut records = self.latest().clone();
        match command {
            Command::Members(change) => {
                if let MemberChange::Promote { id, .. } = &change
                    && records.get(id).is_some_and(|member| member.is_learner)
                {
                    self.check_ready(*id)?;
                }
                if let Some(gone) = self.change(&mut records, change) {
                    self.removed.extend(gone);
                }
            }
            Command::Publish(Member { id, name, client_urls, .. }) => {
                if let Some(member) = records.get_mut(&id) {
                    (member.name, member.client_urls) = (name, client_urls);
                }
            }
            _ => {}
        }
        if records != *self.latest() {
            self.versions.push((index, records));
        }
        Ok(())
    }

    /// Changes `records`, unless etcd would not; gives whom it removes.
    fn change(&self, records: &mut Records, change: MemberChange) -> Option<Option<NodeId>> {
        let voters: Vec<&Member> = records.values().filter(|member| !member.is_learner).collect();
        let started = voters.iter().filter(|member| !member.name.is_empty()).count();
        // (etcd: IsReadyToAddVotingMember and its like: after the change, those who have started are a quorum.)
        let quorum_of = |count: usize| count / 2 + 1;
        let is_taken = |records: &Records, id: NodeId, urls: &[String]| {
            records.values().any(|other| other.id != id && other.peer_urls.iter().any(|url| urls.contains(url)))
        };
        match change {
            MemberChange::Found(founders) => {
                for founder in founders {
                    if !self.removed.contains(&founder.id) {
                        records.entry(founder.id).or_insert(founder);
                    }
                }
            }
            MemberChange::Add { member, learners_max, .. } => {
                let is_second = voters.len() == 1 && started == 1;
                if self.strict && !member.is_learner && !is_second && started < quorum_of(voters.len() + 1) {
                    return None;
                }
                let learners = records.len() - voters.len();
                let is_known = self.removed.contains(&member.id) || records.contains_key(&member.id);
                let are_enough = member.is_learner && learners >= learners_max as usize;
                if is_known || is_taken(records, member.id, &member.peer_urls) || are_enough {
                    return None;
                }
                records.insert(member.id, member);
            }
            MemberChange::Remove { id, .. } => {
                let member = records.get(&id)?;
                if !member.is_learner {
                    let left = started - usize::from(!member.name.is_empty());
                    if voters.len() == 1 || (self.strict && left < quorum_of(voters.len() - 1)) {
                        return None;
                    }
                }
                records.remove(&id);
                return Some(Some(id));
            }
            MemberChange::Update { id, peer_urls } => {
                if is_taken(records, id, &peer_urls) {
                    return None;
                }
                records.get_mut(&id)?.peer_urls = peer_urls;
            }
            MemberChange::Promote { id, .. } => {
                // The one that is promoted counts as started.
                if self.strict && started + 1 < quorum_of(voters.len() + 1) {
                    return None;
                }
                records.get_mut(&id).filter(|member| member.is_learner)?.is_learner = false;
            }
        }
        Some(None)
    }

    /// A client asks for the promotion of `id`, when every voter has committed at least `commit`.
    pub fn promotion_asked(&mut self, id: NodeId, commit: LogIndex) {
        let first = self.promotions.entry(id).or_insert(commit);
        *first = commit.min(*first);
    }

    /// (etcd: a learner is ready with nine tenths of what the leader has)
    fn check_ready(&mut self, id: NodeId) -> Verdict {
        let wanted = self.promotions.remove(&id).unwrap_or_default();
        let held = self.lives.get(&id).map_or(LogIndex(0), |life| self.durable_at(id, *life));
        self.promoted += 1;
        if held.0 * 10 >= wanted.0 * 9 {
            return Ok(());
        }
        let text = format!("learner {id} was promoted with {held} in its log, when everyone had committed {wanted}");
        Err(Violation::new("membership", text))
    }

    /// A member has taken its turn.
    ///
    /// # Errors
    /// It follows a configuration that is not in its log; or it leads, and has committed what too few have.
    pub fn turned(&mut self, raft: &Raft) -> Verdict {
        let (id, life, status) = (raft.identity().member, raft.identity().incarnation, raft.status());
        let durable = self.durable.entry((id, life)).or_default();
        *durable = raft.durable().max(*durable);
        self.lives.insert(id, life);
        let (stands, config) = (raft.config_index(), &status.config);
        let logged = raft.entry(stands).map(|entry| &entry.payload);
        if stands > raft.start() && !matches!(logged, Some(Payload::Config(logged)) if logged == config) {
            let text = format!("{id} follows {config} of index {stands}, which is not in its log");
            return Err(Violation::new("membership", text));
        }
        if status.role != Role::Leader {
            return Ok(());
        }
        let now = (status.term, status.commit, raft.config_index());
        let before = self.led.insert(id, now);
        let is_own = raft.entry(status.commit).is_some_and(|entry| entry.term == status.term);
        // If the configuration has just changed, either may have decided.
        let Some((term, commit, config_index)) = before else { return Ok(()) };
        if (term, config_index) != (now.0, now.2) || commit == now.1 || !is_own {
            return Ok(());
        }
        let config = &status.config;
        for voters in [&config.voters, &config.outgoing].into_iter().filter(|voters| !voters.is_empty()) {
            let holds = voters.iter().filter(|(id, life)| self.durable_at(**id, **life) >= status.commit).count();
            if holds <= voters.len() / 2 && !mutant::is_on(Mutant::O07) {
                let text = format!("{id} committed {} with {holds} copies, in term {} of {config}", now.1, now.0);
                return Err(Violation::new("quorum", text));
            }
        }
        Ok(())
    }

    /// A configuration stands in somebody's log.
    pub fn configured_somewhere(&mut self, index: LogIndex, config: &Configuration) {
        if self.committed.as_ref().is_none_or(|(committed, _)| index > *committed) {
            let known = self.seen.entry(index).or_default();
            if !known.contains(config) {
                known.push(config.clone());
            }
        }
    }

    /// A member said this of itself.
    ///
    /// # Errors
    /// It stands for election, and may not: it only learns; or it was removed long ago, as most of those whom it asks know.
    pub fn campaigned(&mut self, now: Nanos, id: NodeId, status: &Status) -> Verdict {
        if status.role != Role::Candidate && status.role != Role::Leader {
            return Ok(());
        }
        let config = &status.config;
        let is_voter = config.voters.contains_key(&id) || config.outgoing.contains_key(&id);
        if config.learners.contains_key(&id) && !is_voter && !mutant::is_on(Mutant::O09) {
            let text = format!("{id} is {:?} in term {}, and is a learner in {config}", status.role, status.term);
            return Err(Violation::new("membership", text));
        }
        if !self.removed.contains(&id) || status.role == Role::Leader {
            return Ok(());
        }
        let listens = |other: &NodeId| self.parted.get(&(*other, id)).is_none_or(|since| now < since + LATE);
        let heard = config.voters.keys().filter(|other| **other == id || listens(other)).count();
        if heard > config.voters.len() / 2 {
            return Ok(());
        }
        let text = format!("{id}, long removed, began term {}: {heard} of {config} may listen to it", status.term);
        Err(Violation::new("membership", text))
    }

    /// `id` hears `gone` no more.
    ///
    /// # Errors
    /// `gone` was never removed.
    pub fn parted(&mut self, now: Nanos, id: NodeId, gone: NodeId) -> Verdict {
        self.parted.entry((id, gone)).or_insert(now);
        self.check_gone(gone, "was forgotten by others")
    }

    /// `id` was told that it is a member no more.
    ///
    /// # Errors
    /// It is one.
    pub fn check_gone(&self, id: NodeId, what: &str) -> Verdict {
        match self.removed.contains(&id) {
            true => Ok(()),
            false => Err(Violation::new("membership", format!("{id} {what} and was never removed"))),
        }
    }

    /// A member's disk is lost.
    pub fn forgot(&mut self, id: NodeId) {
        self.parted.retain(|(who, _), _| *who != id);
        self.lives.remove(&id);
        self.promotions.insert(id, LogIndex(0));
    }

    /// What a member has published after `applied`.
    ///
    /// # Errors
    /// It is not what the log says.
    pub fn published(&self, machine: usize, applied: LogIndex, members: &Members) -> Verdict {
        let (index, expected) =
            self.versions.iter().rev().find(|(index, _)| *index <= applied).expect("version 0 is at index 0");
        if self.is_guarded || members.iter().eq(expected.values()) || mutant::is_on(Mutant::O08) {
            return Ok(());
        }
        let published: Vec<_> = members.iter().collect();
        let text =
            format!("the member on machine {machine} has {published:?} at {applied}, {expected:?} since {index}");
        Err(Violation::new("membership", text))
    }

    /// What whoever asks now has to see; for [`Membership::told`].
    #[must_use]
    pub fn floor(&self) -> usize {
        self.floor
    }

    /// A client was told something that it asked for when [`Membership::floor`] was `floor`.
    ///
    /// # Errors
    /// It never was so, or no more when the client asked.
    pub fn told(&mut self, told: &Told<'_>, floor: usize) -> Verdict {
        let (list, floor) = match told {
            Told::List(list, true) | Told::Changed(list) => (list, floor),
            Told::List(list, false) => (list, 0),
        };
        let is_it = |records: &Records| records.len() == list.len() && records.values().zip(*list).all(is_same);
        let found = (floor..self.versions.len()).find(|version| is_it(&self.versions[*version].1));
        match (found, told) {
            _ if self.is_guarded => Ok(()),
            (Some(_), Told::List(_, false)) => Ok(()),
            (Some(version), _) => {
                self.floor = self.floor.max(version);
                Ok(())
            }
            (None, _) => {
                let text = format!(
                    "a client was told {list:?}, which the members were not since version {floor} of index {}",
                    self.versions[floor].0
                );
                Err(Violation::new("membership", text))
            }
        }
    }

    /// Whether the records were such at any time since [`Membership::floor`] was `floor`.
    pub fn ever(&self, floor: usize, so: impl Fn(&Records) -> bool) -> bool {
        self.is_guarded || self.versions[floor..].iter().any(|(_, records)| so(records))
    }
}

fn is_same((ours, theirs): (&Member, &pb::Member)) -> bool {
    (ours.id.0, &ours.name, ours.is_learner) == (theirs.id, &theirs.name, theirs.is_learner)
        && (&ours.peer_urls, &ours.client_urls) == (&theirs.peer_ur_ls, &theirs.client_ur_ls)
}

/// What is wrong with `next` as the configuration after `last`. (Raft §6)
fn misstep(last: &Configuration, next: &Configuration) -> Option<&'static str> {
    if !last.outgoing.is_empty() {
        let left = Configuration { outgoing: BTreeMap::new(), ..last.clone() };
        return (*next != left).then_some("a joint configuration is left, and nothing else");
    }
    let renamed = |before: &BTreeMap<NodeId, Incarnation>, after: &BTreeMap<NodeId, Incarnation>| {
        after.iter().filter(|(id, life)| before.get(id).is_some_and(|old| old != *life)).count()
    };
    if next.outgoing.is_empty() {
        if !next.voters.keys().eq(last.voters.keys()) && !mutant::is_on(Mutant::O10) {
            return Some("voters change by a joint configuration");
        }
        let lives = renamed(&last.voters, &next.voters);
        return (lives > 1).then_some("one member is readmitted at a time");
    }
    if next.outgoing != last.voters {
        return Some("a joint configuration has the voters before it");
    }
    let is_odd = |(id, life): (&NodeId, &Incarnation)| {
        let known = last.voters.get(id).or_else(|| last.learners.get(id));
        known != Some(life) || life.0 == 0
    };
    next.voters.iter().any(is_odd).then_some("whoever is to vote was a learner before, with this life")
}

#[cfg(test)]
mod tests {
    use quorate_core::entry::Standing;

    use super::*;

    fn lives(ids: &[u64]) -> BTreeMap<NodeId, Incarnation> {
        ids.iter().map(|id| (NodeId(*id), Incarnation(*id))).collect()
    }

    fn config(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> Configuration {
        let (voters, outgoing, learners) = (lives(voters), lives(outgoing), lives(learners));
        Configuration { voters, outgoing, learners }
    }

    #[test]
    fn a_configuration_changes_step_by_step() {
        let learns = config(&[1, 2, 3], &[], &[4]);
        let joint = config(&[1, 2, 4], &[1, 2, 3], &[]);
        let left = config(&[1, 2, 4], &[], &[]);
        let fine = [(config(&[1, 2, 3], &[], &[]), learns.clone()), (learns.clone(), joint.clone())];
        for (last, next) in fine.into_iter().chain([(joint.clone(), left.clone())]) {
            assert_eq!(misstep(&last, &next), None, "{last} {next}");
        }
        let wrong = [
            (learns.clone(), left.clone(), "voters change by"),
            (config(&[1, 2, 3], &[], &[]), joint.clone(), "whoever is to vote"),
            (joint.clone(), config(&[1, 4], &[1, 2, 4], &[]), "a joint configuration is left"),
            (learns, config(&[1, 2, 4], &[1, 2], &[]), "a joint configuration has"),
        ];
        for (last, next, text) in wrong {
            assert!(misstep(&last, &next).is_some_and(|found| found.starts_with(text)), "{last} {next}");
        }
        let mut renamed = left.clone();
        renamed.voters.insert(NodeId(2), Incarnation(22));
        assert_eq!(misstep(&left, &renamed), None);
        renamed.voters.insert(NodeId(1), Incarnation(11));
        assert!(misstep(&left, &renamed).is_some());
    }

    #[test]
    fn a_configuration_is_committed_by_those_it_names() {
        let mut membership = Membership::new(None);
        for (id, index) in [(1, 5), (2, 5), (3, 4)] {
            membership.durable.insert((NodeId(id), Incarnation(id)), LogIndex(index));
        }
        let entry = |config| Entry { term: Term(1), index: LogIndex(5), payload: Payload::Config(config) };
        let mut committed = |config| {
            membership.next = LogIndex(5);
            membership.committed = None;
            membership.committed(&[entry(config)])
        };
        committed(config(&[1, 2, 3], &[], &[])).unwrap();
        committed(config(&[1, 2], &[1, 2, 3], &[])).unwrap();
        assert_eq!(committed(config(&[1, 3], &[1, 2, 3], &[])).unwrap_err().oracle, "membership");
        assert!(committed(config(&[1, 2, 3, 4, 5], &[1, 2], &[])).is_err());
    }

    #[test]
    fn a_member_records_what_the_log_says() {
        let mut membership = Membership::new(None);
        membership.published(0, LogIndex(9), &Members::default()).unwrap();
        let (id, name, peer_urls) = (NodeId(1), String::new(), vec![]);
        let member = Member { id, name, peer_urls, client_urls: vec![], is_learner: false };
        membership.versions.push((LogIndex(2), [(id, member)].into()));
        membership.published(0, LogIndex(1), &Members::default()).unwrap();
        assert!(membership.published(0, LogIndex(2), &Members::default()).is_err());
    }

    #[test]
    fn whoever_learns_does_not_stand_for_election() {
        let status = |id, role| Status {
            term: Term(2),
            role,
            leader: None,
            standing: Standing::Trusted,
            commit: LogIndex(9),
            last: LogIndex(9),
            config: config(&[1, 2, 3], &[], &[id]),
        };
        let mut membership = Membership::new(None);
        membership.campaigned(0, NodeId(4), &status(4, Role::Follower)).unwrap();
        membership.campaigned(0, NodeId(3), &status(4, Role::Candidate)).unwrap();
        assert!(membership.campaigned(0, NodeId(4), &status(4, Role::Candidate)).is_err());
    }

    #[test]
    fn a_list_is_not_older_than_what_was_known_when_it_was_asked_for() {
        let mut membership = Membership::new(None);
        let record = |name: &str| {
            let (id, name, peer_urls) = (NodeId(1), name.to_owned(), vec!["http://m0:1".to_owned()]);
            Member { id, name, peer_urls, client_urls: vec![], is_learner: false }
        };
        membership.versions.push((LogIndex(2), [(NodeId(1), record(""))].into()));
        membership.versions.push((LogIndex(3), [(NodeId(1), record("m0"))].into()));
        let list = |name: &str| {
            let peer_ur_ls = vec!["http://m0:1".to_owned()];
            vec![pb::Member { id: 1, name: name.into(), peer_ur_ls, ..pb::Member::default() }]
        };
        let (old, new) = (list(""), list("m0"));
        membership.told(&Told::List(&old, true), 0).unwrap();
        membership.told(&Told::List(&new, true), 0).unwrap();
        let floor = membership.floor();
        assert!(membership.told(&Told::List(&old, true), floor).is_err());
        membership.told(&Told::List(&old, false), floor).unwrap();
        assert!(membership.told(&Told::List(&list("x"), false), floor).is_err());
    }
}
