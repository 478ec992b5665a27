//! Counts of the promotions of learners, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tonic::Status;

/// BOUND: reasons of failed promotions that are told apart.
const REASONS_MAX: usize = 32;

/// Promotions of learners that this member was asked for.
#[derive(Debug, Default)]
pub(crate) struct Promotions {
    successes: AtomicU64,
    /// By the text of the error.
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Promotions {
    /// Counts one.
    pub(crate) fn count<T>(&self, result: &Result<T, Status>) {
        let Err(status) = result else {
            self.successes.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut failures = self.failures.lock();
        let reason = status.message();
        if failures.len() < REASONS_MAX || failures.contains_key(reason) {
            *failures.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// The successes, and the failures by their reason.
    pub(crate) fn read(&self) -> (u64, BTreeMap<String, u64>) {
        (self.successes.load(Ordering::Relaxed), self.failures.lock().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_their_reason_up_to_a_bound() {
        let promotions = Promotions::default();
        promotions.count(&Ok(()));
        for number in 0..REASONS_MAX * 2 {
            promotions.count::<()>(&Err(Status::not_found(format!("reason {number}"))));
        }
        promotions.count::<()>(&Err(Status::not_found("reason 1")));
        let (successes, failures) = promotions.read();
        assert_eq!((successes, failures.len()), (1, REASONS_MAX));
        assert_eq!(failures["reason 1"], 2);
    }
}
