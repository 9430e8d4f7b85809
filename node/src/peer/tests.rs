use super::*;
use crate::member::Peers as _;

const OURS: Identity = Identity { cluster: ClusterId(1), member: NodeId(2), incarnation: Incarnation(3) };

fn hello(change: impl FnOnce(&mut pb::Hello)) -> Option<pb::Message> {
    let theirs = Identity { cluster: ClusterId(1), member: NodeId(5), incarnation: Incarnation(6) };
    let mut message = theirs.hello(NodeId(2));
    if let Some(pb::message::Message::Hello(hello)) = &mut message.message {
        change(hello);
    }
    Some(message)
}

#[test]
fn only_a_fitting_hello_opens_a_stream() {
    assert_eq!(OURS.check(hello(|_| {})), Ok(NodeId(5)));
    assert_eq!(OURS.check(None), Err(HelloError::Missing));
    let frames = pb::Message { message: Some(pb::message::Message::Frames(pb::Frames { frames: vec![] })) };
    assert_eq!(OURS.check(Some(frames)), Err(HelloError::Missing));
    let error = OURS.check(hello(|hello| hello.cluster_id = 9)).unwrap_err();
    assert_eq!(error.to_string(), "cluster ID mismatch: the peer is of cluster 9, this member of cluster 1");
    let error = OURS.check(hello(|hello| hello.to = 7)).unwrap_err();
    assert_eq!(error, HelloError::Member { wanted: 7, ours: 2 });
    let newer = hello(|hello| (hello.protocol_min, hello.protocol_max) = (2, 4));
    assert_eq!(OURS.check(newer), Err(HelloError::Protocol { min: 2, max: 4 }));
    assert_eq!(OURS.check(hello(|hello| hello.protocol_max = 4)), Ok(NodeId(5)), "a newer peer still speaks ours");
}

#[test]
fn frames_are_dropped_without_a_stream_and_above_the_bound() {
    let metrics = Metrics::new(NodeId(2), &[]);
    let peer = Peer {
        urgent: Arc::default(),
        bulk: Arc::default(),
        sent_bytes: metrics.peer_sent_bytes.with_label_values(&["5"]),
        dropped: metrics.peer_sent_failures.with_label_values(&["5"]),
    };
    let (urgent, dropped) = (Arc::clone(&peer.urgent), peer.dropped.clone());
    let mut network = Network { peers: [(NodeId(5), peer)].into() };
    let mut send = |bytes: usize, bulk| {
        network.send(&mut vec![Frame { to: NodeId(5), bytes: vec![0; bytes].into(), bulk }]);
    };
    send(1, false);
    assert_eq!(dropped.get(), 1, "no stream yet");
    let (mut queue, waiting_bytes) = urgent.open();
    send(2, false);
    send(3, true);
    assert_eq!(dropped.get(), 2, "the other lane has no stream");
    send(QUEUE_BYTES_MAX, false);
    assert_eq!(dropped.get(), 3, "too much waits");
    assert_eq!(waiting_bytes.load(Ordering::Relaxed), 2);
    assert_eq!(queue.try_recv().unwrap(), [Bytes::from_static(&[0, 0])]);
    assert!(queue.try_recv().is_err());
    urgent.close();
    send(1, false);
    assert_eq!(dropped.get(), 4);
}
