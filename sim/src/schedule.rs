//! Faults as data: what the nemesis does and when, drawn before the run, printable, editable, replayable.

use crate::disk::Ill;
use crate::heap::{MICRO, Nanos};
use crate::network::Aim;

mod file;

pub use file::{File, ParseError, read};

/// What is wrong with a member that is left out when the others are healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plight {
    /// Its process is down.
    Down,
    /// Nobody hears it, and it hears nobody.
    Isolated,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// Its syncs take hundreds of times as long.
    Slow,
}

/// One thing done to the cluster. Members are numbered from 0. Spans end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies and is started again after `down`. What it wrote without syncing stays in the page cache.
    Kill {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The process ends and is started again after `down` with another build, newer or older. Skipped if a member could
    /// then meet a feature level that it does not understand: what it once said may still be believed.
    Upgrade {
        /// Which member.
        member: usize,
        /// The highest feature level that the build understands.
        level: u32,
        /// How long it is away.
        down: Nanos,
    },
    /// The machine dies: any part of what was not synced is lost. Started again after `down`.
    Power {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The machine dies and its disk is replaced by an empty one. Skipped if it were one loss too many.
    Wipe {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// The process dies and one bit of its log that must not be lost is damaged. Skipped as a wipe is.
    Rot {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// A member applies something else than was committed, once: it must find out and be rebuilt.
    Skew {
        /// Which member.
        member: usize,
    },
    /// A scrub finds that bits of a member's applied state have rotted: the member must be rebuilt, in its turn.
    Decay {
        /// Which member.
        member: usize,
    },
    /// The process dies, and nothing of its applied state can be used when it is started again after `down`; its log is
    /// sound. Skipped if nobody could restore that state.
    LoseState {
        /// Which member.
        member: usize,
        /// How long it is away.
        down: Nanos,
    },
    /// All members lose power at once.
    Blackout {
        /// How long they are away; each a little longer than the one before.
        down: Nanos,
    },
    /// The process does nothing for a while; its clock goes on and messages wait.
    Pause {
        /// Which member.
        member: usize,
        /// How long.
        span: Nanos,
    },
    /// Members in `side` (a bit each) and the others cannot talk.
    Partition {
        /// Who is on one side.
        side: u64,
        /// How long.
        span: Nanos,
    },
    /// Nothing arrives in one direction.
    Cut {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How long.
        span: Nanos,
    },
    /// Links lose, repeat, delay and reorder messages.
    Storm {
        /// Which links.
        aim: Aim,
        /// Lost, per million.
        loss_ppm: u64,
        /// Delivered twice, per million.
        duplicate_ppm: u64,
        /// Overtaken by others, per million.
        straggle_ppm: u64,
        /// By up to so long.
        straggle_max: Nanos,
        /// How long the storm lasts.
        span: Nanos,
    },
    /// A member's syncs take `factor` times as long.
    SlowDisk {
        /// Which member.
        member: usize,
        /// How many times as long.
        factor: u64,
        /// How long.
        span: Nanos,
    },
    /// None of a member's syncs ends for a while.
    Stall {
        /// Which member.
        member: usize,
        /// How long.
        span: Nanos,
    },
    /// A member's applier takes `factor` times as long: what is committed waits to be applied.
    SlowApply {
        /// Which member.
        member: usize,
        /// How many times as long.
        factor: u64,
        /// How long.
        span: Nanos,
    },
    /// The disk of a member's log fails it, once.
    Fail {
        /// Which member.
        member: usize,
        /// In what.
        ill: Ill,
    },
    /// The disk of a member's log has hardly any room left.
    Full {
        /// Which member.
        member: usize,
        /// In bytes.
        room: u64,
        /// How long.
        span: Nanos,
    },
    /// A member dies between two changes to the disk of its log, in the middle of whatever it is doing.
    Trip {
        /// Which member.
        member: usize,
        /// Changes that are made before.
        changes: u32,
        /// Its machine loses power; or else only the process ends.
        power: bool,
        /// How long it is away.
        down: Nanos,
    },
    /// Links get narrow, and drop what would wait too long.
    Throttle {
        /// Which links.
        aim: Aim,
        /// Bytes a second.
        bandwidth: u64,
        /// What would wait longer is dropped.
        queue: Nanos,
        /// How long.
        span: Nanos,
    },
    /// A member's clock changes its rate, for good.
    ClockRate {
        /// Which member.
        member: usize,
        /// Parts per million too fast.
        ppm: i64,
    },
    /// A machine's wall clock jumps. No promise hangs on it; its monotonic clock goes on as before.
    WallClock {
        /// Which member.
        member: usize,
        /// Seconds forward, or back if negative.
        by: i64,
    },
    /// Whoever becomes leader is struck soon after: cut off, paused, killed, or others with it.
    Harass {
        /// Up to so long after its election.
        after: Nanos,
        /// How long.
        span: Nanos,
    },
    /// Whoever becomes leader is cut off soon after, until that is done to the next one.
    Topple {
        /// Up to so long after its election.
        after: Nanos,
        /// How long.
        span: Nanos,
    },
    /// Someone asks the leader to hand over to `member`.
    Transfer {
        /// The next leader.
        member: usize,
    },
    /// When faults end, the others are healed first, and must make progress without this one.
    Outcast {
        /// Which member.
        member: usize,
        /// What is wrong with it until then.
        plight: Plight,
    },
}

impl Fault {
    /// The same in whole microseconds, the resolution of schedules: nothing is lost in print.
    #[must_use]
    pub fn in_micros(mut self) -> Self {
        let round = |span: &mut Nanos| *span = *span / MICRO * MICRO;
        match &mut self {
            Self::Kill { down, .. }
            | Self::Upgrade { down, .. }
            | Self::Power { down, .. }
            | Self::Wipe { down, .. }
            | Self::Rot { down, .. }
            | Self::LoseState { down, .. }
            | Self::Trip { down, .. }
            | Self::Blackout { down } => round(down),
            Self::Pause { span, .. }
            | Self::Partition { span, .. }
            | Self::Cut { span, .. }
            | Self::Stall { span, .. }
            | Self::SlowApply { span, .. }
            | Self::Full { span, .. }
            | Self::Throttle { span, .. }
            | Self::SlowDisk { span, .. } => round(span),
            Self::Harass { after, span } | Self::Topple { after, span } => {
                round(after);
                round(span);
            }
            Self::Storm { straggle_max, span, .. } => {
                round(straggle_max);
                round(span);
            }
            Self::ClockRate { .. }
            | Self::WallClock { .. }
            | Self::Skew { .. }
            | Self::Decay { .. }
            | Self::Transfer { .. }
            | Self::Outcast { .. }
            | Self::Fail { .. } => {}
        }
        self
    }

    /// How long it lasts; 0 if it ends at once, or never.
    #[must_use]
    pub fn span(&self) -> Nanos {
        match *self {
            Self::Kill { down, .. }
            | Self::Upgrade { down, .. }
            | Self::Power { down, .. }
            | Self::Wipe { down, .. }
            | Self::Rot { down, .. }
            | Self::LoseState { down, .. }
            | Self::Blackout { down } => down,
            Self::Pause { span, .. }
            | Self::Partition { span, .. }
            | Self::Cut { span, .. }
            | Self::Storm { span, .. }
            | Self::SlowDisk { span, .. }
            | Self::Stall { span, .. }
            | Self::SlowApply { span, .. }
            | Self::Full { span, .. }
            | Self::Throttle { span, .. }
            | Self::Harass { span, .. }
            | Self::Topple { span, .. } => span,
            Self::Fail { .. }
            | Self::Trip { .. }
            | Self::Skew { .. }
            | Self::Decay { .. }
            | Self::ClockRate { .. }
            | Self::WallClock { .. }
            | Self::Transfer { .. }
            | Self::Outcast { .. } => 0,
        }
    }

    /// Whom it strikes, a bit each; 0 if everybody, or whoever leads.
    #[must_use]
    pub fn members(&self) -> u64 {
        match *self {
            Self::Kill { member, .. }
            | Self::Upgrade { member, .. }
            | Self::Power { member, .. }
            | Self::Wipe { member, .. }
            | Self::Rot { member, .. }
            | Self::LoseState { member, .. }
            | Self::Pause { member, .. }
            | Self::SlowDisk { member, .. }
            | Self::Stall { member, .. }
            | Self::SlowApply { member, .. }
            | Self::Fail { member, .. }
            | Self::Full { member, .. }
            | Self::Trip { member, .. }
            | Self::Skew { member }
            | Self::Decay { member }
            | Self::ClockRate { member, .. }
            | Self::WallClock { member, .. }
            | Self::Outcast { member, .. }
            | Self::Transfer { member } => 1 << member,
            Self::Partition { side, .. } => side,
            Self::Cut { from, to, .. } => 1 << from | 1 << to,
            Self::Storm { aim, .. } | Self::Throttle { aim, .. } => {
                aim.from.map_or(0, |from| 1 << from) | aim.to.map_or(0, |to| 1 << to)
            }
            Self::Blackout { .. } | Self::Harass { .. } | Self::Topple { .. } => 0,
        }
    }
}

/// A [`Fault`] and when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When.
    pub at: Nanos,
    /// What.
    pub fault: Fault,
}

/// A line of a schedule that changes a setting of its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// When faults and clients end.
    Duration(Nanos),
    /// When clients begin.
    ClientsFrom(Nanos),
    /// Clients of keys and leases.
    Clients(usize),
    /// Clients of watches.
    Watchers(usize),
    /// Administrators that change the membership.
    Admins(usize),
    /// Clients that contend for a lock or for leadership.
    Contenders(usize),
    /// Controllers of a control plane.
    Controllers(usize),
    /// See [`crate::swarm::Setup::fate`].
    Fate(u64),
    /// Clients do what the schedule says, and nothing else.
    Script,
    /// Log entries kept for lagging followers.
    CatchupEntries(u64),
    /// The backend flushes after so many batches, on average.
    FlushBatches(u64),
}
