//! `member add`, `list`, `promote`, `remove` and `update`.

use quorate_api::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::flags::Flag;
use crate::go;
use crate::print::{MemberAdded, MemberPromoted, MemberRemoved, MemberUpdated};

const PEER_URLS: Flag = Flag {
    name: "peer-urls",
    short: None,
    kind: crate::flags::Kind::Strings,
    default: "",
    about: "the member's peer URLs, separated by commas",
};

pub(super) const ADD_FLAGS: &[Flag] = &[Flag::bool("learner", "add it as a learner, without a vote"), PEER_URLS];
pub(super) const UPDATE_FLAGS: &[Flag] = &[PEER_URLS];
pub(super) const LIST_FLAGS: &[Flag] = &[Flag::string("consistency", "l", "linearizable (l) or serializable (s)")];

/// `member list`.
pub(super) async fn list(context: &Context) -> Result<()> {
    let linearizable = match context.args.string("consistency") {
        "l" => true,
        "s" => false,
        other => {
            return Err(Failure::bad_feature(format!("unknown consistency flag {}", go::quote(other.as_bytes()))));
        }
    };
    let response = context.client()?.member_list(MemberListRequest { linearizable }).await?;
    context.printer.show(&response)
}

/// `member add`.
pub(super) async fn add(context: &Context) -> Result<()> {
    let name = match context.args.words() {
        [] => return Err(Failure::bad_args("member name not provided")),
        [name] => name.clone(),
        _ => {
            let text = "too many arguments, are you using spaces in --peer-urls instead of commas?";
            return Err(Failure::bad_args(text));
        }
    };
    let request =
        MemberAddRequest { peer_ur_ls: context.args.strings("peer-urls"), is_learner: context.args.bool("learner") };
    if request.peer_ur_ls.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    let response = context.client()?.member_add(request).await?;
    context.printer.show(&MemberAdded { name, response })
}

/// `member remove`.
pub(super) async fn remove(context: &Context) -> Result<()> {
    let id = member_id(context)?;
    let response = context.client()?.member_remove(MemberRemoveRequest { id }).await?;
    context.printer.show(&MemberRemoved { id, response })
}

/// `member update`.
pub(super) async fn update(context: &Context) -> Result<()> {
    let id = member_id(context)?;
    let peer_ur_ls = context.args.strings("peer-urls");
    if peer_ur_ls.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    let response = context.client()?.member_update(MemberUpdateRequest { id, peer_ur_ls }).await?;
    context.printer.show(&MemberUpdated { id, response })
}

/// `member promote`.
pub(super) async fn promote(context: &Context) -> Result<()> {
    let id = member_id(context)?;
    let response = context.client()?.member_promote(MemberPromoteRequest { id }).await?;
    context.printer.show(&MemberPromoted { id, response })
}

fn member_id(context: &Context) -> Result<u64> {
    let text = context.one_word("member ID is not provided")?;
    go::parse_uint(text, 16).map_err(|why| Failure::bad_args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}
