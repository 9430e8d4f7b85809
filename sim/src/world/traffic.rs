//! What moves between members, and between clients and members: frames, requests, the second halves of calls.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::format::codec;
use quorate_core::replica::{LeaderQuestion, PeerMessage};
use quorate_core::{LeaseId, NodeId};

use super::World;
use super::event::{Event, link};
use crate::call::{CallError, Rpc};
use crate::check::Verdict;
use crate::check::lease::Asker;
use crate::chronicle::Happened;
use crate::heap::Nanos;
use crate::member::{CallId, Due};
use crate::network::Lane;
use crate::trace::Kind;
use crate::wire;
use crate::workload::Token;

impl World {
    pub(super) fn deliver(
        &mut self,
        now: Nanos,
        (from, to): (usize, usize),
        epoch: u64,
        (sender, receiver): (NodeId, NodeId),
        bytes: Bytes,
    ) {
        // A cut takes with it what is under way, and so may the sender's end. Another member may run there by now.
        let is_another = self.machines[to].id != Some(receiver);
        if is_another || !self.network.open(from, to) || epoch < self.machines[from].heard_since {
            self.trace.event(now, Kind::Network, to, from as u64, &[], || format!("lost under way from {from}"));
            return;
        }
        let logs = self.trace.logs();
        let text = if logs { describe(&bytes) } else { String::new() };
        self.trace.event(now, Kind::Input, to, from as u64, &bytes, || format!("<- {from} {text}"));
        if let Some(process) = &mut self.machines[to].process {
            if let Some((PeerMessage::Lease { ask: LeaderQuestion::KeepAlive(id), .. }, asker)) =
                renewal(sender, &bytes)
            {
                self.leases.asked(to, asker, id);
            }
            process.receive(sender, bytes);
            self.leadership.heard(now, to, sender);
            self.rouse(now, to);
        }
    }

    /// Sends a frame to the machine on which `receiver` runs. To one that runs nowhere nothing is sent.
    pub(super) fn send(&mut self, now: Nanos, from: usize, receiver: NodeId, bytes: Bytes, bulk: bool) {
        if let Some((PeerMessage::LeaseReply { .. }, asker)) = renewal(receiver, &bytes) {
            self.leases.replied(now, from, &asker);
        }
        let (Some(sender), Some(to)) = (self.machines[from].id, self.machine_of(receiver)) else { return };
        let lane = if bulk { Lane::Snapshot } else { Lane::Frames };
        let sent = self.network.send(now, from, to, lane, bytes.len());
        let logs = self.trace.logs();
        let text = if logs { describe(&bytes) } else { String::new() };
        self.trace.event(now, Kind::Network, from, sent.first.unwrap_or(0), &bytes, || {
            format!("-> {to} {} {text}", if sent.first.is_some() { "sent" } else { "lost" })
        });
        self.tell_frame(now, || Happened::Frame { from, to, arrives: sent.first, text: describe(&bytes) });
        let epoch = self.machines[from].epoch;
        self.totals.frames += 1;
        if let Some(again) = sent.second {
            self.heap.push(
                again,
                link::frame(from, to, 2 + lane as usize),
                Event::Frame { from, to, epoch, sender, receiver, bytes: bytes.clone() },
            );
        }
        if let Some(at) = sent.first {
            let frame = Event::Frame { from, to, epoch, sender, receiver, bytes };
            self.heap.push(at, link::frame(from, to, lane as usize), frame);
        }
    }

    pub(super) fn finish(&mut self, now: Nanos, member: usize, epoch: u64, due: Due) -> Verdict {
        let local = self.machines[member].clock.read(now);
        let Some(process) = self.alive(member, epoch) else {
            self.reply(now, due.call(), Err(CallError::Broken));
            return Ok(());
        };
        let call = due.call();
        let answer = process.finish(local, due);
        self.audit.used(call.client, call.call, member, local);
        if let Some((call, answer)) = answer {
            self.answer(now, member, call, answer)?;
        }
        self.rouse(now, member);
        Ok(())
    }

    pub(super) fn request(
        &mut self,
        now: Nanos,
        member: usize,
        call: CallId,
        rpc: Rpc,
        token: Option<Token>,
        bytes: Bytes,
    ) -> Verdict {
        let machine = &self.machines[member];
        let (local, wall) = (machine.clock.read(now), machine.wall.read(now));
        self.see_arrival(now, member, call, local);
        self.trace.event(now, Kind::Client, member, call.call, &bytes, || format!("{call:?} {rpc:?}"));
        match &mut self.machines[member].process {
            None => self.reply(now, call, Err(CallError::Refused)),
            Some(process) => {
                if rpc == Rpc::LeaseKeepAlive {
                    let request: pb::LeaseKeepAliveRequest = wire::message(bytes.clone());
                    self.leases.asked(member, Asker::of(call), LeaseId(request.id));
                }
                process.set_wall_clock(wall);
                process.call(local, call, rpc, token, bytes, self.actions.get_or_insert_default());
                self.carry_out(now, member)?;
                self.rouse(now, member);
            }
        }
        Ok(())
    }
}

/// The message of a frame that is about a lease, and who asks: the other member.
fn renewal(other: NodeId, bytes: &Bytes) -> Option<(PeerMessage, Asker)> {
    // Few are: most frames are told by their first byte.
    let message = bytes.get(1).filter(|kind| LEASES.contains(kind)).and_then(|_| codec::decode(bytes.clone()).ok())?;
    match message {
        PeerMessage::Lease { question, session, .. } | PeerMessage::LeaseReply { question, session, .. } => {
            Some((message, Asker::Member { id: other, session, question }))
        }
        _ => None,
    }
}

/// How [`PeerMessage::Lease`] and [`PeerMessage::LeaseReply`] begin, behind the version.
const LEASES: [u8; 2] = [4, 5];

/// A frame in words, for logs.
fn describe(bytes: &Bytes) -> String {
    match codec::decode::<PeerMessage>(bytes.clone()) {
        Ok(PeerMessage::Raft(message)) => message.to_string(),
        Ok(PeerMessage::Snapshot(chunk)) => {
            format!(
                "Snapshot {:?} chunk {} of {} rows, last {}",
                chunk.snapshot,
                chunk.sequence,
                chunk.rows.len(),
                chunk.last
            )
        }
        Ok(other) => {
            let mut text = format!("{other:?}");
            text.truncate(300);
            text
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Incarnation;

    use super::*;

    #[test]
    fn what_is_said_of_a_lease_is_recognised() {
        let (question, session) = (7, Incarnation(8));
        let asker = Asker::Member { id: NodeId(1), session, question };
        let ask = LeaderQuestion::KeepAlive(LeaseId(9));
        let other = PeerMessage::ReadIndex { read: 4, session };
        let (asks, replies) = (
            PeerMessage::Lease { question, session, ask },
            PeerMessage::LeaseReply { question, session, answer: None },
        );
        let seen = |message| renewal(NodeId(1), &codec::encode(message).0);
        assert_eq!(seen(&asks), Some((asks.clone(), asker)));
        assert_eq!(seen(&replies), Some((replies.clone(), asker)));
        assert_eq!(seen(&other), None);
    }
}
