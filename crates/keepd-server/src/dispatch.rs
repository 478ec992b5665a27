//! Dispatch: finds the RPC of a gRPC request in the table, counts it and has it served.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::context::Context;
use crate::grpc::call::Metadata;
use crate::grpc::{Answering, Head, Kind, Opened, protocol};
use crate::metrics::{CallGuard, RpcCounters, RpcMetrics};
use crate::rpc::{RPCS, Rpc};
use crate::unfinished::Share;

/// Services of etcd that are not built.
const UNBUILT: [&str; 2] = ["v3lockpb.Lock", "v3electionpb.Election"];

/// The gRPC side of the client ports.
#[derive(Debug)]
pub(crate) struct Dispatch {
    context: Arc<Context>,
    rpcs: BTreeMap<&'static str, (&'static Rpc, Arc<RpcCounters>)>,
    /// Turns true when the server ends.
    stop: watch::Receiver<bool>,
}

impl Dispatch {
    pub(crate) fn new(
        context: Arc<Context>,
        metrics: &RpcMetrics,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let counted = RPCS.iter().zip(&metrics.rpcs);
        let rpcs = counted.map(|(rpc, counters)| (rpc.path, (rpc, Arc::clone(counters))));
        Self { context, rpcs: rpcs.collect(), stop }
    }

    /// Counters for the rows of the table, in its order; with the times of all calls if it is `extensive`.
    pub(crate) fn metrics(extensive: bool) -> RpcMetrics {
        RpcMetrics::new(RPCS.iter().map(|rpc| (rpc.path, rpc.kind.name())), extensive)
    }

    /// Whether a path is that of an RPC.
    pub(crate) fn is_rpc(&self, path: &str) -> bool {
        self.rpcs.contains_key(path)
    }

    /// Whether a request is to be answered as a call, well formed or not.
    pub(crate) fn serves<B>(&self, request: &Request<B>) -> bool {
        protocol::is_grpc(request) || self.is_rpc(request.uri().path())
    }

    /// Answers one request. Each RPC's future is boxed by itself, so that a put does not carry the
    /// size of a snapshot.
    pub(crate) fn call(&self, request: Request<Incoming>, connection: Arc<Share>) -> Answering {
        let terms = match protocol::terms(&request) {
            Ok(terms) => terms,
            Err(refused) => return Box::pin(ready(*refused)),
        };
        let path = protocol::path(&request);
        let Some((rpc, counters)) = self.rpcs.get(path) else {
            let status = protocol::unknown_method(path, |service| self.is_service(service));
            return Box::pin(ready(terms.apply(status.into_http())));
        };
        let metadata = Metadata::of(request.headers());
        let version = request.headers().get("client-api-version");
        self.context.client_requests.count(version, rpc.kind != Kind::Unary);
        let head = Head {
            path: rpc.path,
            permission: rpc.permission,
            is_for_learners: rpc.is_for_learners,
            metadata,
            terms,
        };
        let (context, guard) = (Arc::clone(&self.context), CallGuard::start(Arc::clone(counters)));
        // What a client sends beside its messages is not kept while they are awaited.
        let body = request.into_body();
        let stop = rpc.ends_at_shutdown.then(|| self.stop.clone());
        rpc.serve(Opened { context, body, head, connection, guard, stop })
    }

    /// Whether etcd has a service, with methods or without.
    fn is_service(&self, name: &str) -> bool {
        UNBUILT.contains(&name) || self.rpcs.values().any(|(rpc, _)| rpc.service() == name)
    }
}
