//! The API as JSON over HTTP, under etcd's paths. (etcd: grpc-gateway)
//!
//! A request becomes a protobuf message by the API's own descriptors and goes through the gRPC router, in this process and
//! without a socket; the answer comes back the same way. So every call that gRPC serves is served here, with the same
//! checks. Differs from etcd: only the texts of errors in JSON itself.

mod exchange;
mod json;
mod paths;
mod split;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http_body_util::{BodyExt as _, Limited};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::exchange::Exchange;
use self::split::Splitter;
use crate::http::Origin;
use crate::status::{Code, Status};

/// JSON takes at most so many times the bytes of its message that matter: base64, escapes, names.
const JSON_PER_MESSAGE: usize = 4;

/// The paths of the API, answered by `grpc`. A message has at most `message_bytes_max` there.
pub(crate) fn routes(grpc: Router, message_bytes_max: usize) -> Router {
    let gateway = Arc::new(Gateway::new(grpc, message_bytes_max));
    let serve = |State(gateway): State<Arc<Gateway>>, request: Request| async move { gateway.serve(request).await };
    let paths = Router::new().route("/v3/{*path}", any(serve)).route("/v3beta/{*path}", any(serve));
    paths.with_state(gateway)
}

/// Translates between JSON and gRPC.
struct Gateway {
    grpc: Router,
    methods: BTreeMap<&'static str, MethodDescriptor>,
    message_bytes_max: usize,
}

impl Gateway {
    fn new(grpc: Router, message_bytes_max: usize) -> Self {
        let pool = DescriptorPool::decode(quorate_api::DESCRIPTORS).expect("the build has written them");
        let method = |name: &str| {
            let (service, method) = name.split_once('/')?;
            pool.get_service_by_name(service)?.methods().find(|it| it.name() == method)
        };
        let methods = paths::PATHS.iter().map(|(path, name)| (*path, method(name).expect("the API has every method")));
        Self { grpc, methods: methods.collect(), message_bytes_max }
    }

    async fn serve(&self, request: Request) -> Response {
        let path = request.uri().path();
        let path = path.strip_prefix("/v3beta/").or_else(|| path.strip_prefix("/v3/")).unwrap_or_default();
        let Some(method) = self.methods.get(path) else {
            return refusal(&Status::new(Code::NotFound, "Not Found"));
        };
        if request.method() != Method::POST {
            return refusal(&Status::new(Code::Unimplemented, "Method Not Allowed"));
        }
        let answer = match (method.is_client_streaming(), method.is_server_streaming()) {
            (true, _) => self.stream(method, request).await,
            (false, true) => self.server_stream(method, request).await,
            (false, false) => self.unary(method, request).await,
        };
        answer.unwrap_or_else(|status| refusal(&status))
    }

    async fn unary(&self, method: &MethodDescriptor, request: Request) -> Result<Response, Status> {
        let mut exchange = self.ask_once(method, request).await?;
        let reply = exchange.next().await?.ok_or_else(|| Status::new(Code::Internal, "no reply"))?;
        // The outcome stands behind the reply.
        if let Some(status) = exchange.next().await.err() {
            return Err(status);
        }
        let body = json::encode(&method.output(), reply)?;
        Ok((HEADERS, body).into_response())
    }

    async fn server_stream(&self, method: &MethodDescriptor, request: Request) -> Result<Response, Status> {
        let exchange = self.ask_once(method, request).await?;
        Ok(self.replies(method, exchange).await)
    }

    /// A call with one message in its body, or none: all its fields have their defaults then.
    async fn ask_once(&self, method: &MethodDescriptor, request: Request) -> Result<Exchange, Status> {
        let limit = self.message_bytes_max.saturating_mul(JSON_PER_MESSAGE);
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(|_| {
            let text = format!("grpc: received message larger than max ({limit} vs. {})", self.message_bytes_max);
            Status::new(Code::ResourceExhausted, text)
        })?;
        let message = json::decode(&method.input(), &body.to_bytes())?;
        let origin = parts.extensions.get::<Origin>();
        Exchange::open(&self.grpc, method, &parts.headers, origin, exchange::frame(&message).into()).await
    }

    /// A call with a stream of messages in its body, one JSON object after the other.
    async fn stream(&self, method: &MethodDescriptor, request: Request) -> Result<Response, Status> {
        let (parts, body) = request.into_parts();
        let limit = self.message_bytes_max.saturating_mul(JSON_PER_MESSAGE);
        let mut messages = Messages { body, splitter: Splitter::new(limit), input: method.input() };
        // What is wrong with the first message can still be told in the answer's status.
        let mut next = messages.next().await?;
        let (sender, frames) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(message) = next {
                if sender.send(Ok::<_, Infallible>(exchange::frame(&message))).await.is_err() {
                    return;
                }
                // A later message that is none ends the requests, and the replies go on. (etcd: the same)
                next = messages.next().await.unwrap_or_default();
            }
        });
        let frames = Body::from_stream(ReceiverStream::new(frames));
        let origin = parts.extensions.get::<Origin>();
        let exchange = Exchange::open(&self.grpc, method, &parts.headers, origin, frames).await?;
        Ok(self.replies(method, exchange).await)
    }

    /// One line for each reply; a failure is the last line, and the answer's status too if there was no other.
    async fn replies(&self, method: &MethodDescriptor, mut exchange: Exchange) -> Response {
        let output = method.output();
        let mut next = match exchange.next().await {
            Err(status) => return (http_status(status.code), HEADERS, json::error_line(&status)).into_response(),
            Ok(first) => first,
        };
        let (sender, lines) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(reply) = next {
                let line = json::result_line(&output, reply);
                let reply = async {
                    sender.send(Ok::<_, Infallible>(line?)).await.map_err(|_| Status::new(Code::Cancelled, "gone"))?;
                    exchange.next().await
                };
                next = tokio::select! {
                    reply = reply => match reply {
                        Ok(reply) => reply,
                        Err(status) => {
                            let _ = sender.send(Ok(json::error_line(&status))).await; // The client may have gone.
                            return;
                        }
                    },
                    () = sender.closed() => return,
                };
            }
        });
        (HEADERS, Body::from_stream(ReceiverStream::new(lines))).into_response()
    }
}

/// The messages in a request's body.
struct Messages {
    body: Body,
    splitter: Splitter,
    input: MessageDescriptor,
}

impl Messages {
    /// The next message, encoded; `None` at the body's end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(text) = self.splitter.next()? {
                return json::decode(&self.input, &text).map(Some);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.splitter.push(frame.data_ref().map_or(&[][..], |data| data)),
                // A body that breaks off has ended.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

/// What every answer says of itself. (etcd: grpc-gateway tells the type of the answer within)
const HEADERS: [(&str, &str); 2] =
    [("content-type", "application/json"), ("grpc-metadata-content-type", "application/grpc")];

/// A failed call's answer.
fn refusal(status: &Status) -> Response {
    (http_status(status.code), [("content-type", "application/json")], json::error(status)).into_response()
}

/// The HTTP status that stands for a gRPC code.
fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unauthenticated => 401,
    };
    StatusCode::from_u16(number).expect("all are HTTP's")
}
