//! A state becomes a file and the file a state, and nothing else becomes either.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::mvccpb;
use quorate_core::auth::{Allows, AuthCommand, Author, Permission};
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::format::codec;
use quorate_core::request::{Alarm, AlarmKind, DeleteRangeRequest, KeyRange, Lease, PutRequest, RangeRequest};
use quorate_core::rows::{MemRows, RowWrite};
use quorate_core::store::{Imported, Store, import};
use quorate_core::{Blob, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::bolt::Writer;

struct Member {
    store: Store,
    rows: MemRows,
}

impl Member {
    fn new() -> Self {
        let rows = MemRows::default();
        Self { store: Store::load(NodeId(1), &rows).unwrap(), rows }
    }

    fn apply(&mut self, command: Command) {
        let index = self.store.applied().0.next();
        let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
        let payload = Payload::Command(codec::encode(&Envelope { origin, command, author: Author::Nobody }));
        let batch = self.store.apply(&[Entry { term: Term(1), index, payload }], &self.rows);
        assert!(batch.applied.results[0].1.is_ok(), "{:?}", batch.applied.results);
        self.rows.write(&batch.writes);
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<i64>) {
        let (key, value) = (Blob::copy(key.as_bytes()), Blob::copy(value));
        let lease = lease.map(LeaseId);
        let flags = (false, false, false);
        let (prev_kv, ignore_value, ignore_lease) = flags;
        self.apply(Command::Put(PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }));
    }

    fn delete(&mut self, key: &str) {
        let range = KeyRange::Key(Blob::copy(key.as_bytes()));
        self.apply(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: false }));
    }

    fn file(&self) -> (Vec<u8>, Vec<u8>) {
        let voters = vec![NodeId(7), NodeId(9)];
        let standing = Standing { applied: self.store.applied().0, term: Term(3), voters };
        let mut export = Export::new(self.store.view(), &self.rows, &standing);
        let mut pieces: Vec<Vec<u8>> = std::iter::from_fn(|| export.next_piece()).collect();
        let checksum = pieces.pop().unwrap();
        let file = pieces.concat();
        assert_eq!(file.len() as u64, export.bytes());
        (file, checksum)
    }
}

fn restored(file: &Bytes) -> Result<(Imported, Member), SnapshotError> {
    let file = EtcdFile::open(file.clone())?;
    let mut rows = MemRows::default();
    let done = import(&file, &file.import(LogIndex(1), Term(1))?, &mut |key, value| {
        rows.write(&[RowWrite { key: Blob::copy(key), value: Some(Blob::copy(value)) }]);
        Ok(())
    })?;
    let store = Store::load(NodeId(1), &rows).unwrap();
    store.check_deep(&rows);
    Ok((done, Member { store, rows }))
}

fn sample() -> Member {
    let mut member = Member::new();
    member.apply(Command::LeaseGrant(Lease { id: LeaseId(0x70), ttl: Ttl(60) }));
    member.apply(Command::LeaseGrant(Lease { id: LeaseId(-3), ttl: Ttl(600) }));
    member.apply(Command::LeaseCheckpoint(vec![(LeaseId(-3), Some(Ttl(44)))]));
    for n in 0..400 {
        member.put(&format!("k{:03}", n % 100), &vec![b'v'; n * 7 % 300], (n % 5 == 0).then_some(-3));
    }
    member.put("large", &vec![1; 100_000], Some(0x70));
    member.delete("k007");
    member.apply(Command::Compact { revision: Revision(200) });
    for (kind, id) in [
        (AlarmKind::NoSpace, 7),
        (AlarmKind::NoSpace, 0),
        (AlarmKind::Corrupt, 9),
        (AlarmKind::Fenced(Incarnation(1)), 9),
    ] {
        member.apply(Command::RaiseAlarm(Alarm { kind, member: NodeId(id) }));
    }
    let user = |name: &str, no_password: bool| {
        let password = (!no_password).then(|| "$2a$10$hash".to_owned());
        AuthCommand::UserAdd { name: name.to_owned(), password, no_password }
    };
    let permission = Permission { allows: Allows::ReadWrite, key: "a".into(), range_end: "b".into() };
    let (role, name) = ("r".to_owned(), "u".to_owned());
    for command in [
        user("root", false),
        user("u", true),
        AuthCommand::RoleAdd(role.clone()),
        AuthCommand::RoleGrantPermission { role: role.clone(), permission: Some(permission) },
        AuthCommand::UserGrantRole { name, role },
    ] {
        member.apply(Command::Auth(command));
    }
    member
}

#[test]
fn a_state_survives_its_file() {
    let member = sample();
    let (file, checksum) = member.file();
    assert_eq!(file.len() % 4096, 0);
    assert!(has_checksum((file.len() + checksum.len()) as u64) && !has_checksum(file.len() as u64));
    assert_eq!(checksum, Sha256::digest(&file).to_vec());
    let (done, again) = restored(&file.clone().into()).unwrap();
    assert_eq!((done.revision, done.floor, done.keys, done.detached), (Revision(403), Revision(200), 100, 0));
    let all = |member: &Member| {
        (200..=403)
            .map(|revision| {
                let range = KeyRange::From(Blob::copy(&[0]));
                let request = RangeRequest { revision: Some(Revision(revision)), ..RangeRequest::new(range) };
                member.store.view().range(&member.rows, &request).unwrap()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&again), all(&member));
    assert_eq!(again.store.leases(), member.store.leases());
    assert_eq!(again.store.view().auth().state(), member.store.view().auth().state());
    let alarms: Vec<_> = again.store.view().alarms().map(|alarm| (alarm.kind, alarm.member.0)).collect();
    assert_eq!(alarms, [(AlarmKind::NoSpace, 0), (AlarmKind::NoSpace, 7), (AlarmKind::Corrupt, 9)]);
    // Members that have cleaned up differently write the same file, but for where their logs stand.
    let (mut cleaned, figures) = (sample(), status(Bytes::from(file)).unwrap());
    loop {
        let slice = cleaned.store.compact_slice(&cleaned.rows, 1000, None);
        cleaned.rows.write(&slice.writes);
        if slice.finished {
            break;
        }
    }
    let other = status(Bytes::from(cleaned.file().0)).unwrap();
    assert_eq!(other, figures);
    assert_eq!((figures.revision, figures.keys, figures.version.as_str()), (403, 100, ""));
}

#[test]
fn an_empty_state_has_a_file_too() {
    let (done, _) = restored(&Member::new().file().0.into()).unwrap();
    assert_eq!((done.revision, done.floor, done.keys), (Revision(1), Revision(-1), 0));
}

/// A file with these changes, as another program may have written it.
fn foreign(keys: &[(Vec<u8>, Vec<u8>)], meta: &[(&[u8], Vec<u8>)]) -> Bytes {
    let lay = |mut writer: Writer, is_plan: bool| {
        for name in [names::KEY, names::META] {
            writer.bucket(name);
            let put = |writer: &mut Writer, key: &[u8], value: &[u8]| match is_plan {
                true => writer.plan(key, value.len()),
                false => writer.put(key, value),
            };
            match name == names::KEY {
                true => keys.iter().for_each(|(key, value)| put(&mut writer, key, value)),
                false => meta.iter().for_each(|(key, value)| put(&mut writer, key, value)),
            }
        }
        let plan = writer.finish();
        (plan, writer.take())
    };
    let (plan, _) = lay(Writer::planning(), true);
    lay(Writer::new(plan), false).1.into()
}

fn put(key: &'static str, main: i64, version: i64) -> (Vec<u8>, Vec<u8>) {
    let create_revision = main - version + 1;
    let kv = mvccpb::KeyValue { key: key.into(), create_revision, mod_revision: main, version, ..Default::default() };
    (revision_key(Revision(main), 0, false), kv.encode_to_vec())
}

#[test]
fn an_unfinished_compaction_counts_and_a_bumped_revision_too() {
    let mark = (revision_key(Revision(1000), 0, false), Vec::new());
    let scheduled = (names::SCHEDULED_COMPACTION, revision_key(Revision(1000), 0, false));
    let finished = (names::FINISHED_COMPACTION, revision_key(Revision(2), 0, false));
    let keys = [put("a", 2, 1), put("a", 3, 2), put("b", 4, 1), mark];
    let (done, _) = restored(&foreign(&keys, &[finished.clone(), scheduled])).unwrap();
    assert_eq!((done.revision, done.floor, done.keys), (Revision(1000), Revision(1000), 2));
    let (done, _) = restored(&foreign(&keys[..3], &[finished])).unwrap();
    assert_eq!((done.revision, done.floor, done.keys), (Revision(4), Revision(2), 2));
}

#[test]
fn what_is_no_snapshot_is_named() {
    let error = |keys: &[(Vec<u8>, Vec<u8>)], meta: &[(&[u8], Vec<u8>)]| {
        restored(&foreign(keys, meta)).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(error(&[(b"x".to_vec(), vec![])], &[]), "bucket \"key\", key x: not a revision");
    let (key, _) = put("a", 2, 1);
    let shown = key.escape_ascii().to_string();
    let (_, other) = put("a", 3, 1);
    let text = format!("bucket \"key\", key {shown}: it holds a change of revision 3");
    assert_eq!(error(&[(key.clone(), other)], &[]).replace('\\', ""), text.replace('\\', ""));
    assert!(error(&[(key, vec![0xff])], &[]).contains("failed to decode Protobuf message"));
    assert!(error(&[put("a", 2, 1), put("a", 4, 2)], &[]).starts_with("the history is damaged: revision 4.0 follows"));
    let floor = error(&[put("a", 2, 1)], &[(names::FINISHED_COMPACTION, vec![1])]);
    assert_eq!(floor, "bucket \"meta\", key finishedCompactRev: not a revision");
    let mut empty = Writer::planning();
    let plan = empty.finish();
    let mut empty = Writer::new(plan);
    empty.finish();
    let error = restored(&empty.take().into()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "not a snapshot of etcd: it has no bucket \"key\"");
}
