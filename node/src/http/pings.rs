//! Clients that ping too often are told so and cut off. (gRPC: keepalive enforcement)
//!
//! hyper answers pings by itself and tells nobody. So this looks at the headers of HTTP/2's frames as they pass, in both
//! directions, and never at what is in them.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What HTTP/2 clients send first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much a client without streams may wait between pings. (grpc-go: defaultPingTimeout)
const IDLE_MIN: Duration = Duration::from_secs(7200);
/// Pings that come too early are forgiven so often. (grpc-go: maxPingStrikes)
const STRIKES_MAX: u32 = 2;
/// How long a client that was cut off may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// A connection whose client may ping once in a while.
pub(super) struct Guarded<T> {
    io: T,
    min_interval: Duration,
    received: Received,
    sent: Frames,
    /// Streams that the client has opened and nobody has ended.
    streams: BTreeSet<u32>,
    last_ping: Option<Instant>,
    strikes: u32,
    /// Whether the client was sent something of a stream since its last ping: that excuses the next one.
    excused: bool,
    /// Set once the client was cut off.
    closing: Option<Pin<Box<Sleep>>>,
}

/// What is known of the bytes that came in.
enum Received {
    /// So much of the preface.
    Preface(usize),
    /// HTTP/2.
    Frames(Frames),
    /// HTTP/1.1: nobody pings.
    Other,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u8,
    flags: u8,
    stream: u32,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// GOAWAY with ENHANCE_YOUR_CALM and the text that grpc-go looks for, to double its interval.
const GOAWAY: &[u8] = b"\0\0\x16\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0btoo_many_pings";

/// Finds the headers in a stream of frames.
#[derive(Default)]
struct Frames {
    header: [u8; 9],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that are still to come.
    skip: usize,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    /// Calls `found` for each header that `bytes` complete.
    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Header)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(self.header.len() - self.have);
            if self.skip > 0 || taken == 0 {
                continue;
            }
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.header.len() {
                let [a, b, c, kind, flags, stream @ ..] = self.header;
                self.have = 0;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                found(Header { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff });
            }
        }
    }
}

impl<T> Guarded<T> {
    /// Cuts the client off if it pings more often than every `min_interval`, or at all while nothing is going on.
    pub(super) fn new(io: T, min_interval: Duration) -> Self {
        Self {
            io,
            min_interval,
            received: Received::Preface(0),
            sent: Frames::default(),
            streams: BTreeSet::new(),
            last_ping: None,
            strikes: 0,
            excused: false,
            closing: None,
        }
    }

    /// Looks at what the client sent; false if it has gone too far.
    fn receive(&mut self, mut bytes: &[u8]) -> bool {
        if let Received::Preface(have) = &mut self.received {
            let taken = bytes.len().min(PREFACE.len() - *have);
            if PREFACE[*have..*have + taken] != bytes[..taken] {
                self.received = Received::Other;
                return true;
            }
            *have += taken;
            bytes = &bytes[taken..];
            if *have == PREFACE.len() {
                self.received = Received::Frames(Frames::default());
            }
        }
        let mut pings = 0;
        if let Received::Frames(frames) = &mut self.received {
            let streams = &mut self.streams;
            frames.feed(bytes, |header| match header.kind {
                HEADERS => drop(streams.insert(header.stream)),
                RST_STREAM => drop(streams.remove(&header.stream)),
                PING if header.flags & ACK == 0 => pings += 1,
                _ => {}
            });
        }
        (0..pings).all(|_| self.ping(Instant::now()))
    }

    /// Looks at what the client is sent.
    fn send(&mut self, bytes: &[u8]) {
        if !matches!(self.received, Received::Frames(_)) {
            return;
        }
        let (streams, excused) = (&mut self.streams, &mut self.excused);
        self.sent.feed(bytes, |header| {
            let of_stream = matches!(header.kind, DATA | HEADERS);
            *excused |= of_stream;
            if header.kind == RST_STREAM || (of_stream && header.flags & END_STREAM != 0) {
                streams.remove(&header.stream);
            }
        });
    }

    /// Judges one ping. (grpc-go: handlePing)
    fn ping(&mut self, now: Instant) -> bool {
        let interval = if self.streams.is_empty() { IDLE_MIN } else { self.min_interval };
        let early = self.last_ping.is_some_and(|last| now < last + interval);
        self.last_ping = Some(now);
        if std::mem::take(&mut self.excused) {
            self.strikes = 0;
        } else if early {
            self.strikes += 1;
        }
        self.strikes <= STRIKES_MAX
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guarded<T> {
    /// Says why, if nothing else is being said, and waits for the client to go.
    fn cut_off(&mut self, context: &mut Context<'_>) {
        if self.sent.is_between() {
            // What does not fit at once is lost: the client learns of its end anyway.
            let _ = Pin::new(&mut self.io).poll_write(context, GOAWAY);
            let _ = Pin::new(&mut self.io).poll_flush(context);
        }
        self.closing = Some(Box::pin(tokio::time::sleep(LINGER)));
    }

    fn linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.closing.as_mut().expect("called while closing");
        loop {
            let mut scratch = [0; 1024];
            let mut scratch = ReadBuf::new(&mut scratch);
            let read = Pin::new(&mut self.io).poll_read(context, &mut scratch);
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !scratch.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            }
            if closing.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        ready!(closing.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(context, buf))?;
            if this.receive(&buf.filled()[before..]) {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
            this.cut_off(context);
        }
        this.linger(context)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.send(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(context, bufs))?;
        let mut rest = written;
        for buf in bufs {
            let part = rest.min(buf.len());
            this.send(&buf[..part]);
            rest -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn guarded(min_interval: Duration) -> Guarded<()> {
        let mut guarded = Guarded::new((), min_interval);
        assert!(guarded.receive(PREFACE));
        guarded
    }

    #[test]
    fn headers_are_found_wherever_the_bytes_are_cut() {
        let frames = [frame(4, 0, 0, b"settings"), frame(HEADERS, 4, 7, &[9; 300]), frame(PING, 0, 0, &[0; 8])];
        let all = frames.concat();
        for cut in 0..all.len() {
            let (mut scanner, mut found) = (Frames::default(), Vec::new());
            for part in [&all[..cut], &all[cut..]] {
                scanner.feed(part, |header| found.push((header.kind, header.stream)));
            }
            assert_eq!(found, [(4, 0), (HEADERS, 7), (PING, 0)], "cut at {cut}");
            assert!(scanner.is_between());
        }
    }

    #[test]
    fn an_idle_client_is_forgiven_twice() {
        let mut idle = guarded(Duration::from_secs(5));
        let ping = frame(PING, 0, 0, &[0; 8]);
        assert_eq!([(); 4].map(|()| idle.receive(&ping)), [true, true, true, false]);
        let mut acknowledging = guarded(Duration::from_secs(5));
        let ack = frame(PING, ACK, 0, &[0; 8]);
        assert!((0..10).all(|_| acknowledging.receive(&ack)));
    }

    #[test]
    fn with_a_stream_open_pings_may_come_at_the_interval() {
        let mut busy = guarded(Duration::from_secs(5));
        assert!(busy.receive(&frame(HEADERS, 4, 1, b"")));
        let start = Instant::now();
        // Kubernetes pings every 30 seconds.
        assert!((0..100).all(|n| busy.ping(start + Duration::from_secs(30 * n))));
        let late = start + Duration::from_secs(3000);
        let early = |n: u64| late + Duration::from_secs(4 * n);
        assert_eq!([0, 1, 2, 3].map(|n| busy.ping(early(n))), [true, true, true, false]);
    }

    #[test]
    fn what_a_client_is_sent_excuses_a_ping_and_ends_its_stream() {
        let mut busy = guarded(Duration::from_secs(5));
        assert!(busy.receive(&frame(HEADERS, 4, 1, b"")));
        let ping = frame(PING, 0, 0, &[0; 8]);
        for _ in 0..10 {
            busy.send(&frame(DATA, 0, 1, b"event"));
            assert!(busy.receive(&ping), "a client measures the connection by pings when it gets data");
        }
        assert_eq!(busy.streams.len(), 1);
        busy.send(&frame(HEADERS, 5, 1, b"trailers"));
        assert!(busy.streams.is_empty());
        assert!(busy.receive(&frame(HEADERS, 4, 3, b"")) && busy.receive(&frame(RST_STREAM, 0, 3, &[0; 4])));
        assert!(busy.streams.is_empty());
    }

    #[test]
    fn http_1_passes_unseen() {
        let mut other = Guarded::new((), Duration::from_secs(5));
        assert!(other.receive(b"POST /v3/kv/put HTTP/1.1\r\n"));
        assert!((0..10).all(|_| other.receive(&frame(PING, 0, 0, &[0; 8]))));
    }

    #[tokio::test]
    async fn the_client_is_told_before_it_is_cut_off() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = Guarded::new(server, Duration::from_secs(5));
        client.write_all(PREFACE).await.unwrap();
        for _ in 0..4 {
            client.write_all(&frame(PING, 0, 0, &[0; 8])).await.unwrap();
        }
        let mut read = Vec::new();
        let end = server.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionAborted);
        server.write_all(b"nobody hears this").await.unwrap();
        drop(server);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, GOAWAY);
    }
}
