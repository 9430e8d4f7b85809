//! One gRPC call within this process: frames in, frames out, no socket.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::{Buf as _, BufMut as _, BytesMut};
use http_body_util::BodyExt as _;
use prost_reflect::MethodDescriptor;
use tower_service::Service as _;

use crate::http::{Origin, deadline};
use crate::status::{Code, Status};

/// In front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Headers of HTTP requests that are metadata of the call have this in front. (etcd: grpc-gateway)
const METADATA_PREFIX: &str = "grpc-metadata-";

/// A call whose replies are being read.
pub(super) struct Exchange {
    body: Body,
    received: BytesMut,
    /// The outcome, where it stands in front of the replies instead of behind them.
    outcome: Option<Status>,
}

/// A message as gRPC frames it.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("requests are bounded far below"));
    frame.put_slice(message);
    frame.freeze()
}

impl Exchange {
    /// Calls `method` of `grpc` with framed `requests`, for whoever sent `headers`.
    pub(super) async fn open(
        grpc: &Router,
        method: &MethodDescriptor,
        headers: &HeaderMap,
        origin: Option<&Origin>,
        requests: Body,
    ) -> Result<Self, Status> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut request = axum::extract::Request::new(requests);
        *request.method_mut() = axum::http::Method::POST;
        *request.uri_mut() = path.parse().expect("names of methods are paths");
        *request.version_mut() = axum::http::Version::HTTP_2;
        *request.headers_mut() = metadata(headers);
        if let Some(origin) = origin {
            request.extensions_mut().insert(*origin);
        }
        let response = match deadline::of(request.headers()) {
            Some(limit) => deadline::answer(grpc.clone(), request, limit).await,
            None => grpc.clone().call(request).await.unwrap_or_else(|never| match never {}),
        };
        let outcome = tonic::Status::from_header_map(response.headers()).map(status);
        if outcome.is_none() && !response.status().is_success() {
            return Err(Status::new(Code::Unknown, format!("unexpected HTTP status: {}", response.status())));
        }
        Ok(Self { body: response.into_body(), received: BytesMut::new(), outcome })
    }

    /// The next reply; `None` once the call has succeeded.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.message() {
                return Ok(Some(message));
            }
            match self.outcome.take() {
                Some(Status { code: Code::Ok, .. }) => return Ok(None),
                Some(status) => return Err(status),
                None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.trailers_ref().expect("what is no data is trailers");
                        self.outcome = tonic::Status::from_header_map(trailers).map(status);
                    }
                },
                Some(Err(error)) => return Err(Status::new(Code::Internal, error.to_string())),
                None => return Err(Status::new(Code::Internal, "the reply ended without a status")),
            }
        }
    }

    fn message(&mut self) -> Option<Bytes> {
        let length = self.received.get(1..PREFIX_BYTES)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        let end = PREFIX_BYTES + usize::try_from(length).expect("usize has 32 bits at least");
        if self.received.len() < end {
            return None;
        }
        let mut message = self.received.split_to(end).freeze();
        message.advance(PREFIX_BYTES);
        Some(message)
    }
}

/// The call's metadata: the token, and what the client marks as such.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let inner = match name.as_str().strip_prefix(METADATA_PREFIX) {
            Some(inner) => HeaderName::from_bytes(inner.as_bytes()).ok(),
            None => Some(name.clone()).filter(|name| *name == header::AUTHORIZATION || name == "grpc-timeout"),
        };
        if let Some(inner) = inner {
            metadata.append(inner, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    metadata
}

fn status(status: tonic::Status) -> Status {
    Status::new(Code::from(status.code()), status.message())
}
