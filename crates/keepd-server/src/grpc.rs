//! Dispatch of gRPC requests by path, with the counters every method shares.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
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
use crate::metrics::{Method, Route};
use crate::watch::WatchService;

/// An answer under way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

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

    /// Answers one request. Each method's future is boxed by itself, so that a put does not carry
    /// the size of a snapshot.
    pub(crate) fn call(&self, request: Request<Incoming>) -> Answering {
        let Some(method) = self.context.rpc_metrics.method(request.uri().path()) else {
            let response = unimplemented(request.uri().path());
            return Box::pin(ready(response));
        };
        method.start();
        match method.route {
            Route::Range => self.unary(method, |kv, request| kv.range(request), request),
            Route::Put => self.unary(method, |kv, request| kv.put(request), request),
            Route::Txn => self.unary(method, |kv, request| kv.txn(request), request),
            Route::DeleteRange => {
                self.unary(method, |kv, request| kv.delete_range(request), request)
            }
            Route::Compact => self.unary(method, |kv, request| kv.compact(request), request),
            Route::RangeStream => {
                let (mut grpc, kv) = (self.hot::<RangeRequest>(), self.kv.clone());
                self.counted(method, async move {
                    grpc.server_streaming(RangeStream(kv), request).await
                })
            }
            Route::Watch => {
                let (mut grpc, watch) = (self.hot::<WatchRequest>(), self.watch.clone());
                self.counted(method, async move { grpc.streaming(Watch(watch), request).await })
            }
            Route::Lease => self.generated(method, self.lease.clone(), request),
            Route::Maintenance => self.generated(method, self.maintenance.clone(), request),
            Route::Cluster => self.generated(method, self.cluster.clone(), request),
            Route::AuthStatus => {
                let answer = |kv: KvService, request| ready(kv.auth_status(&request));
                self.unary(method, answer, request)
            }
            Route::Health => self.generated(method, self.health.clone(), request),
        }
    }

    fn hot<R: Message + Default + Send + 'static>(&self) -> Grpc<HotCodec<R>> {
        Grpc::new(HotCodec::default())
            .apply_max_message_size_config(Some(self.context.limits.receive_bytes_max()), None)
    }

    fn unary<R, F, Fut>(
        &self,
        counter: Arc<Method>,
        method: F,
        request: Request<Incoming>,
    ) -> Answering
    where
        R: Message + Default + Send + 'static,
        F: Fn(KvService, tonic::Request<R>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<tonic::Response<Payload>, Status>> + Send + 'static,
    {
        let (mut grpc, kv) = (self.hot::<R>(), self.kv.clone());
        self.counted(counter, async move { grpc.unary(Unary(kv, method), request).await })
    }

    fn generated<S>(
        &self,
        counter: Arc<Method>,
        mut service: S,
        request: Request<Incoming>,
    ) -> Answering
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let answer = service.call(request);
        self.counted(counter, async move { infallible(answer.await) })
    }

    /// Counts how a call ends.
    fn counted(
        &self,
        counter: Arc<Method>,
        answer: impl Future<Output = Response<Body>> + Send + 'static,
    ) -> Answering {
        let limit = self.context.limits.receive_bytes_max();
        Box::pin(async move { counter.finish(rewrite_oversize(answer.await, limit)) })
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
    type ResponseStream = crate::answers::Reading<Payload>;
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
