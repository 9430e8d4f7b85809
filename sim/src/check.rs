//! Oracles: what must hold whatever happens, one file per promise of the whole cluster.
//!
//! A file here judges what it is shown; what only the world sees happen, or fail to, is judged there. Blindness is
//! planted in each and has to be noticed: `check/blindness.rs`, `tests/blindness.rs`. All that a [`Violation`] can name:
//!
//! | oracle | what it promises | noticed in |
//! |---|---|---|
//! | `leader` | a term has one leader | `check/consensus.rs` |
//! | `committed` | what is committed at an index is so for ever, for everyone | `check/consensus.rs` |
//! | `completeness` | a leader's log has all that was committed before its term | `check/consensus.rs` |
//! | `matched` | what a leader takes a follower for having it has, durably | `check/consensus.rs` |
//! | `quorum` | what a leader commits a majority of its voters has, durably | `check/membership.rs` |
//! | `apply` | a member applies every entry once and in order | `check/consensus.rs` |
//! | `state` | after an index all members have the same state; no sound one is blamed | `check/consensus.rs`, `world/skew.rs` |
//! | `leadership` | nobody leads for long whom no quorum speaks to | `check/leadership.rs` |
//! | `membership` | who the members are follows the log, and whoever was removed has no say | `check/membership.rs`, `world/churn.rs` |
//! | `level` | the feature level only rises, and to nothing that a member does not understand | `check/level.rs`, `world/machine.rs` |
//! | `reference` | answers, revisions, alarms and users are what the log says | `check/reference.rs` |
//! | `floor` | compaction by itself leaves what it was told to, and the floor never goes back | `check/reference.rs` |
//! | `history` | what clients were told is strictly serializable; members make every revision once, and alike | `world/actions.rs`, `world/settle.rs` |
//! | `audit` | answers and refusals are what users, roles, quota and alarms say; hashes agree | `check/audit.rs` |
//! | `space` | nobody says that there is no space where there is | `check/space.rs` |
//! | `lease` | a lease lives for its time, as told, ends when nobody renews it, and stays revoked | `check/lease.rs`, `check/lease/left.rs`, `check/reference.rs` |
//! | `watch` | watchers are told what happened: see [`watch`] for the nine promises | `check/watch.rs`, `world/clients.rs`, `world/contenders.rs`, `world/controllers.rs`, `world/outside.rs` |
//! | `progress` | where nothing happens watchers that asked for it are told so | `world/controllers.rs`, `world/finale.rs`, `world/outside.rs` |
//! | `lock` | whoever holds a lock or leads an election does so alone, and everyone gets a turn | `check/lock.rs`, `world/contenders.rs` |
//! | `cache` | a controller's cache is the store, and goes on being it | `check/cache.rs`, `world/controllers.rs` |
//! | `fence` | a member whose state is wrong finds out in time, falls silent and is named; one without a state is silent, and leads only if nobody else can; lives are ended by an alarm, one at a time | `world/bare.rs`, `world/skew.rs` |
//! | `recovery` | a member starts again, tells a damaged log from a sound one, and keeps that as long as it counts | `world/bare.rs`, `world/machine.rs` |
//! | `backend` | a member can keep the state that it has come to | `world/machine.rs` |
//! | `codec` | a member can decode what another one sends | `world/actions.rs` |
//! | `liveness` | a healed majority makes progress, whatever is wrong with the others; then all are healed and all works; within bounds | `world/finale.rs` |
//! | `livelock` | nobody runs in circles | `world.rs` |
//! | `assertion` | no assertion of ours fails | `run.rs` |

use std::fmt;

pub mod audit;
#[cfg(all(test, feature = "mutants"))]
mod blindness;
pub mod cache;
pub mod consensus;
pub mod leadership;
pub mod lease;
pub mod level;
pub mod lock;
pub mod membership;
pub mod reference;
pub mod space;
pub mod track;
pub mod watch;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which oracle noticed.
    pub oracle: &'static str,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// A violation noticed by `oracle`.
    #[must_use]
    pub fn new(oracle: &'static str, text: impl Into<String>) -> Self {
        Self { oracle, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.text)
    }
}

/// What every oracle gives.
pub type Verdict = Result<(), Violation>;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    /// Oracles, each with the files that name it.
    type Named = BTreeMap<String, BTreeSet<String>>;

    fn raised(folder: &Path, source: &Path, named: &mut Named) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                raised(&path, source, named);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let file = path.strip_prefix(source).unwrap().to_str().unwrap();
                for raised in code.split("Violation::new(").skip(1).filter(|raised| !raised.starts_with("oracle")) {
                    let name = raised.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
                    let name = name.unwrap_or_else(|| panic!("{file} raises one without a name")).0;
                    named.entry(name.into()).or_default().insert(file.into());
                }
            }
        }
    }

    #[test]
    fn the_table_of_oracles_has_them_all() {
        let rows = include_str!("check.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
        let table: Named = rows
            .map(|row| {
                let (name, files) = (row.split('`').next().unwrap(), row.rsplit(" | ").next().unwrap());
                let files = files.trim_end_matches(" |").split(", ").map(|file| file.trim_matches('`').to_owned());
                (name.to_owned(), files.collect())
            })
            .collect();
        let (source, mut named) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Named::new());
        raised(&source, &source, &mut named);
        assert_eq!(table, named);
    }
}
