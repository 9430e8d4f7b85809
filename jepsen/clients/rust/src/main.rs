//! The crate etcd-client against a running cluster: `rust-smoke HOST:PORT,HOST:PORT,...`

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions,
    GetResponse, LockOptions, PermissionType, PutOptions, ResignOptions, RoleRevokePermissionOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use etcd_client::{LeaseTimeToLiveOptions, Permission};

static CHECKS: AtomicUsize = AtomicUsize::new(0);

#[track_caller]
fn check<T: PartialEq<U> + Debug, U: Debug>(actual: T, expected: U) {
    assert!(actual == expected, "{actual:?} is not {expected:?}");
    CHECKS.fetch_add(1, Ordering::Relaxed);
}

#[track_caller]
fn refused<T>(answer: Result<T, Error>, text: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => check(status.message(), text),
        Err(error) => panic!("{error} is not {text}"),
        Ok(_) => panic!("no error, instead of {text}"),
    }
}

fn values(answer: &GetResponse) -> Vec<&str> {
    answer.kvs().iter().map(|kv| kv.value_str().unwrap()).collect()
}

async fn key_values(client: &mut Client) -> Result<(), Error> {
    client.put("rust/a", "1", None).await?;
    let put = client.put("rust/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    check(put.prev_key().unwrap().value_str()?, "1");
    client.put("rust/b", "3", None).await?;
    let prefix = || GetOptions::new().with_prefix();
    check(values(&client.get("rust/", Some(prefix())).await?), ["2", "3"]);
    let sorted = prefix().with_sort(SortTarget::Value, SortOrder::Descend).with_limit(1);
    let first = client.get("rust/", Some(sorted)).await?;
    check((values(&first), first.more(), first.count()), (vec!["3"], true, 2));
    let before = put.header().unwrap().revision() - 1;
    check(values(&client.get("rust/a", Some(GetOptions::new().with_revision(before))).await?), ["1"]);
    let future = GetOptions::new().with_revision(1 << 40);
    refused(client.get("rust/a", Some(future)).await, "etcdserver: mvcc: required revision is a future revision");
    refused(client.put("", "", None).await, "etcdserver: key is not provided");
    let deleted = client.delete("rust/b", Some(DeleteOptions::new().with_prev_key())).await?;
    check((deleted.deleted(), deleted.prev_kvs()[0].value_str()?), (1, "3"));
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<(), Error> {
    let conditions = [
        Compare::value("rust/a", CompareOp::Equal, "2"),
        Compare::create_revision("rust/no", CompareOp::Equal, 0),
        Compare::version("rust/", CompareOp::Greater, 1).with_prefix(),
    ];
    let inner = Txn::new().and_then([TxnOp::get("rust/t", None)]);
    let txn = Txn::new()
        .when(conditions)
        .and_then([TxnOp::put("rust/t", "yes", None), TxnOp::txn(inner)])
        .or_else([TxnOp::put("rust/t", "no", None)]);
    let answer = client.txn(txn).await?;
    check(answer.succeeded(), true);
    match &answer.op_responses()[1] {
        TxnOpResponse::Txn(inner) => match &inner.op_responses()[0] {
            TxnOpResponse::Get(get) => check(values(get), ["yes"]),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    let twice = Txn::new().and_then([TxnOp::put("rust/t", "1", None), TxnOp::put("rust/t", "2", None)]);
    refused(client.txn(twice).await, "etcdserver: duplicate key given in txn request");
    Ok(())
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("rust/w/", Some(options)).await?;
    check(stream.message().await?.unwrap().created(), true);
    let first = client.put("rust/w/a", "1", None).await?.header().unwrap().revision();
    let both = [TxnOp::put("rust/w/a", "2", None), TxnOp::put("rust/w/b", "3", None)];
    client.txn(Txn::new().and_then(both)).await?;
    let last = client.delete("rust/w/a", None).await?.header().unwrap().revision();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        for event in stream.message().await?.unwrap().events() {
            let previous = event.prev_kv().map_or("-", |kv| kv.value_str().unwrap());
            let kind = if event.event_type() == EventType::Put { "put" } else { "delete" };
            seen.push(format!("{kind} {} {previous}", event.kv().unwrap().key_str()?));
        }
    }
    check(seen, ["put rust/w/a -", "put rust/w/a 1", "put rust/w/b -", "delete rust/w/a 2"]);
    stream.request_progress().await?;
    let progress = stream.message().await?.unwrap();
    check((progress.events().len(), progress.header().unwrap().revision() >= last), (0, true));
    client.compact(last, Some(CompactionOptions::new().with_physical())).await?;
    // The member that is asked may hear of the compaction a little later.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let options = WatchOptions::new().with_start_revision(first);
        let mut late = client.watch("rust/w/a", Some(options)).await?;
        late.message().await?;
        let next = late.message().await?.unwrap();
        if next.canceled() || Instant::now() > until {
            check((next.canceled(), next.compact_revision()), (true, last));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(2, None).await?.id();
    client.put("rust/l", "1", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        check(kept.message().await?.unwrap().ttl(), 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let left = client.lease_time_to_live(lease, Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    check((left.granted_ttl(), left.keys()), (2, &[b"rust/l".to_vec()][..]));
    let until = Instant::now() + Duration::from_secs(20);
    while client.get("rust/l", None).await?.count() > 0 {
        assert!(Instant::now() < until, "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    refused(client.lease_revoke(lease).await, "etcdserver: requested lease not found");
    Ok(())
}

async fn locks_and_elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(20, None).await?.id();
    let held = client.lock("rust/lock", Some(LockOptions::new().with_lease(lease))).await?;
    check(held.key().starts_with(b"rust/lock/"), true);
    let mut other = client.clone();
    let waiting = tokio::spawn(async move {
        let lease = other.lease_grant(20, None).await?.id();
        let held = other.lock("rust/lock", Some(LockOptions::new().with_lease(lease))).await?;
        other.unlock(held.key()).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    check(waiting.is_finished(), false);
    client.unlock(held.key()).await?;
    waiting.await.expect("it does not panic")?;
    let won = client.campaign("rust/election", "me", lease).await?;
    check(client.leader("rust/election").await?.kv().unwrap().value_str()?, "me");
    client.resign(Some(ResignOptions::new().with_leader(won.leader().unwrap().clone()))).await?;
    refused(client.leader("rust/election").await, "election: no leader");
    Ok(())
}

async fn users(client: &mut Client, endpoints: &[&str]) -> Result<(), Error> {
    client.user_add("root", "secret", None).await?;
    client.user_add("rusty", "tiger", None).await?;
    client.role_add("root").await?;
    client.role_add("rust").await?;
    client.role_grant_permission("rust", Permission::new(PermissionType::Readwrite, "rust/").with_prefix()).await?;
    client.user_grant_role("root", "root").await?;
    client.user_grant_role("rusty", "rust").await?;
    client.auth_enable().await?;
    refused(client.get("rust/a", None).await, "etcdserver: user name is empty");
    let user = |name: &str, password: &str| Some(ConnectOptions::new().with_user(name, password));
    let wrong = Client::connect(endpoints, user("rusty", "lion")).await;
    refused(wrong, "etcdserver: authentication failed, invalid user ID or password");
    let mut rusty = Client::connect(endpoints, user("rusty", "tiger")).await?;
    check(values(&rusty.get("rust/a", None).await?), ["2"]);
    refused(rusty.get("other", None).await, "etcdserver: permission denied");
    refused(rusty.user_list().await, "etcdserver: permission denied");
    let mut root = Client::connect(endpoints, user("root", "secret")).await?;
    check(root.user_list().await?.users(), ["root", "rusty"]);
    let all = RoleRevokePermissionOptions::new().with_prefix();
    root.role_revoke_permission("rust", "rust/", Some(all)).await?;
    refused(rusty.get("rust/a", None).await, "etcdserver: permission denied");
    root.auth_disable().await?;
    client.user_delete("rusty").await?;
    client.user_delete("root").await?;
    client.role_delete("rust").await?;
    client.role_delete("root").await?;
    Ok(())
}

async fn cluster(client: &mut Client, endpoints: &[&str]) -> Result<(), Error> {
    let members = client.member_list().await?;
    check(members.members().len(), endpoints.len());
    let status = client.status().await?;
    check(members.members().iter().any(|member| member.id() == status.leader()), true);
    let mut stream = client.snapshot().await?;
    let mut bytes = 0;
    while let Some(part) = stream.message().await? {
        bytes += part.blob().len();
    }
    check(bytes % 512, 32); // Pages and the checksum behind them.
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints = std::env::args().nth(1).expect("HOST:PORT,HOST:PORT,...");
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let mut client = Client::connect(&endpoints, None).await?;
    client.delete("rust/", Some(DeleteOptions::new().with_prefix())).await?;
    key_values(&mut client).await?;
    transactions(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    locks_and_elections(&mut client).await?;
    users(&mut client, &endpoints).await?;
    cluster(&mut client, &endpoints).await?;
    println!("Rust etcd-client: {} checks passed", CHECKS.load(Ordering::Relaxed));
    Ok(())
}
