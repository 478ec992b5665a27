//! The rate at which states are sent.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The rate of all states together.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// The time at which the next chunk may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next: Mutex::new(None) }
    }

    /// Waits until so many bytes may go.
    pub(crate) async fn wait(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let took = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1));
        let at = {
            let mut next = self.next.lock();
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + took);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn states_together_go_at_the_rate() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        for _ in 0..5 {
            tokio::join!(pace.wait(500), pace.wait(500));
        }
        // The last chunk begins half a second before its time is over.
        assert!(start.elapsed().abs_diff(Duration::from_millis(4500)) < Duration::from_millis(20));
    }
}
