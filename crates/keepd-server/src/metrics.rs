//! Counters of the services, and the metrics page in Prometheus' text format with etcd's names.

mod page;
mod peers;
mod process;
mod text;

pub(crate) use page::render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
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
}

/// A call under way; counted as cancelled if it is dropped before it is finished.
#[derive(Debug)]
pub(crate) struct CallGuard(Option<Arc<RpcCounters>>);

impl CallGuard {
    /// Counts the start of a call.
    pub(crate) fn start(counters: Arc<RpcCounters>) -> Self {
        counters.started.fetch_add(1, Ordering::Relaxed);
        Self(Some(counters))
    }

    /// Counts how the call ended.
    pub(crate) fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        if let Some(counters) = self.0.take() {
            let number = usize::try_from(i32::from(code)).unwrap_or(CODES.len());
            let number = number.min(CODES.len() - 1);
            counters.handled[number].fetch_add(1, Ordering::Relaxed);
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
    /// Counters of RPCs with these paths and kinds.
    pub(crate) fn new(rpcs: impl Iterator<Item = (&'static str, &'static str)>) -> Self {
        let zero = || AtomicU64::new(0);
        let rpcs = rpcs.map(|(path, kind)| {
            let (service, method) = path[1..].split_once('/').expect("a path has two parts");
            let labels =
                format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let (started, handled) = (zero(), std::array::from_fn(|_| zero()));
            Arc::new(RpcCounters { path, labels, started, handled })
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
        let metrics = RpcMetrics::new([("/etcdserverpb.KV/Put", "unary")].into_iter());
        let put = &metrics.rpcs[0];
        CallGuard::start(Arc::clone(put)).finish(Code::Ok);
        CallGuard::start(Arc::clone(put)).finish(Code::Unavailable);
        drop(CallGuard::start(Arc::clone(put)));
        let handled = |code: Code| put.handled[code as usize].load(Ordering::Relaxed);
        assert_eq!(put.started.load(Ordering::Relaxed), 3);
        assert_eq!([Code::Ok, Code::Unavailable, Code::Cancelled].map(handled), [1, 1, 1]);
    }
}
