//! Calls by the version that their client names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use parking_lot::RwLock;

/// BOUND: versions that are told apart. A client may name any.
const VERSIONS_MAX: usize = 64;
/// BOUND: bytes of a version; a longer one counts as `other`.
const VERSION_BYTES_MAX: usize = 64;
/// The version of a client that names none, as in etcd.
const UNKNOWN: &str = "unknown";
/// All versions beyond the bound.
const OTHER: &str = "other";

/// Counts of unary calls and of streams, by version.
#[derive(Debug, Default)]
pub(crate) struct ClientRequests(RwLock<BTreeMap<String, [AtomicU64; 2]>>);

impl ClientRequests {
    /// Counts a call.
    pub(crate) fn count(&self, version: Option<&HeaderValue>, is_stream: bool) {
        let version = version.map_or(Some(UNKNOWN), |it| it.to_str().ok());
        let version = version.filter(|it| it.len() <= VERSION_BYTES_MAX).unwrap_or(OTHER);
        let add = |counts: &[AtomicU64; 2]| {
            counts[usize::from(is_stream)].fetch_add(1, Ordering::Relaxed);
        };
        if let Some(counts) = self.0.read().get(version) {
            add(counts);
            return;
        }
        let mut all = self.0.write();
        let has_room = all.len() < VERSIONS_MAX || all.contains_key(version);
        add(all.entry(if has_room { version } else { OTHER }.to_owned()).or_default());
    }

    /// Versions, their unary calls and their streams.
    pub(crate) fn read(&self) -> Vec<(String, [u64; 2])> {
        let all = self.0.read();
        let load = |[unary, streams]: &[AtomicU64; 2]| {
            [unary.load(Ordering::Relaxed), streams.load(Ordering::Relaxed)]
        };
        all.iter().map(|(version, counts)| (version.clone(), load(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_their_version_and_no_client_fills_the_page() {
        let requests = ClientRequests::default();
        let version = HeaderValue::from_static("3.7");
        requests.count(Some(&version), false);
        requests.count(Some(&version), true);
        requests.count(Some(&version), true);
        requests.count(None, false);
        let is = |all: &[(String, [u64; 2])], name: &str, counts| {
            all.iter().any(|it| *it == (name.to_owned(), counts))
        };
        let all = requests.read();
        assert!(is(&all, "3.7", [1, 2]) && is(&all, "unknown", [1, 0]), "{all:?}");
        for number in 0..1000 {
            requests.count(Some(&HeaderValue::from(number)), false);
        }
        requests.count(Some(&HeaderValue::from_str(&"9".repeat(1000)).unwrap()), false);
        let all = requests.read();
        assert!(all.len() <= VERSIONS_MAX + 1, "{}", all.len());
        assert!(is(&all, "3.7", [1, 2]));
        assert_eq!(all.iter().map(|(_, [unary, _])| unary).sum::<u64>(), 1003);
    }
}
