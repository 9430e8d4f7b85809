//! What a member is started with: etcd's flags and environment variables, parsed and checked as etcd does.

mod flags;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use quorate_core::replica::AutoCompaction;
use quorate_core::{ClusterId, NodeId};

pub use self::flags::{FLAGS_TEXT, USAGE_TEXT};
pub use self::tls::Tls;
use crate::auth::JwtOptions;
use crate::datadir::has_log;
use crate::files::Share;
use crate::http::{Access, Plain, Tuning};
use crate::metrics::Detail;
use crate::service::cluster::{cluster_id, member_id};
use crate::url::Url;
use crate::wire::Limits;

/// Whether a member without data founds its cluster or joins one. (etcd: `--initial-cluster-state`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Every member of `--initial-cluster` starts empty.
    New,
    /// The others run already.
    Existing,
}

/// How log lines look. (etcd: `--log-format`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogFormat {
    Json,
    Console,
}

/// Which tokens users get for their passwords. (etcd: `--auth-token`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// None.
    None,
    /// Names of sessions that every member knows.
    Simple,
    /// Signed ones.
    Jwt(JwtOptions),
}

/// One member of the initial cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its ID, derived from its URLs and the cluster's token.
    pub id: NodeId,
    /// Its name in `--initial-cluster`.
    pub name: String,
    /// Where its peers reach it, sorted.
    pub peer_urls: Vec<Url>,
}

/// A complete, consistent start configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This member's name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where clients are served.
    pub listen_client_urls: Vec<Url>,
    /// Where clients are told to come.
    pub advertise_client_urls: Vec<Url>,
    /// Where peers are served.
    pub listen_peer_urls: Vec<Url>,
    /// Where peers are told to come.
    pub advertise_peer_urls: Vec<Url>,
    /// The founding members, ascending by ID; contains this one.
    pub initial_cluster: Vec<InitialMember>,
    /// The ID of this member.
    pub member: NodeId,
    /// The ID of the cluster.
    pub cluster: ClusterId,
    /// Found or join.
    pub state: ClusterState,
    /// Whether changes of the membership that risk the quorum are refused.
    pub strict_reconfig_check: bool,
    /// Learners there may be.
    pub learners_max: u32,
    /// The leader's interval between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a follower campaigns.
    pub election_timeout: Duration,
    /// Applied entries after which the state is written to disk, if their volume has not caused it before.
    pub snapshot_count: u64,
    /// Entries kept in the log for slow followers.
    pub catchup_entries: u64,
    /// Bytes of history the store may hold; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// How much history is kept, if the leader compacts by itself.
    pub auto_compaction: Option<AutoCompaction>,
    /// How often everything on disk is read and compared with what was written.
    pub scrub_interval: Duration,
    /// What requests may weigh.
    pub limits: Limits,
    /// Which tokens users get.
    pub auth_token: AuthToken,
    /// How long a session lives that is not used.
    pub auth_token_ttl: Duration,
    /// The cost of hashing a password, 4 to 31.
    pub bcrypt_cost: u32,
    /// An idle watcher that asked for it hears from the server this often.
    pub progress_interval: Duration,
    /// Where clients are served plain HTTP; gRPC alone is served on the other URLs then.
    pub listen_client_http_urls: Vec<Url>,
    /// Where metrics and health are served beside the client URLs.
    pub listen_metrics_urls: Vec<Url>,
    /// How much metrics tell.
    pub metrics: Detail,
    /// What plain HTTP offers.
    pub plain: Plain,
    /// How clients' connections are kept.
    pub tuning: Tuning,
    /// TLS on the client port.
    pub client_tls: Tls,
    /// TLS on the peer port, and towards other members.
    pub peer_tls: Tls,
    /// The least severe level that is logged: debug, info, warn or error.
    pub log_level: tracing::Level,
    /// How lines look.
    pub log_format: LogFormat,
    /// Whether logs go to stdout instead of stderr.
    pub log_stdout: bool,
    /// What to warn about once logging works.
    pub warnings: Vec<String>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Config>),
    /// Say which version this is.
    Version,
    /// Explain the flags.
    Help,
}

/// Why the command line was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// 2 for a command line that cannot be parsed (usage is shown), 1 for one that cannot be served.
    pub exit_code: u8,
}

impl Refusal {
    fn invalid(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: 1 }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: 2 }
    }
}

/// The longest election timeout etcd accepts.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// etcd's quota when none is given.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

impl Invocation {
    /// Reads `args` (without the program's name) and the environment.
    ///
    /// # Errors
    /// A [`Refusal`] with etcd's text and exit code.
    pub fn parse(args: &[String], env: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let mut flags = flags::Flags::default();
        match flags.parse_args(args)? {
            flags::Asked::Help => return Ok(Self::Help),
            flags::Asked::Version => return Ok(Self::Version),
            flags::Asked::Serve => {}
        }
        let mut warnings = flags.parse_env(env)?;
        flags.refuse_unsupported()?;
        warnings.extend(flags.feature_gates()?);
        let mut config = Config::from_flags(&flags)?;
        if u64::from(config.bcrypt_cost) != flags.uint("bcrypt-cost") {
            warnings.push(format!("--bcrypt-cost is not in 4..31, using {BCRYPT_COST}"));
        }
        if config.name == "default" {
            warnings.push("'initial-cluster' and 'name' are at their defaults: data is in default.etcd".to_owned());
        }
        warnings.extend(tls::warnings(&config));
        config.warnings = warnings;
        Ok(Self::Serve(Box::new(config)))
    }
}

impl Config {
    fn from_flags(flags: &flags::Flags) -> Result<Self, Refusal> {
        let name = flags.text("name").to_owned();
        let data_dir = match flags.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let listen_client_urls = flags.urls("listen-client-urls");
        let listen_peer_urls = flags.urls("listen-peer-urls");
        let (http_urls, metrics_urls) = (flags.urls("listen-client-http-urls"), flags.urls("listen-metrics-urls"));
        for url in [&listen_client_urls, &listen_peer_urls, &http_urls, &metrics_urls].into_iter().flatten() {
            url.check_bindable().map_err(Refusal::invalid)?;
        }
        if flags.is_set("listen-client-urls") && !flags.is_set("advertise-client-urls") {
            let text = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
            return Err(Refusal::invalid(text));
        }
        let (heartbeat_ms, election_ms) = (flags.uint("heartbeat-interval"), flags.uint("election-timeout"));
        check_timing(heartbeat_ms, election_ms)?;

        let advertise_peer_urls = flags.urls("initial-advertise-peer-urls");
        let initial_cluster = match flags.is_set("initial-cluster") {
            true => flags.text("initial-cluster").to_owned(),
            false => advertise_peer_urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(","),
        };
        let initial_cluster = initial_members(&initial_cluster, flags.text("initial-cluster-token"))?;
        let state = match flags.text("initial-cluster-state") {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        };
        let (member, state) = match own_member(&initial_cluster, &name, &advertise_peer_urls) {
            // How the cluster began does not matter to a member that has a log: it may have moved since. (etcd)
            Err(_) if has_log(&data_dir) => (NodeId(0), ClusterState::Existing),
            own => (own?, state),
        };
        let cluster = cluster_id(initial_cluster.iter().map(|member| member.id));
        let quota_bytes = match flags.int("quota-backend-bytes") {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        };
        let request_bytes_max = flags.uint("max-request-bytes");
        if request_bytes_max > REQUEST_BYTES_MAX {
            let text = format!("--max-request-bytes must be at most {REQUEST_BYTES_MAX} (set to {request_bytes_max})");
            return Err(Refusal::invalid(text));
        }
        let bcrypt_cost = match u32::try_from(flags.uint("bcrypt-cost")) {
            Ok(cost @ 4..=31) => cost,
            _ => BCRYPT_COST,
        };
        let progress_interval = match flags.duration("watch-progress-notify-interval") {
            Duration::ZERO => Duration::from_secs(600),
            interval => interval.max(Duration::from_millis(100)),
        };
        let (client_tls, peer_tls) = (Tls::of_clients(flags)?, Tls::of_peers(flags)?);
        for urls in [&listen_client_urls, &http_urls, &metrics_urls] {
            client_tls.check_client_urls(urls)?;
        }
        peer_tls.check_peer_urls(&listen_peer_urls)?;
        Ok(Self {
            name,
            data_dir,
            listen_client_urls,
            advertise_client_urls: flags.urls("advertise-client-urls"),
            listen_peer_urls,
            advertise_peer_urls,
            initial_cluster,
            member,
            cluster,
            state,
            strict_reconfig_check: flags.bool("strict-reconfig-check"),
            learners_max: u32::try_from(flags.int("max-learners").max(0)).unwrap_or(u32::MAX),
            heartbeat: Duration::from_millis(heartbeat_ms),
            election_timeout: Duration::from_millis(election_ms),
            snapshot_count: flags.uint("snapshot-count").max(1),
            catchup_entries: flags.uint("snapshot-catchup-entries"),
            quota_bytes,
            auto_compaction: auto_compaction(
                flags.text("auto-compaction-mode"),
                flags.text("auto-compaction-retention"),
            )?,
            scrub_interval: match flags.duration("corrupt-check-time") {
                Duration::ZERO => SCRUB_INTERVAL,
                interval => interval,
            },
            limits: Limits {
                request_bytes_max,
                txn_ops_max: u32::try_from(flags.uint("max-txn-ops")).unwrap_or(u32::MAX),
            },
            auth_token: match flags.text("auth-token") {
                "" => AuthToken::None,
                "simple" => AuthToken::Simple,
                other => match other.strip_prefix("jwt,") {
                    Some(options) => AuthToken::Jwt(
                        JwtOptions::parse(options, |text| flags::parse_duration(text).ok())
                            .map_err(Refusal::invalid)?,
                    ),
                    None => return Err(Refusal::invalid("auth: invalid auth options")),
                },
            },
            // Nothing would live for no time at all: etcd takes its default then.
            auth_token_ttl: Duration::from_secs(match flags.uint("auth-token-ttl") {
                0 => AUTH_TOKEN_TTL,
                seconds => seconds,
            }),
            bcrypt_cost,
            progress_interval,
            listen_client_http_urls: http_urls,
            listen_metrics_urls: metrics_urls,
            // Whatever else it says is basic. (etcd)
            metrics: if flags.text("metrics") == "extensive" { Detail::Extensive } else { Detail::Basic },
            plain: Plain {
                gateway: flags.bool("enable-grpc-gateway"),
                access: Access { origins: flags.list("cors"), hosts: flags.list("host-whitelist") },
            },
            tuning: Tuning {
                streams_max: u32::try_from(flags.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
                ping_interval: Some(flags.duration("grpc-keepalive-interval"))
                    .filter(|it| !it.is_zero() && !flags.duration("grpc-keepalive-timeout").is_zero()),
                ping_timeout: flags.duration("grpc-keepalive-timeout"),
                client_ping_min: Some(flags.duration("grpc-keepalive-min-time")),
                share: Share::Clients,
            },
            client_tls,
            peer_tls,
            log_level: level(flags.text("log-level"))?,
            log_format: match flags.text("log-format") {
                "json" => LogFormat::Json,
                "console" => LogFormat::Console,
                other => return Err(Refusal::invalid(format!("unknown log format: {other:?}"))),
            },
            log_stdout: flags.text("log-outputs") == "stdout",
            warnings: Vec::new(),
        })
    }
}

/// The founding members of a cluster, and which of them is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// All of them, ascending by ID.
    pub members: Vec<InitialMember>,
    /// The one that is meant.
    pub member: NodeId,
    /// The cluster's ID.
    pub cluster: ClusterId,
}

impl Founding {
    /// What a server makes of its flags `--name`, `--initial-cluster`, `--initial-cluster-token` and
    /// `--initial-advertise-peer-urls`.
    ///
    /// # Errors
    /// A [`Refusal`], as the server's.
    pub fn parse(name: &str, cluster: &str, token: &str, advertise: &str) -> Result<Self, Refusal> {
        let members = initial_members(cluster, token)?;
        let advertised: Result<Vec<Url>, String> = advertise.split(',').map(str::parse).collect();
        let member = own_member(&members, name, &advertised.map_err(Refusal::invalid)?)?;
        Ok(Self { member, cluster: cluster_id(members.iter().map(|member| member.id)), members })
    }
}

/// The largest `--max-request-bytes`: as a log entry a request takes up to two and a half times its bytes (a txn of tiny
/// reads does), and [`quorate_core::format::codec::MESSAGE_BYTES_MAX`] bounds that.
const REQUEST_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// Seconds. (etcd)
const AUTH_TOKEN_TTL: u64 = 300;

/// What etcd's library takes for a cost out of its range.
const BCRYPT_COST: u32 = 10;

fn check_timing(heartbeat_ms: u64, election_ms: u64) -> Result<(), Refusal> {
    let text = if heartbeat_ms == 0 {
        format!("--heartbeat-interval must be >0 (set to {heartbeat_ms}ms)")
    } else if election_ms == 0 {
        format!("--election-timeout must be >0 (set to {election_ms}ms)")
    } else if heartbeat_ms.saturating_mul(5) > election_ms {
        format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        )
    } else if election_ms > ELECTION_TIMEOUT_MS_MAX {
        format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        )
    } else {
        return Ok(());
    };
    Err(Refusal::invalid(text))
}

/// How often the disk is scrubbed unless `--corrupt-check-time` says otherwise.
const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// (etcd: parseCompactionRetention) A plain number is hours, or revisions; else it is a duration, in the revision mode of so
/// many nanoseconds as revisions.
fn auto_compaction(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, Refusal> {
    let is_periodic = match mode {
        "periodic" => true,
        "revision" => false,
        "" => return Err(Refusal::invalid("undefined auto-compaction-mode")),
        other => return Err(Refusal::invalid(format!("unknown auto-compaction-mode {other:?}"))),
    };
    let wrong = |why: String| Refusal::invalid(format!("error parsing CompactionRetention: {why}"));
    let number = retention.parse::<u64>().ok();
    let period = match number {
        Some(hours) => Duration::from_secs(hours.saturating_mul(3600)),
        None => flags::parse_duration(retention).map_err(wrong)?,
    };
    if is_periodic {
        return Ok((!period.is_zero()).then_some(AutoCompaction::Periodic(period)));
    }
    let revisions = number.map_or_else(|| i64::try_from(period.as_nanos()), i64::try_from).unwrap_or(i64::MAX);
    Ok((revisions > 0).then(|| AutoCompaction::revisions(revisions)))
}

fn level(text: &str) -> Result<tracing::Level, Refusal> {
    Ok(match text {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        "error" | "dpanic" | "panic" | "fatal" => tracing::Level::ERROR,
        other => return Err(Refusal::usage(format!("unrecognized level: {other:?}"))),
    })
}

/// The members of `name=url,name=url,...`, ascending by ID.
fn initial_members(text: &str, token: &str) -> Result<Vec<InitialMember>, Refusal> {
    let mut by_name: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
    for part in text.split(',').map(str::trim) {
        let Some((name, url)) = part.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty()) else {
            return Err(Refusal::invalid(format!("--initial-cluster: empty URL or name given in {part:?}")));
        };
        by_name.entry(name).or_default().push(url.parse().map_err(Refusal::invalid)?);
    }
    let mut members: Vec<InitialMember> = Vec::new();
    for (name, mut peer_urls) in by_name {
        peer_urls.sort();
        let texts: Vec<String> = peer_urls.iter().map(Url::to_string).collect();
        let id = member_id(&texts, token, None);
        if let Some(other) = members.iter().find(|other| other.peer_urls.iter().any(|url| peer_urls.contains(url))) {
            let text = format!("duplicate URLs of {:?} and {name:?} in cluster config", other.name);
            return Err(Refusal::invalid(text));
        }
        members.push(InitialMember { id, name: name.to_owned(), peer_urls });
    }
    members.sort_by_key(|member| member.id);
    Ok(members)
}

/// This member's ID: its name must be in the cluster, with exactly the URLs it advertises.
fn own_member(cluster: &[InitialMember], name: &str, advertised: &[Url]) -> Result<NodeId, Refusal> {
    let Some(own) = cluster.iter().find(|member| member.name == name) else {
        let text = format!("couldn't find local name {name:?} in the initial cluster configuration");
        return Err(Refusal::invalid(text));
    };
    let list = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    if let Some(missing) = own.peer_urls.iter().find(|url| !advertised.contains(url)) {
        let text = format!(
            "--initial-cluster has {name}={missing} but missing from --initial-advertise-peer-urls={}",
            list(advertised)
        );
        return Err(Refusal::invalid(text));
    }
    if let Some(missing) = advertised.iter().find(|url| !own.peer_urls.contains(url)) {
        let text = format!(
            "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={name}={}",
            list(&own.peer_urls)
        );
        return Err(Refusal::invalid(text));
    }
    Ok(own.id)
}

#[cfg(test)]
mod tests;
