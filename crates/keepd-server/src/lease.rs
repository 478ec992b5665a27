//! The Lease service.

mod keep_alive;

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use keepd_machine::{ApplyError, Command, CommandResponse};
use keepd_types::LeaseId;
use tonic::Status;

pub(crate) use self::keep_alive::keep_alive;
use crate::admission::quota;
use crate::context::Context;
use crate::errors;
use crate::grpc::call::Call;

/// BOUND: attempts to find an id that is not taken.
const ID_ATTEMPTS_MAX: usize = 8;

pub(crate) async fn grant(
    context: &Arc<Context>,
    call: Call<LeaseGrantRequest>,
) -> Result<LeaseGrantResponse, Status> {
    context.admission.write(quota::LEASE_COST).await?;
    let request = call.request;
    // Raised here and not when it is applied: members may have other options.
    let ttl = request.ttl.max(context.node.options().lease_ttl_min());
    for _ in 0..ID_ATTEMPTS_MAX {
        let id = match request.id {
            0 => context.next_lease_id(),
            id => LeaseId(id),
        };
        let command = Command::LeaseGrant { id, ttl };
        let done = context.propose(command).await?;
        let header = Some(context.header(done.outcome.revision));
        match done.outcome.result {
            Ok(CommandResponse::LeaseGrant { id, ttl }) => {
                return Ok(LeaseGrantResponse { header, id: id.0, ttl, error: String::new() });
            }
            Err(ApplyError::LeaseExists) if request.id == 0 => {}
            Err(error) => return Err(errors::apply(error)),
            Ok(_) => {
                return Err(Status::internal("keepd: the state machine answered another command"));
            }
        }
    }
    Err(Api::LeaseExists.into())
}

pub(crate) async fn revoke(
    context: &Arc<Context>,
    call: Call<LeaseRevokeRequest>,
) -> Result<LeaseRevokeResponse, Status> {
    let command = Command::LeaseRevoke { id: LeaseId(call.request.id) };
    let done = context.propose(command).await?;
    done.outcome.result.map_err(errors::apply)?;
    let header = Some(context.header(done.outcome.revision));
    Ok(LeaseRevokeResponse { header })
}

pub(crate) async fn time_to_live(
    context: &Arc<Context>,
    call: Call<LeaseTimeToLiveRequest>,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let LeaseTimeToLiveRequest { id, keys } = call.request;
    let time = context.node.lease_time_to_live(LeaseId(id), keys).await.map_err(errors::node)?;
    let header = Some(context.current_header());
    Ok(match time {
        Some(time) => LeaseTimeToLiveResponse {
            header,
            id,
            ttl: time.remaining_ttl,
            granted_ttl: time.granted_ttl,
            keys: time.keys,
        },
        None => LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
    })
}

pub(crate) async fn leases(
    context: &Arc<Context>,
    _call: Call<LeaseLeasesRequest>,
) -> Result<LeaseLeasesResponse, Status> {
    let leases = context.node.leases().await.map_err(errors::node)?;
    let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
    let header = Some(context.current_header());
    Ok(LeaseLeasesResponse { header, leases })
}
