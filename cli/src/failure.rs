//! Why a command ended other than well, and the exit code that says so.

use tonic::{Code, Status};

/// How a command ends that does not end well: its exit code, and a line for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// What is printed behind `Error: `; nothing if the command has said all already.
    pub message: Option<String>,
}

/// In the metadata of a status that refused a name and a password, not a request: etcdctl counts that as no connection.
pub const NOT_AUTHENTICATED: &str = "not-authenticated";

/// What a command comes to.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A refused request, a failed call (exit code 1).
    pub fn error(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: Some(message.into()) }
    }

    /// No connection, or a failed call of the commands that etcdctl counts among these (exit code 2).
    pub fn bad_connection(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: Some(message.into()) }
    }

    /// Unreadable lines on stdin (exit code 3).
    pub fn invalid_input(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: Some(message.into()) }
    }

    /// Something that this command or output format cannot do (exit code 4).
    pub fn bad_feature(message: impl Into<String>) -> Failure {
        Failure { code: 4, message: Some(message.into()) }
    }

    /// Ended from outside before it was done (exit code 5).
    pub fn interrupted(message: impl Into<String>) -> Failure {
        Failure { code: 5, message: Some(message.into()) }
    }

    /// Wrong arguments (exit code 128).
    pub fn bad_args(message: impl Into<String>) -> Failure {
        Failure { code: 128, message: Some(message.into()) }
    }

    /// Ends with `code`; everything has been said.
    pub fn silent(code: u8) -> Failure {
        Failure { code, message: None }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let text = status_text(&status);
        if status.metadata().contains_key(NOT_AUTHENTICATED) {
            Failure::bad_connection(text)
        } else {
            Failure::error(text)
        }
    }
}

/// What etcdctl prints for `status`: the server's own text where it comes from the server.
pub fn status_text(status: &Status) -> String {
    let message = status.message();
    match status.code() {
        _ if message.starts_with("etcdserver: ") => message.to_owned(),
        Code::DeadlineExceeded => "context deadline exceeded".to_owned(),
        Code::Cancelled if message.contains("Timeout expired") => "context deadline exceeded".to_owned(),
        _ => rpc_error(status),
    }
}

/// `status` as grpc-go writes it.
pub fn rpc_error(status: &Status) -> String {
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_text_is_printed_bare() {
        let text = |code, message: &str| status_text(&Status::new(code, message));
        assert_eq!(text(Code::InvalidArgument, "etcdserver: key is not provided"), "etcdserver: key is not provided");
        assert_eq!(text(Code::DeadlineExceeded, "Timeout expired"), "context deadline exceeded");
        assert_eq!(text(Code::Unavailable, "gone"), "rpc error: code = Unavailable desc = gone");
    }
}
