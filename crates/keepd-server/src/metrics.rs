//! Counters of the services, and the metrics page in Prometheus' text format with etcd's names.

mod backups;
mod page;
mod peers;
mod process;
mod text;

pub use backups::{BackupFacts, BackupMetrics, BackupPlace, BackupStep};
pub(crate) use page::render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepd_node::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

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

/// Counters of one RPC.
#[derive(Debug)]
pub(crate) struct RpcCounters {
    pub(crate) path: &'static str,
    /// Its labels on the metrics page.
    pub(crate) labels: String,
    pub(crate) started: AtomicU64,
    pub(crate) handled: [AtomicU64; 17],
    /// The name of its requests in etcd's log, and the times of those that failed and that succeeded.
    pub(crate) requests: Option<(&'static str, [Histogram; 2])>,
    /// The times of all its calls, if that is asked for.
    pub(crate) handling: Option<Histogram>,
}

/// etcd's names for the requests of its `etcd_server_request_duration_seconds`.
const REQUESTS: [(&str, &str); 8] = [
    ("/etcdserverpb.KV/Range", "Range"),
    ("/etcdserverpb.KV/Put", "Put"),
    ("/etcdserverpb.KV/DeleteRange", "DeleteRange"),
    ("/etcdserverpb.KV/Txn", "Txn"),
    ("/etcdserverpb.KV/Compact", "Compaction"),
    ("/etcdserverpb.Lease/LeaseGrant", "LeaseGrant"),
    ("/etcdserverpb.Lease/LeaseRevoke", "LeaseRevoke"),
    ("/etcdserverpb.Maintenance/Alarm", "Alarm"),
];
/// The bounds that Prometheus' libraries give a histogram by default.
const HANDLING_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A call under way; counted as cancelled if it is dropped before it is finished.
#[derive(Debug)]
pub(crate) struct CallGuard {
    counters: Option<Arc<RpcCounters>>,
    began: Instant,
}

impl CallGuard {
    /// Counts the start of a call.
    pub(crate) fn start(counters: Arc<RpcCounters>) -> Self {
        counters.started.fetch_add(1, Ordering::Relaxed);
        Self { counters: Some(counters), began: Instant::now() }
    }

    /// The time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts how the call ended.
    pub(crate) fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        if let Some(counters) = self.counters.take() {
            let number = usize::try_from(i32::from(code)).unwrap_or(CODES.len());
            let number = number.min(CODES.len() - 1);
            counters.handled[number].fetch_add(1, Ordering::Relaxed);
            let took = self.began.elapsed();
            if let Some((_, times)) = &counters.requests {
                times[usize::from(code == Code::Ok)].observe(took);
            }
            if let Some(times) = &counters.handling {
                times.observe(took);
            }
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Counters of a server.
#[derive(Debug)]
pub(crate) struct RpcMetrics {
    /// Counters of each RPC, in the order in which they were given.
    pub(crate) rpcs: Vec<Arc<RpcCounters>>,
    pub(crate) health_success: AtomicU64,
    pub(crate) health_failures: AtomicU64,
    /// Health checks by the label of their kind and name, passed and failed ones; and the last result.
    pub(crate) checks: Mutex<BTreeMap<(&'static str, &'static str), CheckCounts>>,
}

/// Counts of one health check.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CheckCounts {
    pub(crate) successes: u64,
    pub(crate) errors: u64,
    pub(crate) is_good: bool,
}

impl RpcMetrics {
    /// Counters of RPCs with these paths and kinds, and the times of all of them if it is `extensive`.
    pub(crate) fn new(
        rpcs: impl Iterator<Item = (&'static str, &'static str)>,
        extensive: bool,
    ) -> Self {
        let zero = || AtomicU64::new(0);
        let rpcs = rpcs.map(|(path, kind)| {
            let (service, method) = path[1..].split_once('/').expect("a path has two parts");
            let labels =
                format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let (started, handled) = (zero(), std::array::from_fn(|_| zero()));
            let request = REQUESTS.iter().find(|(known, _)| *known == path);
            let times = || Histogram::doubling(0.001, 14);
            let requests = request.map(|(_, name)| (*name, [times(), times()]));
            let handling = extensive.then(|| Histogram::bounded(HANDLING_SECONDS.into_iter()));
            Arc::new(RpcCounters { path, labels, started, handled, requests, handling })
        });
        Self {
            rpcs: rpcs.collect(),
            health_success: zero(),
            health_failures: zero(),
            checks: Mutex::default(),
        }
    }

    /// Counts the result of a health check.
    pub(crate) fn checked(&self, kind: &'static str, name: &'static str, is_good: bool) {
        let mut checks = self.checks.lock();
        let counts = checks.entry((kind, name)).or_default();
        counts.is_good = is_good;
        *if is_good { &mut counts.successes } else { &mut counts.errors } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_however_it_ends() {
        let metrics = RpcMetrics::new([("/etcdserverpb.KV/Put", "unary")].into_iter(), true);
        let put = &metrics.rpcs[0];
        CallGuard::start(Arc::clone(put)).finish(Code::Ok);
        CallGuard::start(Arc::clone(put)).finish(Code::Unavailable);
        drop(CallGuard::start(Arc::clone(put)));
        let handled = |code: Code| put.handled[code as usize].load(Ordering::Relaxed);
        assert_eq!(put.started.load(Ordering::Relaxed), 3);
        assert_eq!([Code::Ok, Code::Unavailable, Code::Cancelled].map(handled), [1, 1, 1]);
        let (name, times) = put.requests.as_ref().unwrap();
        assert_eq!((*name, times[0].read().2, times[1].read().2), ("Put", 2, 1));
        assert_eq!(put.handling.as_ref().unwrap().read().2, 3);
    }
}
