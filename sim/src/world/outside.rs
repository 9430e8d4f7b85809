//! A world that others drive: requests and watches come from outside, and time passes as it is told.

use bytes::Bytes;
use quorate_core::Revision;
use quorate_core::request::KeyRange;
use quorate_jepsen::watch::Truth;

use super::event::{Event, link};
use super::{Line, World};
use crate::call::Answer;
use crate::check::{self, Verdict, Violation};
use crate::heap::{Nanos, SECOND};
use crate::member::Subscription;
use crate::schedule::Fault;
use crate::script::Asked;
use crate::swarm::Stream;
use crate::trace::Kind;
use crate::workload::ear::Ear;
use crate::workload::watcher::Told;

/// What those outside wait for.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Answers to clients that they play.
    answers: Vec<(usize, Option<Answer>)>,
    /// Their watches, of which each has a line behind all others.
    listeners: Vec<Listener>,
    /// What was told on those, and not taken yet.
    told: Vec<(usize, Told)>,
    /// How often that was.
    heard: usize,
}

/// A watch that is opened again wherever it breaks off.
#[derive(Debug)]
struct Listener {
    ear: Ear,
    /// Nobody wants to know any more.
    is_closed: bool,
}

impl Outside {
    pub(super) fn answered(&mut self, client: usize, answer: Option<Answer>) {
        self.answers.push((client, answer));
    }

    /// Those who want to be told more.
    fn open(&self) -> impl Iterator<Item = &Ear> {
        let open = self.listeners.iter().filter(|it| !it.is_closed && !it.ear.watcher.finished);
        open.map(|listener| &listener.ear)
    }
}

impl World {
    /// Does what is due until then.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn advance(&mut self, until: Nanos) -> Verdict {
        while self.heap.next_at().is_some_and(|at| at <= until) && !self.finale.is_over() {
            let Some((now, event)) = self.heap.pop() else { break };
            self.carry_on(now, event)?;
        }
        Ok(())
    }

    /// Client `client`, which waits for no answer, asks `member` at `now`; [`World::take_answers`] has the answer.
    pub fn ask_from_outside(&mut self, now: Nanos, client: usize, member: usize, asked: Asked, patience: Nanos) {
        self.outside.get_or_insert_default();
        let subject = self.begin_request(now, client, asked);
        self.clients[client].caller.member = member;
        self.ask(now, client, subject, None, patience);
    }

    /// Answers since it was asked last, each with its client; `None`: it gave up waiting.
    pub fn take_answers(&mut self) -> Vec<(usize, Option<Answer>)> {
        self.outside.as_mut().map(|outside| std::mem::take(&mut outside.answers)).unwrap_or_default()
    }

    /// Watches `range` from revision `from` on (`None`: from now on), first on `member` and wherever that breaks off on the
    /// next one; [`World::take_told`] has what is told. Gives the number of the watch.
    pub fn listen_from_outside(&mut self, now: Nanos, member: usize, range: KeyRange, from: Option<Revision>) -> usize {
        let rng = self.setup.stream(Stream::Client, self.lines.len());
        self.lines.push(Line { rng, up: 0, down: 0 });
        let mut ear = Ear::judged(range, Revision(1), 0);
        (ear.watcher.next, ear.member) = (from, member);
        let outside = self.outside.get_or_insert_default();
        outside.listeners.push(Listener { ear, is_closed: false });
        let number = outside.listeners.len() - 1;
        self.connect_listener(now, number);
        number
    }

    /// What watches were told since it was asked last, each with its number.
    pub fn take_told(&mut self) -> Vec<(usize, Told)> {
        self.outside.as_mut().map(|outside| std::mem::take(&mut outside.told)).unwrap_or_default()
    }

    /// Nobody wants to know any more what watch `number` is told.
    pub fn stop_listening(&mut self, now: Nanos, number: usize) {
        let line = self.line_of_listener(number);
        let client = line - self.clients.len();
        let Some(listener) = self.outside.as_mut().and_then(|outside| outside.listeners.get_mut(number)) else {
            return;
        };
        listener.is_closed = true;
        if let Some((member, connection)) = listener.ear.stream() {
            listener.ear.connected = false;
            let subscription = Subscription { client, connection };
            let at = self.up(now, line);
            self.heap.push(at, link::client(line, 0), Event::Unsubscribe { member, subscription });
        }
    }

    /// The first line that is nobody's when a world begins.
    fn line_of_listener(&self, number: usize) -> usize {
        self.lines.len() - self.outside.as_ref().map_or(0, |outside| outside.listeners.len()) + number
    }

    /// The watch from outside on whose line this stream is.
    fn listener_of(&self, subscription: Subscription) -> Option<usize> {
        let outside = self.outside.as_ref()?;
        let number = self.line_of_watcher(subscription.client).checked_sub(self.line_of_listener(0))?;
        (number < outside.listeners.len()).then_some(number)
    }

    /// A watch from outside that is not open any more is opened.
    pub(super) fn connect_listener(&mut self, now: Nanos, number: usize) {
        let line = self.line_of_listener(number);
        let client = line - self.clients.len();
        let Some(listener) = self.outside.as_mut().and_then(|outside| outside.listeners.get_mut(number)) else {
            return;
        };
        let ear = &mut listener.ear;
        if listener.is_closed || ear.connected || ear.watcher.finished {
            return;
        }
        let (member, connection) = (ear.member, ear.connection + 1);
        let requests = vec![ear.connect(member, connection)];
        let subscription = Subscription { client, connection };
        let at = self.up(now, line);
        let subscribe = Event::Subscribe { member, subscription, token: None, requests };
        self.heap.push(at, link::client(line, 0), subscribe);
    }

    /// A stream broke; whether it is one from outside.
    pub(super) fn outside_stream_broke(&mut self, now: Nanos, subscription: Subscription) -> bool {
        let Some(number) = self.listener_of(subscription) else { return false };
        let members = self.setup.members;
        let listener = self.outside.as_mut().and_then(|outside| outside.listeners.get_mut(number));
        let ear = listener.map(|listener| &mut listener.ear).filter(|ear| is_on(ear, subscription));
        if let Some(ear) = ear {
            (ear.connected, ear.member) = (false, (ear.member + 1) % members);
            self.trace.event(now, Kind::Client, subscription.client, 0, &[], || format!("{subscription:?} broke"));
            let line = self.line_of_listener(number);
            let at = now + self.lines[line].rng.below(SECOND / 5);
            self.heap.push(at, link::client(line, 2), Event::Listen { listener: number });
        }
        true
    }

    /// Something was told on a stream; whether it is one from outside.
    pub(super) fn outside_stream_told(
        &mut self,
        now: Nanos,
        subscription: Subscription,
        bytes: &Bytes,
        cost: u64,
    ) -> Result<bool, Violation> {
        let Some(number) = self.listener_of(subscription) else { return Ok(false) };
        let Some(outside) = &mut self.outside else { return Ok(false) };
        let ear = &mut outside.listeners[number].ear;
        if !is_on(ear, subscription) {
            return Ok(true);
        }
        let member = ear.member;
        self.trace.event(now, Kind::Client, subscription.client, cost, bytes, || format!("{subscription:?} is told"));
        let (header, told) = ear.hear(now, bytes.clone()).map_err(|text| Violation::new("watch", text))?;
        outside.heard += told.iter().filter(|told| matches!(told, Told::Events { .. })).count();
        outside.told.extend(told.iter().map(|told| (number, told.clone())));
        self.took_in(now, member, subscription, (header, cost), 0);
        self.see_told(now, &told);
        Ok(true)
    }

    /// How often watches from outside were told of changes.
    pub(super) fn changes_outside(&self) -> usize {
        self.outside.as_ref().map_or(0, |outside| outside.heard)
    }

    /// Where watches from outside go on.
    pub(super) fn awaited_outside(&self) -> impl Iterator<Item = Revision> {
        self.outside.iter().flat_map(Outside::open).filter_map(|ear| ear.watcher.next)
    }

    /// Compares what watches from outside were told so far with what happened.
    pub(super) fn judge_outside(&mut self, truth: Truth<'_>) -> Verdict {
        for listener in self.outside.iter_mut().flat_map(|outside| &mut outside.listeners) {
            self.totals.watch_events += check::watch::judge(&mut listener.ear.watcher, truth)?;
        }
        Ok(())
    }

    /// In the end: every watch from outside is open and was told everything.
    pub(super) fn judge_outside_at_last(&self, truth: Truth<'_>) -> Verdict {
        let Some(last) = self.finale.last() else { return Ok(()) };
        self.outside.iter().flat_map(Outside::open).try_for_each(|ear| {
            if !ear.is_live() {
                return Err(Violation::new("watch", format!("not told to the end: {:?}", ear.watcher.wish)));
            }
            check::watch::must_have(&ear.watcher, truth, last)
        })
    }

    /// Nothing has changed for a while: watches from outside are told so.
    pub(super) fn judge_idle_outside(&self, now: Nanos) -> Verdict {
        let mut open = self.outside.iter().flat_map(Outside::open);
        match open.find(|ear| ear.connected && ear.watcher.is_neglected(now, self.newest)) {
            None => Ok(()),
            Some(ear) => {
                let text = format!("somebody has long been told nothing of {:?}", ear.watcher.wish.range);
                Err(Violation::new("progress", text))
            }
        }
    }

    /// The nemesis strikes, now.
    pub fn strike_now(&mut self, now: Nanos, fault: Fault) {
        self.inflict(now, fault);
    }

    /// Which member leads, if one does.
    #[must_use]
    pub fn led_by(&self) -> Option<usize> {
        self.leader()
    }

    /// Ends all faults, demands that every member makes progress, cuts everyone's power, demands it once more, and looks
    /// at the whole history.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn end(&mut self, now: Nanos) -> Verdict {
        self.heap.push(now, link::NEMESIS, Event::Finale);
        while !self.finale.is_over() {
            let next = self.heap.next_at().unwrap_or(now);
            self.advance(next + SECOND)?;
        }
        self.sum_up();
        self.judge()
    }
}

/// Whether this is the stream that it listens on.
fn is_on(ear: &Ear, subscription: Subscription) -> bool {
    ear.stream().is_some_and(|(_, connection)| connection == subscription.connection)
}
