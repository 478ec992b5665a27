//! Dispatch of gRPC requests by path, with the counters every method shares.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use http_body::Body as HttpBody;
use keepd_api::etcdserverpb::cluster_server::ClusterServer;
use keepd_api::etcdserverpb::lease_server::LeaseServer;
use keepd_api::etcdserverpb::maintenance_server::MaintenanceServer;
use keepd_api::etcdserverpb::{RangeRequest, WatchRequest};
use keepd_api::health::health_server::HealthServer;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, StreamingService, UnaryService};
use tower_service::Service;

use crate::cluster::ClusterService;
use crate::codec::{HotCodec, Payload};
use crate::context::Context;
use crate::health::HealthService;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::maintenance::MaintenanceService;
use crate::watch::WatchService;

/// All gRPC services of a member.
#[derive(Clone, Debug)]
pub(crate) struct GrpcServices {
    context: Arc<Context>,
    kv: KvService,
    watch: WatchService,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    health: HealthServer<HealthService>,
}

impl GrpcServices {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        let receive = context.limits.receive_bytes_max();
        let lease = LeaseServer::new(LeaseService::new(Arc::clone(context)));
        let cluster = ClusterServer::new(ClusterService::new(Arc::clone(context)));
        let maintenance = MaintenanceServer::new(MaintenanceService::new(Arc::clone(context)));
        Self {
            kv: KvService::new(Arc::clone(context)),
            watch: WatchService::new(Arc::clone(context)),
            lease: lease.max_decoding_message_size(receive),
            cluster: cluster.max_decoding_message_size(receive),
            maintenance: maintenance.max_decoding_message_size(receive),
            health: HealthServer::new(HealthService),
            context: Arc::clone(context),
        }
    }

    /// Answers one request.
    pub(crate) async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let Some((service, method)) = split_path(request.uri().path()) else {
            return unimplemented(request.uri().path());
        };
        let counter = self.context.rpc_metrics.method(service, method);
        if let Some(counter) = &counter {
            counter.start();
        }
        let path = request.uri().path().to_owned();
        let response = match path.as_str() {
            "/etcdserverpb.KV/Range" => {
                self.unary(|kv: KvService, request| kv.range(request), request).await
            }
            "/etcdserverpb.KV/Put" => {
                self.unary(|kv: KvService, request| kv.put(request), request).await
            }
            "/etcdserverpb.KV/Txn" => {
                self.unary(|kv: KvService, request| kv.txn(request), request).await
            }
            "/etcdserverpb.KV/DeleteRange" => {
                self.unary(|kv: KvService, request| kv.delete_range(request), request).await
            }
            "/etcdserverpb.KV/Compact" => {
                self.unary(|kv: KvService, request| kv.compact(request), request).await
            }
            "/etcdserverpb.KV/RangeStream" => {
                self.hot::<RangeRequest>()
                    .server_streaming(RangeStream(self.kv.clone()), request)
                    .await
            }
            "/etcdserverpb.Watch/Watch" => {
                self.hot::<WatchRequest>().streaming(Watch(self.watch.clone()), request).await
            }
            path if path.starts_with("/etcdserverpb.Lease/") => {
                infallible(self.lease.clone().call(request).await)
            }
            path if path.starts_with("/etcdserverpb.Maintenance/") => {
                infallible(self.maintenance.clone().call(request).await)
            }
            path if path.starts_with("/etcdserverpb.Cluster/") => {
                infallible(self.cluster.clone().call(request).await)
            }
            path if path.starts_with("/grpc.health.v1.Health/") => {
                infallible(self.health.clone().call(request).await)
            }
            path => unimplemented(path),
        };
        let response = rewrite_oversize(response, self.context.limits.receive_bytes_max());
        match counter {
            Some(counter) => counter.finish(response),
            None => response,
        }
    }

    fn hot<R: Message + Default + Send + 'static>(&self) -> Grpc<HotCodec<R>> {
        Grpc::new(HotCodec::default())
            .apply_max_message_size_config(Some(self.context.limits.receive_bytes_max()), None)
    }

    async fn unary<R, B, F, Fut>(&self, method: F, request: Request<B>) -> Response<Body>
    where
        R: Message + Default + Send + 'static,
        B: HttpBody + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        F: Fn(KvService, tonic::Request<R>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Payload>, Status>> + Send + 'static,
    {
        self.hot::<R>().unary(Unary(self.kv.clone(), method), request).await
    }
}

fn infallible(response: Result<Response<Body>, Infallible>) -> Response<Body> {
    match response {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn split_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

fn unimplemented(path: &str) -> Response<Body> {
    let status = match split_path(path) {
        Some((service, method)) => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
    };
    status.into_http()
}

/// tonic refuses an oversize request as OUT_OF_RANGE with words of its own; clients of etcd know
/// grpc-go's.
fn rewrite_oversize(response: Response<Body>, limit: usize) -> Response<Body> {
    let is_out_of_range = response.headers().get("grpc-status").is_some_and(|code| code == "11");
    if !is_out_of_range {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let mut words = status.message().split(' ');
    if !status.message().starts_with("Error, decoded message length too large") {
        return response;
    }
    let found = words.find_map(|word| word.parse::<u64>().ok()).unwrap_or_default();
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({found} vs. {limit})"
    ))
    .into_http()
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

struct Unary<F>(KvService, F);

impl<R, F, Fut> UnaryService<R> for Unary<F>
where
    F: Fn(KvService, tonic::Request<R>) -> Fut,
    Fut: Future<Output = Result<tonic::Response<Payload>, Status>>,
{
    type Response = Payload;
    type Future = Fut;

    fn call(&mut self, request: tonic::Request<R>) -> Fut {
        self.1(self.0.clone(), request)
    }
}

struct RangeStream(KvService);

impl ServerStreamingService<RangeRequest> for RangeStream {
    type Response = Payload;
    type ResponseStream = tokio_stream::wrappers::ReceiverStream<Result<Payload, Status>>;
    type Future = BoxFuture<Self::ResponseStream>;

    fn call(&mut self, request: tonic::Request<RangeRequest>) -> Self::Future {
        Box::pin(self.0.clone().range_stream(request))
    }
}

struct Watch(WatchService);

impl StreamingService<WatchRequest> for Watch {
    type Response = Payload;
    type ResponseStream = crate::watch::Responses;
    type Future = BoxFuture<Self::ResponseStream>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<WatchRequest>>) -> Self::Future {
        Box::pin(self.0.clone().watch(request))
    }
}
