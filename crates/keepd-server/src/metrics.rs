//! Counters of the services, and the metrics page in Prometheus' text format with etcd's names.

mod page;
mod process;

pub(crate) use page::render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Code;

use crate::message::Takes;

/// What answers a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    Lease,
    Cluster,
    Maintenance,
    Health,
    Auth,
}

/// Every method that is served: its path, its kind of call, what answers it.
const METHODS: &[(&str, &str, Route)] = &[
    ("/etcdserverpb.KV/Range", "unary", Route::Range),
    ("/etcdserverpb.KV/RangeStream", "server_stream", Route::RangeStream),
    ("/etcdserverpb.KV/Put", "unary", Route::Put),
    ("/etcdserverpb.KV/DeleteRange", "unary", Route::DeleteRange),
    ("/etcdserverpb.KV/Txn", "unary", Route::Txn),
    ("/etcdserverpb.KV/Compact", "unary", Route::Compact),
    ("/etcdserverpb.Watch/Watch", "bidi_stream", Route::Watch),
    ("/etcdserverpb.Lease/LeaseGrant", "unary", Route::Lease),
    ("/etcdserverpb.Lease/LeaseRevoke", "unary", Route::Lease),
    ("/etcdserverpb.Lease/LeaseKeepAlive", "bidi_stream", Route::Lease),
    ("/etcdserverpb.Lease/LeaseTimeToLive", "unary", Route::Lease),
    ("/etcdserverpb.Lease/LeaseLeases", "unary", Route::Lease),
    ("/etcdserverpb.Cluster/MemberAdd", "unary", Route::Cluster),
    ("/etcdserverpb.Cluster/MemberRemove", "unary", Route::Cluster),
    ("/etcdserverpb.Cluster/MemberUpdate", "unary", Route::Cluster),
    ("/etcdserverpb.Cluster/MemberList", "unary", Route::Cluster),
    ("/etcdserverpb.Cluster/MemberPromote", "unary", Route::Cluster),
    ("/etcdserverpb.Maintenance/Alarm", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/Status", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/Defragment", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/Hash", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/HashKV", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/Snapshot", "server_stream", Route::Maintenance),
    ("/etcdserverpb.Maintenance/MoveLeader", "unary", Route::Maintenance),
    ("/etcdserverpb.Maintenance/Downgrade", "unary", Route::Maintenance),
    ("/etcdserverpb.Auth/AuthEnable", "unary", Route::Auth),
    ("/etcdserverpb.Auth/AuthDisable", "unary", Route::Auth),
    ("/etcdserverpb.Auth/AuthStatus", "unary", Route::Auth),
    ("/etcdserverpb.Auth/Authenticate", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserAdd", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserGet", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserList", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserDelete", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserChangePassword", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserGrantRole", "unary", Route::Auth),
    ("/etcdserverpb.Auth/UserRevokeRole", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleAdd", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleGet", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleList", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleDelete", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleGrantPermission", "unary", Route::Auth),
    ("/etcdserverpb.Auth/RoleRevokePermission", "unary", Route::Auth),
    ("/grpc.health.v1.Health/List", "unary", Route::Health),
    ("/grpc.health.v1.Health/Check", "unary", Route::Health),
    ("/grpc.health.v1.Health/Watch", "server_stream", Route::Health),
];

/// Whether a service has methods here.
pub(crate) fn is_served(service: &str) -> bool {
    let is_of = |path: &str| path[1..].split_once('/').is_some_and(|(of, _)| of == service);
    METHODS.iter().any(|(path, ..)| is_of(path))
}

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
    pub(crate) route: Route,
    pub(crate) grpc_type: &'static str,
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) started: AtomicU64,
    pub(crate) handled: [AtomicU64; 17],
}

/// A call under way; counted as cancelled if its client goes before it is finished.
#[derive(Debug)]
pub(crate) struct Counted(Option<Arc<Method>>);

impl Counted {
    /// Counts the start of a call.
    pub(crate) fn start(method: Arc<Method>) -> Self {
        method.started.fetch_add(1, Ordering::Relaxed);
        Self(Some(method))
    }

    /// How many messages its method takes.
    pub(crate) fn takes(&self) -> Takes {
        match self.0.as_ref().map_or("unary", |method| method.grpc_type) {
            "unary" => Takes::Unary,
            "server_stream" => Takes::One,
            _ => Takes::Many,
        }
    }

    /// Counts how the call ended.
    pub(crate) fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        if let Some(method) = self.0.take() {
            let number = usize::try_from(i32::from(code)).unwrap_or(CODES.len());
            let number = number.min(CODES.len() - 1);
            method.handled[number].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Counters of all services.
#[derive(Debug)]
pub(crate) struct RpcMetrics {
    /// By path.
    pub(crate) methods: BTreeMap<&'static str, Arc<Method>>,
    pub(crate) health_success: AtomicU64,
    pub(crate) health_failures: AtomicU64,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let methods = METHODS.iter().map(|(path, grpc_type, route)| {
            let (service, name) = path[1..].split_once('/').expect("a path has two parts");
            let (started, handled) = (zero(), std::array::from_fn(|_| zero()));
            let method = Method { route: *route, grpc_type, service, name, started, handled };
            (*path, Arc::new(method))
        });
        Self { methods: methods.collect(), health_success: zero(), health_failures: zero() }
    }
}

impl RpcMetrics {
    /// The method of a path, if it is served.
    pub(crate) fn method(&self, path: &str) -> Option<Arc<Method>> {
        self.methods.get(path).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_however_it_ends() {
        let metrics = RpcMetrics::default();
        let put = metrics.method("/etcdserverpb.KV/Put").unwrap();
        Counted::start(Arc::clone(&put)).finish(Code::Ok);
        Counted::start(Arc::clone(&put)).finish(Code::Unavailable);
        drop(Counted::start(Arc::clone(&put)));
        let handled = |code: Code| put.handled[code as usize].load(Ordering::Relaxed);
        assert_eq!(put.started.load(Ordering::Relaxed), 3);
        assert_eq!([Code::Ok, Code::Unavailable, Code::Cancelled].map(handled), [1, 1, 1]);
    }
}
