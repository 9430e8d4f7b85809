use quorate_core::{ClusterId, LeaseId, NodeId};

use super::*;

const RESPONDER: Responder = Responder { cluster: ClusterId(7), member: NodeId(8) };

fn kv(key: &'static str, value: Vec<u8>) -> KeyValue {
    KeyValue {
        key: key.into(),
        create_revision: Revision(4),
        mod_revision: Revision(5),
        version: 2,
        value: value.into(),
        lease: Some(LeaseId(9)),
    }
}

fn delivered(key: &'static str, bytes: usize, prev_kv: bool) -> Delivered {
    let event = Event { kv: kv(key, vec![1; bytes]), deleted: false, sub: 0, previous: None, previous_bytes: 0 };
    Delivered { event: Arc::new(event), prev_kv: prev_kv.then(|| Arc::new(kv(key, vec![2]))) }
}

fn response(events: Vec<Delivered>) -> Response {
    Response {
        watch: Some(WatchId(3)),
        revision: Some(Revision(5)),
        created: false,
        canceled: false,
        compact_revision: None,
        cancel_reason: String::new(),
        events,
        fragment: true,
    }
}

#[test]
fn a_reply_is_a_watch_response_on_the_wire() {
    let mut encoder = Encoder::new(RESPONDER, Limits::default());
    let mut given = response(vec![delivered("a", 3, true), delivered("b", 0, false)]);
    given.canceled = true;
    given.created = true;
    given.compact_revision = Some(Revision(2));
    given.cancel_reason = "why".to_owned();
    let replies = encoder.replies(Term(6), given);
    let decoded = pb::WatchResponse::decode(&replies[0].encode_to_vec()[..]).unwrap();
    let put = |key: &'static str, bytes: usize, prev: bool| mvccpb::Event {
        r#type: 0,
        kv: Some(response::key_value(kv(key, vec![1; bytes]))),
        prev_kv: prev.then(|| response::key_value(kv(key, vec![2]))),
    };
    let expected = pb::WatchResponse {
        header: Some(pb::ResponseHeader { cluster_id: 7, member_id: 8, revision: 5, raft_term: 6 }),
        watch_id: 3,
        created: true,
        canceled: true,
        compact_revision: 2,
        cancel_reason: "why".to_owned(),
        fragment: false,
        events: vec![put("a", 3, true), put("b", 0, false)],
    };
    assert_eq!(decoded, expected);
}

#[test]
fn a_response_for_the_whole_stream_has_watch_id_minus_one() {
    let mut encoder = Encoder::new(RESPONDER, Limits::default());
    let reply = encoder.replies(Term(1), Response { watch: None, revision: None, ..response(vec![]) }).remove(0);
    assert_eq!((reply.watch_id, reply.header.unwrap().revision), (-1, 0));
}

#[test]
fn watchers_of_one_event_share_its_bytes_within_a_batch() {
    let mut encoder = Encoder::new(RESPONDER, Limits::default());
    let event = delivered("a", 100, false);
    let with_previous = Delivered { prev_kv: Some(Arc::new(kv("a", vec![]))), ..event.clone() };
    let mut send =
        |event: &Delivered| encoder.replies(Term(1), response(vec![event.clone()])).remove(0).events.remove(0);
    let (first, second, third) = (send(&event), send(&event), send(&with_previous));
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_ne!(first, third, "a previous state makes it another message");
    encoder.end_batch();
    assert!(encoder.shared.is_empty());
}

#[test]
fn only_a_large_response_is_split_and_only_if_the_client_accepts_it() {
    let limits = Limits { request_bytes_max: 1000, ..Limits::default() };
    let mut encoder = Encoder::new(RESPONDER, limits);
    let limit = usize::try_from(1000 + GRPC_OVERHEAD_BYTES).unwrap();
    let big =
        || vec![delivered("a", limit / 2, false), delivered("b", limit / 3, false), delivered("c", limit / 3, false)];
    assert_eq!(encoder.replies(Term(1), Response { fragment: false, ..response(big()) }).len(), 1);
    let pieces = encoder.replies(Term(1), response(big()));
    assert_eq!(pieces.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [true, false]);
    assert_eq!(pieces.iter().map(|piece| piece.events.len()).collect::<Vec<_>>(), [2, 1]);
    assert!(pieces.iter().all(|piece| piece.encoded_len() < limit && piece.watch_id == 3));
    assert_eq!(
        encoder.replies(Term(1), response(vec![delivered("a", limit * 2, false)])).len(),
        1,
        "one event is whole"
    );
    assert_eq!(encoder.replies(Term(1), response(vec![delivered("a", 9, false), delivered("b", 9, false)])).len(), 1);
}

#[test]
fn create_requests_lose_their_sentinels() {
    use pb::watch_request::RequestUnion;
    let of = |request: pb::WatchCreateRequest| {
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
        match input(StreamId(1), request) {
            Some(Input::Create(StreamId(1), create)) => create,
            other => panic!("{other:?}"),
        }
    };
    let ranged = |key: &'static str, end: &'static str| {
        of(pb::WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }).range
    };
    assert_eq!(ranged("", ""), Some(KeyRange::Key("\0".into())));
    assert_eq!(ranged("", "\0"), Some(KeyRange::From("\0".into())));
    assert_eq!(ranged("b", "b"), None);
    assert_eq!(ranged("b", "a"), None);
    assert_eq!(ranged("a", "b"), Some(KeyRange::Bounded { start: "a".into(), end: "b".into() }));
    let plain = of(pb::WatchCreateRequest::default());
    assert_eq!((plain.start, plain.id, plain.no_put, plain.no_delete), (None, None, false, false));
    let full = of(pb::WatchCreateRequest {
        start_revision: -3,
        watch_id: 5,
        filters: vec![1, 9],
        prev_kv: true,
        fragment: true,
        progress_notify: true,
        ..Default::default()
    });
    assert_eq!((full.start, full.id), (Some(Revision(-3)), Some(WatchId(5))));
    assert!(!full.no_put && full.no_delete && full.prev_kv && full.fragment && full.progress_notify);
    assert_eq!(input(StreamId(1), pb::WatchRequest { request_union: None }), None);
}
