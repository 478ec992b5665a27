//! The quota at the door: what a request may add, against live bytes.

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use keepd_machine::Command;
use keepd_machine::command::{ALARM_NOSPACE, Alarm};
use tonic::Status;

use crate::context::Context;

/// What a record costs beside key and value.
const PUT_OVERHEAD: usize = 256;
/// What a lease costs.
pub(crate) const LEASE_COST: i64 = 64;

pub(crate) fn put_cost(request: &PutRequest) -> i64 {
    let bytes = PUT_OVERHEAD + request.key.len() + request.value.len();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The dearer of the two branches.
pub(crate) fn txn_cost(request: &TxnRequest) -> i64 {
    let branch = |ops: &[RequestOp]| -> i64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(request)) => put_cost(request),
                Some(Request::RequestTxn(request)) => txn_cost(request),
                Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
            })
            .fold(0, i64::saturating_add)
    };
    branch(&request.success).max(branch(&request.failure))
}

/// Refuses a request that does not fit, after raising the NOSPACE alarm. Here writes also give way
/// to a transaction that could not get through for all of them.
pub(crate) async fn check(context: &Context, cost: i64) -> Result<(), Status> {
    context.compare_queues.yield_to_starved().await;
    if context.node.admits(cost) {
        return Ok(());
    }
    let space = context.node.space();
    let alarm = Alarm { member: context.node.identity().member, kind: ALARM_NOSPACE };
    // When the disk is full the node raises the alarm, and has said why.
    if !space.is_disk_full && !context.node.alarms().contains(&alarm) {
        tracing::warn!(
            live_bytes = space.live_bytes,
            quota_bytes = space.quota_bytes,
            "the quota is used up: raising the NOSPACE alarm; delete keys, compact, or raise \
             --quota-backend-bytes"
        );
        // The request is refused whether or not the alarm gets through.
        if let Err(error) = context.node.propose(Command::AlarmActivate(alarm)).await {
            tracing::warn!(%error, "the NOSPACE alarm could not be raised");
        }
    }
    Err(Api::NoSpace.into())
}
