//! What operators ask of one member. (etcd: service Maintenance)

use quorate_api::etcdserverpb as pb;
use quorate_core::NodeId;
use quorate_core::replica::{Request, Response};

use super::{CLUSTER_VERSION, ETCD_VERSION, Local, Method, Settings, mismatch};
use crate::status::{Code, Status};

impl Method for pb::StatusRequest {
    type Reply = pb::StatusResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/Status";
    const FOR_LEARNERS: bool = true;

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
            errors: match raft.leader {
                Some(_) => vec![],
                None => vec![quorate_core::error::Error::NoLeader.to_string()],
            },
            db_size_in_use: signed(local.view.logical_bytes()),
            is_learner: local.is_learner(),
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: local.settings.quota_bytes.map_or(-1, signed),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        })
    }
}

impl Method for pb::MoveLeaderRequest {
    type Reply = pb::MoveLeaderResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/MoveLeader";

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

impl Method for pb::AlarmRequest {
    type Reply = pb::AlarmResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Maintenance/Alarm";

    /// No alarm is ever raised as yet: asking and disarming find none.
    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        use pb::alarm_request::AlarmAction;
        let activates = self.action == AlarmAction::Activate as i32 && self.alarm != pb::AlarmType::None as i32;
        if activates {
            return Err(Status::new(Code::Unimplemented, "alarms cannot be activated on this server"));
        }
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::AlarmResponse, Status> {
        Ok(pb::AlarmResponse { header: Some(local.header_now()), alarms: vec![] })
    }
}
