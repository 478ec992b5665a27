//! Input of the hub: ids, watch requests, limits and applied batches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keepd_mvcc::{Change, View};
use keepd_types::KeyRange;
use keepd_types::limits::WATCH_BATCH_REVISIONS_MAX;

/// One client stream; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A watcher of a stream; any number, as the client may choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

impl WatchId {
    /// The id in answers that concern no watcher or all of them.
    pub const NONE: Self = Self(-1);
}

/// Event kinds that a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// NOPUT.
    pub no_put: bool,
    /// NODELETE.
    pub no_delete: bool,
}

/// A create request.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// The id that the client chose; `None` or 0 lets the hub choose.
    pub id: Option<WatchId>,
    /// The keys; an empty start means the first possible key.
    pub range: KeyRange,
    /// The first revision to deliver; 0 means "from now".
    pub start_revision: i64,
    /// Event kinds to leave out.
    pub filters: Filters,
    /// Whether events carry the previous record.
    pub prev_kv: bool,
    /// Whether it gets progress notifications.
    pub progress_notify: bool,
    /// Whether the edge may split its responses.
    pub fragment: bool,
    /// The edge's verdict: the reason if the permission check refused the request. It comes through
    /// here because answers keep the order of requests and another refusal may come first.
    pub denied: Option<String>,
}

impl WatchSpec {
    /// A plain watch of `range` from `start_revision` on.
    #[must_use]
    pub fn new(range: KeyRange, start_revision: i64) -> Self {
        Self {
            id: None,
            range,
            start_revision,
            filters: Filters::default(),
            prev_kv: false,
            progress_notify: false,
            fragment: false,
            denied: None,
        }
    }
}

/// Bounds of the hub.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Watchers of all streams together; more are refused.
    pub watchers_max: usize,
    /// Distinct revisions in one replayed response.
    pub batch_revisions_max: usize,
    /// Revisions that one catch-up call reads.
    pub scan_revisions_max: usize,
    /// Bytes that one catch-up call aims to read; it learns from them how many revisions to ask
    /// for.
    pub scan_bytes_target: usize,
    /// Watchers that one catch-up call serves.
    pub scan_watchers_max: usize,
    /// Progress requests of one stream that may wait for the hub to reach the store's revision.
    pub progress_requests_max: usize,
    /// Time after which a stream that takes no message is closed.
    pub stall_max: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watchers_max: 1_000_000,
            batch_revisions_max: WATCH_BATCH_REVISIONS_MAX,
            scan_revisions_max: 4 * WATCH_BATCH_REVISIONS_MAX,
            scan_bytes_target: 8 * 1024 * 1024,
            scan_watchers_max: 4096,
            progress_requests_max: 16,
            stall_max: Some(Duration::from_secs(300)),
        }
    }
}

/// Applied changes: one or more whole revisions, in order.
#[derive(Clone)]
pub struct Batch {
    /// A view in which the previous records of the changes can be loaded.
    pub view: Arc<View>,
    /// The changes.
    pub changes: Arc<[Change]>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("changes", &self.changes).finish_non_exhaustive()
    }
}
