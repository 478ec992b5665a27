//! The queue into one of the node's threads: many producers, one consumer that takes all there is.
//!
//! Taking everything at once is what makes group commit: whatever gathers while the consumer is
//! busy becomes its next batch. The bound is in weight, which is bytes where bytes can run out.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue holds as much as it may.
    Full,
    /// The consumer has gone.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    weight_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    weight: usize,
    closed: bool,
    /// The consumer sleeps: only then does a producer pay for waking it.
    sleeping: bool,
}

impl<T> Inbox<T> {
    pub(crate) const fn new(weight_max: usize) -> Self {
        let state = State { items: Vec::new(), weight: 0, closed: false, sleeping: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), weight_max }
    }

    /// Offers an item that a client asked for; refused when the queue is full. An empty queue takes
    /// an item of any weight: larger ones could otherwise never pass.
    pub(crate) fn offer(&self, item: T, weight: usize) -> Result<(), Refused> {
        self.push(item, weight, self.weight_max)
    }

    /// Hands over an item of the node's own, bounded by what is in flight elsewhere: a committed
    /// entry or an acknowledgement must never be refused. `false` if the consumer has gone.
    pub(crate) fn hand(&self, item: T) -> bool {
        self.push(item, 0, usize::MAX).is_ok()
    }

    fn push(&self, item: T, weight: usize, weight_max: usize) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.weight > 0 && state.weight.saturating_add(weight) > weight_max {
            return Err(Refused::Full);
        }
        state.weight += weight;
        state.items.push(item);
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Moves everything queued into the empty `into`, waiting at most `patience` for the first item.
    pub(crate) fn drain(&self, into: &mut Vec<T>, patience: Duration) {
        debug_assert!(into.is_empty(), "a batch is handled before the next is taken");
        let mut state = self.state.lock();
        if state.items.is_empty() && !state.closed && !patience.is_zero() {
            state.sleeping = true;
            self.filled.wait_for(&mut state, patience);
            state.sleeping = false;
        }
        state.weight = 0;
        std::mem::swap(&mut state.items, into);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Refuses everything from now on and drops what waits.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.items);
        state.weight = 0;
        drop(state);
        drop(dropped);
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_clients_but_not_the_node() {
        let inbox = Inbox::new(10);
        assert_eq!(inbox.offer("a", 6), Ok(()));
        assert_eq!(inbox.offer("b", 6), Err(Refused::Full));
        assert!(inbox.hand("c"));
        let mut batch = Vec::new();
        inbox.drain(&mut batch, Duration::ZERO);
        assert_eq!(batch, ["a", "c"]);
        assert_eq!(inbox.offer("d", 6), Ok(()), "taking a batch frees its weight");
    }

    #[test]
    fn an_item_heavier_than_the_queue_passes_alone() {
        let inbox = Inbox::new(10);
        assert_eq!(inbox.offer("a", 1), Ok(()));
        assert_eq!(inbox.offer("heavy", 11), Err(Refused::Full));
        let mut batch = Vec::new();
        inbox.drain(&mut batch, Duration::ZERO);
        assert!(inbox.hand("of the node"), "what weighs nothing is in nobody's way");
        assert_eq!(inbox.offer("heavy", 11), Ok(()));
        assert_eq!(inbox.offer("b", 1), Err(Refused::Full));
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let inbox = Inbox::new(10);
        inbox.close();
        assert_eq!(inbox.offer("a", 1), Err(Refused::Closed));
        assert!(!inbox.hand("b"));
    }
}
