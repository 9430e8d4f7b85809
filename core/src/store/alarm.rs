//! Alarms: raised and cleared by entries, and what they forbid meanwhile. (etcd: alarm.AlarmStore, applierV3Capped,
//! applierV3Corrupt)

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::apply::Builder;
use super::hash::Effect;
use super::{View, rows};
use crate::command::Command;
use crate::error::Error;
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::request::{Alarm, AlarmKind, RequestOp, TxnRequest};
use crate::{Incarnation, NodeId};

impl View {
    /// The alarms that are on, by kind and member.
    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.alarms.iter().copied()
    }

    /// Whether an alarm of this kind is on, for whatever member.
    #[must_use]
    pub fn is_alarmed(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Whether the alarm is on that ends this life of a member.
    #[must_use]
    pub fn ends(&self, (member, life): (NodeId, Incarnation)) -> bool {
        self.alarms.contains(&Alarm::ending(member, life))
    }

    /// Whether the alarms that are on let `command` through, on member `here` as on every other.
    pub(super) fn permit(&self, command: &Command, here: NodeId) -> Result<(), Error> {
        if self.alarms.is_empty() {
            return Ok(());
        }
        let (changes, grows) = match command {
            Command::Put(_) | Command::LeaseGrant(_) => (true, true),
            Command::Txn(txn) => (true, may_put(txn)),
            Command::DeleteRange(_) | Command::Compact { .. } | Command::LeaseRevoke(_) | Command::LeaseExpire(_) => {
                (true, false)
            }
            Command::LeaseCheckpoint(_)
            | Command::Publish(_)
            | Command::RaiseFeatureLevel(_)
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::Downgrade(_)
            | Command::Auth(_)
            | Command::Members(_) => (false, false),
        };
        if changes && self.is_alarmed(AlarmKind::Corrupt) {
            return Err(Error::Corrupt);
        }
        let is_elsewhere = mutant::is_on(Mutant::A10) && self.alarms.iter().all(|alarm| alarm.member != here);
        if grows && self.is_alarmed(AlarmKind::NoSpace) && !is_elsewhere {
            return Err(Error::NoSpace);
        }
        Ok(())
    }
}

/// Whether there is a put anywhere in `txn`, whichever branch it takes.
fn may_put(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(txn) => may_put(txn) && !mutant::is_on(Mutant::Q01),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
    })
}

impl Builder<'_> {
    pub(super) fn raise_alarm(&mut self, alarm: Alarm) -> Vec<Alarm> {
        if Arc::make_mut(&mut self.store.view.alarms).insert(alarm) {
            self.writes.push(rows::write(rows::alarm(alarm), codec::encode(&())));
            self.fold.effect(Effect::AlarmRaised).encoded(&alarm);
            self.alarms_changed = true;
        }
        alloc::vec![alarm]
    }

    /// Clears this one and no other. An alarm that ends a life is shown to operators as CORRUPT, but is on until that life
    /// is over: before, another one might be ended.
    pub(super) fn clear_alarm(&mut self, alarm: Alarm) -> Vec<Alarm> {
        if !Arc::make_mut(&mut self.store.view.alarms).remove(&alarm) {
            return Vec::new();
        }
        self.writes.push(rows::remove(rows::alarm(alarm)));
        self.fold.effect(Effect::AlarmCleared).encoded(&alarm);
        self.alarms_changed = true;
        alloc::vec![alarm]
    }
}
