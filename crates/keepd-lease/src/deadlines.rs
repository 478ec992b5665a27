//! The primary's deadlines: when each lease runs out, and when it is reported.
//!
//! Dropped whole when leadership is lost, built anew by a promotion. Invariants: the queue holds
//! exactly one item per lease that has a deadline; a lease is in `fresh` or has a deadline, never
//! both; `due >= at`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepd_types::LeaseId;

/// More leases than this are spread at a promotion.
const SPREAD_ABOVE: usize = 1000;
/// Spread leases that may run out within one second: three quarters of what the primary can revoke,
/// so that it also keeps up with the others.
const SPREAD_PER_SECOND: usize = 750;

/// Deadline of one lease.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// The time at which it runs out.
    at: Duration,
    /// The time of its next report; later than `at` once it has been reported.
    due: Duration,
}

/// All deadlines of a primary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_lease: BTreeMap<LeaseId, Deadline>,
    /// By due time; the order among equals is that of the ids.
    queue: BTreeSet<(Duration, LeaseId)>,
    /// Lifetimes of the leases granted since the last tick; their deadlines start at the next one.
    fresh: BTreeMap<LeaseId, Duration>,
}

impl Deadlines {
    /// Deadlines of all leases: each its lifetime from `now`, then spread if they are many.
    pub(crate) fn promoted(
        lives: impl Iterator<Item = (LeaseId, Duration)>,
        now: Duration,
    ) -> Self {
        let mut ends: Vec<_> = lives.map(|(id, life)| (now.saturating_add(life), id)).collect();
        ends.sort_unstable();
        if ends.len() > SPREAD_ABOVE {
            // Each runs out a second or more after the one 750 places before it: this keeps the
            // order, shortens none and leaves at most 750 in any one second.
            for i in SPREAD_PER_SECOND..ends.len() {
                let earliest = ends[i - SPREAD_PER_SECOND].0.saturating_add(Duration::from_secs(1));
                ends[i].0 = ends[i].0.max(earliest);
            }
        }
        let mut deadlines = Self::default();
        for (at, id) in ends {
            deadlines.set(id, at);
        }
        deadlines
    }

    /// Adds a lease whose deadline starts at the next tick.
    pub(crate) fn grant(&mut self, id: LeaseId, life: Duration) {
        assert!(!self.by_lease.contains_key(&id), "a granted lease has no deadline yet");
        let old = self.fresh.insert(id, life);
        assert!(old.is_none(), "a lease is granted once");
    }

    /// Ticks: starts the deadlines of the leases granted since the last tick.
    pub(crate) fn arm(&mut self, now: Duration) {
        for (id, life) in std::mem::take(&mut self.fresh) {
            self.set(id, now.saturating_add(life));
        }
    }

    /// Restarts a lifetime; false if the lease has run out. `now` was the last tick.
    pub(crate) fn renew(&mut self, id: LeaseId, life: Duration, now: Duration) -> bool {
        if self.by_lease.get(&id).is_some_and(|deadline| deadline.at <= now) {
            return false;
        }
        self.set(id, now.saturating_add(life));
        true
    }

    /// Removes a lease.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.fresh.remove(&id);
        if let Some(old) = self.by_lease.remove(&id) {
            let was_queued = self.queue.remove(&(old.due, id));
            assert!(was_queued, "each deadline is queued");
        }
    }

    /// Up to `max` leases that are due, earliest first. Each comes up again after `retry`, for the
    /// revoke that was proposed may have been lost.
    pub(crate) fn take_due(&mut self, now: Duration, max: usize, retry: Duration) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < max {
            let Some(&(when, id)) = self.queue.first() else { break };
            if when > now {
                break;
            }
            self.queue.pop_first();
            // BOUND: at least a nanosecond ahead, so that one call never meets a lease twice.
            let again = now.saturating_add(retry.max(Duration::from_nanos(1)));
            self.queue.insert((again, id));
            self.by_lease.get_mut(&id).expect("what is queued has a deadline").due = again;
            due.push(id);
        }
        due
    }

    /// The number of leases, with and without a deadline yet.
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.by_lease.len(), self.queue.len(), "each deadline is queued once");
        self.by_lease.len() + self.fresh.len()
    }

    /// The time at which a lease runs out; `None` before the tick after its grant.
    pub(crate) fn at(&self, id: LeaseId) -> Option<Duration> {
        self.by_lease.get(&id).map(|deadline| deadline.at)
    }

    fn set(&mut self, id: LeaseId, at: Duration) {
        self.remove(id);
        self.by_lease.insert(id, Deadline { at, due: at });
        self.queue.insert((at, id));
    }
}
