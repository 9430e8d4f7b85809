//! What a log entry does to the replicated state.

use alloc::string::String;
use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::auth::{AuthCommand, Author};
use crate::blob::Source;
use crate::request::{
    Alarm, DeleteRangeRequest, DeleteRangeResult, Lease, Member, MemberChange, PutRequest, PutResult, TxnRequest,
    TxnResult,
};
use crate::{FeatureLevel, Incarnation, LeaseId, LogIndex, NodeId, Revision, Ttl};

/// Who proposed a command. The store applies each origin at most once, however often the network delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Origin {
    /// The member whose client asked.
    pub member: NodeId,
    /// That member's process, which is named at random as it starts.
    pub incarnation: Incarnation,
    /// Unique within that process, ascending from 1.
    pub sequence: u64,
}

/// What is encoded in [`crate::entry::Payload::Command`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct Envelope {
    /// Who asked.
    pub origin: Origin,
    /// What for.
    pub command: Command,
    /// On whose behalf: checked when the command is applied.
    pub author: Author,
}

/// One change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum Command {
    /// (etcd: Put)
    Put(PutRequest),
    /// (etcd: DeleteRange)
    DeleteRange(DeleteRangeRequest),
    /// (etcd: Txn) Only txns that may write; the rest are reads.
    Txn(TxnRequest),
    /// (etcd: Compact)
    Compact {
        /// History below it goes; it stays readable itself.
        revision: Revision,
    },
    /// (etcd: LeaseGrant) The ID is chosen by the member that was asked; never 0.
    LeaseGrant(Lease),
    /// (etcd: LeaseRevoke)
    LeaseRevoke(LeaseId),
    /// The leader's clock says these have run out: one revision per lease that had keys; unknown IDs are skipped.
    LeaseExpire(Vec<LeaseId>),
    /// The leader's clock says so much is left: survives a change of leader. `None` clears. Unknown IDs are skipped.
    LeaseCheckpoint(Vec<(LeaseId, Option<Ttl>)>),
    /// A member tells its name and client URLs. (etcd: publish)
    Publish(Member),
    /// Every member understands commands up to this level: they may be proposed from here on. Never lowered.
    RaiseFeatureLevel(FeatureLevel),
    /// (etcd: Alarm, ACTIVATE) Raising it again changes nothing.
    RaiseAlarm(Alarm),
    /// (etcd: Alarm, DEACTIVATE) Clearing CORRUPT also clears that the member is fenced.
    ClearAlarm(Alarm),
    /// (etcd: Downgrade, ENABLE with the version that is gone down to, CANCEL with none)
    Downgrade(Option<String>),
    /// A change of users, roles or permissions, or a session. (etcd: service Auth)
    Auth(AuthCommand),
    /// The membership changes.
    Members(MemberChange),
}

impl Command {
    /// The feature level that the cluster must have before this may be proposed.
    ///
    /// What the first build has is of level 0, which every cluster has from the start. A new kind of command, or a new
    /// field of an old one where it is used, gets a level of its own, which becomes [`crate::entry::FEATURE_LEVEL`].
    #[must_use]
    pub fn level(&self) -> FeatureLevel {
        match self {
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Txn(_)
            | Self::Compact { .. }
            | Self::LeaseGrant(_)
            | Self::LeaseRevoke(_)
            | Self::LeaseExpire(_)
            | Self::LeaseCheckpoint(_)
            | Self::Publish(_)
            | Self::RaiseFeatureLevel(_)
            | Self::RaiseAlarm(_)
            | Self::ClearAlarm(_)
            | Self::Downgrade(_)
            | Self::Auth(_)
            | Self::Members(_) => FeatureLevel(0),
        }
    }
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum Outcome {
    /// To `Put`.
    Put(PutResult),
    /// To `DeleteRange`.
    DeleteRange(DeleteRangeResult),
    /// To `Txn`.
    Txn(TxnResult),
    /// To `Compact`: the store's revision.
    Compact(Revision),
    /// To `LeaseGrant`: the lease as granted (its TTL may have been raised), and the store's revision.
    LeaseGrant(Lease, Revision),
    /// To `LeaseRevoke`: the store's revision after it.
    LeaseRevoke(Revision),
    /// To commands that members propose for themselves, and to changes of users and roles.
    Done,
    /// To `RaiseAlarm`: the alarm. To `ClearAlarm`: those that were cleared.
    Alarms(Vec<Alarm>),
    /// To a session: the entry that opened it, which is part of its token.
    SessionOpened(LogIndex),
    /// To `Members`: all of them after it, by ID.
    Members(Vec<Member>),
}
