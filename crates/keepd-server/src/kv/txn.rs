//! Transactions: read-only ones on a view, all others through the log.

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::response_op::Response as OpReply;
use keepd_api::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeRequest, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use keepd_machine::outcome::{self, Handle, OpResponse};
use keepd_machine::{ApplyError, Command, Response};
use keepd_mvcc::View;
use tonic::Status;

use super::{convert, range};
use crate::context::Context;
use crate::errors;

/// How often a transaction whose compared values changed under it is resolved again.
const RESOLVE_ATTEMPTS_MAX: usize = 32;

/// Runs a validated transaction.
pub(crate) async fn run(
    context: &Arc<Context>,
    request: TxnRequest,
) -> Result<TxnResponse, Status> {
    if is_read_only(&request) {
        return read_only(context, request).await;
    }
    for _ in 0..RESOLVE_ATTEMPTS_MAX {
        let view = context.node.view();
        let txn = convert::txn(context, &view, request.clone())?;
        drop(view);
        let done = context.node.propose(Command::Txn(Box::new(txn))).await.map_err(errors::node)?;
        let mut response = match done.outcome.result {
            Ok(Response::Txn(outcome)) => {
                Replies { context, view: &done.view }.txn(&request, outcome).await?
            }
            Ok(other) => unreachable_response(&other)?,
            Err(ApplyError::GuardMissed) => continue,
            Err(error) => return Err(errors::apply(error)),
        };
        response.header = Some(context.header(done.outcome.revision));
        return Ok(response);
    }
    Err(errors::apply(ApplyError::GuardMissed))
}

fn unreachable_response<T>(response: &Response) -> Result<T, Status> {
    tracing::error!(?response, "the state machine answered another command");
    Err(Status::internal("keepd: the state machine answered another command"))
}

/// Every operation of both branches is a range; a nested transaction makes it a write.
fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// A transaction without any operation counts as serializable, as in etcd.
fn is_serializable(request: &TxnRequest) -> bool {
    ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

async fn read_only(context: &Arc<Context>, request: TxnRequest) -> Result<TxnResponse, Status> {
    let view = if is_serializable(&request) {
        context.node.view()
    } else {
        context.node.linearizable_view().await.map_err(errors::node)?
    };
    let mut succeeded = true;
    for compare in &request.compare {
        succeeded &= convert::holds(context, &view, compare)?;
    }
    let branch = if succeeded { request.success } else { request.failure };
    let ranges: Vec<RangeRequest> = branch
        .into_iter()
        .filter_map(|op| match op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
        .collect();
    for range in &ranges {
        check_revision(&view, range.revision)?;
    }
    let mut responses = Vec::with_capacity(ranges.len());
    for request in ranges {
        let refs = view
            .range(
                &range::key_range(&request),
                request.revision.max(0),
                range::fetch_limit(&request),
            )
            .map_err(errors::range)?;
        let revisions = refs.keys.into_iter().map(|(_, revision)| revision).collect();
        let kvs = range::load_kvs(context, &view, revisions).await?;
        let header = inner_header(view.revision());
        let response = range::finish(&request, header, kvs, refs.count);
        responses.push(ResponseOp { response: Some(OpReply::ResponseRange(response)) });
    }
    Ok(TxnResponse { header: Some(context.header(view.revision())), succeeded, responses })
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

/// Turns an outcome into the answer: loads the records it names and opens them.
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
        let branch = if outcome.succeeded { &request.success } else { &request.failure };
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
                OpResponse::Range { header_revision, handles, count },
                Some(Request::RequestRange(request)),
            ) => {
                let revisions = handles.into_iter().map(|handle| handle.revision).collect();
                let kvs = range::load_kvs(self.context, self.view, revisions).await?;
                let header = inner_header(header_revision);
                Ok(OpReply::ResponseRange(range::finish(request, header, kvs, count)))
            }
            (OpResponse::Put { header_revision, prev }, _) => {
                let header = Some(inner_header(header_revision));
                let prev_kv = prev.map(|handle| self.load(&handle)).transpose()?;
                Ok(OpReply::ResponsePut(PutResponse { header, prev_kv }))
            }
            (OpResponse::DeleteRange { header_revision, deleted, prev }, _) => {
                let header = Some(inner_header(header_revision));
                let prev_kvs = prev.iter().map(|handle| self.load(handle));
                let prev_kvs = prev_kvs.collect::<Result<_, _>>()?;
                Ok(OpReply::ResponseDeleteRange(DeleteRangeResponse { header, deleted, prev_kvs }))
            }
            (OpResponse::Txn(outcome), Some(Request::RequestTxn(request))) => {
                let nested = Box::pin(self.txn(request, outcome)).await?;
                Ok(OpReply::ResponseTxn(nested))
            }
            (response, _) => {
                tracing::error!(?response, "an operation was answered as another one");
                Err(Status::internal("keepd: an operation was answered as another one"))
            }
        }
    }

    fn load(&self, handle: &Handle) -> Result<keepd_api::mvccpb::KeyValue, Status> {
        self.context.load(self.view, handle.revision)
    }
}
