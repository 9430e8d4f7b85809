//! A world that others drive: requests come from outside, and time passes as it is told.

use quorate_jepsen::history::Op;

use super::World;
use super::event::{Event, link};
use crate::call::Answer;
use crate::check::Verdict;
use crate::heap::{Nanos, SECOND};
use crate::schedule::Fault;

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
    pub fn ask_from_outside(&mut self, now: Nanos, client: usize, member: usize, op: Op, patience: Nanos) {
        self.outside.get_or_insert_default();
        let subject = self.begin_op(now, client, op);
        self.clients[client].caller.member = member;
        self.ask(now, client, subject, None, patience);
    }

    /// Answers since it was asked last, each with its client; `None`: it gave up waiting.
    pub fn take_answers(&mut self) -> Vec<(usize, Option<Answer>)> {
        self.outside.as_mut().map(std::mem::take).unwrap_or_default()
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
