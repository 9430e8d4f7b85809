//! Client requests that wait for their answer, and when to give them up.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::error::Error;
use crate::{Instant, RequestId};

/// Every request has the same patience, so their deadlines come in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Waits {
    open: BTreeMap<RequestId, Instant>,
    deadlines: VecDeque<(Instant, RequestId)>,
    leader_lost: Option<Instant>,
}

impl Waits {
    pub(super) fn open(&mut self, id: RequestId, since: Instant, deadline: Instant) {
        let before = self.open.insert(id, since);
        assert!(before.is_none(), "request {id} was asked twice");
        self.deadlines.push_back((deadline, id));
    }

    /// Whether `id` was still waiting; it is not any more.
    pub(super) fn close(&mut self, id: RequestId) -> bool {
        let was_open = self.open.remove(&id).is_some();
        while self.deadlines.front().is_some_and(|(_, id)| !self.open.contains_key(id)) {
            self.deadlines.pop_front();
        }
        was_open
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn close_all(&mut self) -> Vec<RequestId> {
        self.deadlines.clear();
        core::mem::take(&mut self.open).into_keys().collect()
    }

    pub(super) fn is_open(&self, id: RequestId) -> bool {
        self.open.contains_key(&id)
    }

    pub(super) fn leader_lost(&mut self, now: Instant) {
        self.leader_lost = Some(now);
    }

    /// The next request to give up, with the reason. Its outcome is unknown.
    pub(super) fn overdue(&mut self, now: Instant, leader_known: bool) -> Option<(RequestId, Error)> {
        while let Some(&(deadline, id)) = self.deadlines.front() {
            let since = self.open.get(&id).copied();
            if since.is_some() && deadline > now {
                return None;
            }
            self.deadlines.pop_front();
            let Some(since) = since else { continue };
            self.open.remove(&id);
            let error = match self.leader_lost {
                Some(lost) if lost >= since && leader_known => Error::TimeoutLeaderFailed,
                _ => Error::Timeout,
            };
            return Some((id, error));
        }
        None
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadlines.front().map_or(Instant::FAR, |&(deadline, _)| deadline)
    }
}
