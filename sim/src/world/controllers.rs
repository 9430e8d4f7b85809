//! A control plane in the world: what controllers and compactors ask, hear and learn, and that every cache goes on to the
//! end, once all faults are over.

use bytes::Bytes;
use quorate_jepsen::history::Op;
use quorate_jepsen::watch::Truth;

use super::World;
use super::contenders::{Party, known};
use super::event::{Event, link};
use super::script::outcome;
use crate::call::Answer;
use crate::check::{self, Verdict, Violation};
use crate::chronicle::Happened;
use crate::heap::{Nanos, SECOND};
use crate::member::{CallId, Subscription};
use crate::swarm::{Setup, Stream};
use crate::trace::Kind;
use crate::wire;
use crate::workload::client::{Pending, Subject};
use crate::workload::compactor::Compactor;
use crate::workload::controller::{Controller, Next, Reflection, objects};
use crate::workload::ear::Ear;
use crate::workload::watcher::progress_request;

pub(super) fn draw(setup: &Setup) -> Vec<Controller> {
    let planes = setup.control_plane.iter();
    let all = planes.flat_map(|plane| (0..plane.controllers).map(|number| (*plane, number)));
    let stream = |number| setup.stream(Stream::Controller, number);
    all.map(|(plane, n)| Controller::new(stream(n), n, plane, n % setup.members)).collect()
}

/// Two of them, so that they get in each other's way.
pub(super) fn draw_compactors(setup: &Setup) -> Vec<Compactor> {
    let planes = setup.control_plane.iter().filter(|plane| plane.controllers > 0);
    let stream = |number| setup.stream(Stream::Controller, 100 + number);
    planes.flat_map(|plane| (0..2).map(|n| Compactor::new(stream(n), plane.compaction, n % setup.members))).collect()
}

/// A part of the control plane, by the number of its line among theirs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Component {
    Controller(usize),
    Compactor(usize),
}

impl World {
    /// The line of a controller; compactors are behind them.
    fn line_of_component(&self, component: Component) -> usize {
        let first = self.line_of_party(Party::Observer(self.observers.len()));
        match component {
            Component::Controller(number) => first + number,
            Component::Compactor(number) => first + self.controllers.len() + number,
        }
    }

    /// The controller or compactor on this line.
    pub(super) fn component_of(&self, line: usize) -> Option<Component> {
        let number = line.checked_sub(self.line_of_component(Component::Controller(0)))?;
        match number.checked_sub(self.controllers.len()) {
            None => Some(Component::Controller(number)),
            Some(number) => (number < self.compactors.len()).then_some(Component::Compactor(number)),
        }
    }

    pub(super) fn begin_control(&mut self) {
        let controllers = (0..self.controllers.len()).map(Component::Controller);
        for component in controllers.chain((0..self.compactors.len()).map(Component::Compactor)) {
            let line = self.line_of_component(component);
            let at = self.setup.clients_from + self.lines[line].rng.below(2 * SECOND);
            self.plan_component(component, at);
        }
    }

    /// Lets a controller act at that time, and not when it meant to before; or a compactor, which has no other plan.
    fn plan_component(&mut self, component: Component, at: Nanos) {
        let line = self.line_of_component(component);
        let plan = match component {
            Component::Controller(number) => {
                self.controllers[number].plan += 1;
                self.controllers[number].plan
            }
            Component::Compactor(_) => 0,
        };
        self.heap.push(at, link::client(line, 2), Event::Control { line, plan });
    }

    /// A controller or a compactor does what comes next.
    pub(super) fn control(&mut self, now: Nanos, line: usize, plan: u64) {
        let (is_last, members) = (self.finale.has_begun(), self.askable());
        match self.component_of(line) {
            Some(Component::Controller(number)) => {
                let controller = &mut self.controllers[number];
                if controller.plan != plan || controller.caller.pending.is_some() {
                    return;
                }
                if controller.is_restless() {
                    controller.move_on(&members);
                }
                let is_forgotten = |ear: &Ear| is_last && !members.contains(&ear.member);
                let is_lost = controller.reflection.as_ref().is_some_and(|reflection| is_forgotten(&reflection.ear));
                let open = controller.reflection.as_ref().and_then(|reflection| reflection.ear.stream());
                let next = if is_lost { Next::Listen } else { controller.next(is_last) };
                if controller.reflection.is_none() {
                    self.hang_up(now, number, open);
                }
                self.proceed(now, number, next);
            }
            Some(Component::Compactor(number)) if !is_last => {
                let op = self.compactors[number].next();
                self.component_asks(now, Component::Compactor(number), op);
            }
            _ => {}
        }
    }

    fn proceed(&mut self, now: Nanos, number: usize, next: Next) {
        let component = Component::Controller(number);
        match next {
            Next::Ask(op) => return self.component_asks(now, component, op),
            Next::Listen => self.follow(now, number),
            Next::AskProgress => {
                let reflection = self.controllers[number].reflection.as_ref();
                if let Some((member, connection)) = reflection.and_then(|reflection| reflection.ear.stream()) {
                    let line = self.line_of_component(component);
                    let subscription = Subscription { client: line - self.clients.len(), connection };
                    let at = self.up(now, line);
                    let request = Event::WatchRequest { member, subscription, request: Box::new(progress_request()) };
                    self.heap.push(at, link::client(line, 0), request);
                }
            }
            Next::Rest(span) => return self.plan_component(component, now + span),
        }
        let at = now + self.controllers[number].think();
        self.plan_component(component, at);
    }

    fn component_asks(&mut self, now: Nanos, component: Component, op: Op) {
        let client = self.line_of_component(component);
        self.totals.operations += 1;
        let subject = self.begin_op(now, client, op.clone());
        let request = wire::encode(&op);
        let (call, member, patience) = match component {
            Component::Controller(number) => {
                let controller = &mut self.controllers[number];
                (controller.caller.asked(subject.clone(), now), controller.caller.member, controller.patience())
            }
            Component::Compactor(number) => {
                let compactor = &mut self.compactors[number];
                (compactor.caller.asked(subject.clone(), now), compactor.caller.member, compactor.patience())
            }
        };
        self.audit.sent(now, client, call, &subject, None);
        self.send_as(now, CallId { client, call }, member, request, patience);
    }

    /// A call was answered, or it is waited for no longer (`None`).
    pub(super) fn component_answered(&mut self, now: Nanos, call: CallId, answer: Option<Answer>) -> Verdict {
        let Some(component) = self.component_of(call.client) else { return Ok(()) };
        let pending = match component {
            Component::Controller(number) => self.controllers[number].caller.ended(call.call),
            Component::Compactor(number) => self.compactors[number].caller.ended(call.call),
        };
        let Some(Pending { subject: Subject::Op(id, op), .. }) = pending else { return Ok(()) };
        self.tell(now, || {
            let text = answer.as_ref().map_or("gives up".into(), outcome);
            Happened::Ended { client: call.client, call: call.call, text }
        });
        let members = self.askable();
        let failed = !matches!(answer, Some(Ok(_)));
        let outcome = known(&op, answer.as_ref());
        let is_answered = self.record(now, id, &op, answer)?;
        let rest = match component {
            Component::Controller(number) => {
                let controller = &mut self.controllers[number];
                let before = (controller.figures.lists, controller.figures.lists_expired);
                controller.heard(&op, outcome).map_err(|text| Violation::new("cache", text))?;
                if failed {
                    controller.move_on(&members);
                }
                let rest = controller.think();
                self.tell_of_list(now, number, before);
                rest
            }
            Component::Compactor(number) => {
                self.totals.compactions += u64::from(is_answered && matches!(op, Op::Compact(_)));
                let compactor = &mut self.compactors[number];
                if failed {
                    compactor.move_on(&members);
                }
                compactor.heard(outcome)
            }
        };
        self.plan_component(component, now + rest);
        Ok(())
    }

    /// Tells that a list is complete, or expired, if it was not before.
    fn tell_of_list(&mut self, now: Nanos, number: usize, (lists, expired): (u64, u64)) {
        let (controller, line) = (&self.controllers[number], self.line_of_component(Component::Controller(number)));
        let client = line - self.clients.len();
        let text = match &controller.reflection {
            Some(Reflection { cache, .. }) if controller.figures.lists > lists => {
                format!("controller {number} has all {} objects as of {}", cache.objects.len(), cache.revision)
            }
            _ if controller.figures.lists_expired > expired => format!("controller {number} begins its list anew"),
            _ => return,
        };
        self.tell(now, || Happened::Watch { client, text });
    }

    /// A controller opens its watch, on any member.
    fn follow(&mut self, now: Nanos, number: usize) {
        let members = self.askable();
        let controller = &mut self.controllers[number];
        let open = controller.reflection.as_ref().and_then(|reflection| reflection.ear.stream());
        let member = controller.pick(&members);
        let Some((connection, request)) = controller.listen(member) else { return };
        self.hang_up(now, number, open);
        let line = self.line_of_component(Component::Controller(number));
        let client = line - self.clients.len();
        self.tell(now, || Happened::Watch { client, text: format!("controller {number} -> {member} watches") });
        let subscription = Subscription { client, connection };
        let at = self.up(now, line);
        let subscribe = Event::Subscribe { member, subscription, token: None, requests: vec![request] };
        self.heap.push(at, link::client(line, 0), subscribe);
    }

    /// Closes a stream of a controller, if it was open: on this member, of this number.
    fn hang_up(&mut self, now: Nanos, number: usize, open: Option<(usize, u64)>) {
        let Some((member, connection)) = open else { return };
        let line = self.line_of_component(Component::Controller(number));
        let subscription = Subscription { client: line - self.clients.len(), connection };
        let at = self.up(now, line);
        self.heap.push(at, link::client(line, 0), Event::Unsubscribe { member, subscription });
    }

    /// The controller on whose line this stream is; and whether it is the one that it listens to.
    fn follower(&self, subscription: Subscription) -> Option<(usize, bool)> {
        match self.component_of(self.line_of_watcher(subscription.client))? {
            Component::Compactor(_) => None,
            Component::Controller(number) => {
                let reflection = self.controllers[number].reflection.as_ref();
                let open = reflection.and_then(|reflection| reflection.ear.stream());
                Some((number, open.is_some_and(|(_, connection)| connection == subscription.connection)))
            }
        }
    }

    /// A controller's stream broke; whether it is one.
    pub(super) fn control_stream_broke(&mut self, now: Nanos, subscription: Subscription) -> bool {
        let Some((number, is_current)) = self.follower(subscription) else { return false };
        let controller = &mut self.controllers[number];
        if let Some(Reflection { ear, .. }) = controller.reflection.as_mut().filter(|_| is_current) {
            // Whoever acts next connects anew.
            ear.connected = false;
            self.trace.event(now, Kind::Client, subscription.client, 0, &[], || format!("{subscription:?} broke"));
        }
        true
    }

    /// Something was told on a controller's stream; whether it is one.
    pub(super) fn control_stream_told(
        &mut self,
        now: Nanos,
        subscription: Subscription,
        bytes: &Bytes,
        cost: u64,
    ) -> Result<bool, Violation> {
        let Some((number, is_current)) = self.follower(subscription) else { return Ok(false) };
        let is_last = self.finale.has_begun();
        let controller = &mut self.controllers[number];
        let Some(Reflection { ear, .. }) = controller.reflection.as_mut().filter(|_| is_current) else {
            return Ok(true);
        };
        let member = ear.member;
        self.trace.event(now, Kind::Client, subscription.client, cost, bytes, || format!("{subscription:?} is told"));
        let (header, told) = ear.hear(now, bytes.clone()).map_err(|text| Violation::new("watch", text))?;
        let is_expired = controller.told(told.clone());
        let pace = if is_last { 0 } else { controller.pace() };
        self.took_in(now, member, subscription, (header, cost), pace);
        self.see_told(now, &told);
        if is_expired {
            self.hang_up(now, number, Some((member, subscription.connection)));
            self.controllers[number].expired();
            let client = subscription.client;
            self.tell(now, || Happened::Watch { client, text: format!("controller {number} lists again") });
        }
        Ok(true)
    }

    /// Whether no controller and no compactor changes anything any more.
    pub(super) fn control_is_over(&self) -> bool {
        let compactors = self.compactors.iter().all(|compactor| compactor.caller.pending.is_none());
        compactors && self.controllers.iter().all(Controller::is_done)
    }

    /// How often controllers were told of changes.
    pub(super) fn cached_changes(&self) -> usize {
        self.controllers.iter().map(|controller| controller.changes).sum()
    }

    /// Whether every controller has all objects and is told of what changes.
    pub(super) fn every_cache_follows(&self) -> bool {
        self.controllers.iter().all(Controller::follows)
    }

    /// Compares what controllers were told so far, and made of it, with what happened.
    pub(super) fn judge_caches(&mut self, truth: Truth<'_>) -> Verdict {
        for controller in &mut self.controllers {
            for Reflection { cache, ear } in controller.past.iter_mut().chain(&mut controller.reflection) {
                self.totals.watch_events += check::watch::judge(&mut ear.watcher, truth)?;
                self.totals.caches.caches_compared += check::cache::judge(cache, &objects(), truth.kv)?;
            }
            controller.past.clear();
            self.totals.caches.add(&std::mem::take(&mut controller.figures));
        }
        Ok(())
    }

    /// In the end: every controller was told everything, and has what the store has.
    pub(super) fn judge_control(&self, truth: Truth<'_>) -> Verdict {
        let Some(last) = self.finale.last() else { return Ok(()) };
        for controller in &self.controllers {
            let Some(Reflection { cache, ear }) = controller.reflection.as_ref().filter(|_| controller.follows())
            else {
                let text = format!("one does not go on until the end:\n  {}", controller.describe());
                return Err(Violation::new("cache", text));
            };
            check::watch::must_have(&ear.watcher, truth, last)?;
            check::cache::must_be(cache, &objects(), truth.kv, last)?;
        }
        Ok(())
    }

    /// Nothing has changed for a while: controllers are told so.
    pub(super) fn judge_idle_control(&self, now: Nanos) -> Verdict {
        let members = self.probed();
        for (number, controller) in self.controllers.iter().enumerate() {
            let ear = controller.reflection.as_ref().map(|reflection| &reflection.ear);
            let is_neglected = |ear: &&Ear| ear.connected && ear.watcher.is_neglected(now, self.newest);
            if ear.filter(|ear| members.contains(&ear.member)).filter(is_neglected).is_some() {
                return Err(Violation::new("progress", format!("controller {number} has long been told nothing")));
            }
        }
        Ok(())
    }
}
