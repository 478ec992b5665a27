//! Dispatch of gRPC requests by path, with the counters every method shares.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use keepd_api::etcdserverpb::WatchRequest;
use keepd_api::etcdserverpb::auth_server::AuthServer;
use keepd_api::etcdserverpb::cluster_server::ClusterServer;
use keepd_api::etcdserverpb::lease_server::LeaseServer;
use keepd_api::etcdserverpb::maintenance_server::MaintenanceServer;
use keepd_api::health::health_server::HealthServer;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::{Code, Status};
use tower_service::Service;

use crate::auth::AuthService;
use crate::cluster::ClusterService;
use crate::codec::{Payload, RequestDecoder};
use crate::context::Context;
use crate::health::HealthService;
use crate::kv::{KvService, Reads};
use crate::lease::LeaseService;
use crate::maintenance::MaintenanceService;
use crate::message::{Encoding, Messages, Takes};
use crate::metrics::{Counted, Route, is_served};
use crate::protocol::{self, Terms};
use crate::unfinished::Share;
use crate::watch::WatchService;
use crate::{answers, call, until};

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
            lease: lease.max_decoding_message_size(receive).send_compressed(GZIP),
            cluster: cluster.max_decoding_message_size(receive).send_compressed(GZIP),
            maintenance: maintenance.max_decoding_message_size(receive).send_compressed(GZIP),
            auth: auth.max_decoding_message_size(receive).send_compressed(GZIP),
            health: HealthServer::new(HealthService).send_compressed(GZIP),
            context: Arc::clone(context),
        }
    }

    /// Whether a path is that of a method.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.context.rpc_metrics.method(path).is_some()
    }

    /// Answers one request. Each method's future is boxed by itself, so that a put does not carry
    /// the size of a snapshot.
    pub(crate) fn call(&self, request: Request<Incoming>, share: Arc<Share>) -> Answering {
        let terms = match protocol::terms(&request) {
            Ok(terms) => terms,
            Err(refused) => return Box::pin(ready(*refused)),
        };
        let path = protocol::path(&request);
        let Some(method) = self.context.rpc_metrics.method(path) else {
            let status = protocol::unknown_method(path, is_service);
            return Box::pin(ready(terms.apply(status.into_http())));
        };
        let route = method.route;
        let call = Call { counted: Counted::start(method), terms, share };
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

    fn unary<R, F, Fut>(&self, call: Call, method: F, request: Request<Incoming>) -> Answering
    where
        R: Message + Default + Reads + Send + 'static,
        F: Fn(KvService, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, Status>> + Send + 'static,
    {
        let kv = self.kv.clone();
        let Call { counted, terms, share } = call;
        Box::pin(async move {
            let (unread, mut turn) = (Arc::clone(&share.unread), None);
            let result = {
                let answer = pin!(async {
                    let context = Arc::clone(kv.context());
                    let message: R = context.receive(request, Takes::Unary, &terms, share).await?;
                    if message.reads() {
                        unread.room().await;
                    }
                    if message.lists() {
                        turn = Some(unread.list().await);
                    }
                    let payload = call::sendable(method(kv, message).await?)?;
                    call::compressed(payload, terms.encoding).await
                });
                terms.in_time(answer).await
            };
            counted.finish(result.as_ref().err().map_or(Code::Ok, Status::code));
            terms.apply(call::answer(result, terms.encoding, &unread, turn))
        })
    }

    fn range_stream(&self, call: Call, request: Request<Incoming>) -> Answering {
        let kv = self.kv.clone();
        let Call { counted, terms, share } = call;
        Box::pin(async move {
            let messages = async {
                let context = Arc::clone(kv.context());
                let message = context.receive(request, Takes::One, &terms, share).await?;
                kv.range_stream(message).await
            };
            let result = terms.in_time(pin!(messages)).await;
            ended_in_time(call::answer_stream(result, terms.encoding, counted), &terms)
        })
    }

    fn watch(&self, call: Call, request: Request<Incoming>) -> Answering {
        let limit = self.context.limits.receive_bytes_max();
        let (watch, decoder) = (self.watch.clone(), RequestDecoder::<WatchRequest>::default());
        let (request, Call { counted, terms, share }) = (request, call);
        let request = whole_messages(request, Takes::Many, &terms, limit, share);
        let messages = |body| Streaming::new_request(decoder, body, None, Some(limit));
        let request = tonic::Request::from_http(request.map(messages));
        Box::pin(async move {
            let result = watch.watch(request).await;
            let messages = result.map(|response| answers::apart(response.into_inner()));
            ended_in_time(call::answer_stream(messages, terms.encoding, counted), &terms)
        })
    }

    fn generated<S>(&self, call: Call, mut service: S, request: Request<Incoming>) -> Answering
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let limit = self.context.limits.receive_bytes_max();
        let Call { counted, terms, share } = call;
        let answer = service.call(whole_messages(request, counted.takes(), &terms, limit, share));
        Box::pin(async move {
            let answer = async { Ok(infallible(answer.await)) };
            match terms.in_time(pin!(answer)).await {
                Ok(response) => ended_in_time(call::count(response, counted), &terms),
                Err(late) => {
                    counted.finish(late.code());
                    terms.apply(late.into_http())
                }
            }
        })
    }
}

/// One call of a method.
struct Call {
    counted: Counted,
    terms: Terms,
    /// What its connection may hold of unfinished requests.
    share: Arc<Share>,
}

/// How tonic is told that an answer is to be compressed.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// Services that etcd has, with methods or without.
fn is_service(name: &str) -> bool {
    let unbuilt = ["v3lockpb.Lock", "v3electionpb.Election"];
    unbuilt.contains(&name) || is_served(name)
}

/// Metadata that the services look at; a client's other fields are not kept.
const METADATA: [&str; 3] = ["hasleader", "token", "authorization"];

/// A request as tonic takes it: its messages whole, with the fields that matter.
fn whole_messages(
    request: Request<Incoming>,
    takes: Takes,
    terms: &Terms,
    bytes_max: usize,
    share: Arc<Share>,
) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    let mut headers = HeaderMap::new();
    for name in METADATA {
        if let Some(value) = head.headers.remove(name) {
            headers.insert(name, value);
        }
    }
    if terms.encoding == Encoding::Gzip {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
    }
    head.headers = headers;
    let messages = Messages::new(body, takes, terms.encoding, bytes_max, share);
    Request::from_parts(head, messages.into_body())
}

/// An answer as its client asked for it, which ends when the client has given up.
fn ended_in_time(response: Response<Body>, terms: &Terms) -> Response<Body> {
    let response = terms.apply(response);
    match terms.deadline {
        Some(deadline) => until::deadline(response, deadline),
        None => response,
    }
}

fn infallible(response: Result<Response<Body>, Infallible>) -> Response<Body> {
    match response {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
