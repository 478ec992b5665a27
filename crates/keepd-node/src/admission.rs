//! A budget in bytes for large requests on their way into the log: they wait for it in order.
//!
//! A burst of them is thus taken at the pace of the disk instead of being refused half way. Small
//! requests are not counted: as many as fill the queue to the Raft part come from nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// Requests from this size on are counted.
const LARGE_BYTES: usize = 16 * 1024;
/// Bytes of one unit of the budget.
const UNIT_BYTES: usize = 1024;
/// BOUND: three quarters of the queue to the Raft part; the rest is for small requests. Batches
/// take up to 8 MiB, so there is always the next one at hand.
const UNITS: u32 = 48 * 1024;
/// BOUND: units that requests may wait for, beside those that are taken: they are held in memory
/// meanwhile.
const WAITING_UNITS_MAX: usize = 128 * 1024;

#[derive(Debug)]
pub(crate) struct ProposalBudget {
    units: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for ProposalBudget {
    fn default() -> Self {
        Self { units: Arc::new(Semaphore::new(UNITS as usize)), waiting: AtomicUsize::new(0) }
    }
}

/// A part of the budget, until dropped; small requests take none.
pub(crate) type Permit = Option<OwnedSemaphorePermit>;

/// Units that wait, until dropped.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl<'a> Waiting<'a> {
    /// `None` if as much waits as may.
    fn new(waiting: &'a AtomicUsize, units: usize) -> Option<Self> {
        let before = waiting.fetch_add(units, Ordering::Relaxed);
        let counted = Self(waiting, units);
        (before <= WAITING_UNITS_MAX).then_some(counted)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl ProposalBudget {
    /// Waits for a part of the budget, at most for `timeout`. A request larger than all of it takes all.
    pub(crate) async fn take(&self, bytes: usize, timeout: Duration) -> Result<Permit, Error> {
        if bytes < LARGE_BYTES {
            return Ok(None);
        }
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(UNITS).min(UNITS);
        let Some(_waiting) = Waiting::new(&self.waiting, bytes / UNIT_BYTES) else {
            return Err(Error::TooManyRequests);
        };
        let budget = Arc::clone(&self.units).acquire_many_owned(units);
        match tokio::time::timeout(timeout, budget).await {
            Ok(Ok(taken)) => Ok(Some(taken)),
            Ok(Err(_closed)) => Err(Error::Stopped),
            Err(_elapsed) => Err(Error::TimedOut),
        }
    }

    /// Wakes those who wait: they get none.
    pub(crate) fn close(&self) {
        self.units.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const ALL: usize = UNITS as usize * UNIT_BYTES;
    const TIMEOUT: Duration = Duration::from_secs(7);

    fn is_waiting(waiting: std::pin::Pin<&mut impl Future>) -> bool {
        matches!(waiting.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    #[tokio::test]
    async fn large_requests_wait_in_order_and_small_ones_pass() {
        let budget = ProposalBudget::default();
        let first = budget.take(2 * ALL, TIMEOUT).await.unwrap();
        let (mut second, mut third) =
            (pin!(budget.take(ALL / 2, TIMEOUT)), pin!(budget.take(ALL / 2 + 1024, TIMEOUT)));
        assert!(is_waiting(second.as_mut()) && is_waiting(third.as_mut()));
        assert!(budget.take(LARGE_BYTES - 1, TIMEOUT).await.unwrap().is_none());
        drop(first);
        let second = second.await.unwrap();
        assert!(is_waiting(third.as_mut()), "half of the budget is too little");
        drop(second);
        assert!(third.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let budget = ProposalBudget::default();
        let all = budget.take(ALL, TIMEOUT).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..=WAITING_UNITS_MAX * UNIT_BYTES / ALL {
            waiting.push(Box::pin(budget.take(ALL, TIMEOUT)));
            assert!(is_waiting(waiting.last_mut().unwrap().as_mut()));
        }
        assert_eq!(budget.take(ALL, TIMEOUT).await.unwrap_err(), Error::TooManyRequests);
        // Clients that give up make place for others.
        waiting.clear();
        let mut next = pin!(budget.take(ALL, TIMEOUT));
        assert!(is_waiting(next.as_mut()));
        drop(all);
        assert!(next.await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_a_request_may_take() {
        let budget = ProposalBudget::default();
        let _all = budget.take(ALL, TIMEOUT).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(budget.take(ALL, TIMEOUT).await.unwrap_err(), Error::TimedOut);
        assert_eq!(began.elapsed(), TIMEOUT);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_member_that_stops() {
        let budget = ProposalBudget::default();
        let _all = budget.take(ALL, TIMEOUT).await.unwrap();
        let mut waiting = pin!(budget.take(ALL, TIMEOUT));
        assert!(is_waiting(waiting.as_mut()));
        budget.close();
        assert_eq!(waiting.await.unwrap_err(), Error::Stopped);
    }
}
