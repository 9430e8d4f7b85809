//! One leader a term, one command an index, one state an index. (Raft figure 3)

use std::collections::BTreeMap;

use quorate_core::entry::Entry;
use quorate_core::raft::{Role, Status};
use quorate_core::store::Applied;
use quorate_core::{LogIndex, Term};

use super::{Verdict, Violation};
use crate::trace::Digest;

/// What the members have agreed on so far, as seen from outside.
#[derive(Debug, Default)]
pub struct Consensus {
    leaders: BTreeMap<Term, usize>,
    /// Term and digest of the entry committed at index 1 + i, and who said so first.
    committed: Vec<(Term, u64, usize)>,
    /// State hash after an index, and who had it first.
    states: BTreeMap<LogIndex, (u64, usize)>,
    /// The entry that each member has to be given next.
    next: BTreeMap<usize, LogIndex>,
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
        LogIndex(self.committed.len() as u64)
    }

    /// A member said this of itself.
    ///
    /// # Errors
    /// Two leaders in one term.
    pub fn changed(&mut self, member: usize, status: &Status) -> Verdict {
        if status.role != Role::Leader {
            return Ok(());
        }
        let first = *self.leaders.entry(status.term).or_insert(member);
        if first == member {
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

    /// A member starts without any state.
    pub fn started_empty(&mut self, member: usize) {
        self.next.insert(member, LogIndex(1));
    }

    /// A member hands these entries to its store.
    ///
    /// # Errors
    /// They are not those that were committed before, or not the next ones.
    pub fn committed(&mut self, member: usize, entries: &[Entry]) -> Verdict {
        for entry in entries {
            let expected = self.next.entry(member).or_insert(LogIndex(1));
            if entry.index != *expected {
                let text = format!("member {member} applies index {} where {expected} was due", entry.index);
                return Err(Violation::new("apply", text));
            }
            *expected = entry.index.next();
            let digest = digest(entry);
            let position = usize::try_from(entry.index.0 - 1).expect("logs fit into memory");
            match self.committed.get(position) {
                Some((term, other, first)) if (*term, *other) != (entry.term, digest) => {
                    let text = format!(
                        "index {}: member {first} committed an entry of term {term}, member {member} another of term {}",
                        entry.index, entry.term
                    );
                    return Err(Violation::new("committed", text));
                }
                Some(_) => {}
                None if position == self.committed.len() => self.committed.push((entry.term, digest, member)),
                None => {
                    let text = format!("member {member} committed {} after a gap", entry.index);
                    return Err(Violation::new("committed", text));
                }
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
        if other == hash {
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
        consensus.committed(0, &[entry(1, 1, "a"), entry(2, 1, "b")]).unwrap();
        consensus.committed(1, &[entry(1, 1, "a")]).unwrap();
        assert_eq!(consensus.committed(1, &[entry(2, 1, "c")]).unwrap_err().oracle, "committed");
        assert_eq!(consensus.committed(2, &[entry(2, 1, "b")]).unwrap_err().oracle, "apply");
    }

    #[test]
    fn different_states_at_one_index_are_noticed() {
        let mut consensus = Consensus::default();
        consensus.committed(0, &[entry(1, 1, "a")]).unwrap();
        consensus.restored(1, LogIndex(1), 7).unwrap();
        assert_eq!(consensus.restored(2, LogIndex(1), 8).unwrap_err().oracle, "state");
        assert_eq!(consensus.restored(2, LogIndex(9), 8).unwrap_err().oracle, "committed");
    }
}
