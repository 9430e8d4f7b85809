//! What happens in a world, each at its time, and the queues that keep simultaneous things apart.

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::{LeaseId, NodeId};
use quorate_node::applier;

use super::nemesis::Relief;
use crate::call::{Answer, Rpc};
use crate::heap::Nanos;
use crate::member::{CallId, Due, Subscription};
use crate::schedule::Fault;
use crate::workload::Token;

/// Something that happens at its time.
pub(super) enum Event {
    Frame {
        from: usize,
        to: usize,
        epoch: u64,
        sender: NodeId,
        receiver: NodeId,
        bytes: Bytes,
    },
    Turn {
        member: usize,
        epoch: u64,
        at: Nanos,
    },
    Synced {
        member: usize,
        epoch: u64,
        at: Nanos,
    },
    Apply {
        member: usize,
        epoch: u64,
        at: Nanos,
    },
    Finish {
        member: usize,
        epoch: u64,
        due: Box<Due>,
    },
    History {
        member: usize,
        epoch: u64,
        input: Box<applier::Input>,
    },
    Request {
        member: usize,
        call: CallId,
        rpc: Rpc,
        token: Option<Token>,
        bytes: Bytes,
    },
    Answer {
        call: CallId,
        answer: Answer,
    },
    Patience {
        call: CallId,
    },
    Think {
        client: usize,
    },
    Subscribe {
        member: usize,
        subscription: Subscription,
        token: Option<Token>,
        requests: Vec<pb::WatchRequest>,
    },
    WatchRequest {
        member: usize,
        subscription: Subscription,
        request: Box<pb::WatchRequest>,
    },
    Taken {
        member: usize,
        subscription: Subscription,
        bytes: u64,
    },
    Unsubscribe {
        member: usize,
        subscription: Subscription,
    },
    WatchMessage {
        subscription: Subscription,
        bytes: Bytes,
        cost: u64,
    },
    WatchBroken {
        subscription: Subscription,
    },
    WatchRead {
        subscription: Subscription,
    },
    Whim {
        client: usize,
    },
    Deed(usize),
    Strike(usize),
    Relief(Relief),
    Hit {
        leader: usize,
        epoch: u64,
    },
    /// A leader is cut off.
    Topple {
        leader: usize,
        epoch: u64,
    },
    /// The rest of a blow at a leader.
    Blow(Fault),
    Start {
        member: usize,
        epoch: u64,
    },
    /// The process of a removed member ends.
    Retire {
        member: usize,
        id: NodeId,
    },
    /// A member that went wrong then should have found out.
    Noticed {
        member: usize,
        epoch: u64,
        since: Nanos,
    },
    /// A member that has no state asks the others whether its life is over.
    Inquire {
        member: usize,
        epoch: u64,
    },
    /// Members dial each other.
    Dial,
    /// An administrator does what comes next.
    Administer {
        admin: usize,
    },
    /// A contender or an observer does what comes next, if that is still its latest plan.
    Contend {
        line: usize,
        plan: u64,
    },
    /// A contender renews its lease.
    Renew {
        line: usize,
        lease: LeaseId,
    },
    /// A controller does what comes next, if that is still its latest plan; or a compactor does.
    Control {
        line: usize,
        plan: u64,
    },
    /// A watch from outside that broke off is opened again.
    Listen {
        listener: usize,
    },
    Finale,
}

/// Each is moved a few times, and there are half a million of them in a minute.
const _: () = assert!(size_of::<Event>() <= 80);

/// What numbers a queue of the heap.
pub(super) mod link {
    pub(in super::super) const NEMESIS: usize = 1_000;
    pub(in super::super) fn frame(from: usize, to: usize, lane: usize) -> usize {
        (lane * 8 + from) * 8 + to
    }
    pub(in super::super) fn member(member: usize, queue: usize) -> usize {
        300 + member * 8 + queue
    }
    pub(in super::super) fn client(line: usize, direction: usize) -> usize {
        2_000 + line * 4 + direction
    }
}
