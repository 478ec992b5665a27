//! Transactions: read-only ones on a view, all others through the log.
//!
//! Values are compared here, against a view, and the result is guarded in the log (rule 9.3). A
//! transaction whose compared values have changed when it is applied is tried again, in a
//! turn: see [`crate::admission`].

use std::sync::Arc;

use bytes::Bytes;
use keepd_api::Error as Api;
use keepd_api::etcdserverpb::range_request::SortTarget;
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::response_op::Response as OpReply;
use keepd_api::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    ResponseOp, TxnRequest, TxnResponse,
};
use keepd_machine::outcome::{self, OpResponse, RecordRef};
use keepd_machine::{ApplyError, Command, CommandResponse};
use keepd_mvcc::View;
use keepd_types::{LeaseId, Revision};
use tokio::time::Instant;
use tonic::Status;

use super::{range, records, to_command};
use crate::context::{Context, SEALS_MAX, to_proto};
use crate::errors;

/// Misses in its turn after which a transaction makes other writes yield.
const MISSES_MAX: usize = 3;

/// Runs a validated transaction.
pub(crate) async fn run(
    context: &Arc<Context>,
    request: TxnRequest,
) -> Result<TxnResponse, Status> {
    if is_read_only(&request) {
        let view = context.view(is_serializable(&request)).await?;
        return read_only(context, &view, &request).await;
    }
    let Some(compared) = first_compared_value(&request) else {
        let applied = attempt(context, &context.node.view(), &request).await?;
        return applied.ok_or_else(|| errors::apply(ApplyError::GuardMissed));
    };
    let began = Instant::now();
    if !context.admission.compare_queues.is_contested(compared)
        && let Some(response) = attempt(context, &context.node.view(), &request).await?
    {
        return Ok(response);
    }
    // BOUND: the request timeout, as for any request. After it the transaction may have been applied.
    let deadline = began + context.node.options().request_timeout();
    let in_turn = in_turn(context, &request, compared);
    tokio::time::timeout_at(deadline, in_turn).await.map_err(|_elapsed| Api::TimedOut)?
}

/// The key of the first comparison of values, if there is any.
fn first_compared_value(request: &TxnRequest) -> Option<&Bytes> {
    let own = request.compare.iter().find(|compare| to_command::is_of_values(compare));
    own.map(|compare| &compare.key).or_else(|| {
        ops(request).find_map(|op| match &op.request {
            Some(Request::RequestTxn(nested)) => first_compared_value(nested),
            _ => None,
        })
    })
}

/// Compares the values and proposes the command that follows; `None` if they had changed when it was
/// applied.
async fn attempt(
    context: &Arc<Context>,
    view: &Arc<View>,
    request: &TxnRequest,
) -> Result<Option<TxnResponse>, Status> {
    let mut seals = 0;
    let done = loop {
        let txn = to_command::resolved(context, view, request.clone()).await?;
        let done = context.propose(Command::Txn(Box::new(txn))).await?;
        seals += 1;
        if seals == SEALS_MAX || done.outcome.result != Err(ApplyError::KeyNotActive) {
            break done;
        }
    };
    let mut response = match done.outcome.result {
        Ok(CommandResponse::Txn(outcome)) => {
            Replies { context, view: &done.view }.txn(request, outcome).await?
        }
        Ok(other) => unreachable_response(&other)?,
        Err(ApplyError::GuardMissed) => return Ok(None),
        Err(error) => return Err(errors::apply(error)),
    };
    response.header = Some(context.header(done.outcome.revision));
    Ok(Some(response))
}

/// Tries until the compared values did not change in between, or until the branch to take only reads:
/// that is answered from a view, so it cannot miss.
async fn in_turn(
    context: &Arc<Context>,
    request: &TxnRequest,
    compared: &[u8],
) -> Result<TxnResponse, Status> {
    let mut turn = context.admission.compare_queues.take(compared).await;
    let mut misses = 0;
    loop {
        let view = context.view(false).await?;
        // With an alarm the transaction may be refused when it is applied, so it has to be proposed.
        if context.node.alarms().is_empty() {
            let holds = to_command::all_hold(context, &view, &request.compare).await?;
            if branch(request, holds).iter().all(is_range) {
                return answer_reads(context, &view, request, holds).await;
            }
        }
        if let Some(response) = attempt(context, &view, request).await? {
            return Ok(response);
        }
        misses += 1;
        if misses == MISSES_MAX {
            turn.preempt();
        }
    }
}

fn unreachable_response<T>(response: &CommandResponse) -> Result<T, Status> {
    tracing::error!(?response, "the state machine answered another command");
    Err(Status::internal("keepd: the state machine answered another command"))
}

/// Every operation of both branches is a range; a nested transaction makes it a write.
fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(is_range)
}

fn is_range(op: &RequestOp) -> bool {
    matches!(op.request, Some(Request::RequestRange(_)))
}

/// A transaction without any operation counts as serializable, as in etcd.
fn is_serializable(request: &TxnRequest) -> bool {
    ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

async fn read_only(
    context: &Arc<Context>,
    view: &Arc<View>,
    request: &TxnRequest,
) -> Result<TxnResponse, Status> {
    let succeeded = to_command::all_hold(context, view, &request.compare).await?;
    answer_reads(context, view, request, succeeded).await
}

/// Answers from a view what the chosen branch, all ranges, asks for.
async fn answer_reads(
    context: &Arc<Context>,
    view: &Arc<View>,
    request: &TxnRequest,
    succeeded: bool,
) -> Result<TxnResponse, Status> {
    let ranges: Vec<&RangeRequest> = branch(request, succeeded)
        .iter()
        .filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
        .collect();
    for range in &ranges {
        check_revision(view, range.revision)?;
    }
    let mut responses = Vec::with_capacity(ranges.len());
    for request in ranges {
        let refs = view
            .range(&range::key_range(request), request.revision.max(0), range::fetch_limit(request))
            .map_err(errors::range)?;
        let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
        let header = inner_header(view.revision());
        let response = answer_range(context, view, request, header, revisions, refs.count).await?;
        responses.push(ResponseOp { response: Some(OpReply::ResponseRange(response)) });
    }
    Ok(TxnResponse { header: Some(context.header(view.revision())), succeeded, responses })
}

/// Answers a range from the records that it found.
async fn answer_range(
    context: &Arc<Context>,
    view: &Arc<View>,
    request: &RangeRequest,
    header: ResponseHeader,
    revisions: Vec<Revision>,
    count: u64,
) -> Result<RangeResponse, Status> {
    let revisions = if request.count_only { Vec::new() } else { revisions };
    let mut kvs = records::load_kvs(context, view, revisions).await?;
    if request.keys_only && request.sort_target() != SortTarget::Value {
        // etcd takes keys from its index, which knows no leases: its clients see none.
        kvs.iter_mut().for_each(|kv| kv.lease = LeaseId::NONE);
    }
    Ok(range::finish(request, header, kvs, count))
}

/// The bounds of revisions inside a transaction differ from those of a range of its own: etcd's
/// clients can see this.
fn check_revision(view: &View, revision: i64) -> Result<(), Api> {
    if revision == 0 {
        Ok(())
    } else if revision > view.revision() {
        Err(Api::FutureRevision)
    } else if revision < view.compact_revision() {
        Err(Api::Compacted)
    } else {
        Ok(())
    }
}

/// Headers of operations show the revision only.
fn inner_header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..Default::default() }
}

/// Makes the answer from an outcome: loads the records that it names and opens them.
struct Replies<'a> {
    context: &'a Arc<Context>,
    view: &'a Arc<View>,
}

impl Replies<'_> {
    async fn txn(
        &self,
        request: &TxnRequest,
        outcome: outcome::TxnResponse,
    ) -> Result<TxnResponse, Status> {
        let branch = branch(request, outcome.succeeded);
        let mut responses = Vec::with_capacity(outcome.responses.len());
        for (op, response) in branch.iter().zip(outcome.responses) {
            responses.push(ResponseOp { response: Some(self.op(op, response).await?) });
        }
        // Nested headers are present and zero.
        let header = Some(ResponseHeader::default());
        Ok(TxnResponse { header, succeeded: outcome.succeeded, responses })
    }

    async fn op(&self, op: &RequestOp, response: OpResponse) -> Result<OpReply, Status> {
        match (response, &op.request) {
            (
                OpResponse::Range { header_revision, records, count },
                Some(Request::RequestRange(request)),
            ) => {
                let revisions = records.into_iter().map(|record| record.revision).collect();
                let header = inner_header(header_revision);
                let (context, view) = (self.context, self.view);
                let response = answer_range(context, view, request, header, revisions, count);
                Ok(OpReply::ResponseRange(response.await?))
            }
            (OpResponse::Put { header_revision, prev }, _) => {
                let header = Some(inner_header(header_revision));
                let prev_kv = prev.map(|handle| self.load(&handle)).transpose()?;
                Ok(OpReply::ResponsePut(PutResponse { header, prev_kv }))
            }
            (OpResponse::DeleteRange { header_revision, deleted, prev }, _) => {
                let header = Some(inner_header(header_revision));
                let revisions = prev.into_iter().map(|handle| handle.revision).collect();
                let prev_kvs = records::load_kvs(self.context, self.view, revisions).await?;
                let prev_kvs = prev_kvs.into_iter().map(to_proto).collect();
                Ok(OpReply::ResponseDeleteRange(DeleteRangeResponse { header, deleted, prev_kvs }))
            }
            (OpResponse::Txn(outcome), Some(Request::RequestTxn(request))) => {
                let nested = Box::pin(self.txn(request, outcome)).await?;
                Ok(OpReply::ResponseTxn(nested))
            }
            (response, _) => {
                tracing::error!(?response, "the state machine answered another operation");
                Err(Status::internal("keepd: the state machine answered another operation"))
            }
        }
    }

    fn load(&self, handle: &RecordRef) -> Result<keepd_api::mvccpb::KeyValue, Status> {
        self.context.load(self.view, handle.revision)
    }
}
