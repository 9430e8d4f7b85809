//! What is known of each endpoint, and of the cluster's upkeep.

use quorate_api::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_api::etcdserverpb::{
    AlarmResponse, AlarmType, DowngradeResponse, HashKvResponse, MoveLeaderResponse, StatusResponse,
};

use crate::go;
use crate::json::{self, Object};
use crate::print::{Show, Style, Text, encode, header_json};
use crate::table::Table;

/// The outcome of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The endpoint as the user gave it.
    pub endpoint: String,
    /// How long the check took, in Go's notation.
    pub took: String,
    /// Why the endpoint is not healthy, if it is not.
    pub error: Option<String>,
}

/// The health of several endpoints. In format simple only the healthy ones: the others belong on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthList(pub Vec<Health>);

impl Health {
    /// The line on stderr for an endpoint that is not healthy.
    pub fn complaint(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        Some(format!("{} is unhealthy: failed to commit proposal: {error}", self.endpoint))
    }
}

impl Show for HealthList {
    fn simple(&self, _style: Style, out: &mut Text) {
        for h in self.0.iter().filter(|h| h.error.is_none()) {
            out.line(format!("{} is healthy: successfully committed proposal: took = {}", h.endpoint, h.took));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(json::list(self.0.iter().map(|h| {
            Object::new()
                .raw("endpoint", json::string(&h.endpoint))
                .raw("health", h.error.is_none())
                .raw("took", json::string(&h.took))
                .string("error", h.error.as_deref().unwrap_or_default())
                .build()
        })))
    }

    fn fields(&self, _style: Style, out: &mut Text) -> bool {
        for h in &self.0 {
            out.field("Endpoint", go::quote(h.endpoint.as_bytes()));
            out.field("Health", h.error.is_none());
            out.field("Took", &h.took);
            out.field("Error", h.error.as_deref().unwrap_or_default());
            out.line("");
        }
        true
    }

    fn table(&self, _style: Style) -> Option<String> {
        let mut table = Table::new(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"]);
        for h in &self.0 {
            let error = h.error.clone().unwrap_or_default();
            table.row(vec![h.endpoint.clone(), h.error.is_none().to_string(), h.took.clone(), error]);
        }
        Some(table.render())
    }
}

/// Endpoints with their status.
#[derive(Clone, Debug, PartialEq)]
pub struct Statuses(pub Vec<(String, StatusResponse)>);

impl Show for Statuses {
    fn simple(&self, _style: Style, out: &mut Text) {
        for (endpoint, status) in &self.0 {
            out.line(status_columns(endpoint, status).join(", "));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(json::list(self.0.iter().map(|(endpoint, status)| {
            Object::new().raw("Endpoint", json::string(endpoint)).raw("Status", status_json(status)).build()
        })))
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        for (endpoint, status) in &self.0 {
            out.header(status.header.as_ref(), style);
            status_fields(status, style, out);
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            out.field("Endpoint", go::quote(endpoint.as_bytes()));
            out.field("DowngradeTargetVersion", go::quote(downgrade.target_version.as_bytes()));
            out.field("DowngradeEnabled", downgrade.enabled);
            out.line("");
        }
        true
    }

    fn table(&self, _style: Style) -> Option<String> {
        let mut table = Table::new(&[
            "ENDPOINT",
            "ID",
            "VERSION",
            "STORAGE VERSION",
            "DB SIZE",
            "IN USE",
            "PERCENTAGE NOT IN USE",
            "QUOTA",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
            "DOWNGRADE TARGET VERSION",
            "DOWNGRADE ENABLED",
        ]);
        for (endpoint, status) in &self.0 {
            table.row(status_columns(endpoint, status));
        }
        Some(table.render())
    }
}

fn status_columns(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let member = status.header.as_ref().map_or(0, |h| h.member_id);
    let size = |bytes: i64| go::format_size(u64::try_from(bytes).unwrap_or(0));
    let free = match status.db_size {
        1.. => 100 - i128::from(status.db_size_in_use) * 100 / i128::from(status.db_size),
        _ => 0,
    };
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.to_owned(),
        format!("{member:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{free}%"),
        size(status.db_size_quota),
        (status.leader == member).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

fn status_json(status: &StatusResponse) -> String {
    Object::new()
        .some("header", header_json(status.header.as_ref()))
        .string("version", &status.version)
        .number("dbSize", status.db_size)
        .number("leader", status.leader)
        .number("raftIndex", status.raft_index)
        .number("raftTerm", status.raft_term)
        .number("raftAppliedIndex", status.raft_applied_index)
        .list("errors", status.errors.iter().map(|e| json::string(e)))
        .number("dbSizeInUse", status.db_size_in_use)
        .flag("isLearner", status.is_learner)
        .string("storageVersion", &status.storage_version)
        .number("dbSizeQuota", status.db_size_quota)
        .some(
            "downgradeInfo",
            status.downgrade_info.as_ref().map(|info| {
                Object::new().flag("enabled", info.enabled).string("targetVersion", &info.target_version).build()
            }),
        )
        .build()
}

fn status_fields(status: &StatusResponse, style: Style, out: &mut Text) {
    out.field("Version", go::quote(status.version.as_bytes()));
    out.field("StorageVersion", go::quote(status.storage_version.as_bytes()));
    out.field("DBSize", status.db_size);
    out.field("DBSizeInUse", status.db_size_in_use);
    out.field("DBSizeQuota", status.db_size_quota);
    out.field("Leader", super::id(status.leader, style));
    out.field("IsLearner", status.is_learner);
    out.field("RaftIndex", status.raft_index);
    out.field("RaftTerm", status.raft_term);
    out.field("RaftAppliedIndex", status.raft_applied_index);
    out.field("Errors", format!("[{}]", status.errors.join(" ")));
}

/// Endpoints with their hash over the keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Hashes(pub Vec<(String, HashKvResponse)>);

impl Show for Hashes {
    fn simple(&self, _style: Style, out: &mut Text) {
        for (endpoint, r) in &self.0 {
            out.line(format!("{endpoint}, {}, {}", r.hash, r.hash_revision));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(json::list(self.0.iter().map(|(endpoint, r)| {
            let hash = Object::new()
                .some("header", header_json(r.header.as_ref()))
                .number("hash", r.hash)
                .number("compact_revision", r.compact_revision)
                .number("hash_revision", r.hash_revision);
            Object::new().raw("Endpoint", json::string(endpoint)).raw("HashKV", hash.build()).build()
        })))
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        for (endpoint, r) in &self.0 {
            out.header(r.header.as_ref(), style);
            out.field("Endpoint", go::quote(endpoint.as_bytes()));
            out.field("Hash", r.hash);
            out.field("HashRevision", r.hash_revision);
            out.line("");
        }
        true
    }

    fn table(&self, _style: Style) -> Option<String> {
        let mut table = Table::new(&["ENDPOINT", "HASH", "HASH REVISION"]);
        for (endpoint, r) in &self.0 {
            table.row(vec![endpoint.clone(), r.hash.to_string(), r.hash_revision.to_string()]);
        }
        Some(table.render())
    }
}

impl Show for AlarmResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        for alarm in &self.alarms {
            out.line(format!("memberID:{} alarm:{}", alarm.member_id, alarm_name(alarm.alarm())));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let alarms =
            self.alarms.iter().map(|a| Object::new().number("memberID", a.member_id).number("alarm", a.alarm).build());
        Some(Object::new().some("header", header_json(self.header.as_ref())).list("alarms", alarms).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        for alarm in &self.alarms {
            out.field("MemberID", super::id(alarm.member_id, style));
            out.field("AlarmType", alarm_name(alarm.alarm()));
            out.line("");
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

/// The alarm's name in etcd's API.
pub(crate) fn alarm_name(alarm: AlarmType) -> &'static str {
    match alarm {
        AlarmType::None => "NONE",
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    }
}

/// A leadership transfer that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderMoved {
    /// The old leader's ID.
    pub from: u64,
    /// The new leader's ID.
    pub to: u64,
    /// The response.
    pub response: MoveLeaderResponse,
}

impl Show for LeaderMoved {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("Leadership transferred from {:x} to {:x}", self.from, self.to));
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(Object::new().some("header", header_json(self.response.header.as_ref())).build())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.response)
    }
}

/// What came of a downgrade's request.
#[derive(Clone, Debug, PartialEq)]
pub struct Downgraded {
    /// What was asked.
    pub action: DowngradeAction,
    /// The response.
    pub response: DowngradeResponse,
}

impl Show for Downgraded {
    fn simple(&self, _style: Style, out: &mut Text) {
        let action = match self.action {
            DowngradeAction::Validate => "validate",
            DowngradeAction::Enable => "enable",
            DowngradeAction::Cancel => "cancel",
        };
        out.line(format!("Downgrade {action} success, cluster version {}", self.response.version));
    }

    fn json(&self, _style: Style) -> Option<String> {
        let header = Object::new().some("header", header_json(self.response.header.as_ref()));
        Some(header.raw("version", json::string(&self.response.version)).build())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.response)
    }
}
