//! `role add`, `delete`, `get`, `list`, `grant-permission` and `revoke-permission`.

use bytes::Bytes;
use quorate_api::authpb::Permission;
use quorate_api::authpb::permission::Type;
use quorate_api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest, AuthRoleListRequest,
    AuthRoleRevokePermissionRequest,
};

use crate::commands::{Context, prefix_end};
use crate::failure::{Failure, Result};
use crate::flags::Flag;
use crate::print::{Changed, Role};

pub(super) const RANGE_FLAGS: &[Flag] = &[
    Flag::bool("prefix", "all keys that begin with the given one"),
    Flag::bool("from-key", "all keys from the given one on"),
];

/// `role add`.
pub(super) async fn add(context: &Context) -> Result<()> {
    let name = context.one_word("role add command requires role name as its argument")?;
    let response = context.client()?.role_add(AuthRoleAddRequest { name: name.to_owned() }).await?;
    context.printer.show(&Changed::new(format!("Role {name} created"), response.header, &response))
}

/// `role delete`.
pub(super) async fn delete(context: &Context) -> Result<()> {
    let name = context.one_word("role delete command requires role name as its argument")?;
    let response = context.client()?.role_delete(AuthRoleDeleteRequest { role: name.to_owned() }).await?;
    context.printer.show(&Changed::new(format!("Role {name} deleted"), response.header, &response))
}

/// `role get`.
pub(super) async fn get(context: &Context) -> Result<()> {
    let name = context.one_word("role get command requires role name as its argument")?.to_owned();
    let response = context.client()?.role_get(AuthRoleGetRequest { role: name.clone() }).await?;
    context.printer.show(&Role { name, response })
}

/// `role list`.
pub(super) async fn list(context: &Context) -> Result<()> {
    if !context.args.words().is_empty() {
        return Err(Failure::bad_args("role list command requires no arguments"));
    }
    let response = context.client()?.role_list(AuthRoleListRequest {}).await?;
    context.printer.show(&response)
}

/// `role grant-permission`.
pub(super) async fn grant_permission(context: &Context) -> Result<()> {
    let [name, kind, keys @ ..] = context.args.words() else { return Err(too_few_for_grant()) };
    if keys.is_empty() {
        return Err(too_few_for_grant());
    }
    let Some(kind_number) = Type::from_str_name(&kind.to_uppercase()) else {
        return Err(Failure::bad_args(format!("invalid permission type: {kind}")));
    };
    let (key, range_end) = range(context, keys)?;
    let perm = Some(Permission { perm_type: kind_number.into(), key, range_end });
    let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm };
    let response = context.client()?.role_grant_permission(request).await?;
    context.printer.show(&Changed::new(format!("Role {name} updated"), response.header, &response))
}

fn too_few_for_grant() -> Failure {
    Failure::bad_args("role grant command requires role name, permission type, and key [endkey] as its argument")
}

/// `role revoke-permission`.
pub(super) async fn revoke_permission(context: &Context) -> Result<()> {
    let [name, first, ..] = context.args.words() else {
        let text = "role revoke-permission command requires role name and key [endkey] as its argument";
        return Err(Failure::bad_args(text));
    };
    let (key, range_end) = range(context, &context.args.words()[1..])?;
    let request = AuthRoleRevokePermissionRequest { role: name.clone(), key, range_end: range_end.clone() };
    let response = context.client()?.role_revoke_permission(request).await?;
    let what = match &range_end[..] {
        [] => format!("key {first}"),
        [0] => format!("range [{first}, <open ended>"),
        end => format!("range [{first}, {})", String::from_utf8_lossy(end)),
    };
    let text = format!("Permission of {what} is revoked from role {name}");
    context.printer.show(&Changed::new(text, response.header, &response))
}

/// The key and the range end of a permission. An empty key stands for the first of all.
fn range(context: &Context, keys: &[String]) -> Result<(Bytes, Bytes)> {
    let (prefix, from_key) = (context.args.bool("prefix"), context.args.bool("from-key"));
    let all = Bytes::from_static(&[0]);
    match keys {
        [key, ..] if key.is_empty() => {
            let end = if prefix || from_key { all.clone() } else { Bytes::new() };
            Ok((all, end))
        }
        [_] if prefix && from_key => Err(Failure::bad_args("--from-key and --prefix flags are mutually exclusive")),
        [_, _, ..] if prefix => Err(Failure::bad_args("unexpected endkey argument with --prefix flag")),
        [_, _, ..] if from_key => Err(Failure::bad_args("unexpected endkey argument with --from-key flag")),
        [key] if prefix => Ok((Bytes::from(key.clone()), prefix_end(key.as_bytes()).into())),
        [key] if from_key => Ok((Bytes::from(key.clone()), all)),
        [key, end, ..] => Ok((Bytes::from(key.clone()), Bytes::from(end.clone()))),
        [key] => Ok((Bytes::from(key.clone()), Bytes::new())),
        [] => Err(too_few_for_grant()),
    }
}
