//! Keys: read, write, compare-and-write, forget history. (etcd: service KV)

use quorate_api::etcdserverpb as pb;
use quorate_core::Revision;
use quorate_core::auth::Author;
use quorate_core::command::{Command, Outcome};
use quorate_core::mutant::{self, Mutant};
use quorate_core::replica::{Request, Response};
use quorate_core::request::{KeyRange, RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest};
use quorate_core::store::Need;

use super::{Access, Local, Method, Settings, mismatch, trust};
use crate::status::{Code, Status};
use crate::wire::{request, response};

impl Method for pb::RangeRequest {
    type Reply = pb::RangeResponse;
    type Rest = RangeRequest;
    const PATH: &'static str = "/etcdserverpb.KV/Range";

    fn is_for_learners(&self) -> bool {
        self.serializable
    }

    fn is_long(range: &RangeRequest) -> bool {
        is_long(range)
    }

    fn access(range: &RangeRequest) -> Access<'_> {
        Access::State(Need::Read(&range.range))
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, RangeRequest), Status> {
        let range = request::range(self)?;
        Ok(((!range.serializable).then_some(Request::ReadIndex), range))
    }

    fn finish(range: RangeRequest, _: Option<Response>, local: &Local<'_>) -> Result<pb::RangeResponse, Status> {
        let result = local.view.range(local.rows, &range)?;
        Ok(response::range(local.header(result.revision), result))
    }
}

impl Method for pb::PutRequest {
    type Reply = pb::PutResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.KV/Put";

    fn cost(&self) -> u64 {
        put_cost(self)
    }

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, ()), Status> {
        let put = request::put(self, settings.limits)?;
        Ok((Some(Request::Command(Command::Put(put))), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::PutResponse, Status> {
        match answer {
            Some(Response::Outcome(Outcome::Put(result))) => Ok(response::put(local.header(result.revision), result)),
            other => mismatch(other.as_ref()),
        }
    }
}

impl Method for pb::DeleteRangeRequest {
    type Reply = pb::DeleteRangeResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.KV/DeleteRange";

    fn access((): &()) -> Access<'_> {
        Access::Command
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, ()), Status> {
        let delete = request::delete_range(self, settings.limits)?;
        Ok((Some(Request::Command(Command::DeleteRange(delete))), ()))
    }

    fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::DeleteRangeResponse, Status> {
        match answer {
            Some(Response::Outcome(Outcome::DeleteRange(result))) => {
                Ok(response::delete_range(local.header(result.revision), result))
            }
            other => mismatch(other.as_ref()),
        }
    }
}

impl Method for pb::TxnRequest {
    type Reply = pb::TxnResponse;
    /// The txn, if it only reads.
    type Rest = Option<TxnRequest>;
    const PATH: &'static str = "/etcdserverpb.KV/Txn";

    fn cost(&self) -> u64 {
        txn_cost(self)
    }

    fn is_long(txn: &Self::Rest) -> bool {
        txn.as_ref().is_some_and(|txn| {
            txn.compare.iter().any(|compare| !matches!(compare.range, KeyRange::Key(_)))
                || [&txn.success, &txn.failure]
                    .into_iter()
                    .flatten()
                    .any(|op| matches!(op, RequestOp::Range(range) if is_long(range)))
        })
    }

    fn access(txn: &Self::Rest) -> Access<'_> {
        txn.as_ref().map_or(Access::Command, |txn| Access::State(Need::Txn(txn)))
    }

    fn start(self, settings: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        let txn = request::txn(self, settings.limits)?;
        if !request::is_read_only(&txn) {
            return Ok((Some(Request::Command(Command::Txn(txn))), None));
        }
        let ask = (!request::is_serializable(&txn)).then_some(Request::ReadIndex);
        Ok((ask, Some(txn)))
    }

    fn finish(read: Self::Rest, answer: Option<Response>, local: &Local<'_>) -> Result<pb::TxnResponse, Status> {
        let result = match (read, answer) {
            (Some(txn), None | Some(Response::Readable)) => local.view.txn(local.rows, &txn)?,
            (None, Some(Response::Outcome(Outcome::Txn(result)))) => result,
            (_, other) => mismatch(other.as_ref()),
        };
        Ok(response::txn(local.header(result.revision), result))
    }
}

impl Method for pb::CompactionRequest {
    type Reply = pb::CompactionResponse;
    /// The floor, if the reply waits until the rows below it are physically gone.
    type Rest = Option<Revision>;
    const PATH: &'static str = "/etcdserverpb.KV/Compact";

    fn waits_for_compaction(floor: &Option<Revision>) -> Option<Revision> {
        *floor
    }

    fn access(_: &Self::Rest) -> Access<'_> {
        Access::Command
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        let revision = Revision(self.revision);
        Ok((Some(Request::Command(Command::Compact { revision })), self.physical.then_some(revision)))
    }

    fn finish(_: Self::Rest, answer: Option<Response>, local: &Local<'_>) -> Result<pb::CompactionResponse, Status> {
        match answer {
            Some(Response::Outcome(Outcome::Compact(revision))) => {
                Ok(pb::CompactionResponse { header: Some(local.header(revision)) })
            }
            other => mismatch(other.as_ref()),
        }
    }
}

/// What the quota counts for a put beyond its key and its value. (etcd: kvOverhead)
const PUT_OVERHEAD_BYTES: u64 = 256;

fn put_cost(put: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

/// The puts of the dearer branch, those of nested txns included.
fn txn_cost(txn: &pb::TxnRequest) -> u64 {
    use pb::request_op::Request;
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        let cost = |op: &pb::RequestOp| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(_)) if mutant::is_on(Mutant::U09) => 0,
            Some(Request::RequestTxn(txn)) => txn_cost(txn),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// Reads of more than this many keys get out of other requests' way.
const LONG_READ_KEYS: u64 = 100;

/// Whether more keys than [`LONG_READ_KEYS`] may have to be looked at. A small limit bounds that only if what is answered
/// are the first keys there are now: an order or a filter needs all of them, and the past has to be counted.
fn is_long(range: &RangeRequest) -> bool {
    if matches!(range.range, KeyRange::Key(_)) {
        return false;
    }
    let is_bounded = range.limit != 0 && range.limit <= LONG_READ_KEYS;
    let reads_all = range.sort_order != SortOrder::None || range.is_filtered() || range.revision.is_some();
    !is_bounded || reads_all
}

/// One `KV.RangeStream` call: pages through a range at one revision. (etcd 3.7)
#[derive(Debug)]
pub struct RangeStream {
    request: RangeRequest,
    /// The store's revision when the first chunk was read.
    now: Option<Revision>,
    /// Keys the next chunk asks for; 0: all there are.
    chunk: u64,
    /// Bytes a chunk aims at.
    bytes_max: u64,
    sent: u64,
    /// The whole answer's count, known from the first chunk.
    count: i64,
    finished: bool,
}

impl RangeStream {
    /// Keys in the first chunk.
    const FIRST_CHUNK: u64 = 10;

    /// Checks the request; says what to ask of consensus before [`RangeStream::next`].
    ///
    /// # Errors
    /// etcd's status for a request it would refuse.
    pub fn start(request: pb::RangeRequest, settings: &Settings) -> Result<(Option<Request>, Self), Status> {
        // A negative limit is none, and is less than that of any chunk. (etcd)
        let chunk = if request.limit < 0 { 0 } else { Self::FIRST_CHUNK };
        let request = request::range(request)?;
        let order = (request.sort_order, request.sort_target);
        // Without an order, each chunk is sorted by its target, as a limited range is.
        if !matches!(order, (SortOrder::None, _) | (SortOrder::Ascend, SortTarget::Key)) {
            return Err(Status::new(Code::Unimplemented, "RangeStream does not support custom sort orders"));
        }
        if request.is_filtered() {
            return Err(Status::new(Code::Unimplemented, "RangeStream does not support revision filters"));
        }
        let ask = (!request.serializable).then_some(Request::ReadIndex);
        let bytes_max = settings.limits.request_bytes_max;
        Ok((ask, Self { request, now: None, chunk, bytes_max, sent: 0, count: 0, finished: false }))
    }

    /// What the caller must be allowed.
    #[must_use]
    pub fn access(&self) -> Access<'_> {
        Access::State(Need::Read(&self.request.range))
    }

    /// The next message, or `None` after the last one. Header, `more` and `count` are in the last one only. The first one
    /// decides for all of them which revision is read, and whether `author` may.
    ///
    /// # Errors
    /// As `KV.Range`; compaction may overtake a slow reader.
    pub fn next(&mut self, author: &Author, local: &Local<'_>) -> Result<Option<pb::RangeStreamResponse>, Status> {
        use prost::Message as _;
        if self.finished {
            return Ok(None);
        }
        trust(local.status)?;
        if self.now.is_none() {
            local.view.check(author, &Need::Read(&self.request.range))?;
        }
        let left = self.request.limit.saturating_sub(self.sent);
        let mut page = self.request.clone();
        page.limit = match (self.request.count_only, self.request.limit) {
            (true, _) => 0,
            (false, 0) => self.chunk,
            (false, _) => self.chunk.min(left),
        };
        let result = local.view.range(local.rows, &page)?;
        if self.sent == 0 {
            self.count = result.count;
        }
        // What is read stays the same; the header tells how far the store was at first, also of an older revision.
        let now = *self.now.get_or_insert(result.revision);
        self.request.revision.get_or_insert(now);
        self.sent += result.kvs.len() as u64;
        self.finished = !result.more || (self.request.limit != 0 && self.sent >= self.request.limit);
        if let Some(last) = result.kvs.iter().map(|kv| &kv.key).max() {
            self.continue_after(&last.0);
        }
        let header = local.header(now);
        let mut reply = response::range(header, result);
        let bytes = reply.encoded_len() as u64;
        if bytes < self.bytes_max / 2 {
            self.chunk = self.chunk.saturating_mul(2);
        } else if bytes > self.bytes_max.saturating_mul(2) {
            self.chunk = (self.chunk / 2).max(1);
        }
        if self.finished {
            reply.count = self.count;
        } else {
            (reply.header, reply.more, reply.count) = (None, false, 0);
        }
        Ok(Some(pb::RangeStreamResponse { range_response: Some(reply) }))
    }

    /// The rest of the range starts at the smallest key greater than `last`.
    fn continue_after(&mut self, last: &[u8]) {
        let mut start = Vec::with_capacity(last.len() + 1);
        start.extend_from_slice(last);
        start.push(0);
        match &mut self.request.range {
            KeyRange::Key(_) => self.finished = true,
            KeyRange::Bounded { start: from, .. } | KeyRange::From(from) => *from = start.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_long_of(request: pb::RangeRequest) -> bool {
        is_long(&request::range(request).unwrap())
    }

    #[test]
    fn a_read_is_long_if_many_keys_may_have_to_be_looked_at() {
        let first = pb::RangeRequest { key: "a".into(), range_end: "z".into(), limit: 10, ..Default::default() };
        assert!(!is_long_of(first.clone()));
        assert!(is_long_of(pb::RangeRequest { limit: 0, ..first.clone() }));
        assert!(is_long_of(pb::RangeRequest { limit: 101, ..first.clone() }));
        let descend = pb::range_request::SortOrder::Descend.into();
        let despite_their_limit = [
            pb::RangeRequest { sort_order: descend, ..first.clone() },
            pb::RangeRequest { min_mod_revision: 5, ..first.clone() },
            pb::RangeRequest { max_mod_revision: 5, ..first.clone() },
            pb::RangeRequest { min_create_revision: 5, ..first.clone() },
            pb::RangeRequest { max_create_revision: 5, ..first.clone() },
            pb::RangeRequest { revision: 5, ..first.clone() },
        ];
        for request in despite_their_limit {
            assert!(is_long_of(request.clone()), "{request:?}");
            assert!(!is_long_of(pb::RangeRequest { range_end: "".into(), ..request.clone() }), "one key: {request:?}");
            let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(request)) };
            let txn = pb::TxnRequest { failure: vec![op], ..Default::default() };
            let txn = request::txn(txn, crate::wire::Limits::default()).unwrap();
            assert!(<pb::TxnRequest as Method>::is_long(&Some(txn)), "in a txn");
        }
    }
}
