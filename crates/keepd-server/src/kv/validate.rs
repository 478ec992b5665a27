//! Checks requests before they enter the log, in etcd's order and with its errors.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keepd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use keepd_api::{Error as Api, TXN_DEPTH_MAX};

/// A range needs a key and known sort options.
pub(crate) fn range(request: &RangeRequest) -> Result<(), Api> {
    if request.key.is_empty() {
        return Err(Api::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(Api::InvalidSortOption) }
}

/// A put needs a key, and has no value if it keeps the old one; likewise with leases.
pub(crate) fn put(request: &PutRequest) -> Result<(), Api> {
    if request.key.is_empty() {
        return Err(Api::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Api::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Api::LeaseProvided);
    }
    Ok(())
}

/// A delete needs a key.
pub(crate) fn delete(request: &DeleteRangeRequest) -> Result<(), Api> {
    if request.key.is_empty() { Err(Api::EmptyKey) } else { Ok(()) }
}

/// A transaction: sizes, keys, operations, and no key written twice.
pub(crate) fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Api> {
    check_ops(request, ops_max, 1)?;
    check_duplicates(&request.success)?;
    check_duplicates(&request.failure)?;
    Ok(())
}

/// BOUND: each level uses up part of the budget, which ends nesting as in etcd; a budget larger than
/// etcd's default is ended by the depth to which transactions are read.
fn check_ops(request: &TxnRequest, ops_max: usize, depth: usize) -> Result<(), Api> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max || depth > TXN_DEPTH_MAX {
        return Err(Api::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Api::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete(request)?,
            Some(Request::RequestTxn(request)) => check_ops(request, ops_max - ops, depth + 1)?,
            None => return Err(Api::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys that a list of operations puts, and intervals it deletes. A range end of one zero byte is
/// taken literally here, as etcd does: such an interval is inverted and meets nothing.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    /// Start and end of intervals that neither meet nor touch: a hostile transaction can hold a
    /// hundred thousand of them.
    deletes: BTreeMap<Bytes, Bytes>,
}

impl Writes {
    fn conflicts(&self, key: &Bytes) -> bool {
        self.puts.contains(key) || self.is_deleted(key)
    }

    fn is_deleted(&self, key: &Bytes) -> bool {
        self.deletes.range(..=key.clone()).next_back().is_some_and(|(_, end)| key < end)
    }

    fn delete(&mut self, start: Bytes, mut end: Bytes) {
        if start >= end {
            return;
        }
        let mut first = start.clone();
        // From the last one back: each that begins in or before the new interval and reaches into it.
        while let Some((other, until)) = self.deletes.range(..=end.clone()).next_back() {
            if *until < start {
                break;
            }
            let (other, until) = (other.clone(), until.clone());
            self.deletes.remove(&other);
            first = first.min(other);
            end = end.max(until);
        }
        self.deletes.insert(first, end);
    }
}

/// The interval that a delete names.
fn interval(request: &DeleteRangeRequest) -> (Bytes, Bytes) {
    let start = request.key.clone();
    if request.range_end.is_empty() {
        let end = [&start, &[0][..]].concat().into();
        return (start, end);
    }
    (start, request.range_end.clone())
}

fn check_duplicates(ops: &[RequestOp]) -> Result<Writes, Api> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            let (start, end) = interval(request);
            writes.delete(start, end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (then, otherwise) =
            (check_duplicates(&nested.success)?, check_duplicates(&nested.failure)?);
        for key in &then.puts {
            if writes.conflicts(key) {
                return Err(Api::DuplicateKey);
            }
            writes.puts.insert(key.clone());
        }
        for key in &otherwise.puts {
            // The two branches exclude each other, so they may put the same key.
            let by_sibling = then.puts.contains(key);
            if (!by_sibling && writes.puts.contains(key)) || writes.is_deleted(key) {
                return Err(Api::DuplicateKey);
            }
            writes.puts.insert(key.clone());
        }
        for (start, end) in then.deletes.into_iter().chain(otherwise.deletes) {
            writes.delete(start, end);
        }
    }
    for op in ops {
        let Some(Request::RequestPut(request)) = &op.request else { continue };
        if writes.conflicts(&request.key) {
            return Err(Api::DuplicateKey);
        }
        writes.puts.insert(request.key.clone());
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_intervals_are_joined() {
        let deletes = |list: &[(&'static str, &'static str)]| {
            let mut writes = Writes::default();
            for (start, end) in list {
                let (key, range_end) = ((*start).into(), (*end).into());
                let request = DeleteRangeRequest { key, range_end, prev_kv: false };
                let (start, end) = interval(&request);
                writes.delete(start, end);
            }
            writes
        };
        let list = [("a", "c"), ("x", "z"), ("f", ""), ("b", "g"), ("z", "b"), ("m", "\0")];
        let writes = deletes(&list);
        assert_eq!(writes.deletes.len(), 2, "{:?}", writes.deletes);
        let is_deleted = |key: &'static str| writes.is_deleted(&key.into());
        assert!(["a", "b", "f", "fz", "x", "y"].into_iter().all(is_deleted));
        assert!(!["A", "g", "m", "n", "z"].into_iter().any(is_deleted));
        assert!(!deletes(&[("f", "")]).is_deleted(&"f\0".into()));
    }
}
