//! `user add`, `delete`, `get`, `list`, `passwd`, `grant-role` and `revoke-role`.

use quorate_api::authpb::UserAddOptions;
use quorate_api::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind};
use crate::print::{Changed, Role, User, write_stdout};
use crate::prompt;

const INTERACTIVE: Flag = Flag {
    name: "interactive",
    short: None,
    kind: Kind::Bool,
    default: "true",
    about: "ask for the password; else it is a word on stdin",
};

pub(super) const ADD_FLAGS: &[Flag] = &[
    INTERACTIVE,
    Flag::string("new-user-password", "", "the new user's password"),
    Flag::bool("no-password", "the user has no password: only a certificate can name it"),
];
pub(super) const PASSWD_FLAGS: &[Flag] = &[INTERACTIVE];
pub(super) const GET_FLAGS: &[Flag] = &[Flag::bool("detail", "show the permissions of the user's roles")];

/// `user add`.
pub(super) async fn add(context: &Context) -> Result<()> {
    let (args, word) = (&context.args, context.one_word("user add command requires user name as its argument")?);
    let no_password = args.bool("no-password");
    let (name, password) = match (args.string("new-user-password"), word.split_once(':')) {
        _ if no_password => (word, String::new()),
        ("", Some(("", _))) => return Err(Failure::bad_args("empty user name is not allowed")),
        ("", Some((name, password))) => (name, password.to_owned()),
        ("", None) => (word, ask(context, word)?),
        (password, _) => (word, password.to_owned()),
    };
    let options = Some(UserAddOptions { no_password });
    let request = AuthUserAddRequest { name: name.to_owned(), password, options, ..Default::default() };
    let response = context.client()?.user_add(request).await?;
    context.printer.show(&Changed::new(format!("User {name} created"), response.header, &response))
}

/// `user passwd`.
pub(super) async fn passwd(context: &Context) -> Result<()> {
    let name = context.one_word("user passwd command requires user name as its argument")?;
    let password = ask(context, name)?;
    let request = AuthUserChangePasswordRequest { name: name.to_owned(), password, ..Default::default() };
    let response = context.client()?.user_change_password(request).await?;
    context.printer.show(&Changed::new("Password updated".to_owned(), response.header, &response))
}

fn ask(context: &Context, name: &str) -> Result<String> {
    if context.args.bool("interactive") { prompt::new_password(name) } else { prompt::word() }
}

/// `user delete`.
pub(super) async fn delete(context: &Context) -> Result<()> {
    let name = context.one_word("user delete command requires user name as its argument")?;
    let response = context.client()?.user_delete(AuthUserDeleteRequest { name: name.to_owned() }).await?;
    context.printer.show(&Changed::new(format!("User {name} deleted"), response.header, &response))
}

/// `user get`.
pub(super) async fn get(context: &Context) -> Result<()> {
    let name = context.one_word("user get command requires user name as its argument")?.to_owned();
    let client = context.client()?;
    let response = client.user_get(AuthUserGetRequest { name: name.clone() }).await?;
    if !context.args.bool("detail") {
        return context.printer.show(&User { name, response });
    }
    write_stdout(format!("User: {name}\n").as_bytes())?;
    for role in response.roles {
        write_stdout(b"\n")?;
        let response = client.role_get(AuthRoleGetRequest { role: role.clone() }).await?;
        context.printer.show(&Role { name: role, response })?;
    }
    Ok(())
}

/// `user list`.
pub(super) async fn list(context: &Context) -> Result<()> {
    if !context.args.words().is_empty() {
        return Err(Failure::bad_args("user list command requires no arguments"));
    }
    let response = context.client()?.user_list(AuthUserListRequest {}).await?;
    context.printer.show(&response)
}

/// `user grant-role`.
pub(super) async fn grant_role(context: &Context) -> Result<()> {
    let [name, role] = context.args.words() else {
        return Err(Failure::bad_args("user grant command requires user name and role name as its argument"));
    };
    let request = AuthUserGrantRoleRequest { user: name.clone(), role: role.clone() };
    let response = context.client()?.user_grant_role(request).await?;
    let text = format!("Role {role} is granted to user {name}");
    context.printer.show(&Changed::new(text, response.header, &response))
}

/// `user revoke-role`.
pub(super) async fn revoke_role(context: &Context) -> Result<()> {
    let [name, role] = context.args.words() else {
        return Err(Failure::bad_args("user revoke-role requires user name and role name as its argument"));
    };
    let request = AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
    let response = context.client()?.user_revoke_role(request).await?;
    let text = format!("Role {role} is revoked from user {name}");
    context.printer.show(&Changed::new(text, response.header, &response))
}
