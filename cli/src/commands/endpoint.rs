//! `endpoint health`, `status` and `hashkv`, and `defrag`: one call to each endpoint.

use quorate_api::etcdserverpb::{
    AlarmRequest, DefragmentRequest, HashKvRequest, MemberListRequest, RangeRequest, StatusRequest,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::Client;
use crate::commands::Context;
use crate::failure::{Failure, Result, status_text};
use crate::flags::Flag;
use crate::go;
use crate::print::{Hashes, Health, HealthList, Statuses, alarm_name, write_stdout};

const CLUSTER: Flag = Flag::bool("cluster", "ask every member that the cluster's list names");
pub(super) const CLUSTER_FLAGS: &[Flag] = &[CLUSTER];
pub(super) const HASH_FLAGS: &[Flag] = &[CLUSTER, Flag::int("rev", "0", "highest revision to hash (0: all)")];

/// `endpoint health`: all endpoints at once, in the order in which they answer.
pub(super) async fn health(context: &Context) -> Result<()> {
    let client = context.client()?;
    let mut checks = JoinSet::new();
    for endpoint in endpoints(context, &client).await? {
        let one = client.only(&endpoint).map_err(Failure::bad_connection)?;
        checks.spawn(async move {
            let start = Instant::now();
            let error = unhealthy(&one).await;
            Health { endpoint, took: go::format_duration(start.elapsed()), error }
        });
    }
    let mut list = HealthList(Vec::new());
    while let Some(check) = checks.join_next().await {
        list.0.push(check.map_err(|e| Failure::error(e.to_string()))?);
    }
    if context.printer.format == crate::print::Format::Simple {
        list.0.iter().filter_map(Health::complaint).for_each(|complaint| eprintln!("{complaint}"));
    }
    context.printer.show(&list)?;
    match list.0.iter().all(|h| h.error.is_none()) {
        true => Ok(()),
        false => Err(Failure::error("unhealthy cluster")),
    }
}

/// Why the endpoint is not healthy: it cannot read through the leader, or has an alarm.
async fn unhealthy(client: &Client) -> Option<String> {
    let read = RangeRequest { key: "health".into(), ..Default::default() };
    match client.range(read).await {
        // Being refused takes a quorum, too.
        Err(status) if status.code() != Code::PermissionDenied => return Some(status_text(&status)),
        _ => {}
    }
    match client.alarm(AlarmRequest::default()).await {
        Ok(response) => {
            let mut names: Vec<&str> = response.alarms.iter().map(|a| alarm_name(a.alarm())).collect();
            names.dedup();
            (!names.is_empty()).then(|| format!("Active Alarm(s): {}", names.join(", ")))
        }
        // A server without alarms has none.
        Err(status) if status.code() == Code::Unimplemented => None,
        Err(_) => Some("Unable to fetch the alarm list".to_owned()),
    }
}

/// `endpoint status`.
pub(super) async fn status(context: &Context) -> Result<()> {
    let (found, failed) =
        each(context, "status", |client| async move { client.status(StatusRequest {}).await }).await?;
    context.printer.show(&Statuses(found))?;
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}

/// `endpoint hashkv`.
pub(super) async fn hash(context: &Context) -> Result<()> {
    let revision = context.args.int("rev");
    let call = |client: Client| async move { client.hash_kv(HashKvRequest { revision }).await };
    let (found, failed) = each(context, "hash", call).await?;
    context.printer.show(&Hashes(found))?;
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}

/// Calls one endpoint after the other. Gives what they answered, and whether one did not.
async fn each<T, F>(context: &Context, what: &str, call: impl Fn(Client) -> F) -> Result<(Vec<(String, T)>, bool)>
where
    F: Future<Output = std::result::Result<T, Status>>,
{
    let client = context.client()?;
    let (mut found, mut failed) = (Vec::new(), false);
    for endpoint in endpoints(context, &client).await? {
        match call(client.only(&endpoint).map_err(Failure::bad_connection)?).await {
            Ok(answer) => found.push((endpoint, answer)),
            Err(status) => {
                eprintln!("Failed to get the {what} of endpoint {endpoint} ({})", status_text(&status));
                failed = true;
            }
        }
    }
    Ok((found, failed))
}

/// `defrag`.
pub(super) async fn defrag(context: &Context) -> Result<()> {
    let client = context.client()?;
    let mut failed = false;
    for endpoint in endpoints(context, &client).await? {
        let start = Instant::now();
        let result = client.only(&endpoint).map_err(Failure::bad_connection)?.defragment(DefragmentRequest {}).await;
        let took = go::format_duration(start.elapsed());
        match result {
            Ok(_) => {
                let line = format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n");
                write_stdout(line.as_bytes())?;
            }
            Err(status) => {
                let why = status_text(&status);
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({why})");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}

/// The endpoints given or, with `--cluster`, those of all members.
async fn endpoints(context: &Context, client: &Client) -> Result<Vec<String>> {
    if !context.args.bool("cluster") {
        return Ok(client.config().endpoints.clone());
    }
    let list = client.member_list(MemberListRequest { linearizable: true }).await;
    let list = list.map_err(|s| {
        Failure::error(format!("failed to fetch endpoints from etcd cluster member list: {}", status_text(&s)))
    })?;
    Ok(list.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
