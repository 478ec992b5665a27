//! The server: serves the services on listeners and stops them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use keepd_peer::PeerService;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::access::AccessControl;
use crate::auto_compaction::{self, AutoCompaction};
use crate::context::Context;
use crate::corruption::{self, CorruptionChecks};
use crate::dispatch::Dispatch;
use crate::http_edge::{self, HttpScope, Served};
use crate::listener::{Accounts, ConnectionSlots, Listener, Service, TrafficBytes};
use crate::unfinished::Share;

/// Runs services on listeners.
#[derive(Debug)]
pub struct Server {
    served: Served,
    access: Arc<AccessControl>,
    slots: Arc<ConnectionSlots>,
    tasks: TaskTracker,
    stop: watch::Sender<bool>,
    /// Ends the connections that are still there after their time.
    cut: CancellationToken,
}

impl Server {
    /// The services of a member.
    #[must_use]
    pub fn new(context: Arc<Context>, access: AccessControl) -> Self {
        let (tasks, stop) = (TaskTracker::new(), watch::Sender::new(false));
        let (slots, cut) = (ConnectionSlots::of_process(), CancellationToken::new());
        let served = Served { context, rpc_metrics: Arc::new(Dispatch::metrics()) };
        Self { served, access: Arc::new(access), slots, tasks, stop, cut }
    }

    /// Serves clients: gRPC and the small HTTP endpoints on one port.
    pub fn serve_clients(&self, listener: Listener) {
        let context = Arc::clone(&self.served.context);
        let bytes = Arc::clone(&context.client_bytes);
        if let Some(tls) = listener.tls() {
            context.certificates.lock().push(tls);
        }
        let served = self.served.clone();
        let grpc = Dispatch::new(context, &served.rpc_metrics, self.stop.subscribe());
        let (access, is_tls) = (Arc::clone(&self.access), listener.is_tls());
        self.serve(listener, bytes, ClientEdge { served, grpc, access, is_tls });
    }

    /// Serves metrics and health, nothing else.
    pub fn serve_metrics(&self, listener: Listener) {
        let edge = MetricsEdge { served: self.served.clone() };
        self.serve(listener, Arc::default(), edge);
    }

    /// Serves members. Their streams end when the network is shut down, and else by force.
    pub fn serve_peers(&self, listener: Listener, peers: PeerService) {
        self.serve(listener, Arc::default(), PeerEdge { peers });
    }

    fn serve(&self, listener: Listener, bytes: Arc<TrafficBytes>, edge: impl Service) {
        let (tasks, slots) = (self.tasks.clone(), Arc::clone(&self.slots));
        let (stop, cut) = (self.stop.subscribe(), self.cut.clone());
        let unfinished = Arc::clone(&self.served.context.unfinished);
        let accounts = Accounts { bytes, unfinished };
        let serving = listener.serve(Arc::new(edge), slots, tasks, accounts, stop, cut);
        self.tasks.spawn(serving);
    }

    /// Compacts in the background until the server stops.
    pub fn compact_automatically(&self, compaction: AutoCompaction) {
        let (context, mut stop) = (Arc::clone(&self.served.context), self.stop.subscribe());
        self.tasks.spawn(async move {
            tokio::select! {
                () = auto_compaction::run(&context, compaction) => {}
                _ = stop.changed() => {}
            }
        });
    }

    /// Compares the members' data in the background until the server stops.
    pub fn check_for_corruption(&self, checks: CorruptionChecks) {
        let (context, mut stop) = (Arc::clone(&self.served.context), self.stop.subscribe());
        self.tasks.spawn(async move {
            tokio::select! {
                () = corruption::run(&context, checks) => {}
                _ = stop.changed() => {}
            }
        });
    }

    /// Stops accepting and lets connections finish, up to `patience`.
    pub async fn stop(self, patience: Duration) {
        self.stop.send_replace(true);
        self.tasks.close();
        // Watches never finish by themselves; their clients go on elsewhere.
        self.served.context.node.hub().close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::info!("closing client connections that did not finish in time");
            self.cut.cancel();
        }
    }
}

/// A client port.
struct ClientEdge {
    served: Served,
    grpc: Dispatch,
    access: Arc<AccessControl>,
    is_tls: bool,
}

impl Service for ClientEdge {
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        share: Arc<Share>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        // gRPC is HTTP/2's: over HTTP/1.1 its paths are unknown, to browsers too.
        if request.version() == Version::HTTP_2 && self.grpc.serves(&request) {
            return self.grpc.call(request, share);
        }
        Box::pin(async move {
            let (served, access, is_tls) = (&self.served, &self.access, self.is_tls);
            let is_rpc = self.grpc.is_rpc(request.uri().path());
            http_edge::answer_client(served, access, is_tls, is_rpc, &share.peer, &request).await
        })
    }
}

/// A metrics port.
struct MetricsEdge {
    served: Served,
}

impl Service for MetricsEdge {
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        _share: Arc<Share>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move { http_edge::answer(&self.served, HttpScope::Metrics, &request).await })
    }
}

/// A peer port.
struct PeerEdge {
    peers: PeerService,
}

impl Service for PeerEdge {
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        share: Arc<Share>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let response = self.peers.call(request, share.peer.clone()).map(Body::new);
        Box::pin(std::future::ready(response))
    }
}

#[cfg(test)]
mod tests;
