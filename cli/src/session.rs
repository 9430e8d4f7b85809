//! A lease that is kept alive, and the queue of keys on which locks and elections stand.
//!
//! The keys are those of etcd's own clients (`<name>/<lease in hex>`), so all of them respect each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_api::etcdserverpb::request_op::Request;
use quorate_api::etcdserverpb::response_op::Response;
use quorate_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, WatchCreateRequest,
};
use quorate_api::mvccpb::event::EventType;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::{Failure, Result, status_text};
use crate::watcher::Watcher;

/// A lease kept alive in the background.
#[derive(Debug)]
pub struct Session {
    client: Arc<Client>,
    /// The lease.
    pub lease: i64,
    lost: watch::Receiver<bool>,
}

impl Session {
    /// Creates a lease of `ttl` seconds and keeps it alive.
    ///
    /// # Errors
    /// The lease could not be created.
    pub async fn open(client: Arc<Client>, ttl: i64) -> Result<Session> {
        let asked = Instant::now();
        let granted = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?;
        let (sender, lost) = watch::channel(false);
        let (keeper, lease) = (Arc::clone(&client), granted.id);
        let renew = move || {
            let client = Arc::clone(&keeper);
            async move { client.keep_alive_once(lease).await.map(|response| response.ttl > 0) }
        };
        let ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0));
        tokio::spawn(async move { keep_alive(renew, ttl, asked, sender).await });
        Ok(Session { client, lease, lost })
    }

    /// Returns when the lease is gone.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Ends the lease, and with it every key attached to it.
    ///
    /// # Errors
    /// The server's refusal, or that no endpoint answered in time.
    pub async fn close(self) -> Result<()> {
        self.client.lease_revoke(LeaseRevokeRequest { id: self.lease }).await?;
        Ok(())
    }
}

/// Renews a lease of `ttl`, asked for at `renewed`, until it is lost or nobody cares.
///
/// `renew` says whether the lease was still there. The server counts its time from when it was asked, which is no earlier
/// than when we sent that; so by our own clock a lease is over `ttl` after we last sent something that was answered.
async fn keep_alive<E, F: Future<Output = std::result::Result<bool, E>>>(
    renew: impl Fn() -> F,
    ttl: Duration,
    mut renewed: Instant,
    lost: watch::Sender<bool>,
) {
    loop {
        let sent = (Instant::now() + ttl / 3).min(renewed + ttl);
        tokio::time::sleep_until(sent).await;
        if lost.is_closed() {
            return;
        }
        let sent = Instant::now();
        match tokio::time::timeout_at(renewed + ttl, renew()).await {
            Ok(Ok(true)) => renewed = sent,
            Ok(Err(_)) if Instant::now() < renewed + ttl => {}
            // It is gone, or must be: somebody else may have the lock.
            Ok(_) | Err(_) => {
                let _ = lost.send(true);
                return;
            }
        }
    }
}

/// A place in the queue for `name`. Whoever came first has the lock, or leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Our key.
    pub key: Bytes,
    /// The revision at which it was created: the place in the queue.
    pub revision: i64,
    prefix: Bytes,
    /// The end of the range of keys that begin with `prefix`.
    end: Bytes,
}

impl Place {
    /// Takes a place under `session`'s lease, or finds the one it has. `value` is written to the key.
    ///
    /// # Errors
    /// The server's refusal, or that no endpoint answered in time.
    pub async fn take(client: &Client, session: &Session, name: &str, value: &[u8]) -> Result<Place> {
        let prefix = format!("{name}/");
        let key = Bytes::from(format!("{prefix}{:x}", session.lease));
        let value = Bytes::copy_from_slice(value);
        let put = PutRequest { key: key.clone(), value: value.clone(), lease: session.lease, ..Default::default() };
        let response = client
            .txn(TxnRequest {
                compare: vec![absent(&key)],
                success: vec![op(Request::RequestPut(put.clone()))],
                failure: vec![op(Request::RequestRange(read(&key)))],
            })
            .await?;
        let mut revision = response.header.map_or(0, |h| h.revision);
        if let Some(Response::ResponseRange(found)) = response.responses.first().and_then(|r| r.response.clone()) {
            let kv = found.kvs.into_iter().next().unwrap_or_default();
            revision = kv.create_revision;
            if kv.value != value {
                client.put(put).await?;
            }
        }
        let end = Bytes::from(format!("{name}0"));
        Ok(Place { key, revision, prefix: Bytes::from(prefix), end })
    }

    /// Waits until nobody stands in front of us.
    ///
    /// # Errors
    /// The server's refusal, or that no endpoint answered in time.
    pub async fn wait(&self, client: &Arc<Client>) -> Result<()> {
        loop {
            let before = client
                .range(RangeRequest {
                    key: self.prefix.clone(),
                    range_end: self.end.clone(),
                    limit: 1,
                    sort_order: SortOrder::Descend.into(),
                    sort_target: SortTarget::Create.into(),
                    max_create_revision: self.revision - 1,
                    ..Default::default()
                })
                .await?;
            let Some(kv) = before.kvs.into_iter().next() else { return Ok(()) };
            deleted(client, kv.key, before.header.map_or(0, |h| h.revision) + 1).await?;
        }
    }

    /// Gives the place up.
    ///
    /// # Errors
    /// The server's refusal, or that no endpoint answered in time.
    pub async fn leave(&self, client: &Client) -> Result<()> {
        let request = DeleteRangeRequest { key: self.key.clone(), ..Default::default() };
        client.delete_range(request).await.map(drop).map_err(Failure::from)
    }
}

/// Returns once `key` has been deleted at or after `revision`.
async fn deleted(client: &Arc<Client>, key: Bytes, revision: i64) -> Result<()> {
    let (watcher, mut responses) = Watcher::start(client.clone());
    watcher.create(WatchCreateRequest { key, start_revision: revision, ..Default::default() }).await;
    while let Some((_, response)) = responses.recv().await {
        if response.canceled {
            return match response.compact_revision {
                0 => Err(Failure::error(response.cancel_reason)),
                // What happened before is unknown: the caller looks again.
                _ => Ok(()),
            };
        }
        if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
    Err(Failure::error(status_text(&tonic::Status::unavailable("lost watcher waiting for delete"))))
}

/// A linearizable read of `key`.
pub fn read(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

fn absent(key: &Bytes) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_millis(600);

    /// How long a lease of [`TTL`] is taken for ours, if each renewal is answered by `answer`, later.
    async fn held<F: Future<Output = std::result::Result<bool, ()>>>(answer: impl Fn() -> F) -> Duration {
        let (sender, lost) = watch::channel(false);
        let began = Instant::now();
        tokio::time::timeout(20 * TTL, keep_alive(answer, TTL, began, sender)).await.expect("it is lost some time");
        assert!(*lost.borrow());
        began.elapsed()
    }

    #[tokio::test]
    async fn a_lease_is_lost_when_its_time_is_over_whatever_the_server_does() {
        let silent = held(std::future::pending).await;
        assert!((TTL..2 * TTL).contains(&silent), "{silent:?}");
        let refusing = held(|| std::future::ready(Err(()))).await;
        assert!((TTL..2 * TTL).contains(&refusing), "{refusing:?}");
        let gone = held(|| std::future::ready(Ok(false))).await;
        assert!(gone < TTL, "{gone:?}");
    }

    #[tokio::test]
    async fn a_lease_is_ours_from_when_its_renewal_was_sent() {
        let sent = std::sync::Mutex::new(None);
        let once = held(|| {
            let is_first = sent.lock().unwrap().replace(Instant::now()).is_none();
            async move {
                // The answer to the first takes a while; the others get none.
                tokio::time::sleep(TTL / 3).await;
                if is_first { Ok(true) } else { std::future::pending().await }
            }
        });
        let held = once.await;
        // Sent after a third, answered after two; it is over a whole one after it was sent.
        assert!((TTL + TTL / 3..TTL * 5 / 3).contains(&held), "{held:?}");
    }
}
