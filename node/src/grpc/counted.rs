//! Counts streams from the outside: when each began, and how it ended, whoever ended it. Single calls count themselves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use crate::http::deadline::Deadline;
use crate::metrics::{Metrics, Running};
use crate::status::Code;

/// `routes`, all counted that have counters: also what they refuse, and what a client gives up.
pub(super) fn counted(routes: Router, metrics: &Arc<Metrics>) -> Router {
    let metrics = Arc::clone(metrics);
    routes.route_layer(middleware::from_fn(move |request: Request, next: Next| {
        let deadline = Deadline::among(request.extensions());
        let running = metrics.find(request.uri().path()).map(|call| call.begin(deadline));
        async move {
            let response = next.run(request).await;
            match running {
                Some(running) => until_end(response, running),
                None => response,
            }
        }
    }))
}

fn until_end(response: Response, running: Running) -> Response {
    // A call that ends before its first reply says so in the headers.
    if let Some(code) = outcome(response.headers()) {
        running.handled(code);
        return response;
    }
    response.map(|body| Body::new(Counted { body, running: Some(running) }))
}

/// What became of a call, if it is said here.
fn outcome(headers: &HeaderMap) -> Option<Code> {
    tonic::Status::from_header_map(headers).map(|status| Code::from(status.code()))
}

/// Replies, the last of which says how the call ended.
struct Counted {
    body: Body,
    /// Until that is known. If it is dropped before, nobody wanted to know.
    running: Option<Running>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(outcome)
            && let Some(running) = self.running.take()
        {
            running.handled(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
