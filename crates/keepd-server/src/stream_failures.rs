//! Streams that end because a message of them cannot be read or sent, for a metric of etcd's.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::{Code, Status};

/// The streams that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Watch,
    LeaseKeepAlive,
}

/// The direction that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Receive,
    Send,
}

/// Counts of streams that failed.
#[derive(Debug, Default)]
pub(crate) struct StreamFailures([[AtomicU64; 2]; 2]);

impl StreamFailures {
    /// Counts the end of a stream, unless its client has ended it or gave up, as in etcd.
    pub(crate) fn count(&self, api: Api, way: Way, status: &Status) {
        if !matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) {
            self.0[api as usize][way as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The labels of etcd with the counts.
    pub(crate) fn read(&self) -> impl Iterator<Item = (String, u64)> {
        let apis = [(Api::Watch, "watch"), (Api::LeaseKeepAlive, "lease-keepalive")];
        let ways = [(Way::Receive, "receive"), (Way::Send, "send")];
        apis.into_iter().flat_map(move |(api, api_name)| {
            ways.into_iter().map(move |(way, way_name)| {
                let count = self.0[api as usize][way as usize].load(Ordering::Relaxed);
                (format!("API=\"{api_name}\",Type=\"{way_name}\""), count)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_its_client_did_not_end_is_a_failure() {
        let failures = StreamFailures::default();
        failures.count(Api::Watch, Way::Receive, &Status::cancelled("gone"));
        failures.count(Api::Watch, Way::Receive, &Status::internal("malformed"));
        failures.count(Api::LeaseKeepAlive, Way::Send, &Status::unavailable("no leader"));
        let counts: Vec<_> = failures.read().collect();
        let of = |labels: &str| counts.iter().find(|(known, _)| known == labels).unwrap().1;
        assert_eq!(of("API=\"watch\",Type=\"receive\""), 1);
        assert_eq!(of("API=\"watch\",Type=\"send\""), 0);
        assert_eq!(of("API=\"lease-keepalive\",Type=\"send\""), 1);
    }
}
