//! What a member tells those who ask it and have lost something: who decides, and whether a life is over.

use quorate_core::entry::{Configuration, Standing};
use quorate_core::mutant::{self, Mutant};
use quorate_core::raft::Raft;
use quorate_core::store::View;
use quorate_core::{Incarnation, LogIndex, NodeId};

/// What a member's log says of the configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voucher {
    standing: Standing,
    commit: LogIndex,
    /// Those that may be in force: the committed one, and a later one.
    configs: Vec<Configuration>,
}

impl Voucher {
    /// Of the member that has this log.
    #[must_use]
    pub fn of(raft: &Raft) -> Self {
        let commit = raft.status().commit;
        let later = (raft.config_index() > commit).then(|| raft.status().config.clone());
        Self {
            standing: raft.status().standing,
            commit,
            configs: raft.config_at(commit).into_iter().chain(later).collect(),
        }
    }

    /// The sets of voters that may be needed now. What a member knows that has forgotten once may be of long ago.
    #[must_use]
    pub fn in_force(&self) -> Vec<Vec<NodeId>> {
        if self.standing != Standing::Trusted {
            return Vec::new();
        }
        let sets = self.configs.iter().flat_map(|config| [&config.voters, &config.outgoing]);
        sets.filter(|set| !set.is_empty()).map(|set| set.keys().copied().collect()).collect()
    }

    /// Whether the others can do without `life` for good, whose log knows of configurations up to `config_index`. As long as
    /// no alarm in `view` says so, whoever leads may need it; and a configuration that does not name it may only be an old
    /// one. For members whose own state is sound.
    #[must_use]
    pub fn is_over(&self, view: &View, life: (NodeId, Incarnation), config_index: LogIndex) -> bool {
        let is_replaced = || {
            let is_named = self.configs.iter().flat_map(Configuration::members).any(|named| named == life);
            self.standing == Standing::Trusted && self.commit >= config_index && !is_named
        };
        view.ends(life) || is_replaced() || mutant::is_on(Mutant::H09)
    }
}
