//! A downgrade of the cluster that was begun and not cancelled. (etcd: DowngradeInfo)

use alloc::string::String;
use alloc::sync::Arc;

use super::apply::Builder;
use super::hash::Effect;
use super::{View, rows};
use crate::error::Error;
use crate::format::codec;

impl View {
    /// The version that a downgrade under way goes down to.
    #[must_use]
    pub fn downgrade(&self) -> Option<&str> {
        self.downgrade.as_deref()
    }
}

impl Builder<'_> {
    pub(super) fn downgrade(&mut self, target: Option<String>) -> Result<(), Error> {
        if target.is_some() && self.store.view.downgrade.is_some() {
            return Err(Error::DowngradeInProcess);
        }
        let row = rows::downgrade();
        self.writes.push(match &target {
            Some(target) => rows::write(row, codec::encode(target)),
            None => rows::remove(row),
        });
        self.fold.effect(Effect::Downgrade).encoded(&target);
        self.store.view.downgrade = target.map(Arc::from);
        Ok(())
    }
}
