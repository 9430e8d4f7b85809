//! Users, roles and permissions. (etcd: service Auth)
//!
//! Passwords are the business of whoever runs a call: [`Method::secret`] gives it one to hash, and `Authenticate`, which
//! compares one, goes by [`challenge`] and [`open_session`]. It is not weighed: its hash, not itself, is replicated.

use std::mem::take;

use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::Blob;
use quorate_core::auth::{AuthCommand, AuthRevision};
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::store::Need;

use super::{Access, Local, Method, Settings, mismatch};
use crate::status::Status;
use crate::wire::{request, response};

/// A call that is one command and answered by a header alone.
macro_rules! change {
    ($request:ident => $reply:ident, $path:literal, |$it:ident| $command:expr) => {
        impl Method for pb::$request {
            type Reply = pb::$reply;
            type Rest = ();
            const PATH: &'static str = concat!("/etcdserverpb.Auth/", $path);

            fn access((): &()) -> Access<'_> {
                Access::Command
            }

            fn start(self, settings: &Settings) -> Result<(Option<Request>, ()), Status> {
                request::within(self.encoded_len(), settings.limits)?;
                let $it = self;
                Ok((Some(Request::Command(Command::Auth($command))), ()))
            }

            fn finish((): (), answer: Option<Response>, local: &Local<'_>) -> Result<pb::$reply, Status> {
                done(answer)?;
                Ok(pb::$reply { header: Some(local.header_now()) })
            }
        }
    };
}

change!(AuthEnableRequest => AuthEnableResponse, "AuthEnable", |_it| AuthCommand::Enable);
change!(AuthDisableRequest => AuthDisableResponse, "AuthDisable", |_it| AuthCommand::Disable);
change!(AuthUserDeleteRequest => AuthUserDeleteResponse, "UserDelete", |it| AuthCommand::UserDelete(it.name));
change!(AuthUserGrantRoleRequest => AuthUserGrantRoleResponse, "UserGrantRole", |it| {
    AuthCommand::UserGrantRole { name: it.user, role: it.role }
});
change!(AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse, "UserRevokeRole", |it| {
    AuthCommand::UserRevokeRole { name: it.name, role: it.role }
});
change!(AuthRoleAddRequest => AuthRoleAddResponse, "RoleAdd", |it| AuthCommand::RoleAdd(it.name));
change!(AuthRoleDeleteRequest => AuthRoleDeleteResponse, "RoleDelete", |it| AuthCommand::RoleDelete(it.role));
change!(AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse, "RoleGrantPermission", |it| {
    AuthCommand::RoleGrantPermission { role: it.name, permission: it.perm.map(request::permission) }
});
change!(AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse, "RoleRevokePermission", |it| {
    AuthCommand::RoleRevokePermission { role: it.role, key: Blob(it.key), range_end: Blob(it.range_end) }
});

fn done(answer: Option<Response>) -> Result<(), Status> {
    match answer {
        Some(Response::Outcome(Outcome::Done)) => Ok(()),
        other => mismatch(other.as_ref()),
    }
}

impl Method for pb::AuthUserAddRequest {
    type Reply = pb::AuthUserAddResponse;
    /// The password to hash, unless the user shall have none.
    type Rest = Option<String>;
    const PATH: &'static str = "/etcdserverpb.Auth/UserAdd";

    fn access(_: &Self::Rest) -> Access<'_> {
        Access::Command
    }

    fn secret(password: &Self::Rest) -> Option<&str> {
        password.as_deref()
    }

    fn start(mut self, settings: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        let password = take(&mut self.password);
        request::within(self.encoded_len(), settings.limits)?;
        let no_password = self.options.is_some_and(|options| options.no_password);
        let command = AuthCommand::UserAdd { name: self.name, password: None, no_password };
        Ok((Some(Request::Command(Command::Auth(command))), (!no_password).then_some(password)))
    }

    fn finish(_: Self::Rest, answer: Option<Response>, local: &Local<'_>) -> Result<pb::AuthUserAddResponse, Status> {
        done(answer)?;
        Ok(pb::AuthUserAddResponse { header: Some(local.header_now()) })
    }
}

impl Method for pb::AuthUserChangePasswordRequest {
    type Reply = pb::AuthUserChangePasswordResponse;
    /// The password to hash.
    type Rest = String;
    const PATH: &'static str = "/etcdserverpb.Auth/UserChangePassword";

    fn access(_: &String) -> Access<'_> {
        Access::Command
    }

    fn secret(password: &String) -> Option<&str> {
        Some(password)
    }

    fn start(mut self, settings: &Settings) -> Result<(Option<Request>, String), Status> {
        let password = take(&mut self.password);
        request::within(self.encoded_len(), settings.limits)?;
        let command = AuthCommand::UserChangePassword { name: self.name, password: None };
        Ok((Some(Request::Command(Command::Auth(command))), password))
    }

    fn finish(
        _: String,
        answer: Option<Response>,
        local: &Local<'_>,
    ) -> Result<pb::AuthUserChangePasswordResponse, Status> {
        done(answer)?;
        Ok(pb::AuthUserChangePasswordResponse { header: Some(local.header_now()) })
    }
}

impl Method for pb::AuthStatusRequest {
    type Reply = pb::AuthStatusResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Auth/AuthStatus";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Nothing)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::ReadIndex), ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthStatusResponse, Status> {
        let auth = local.view.auth();
        let (enabled, auth_revision) = (auth.is_enabled(), auth.revision().0);
        Ok(pb::AuthStatusResponse { header: Some(local.header_now()), enabled, auth_revision })
    }
}

impl Method for pb::AuthUserGetRequest {
    type Reply = pb::AuthUserGetResponse;
    /// The user.
    type Rest = String;
    const PATH: &'static str = "/etcdserverpb.Auth/UserGet";

    fn access(name: &String) -> Access<'_> {
        Access::State(Need::User(name))
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, String), Status> {
        Ok((Some(Request::ReadIndex), self.name))
    }

    fn finish(name: String, _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthUserGetResponse, Status> {
        let user = local.view.auth().user(&name).ok_or(Error::UserNotFound)?;
        let roles = user.roles.iter().cloned().collect();
        Ok(pb::AuthUserGetResponse { header: Some(local.header_now()), roles })
    }
}

impl Method for pb::AuthUserListRequest {
    type Reply = pb::AuthUserListResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Auth/UserList";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::ReadIndex), ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthUserListResponse, Status> {
        let users = local.view.auth().users().map(str::to_owned).collect();
        Ok(pb::AuthUserListResponse { header: Some(local.header_now()), users })
    }
}

impl Method for pb::AuthRoleGetRequest {
    type Reply = pb::AuthRoleGetResponse;
    /// The role.
    type Rest = String;
    const PATH: &'static str = "/etcdserverpb.Auth/RoleGet";

    fn access(name: &String) -> Access<'_> {
        Access::State(Need::Role(name))
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, String), Status> {
        Ok((Some(Request::ReadIndex), self.role))
    }

    fn finish(name: String, _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthRoleGetResponse, Status> {
        let role = local.view.auth().role(&name).ok_or(Error::RoleNotFound)?;
        let perm = role.into_iter().map(response::permission).collect();
        Ok(pb::AuthRoleGetResponse { header: Some(local.header_now()), perm })
    }
}

impl Method for pb::AuthRoleListRequest {
    type Reply = pb::AuthRoleListResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Auth/RoleList";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::ReadIndex), ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthRoleListResponse, Status> {
        let roles = local.view.auth().roles().map(str::to_owned).collect();
        Ok(pb::AuthRoleListResponse { header: Some(local.header_now()), roles })
    }
}

/// The path of `Authenticate`, which is no [`Method`]: a password is compared in its middle.
pub const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// What a password has to match, as of a state that is up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The hash of the right one.
    pub hash: String,
    /// Of users and roles when the hash was looked up.
    pub revision: AuthRevision,
}

/// The first half of `Authenticate`; call it with a state that a read index has confirmed.
///
/// # Errors
/// [`Error::AuthNotEnabled`], [`Error::AuthFailed`] if there is no such user, [`Error::NoPasswordUser`].
pub fn challenge(name: &str, local: &Local<'_>) -> Result<Challenge, Error> {
    let auth = local.view.auth();
    if !auth.is_enabled() {
        return Err(Error::AuthNotEnabled);
    }
    let user = auth.user(name).ok_or(Error::AuthFailed)?;
    let hash = user.password.clone().ok_or(Error::NoPasswordUser)?;
    Ok(Challenge { hash, revision: auth.revision() })
}

/// The second half, once the password has matched. Refused with [`Error::AuthOldRevision`] if users or roles have changed
/// since the challenge: start over then.
#[must_use]
pub fn open_session(name: String, revision: AuthRevision, secret: String) -> Request {
    Request::Command(Command::Auth(AuthCommand::OpenSession { name, revision, secret }))
}
