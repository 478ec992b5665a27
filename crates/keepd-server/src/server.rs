//! The server: serves the services on listeners and stops them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use keepd_peer::{Network, PeerService};
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
use crate::metrics::BackupMetrics;
use crate::unfinished::Share;

/// Time for the connections of members to end once their streams have.
const PEERS_PATIENCE: Duration = Duration::from_millis(500);

/// Runs services on listeners.
#[derive(Debug)]
pub struct Server {
    served: Served,
    access: Arc<AccessControl>,
    slots: Arc<ConnectionSlots>,
    /// Clients and whoever asks for metrics.
    clients: Group,
    /// Other members.
    peers: Group,
}

/// Listeners that stop together, with their connections.
#[derive(Debug)]
struct Group {
    tasks: TaskTracker,
    stop: watch::Sender<bool>,
    /// Ends the connections that are still there after their time.
    cut: CancellationToken,
}

impl Group {
    fn new() -> Self {
        let (tasks, stop) = (TaskTracker::new(), watch::Sender::new(false));
        Self { tasks, stop, cut: CancellationToken::new() }
    }

    /// Stops accepting, and says so to whoever waits for it.
    fn stop_accepting(&self) {
        self.stop.send_replace(true);
        self.tasks.close();
    }

    /// Lets connections finish, and cuts those that take longer than `patience`.
    async fn finish(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::info!("closing connections that did not finish in time");
            self.cut.cancel();
        }
    }
}

impl Server {
    /// The services of a member.
    #[must_use]
    pub fn new(context: Arc<Context>, access: AccessControl) -> Self {
        let (clients, peers) = (Group::new(), Group::new());
        let slots = ConnectionSlots::of_process();
        let served = Served { context, rpc_metrics: Arc::new(Dispatch::metrics(false)) };
        Self { served, access: Arc::new(access), slots, clients, peers }
    }

    /// Shows the times of all RPCs, if that is asked for, and which features are on: names, stages, states.
    #[must_use]
    pub fn with_metrics(
        mut self,
        extensive: bool,
        features: &[(&'static str, &'static str, bool)],
    ) -> Self {
        self.served.rpc_metrics = Arc::new(Dispatch::metrics(extensive));
        let _former = self.served.context.features.set(features.to_vec());
        self
    }

    /// Shows facts of backups.
    #[must_use]
    pub fn with_backups(self, metrics: Arc<BackupMetrics>) -> Self {
        let _former = self.served.context.backups.set(metrics);
        self
    }

    /// Serves clients: gRPC and the small HTTP endpoints on one port.
    pub fn serve_clients(&self, listener: Listener) {
        let context = Arc::clone(&self.served.context);
        let bytes = Arc::clone(&context.client_bytes);
        if let Some(tls) = listener.tls() {
            context.certificates.lock().push(tls);
        }
        let served = self.served.clone();
        let stop = self.clients.stop.subscribe();
        let grpc = Dispatch::new(context, &served.rpc_metrics, stop);
        let (access, is_tls) = (Arc::clone(&self.access), listener.is_tls());
        let edge = ClientEdge { served, grpc, access, is_tls };
        self.serve(&self.clients, listener, bytes, edge);
    }

    /// Serves metrics and health, nothing else.
    pub fn serve_metrics(&self, listener: Listener) {
        let edge = MetricsEdge { served: self.served.clone() };
        self.serve(&self.clients, listener, Arc::default(), edge);
    }

    /// Serves members. Their streams end when the network is shut down, and else by force. What the
    /// network counts is shown from now on.
    pub fn serve_peers(&self, listener: Listener, network: &Network) {
        let _former = self.served.context.network.set(network.clone());
        let peers = network.service();
        self.serve(&self.peers, listener, Arc::default(), PeerEdge { peers });
    }

    fn serve(
        &self,
        group: &Group,
        listener: Listener,
        bytes: Arc<TrafficBytes>,
        edge: impl Service,
    ) {
        let (tasks, slots) = (group.tasks.clone(), Arc::clone(&self.slots));
        let (stop, cut) = (group.stop.subscribe(), group.cut.clone());
        let unfinished = Arc::clone(&self.served.context.unfinished);
        let accounts = Accounts { bytes, unfinished };
        let serving = listener.serve(Arc::new(edge), slots, tasks, accounts, stop, cut);
        group.tasks.spawn(serving);
    }

    /// Compacts in the background until the server stops.
    pub fn compact_automatically(&self, compaction: AutoCompaction) {
        let context = Arc::clone(&self.served.context);
        self.until_stopped(async move { auto_compaction::run(&context, compaction).await });
    }

    /// Compares the members' data in the background until the server stops.
    pub fn check_for_corruption(&self, checks: CorruptionChecks) {
        let context = Arc::clone(&self.served.context);
        self.until_stopped(async move { corruption::run(&context, checks).await });
    }

    /// Runs a task in the background until the server stops.
    fn until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.clients.stop.subscribe();
        self.clients.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                _ = stop.changed() => {}
            }
        });
    }

    /// Stops accepting clients and lets their requests finish, up to `patience`.
    pub async fn stop_clients(&self, patience: Duration) {
        self.clients.stop_accepting();
        // Watches never finish by themselves; their clients go on elsewhere.
        self.served.context.node.hub().close();
        self.clients.finish(patience).await;
    }

    /// Stops accepting members, whose network has been shut down.
    pub async fn stop(self) {
        self.peers.stop_accepting();
        self.peers.finish(PEERS_PATIENCE).await;
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
