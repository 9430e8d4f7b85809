//! Messages that never reach a call: what etcd's transport says of them, in place of what ours says.

use crate::status::{Code, Status};

/// What etcd says where tonic could not read a message; `None` for every other status.
pub(super) fn refused(status: &tonic::Status) -> Option<Status> {
    if let Some(sizes) = status.message().strip_prefix("Error, decoded message length too large: found ") {
        let (found, limit) = sizes.split_once(" bytes, the limit is: ")?;
        let limit = limit.strip_suffix(" bytes")?;
        let text = format!("grpc: received message larger than max ({found} vs. {limit})");
        return Some(Status::new(Code::ResourceExhausted, text));
    }
    let reason = status.message().strip_prefix("failed to decode Protobuf message: ")?;
    Some(Status::new(Code::Internal, format!("grpc: error unmarshalling request: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_cannot_be_read_is_refused_as_etcd_does() {
        let of = |text: &str| refused(&tonic::Status::internal(text));
        let large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        let expected = Status::new(Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)");
        assert_eq!(of(large), Some(expected));
        let expected = Status::new(Code::Internal, "grpc: error unmarshalling request: buffer underflow");
        assert_eq!(of("failed to decode Protobuf message: buffer underflow"), Some(expected));
        assert_eq!(of("etcdserver: mvcc: required revision has been compacted"), None);
    }
}
