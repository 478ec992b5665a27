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

/// One for all members of the process (tests run several): sharing them costs only waiting.
static TURNS: [Queue; QUEUES] = [const { Queue::new() }; QUEUES];
/// Turns that others give way to.
static HURRYING: AtomicUsize = AtomicUsize::new(0);
/// Rung when the last of them is over.
static CLEAR: Notify = Notify::const_new();

struct Queue {
    /// Transactions that wait here or have their turn.
    inside: AtomicUsize,
    turn: Mutex<()>,
}

impl Queue {
    const fn new() -> Self {
        Self { inside: AtomicUsize::new(0), turn: Mutex::const_new(()) }
    }

    fn of(key: &[u8]) -> &'static Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let queues = QUEUES as u64;
        let at = usize::try_from(hasher.finish() % queues).expect("it is below the queues' number");
        &TURNS[at]
    }
}

/// A place in a queue until dropped.
struct Place(&'static Queue);

impl Place {
    fn new(queue: &'static Queue) -> Self {
        queue.inside.fetch_add(1, Ordering::AcqRel);
        Self(queue)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A turn until dropped.
pub(super) struct Turn {
    hurry: Option<Hurry>,
    _turn: MutexGuard<'static, ()>,
    _place: Place,
}

impl Turn {
    /// Has other writes of the member give way until the turn is over.
    pub(super) fn hurry(&mut self) {
        self.hurry.get_or_insert_with(Hurry::new);
    }
}

struct Hurry;

impl Hurry {
    fn new() -> Self {
        HURRYING.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if HURRYING.fetch_sub(1, Ordering::AcqRel) == 1 {
            CLEAR.notify_waiters();
        }
    }
}

/// Whether somebody waits for a turn with this key.
pub(super) fn is_contested(key: &[u8]) -> bool {
    Queue::of(key).inside.load(Ordering::Acquire) > 0
}

/// Waits for the turn.
pub(super) async fn take(key: &[u8]) -> Turn {
    let queue = Queue::of(key);
    let place = Place::new(queue);
    Turn { hurry: None, _turn: queue.turn.lock().await, _place: place }
}

/// What a write does before it is proposed.
pub(in crate::kv) async fn give_way() {
    if HURRYING.load(Ordering::Acquire) == 0 {
        return;
    }
    let clear = async {
        loop {
            // ORDER: whatever rings after this is heard.
            let rung = CLEAR.notified();
            if HURRYING.load(Ordering::Acquire) == 0 {
                return;
            }
            rung.await;
        }
    };
    // Given way for long enough: it goes on.
    let _ = tokio::time::timeout(GIVE_WAY_MAX, clear).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_a_key_are_taken_one_after_the_other() {
        let first = take(b"turns").await;
        assert!(is_contested(b"turns"));
        let second = tokio::spawn(take(b"turns"));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        drop(second.await.unwrap());
        assert!(!is_contested(b"turns"));
    }

    #[tokio::test]
    async fn writes_give_way_to_a_turn_that_hurries_and_not_for_ever() {
        give_way().await;
        let mut turn = take(b"hurry").await;
        turn.hurry();
        turn.hurry();
        let writes: Vec<_> = (0..3).map(|_| tokio::spawn(give_way())).collect();
        tokio::task::yield_now().await;
        assert!(writes.iter().all(|write| !write.is_finished()));
        drop(turn);
        for write in writes {
            write.await.unwrap();
        }
        let mut stuck = take(b"hurry").await;
        stuck.hurry();
        give_way().await;
    }
}
