//! Mistakes that can be planted here on purpose, to show that the simulator sees them.
//!
//! Without the cargo feature `mutants` none of this exists: [`is_on`] is a constant `false`. With it, one mutant at a
//! time is chosen by name while the program runs (`plant`). A server does not compile with it: see `node/src/lib.rs`.
//! Each is a mechanism that once shipped somewhere (its rows: Raft R, log P, apply A, watch W, lease K, users U; L: what
//! locks are made of; Q: quotas, alarms and what compacts by itself; F: feature levels; H: state hashes), planted as the
//! smallest change of ours that has it. Workloads, faults and oracles know nothing of them. Others are a blindness of those
//! who check (J: quorate-jepsen; O: the simulator's oracles), planted beside one of these (`blind`).
//!
//! A new one is a line in the list below, and `mutant::is_on(Mutant::X)` where it does its harm.

/// Whether this build can be made wrong.
pub const PLANTABLE: bool = cfg!(feature = "mutants");

macro_rules! mutants {
    ($($name:ident $text:literal,)*) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Mutant {
            $(#[doc = $text] $name,)*
        }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is called.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Whether it is a mistake in a checker: see [`Mutant::looked_at`].
            #[must_use]
            pub fn is_in_checker(self) -> bool {
                self.name().starts_with(['J', 'O'])
            }

            /// The tests that show that a mistake in a checker is noticed.
            #[must_use]
            pub fn looked_at(self) -> &'static str {
                match self.name().starts_with('J') {
                    true => "cargo test -p quorate-jepsen --features mutants --test mutants",
                    false => "cargo test --release -p quorate-sim --features mutants --lib --test blindness",
                }
            }

            /// What it does wrong.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

mutants! {
    R01 "a leader commits an older term's entry by counting copies",
    R02 "a vote is given before it is durable",
    R04 "a restart forgets the vote and every term without an entry",
    R06 "an append removes everything behind what it follows, though it may be an old one",
    R07 "an append from before the compaction point is taken for a conflict: what is not known to be committed goes",
    R08 "an overtaken acknowledgement takes the match index back",
    R10 "a heartbeat's answer sets the next index below the match index",
    R11 "a refusal counts as an acknowledgement",
    R12 "copies that learners have count towards a commit",
    R14 "of a joint configuration the incoming voters decide alone",
    R15 "a joint configuration is left by nobody but the leader who entered it",
    R17 "a configuration stays in force although its entry was truncated",
    R18 "a learner stands for election",
    R19 "a member that does not know yet that it may vote refuses to",
    R20 "a learner gets its vote however far behind it is",
    R21 "an update of a learner's URLs makes it a voter",
    R22 "consensus follows other records of the members than a restored snapshot has",
    R23 "a new life of a follower's disk inherits what its earlier life acknowledged",
    R24 "a member with an empty disk takes itself for one without a past",
    R25 "the votes of a pre-candidate are votes when it stands for election",
    R26 "a leader that nobody hears from goes on leading",
    R27 "a candidate goes on counting votes when their term is over",
    R31 "reads are confirmed before an entry of the leader's own term is committed",
    R32 "a read round asked again keeps its name",
    R33 "reads that wait for a round are answered when the leader steps down",
    R34 "a leader answers reads without a round",
    R35 "a read is answered as soon as it is confirmed, whatever is applied by then",
    R36 "a leader answers reads without a round while it heard a quorum lately",
    R37 "whoever was removed is heard as before, and not told",
    R39 "what a log no longer has, or does not have yet, has term 0 and agrees with itself",
    R40 "what was in flight when the window was given up still counts against the budget",
    R41 "a proposal that may still be committed is refused for good when the leader is lost",
    R42 "a leader counts its own copy of an entry before it is durable",
    R43 "a follower acknowledges entries before they are durable",
    R44 "a candidate's log need not be up to date",
    P01 "the only voter applies and answers before its log is durable",
    P02 "most syncs of the log are skipped",
    P03 "a damaged record in the middle of the log is taken for its end",
    P04 "a failed sync of the log is tried again and believed",
    P05 "a torn record at the end of the log is taken for damage",
    P06 "the checksums of the log's records are not looked at",
    P07 "the log's folder is not synced after a segment was put in place",
    P09 "a segment is read up to the length it was meant to have",
    P10 "the next segment says that the one before it ended earlier than it did",
    P11 "a new segment begins without the vote",
    P12 "a snapshot is ignored if the log is as long, whatever it contains",
    P15 "a second snapshot is received while the first is about to be installed",
    P19 "the checksums of the log do not cover where a record is",
    A01 "the applied index is committed before what was applied",
    A02 "the applied index is committed after what was applied",
    A05 "a range of a past revision in a txn is not looked at when the txn is applied",
    A08 "entries that only change users do not move the applied index on disk",
    A09 "users and roles are not loaded with a state",
    A10 "an alarm stops puts only on the member that raised it",
    A12 "the index is rebuilt without the last version of deleted keys",
    A14 "a hash of keys counts what compaction has not removed yet",
    A15 "a proposal delivered twice is applied twice",
    A17 "a watch from now on starts at the beginning",
    W01 "a restored snapshot takes watchers back to where they began",
    W02 "a restored snapshot lets watchers of the future see what they did not ask for",
    W04 "a delete at the compacted revision is left out of history",
    W07 "watchers are not told that nothing has happened",
    W08 "an event is delivered, and again when its slow watcher goes on",
    W09 "a restored snapshot passes by watchers of the future: they miss what it jumps over",
    W10 "a watch from a revision below zero is begun there",
    W11 "the events of a revision come in two responses",
    W12 "a watch that is refused is refused in the name of the stream's first one",
    W13 "a watcher that catches up skips the revision at which history stopped",
    H01 "what other members have applied is not compared",
    H02 "the alarm that a member was fenced stays on when it is back",
    H03 "what compaction has removed by now is part of the running hash",
    H04 "a configuration is entered that needs a life which is about to be ended",
    H05 "lives are ended whatever becomes of the quorum",
    H06 "a member whose state is lost forgets its log at once",
    H07 "a member without its state answers from none",
    H08 "a leader without its state goes on leading",
    H09 "whoever is asked says that a life is over, though no alarm does",
    H10 "who was heard before a life was to be ended counts as there when it is",
    K02 "the renewal of a lease that is gone succeeds",
    K03 "a new leader gives every lease its whole time again, whatever was written down",
    K08 "leases that run out are revoked on nobody's behalf",
    K11 "a lease is renewed without asking whether this leader still leads",
    K12 "a new leader goes on counting where the lease stood when it was last heard of",
    K13 "what is left of a lease is what was left when its clock began",
    K14 "a member tells of a lease before it has applied what the leader has",
    K15 "a lease that was taken over in part was granted for that part",
    K16 "the last key of a lease is not told",
    L01 "a deleted key still has the revision at which it was created, to compares",
    L02 "bounds on when keys were created look at when they were written",
    L03 "a lease that runs out leaves its keys behind",
    U02 "the operations of nested txns are not checked",
    U03 "a put gives back the previous state of what may not be read",
    U04 "a compaction is open to every user",
    U05 "who asks for a lease's time is told its keys, whatever may be read",
    U06 "what a role allows is remembered when a permission is revoked",
    U07 "a permission on one key is one on all keys from there on",
    U08 "a request that users changed under is not asked again",
    U09 "the quota does not weigh nested txns",
    U10 "a put attaches its key to a lease, whatever else that has",
    U11 "a command is checked when it is proposed, not when it is applied",
    U12 "sessions outlive a new password",
    U13 "a range is allowed if its first key is",
    U14 "a session that is not used lives on",
    J01 "an answer may be older than what was told before",
    J02 "the answers of ranges are not compared",
    J03 "whatever is refused was refused for a reason",
    J04 "compacted history may be read",
    J05 "keys may be attached to leases that are gone",
    J06 "a lease that was used later may have been missing",
    J07 "a watcher may be told less than a revision",
    J08 "a watcher may be told more than happened",
    J09 "the previous state of an event is not looked at",
    J10 "a range is allowed if its first key is, to the monitor",
    J11 "nested txns are not checked by the monitor",
    J12 "a role that is deleted stays with its users, to the monitor",
    J13 "keys that are deleted stay with their lease, in the model",
    J14 "an answer that fits nowhere is taken for one that changes nothing",
    J15 "a state that was reached once is not reached again by other calls",
    J16 "a put in a txn may attach its key to a lease that is gone, in the model",
    O01 "a term may have two leaders",
    O02 "what is committed may be committed once more, and otherwise",
    O03 "a leader's log may lack what was committed before",
    O04 "a leader may take a follower for having more than is durable there",
    O05 "members may differ in the state after an entry",
    O06 "a member may leave entries out",
    O07 "a leader may commit what too few have",
    O08 "members may record the membership as they like",
    O09 "a learner may stand for election",
    O10 "the voters may change without a joint configuration",
    O11 "a leader may go on that hears no quorum",
    O12 "the level may be raised beyond what members understand",
    O13 "a lease may end early",
    O14 "as much may be left of a lease as anybody says",
    O15 "a lease may be said to have any keys",
    O16 "a lease may live for ever",
    O17 "a write may be done behind anybody's fence",
    O18 "whoever holds need not have been the first in the queue",
    O19 "what watchers were told is not compared",
    O20 "a watcher need not be told the end",
    O21 "a cache may miss what a revision did",
    O22 "a list, and what a cache has, may be anything",
    O23 "a member may say at any time that there is no space",
    O24 "whoever is answered may be",
    O25 "whoever is refused had to be",
    O26 "members may hash the same history to different numbers",
    O27 "commands may be answered as members like",
    O28 "compaction by itself may leave as little as it likes",
    O29 "members may show other alarms, users and revisions than the log says",
    O30 "of what is numbered, the oldest is taken for the newest",
    O31 "a frame that cannot be decoded is passed over",
    Q01 "a put in a nested txn is no put to the alarm",
    Q02 "a put beyond the quota is refused and done all the same",
    Q03 "alarms are forgotten by a restart",
    Q04 "what compacts by itself leaves nothing",
    Q05 "a compaction at or below the floor moves it back",
    Q06 "the alarm is raised by what a member knows of the space, however far it is behind",
    F01 "the level is raised to what the leader alone understands",
}

#[cfg(feature = "mutants")]
static PLANTED: core::sync::atomic::AtomicU16 = core::sync::atomic::AtomicU16::new(u16::MAX);

/// Makes this whole process wrong in one way, or right again.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.store(mutant.map_or(u16::MAX, |mutant| mutant as u16), core::sync::atomic::Ordering::SeqCst);
}

/// Makes a checker of this whole process blind, or lets it see again: whatever is planted beside that.
#[cfg(feature = "mutants")]
pub fn blind(mutant: Option<Mutant>) {
    BLINDED.store(mutant.map_or(u16::MAX, |mutant| mutant as u16), core::sync::atomic::Ordering::SeqCst);
}

#[cfg(feature = "mutants")]
static BLINDED: core::sync::atomic::AtomicU16 = core::sync::atomic::AtomicU16::new(u16::MAX);

/// Whether `mutant` is planted.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    [&PLANTED, &BLINDED].iter().any(|it| it.load(core::sync::atomic::Ordering::Relaxed) == mutant as u16)
}

/// Whether `mutant` is planted: never in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_mutant: Mutant) -> bool {
    false
}
