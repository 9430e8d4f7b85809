//! `lock` and `elect`.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_api::etcdserverpb::{RangeRequest, RangeResponse, WatchCreateRequest};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::commands::Context;
use crate::commands::watch::exit_text;
use crate::failure::{Failure, Result};
use crate::flags::Flag;
use crate::session::{Place, Session, read};
use crate::watcher::Watcher;

pub(super) const LOCK_FLAGS: &[Flag] = &[Flag::int("ttl", "10", "the session's time to live, in seconds")];
pub(super) const ELECT_FLAGS: &[Flag] = &[Flag::bool("listen", "observe the election").or('l')];

/// The session's TTL in an election, in seconds.
const ELECTION_TTL: i64 = 60;

/// `lock`.
pub(super) async fn lock(context: &Context) -> Result<()> {
    let Some((name, exec)) = context.args.words().split_first() else {
        return Err(Failure::bad_args("lock takes a lock name argument and an optional command to execute"));
    };
    let client = Arc::new(context.client()?);
    let session = Session::open(client.clone(), context.args.int("ttl")).await?;
    let place = tokio::select! {
        place = queue(&client, &session, name, b"") => place?,
        () = interrupted()? => return session.close().await,
    };
    let code = match exec.split_first() {
        None => {
            context.printer.show(&client.range(read(&place.key)).await?)?;
            hold(&session).await?;
            0
        }
        Some((program, args)) => {
            let mut child = tokio::process::Command::new(program)
                .args(args)
                .env("ETCD_LOCK_KEY", String::from_utf8_lossy(&place.key).as_ref())
                .env("ETCD_LOCK_REV", place.revision.to_string())
                .spawn()
                .map_err(|e| Failure::error(format!("exec: {program:?}: {e}")))?;
            let status = child.wait().await.map_err(|e| Failure::error(e.to_string()))?;
            if !status.success() {
                eprintln!("Error: {}", exit_text(status));
            }
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        }
    };
    place.leave(&client).await?;
    session.close().await?;
    if code == 0 { Ok(()) } else { Err(Failure::silent(code)) }
}

/// Takes a place for `name` and waits until it is the first.
async fn queue(client: &Arc<Client>, session: &Session, name: &str, value: &[u8]) -> Result<Place> {
    let place = Place::take(client, session, name, value).await?;
    tokio::select! {
        waited = place.wait(client) => waited?,
        () = session.lost() => return Err(Failure::error("session expired")),
    }
    Ok(place)
}

/// Waits for a signal to go.
async fn hold(session: &Session) -> Result<()> {
    tokio::select! {
        () = interrupted()? => Ok(()),
        () = session.lost() => Err(Failure::error("session expired")),
    }
}

/// Returns on SIGINT or SIGTERM.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).map_err(|e| Failure::error(e.to_string()));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// `elect`.
pub(super) async fn elect(context: &Context) -> Result<()> {
    let listen = context.args.bool("listen");
    match context.args.words() {
        [name] if listen => observe(context, name).await,
        [_] => Err(Failure::bad_args("no proposal argument but -l not set")),
        [_, _] if listen => Err(Failure::bad_args("proposal given but -l is set")),
        [name, proposal] => campaign(context, name, proposal).await,
        _ => Err(Failure::bad_args("elect takes one election name argument and an optional proposal argument")),
    }
}

async fn campaign(context: &Context, name: &str, proposal: &str) -> Result<()> {
    let client = Arc::new(context.client()?);
    let session = Session::open(client.clone(), ELECTION_TTL).await?;
    let place = tokio::select! {
        place = queue(&client, &session, name, proposal.as_bytes()) => place?,
        () = interrupted()? => return session.close().await,
    };
    context.printer.show(&client.range(read(&place.key)).await?)?;
    hold(&session).await?;
    place.leave(&client).await?;
    session.close().await
}

/// Shows every leader until interrupted: the oldest key of the election, each time it appears or is written.
async fn observe(context: &Context, name: &str) -> Result<()> {
    let client = Arc::new(context.client()?);
    let (key, range_end) = (Bytes::from(format!("{name}/")), Bytes::from(format!("{name}0")));
    let oldest = RangeRequest {
        key: key.clone(),
        range_end: range_end.clone(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    };
    let first = client.range(oldest.clone()).await?;
    let start_revision = first.header.as_ref().map_or(0, |h| h.revision) + 1;
    let (watcher, mut changes) = Watcher::start(client.clone());
    watcher.create(WatchCreateRequest { key, range_end, start_revision, ..Default::default() }).await;
    let mut shown = show_leader(context, first, 0)?;
    let mut interrupted = Box::pin(interrupted()?);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some((_, response)) if !response.canceled => {
                    shown = show_leader(context, client.range(oldest.clone()).await?, shown)?;
                }
                _ => return Err(Failure::error("elect: observer lost")),
            },
            () = &mut interrupted => return Ok(()),
        }
    }
}

/// Shows the leader unless revision `shown` of it has been shown; gives the revision shown last.
fn show_leader(context: &Context, response: RangeResponse, shown: i64) -> Result<i64> {
    let revision = response.kvs.first().map_or(shown, |kv| kv.mod_revision);
    if revision != shown {
        context.printer.show(&response)?;
    }
    Ok(revision)
}
