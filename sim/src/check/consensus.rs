//! Raft's own promises, as seen from outside. A term has one leader (`leader`). What is committed at an index is the same for
//! everyone and for ever, and no state shows what nobody committed (`committed`); whoever leads a later term has it in its log
//! (`completeness`). A member applies entry by entry, leaves none out and goes back to none (`apply`), and after an index all
//! have the same state (`state`). What a leader takes a follower for having only grows while the follower's life lasts, and is
//! durable there (`matched`). (Raft figure 3)
//!
//! That what is committed is held by a quorum is for `membership.rs`, which knows whom to count.

use std::collections::BTreeMap;

use quorate_core::entry::Entry;
use quorate_core::mutant::{self, Mutant};
use quorate_core::raft::{Matched, Raft, Role, Status};
use quorate_core::store::Applied;
use quorate_core::{LogIndex, NodeId, Term};

use super::track::Track;
use super::{Verdict, Violation};
use crate::trace::Digest;

/// What the members have agreed on so far, as seen from outside.
#[derive(Debug)]
pub struct Consensus {
    leaders: BTreeMap<Term, (usize, NodeId)>,
    /// What is committed at an index.
    committed: Track<Committed>,
    /// State hash after an index, and who had it first.
    states: BTreeMap<LogIndex, (u64, usize)>,
    /// The entry that each member has to be given next.
    next: BTreeMap<usize, LogIndex>,
    /// Per leader: its term, and what it took its followers for having.
    matched: BTreeMap<usize, (Term, BTreeMap<NodeId, Matched>)>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    digest: u64,
    /// Who said so first...
    member: usize,
    /// ...and in which term, which is not before the one it was committed in.
    by: Term,
}

impl Default for Consensus {
    fn default() -> Self {
        Self {
            leaders: BTreeMap::new(),
            committed: Track::new(1),
            states: BTreeMap::new(),
            next: BTreeMap::new(),
            matched: BTreeMap::new(),
        }
    }
}

impl Consensus {
    /// How many terms had a leader.
    #[must_use]
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// The last index that anyone committed.
    #[must_use]
    pub fn last_committed(&self) -> LogIndex {
        LogIndex(self.committed.next() - 1)
    }

    /// No member can come back to anything before this index.
    pub fn forget(&mut self, before: LogIndex) {
        self.committed.forget(before.0);
        self.states = self.states.split_off(&before);
    }

    /// A member said this of itself.
    ///
    /// # Errors
    /// Two leaders in one term.
    pub fn changed(&mut self, member: usize, id: NodeId, status: &Status) -> Verdict {
        if status.role != Role::Leader {
            return Ok(());
        }
        let (first, whom) = *self.leaders.entry(status.term).or_insert((member, id));
        if whom == id || mutant::is_on(Mutant::O01) {
            return Ok(());
        }
        Err(Violation::new("leader", format!("members {first} and {member} both lead term {}", status.term)))
    }

    /// A member starts with everything up to `applied` in its state.
    ///
    /// # Errors
    /// Nobody ever committed as much.
    pub fn started(&mut self, member: usize, applied: LogIndex, hash: u64) -> Verdict {
        self.next.insert(member, applied.next());
        self.state(member, applied, hash)
    }

    /// A member starts behind `applied`, with a state that is known to be wrong, or with none.
    pub fn started_wrong(&mut self, member: usize, applied: LogIndex) {
        self.next.insert(member, applied.next());
    }

    /// The state that members have after this index, if any has been seen there.
    #[must_use]
    pub fn state_at(&self, index: LogIndex) -> Option<u64> {
        self.states.get(&index).map(|(hash, _)| *hash)
    }

    /// A member starts without any state.
    pub fn started_empty(&mut self, member: usize) {
        self.next.insert(member, LogIndex(1));
    }

    /// A member hands these entries to its store, being in term `by`.
    ///
    /// # Errors
    /// They are not those that were committed before, or not the next ones.
    pub fn committed(&mut self, member: usize, by: Term, entries: &[Entry]) -> Verdict {
        for entry in entries {
            let expected = self.next.entry(member).or_insert(LogIndex(1));
            if entry.index != *expected && !mutant::is_on(Mutant::O06) {
                let text = format!("member {member} applies index {} where {expected} was due", entry.index);
                return Err(Violation::new("apply", text));
            }
            *expected = entry.index.next();
            let digest = digest(entry);
            match self.committed.get(entry.index.0) {
                Some(known) if (known.term, known.digest) != (entry.term, digest) && !mutant::is_on(Mutant::O02) => {
                    let text = format!(
                        "index {}: member {} committed an entry of term {}, member {member} another of term {}",
                        entry.index, known.member, known.term, entry.term
                    );
                    return Err(Violation::new("committed", text));
                }
                Some(_) => {}
                None if entry.index.0 == self.committed.next() => {
                    self.committed.push(Committed { term: entry.term, digest, member, by });
                }
                None if self.committed.is_forgotten(entry.index.0) => {
                    let text = format!("member {member} committed {} again, which nobody can have kept", entry.index);
                    return Err(Violation::new("committed", text));
                }
                None => {
                    let text = format!("member {member} committed {} after a gap", entry.index);
                    return Err(Violation::new("committed", text));
                }
            }
        }
        Ok(())
    }

    /// A member leads: its log holds what was committed in earlier terms (Raft §5.4), and what it takes the
    /// lives of its followers for having only grows, and they do have it. `all`: every running member.
    ///
    /// # Errors
    /// One of that does not hold.
    pub fn led(&mut self, member: usize, raft: &Raft, all: &[Option<&Raft>]) -> Verdict {
        let term = raft.status().term;
        let (since, matched) = self.matched.entry(member).or_default();
        if *since != term {
            (*since, *matched) = (term, BTreeMap::new());
            if let Some((last, known)) = self.committed.rfind(|committed| committed.by < term) {
                let index = LogIndex(last);
                let held = raft.entry(index).map(|entry| entry.term);
                if index > raft.start() && held != Some(known.term) && !mutant::is_on(Mutant::O03) {
                    let text = format!(
                        "member {member} leads term {term} with {held:?} at index {index}, where an entry of term {} was \
                         committed by member {} in term {}",
                        known.term, known.member, known.by
                    );
                    return Err(Violation::new("completeness", text));
                }
            }
        }
        for now in raft.matched() {
            let Matched { member: follower, life, index, .. } = now;
            // A late message of a former life may be taken for a new one's: whichever is heard starts from nothing.
            let before = matched.insert(follower, now).filter(|it| (it.life, it.renewals) == (life, now.renewals));
            if let Some(before) = before.map(|before| before.index).filter(|before| index < *before) {
                let text = format!("in term {term} member {member} took {follower} from {before} back to {index}");
                return Err(Violation::new("matched", text));
            }
            let Some(other) = all.iter().flatten().find(|raft| raft.identity().member == follower) else { continue };
            let comparable = other.identity().incarnation == life && other.status().term == term;
            let comparable = comparable && !mutant::is_on(Mutant::O04);
            // What lies before a snapshot that is not durable yet still is on disk.
            if comparable && other.durable() >= other.start() && other.durable() < index {
                let text = format!(
                    "in term {term} member {member} takes {follower} for having {index}, it has {} durably",
                    other.durable()
                );
                return Err(Violation::new("matched", text));
            }
        }
        Ok(())
    }

    /// A member applied.
    ///
    /// # Errors
    /// Another member had another state there.
    pub fn applied(&mut self, member: usize, applied: &Applied) -> Verdict {
        for (index, hash) in &applied.hashes {
            self.state(member, *index, *hash)?;
        }
        self.state(member, applied.index, applied.hash)
    }

    /// A member's log begins anew behind a snapshot.
    ///
    /// # Errors
    /// It had come further already.
    pub fn installed(&mut self, member: usize, index: LogIndex) -> Verdict {
        let next = self.next.entry(member).or_insert(LogIndex(1));
        if index.next() < *next {
            let text = format!("member {member} went back from {next} to a snapshot of {index}");
            return Err(Violation::new("apply", text));
        }
        *next = index.next();
        Ok(())
    }

    /// A member's state is that of a snapshot.
    ///
    /// # Errors
    /// Another member had another state there.
    pub fn restored(&mut self, member: usize, index: LogIndex, hash: u64) -> Verdict {
        self.state(member, index, hash)
    }

    fn state(&mut self, member: usize, index: LogIndex, hash: u64) -> Verdict {
        if index > self.last_committed() {
            let text = format!("member {member} holds the state after {index}, which nobody committed");
            return Err(Violation::new("committed", text));
        }
        let (other, first) = *self.states.entry(index).or_insert((hash, member));
        if other == hash || mutant::is_on(Mutant::O05) {
            return Ok(());
        }
        let text =
            format!("after index {index} member {first} has state {other:016x}, member {member} has {hash:016x}");
        Err(Violation::new("state", text))
    }
}

fn digest(entry: &Entry) -> u64 {
    let mut digest = Digest::default();
    match &entry.payload {
        quorate_core::entry::Payload::Command(command) => digest.number(1).bytes(command),
        other => digest.text(&format!("{other:?}")),
    };
    digest.get()
}

#[cfg(test)]
mod tests {
    use quorate_core::entry::Payload;

    use super::*;

    fn entry(index: u64, term: u64, command: &'static str) -> Entry {
        Entry { term: Term(term), index: LogIndex(index), payload: Payload::Command(command.into()) }
    }

    #[test]
    fn another_entry_at_a_committed_index_is_noticed() {
        let mut consensus = Consensus::default();
        consensus.committed(0, Term(1), &[entry(1, 1, "a"), entry(2, 1, "b")]).unwrap();
        consensus.committed(1, Term(1), &[entry(1, 1, "a")]).unwrap();
        assert_eq!(consensus.committed(1, Term(1), &[entry(2, 1, "c")]).unwrap_err().oracle, "committed");
        assert_eq!(consensus.committed(2, Term(1), &[entry(2, 1, "b")]).unwrap_err().oracle, "apply");
    }

    #[test]
    fn different_states_at_one_index_are_noticed() {
        let mut consensus = Consensus::default();
        consensus.committed(0, Term(1), &[entry(1, 1, "a")]).unwrap();
        consensus.restored(1, LogIndex(1), 7).unwrap();
        assert_eq!(consensus.restored(2, LogIndex(1), 8).unwrap_err().oracle, "state");
        assert_eq!(consensus.restored(2, LogIndex(9), 8).unwrap_err().oracle, "committed");
    }
}
