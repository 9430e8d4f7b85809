//! What operators ask of one member. (etcd: service Maintenance)

use quorate_api::etcdserverpb as pb;
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::request::{Alarm, AlarmKind};
use quorate_core::store::{KvHash, Need};
use quorate_core::{NodeId, Revision};

use super::{Access, CLUSTER_VERSION, DOWNGRADE_VERSION, ETCD_VERSION, Local, Method, Settings, mismatch};
use crate::status::{Code, Status};

impl Method for pb::StatusRequest {
    type Reply = pb::StatusResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/Status";
    const FROM_ANYONE: bool = true;

    fn access((): &()) -> Access<'_> {
        Access::State(Need::AnyUser)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::StatusResponse, Status> {
        let raft = &local.status.raft;
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(pb::StatusResponse {
            header: Some(local.header_now()),
            version: ETCD_VERSION.to_owned(),
            db_size: signed(local.db_bytes()),
            leader: raft.leader.map_or(0, |leader| leader.0),
            raft_index: raft.commit.max(local.status.applied).0,
            raft_term: raft.term.0,
            raft_applied_index: local.status.applied.0,
            errors: errors(local),
            db_size_in_use: signed(local.view.logical_bytes()),
            is_learner: local.is_learner(),
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: local.settings.quota_bytes.map_or(-1, signed),
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: local.view.downgrade().is_some(),
                target_version: local.view.downgrade().unwrap_or_default().to_owned(),
            }),
        })
    }
}

/// What is wrong, as texts: no leader, and the alarms that are on.
fn errors(local: &Local<'_>) -> Vec<String> {
    let leaderless = local.status.raft.leader.is_none().then(|| Error::NoLeader.to_string());
    let alarms = alarms(local.view.alarms());
    // As protobuf's text form, which leaves out what is 0.
    let text = |alarm: &pb::AlarmMember| match alarm.member_id {
        0 => format!("alarm:{}", alarm.alarm().as_str_name()),
        member => format!("memberID:{member} alarm:{}", alarm.alarm().as_str_name()),
    };
    leaderless.into_iter().chain(alarms.iter().map(text)).collect()
}

impl Method for pb::MoveLeaderRequest {
    type Reply = pb::MoveLeaderResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/MoveLeader";

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((Some(Request::Transfer(NodeId(self.target_id))), ()))
    }

    fn finish((): (), answer: Option<Response>, _: &Local<'_>) -> Result<pb::MoveLeaderResponse, Status> {
        match answer {
            Some(Response::Transferred) => Ok(pb::MoveLeaderResponse::default()), // etcd sends no header
            other => mismatch(other.as_ref()),
        }
    }
}

impl Method for pb::DefragmentRequest {
    type Reply = pb::DefragmentResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/Defragment";
    const DEFRAGMENTS: bool = true;

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, _: &Local<'_>) -> Result<pb::DefragmentResponse, Status> {
        Ok(pb::DefragmentResponse::default()) // etcd sends no header
    }
}

impl Method for pb::HashRequest {
    type Reply = pb::HashResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/Hash";

    fn is_long((): &()) -> bool {
        true
    }

    fn access((): &()) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::HashResponse, Status> {
        let hash = local.view.hash_rows(local.rows);
        Ok(pb::HashResponse { header: Some(local.header_now()), hash })
    }
}

impl Method for pb::HashKvRequest {
    type Reply = pb::HashKvResponse;
    /// Up to which revision; `None` is now.
    type Rest = Option<Revision>;
    const PATH: &'static str = "/etcdserverpb.Maintenance/HashKV";

    fn is_long(_: &Self::Rest) -> bool {
        true
    }

    fn access(_: &Self::Rest) -> Access<'_> {
        Access::State(Need::Root)
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        Ok((None, (self.revision != 0).then_some(Revision(self.revision))))
    }

    fn finish(revision: Self::Rest, _: Option<Response>, local: &Local<'_>) -> Result<pb::HashKvResponse, Status> {
        let KvHash { hash, revision, compacted } = local.view.hash_kv(local.rows, revision)?;
        Ok(pb::HashKvResponse {
            header: Some(local.header_now()),
            hash,
            compact_revision: compacted.0,
            hash_revision: revision.0,
        })
    }
}

impl Method for pb::DowngradeRequest {
    type Reply = pb::DowngradeResponse;
    /// Whether a downgrade under way is a mistake; or why the request itself is one, told only to root.
    type Rest = Result<bool, Status>;
    const PATH: &'static str = "/etcdserverpb.Maintenance/Downgrade";

    fn access(validates: &Self::Rest) -> Access<'_> {
        if matches!(validates, Ok(false)) { Access::Command } else { Access::State(Need::Root) }
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        use pb::downgrade_request::DowngradeAction;
        let set = |target| (Some(Request::Command(Command::Downgrade(target))), Ok(false));
        let target = downgrade_target(&self.version);
        Ok(match (DowngradeAction::try_from(self.action), target) {
            (Ok(DowngradeAction::Cancel), _) => set(None),
            (Ok(DowngradeAction::Enable), Ok(target)) => set(Some(target)),
            (Ok(DowngradeAction::Validate), Ok(_)) => (Some(Request::ReadIndex), Ok(true)),
            (Ok(_), Err(error)) => (None, Err(error.into())),
            (Err(_), _) => (None, Err(Status::new(Code::Unknown, "etcdserver: unknown method"))),
        })
    }

    fn finish(validates: Self::Rest, _: Option<Response>, local: &Local<'_>) -> Result<pb::DowngradeResponse, Status> {
        if validates? && local.view.downgrade().is_some() {
            return Err(Error::DowngradeInProcess.into());
        }
        let version = CLUSTER_VERSION.trim_end_matches(".0").to_owned();
        Ok(pb::DowngradeResponse { header: Some(local.header_now()), version })
    }
}

/// The version `text` stands for, as X.Y.0, if the cluster may go down to it: to the minor version before its own.
fn downgrade_target(text: &str) -> Result<String, Error> {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Option<Vec<u64>> = plain
        .split('.')
        .map(|part| part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit())))
        .collect();
    let (major, minor) = match parts.as_deref() {
        Some([major, minor] | [major, minor, _]) => (*major, *minor),
        _ => return Err(Error::WrongDowngradeVersionFormat),
    };
    let target = format!("{major}.{minor}.0");
    if target == DOWNGRADE_VERSION { Ok(target) } else { Err(Error::InvalidDowngradeTargetVersion) }
}

/// What is done with alarms.
pub enum AlarmTask {
    /// Those of this type are listed; NONE is all.
    List(pb::AlarmType),
    /// One is raised or cleared.
    Change,
    /// The same with none: nothing is changed, but what is answered is as of now. (etcd sends that through the log, too.)
    ChangeNone,
}

impl Method for pb::AlarmRequest {
    type Reply = pb::AlarmResponse;
    type Rest = AlarmTask;
    const PATH: &'static str = "/etcdserverpb.Maintenance/Alarm";

    fn access(task: &Self::Rest) -> Access<'_> {
        match task {
            AlarmTask::List(_) => Access::State(Need::AnyUser),
            AlarmTask::Change => Access::Command,
            AlarmTask::ChangeNone => Access::State(Need::Root),
        }
    }

    fn start(self, _: &Settings) -> Result<(Option<Request>, Self::Rest), Status> {
        use pb::alarm_request::AlarmAction;
        let kind = match self.alarm() {
            pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
            pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
            pb::AlarmType::None => None,
        };
        let alarm = kind.map(|kind| Alarm { kind, member: NodeId(self.member_id) });
        let (ask, task) = match (self.action(), alarm) {
            (AlarmAction::Get, _) => (Request::ReadIndex, AlarmTask::List(self.alarm())),
            (AlarmAction::Activate, Some(alarm)) => (Request::Command(Command::RaiseAlarm(alarm)), AlarmTask::Change),
            (AlarmAction::Deactivate, Some(alarm)) => (Request::Command(Command::ClearAlarm(alarm)), AlarmTask::Change),
            (AlarmAction::Activate | AlarmAction::Deactivate, None) => (Request::ReadIndex, AlarmTask::ChangeNone),
        };
        Ok((Some(ask), task))
    }

    fn finish(task: Self::Rest, answer: Option<Response>, local: &Local<'_>) -> Result<pb::AlarmResponse, Status> {
        let alarms = match (task, answer) {
            (AlarmTask::List(kind), Some(Response::Readable)) => {
                let mut alarms = alarms(local.view.alarms());
                alarms.retain(|alarm| kind == pb::AlarmType::None || alarm.alarm() == kind);
                alarms
            }
            (AlarmTask::Change, Some(Response::Outcome(Outcome::Alarms(changed)))) => alarms(changed.into_iter()),
            (AlarmTask::ChangeNone, Some(Response::Readable)) => vec![],
            (_, other) => mismatch(other.as_ref()),
        };
        Ok(pb::AlarmResponse { header: Some(local.header_now()), alarms })
    }
}

/// Alarms as clients see them, each once.
pub fn alarms(alarms: impl Iterator<Item = Alarm>) -> Vec<pb::AlarmMember> {
    let wire = |alarm: Alarm| pb::AlarmMember { member_id: alarm.member.0, alarm: alarm_type(alarm.kind).into() };
    let mut alarms: Vec<_> = alarms.map(wire).collect();
    alarms.sort_unstable_by_key(|alarm| (alarm.alarm, alarm.member_id));
    alarms.dedup();
    alarms
}

/// etcd's word for a kind of alarm.
fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt | AlarmKind::Fenced(_) => pb::AlarmType::Corrupt,
    }
}

/// Why this member is not well, of the alarms that are on. That *another* member is fenced is not this one's trouble.
pub fn own_alarms(local: &Local<'_>) -> impl Iterator<Item = pb::AlarmType> {
    let own = local.settings.responder.member;
    let concerns = move |alarm: &Alarm| !matches!(alarm.kind, AlarmKind::Fenced(_)) || alarm.member == own;
    local.view.alarms().filter(concerns).map(|alarm| alarm_type(alarm.kind))
}
