//! Queues for transactions whose compared values keep changing.
//!
//! A comparison of values is decided before the transaction enters the log, and misses if one of the
//! compared keys is written in between. Left alone, a slow transaction could miss for ever. So one
//! that missed waits in a queue for its turn, first come, first served, and later transactions that
//! compare the same key join that queue. One that misses in its turn as well, because of plain
//! writes, makes the member's other writes yield for a moment. With one member that decides it: once
//! the writes under way are applied, nothing changes the values. Writes of other members can still
//! interfere.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// Keys share this many queues.
const QUEUES: usize = 64;
/// BOUND: the time for which a write yields; a turn has its own, larger bound.
const YIELD_MAX: Duration = Duration::from_millis(100);

/// All queues of a member.
#[derive(Debug)]
pub(crate) struct CompareQueues {
    queues: [Queue; QUEUES],
    /// Turns that other writes yield to.
    preempting: AtomicUsize,
    /// Notified when the last of them ends.
    clear: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Transactions that wait here or have their turn.
    inside: AtomicUsize,
    turn: Mutex<()>,
}

/// A place in a queue until dropped.
struct Place<'a>(&'a Queue);

impl<'a> Place<'a> {
    fn new(queue: &'a Queue) -> Self {
        queue.inside.fetch_add(1, Ordering::AcqRel);
        Self(queue)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A turn until dropped.
pub(crate) struct Turn<'a> {
    queues: &'a CompareQueues,
    preemption: Option<Preemption<'a>>,
    _turn: MutexGuard<'a, ()>,
    _place: Place<'a>,
}

impl Turn<'_> {
    /// Has other writes of the member yield until the turn is over.
    pub(crate) fn preempt(&mut self) {
        self.preemption.get_or_insert_with(|| Preemption::new(self.queues));
    }
}

struct Preemption<'a>(&'a CompareQueues);

impl<'a> Preemption<'a> {
    fn new(queues: &'a CompareQueues) -> Self {
        queues.preempting.fetch_add(1, Ordering::AcqRel);
        Self(queues)
    }
}

impl Drop for Preemption<'_> {
    fn drop(&mut self) {
        if self.0.preempting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.clear.notify_waiters();
        }
    }
}

impl Default for CompareQueues {
    fn default() -> Self {
        let queues = std::array::from_fn(|_| Queue::default());
        Self { queues, preempting: AtomicUsize::new(0), clear: Notify::new() }
    }
}

impl CompareQueues {
    fn queue(&self, key: &[u8]) -> &Queue {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let queues = QUEUES as u64;
        let at = usize::try_from(hasher.finish() % queues).expect("it is below the queues' number");
        &self.queues[at]
    }

    /// Whether a transaction waits for a turn with this key, or has it.
    pub(crate) fn is_contested(&self, key: &[u8]) -> bool {
        self.queue(key).inside.load(Ordering::Acquire) > 0
    }

    /// Waits for the turn.
    pub(crate) async fn take(&self, key: &[u8]) -> Turn<'_> {
        let queue = self.queue(key);
        let place = Place::new(queue);
        Turn { queues: self, preemption: None, _turn: queue.turn.lock().await, _place: place }
    }

    /// Lets starved transactions pass; every write does this before it is proposed.
    pub(super) async fn yield_to_starved(&self) {
        if self.preempting.load(Ordering::Acquire) == 0 {
            return;
        }
        let clear = async {
            loop {
                // ORDER: before the load, so that no notification is missed.
                let cleared = self.clear.notified();
                if self.preempting.load(Ordering::Acquire) == 0 {
                    return;
                }
                cleared.await;
            }
        };
        // After the timeout it has yielded for long enough.
        let _ = tokio::time::timeout(YIELD_MAX, clear).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn turns_of_a_key_are_taken_one_after_the_other() {
        let queues = Arc::new(CompareQueues::default());
        let first = queues.take(b"key").await;
        assert!(queues.is_contested(b"key"));
        let others = Arc::clone(&queues);
        let second = tokio::spawn(async move { drop(others.take(b"key").await) });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(!queues.is_contested(b"key"));
    }

    #[tokio::test]
    async fn writes_yield_to_a_turn_that_preempts_and_not_for_ever() {
        let queues = Arc::new(CompareQueues::default());
        queues.yield_to_starved().await;
        let mut turn = queues.take(b"key").await;
        turn.preempt();
        turn.preempt();
        let write = |queues: &Arc<CompareQueues>| {
            let queues = Arc::clone(queues);
            tokio::spawn(async move { queues.yield_to_starved().await })
        };
        let writes: Vec<_> = (0..3).map(|_| write(&queues)).collect();
        tokio::task::yield_now().await;
        assert!(writes.iter().all(|write| !write.is_finished()));
        drop(turn);
        for write in writes {
            write.await.unwrap();
        }
        let mut stuck = queues.take(b"key").await;
        stuck.preempt();
        queues.yield_to_starved().await;
    }
}
