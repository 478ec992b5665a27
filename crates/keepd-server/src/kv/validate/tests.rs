//! etcd's rules for requests, one line a case.

use super::*;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &'static str) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.into(), ..Default::default() }))
}

fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
    let request =
        DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
    op(Request::RequestDeleteRange(request))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
}

fn check(success: Vec<RequestOp>, expected: Result<(), Api>) {
    let request = TxnRequest { compare: vec![], success, failure: vec![] };
    assert_eq!(txn(&request, 128), expected, "{request:?}");
}

#[test]
fn a_key_is_written_once() {
    check(vec![put_op("a"), put_op("b")], Ok(()));
    check(vec![put_op("a"), put_op("a")], Err(Api::DuplicateKey));
    check(vec![put_op("b"), delete_op("a", "c")], Err(Api::DuplicateKey));
    check(vec![delete_op("a", "c"), put_op("b")], Err(Api::DuplicateKey));
    check(vec![delete_op("a", "c"), delete_op("b", "d")], Ok(()));
    // The open end is taken literally: the interval is inverted and meets nothing.
    check(vec![delete_op("a", "\0"), put_op("b")], Ok(()));
}

#[test]
fn nesting_is_order_sensitive_and_branches_exclude_each_other() {
    check(
        vec![nested(vec![put_op("a")], vec![]), nested(vec![delete_op("a", "")], vec![])],
        Ok(()),
    );
    check(
        vec![nested(vec![delete_op("a", "")], vec![]), nested(vec![put_op("a")], vec![])],
        Err(Api::DuplicateKey),
    );
    check(vec![nested(vec![put_op("a")], vec![put_op("a")])], Ok(()));
    check(vec![put_op("a"), nested(vec![put_op("a")], vec![])], Err(Api::DuplicateKey));
}

#[test]
fn the_budget_of_operations_shrinks_with_each_level() {
    let keys: Vec<&'static str> =
        (0..128).map(|i| &*Box::leak(format!("k{i}").into_boxed_str())).collect();
    let puts = |range: std::ops::Range<usize>| keys[range].iter().map(|key| put_op(key));
    let mut full: Vec<_> = puts(0..127).collect();
    full.push(nested(puts(127..128).collect(), vec![]));
    check(full, Err(Api::TooManyOps));
    let mut fits: Vec<_> = puts(0..125).collect();
    fits.push(nested(puts(125..127).collect(), vec![]));
    check(fits, Ok(()));
}

#[test]
fn empty_operations_and_keys_are_refused() {
    check(vec![RequestOp { request: None }], Err(Api::KeyNotFound));
    check(vec![put_op("")], Err(Api::EmptyKey));
    let request =
        PutRequest { key: "k".into(), value: "v".into(), ignore_value: true, ..Default::default() };
    assert_eq!(put(&request), Err(Api::ValueProvided));
    let sort = RangeRequest { key: "k".into(), sort_target: 9, ..Default::default() };
    assert_eq!(range(&sort), Err(Api::InvalidSortOption));
}

#[test]
fn deleted_intervals_are_joined() {
    let deletes = |list: &[(&'static str, &'static str)]| {
        let mut writes = Writes::default();
        for (start, end) in list {
            let request = DeleteRangeRequest {
                key: (*start).into(),
                range_end: (*end).into(),
                prev_kv: false,
            };
            let (start, end) = interval(&request);
            writes.delete(start, end);
        }
        writes
    };
    let writes = deletes(&[("a", "c"), ("x", "z"), ("f", ""), ("b", "g"), ("z", "b"), ("m", "\0")]);
    assert_eq!(writes.deletes.len(), 2, "{:?}", writes.deletes);
    let hit = |key: &'static str| writes.is_deleted(&key.into());
    assert!(["a", "b", "f", "fz", "x", "y"].into_iter().all(hit));
    assert!(!["A", "g", "m", "n", "z"].into_iter().any(hit));
    assert!(!deletes(&[("f", "")]).is_deleted(&"f\0".into()));
}
