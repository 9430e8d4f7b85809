//! The end of a run: heal, demand progress, cut everyone's power, demand everything that was ever acknowledged.

use quorate_core::Revision;
use quorate_core::request::PutRequest;
use quorate_jepsen::history::{Op, OpId};
use quorate_jepsen::watch::Truth;

use super::World;
use super::event::{Event, link};
use super::machine::Machine;
use super::operators::Opening;
use super::script::outcome;
use super::succession::Succession;
use crate::call::Answer;
use crate::check::{self, Verdict, Violation};
use crate::chronicle::Happened;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::member::CallId;
use crate::script;
use crate::trace::Kind;
use crate::wire;
use crate::workload::client::{Subject, read_all};
use crate::workload::watcher::WatchClient;

/// How long after healing everything must work again.
const RECOVERY: Nanos = 30 * SECOND;
/// What clients ask for in a minute at least; where they could not because of faults, they do it afterwards.
const OPERATIONS: u64 = 5_000;

/// Where in the end the run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not there yet.
    #[default]
    Before,
    /// A majority is healed, and must make progress without the others: a write and a read on every one of it.
    Besieged { step: usize },
    /// Faults are over, and clients go on, until then or until they have asked for enough.
    Recovering { until: Nanos },
    /// Clients wait for their last answers.
    Settling,
    /// Nobody is asked who they are any more, and there is room again.
    Opening,
    /// A write and a read on every member, before the power cut and after it.
    Probing { blackout_over: bool, step: usize },
    /// Watchers catch up until then, and longer if they were told of changes since so many.
    Watching { until: Nanos, heard: usize },
    /// Nothing is left to do.
    Over,
}

/// The state of the end.
#[derive(Debug, Default)]
pub(super) struct Finale {
    phase: Phase,
    /// When the last fault was over.
    healed: Nanos,
    /// How many contenders had their last turn, and when that was noticed last.
    served: (usize, Nanos),
    deadline: Nanos,
    pending: Option<(u64, OpId, Op)>,
    opening: Opening,
    calls: u64,
    /// The members that have to answer, one after the other.
    targets: Vec<usize>,
    /// What the last read of everything saw.
    last: Option<Revision>,
    succession: Succession,
}

impl Finale {
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(super) fn has_begun(&self) -> bool {
        self.phase != Phase::Before
    }

    /// Whether clients of keys and leases still ask for something new.
    pub(super) fn clients_work(&self) -> bool {
        matches!(self.phase, Phase::Before | Phase::Besieged { .. } | Phase::Recovering { .. })
    }

    /// When the last fault was over.
    pub(super) fn healed(&self) -> Nanos {
        self.healed
    }

    /// So many contenders had their last turn; gives when that changed.
    pub(super) fn served(&mut self, now: Nanos, count: usize) -> Nanos {
        if count > self.served.0 {
            self.served = (count, now);
        }
        self.served.1
    }

    /// What the last read of everything saw.
    pub(super) fn last(&self) -> Option<Revision> {
        self.last
    }

    pub(super) fn next_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// What is under way has time until then.
    pub(super) fn allow(&mut self, until: Nanos) {
        self.deadline = until;
    }

    pub(super) fn opening(&mut self) -> &mut Opening {
        &mut self.opening
    }

    pub(super) fn succession(&mut self) -> &mut Succession {
        &mut self.succession
    }
}

impl World {
    pub(super) fn probe_client(&self) -> usize {
        self.clients.len() + self.watchers.len()
    }

    pub(super) fn recovery(&self) -> Nanos {
        RECOVERY + 20 * self.setup.knobs.election + 3 * self.catching_up()
    }

    /// How long it takes to send a member the whole log, or to apply it, where that goes entry by entry. (Two may need it, one
    /// after the other.)
    pub(super) fn catching_up(&self) -> Nanos {
        let (knobs, latencies) = (&self.setup.knobs, &self.setup.latencies);
        let few_sent = if knobs.append_bytes_max < 1_000 { knobs.inflight_messages_max.min(16) } else { 1_000 };
        let sending = (2 * latencies.sync + 4 * latencies.turn + 2 * MILLI) / few_sent;
        let applying = 2 * latencies.apply / (knobs.slices.batch_entries as u64).min(1_000);
        self.consensus.last_committed().0 * (sending + applying)
    }

    pub(super) fn advance_finale(&mut self, now: Nanos) -> Verdict {
        match self.finale.phase {
            Phase::Before => {
                self.trace.event(now, Kind::Fault, 0, 0, &[], || "healing".into());
                self.tell(now, || Happened::Fault { text: "ends all faults".into(), members: 0, until: now });
                let outcasts = self.take_outcasts();
                self.make_calm(now);
                if let Some((outcasts, left)) = outcasts {
                    self.finale.targets = left;
                    self.finale.deadline = now + self.recovery();
                    self.finale.phase = Phase::Besieged { step: 0 };
                    outcasts.into_iter().for_each(|(member, plight)| self.cast_out(now, member, plight));
                } else {
                    self.recover(now);
                }
            }
            Phase::Besieged { step } => match self.finale.targets.get(step / 2).copied() {
                Some(target) if now > self.finale.deadline => {
                    return Err(self.stuck(Some(target), "a majority was healed"));
                }
                Some(target) if self.finale.pending.is_none() => self.ask_probe(now, target, step),
                Some(_) => {}
                None => {
                    self.trace.event(now, Kind::Fault, 0, 0, &[], || "healing of those left out".into());
                    self.tell(now, || Happened::Fault { text: "heals the others".into(), members: 0, until: now });
                    self.make_calm(now);
                    self.recover(now);
                }
            },
            Phase::Recovering { until } => {
                let enough = OPERATIONS * self.setup.duration / (60 * SECOND);
                let is_enough = self.setup.script.is_none() && self.totals.operations >= enough;
                if now >= until || is_enough {
                    self.finale.phase = Phase::Settling;
                }
            }
            Phase::Settling => {
                let operators = self.operators.iter().all(|operator| operator.caller.pending.is_none());
                let is_idle = operators && self.admins.iter().all(|admin| admin.caller.pending.is_none());
                let is_idle = is_idle && self.clients.iter().all(|client| client.caller.pending.is_none());
                let is_idle = is_idle && self.control_is_over();
                if self.everybody_had_a_turn(now)? && is_idle {
                    self.finale.opening = Opening::new(&self.setup.regime, self.newest);
                    self.finale.phase = Phase::Opening;
                    self.finale.deadline = now + self.recovery();
                }
            }
            Phase::Opening if self.finale.opening.is_over() => {
                self.finale.targets = self.probed();
                self.finale.phase = Phase::Probing { blackout_over: false, step: 0 };
            }
            Phase::Opening if now > self.finale.deadline => {
                let text = format!("users or alarms are in the way until the end: {:?}", self.finale.opening);
                return Err(Violation::new("liveness", text));
            }
            Phase::Opening => self.open_up(now),
            Phase::Probing { blackout_over, step } => self.probe(now, blackout_over, step)?,
            Phase::Watching { until, heard } if now >= until => {
                let told = self.watchers.iter().map(WatchClient::changes).sum::<usize>() + self.cached_changes();
                let told = told + self.changes_outside();
                let is_late = told > heard || !self.every_cache_follows();
                if is_late && now < self.finale.deadline {
                    // Those who take little at a time need long for much.
                    self.finale.phase = Phase::Watching { until: now + 5 * SECOND, heard: told };
                } else {
                    if let Some(reference) = &self.reference {
                        reference.ended()?;
                    }
                    self.judge_idle(now)?;
                    self.finale.phase = Phase::Over;
                }
            }
            Phase::Watching { .. } => self.go_round(now),
            Phase::Over => {}
        }
        self.tidy_up(now);
        self.heap.push(now + 20 * MILLI, link::NEMESIS, Event::Finale);
        Ok(())
    }

    /// All faults are over.
    fn recover(&mut self, now: Nanos) {
        let until = match &self.setup.script {
            // Until it has been performed.
            Some(script) => script.iter().map(|deed| deed.at + MILLI).max().unwrap_or(now),
            None if self.clients.is_empty() || self.outside.is_some() => now,
            None => now + 60 * SECOND,
        };
        (self.finale.healed, self.finale.served) = (now, (0, now));
        self.finale.phase = Phase::Recovering { until };
    }

    /// A member does not answer in time, or something else is not done.
    fn stuck(&self, target: Option<usize>, since: &str) -> Violation {
        let unfinished = self
            .unfinished_change()
            .or_else(|| self.unfinished_fencing())
            .or_else(|| self.unfinished_level())
            .map_or(String::new(), |text| format!("\n  {text}"));
        let status = |machine: &Machine| {
            machine.process.as_ref().map_or("down".into(), |p| format!("{:?}", p.replica().raft().status()))
        };
        let members: Vec<String> = self.machines.iter().map(status).collect();
        let text = format!(
            "no progress on member {target:?} within {} ms after {since}:\n  {}{unfinished}",
            self.recovery() / MILLI,
            members.join("\n  ")
        );
        Violation::new("liveness", text)
    }

    fn probe(&mut self, now: Nanos, blackout_over: bool, step: usize) -> Verdict {
        let target = self.finale.targets.get(step / 2).copied();
        if now > self.finale.deadline {
            let since = if blackout_over { "the power cut of all members" } else { "healing" };
            return Err(self.stuck(target, since));
        }
        if self.finale.pending.is_some() {
            return Ok(());
        }
        let Some(target) = target else {
            // Who votes, who learns and who is gone is as the records say; all are used for what all understand.
            let unfinished = self.unfinished_change().or_else(|| self.unfinished_fencing());
            if unfinished.or_else(|| self.unfinished_level()).is_some() {
                return Ok(());
            }
            if blackout_over {
                let span = self.begin_succession(now).max(15 * SECOND);
                self.finale.phase = Phase::Watching { until: now + span, heard: 0 };
                self.finale.deadline = now + 300 * SECOND;
            } else {
                self.trace.event(now, Kind::Fault, 0, 1, &[], || "the power goes everywhere".into());
                self.tell(now, || Happened::Fault { text: "cuts everyone's power".into(), members: 0, until: now });
                self.finale.phase = Phase::Probing { blackout_over: true, step: 0 };
                self.finale.deadline = now + self.recovery();
                self.finale.targets = self.probed();
                self.blackout(now, 100 * MILLI);
            }
            return Ok(());
        };
        if !self.probed().contains(&target) {
            // A change of the membership took its time.
            self.finale.phase = Phase::Probing { blackout_over, step: step + 1 };
            return Ok(());
        }
        self.ask_probe(now, target, step);
        Ok(())
    }

    /// Asks `target` for a write or a read.
    fn ask_probe(&mut self, now: Nanos, target: usize, step: usize) {
        let op = if step.is_multiple_of(2) {
            Op::Put(PutRequest {
                key: "k000".into(),
                value: format!("probe {step}").into_bytes().into(),
                lease: None,
                prev_kv: true,
                ignore_value: false,
                ignore_lease: false,
            })
        } else {
            read_all()
        };
        let client = self.probe_client();
        let id = self.history.invoke(client as u64, now, op.clone());
        let call = CallId { client, call: self.finale.next_call() };
        let request = wire::encode(&op);
        self.audit.sent(now, client, call.call, &Subject::Op(id, op.clone()), None);
        self.finale.pending = Some((call.call, id, op));
        self.tell(now, || {
            let text = script::describe(request.0, &request.1);
            Happened::Asked { client, call: call.call, member: target, text }
        });
        self.send_call(now, target, call, request, None, 8 * SECOND);
    }

    /// The probe was answered, or gave up waiting (`None`).
    pub(super) fn probe_answered(&mut self, now: Nanos, call: u64, answer: Option<Answer>) -> Verdict {
        if self.finale.phase == Phase::Opening {
            return self.opening_answered(now, call, answer);
        }
        let Some((_, id, op)) = self.finale.pending.take_if(|(pending, ..)| *pending == call) else { return Ok(()) };
        let client = self.probe_client();
        let text = answer.as_ref().map_or("gives up".into(), outcome);
        self.tell(now, || Happened::Ended { client, call, text });
        if self.record(now, id, &op, answer)? {
            if let Op::Range(_) = op {
                self.finale.last = Some(self.newest);
            }
            if let Phase::Probing { step, .. } | Phase::Besieged { step } = &mut self.finale.phase {
                *step += 1;
            }
        }
        Ok(())
    }

    /// Nothing has changed for a while: watchers that asked for it are told so.
    fn judge_idle(&self, now: Nanos) -> Verdict {
        let members = self.probed();
        for (number, client) in self.watchers.iter().enumerate().filter(|(_, it)| members.contains(&it.member)) {
            if let Some(watcher) = client.watchers.iter().find(|watcher| watcher.is_neglected(now, self.newest)) {
                let text = format!("client {number} has long been told nothing of {:?}", watcher.wish);
                return Err(Violation::new("progress", text));
            }
        }
        self.judge_idle_control(now)?;
        self.judge_idle_outside(now)
    }

    /// The oracles that look at the whole run.
    pub(super) fn judge(&mut self) -> Verdict {
        let Some(witness) = self.explain()? else {
            self.totals.undecided += 1;
            return Ok(());
        };
        self.judge_told(&witness)?;
        let truth = Truth { kv: &witness.kv, compacted: self.floor };
        for watcher in self.watchers.iter().flat_map(|client| &client.watchers).filter(|watcher| watcher.is_live()) {
            self.finale.last.map_or(Ok(()), |last| check::watch::must_have(watcher, truth, last))?;
        }
        self.judge_control(truth)?;
        self.judge_outside_at_last(truth)?;
        self.judge_contest(&witness.kv)
    }
}
