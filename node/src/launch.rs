//! From a configuration to a serving member, and back to a stopped one.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use quorate_api::quorate::peer::v1 as pb;
use quorate_core::entry::{FEATURE_LEVEL, Identity};
use quorate_core::format::wal::Damage;
use quorate_core::replica::{self, Replica, Request};
use quorate_core::request::Member as MemberInfo;
use quorate_core::store::TooNew;
use quorate_core::{Incarnation, Instant, LogIndex, NodeId, raft, watch};
use quorate_tls::Connector;
use quorate_tls::TlsError;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::applier::{self, Applier, OpenError};
use crate::auth::{Authenticator, Jwt, Tokens};
use crate::backend::fjall::{FjallBackend, FjallBackends, Options};
use crate::backend::{Backend, BackendError};
use crate::boot::{self, BootError, Booted, Course, Found, Told};
use crate::config::{AuthToken, ClusterState, Config, InitialMember, Tls};
use crate::datadir::{DataDir, DataDirError};
use crate::disk::file::FileDisk;
use crate::grpc::{self, Server};
use crate::http::{self, Security, Tuning};
use crate::member::{Member, Observer, Parts};
use crate::metrics::{Metrics, observe};
use crate::peer::join::{self, Joined};
use crate::peer::{self, Directory, over};
use crate::service::{Settings, WallClock};
use crate::url::Url;
use crate::wal;
use crate::wire::Responder;

/// How members of this build read their rows.
type Rows = <FjallBackend as Backend>::Snapshot;

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// An address cannot be listened on.
    #[error("listen tcp {address}: bind: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A certificate, key or list of authorities is not to be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory is not to be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log is not to be used.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The applied state is not to be used, and nobody can restore it.
    #[error("the applied state cannot be used, and as far as the log says nobody can restore it: {0}")]
    State(String),
    /// The cluster was upgraded beyond this build; nothing was changed.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// The system failed while the applied state was opened; nothing was changed.
    #[error("the applied state cannot be opened: {0}")]
    Backend(String),
    /// The cluster to be joined cannot be reached, or is another one than it was told.
    #[error("{0}")]
    Join(String),
    /// This member was removed from its cluster.
    #[error("server is stopping: the member has been permanently removed from the cluster")]
    Removed,
    /// The keys of tokens cannot be used.
    #[error("{0}")]
    Auth(String),
    /// The system gave no random bytes, or another file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<BackendError> for LaunchError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Damaged(why) => Self::State(why),
            BackendError::Failed(why) => Self::Backend(why),
        }
    }
}

impl From<OpenError> for LaunchError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Backend(error) => error.into(),
            OpenError::Load(error) => Self::State(error.to_string()),
            OpenError::TooNew(reason) => Self::TooNew(reason),
        }
    }
}

/// Between two questions whether a member can serve.
const READY_PAUSE: Duration = Duration::from_millis(10);

/// A member that serves.
pub struct Running {
    member: Member<Rows>,
    servers: JoinSet<()>,
    helpers: Vec<tokio::task::AbortHandle>,
    directory: Arc<Directory>,
    /// Also keeps the data directory locked.
    data_dir: DataDir,
}

/// Starts a member: takes the data directory, recovers, and serves peers and clients. `fenced`: its former life is over,
/// see [`Running::fenced`].
///
/// # Errors
/// See [`LaunchError`]. A port is taken before the data directory is touched.
pub async fn launch(config: &Config, fenced: bool) -> Result<Running, LaunchError> {
    let authenticator = Authenticator::new(config.bcrypt_cost, tokens(config)?);
    let peer_urls = config.initial_cluster.iter().flat_map(|member| &member.peer_urls);
    let connector = config.peer_tls.connector(peer_urls)?;
    let peer_listeners = listen(&config.listen_peer_urls, &config.peer_tls).await?;
    let client_listeners = listen(&config.listen_client_urls, &config.client_tls).await?;
    let http_listeners = listen(&config.listen_client_http_urls, &config.client_tls).await?;
    let metrics_listeners = listen(&config.listen_metrics_urls, &config.client_tls).await?;
    let data_dir = DataDir::open(&config.data_dir)?;
    if data_dir.is_removed() {
        return Err(LaunchError::Removed);
    }
    let epoch = std::time::Instant::now();
    let mut instructions = instruct(config, &data_dir, &connector).await?;
    let recovered = match recover(config, &data_dir, &instructions.told, fenced) {
        Err(reason) if instructions.told.in_force.is_none() && may_be_restored(&reason) => {
            warn!(error = reason.to_string(), "the log alone does not say that it can be restored; asking the others");
            match consult(config, &data_dir, &connector).await {
                Ok(consulted) => {
                    instructions = consulted;
                    recover(config, &data_dir, &instructions.told, fenced)
                }
                Err(error) => {
                    warn!(error = error.to_string(), "the others do not say, either");
                    Err(reason)
                }
            }
        }
        recovered => recovered,
    };
    let (booted, applier) = recovered?;
    let peer::Identity { cluster, member, .. } = identity(&booted);
    if applier.members().is_removed(member) && boot::is_removed(&booted.recovered, applier.applied()) {
        data_dir.mark_removed()?;
        return Err(LaunchError::Removed);
    }
    // From here on a member is whom its log says.
    let config = &Config { cluster, member, ..config.clone() };
    let metrics = Arc::new(Metrics::new(config.member, grpc::METHODS, config.metrics));
    let directory = Directory::new(identity(&booted), texts(&config.advertise_peer_urls), connector, &metrics);
    instructions.others.iter().for_each(|(id, urls)| directory.connect(*id, urls));
    directory.update(&applier.members());
    let (leases, members) = (applier.leases(), applier.members());
    let replica_config = replica_config(config, random()?, random()?);
    let life = pb::Life {
        cluster_id: cluster.0,
        member_id: member.0,
        incarnation: booted.recovered.identity.incarnation.0,
        config_index: boot::config_index(&booted.recovered).0,
    };
    let applied = if applier.is_bare() { booted.recovered.start_index } else { applier.applied() };
    let replica = Replica::new(replica_config, booted.recovered, applied, &leases, members, Instant::default());
    let view = &applier.published().view;
    let mut replica = replica.with_state(view.revision(), view.alarms().collect(), view.feature_level());
    let is_bare = applier.is_bare();
    if is_bare {
        replica = replica.without_state();
    }
    let observer = Arc::new(Watcher::new(config.member, Arc::clone(&metrics), Arc::clone(&directory)));
    let parts = Parts { replica, wal: booted.wal, applier, peers: directory.network(), observer, epoch };
    let member = Member::start(parts);

    let server = Arc::new(Server { member: member.clone(), settings: settings(config), metrics, authenticator });
    let mut servers = JoinSet::new();
    let mut helpers = vec![tokio::spawn(scrub(Arc::clone(&server), config.scrub_interval)).abort_handle()];
    if is_bare {
        let others = config.initial_cluster.iter().filter(|other| other.name != config.name);
        let urls = others.flat_map(|other| other.peer_urls.clone()).collect();
        helpers.push(tokio::spawn(over::wait(member.clone(), Arc::clone(&directory), urls, life)).abort_handle());
    }
    for (listener, security) in peer_listeners {
        info!(address = address(&listener), "serving peer traffic");
        servers.spawn(http::serve(listener, security, Tuning::default(), peer::router(&server, &directory)));
    }
    let (traffic, routes) = match http_listeners.is_empty() {
        true => ("grpc+http", http::client_routes(&server, &config.plain)),
        false => ("grpc", http::grpc_routes(&server)),
    };
    let plain = ("http", http_listeners, http::plain_router(&server, &config.plain).into());
    for (traffic, listeners, routes) in [(traffic, client_listeners, routes), plain] {
        for (listener, security) in listeners {
            let address = address(&listener);
            if security.is_plain() {
                info!(traffic, address, "serving client traffic insecurely; this is strongly discouraged!");
            } else {
                info!(traffic, address, "serving client traffic securely");
            }
            servers.spawn(http::serve(listener, security, config.tuning, routes.clone()));
        }
    }
    for (listener, security) in metrics_listeners {
        info!(address = address(&listener), "serving metrics");
        servers.spawn(http::serve(listener, security, Tuning::default(), http::metrics_router(&server)));
    }
    Ok(Running { member, servers, helpers, directory, data_dir })
}

impl Running {
    /// Returns once the member has a leader and has answered a linearizable read: it can serve everything. Keeps the
    /// member alive until then, or until it is dropped.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let member = self.member.clone();
        async move {
            while member.request(Request::ReadIndex).await.is_err() {
                tokio::time::sleep(READY_PAUSE).await; // A member whose state is wrong answers at once.
            }
        }
    }

    /// Returns once this life of the member is over, because its state is wrong: it is to be stopped and launched again,
    /// fenced, and the others restore it.
    pub fn fenced(&self) -> impl Future<Output = ()> + Send + 'static {
        self.member.fenced()
    }

    /// Returns if a listener fails, with the reason.
    pub async fn failed(&mut self) -> String {
        match self.servers.join_next().await {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "a listener ended".to_owned(),
        }
    }

    /// Returns once this member is removed from the cluster.
    pub fn removed(&self) -> impl Future<Output = ()> + 'static {
        let directory = Arc::clone(&self.directory);
        async move { directory.removed().await }
    }

    /// Notes in the data directory that this member was removed: it does not start again.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn mark_removed(&self) -> io::Result<()> {
        self.data_dir.mark_removed()
    }

    /// Hands leadership over, syncs what was written, and ends all streams. Takes little longer than `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.helpers.iter().for_each(tokio::task::AbortHandle::abort);
        self.member.stop(patience).await;
        self.directory.close();
        self.servers.shutdown().await;
    }
}

/// Takes the ports of `urls`. One address may be given with both schemes and then serves both.
async fn listen(urls: &[Url], tls: &Tls) -> Result<Vec<(TcpListener, Security)>, LaunchError> {
    let acceptor = tls.acceptor(urls)?;
    let mut addresses: BTreeMap<(&str, u16), Vec<&Url>> = BTreeMap::new();
    for url in urls {
        let host = match url.host() {
            "localhost" => "127.0.0.1",
            "" => "0.0.0.0",
            host => host,
        };
        addresses.entry((host, url.port())).or_default().push(url);
    }
    let mut listeners = Vec::new();
    for (address, urls) in addresses {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| LaunchError::Listen { address: urls[0].authority(), error })?;
        let secure = acceptor.clone().filter(|_| urls.iter().any(|url| url.is_secure()));
        let security = Security::new(secure, urls.iter().any(|url| !url.is_secure()), tls.client_cert_auth);
        listeners.push((listener, security));
    }
    Ok(listeners)
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
}

/// Reads everything on disk once an interval, for as long as the member runs. If bits have rotted, as they still have when it
/// looks again, the member is told, and sees to it that its life is ended or, if nobody can restore it, the CORRUPT alarm
/// raised.
async fn scrub(server: Arc<Server<Rows>>, interval: Duration) {
    const AGAIN: Duration = Duration::from_secs(10);
    loop {
        tokio::time::sleep(interval).await;
        let mut found = server.member.verify().await;
        if let Err(BackendError::Damaged(damage)) = &found {
            warn!(error = damage, "the applied state on disk seems to be damaged");
            tokio::time::sleep(interval.min(AGAIN)).await;
            found = server.member.verify().await;
        }
        match found {
            Ok(()) => {}
            Err(BackendError::Failed(why)) => warn!(error = why, "the applied state on disk cannot be verified"),
            Err(BackendError::Damaged(damage)) => {
                error!(error = damage, "the applied state on disk is damaged");
                server.member.damaged();
            }
        }
    }
}

/// What a member knows of its cluster without its log.
struct Instructions {
    told: Told,
    /// Where the others are reached.
    others: Vec<(NodeId, Vec<Url>)>,
}

/// What the command line says, or for a member that is to join and has no log, what the cluster says.
async fn instruct(config: &Config, data_dir: &DataDir, connector: &Connector) -> Result<Instructions, LaunchError> {
    let joins = config.state == ClusterState::Existing;
    if joins && !wal::exists(&mut data_dir.wal()?)? {
        return ask(config, connector).await;
    }
    // A member that joined has an ID which the command line does not tell; its log does.
    let founders: &[InitialMember] = if joins { &[] } else { &config.initial_cluster };
    let others = founders.iter().filter(|it| it.id != config.member).map(|it| (it.id, it.peer_urls.clone())).collect();
    let told = Told {
        cluster: config.cluster,
        member: config.member,
        voters: founders.iter().map(|member| member.id).collect(),
        incarnation: Incarnation(random()?),
        joins,
        in_force: None,
    };
    Ok(Instructions { told, others })
}

/// What the running cluster says.
async fn ask(config: &Config, connector: &Connector) -> Result<Instructions, LaunchError> {
    let joined = join::join(&config.initial_cluster, &config.name, connector).await.map_err(LaunchError::Join)?;
    instructed_by(joined)
}

fn instructed_by(joined: Joined) -> Result<Instructions, LaunchError> {
    let Joined { cluster, member, others, voters, in_force } = joined;
    let told = Told { cluster, member, voters, incarnation: Incarnation(random()?), joins: true, in_force };
    Ok(Instructions { told, others })
}

/// Whether a member that cannot start might, if the others could restore it.
fn may_be_restored(reason: &LaunchError) -> bool {
    match reason {
        LaunchError::Boot(error) => error.may_be_restored(),
        LaunchError::State(_) => true,
        _ => false,
    }
}

/// What the running cluster says to a member whose log is damaged, or whose applied state is. Who it is that log says, if
/// any of it can be read.
async fn consult(config: &Config, data_dir: &DataDir, connector: &Connector) -> Result<Instructions, LaunchError> {
    let Some(remains) = wal::remains(&mut data_dir.wal()?)? else { return ask(config, connector).await };
    let own = (remains.identity.cluster, remains.identity.member);
    let joined = join::consult(&config.initial_cluster, &config.name, own, connector).await;
    instructed_by(joined.map_err(LaunchError::Join)?)
}

fn identity<D>(booted: &Booted<D>) -> peer::Identity {
    let Identity { cluster, member, incarnation, .. } = booted.recovered.identity;
    peer::Identity { cluster, member, incarnation }
}

/// Opens the log and the applied state. State that cannot be used is moved aside, if the log goes back to its beginning or
/// the others can restore it. A log is given up only if it is damaged itself: as long as it is sound, somebody may need what
/// it promised, and the member starts without a state, see [`over`].
fn recover(
    config: &Config,
    data_dir: &DataDir,
    told: &Told,
    fenced: bool,
) -> Result<(Booted<FileDisk>, Applier<FjallBackends>), LaunchError> {
    let options = wal::Options::default();
    let booted = boot::boot(|| data_dir.wal(), options, told)?;
    // Whatever it was told: who it is, its log says.
    let told = &told.named(&booted.recovered.identity);
    if fenced {
        warn!("this member begins a new life with nothing; recovering from the other members");
        drop(booted);
        let booted = boot::forget(data_dir.wal()?, options, told, Damage::Fenced)?;
        let applier = open_state(config, data_dir, &booted)?;
        return Ok((booted, applier));
    }
    match &booted.found {
        Found::Nothing => info!("Initialize and start etcd server"),
        Found::Log => info!("server has already been initialized"),
        Found::Forgotten { aside } => {
            warn!(
                aside,
                "the rest of a former life's write-ahead log was moved aside; recovering from the other members"
            );
        }
        Found::Damaged { damage, aside } => {
            warn!(
                error = damage.to_string(),
                aside, "the write-ahead log is damaged and was moved aside; recovering from the other members"
            );
        }
    }
    let applier = match open_state(config, data_dir, &booted) {
        Err(LaunchError::State(reason)) if boot::may_lose_state(told, &booted.recovered) => {
            let aside = data_dir.set_kv_aside()?.map(|path| path.display().to_string());
            warn!(error = reason, aside, "the applied state cannot be used and was moved aside");
            open_state(config, data_dir, &booted)?
        }
        applier => applier?,
    };
    match boot::course(told, &booted.recovered, applier.applied()).map_err(BootError::Damage)? {
        Course::Whole => Ok((booted, applier)),
        Course::Bare(missing) => {
            warn!(error = missing.to_string(), "the applied state is lost, and the log is sound");
            Ok((booted, applier.bare()))
        }
        Course::Anew(missing) => {
            let error = missing.to_string();
            warn!(error, "entries or their applied state are lost; recovering from the other members");
            drop((booted, applier));
            let booted = boot::forget(data_dir.wal()?, options, told, missing)?;
            let applier = open_state(config, data_dir, &booted)?;
            Ok((booted, applier))
        }
    }
}

fn open_state(
    config: &Config,
    data_dir: &DataDir,
    booted: &Booted<FileDisk>,
) -> Result<Applier<FjallBackends>, LaunchError> {
    let member = identity(booted).member;
    if let Some(aside) = data_dir.set_former_kv_aside(booted.recovered.generation)? {
        warn!(
            aside = aside.display().to_string(),
            "the applied state of a former life was moved aside; it may be removed once this member is trusted again"
        );
    }
    let backends = FjallBackends::new(&data_dir.kv(), Options::of(member))?;
    let recovered = &booted.recovered;
    let last = recovered.entries.last().map_or(recovered.start_index, |entry| entry.index);
    let applier = Applier::open(applier_config(config, member, last)?, backends, booted.recovered.generation)?;
    let current_rev = applier.published().view.revision().0;
    info!(current_rev, applied_index = applier.applied().0, "kvstore restored");
    Ok(applier)
}

/// Eight bytes of the system's entropy.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn replica_config(config: &Config, seed: u64, session: u64) -> replica::Config {
    replica::Config {
        raft: raft::Config {
            heartbeat: config.heartbeat,
            election_timeout: config.election_timeout,
            seed,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            catchup_entries: config.catchup_entries,
            catchup_bytes: 32 << 20,
            understands: FEATURE_LEVEL,
        },
        session: Incarnation(session),
        request_timeout: Duration::from_secs(5) + 2 * config.election_timeout,
        read_retry: Duration::from_millis(500),
        apply_lag_max: 5000,
        held_max: 10_000,
        lease_checkpoint: Duration::from_secs(300),
        auto_compaction: config.auto_compaction,
        publish: Some(MemberInfo {
            id: config.member,
            name: config.name.clone(),
            peer_urls: texts(&config.advertise_peer_urls),
            client_urls: texts(&config.advertise_client_urls),
            is_learner: false,
        }),
        founders: if config.state == ClusterState::New { founders(config) } else { vec![] },
    }
}

/// The members as the command line names them.
fn founders(config: &Config) -> Vec<MemberInfo> {
    let founder = |member: &InitialMember| MemberInfo {
        id: member.id,
        name: member.name.clone(),
        peer_urls: texts(&member.peer_urls),
        client_urls: vec![],
        is_learner: false,
    };
    config.initial_cluster.iter().map(founder).collect()
}

/// `last` is the last entry of the log.
fn applier_config(config: &Config, member: NodeId, last: LogIndex) -> io::Result<applier::Config> {
    Ok(applier::Config {
        member,
        watch: watch::Config {
            progress_interval: config.progress_interval,
            stream_bytes_max: 16 << 20,
            ring_bytes_max: 8 << 20,
            history_bytes_max: 1 << 20,
            seed: random()?,
        },
        flush_entries: config.snapshot_count,
        session_ttl: config.auth_token_ttl,
        sessions_since: last,
        slices: applier::Slices::default(),
        understands: FEATURE_LEVEL,
    })
}

fn tokens(config: &Config) -> Result<Tokens, LaunchError> {
    Ok(match &config.auth_token {
        AuthToken::None => Tokens::None,
        AuthToken::Simple => Tokens::Simple,
        AuthToken::Jwt(options) => Tokens::Jwt(Jwt::new(options.clone()).map_err(LaunchError::Auth)?),
    })
}

fn settings(config: &Config) -> Settings {
    Settings {
        responder: Responder { cluster: config.cluster, member: config.member },
        limits: config.limits,
        quota_bytes: config.quota_bytes,
        election_timeout: config.election_timeout,
        initial_cluster: founders(config),
        strict_reconfig_check: config.strict_reconfig_check,
        learners_max: config.learners_max,
        wall_clock: WallClock::System,
    }
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// Turns what a member does into metrics and log lines.
struct Watcher {
    member: NodeId,
    metrics: Arc<Metrics>,
    directory: Arc<Directory>,
    seen: std::sync::Mutex<(Option<NodeId>, raft::Role, Option<quorate_core::entry::Standing>)>,
}

impl Watcher {
    fn new(member: NodeId, metrics: Arc<Metrics>, directory: Arc<Directory>) -> Self {
        Self { member, metrics, directory, seen: std::sync::Mutex::new((None, raft::Role::Follower, None)) }
    }
}

impl Observer for Watcher {
    fn changed(&self, status: &raft::Status) {
        let mut seen = self.seen.lock().expect("no holder panics");
        let (member, term) = (format!("{:x}", self.member.0), status.term.0);
        if status.leader != seen.0 {
            match (seen.0, status.leader) {
                (_, Some(leader)) => {
                    self.metrics.leader_changes.inc();
                    info!("raft.node: {member} elected leader {:x} at term {term}", leader.0);
                }
                (Some(leader), None) => info!("raft.node: {member} lost leader {:x} at term {term}", leader.0),
                (None, None) => {}
            }
        }
        if status.role != seen.1 {
            let role = match status.role {
                raft::Role::Follower => "follower",
                raft::Role::PreCandidate => "pre-candidate",
                raft::Role::Candidate => "candidate",
                raft::Role::Leader => "leader",
            };
            info!("{member} became {role} at term {term}");
        }
        if Some(status.standing) != seen.2 {
            info!(standing = format!("{:?}", status.standing), "this member's standing changed");
        }
        *seen = (status.leader, status.role, Some(status.standing));
    }

    fn synced(&self, took: Duration, _: usize) {
        observe(&self.metrics.wal_fsync, took);
    }

    fn applied(&self, took: Duration, puts: u64, deletes: u64) {
        observe(&self.metrics.backend_commit, took);
        self.metrics.puts.inc_by(puts);
        self.metrics.deletes.inc_by(deletes);
    }

    fn suspected(&self, why: &str) {
        error!("{why}");
    }

    fn unsuspected(&self) {
        info!("a snapshot has replaced this member's wrong state: it is served again");
    }

    // Which of the answers are of proposals is known where they are asked for.
    fn answered(&self, _: bool) {}

    fn malformed(&self, from: NodeId, error: &str) {
        warn!(peer = format!("{:x}", from.0), error, "a peer sent bytes that are no message");
    }

    fn removed(&self) {
        self.directory.told_removed();
    }

    fn fatal(&self, reason: &str) -> ! {
        tracing::error!(error = reason, "this member cannot go on");
        std::process::exit(1)
    }
}
