//! The snapshot lane: the leader reads a picture of its applied state chunk by chunk, the follower stores it beside its
//! own, and consensus switches over once all of it is durable. One chunk is under way at a time; a lost one is repeated.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Output, PeerMessage, Replica, SnapshotChunk, SnapshotId, raft};
use crate::entry::Configuration;
use crate::mutant::{self, Mutant};
use crate::{Blob, Generation, Instant, LogIndex, NodeId, Term};

/// An unacknowledged chunk is sent again after this.
const RESEND: Duration = Duration::from_secs(1);

/// A follower that acknowledged nothing for so many repetitions is given up; consensus asks anew when it is heard of.
const RESENDS_MAX: u32 = 15;

/// A snapshot whose next chunk does not come for so long is given up by whoever receives it, later than by its sender.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(30);
const _: () = assert!(RECEIVE_PATIENCE.as_secs() > RESEND.as_secs() * RESENDS_MAX as u64, "a sender gives up first");

/// A snapshot on its way to one follower.
#[derive(Debug)]
pub(super) struct Sender {
    id: SnapshotId,
    /// The next chunk to send.
    sequence: u64,
    /// The chunk that waits for its acknowledgement; `None` while it is being read.
    chunk: Option<SnapshotChunk>,
    sent: Instant,
    resends: u32,
    /// Where the log must at least still reach when the follower is done.
    index: Option<LogIndex>,
}

impl Sender {
    pub(super) fn deadline(&self) -> Instant {
        if self.chunk.is_some() { self.sent + RESEND } else { Instant::FAR }
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Receiver {
    id: SnapshotId,
    from: NodeId,
    index: LogIndex,
    index_term: Term,
    config: Configuration,
    /// Chunks stored so far.
    stored: u64,
    /// A chunk is being stored; whether it is the last one.
    storing: Option<bool>,
    /// All is stored and handed to consensus.
    complete: bool,
    /// When the sender was last heard of, or the last chunk stored.
    heard: Instant,
}

impl Receiver {
    pub(super) fn deadline(&self) -> Instant {
        let waits = self.storing.is_none() && !self.complete;
        if waits { self.heard + RECEIVE_PATIENCE } else { Instant::FAR }
    }
}

impl Replica {
    pub(super) fn start_snapshot(&mut self, to: NodeId, out: &mut Vec<Output>) {
        if self.senders.contains_key(&to) {
            return;
        }
        self.snapshots_sent += 1;
        let id = SnapshotId { member: self.member, session: self.config.session, number: self.snapshots_sent };
        let sender = Sender { id, sequence: 0, chunk: None, sent: self.now, resends: 0, index: None };
        self.senders.insert(to, sender);
        out.push(Output::ReadSnapshot { snapshot: id, to });
    }

    pub(super) fn drop_senders(&mut self, out: &mut Vec<Output>) {
        for sender in core::mem::take(&mut self.senders).into_values() {
            out.push(Output::DropSnapshot { snapshot: sender.id });
        }
    }

    /// The applier read the next rows.
    pub(super) fn snapshot_read(
        &mut self,
        snapshot: SnapshotId,
        to: NodeId,
        (index, index_term): (LogIndex, Term),
        rows: Vec<(Blob, Blob)>,
        last: bool,
        out: &mut Vec<Output>,
    ) {
        let term = self.status.term;
        let config = self.raft.config_at(index);
        let Some(sender) = self.senders.get_mut(&to).filter(|sender| sender.id == snapshot) else { return };
        let Some(config) = config else {
            reach!(PictureTooOld);
            // The log was cut above the picture meanwhile: it would not connect. Start over with a newer one.
            self.give_up(to, out);
            return;
        };
        sender.index = Some(index);
        let sequence = sender.sequence;
        let chunk = SnapshotChunk { snapshot, term, sequence, index, index_term, config, rows, last };
        sender.chunk = Some(chunk.clone());
        sender.sent = self.now;
        sender.resends = 0;
        out.push(Output::Send { to, message: PeerMessage::Snapshot(chunk) });
    }

    fn give_up(&mut self, to: NodeId, out: &mut Vec<Output>) {
        if let Some(sender) = self.senders.remove(&to) {
            out.push(Output::DropSnapshot { snapshot: sender.id });
        }
        self.consensus(raft::Input::SnapshotSent { to, index: None }, out);
    }

    /// The follower stored a chunk, or all of it.
    pub(super) fn snapshot_acked(
        &mut self,
        from: NodeId,
        snapshot: SnapshotId,
        sequence: u64,
        installed: Option<LogIndex>,
        out: &mut Vec<Output>,
    ) {
        let Some(sender) = self.senders.get_mut(&from).filter(|sender| sender.id == snapshot) else { return };
        if installed.is_some() {
            self.senders.remove(&from);
            self.hashes.forget(from); // They were another state's.
            out.push(Output::DropSnapshot { snapshot });
            self.consensus(raft::Input::SnapshotSent { to: from, index: installed }, out);
            return;
        }
        let acknowledges = sender.chunk.as_ref().is_some_and(|chunk| chunk.sequence == sequence);
        if !acknowledges {
            return;
        }
        if sender.chunk.as_ref().is_some_and(|chunk| chunk.last) {
            // Stored, and about to be installed: keep asking until it is.
            sender.sent = self.now;
            sender.resends = 0;
            return;
        }
        let chunk = sender.chunk.take().expect("it was just acknowledged");
        sender.sequence += 1;
        out.push(Output::ReadSnapshot { snapshot, to: from });
        let bytes = chunk.rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        self.consensus(raft::Input::SnapshotCarried { to: from, bytes }, out);
    }

    pub(super) fn retry_snapshots(&mut self, out: &mut Vec<Output>) {
        let mut lost = Vec::new();
        for (&to, sender) in &mut self.senders {
            if self.now < sender.deadline() {
                continue;
            }
            let Some(chunk) = &mut sender.chunk else { continue };
            if sender.resends >= RESENDS_MAX {
                reach!(SnapshotAbandoned);
                lost.push(to);
                continue;
            }
            reach!(ChunkSentAgain);
            chunk.term = self.status.term;
            sender.resends += 1;
            sender.sent = self.now;
            out.push(Output::Send { to, message: PeerMessage::Snapshot(chunk.clone()) });
        }
        for to in lost {
            self.give_up(to, out);
        }
        if self.receiver.as_ref().is_some_and(|receiver| self.now >= receiver.deadline()) {
            reach!(SnapshotCutShort);
            self.abandon_snapshot(out);
        }
    }

    /// What was received, if anything, leads nowhere.
    pub(super) fn abandon_snapshot(&mut self, out: &mut Vec<Output>) {
        if let Some(receiver) = self.receiver.take() {
            out.push(Output::AbandonSnapshot { snapshot: receiver.id });
        }
    }

    /// A chunk arrived from a leader.
    pub(super) fn snapshot_chunk(&mut self, from: NodeId, chunk: SnapshotChunk, out: &mut Vec<Output>) {
        if chunk.term < self.status.term || self.leads() {
            return;
        }
        if self.raft.status().commit >= chunk.index {
            reach!(SnapshotOvertaken);
            let installed = Some(self.raft.status().commit);
            let message = PeerMessage::SnapshotAck { snapshot: chunk.snapshot, sequence: chunk.sequence, installed };
            if self.receiver.as_ref().is_some_and(|receiver| receiver.id == chunk.snapshot && !receiver.complete) {
                self.abandon_snapshot(out);
            }
            return out.push(Output::Send { to: from, message });
        }
        let known = self.receiver.as_ref().is_some_and(|receiver| receiver.id == chunk.snapshot);
        if !known {
            let is_busy = |it: &Receiver| (it.complete && !mutant::is_on(Mutant::P15)) || it.storing.is_some();
            let busy = self.receiver.as_ref().is_some_and(is_busy);
            if chunk.sequence != 0 || busy {
                return;
            }
            reach!(SnapshotReplaced if self.receiver.is_some());
            self.receiver = Some(Receiver {
                id: chunk.snapshot,
                from,
                index: chunk.index,
                index_term: chunk.index_term,
                config: chunk.config.clone(),
                stored: 0,
                storing: None,
                complete: false,
                heard: self.now,
            });
        }
        let Some(receiver) = &mut self.receiver else { return };
        receiver.heard = self.now;
        if receiver.storing.is_some() || receiver.complete {
            return;
        }
        if chunk.sequence < receiver.stored {
            reach!(ChunkRepeated);
            let message = PeerMessage::SnapshotAck { snapshot: receiver.id, sequence: chunk.sequence, installed: None };
            out.push(Output::Send { to: from, message });
        } else if chunk.sequence == receiver.stored {
            receiver.storing = Some(chunk.last);
            out.push(Output::WriteSnapshot {
                snapshot: chunk.snapshot,
                sequence: chunk.sequence,
                rows: chunk.rows,
                last: chunk.last,
            });
        }
    }

    /// The applier stored a chunk.
    pub(super) fn snapshot_written(
        &mut self,
        snapshot: SnapshotId,
        sequence: u64,
        generation: Generation,
        out: &mut Vec<Output>,
    ) {
        let Some(receiver) = self.receiver.as_mut().filter(|receiver| receiver.id == snapshot) else { return };
        assert_eq!(sequence, receiver.stored, "chunk {sequence} was stored after {}", receiver.stored);
        let last = receiver.storing.take().expect("a stored chunk was being stored");
        receiver.stored += 1;
        receiver.heard = self.now;
        let (to, index) = (receiver.from, receiver.index);
        let message = PeerMessage::SnapshotAck { snapshot, sequence, installed: None };
        out.push(Output::Send { to, message });
        if !last {
            return;
        }
        if self.raft.status().commit >= index {
            reach!(SnapshotOvertakenWhileWritten);
            // The log arrived by itself meanwhile; the leader hears of it when it repeats the last chunk.
            return self.abandon_snapshot(out);
        }
        receiver.complete = true;
        let (term, config) = (receiver.index_term, receiver.config.clone());
        self.consensus(raft::Input::Install { index, term, config, generation }, out);
    }

    /// The applied state is the snapshot's now.
    pub(super) fn snapshot_installed(&mut self, index: LogIndex, out: &mut Vec<Output>) {
        let Some(receiver) = self.receiver.take() else { return };
        assert!(receiver.complete, "a snapshot was installed before it was complete");
        let message = PeerMessage::SnapshotAck {
            snapshot: receiver.id,
            sequence: receiver.stored.saturating_sub(1),
            installed: Some(index),
        };
        out.push(Output::Send { to: receiver.from, message });
    }
}
