//! What every call does, as plain functions over protobuf messages: the real server and the simulator both call these.
//!
//! A unary call has two halves. [`Method::start`] checks the request and says what to ask of consensus, if anything;
//! [`Method::finish`] makes the reply from consensus' answer and the state published by then. Watch and keep-alive
//! streams are in [`watch`] and [`lease`].

pub mod auth;
pub mod cluster;
pub mod gate;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod snapshot;
pub mod watch;

use std::time::{Duration, SystemTime};

use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::command::Command;
use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::replica::{Request, Response};
use quorate_core::request::{Alarm, AlarmKind, Member};
use quorate_core::rows::Rows;
use quorate_core::store::{Need, View};
use quorate_core::{LogIndex, Revision, Term, raft};

use crate::applier::Published;
use crate::status::Status;
use crate::wire::{Limits, Responder};

/// The version of etcd whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster version that all members agree on.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// The cluster version before it.
pub const DOWNGRADE_VERSION: &str = "3.6.0";

/// What a member knows of itself, beside its replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Consensus; its indexes are as of the last change of role, term or leader.
    pub raft: raft::Status,
    /// Everything up to here is applied and published.
    pub applied: LogIndex,
    /// Bytes the applied state takes on disk.
    pub disk_bytes: u64,
    /// Its state is wrong: nothing is to be read from it.
    pub suspect: bool,
}

/// What does not change while a member serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who answers.
    pub responder: Responder,
    /// What requests may weigh.
    pub limits: Limits,
    /// The quota of history; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// Silence after which a follower campaigns.
    pub election_timeout: Duration,
    /// The founding members as the command line names them, for as long as they are not recorded.
    pub initial_cluster: Vec<Member>,
    /// Whether changes of the membership that risk the quorum are refused. (etcd: --strict-reconfig-check)
    pub strict_reconfig_check: bool,
    /// Learners there may be. (etcd: --max-learners)
    pub learners_max: u32,
    /// What time it is, for whoever wants to tell times apart.
    pub wall_clock: WallClock,
}

/// What a machine's wall clock shows. It may be wrong and jump either way: no promise hangs on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WallClock {
    /// The system's.
    #[default]
    System,
    /// It shows this, in Unix seconds, as somebody says who has it in hand.
    Shows(u64),
}

impl WallClock {
    /// Seconds since 1970, or 0 before.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            Self::Shows(seconds) => seconds,
        }
    }
}

/// The state a reply is made from: one consistent picture, taken after consensus answered.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// What does not change.
    pub settings: &'a Settings,
    /// Consensus and sizes.
    pub status: &'a MemberStatus,
    /// The published state.
    pub view: &'a View,
    /// The rows it was published with.
    pub rows: &'a dyn Rows,
}

impl<'a> Local<'a> {
    /// A picture of a member that published `published`.
    #[must_use]
    pub fn new<S: Rows>(settings: &'a Settings, status: &'a MemberStatus, published: &'a Published<S>) -> Self {
        Self { settings, status, view: &published.view, rows: &published.rows }
    }
}

impl Local<'_> {
    /// The header of a reply about `revision`.
    #[must_use]
    pub fn header(&self, revision: Revision) -> pb::ResponseHeader {
        self.settings.responder.header(self.term(), revision)
    }

    /// The header of a reply that speaks of no key: the store's revision.
    #[must_use]
    pub fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.view.revision())
    }

    fn term(&self) -> Term {
        self.status.raft.term
    }

    /// Bytes of the whole state: what it takes on disk, and what is in memory only as yet.
    #[must_use]
    pub fn db_bytes(&self) -> u64 {
        self.status.disk_bytes.max(self.view.logical_bytes())
    }

    /// Whether `cost` more bytes of state are more than the quota allows. It is decided on logical bytes, which are the
    /// same on every member and shrink at once when history is compacted.
    fn is_beyond_quota(&self, cost: u64) -> bool {
        let quota = self.settings.quota_bytes.unwrap_or(u64::MAX);
        cost > 0 && self.view.logical_bytes().saturating_add(cost) >= quota
    }

    /// Whether this member is a learner.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        let own = self.settings.responder.member;
        match self.view.members().get(own) {
            // A voter that was added serves as one, although its vote does not count before it has caught up.
            Some(member) => member.is_learner,
            None => self.status.raft.config.learners.contains_key(&own),
        }
    }
}

/// A unary call, named by its request message.
pub trait Method: prost::Message + Default + 'static {
    /// The reply message.
    type Reply: prost::Message + Default + 'static;
    /// What [`Method::finish`] needs of the request.
    type Rest: Send + Sync;

    /// The full name, as in the path of the HTTP/2 request.
    const PATH: &'static str;

    /// Whether every member answers it, even a learner, and even one whose state is known to be wrong.
    const FROM_ANYONE: bool = false;

    /// Whether a learner answers it too.
    fn is_for_learners(&self) -> bool {
        Self::FROM_ANYONE
    }

    /// What a caller must be allowed. There is no default: no call can forget to say.
    fn access(rest: &Self::Rest) -> Access<'_>;

    /// A password in the request that the command carries as a hash: see `AuthCommand::seal`.
    fn secret(_: &Self::Rest) -> Option<&str> {
        None
    }

    /// Whether making the reply may take long enough to disturb other work on its thread.
    fn is_long(_: &Self::Rest) -> bool {
        false
    }

    /// Whether the member's disk is to be tidied before the reply is made.
    const DEFRAGMENTS: bool = false;

    /// The floor below which every row must be physically gone before the reply is sent.
    fn waits_for_compaction(_: &Self::Rest) -> Option<Revision> {
        None
    }

    /// Bytes that the request may add to the state, as the quota counts them. (etcd: quota.Cost)
    fn cost(&self) -> u64 {
        0
    }

    /// Checks the request; says what to ask of consensus before [`Method::finish`].
    ///
    /// # Errors
    /// etcd's status for a request it would refuse.
    fn start(self, settings: &Settings) -> Result<(Option<Request>, Self::Rest), Status>;

    /// The reply. `answer` is consensus' to what was asked; `None` if nothing was.
    ///
    /// # Errors
    /// etcd's status for a request that cannot be answered.
    ///
    /// # Panics
    /// If `answer` is not one to the question.
    fn finish(rest: Self::Rest, answer: Option<Response>, local: &Local<'_>) -> Result<Self::Reply, Status>;
}

/// What a caller must be allowed for a call, when authentication is on.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// What the call's command needs: it is decided by the state that the command changes, when it is applied.
    Command,
    /// This: it is decided by the state that the reply is made from.
    State(Need<'a>),
}

/// Refuses every call if the state is known to be wrong, and on a learner all but those that `is_for_learners`; comes
/// before anything else.
///
/// # Errors
/// [`Error::Stopped`], [`Error::NotSupportedForLearner`].
pub fn admit(is_for_learners: bool, local: &Local<'_>) -> Result<(), Error> {
    trust(local.status)?;
    if local.is_learner() && !is_for_learners {
        return Err(Error::NotSupportedForLearner);
    }
    Ok(())
}

/// Refuses everything once the state is known to be wrong: others serve, and a client had better turn to them.
///
/// # Errors
/// [`Error::Stopped`].
pub fn trust(status: &MemberStatus) -> Result<(), Error> {
    if status.suspect { Err(Error::Stopped) } else { Ok(()) }
}

fn admit_call<M: Method>(request: &M, local: &Local<'_>) -> Result<(), Error> {
    if M::FROM_ANYONE { Ok(()) } else { admit(request.is_for_learners(), local) }
}

/// A call between its two halves.
pub struct Begun<M: Method> {
    /// What to ask of consensus first.
    pub ask: Option<Request>,
    /// For [`Method::finish`]; or the refusal, whatever consensus answers.
    pub rest: Result<M::Rest, Status>,
}

/// Whether the request is beyond the quota as far as this state knows. It may be behind, and history may have been
/// compacted since: a read index comes before [`begin`] then, or one member that has just started would raise an alarm
/// that stops everybody.
#[must_use]
pub fn is_beyond_quota<M: Method>(request: &M, local: &Local<'_>) -> bool {
    admit_call(request, local).is_ok() && local.is_beyond_quota(request.cost()) && !mutant::is_on(Mutant::Q06)
}

/// The first half of a call: [`admit`], the quota, [`Method::start`].
///
/// A request beyond the quota is refused once the cluster has been told that there is no space. (etcd: quotaKVServer)
///
/// # Errors
/// The status to answer at once.
pub fn begin<M: Method>(request: M, local: &Local<'_>) -> Result<Begun<M>, Status> {
    admit_call(&request, local)?;
    if local.is_beyond_quota(request.cost()) {
        if mutant::is_on(Mutant::Q02) {
            let (ask, _) = request.start(local.settings)?;
            return Ok(Begun { ask, rest: Err(Error::NoSpace.into()) });
        }
        let member = local.settings.responder.member;
        let alarm = Alarm { kind: AlarmKind::NoSpace, member };
        let raised = local.view.alarms().any(|other| other == alarm);
        let raise = || Request::CommandBy(Author::Member, Command::RaiseAlarm(alarm));
        let ask = (!raised).then(raise);
        return Ok(Begun { ask, rest: Err(Error::NoSpace.into()) });
    }
    let (ask, rest) = request.start(local.settings)?;
    Ok(Begun { ask, rest: Ok(rest) })
}

impl<M: Method> Begun<M> {
    /// What the caller must be allowed.
    #[must_use]
    pub fn access(rest: &Result<M::Rest, Status>) -> Access<'_> {
        rest.as_ref().map_or(Access::State(Need::Nothing), M::access)
    }

    /// Whether the state that makes the reply decides once more whether the caller may have it. Not if the request is refused
    /// for itself, or was decided when its command was applied.
    #[must_use]
    pub fn decides_late(rest: &Result<M::Rest, Status>) -> bool {
        rest.is_ok() && matches!(Self::access(rest), Access::State(_))
    }

    /// The second half of a call, with consensus' answer if it was asked, on behalf of `author`, who is refused what it
    /// may not have. Of a call whose access is its command's any author will do: that was decided already. A state that
    /// has been found wrong meanwhile answers nothing.
    ///
    /// # Errors
    /// etcd's status for a request that cannot be answered.
    pub fn finish(
        rest: Result<M::Rest, Status>,
        answer: Option<Result<Response, Status>>,
        author: &Author,
        local: &Local<'_>,
    ) -> Result<M::Reply, Status> {
        let (rest, answer) = (rest?, answer.transpose()?);
        if !M::FROM_ANYONE {
            trust(local.status)?;
        }
        if let Access::State(need) = M::access(&rest) {
            local.view.check(author, &need)?;
        }
        M::finish(rest, answer, local)
    }
}

/// Whether `author` may ask for `ask` and have what `access` says, as far as this state knows.
///
/// # Errors
/// Those of [`View::check`].
pub fn permit(author: &Author, ask: Option<&Request>, access: Access<'_>, view: &View) -> Result<(), Error> {
    let need = match (access, ask) {
        (Access::State(need), _) => need,
        (Access::Command, Some(Request::Command(command))) => Need::Command(command),
        // A call that says so and is none must not be open to everybody.
        (Access::Command, _) => Need::Root,
    };
    view.check(author, &need)
}

/// For answers of the wrong kind: consensus answers what it was asked.
fn mismatch(answer: Option<&Response>) -> ! {
    panic!("consensus answered {answer:?} to another question")
}

#[cfg(test)]
mod tests;
