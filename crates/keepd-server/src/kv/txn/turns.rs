//! Turns for transactions whose compared values keep changing.
//!
//! Any write to the compared keys between the look at them and the log makes a comparison of values
//! miss. Alone that would let the quickest win for ever. So who has missed waits for its turn, in
//! the order of coming, and newcomers that compare the same key queue behind; and who misses even
//! so, because of plain writes, has the member's other writes give way for a moment. With one
//! member that settles it: once the writes under way are applied, nothing changes the values. Writes
//! of other members can still interfere.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// Keys share this many queues.
const QUEUES: usize = 64;
/// BOUND: how long a write gives way; what it gives way to has its own, larger bound.
const GIVE_WAY_MAX: Duration = Duration::from_millis(100);

/// All queues of a member.
#[derive(Debug)]
pub(crate) struct Turns {
    queues: [Queue; QUEUES],
    /// Turns that others give way to.
    hurrying: AtomicUsize,
    /// Rung when the last of them is over.
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
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    hurry: Option<Hurry<'a>>,
    _turn: MutexGuard<'a, ()>,
    _place: Place<'a>,
}

impl Turn<'_> {
    /// Has other writes of the member give way until the turn is over.
    pub(super) fn hurry(&mut self) {
        self.hurry.get_or_insert_with(|| Hurry::new(self.turns));
    }
}

struct Hurry<'a>(&'a Turns);

impl<'a> Hurry<'a> {
    fn new(turns: &'a Turns) -> Self {
        turns.hurrying.fetch_add(1, Ordering::AcqRel);
        Self(turns)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        if self.0.hurrying.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.clear.notify_waiters();
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        let queues = std::array::from_fn(|_| Queue::default());
        Self { queues, hurrying: AtomicUsize::new(0), clear: Notify::new() }
    }
}

impl Turns {
    fn queue(&self, key: &[u8]) -> &Queue {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let queues = QUEUES as u64;
        let at = usize::try_from(hasher.finish() % queues).expect("it is below the queues' number");
        &self.queues[at]
    }

    /// Whether somebody waits for a turn with this key.
    pub(super) fn is_contested(&self, key: &[u8]) -> bool {
        self.queue(key).inside.load(Ordering::Acquire) > 0
    }

    /// Waits for the turn.
    pub(super) async fn take(&self, key: &[u8]) -> Turn<'_> {
        let queue = self.queue(key);
        let place = Place::new(queue);
        Turn { turns: self, hurry: None, _turn: queue.turn.lock().await, _place: place }
    }

    /// What a write does before it is proposed.
    pub(in crate::kv) async fn give_way(&self) {
        if self.hurrying.load(Ordering::Acquire) == 0 {
            return;
        }
        let clear = async {
            loop {
                // ORDER: whatever rings after this is heard.
                let rung = self.clear.notified();
                if self.hurrying.load(Ordering::Acquire) == 0 {
                    return;
                }
                rung.await;
            }
        };
        // Given way for long enough: it goes on.
        let _ = tokio::time::timeout(GIVE_WAY_MAX, clear).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn turns_of_a_key_are_taken_one_after_the_other() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(b"key").await;
        assert!(turns.is_contested(b"key"));
        let others = Arc::clone(&turns);
        let second = tokio::spawn(async move { drop(others.take(b"key").await) });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(!turns.is_contested(b"key"));
    }

    #[tokio::test]
    async fn writes_give_way_to_a_turn_that_hurries_and_not_for_ever() {
        let turns = Arc::new(Turns::default());
        turns.give_way().await;
        let mut turn = turns.take(b"key").await;
        turn.hurry();
        turn.hurry();
        let write = |turns: &Arc<Turns>| {
            let turns = Arc::clone(turns);
            tokio::spawn(async move { turns.give_way().await })
        };
        let writes: Vec<_> = (0..3).map(|_| write(&turns)).collect();
        tokio::task::yield_now().await;
        assert!(writes.iter().all(|write| !write.is_finished()));
        drop(turn);
        for write in writes {
            write.await.unwrap();
        }
        let mut stuck = turns.take(b"key").await;
        stuck.hurry();
        turns.give_way().await;
    }
}
