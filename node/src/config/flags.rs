//! etcd's command line: Go's flag syntax, every flag etcd 3.7 knows, and what this build does with each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Refusal;
use crate::go;
use crate::url::Url;

/// What a flag's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Int,
    Uint,
    Duration,
    Urls,
    /// `new` or `existing`.
    State,
}

/// What this build does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    /// What etcd does.
    Served,
    /// Nothing, and nothing is lost by that: it tunes a mechanism that is built differently here.
    Tuning,
    /// Not yet: any value but the default is refused, so that nobody believes in a protection that is not there.
    Foreign,
}

struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
}

const fn served(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Served }
}

const fn tuning(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Tuning }
}

const fn foreign(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Foreign }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    served("advertise-client-urls", Kind::Urls, "http://localhost:2379"),
    served("auth-token", Kind::Text, "simple"),
    served("auth-token-ttl", Kind::Uint, "300"),
    served("auto-compaction-mode", Kind::Text, "periodic"),
    served("auto-compaction-retention", Kind::Text, "0"),
    foreign("auto-tls", Kind::Bool, "false"),
    tuning("backend-batch-interval", Kind::Duration, "0s"),
    tuning("backend-batch-limit", Kind::Int, "0"),
    tuning("backend-bbolt-freelist-type", Kind::Text, ""),
    served("bcrypt-cost", Kind::Uint, "10"),
    tuning("bootstrap-defrag-threshold-megabytes", Kind::Uint, "0"),
    served("cert-file", Kind::Text, ""),
    foreign("cipher-suites", Kind::Text, ""),
    foreign("client-cert-allowed-hostname", Kind::Text, ""),
    served("client-cert-auth", Kind::Bool, "false"),
    served("client-cert-file", Kind::Text, ""),
    foreign("client-crl-file", Kind::Text, ""),
    served("client-key-file", Kind::Text, ""),
    tuning("compact-hash-check-time", Kind::Duration, "1m0s"),
    tuning("compaction-batch-limit", Kind::Int, "0"),
    tuning("compaction-sleep-interval", Kind::Duration, "0s"),
    foreign("config-file", Kind::Text, ""),
    served("corrupt-check-time", Kind::Duration, "0s"),
    served("cors", Kind::Text, "*"),
    served("data-dir", Kind::Text, ""),
    foreign("discovery-cacert", Kind::Text, ""),
    foreign("discovery-cert", Kind::Text, ""),
    foreign("discovery-dial-timeout", Kind::Duration, "2s"),
    foreign("discovery-endpoints", Kind::Text, ""),
    foreign("discovery-fallback", Kind::Text, "exit"),
    foreign("discovery-insecure-skip-tls-verify", Kind::Bool, "false"),
    foreign("discovery-insecure-transport", Kind::Bool, "true"),
    foreign("discovery-keepalive-time", Kind::Duration, "2s"),
    foreign("discovery-keepalive-timeout", Kind::Duration, "6s"),
    foreign("discovery-key", Kind::Text, ""),
    foreign("discovery-password", Kind::Text, ""),
    foreign("discovery-request-timeout", Kind::Duration, "5s"),
    foreign("discovery-srv", Kind::Text, ""),
    foreign("discovery-srv-name", Kind::Text, ""),
    foreign("discovery-token", Kind::Text, ""),
    foreign("discovery-user", Kind::Text, ""),
    tuning("distributed-tracing-address", Kind::Text, "localhost:4317"),
    tuning("distributed-tracing-instance-id", Kind::Text, ""),
    tuning("distributed-tracing-sampling-rate", Kind::Int, "0"),
    tuning("distributed-tracing-service-name", Kind::Text, "etcd"),
    tuning("downgrade-check-time", Kind::Duration, "5s"),
    served("election-timeout", Kind::Uint, "1000"),
    foreign("enable-distributed-tracing", Kind::Bool, "false"),
    served("enable-grpc-gateway", Kind::Bool, "true"),
    foreign("enable-log-rotation", Kind::Bool, "false"),
    foreign("enable-pprof", Kind::Bool, "false"),
    served("feature-gates", Kind::Text, ""),
    foreign("force-new-cluster", Kind::Bool, "false"),
    served("grpc-keepalive-interval", Kind::Duration, "2h0m0s"),
    served("grpc-keepalive-min-time", Kind::Duration, "5s"),
    served("grpc-keepalive-timeout", Kind::Duration, "20s"),
    served("heartbeat-interval", Kind::Uint, "100"),
    served("host-whitelist", Kind::Text, "*"),
    served("initial-advertise-peer-urls", Kind::Urls, "http://localhost:2380"),
    served("initial-cluster", Kind::Text, "default=http://localhost:2380"),
    served("initial-cluster-state", Kind::State, "new"),
    served("initial-cluster-token", Kind::Text, "etcd-cluster"),
    tuning("initial-election-tick-advance", Kind::Bool, "true"),
    served("key-file", Kind::Text, ""),
    served("listen-client-http-urls", Kind::Urls, ""),
    served("listen-client-urls", Kind::Urls, "http://localhost:2379"),
    served("listen-metrics-urls", Kind::Urls, ""),
    served("listen-peer-urls", Kind::Urls, "http://localhost:2380"),
    served("log-format", Kind::Text, "json"),
    served("log-level", Kind::Text, "info"),
    served("log-outputs", Kind::Text, "default"),
    tuning("log-rotation-config-json", Kind::Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}"),
    foreign("logger", Kind::Text, "zap"),
    served("max-concurrent-streams", Kind::Uint, "4294967295"),
    served("max-learners", Kind::Int, "1"),
    served("max-request-bytes", Kind::Uint, "1572864"),
    served("max-txn-ops", Kind::Uint, "128"),
    tuning("max-wals", Kind::Uint, "5"),
    tuning("memory-mlock", Kind::Bool, "false"),
    served("metrics", Kind::Text, "basic"),
    served("name", Kind::Text, "default"),
    foreign("peer-auto-tls", Kind::Bool, "false"),
    foreign("peer-cert-allowed-cn", Kind::Text, ""),
    foreign("peer-cert-allowed-hostname", Kind::Text, ""),
    served("peer-cert-file", Kind::Text, ""),
    served("peer-client-cert-auth", Kind::Bool, "false"),
    served("peer-client-cert-file", Kind::Text, ""),
    served("peer-client-key-file", Kind::Text, ""),
    foreign("peer-crl-file", Kind::Text, ""),
    served("peer-key-file", Kind::Text, ""),
    foreign("peer-skip-client-san-verification", Kind::Bool, "false"),
    served("peer-trusted-ca-file", Kind::Text, ""),
    tuning("pre-vote", Kind::Bool, "true"),
    served("quota-backend-bytes", Kind::Int, "0"),
    tuning("raft-read-timeout", Kind::Duration, "5s"),
    tuning("raft-write-timeout", Kind::Duration, "5s"),
    tuning("self-signed-cert-validity", Kind::Uint, "1"),
    served("snapshot-catchup-entries", Kind::Uint, "5000"),
    served("snapshot-count", Kind::Uint, "100000"),
    tuning("socket-reuse-address", Kind::Bool, "false"),
    tuning("socket-reuse-port", Kind::Bool, "false"),
    served("strict-reconfig-check", Kind::Bool, "true"),
    served("tls-max-version", Kind::Text, ""),
    served("tls-min-version", Kind::Text, "TLS1.2"),
    served("trusted-ca-file", Kind::Text, ""),
    foreign("unsafe-no-fsync", Kind::Bool, "false"),
    served("version", Kind::Bool, "false"),
    foreign("wal-dir", Kind::Text, ""),
    tuning("warning-apply-duration", Kind::Duration, "100ms"),
    tuning("warning-unary-request-duration", Kind::Duration, "300ms"),
    served("watch-progress-notify-interval", Kind::Duration, "0s"),
];

/// The usage line, for stderr.
pub const USAGE_TEXT: &str = "Usage:

  quorate [flags]
    Start a Quorate member, which serves etcd's clients.

  quorate --version
    Show the version.

  quorate -h | --help
    Show the help information about quorate.
";

/// The flags that are served, for stdout.
pub const FLAGS_TEXT: &str = "Member:
  --name 'default'
    Human-readable name of this member.
  --data-dir '${name}.etcd'
    Directory that holds all data of this member.
  --snapshot-count '100000'
    Applied entries after which the state is written to disk, if their volume has not caused it before.
  --snapshot-catchup-entries '5000'
    Entries kept in the log for slow followers.
  --heartbeat-interval '100'
    Milliseconds between a leader's heartbeats.
  --election-timeout '1000'
    Milliseconds of silence after which a follower campaigns; at least 5 heartbeat intervals.
  --listen-peer-urls 'http://localhost:2380'
    Comma-separated URLs to serve peers on.
  --listen-client-urls 'http://localhost:2379'
    Comma-separated URLs to serve clients on.
  --listen-client-http-urls ''
    Comma-separated URLs to serve plain HTTP on; the client URLs serve gRPC alone then.
  --listen-metrics-urls ''
    Comma-separated URLs to serve metrics and health on, beside the client URLs.
  --max-concurrent-streams '4294967295'
    Calls that may be open on one connection.
  --grpc-keepalive-min-time '5s'
    Clients that ping more often are cut off.
  --grpc-keepalive-interval '2h0m0s', --grpc-keepalive-timeout '20s'
    When to ping a silent client, and when to give it up.
  --quota-backend-bytes '0'
    Bytes of history the store may hold (0 is 2 GiB, negative is no limit).
  --auto-compaction-mode 'periodic'
    What --auto-compaction-retention counts: 'periodic' or 'revision'.
  --auto-compaction-retention '0'
    History that is kept: hours or a duration such as 30m, or revisions. 0 keeps all.
  --corrupt-check-time '0s'
    How often everything on disk is read and checked (0s is 24h). Members' states are compared all the time.
  --feature-gates ''
    Accepted for etcd's sake: NAME=true|false,...
  --max-txn-ops '128'
    Operations a list of a txn may hold.
  --max-request-bytes '1572864'
    Bytes a client request may have.
  --watch-progress-notify-interval '0s'
    How often idle watchers that ask for it are told the progress (0s is 10m).

Clustering:
  --initial-advertise-peer-urls 'http://localhost:2380'
    Comma-separated peer URLs of this member that the others are told.
  --initial-cluster 'default=http://localhost:2380'
    The founding members: name=URL,name=URL,...
  --initial-cluster-state 'new'
    'new' to found the cluster, 'existing' to join it.
  --initial-cluster-token 'etcd-cluster'
    Tells clusters with equal URLs apart.
  --strict-reconfig-check 'true'
    Refuse changes of the membership that risk the quorum.
  --max-learners '1'
    Learners the cluster may have.
  --advertise-client-urls 'http://localhost:2379'
    Comma-separated client URLs of this member that clients are told.

Security:
  --cert-file, --key-file ''
    PEM files with the certificate and key to serve clients with.
  --trusted-ca-file ''
    PEM file with the authorities that clients' certificates must come from.
  --cors '*', --host-whitelist '*'
    Origins that may use plain HTTP, and names that this server may be called by there.
  --enable-grpc-gateway 'true'
    Serve the API as JSON under /v3.
  --client-cert-auth 'false'
    Clients must show a certificate.
  --peer-cert-file, --peer-key-file ''
    PEM files with the certificate and key to serve and reach peers with.
  --peer-trusted-ca-file ''
    PEM file with the authorities that peers' certificates must come from.
  --peer-client-cert-auth 'false'
    Peers must show a certificate.
  --peer-client-cert-file, --peer-client-key-file ''
    PEM files with another certificate and key to reach peers with.
  --tls-min-version, --tls-max-version 'TLS1.2', ''
    Versions of TLS to speak: TLS1.2 or TLS1.3.

Logging:
  --log-level 'info'
    debug, info, warn or error.
  --log-format 'json'
    json or console.
  --log-outputs 'default'
    default (stderr), stderr or stdout.

Every flag can be given by an environment variable too: ETCD_NAME for --name, and so on.
";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Serve,
    Version,
    Help,
}

/// The values in force.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// What was given, by name; the last one wins.
    given: BTreeMap<&'static str, String>,
}

impl Flags {
    /// Reads the command line. (Go: flag.FlagSet.Parse)
    pub(super) fn parse_args(&mut self, args: &[String]) -> Result<Asked, Refusal> {
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|_| arg.len() > 1) else {
                return Err(Refusal::invalid(format!("{arg:?} is not a valid flag")));
            };
            if arg == "--" {
                return match rest.next() {
                    Some(arg) => Err(Refusal::invalid(format!("{arg:?} is not a valid flag"))),
                    None => self.asked(),
                };
            }
            if body.starts_with(['-', '=']) || body.is_empty() {
                return Err(Refusal::usage(format!("bad flag syntax: {arg}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
                return match name {
                    "h" | "help" => Ok(Asked::Help),
                    _ => Err(Refusal::usage(format!("flag provided but not defined: -{name}"))),
                };
            };
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => match rest.next() {
                    Some(value) => value.clone(),
                    None => return Err(Refusal::usage(format!("flag needs an argument: -{name}"))),
                },
            };
            flag.check(&value).map_err(|why| match flag.kind {
                Kind::Bool => Refusal::usage(format!("invalid boolean value {value:?} for -{name}: {why}")),
                _ => Refusal::usage(format!("invalid value {value:?} for flag -{name}: {why}")),
            })?;
            self.given.insert(flag.name, value);
        }
        self.asked()
    }

    fn asked(&self) -> Result<Asked, Refusal> {
        Ok(if self.bool("version") { Asked::Version } else { Asked::Serve })
    }

    /// Fills in what the command line left open; returns warnings. (etcd: SetFlagsFromEnv)
    pub(super) fn parse_env(&mut self, env: &BTreeMap<String, String>) -> Result<Vec<String>, Refusal> {
        const KNOWN: [&str; 3] = ["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_VERSION"];
        let mut warnings = Vec::new();
        for (variable, value) in env.range("ETCD_".to_owned()..).take_while(|(name, _)| name.starts_with("ETCD_")) {
            let name = variable["ETCD_".len()..].to_lowercase().replace('_', "-");
            let Some(flag) = FLAGS.iter().find(|flag| flag.name == name && name != "version") else {
                if !KNOWN.contains(&variable.as_str()) {
                    warnings.push(format!("unrecognized environment variable {variable}={value}"));
                }
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if self.given.contains_key(flag.name) {
                return Err(Refusal::invalid(format!(
                    "conflicting environment variable {variable} is shadowed by corresponding command-line flag --{} \
                     (either unset environment variable or disable flag)",
                    flag.name
                )));
            }
            if let Err(why) = flag.check(value) {
                return Err(Refusal::invalid(format!("invalid value {value:?} for {variable}: {why}")));
            }
            self.given.insert(flag.name, value.clone());
        }
        for flag in FLAGS.iter().filter(|flag| flag.support == Support::Tuning) {
            if self.given.get(flag.name).is_some_and(|value| value != flag.default) {
                warnings.push(format!("--{} has no effect on this server", flag.name));
            }
        }
        Ok(warnings)
    }

    /// Refuses flags whose effect is not there, unless they ask for the default.
    pub(super) fn refuse_unsupported(&self) -> Result<(), Refusal> {
        for flag in FLAGS.iter().filter(|flag| flag.support == Support::Foreign) {
            if let Some(value) = self.given.get(flag.name).filter(|value| *value != flag.default) {
                return Err(Refusal::invalid(format!("--{}={value} is not supported by this version", flag.name)));
            }
        }
        match self.text("log-outputs") {
            "default" | "stderr" | "stdout" => Ok(()),
            other => Err(Refusal::invalid(format!("--log-outputs={other} is not supported by this version"))),
        }
    }

    /// Checks the names and values of `--feature-gates`; returns warnings.
    pub(super) fn feature_gates(&self) -> Result<Vec<String>, Refusal> {
        const KNOWN: [&str; 11] = [
            "AllAlpha",
            "AllBeta",
            // Members compare their whole state all the time, and a damaged disk is found when it is opened or scrubbed.
            "CompactHashCheck",
            "InitialCorruptCheck",
            // Always so.
            "FastLeaseKeepAlive",
            "LeaseCheckpoint",
            "LeaseCheckpointPersist",
            "TxnModeWriteWithSharedBuffer",
            // Never so.
            "PriorityRequest",
            "SetMemberLocalAddr",
            "StopGRPCServiceOnDefrag",
        ];
        let mut warnings = Vec::new();
        for part in self.text("feature-gates").split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(Refusal::invalid(format!("missing bool value for {part}")));
            };
            if parse_bool(value).is_err() {
                return Err(Refusal::invalid(format!("invalid value of {name}={value}, err: parse error")));
            }
            if !KNOWN.contains(&name) {
                return Err(Refusal::invalid(format!("unrecognized feature gate: {name}")));
            }
            warnings.push(format!("feature gate {part} has no effect on this server"));
        }
        Ok(warnings)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(value) => value,
            None => FLAGS.iter().find(|flag| flag.name == name).expect("only known flags are asked for").default,
        }
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("values are checked when they are given")
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        self.text(name).parse().expect("values are checked when they are given")
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        self.text(name).parse().expect("values are checked when they are given")
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).expect("values are checked when they are given")
    }

    /// What stands between commas.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect()
    }

    /// Sorted, as etcd keeps lists of URLs.
    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        if self.text(name).is_empty() {
            return Vec::new();
        }
        parse_urls(self.text(name)).expect("values are checked when they are given")
    }
}

impl Flag {
    fn check(&self, value: &str) -> Result<(), String> {
        match self.kind {
            Kind::Text => Ok(()),
            Kind::Bool => parse_bool(value).map(drop),
            Kind::Int => value.parse::<i64>().map(drop).map_err(|_| "parse error".to_owned()),
            Kind::Uint => value.parse::<u64>().map(drop).map_err(|_| "parse error".to_owned()),
            Kind::Duration => parse_duration(value).map(drop),
            Kind::Urls if self.default.is_empty() && value.is_empty() => Ok(()),
            Kind::Urls => parse_urls(value).map(drop),
            Kind::State if ["new", "existing"].contains(&value) => Ok(()),
            Kind::State => Err(format!("invalid value {value:?}")),
        }
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}

fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(|url| url.trim().parse()).collect::<Result<Vec<Url>, _>>()?;
    urls.sort();
    Ok(urls)
}

/// Go's durations. Negative ones are refused: no flag means anything by them.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') { Err(format!("negative duration {text:?}")) } else { go::parse_duration(text) }
}
