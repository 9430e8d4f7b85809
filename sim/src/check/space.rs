//! Nobody says that there is no space where there is: an alarm stops every put of the whole cluster until somebody clears it.
//!
//! A member raises it for a request that is beyond the quota by a state that is no older than the request. So for each
//! time that the log is told of it by a member, there must be another request that reached this member, and a state that
//! was shown between what was committed by then and the alarm, that has no room for it and no such alarm yet.

use std::collections::BTreeMap;

use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::request::{Alarm, AlarmKind};
use quorate_core::{LogIndex, NodeId};
use quorate_node::status::Status;

use super::reference::Reference;
use super::{Verdict, Violation};
use crate::heap::{Nanos, SECOND};

/// A proposal that a member had no answer to is given up after this, or later; until then nothing but the log's answer
/// ends a call that raises an alarm. (5 s by the member's clock)
const PATIENCE: Nanos = 4 * SECOND;

/// A request that adds something, at a member.
#[derive(Clone, Copy, Debug)]
struct Request {
    member: usize,
    /// Bytes that it may add.
    cost: u64,
    arrived: Nanos,
    /// What was committed when it arrived.
    since: LogIndex,
    /// It was weighed by no later state.
    until: LogIndex,
    /// It is taken for the reason of an alarm.
    is_used: bool,
}

/// The requests that may raise alarms.
#[derive(Debug, Default)]
pub struct Space {
    quota: Option<u64>,
    under_way: BTreeMap<(usize, u64), Request>,
    /// Over, but what they told the log may still arrive there.
    over: Vec<Request>,
}

impl Space {
    /// Of a cluster with this quota.
    #[must_use]
    pub fn new(quota: Option<u64>) -> Self {
        Self { quota, ..Self::default() }
    }

    /// A client's call, which may add `cost` bytes, has reached `member` when so much was committed.
    pub fn arrived(&mut self, now: Nanos, call: (usize, u64), member: usize, cost: u64, committed: LogIndex) {
        if self.quota.is_some() && cost > 0 {
            let until = LogIndex(u64::MAX);
            let request = Request { member, cost, arrived: now, since: committed, until, is_used: false };
            self.under_way.insert(call, request);
        }
    }

    /// The call is answered, by a state after `applied`.
    pub fn answered<T>(&mut self, now: Nanos, call: (usize, u64), applied: LogIndex, answer: &Result<T, Status>) {
        let Some(request) = self.under_way.remove(&call) else { return };
        let is_refused = answer.as_ref().is_err_and(|status| *status == Error::NoSpace.into());
        if !is_refused || request.is_used {
            return;
        }
        if now >= request.arrived + PATIENCE {
            self.over.push(Request { until: applied, ..request });
        }
        // What another one was taken for the reason of was this one's doing, if that one's is still to come.
        let mut others = self.under_way.values_mut().filter(|other| other.member == request.member);
        if let Some(other) = others.find(|other| other.is_used) {
            other.is_used = false;
        }
    }

    /// Forgets what arrived before this time and is over; gives the first state that the rest may have been weighed by.
    pub fn forget(&mut self, before: Nanos) -> LogIndex {
        self.over.retain(|request| request.arrived >= before);
        let since = self.over.iter().chain(self.under_way.values()).map(|request| request.since);
        since.min().unwrap_or(LogIndex(u64::MAX))
    }

    /// A member starts anew, when so much is committed: whatever was asked of it before is over.
    pub fn started(&mut self, member: usize, committed: LogIndex) {
        let broken = self.under_way.values().filter(|request| request.member == member && !request.is_used);
        self.over.extend(broken.map(|request| Request { until: committed, ..*request }));
        self.under_way.retain(|_, request| request.member != member);
    }

    /// The member on machine `member`, whose name is `id`, tells the log at `at` that there is no space.
    ///
    /// # Errors
    /// There was.
    pub fn raised(&mut self, reference: &Reference, member: usize, id: NodeId, at: LogIndex) -> Verdict {
        let Some(quota) = self.quota.filter(|_| !mutant::is_on(Mutant::O23)) else { return Ok(()) };
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: id };
        let is_reason = |request: &Request| {
            let through = request.until.min(LogIndex(at.0 - 1));
            let mut states = reference.sizes(request.since, through);
            request.member == member
                && !request.is_used
                && states.any(|(at, bytes)| bytes + request.cost >= quota && !reference.has_alarm(alarm, at))
        };
        if let Some(found) = self.over.iter().position(is_reason) {
            self.over.swap_remove(found);
            return Ok(());
        }
        if let Some(found) = self.under_way.values_mut().find(|request| is_reason(request)) {
            found.is_used = true;
            return Ok(());
        }
        let requests: Vec<_> = self.under_way.values().filter(|request| request.member == member).collect();
        let text = format!("member {member} says at {at} that there is no space within {quota}: of {requests:?}");
        Err(Violation::new("space", text))
    }
}
