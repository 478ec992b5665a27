//! The KV service. Its answers are assembled from encoded records.

mod list;
mod price;
mod range;
mod records;
mod stream;
mod to_command;
mod txn;
mod validate;

use std::pin::pin;
use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, TxnRequest,
};
use keepd_machine::{Command, CommandResponse};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::admission::quota;
use crate::context::{Context, to_proto};
use crate::encoded_message::EncodedMessage;
use crate::errors;
use crate::grpc::call::Call;
use crate::grpc::deadline::in_time;
use crate::protobuf;
use crate::response_stream::{self, Receiver};

pub(crate) async fn range(
    context: &Arc<Context>,
    call: Call<RangeRequest>,
) -> Result<EncodedMessage, Status> {
    let is_large = range::is_large(&call.request);
    let permit = call.admit_answer(is_large).await;
    let (request, deadline) = (call.request, call.deadline);
    if !request.serializable && context.node.is_learner() {
        return Err(Api::NotSupportedForLearner.into());
    }
    validate::range(&request)?;
    let view = context.view(request.serializable).await?;
    let header = context.header(view.revision());
    if !is_large {
        return range::answer(context, &view, header, request).await;
    }
    let context = Arc::clone(context);
    let answer = async move { range::answer(&context, &view, header, request).await };
    Ok(EncodedMessage { permit, ..in_own_task(deadline, answer).await.map_err(errors::task)?? })
}

/// Works on a large answer in a task of its own, so that the other calls of the connection go on. It
/// ends with its call. Not `async`: the work would be part of the future of every small call too.
fn in_own_task(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<EncodedMessage, Status>> + Send + 'static,
) -> AbortOnDropHandle<Result<EncodedMessage, Status>> {
    AbortOnDropHandle::new(tokio::spawn(async move { in_time(deadline, pin!(work)).await }))
}

pub(crate) async fn range_stream(
    context: &Arc<Context>,
    call: Call<RangeRequest>,
) -> Result<Receiver<EncodedMessage>, Status> {
    let request = call.request;
    validate::range(&request)?;
    if !range::has_default_order(&request) {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if range::has_filters(&request) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let view = context.view(request.serializable).await?;
    let header = context.header(view.revision());
    let (chunks, reading) = response_stream::channel(stream::CHUNKS_AHEAD_MAX);
    tokio::spawn(stream::run(Arc::clone(context), view, header, request, chunks));
    Ok(reading)
}

pub(crate) async fn put(
    context: &Arc<Context>,
    call: Call<PutRequest>,
) -> Result<EncodedMessage, Status> {
    if call.request.prev_kv {
        call.admit_answer(false).await;
    }
    let request = call.request;
    context.admission.write(quota::put_cost(&request)).await?;
    validate::put(&request)?;
    let seal = || Ok(Command::Put(to_command::put(context, request.clone())?));
    let done = context.propose_sealed(seal).await?;
    let header = context.header(done.outcome.revision);
    let outcome = done.outcome.result.map_err(errors::apply)?;
    if let CommandResponse::Put { prev: Some(prev) } = outcome {
        let prev_kv = Some(context.load(&done.view, prev.revision)?);
        return Ok(EncodedMessage::of(&PutResponse { header: Some(header), prev_kv }));
    }
    let mut out = Vec::with_capacity(48);
    protobuf::header_field(&header, &mut out);
    Ok(out.into())
}

pub(crate) async fn delete_range(
    context: &Arc<Context>,
    call: Call<DeleteRangeRequest>,
) -> Result<EncodedMessage, Status> {
    let wants_values = call.request.prev_kv;
    let permit = if wants_values {
        call.admit_answer(!call.request.range_end.is_empty()).await
    } else {
        None
    };
    let request = call.request;
    validate::delete(&request)?;
    let command = Command::DeleteRange(to_command::delete(request));
    let done = context.propose(command).await?;
    let header = Some(context.header(done.outcome.revision));
    let mut response = DeleteRangeResponse { header, ..Default::default() };
    if let CommandResponse::DeleteRange { deleted, prev } =
        done.outcome.result.map_err(errors::apply)?
    {
        response.deleted = deleted;
        let revisions = prev.into_iter().map(|handle| handle.revision).collect();
        let kvs = records::load_kvs(context, &done.view, revisions).await?;
        response.prev_kvs = kvs.into_iter().map(to_proto).collect();
    }
    Ok(EncodedMessage { permit, ..EncodedMessage::of(&response) })
}

pub(crate) async fn txn(
    context: &Arc<Context>,
    call: Call<TxnRequest>,
) -> Result<EncodedMessage, Status> {
    let has_large = range::has_large(&call.request);
    let permit =
        if range::has_reads(&call.request) { call.admit_answer(has_large).await } else { None };
    let (request, deadline) = (call.request, call.deadline);
    // etcd looks at the local quota before it validates.
    context.admission.write(quota::txn_cost(&request)).await?;
    validate::txn(&request, context.limits.txn_ops_max)?;
    price::check(&context.node.view(), &request)?;
    if !has_large {
        return Ok(EncodedMessage::of(&txn::run(context, request).await?));
    }
    let context = Arc::clone(context);
    let answer = async move { Ok(EncodedMessage::of(&txn::run(&context, request).await?)) };
    Ok(EncodedMessage { permit, ..in_own_task(deadline, answer).await.map_err(errors::task)?? })
}

pub(crate) async fn compact(
    context: &Arc<Context>,
    call: Call<CompactionRequest>,
) -> Result<CompactionResponse, Status> {
    let command = Command::Compact { revision: call.request.revision };
    let done = context.propose(command).await?;
    if call.request.physical {
        // Also when the answer is an error, as in etcd.
        context.node.settle_compactions().await.map_err(errors::node)?;
    }
    done.outcome.result.map_err(errors::apply)?;
    let header = Some(context.header(done.outcome.revision));
    Ok(CompactionResponse { header })
}

#[cfg(test)]
mod tests;
