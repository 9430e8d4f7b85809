//! Clients and their connections: requests on their way, answers, watch streams.

use bytes::Bytes;
use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::{Revision, Ttl};
use quorate_jepsen::history::{Op, OpId, Response, Sighting};

use super::World;
use super::event::{Event, link};
use super::script::{creates, outcome};
use crate::call::{Answer, CallError, Rpc};
use crate::check::{Verdict, Violation};
use crate::chronicle::Happened;
use crate::heap::{Nanos, SECOND, tail};
use crate::member::{CallId, Process, Subscription};
use crate::script::{Deed, Shows, What};
use crate::swarm::{Setup, Stream};
use crate::trace::Kind;
use crate::wire;
use crate::workload::badge::Badge;
use crate::workload::chore::Chore;
use crate::workload::client::{Client, Step, Subject, lease_request};
use crate::workload::watcher::{Told, WatchClient, Watcher, progress_request};
use crate::workload::{Generator, Token};

pub(super) fn draw(setup: &Setup) -> Vec<Client> {
    let client = |n: usize| {
        let generator = Generator::new(setup.stream(Stream::Workload, n), n, setup.keys, setup.mix);
        Client::new(generator, n % setup.members)
    };
    (0..setup.clients).map(client).collect()
}

pub(super) fn draw_watchers(setup: &Setup) -> Vec<WatchClient> {
    let client = |n: usize| {
        let generator = Generator::new(setup.stream(Stream::Watch, n), n, setup.keys, setup.mix);
        WatchClient::new(generator, n % setup.members, n == 0)
    };
    (0..setup.watchers).map(client).collect()
}

impl World {
    pub(super) fn begin_clients(&mut self) {
        let has_script = self.begin_script();
        for client in 0..if has_script { 0 } else { self.clients.len() } {
            let at = self.setup.clients_from + self.lines[client].rng.below(SECOND);
            self.heap.push(at, link::client(client, 2), Event::Think { client });
        }
        self.begin_operators();
        for client in 0..self.watchers.len() {
            let line = self.line_of_watcher(client);
            let at = self.setup.clients_from + self.lines[line].rng.below(2 * SECOND);
            self.heap.push(at, link::client(line, 2), Event::Whim { client });
        }
    }

    pub(super) fn line_of_watcher(&self, client: usize) -> usize {
        self.clients.len() + client
    }

    /// The line, and when a message sent to the client now arrives.
    pub(super) fn down(&mut self, now: Nanos, line: usize) -> (usize, Nanos) {
        let latency = self.setup.latencies.client;
        let state = &mut self.lines[line];
        state.down = (now + latency / 2 + tail(&mut state.rng, latency)).max(state.down + 1);
        (line, state.down)
    }

    /// When a message that the client sends now arrives.
    pub(super) fn up(&mut self, now: Nanos, line: usize) -> Nanos {
        let latency = self.setup.latencies.client;
        let state = &mut self.lines[line];
        state.up = (now + latency / 2 + tail(&mut state.rng, latency)).max(state.up + 1);
        state.up
    }

    pub(super) fn reply(&mut self, now: Nanos, call: CallId, answer: Answer) {
        let (line, at) = self.down(now, call.client);
        self.heap.push(at, link::client(line, 1), Event::Answer { call, answer });
    }

    pub(super) fn send_call(
        &mut self,
        now: Nanos,
        member: usize,
        call: CallId,
        (rpc, bytes): (Rpc, Bytes),
        token: Option<Token>,
        patience: Nanos,
    ) {
        let at = self.up(now, call.client);
        self.heap.push(at, link::client(call.client, 0), Event::Request { member, call, rpc, token, bytes });
        self.heap.push(now + patience, link::client(call.client, 3), Event::Patience { call });
    }

    /// A client does what comes next.
    pub(super) fn act(&mut self, now: Nanos, number: usize) {
        if !self.finale.clients_work() {
            return;
        }
        let members = self.members();
        let client = &mut self.clients[number];
        if client.caller.pending.is_some() || self.setup.script.is_some() {
            return;
        }
        if client.is_restless() {
            client.move_on(&members);
        }
        let login = self.badges.get_mut(number).and_then(Badge::login);
        let is_login = login.is_some();
        let subject = match login.map_or_else(|| client.step(), Step::Chore) {
            Step::Chore(chore) => Subject::Chore(chore),
            Step::Ask(op) => self.begin_op(now, number, op),
            Step::KeepAlive(id) => Subject::KeepAlive(id),
            Step::TimeToLive(id) => Subject::TimeToLive(id),
        };
        let token = self.badges.get_mut(number).filter(|_| !is_login).and_then(Badge::show);
        let patience = self.clients[number].patience();
        self.ask(now, number, subject, token, patience);
    }

    /// An operation of the history begins.
    pub(super) fn begin_op(&mut self, now: Nanos, client: usize, op: Op) -> Subject {
        match &op {
            Op::LeaseRevoke(id) => self.leases.meddled(*id),
            // A script asks for leases by the large numbers that members gave them, but once.
            Op::LeaseGrant { id: Some(id), .. } if id.0 < 1_000 => self.leases.meddled(*id),
            // Whatever is answered, it may take place.
            Op::Compact(revision) => self.floor = self.floor.max(*revision),
            _ => {}
        }
        Subject::Op(self.history.invoke(client as u64, now, op.clone()), op)
    }

    /// A client sends a request to its member.
    pub(super) fn ask(&mut self, now: Nanos, number: usize, subject: Subject, token: Option<Token>, patience: Nanos) {
        self.totals.operations += 1;
        let client = &mut self.clients[number];
        let member = client.caller.member;
        let (rpc, bytes) = match &subject {
            Subject::Op(_, op) => wire::encode(op),
            other => lease_request(other).expect("not an operation"),
        };
        let text = if self.trace.logs() { format!("asks {member} {subject:?}") } else { String::new() };
        self.trace.event(now, Kind::Client, number, rpc as u64, &bytes, || text);
        let call = CallId { client: number, call: client.caller.asked(subject.clone(), now) };
        if let Subject::TimeToLive(id) = subject {
            self.leases.asks_what_is_left(call, id, now, self.newest);
        }
        self.audit.sent(now, number, call.call, &subject, token.as_ref());
        let shows = Shows::of(token.as_ref(), self.badges.get(number));
        self.note_call(now, call, member, (rpc, &bytes), shows, patience);
        self.send_call(now, member, call, (rpc, bytes), token, patience);
    }

    pub(super) fn answered(&mut self, now: Nanos, call: CallId, answer: Answer) -> Verdict {
        let bytes: &[u8] = answer.as_deref().unwrap_or_default();
        self.trace.event(now, Kind::Client, call.client, call.call, bytes, || format!("{call:?} answered {answer:?}"));
        self.ended(now, call, Some(answer))
    }

    /// Nobody waits for the answer any longer.
    pub(super) fn out_of_patience(&mut self, now: Nanos, call: CallId) -> Verdict {
        self.ended(now, call, None)
    }

    /// Whoever asked has an answer, or does not wait for it any longer.
    fn ended(&mut self, now: Nanos, call: CallId, answer: Option<Answer>) -> Verdict {
        let line = call.client;
        if line == self.probe_client() {
            return self.probe_answered(now, call.call, answer);
        }
        if let Some(admin) = self.admin_of(line) {
            return self.administered(now, admin, call.call, answer);
        }
        if self.party_of(line).is_some() {
            return self.contender_answered(now, call, answer);
        }
        if self.component_of(line).is_some() {
            return self.component_answered(now, call, answer);
        }
        if line >= self.operator(0) {
            return self.operator_answered(now, call, answer);
        }
        match answer {
            Some(answer) => self.client_answered(now, call, answer),
            None => self.client_gives_up(now, call),
        }
    }

    fn client_answered(&mut self, now: Nanos, call: CallId, answer: Answer) -> Verdict {
        let Some(pending) = self.clients[call.client].caller.ended(call.call) else { return Ok(()) };
        self.tell(now, || Happened::Ended { client: call.client, call: call.call, text: outcome(&answer) });
        let failed = matches!(answer, Err(CallError::Broken | CallError::Refused));
        if let Some(outside) = &mut self.outside {
            outside.answered(call.client, Some(answer.clone()));
        }
        if let Some(badge) = self.badges.get_mut(call.client) {
            match &pending.subject {
                Subject::Chore(Chore::Login { .. }) => badge.logged_in(&answer),
                _ => badge.heard(&answer),
            }
        }
        match pending.subject {
            Subject::Chore(_) => {}
            Subject::Op(id, op) => {
                if self.record(now, id, &op, Some(answer.clone()))? {
                    self.learn(now, call.client, &op, answer, pending.sent)?;
                }
            }
            Subject::KeepAlive(id) => {
                if let Ok(bytes) = answer {
                    let reply: pb::LeaseKeepAliveResponse = wire::message(bytes);
                    if reply.ttl > 0 {
                        self.leases.promised(id, Ttl(reply.ttl), pending.sent)?;
                        self.totals.renewals += 1;
                    } else {
                        self.clients[call.client].held = None;
                    }
                }
            }
            Subject::TimeToLive(_) => match answer {
                Ok(bytes) => {
                    let reply = wire::message(bytes);
                    let revision = self.leases.told_what_is_left(call, now, &reply)?;
                    self.newest = self.newest.max(revision);
                    self.history.saw(now, Sighting::Revision(revision));
                }
                Err(_) => self.leases.not_told(call),
            },
        }
        let members = self.members();
        let client = &mut self.clients[call.client];
        if failed {
            client.move_on(&members);
        }
        let at = now + client.think(self.setup.think);
        self.heap.push(at, link::client(call.client, 2), Event::Think { client: call.client });
        Ok(())
    }

    fn client_gives_up(&mut self, now: Nanos, call: CallId) -> Verdict {
        let members = self.members();
        let Some(pending) = self.clients[call.client].caller.ended(call.call) else { return Ok(()) };
        if let Some(outside) = &mut self.outside {
            outside.answered(call.client, None);
        }
        self.trace.event(now, Kind::Client, call.client, call.call, &[], || format!("{call:?} gives up"));
        self.tell(now, || Happened::Ended { client: call.client, call: call.call, text: "gives up".into() });
        match pending.subject {
            Subject::Op(id, op) => drop(self.record(now, id, &op, None)?),
            Subject::TimeToLive(_) => self.leases.not_told(call),
            Subject::KeepAlive(_) | Subject::Chore(_) => {}
        }
        let client = &mut self.clients[call.client];
        client.move_on(&members);
        let at = now + client.think(self.setup.think);
        self.heap.push(at, link::client(call.client, 2), Event::Think { client: call.client });
        Ok(())
    }

    /// Writes the end of an operation into the history; whether it was answered as asked.
    pub(super) fn record(&mut self, now: Nanos, id: OpId, op: &Op, answer: Option<Answer>) -> Result<bool, Violation> {
        match answer {
            Some(Ok(bytes)) => {
                let response = wire::decode(op, bytes);
                self.newest = self.newest.max(response.revision());
                self.totals.answered += 1;
                self.history.complete(id, now, response);
                return Ok(true);
            }
            Some(Err(CallError::Refused)) => self.history.fail(id, now),
            Some(Err(CallError::Status(status))) => match wire::error(&status) {
                Some(error) => self.history.answer(id, now, Err(error)),
                None => self.unknown(id),
            },
            Some(Err(CallError::Broken)) | None => self.unknown(id),
        }
        Ok(false)
    }

    fn unknown(&mut self, id: OpId) {
        self.totals.unknown += 1;
        self.history.unknown(id);
    }

    /// What a client takes from the answer to its operation.
    fn learn(&mut self, now: Nanos, client: usize, op: &Op, answer: Answer, sent: Nanos) -> Verdict {
        let Ok(bytes) = answer else { return Ok(()) };
        let response = wire::decode(op, bytes);
        self.clients[client].saw(response.revision());
        match (op, response) {
            (Op::Compact(revision), _) => {
                self.totals.compactions += 1;
                for client in &mut self.clients {
                    client.known.compacted = client.known.compacted.max(*revision);
                }
            }
            (_, Response::LeaseGrant(lease, _)) => {
                self.clients[client].granted(lease.id, lease.ttl);
                self.write_down_grant(client, &Op::LeaseGrant { id: Some(lease.id), ttl: lease.ttl });
                self.leases.promised(lease.id, lease.ttl, sent)?;
            }
            (Op::LeaseRevoke(id), _) => {
                self.leases.revoked(*id, now);
                self.clients[client].revoked(*id);
            }
            _ => {}
        }
        Ok(())
    }

    /// A watch client connects, asks for progress, or goes elsewhere.
    pub(super) fn whim(&mut self, now: Nanos, number: usize) {
        let begun = self.finale.has_begun();
        let members = if begun { self.recorded() } else { self.members() };
        let newest = self.newest;
        let line = self.line_of_watcher(number);
        let client = &mut self.watchers[number];
        client.set_slow(!begun);
        if self.setup.script.is_some() && !begun {
            // It does what it is told, until the end.
            let at = now + client.think();
            self.heap.push(at, link::client(line, 2), Event::Whim { client: number });
            return;
        }
        let is_forgotten = begun && !members.contains(&client.member);
        if client.connected && (is_forgotten || (!begun && client.is_restless())) {
            self.leave(now, number);
        }
        let client = &mut self.watchers[number];
        if !client.connected {
            let member = client.pick(&members);
            let new = client.draw_missing(newest, if begun { 0 } else { 3 });
            self.connect(now, number, member, new);
        } else if client.is_curious() {
            self.ask_progress(now, number);
        }
        let at = now + self.watchers[number].think();
        self.heap.push(at, link::client(line, 2), Event::Whim { client: number });
    }

    /// A watch client opens a stream.
    pub(super) fn connect(&mut self, now: Nanos, number: usize, member: usize, new: Vec<Watcher>) {
        if !self.finale.has_begun() {
            self.write_down(now, number, || What::Watch { member, new: creates(&new) });
        }
        self.tell(now, || {
            let what = What::Watch { member, new: creates(&new) };
            let text = format!("-> {member} {}", Deed { at: now, client: number, what }.story());
            Happened::Watch { client: number, text }
        });
        let client = &mut self.watchers[number];
        let requests = client.connect(member, new);
        let subscription = Subscription { client: number, connection: client.connection };
        let line = self.line_of_watcher(number);
        let token = self.lend_token(number);
        let at = self.up(now, line);
        self.heap.push(at, link::client(line, 0), Event::Subscribe { member, subscription, token, requests });
    }

    /// A watch client closes its stream, if it has one.
    pub(super) fn leave(&mut self, now: Nanos, number: usize) {
        let line = self.line_of_watcher(number);
        let client = &mut self.watchers[number];
        if client.connected {
            let (member, subscription) =
                (client.member, Subscription { client: number, connection: client.connection });
            client.broken();
            let at = self.up(now, line);
            self.heap.push(at, link::client(line, 0), Event::Unsubscribe { member, subscription });
        }
    }

    /// A watch client asks for progress on its stream, if it has one.
    pub(super) fn ask_progress(&mut self, now: Nanos, number: usize) {
        let line = self.line_of_watcher(number);
        let client = &self.watchers[number];
        if client.connected {
            let (member, subscription) =
                (client.member, Subscription { client: number, connection: client.connection });
            if !self.finale.has_begun() {
                self.write_down(now, number, || What::Progress);
                self.tell(now, || Happened::Watch { client: number, text: "asks for progress".into() });
            }
            let at = self.up(now, line);
            let request = Box::new(progress_request());
            self.heap.push(at, link::client(line, 0), Event::WatchRequest { member, subscription, request });
        }
    }

    pub(super) fn subscribe(
        &mut self,
        now: Nanos,
        member: usize,
        subscription: Subscription,
        token: Option<Token>,
        requests: Vec<pb::WatchRequest>,
    ) -> Verdict {
        // A learner serves no watches.
        let serves = |process: &&mut Process| !process.is_learner();
        let Some(process) = self.machines[member].process.as_mut().filter(serves) else {
            self.break_stream(now, subscription);
            return Ok(());
        };
        process.subscribe(subscription, token);
        self.watch_requests(now, member, subscription, requests)
    }

    pub(super) fn watch_requests(
        &mut self,
        now: Nanos,
        member: usize,
        subscription: Subscription,
        requests: Vec<pb::WatchRequest>,
    ) -> Verdict {
        let local = self.machines[member].clock.read(now);
        if let Some(process) = &mut self.machines[member].process {
            for request in requests {
                process.watch(local, subscription, request, self.actions.get_or_insert_default());
            }
            self.carry_out(now, member)?;
            self.rouse(now, member);
        }
        Ok(())
    }

    /// Watch clients use the tokens of other clients; the first one the root user's, if there are enough clients.
    fn lend_token(&self, number: usize) -> Option<Token> {
        let owner = if number == 0 { 5 } else { number };
        self.badges.get(owner % self.badges.len().max(1))?.token().cloned()
    }

    pub(super) fn on_stream(&mut self, now: Nanos, member: usize, act: impl FnOnce(&mut Process)) {
        if let Some(process) = &mut self.machines[member].process {
            act(process);
            self.rouse(now, member);
        }
    }

    pub(super) fn break_stream(&mut self, now: Nanos, subscription: Subscription) {
        let (line, at) = self.down(now, self.line_of_watcher(subscription.client));
        self.heap.push(at, link::client(line, 1), Event::WatchBroken { subscription });
    }

    fn is_current(&self, subscription: Subscription) -> bool {
        let client = &self.watchers[subscription.client];
        client.connected && client.connection == subscription.connection
    }

    pub(super) fn watch_broken(&mut self, now: Nanos, subscription: Subscription) {
        let is_taken = self.contest_stream_broke(now, subscription)
            || self.control_stream_broke(now, subscription)
            || self.outside_stream_broke(now, subscription);
        if !is_taken && self.is_current(subscription) {
            self.trace.event(now, Kind::Client, subscription.client, 0, &[], || format!("{subscription:?} broke"));
            self.watchers[subscription.client].broken();
        }
    }

    pub(super) fn watch_message(&mut self, now: Nanos, subscription: Subscription, bytes: Bytes, cost: u64) -> Verdict {
        let is_taken = self.contest_stream_told(now, subscription, &bytes, cost)?
            || self.control_stream_told(now, subscription, &bytes, cost)?
            || self.outside_stream_told(now, subscription, &bytes, cost)?;
        if is_taken || !self.is_current(subscription) {
            return Ok(());
        }
        self.trace.event(now, Kind::Client, subscription.client, cost, &bytes, || format!("{subscription:?} is told"));
        self.watchers[subscription.client].arrived(bytes, cost);
        self.read_on(now, subscription);
        Ok(())
    }

    fn read_on(&mut self, now: Nanos, subscription: Subscription) {
        let line = self.line_of_watcher(subscription.client);
        let client = &mut self.watchers[subscription.client];
        if client.has_unread() && !client.reading {
            client.reading = true;
            let at = now + client.pace();
            self.heap.push(at, link::client(line, 2), Event::WatchRead { subscription });
        }
    }

    pub(super) fn watch_read(&mut self, now: Nanos, subscription: Subscription) -> Verdict {
        if !self.is_current(subscription) {
            return Ok(());
        }
        let client = &mut self.watchers[subscription.client];
        client.reading = false;
        let (header, cost) = client.read(now).map_err(|text| Violation::new("watch", text))?;
        if std::mem::take(&mut client.refused) {
            // It cannot tell which of its watchers that was: it comes back with all of them.
            let (member, line) = (client.member, self.line_of_watcher(subscription.client));
            self.watchers[subscription.client].broken();
            let at = self.up(now, line);
            self.heap.push(at, link::client(line, 0), Event::Unsubscribe { member, subscription });
            return Ok(());
        }
        let member = self.watchers[subscription.client].member;
        self.took_in(now, member, subscription, (header, cost), 0);
        let news = self.watchers[subscription.client].take_news();
        self.see_events(now, news);
        self.read_on(now, subscription);
        Ok(())
    }

    /// Somebody has read a message on a stream, after so long: it shows at which revision the store was, and there is room for
    /// as many bytes again.
    pub(super) fn took_in(
        &mut self,
        now: Nanos,
        member: usize,
        subscription: Subscription,
        (header, bytes): (Revision, u64),
        pace: Nanos,
    ) {
        self.newest = self.newest.max(header);
        if header > Revision(0) {
            self.history.saw(now, Sighting::Revision(header));
        }
        if bytes > 0 {
            let line = self.line_of_watcher(subscription.client);
            let at = self.up(now, line) + pace;
            self.heap.push(at, link::client(line, 0), Event::Taken { member, subscription, bytes });
        }
    }

    /// Tells the history what a message showed: it settles what operations of unknown outcome did. Where nothing else does,
    /// whoever is judged by that history must have told it what it saw.
    pub(super) fn see_events(&mut self, now: Nanos, events: impl IntoIterator<Item = mvccpb::Event>) {
        for event in events {
            let Some(kv) = event.kv else { continue };
            let sighting = if event.r#type == 0 {
                Sighting::Put(wire::key_value(kv))
            } else {
                Sighting::Delete { key: kv.key.into(), revision: Revision(kv.mod_revision) }
            };
            self.history.saw(now, sighting);
        }
    }

    /// The same of what an ear was told.
    pub(super) fn see_told(&mut self, now: Nanos, told: &[Told]) {
        for told in told {
            if let Told::Events { events, .. } = told {
                self.see_events(now, events.iter().cloned());
            }
        }
    }
}
