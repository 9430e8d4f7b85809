//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use std::time::Duration;

use quorate_api::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest};

use crate::commands::Context;
use crate::failure::{Failure, Result, status_text};
use crate::flags::Flag;
use crate::go;
use crate::print::{Format, KeepAlive, LeaseRevoked, TimeToLive, write_stdout};

pub(super) const TIME_TO_LIVE_FLAGS: &[Flag] = &[Flag::bool("keys", "show the keys attached to the lease")];
pub(super) const KEEP_ALIVE_FLAGS: &[Flag] = &[Flag::bool("once", "renew the lease once and return")];

/// `lease grant`.
pub(super) async fn grant(context: &Context) -> Result<()> {
    let ttl = context.one_word("lease grant command needs TTL argument")?;
    let ttl = go::parse_int(ttl, 10).map_err(|why| Failure::bad_args(format!("bad TTL ({why})")))?;
    let response = context.client()?.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let response = response.map_err(|s| Failure::error(format!("failed to grant lease ({})", status_text(&s))))?;
    context.printer.show(&response)
}

/// `lease revoke`.
pub(super) async fn revoke(context: &Context) -> Result<()> {
    let id = lease_id(context.one_word("lease revoke command needs 1 argument")?)?;
    let response = context.client()?.lease_revoke(LeaseRevokeRequest { id }).await;
    let response = response.map_err(|s| Failure::error(format!("failed to revoke lease ({})", status_text(&s))))?;
    context.printer.show(&LeaseRevoked { id, response })
}

/// `lease timetolive`.
pub(super) async fn time_to_live(context: &Context) -> Result<()> {
    let id = lease_id(context.one_word("lease timetolive command needs lease ID as argument")?)?;
    let keys = context.args.bool("keys");
    let response = context.patient_client()?.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await;
    let response = response.map_err(|s| Failure::bad_connection(status_text(&s)))?;
    context.printer.show(&TimeToLive { keys, response })
}

/// `lease list`.
pub(super) async fn list(context: &Context) -> Result<()> {
    let response = context.client()?.lease_leases(LeaseLeasesRequest {}).await;
    let response = response.map_err(|s| Failure::bad_connection(status_text(&s)))?;
    context.printer.show(&response)
}

/// `lease keep-alive`: renews at a third of the TTL until the lease is gone.
pub(super) async fn keep_alive(context: &Context) -> Result<()> {
    let id = lease_id(context.one_word("lease keep-alive command needs lease ID as argument")?)?;
    let (client, once) = (context.client()?, context.args.bool("once"));
    loop {
        let response = client.keep_alive_once(id).await.map_err(|s| Failure::bad_connection(status_text(&s)))?;
        let ttl = u64::try_from(response.ttl).unwrap_or(0);
        if ttl == 0 {
            break;
        }
        context.printer.show(&KeepAlive(response))?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(ttl * 1000 / 3)).await;
    }
    if once {
        return Err(Failure::bad_connection("etcdserver: requested lease not found"));
    }
    if context.printer.format == Format::Simple {
        write_stdout(format!("lease {id:016x} expired or revoked.\n").as_bytes())?;
    }
    Ok(())
}

fn lease_id(text: &str) -> Result<i64> {
    go::parse_int(text, 16).map_err(|why| Failure::bad_args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}
