//! Counts of a peer, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepd_node::Histogram;
use parking_lot::Mutex;

/// Counts of one peer.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_failures: AtomicU64,
    pub(crate) received_failures: AtomicU64,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    pub(crate) states_sent: AtomicU64,
    pub(crate) state_send_failures: AtomicU64,
    pub(crate) states_received: AtomicU64,
    pub(crate) state_receive_failures: AtomicU64,
    pub(crate) round_trips: Histogram,
    pub(crate) last_round_trip: Mutex<Option<Duration>>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sent_bytes: zero(),
            received_bytes: zero(),
            sent_failures: zero(),
            received_failures: zero(),
            dial_failures: zero(),
            disconnects: zero(),
            states_sent: zero(),
            state_send_failures: zero(),
            states_received: zero(),
            state_receive_failures: zero(),
            round_trips: Histogram::doubling(0.0001, 16),
            last_round_trip: Mutex::new(None),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn round_trip(&self, took: Duration) {
        self.round_trips.observe(took);
        *self.last_round_trip.lock() = Some(took);
    }
}
