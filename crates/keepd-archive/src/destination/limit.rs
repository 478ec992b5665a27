//! A limit of the bytes that are sent or received in a second: a token bucket.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepd_env::Clock;

/// Bytes that may pass at once, as a part of the rate: a tenth of a second's.
const BURST_PART: u32 = 10;
/// BOUND: bytes of one wait, so that a slow rate does not sleep for long.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// A limit, shared by whatever uses the same line.
#[derive(Debug)]
pub struct Limit {
    clock: Arc<dyn Clock>,
    rate: Option<NonZeroU64>,
    /// The moment up to which the line is taken.
    taken_until: Mutex<Duration>,
}

impl Limit {
    /// A limit of `rate` bytes a second; none without one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, rate: Option<NonZeroU64>) -> Self {
        Self { clock, rate, taken_until: Mutex::new(Duration::ZERO) }
    }

    /// Waits until `bytes` may pass.
    pub(super) fn pass(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let wait = {
            let mut until = self.taken_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.monotonic();
            let begin = (*until).max(now.saturating_sub(Duration::from_secs(1) / BURST_PART));
            *until = begin + time(bytes, rate);
            until.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
    }
}

fn time(bytes: usize, rate: NonZeroU64) -> Duration {
    let nanos = (bytes as u128) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Reads a rate: a number of bytes with k, M or G behind it.
///
/// # Errors
/// If it is none.
pub fn rate(text: &str) -> Result<NonZeroU64, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.and_then(NonZeroU64::new);
    bytes.ok_or_else(|| "a rate is a number of bytes above 0, as in 500k or 20M".to_owned())
}

#[cfg(test)]
mod tests {
    use keepd_env::ManualClock;

    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_and_an_idle_line_saves_little() {
        let clock = ManualClock::new();
        let limit = Limit::new(Arc::new(clock.clone()), NonZeroU64::new(1_000_000));
        clock.advance(Duration::from_secs(100));
        let begin = clock.monotonic();
        for _ in 0..100 {
            limit.pass(50_000);
        }
        // 5 MB at 1 MB/s, of which a tenth of a second was saved.
        assert_eq!(clock.monotonic() - begin, Duration::from_millis(4900));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let clock = ManualClock::new();
        Limit::new(Arc::new(clock.clone()), None).pass(usize::MAX);
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }

    #[test]
    fn rates_are_numbers_with_units() {
        assert_eq!(rate("500k").unwrap().get(), 500_000);
        assert_eq!(rate("20M").unwrap().get(), 20_000_000);
        assert_eq!(rate("7").unwrap().get(), 7);
        for wrong in ["", "0", "k", "-1M", "1.5M", "99999999999999999999G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
