//! What locks and elections share: a leased key under `<name>/`; whoever created the oldest one is first.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_api::mvccpb::KeyValue;
use quorate_core::error::Error;
use quorate_core::request::KeyRange;
use quorate_core::rows::Rows;
use quorate_core::watch::{Create, Input};
use quorate_core::{Blob, Revision};

use super::{Caller, Server};
use crate::status::{Code, Status};

/// Seconds a lease lives that nobody asked for by name.
const LEASE_TTL: i64 = 60;

/// A key in the queue of `name`. Unless it is [kept](Place::keep), dropping it leaves the queue: the key is removed.
pub(super) struct Place<S: Rows + Send + Sync + 'static> {
    server: Arc<Server<S>>,
    caller: Caller,
    prefix: Vec<u8>,
    pub(super) key: Bytes,
    pub(super) lease: i64,
    /// When the key was created: its place in the queue.
    pub(super) revision: i64,
    /// The value found there, if the key had been created before.
    pub(super) found: Option<KeyValue>,
    /// Of the answer that said so.
    pub(super) header: Option<pb::ResponseHeader>,
    /// Whether nobody was ahead then.
    pub(super) is_first: bool,
    kept: bool,
}

impl<S: Rows + Send + Sync + 'static> Place<S> {
    /// Creates the key `<name>/<lease in hex>`, or finds it; grants a lease if `lease` is 0.
    ///
    /// Of a refusal nothing is left to undo, and if the outcome is unknown, nothing is undone: the key may have been there
    /// before, and its owner may hold what it stands for. The lease removes it in the end. (etcd)
    pub(super) async fn take(
        server: &Arc<Server<S>>,
        caller: &Caller,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Self, Status> {
        let lease = match lease {
            0 => server.call(caller, pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 }).await?.id,
            lease => lease,
        };
        let prefix = prefix(name);
        let key = Bytes::from([&prefix[..], hex(lease).as_bytes()].concat());
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let first = || op(pb::request_op::Request::RequestRange(oldest(&prefix)));
        let txn = pb::TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![op(pb::request_op::Request::RequestPut(put)), first()],
            failure: vec![op(pb::request_op::Request::RequestRange(get)), first()],
        };
        let reply = server.call(caller, txn).await?;
        let mut ranges = reply.responses.into_iter().filter_map(|op| match op.response {
            Some(pb::response_op::Response::ResponseRange(range)) => Some(range.kvs.into_iter().next()),
            _ => None,
        });
        let found = if reply.succeeded { None } else { ranges.next().flatten() };
        let now = reply.header.as_ref().map_or(0, |header| header.revision);
        let revision = found.as_ref().map_or(now, |kv| kv.create_revision);
        let is_first = ranges.next().flatten().is_none_or(|kv| kv.create_revision == revision);
        let (server, caller, header) = (Arc::clone(server), caller.clone(), reply.header);
        Ok(Self { server, caller, prefix, key, lease, revision, found, header, is_first, kept: false })
    }

    /// Waits until no older key is left under the prefix.
    pub(super) async fn wait(&self) -> Result<(), Status> {
        if self.is_first {
            return Ok(());
        }
        loop {
            let mut older = oldest(&self.prefix);
            older.sort_order = pb::range_request::SortOrder::Descend.into();
            older.max_create_revision = self.revision - 1;
            let reply = self.server.call(&self.caller, older).await?;
            let Some(ahead) = reply.kvs.into_iter().next() else { return Ok(()) };
            let range = KeyRange::Key(Blob(ahead.key));
            let now = reply.header.map_or(0, |header| header.revision);
            tokio::select! {
                () = self.server.member.suspected() => return Err(Error::Stopped.into()),
                event = next_event(&self.server, range, now + 1, true) => event?,
            }
        }
    }

    /// Whether the key is still there as it was found or created; and the header of the read that says so.
    pub(super) async fn is_there(&self) -> Result<(bool, Option<pb::ResponseHeader>), Status> {
        let get = pb::RangeRequest { key: self.key.clone(), ..Default::default() };
        let reply = self.server.call(&self.caller, get).await?;
        Ok((reply.kvs.iter().any(|kv| kv.create_revision == self.revision), reply.header))
    }

    /// The place is won: the key stays.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl<S: Rows + Send + Sync + 'static> Drop for Place<S> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (server, caller) = (Arc::clone(&self.server), self.caller.clone());
        let leave = remove(self.key.clone(), self.revision);
        tokio::spawn(async move {
            // If this fails the lease removes the key.
            let _ = server.call(&caller, leave).await;
        });
    }
}

/// A lease in a key: hexadecimal with a sign, as Go prints it.
fn hex(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

/// What became of a call that these services made on behalf of their client. etcd makes it with its own client library,
/// whose errors have texts only: the code is lost on the way.
pub(super) fn on_behalf(status: Status) -> Status {
    let known = status.message.starts_with("etcdserver: ") && status.message != Error::TimeoutWaitApplied.to_string();
    if known { Status::new(Code::Unknown, status.message) } else { status }
}

pub(super) fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The end of the range of all keys that start with `prefix`, which ends in a slash.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix ends in a slash") += 1;
    end
}

/// Reads the key that was created first under `prefix`.
pub(super) fn oldest(prefix: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..Default::default()
    }
}

/// Holds if `key` was created at `revision`; 0 is "does not exist".
pub(super) fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Create.into(),
        key,
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// Removes `key` if it still is the one that was created at `revision`.
pub(super) fn remove(key: Bytes, revision: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![created_at(key, revision)],
        success: vec![op(pb::request_op::Request::RequestDeleteRange(delete))],
        failure: vec![],
    }
}

pub(super) fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Waits for a change in `range` at `from` or later, or only for a delete. Returns as well if compaction hides whether
/// there was one: the caller looks again anyway.
pub(super) async fn next_event<S: Rows + Send + Sync + 'static>(
    server: &Server<S>,
    range: KeyRange,
    from: i64,
    only_deletes: bool,
) -> Result<(), Status> {
    let mut stream = server.member.watch();
    let create = Create {
        range: Some(range),
        start: Some(Revision(from)),
        id: None,
        progress_notify: false,
        no_put: only_deletes,
        no_delete: false,
        prev_kv: false,
        fragment: false,
    };
    stream.send(Input::Create(stream.id, create));
    while let Some(response) = stream.next().await {
        if response.canceled || !response.events.is_empty() {
            return Ok(());
        }
        stream.taken(response.bytes());
    }
    Err(Error::Stopped.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_in_a_key_is_printed_as_go_does() {
        let cases = [(1, "1"), (0x7a_0b, "7a0b"), (-7, "-7"), (-255, "-ff"), (i64::MIN, "-8000000000000000")];
        for (lease, text) in cases {
            assert_eq!(hex(lease), text);
        }
    }

    #[test]
    fn a_refusal_on_behalf_of_a_client_has_lost_its_code() {
        let refused = on_behalf(Error::LeaseNotFound.into());
        assert_eq!(refused, Status::new(Code::Unknown, "etcdserver: requested lease not found"));
        assert_eq!(on_behalf(Error::TimeoutWaitApplied.into()).code, Code::Unavailable);
        assert_eq!(on_behalf(Status::new(Code::Unknown, "election: no leader")).message, "election: no leader");
    }
}
