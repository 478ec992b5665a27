//! The primary's deadlines: when each lease runs out, when it is reported, and when the time that it
//! has left is to be recorded.
//!
//! Dropped whole when leadership is lost, built anew by a promotion. Invariants: the queue holds
//! exactly one item per lease that has a deadline, and the queue of records one per deadline that has
//! a time for it; a lease is in `fresh` or has a deadline, never both; `due >= at`.
//!
//! A record of the time left ([`Deadlines::take_unrecorded`]) may be under way while the lease is
//! renewed. The next primary must not believe it then, so the renewal is to be recorded too, behind
//! it; until that is applied (`recording` is `Some(0)`) no other record is begun. So what was handed
//! out last is what counts, and once it is applied nothing else is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepd_types::LeaseId;

/// More leases than this are spread at a promotion.
const SPREAD_ABOVE: usize = 1000;
/// Spread leases that may run out within one second: three quarters of what the primary can revoke,
/// so that it also keeps up with the others.
const SPREAD_PER_SECOND: usize = 750;
/// The longest interval between two records of the time that a lease has left, as in etcd.
const RECORD_INTERVAL_MAX: Duration = Duration::from_secs(300);

/// Deadline of one lease.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// The time at which it runs out.
    at: Duration,
    /// The time of its next report; later than `at` once it has been reported.
    due: Duration,
    /// The time at which what is left is to be recorded; `None` if it ends before that.
    record_at: Option<Duration>,
    /// Time between two records.
    record_interval: Duration,
    /// The record that was handed out last, in seconds, until it is applied.
    recording: Option<i64>,
}

/// Lifetime of a lease: what it has left, and its full time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) left: Duration,
    pub(crate) full: Duration,
}

impl Life {
    /// Time between two records: a lease that is renewed in time is never recorded, and one that is
    /// not loses half its time at most when the primary dies.
    fn record_interval(self) -> Duration {
        RECORD_INTERVAL_MAX.min(self.full / 2)
    }
}

/// All deadlines of a primary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_lease: BTreeMap<LeaseId, Deadline>,
    /// By due time; the order among equals is that of the ids.
    queue: BTreeSet<(Duration, LeaseId)>,
    /// By the time of the next record.
    records: BTreeSet<(Duration, LeaseId)>,
    /// Lifetimes of the leases granted since the last tick; their deadlines start at the next one.
    fresh: BTreeMap<LeaseId, Life>,
}

impl Deadlines {
    /// Deadlines of all leases: each its lifetime from `now`, then spread if they are many.
    pub(crate) fn promoted(lives: impl Iterator<Item = (LeaseId, Life)>, now: Duration) -> Self {
        let end = |(id, life): (LeaseId, Life)| {
            (now.saturating_add(life.left), id, life.record_interval())
        };
        let mut ends: Vec<_> = lives.map(end).collect();
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
        for (at, id, record_interval) in ends {
            deadlines.set(id, at, record_interval, now, None);
        }
        deadlines
    }

    /// Adds a lease whose deadline starts at the next tick.
    pub(crate) fn grant(&mut self, id: LeaseId, life: Life) {
        assert!(!self.by_lease.contains_key(&id), "a granted lease has no deadline yet");
        let old = self.fresh.insert(id, life);
        assert!(old.is_none(), "a lease is granted once");
    }

    /// Ticks: starts the deadlines of the leases granted since the last tick.
    pub(crate) fn arm(&mut self, now: Duration) {
        for (id, life) in std::mem::take(&mut self.fresh) {
            self.set(id, now.saturating_add(life.left), life.record_interval(), now, None);
        }
    }

    /// Gives a lease its full time; `None` if it has run out, else whether a record of less is under
    /// way. `now` was the last tick.
    pub(crate) fn renew(&mut self, id: LeaseId, life: Life, now: Duration) -> Option<bool> {
        let old = self.by_lease.get(&id).copied();
        if old.is_some_and(|deadline| deadline.at <= now) {
            return None;
        }
        let recording = old.and_then(|deadline| deadline.recording);
        self.set(id, now.saturating_add(life.full), life.record_interval(), now, recording);
        Some(recording.is_some())
    }

    /// The full time of a lease is to be recorded.
    pub(crate) fn record_full(&mut self, id: LeaseId) {
        if let Some(deadline) = self.by_lease.get_mut(&id) {
            deadline.recording = Some(0);
        }
    }

    /// A record is applied.
    pub(crate) fn recorded(&mut self, id: LeaseId, seconds: i64) {
        if let Some(deadline) = self.by_lease.get_mut(&id)
            && deadline.recording == Some(seconds)
        {
            deadline.recording = None;
        }
    }

    /// Up to `max` leases whose time left is to be recorded, with it in seconds, rounded up: the next
    /// primary ends none early. `is_news` says whether a time is worth a record.
    pub(crate) fn take_unrecorded(
        &mut self,
        now: Duration,
        max: usize,
        is_news: impl Fn(LeaseId, i64) -> bool,
    ) -> Vec<(LeaseId, i64)> {
        let mut unrecorded = Vec::new();
        // BOUND: each is looked at once, for the next record of a lease is later than `now`.
        while unrecorded.len() < max {
            let Some(&(when, id)) = self.records.first() else { break };
            if when > now {
                break;
            }
            self.records.pop_first();
            let deadline = self.by_lease.get_mut(&id).expect("what is queued has a deadline");
            deadline.record_at = None;
            if deadline.at <= now {
                continue;
            }
            let left = deadline.at - now;
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            if deadline.recording != Some(0) && is_news(id, seconds) {
                deadline.recording = Some(seconds);
                unrecorded.push((id, seconds));
            }
            self.queue_record(id, now);
        }
        unrecorded
    }

    /// Queues the next record of a lease, if it lives so long.
    fn queue_record(&mut self, id: LeaseId, now: Duration) {
        let deadline = self.by_lease.get_mut(&id).expect("it has a deadline");
        let interval = deadline.record_interval.max(Duration::from_nanos(1));
        let at = now.saturating_add(interval);
        if at < deadline.at {
            deadline.record_at = Some(at);
            self.records.insert((at, id));
        }
    }

    /// Removes a lease.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.fresh.remove(&id);
        if let Some(old) = self.by_lease.remove(&id) {
            let was_queued = self.queue.remove(&(old.due, id));
            assert!(was_queued, "each deadline is queued");
            if let Some(at) = old.record_at {
                let was_queued = self.records.remove(&(at, id));
                assert!(was_queued, "each record to come is queued");
            }
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

    fn set(
        &mut self,
        id: LeaseId,
        at: Duration,
        record_interval: Duration,
        now: Duration,
        recording: Option<i64>,
    ) {
        self.remove(id);
        let deadline = Deadline { at, due: at, record_at: None, record_interval, recording };
        self.by_lease.insert(id, deadline);
        self.queue.insert((at, id));
        self.queue_record(id, now);
    }
}
