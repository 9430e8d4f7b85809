//! An administrator: adds members and learners, promotes, moves and removes them, and looks who is there.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::NodeId;
use quorate_core::rng::Rng;

use super::caller::Caller;
use crate::call::Rpc;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::member::peer_url;
use crate::world::redraw::anew;

/// What an administrator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Who is there, linearizable or not?
    List(bool),
    /// A new member on this machine.
    Add {
        /// Where it is to run.
        machine: usize,
        /// It is not to vote.
        learner: bool,
    },
    /// A learner is to vote.
    Promote(NodeId),
    /// A member is reached on its machine at another port.
    Update {
        /// Who.
        id: NodeId,
        /// Where.
        url: String,
    },
    /// A member is to be one no more.
    Remove(NodeId),
}

/// A call that waits for its answer.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its number.
    pub call: u64,
    /// What it asks for.
    pub task: Task,
    /// The version of the membership that it has to see.
    pub floor: usize,
}

/// One administrator.
#[derive(Clone, Debug)]
pub struct Admin {
    rng: Rng,
    /// Its calls.
    pub caller: Caller<Pending>,
    /// The members as it last heard of them.
    pub known: Vec<pb::Member>,
    /// Whom it is about to remove. What it has begun it brings to an end: nobody can tell whether a request whose answer
    /// is missing will take effect.
    pub removing: Option<NodeId>,
    /// A request to remove them may still take effect, although none has worked.
    pub is_doubtful: bool,
}

impl Admin {
    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// One that begins with the member on machine `member`.
    #[must_use]
    pub fn new(rng: Rng, member: usize) -> Self {
        Self { rng, caller: Caller::new(member), known: vec![], removing: None, is_doubtful: false }
    }

    /// Draws what to do next. `free`: machines on which nobody runs; `removable`: those it may remove without risk. When it
    /// is `alarmed` by a member that is being rebuilt, it often thinks that the others are too many.
    pub fn next(&mut self, free: &[usize], removable: &[NodeId], alarmed: bool) -> Task {
        if let Some(id) = self.removing {
            return if self.rng.chance(1, 3) { Task::List(true) } else { Task::Remove(id) };
        }
        let members = self.known.len();
        let draw = match members {
            0 => 0,
            _ if alarmed && self.rng.chance(1, 2) => 99,
            _ => self.rng.below(100),
        };
        match draw {
            0..25 => Task::List(self.rng.chance(2, 3)),
            25..50 => match self.pick(free) {
                Some(machine) => Task::Add { machine, learner: self.rng.chance(2, 3) },
                None => Task::List(true),
            },
            50..68 => {
                let learners: Vec<NodeId> = self.ids(|member| member.is_learner);
                let chosen = if self.rng.chance(7, 8) { self.pick(&learners) } else { None };
                let anyone = self.ids(|_| true);
                Task::Promote(chosen.or_else(|| self.pick(&anyone)).expect("there are members"))
            }
            68..78 => {
                let at = self.below(members);
                let member = &self.known[at];
                let machine = member.peer_ur_ls.first().and_then(|url| crate::member::machine_of_url(url)).unwrap_or(0);
                // Now and then one that another member has.
                let machine = if self.rng.chance(1, 8) { self.below(members) } else { machine };
                let id = NodeId(self.known[at].id);
                Task::Update { id, url: peer_url(machine, 2380 + self.rng.below(3)) }
            }
            // One that never was.
            78 => Task::Remove(NodeId(0xDEAD)),
            _ => match self.pick(removable) {
                Some(id) => {
                    (self.removing, self.is_doubtful) = (Some(id), false);
                    Task::Remove(id)
                }
                None => Task::List(true),
            },
        }
    }

    fn ids(&self, which: impl Fn(&pb::Member) -> bool) -> Vec<NodeId> {
        self.known.iter().filter(|member| which(member)).map(|member| NodeId(member.id)).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("few members")
    }

    /// Goes to another of these machines, or stays.
    pub fn move_on(&mut self, members: &[usize]) {
        self.caller.move_on(&mut self.rng, members);
    }

    /// Whether to go to another member for no reason, or to stop the process of one that was removed, and the like.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.rng.chance(numerator, denominator)
    }

    /// How long to wait for an answer.
    pub fn patience(&mut self) -> Nanos {
        500 * MILLI + self.rng.below(8 * SECOND)
    }

    /// How long to think, given the mean.
    pub fn think(&mut self, mean: Nanos) -> Nanos {
        MILLI + self.rng.below(2 * mean)
    }

    /// How long until a machine is set up for a new member.
    pub fn delay(&mut self) -> Nanos {
        let span = if self.rng.chance(1, 4) { 10 * SECOND } else { SECOND / 2 };
        self.rng.below(span)
    }
}

/// The method and encoded request of a task.
#[must_use]
pub fn encode(task: &Task) -> (Rpc, Bytes) {
    let (rpc, bytes) = match task {
        Task::List(linearizable) => {
            (Rpc::MemberList, pb::MemberListRequest { linearizable: *linearizable }.encode_to_vec())
        }
        Task::Add { machine, learner } => {
            let peer_ur_ls = vec![peer_url(*machine, 2380)];
            (Rpc::MemberAdd, pb::MemberAddRequest { peer_ur_ls, is_learner: *learner }.encode_to_vec())
        }
        Task::Promote(id) => (Rpc::MemberPromote, pb::MemberPromoteRequest { id: id.0 }.encode_to_vec()),
        Task::Update { id, url } => {
            let request = pb::MemberUpdateRequest { id: id.0, peer_ur_ls: vec![url.clone()] };
            (Rpc::MemberUpdate, request.encode_to_vec())
        }
        Task::Remove(id) => (Rpc::MemberRemove, pb::MemberRemoveRequest { id: id.0 }.encode_to_vec()),
    };
    (rpc, bytes.into())
}
