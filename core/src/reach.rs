//! Rare branches that the simulator has to reach: `reach!(Mark)` stands in each.
//!
//! Without the cargo feature `marks` nothing is counted and nothing is left of a mark in the program. With it, this process
//! counts; `quorate-sim --require-marks` fails if one was never reached (but for [`RARE`] ones), since a branch that no run
//! takes is not tested by any. A server does not compile with it: see `node/src/lib.rs`.
//!
//! A new one is a line in the list below, and `reach!(Name)` or `reach!(Name if condition)` where it belongs.

/// Whether this build counts.
pub const COUNTED: bool = cfg!(feature = "marks");

macro_rules! marks {
    ($($name:ident $text:literal,)*) => {
        /// A rare branch.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Mark {
            $(#[doc = $text] $name,)*
        }

        impl Mark {
            /// Every mark.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is called.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What happens there.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

marks! {
    AppendRefused "a follower's log does not have what an append follows",
    EntriesThrownAway "a follower throws away entries that its leader does not have",
    AppendRepeated "an append brings only what is known",
    WindowFull "a follower has as much in flight as it may",
    SnapshotNeeded "a follower lacks what the log no longer has",
    AmnesiacUncounted "an answer of a member that does not count is heard",
    EarlierTermWaits "a quorum has an entry of an earlier term, and that commits nothing",
    DeadLifeHeard "a former life of a follower's disk is heard, late",
    NewLifeHeard "a follower speaks with a new life of its disk",
    SnapshotLaneBusy "a new life is heard while its former one is sent a snapshot",
    WindowRefused "a follower refuses what it was sent without being asked",
    ProbeGoesBack "a probe is refused and goes further back",
    RefusalOvertaken "a refusal comes that is overtaken",
    WindowLost "a heartbeat's answer shows that appends were lost",
    SnapshotFailed "a snapshot does not reach its follower",
    TransferTimesOut "leadership is not taken over in time",
    CheckQuorum "a leader that hears no quorum steps down",
    NotPromotable "an election is due on a member that may not lead",
    PreVoteRefused "an election that cannot be won is not begun",
    VoteRefusedForLog "a candidate's log is not up to date",
    VoteTaken "a second candidate asks for the vote of a term",
    VoteGivenAgain "a vote is given once more to the same candidate",
    HandedOver "a member is told to campaign at once, and does",
    LeaderSteppedDown "a leader hears that it is none any more",
    ReadsLost "reads wait for a round when their leader steps down",
    GenesisConfig "the first entry of all names the lives of all disks",
    ReadWaitsForTerm "a read waits until the leader knows what is committed",
    ElectionRefused "a candidate is not heard while there is a leader",
    StaleLeader "a former leader is told that its term is over",
    CandidacyVoid "a candidacy is over before it was durable",
    AckMerged "one answer stands for several that wait for a write",
    OtherLifeAsks "another life than the one that answered asks during the birth of a cluster",
    ForgotEverything "a member with an empty disk learns that it had a past",
    AmnesiacVouchesNot "an amnesiac is asked during the birth of a cluster",
    BornWithoutAll "a cluster is born although a member lost its disk meanwhile",
    VoteWithheld "a readmitted member votes for nobody in the term of its readmission",
    ReadmissionWaits "a new life is not readmitted before it has caught up",
    Readmitted "a new life is readmitted",
    InstallAfterLog "the log arrives before its snapshot",
    InstallReplaces "a snapshot takes the place of a log that has entries",
    LogKeptForSnapshot "the log is kept for a follower that is sent a snapshot",
    JointLeft "a joint configuration is left",
    LeaderRemoved "a leader that is no voter any more hands over",
    PictureTooOld "the log is cut above a snapshot before that is sent",
    ChunkSentAgain "a piece of a snapshot is sent again",
    SnapshotAbandoned "a snapshot is given up after many pieces got lost",
    ChunkRepeated "a piece of a snapshot arrives again",
    SnapshotOvertaken "a piece of a snapshot arrives after the log did",
    SnapshotCutShort "nothing more comes of a snapshot being received",
    SnapshotOvertakenWhileWritten "the log arrives while the last piece of its snapshot is written",
    SnapshotReplaced "a snapshot begins before the one under way is complete",
    ReadAskedAgain "a read round is not answered in time and asked afresh",
    ReadRoundOvertaken "the answer to a read round comes after that was asked afresh",
    ReadOfFormerProcess "the answer to a read round of a former process comes",
    ReadWaitsForApply "a read is confirmed before its state is applied",
    ReadAskedOfFollower "a member that does not lead is asked for a read index",
    ProposalRefused "a leader refuses a proposal for now",
    ProposalOfferedAgain "proposals that wait are offered to a new leader",
    ForwardDropped "a forwarded proposal is dropped",
    ForwardedOn "a forwarded proposal is forwarded once more",
    LeaseTakenOverInPart "a new leader takes over a lease with what is left of it",
    LeaseCheckpoint "what is left of a lease is written down",
    LeaseExpiryRefused "a lease that is due cannot be revoked yet",
    RenewalTooLate "a renewal comes after the lease was due",
    CheckpointCleared "a renewal has to clear what was written down",
    HashWanted "a hash is asked for before its entry is applied",
    ProposalRepeated "a proposal was committed twice",
    LifeRetired "a process of long ago is forgotten",
    CleaningPaused "compaction goes on with a key in its next slice",
    WatcherFallsBehind "a watcher does not take what it is told and falls behind",
    WatcherParkedAgain "a watcher that catches up falls behind once more",
    HistoryRead "a watcher needs history that memory no longer has",
    WatcherCompacted "compaction overtakes a watcher",
    WatchersSkipAhead "a snapshot brings revisions that watchers have not seen",
    WatcherGoneWhileReading "a watcher goes away while its history is read",
    StreamTakesAgain "a slow stream takes again",
    TornTail "the log ends in bytes that were never synced",
    LogDamaged "the log is damaged where it was synced",
    EntriesReplacedInLog "a recovered log has entries that were replaced",
    LevelRaised "a leader raises the feature level",
    BareLeader "a leader without its state gives leadership away",
    HeirNamed "a leader gives way to a member that has a state, since another one has none",
    StateReplaced "a snapshot gives a state to a member that had lost it",
}

/// Marks that only long campaigns reach: they are shown, and not demanded of a night.
pub const RARE: &[Mark] = &[Mark::BornWithoutAll, Mark::SnapshotCutShort, Mark::SnapshotOvertakenWhileWritten];

#[cfg(feature = "marks")]
static COUNTS: [core::sync::atomic::AtomicU64; Mark::ALL.len()] =
    [const { core::sync::atomic::AtomicU64::new(0) }; Mark::ALL.len()];

/// Counts `mark`, in a build that counts.
#[inline(always)]
pub fn hit(mark: Mark) {
    #[cfg(feature = "marks")]
    COUNTS[mark as usize].fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    let _ = mark;
}

/// How often this process has reached `mark`; 0 in a build that does not count.
#[must_use]
pub fn count(mark: Mark) -> u64 {
    #[cfg(feature = "marks")]
    return COUNTS[mark as usize].load(core::sync::atomic::Ordering::Relaxed);
    #[cfg(not(feature = "marks"))]
    {
        let _ = mark;
        0
    }
}
