//! The standard gRPC health service: the empty name serves, others do not exist.

use std::pin::Pin;

use futures_util::{Stream, stream};
use keepd_api::health::health_check_response::ServingStatus;
use keepd_api::health::health_server::Health;
use keepd_api::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tonic::{Request, Response, Status};

/// The health service. It exists from the moment the member serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HealthService;

fn check(service: &str) -> Result<HealthCheckResponse, Status> {
    if service.is_empty() {
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check(&request.into_inner().service).map(Response::new)
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = check("").map(|status| [(String::new(), status)].into())?;
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = check(&request.into_inner().service).unwrap_or_else(|_| HealthCheckResponse {
            status: ServingStatus::ServiceUnknown.into(),
        });
        // The status does not change while the member serves; the stream stays open.
        let stream = stream::iter([Ok(status)]);
        Ok(Response::new(Box::pin(futures_util::StreamExt::chain(stream, stream::pending()))))
    }
}
