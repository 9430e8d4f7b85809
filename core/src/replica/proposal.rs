//! Proposals: naming them, holding them while there is no leader, forwarding them, matching answers to them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use super::{Config, Output, PeerMessage, Replica, raft};
use crate::auth::Author;
use crate::command::{Command, Envelope, Origin};
use crate::error::Error;
use crate::format::codec;
use crate::mutant::{self, Mutant};
use crate::request::{Lease, Member};
use crate::rng::Rng;
use crate::{Blob, Incarnation, Instant, LeaseId, NodeId, RequestId, Ttl};

/// The largest TTL, in seconds. (etcd)
const LEASE_TTL_MAX: Ttl = Ttl(9_000_000_000);

/// Proposals are passed on by a member that is not the leader (any more) at most this often.
const HOPS_MAX: u8 = 2;

/// A batch of so many commands does not wait for the log.
const BATCH_COMMANDS: usize = 1024;

/// Bytes of proposals that clients may wait for; more are refused, whatever their number.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// Bytes of commands in one forward message; a single command always fits.
const FORWARD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Proposals {
    member: NodeId,
    session: Incarnation,
    sequence: u64,
    held_max: usize,
    /// Lease IDs are drawn from here.
    rng: Rng,
    ttl_min: Ttl,
    /// Own proposals that a client waits for, by sequence: offered again to every new leader, since the one before may
    /// have taken them with it. The store applies each once.
    waiting: BTreeMap<u64, (RequestId, Blob)>,
    sequences: BTreeMap<RequestId, u64>,
    /// Bytes of `waiting`.
    bytes: u64,
    /// Commands on their way to the leader, with how often they were passed on.
    held: VecDeque<(Blob, u8)>,
    /// While the leader proposes for itself: whether that was refused.
    refused: Option<bool>,
    /// The leader refused proposals: nothing is offered to it before this.
    blocked: Option<Instant>,
    publish: Option<Member>,
    /// The publication under way and when to try again.
    publishing: Option<(u64, Instant)>,
}

impl Proposals {
    pub(super) fn new(member: NodeId, config: &Config) -> Self {
        Self {
            member,
            session: config.session,
            sequence: 0,
            held_max: config.held_max,
            rng: Rng::new(config.session.0).split(member.0),
            ttl_min: ttl_min(config.raft.election_timeout),
            waiting: BTreeMap::new(),
            sequences: BTreeMap::new(),
            bytes: 0,
            held: VecDeque::new(),
            refused: None,
            blocked: None,
            publish: config.publish.clone(),
            publishing: None,
        }
    }

    /// The next proposal's name and bytes.
    pub(super) fn encode(&mut self, author: Author, command: Command) -> (u64, Blob) {
        self.sequence += 1;
        let origin = Origin { member: self.member, incarnation: self.session, sequence: self.sequence };
        (self.sequence, codec::encode(&Envelope { origin, command, author }))
    }

    /// Proposes something that nobody waits for.
    pub(super) fn offer(&mut self, command: Command) {
        let (_, bytes) = self.encode(Author::Member, command);
        self.held.push_back((bytes, 0));
    }

    /// The request that `origin` answers, if it is one of this process's and still waited for.
    pub(super) fn applied(&mut self, origin: &Origin) -> Option<RequestId> {
        if origin.member != self.member || origin.incarnation != self.session {
            return None;
        }
        if self.publishing.is_some_and(|(sequence, _)| sequence == origin.sequence) {
            self.publishing = None;
            self.publish = None;
        }
        let (id, command) = self.waiting.remove(&origin.sequence)?;
        self.bytes -= command.len() as u64;
        self.sequences.remove(&id);
        Some(id)
    }

    /// The requests that wait for a proposal of theirs.
    pub(super) fn waiting_ids(&self) -> Vec<RequestId> {
        self.sequences.keys().copied().collect()
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some((_, command)) = self.sequences.remove(&id).and_then(|sequence| self.waiting.remove(&sequence)) {
            self.bytes -= command.len() as u64;
        }
    }

    /// Consensus did not take these: they wait for a leader that does.
    pub(super) fn rejected(&mut self, commands: Vec<Blob>, retry: Instant) {
        reach!(ProposalRefused);
        self.blocked = Some(retry);
        if let Some(refused) = &mut self.refused {
            *refused = true;
            return;
        }
        for command in commands.into_iter().rev() {
            self.held.push_front((command, 1));
        }
    }

    /// There is a new leader, or none.
    pub(super) fn leader_changed(&mut self, leader: Option<NodeId>) {
        self.blocked = None;
        if leader.is_some() {
            reach!(ProposalOfferedAgain if !self.waiting.is_empty());
            self.held = self.waiting.values().map(|(_, command)| (command.clone(), 0)).collect();
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let blocked = self.blocked.filter(|_| !self.held.is_empty()).unwrap_or(Instant::FAR);
        let publishing = match (&self.publish, self.publishing) {
            (Some(_), Some((_, retry))) => retry,
            _ => Instant::FAR,
        };
        blocked.min(publishing)
    }

    /// Takes up to [`FORWARD_BYTES_MAX`] of commands with the same number of hops.
    fn take(&mut self) -> Option<(Vec<Blob>, u8)> {
        let &(_, hops) = self.held.front()?;
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while let Some((command, _)) = self.held.front().filter(|(_, h)| *h == hops) {
            bytes += command.len();
            if bytes > FORWARD_BYTES_MAX && !commands.is_empty() {
                break;
            }
            commands.extend(self.held.pop_front().map(|(command, _)| command));
        }
        Some((commands, hops))
    }

    fn lease_id(&mut self) -> LeaseId {
        // etcd's shape: 15 bits of the member, then 48 that are this member's business; never 0, never negative.
        let member = i64::try_from(self.member.0 & 0x7fff).expect("15 bits");
        let own = i64::try_from(self.rng.next_u64() >> 16).expect("48 bits");
        LeaseId((member << 48 | own).max(1))
    }
}

/// The least TTL in whole seconds: a lease must outlive an election. (etcd: ceil of 1.5 election timeouts)
fn ttl_min(election_timeout: Duration) -> Ttl {
    let milliseconds = election_timeout.as_millis() * 3 / 2;
    Ttl(i64::try_from(milliseconds.div_ceil(1000)).unwrap_or(i64::MAX))
}

impl Replica {
    pub(super) fn propose(&mut self, id: RequestId, author: Author, mut command: Command, out: &mut Vec<Output>) {
        if let Command::LeaseGrant(lease) = &mut command {
            if lease.ttl > LEASE_TTL_MAX {
                return self.respond(id, Err(Error::LeaseTtlTooLarge), out);
            }
            *lease = self.complete_lease(*lease);
        }
        let lag = self.raft.status().commit.0 - self.applied.0;
        let is_full = self.proposals.held.len() >= self.proposals.held_max || self.proposals.bytes >= WAITING_BYTES_MAX;
        if lag > self.config.apply_lag_max || is_full {
            return self.respond(id, Err(Error::TooManyRequests), out);
        }
        let (sequence, bytes) = self.proposals.encode(author, command);
        self.proposals.bytes += bytes.len() as u64;
        self.proposals.waiting.insert(sequence, (id, bytes.clone()));
        self.proposals.sequences.insert(id, sequence);
        self.proposals.held.push_back((bytes, 0));
    }

    fn complete_lease(&mut self, lease: Lease) -> Lease {
        let id = if lease.id == LeaseId(0) { self.proposals.lease_id() } else { lease.id };
        Lease { id, ttl: lease.ttl.max(self.proposals.ttl_min) }
    }

    /// Proposes something of the leader's own: only in its own log, never forwarded. False if it was refused: it will
    /// never take effect.
    pub(super) fn propose_here(&mut self, command: Command, out: &mut Vec<Output>) -> bool {
        assert!(self.leads(), "only a leader proposes for itself");
        let is_expiry = matches!(command, Command::LeaseExpire(_));
        let author = if is_expiry && mutant::is_on(Mutant::K08) { Author::Nobody } else { Author::Member };
        let (_, bytes) = self.proposals.encode(author, command);
        self.proposals.refused = Some(false);
        self.consensus(raft::Input::Propose { commands: alloc::vec![bytes] }, out);
        self.proposals.refused.take() != Some(true)
    }

    pub(super) fn forwarded(&mut self, from: NodeId, commands: Vec<Blob>, hops: u8) {
        if self.leads() {
            return self.proposals.held.extend(commands.into_iter().map(|command| (command, hops)));
        }
        if hops >= HOPS_MAX || self.status.leader == Some(from) || self.proposals.held.len() >= self.proposals.held_max
        {
            reach!(ForwardDropped);
            return; // The asker gives up in time; the outcome is unknown to it, and in fact nothing happens.
        }
        reach!(ForwardedOn);
        self.proposals.held.extend(commands.into_iter().map(|command| (command, hops + 1)));
    }

    /// Hands held proposals to the leader, if there is one that takes them.
    ///
    /// A leader whose log is being written lets the next batch grow meanwhile: it would wait for that write anyway.
    pub(super) fn flush_proposals(&mut self, out: &mut Vec<Output>) {
        if self.proposals.held.is_empty() {
            return;
        }
        match self.proposals.blocked {
            Some(until) if self.now < until => return,
            _ => self.proposals.blocked = None,
        }
        if self.leads() {
            if self.raft.durable() < self.raft.status().last && self.proposals.held.len() < BATCH_COMMANDS {
                return;
            }
            let commands = self.proposals.held.drain(..).map(|(command, _)| command).collect();
            self.consensus(raft::Input::Propose { commands }, out);
        } else if let Some(to) = self.remote_leader() {
            while let Some((commands, hops)) = self.proposals.take() {
                out.push(Output::Send { to, message: PeerMessage::Forward { commands, hops } });
            }
        }
    }

    /// Tells the cluster this member's name and URLs, once, as soon as there is a leader. (etcd: publish)
    pub(super) fn publish(&mut self) {
        let due = self.proposals.publishing.is_none_or(|(_, retry)| self.now >= retry);
        if !due {
            return;
        }
        // Without a record of its own, nothing would come of it.
        if self.status.leader.is_none() || self.membership.known.get(self.member).is_none() {
            // A deadline that has passed without anything to do would have this member spin.
            if let Some((_, retry)) = &mut self.proposals.publishing {
                *retry = self.now + self.config.raft.election_timeout;
            }
            return;
        }
        let Some(member) = self.proposals.publish.clone() else { return };
        let (sequence, bytes) = self.proposals.encode(Author::Member, Command::Publish(member));
        self.proposals.publishing = Some((sequence, self.now + self.config.request_timeout));
        self.proposals.held.push_back((bytes, 0));
    }
}
