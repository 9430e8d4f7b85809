//! The membership changes: administrators ask for it, machines are set up for new members and given up by removed ones.
//!
//! An administrator is a careful one. It removes nobody, and no disk is lost or rots, if the voters that remain could then
//! be without a quorum that remembers, whatever of what was asked for takes effect ([`World::is_safe`]): all that goes
//! wrong is the cluster's fault. Of a life that an alarm has ended it knows nothing: whoever else is asked to go then, the
//! cluster has to wait with that until it is safe.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{Incarnation, LogIndex, NodeId};
use quorate_node::status::Status;
use quorate_node::wal;

use super::World;
use super::event::{Event, link};
use super::machine::Machine;
use super::nemesis::Death;
use super::script::outcome;
use crate::call::{Answer, CallError};
use crate::check::membership::Told;
use crate::check::{Verdict, Violation};
use crate::chronicle::Happened;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::member::{Actions, CallId, Process, founder_id, machine_of_url};
use crate::swarm::{Setup, Stream};
use crate::trace::Kind;
use crate::wire;
use crate::workload::members::{Admin, Pending, Task, encode};
use quorate_api::etcdserverpb as pb;

/// A removed member's process ends so long after it was told. (The server: `FAREWELL`)
const FAREWELL: Nanos = SECOND;
/// A member that can ask nobody who the others are is started again after this.
const ASK_AGAIN: Nanos = 200 * MILLI;

/// What a member knows of its cluster without its log.
pub(super) struct Instructions {
    /// It joins a cluster that runs.
    pub(super) joins: bool,
    /// Who is said to be in it.
    pub(super) voters: Vec<NodeId>,
    /// The sets of voters that decide, if anybody was asked.
    pub(super) in_force: Option<Vec<Vec<NodeId>>>,
}

pub(super) fn draw(setup: &Setup) -> Vec<Admin> {
    (0..setup.admins()).map(|n| Admin::new(setup.stream(Stream::Churn, n + 1), n % setup.members)).collect()
}

impl World {
    pub(super) fn begin_admins(&mut self) {
        for admin in 0..self.admins.len() {
            let at = self.setup.clients_from + self.admins[admin].think(2 * SECOND);
            self.heap.push(at, link::client(self.line_of_admin(admin), 2), Event::Administer { admin });
        }
        if self.setup.churn.is_some() {
            self.heap.push(SECOND, link::NEMESIS, Event::Dial);
        }
    }

    /// Members dial each other: whoever was removed is told so by those who know. (The server: `Directory::admit`)
    pub(super) fn dial(&mut self, now: Nanos) -> Verdict {
        for machine in self.members() {
            let Some(id) = self.machines[machine].id else { continue };
            let others = self.members().into_iter().filter(|other| *other != machine);
            let reached =
                others.filter(|other| self.network.open(machine, *other) && self.network.open(*other, machine));
            let awake = |machine: &usize| !self.machines[*machine].paused;
            let reached: Vec<usize> = reached.filter(|other| awake(other) && awake(&machine)).collect();
            let Some(process) = &self.machines[machine].process else { continue };
            let is_told = reached.into_iter().any(|other| {
                let Machine { id: Some(other), process: Some(listener), .. } = &self.machines[other] else {
                    return false;
                };
                process.dials(*other) && listener.refuses(id)
            });
            if is_told && !self.machines[machine].removed {
                self.told_removed(now, machine, id)?;
            }
        }
        self.heap.push(now + SECOND, link::NEMESIS, Event::Dial);
        Ok(())
    }

    fn line_of_admin(&self, admin: usize) -> usize {
        self.operator(self.operators.len()) + admin
    }

    /// The administrator on this line.
    pub(super) fn admin_of(&self, line: usize) -> Option<usize> {
        line.checked_sub(self.operator(self.operators.len())).filter(|admin| *admin < self.admins.len())
    }

    /// An administrator does what comes next.
    pub(super) fn administer(&mut self, now: Nanos, number: usize) {
        if self.finale.has_begun() {
            return;
        }
        let members = self.members();
        let free: Vec<usize> =
            (0..self.machines.len()).filter(|machine| self.machines[*machine].id.is_none()).collect();
        let known = self.admins[number].known.iter().map(|member| NodeId(member.id));
        let removable: Vec<NodeId> = known.filter(|id| self.may_remove(*id)).collect();
        let leads = self.leader().and_then(|leader| self.machines[leader].process.as_ref());
        let alarmed =
            leads.is_some_and(|process| process.published().view.alarms().any(|alarm| alarm.ended().is_some()));
        let admin = &mut self.admins[number];
        if admin.chance(1, 10) {
            admin.move_on(&members);
        }
        let task = admin.next(&free, &removable, alarmed);
        if let Task::Promote(id) = task {
            let commit = self.committed_by_all();
            self.membership.promotion_asked(id, commit);
        }
        let (rpc, bytes) = encode(&task);
        let line = self.line_of_admin(number);
        let admin = &mut self.admins[number];
        let text = if self.trace.logs() { format!("asks {} {task:?}", admin.caller.member) } else { String::new() };
        self.trace.event(now, Kind::Client, line, rpc as u64, &bytes, || text);
        let asked = format!("{task:?}");
        let floor = self.membership.floor();
        let call = CallId { client: line, call: admin.caller.sent(|call| Pending { call, task, floor }) };
        let (member, patience) = (admin.caller.member, admin.patience());
        self.tell(now, || Happened::Asked { client: line, call: call.call, member, text: asked });
        self.send_call(now, member, call, (rpc, bytes), None, patience);
    }

    /// What every voter that runs has committed.
    fn committed_by_all(&self) -> LogIndex {
        let running = self.machines.iter().filter_map(|machine| machine.id.zip(machine.process.as_ref()));
        let voters = running.filter(|(id, process)| process.status().config.voters.contains_key(id));
        voters.map(|(_, process)| process.status().commit).min().unwrap_or_default()
    }

    /// An administrator's call was answered, or it waits no longer (`None`).
    pub(super) fn administered(&mut self, now: Nanos, number: usize, call: u64, answer: Option<Answer>) -> Verdict {
        let Some(Pending { task, floor, .. }) = self.admins[number].caller.ended(call) else { return Ok(()) };
        let line = self.line_of_admin(number);
        self.trace.event(now, Kind::Client, line, call, &[], || format!("{task:?} came to {answer:?}"));
        let text = answer.as_ref().map_or("gives up".into(), outcome);
        self.tell(now, || Happened::Ended { client: line, call, text });
        match answer {
            Some(Ok(bytes)) => self.learned(now, number, &task, floor, bytes)?,
            Some(Err(CallError::Status(status))) => self.refused(number, &task, floor, &status)?,
            Some(Err(CallError::Refused)) => {}
            Some(Err(CallError::Broken)) | None => self.admins[number].is_doubtful |= matches!(task, Task::Remove(_)),
        }
        let members = self.members();
        let pause = self.setup.churn.map_or(SECOND, |churn| churn.pause);
        let admin = &mut self.admins[number];
        if admin.chance(1, 3) {
            admin.move_on(&members);
        }
        let at = now + admin.think(pause);
        self.heap.push(at, link::client(line, 2), Event::Administer { admin: number });
        Ok(())
    }

    fn learned(&mut self, now: Nanos, number: usize, task: &Task, floor: usize, bytes: bytes::Bytes) -> Verdict {
        let wrong = |list: &[pb::Member]| {
            Err(Violation::new("membership", format!("a client asked {task:?} and was told {list:?}")))
        };
        let member = |list: &[pb::Member], id: NodeId| list.iter().find(|member| member.id == id.0).cloned();
        let list = match task {
            Task::List(linearizable) => {
                let list = wire::message::<pb::MemberListResponse>(bytes).members;
                self.membership.told(&Told::List(&list, *linearizable), floor)?;
                self.totals.member_lists += 1;
                if !linearizable {
                    return Ok(());
                }
                list
            }
            Task::Add { learner, .. } => {
                let reply: pb::MemberAddResponse = wire::message(bytes);
                let added = reply.member.as_ref().and_then(|added| member(&reply.members, NodeId(added.id)));
                if !added.is_some_and(|added| added.is_learner == *learner && added.name.is_empty()) {
                    return wrong(&reply.members);
                }
                self.totals.members_added += 1;
                reply.members
            }
            Task::Promote(id) => {
                let list = wire::message::<pb::MemberPromoteResponse>(bytes).members;
                if member(&list, *id).is_none_or(|member| member.is_learner) {
                    return wrong(&list);
                }
                self.totals.learners_promoted += 1;
                list
            }
            Task::Update { id, url } => {
                let list = wire::message::<pb::MemberUpdateResponse>(bytes).members;
                if member(&list, *id).is_none_or(|member| member.peer_ur_ls != [url.clone()]) {
                    return wrong(&list);
                }
                self.totals.members_updated += 1;
                list
            }
            Task::Remove(id) => {
                let list = wire::message::<pb::MemberRemoveResponse>(bytes).members;
                if member(&list, *id).is_some() {
                    return wrong(&list);
                }
                self.totals.members_removed += 1;
                // Consensus has let go of it: its machine may be switched off. Or it finds out by itself.
                if self.admins[number].chance(1, 2)
                    && let Some(machine) = self.machine_of(*id)
                {
                    self.retire(now, machine, *id);
                }
                list
            }
        };
        if !matches!(task, Task::List(_)) {
            self.membership.told(&Told::Changed(&list), floor)?;
        }
        let delay = self.admins[number].delay();
        self.set_up(now, &list, delay);
        let admin = &mut self.admins[number];
        if admin.removing.is_some_and(|id| list.iter().all(|member| member.id != id.0)) {
            admin.removing = None;
        }
        admin.known = list;
        Ok(())
    }

    /// Whether a refusal can be true; what follows from it.
    fn refused(&mut self, number: usize, task: &Task, floor: usize, status: &Status) -> Verdict {
        let text = status.message.as_str();
        let is_gone = text == "etcdserver: member not found";
        let is_definite = is_gone
            || [
                "etcdserver: Peer URLs already exists",
                "etcdserver: member ID already exist",
                "etcdserver: can only promote a learner member",
                "etcdserver: can only promote a learner member which is in sync with leader",
                "etcdserver: too many learner members in cluster",
                "etcdserver: re-configuration failed due to not enough started members",
                "etcdserver: unhealthy cluster",
                "etcdserver: rpc not supported for learner",
            ]
            .contains(&text);
        let (membership, removed) = (&self.membership, |id: NodeId| self.membership.is_removed(id));
        let lacks = |id: NodeId| membership.ever(floor, |records| !records.contains_key(&id));
        let is_true = match task {
            Task::Remove(id) | Task::Promote(id) | Task::Update { id, .. } if is_gone => lacks(*id) || removed(*id),
            Task::Promote(id) if text == "etcdserver: can only promote a learner member" => {
                membership.ever(floor, |records| records.get(id).is_some_and(|member| !member.is_learner))
            }
            Task::Promote(id) if text.ends_with("in sync with leader") => {
                membership.ever(floor, |records| records.get(id).is_some_and(|member| member.is_learner))
            }
            Task::Add { learner: false, .. } if text.contains("too many learner") => false,
            _ => true,
        };
        if !is_true {
            let text = format!("{task:?} was refused with {text:?}, and was not so since version {floor}");
            return Err(Violation::new("membership", text));
        }
        self.totals.member_changes_refused += u64::from(is_definite);
        let admin = &mut self.admins[number];
        if matches!(task, Task::Remove(_)) {
            admin.is_doubtful |= !is_definite;
            if is_gone || !admin.is_doubtful {
                admin.removing = None;
            }
        }
        Ok(())
    }

    /// Sets up machines for members that run nowhere yet.
    fn set_up(&mut self, now: Nanos, list: &[pb::Member], delay: Nanos) {
        for member in list {
            let id = NodeId(member.id);
            let machine = member.peer_ur_ls.first().and_then(|url| machine_of_url(url));
            let Some(machine) = machine.filter(|machine| *machine < self.machines.len()) else { continue };
            let is_free = self.machines[machine].id.is_none() && self.machine_of(id).is_none();
            let is_founder = (0..self.setup.members).any(|founder| founder_id(founder) == id);
            if !is_free || is_founder || self.membership.is_removed(id) {
                continue;
            }
            // A member that joins has the newest build there is: an older one would have to stop.
            let newest = self.machines.iter().map(|machine| machine.level).max().unwrap_or_default();
            let machine_state = &mut self.machines[machine];
            machine_state.replace_disk();
            (machine_state.level, machine_state.level_said) = (newest, newest);
            (machine_state.id, machine_state.joins) = (Some(id), true);
            machine_state.epoch += 1;
            machine_state.heard_since = machine_state.epoch;
            let epoch = machine_state.epoch;
            self.totals.members_joined += 1;
            self.trace.event(now, Kind::Fault, machine, id.0, &[], || format!("is set up for {id}"));
            self.heap.push(now + delay, link::NEMESIS, Event::Start { member: machine, epoch });
        }
    }

    /// The machine is given up: a removed member's process ends for good.
    pub(super) fn retire(&mut self, now: Nanos, machine: usize, id: NodeId) {
        if self.machines[machine].id != Some(id) {
            return;
        }
        self.kill(now, machine, 0, Death::Process);
        self.totals.members_retired += 1;
        self.trace.event(now, Kind::Fault, machine, id.0, &[], || format!("{id} is gone"));
        let machine = &mut self.machines[machine];
        machine.replace_disk();
        machine.id = None;
        machine.epoch += 1;
    }

    /// What a process said about members that are gone.
    pub(super) fn part(&mut self, now: Nanos, machine: usize, actions: &mut Actions) -> Verdict {
        let id = self.machines[machine].id.expect("a process is somebody's");
        for gone in actions.parted.drain(..) {
            self.membership.parted(now, id, gone)?;
        }
        if std::mem::take(&mut actions.removed) {
            self.told_removed(now, machine, id)?;
        }
        Ok(())
    }

    fn told_removed(&mut self, now: Nanos, machine: usize, id: NodeId) -> Verdict {
        self.trace.event(now, Kind::Member, machine, id.0, &[], || format!("{id} is told that it is removed"));
        self.membership.check_gone(id, "was told that it is removed")?;
        self.machines[machine].removed = true;
        self.heap.push(now + FAREWELL, link::NEMESIS, Event::Retire { member: machine, id });
        Ok(())
    }

    /// How a member is started. `None`: not now.
    pub(super) fn instruct(&mut self, now: Nanos, machine: usize, id: NodeId) -> Option<Instructions> {
        let founders: Vec<NodeId> = (0..self.setup.members).map(founder_id).collect();
        if self.setup.churn.is_none() {
            // Whoever was asked would name them.
            let in_force = Some(vec![founders.clone()]);
            return Some(Instructions { joins: false, voters: founders, in_force });
        }
        if self.machines[machine].removed {
            self.retire(now, machine, id);
            return None;
        }
        // A fault of the disk is for the start to find.
        let has_log = wal::exists(&mut self.machines[machine].disk).unwrap_or(true);
        // Whoever's disk was replaced does not claim that the cluster were new. Of a log that went otherwise nobody knows.
        let Machine { joins, blank, .. } = self.machines[machine];
        let joins = joins || (!has_log && blank && self.membership.is_founded());
        match (joins, has_log) {
            (false, _) => Some(Instructions { joins: false, voters: founders, in_force: None }),
            (true, true) => Some(Instructions { joins: true, voters: Vec::new(), in_force: None }),
            (true, false) => {
                let told = self.ask_members(machine, id, false);
                if told.is_none() {
                    self.start_later(now, machine);
                }
                told
            }
        }
    }

    /// The other members that can be asked something.
    pub(super) fn reached(&self, machine: usize) -> impl Iterator<Item = &Process> {
        let others = (0..self.machines.len()).map(move |n| (machine + n) % self.machines.len()).skip(1);
        let reached =
            others.filter(move |other| self.network.open(machine, *other) && self.network.open(*other, machine));
        let awake = reached.map(|other| &self.machines[other]).filter(|other| !other.paused);
        awake.filter_map(|other| other.process.as_ref())
    }

    /// Asks the others who votes, and who decides, until one knows the member; and, if `decides`, until one knows that, too.
    /// (The server: `peer::join`)
    fn ask_members(&self, machine: usize, id: NodeId, decides: bool) -> Option<Instructions> {
        self.reached(machine).find_map(|process| {
            let members = process.published().view.members();
            members.get(id)?;
            let voters = members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
            let in_force = Some(process.voucher().in_force()).filter(|sets| !sets.is_empty());
            (in_force.is_some() || !decides).then_some(Instructions { joins: true, voters, in_force })
        })
    }

    /// What the others say to a member whose log or applied state cannot be used. (The server: `launch::consult`)
    pub(super) fn consult(&self, machine: usize, id: NodeId) -> Option<Instructions> {
        self.ask_members(machine, id, true)
    }

    pub(super) fn start_later(&mut self, now: Nanos, machine: usize) {
        let id = self.machines[machine].id.expect("somebody is to start");
        if self.membership.is_removed(id) {
            // The others know it no more: nobody waits for it.
            self.retire(now, machine, id);
            return;
        }
        let epoch = self.machines[machine].epoch;
        self.heap.push(now + ASK_AGAIN, link::NEMESIS, Event::Start { member: machine, epoch });
    }

    pub(super) fn see_config(&mut self, machine: usize) {
        let Some(process) = &self.machines[machine].process else { return };
        let raft = process.replica().raft();
        let (index, config) = (raft.config_index(), &raft.status().config);
        let seen = &self.machines[machine].config;
        if self.setup.churn.is_some() && (seen.0 != index || seen.1 != *config) {
            self.membership.configured_somewhere(index, config);
            self.machines[machine].config = (index, config.clone());
        }
    }

    fn is_forgetful(&self, id: NodeId) -> bool {
        self.machine_of(id)
            .map(|machine| &self.machines[machine])
            .is_none_or(|it| !it.trusted || it.wrong.is_doubtful())
    }

    /// Whether the alarm is on that ends this life. What is asked for from now on comes behind it in the log, and so no
    /// configuration may be entered on its behalf that needs this life.
    fn is_ended(&self, id: NodeId, life: Incarnation) -> bool {
        let mut processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        processes.any(|process| process.published().view.ends((id, life)))
    }

    /// Whether the voters of every configuration that may be in force have a quorum that remembers, if `lost` forgets now
    /// and `gone` leaves, with all others that are to leave. Whom `gone` leaves behind may wait for a member to come back
    /// whose life was ended.
    fn is_safe(&self, lost: Option<NodeId>, gone: Option<NodeId>) -> bool {
        let leaving = self.leaving(gone);
        let wrong = self.machines.iter().filter(|machine| machine.wrong.is_doubtful()).filter_map(|machine| machine.id);
        let newcomers: BTreeSet<NodeId> = wrong.chain(lost).filter(|id| Some(*id) != gone).collect();
        let suffices = |voters: &BTreeMap<NodeId, Incarnation>| {
            let mut ids: Vec<NodeId> = voters.keys().copied().filter(|id| Some(*id) != gone).collect();
            // They may be about to get their votes.
            ids.extend(newcomers.iter().filter(|id| !voters.contains_key(id)));
            let forgetful = || ids.iter().filter(|id| Some(**id) == lost || self.is_forgetful(**id));
            // Of no other forgetful one is it certain that nobody counts on it.
            let is_ended = |id: &NodeId| voters.get(id).is_some_and(|life| self.is_ended(*id, *life));
            let waits = gone.is_some() && forgetful().all(is_ended);
            ids.len() > leaving && (waits || forgetful().count() <= (ids.len() - leaving - 1) / 2)
        };
        let sets = self.membership.configs().flat_map(|config| [&config.voters, &config.outgoing]);
        sets.filter(|voters| !voters.is_empty()).all(suffices)
    }

    /// How many are to be removed beside `gone`, as far as anyone has asked for that.
    pub(super) fn leaving(&self, gone: Option<NodeId>) -> usize {
        self.admins.iter().filter(|admin| admin.removing.is_some() && admin.removing != gone).count()
    }

    fn may_remove(&self, id: NodeId) -> bool {
        self.is_safe(None, Some(id))
    }

    /// Whether the others can do without what the member on this machine remembers.
    pub(super) fn may_lose(&self, machine: usize) -> bool {
        let Some(id) = self.machines[machine].id else { return false };
        self.membership.is_founded() && self.is_safe(Some(id), None)
    }

    /// Whether a member whose log is damaged is told of enough others to begin a new life, or that log may say so.
    pub(super) fn may_forget(&self, machine: usize) -> bool {
        let Some(id) = self.machines[machine].id else { return false };
        match self.machines[machine].joins {
            false => self.setup.members >= 3 || self.setup.churn.is_some(),
            true => self.membership.latest().len() >= 3 && self.membership.latest().contains_key(&id),
        }
    }

    /// Whether there is nothing to go by but who runs: the membership never changes, or not even the founders are recorded,
    /// since no leader lasted for long.
    fn has_no_records(&self) -> bool {
        self.setup.churn.is_none() || self.membership.latest().is_empty()
    }

    /// The members that must answer in the end.
    pub(super) fn probed(&self) -> Vec<usize> {
        if self.has_no_records() {
            return self.members();
        }
        let voters = self.membership.latest().values().filter(|member| !member.is_learner);
        voters.filter_map(|member| self.machine_of(member.id)).collect()
    }

    /// The members of the records. One that was removed while it was down, and knows nobody who is left, never finds out:
    /// a watcher would wait there for ever, as it would with any store.
    pub(super) fn recorded(&self) -> Vec<usize> {
        if self.has_no_records() {
            return self.members();
        }
        self.membership.latest().keys().filter_map(|id| self.machine_of(*id)).collect()
    }

    /// In the end: whoever was asked for is there.
    pub(super) fn tidy_up(&mut self, now: Nanos) {
        if self.setup.churn.is_some() {
            let member = |(id, record): (&NodeId, &quorate_core::request::Member)| pb::Member {
                id: id.0,
                peer_ur_ls: record.peer_urls.clone(),
                ..pb::Member::default()
            };
            let list: Vec<pb::Member> = self.membership.latest().iter().map(member).collect();
            self.set_up(now, &list, MILLI);
        }
    }

    /// Why the feature level is not yet what all members understand, if it is not.
    pub(super) fn unfinished_level(&self) -> Option<String> {
        let process = self.machines[self.leader()?].process.as_ref()?;
        let config = &process.replica().raft().status().config;
        // Whoever runs nowhere says nothing.
        let builds = config.members().map(|(id, _)| self.machine_of(id).map(|machine| self.machines[machine].level));
        let understood = builds.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        let level = process.published().view.feature_level();
        (level != understood).then(|| format!("the feature level is {level}, and all members understand {understood}"))
    }

    /// Where consensus is not yet what the records say, if anywhere.
    pub(super) fn unfinished_change(&self) -> Option<String> {
        self.setup.churn?;
        let leader = self.leader()?;
        let config = &self.machines[leader].process.as_ref()?.replica().raft().status().config;
        let records = self.membership.latest();
        let runs = |id: &NodeId| self.machine_of(*id).is_some();
        let voters = records.values().filter(|member| !member.is_learner && runs(&member.id)).map(|member| member.id);
        let is_reached = config.outgoing.is_empty()
            && voters.clone().all(|id| config.voters.contains_key(&id))
            && config.voters.keys().all(|id| records.get(id).is_some_and(|member| !member.is_learner));
        if !is_reached {
            return Some(format!("the leader has {config}, the records have {:?}", records.values()));
        }
        // Learners receive everything that was committed when their turn comes to be looked at.
        let commit = self.machines[leader].process.as_ref()?.status().commit;
        let behind = records.values().filter_map(|member| self.machine_of(member.id)).find(|machine| {
            let process = self.machines[*machine].process.as_ref();
            process.is_none_or(|process| process.published().applied.0 + 100 < commit.0)
        });
        if let Some(machine) = behind {
            return Some(format!("the member on machine {machine} is behind {commit}"));
        }
        // Whoever was removed has found out, if anybody is left to tell it.
        let zombie = self.members().into_iter().find(|machine| {
            let id = self.machines[*machine].id.expect("a member runs there");
            let process = self.machines[*machine].process.as_ref();
            let known =
                process.map(|process| process.replica().raft().status().config.voters.clone()).unwrap_or_default();
            self.membership.is_removed(id) && known.keys().any(|other| records.contains_key(other))
        });
        zombie.map(|machine| format!("the member on machine {machine} was removed and goes on"))
    }
}
