//! Requests to commands: seals values, resolves comparisons of values.

use keepd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{
    Compare as CompareRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use keepd_machine::command::{Compare, DeleteRange, Op, Put, Range, Relation, Target, Txn};
use keepd_mvcc::View;
use keepd_types::{KeyRange, KeyValue, LeaseId};
use tonic::Status;

use super::range;
use crate::context::Context;
use crate::errors;

/// A put with its value sealed.
pub(crate) fn put(context: &Context, request: PutRequest) -> Result<Put, Status> {
    let value = if request.ignore_value {
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

/// A transaction whose value comparisons are resolved against `view`.
pub(crate) fn txn(context: &Context, view: &View, request: TxnRequest) -> Result<Txn, Status> {
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
    if request.target() == CompareTarget::Value && request.target == CompareTarget::Value as i32 {
        return resolve(context, view, range, request);
    }
    let (target, operand) = number_target(request);
    Ok(Compare::Number { range, target, relation: relation(request), operand })
}

/// Which number is compared with what. A missing or foreign operand counts as zero.
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

/// Compares values here, where the keys to open them are, and guards the result by revisions.
/// No key found is false, whatever the operator.
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
    let mut result = !refs.keys.is_empty();
    let mut guard = Vec::with_capacity(refs.keys.len());
    for (key, revision) in refs.keys {
        let record = view.load(revision).map_err(errors::store)?;
        let kv = context.client_kv(record)?;
        let stored: &[u8] = &kv.value;
        result &= relation(request).holds(stored, operand);
        guard.push((key, revision.main));
    }
    Ok(Compare::Resolved { range, guard, result })
}

/// Evaluates a comparison on a view, for transactions that only read.
pub(crate) fn holds(
    context: &Context,
    view: &View,
    request: &CompareRequest,
) -> Result<bool, Status> {
    let (range, target, relation, operand) = match compare(context, view, request)? {
        Compare::Resolved { result, .. } => return Ok(result),
        Compare::Number { range, target, relation, operand } => (range, target, relation, operand),
    };
    let refs = view.range(&range, 0, 0).map_err(errors::range)?;
    if refs.keys.is_empty() {
        let zero = KeyValue::default();
        return Ok(relation.holds(&number(&zero, target, operand), &operand));
    }
    for (_, revision) in refs.keys {
        let record = view.load(revision).map_err(errors::store)?;
        let kv = KeyValue::decode(&record.encoded).map_err(errors::record)?;
        if !relation.holds(&number(&kv, target, operand), &operand) {
            return Ok(false);
        }
    }
    Ok(true)
}

const fn number(kv: &KeyValue, target: Target, operand: i64) -> i64 {
    match target {
        Target::Version => kv.version,
        Target::Create => kv.create_revision,
        Target::Mod => kv.mod_revision,
        Target::Lease => kv.lease.0,
        Target::Unknown => operand,
    }
}
