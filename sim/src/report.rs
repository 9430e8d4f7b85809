//! What a run came to, and what many runs came to together.

use std::fmt;

use crate::check::Violation;
use crate::check::audit::Figures;
use crate::check::{cache, lock};
use crate::chronicle::Chronicle;
use crate::heap::SECOND;
use crate::schedule::Strike;
use crate::script::Deed;

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Totals {
    pub simulated_nanos: u64,
    pub operations: u64,
    pub answered: u64,
    pub unknown: u64,
    pub leader_changes: u64,
    pub starts: u64,
    pub faults: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub power_cuts_with_loss: u64,
    pub wipes: u64,
    pub rots: u64,
    pub readmissions: u64,
    pub snapshot_installs: u64,
    pub compactions: u64,
    pub renewals: u64,
    pub leases_expired: u64,
    pub watch_events: u64,
    pub frames: u64,
    pub undecided: u64,
    pub disk_failures: u64,
    pub self_compactions: u64,
    pub commands_compared: u64,
    pub alarms_raised: u64,
    pub audit: Figures,
    pub members_added: u64,
    pub learners_promoted: u64,
    pub members_updated: u64,
    pub members_removed: u64,
    pub member_lists: u64,
    pub member_changes_refused: u64,
    pub members_joined: u64,
    pub members_retired: u64,
    pub joint_changes: u64,
    pub skews: u64,
    pub suspects: u64,
    pub fenced: u64,
    pub noticed_in_time: u64,
    pub upgrades: u64,
    pub levels_raised: u64,
    pub locks: lock::Figures,
    pub caches: cache::Figures,
    /// The most operations that a run had to remember at once, since it could not judge them for good yet.
    pub remembered: u64,
}

impl Totals {
    /// Every figure and its name.
    #[must_use]
    pub fn figures(&self) -> [(&'static str, u64); 59] {
        [
            ("simulated seconds", self.simulated_nanos / SECOND),
            ("operations", self.operations),
            ("answered", self.answered),
            ("unknown outcomes", self.unknown),
            ("leader changes", self.leader_changes),
            ("starts", self.starts),
            ("faults", self.faults),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("power cuts that lost bytes", self.power_cuts_with_loss),
            ("wiped disks", self.wipes),
            ("logs damaged at rest", self.rots),
            ("amnesiac returns", self.readmissions),
            ("snapshot installs", self.snapshot_installs),
            ("compactions", self.compactions),
            ("lease renewals", self.renewals),
            ("leases expired", self.leases_expired),
            ("watch responses", self.watch_events),
            ("frames", self.frames),
            ("histories undecided", self.undecided),
            ("failures of a log's disk", self.disk_failures),
            ("compactions of its own", self.self_compactions),
            ("commands compared", self.commands_compared),
            ("alarms raised", self.alarms_raised),
            ("logins", self.audit.logins),
            ("changes of users", self.audit.changes_of_users),
            ("answered to users", self.audit.answered_to_users),
            ("refused to users", self.audit.refused_to_users),
            ("refused for space", self.audit.refused_for_space),
            ("hashes compared", self.audit.hashes_compared),
            ("watchers refused", self.audit.watchers_refused),
            ("members added", self.members_added),
            ("learners promoted", self.learners_promoted),
            ("members updated", self.members_updated),
            ("members removed", self.members_removed),
            ("member lists", self.member_lists),
            ("member changes refused", self.member_changes_refused),
            ("members that joined", self.members_joined),
            ("members that left", self.members_retired),
            ("changes of voters", self.joint_changes),
            ("states that went wrong", self.skews),
            ("members that found out", self.suspects),
            ("lives that were ended", self.fenced),
            ("found out in time", self.noticed_in_time),
            ("builds exchanged", self.upgrades),
            ("levels raised", self.levels_raised),
            ("turns of contenders", self.locks.turns),
            ("changes of hands", self.locks.handovers),
            ("writes behind fences", self.locks.fenced_writes),
            ("writes fenced off", self.locks.fenced_off),
            ("turns that were lost", self.locks.lost_turns),
            ("leaders observed", self.locks.leaders_seen),
            ("lists", self.caches.lists),
            ("pages of lists", self.caches.pages),
            ("lists that expired", self.caches.lists_expired),
            ("watches that expired", self.caches.watches_expired),
            ("guarded writes won", self.caches.writes_won),
            ("guarded writes lost", self.caches.writes_lost),
            ("caches compared", self.caches.caches_compared),
        ]
    }

    /// The figures without which many runs have tested little, and which are then expected to be at least 100.
    #[must_use]
    pub fn rare(&self) -> [(&'static str, u64); 5] {
        [
            ("leader changes", self.leader_changes),
            ("power cuts that lost bytes", self.power_cuts_with_loss),
            ("unknown outcomes", self.unknown),
            ("snapshot installs", self.snapshot_installs),
            ("amnesiac returns", self.readmissions),
        ]
    }

    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.simulated_nanos += other.simulated_nanos;
        self.operations += other.operations;
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.leader_changes += other.leader_changes;
        self.starts += other.starts;
        self.faults += other.faults;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.power_cuts_with_loss += other.power_cuts_with_loss;
        self.wipes += other.wipes;
        self.rots += other.rots;
        self.readmissions += other.readmissions;
        self.snapshot_installs += other.snapshot_installs;
        self.compactions += other.compactions;
        self.renewals += other.renewals;
        self.leases_expired += other.leases_expired;
        self.watch_events += other.watch_events;
        self.frames += other.frames;
        self.undecided += other.undecided;
        self.disk_failures += other.disk_failures;
        self.self_compactions += other.self_compactions;
        self.commands_compared += other.commands_compared;
        self.alarms_raised += other.alarms_raised;
        self.audit.add(&other.audit);
        self.members_added += other.members_added;
        self.learners_promoted += other.learners_promoted;
        self.members_updated += other.members_updated;
        self.members_removed += other.members_removed;
        self.member_lists += other.member_lists;
        self.member_changes_refused += other.member_changes_refused;
        self.members_joined += other.members_joined;
        self.members_retired += other.members_retired;
        self.joint_changes += other.joint_changes;
        self.skews += other.skews;
        self.suspects += other.suspects;
        self.fenced += other.fenced;
        self.noticed_in_time += other.noticed_in_time;
        self.upgrades += other.upgrades;
        self.levels_raised += other.levels_raised;
        self.locks.add(&other.locks);
        self.caches.add(&other.caches);
        self.remembered = self.remembered.max(other.remembered);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figure) in self.figures() {
            writeln!(f, "  {name:<28}{figure:>12}")?;
        }
        Ok(())
    }
}

/// What to keep of a run beyond its result; all of it costs memory and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// A line for every event.
    pub log: bool,
    /// What clients do, as a script.
    pub deeds: bool,
    /// What happens, for people.
    pub chronicle: bool,
    /// In it, every message too.
    pub frames: bool,
}

impl Keep {
    /// An empty chronicle, if there is to be one.
    #[must_use]
    pub fn chronicle(self) -> Option<Chronicle> {
        self.chronicle.then(|| Chronicle::new(self.frames))
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash over everything that happened.
    pub hash: u64,
    /// How many events that were.
    pub events: u64,
    /// In numbers.
    pub totals: Totals,
    /// The broken promise, if any; and when, in simulated nanoseconds.
    pub violation: Option<(Violation, u64)>,
    /// What happened, line by line, if that was asked for.
    pub log: Option<Vec<String>>,
    /// What clients did, if that was asked for.
    pub deeds: Option<Vec<Deed>>,
    /// With it, what was done to leaders that were harassed.
    pub strikes: Vec<Strike>,
    /// What happened, for people, if that was asked for.
    pub chronicle: Option<Chronicle>,
}
