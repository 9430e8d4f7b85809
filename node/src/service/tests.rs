//! Who is answered at all, and from which state.

use std::sync::{Arc, Mutex};

use quorate_core::auth::{Allows, AuthCommand, AuthRevision, Permission, Sessions};
use quorate_core::command::{Envelope, Origin};
use quorate_core::entry::{Configuration, Entry, Payload, Standing};
use quorate_core::format::codec;
use quorate_core::request::PutRequest;
use quorate_core::rows::MemRows;
use quorate_core::store::Store;
use quorate_core::{Blob, ClusterId, Incarnation, NodeId};

use super::kv::RangeStream;
use super::lease::KeepAlive;
use super::snapshot::SnapshotStream;
use super::*;

const OWN: NodeId = NodeId(1);

struct Process {
    settings: Settings,
    status: MemberStatus,
    store: Store,
    rows: MemRows,
}

impl Process {
    fn new() -> Self {
        let settings = Settings {
            responder: Responder { cluster: ClusterId(7), member: OWN },
            limits: Limits::default(),
            quota_bytes: None,
            election_timeout: Duration::from_secs(1),
            initial_cluster: vec![],
            strict_reconfig_check: true,
            learners_max: 1,
            wall_clock: WallClock::default(),
        };
        let raft = raft::Status {
            term: Term(1),
            role: raft::Role::Leader,
            leader: Some(OWN),
            standing: Standing::Trusted,
            commit: LogIndex(0),
            last: LogIndex(0),
            config: Configuration::default(),
        };
        let status = MemberStatus { raft, applied: LogIndex(0), disk_bytes: 0, suspect: false };
        let rows = MemRows::default();
        let mut process = Self { settings, status, store: Store::load(OWN, &rows).unwrap(), rows };
        for n in 0..30 {
            let (key, value) = (Blob::copy(format!("k{n:02}").as_bytes()), "v".into());
            let put = PutRequest { key, value, lease: None, prev_kv: false, ignore_value: false, ignore_lease: false };
            process.apply(Command::Put(put));
        }
        process
    }

    fn apply(&mut self, command: Command) {
        let index = self.store.applied().0.next();
        let origin = Origin { member: OWN, incarnation: Incarnation(1), sequence: index.0 };
        let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Member }));
        let batch = self.store.apply(&[Entry { term: Term(1), index, payload }], &self.rows);
        assert!(batch.applied.results[0].1.is_ok(), "{:?}", batch.applied.results);
        self.rows.write(&batch.writes);
    }

    fn published(&self) -> Arc<Published<MemRows>> {
        let sessions = Arc::new(Mutex::new(Sessions::new(Duration::from_secs(300), LogIndex(0))));
        let (view, rows, applied) = (self.store.view(), self.rows.clone(), self.store.applied().0);
        Arc::new(Published { view, rows, applied, hash: 0, sessions })
    }

    fn asks<T>(&self, question: impl FnOnce(&Local<'_>) -> T) -> T {
        question(&Local::new(&self.settings, &self.status, &self.published()))
    }

    /// Authentication is on; the author is `root`.
    fn secure(&mut self) -> Author {
        let password = Some("hash".to_owned());
        let (name, role) = ("root".to_owned(), "root".to_owned());
        self.apply(Command::Auth(AuthCommand::UserAdd { name: name.clone(), password, no_password: false }));
        self.apply(Command::Auth(AuthCommand::RoleAdd(role.clone())));
        self.apply(Command::Auth(AuthCommand::UserGrantRole { name, role }));
        self.apply(Command::Auth(AuthCommand::Enable));
        self.author("root")
    }

    /// One more user, who may read every key.
    fn reader(&mut self) -> Author {
        let (name, role, password) = ("reader".to_owned(), "r".to_owned(), Some("hash".to_owned()));
        self.apply(Command::Auth(AuthCommand::UserAdd { name: name.clone(), password, no_password: false }));
        self.apply(Command::Auth(AuthCommand::RoleAdd(role.clone())));
        let permission = Permission { allows: Allows::Read, key: "k".into(), range_end: "l".into() };
        let permission = Some(permission);
        self.apply(Command::Auth(AuthCommand::RoleGrantPermission { role: role.clone(), permission }));
        self.apply(Command::Auth(AuthCommand::UserGrantRole { name, role }));
        self.author("reader")
    }

    fn author(&self, name: &str) -> Author {
        let revision: AuthRevision = self.store.view().auth().revision();
        Author::User { name: name.to_owned(), revision }
    }
}

fn all(serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), range_end: "l".into(), serializable, ..Default::default() }
}

fn range_stream(process: &Process) -> RangeStream {
    RangeStream::start(all(true), &process.settings).unwrap().1
}

#[test]
fn a_member_whose_state_is_wrong_answers_nothing_but_its_status() {
    let mut process = Process::new();
    let begun = process.asks(|local| begin(all(true), local)).unwrap();
    let mut under_way = range_stream(&process);
    assert!(process.asks(|local| under_way.next(&Author::Nobody, local)).unwrap().is_some());
    let (_, renewal) = process.asks(|local| KeepAlive::start(&pb::LeaseKeepAliveRequest { id: 1 }, local)).unwrap();
    process.status.suspect = true;

    let stopped = Status::from(Error::Stopped);
    let author = Author::Nobody;
    for serializable in [false, true] {
        assert_eq!(process.asks(|local| begin(all(serializable), local)).err(), Some(stopped.clone()));
    }
    let finished = process.asks(|local| Begun::<pb::RangeRequest>::finish(begun.rest, None, &author, local));
    assert_eq!(finished.err(), Some(stopped.clone()), "what began before");
    for mut stream in [under_way, range_stream(&process)] {
        assert_eq!(process.asks(|local| stream.next(&author, local)).err(), Some(stopped.clone()));
    }
    let snapshot = SnapshotStream::new(&author, process.published(), &process.status);
    assert_eq!(snapshot.err(), Some(Error::Stopped));
    let again = process.asks(|local| KeepAlive::start(&pb::LeaseKeepAliveRequest { id: 1 }, local));
    assert_eq!(again.err(), Some(Error::Stopped));
    let renewed = process.asks(|local| renewal.finish(Response::KeptAlive(None), local));
    assert_eq!(renewed.err(), Some(Error::Stopped), "what was asked before");
    let login = process.asks(|local| gate::Login::new("root".to_owned()).challenge(local));
    assert_eq!(login.err(), Some(Error::Stopped));
    let Begun { ask, rest } = process.asks(|local| begin(pb::StatusRequest {}, local)).unwrap();
    assert_eq!(ask, None);
    process.asks(|local| Begun::<pb::StatusRequest>::finish(rest, None, &author, local)).unwrap();
}

#[test]
fn a_stream_is_for_whom_the_state_allows_it_that_it_reads() {
    let mut process = Process::new();
    let root = process.secure();
    let reader = process.reader();
    let mut early = range_stream(&process);
    let first = process.asks(|local| early.next(&reader, local)).unwrap().unwrap().range_response.unwrap();
    assert_eq!(first.kvs.len(), 10);
    let mut late = range_stream(&process);
    assert!(SnapshotStream::new(&root, process.published(), &process.status).is_ok());
    assert_eq!(SnapshotStream::new(&reader, process.published(), &process.status).err(), Some(Error::PermissionDenied));

    let taken = AuthCommand::UserRevokeRole { name: "reader".to_owned(), role: "r".to_owned() };
    process.apply(Command::Auth(taken));
    // Recognised with the state that is read, as the server does it.
    let now = process.author("reader");
    let refused = process.asks(|local| late.next(&now, local));
    assert_eq!(refused.err(), Some(Error::PermissionDenied.into()), "allowed before, but not in what it would read");
    let rest = process.asks(|local| early.next(&reader, local)).unwrap().unwrap().range_response.unwrap();
    assert_eq!(rest.kvs.len(), 20, "what was begun reads one revision, and is decided once");
    let nobody = SnapshotStream::new(&Author::Nobody, process.published(), &process.status);
    assert_eq!(nobody.err(), Some(Error::UserEmpty));
}

#[test]
fn a_learner_answers_what_needs_no_quorum() {
    let mut process = Process::new();
    process.status.raft.config.learners.insert(OWN, Incarnation(1));
    let refused = Status::from(Error::NotSupportedForLearner);
    assert!(process.asks(|local| begin(all(true), local)).is_ok());
    assert_eq!(process.asks(|local| begin(all(false), local)).err(), Some(refused.clone()));
    let nothing = pb::RangeRequest::default();
    assert_eq!(process.asks(|local| begin(nothing, local)).err(), Some(refused.clone()), "before it is looked at");
    assert_eq!(process.asks(|local| begin(pb::TxnRequest::default(), local)).err(), Some(refused));
    assert!(process.asks(|local| begin(pb::StatusRequest {}, local)).is_ok());
    let renewal = process.asks(|local| KeepAlive::start(&pb::LeaseKeepAliveRequest { id: 1 }, local));
    assert_eq!(renewal.err(), Some(Error::NotSupportedForLearner));
}

#[test]
fn a_change_of_no_alarm_is_answered_as_of_now() {
    let Process { settings, .. } = Process::new();
    for action in [pb::alarm_request::AlarmAction::Activate, pb::alarm_request::AlarmAction::Deactivate] {
        let request = pb::AlarmRequest { action: action.into(), ..Default::default() };
        let (ask, task) = request.start(&settings).unwrap();
        assert_eq!(ask, Some(Request::ReadIndex), "{action:?}");
        assert!(matches!(pb::AlarmRequest::access(&task), Access::State(Need::Root)), "{action:?}");
    }
}
