//! What a failed call says to its client: etcd's code and, since clients find errors by it, etcd's text.

use quorate_core::error::Error;

/// A gRPC status code. The numbers are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// A failed call's outcome, free of any transport: the simulator's clients get it as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// What kind of failure.
    pub code: Code,
    /// The text clients look for.
    pub message: String,
}

impl Status {
    /// A status of its own, not from [`Error`].
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The status as Go prints it, where etcd puts one into a text.
    #[must_use]
    pub fn to_string_of_grpc(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code.name(), self.message)
    }

    /// What a server says to a call it does not know.
    #[must_use]
    pub fn unimplemented(service: &str, method: &str) -> Self {
        Self::new(Code::Unimplemented, format!("unknown method {method} for service {service}"))
    }
}

impl Code {
    /// The name that Go's gRPC prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "Canceled",
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Aborted => "Aborted",
            Self::OutOfRange => "OutOfRange",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
            Self::DataLoss => "DataLoss",
            Self::Unauthenticated => "Unauthenticated",
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(code(&error), error.to_string())
    }
}

/// The gRPC code etcd answers for `error`.
#[must_use]
pub fn code(error: &Error) -> Code {
    match error {
        Error::EmptyKey
        | Error::KeyNotFound
        | Error::ValueProvided
        | Error::LeaseProvided
        | Error::TooManyOps
        | Error::DuplicateKey
        | Error::InvalidSortOption
        | Error::RequestTooLarge
        | Error::WrongDowngradeVersionFormat
        | Error::InvalidDowngradeTargetVersion
        | Error::UserEmpty
        | Error::RoleEmpty
        | Error::PermissionNotGiven
        | Error::AuthFailed
        | Error::InvalidAuthManagement
        | Error::AuthOldRevision
        | Error::BadMemberUrls => Code::InvalidArgument,
        Error::Compacted { .. } | Error::FutureRevision | Error::LeaseTtlTooLarge => Code::OutOfRange,
        Error::NoSpace => Code::ResourceExhausted,
        Error::LeaseNotFound | Error::MemberNotFound => Code::NotFound,
        Error::LeaseExists
        | Error::DowngradeInProcess
        | Error::NotLeader
        | Error::NotSupportedForLearner
        | Error::BadLeaderTransferee
        | Error::UserNotFound
        | Error::UserExists
        | Error::RoleNotFound
        | Error::RoleExists
        | Error::RoleNotGranted
        | Error::PermissionNotGranted
        | Error::AuthNotEnabled
        | Error::RootUserNotExist
        | Error::RootRoleNotExist
        | Error::MemberExists
        | Error::PeerUrlExists
        | Error::MemberNotLearner
        | Error::LearnerNotReady
        | Error::TooManyLearners
        | Error::FeatureLevelTooLow => Code::FailedPrecondition,
        Error::PermissionDenied => Code::PermissionDenied,
        Error::InvalidAuthToken => Code::Unauthenticated,
        Error::NoLeader
        | Error::LeaderChanged
        | Error::Stopped
        | Error::Timeout
        | Error::TimeoutLeaderFailed
        | Error::TimeoutConnectionLost
        | Error::TimeoutWaitApplied
        | Error::Unhealthy => Code::Unavailable,
        Error::Corrupt => Code::DataLoss,
        // etcd has better codes for these, but they never reach the wire; for users without password it has none.
        Error::TooManyRequests | Error::TimeoutLeaderTransfer | Error::NoPasswordUser | Error::NotEnoughStarted => {
            Code::Unknown
        }
    }
}

#[cfg(feature = "server")]
impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        Self::new(tonic::Code::from_i32(status.code as i32), status.message)
    }
}

#[cfg(feature = "server")]
impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        match code {
            tonic::Code::Ok => Self::Ok,
            tonic::Code::Cancelled => Self::Cancelled,
            tonic::Code::Unknown => Self::Unknown,
            tonic::Code::InvalidArgument => Self::InvalidArgument,
            tonic::Code::DeadlineExceeded => Self::DeadlineExceeded,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::AlreadyExists => Self::AlreadyExists,
            tonic::Code::PermissionDenied => Self::PermissionDenied,
            tonic::Code::ResourceExhausted => Self::ResourceExhausted,
            tonic::Code::FailedPrecondition => Self::FailedPrecondition,
            tonic::Code::Aborted => Self::Aborted,
            tonic::Code::OutOfRange => Self::OutOfRange,
            tonic::Code::Unimplemented => Self::Unimplemented,
            tonic::Code::Internal => Self::Internal,
            tonic::Code::Unavailable => Self::Unavailable,
            tonic::Code::DataLoss => Self::DataLoss,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Revision;

    use super::*;

    /// Every variant with its code and text, written down a second time: a slip in either place shows.
    const GOLDEN: &[(Error, i32, &str)] = &[
        (Error::EmptyKey, 3, "etcdserver: key is not provided"),
        (Error::KeyNotFound, 3, "etcdserver: key not found"),
        (Error::ValueProvided, 3, "etcdserver: value is provided"),
        (Error::LeaseProvided, 3, "etcdserver: lease is provided"),
        (Error::TooManyOps, 3, "etcdserver: too many operations in txn request"),
        (Error::DuplicateKey, 3, "etcdserver: duplicate key given in txn request"),
        (Error::InvalidSortOption, 3, "etcdserver: invalid sort option"),
        (Error::Compacted { oldest: Revision(3) }, 11, "etcdserver: mvcc: required revision has been compacted"),
        (Error::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision"),
        (Error::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
        (Error::LeaseNotFound, 5, "etcdserver: requested lease not found"),
        (Error::LeaseExists, 9, "etcdserver: lease already exists"),
        (Error::LeaseTtlTooLarge, 11, "etcdserver: too large lease TTL"),
        (Error::RequestTooLarge, 3, "etcdserver: request is too large"),
        (Error::TooManyRequests, 2, "etcdserver: too many requests"),
        (Error::NoLeader, 14, "etcdserver: no leader"),
        (Error::NotLeader, 9, "etcdserver: not leader"),
        (Error::LeaderChanged, 14, "etcdserver: leader changed"),
        (Error::Stopped, 14, "etcdserver: server stopped"),
        (Error::Timeout, 14, "etcdserver: request timed out"),
        (Error::TimeoutLeaderFailed, 14, "etcdserver: request timed out, possibly due to previous leader failure"),
        (Error::TimeoutConnectionLost, 14, "etcdserver: request timed out, possibly due to connection lost"),
        (Error::TimeoutWaitApplied, 14, "etcdserver: request timed out, waiting for the applied index took too long"),
        (Error::Corrupt, 15, "etcdserver: corrupt cluster"),
        (Error::NotSupportedForLearner, 9, "etcdserver: rpc not supported for learner"),
        (Error::MemberNotFound, 5, "etcdserver: member not found"),
        (Error::BadLeaderTransferee, 9, "etcdserver: bad leader transferee"),
        (Error::TimeoutLeaderTransfer, 2, "etcdserver: request timed out, leader transfer took too long"),
        (Error::WrongDowngradeVersionFormat, 3, "etcdserver: wrong downgrade target version format"),
        (Error::InvalidDowngradeTargetVersion, 3, "etcdserver: invalid downgrade target version"),
        (Error::DowngradeInProcess, 9, "etcdserver: cluster has a downgrade job in progress"),
        (Error::UserEmpty, 3, "etcdserver: user name is empty"),
        (Error::UserNotFound, 9, "etcdserver: user name not found"),
        (Error::UserExists, 9, "etcdserver: user name already exists"),
        (Error::RoleEmpty, 3, "etcdserver: role name is empty"),
        (Error::RoleNotFound, 9, "etcdserver: role name not found"),
        (Error::RoleExists, 9, "etcdserver: role name already exists"),
        (Error::RoleNotGranted, 9, "etcdserver: role is not granted to the user"),
        (Error::PermissionNotGiven, 3, "etcdserver: permission not given"),
        (Error::PermissionNotGranted, 9, "etcdserver: permission is not granted to the role"),
        (Error::PermissionDenied, 7, "etcdserver: permission denied"),
        (Error::AuthFailed, 3, "etcdserver: authentication failed, invalid user ID or password"),
        (Error::NoPasswordUser, 2, "auth: authentication failed, password was given for no password user"),
        (Error::AuthNotEnabled, 9, "etcdserver: authentication is not enabled"),
        (Error::InvalidAuthToken, 16, "etcdserver: invalid auth token"),
        (Error::InvalidAuthManagement, 3, "etcdserver: invalid auth management"),
        (Error::AuthOldRevision, 3, "etcdserver: revision of auth store is old"),
        (Error::RootUserNotExist, 9, "etcdserver: root user does not exist"),
        (Error::RootRoleNotExist, 9, "etcdserver: root user does not have root role"),
        (Error::MemberExists, 9, "etcdserver: member ID already exist"),
        (Error::PeerUrlExists, 9, "etcdserver: Peer URLs already exists"),
        (Error::NotEnoughStarted, 2, "etcdserver: re-configuration failed due to not enough started members"),
        (Error::BadMemberUrls, 3, "etcdserver: given member URLs are invalid"),
        (Error::MemberNotLearner, 9, "etcdserver: can only promote a learner member"),
        (Error::LearnerNotReady, 9, "etcdserver: can only promote a learner member which is in sync with leader"),
        (Error::TooManyLearners, 9, "etcdserver: too many learner members in cluster"),
        (Error::Unhealthy, 14, "etcdserver: unhealthy cluster"),
        (Error::FeatureLevelTooLow, 9, "etcdserver: not supported until all members of the cluster are upgraded"),
    ];

    #[test]
    fn every_error_has_etcds_code_and_text() {
        for (error, code, text) in GOLDEN {
            let status = Status::from(error.clone());
            assert_eq!((status.code as i32, status.message.as_str()), (*code, *text), "{error:?}");
        }
    }

    #[test]
    fn the_golden_table_lists_every_variant() {
        // The declaration is the list of variants; a new one without a golden row fails here.
        let declared = include_str!("../../core/src/error.rs").matches("#[error(").count();
        assert_eq!(declared, GOLDEN.len());
    }
}
