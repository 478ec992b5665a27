//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use keepd_api::Error as Api;
use keepd_api::etcdserverpb::lease_server::Lease;
use keepd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use keepd_machine::{ApplyError, Command, Response as Outcome};
use keepd_node::Renewal;
use keepd_types::LeaseId;
use tonic::{Request, Response, Status, Streaming};

use crate::context::Context;
use crate::errors;
use crate::kv::quota;

/// How often another id is tried when the chosen one is taken.
const ID_ATTEMPTS_MAX: usize = 8;

/// The Lease service.
#[derive(Clone, Debug)]
pub(crate) struct LeaseService {
    context: Arc<Context>,
}

impl LeaseService {
    pub(crate) const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // Sampled before the renewal, as etcd does.
        let header = Some(self.context.current_header());
        match self.context.node.renew_lease(LeaseId(id)).await.map_err(errors::node)? {
            Renewal::Renewed { ttl } => Ok(LeaseKeepAliveResponse { header, id, ttl }),
            Renewal::Gone => Ok(LeaseKeepAliveResponse { header, id, ttl: 0 }),
            Renewal::NotPrimary => Err(Status::unknown("not a primary lessor")),
        }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let context = &self.context;
        context.admit(request.metadata())?;
        quota::check(context, quota::LEASE_COST).await?;
        let request = request.into_inner();
        // Raised here and not at apply, where all members must do the same.
        let ttl = request.ttl.max(context.node.options().lease_ttl_min());
        for _ in 0..ID_ATTEMPTS_MAX {
            let id = match request.id {
                0 => context.next_lease_id(),
                id => LeaseId(id),
            };
            let command = Command::LeaseGrant { id, ttl };
            let done = context.node.propose(command).await.map_err(errors::node)?;
            let header = Some(context.header(done.outcome.revision));
            match done.outcome.result {
                Ok(Outcome::LeaseGrant { id, ttl }) => {
                    let error = String::new();
                    return Ok(Response::new(LeaseGrantResponse { header, id: id.0, ttl, error }));
                }
                Err(ApplyError::LeaseExists) if request.id == 0 => {}
                Err(error) => return Err(errors::apply(error)),
                Ok(_) => return Err(Status::internal("keepd: a grant was answered otherwise")),
            }
        }
        Err(Api::LeaseExists.into())
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let context = &self.context;
        context.admit(request.metadata())?;
        let command = Command::LeaseRevoke { id: LeaseId(request.into_inner().id) };
        let done = context.node.propose(command).await.map_err(errors::node)?;
        done.outcome.result.map_err(errors::apply)?;
        let header = Some(context.header(done.outcome.revision));
        Ok(Response::new(LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.context.admit(request.metadata())?;
        let service = self.clone();
        let replies = request.into_inner().then(move |request| {
            let service = service.clone();
            async move {
                let bytes_max = service.context.limits.receive_bytes_max();
                let request = request.map_err(|error| errors::unreadable(error, bytes_max))?;
                service.keep_alive(request.id).await
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let context = &self.context;
        context.admit(request.metadata())?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let time =
            context.node.lease_time_to_live(LeaseId(id), keys).await.map_err(errors::node)?;
        let header = Some(context.current_header());
        Ok(Response::new(match time {
            Some(time) => LeaseTimeToLiveResponse {
                header,
                id,
                ttl: time.remaining_ttl,
                granted_ttl: time.granted_ttl,
                keys: time.keys,
            },
            None => LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let context = &self.context;
        context.admit(request.metadata())?;
        let leases = context.node.leases().await.map_err(errors::node)?;
        let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        let header = Some(context.current_header());
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}
