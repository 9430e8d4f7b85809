//! `auth enable`, `disable` and `status`.

use quorate_api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest, AuthUserGrantRoleRequest,
};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::print::write_stdout;

const NO_ROOT_ROLE: &str = "etcdserver: root user does not have root role";

/// `auth enable`: gives user root the role root first, if it has not got it.
pub(super) async fn enable(context: &Context) -> Result<()> {
    no_words(context, "enable")?;
    let client = context.client()?;
    let mut answer = client.auth_enable(AuthEnableRequest {}).await;
    if answer.as_ref().is_err_and(|status| status.message() == NO_ROOT_ROLE) {
        client.role_add(AuthRoleAddRequest { name: "root".into() }).await?;
        client.user_grant_role(AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await?;
        answer = client.auth_enable(AuthEnableRequest {}).await;
    }
    answer?;
    write_stdout(b"Authentication Enabled\n")
}

/// `auth disable`.
pub(super) async fn disable(context: &Context) -> Result<()> {
    no_words(context, "disable")?;
    context.client()?.auth_disable(AuthDisableRequest {}).await?;
    write_stdout(b"Authentication Disabled\n")
}

/// `auth status`.
pub(super) async fn status(context: &Context) -> Result<()> {
    no_words(context, "status")?;
    let response = context.client()?.auth_status(AuthStatusRequest {}).await?;
    context.printer.show(&response)
}

fn no_words(context: &Context, command: &str) -> Result<()> {
    if context.args.words().is_empty() {
        return Ok(());
    }
    Err(Failure::bad_args(format!("auth {command} command does not accept any arguments")))
}
