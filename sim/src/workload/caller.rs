//! Whoever asks one member after the other, with one call under way at a time.

use quorate_core::rng::Rng;

use super::client::{Pending, Subject};
use crate::heap::Nanos;

/// Whom it asks, and what it waits for: a [`Pending`], unless said otherwise.
#[derive(Clone, Debug)]
pub struct Caller<P = Pending> {
    /// The member it talks to.
    pub member: usize,
    /// The call under way.
    pub pending: Option<P>,
    calls: u64,
}

impl<P> Caller<P> {
    /// One that begins with `member`.
    #[must_use]
    pub fn new(member: usize) -> Self {
        Self { member, pending: None, calls: 0 }
    }

    /// A call is sent, which `pending` makes of its number; gives the number.
    ///
    /// # Panics
    /// If one is under way.
    pub fn sent(&mut self, pending: impl FnOnce(u64) -> P) -> u64 {
        assert!(self.pending.is_none(), "one call at a time");
        self.calls += 1;
        self.pending = Some(pending(self.calls));
        self.calls
    }

    /// The pending call, if it is this one, which is over now.
    pub fn ended(&mut self, call: u64) -> Option<P> {
        self.pending.take_if(|_| call == self.calls)
    }

    /// Goes to another of these members, or stays.
    pub fn move_on(&mut self, rng: &mut Rng, members: &[usize]) {
        self.member = pick(rng, members);
    }
}

impl Caller {
    /// A call about `subject` is sent now; gives its number.
    ///
    /// # Panics
    /// As [`Caller::sent`].
    pub fn asked(&mut self, subject: Subject, now: Nanos) -> u64 {
        self.sent(|call| Pending { call, subject, sent: now })
    }
}

/// One of these members.
pub fn pick(rng: &mut Rng, members: &[usize]) -> usize {
    members[usize::try_from(rng.below(members.len() as u64)).expect("few members")]
}
