//! Counters of the services, and the metrics page in Prometheus' text format with etcd's names.

mod page;
mod process;

pub(crate) use page::render;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Response;
use tonic::Code;
use tonic::body::Body;

/// Services and methods with series of their own, `grpc_type` first.
pub(crate) const METHODS: &[(&str, &str, &[&str])] = &[
    ("unary", "etcdserverpb.KV", &["Compact", "DeleteRange", "Put", "Range", "Txn"]),
    ("server_stream", "etcdserverpb.KV", &["RangeStream"]),
    ("bidi_stream", "etcdserverpb.Watch", &["Watch"]),
    (
        "unary",
        "etcdserverpb.Lease",
        &["LeaseGrant", "LeaseLeases", "LeaseRevoke", "LeaseTimeToLive"],
    ),
    ("bidi_stream", "etcdserverpb.Lease", &["LeaseKeepAlive"]),
    (
        "unary",
        "etcdserverpb.Cluster",
        &["MemberAdd", "MemberList", "MemberPromote", "MemberRemove", "MemberUpdate"],
    ),
    (
        "unary",
        "etcdserverpb.Maintenance",
        &["Alarm", "Defragment", "Downgrade", "Hash", "HashKV", "MoveLeader", "Status"],
    ),
    ("server_stream", "etcdserverpb.Maintenance", &["Snapshot"]),
    ("unary", "grpc.health.v1.Health", &["Check"]),
    ("server_stream", "grpc.health.v1.Health", &["Watch"]),
];

/// The names of gRPC's codes, by number.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What is counted of one method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) grpc_type: &'static str,
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) started: AtomicU64,
    pub(crate) handled: [AtomicU64; 17],
}

impl Method {
    pub(crate) fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts how the call ended; a stream counts when its answer begins.
    pub(crate) fn finish(&self, response: Response<Body>) -> Response<Body> {
        let code = response.headers().get("grpc-status");
        let code = code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
        let code = usize::try_from(i32::from(code)).unwrap_or(2);
        self.handled[code.min(16)].fetch_add(1, Ordering::Relaxed);
        response
    }
}

/// Counters of all services.
#[derive(Debug)]
pub(crate) struct RpcMetrics {
    pub(crate) methods: Vec<Arc<Method>>,
    pub(crate) health_success: AtomicU64,
    pub(crate) health_failures: AtomicU64,
    pub(crate) client_received_bytes: AtomicU64,
    pub(crate) client_sent_bytes: AtomicU64,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let methods = METHODS.iter().flat_map(|(grpc_type, service, names)| {
            names.iter().map(move |name| {
                Arc::new(Method {
                    grpc_type,
                    service,
                    name,
                    started: AtomicU64::new(0),
                    handled: std::array::from_fn(|_| AtomicU64::new(0)),
                })
            })
        });
        Self {
            methods: methods.collect(),
            health_success: zero(),
            health_failures: zero(),
            client_received_bytes: zero(),
            client_sent_bytes: zero(),
        }
    }
}

impl RpcMetrics {
    pub(crate) fn method(&self, service: &str, name: &str) -> Option<Arc<Method>> {
        let known = |method: &&Arc<Method>| method.name == name && method.service == service;
        self.methods.iter().find(known).cloned()
    }
}
