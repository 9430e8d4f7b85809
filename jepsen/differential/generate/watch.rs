//! Watchers of the past, the present and the future, on a few streams.

use quorate_api::etcdserverpb::{self as pb, watch_request::RequestUnion};

use super::Generator;
use crate::op::Op;

/// What is known of an open stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Watchers asked for so far.
    created: i64,
    /// Some watcher waits for a revision that is not there yet, or may never have been made.
    waiting: bool,
}

/// Streams open at once.
const STREAMS: usize = 3;
/// Watchers on one, those cancelled included: each costs every later event.
const WATCHERS: i64 = 12;

impl Generator {
    pub(super) fn watch(&mut self, invalid: bool) {
        let number = self.below(STREAMS);
        let Some(stream) = self.streams.get(&number) else {
            self.streams.insert(number, Stream::default());
            self.next.push_back(Op::WatchOpen { stream: number, user: self.user, member: self.member });
            return;
        };
        let (created, waiting) = (stream.created, stream.waiting);
        match self.below(10) {
            _ if created == 0 => self.create(number, invalid),
            _ if created >= WATCHERS => self.close(number),
            0 => self.close(number),
            1 | 2 => self.cancel(number, created, invalid),
            3 if !waiting => self.progress(number),
            _ => self.create(number, invalid),
        }
    }

    pub(super) fn watch_sync(&mut self, _: bool) {
        self.sync();
    }

    /// Waits for the watchers, if there are any.
    pub(super) fn sync(&mut self) {
        if !self.streams.is_empty() {
            self.next.push_back(Op::WatchSync);
        }
    }

    fn create(&mut self, number: usize, invalid: bool) {
        let key = self.key();
        let range_end = match self.below(4) {
            0 => self.range_end(&key),
            1 => vec![0],
            2 => super::draw::prefix_end(&key[..1]),
            _ => vec![],
        };
        let mut create = pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: self.chance(1, 3),
            progress_notify: self.chance(1, 8),
            fragment: self.chance(1, 4),
            ..Default::default()
        };
        if self.chance(1, 4) {
            create.filters = self.pick(&[vec![0], vec![1], vec![0, 1], vec![1, 1]]);
        }
        if self.chance(1, 5) {
            create.watch_id = self.between(1, 9);
        }
        match self.below(4) {
            0 => create.start_revision = self.past(),
            1 => create.start_revision = self.revision + self.between(0, 3),
            _ => {}
        }
        if invalid {
            match self.below(5) {
                0 if !self.enabled => (create.key, create.range_end) = (vec![b'b'].into(), vec![b'a'].into()),
                1 => create.watch_id = self.pick(&[-1, -5, i64::MAX]),
                2 => create.filters = vec![7, -1],
                3 if self.floor > 1 => {
                    create.start_revision = self.between(1, self.floor - 1);
                    return self.too_late(create);
                }
                _ => create.key = vec![].into(),
            }
        }
        let stream = self.streams.entry(number).or_default();
        stream.created += 1;
        stream.waiting |= create.start_revision > self.revision;
        self.send(number, RequestUnion::CreateRequest(create));
    }

    /// A watcher of history that is gone, on a stream of its own: see "dead-watchers" in justified.rs.
    fn too_late(&mut self, create: pb::WatchCreateRequest) {
        let stream = STREAMS;
        self.sync();
        self.next.push_back(Op::WatchOpen { stream, user: self.user, member: self.member });
        self.send(stream, RequestUnion::CreateRequest(create));
        self.next.push_back(Op::WatchSync);
        self.next.push_back(Op::WatchClose { stream });
    }

    /// Only after a sync: what a cancelled watcher had still to bring is a matter of luck.
    fn cancel(&mut self, number: usize, created: i64, invalid: bool) {
        self.sync();
        let watch_id = if invalid { self.pick(&[-1, -5, 777]) } else { self.between(0, created) };
        self.send(number, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        self.sync();
    }

    fn progress(&mut self, number: usize) {
        self.sync();
        self.send(number, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        self.sync();
    }

    fn close(&mut self, number: usize) {
        self.sync();
        self.streams.remove(&number);
        self.next.push_back(Op::WatchClose { stream: number });
    }

    fn send(&mut self, stream: usize, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.next.push_back(Op::WatchSend { stream, request });
    }
}
