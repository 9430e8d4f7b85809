//! Deadlines that clients send along with their calls. (gRPC: `grpc-timeout`)

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tower_service::Service as _;

use crate::status::{Code, Status};

/// When a request's client will have waited long enough: in its extensions, if it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// The one of the request that has these extensions.
    pub(crate) fn among(extensions: &Extensions) -> Option<Instant> {
        extensions.get::<Self>().map(|deadline| deadline.0)
    }
}

/// How long the client waits, if this is a gRPC call that says so.
///
/// Other requests may carry the header too: it is for the call they become, whose outcome is told in another way.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    if !headers.get(header::CONTENT_TYPE)?.as_bytes().starts_with(b"application/grpc") {
        return None;
    }
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // gRPC allows eight digits.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Calls `router`, and gives up on the call once `limit` has passed. (etcd: context deadline exceeded)
pub(crate) async fn answer(mut router: Router, mut request: Request, limit: Duration) -> Response {
    let deadline = Instant::now() + limit;
    request.extensions_mut().insert(Deadline(deadline));
    match tokio::time::timeout_at(deadline, router.call(request)).await {
        Ok(Ok(response)) => response.map(|body| {
            Body::new(Timed { body, deadline: Box::pin(tokio::time::sleep_until(deadline)), is_over: false })
        }),
        Ok(Err(never)) => match never {},
        Err(_) => tonic::Status::from(exceeded()).into_http(),
    }
}

fn exceeded() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

/// A reply that ends by the deadline.
struct Timed {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    is_over: bool,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        std::task::ready!(std::future::Future::poll(self.deadline.as_mut(), context));
        self.is_over = true;
        self.body = Body::empty(); // Ends the work behind it.
        let Status { code, message } = exceeded();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code as i32));
        trailers.insert("grpc-message", HeaderValue::try_from(message).expect("plain words"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn timeout_within(content_type: &str, text: &str) -> Option<Duration> {
        let headers = [("content-type", content_type), ("grpc-timeout", text)];
        of(&headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    fn timeout(text: &str) -> Option<Duration> {
        timeout_within("application/grpc", text)
    }

    #[test]
    fn timeouts_are_a_number_and_a_unit() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(3600 * 99_999_999)));
        assert_eq!(timeout("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "S", "5", "5s", "123456789m", "-1m", "+1m", "5 m", "5µ"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[test]
    fn only_calls_of_grpc_have_deadlines() {
        assert_eq!(timeout_within("application/grpc+proto", "5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout_within("application/json", "5S"), None);
    }

    #[tokio::test]
    async fn a_reply_without_end_is_ended() {
        let endless = Router::new().fallback(|| async {
            let frames = tokio_stream::StreamExt::chain(
                tokio_stream::once(Ok::<_, std::convert::Infallible>(Bytes::from_static(b"first"))),
                tokio_stream::pending(),
            );
            Body::from_stream(frames)
        });
        let request = Request::new(Body::empty());
        let body = answer(endless, request, Duration::from_millis(20)).await.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "4");
        assert_eq!(body.to_bytes(), "first");
        let silent = Router::new().fallback(std::future::pending::<()>);
        let response = answer(silent, Request::new(Body::empty()), Duration::from_millis(20)).await;
        assert_eq!(response.headers()["grpc-status"], "4");
        assert_eq!(tonic::Status::from_header_map(response.headers()).unwrap().message(), "context deadline exceeded");
    }
}
