//! Counts of a peer, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepd_node::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

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
    /// States that are being sent to it, and received from it.
    pub(crate) states_under_way: [AtomicU64; 2],
    /// The times that sent and received ones took.
    pub(crate) state_seconds: [Histogram; 2],
    pub(crate) round_trips: Histogram,
    pub(crate) last_round_trip: Mutex<Option<Duration>>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let seconds = || Histogram::doubling(0.1, 10);
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
            states_under_way: [zero(), zero()],
            state_seconds: [seconds(), seconds()],
            round_trips: Histogram::doubling(0.0001, 16),
            last_round_trip: Mutex::new(None),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The direction of a state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StateWay {
    Out,
    In,
}

/// A state under way; it is none any more when this is dropped.
pub(crate) struct StateUnderWay<'a> {
    counters: &'a Counters,
    way: StateWay,
    began: Instant,
}

impl StateUnderWay<'_> {
    /// Counts the time of a state that has arrived.
    pub(crate) fn arrived(&self) {
        self.counters.state_seconds[self.way as usize].observe(self.began.elapsed());
    }
}

impl Drop for StateUnderWay<'_> {
    fn drop(&mut self) {
        self.counters.states_under_way[self.way as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// Counts a state that begins.
    pub(crate) fn state_begins(&self, way: StateWay) -> StateUnderWay<'_> {
        self.states_under_way[way as usize].fetch_add(1, Ordering::Relaxed);
        StateUnderWay { counters: self, way, began: Instant::now() }
    }

    pub(crate) fn round_trip(&self, took: Duration) {
        self.round_trips.observe(took);
        *self.last_round_trip.lock() = Some(took);
    }
}
