//! Reading a range in etcd's order: fetch, count, filter, sort, cut, strip.
//!
//! There are three ways, the cheapest first: counts and keys come from the index alone; a plain range
//! sends the stored records unchanged; filters and sorting decode them.

use std::sync::Arc;

use bytes::Bytes;
use keepd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keepd_api::etcdserverpb::request_op::Request as Op;
use keepd_api::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest};
use keepd_api::mvccpb;
use keepd_mvcc::{RangeRefs, View};
use keepd_types::{KeyRange, KeyValue, LeaseId};
use tonic::Status;

use super::list;
use super::records::{self, Pieces};
use crate::context::{Context, to_proto};
use crate::encoded_message::EncodedMessage;
use crate::errors;
use crate::protobuf;

/// Ranges with at most this many keys are answered where the request runs.
const SHORT_KEYS_MAX: i64 = 32;
/// Keys and past states beyond which a walk over the index runs on a blocking thread.
const LONG_WALK: u64 = 16 * 1024;

/// Whether answering may take so long that the connection's other requests should not wait for it.
pub(crate) fn is_large(request: &RangeRequest) -> bool {
    let is_short = 0 < request.limit && request.limit <= SHORT_KEYS_MAX;
    !(request.range_end.is_empty() || is_short || request.count_only)
}

/// Whether an operation of a transaction is a large range; nested transactions are not searched.
pub(crate) fn has_large(txn: &TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref());
    ops.any(|op| matches!(op, Op::RequestRange(range) if is_large(range)))
}

/// Whether the operations of a transaction may bring values back.
pub(crate) fn has_reads(txn: &TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref());
    ops.any(|op| match op {
        Op::RequestRange(_) | Op::RequestTxn(_) => true,
        Op::RequestPut(put) => put.prev_kv,
        Op::RequestDeleteRange(delete) => delete.prev_kv,
    })
}

/// The range of keys a request asks for.
pub(crate) fn key_range(request: &RangeRequest) -> KeyRange {
    KeyRange::from_request(request.key.clone(), request.range_end.clone())
}

/// The number of keys to fetch: all (0) if they will be filtered or sorted, else one more than the
/// limit, so that `more` is known. A count needs no key; the least that can be fetched is one.
pub(crate) fn fetch_limit(request: &RangeRequest) -> usize {
    if request.count_only {
        return 1;
    }
    if request.limit <= 0 || !is_plain(request) {
        return 0;
    }
    usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1)
}

/// Whether the request takes keys in their own order, unfiltered.
///
/// Order NONE with another target than KEY counts as plain for the fetch and is sorted after the
/// cut: clients of etcd can see this.
pub(crate) fn is_plain(request: &RangeRequest) -> bool {
    has_default_order(request) && !has_filters(request)
}

/// Whether the answer needs no sorting before it is cut.
pub(crate) fn has_default_order(request: &RangeRequest) -> bool {
    request.sort_order() == SortOrder::None
        || (request.sort_target() == SortTarget::Key && request.sort_order() == SortOrder::Ascend)
}

/// Whether the answer is in the order of keys.
pub(crate) fn has_key_order(request: &RangeRequest) -> bool {
    request.sort_target() == SortTarget::Key
}

/// Whether revisions are bounded.
pub(crate) const fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Answers a range from a view; `header` shows the view's revision.
pub(crate) async fn answer(
    context: &Arc<Context>,
    view: &Arc<View>,
    header: ResponseHeader,
    request: RangeRequest,
) -> Result<EncodedMessage, Status> {
    let at = request.revision.max(0);
    let range = key_range(&request);
    // A long walk over the index would hold up the other tasks of this thread.
    let is_long = view.weight(&range, at, LONG_WALK) > LONG_WALK;
    if request.count_only {
        // Whole subtrees are counted at once where nothing is newer.
        let is_long = is_long && at > 0;
        let count = walk(context, view, is_long, move |view| view.count(&range, at)).await?;
        let count = count.map_err(errors::range)?;
        return Ok(EncodedMessage::of(&RangeResponse {
            header: Some(header),
            count: to_i64(count),
            ..Default::default()
        }));
    }
    if request.keys_only && request.sort_target() != SortTarget::Value {
        let answer = move |view: &View| keys_only(view, &range, at, header, &request);
        return walk(context, view, is_long, answer).await?;
    }
    let limit = fetch_limit(&request);
    let refs = walk(context, view, is_long, move |view| view.range(&range, at, limit)).await?;
    let refs = refs.map_err(errors::range)?;
    let sorted_by_key = request.sort_target() == SortTarget::Key;
    if is_plain(&request) && sorted_by_key && !request.keys_only {
        return plain(context, view, header, &request, refs).await;
    }
    let count = refs.count;
    let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
    let kvs = records::load_kvs(context, view, revisions).await?;
    // Sorting takes long too.
    walk(context, view, is_long, move |_| EncodedMessage::of(&finish(&request, header, kvs, count)))
        .await
}

/// Reads a view: here, or on a blocking thread if that takes long.
async fn walk<T: Send + 'static>(
    context: &Context,
    view: &Arc<View>,
    is_long: bool,
    read: impl FnOnce(&View) -> T + Send + 'static,
) -> Result<T, Status> {
    if !is_long {
        return Ok(read(view));
    }
    let view = Arc::clone(view);
    context.admission.large_reads.run(move || read(&view)).await
}

/// Answers from the index alone: the lease is zero, as in etcd 3.7.
fn keys_only(
    view: &View,
    range: &KeyRange,
    at: i64,
    header: ResponseHeader,
    request: &RangeRequest,
) -> Result<EncodedMessage, Status> {
    let states = view.states(range, at, fetch_limit(request)).map_err(errors::range)?;
    let kvs = states.keys.into_iter().map(|(key, state)| KeyValue {
        key,
        create_revision: state.create_revision,
        mod_revision: state.mod_revision.main,
        version: state.version,
        value: Bytes::new(),
        lease: LeaseId::NONE,
    });
    Ok(EncodedMessage::of(&finish(request, header, kvs.collect(), states.count)))
}

/// Answers with the stored records, unchanged.
async fn plain(
    context: &Arc<Context>,
    view: &Arc<View>,
    header: ResponseHeader,
    request: &RangeRequest,
    mut refs: RangeRefs,
) -> Result<EncodedMessage, Status> {
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && refs.keys.len() > limit;
    if more {
        refs.keys.truncate(limit);
    }
    let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
    let mut pieces = Pieces::default();
    protobuf::header_field(&header, &mut pieces.open);
    let mut tail = Vec::with_capacity(16);
    protobuf::int_field(3, i64::from(more), &mut tail);
    protobuf::int_field(4, to_i64(refs.count), &mut tail);
    list::answer(context, view, pieces, revisions, tail).await
}

/// Filters, sorts, cuts and strips fetched records.
pub(crate) fn finish(
    request: &RangeRequest,
    header: ResponseHeader,
    mut kvs: Vec<KeyValue>,
    count: u64,
) -> RangeResponse {
    let header = Some(header);
    let count = to_i64(count);
    if request.count_only {
        return RangeResponse { header, count, ..Default::default() };
    }
    if has_filters(request) {
        kvs.retain(|kv| {
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(
                    kv.create_revision,
                    request.min_create_revision,
                    request.max_create_revision,
                )
        });
    }
    sort(request, &mut kvs);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    let kvs = kvs.into_iter().map(|mut kv| -> mvccpb::KeyValue {
        if request.keys_only {
            kv.value = Bytes::new();
        }
        to_proto(kv)
    });
    RangeResponse { header, kvs: kvs.collect(), more, count }
}

/// Bounds are inclusive; 0 is no bound.
const fn within(revision: i64, min: i64, max: i64) -> bool {
    (max == 0 || revision <= max) && (min == 0 || revision >= min)
}

fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let (mut order, target) = (request.sort_order(), request.sort_target());
    if order == SortOrder::None && target != SortTarget::Key {
        order = SortOrder::Ascend;
    }
    if order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend) {
        return;
    }
    let compare = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    // Stable: ties keep key order, where etcd leaves them open.
    if order == SortOrder::Descend {
        kvs.sort_by(|a, b| compare(b, a));
    } else {
        kvs.sort_by(compare);
    }
}

pub(crate) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use keepd_api::etcdserverpb::RequestOp;

    use super::*;

    fn range(limit: i64) -> RangeRequest {
        RangeRequest { key: "a".into(), range_end: "b".into(), limit, ..RangeRequest::default() }
    }

    #[test]
    fn ranges_that_may_be_long_are_large() {
        assert!(is_large(&range(0)) && is_large(&range(-1)) && is_large(&range(500)));
        assert!(!is_large(&range(SHORT_KEYS_MAX)));
        assert!(!is_large(&RangeRequest { count_only: true, ..range(0) }));
        assert!(!is_large(&RangeRequest { range_end: Bytes::new(), ..range(0) }));
    }

    #[test]
    fn a_transaction_is_as_large_as_its_ranges() {
        let op = |limit| RequestOp { request: Some(Op::RequestRange(range(limit))) };
        let txn = |success, failure| TxnRequest { success, failure, ..TxnRequest::default() };
        assert!(!has_large(&txn(vec![op(1)], vec![op(2)])));
        assert!(has_large(&txn(vec![op(1)], vec![op(0)])));
    }
}
