use quorate_core::error::Error;

use super::*;

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("the request must be refused").to_string()
}

fn a_put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_of(key: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(a_put(key)))
}

fn a_txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

#[test]
fn sentinels_of_ranges_are_decoded() {
    let of = |key: &'static str, end: &'static str| key_range(key.into(), end.into());
    assert_eq!(of("a", ""), Ok(KeyRange::Key("a".into())));
    assert_eq!(of("a", "\0"), Ok(KeyRange::From("a".into())));
    assert_eq!(of("\0", "\0"), Ok(KeyRange::From("\0".into())));
    assert_eq!(of("a", "c"), Ok(KeyRange::Bounded { start: "a".into(), end: "c".into() }));
    assert_eq!(text(of("", "c")), "etcdserver: key is not provided");
}

#[test]
fn a_range_outside_a_txn_reads_the_newest_for_revisions_below_one() {
    let of = |revision| pb::RangeRequest { key: "a".into(), revision, limit: -3, ..Default::default() };
    assert_eq!(range(of(-1)).unwrap().revision, None);
    assert_eq!(range(of(0)).unwrap().revision, None);
    assert_eq!(range(of(7)).unwrap().revision, Some(Revision(7)));
    assert_eq!(range(of(7)).unwrap().limit, 0);
    assert_eq!(range_op(of(-1)).unwrap().revision, Some(Revision(-1)), "inside a txn it is compacted history");
}

#[test]
fn unknown_sort_options_are_refused_after_the_key() {
    let of = |key: &'static str, sort_order, sort_target| {
        range(pb::RangeRequest { key: key.into(), sort_order, sort_target, ..Default::default() })
    };
    assert_eq!(text(of("a", 3, 0)), "etcdserver: invalid sort option");
    assert_eq!(text(of("a", 0, 5)), "etcdserver: invalid sort option");
    assert_eq!(text(of("a", -1, 0)), "etcdserver: invalid sort option");
    assert_eq!(text(of("", 3, 0)), "etcdserver: key is not provided");
    let sorted = of("a", 2, 4).unwrap();
    assert_eq!((sorted.sort_order, sorted.sort_target), (SortOrder::Descend, SortTarget::Value));
}

#[test]
fn puts_are_checked_in_etcds_order() {
    let limits = Limits::default();
    let wrong = pb::PutRequest { ignore_value: true, ignore_lease: true, lease: 5, ..a_put("") };
    assert_eq!(text(put(wrong.clone(), limits)), "etcdserver: key is not provided");
    let wrong = pb::PutRequest { key: "a".into(), ..wrong };
    assert_eq!(text(put(wrong.clone(), limits)), "etcdserver: value is provided");
    let wrong = pb::PutRequest { value: "".into(), ..wrong };
    assert_eq!(text(put(wrong.clone(), limits)), "etcdserver: lease is provided");
    let right = put(pb::PutRequest { lease: 0, ..wrong }, limits).unwrap();
    assert!(right.ignore_value && right.ignore_lease && right.lease.is_none());
    assert_eq!(put(pb::PutRequest { lease: 9, ..a_put("a") }, limits).unwrap().lease, Some(LeaseId(9)));
    assert_eq!(text(delete_range(pb::DeleteRangeRequest::default(), limits)), "etcdserver: key is not provided");
}

#[test]
fn a_request_over_the_size_limit_is_refused() {
    let limits = Limits { request_bytes_max: 1000, ..Limits::default() };
    let of = |bytes: usize| pb::PutRequest { value: vec![0; bytes].into(), ..a_put("a") };
    assert!(put(of(900), limits).is_ok());
    assert_eq!(text(put(of(1000), limits)), "etcdserver: request is too large");
    let big = op(pb::request_op::Request::RequestPut(of(1000)));
    assert_eq!(text(txn(a_txn(vec![big]), limits)), "etcdserver: request is too large");
    let key: Vec<u8> = vec![b'k'; 2000];
    let delete = pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
    assert_eq!(text(delete_range(delete, limits)), "etcdserver: request is too large");
    // A read is not replicated, so it has no such limit.
    let read = op(pb::request_op::Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }));
    assert!(txn(a_txn(vec![read]), limits).is_ok());
}

#[test]
fn nested_txns_share_the_budget_of_operations() {
    let limits = Limits { txn_ops_max: 4, ..Limits::default() };
    let keys = ["a", "b", "c", "d", "e"];
    let puts = |n: usize| keys[..n].iter().map(|key| put_of(key)).collect::<Vec<_>>();
    let nest = |n: usize| op(pb::request_op::Request::RequestTxn(a_txn(puts(n))));
    assert!(txn(a_txn(puts(4)), limits).is_ok());
    assert_eq!(text(txn(a_txn(puts(5)), limits)), "etcdserver: too many operations in txn request");
    assert!(txn(a_txn(vec![nest(3)]), limits).is_ok());
    assert_eq!(text(txn(a_txn(vec![nest(4)]), limits)), "etcdserver: too many operations in txn request");
    let compares = vec![pb::Compare { key: "a".into(), ..Default::default() }; 5];
    let many = pb::TxnRequest { compare: compares, ..Default::default() };
    assert_eq!(text(txn(many, limits)), "etcdserver: too many operations in txn request");
}

#[test]
fn txns_are_checked_in_etcds_order() {
    let limits = Limits { txn_ops_max: 2, ..Limits::default() };
    let empty_compare = pb::Compare::default();
    let no_request = pb::RequestOp { request: None };
    let bad_put = op(pb::request_op::Request::RequestPut(pb::PutRequest { ignore_value: true, ..a_put("a") }));
    let request = pb::TxnRequest {
        compare: vec![empty_compare],
        success: vec![no_request, put_of("x")],
        failure: vec![bad_put, put_of("x"), put_of("x")],
    };
    assert_eq!(text(txn(request.clone(), limits)), "etcdserver: too many operations in txn request");
    let limits = Limits::default();
    assert_eq!(text(txn(request.clone(), limits)), "etcdserver: key is not provided");
    let request = pb::TxnRequest { compare: vec![], ..request };
    assert_eq!(text(txn(request.clone(), limits)), "etcdserver: key not found");
    let request = pb::TxnRequest { success: vec![put_of("y"), put_of("y")], ..request };
    assert_eq!(text(txn(request.clone(), limits)), "etcdserver: value is provided");
    let request = pb::TxnRequest { failure: vec![], ..request };
    assert_eq!(text(txn(request, limits)), "etcdserver: duplicate key given in txn request");
}

#[test]
fn a_compare_without_its_union_member_compares_with_zero() {
    use pb::compare::TargetUnion;
    let of = |target, target_union| {
        compare(pb::Compare { key: "a".into(), target, target_union, ..Default::default() }).unwrap().target
    };
    assert_eq!(of(0, None), CompareTarget::Version(0));
    assert_eq!(of(1, Some(TargetUnion::Version(3))), CompareTarget::Create(Revision(0)), "another kind's member");
    assert_eq!(of(2, Some(TargetUnion::ModRevision(3))), CompareTarget::Mod(Revision(3)));
    assert_eq!(of(3, None), CompareTarget::Value(Blob::EMPTY));
    assert_eq!(of(4, Some(TargetUnion::Lease(8))), CompareTarget::Lease(8));
    assert_eq!(of(77, None), CompareTarget::Unknown);
    let unknown = pb::Compare { key: "a".into(), result: 9, ..Default::default() };
    assert_eq!(compare(unknown).unwrap().result, CompareResult::Unknown);
}

#[test]
fn only_ranges_make_a_txn_a_read() {
    let read = |serializable| {
        op(pb::request_op::Request::RequestRange(pb::RangeRequest {
            key: "a".into(),
            serializable,
            ..Default::default()
        }))
    };
    let of = |ops| txn(a_txn(ops), Limits::default()).unwrap();
    let empty = of(vec![]);
    assert!(is_read_only(&empty) && is_serializable(&empty));
    let mixed = of(vec![read(true), read(false)]);
    assert!(is_read_only(&mixed) && !is_serializable(&mixed));
    assert!(is_serializable(&of(vec![read(true)])));
    assert!(!is_read_only(&of(vec![read(true), put_of("b")])));
    let nested = op(pb::request_op::Request::RequestTxn(a_txn(vec![read(true)])));
    assert!(!is_read_only(&of(vec![nested])));
}
