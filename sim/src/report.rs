//! What a run came to, and what many runs came to together.

use std::fmt;

use crate::check::{Violation, audit, cache, lock};
use crate::chronicle::Chronicle;
use crate::heap::SECOND;
use crate::schedule::Strike;
use crate::script::Deed;

/// Every figure once: its field and what it is called, in the order in which they are told. `/` says in how many of the
/// field's units it is. What an oracle counts itself is told under its own name.
macro_rules! totals {
    ($(
        $({ $($field:ident $label:literal $(/ $unit:ident)?,)* })?
        $part:ident: $figures:path { $($inner:ident $inner_label:literal,)* }
    )*) => {
        /// What happened, in numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $(
                $($(#[doc = $label] pub $field: u64,)*)?
                #[doc = concat!("What [`", stringify!($figures), "`] says.")]
                pub $part: $figures,
            )*
            /// The most operations that a run had to remember at once, since it could not judge them for good yet.
            pub remembered: u64,
        }

        impl Totals {
            /// Every figure and its name.
            #[must_use]
            pub fn figures(&self) -> Vec<(&'static str, u64)> {
                vec![$(
                    $($(($label, self.$field $(/ $unit)?),)*)?
                    $(($inner_label, self.$part.$inner),)*
                )*]
            }

            /// Adds another run's figures.
            pub fn add(&mut self, other: &Self) {
                $(
                    $($(self.$field += other.$field;)*)?
                    self.$part.add(&other.$part);
                )*
                self.remembered = self.remembered.max(other.remembered);
            }
        }
    };
}

totals! {
    {
        simulated_nanos "simulated seconds" / SECOND,
        operations "operations",
        answered "answered",
        unknown "unknown outcomes",
        leader_changes "leader changes",
        starts "starts",
        faults "faults",
        kills "kills",
        power_cuts "power cuts",
        power_cuts_with_loss "power cuts that lost bytes",
        wipes "wiped disks",
        rots "logs damaged at rest",
        readmissions "amnesiac returns",
        snapshot_installs "snapshot installs",
        compactions "compactions",
        renewals "lease renewals",
        leases_expired "leases expired",
        leases_asked "leases asked after",
        watch_events "watch responses",
        frames "frames",
        undecided "histories undecided",
        disk_failures "failures of a log's disk",
        self_compactions "compactions of its own",
        outcasts "members left out",
        commands_compared "commands compared",
        alarms_raised "alarms raised",
    }
    audit: audit::Figures {
        logins "logins",
        changes_of_users "changes of users",
        answered_to_users "answered to users",
        refused_to_users "refused to users",
        refused_for_space "refused for space",
        hashes_compared "hashes compared",
        watchers_refused "watchers refused",
    }
    {
        members_added "members added",
        learners_promoted "learners promoted",
        members_updated "members updated",
        members_removed "members removed",
        member_lists "member lists",
        member_changes_refused "member changes refused",
        members_joined "members that joined",
        members_retired "members that left",
        joint_changes "changes of voters",
        skews "states that went wrong",
        decays "states that rotted",
        states_lost "states that were lost",
        bare "starts without a state",
        bare_ended "lives without a state that were ended",
        suspects "members that found out",
        fenced "lives that were ended",
        noticed_in_time "found out in time",
        upgrades "builds exchanged",
        levels_raised "levels raised",
    }
    locks: lock::Figures {
        turns "turns of contenders",
        handovers "changes of hands",
        fenced_writes "writes behind fences",
        fenced_off "writes fenced off",
        lost_turns "turns that were lost",
        leaders_seen "leaders observed",
    }
    caches: cache::Figures {
        lists "lists",
        pages "pages of lists",
        lists_expired "lists that expired",
        watches_expired "watches that expired",
        writes_won "guarded writes won",
        writes_lost "guarded writes lost",
        caches_compared "caches compared",
    }
}

impl Totals {
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
