//! The queue into one part of the member: many producers, one consumer that takes all there is.
//!
//! Taking everything at once is what makes group commit: whatever gathers while the consumer is
//! busy becomes its next batch. The bound is in weight, which is bytes where bytes can run out.

use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// The reason why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue holds as much as it may.
    Full,
    /// The consumer has ended.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    weight_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    weight: usize,
    is_closed: bool,
    /// The consumer's thread sleeps: only then does a producer pay for waking it.
    is_sleeping: bool,
}

impl<T> Mailbox<T> {
    pub(crate) const fn new(weight_max: usize) -> Self {
        let state = State { items: Vec::new(), weight: 0, is_closed: false, is_sleeping: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), weight_max }
    }

    /// Queues an item that a client asked for; refused when the queue is full. An empty queue takes
    /// an item of any weight: larger ones could otherwise never pass.
    pub(crate) fn try_push(&self, item: T, weight: usize) -> Result<(), Refused> {
        self.insert(item, weight, self.weight_max).map(|state| self.wake_from(state))
    }

    /// As [`Self::try_push`], without waking the consumer's thread.
    pub(crate) fn try_push_quietly(&self, item: T, weight: usize) -> Result<(), Refused> {
        self.insert(item, weight, self.weight_max).map(drop)
    }

    /// Queues an item of the member's own, bounded by what is in flight elsewhere: a committed
    /// entry or an acknowledgement must never be refused. `false` if the consumer has ended.
    pub(crate) fn push(&self, item: T) -> bool {
        self.insert(item, 0, usize::MAX).map(|state| self.wake_from(state)).is_ok()
    }

    /// As [`Self::push`], without waking the consumer's thread: somebody is about to step it, or
    /// its next turn is soon enough.
    pub(crate) fn push_quietly(&self, item: T) -> bool {
        self.insert(item, 0, usize::MAX).is_ok()
    }

    /// Wakes the consumer's thread if it sleeps while something is queued.
    pub(crate) fn wake(&self) {
        self.wake_from(self.state.lock());
    }

    fn insert(
        &self,
        item: T,
        weight: usize,
        weight_max: usize,
    ) -> Result<MutexGuard<'_, State<T>>, Refused> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        if state.weight > 0 && state.weight.saturating_add(weight) > weight_max {
            return Err(Refused::Full);
        }
        state.weight += weight;
        state.items.push(item);
        Ok(state)
    }

    fn wake_from(&self, mut state: MutexGuard<'_, State<T>>) {
        if !state.items.is_empty() && std::mem::take(&mut state.is_sleeping) {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Sleeps until something is queued or the queue is closed, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut state = self.state.lock();
        if state.items.is_empty() && !state.is_closed && !timeout.is_zero() {
            state.is_sleeping = true;
            self.filled.wait_for(&mut state, timeout);
            state.is_sleeping = false;
        }
    }

    /// Moves everything queued into the empty `into`.
    pub(crate) fn drain(&self, into: &mut Vec<T>) {
        self.drain_if(into, |_| true);
    }

    /// As [`Self::drain`], unless some item is not `wanted`; whether nothing is left.
    pub(crate) fn drain_if(&self, into: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> bool {
        assert!(into.is_empty(), "a batch is handled before the next is taken");
        let mut state = self.state.lock();
        let is_wanted = state.items.iter().all(wanted);
        if is_wanted {
            state.weight = 0;
            std::mem::swap(&mut state.items, into);
        }
        is_wanted
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().items.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Refuses everything from now on and drops what is queued.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
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
    fn a_full_queue_refuses_clients_but_not_the_member() {
        let mailbox = Mailbox::new(10);
        assert_eq!(mailbox.try_push("a", 6), Ok(()));
        assert_eq!(mailbox.try_push("b", 6), Err(Refused::Full));
        assert!(mailbox.push("c"));
        let mut batch = Vec::new();
        mailbox.drain(&mut batch);
        assert_eq!(batch, ["a", "c"]);
        assert_eq!(mailbox.try_push("d", 6), Ok(()), "taking a batch frees its weight");
    }

    #[test]
    fn an_item_heavier_than_the_queue_passes_alone() {
        let mailbox = Mailbox::new(10);
        assert_eq!(mailbox.try_push("a", 1), Ok(()));
        assert_eq!(mailbox.try_push("heavy", 11), Err(Refused::Full));
        let mut batch = Vec::new();
        mailbox.drain(&mut batch);
        assert!(mailbox.push("the member's"), "its own items have no weight");
        assert_eq!(mailbox.try_push("heavy", 11), Ok(()));
        assert_eq!(mailbox.try_push("b", 1), Err(Refused::Full));
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let mailbox = Mailbox::new(10);
        mailbox.close();
        assert_eq!(mailbox.try_push("a", 1), Err(Refused::Closed));
        assert!(!mailbox.push("b"));
    }

    #[test]
    fn a_batch_is_taken_whole_or_not_at_all() {
        let mailbox = Mailbox::new(10);
        mailbox.push_quietly("brief");
        mailbox.push_quietly("long");
        let mut batch = Vec::new();
        assert!(!mailbox.drain_if(&mut batch, |item| *item == "brief"));
        assert!(batch.is_empty() && !mailbox.is_empty());
        mailbox.drain(&mut batch);
        assert_eq!(batch, ["brief", "long"]);
    }
}
