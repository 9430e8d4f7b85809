//! Watch streams: client messages to inputs of the hub, the hub's responses to messages. (etcd: service Watch)

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_api::{etcdserverpb as pb, mvccpb};
use quorate_core::request::{KeyRange, KeyValue};
use quorate_core::store::Event;
use quorate_core::watch::{Create, Delivered, Input, Response};
use quorate_core::{Blob, Revision, StreamId, Term, WatchId};

use crate::status::Status;
use crate::wire::{GRPC_OVERHEAD_BYTES, Limits, Responder, response};

/// What etcd calls the whole stream.
const WHOLE_STREAM: i64 = -1;

/// The hub's input for a client's message; `None` for a message without content, which etcd ignores.
#[must_use]
pub fn input(stream: StreamId, request: pb::WatchRequest) -> Option<Input> {
    use pb::watch_request::RequestUnion;
    Some(match request.request_union? {
        RequestUnion::CreateRequest(create) => Input::Create(stream, self::create(create)),
        RequestUnion::CancelRequest(cancel) => Input::Cancel(stream, WatchId(cancel.watch_id)),
        RequestUnion::ProgressRequest(pb::WatchProgressRequest {}) => Input::Progress(stream),
    })
}

/// The keys a client must be allowed to read for what it asks; `None` if it asks for none.
#[must_use]
pub fn keys(request: &pb::WatchRequest) -> Option<KeyRange> {
    use pb::watch_request::RequestUnion;
    let Some(RequestUnion::CreateRequest(create)) = &request.request_union else { return None };
    let (key, end) = (create.key.clone(), create.range_end.clone());
    // A range without keys is refused as such to whoever may read where it starts.
    let empty = || KeyRange::Bounded { start: Blob(create.key.clone()), end: Blob(create.range_end.clone()) };
    Some(range(key, end).unwrap_or_else(empty))
}

/// The answer to a create that is refused, which does not end the stream. (etcd)
#[must_use]
pub fn refusal(header: pb::ResponseHeader, status: &Status) -> WatchReply {
    WatchReply {
        header: Some(header),
        watch_id: WHOLE_STREAM,
        created: true,
        canceled: true,
        cancel_reason: status.to_string_of_grpc(),
        ..WatchReply::default()
    }
}

fn create(request: pb::WatchCreateRequest) -> Create {
    use pb::watch_create_request::FilterType;
    let filter = |filter: FilterType| request.filters.contains(&(filter as i32));
    let (no_put, no_delete) = (filter(FilterType::Noput), filter(FilterType::Nodelete));
    Create {
        range: range(request.key, request.range_end),
        start: (request.start_revision != 0).then_some(Revision(request.start_revision)),
        id: (request.watch_id != 0).then_some(WatchId(request.watch_id)),
        progress_notify: request.progress_notify,
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
    }
}

/// The keys of a watcher: an empty key is a zero byte here, and an end at or before the key is no range at all.
fn range(key: Bytes, range_end: Bytes) -> Option<KeyRange> {
    let key = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
    match &range_end[..] {
        [] => Some(KeyRange::Key(Blob(key))),
        [0] => Some(KeyRange::From(Blob(key))),
        end if &key[..] >= end => None,
        _ => Some(KeyRange::Bounded { start: Blob(key), end: Blob(range_end) }),
    }
}

/// A `WatchResponse` whose events are encoded already, so that watchers of the same event share its bytes. On the wire
/// an encoded message and a byte string look alike.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchReply {
    /// Who answers.
    #[prost(message, optional, tag = "1")]
    pub header: Option<pb::ResponseHeader>,
    /// The watcher, or -1.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// Answers a create.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watcher is gone.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// The floor that made it impossible to go on, else 0.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// etcd's text.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// Encoded `mvccpb.Event`s.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub events: Vec<Bytes>,
}

/// Makes replies of the hub's responses, encoding every event once for all watchers in one batch of responses.
#[derive(Debug)]
pub struct Encoder {
    responder: Responder,
    fragment_bytes: u64,
    /// Events of the batch at hand by identity; keeping them keeps the identity true.
    shared: BTreeMap<(usize, usize), (Delivered, Bytes)>,
}

impl Encoder {
    /// An encoder for one member.
    #[must_use]
    pub fn new(responder: Responder, limits: Limits) -> Self {
        let fragment_bytes = limits.request_bytes_max + GRPC_OVERHEAD_BYTES;
        Self { responder, fragment_bytes, shared: BTreeMap::new() }
    }

    /// Forgets the batch at hand. Call after the responses of one step of the hub.
    pub fn end_batch(&mut self) {
        self.shared.clear();
    }

    /// The messages of one response: one, or several if the client accepts that and it would be too large for one.
    pub fn replies(&mut self, term: Term, response: Response) -> Vec<WatchReply> {
        let whole = WatchReply {
            header: Some(self.responder.header(term, response.revision.unwrap_or(Revision(0)))),
            watch_id: response.watch.map_or(WHOLE_STREAM, |watch| watch.0),
            created: response.created,
            canceled: response.canceled,
            compact_revision: response.compact_revision.map_or(0, |revision| revision.0),
            cancel_reason: response.cancel_reason,
            fragment: false,
            events: response.events.iter().map(|event| self.encoded(event)).collect(),
        };
        if response.fragment { fragments(whole, self.fragment_bytes) } else { vec![whole] }
    }

    fn encoded(&mut self, delivered: &Delivered) -> Bytes {
        let previous = delivered.prev_kv.as_ref().map_or(0, |kv| Arc::as_ptr(kv).addr());
        let identity = (Arc::as_ptr(&delivered.event).addr(), previous);
        let (_, bytes) = self.shared.entry(identity).or_insert_with(|| {
            let message = event(&delivered.event, delivered.prev_kv.as_deref());
            (delivered.clone(), message.encode_to_vec().into())
        });
        bytes.clone()
    }
}

fn event(event: &Event, previous: Option<&KeyValue>) -> mvccpb::Event {
    use mvccpb::event::EventType;
    mvccpb::Event {
        r#type: if event.deleted { EventType::Delete } else { EventType::Put } as i32,
        kv: Some(response::key_value(event.kv.clone())),
        prev_kv: previous.cloned().map(response::key_value),
    }
}

/// Splits a reply of two or more events whose size reaches `bytes_max` into pieces below it; a single event is never
/// split. All pieces but the last say that more follows.
fn fragments(whole: WatchReply, bytes_max: u64) -> Vec<WatchReply> {
    let size = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    if size(whole.encoded_len()) < bytes_max || whole.events.len() < 2 {
        return vec![whole];
    }
    let empty = WatchReply { events: vec![], fragment: true, ..whole.clone() };
    let overhead = size(empty.encoded_len());
    let mut pieces = vec![empty.clone()];
    let mut bytes = overhead;
    for event in whole.events {
        let event_bytes = size(prost::encoding::bytes::encoded_len(11, &event));
        let piece = pieces.last_mut().expect("the list is never empty");
        if !piece.events.is_empty() && bytes + event_bytes >= bytes_max {
            bytes = overhead + event_bytes;
            pieces.push(WatchReply { events: vec![event], ..empty.clone() });
        } else {
            bytes += event_bytes;
            piece.events.push(event);
        }
    }
    pieces.last_mut().expect("the list is never empty").fragment = false;
    pieces
}

#[cfg(test)]
mod tests;
