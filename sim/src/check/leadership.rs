//! Nobody leads for long whom no quorum speaks to: a leader that can commit nothing makes room for one that can. (Raft
//! thesis §6.2, check quorum)
//!
//! Members count only what answers them in their term; here whatever arrives from a voter is taken for a sign, so that a
//! leader is never blamed for too much.

use std::collections::BTreeMap;

use quorate_core::mutant::{self, Mutant};
use quorate_core::raft::{Role, Status};
use quorate_core::{LogIndex, NodeId, Term};

use super::{Verdict, Violation};
use crate::heap::Nanos;

/// Who heard whom, and who has led since when.
#[derive(Debug)]
pub struct Leadership {
    /// So long a leader may go on that nobody speaks to.
    patience: Nanos,
    members: BTreeMap<usize, Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// When something arrived from these last.
    heard: BTreeMap<NodeId, Nanos>,
    /// It leads this term with this configuration; and since when, or when a quorum is known to have spoken to it.
    leads: Option<(Term, LogIndex, Nanos)>,
}

impl Leadership {
    /// Of members with these settings.
    #[must_use]
    pub fn new(election: Nanos, heartbeat: Nanos) -> Self {
        // It looks once a heartbeat, by a clock that may be slow.
        Self { patience: 2 * (election + heartbeat), members: BTreeMap::new() }
    }

    /// Something from `sender` arrived at the member on machine `member`.
    pub fn heard(&mut self, now: Nanos, member: usize, sender: NodeId) {
        self.members.entry(member).or_default().heard.insert(sender, now);
    }

    /// The member on machine `member` starts anew.
    pub fn started(&mut self, member: usize) {
        self.members.remove(&member);
    }

    /// The member `id` on machine `member` has had a turn; its latest configuration is the entry at `config`.
    ///
    /// # Errors
    /// It leads, and should have given up.
    pub fn turned(&mut self, now: Nanos, (member, id): (usize, NodeId), status: &Status, config: LogIndex) -> Verdict {
        let (patience, Some(known)) = (self.patience, self.members.get_mut(&member)) else { return Ok(()) };
        if status.role != Role::Leader {
            known.leads = None;
            return Ok(());
        }
        let leads = (status.term, config);
        let (.., since) = match &mut known.leads {
            Some(before) if (before.0, before.1) == leads => before,
            other => other.insert((leads.0, leads.1, now)),
        };
        if now <= *since + patience {
            return Ok(());
        }
        let sets = [&status.config.voters, &status.config.outgoing];
        let quorums = sets.into_iter().filter(|voters| !voters.is_empty()).map(|voters| {
            let heard = |voter: &NodeId| if *voter == id { now } else { known.heard.get(voter).copied().unwrap_or(0) };
            let mut heard: Vec<Nanos> = voters.keys().map(heard).collect();
            heard.sort_unstable_by(|one, two| two.cmp(one));
            heard[voters.len() / 2]
        });
        *since = quorums.min().unwrap_or(now).max(*since);
        if now <= *since + patience || mutant::is_on(Mutant::O11) {
            return Ok(());
        }
        let text =
            format!("member {member} leads term {} at {now}, and no quorum has spoken to it since {since}", leads.0);
        Err(Violation::new("leadership", text))
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Incarnation;
    use quorate_core::entry::{Configuration, Standing};

    use super::*;

    fn leader_of(voters: &[u64], outgoing: &[u64]) -> Status {
        let set = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), Incarnation(1))).collect();
        Status {
            term: Term(2),
            role: Role::Leader,
            leader: Some(NodeId(1)),
            standing: Standing::Trusted,
            commit: LogIndex(9),
            last: LogIndex(9),
            config: Configuration { voters: set(voters), outgoing: set(outgoing), ..Configuration::default() },
        }
    }

    #[test]
    fn a_leader_gives_up_when_it_has_long_heard_from_no_quorum_of_either_set() {
        let mut leadership = Leadership::new(100, 10);
        let turned = |leadership: &mut Leadership, now, (status, config): (&Status, u64)| {
            leadership.turned(now, (0, NodeId(1)), status, LogIndex(config))
        };
        let (three, joint) = (leader_of(&[1, 2, 3], &[]), leader_of(&[1, 2, 3], &[1, 4, 5]));
        leadership.heard(0, 0, NodeId(2));
        turned(&mut leadership, 50, (&three, 5)).unwrap();
        turned(&mut leadership, 270, (&three, 5)).unwrap();
        assert!(turned(&mut leadership, 271, (&three, 5)).is_err());
        leadership.heard(271, 0, NodeId(2));
        turned(&mut leadership, 271, (&three, 5)).unwrap();
        turned(&mut leadership, 272, (&joint, 6)).unwrap();
        leadership.heard(480, 0, NodeId(2));
        turned(&mut leadership, 492, (&joint, 6)).unwrap();
        assert!(turned(&mut leadership, 493, (&joint, 6)).is_err(), "nobody speaks for those who go");
        let follower = Status { role: Role::Follower, ..joint.clone() };
        turned(&mut leadership, 500, (&follower, 6)).unwrap();
        turned(&mut leadership, 800, (&joint, 6)).unwrap();
        turned(&mut leadership, 2_000, (&leader_of(&[1], &[]), 7)).unwrap();
        turned(&mut leadership, 3_000, (&leader_of(&[1], &[]), 7)).unwrap();
    }
}
