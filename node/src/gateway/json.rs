//! Messages as JSON, by the rules of protobuf: names as in the .proto files, 64-bit numbers as strings, bytes in base64,
//! enums by name, no fields with defaults. Either spelling of names, and numbers for all, are taken.

use axum::body::Bytes;
use prost_reflect::prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::status::{Code, Status};

/// The first JSON value in `text`, encoded as a message; nothing at all is a message without fields.
pub(super) fn decode(descriptor: &MessageDescriptor, text: &[u8]) -> Result<Bytes, Status> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Bytes::new());
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut parser = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut parser, &options);
    let message = message.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let reason = text.split_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Status::new(Code::InvalidArgument, format!("proto: (line {line}:{column}): {reason}"))
    })?;
    Ok(message.encode_to_vec().into())
}

/// A message as JSON.
pub(super) fn encode(descriptor: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let mut text = Vec::with_capacity(2 * message.len());
    write(descriptor, message, &mut text)?;
    Ok(text)
}

/// One reply of a stream, as a line.
pub(super) fn result_line(descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let mut line = Vec::with_capacity(2 * message.len() + 16);
    line.extend(b"{\"result\":");
    write(descriptor, message, &mut line)?;
    line.extend(b"}\n");
    Ok(line.into())
}

/// A failed call's status.
pub(super) fn error(status: &Status) -> String {
    let message = serde_json::Value::from(status.message.as_str());
    format!(r#"{{"code":{},"message":{message}}}"#, status.code as i32)
}

/// How a stream ends that failed, as its last line.
pub(super) fn error_line(status: &Status) -> Bytes {
    format!("{{\"error\":{}}}\n", error(status)).into()
}

fn write(descriptor: &MessageDescriptor, message: Bytes, text: &mut Vec<u8>) -> Result<(), Status> {
    let internal = |error: &dyn std::error::Error| Status::new(Code::Internal, error.to_string());
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(|error| internal(&error))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut serializer = serde_json::Serializer::new(text);
    message.serialize_with_options(&mut serializer, &options).map_err(|error| internal(&error))
}
