//! The KV service, routed by hand so that its answers need no second encoding.

mod convert;
mod price;
pub(crate) mod quota;
mod range;
mod stream;
pub(crate) mod txn;
mod validate;

use std::sync::Arc;

use keepd_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, TxnRequest,
};
use keepd_machine::{Command, Response as Outcome};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::answers::{self, Reading};
use crate::codec::Payload;
use crate::context::{Context, to_proto};
use crate::errors;
use crate::wire;

/// The KV service.
#[derive(Clone, Debug)]
pub(crate) struct KvService {
    context: Arc<Context>,
}

type Answer = Result<Payload, Status>;

/// What a request may bring back.
pub(crate) trait Reads {
    /// Whether values, however large.
    fn reads(&self) -> bool {
        false
    }

    /// Whether a long list of them.
    fn lists(&self) -> bool {
        false
    }
}

impl Reads for RangeRequest {
    fn reads(&self) -> bool {
        true
    }

    fn lists(&self) -> bool {
        range::is_large(self)
    }
}

impl Reads for TxnRequest {
    fn reads(&self) -> bool {
        range::has_reads(self)
    }

    fn lists(&self) -> bool {
        range::has_large(self)
    }
}

impl Reads for DeleteRangeRequest {
    fn reads(&self) -> bool {
        self.prev_kv
    }

    fn lists(&self) -> bool {
        self.prev_kv && !self.range_end.is_empty()
    }
}

impl Reads for PutRequest {
    fn reads(&self) -> bool {
        self.prev_kv
    }
}

impl Reads for CompactionRequest {}

impl KvService {
    pub(crate) const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    pub(crate) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) async fn range(self, request: RangeRequest) -> Answer {
        let context = &self.context;
        validate::range(&request)?;
        let view = if request.serializable {
            context.node.view()
        } else {
            context.node.linearizable_view().await.map_err(errors::node)?
        };
        let header = context.header(view.revision());
        if !range::is_large(&request) {
            return range::answer(context, &view, header, request).await;
        }
        let context = Arc::clone(context);
        let answer = async move { range::answer(&context, &view, header, request).await };
        AbortOnDropHandle::new(tokio::spawn(answer)).await.map_err(errors::task)?
    }

    pub(crate) async fn range_stream(
        self,
        request: RangeRequest,
    ) -> Result<Reading<Payload>, Status> {
        let context = self.context;
        validate::range(&request)?;
        if !range::has_default_order(&request) {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if range::has_filters(&request) {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        let view = if request.serializable {
            context.node.view()
        } else {
            context.node.linearizable_view().await.map_err(errors::node)?
        };
        let header = context.header(view.revision());
        let (chunks, reading) = answers::queue(stream::CHUNKS_AHEAD_MAX);
        tokio::spawn(stream::run(context, view, header, request, chunks));
        Ok(reading)
    }

    pub(crate) async fn put(self, request: PutRequest) -> Answer {
        let context = &self.context;
        quota::check(context, quota::put_cost(&request)).await?;
        validate::put(&request)?;
        let command = Command::Put(convert::put(context, request)?);
        let done = context.node.propose(command).await.map_err(errors::node)?;
        let header = context.header(done.outcome.revision);
        let outcome = done.outcome.result.map_err(errors::apply)?;
        if let Outcome::Put { prev: Some(prev) } = outcome {
            let prev_kv = Some(context.load(&done.view, prev.revision)?);
            return Ok(Payload::of(&PutResponse { header: Some(header), prev_kv }));
        }
        let mut out = Vec::with_capacity(48);
        wire::header_field(&header, &mut out);
        Ok(out.into())
    }

    pub(crate) async fn delete_range(self, request: DeleteRangeRequest) -> Answer {
        let context = &self.context;
        validate::delete(&request)?;
        let command = Command::DeleteRange(convert::delete(request));
        let done = context.node.propose(command).await.map_err(errors::node)?;
        let header = Some(context.header(done.outcome.revision));
        let mut response = DeleteRangeResponse { header, ..Default::default() };
        if let Outcome::DeleteRange { deleted, prev } =
            done.outcome.result.map_err(errors::apply)?
        {
            response.deleted = deleted;
            let revisions = prev.into_iter().map(|handle| handle.revision).collect();
            let kvs = range::load_kvs(context, &done.view, revisions).await?;
            response.prev_kvs = kvs.into_iter().map(to_proto).collect();
        }
        Ok(Payload::of(&response))
    }

    pub(crate) async fn txn(self, request: TxnRequest) -> Answer {
        let context = &self.context;
        // etcd looks at the local quota before it validates.
        quota::check(context, quota::txn_cost(&request)).await?;
        validate::txn(&request, context.limits.txn_ops_max)?;
        price::check(&context.node.view(), &request)?;
        if !range::has_large(&request) {
            return Ok(Payload::of(&txn::run(context, request).await?));
        }
        let context = Arc::clone(context);
        let answer = async move { Ok(Payload::of(&txn::run(&context, request).await?)) };
        AbortOnDropHandle::new(tokio::spawn(answer)).await.map_err(errors::task)?
    }

    pub(crate) async fn compact(self, request: CompactionRequest) -> Answer {
        let context = &self.context;
        let command = Command::Compact { revision: request.revision };
        let done = context.node.propose(command).await.map_err(errors::node)?;
        if request.physical {
            // Also when the answer is an error, as in etcd.
            context.node.settle_compactions().await.map_err(errors::node)?;
        }
        done.outcome.result.map_err(errors::apply)?;
        let header = Some(context.header(done.outcome.revision));
        Ok(Payload::of(&CompactionResponse { header }))
    }
}
