//! The driver: steps the replica through everything in its inbox and says, as values, what must be done about it.
//!
//! Synchronous and without I/O: `member` runs it on a thread and carries the effects out; the simulator calls the same
//! [`Driver::turn`] and carries them out on its models.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::entry::Record;
use quorate_core::error::Error;
use quorate_core::format::codec::{self, CodecError};
use quorate_core::replica::{self, PeerMessage, Replica, Request, Response};
use quorate_core::store::Members;
use quorate_core::{Instant, NodeId, RequestId, WriteId, raft};

use crate::applier;

/// Something that happened to this member.
#[derive(Debug)]
pub enum Event {
    /// A peer's frame arrived, late, twice or out of order.
    Frame(NodeId, Bytes),
    /// A client asks; its answer comes in [`Effects::responses`].
    Request(RequestId, Request),
    /// Anything else: what the log writer and the applier answer.
    Input(replica::Input),
}

/// A message for a peer. It may be lost; on one link and lane, frames should mostly keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The receiver.
    pub to: NodeId,
    /// An encoded [`PeerMessage`].
    pub bytes: Bytes,
    /// It is large and may wait: it travels on the snapshot lane.
    pub bulk: bool,
}

/// What one turn asks of the world. All of it may be carried out at once and in any order, except where a field says so.
#[derive(Debug, Default)]
pub struct Effects {
    /// To send.
    pub frames: Vec<Frame>,
    /// To append to the log and sync, in order; then [`replica::Input::Persisted`] with `persist_through`.
    pub records: Vec<Record>,
    /// The name of the last write in `records`.
    pub persist_through: Option<WriteId>,
    /// For the applier, in order.
    pub applier: Vec<applier::Input>,
    /// For clients.
    pub responses: Vec<(RequestId, Result<Response, Error>)>,
    /// What consensus says of itself, newest last.
    pub changed: Vec<raft::Status>,
    /// This member's state differs from the majority's: index, its own hash, the majority's. Nothing is to be read from it.
    pub suspected: Option<(quorate_core::LogIndex, u64, u64)>,
    /// The state found wrong before was replaced; before `suspected`.
    pub unsuspected: bool,
    /// This life of the member is over: it is to be started again with a new one.
    pub fenced: bool,
    /// The members, if they changed: frames go to these from now on.
    pub members: Option<Arc<Members>>,
    /// Members that are gone: soon, no frames go there.
    pub parted: Vec<NodeId>,
    /// This member was removed from the cluster: it has to stop.
    pub removed: bool,
    /// Frames that were no messages, and from whom.
    pub malformed: Vec<(NodeId, CodecError)>,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
            && self.persist_through.is_none()
            && self.applier.is_empty()
            && self.responses.is_empty()
            && self.changed.is_empty()
            && self.suspected.is_none()
            && !self.unsuspected
            && !self.fenced
            && self.members.is_none()
            && self.parted.is_empty()
            && !self.removed
            && self.malformed.is_empty()
    }
}

/// One member's replica and what it says to the world.
#[derive(Debug)]
pub struct Driver {
    replica: Replica,
    outputs: Vec<replica::Output>,
    requests: Vec<(RequestId, Request)>,
}

impl Driver {
    /// Drives `replica`.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        Self { replica, outputs: Vec::new(), requests: Vec::new() }
    }

    /// [`quorate_core::raft::Raft::redraw`]
    pub fn redraw(&mut self, number: u64) {
        self.replica.redraw(number);
    }

    /// The member driven.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// When the next turn is due at the latest, whatever arrives.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.replica.deadline()
    }

    /// Takes everything in `inbox` at time `now` and adds what must be done about it to `effects`.
    ///
    /// All records of a turn are one write and one sync; all requests of a turn are one proposal and one read round.
    pub fn turn(&mut self, now: Instant, inbox: &mut Vec<Event>, effects: &mut Effects) {
        for event in inbox.drain(..) {
            match event {
                Event::Request(id, request) => self.requests.push((id, request)),
                Event::Input(input) => self.replica.step(now, input, &mut self.outputs),
                Event::Frame(from, bytes) => match codec::decode::<PeerMessage>(bytes) {
                    Ok(message) => {
                        self.replica.step(now, replica::Input::Receive { from, message }, &mut self.outputs);
                    }
                    Err(error) => effects.malformed.push((from, error)),
                },
            }
        }
        if !self.requests.is_empty() {
            let requests = std::mem::take(&mut self.requests);
            self.replica.step(now, replica::Input::Requests(requests), &mut self.outputs);
        }
        if now >= self.replica.deadline() {
            self.replica.step(now, replica::Input::Wake, &mut self.outputs);
        }
        for output in self.outputs.drain(..) {
            effects.add(output);
        }
    }
}

impl Effects {
    fn add(&mut self, output: replica::Output) {
        use replica::Output;
        match output {
            Output::Send { to, message } => {
                let bulk = message.is_bulk();
                self.frames.push(Frame { to, bytes: codec::encode(&message).into(), bulk });
            }
            Output::Persist { write, records } => {
                self.records.extend(records);
                self.persist_through = Some(write);
            }
            Output::Apply { entries } => self.applier.push(applier::Input::Apply(entries)),
            Output::Restore { index, generation } => self.applier.push(applier::Input::Restore { index, generation }),
            Output::ReadSnapshot { snapshot, to } => self.applier.push(applier::Input::ReadSnapshot { snapshot, to }),
            Output::DropSnapshot { snapshot } => self.applier.push(applier::Input::DropSnapshot(snapshot)),
            Output::WriteSnapshot { snapshot, sequence, rows, last } => {
                self.applier.push(applier::Input::WriteSnapshot { snapshot, sequence, rows, last });
            }
            Output::AbandonSnapshot { snapshot } => self.applier.push(applier::Input::AbandonSnapshot(snapshot)),
            Output::Respond { id, result } => self.responses.push((id, result)),
            Output::Changed(status) => self.changed.push(status),
            Output::Suspected { index, ours, theirs } => self.suspected = Some((index, ours, theirs)),
            Output::Unsuspected => (self.suspected, self.unsuspected) = (None, true),
            Output::Fenced => self.fenced = true,
            Output::Members(members) => self.members = Some(members),
            Output::Parted(id) => self.parted.push(id),
            Output::Removed => self.removed = true,
        }
    }
}
