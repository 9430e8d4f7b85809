//! The store decides who may do what as the reference monitor does, which was written apart from it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use quorate_core::auth::{Allows, AuthCommand, AuthRevision, Author, Permission};
use quorate_core::command::{Command, Envelope, Origin};
use quorate_core::entry::{Entry, Payload};
use quorate_core::error::Error;
use quorate_core::format::codec;
use quorate_core::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, Lease, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use quorate_core::rows::MemRows;
use quorate_core::store::{Need, Store};
use quorate_core::{Blob, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term, Ttl};
use quorate_jepsen::auth::Monitor;

/// Who asks: nobody, a member, or a user recognised some changes ago.
#[derive(Clone, Debug)]
enum Who {
    Nobody,
    Member,
    User(&'static str, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Who, Command),
    Read(&'static str, KeyRange),
    Restart,
}

fn any_who() -> impl Strategy<Value = Who> {
    let user = select(vec!["root", "a", "b", "c", "ghost"]);
    prop_oneof![
        1 => Just(Who::Nobody),
        1 => Just(Who::Member),
        6 => Just(Who::User("root", 0)),
        20 => (user, prop_oneof![12 => Just(0_u64), 1 => 1_u64..3]).prop_map(|(user, ago)| Who::User(user, ago)),
    ]
}

fn any_key() -> impl Strategy<Value = Blob> {
    select(vec![&b"a"[..], b"a\0", b"b", b"c", b"d", b"d\0\0", b"\xff"]).prop_map(Blob::copy)
}

fn any_end() -> impl Strategy<Value = Blob> {
    prop_oneof![3 => any_key(), 2 => Just(Blob::EMPTY), 1 => Just(Blob::copy(&[0]))]
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => any_key().prop_map(KeyRange::Key),
        4 => (any_key(), any_key()).prop_map(|(start, end)| KeyRange::Bounded { start, end }),
        1 => any_key().prop_map(KeyRange::From),
    ]
}

fn any_put() -> impl Strategy<Value = PutRequest> {
    let lease = proptest::option::weighted(0.3, (1_i64..4).prop_map(LeaseId));
    (any_key(), lease, any::<bool>()).prop_map(|(key, lease, prev_kv)| PutRequest {
        key,
        value: "v".into(),
        lease,
        prev_kv,
        ignore_value: false,
        ignore_lease: false,
    })
}

fn any_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (any_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRangeRequest { range, prev_kv })
}

fn any_txn() -> impl Strategy<Value = TxnRequest> {
    let op = prop_oneof![
        any_put().prop_map(RequestOp::Put),
        any_delete().prop_map(RequestOp::DeleteRange),
        any_range().prop_map(|range| RequestOp::Range(RangeRequest::new(range))),
    ];
    let txn =
        |op: BoxedStrategy<RequestOp>| {
            let compare = any_range().prop_map(|range| Compare {
                range,
                result: CompareResult::Greater,
                target: CompareTarget::Mod(Revision(1)),
            });
            (vec(compare, 0..2), vec(op.clone(), 0..3), vec(op, 0..2))
                .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
        };
    let flat = txn(op.clone().boxed());
    txn(prop_oneof![6 => op, 1 => flat.prop_map(RequestOp::Txn)].boxed())
}

fn any_change() -> impl Strategy<Value = AuthCommand> {
    let user = || select(vec!["root", "a", "b", ""]).prop_map(str::to_owned);
    let role = || select(vec!["root", "r", "s", "t", ""]).prop_map(str::to_owned);
    let hash = || proptest::option::weighted(0.9, Just("h".to_owned()));
    let allows = select(vec![Allows::Read, Allows::Write, Allows::ReadWrite, Allows::Unknown(9)]);
    let permission =
        (allows, any_key(), any_end()).prop_map(|(allows, key, range_end)| Permission { allows, key, range_end });
    prop_oneof![
        3 => Just(AuthCommand::Enable),
        1 => Just(AuthCommand::Disable),
        2 => (user(), hash(), any::<bool>())
            .prop_map(|(name, password, no_password)| AuthCommand::UserAdd { name, password, no_password }),
        1 => user().prop_map(AuthCommand::UserDelete),
        1 => (user(), hash()).prop_map(|(name, password)| AuthCommand::UserChangePassword { name, password }),
        6 => (user(), role()).prop_map(|(name, role)| AuthCommand::UserGrantRole { name, role }),
        2 => (user(), role()).prop_map(|(name, role)| AuthCommand::UserRevokeRole { name, role }),
        2 => role().prop_map(AuthCommand::RoleAdd),
        1 => role().prop_map(AuthCommand::RoleDelete),
        10 => (role(), proptest::option::weighted(0.95, permission))
            .prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
        2 => (role(), any_key(), any_end())
            .prop_map(|(role, key, range_end)| AuthCommand::RoleRevokePermission { role, key, range_end }),
        1 => (user(), 0_u64..30).prop_map(|(name, revision)| AuthCommand::OpenSession {
            name,
            revision: AuthRevision(revision),
            secret: "s".into()
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let command = prop_oneof![
        14 => any_change().prop_map(Command::Auth),
        10 => any_put().prop_map(Command::Put),
        5 => any_delete().prop_map(Command::DeleteRange),
        10 => any_txn().prop_map(Command::Txn),
        2 => (1_i64..4).prop_map(|id| Command::LeaseGrant(Lease { id: LeaseId(id), ttl: Ttl(60) })),
        1 => (1_i64..4).prop_map(|id| Command::LeaseRevoke(LeaseId(id))),
        1 => Just(Command::Compact { revision: Revision(1) }),
    ];
    prop_oneof![
        30 => (any_who(), command).prop_map(|(who, command)| Step::Ask(who, command)),
        10 => (select(vec!["root", "a", "b", "ghost"]), any_range()).prop_map(|(user, range)| Step::Read(user, range)),
        1 => Just(Step::Restart),
    ]
}

/// Users root (with its role), a and b, roles r and s: so that there is something to decide on.
fn beginning() -> Vec<Step> {
    let ask = |command| Step::Ask(Who::Nobody, Command::Auth(command));
    let add = |name: &str| AuthCommand::UserAdd { name: name.into(), password: Some("h".into()), no_password: false };
    let give = |name: &str, role: &str| AuthCommand::UserGrantRole { name: name.into(), role: role.into() };
    let roles = ["r", "s"].map(|role| AuthCommand::RoleAdd(role.into()));
    let users = [add("root"), add("a"), add("b")];
    let gifts = [give("root", "root"), give("a", "r"), give("b", "s")];
    users.into_iter().chain(roles).chain(gifts).chain([AuthCommand::Enable]).map(ask).collect()
}

fn is_refusal(error: &Error) -> bool {
    use Error::{AuthOldRevision, PermissionDenied, UserEmpty, UserNotFound};
    matches!(error, UserEmpty | PermissionDenied | AuthOldRevision | UserNotFound)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_store_decides_as_the_monitor_does(steps in vec(any_step(), 1..120)) {
        let (mut monitor, mut rows) = (Monitor::default(), MemRows::default());
        let mut store = Store::load(NodeId(1), &rows).unwrap();
        for step in beginning().into_iter().chain(steps) {
            match step {
                Step::Ask(who, command) => {
                    let author = match who {
                        Who::Nobody => Author::Nobody,
                        Who::Member => Author::Member,
                        Who::User(name, ago) => {
                            let revision = AuthRevision(monitor.revision().0.saturating_sub(ago).max(1));
                            Author::User { name: name.into(), revision }
                        }
                    };
                    let view = store.view();
                    let attached = |id| view.lease(id).map(|(_, keys)| keys).unwrap_or_default();
                    let allowed = monitor.check(&author, &command, &attached);
                    let index = store.applied().0.next();
                    let origin = Origin { member: NodeId(1), incarnation: Incarnation(1), sequence: index.0 };
                    let envelope = Envelope { origin, command: command.clone(), author: author.clone() };
                    let payload = Payload::Command(codec::encode(&envelope));
                    let batch = store.apply(&[Entry { term: Term(1), index: LogIndex(index.0), payload }], &rows);
                    rows.write(&batch.writes);
                    let answer = batch.applied.results[0].1.as_ref().map(drop).map_err(Clone::clone);
                    match (allowed, &command) {
                        (Err(refusal), _) => prop_assert_eq!(answer, Err(refusal), "{:?} by {:?}", command, author),
                        (Ok(()), Command::Auth(change)) => {
                            prop_assert_eq!(answer, monitor.change(change), "{:?} by {:?}", command, author);
                        }
                        (Ok(()), _) => {
                            prop_assert!(!answer.as_ref().is_err_and(is_refusal), "{answer:?} to {command:?} by {author:?}");
                        }
                    }
                    prop_assert_eq!(store.view().auth().revision(), monitor.revision());
                    prop_assert_eq!(store.view().auth().is_enabled(), monitor.enabled);
                }
                Step::Read(user, range) => {
                    let author = Author::User { name: user.into(), revision: monitor.revision() };
                    let expected = !monitor.enabled || monitor.reads(user, &range);
                    let found = store.view().check(&author, &Need::Read(&range));
                    prop_assert_eq!(found.is_ok(), expected, "{} reading {:?}: {:?}", user, range, found);
                }
                Step::Restart => store = Store::load(NodeId(1), &rows).unwrap(),
            }
        }
    }
}

#[test]
fn a_range_is_allowed_if_all_of_its_keys_are() {
    let mut monitor = Monitor { enabled: true, ..Monitor::default() };
    monitor.users.insert("u".into(), (["r".to_owned()].into(), true));
    let bounded = |start: &'static str, end: &'static str| KeyRange::Bounded { start: start.into(), end: end.into() };
    let grant = |key: &'static str, end: &'static str| Permission {
        allows: Allows::Read,
        key: key.into(),
        range_end: end.into(),
    };
    monitor.roles.insert("r".into(), vec![grant("a", "c")]);
    assert!(monitor.reads("u", &bounded("a", "c")) && monitor.reads("u", &KeyRange::Key("b".into())));
    assert!(!monitor.reads("u", &bounded("a", "d")) && !monitor.reads("u", &KeyRange::From("a".into())));
    assert!(!monitor.reads("u", &KeyRange::Key("c".into())) && !monitor.reads("nobody", &bounded("a", "b")));
    monitor.roles.insert("r".into(), vec![grant("c", "d"), grant("a", "c")]);
    assert!(monitor.reads("u", &bounded("a", "d")));
    monitor.roles.insert("r".into(), vec![grant("a", "b"), grant("b", ""), grant("c", "d")]);
    assert!(!monitor.reads("u", &bounded("a", "d")), "between b and c are more keys");
}

#[test]
fn nested_txns_are_checked_and_deleted_roles_give_nothing() {
    let mut monitor = Monitor { enabled: true, ..Monitor::default() };
    monitor.users.insert("u".into(), (["r".to_owned()].into(), true));
    let all = Permission { allows: Allows::Write, key: "a".into(), range_end: "c".into() };
    monitor.roles.insert("r".into(), vec![all]);
    let delete = |key: &'static str| {
        RequestOp::DeleteRange(DeleteRangeRequest { range: KeyRange::Key(key.into()), prev_kv: false })
    };
    let txn = |key| TxnRequest { failure: vec![delete(key)], ..TxnRequest::default() };
    let nested = |key| Command::Txn(TxnRequest { success: vec![RequestOp::Txn(txn(key))], ..TxnRequest::default() });
    let check = |monitor: &Monitor, key| {
        let author = Author::User { name: "u".into(), revision: monitor.revision() };
        monitor.check(&author, &nested(key), &|_| Vec::new())
    };
    assert_eq!((check(&monitor, "b"), check(&monitor, "c")), (Ok(()), Err(Error::PermissionDenied)));
    monitor.change(&AuthCommand::RoleDelete("r".into())).unwrap();
    monitor.change(&AuthCommand::RoleAdd("r".into())).unwrap();
    assert!(monitor.users["u"].0.is_empty(), "a role of the same name is another one");
    assert_eq!(check(&monitor, "b"), Err(Error::PermissionDenied));
}
