//! Proposals: naming them, holding them while there is no leader, forwarding them, matching answers to them.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
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
/// Nor does one of so many bytes.
const BATCH_BYTES: u64 = 8 << 20;

/// Bytes of proposals that clients may wait for, and that are held; more are refused, whatever their number.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// Bytes of commands in one forward message; a single command always fits.
const FORWARD_BYTES_MAX: usize = 1 << 20;

/// A command that was not offered yet.
#[derive(Debug)]
struct Held {
    command: Blob,
    mark: Mark,
}

/// What is known of a command beside its bytes.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Its number, if this process named it.
    sequence: Option<u64>,
    /// How often it was passed on.
    hops: u8,
}

impl Mark {
    /// Of a command that this process named, and offers itself.
    fn own(sequence: u64) -> Self {
        Self { sequence: Some(sequence), hops: 0 }
    }
}

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
    /// Commands on their way to the leader, in order: not yet offered, since it refused or its log is being written.
    /// Empty while no leader is known.
    held: VecDeque<Held>,
    /// Bytes of `held`.
    held_bytes: u64,
    /// What consensus is being offered here.
    offering: Vec<Mark>,
    /// It refused.
    is_refused: bool,
    /// The highest of this process's numbers that was offered to this leader.
    offered: u64,
    /// Clients given up, by number: what is held of them is dropped at the end of the step.
    given_up: BTreeSet<u64>,
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
            held_bytes: 0,
            offering: Vec::new(),
            is_refused: false,
            offered: 0,
            given_up: BTreeSet::new(),
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
        let (sequence, bytes) = self.encode(Author::Member, command);
        self.hold(bytes, Mark::own(sequence));
    }

    fn hold(&mut self, command: Blob, mark: Mark) {
        self.held_bytes += command.len() as u64;
        self.held.push_back(Held { command, mark });
    }

    /// Bytes of commands in memory here, whether somebody waits for them or not.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.held_bytes
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

    /// A client was given up: nothing of it is offered any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        if let Some((_, command)) = self.waiting.remove(&sequence) {
            self.bytes -= command.len() as u64;
        }
        if !self.held.is_empty() {
            self.given_up.insert(sequence);
        }
    }

    /// Drops what is held of clients that were given up.
    pub(super) fn drop_given_up(&mut self) {
        if self.given_up.is_empty() {
            return;
        }
        let given_up = core::mem::take(&mut self.given_up);
        self.held.retain(|held| held.mark.sequence.is_none_or(|sequence| !given_up.contains(&sequence)));
        self.held_bytes = self.held.iter().map(|held| held.command.len() as u64).sum();
    }

    /// Consensus did not take what it was just offered: `commands` wait for a leader that does.
    pub(super) fn rejected(&mut self, commands: Vec<Blob>, retry: Instant) {
        reach!(ProposalRefused);
        self.blocked = Some(retry);
        self.is_refused = true;
        let marks = core::mem::take(&mut self.offering);
        assert_eq!(marks.len(), commands.len(), "what was offered is what was refused");
        if let Some(first) = marks.iter().find_map(|mark| mark.sequence) {
            self.offered = first - 1;
        }
        for (command, mark) in commands.into_iter().zip(marks).rev() {
            self.held_bytes += command.len() as u64;
            self.held.push_front(Held { command, mark: Mark { hops: mark.hops.max(1), ..mark } });
        }
    }

    /// There is a new leader, or none.
    pub(super) fn leader_changed(&mut self, leader: Option<NodeId>) {
        self.blocked = None;
        self.offered = 0;
        self.held.clear();
        self.held_bytes = 0;
        if leader.is_some() {
            reach!(ProposalOfferedAgain if !self.waiting.is_empty());
            for (&sequence, (_, command)) in &self.waiting {
                self.held.push_back(Held { command: command.clone(), mark: Mark::own(sequence) });
            }
            self.held_bytes = self.bytes;
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

    /// The next command to offer.
    ///
    /// **Invariant:** what this process named is offered to each leader in the order of its numbers, so it comes into the
    /// log in that order unless messages are lost. The store takes what comes far behind a higher number for applied.
    fn take(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        self.held_bytes -= held.command.len() as u64;
        if let Some(sequence) = held.mark.sequence {
            assert!(sequence > self.offered, "proposal {sequence} was overtaken by {}", self.offered);
            self.offered = sequence;
        }
        Some(held)
    }

    /// Takes up to [`FORWARD_BYTES_MAX`] of commands with the same number of hops.
    fn take_frame(&mut self) -> Option<(Vec<Blob>, u8)> {
        let hops = self.held.front()?.mark.hops;
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.held.front().filter(|held| held.mark.hops == hops) {
            bytes += next.command.len();
            if bytes > FORWARD_BYTES_MAX && !commands.is_empty() {
                break;
            }
            commands.extend(self.take().map(|held| held.command));
        }
        Some((commands, hops))
    }

    /// No more may be held.
    fn is_full(&self) -> bool {
        self.held.len() >= self.held_max || self.held_bytes >= WAITING_BYTES_MAX
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
        if let Err(error) = self.level.check(&command) {
            return self.respond(id, Err(error), out);
        }
        let lag = self.raft.status().commit.0 - self.applied.0;
        let is_full = self.proposals.is_full() || self.proposals.bytes >= WAITING_BYTES_MAX;
        if lag > self.config.apply_lag_max || is_full {
            return self.respond(id, Err(Error::TooManyRequests), out);
        }
        let (sequence, bytes) = self.proposals.encode(author, command);
        self.proposals.bytes += bytes.len() as u64;
        self.proposals.waiting.insert(sequence, (id, bytes.clone()));
        self.proposals.sequences.insert(id, sequence);
        // Whoever leads next is offered all that is waited for.
        if self.status.leader.is_some() {
            self.proposals.hold(bytes, Mark::own(sequence));
        }
    }

    fn complete_lease(&mut self, lease: Lease) -> Lease {
        let id = if lease.id == LeaseId(0) { self.proposals.lease_id() } else { lease.id };
        Lease { id, ttl: lease.ttl.max(self.proposals.ttl_min) }
    }

    /// Proposes something of the leader's own: only in its own log, never forwarded, and after all that is held. False if
    /// it was refused: it will never take effect.
    pub(super) fn propose_here(&mut self, command: Command, out: &mut Vec<Output>) -> bool {
        assert!(self.leads(), "only a leader proposes for itself");
        if self.level.check(&command).is_err() {
            return false;
        }
        let is_expiry = matches!(command, Command::LeaseExpire(_));
        let author = if is_expiry && mutant::is_on(Mutant::K08) { Author::Nobody } else { Author::Member };
        let (sequence, bytes) = self.proposals.encode(author, command);
        self.proposals.hold(bytes, Mark::own(sequence));
        self.propose_held(out);
        // If it was refused, it is the last of what is held again; unless leadership is gone with that.
        if self.proposals.held.back().is_some_and(|held| held.mark.sequence == Some(sequence)) {
            self.proposals.held_bytes -= self.proposals.held.pop_back().map_or(0, |held| held.command.len() as u64);
        }
        !self.proposals.is_refused
    }

    pub(super) fn forwarded(&mut self, from: NodeId, commands: Vec<Blob>, hops: u8) {
        let is_onward = !self.leads();
        let is_lost = self.status.leader.is_none_or(|leader| leader == from) || hops >= HOPS_MAX;
        let is_full = if is_onward { self.proposals.is_full() } else { self.proposals.held_bytes >= WAITING_BYTES_MAX };
        if is_full || is_onward && is_lost {
            reach!(ForwardDropped);
            return; // The asker gives up in time; the outcome is unknown to it, and in fact nothing happens.
        }
        reach!(ForwardedOn if is_onward);
        for command in commands {
            self.proposals.hold(command, Mark { sequence: None, hops: hops + u8::from(is_onward) });
        }
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
            let is_small = self.proposals.held.len() < BATCH_COMMANDS && self.proposals.held_bytes < BATCH_BYTES;
            if self.raft.durable() < self.raft.status().last && is_small {
                return;
            }
            self.propose_held(out);
        } else if let Some(to) = self.remote_leader() {
            while let Some((commands, hops)) = self.proposals.take_frame() {
                out.push(Output::Send { to, message: PeerMessage::Forward { commands, hops } });
            }
        }
    }

    /// Offers all that is held to consensus, which leads here or refuses.
    fn propose_held(&mut self, out: &mut Vec<Output>) {
        let mut commands = Vec::with_capacity(self.proposals.held.len());
        while let Some(held) = self.proposals.take() {
            self.proposals.offering.push(held.mark);
            commands.push(held.command);
        }
        self.proposals.is_refused = false;
        self.consensus(raft::Input::Propose { commands }, out);
        self.proposals.offering.clear();
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
        self.proposals.hold(bytes, Mark::own(sequence));
    }
}
