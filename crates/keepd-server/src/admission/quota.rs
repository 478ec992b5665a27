//! The quota: the bytes that a request may add, against the live bytes.

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use keepd_machine::Command;
use keepd_machine::command::{ALARM_NOSPACE, Alarm};
use keepd_node::Handle;
use tonic::Status;

/// Bytes that a record costs beside key and value.
const PUT_OVERHEAD: usize = 256;
/// Bytes that a lease costs.
pub(crate) const LEASE_COST: i64 = 64;

/// The cost of a put.
pub(crate) fn put_cost(request: &PutRequest) -> i64 {
    let bytes = PUT_OVERHEAD + request.key.len() + request.value.len();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The cost of a transaction: that of the dearer branch.
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

/// Refuses a request that does not fit, after raising the NOSPACE alarm.
pub(super) async fn check(node: &Handle, cost: i64) -> Result<(), Status> {
    if node.admits(cost) {
        return Ok(());
    }
    let space = node.space();
    let alarm = Alarm { member: node.identity().member, kind: ALARM_NOSPACE };
    // When the disk is full the node raises the alarm, and logs why.
    if !space.is_disk_full && !node.alarms().contains(&alarm) {
        tracing::warn!(
            live_bytes = space.live_bytes,
            quota_bytes = space.quota_bytes,
            "the quota is used up: raising the NOSPACE alarm; delete keys, compact, or raise \
             --quota-backend-bytes"
        );
        // The request is refused whether or not the alarm gets through.
        if let Err(error) = node.propose(Command::AlarmActivate(alarm)).await {
            tracing::warn!(%error, "the NOSPACE alarm could not be raised");
        }
    }
    Err(Api::NoSpace.into())
}
