//! A simulated Quorate cluster for tests of other people's services: their tasks run in madsim, and instead of a mock they
//! have the real members beside them, with faults, in the same simulated time.
//!
//! ```no_run
//! # async fn service_under_test(_: quorate_sim::cluster::Client) {}
//! use std::time::Duration;
//! use quorate_sim::cluster::{Cluster, Config, simulate};
//! use quorate_sim::schedule::Fault;
//!
//! simulate(7, || async {
//!     let cluster = Cluster::start(Config { seed: 7, ..Config::default() }).unwrap();
//!     let service = madsim::task::spawn(service_under_test(cluster.client()));
//!     madsim::time::sleep(Duration::from_secs(5)).await;
//!     cluster.strike(Fault::power_cut(0, Duration::from_secs(1)));
//!     service.await.unwrap();
//!     cluster.finish().await.unwrap();
//! });
//! ```
//!
//! Everything that clients are told is checked, as in the simulator's own runs; [`Cluster::finish`] says what was found. The
//! cluster takes part in simulated time by steps of a millisecond, which is madsim's own resolution.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use madsim::runtime::Runtime;
use quorate_api::etcdserverpb as pb;
use quorate_core::request::{KeyRange, KeyValue, PutRequest, RangeRequest, TxnRequest, TxnResult};
use quorate_core::{Blob, LeaseId, Revision, Ttl};
use quorate_jepsen::history::{Op, Response};
use quorate_node::status::Status;

use crate::call::{Answer, CallError};
use crate::check::Violation;
use crate::disk::Ill;
use crate::heap::{MILLI, Nanos, SECOND};
use crate::network::Quality;
use crate::report::{Keep, Totals};
use crate::schedule::{Fault, Strike};
use crate::script::Asked;
use crate::swarm::regime::Regime;
use crate::swarm::{Classes, Setup};
use crate::wire;
use crate::workload::operator::Task;
use crate::workload::watcher::Told;
use crate::world::World;

mod watch;

pub use watch::{Change, Ended, Watch};

/// Calls that can be under way at once; others wait.
const CALLS_MAX: usize = 64;
/// How often the cluster takes part in simulated time.
const STEP: Duration = Duration::from_millis(1);
/// No cluster lives longer.
const LIFE: Nanos = 86_400 * SECOND;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Config {
    /// Decides everything that is left to chance: speeds of disks and links, and the fate of each message.
    pub seed: u64,
    /// Members, 1 to 7.
    pub members: usize,
    /// Faults, each at its time after the start. [`Cluster::strike`] adds others.
    pub schedule: Vec<Strike>,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed: 1, members: 3, schedule: Vec::new() }
    }
}

/// Why a call brought no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The cluster said so, in etcd's words.
    Refused(Status),
    /// Nobody listened: it has not happened and never will.
    Unreached,
    /// The connection broke or the answer did not come in time: it may happen at any later time, or never.
    Unknown,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => f.write_str(&status.message),
            Self::Unreached => f.write_str("nobody listens"),
            Self::Unknown => f.write_str("the outcome is unknown"),
        }
    }
}

impl std::error::Error for Failure {}

/// Between the tasks of the user, which may be anywhere, and the world, which is one task.
#[derive(Debug, Default)]
struct Mailbox {
    asked: VecDeque<(u64, usize, Asked, Nanos)>,
    opened: VecDeque<(u64, usize, KeyRange, Option<Revision>)>,
    closed: Vec<u64>,
    /// What was told on each watch, and not taken yet.
    told: BTreeMap<u64, VecDeque<Told>>,
    faults: Vec<Fault>,
    tickets: u64,
    answers: BTreeMap<u64, Option<Answer>>,
    wakers: BTreeMap<u64, Waker>,
    leader: Option<usize>,
    ends: bool,
    /// The cluster is no more.
    is_over: bool,
    verdict: Option<Result<Totals, Violation>>,
    ended: Option<Waker>,
}

type Shared = Arc<Mutex<Mailbox>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Mailbox> {
    shared.lock().expect("one task runs at a time, and a panic ends them all")
}

/// A simulated cluster. Dropping it leaves it running as long as the simulation.
#[derive(Debug)]
pub struct Cluster {
    mailbox: Shared,
    members: usize,
    clients: AtomicUsize,
}

impl Cluster {
    /// Starts the members; inside of a madsim runtime.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn start(config: Config) -> Result<Self, String> {
        let members = config.members;
        let setup = setup(config)?;
        let mailbox = Shared::default();
        madsim::task::spawn_local(drive(World::new(Arc::new(setup), Keep::default()), mailbox.clone()));
        Ok(Self { mailbox, members, clients: AtomicUsize::new(0) })
    }

    /// A client; each begins with another member.
    #[must_use]
    pub fn client(&self) -> Client {
        let member = self.clients.fetch_add(1, Ordering::Relaxed) % self.members;
        let member = Arc::new(AtomicUsize::new(member));
        Client { mailbox: self.mailbox.clone(), members: self.members, member, patience: Duration::from_secs(5) }
    }

    /// Does something to the cluster, within a millisecond.
    ///
    /// # Panics
    /// If the fault does not fit the cluster.
    pub fn strike(&self, fault: Fault) {
        let (probe, strike) = (Setup::draw(1), Strike { at: 0, fault });
        let probe = Setup { members: self.members, churn: None, schedule: vec![strike], ..probe };
        assert_eq!(probe.check(), Ok(()), "{fault}");
        lock(&self.mailbox).faults.push(fault);
    }

    /// The member that leads, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        lock(&self.mailbox).leader
    }

    /// Ends all faults, demands progress of every member, before and after a power cut of all, and looks at everything
    /// that any client was ever told.
    ///
    /// # Errors
    /// A promise was broken: a bug of Quorate's.
    pub async fn finish(self) -> Result<Totals, Violation> {
        lock(&self.mailbox).ends = true;
        poll_fn(|context| {
            let mailbox = &mut *lock(&self.mailbox);
            match mailbox.verdict.take() {
                Some(verdict) => Poll::Ready(verdict),
                None => {
                    mailbox.ended = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A client of the cluster, which asks one member until that fails, and then another. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Client {
    mailbox: Shared,
    members: usize,
    member: Arc<AtomicUsize>,
    patience: Duration,
}

impl Client {
    /// The same with another time to wait for an answer; 5 s unless said otherwise.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Carries out any operation.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&self, op: Op) -> Result<Response, Failure> {
        let bytes = self.ask(Asked::Task(Task::Op(op.clone()))).await?;
        Ok(wire::decode(&op, bytes))
    }

    async fn ask(&self, asked: Asked) -> Result<Bytes, Failure> {
        let member = self.member();
        let patience = Nanos::try_from(self.patience.as_nanos()).unwrap_or(LIFE);
        let ticket = lock(&self.mailbox).post(member, asked, patience);
        let answer = poll_fn(|context| lock(&self.mailbox).poll(ticket, context)).await;
        if !matches!(answer, Some(Ok(_) | Err(CallError::Status(_)))) {
            self.member.store((member + 1) % self.members, Ordering::Relaxed);
        }
        match answer {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(CallError::Status(status))) if wire::error(&status).is_some() => Err(Failure::Refused(status)),
            Some(Err(CallError::Refused)) => Err(Failure::Unreached),
            Some(Err(CallError::Status(_) | CallError::Broken)) | None => Err(Failure::Unknown),
        }
    }

    /// Puts a key.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Failure> {
        let put = PutRequest {
            key: Blob(key.into()),
            value: Blob(value.into()),
            lease: None,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        self.call(Op::Put(put)).await.map(|_| ())
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Failure> {
        let range = RangeRequest::new(KeyRange::Key(Blob(key.into())));
        match self.call(Op::Range(range)).await? {
            Response::Range(result) => Ok(result.kvs.into_iter().next()),
            other => unreachable!("a range is answered with one: {other:?}"),
        }
    }

    /// Grants a lease. (Keys are attached to it by [`Op::Put`].)
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn grant(&self, ttl: Ttl) -> Result<LeaseId, Failure> {
        match self.call(Op::LeaseGrant { id: None, ttl }).await? {
            Response::LeaseGrant(lease, _) => Ok(lease.id),
            other => unreachable!("a grant is answered with one: {other:?}"),
        }
    }

    /// Renews a lease; gives for how long, or `None` if there is no such lease any more.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Ttl>, Failure> {
        let bytes = self.ask(Asked::KeepAlive(lease)).await?;
        let reply: pb::LeaseKeepAliveResponse = wire::message(bytes);
        Ok((reply.ttl > 0).then_some(Ttl(reply.ttl)))
    }

    /// The member that it asks.
    fn member(&self) -> usize {
        self.member.load(Ordering::Relaxed)
    }

    /// Compares, and does one thing or the other.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn txn(&self, txn: TxnRequest) -> Result<TxnResult, Failure> {
        match self.call(Op::Txn(txn)).await? {
            Response::Txn(result) => Ok(result),
            other => unreachable!("a txn is answered with one: {other:?}"),
        }
    }
}

impl Mailbox {
    fn post(&mut self, member: usize, asked: Asked, patience: Nanos) -> u64 {
        self.tickets += 1;
        self.asked.push_back((self.tickets, member, asked, patience));
        self.tickets
    }

    fn poll(&mut self, ticket: u64, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match self.answers.remove(&ticket) {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.wakers.insert(ticket, context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn answer(&mut self, ticket: u64, answer: Option<Answer>) {
        if let Some(waker) = self.wakers.remove(&ticket) {
            self.answers.insert(ticket, answer);
            waker.wake();
        }
    }
}

/// The task that the cluster is.
async fn drive(mut world: World, mailbox: Shared) {
    #[expect(clippy::disallowed_types, reason = "it is madsim's, and moves with simulated time")]
    let began = madsim::time::Instant::now();
    let mut free: Vec<usize> = (0..CALLS_MAX).rev().collect();
    let (mut tickets, mut watches) = (BTreeMap::new(), Vec::new());
    let verdict = loop {
        madsim::time::sleep(STEP).await;
        let now = Nanos::try_from(began.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
        if let Err(violation) = world.advance(now) {
            break Err(violation);
        }
        let mailbox = &mut *lock(&mailbox);
        for (client, answer) in world.take_answers() {
            free.push(client);
            if let Some(ticket) = tickets.remove(&client) {
                mailbox.answer(ticket, answer);
            }
        }
        for (listener, told) in world.take_told() {
            mailbox.tell(watches[listener], told);
        }
        while let Some((number, member, range, from)) = mailbox.opened.pop_front() {
            let listener = world.listen_from_outside(now, member, range, from);
            assert_eq!(listener, watches.len(), "they are counted alike");
            watches.push(number);
        }
        for number in std::mem::take(&mut mailbox.closed) {
            let listener = watches.iter().position(|watch| *watch == number);
            listener.into_iter().for_each(|listener| world.stop_listening(now, listener));
        }
        for fault in std::mem::take(&mut mailbox.faults) {
            world.strike_now(now, fault);
        }
        while let (Some(client), false) = (free.last().copied(), mailbox.asked.is_empty()) {
            let Some((ticket, member, asked, patience)) = mailbox.asked.pop_front() else { break };
            free.pop();
            tickets.insert(client, ticket);
            world.ask_from_outside(now, client, member, asked, patience);
        }
        mailbox.leader = world.led_by();
        if mailbox.ends {
            break world.end(now).map(|()| world.totals);
        }
    };
    let mailbox = &mut *lock(&mailbox);
    for (listener, told) in world.take_told() {
        mailbox.tell(watches[listener], told);
    }
    (mailbox.verdict, mailbox.is_over) = (Some(verdict), true);
    std::mem::take(&mut mailbox.wakers).into_values().chain(mailbox.ended.take()).for_each(Waker::wake);
}

/// A quiet cluster with nobody in it but those outside.
fn setup(config: Config) -> Result<Setup, String> {
    let Config { seed, members, schedule } = config;
    if !(1..=7).contains(&members) {
        return Err(format!("{members} members: 1 to 7 are possible"));
    }
    let mut setup = Setup::draw(seed);
    let regime = Regime { auth: false, quota_bytes: None, auto_compaction: None, lease_storms: false, ..setup.regime };
    setup.knobs.heartbeat = 100 * MILLI;
    setup.knobs.election = SECOND;
    setup.knobs.start_spread = 50 * MILLI;
    (setup.members, setup.churn, setup.contest, setup.control_plane) = (members, None, None, None);
    (setup.clients, setup.watchers) = (CALLS_MAX, 0);
    (setup.classes, setup.network, setup.regime) = (Classes::default(), Quality::CALM, regime);
    (setup.duration, setup.schedule) = (LIFE, schedule);
    setup.clocks = (0..members).map(|member| (member as u64 * SECOND, 0)).collect();
    (setup.handicaps, setup.wall_clocks) = (Vec::new(), vec![0; members]);
    setup.script = Some(Arc::from([]));
    setup.check()?;
    Ok(setup)
}

/// Runs a simulation on a thread and in a madsim runtime of its own; the same seed gives the same run.
///
/// # Panics
/// If the simulation does.
pub fn simulate<T: Send + 'static, F: Future<Output = T>>(seed: u64, body: impl FnOnce() -> F + Send + 'static) -> T {
    let run = move || Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(body());
    let thread = std::thread::Builder::new().name("simulation".into()).spawn(run).expect("a thread can be started");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Faults by names of their own, for tests that read well.
impl Fault {
    /// The machine of `member` loses power and is back after `down`.
    #[must_use]
    pub fn power_cut(member: usize, down: Duration) -> Self {
        Self::Power { member, down: nanos(down) }
    }

    /// The process of `member` is killed and is back after `down`.
    #[must_use]
    pub fn kill(member: usize, down: Duration) -> Self {
        Self::Kill { member, down: nanos(down) }
    }

    /// `member` and the others cannot talk for a while.
    #[must_use]
    pub fn isolate(member: usize, span: Duration) -> Self {
        Self::Partition { side: 1 << member, span: nanos(span) }
    }

    /// The next sync of `member`'s log fails.
    #[must_use]
    pub fn failed_sync(member: usize) -> Self {
        Self::Fail { member, ill: Ill::Sync }
    }
}

fn nanos(span: Duration) -> Nanos {
    Nanos::try_from(span.as_nanos()).unwrap_or(LIFE).min(LIFE)
}

#[cfg(test)]
mod tests {
    use quorate_core::Ttl;

    use super::*;

    #[test]
    fn what_others_did_is_counted_in_the_end() {
        simulate(5, || async {
            let cluster = Cluster::start(Config::default()).expect("a sound configuration");
            madsim::time::sleep(Duration::from_secs(3)).await;
            let client = cluster.client();
            client.put("a", "1").await.expect("nothing fails");
            client.call(Op::LeaseGrant { id: None, ttl: Ttl(2) }).await.expect("nothing fails");
            madsim::time::sleep(Duration::from_secs(10)).await;
            let totals = cluster.finish().await.expect("every promise is kept");
            assert_eq!(totals.leases_expired, 1);
            assert_eq!(totals.levels_raised, 1);
        });
    }
}
