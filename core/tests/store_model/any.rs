//! Random commands and reads over few keys, leases and revisions, so that they meet.

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_core::auth::AuthCommand;
use quorate_core::command::Command;
use quorate_core::request::*;
use quorate_core::{Blob, FeatureLevel, Incarnation, LeaseId, NodeId, Revision, Ttl};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Apply {
        member: u64,
        command: Command,
    },
    /// A command is delivered again: the `n`th last.
    Again(usize),
    /// Entries that are none of the store's business.
    Nothing,
    /// Reads of the newest view or of one kept before.
    Read(RangeRequest),
    ReadTxn(TxnRequest),
    History {
        from: i64,
        bytes_max: u64,
    },
    KeepView,
    Clean {
        keys: usize,
        pin: Option<i64>,
    },
    Restart,
    /// The other member commits what it has.
    EndBatch,
}

pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    vec(any_step(), 1..150)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (1_u64..4, any_command()).prop_map(|(member, command)| Step::Apply { member, command }),
        3 => (0_usize..40).prop_map(Step::Again),
        1 => Just(Step::Nothing),
        15 => any_range().prop_map(Step::Read),
        3 => any_txn(false).prop_map(Step::ReadTxn),
        4 => (0_i64..50, 0_u64..2000).prop_map(|(from, bytes_max)| Step::History { from, bytes_max }),
        2 => Just(Step::KeepView),
        6 => (0_usize..5, proptest::option::weighted(0.2, 0_i64..50)).prop_map(|(keys, pin)| Step::Clean { keys, pin }),
        2 => Just(Step::Restart),
        10 => Just(Step::EndBatch),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        20 => any_put().prop_map(Command::Put),
        6 => any_delete().prop_map(Command::DeleteRange),
        12 => any_txn(true).prop_map(Command::Txn),
        4 => any_revision().prop_map(|revision| Command::Compact { revision }),
        4 => (any_lease(), prop_oneof![Just(1), Just(60), Just(9_000_000_000), Just(9_000_000_001)])
            .prop_map(|(id, ttl)| Command::LeaseGrant(Lease { id, ttl: Ttl(ttl) })),
        2 => any_lease().prop_map(Command::LeaseRevoke),
        1 => vec(any_lease(), 0..3).prop_map(Command::LeaseExpire),
        1 => vec((any_lease(), proptest::option::of((0_i64..9).prop_map(Ttl))), 0..3).prop_map(Command::LeaseCheckpoint),
        1 => (1_u64..4, "[a-z]{0,2}").prop_map(|(id, name)| Command::Publish(Member {
            id: NodeId(id),
            name,
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            client_urls: Vec::new(),
            is_learner: false,
        })),
        1 => proptest::option::of(Just("3.6.0".to_owned())).prop_map(Command::Downgrade),
        1 => any_alarm().prop_map(Command::RaiseAlarm),
        4 => any_alarm().prop_map(Command::ClearAlarm),
        1 => "[r-t]".prop_map(|name| Command::Auth(AuthCommand::RoleAdd(name))),
        2 => any_member_change().prop_map(Command::Members),
        1 => (0_u32..=1).prop_map(|level| Command::RaiseFeatureLevel(FeatureLevel(level))),
    ]
}

fn any_alarm() -> impl Strategy<Value = Alarm> {
    let kind = prop_oneof![
        Just(AlarmKind::NoSpace),
        Just(AlarmKind::Corrupt),
        (1_u64..3).prop_map(|life| AlarmKind::Fenced(Incarnation(life)))
    ];
    (kind, prop_oneof![9 => Just(1), 1 => Just(0)]).prop_map(|(kind, member)| Alarm { kind, member: NodeId(member) })
}

fn any_member_change() -> impl Strategy<Value = MemberChange> {
    let id = || (1_u64..4).prop_map(NodeId);
    let member = || {
        (id(), any::<bool>(), 1_u64..6, "n?").prop_map(|(id, is_learner, url, name)| {
            let peer_urls = vec![format!("http://127.0.0.1:{url}")];
            Member { id, name, peer_urls, client_urls: Vec::new(), is_learner }
        })
    };
    prop_oneof![
        vec(member(), 0..3).prop_map(MemberChange::Found),
        (member(), any::<bool>()).prop_map(|(member, strict)| MemberChange::Add { member, learners_max: 1, strict }),
        (id(), any::<bool>()).prop_map(|(id, strict)| MemberChange::Remove { id, strict }),
        (id(), any::<bool>()).prop_map(|(id, strict)| MemberChange::Promote { id, strict }),
        (id(), 1_u64..6)
            .prop_map(|(id, url)| MemberChange::Update { id, peer_urls: vec![format!("http://127.0.0.1:{url}")] }),
    ]
}

fn any_key() -> impl Strategy<Value = Blob> {
    let long = Blob::from(vec![b'x'; 70_000]);
    let keys: Vec<Blob> = [&b"a"[..], b"b", b"c", b"d", b"e", b"a\0", b"a\0\0", b"\0", b"a\xff", b"\xff", b"a\0\xff"]
        .into_iter()
        .map(Blob::copy)
        .collect();
    prop_oneof![30 => proptest::sample::select(keys), 1 => Just(long)]
}

fn any_range_of_keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => any_key().prop_map(KeyRange::Key),
        3 => (any_key(), any_key()).prop_map(|(start, end)| KeyRange::Bounded { start, end }),
        2 => any_key().prop_map(KeyRange::From),
        2 => Just(KeyRange::From("\0".into())),
    ]
}

fn any_value() -> impl Strategy<Value = Blob> {
    prop_oneof![Just(Blob::EMPTY), "[v-z]{1,3}".prop_map(|text| Blob::from(text.into_bytes()))]
}

fn any_lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![8 => 1_i64..4, 1 => Just(i64::MAX), 1 => Just(-7)].prop_map(LeaseId)
}

fn any_revision() -> impl Strategy<Value = Revision> {
    prop_oneof![20 => 1_i64..45, 1 => Just(0), 1 => -3_i64..0, 1 => Just(i64::MAX)].prop_map(Revision)
}

fn any_put() -> impl Strategy<Value = PutRequest> {
    let lease = proptest::option::weighted(0.4, any_lease());
    (any_key(), any_value(), lease, any::<bool>(), 0_u8..10).prop_map(|(key, value, lease, prev_kv, ignore)| {
        PutRequest {
            key,
            value: if ignore == 8 { Blob::EMPTY } else { value },
            lease: lease.filter(|_| ignore != 9),
            prev_kv,
            ignore_value: ignore == 8,
            ignore_lease: ignore == 9,
        }
    })
}

fn any_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (any_range_of_keys(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRangeRequest { range, prev_kv })
}

pub(crate) fn any_range() -> impl Strategy<Value = RangeRequest> {
    let order = prop_oneof![3 => Just(SortOrder::None), 1 => Just(SortOrder::Ascend), 1 => Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let bound = || prop_oneof![8 => Just(0_i64), 2 => 1_i64..40, 1 => Just(-1)].prop_map(Revision);
    let limit = prop_oneof![3 => Just(0_u64), 5 => 1_u64..6, 1 => Just(i64::MAX.cast_unsigned())];
    let revision = proptest::option::weighted(0.4, any_revision());
    let flags = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.1));
    let bounds = (bound(), bound(), bound(), bound());
    (any_range_of_keys(), limit, revision, order, target, flags, bounds).prop_map(
        |(range, limit, revision, sort_order, sort_target, (keys_only, count_only), bounds)| RangeRequest {
            range,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        4 => Just(CompareResult::Equal),
        2 => Just(CompareResult::Greater),
        2 => Just(CompareResult::Less),
        2 => Just(CompareResult::NotEqual),
        1 => Just(CompareResult::Unknown),
    ];
    let target = prop_oneof![
        (0_i64..4).prop_map(CompareTarget::Version),
        (0_i64..30).prop_map(|revision| CompareTarget::Create(Revision(revision))),
        (0_i64..40).prop_map(|revision| CompareTarget::Mod(Revision(revision))),
        any_value().prop_map(CompareTarget::Value),
        (0_i64..4).prop_map(CompareTarget::Lease),
        Just(CompareTarget::Unknown),
    ];
    (any_range_of_keys(), result, target).prop_map(|(range, result, target)| Compare { range, result, target })
}

fn any_txn(writes: bool) -> impl Strategy<Value = TxnRequest> {
    let leaf = if writes {
        prop_oneof![
            3 => any_range().prop_map(RequestOp::Range),
            4 => any_put().prop_map(RequestOp::Put),
            2 => any_delete().prop_map(RequestOp::DeleteRange),
        ]
        .boxed()
    } else {
        any_range().prop_map(RequestOp::Range).boxed()
    };
    let txn = |op: BoxedStrategy<RequestOp>| {
        (vec(any_compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let op = leaf.prop_recursive(2, 12, 4, move |op| txn(op).prop_map(RequestOp::Txn)).boxed();
    txn(op).prop_map(|mut txn| {
        let mut puts = Vec::new();
        puts_once(&mut txn, &mut puts);
        spare(&mut txn, &puts);
        txn
    })
}

/// Requests that change a key twice never reach the store: keeps the first put of each key...
fn puts_once(txn: &mut TxnRequest, puts: &mut Vec<Blob>) {
    for ops in [&mut txn.success, &mut txn.failure] {
        ops.retain_mut(|op| match op {
            RequestOp::Put(put) => {
                let first = !puts.contains(&put.key);
                puts.push(put.key.clone());
                first
            }
            RequestOp::Txn(txn) => {
                puts_once(txn, puts);
                true
            }
            _ => true,
        });
    }
}

/// ...and only deletes that spare them.
fn spare(txn: &mut TxnRequest, puts: &[Blob]) {
    for ops in [&mut txn.success, &mut txn.failure] {
        ops.retain_mut(|op| match op {
            RequestOp::DeleteRange(delete) => !puts.iter().any(|key| delete.range.contains(key)),
            RequestOp::Txn(txn) => {
                spare(txn, puts);
                true
            }
            _ => true,
        });
    }
}
