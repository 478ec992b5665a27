//! Numbers the threads count; the server gives them etcd's metric names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending.
    bounds: Box<[f64]>,
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
    count: AtomicU64,
}

impl Histogram {
    /// `count` buckets whose bounds double from `first` seconds.
    #[must_use]
    pub fn doubling(first: f64, count: usize) -> Self {
        Self::bounded(std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count))
    }

    /// Buckets with these bounds in seconds, ascending.
    #[must_use]
    pub fn bounded(bounds: impl Iterator<Item = f64>) -> Self {
        let bounds: Box<[f64]> = bounds.collect();
        let buckets = bounds.iter().map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_nanos: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut buckets = self.bounds.iter().zip(&self.buckets);
        if let Some((_, bucket)) = buckets.find(|(bound, _)| seconds <= **bound) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos
            .fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Upper bounds with cumulative counts, then the sum in seconds and the count of all.
    #[must_use]
    pub fn read(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut total = 0;
        let cumulative = |(bound, bucket): (&f64, &AtomicU64)| {
            total += bucket.load(Ordering::Relaxed);
            (*bound, total)
        };
        let buckets = self.bounds.iter().zip(&self.buckets).map(cumulative).collect();
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        (buckets, sum, self.count.load(Ordering::Relaxed))
    }
}

/// The log's way into the places of backups, as whoever ships it counts.
#[derive(Debug, Default)]
pub struct BackupLog {
    /// Whether it is shipped at all.
    pub is_on: AtomicU64,
    /// Whether this member ships it: the leader does.
    pub ships: AtomicU64,
    /// Milliseconds for which something committed has not been shipped, to the place that is behind most.
    pub behind_millis: AtomicU64,
    /// The last entry that is in all places, as far as this member knows.
    pub index: AtomicU64,
    /// Batches that this member shipped.
    pub batches: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
    /// Gaps: entries that were lost before they were shipped.
    pub gaps: AtomicU64,
}

/// Everything the node's threads count.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named after the etcd metric that shows it")]
pub struct Metrics {
    pub proposals_pending: AtomicU64,
    pub proposals_failed: AtomicU64,
    pub heartbeat_send_failures: AtomicU64,
    pub slow_read_indexes: AtomicU64,
    pub read_indexes_failed: AtomicU64,
    pub installs_in_progress: AtomicU64,
    pub wal_write_seconds: Histogram,
    pub wal_fsync_seconds: Histogram,
    pub wal_write_bytes: AtomicU64,
    pub apply_seconds: Histogram,
    pub backend_commit_seconds: Histogram,
    pub slow_apply: AtomicU64,
    pub put: AtomicU64,
    pub delete: AtomicU64,
    pub txn: AtomicU64,
    pub lease_granted: AtomicU64,
    pub lease_revoked: AtomicU64,
    pub lease_renewed: AtomicU64,
    pub lease_expired: AtomicU64,
    pub compactions: AtomicU64,
    pub events: AtomicU64,
    pub watch_streams: AtomicU64,
    pub watchers: AtomicU64,
    pub slow_watchers: AtomicU64,
    pub backup_log: BackupLog,
}

impl Default for Metrics {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            proposals_pending: zero(),
            proposals_failed: zero(),
            heartbeat_send_failures: zero(),
            slow_read_indexes: zero(),
            read_indexes_failed: zero(),
            installs_in_progress: zero(),
            wal_write_seconds: Histogram::doubling(0.001, 14),
            wal_fsync_seconds: Histogram::doubling(0.001, 14),
            wal_write_bytes: zero(),
            apply_seconds: Histogram::doubling(0.0001, 20),
            backend_commit_seconds: Histogram::doubling(0.001, 14),
            slow_apply: zero(),
            put: zero(),
            delete: zero(),
            txn: zero(),
            lease_granted: zero(),
            lease_revoked: zero(),
            lease_renewed: zero(),
            lease_expired: zero(),
            compactions: zero(),
            events: zero(),
            watch_streams: zero(),
            watchers: zero(),
            slow_watchers: zero(),
            backup_log: BackupLog::default(),
        }
    }
}
