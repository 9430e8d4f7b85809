//! Bodies that nobody reads, read all the same.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

/// How long, and how much, a client may go on sending what is of no use any more.
const TIME_MAX: Duration = Duration::from_secs(1);
const BYTES_MAX: usize = 1 << 20;

/// A body whose rest is taken in and forgotten when it is dropped.
///
/// A call that is answered before all of its body was read is ended by resetting its stream. HTTP/2 allows that, but curl
/// before version 8 loses the answer if it is still sending.
pub(super) struct Drained(pub(super) Body);

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        let mut body = std::mem::take(&mut self.0);
        let rest = async move {
            let mut bytes = 0;
            while bytes < BYTES_MAX
                && let Some(Ok(frame)) = body.frame().await
            {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        tokio::spawn(tokio::time::timeout(TIME_MAX, rest));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn the_rest_is_taken_in_up_to_a_bound() {
        let (sender, parts) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(1);
        drop(Drained(Body::from_stream(ReceiverStream::new(parts))));
        let mut taken = 0;
        while sender.send(Ok(Bytes::from_static(&[0; 4096]))).await.is_ok() {
            taken += 4096;
        }
        assert!((BYTES_MAX..=BYTES_MAX + 2 * 4096).contains(&taken), "{taken}");
    }
}
