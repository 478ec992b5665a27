//! The price of a transaction: the number of keys that it looks at, taken from the index before the
//! transaction enters the log.
//!
//! The apply thread applies one command after the other, so a transaction of some kilobytes that
//! compares a large range a thousand times would hold up everyone, on every member and again at each
//! replay.

use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{RequestOp, TxnRequest};
use keepd_mvcc::View;
use keepd_types::KeyRange;
use tonic::Status;

use super::range;

/// BOUND: keys that one transaction may look at. In a larger store it may look at as many as there
/// are, so that a single operation can always cover the whole store.
const KEYS_MAX: u64 = 2_000_000;

/// Refuses a transaction that looks at too many keys.
pub(crate) fn check(view: &View, request: &TxnRequest) -> Result<(), Status> {
    check_against(view, request, KEYS_MAX.max(view.live_keys()))
}

fn check_against(view: &View, request: &TxnRequest, max: u64) -> Result<(), Status> {
    if txn(view, request, max) <= max {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "keepd: too many keys in txn request: its comparisons, ranges and deletes look at more than \
         {max} keys in all; split it, or name smaller ranges"
    )))
}

/// The number of keys that a transaction looks at; counting ends when `max` is exceeded.
fn txn(view: &View, request: &TxnRequest, max: u64) -> u64 {
    let mut keys = 0;
    for compare in &request.compare {
        let range = KeyRange::from_request(compare.key.clone(), compare.range_end.clone());
        keys += view.weight(&range, 0, max);
        if keys > max {
            return keys;
        }
    }
    // Only one of the branches is taken.
    keys + ops(view, &request.success, max).max(ops(view, &request.failure, max))
}

fn ops(view: &View, ops: &[RequestOp], max: u64) -> u64 {
    let mut keys = 0;
    for op in ops {
        keys += match &op.request {
            Some(Request::RequestRange(request)) => {
                let weight = view.weight(&range::key_range(request), request.revision, max);
                match range::fetch_limit(request) as u64 {
                    // Keys beyond the limit are counted by whole subtrees.
                    limit if limit > 0 && request.revision <= 0 => weight.min(limit),
                    _ => weight,
                }
            }
            Some(Request::RequestDeleteRange(request)) => {
                let (key, end) = (request.key.clone(), request.range_end.clone());
                view.weight(&KeyRange::from_request(key, end), 0, max)
            }
            Some(Request::RequestTxn(nested)) => txn(view, nested, max),
            Some(Request::RequestPut(_)) | None => 1,
        };
        if keys > max {
            break;
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keepd_api::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    };
    use keepd_crypto::FileKeys;
    use keepd_env::Env;
    use keepd_mvcc::{Applied, Options, Store};
    use keepd_types::{LeaseId, StoredValue};

    use super::*;

    /// 1000 keys, of which the second half was written again: revisions 2 to 1501.
    fn view() -> std::sync::Arc<View> {
        let (env, _, _) = Env::simulated(1);
        let options = Options::default();
        let mut store = Store::open(env, Path::new("/s"), FileKeys::plain(), options).unwrap();
        for number in (0..1000).chain(500..1000) {
            let mut txn = store.begin();
            txn.put(format!("k{number:04}").into(), StoredValue::default(), LeaseId::NONE);
            txn.finish();
        }
        store.publish(Applied { index: 1, term: 1 })
    }

    fn range(revision: i64, limit: i64) -> RequestOp {
        let (key, range_end) = ("k".into(), "l".into());
        let request = RangeRequest { key, range_end, revision, limit, ..RangeRequest::default() };
        RequestOp { request: Some(Request::RequestRange(request)) }
    }

    fn nested(txn: TxnRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn a_transaction_costs_the_keys_that_it_looks_at() {
        let view = view();
        let cost = |txn: &TxnRequest| super::txn(&view, txn, u64::MAX);
        let of = |success: Vec<RequestOp>| TxnRequest { success, ..TxnRequest::default() };
        let compare = Compare { key: "k".into(), range_end: "k0100".into(), ..Compare::default() };
        let point = Compare { key: "k".into(), ..Compare::default() };
        let put = RequestOp { request: Some(Request::RequestPut(PutRequest::default())) };
        let (key, range_end) = ("k0900".into(), "l".into());
        let delete = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        let delete = RequestOp { request: Some(Request::RequestDeleteRange(delete)) };

        assert_eq!(cost(&of(vec![put.clone(), put.clone()])), 2);
        assert_eq!(cost(&of(vec![range(0, 0)])), 1000);
        assert_eq!(cost(&of(vec![range(0, 10)])), 11, "one more, to know of more");
        assert!(cost(&of(vec![range(1002, 10)])) >= 1000, "an old count looks at every key");
        let at_old = cost(&of(vec![range(1001, 0)]));
        assert!((1500..1600).contains(&at_old), "{at_old}: keys, and those that are rewound");
        let deleted = cost(&of(vec![delete]));
        assert!((100..=132).contains(&deleted), "{deleted}: the first leaf counts whole");
        let compared = cost(&TxnRequest { compare: vec![compare, point], ..of(vec![put]) });
        assert!((102..=166).contains(&compared), "{compared}");
        let both =
            TxnRequest { success: vec![range(0, 1)], failure: vec![range(0, 0)], ..of(vec![]) };
        assert_eq!(cost(&of(vec![nested(both.clone()), nested(both)])), 2000, "the dearer branch");
    }

    #[test]
    fn a_small_request_with_a_large_cost_is_refused_and_one_look_at_everything_is_not() {
        let view = view();
        let compare = Compare { key: "k".into(), range_end: "l".into(), ..Compare::default() };
        let many = TxnRequest { compare: vec![compare.clone(); 64], ..TxnRequest::default() };
        let many = TxnRequest { success: vec![nested(many); 32], ..TxnRequest::default() };
        let refused = check_against(&view, &many, 1000).unwrap_err();
        assert!(refused.message().contains("more than 1000 keys"), "{refused}");
        check(&view, &many).unwrap_err();
        let one = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
        check_against(&view, &one, 1000).unwrap();
    }
}
