//! Entries between commit and answer: who waits for them, and since when.
//!
//! The Raft part adds entries as they are committed and keeps the time of those who wait; the
//! apply part takes them out when it publishes. So a waiter is told in time also while an entry
//! before its own takes long to apply, and health can tell how long that is.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Error;
use crate::messages::Waiter;

/// A committed entry that somebody waits for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) index: u64,
    /// The time at which the request was taken.
    pub(crate) taken: Duration,
    pub(crate) waiter: Waiter,
}

#[derive(Debug, Default)]
struct State {
    /// The last index of each batch with the time of its commit, ascending. BOUND: as `waiting`.
    batches: VecDeque<(u64, Duration)>,
    /// Ascending by index. BOUND: the backlog of entries beyond which requests are refused, and a
    /// batch of the Raft part.
    waiting: VecDeque<Waiting>,
    /// Since when the log has had something that it has not confirmed.
    unsynced_since: Option<Duration>,
    is_closed: bool,
}

/// The entries that are committed and not published.
#[derive(Debug, Default)]
pub(crate) struct Unapplied(Mutex<State>);

/// The reason why writes are not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// The oldest committed entry was not applied for so long.
    Apply(Duration),
    /// The log has not confirmed a batch for so long.
    Log(Duration),
}

impl Unapplied {
    /// Entries up to `last` are committed, and handed to the apply part next.
    pub(crate) fn add(&self, last: u64, waiting: impl IntoIterator<Item = Waiting>, now: Duration) {
        let mut state = self.0.lock();
        if !state.is_closed {
            state.batches.push_back((last, now));
            state.waiting.extend(waiting);
        }
    }

    /// Takes out everything up to `index`: it is published.
    pub(crate) fn take(&self, index: u64) -> Vec<Waiting> {
        let mut state = self.0.lock();
        while state.batches.front().is_some_and(|(last, _)| *last <= index) {
            state.batches.pop_front();
        }
        let count = state.waiting.partition_point(|waiting| waiting.index <= index);
        state.waiting.drain(..count).collect()
    }

    /// Tells those who were taken `timeout` ago or before; their entries will be applied all the same.
    pub(crate) fn expire(&self, now: Duration, timeout: Duration) {
        let mut state = self.0.lock();
        let is_over = |waiting: &Waiting| now.saturating_sub(waiting.taken) >= timeout;
        if !state.waiting.iter().any(is_over) {
            return;
        }
        let mut kept = VecDeque::with_capacity(state.waiting.len());
        let mut over = Vec::new();
        for waiting in state.waiting.drain(..) {
            if is_over(&waiting) { over.push(waiting) } else { kept.push_back(waiting) }
        }
        state.waiting = kept;
        drop(state);
        for waiting in over {
            // The task may have gone away.
            let _ = waiting.waiter.send(Err(Error::TimedOut));
        }
    }

    /// Says since when the log owes a confirmation.
    pub(crate) fn note_log(&self, unsynced_since: Option<Duration>) {
        self.0.lock().unsynced_since = unsynced_since;
    }

    /// The oldest step that has taken longer than `limit`, if one has.
    pub(crate) fn stall(&self, now: Duration, limit: Duration) -> Option<Stall> {
        let state = self.0.lock();
        let age = |since: Duration| Some(now.saturating_sub(since)).filter(|age| *age > limit);
        let apply = state.batches.front().and_then(|(_, since)| age(*since)).map(Stall::Apply);
        apply.or_else(|| state.unsynced_since.and_then(age).map(Stall::Log))
    }

    /// Nothing will be applied any more: whoever waits or comes is told so.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        state.batches.clear();
        // Dropping a waiter answers it with `Stopped`.
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_waiter_is_told_in_time_while_its_entry_waits_and_the_others_keep_their_turn() {
        let unapplied = Unapplied::default();
        let mut replies = Vec::new();
        let waiting: Vec<Waiting> = (1..=3_u32)
            .map(|number| {
                let (waiter, reply) = oneshot::channel();
                replies.push(reply);
                Waiting { index: u64::from(number), taken: SECOND * number, waiter }
            })
            .collect();
        unapplied.add(3, waiting, SECOND * 4);
        unapplied.expire(SECOND * 9, SECOND * 7);
        assert!(matches!(replies[0].try_recv(), Ok(Err(Error::TimedOut))));
        assert!(matches!(replies[1].try_recv(), Ok(Err(Error::TimedOut))));
        assert!(replies[2].try_recv().is_err(), "its time is not over");
        assert_eq!(unapplied.stall(SECOND * 5, SECOND), None);
        assert_eq!(unapplied.stall(SECOND * 6, SECOND), Some(Stall::Apply(SECOND * 2)));
        let published = unapplied.take(3);
        assert_eq!(published.iter().map(|waiting| waiting.index).collect::<Vec<_>>(), [3]);
        assert_eq!(unapplied.stall(SECOND * 60, SECOND), None, "all is applied");
        unapplied.note_log(Some(SECOND));
        assert_eq!(unapplied.stall(SECOND * 3, SECOND), Some(Stall::Log(SECOND * 2)));
    }

    #[test]
    fn nobody_waits_for_a_member_that_ended() {
        let unapplied = Unapplied::default();
        unapplied.close();
        let (waiter, mut reply) = oneshot::channel();
        unapplied.add(1, [Waiting { index: 1, taken: SECOND, waiter }], SECOND);
        assert!(matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
