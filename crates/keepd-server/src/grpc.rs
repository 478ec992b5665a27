//! Dispatch of gRPC requests by path, with the counters every method shares.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use keepd_api::etcdserverpb::WatchRequest;
use keepd_api::etcdserverpb::auth_server::AuthServer;
use keepd_api::etcdserverpb::cluster_server::ClusterServer;
use keepd_api::etcdserverpb::lease_server::LeaseServer;
use keepd_api::etcdserverpb::maintenance_server::MaintenanceServer;
use keepd_api::health::health_server::HealthServer;
use prost::Message;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::{Code, Status};
use tower_service::Service;

use crate::auth::AuthService;
use crate::cluster::ClusterService;
use crate::codec::{Payload, RequestDecoder};
use crate::context::Context;
use crate::health::HealthService;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::maintenance::MaintenanceService;
use crate::metrics::{Counted, Route};
use crate::watch::WatchService;
use crate::{answers, call, errors};

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
    auth: AuthServer<AuthService>,
    health: HealthServer<HealthService>,
}

impl GrpcServices {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        let receive = context.limits.receive_bytes_max();
        let lease = LeaseServer::new(LeaseService::new(Arc::clone(context)));
        let cluster = ClusterServer::new(ClusterService::new(Arc::clone(context)));
        let maintenance = MaintenanceServer::new(MaintenanceService::new(Arc::clone(context)));
        let auth = AuthServer::new(AuthService::new(Arc::clone(context)));
        Self {
            kv: KvService::new(Arc::clone(context)),
            watch: WatchService::new(Arc::clone(context)),
            lease: lease.max_decoding_message_size(receive),
            cluster: cluster.max_decoding_message_size(receive),
            maintenance: maintenance.max_decoding_message_size(receive),
            auth: auth.max_decoding_message_size(receive),
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
        let route = method.route;
        let call = Counted::start(method);
        match route {
            Route::Range => self.unary(call, KvService::range, request),
            Route::Put => self.unary(call, KvService::put, request),
            Route::Txn => self.unary(call, KvService::txn, request),
            Route::DeleteRange => self.unary(call, KvService::delete_range, request),
            Route::Compact => self.unary(call, KvService::compact, request),
            Route::RangeStream => self.range_stream(call, request),
            Route::Watch => self.watch(call, request),
            Route::Lease => self.generated(call, self.lease.clone(), request),
            Route::Maintenance => self.generated(call, self.maintenance.clone(), request),
            Route::Cluster => self.generated(call, self.cluster.clone(), request),
            Route::Auth => self.generated(call, self.auth.clone(), request),
            Route::Health => self.generated(call, self.health.clone(), request),
        }
    }

    fn unary<R, F, Fut>(&self, call: Counted, method: F, request: Request<Incoming>) -> Answering
    where
        R: Message + Default + Send + 'static,
        F: Fn(KvService, R) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Payload, Status>> + Send + 'static,
    {
        let kv = self.kv.clone();
        Box::pin(async move {
            let result = match kv.context().receive(request).await {
                Ok(message) => method(kv, message).await,
                Err(status) => Err(status),
            };
            let result = result.and_then(call::sendable);
            call.finish(result.as_ref().err().map_or(Code::Ok, Status::code));
            call::answer(result)
        })
    }

    fn range_stream(&self, call: Counted, request: Request<Incoming>) -> Answering {
        let kv = self.kv.clone();
        Box::pin(async move {
            let result = match kv.context().receive(request).await {
                Ok(message) => kv.range_stream(message).await,
                Err(status) => Err(status),
            };
            call::answer_stream(result, call)
        })
    }

    fn watch(&self, call: Counted, request: Request<Incoming>) -> Answering {
        let limit = self.context.limits.receive_bytes_max();
        let (watch, decoder) = (self.watch.clone(), RequestDecoder::<WatchRequest>::default());
        let messages = |body| Streaming::new_request(decoder, body, None, Some(limit));
        let request = tonic::Request::from_http(request.map(messages));
        Box::pin(async move {
            let result = watch.watch(request).await;
            let messages = result.map(|response| answers::apart(response.into_inner()));
            call::answer_stream(messages, call)
        })
    }

    fn generated<S>(&self, call: Counted, mut service: S, request: Request<Incoming>) -> Answering
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let limit = self.context.limits.receive_bytes_max();
        let answer = service.call(request);
        Box::pin(async move {
            let response = infallible(answer.await);
            call::count(rewrite_oversize(response, limit), call)
        })
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
    errors::unreadable(status, limit).into_http()
}
