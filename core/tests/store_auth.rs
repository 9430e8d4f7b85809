//! Users and roles have bounds: what one of them adds up to, and what a batch that changes them writes.

use quorate_core::auth::{Allows, AuthCommand, Author, Permission};
use quorate_core::command::{Command, Envelope, Origin, Outcome};
use quorate_core::entry::{Entry, Payload};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::rows::MemRows;
use quorate_core::store::{Batch, Store};
use quorate_core::{Incarnation, LogIndex, NodeId, Term};

struct Member {
    store: Store,
    rows: MemRows,
}

impl Member {
    fn new() -> Self {
        let rows = MemRows::default();
        Self { store: Store::load(NodeId(1), &rows).unwrap(), rows }
    }

    fn batch(&mut self, commands: impl IntoIterator<Item = AuthCommand>) -> Batch {
        let mut index = self.store.applied().0;
        let entries = commands.into_iter().map(|command| {
            index = index.next();
            let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
            let envelope = Envelope { origin, command: Command::Auth(command), author: Author::Nobody };
            Entry { term: Term(1), index: LogIndex(index.0), payload: Payload::Command(codec::encode(&envelope)) }
        });
        let entries: Vec<_> = entries.collect();
        let batch = self.store.apply(&entries, &self.rows);
        self.rows.write(&batch.writes);
        batch
    }

    fn apply(&mut self, command: AuthCommand) -> Result<(), Error> {
        let batch = self.batch([command]);
        let (_, result) = batch.applied.results.into_iter().next().unwrap();
        result.map(|outcome| assert_eq!(outcome, Outcome::Done))
    }

    /// What is stored is what is in force, and can be told to others: every row fits a message with room to spare.
    fn check(&self) {
        let again = Store::load(NodeId(1), &self.rows).unwrap();
        assert_eq!(again.view().auth().state(), self.store.view().auth().state());
        assert!(self.rows.iter().all(|(_, row)| row.len() < 5 << 20));
    }
}

fn grant(key: Vec<u8>) -> AuthCommand {
    let permission = Some(Permission { allows: Allows::Read, key: key.into(), range_end: "".into() });
    AuthCommand::RoleGrantPermission { role: "r".into(), permission }
}

#[test]
fn a_role_takes_permissions_until_they_are_too_large() {
    let mut member = Member::new();
    member.apply(AuthCommand::RoleAdd("r".into())).unwrap();
    let large = |n: u8| vec![n; 1 << 20];
    let taken = (1..=100).filter(|n| member.apply(grant(large(*n))) == Ok(())).count();
    assert_eq!(taken, 3);
    assert_eq!(member.apply(grant(large(4))), Err(Error::RequestTooLarge));
    assert_eq!(member.apply(grant(large(1))), Ok(()), "granted again, it adds nothing");
    assert_eq!(member.apply(grant(b"small".to_vec())), Ok(()));
    member.check();
    let revoke = AuthCommand::RoleRevokePermission { role: "r".into(), key: large(1).into(), range_end: "".into() };
    assert_eq!(member.apply(revoke), Ok(()));
    assert_eq!(member.apply(grant(large(4))), Ok(()));
    member.check();
}

#[test]
fn a_user_takes_roles_until_they_are_too_large() {
    let mut member = Member::new();
    let name = |n: usize| format!("{n:060000}");
    member.apply(AuthCommand::UserAdd { name: "u".into(), password: Some("h".into()), no_password: false }).unwrap();
    member.batch((0..80).map(|n| AuthCommand::RoleAdd(name(n))));
    let give = |n| AuthCommand::UserGrantRole { name: "u".into(), role: name(n) };
    let taken = (0..80).filter(|n| member.apply(give(*n)) == Ok(())).count();
    assert_eq!(taken, (4 << 20) / 60_064);
    assert_eq!(member.apply(give(79)), Err(Error::RequestTooLarge));
    member.check();
    assert_eq!(member.apply(AuthCommand::RoleDelete(name(0))), Ok(()));
    assert_eq!(member.apply(give(79)), Ok(()));
    member.check();
}

/// Each of these changes rewrites the whole role.
#[test]
fn a_batch_of_changes_of_one_role_writes_it_once() {
    let mut member = Member::new();
    member.apply(AuthCommand::RoleAdd("r".into())).unwrap();
    member.apply(grant(vec![1; 3 << 20])).unwrap();
    let batch = member.batch((0..100_u8).map(|n| grant(vec![2, n])));
    let written: usize = batch.writes.iter().map(|write| write.value.as_ref().map_or(0, |value| value.len())).sum();
    assert!(written < 4 << 20, "{written} bytes");
    assert_eq!(member.store.view().auth().role("r").unwrap().len(), 101);
    member.check();
    // Made and removed in one batch.
    member.batch([AuthCommand::RoleDelete("r".into()), AuthCommand::RoleAdd("s".into())]);
    member.batch([AuthCommand::RoleAdd("r".into()), grant(vec![1]), AuthCommand::RoleDelete("s".into())]);
    member.check();
    assert!(member.store.view().auth().roles().eq(["r"]));
}
