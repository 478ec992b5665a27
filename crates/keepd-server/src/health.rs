//! The standard gRPC health service: the service with the empty name is serving, others do not exist.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use keepd_api::health::health_check_response::ServingStatus;
use keepd_api::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tonic::Status;

use crate::context::Context;
use crate::grpc::call::Call;

fn status_of(service: &str) -> Result<HealthCheckResponse, Status> {
    if service.is_empty() {
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

pub(crate) async fn check(
    _context: &Arc<Context>,
    call: Call<HealthCheckRequest>,
) -> Result<HealthCheckResponse, Status> {
    status_of(&call.request.service)
}

pub(crate) async fn list(
    _context: &Arc<Context>,
    _call: Call<HealthListRequest>,
) -> Result<HealthListResponse, Status> {
    let statuses = status_of("").map(|status| [(String::new(), status)].into())?;
    Ok(HealthListResponse { statuses })
}

/// The status does not change while the member serves; the stream stays open.
pub(crate) async fn watch(
    _context: &Arc<Context>,
    call: Call<HealthCheckRequest>,
) -> Result<BoxStream<'static, Result<HealthCheckResponse, Status>>, Status> {
    let status = status_of(&call.request.service)
        .unwrap_or_else(|_| HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() });
    Ok(stream::iter([Ok(status)]).chain(stream::pending()).boxed())
}
