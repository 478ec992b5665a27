//! The hub's streams: each a sink, what waits beside it, and its watchers.
//!
//! Invariants: a stream is in `lagging` if and only if it has unsynced watchers, in `stuck` if its
//! last message was not taken. Answers are always taken, so that `created` precedes events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::slab::Slot;
use crate::{CloseReason, Sink, StreamId, StreamMessage, WatchId};

/// Ids of watchers that a compaction ended and whose client has not yet acknowledged it.
const COMPACTED_IDS_MAX: usize = 4096;

/// One stream.
pub(crate) struct Stream {
    sink: Box<dyn Sink>,
    /// Time since which it takes nothing, as the catch-up has noticed.
    stuck_since: Option<Duration>,
    pub(crate) watchers: BTreeMap<WatchId, Slot>,
    /// Unsynced watchers by the revision they need next.
    pub(crate) unsynced: BTreeSet<(i64, Slot)>,
    /// As in etcd, the id of a watcher that a compaction ended stays in use until the client
    /// cancels it, and that cancel is answered.
    compacted: BTreeSet<WatchId>,
    next_id: i64,
    /// Revisions that the hub must reach before waiting progress requests are answered.
    pub(crate) progress_waiting: VecDeque<i64>,
    pub(crate) progress_interval: Duration,
    pub(crate) progress_due: Duration,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("watchers", &self.watchers)
            .field("unsynced", &self.unsynced)
            .field("stuck_since", &self.stuck_since)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(sink: Box<dyn Sink>, now: Duration, progress_interval: Duration) -> Self {
        Self {
            sink,
            stuck_since: None,
            watchers: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            compacted: BTreeSet::new(),
            next_id: 0,
            progress_waiting: VecDeque::new(),
            progress_interval,
            progress_due: now.saturating_add(progress_interval),
        }
    }

    /// Whether an id names a watcher, or one that was compacted away.
    pub(crate) fn is_in_use(&self, id: WatchId) -> bool {
        self.watchers.contains_key(&id) || self.compacted.contains(&id)
    }

    /// The next id that is free; the counter never moves back.
    pub(crate) fn assign_id(&mut self) -> WatchId {
        while self.is_in_use(WatchId(self.next_id)) {
            self.next_id += 1;
        }
        self.next_id += 1;
        WatchId(self.next_id - 1)
    }

    /// Forgets a watcher that a compaction ended, but not its id.
    pub(crate) fn note_compacted(&mut self, id: WatchId) {
        self.compacted.insert(id);
        if self.compacted.len() > COMPACTED_IDS_MAX {
            self.compacted.pop_first();
        }
    }

    /// Frees the id of a compacted watcher; whether there was one.
    pub(crate) fn forget_compacted(&mut self, id: WatchId) -> bool {
        self.compacted.remove(&id)
    }

    /// Tells the edge that the hub ends the stream.
    pub(crate) fn close(&mut self, reason: CloseReason) {
        self.sink.close(reason);
    }

    /// Sends a message that may be lost or made again; whether it was taken.
    fn offer(&mut self, message: StreamMessage) -> bool {
        let taken = self.sink.try_send(message).is_ok();
        if taken {
            self.stuck_since = None;
        }
        taken
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, message: StreamMessage) {
        self.sink.answer(message);
    }

    /// Frees the place of an answer that does not come.
    pub(crate) fn leave_unanswered(&mut self) {
        self.sink.unanswered();
    }
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_id: BTreeMap<StreamId, Stream>,
    stuck: BTreeSet<StreamId>,
    lagging: BTreeSet<StreamId>,
    opened: u64,
}

impl Streams {
    pub(crate) fn open(&mut self, stream: Stream) -> StreamId {
        self.opened += 1;
        let id = StreamId(self.opened);
        let old = self.by_id.insert(id, stream);
        assert!(old.is_none(), "each stream has an id of its own");
        id
    }

    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        self.stuck.remove(&id);
        self.lagging.remove(&id);
        self.by_id.remove(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Sends a message that is made again later if it is not taken.
    pub(crate) fn offer(&mut self, id: StreamId, message: StreamMessage) -> bool {
        let taken = self.of(id).offer(message);
        if !taken {
            self.stuck.insert(id);
        }
        taken
    }

    /// Sends a message that is not missed if it is not taken.
    pub(crate) fn offer_once(&mut self, id: StreamId, message: StreamMessage) {
        self.of(id).offer(message);
    }

    pub(crate) fn add_unsynced(&mut self, id: StreamId, next: i64, slot: Slot) {
        let is_new = self.of(id).unsynced.insert((next, slot));
        assert!(is_new, "an unsynced watcher is listed once");
        self.lagging.insert(id);
    }

    pub(crate) fn remove_unsynced(&mut self, id: StreamId, next: i64, slot: Slot) {
        let stream = self.of(id);
        let was_there = stream.unsynced.remove(&(next, slot));
        assert!(was_there, "an unsynced watcher is listed");
        if stream.unsynced.is_empty() {
            self.lagging.remove(&id);
        }
    }

    /// Streams that take messages and have unsynced watchers.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.lagging.difference(&self.stuck).map(|id| (*id, &self.by_id[id]))
    }

    pub(crate) fn unsynced_count(&self) -> usize {
        self.lagging.iter().map(|id| self.by_id[id].unsynced.len()).sum()
    }

    pub(crate) fn has_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Tries the stuck streams again; returns those that were stuck for `stall_max`.
    pub(crate) fn unstick(&mut self, now: Duration, stall_max: Option<Duration>) -> Vec<StreamId> {
        let mut stalled = Vec::new();
        self.stuck.retain(|id| {
            let stream = self.by_id.get_mut(id).expect("a stuck stream exists");
            if stream.sink.has_capacity() {
                stream.stuck_since = None;
                return false;
            }
            let since = *stream.stuck_since.get_or_insert(now);
            if stall_max.is_some_and(|max| now.saturating_sub(since) >= max) {
                stalled.push(*id);
            }
            true
        });
        stalled
    }

    fn of(&mut self, id: StreamId) -> &mut Stream {
        self.by_id.get_mut(&id).expect("watchers and hub name streams that exist")
    }
}
