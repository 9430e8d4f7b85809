//! What a member tells Prometheus: etcd's names, so that etcd's dashboards and alerts work unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    DEFAULT_BUCKETS, Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::time::Instant;

use crate::service::{CLUSTER_VERSION, ETCD_VERSION};
use crate::status::Code;

/// All metrics of one member. Updating one is an atomic addition.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: BTreeMap<&'static str, Arc<Call>>,
    /// 1 while a leader is known.
    pub has_leader: IntGauge,
    /// 1 while this member leads.
    pub is_leader: IntGauge,
    /// 1 while this member is a learner.
    pub is_learner: IntGauge,
    /// Changes of the known leader.
    pub leader_changes: IntCounter,
    /// The commit index.
    pub proposals_committed: IntGauge,
    /// The applied index.
    pub proposals_applied: IntGauge,
    /// Client proposals waiting for their outcome.
    pub proposals_pending: IntGauge,
    /// Client proposals that were given up.
    pub proposals_failed: IntCounter,
    /// Read rounds that were given up.
    pub read_indexes_failed: IntCounter,
    /// Syncs of the log.
    pub wal_fsync: Histogram,
    /// Commits of the backend.
    pub backend_commit: Histogram,
    /// Puts applied.
    pub puts: IntCounter,
    /// Deletes applied.
    pub deletes: IntCounter,
    /// The store's revision.
    pub revision: IntGauge,
    /// The compaction floor.
    pub compact_revision: IntGauge,
    /// Of users and roles.
    pub auth_revision: IntGauge,
    /// Bytes of the backend on disk.
    pub db_bytes: IntGauge,
    /// Logical bytes of history.
    pub db_bytes_in_use: IntGauge,
    /// The quota.
    pub quota_bytes: IntGauge,
    /// 1 while defragmenting.
    pub defrag_inflight: IntGauge,
    /// Defragmentations.
    pub defrag: Histogram,
    /// Alarms that are on.
    pub alarms: IntGaugeVec,
    /// Open watch streams.
    pub watch_streams: IntGauge,
    /// Events given to watch streams.
    pub events: IntCounter,
    /// Bytes from each peer.
    pub peer_received_bytes: IntCounterVec,
    /// Bytes to each peer.
    pub peer_sent_bytes: IntCounterVec,
    /// Frames to each peer that were dropped.
    pub peer_sent_failures: IntCounterVec,
    /// 1 per peer with a connection.
    pub active_peers: IntGaugeVec,
    /// Good answers of /health.
    pub health_success: IntCounter,
    /// Bad answers of /health.
    pub health_failures: IntCounter,
}

/// How much is told. (etcd: `--metrics`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What alerts and dashboards need.
    Basic,
    /// How long calls take, too: a histogram for each method.
    Extensive,
}

/// One method's counters.
#[derive(Debug)]
pub struct Call {
    started: IntCounter,
    received: IntCounter,
    received_bytes: IntCounter,
    sent: IntCounter,
    sent_bytes: IntCounter,
    /// By code.
    handled: Vec<IntCounter>,
    /// How long calls took.
    spans: Option<Histogram>,
}

impl Call {
    /// A call began, that the client wants to be over by `deadline`.
    #[must_use]
    pub fn begin(self: &Arc<Self>, deadline: Option<Instant>) -> Running {
        self.started.inc();
        let began = self.spans.is_some().then(Instant::now);
        Running { call: Arc::clone(self), began, deadline, is_over: false }
    }

    /// A message of so many bytes came in.
    pub fn received(&self, bytes: usize) {
        self.received.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    /// A message of so many bytes went out.
    pub fn sent(&self, bytes: usize) {
        self.sent.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }
}

/// A call that has begun. If it is dropped before anybody said how it ended, it was given up: the client has gone, or has
/// waited long enough.
#[derive(Debug)]
pub struct Running {
    call: Arc<Call>,
    /// If anybody wants to know how long it takes.
    began: Option<Instant>,
    deadline: Option<Instant>,
    is_over: bool,
}

impl Running {
    /// The call ended.
    pub fn handled(mut self, code: Code) {
        self.count(code);
    }

    fn count(&mut self, code: Code) {
        self.is_over = true;
        // By its deadline a call ends as if the client had gone.
        let is_late = code == Code::Cancelled && self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let code = if is_late { Code::DeadlineExceeded } else { code };
        self.call.handled[code as usize].inc();
        if let Some((spans, began)) = self.call.spans.as_ref().zip(self.began) {
            observe(spans, began.elapsed());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.count(Code::Cancelled);
        }
    }
}

/// gRPC's names of the codes, in order, as Go writes them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Metrics {
    /// The metrics of the member with this ID; `methods` are the paths that are served and whether each is a stream of
    /// requests, of replies or of both.
    ///
    /// # Panics
    /// If two methods have the same path.
    #[must_use]
    pub fn new(member: quorate_core::NodeId, methods: &[(&'static str, &'static str)], detail: Detail) -> Self {
        let registry = Registry::new();
        let new = New(&registry);
        new.one("etcd_server_version", "The version whose behaviour this server has.", "server_version", ETCD_VERSION);
        let cluster = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
        new.one("etcd_cluster_version", "The version of the cluster.", "cluster_version", cluster);
        new.one("etcd_server_id", "The ID of this member.", "server_id", &format!("{member:x}", member = member.0));
        Self {
            calls: new.calls(methods, detail),
            has_leader: new.gauge("etcd_server_has_leader", "Whether a leader is known."),
            is_leader: new.gauge("etcd_server_is_leader", "Whether this member leads."),
            is_learner: new.gauge("etcd_server_is_learner", "Whether this member is a learner."),
            leader_changes: new.counter("etcd_server_leader_changes_seen_total", "Changes of the known leader."),
            proposals_committed: new.gauge("etcd_server_proposals_committed_total", "The commit index."),
            proposals_applied: new.gauge("etcd_server_proposals_applied_total", "The applied index."),
            proposals_pending: new.gauge("etcd_server_proposals_pending", "Proposals waiting for their outcome."),
            proposals_failed: new.counter("etcd_server_proposals_failed_total", "Proposals that were given up."),
            read_indexes_failed: new.counter("etcd_server_read_indexes_failed_total", "Read rounds given up."),
            wal_fsync: new.durations("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log."),
            backend_commit: new.durations("etcd_disk_backend_commit_duration_seconds", "Commits of the backend."),
            puts: new.counter("etcd_mvcc_put_total", "Puts applied."),
            deletes: new.counter("etcd_mvcc_delete_total", "Deletes applied."),
            revision: new.gauge("etcd_debugging_mvcc_current_revision", "The store's revision."),
            compact_revision: new.gauge("etcd_debugging_mvcc_compact_revision", "The compaction floor."),
            auth_revision: new.gauge("etcd_debugging_auth_revision", "The revision of users and roles."),
            db_bytes: new.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the backend on disk."),
            db_bytes_in_use: new.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Logical bytes of history."),
            quota_bytes: new.gauge("etcd_server_quota_backend_bytes", "The quota."),
            defrag_inflight: new.gauge("etcd_disk_defrag_inflight", "Whether space is being given back."),
            defrag: new.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "Defragmentations of the backend.",
                0.1,
                13,
            ),
            alarms: new.gauges("etcd_debugging_server_alarms", "Alarms that are on.", &["server_id", "alarm_type"]),
            watch_streams: new.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams."),
            events: new.counter("etcd_debugging_mvcc_events_total", "Events given to watch streams."),
            peer_received_bytes: new.counters(
                "etcd_network_peer_received_bytes_total",
                "Bytes from a peer.",
                &["From"],
            ),
            peer_sent_bytes: new.counters("etcd_network_peer_sent_bytes_total", "Bytes to a peer.", &["To"]),
            peer_sent_failures: new.counters(
                "etcd_network_peer_sent_failures_total",
                "Frames to a peer that were dropped.",
                &["To"],
            ),
            active_peers: new.gauges("etcd_network_active_peers", "Connections to peers.", &["Local", "Remote"]),
            health_success: new.counter("etcd_server_health_success", "Good answers of /health."),
            health_failures: new.counter("etcd_server_health_failures", "Bad answers of /health."),
            registry,
        }
    }

    /// The counters of the method at `path`, if it has some.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Arc<Call>> {
        self.calls.get(path)
    }

    /// The counters of the method at `path`.
    ///
    /// # Panics
    /// If it is none of those the metrics were made for.
    #[must_use]
    pub fn call(&self, path: &str) -> Arc<Call> {
        Arc::clone(&self.calls[path])
    }

    /// Everything in Prometheus' text format, with the process' own figures.
    ///
    /// # Panics
    /// Never: writing to memory cannot fail.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("memory takes everything");
        let mut text = String::from_utf8(text).expect("the format is text");
        text.push_str(&process_figures());
        text
    }

    /// The media type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
}

/// Observes `span` in a histogram of seconds.
pub fn observe(histogram: &Histogram, span: Duration) {
    histogram.observe(span.as_secs_f64());
}

/// Makes and registers metrics. Names are constants and all different, so nothing here can fail.
struct New<'a>(&'a Registry);

impl New<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: Result<C, prometheus::Error>) -> C {
        let metric = metric.expect("the name is well-formed");
        self.0.register(Box::new(metric.clone())).expect("no two metrics have the same name");
        metric
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge that is always 1 and says something by its label.
    fn one(&self, name: &str, help: &str, label: &str, value: &str) {
        self.gauges(name, help, &[label]).with_label_values(&[value]).set(1);
    }

    /// etcd's usual buckets: 1 ms to 8.192 s.
    fn durations(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 0.001, 14)
    }

    fn histogram(&self, name: &str, help: &str, first: f64, buckets: usize) -> Histogram {
        let buckets = prometheus::exponential_buckets(first, 2.0, buckets).expect("the bounds ascend");
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    fn calls(&self, methods: &[(&'static str, &'static str)], detail: Detail) -> BTreeMap<&'static str, Arc<Call>> {
        let received_bytes = self.counter("etcd_network_client_grpc_received_bytes_total", "Bytes of client requests.");
        let sent_bytes = self.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of replies to clients.");
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let started = self.counters("grpc_server_started_total", "Calls begun.", &labels);
        let received = self.counters("grpc_server_msg_received_total", "Messages received.", &labels);
        let sent = self.counters("grpc_server_msg_sent_total", "Messages sent.", &labels);
        let spans = (detail == Detail::Extensive).then(|| {
            let options = HistogramOpts::new("grpc_server_handling_seconds", "How long calls took.");
            self.register(HistogramVec::new(options.buckets(DEFAULT_BUCKETS.to_vec()), &labels))
        });
        let labels = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let handled = self.counters("grpc_server_handled_total", "Calls ended.", &labels);
        let mut calls = BTreeMap::new();
        for &(path, kind) in methods {
            let (service, method) =
                path.trim_start_matches('/').split_once('/').expect("a path is a service and a method");
            let values = [kind, service, method];
            let call = Call {
                started: started.with_label_values(&values),
                received: received.with_label_values(&values),
                received_bytes: received_bytes.clone(),
                sent: sent.with_label_values(&values),
                sent_bytes: sent_bytes.clone(),
                handled: CODES.map(|code| handled.with_label_values(&[kind, service, method, code])).into(),
                spans: spans.as_ref().map(|spans| spans.with_label_values(&values)),
            };
            assert!(calls.insert(path, Arc::new(call)).is_none(), "two methods at {path}");
        }
        calls
    }
}

/// CPU seconds, memory, file descriptors and start of this process, as far as the system tells.
fn process_figures() -> String {
    let mut text = String::new();
    let mut put = |name: &str, kind: &str, value: String| {
        text.push_str(&format!(
            "# HELP {name} See the Prometheus client libraries.\n# TYPE {name} {kind}\n{name} {value}\n"
        ));
    };
    let page = rustix::param::page_size() as u64;
    let ticks = rustix::param::clock_ticks_per_second();
    // The fields after the parenthesised name: utime and stime are the 14th and 15th of all.
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, fields)) = stat.rsplit_once(')')
    {
        let fields: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let used: u64 = fields.get(11..13).map_or(0, |times| times.iter().sum());
        let hundredths = used % ticks * 100 / ticks;
        put("process_cpu_seconds_total", "counter", format!("{}.{hundredths:02}", used / ticks));
        put("process_virtual_memory_bytes", "gauge", fields.get(20).copied().unwrap_or(0).to_string());
        put("process_resident_memory_bytes", "gauge", (fields.get(21).copied().unwrap_or(0) * page).to_string());
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let open = open.count().to_string();
        put("os_fd_used", "gauge", open.clone());
        put("process_open_fds", "gauge", open);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        put("os_fd_limit", "gauge", limit.to_string());
        put("process_max_fds", "gauge", limit.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[(&str, &str)] = &[("/etcdserverpb.KV/Put", "unary")];

    #[test]
    fn how_long_calls_take_is_told_only_to_who_asks() {
        let told = |detail| {
            let metrics = Metrics::new(quorate_core::NodeId(1), METHODS, detail);
            metrics.call("/etcdserverpb.KV/Put").begin(None).handled(Code::Ok);
            metrics.render().contains("grpc_server_handling_seconds")
        };
        assert!(told(Detail::Extensive) && !told(Detail::Basic));
    }

    #[test]
    fn metrics_are_rendered_under_etcds_names() {
        let metrics = Metrics::new(quorate_core::NodeId(0xab), METHODS, Detail::Extensive);
        metrics.has_leader.set(1);
        let call = metrics.call("/etcdserverpb.KV/Put");
        call.begin(None).handled(Code::ResourceExhausted);
        call.received(70);
        drop(call.begin(None));
        drop(call.begin(Some(Instant::now() + Duration::from_secs(3600))));
        drop(call.begin(Some(Instant::now())));
        observe(&metrics.wal_fsync, Duration::from_micros(1500));
        let text = metrics.render();
        let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
        for line in [
            "etcd_server_has_leader 1".to_owned(),
            r#"etcd_server_id{server_id="ab"} 1"#.to_owned(),
            r#"etcd_cluster_version{cluster_version="3.7"} 1"#.to_owned(),
            "etcd_network_client_grpc_received_bytes_total 70".to_owned(),
            format!("grpc_server_started_total{{{labels}}} 4"),
            format!("grpc_server_handling_seconds_count{{{labels}}} 4"),
            format!(r#"grpc_server_handling_seconds_bucket{{{labels},le="0.005"}} 4"#),
            format!(r#"grpc_server_handled_total{{grpc_code="Canceled",{labels}}} 2"#),
            format!(r#"grpc_server_handled_total{{grpc_code="DeadlineExceeded",{labels}}} 1"#),
            format!(r#"grpc_server_handled_total{{grpc_code="ResourceExhausted",{labels}}} 1"#),
            format!(r#"grpc_server_handled_total{{grpc_code="OK",{labels}}} 0"#),
            r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 0"#.to_owned(),
            r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="0.002"} 1"#.to_owned(),
            r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="8.192"} 1"#.to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "));
    }
}
