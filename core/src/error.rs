//! One variant is one etcd wire error: `Display` is etcd's text, since clients find errors by it.

use bincode::{Decode, Encode};

use crate::Revision;

/// Why a request was refused or given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum Error {
    /// A key is empty.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_*` of a key that does not exist, or a txn operation without a request.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// A value beside `ignore_value`.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A lease beside `ignore_lease`.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A txn list is longer than `--max-txn-ops`.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A txn would write the same key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target outside etcd's enums.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// History that compaction has removed.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision still readable.
        oldest: Revision,
    },
    /// A revision the store has not reached.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The quota is used up.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The wanted lease ID is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A TTL above 9,000,000,000 s.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The encoded request is larger than `--max-request-bytes`.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// More work is queued than this member may hold.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// There is no leader.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// This member is not the leader.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The leader changed while a read waited for it; the read was not answered.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The member is stopping.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The outcome is unknown: it may still take effect.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The outcome is unknown; an election fell into the wait.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    /// The outcome is unknown; the leader could not be reached during the wait.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member has not applied what the answer needs.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutWaitApplied,
    /// The CORRUPT alarm is on.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// A learner does not serve this.
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,
    /// No such member.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// A leadership transfer was asked for that cannot be.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// A leadership transfer did not finish in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TimeoutLeaderTransfer,
    /// A downgrade's target is no version.
    #[error("etcdserver: wrong downgrade target version format")]
    WrongDowngradeVersionFormat,
    /// A downgrade's target is not the minor version before the cluster's.
    #[error("etcdserver: invalid downgrade target version")]
    InvalidDowngradeTargetVersion,
    /// A downgrade is under way.
    #[error("etcdserver: cluster has a downgrade job in progress")]
    DowngradeInProcess,
    /// A user without a name; or authentication is on, and nobody says on whose behalf they ask.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// The user's name is taken.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// No such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// The role's name is taken.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// A role to revoke that the user does not have.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// A permission to revoke that the role does not have.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// The user's roles do not allow it.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// No such user, or another password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A password for a user that has none, or none for a user that needs one.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// Authentication is off.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// A token that this member does not know, or no more.
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,
    /// It would lock everybody out; or a permission on no keys.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    /// Users or roles have changed since the asker was recognised.
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,
    /// Authentication is to be enabled without a user root.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// Authentication is to be enabled, and user root has not the role root.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A member with this ID exists.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// A peer URL is another member's.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// Too few voters have started for this change.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Peer URLs that are none.
    #[error("etcdserver: given member URLs are invalid")]
    BadMemberUrls,
    /// Only a learner can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// A learner that lags cannot be promoted.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// There are as many learners as there may be.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// Too few voters are reachable for this change.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// Not every member understands the command yet. (etcd has none: it asks for the cluster's version beforehand)
    #[error("etcdserver: not supported until all members of the cluster are upgraded")]
    FeatureLevelTooLow,
}
