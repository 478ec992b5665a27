//! Turns requests into commands: seals values and decides comparisons of values.

use std::sync::Arc;

use keepd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{
    Compare as CompareRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use keepd_machine::command::{Compare, DeleteRange, Guard, Op, Put, Range, Relation, Target, Txn};
use keepd_mvcc::{KeyState, RangeRefs, Record, View};
use keepd_types::{KeyRange, KeyValue, LeaseId, Revision};
use tonic::Status;

use super::range;
use crate::blocking::INLINE_RECORDS_MAX;
use crate::context::Context;
use crate::errors;

/// Records of a compared range that are loaded together.
const COMPARED_AT_ONCE: usize = 256;

/// A put with its value sealed.
pub(crate) fn put(context: &Context, request: PutRequest) -> Result<Put, Status> {
    let value = if request.ignore_value {
        // The old value is read when the command is applied, where one that cannot be read would stop
        // this member, and stop it again at each start.
        let view = context.node.view();
        let range = KeyRange::point(request.key.clone());
        if let Some((_, revision)) = view.range(&range, 0, 1).map_err(errors::range)?.keys.first() {
            view.load(*revision).map_err(errors::store)?;
        }
        keepd_types::StoredValue::default()
    } else {
        context.seal(&request.key, request.value)?
    };
    Ok(Put {
        key: request.key,
        value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A delete.
pub(crate) fn delete(request: DeleteRangeRequest) -> DeleteRange {
    DeleteRange {
        range: KeyRange::from_request(request.key, request.range_end),
        prev_kv: request.prev_kv,
    }
}

/// Whether values are compared; an unknown target is none.
pub(crate) fn is_of_values(request: &CompareRequest) -> bool {
    request.target == CompareTarget::Value as i32
}

/// The most records that the comparisons picked by `counts` may read.
fn compared_records(
    view: &View,
    compares: &[CompareRequest],
    counts: fn(&CompareRequest) -> bool,
) -> Result<u64, Status> {
    let mut records = 0;
    for compare in compares.iter().filter(|compare| counts(compare)) {
        let range = KeyRange::from_request(compare.key.clone(), compare.range_end.clone());
        records += match range.is_point() {
            true => 1,
            false => view.count(&range, 0).map_err(errors::range)?,
        };
    }
    Ok(records)
}

/// The most values that a transaction and the nested ones may compare.
fn compared_values(view: &View, request: &TxnRequest) -> Result<u64, Status> {
    let mut records = compared_records(view, &request.compare, is_of_values)?;
    for op in request.success.iter().chain(&request.failure) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            records += compared_values(view, nested)?;
        }
    }
    Ok(records)
}

/// Reads `records` records: here if they are few, else on a blocking thread.
async fn read<T: Send + 'static>(
    context: &Arc<Context>,
    view: &Arc<View>,
    records: u64,
    read: impl FnOnce(&Context, &View) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if records <= INLINE_RECORDS_MAX as u64 {
        return read(context, view);
    }
    let (shared, view) = (Arc::clone(context), Arc::clone(view));
    context.admission.large_reads.run(move || read(&shared, &view)).await?
}

/// A transaction whose value comparisons are resolved against `view`.
pub(crate) async fn resolved(
    context: &Arc<Context>,
    view: &Arc<View>,
    request: TxnRequest,
) -> Result<Txn, Status> {
    let records = compared_values(view, &request)?;
    read(context, view, records, move |context, view| txn(context, view, request)).await
}

fn txn(context: &Context, view: &View, request: TxnRequest) -> Result<Txn, Status> {
    let compares = request.compare.iter().map(|compare| self::compare(context, view, compare));
    let compares = compares.collect::<Result<_, _>>()?;
    let ops = |list: Vec<RequestOp>| -> Result<Vec<Op>, Status> {
        list.into_iter().filter_map(|op| op.request).map(|op| self::op(context, view, op)).collect()
    };
    Ok(Txn { compares, success: ops(request.success)?, failure: ops(request.failure)? })
}

fn op(context: &Context, view: &View, request: Request) -> Result<Op, Status> {
    Ok(match request {
        Request::RequestRange(request) => Op::Range(Range {
            range: range::key_range(&request),
            revision: request.revision,
            fetch_limit: range::fetch_limit(&request) as u64,
        }),
        Request::RequestPut(request) => Op::Put(put(context, request)?),
        Request::RequestDeleteRange(request) => Op::DeleteRange(delete(request)),
        Request::RequestTxn(request) => Op::Txn(Box::new(txn(context, view, request)?)),
    })
}

fn compare(context: &Context, view: &View, request: &CompareRequest) -> Result<Compare, Status> {
    let range = KeyRange::from_request(request.key.clone(), request.range_end.clone());
    if is_of_values(request) {
        return resolve(context, view, range, request);
    }
    let (target, operand) = number_target(request);
    Ok(Compare::Number { range, target, relation: relation(request), operand })
}

/// The number that is compared and its operand. An operand that is missing or of another target counts
/// as zero.
fn number_target(request: &CompareRequest) -> (Target, i64) {
    let union = request.target_union.as_ref();
    let Ok(target) = CompareTarget::try_from(request.target) else { return (Target::Unknown, 0) };
    match (target, union) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => (Target::Version, *n),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => (Target::Create, *n),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => (Target::Mod, *n),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => (Target::Lease, *n),
        (CompareTarget::Version, _) => (Target::Version, 0),
        (CompareTarget::Create, _) => (Target::Create, 0),
        (CompareTarget::Mod, _) => (Target::Mod, 0),
        (CompareTarget::Lease, _) => (Target::Lease, 0),
        (CompareTarget::Value, _) => (Target::Unknown, 0),
    }
}

fn relation(request: &CompareRequest) -> Relation {
    match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => Relation::Any,
    }
}

/// Compares values here, where they can be opened, and guards the result by the number of keys and the
/// revision at which it was found. Without any key it is false, whatever the relation.
fn resolve(
    context: &Context,
    view: &View,
    range: KeyRange,
    request: &CompareRequest,
) -> Result<Compare, Status> {
    let operand: &[u8] = match &request.target_union {
        Some(TargetUnion::Value(value)) => value,
        _ => &[],
    };
    let refs = view.range(&range, 0, 0).map_err(errors::range)?;
    let guard = Guard { keys: refs.keys.len() as u64, revision: view.revision() };
    let relation = relation(request);
    let result = guard.keys > 0
        && all_records(view, &refs, |record| {
            let kv = context.client_kv(record)?;
            let stored: &[u8] = &kv.value;
            Ok(relation.holds(stored, operand))
        })?;
    Ok(Compare::Resolved { range, guard, result })
}

/// Whether every record passes; stops at the first that does not.
fn all_records(
    view: &View,
    refs: &RangeRefs,
    passes: impl Fn(Record) -> Result<bool, Status>,
) -> Result<bool, Status> {
    for keys in refs.keys.chunks(COMPARED_AT_ONCE) {
        let revisions: Vec<Revision> = keys.iter().map(|(_, revision)| *revision).collect();
        for record in view.load_many(&revisions).map_err(errors::store)? {
            if !passes(record)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether all comparisons hold on a view, for transactions that only read.
pub(crate) async fn all_hold(
    context: &Arc<Context>,
    view: &Arc<View>,
    compares: &[CompareRequest],
) -> Result<bool, Status> {
    let records = compared_records(view, compares, |_| true)?;
    let compares = compares.to_vec();
    read(context, view, records, move |context, view| {
        for compare in &compares {
            if !holds(context, view, compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

fn holds(context: &Context, view: &View, request: &CompareRequest) -> Result<bool, Status> {
    let (range, target, relation, operand) = match compare(context, view, request)? {
        Compare::Resolved { result, .. } => return Ok(result),
        Compare::Number { range, target, relation, operand } => (range, target, relation, operand),
    };
    if target != Target::Lease {
        let absent = KeyState { create_revision: 0, mod_revision: Revision::default(), version: 0 };
        let holds = |state: &KeyState| relation.holds(&target.of(state, operand), &operand);
        return Ok(view.all(&range, |_, _, state| holds(state)).unwrap_or_else(|| holds(&absent)));
    }
    let refs = view.range(&range, 0, 0).map_err(errors::range)?;
    if refs.keys.is_empty() {
        return Ok(relation.holds(&0, &operand));
    }
    // The index does not know leases.
    all_records(view, &refs, |record| {
        let kv = KeyValue::decode(&record.encoded).map_err(errors::record)?;
        Ok(relation.holds(&kv.lease.0, &operand))
    })
}
