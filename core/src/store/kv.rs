//! What writes do to keys. Everything that could refuse them has been checked.

use alloc::vec::Vec;

use super::Event;
use super::apply::Builder;
use super::range::key_value;
use super::revisions::Rev;
use super::txn::{Done, execute};
use crate::Blob;
use crate::error::Error;
use crate::request::{
    DeleteRangeRequest, DeleteRangeResult, KeyValue, PutRequest, PutResult, RequestOp, ResponseOp, TxnRequest,
    TxnResult,
};

impl Builder<'_> {
    pub(super) fn put(&mut self, request: &PutRequest) -> PutResult {
        let PutRequest { key, .. } = request;
        let (mut value, mut lease) = (request.value.clone(), request.lease);
        let keeps = request.ignore_value || request.ignore_lease;
        if let Some((rev, meta)) = keeps.then(|| self.store.view.index.live(key)).flatten() {
            if request.ignore_value {
                value = self.values().value(key, rev.main(), rev.sub());
            }
            if request.ignore_lease {
                lease = meta.lease;
            }
        }
        let (main, sub) = (self.making(), self.sub());
        let rev = Rev::put(main, sub, value.len());
        let (meta, previous) = self.store.view.index.put(key, rev, lease);
        self.store.ledger.put(key.len(), value.len());
        let mut prev_kv = None;
        if let Some((rev, meta)) = previous {
            self.store.ledger.supersede(key.len(), rev.value_bytes());
            if request.prev_kv {
                let value = self.values().value(key, rev.main(), rev.sub());
                prev_kv = Some(KeyValue { value, ..key_value(key.clone(), rev, meta) });
            }
        }
        self.store.view.leases.moved(key, previous.and_then(|(_, meta)| meta.lease), lease);
        let kv = KeyValue { value, ..key_value(key.clone(), rev, meta) };
        self.current.push(Event::of(kv, false, sub, previous.map(|(rev, _)| rev)));
        PutResult { revision: main, prev_kv }
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResult {
        let live = self.store.view.index.iter(&request.range).filter_map(|(key, versions)| {
            let (rev, meta) = versions.live()?;
            Some((key_value(Blob::copy(key), rev, meta), rev.sub()))
        });
        let mut found: Vec<(KeyValue, u32)> = live.collect();
        if request.prev_kv {
            self.values().fill(&mut found);
        }
        for (kv, _) in &found {
            self.delete(kv.key.clone());
        }
        let deleted = i64::try_from(found.len()).expect("keys fit in memory");
        let prev_kvs = if request.prev_kv { found.into_iter().map(|(kv, _)| kv).collect() } else { Vec::new() };
        DeleteRangeResult { revision: self.now(), deleted, prev_kvs }
    }

    /// Deletes one key, which exists.
    pub(super) fn delete(&mut self, key: Blob) {
        let (main, sub) = (self.making(), self.sub());
        let (rev, meta) = self.store.view.index.delete(&key, Rev::tombstone(main, sub));
        self.store.ledger.supersede(key.len(), rev.value_bytes());
        self.store.view.leases.moved(&key, meta.lease, None);
        let kv = super::tombstone(key, main);
        self.current.push(Event::of(kv, true, sub, Some(rev)));
    }

    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResult, Error> {
        let mut fold = core::mem::take(&mut self.fold);
        let path = self.store.view.decide(&self.values(), request, &mut fold);
        self.fold = fold;
        self.store.view.check_txn(request, &path)?;
        Ok(execute(request, &path, &mut |op| {
            let response = op.map(|op| self.operation(op));
            Done { response, revision: self.now() }
        }))
    }

    fn operation(&mut self, op: &RequestOp) -> ResponseOp {
        match op {
            RequestOp::Range(range) => ResponseOp::Range(self.store.view.read(&self.values(), range, self.now())),
            RequestOp::Put(put) => ResponseOp::Put(self.put(put)),
            RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete_range(delete)),
            RequestOp::Txn(_) => unreachable!("nested txns are executed by their path"),
        }
    }

    /// The sub revision of the next change.
    fn sub(&self) -> u32 {
        u32::try_from(self.current.len()).expect("a request changes fewer than 2^32 keys")
    }
}
