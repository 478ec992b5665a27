//! Reading a range in etcd's order: fetch, count, filter, sort, cut, strip.
//!
//! Three ways, cheapest first: counts and keys come from the index alone; a plain range sends the
//! stored records as they lie; filters and sorting decode.

use std::sync::Arc;

use bytes::Bytes;
use keepd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keepd_api::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use keepd_api::mvccpb;
use keepd_mvcc::{RangeRefs, View};
use keepd_types::{KeyRange, KeyValue, LeaseId, Revision};
use tonic::Status;

use crate::codec::Payload;
use crate::context::{Context, to_proto};
use crate::errors;
use crate::wire;

/// Records read on the task itself; more go to a thread that may block on the disk.
const INLINE_RECORDS_MAX: usize = 32;
/// Answers up to this size are joined into one piece.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// The range of keys a request asks for.
pub(crate) fn key_range(request: &RangeRequest) -> KeyRange {
    KeyRange::from_request(request.key.clone(), request.range_end.clone())
}

/// How many keys to fetch: all if they will be filtered or sorted, else one more than the limit so
/// that `more` is known. 0 is all.
pub(crate) fn fetch_limit(request: &RangeRequest) -> usize {
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
) -> Result<Payload, Status> {
    let at = request.revision.max(0);
    let range = key_range(&request);
    if request.count_only {
        let count = view.count(&range, at).map_err(errors::range)?;
        return Ok(Payload::of(&RangeResponse {
            header: Some(header),
            count: to_i64(count),
            ..Default::default()
        }));
    }
    if request.keys_only && request.sort_target() != SortTarget::Value {
        return keys_only(view, &range, at, header, &request);
    }
    let refs = view.range(&range, at, fetch_limit(&request)).map_err(errors::range)?;
    let sorted_by_key = request.sort_target() == SortTarget::Key;
    if is_plain(&request) && sorted_by_key && !request.keys_only {
        return plain(context, view, header, &request, refs).await;
    }
    let count = refs.count;
    let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
    let kvs = load_kvs(context, view, revisions).await?;
    Ok(Payload::of(&finish(&request, header, kvs, count)))
}

/// Only the index: the lease shows as zero, as in etcd 3.7.
fn keys_only(
    view: &View,
    range: &KeyRange,
    at: i64,
    header: ResponseHeader,
    request: &RangeRequest,
) -> Result<Payload, Status> {
    let states = view.states(range, at, fetch_limit(request)).map_err(errors::range)?;
    let kvs = states.keys.into_iter().map(|(key, state)| KeyValue {
        key,
        create_revision: state.create_revision,
        mod_revision: state.mod_revision.main,
        version: state.version,
        value: Bytes::new(),
        lease: LeaseId::NONE,
    });
    Ok(Payload::of(&finish(request, header, kvs.collect(), states.count)))
}

/// The stored records as they lie.
async fn plain(
    context: &Arc<Context>,
    view: &Arc<View>,
    header: ResponseHeader,
    request: &RangeRequest,
    mut refs: RangeRefs,
) -> Result<Payload, Status> {
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && refs.keys.len() > limit;
    if more {
        refs.keys.truncate(limit);
    }
    let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
    let records = load_encoded(context, view, revisions).await?;
    let mut pieces = Pieces::default();
    wire::header_field(&header, &mut pieces.open);
    for record in records {
        pieces.record(record);
    }
    wire::int_field(3, i64::from(more), &mut pieces.open);
    wire::int_field(4, to_i64(refs.count), &mut pieces.open);
    Ok(pieces.finish())
}

/// A message in the making: small parts are joined, large records stay shared.
#[derive(Default)]
pub(crate) struct Pieces {
    pub(crate) open: Vec<u8>,
    done: Vec<Bytes>,
}

impl Pieces {
    /// Adds a record as field 2 (`kvs`).
    pub(crate) fn record(&mut self, record: Bytes) {
        wire::len_field(2, record.len(), &mut self.open);
        if record.len() < JOINED_BYTES_MAX {
            self.open.extend_from_slice(&record);
        } else {
            self.done.push(std::mem::take(&mut self.open).into());
            self.done.push(record);
        }
    }

    pub(crate) fn finish(mut self) -> Payload {
        if !self.open.is_empty() {
            self.done.push(self.open.into());
        }
        Payload { pieces: self.done }
    }
}

/// Loads records and opens what is sealed, encoded as clients see them.
pub(crate) async fn load_encoded(
    context: &Arc<Context>,
    view: &Arc<View>,
    revisions: Vec<Revision>,
) -> Result<Vec<Bytes>, Status> {
    off_task(context, view, revisions, Context::client_bytes).await
}

/// Loads records and opens what is sealed, decoded.
pub(crate) async fn load_kvs(
    context: &Arc<Context>,
    view: &Arc<View>,
    revisions: Vec<Revision>,
) -> Result<Vec<KeyValue>, Status> {
    off_task(context, view, revisions, Context::client_kv).await
}

/// Few records are read where the request runs; many could block it on disk and decryption.
async fn off_task<T: Send + 'static>(
    context: &Arc<Context>,
    view: &Arc<View>,
    revisions: Vec<Revision>,
    each: fn(&Context, keepd_mvcc::Record) -> Result<T, Status>,
) -> Result<Vec<T>, Status> {
    let load = |context: &Context, view: &View| -> Result<Vec<T>, Status> {
        if let [revision] = revisions.as_slice() {
            let record = view.load(*revision).map_err(errors::store)?;
            return Ok(vec![each(context, record)?]);
        }
        let records = view.load_many(&revisions).map_err(errors::store)?;
        records.into_iter().map(|record| each(context, record)).collect()
    };
    if revisions.len() <= INLINE_RECORDS_MAX {
        return load(context, view);
    }
    let (context, view) = (Arc::clone(context), Arc::clone(view));
    let loading = tokio::task::spawn_blocking(move || {
        let records = view.load_many(&revisions).map_err(errors::store)?;
        records.into_iter().map(|record| each(&context, record)).collect()
    });
    loading.await.map_err(|error| Status::internal(format!("keepd: a read failed: {error}")))?
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
