use super::*;

const OURS: Identity = Identity { cluster: ClusterId(1), member: NodeId(2), incarnation: Incarnation(3) };

fn hello(change: impl FnOnce(&mut pb::Hello)) -> Option<pb::Message> {
    let theirs = Identity { cluster: ClusterId(1), member: NodeId(5), incarnation: Incarnation(6) };
    let mut message = theirs.hello(NodeId(2), &[]);
    if let Some(pb::message::Message::Hello(hello)) = &mut message.message {
        change(hello);
    }
    Some(message)
}

#[test]
fn only_a_fitting_hello_opens_a_stream() {
    assert_eq!(OURS.check(hello(|_| {})), Ok((NodeId(5), vec![])));
    assert_eq!(OURS.check(None), Err(HelloError::Missing));
    let frames = pb::Message { message: Some(pb::message::Message::Frames(pb::Frames { frames: vec![] })) };
    assert_eq!(OURS.check(Some(frames)), Err(HelloError::Missing));
    let error = OURS.check(hello(|hello| hello.cluster_id = 9)).unwrap_err();
    assert_eq!(error.to_string(), "cluster ID mismatch: the peer is of cluster 9, this member of cluster 1");
    let error = OURS.check(hello(|hello| hello.to = 7)).unwrap_err();
    assert_eq!(error, HelloError::Member { wanted: 7, ours: 2 });
    let newer = hello(|hello| (hello.protocol_min, hello.protocol_max) = (2, 4));
    assert_eq!(OURS.check(newer), Err(HelloError::Protocol { min: 2, max: 4 }));
    assert_eq!(
        OURS.check(hello(|hello| hello.protocol_max = 4)),
        Ok((NodeId(5), vec![])),
        "a newer peer still speaks ours"
    );
}
