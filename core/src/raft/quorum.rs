//! The arithmetic of majorities, simple and joint. (Raft §6)

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::entry::Configuration;
use crate::mutant::{self, Mutant};
use crate::{Incarnation, NodeId};

/// The highest number that a quorum has reached, given each voter's.
///
/// `reached` is asked per *life* of a voter's disk: it must answer 0 for any life it does not know to be trusted.
/// 0 if there are no voters.
pub(super) fn agreed(config: &Configuration, reached: impl Fn(NodeId, Incarnation) -> u64) -> u64 {
    let incoming = majority(&config.voters, &reached);
    if config.outgoing.is_empty() || mutant::is_on(Mutant::R14) {
        incoming
    } else {
        incoming.min(majority(&config.outgoing, &reached))
    }
}

/// Whether those for which `holds` is true are a quorum.
pub(super) fn is_quorum(config: &Configuration, holds: impl Fn(NodeId, Incarnation) -> bool) -> bool {
    agreed(config, |id, incarnation| u64::from(holds(id, incarnation))) == 1
}

/// The highest number that more than half of `voters` have reached.
fn majority(voters: &BTreeMap<NodeId, Incarnation>, reached: &impl Fn(NodeId, Incarnation) -> u64) -> u64 {
    let mut numbers: Vec<u64> = voters.iter().map(|(id, incarnation)| reached(*id, *incarnation)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    // More than half have reached the one in the middle.
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeMap<NodeId, Incarnation> {
        ids.iter().map(|id| (NodeId(*id), Incarnation(*id))).collect()
    }

    /// Votes as a table from ID to number.
    fn agreed_of(config: &Configuration, table: &[(u64, u64)]) -> u64 {
        agreed(config, |id, _| table.iter().find(|(n, _)| *n == id.0).map_or(0, |(_, value)| *value))
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for n in 1..=7 {
            let ids: Vec<u64> = (1..=n).collect();
            let config = Configuration { voters: set(&ids), ..Configuration::default() };
            for k in 0..=n {
                assert_eq!(is_quorum(&config, |id, _| id.0 <= k), k > n / 2, "{k} of {n}");
            }
        }
        assert!(!is_quorum(&Configuration::default(), |_, _| true), "nobody cannot decide");
    }

    #[test]
    fn the_agreed_number_is_the_median_of_the_worse_half() {
        let config = Configuration { voters: set(&[1, 2, 3]), ..Configuration::default() };
        assert_eq!(agreed_of(&config, &[(1, 9), (2, 5), (3, 7)]), 7);
        let config = Configuration { voters: set(&[1, 2, 3, 4]), ..Configuration::default() };
        assert_eq!(agreed_of(&config, &[(1, 9), (2, 5), (3, 7), (4, 6)]), 6);
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let config = Configuration { voters: set(&[1, 2, 3]), outgoing: set(&[3, 4, 5]), ..Configuration::default() };
        assert_eq!(agreed_of(&config, &[(1, 9), (2, 9), (3, 9)]), 0);
        assert_eq!(agreed_of(&config, &[(1, 9), (3, 8), (4, 7)]), 7);
        assert_eq!(agreed_of(&config, &[(3, 9), (4, 9), (5, 9)]), 0);
    }

    #[test]
    fn an_incarnation_that_is_not_configured_does_not_count() {
        let config = Configuration { voters: set(&[1, 2, 3]), ..Configuration::default() };
        let lives = [(1, 1), (2, 99), (3, 98)];
        assert!(!is_quorum(&config, |id, incarnation| lives.contains(&(id.0, incarnation.0))));
    }
}
