//! The hub: streams and watchers, and the way of an event from an applied batch to the sinks.
//!
//! Receives from the applier (batches) and from the edge (requests), hands over to the sinks.
//!
//! Invariants: `position` is the last revision that was published here; it follows the store's
//! revision, which it reads from the views, with the delay of the queue between applier and hub. A
//! synced watcher is in `interest` and has every event up to `position`; an unsynced one is in its
//! stream's list with the next revision it needs, and pins nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_mvcc::{Change, Views};

use crate::interest::Interest;
use crate::slab::{Slab, Slot};
use crate::stream::{Stream, Streams};
use crate::watcher::Watcher;
use crate::{
    Batch, CloseReason, Event, Events, Limits, Refusal, Sink, StreamId, StreamMessage, WatchId,
    WatchSpec,
};

/// All watchers of a member.
pub struct Hub {
    pub(crate) limits: Limits,
    pub(crate) views: Views,
    pub(crate) position: i64,
    pub(crate) streams: Streams,
    pub(crate) watchers: Slab<Watcher>,
    /// The synced watchers.
    pub(crate) interest: Interest,
    /// Streams with progress requests that wait for `position`.
    pub(crate) progress_waiting: BTreeSet<StreamId>,
    /// When each stream's next progress tick is due.
    pub(crate) ticks: BTreeSet<(Duration, StreamId)>,
    /// The number of revisions that the next scan of the history asks for.
    pub(crate) scan_revisions: usize,
    pub(crate) events_sent: u64,
    /// Scratch of the publishing loop.
    matches: Vec<(Slot, u32)>,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open streams.
    pub streams: usize,
    /// Watchers of all streams.
    pub watchers: usize,
    /// Those of them that are catching up.
    pub unsynced: usize,
    /// Events put into sinks since the start.
    pub events_sent: u64,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub that begins at the store's present revision.
    #[must_use]
    pub fn new(limits: Limits, views: Views) -> Self {
        assert!(limits.batch_revisions_max > 0 && limits.scan_revisions_max > 0, "scans progress");
        let position = views.load().revision();
        Self {
            limits,
            views,
            position,
            streams: Streams::default(),
            watchers: Slab::new(),
            interest: Interest::default(),
            progress_waiting: BTreeSet::new(),
            ticks: BTreeSet::new(),
            scan_revisions: limits.batch_revisions_max.min(limits.scan_revisions_max),
            events_sent: 0,
            matches: Vec::new(),
        }
    }

    /// Opens a stream. Its progress ticks come every `progress_interval`, to which the caller has
    /// added the stream's own jitter.
    pub fn open_stream(
        &mut self,
        sink: Box<dyn Sink>,
        now: Duration,
        progress_interval: Duration,
    ) -> StreamId {
        let progress_interval = progress_interval.max(Duration::from_millis(1));
        let stream = Stream::new(sink, now, progress_interval);
        let due = stream.progress_due;
        let id = self.streams.open(stream);
        let is_new = self.ticks.insert((due, id));
        assert!(is_new, "a stream has one progress tick");
        id
    }

    /// Ends a stream and its watchers. The hub may have closed it already.
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(id) else { return };
        let was_due = self.ticks.remove(&(stream.progress_due, id));
        assert!(was_due, "a stream has one progress tick");
        self.progress_waiting.remove(&id);
        for slot in stream.watchers.into_values() {
            let watcher = self.watchers.remove(slot);
            assert_eq!(watcher.stream, id, "a stream lists its own watchers");
            if watcher.synced {
                self.interest.remove(&watcher.range, slot);
            }
        }
    }

    /// Creates a watcher; the answer goes to the stream. Returns the id unless refused.
    pub fn create(&mut self, stream: StreamId, spec: WatchSpec) -> Option<WatchId> {
        let current = self.views.load().revision();
        let mut spec = spec;
        if spec.range.start.is_empty() {
            spec.range.start = Bytes::from_static(&[0]);
        }
        match self.admit(stream, &spec)? {
            Ok(id) => {
                self.answer(
                    stream,
                    StreamMessage::Created { watch_id: id, header_revision: current },
                );
                self.register(stream, id, spec, current);
                Some(id)
            }
            Err(refusal) => {
                self.answer(stream, StreamMessage::Refused { header_revision: current, refusal });
                None
            }
        }
    }

    /// The checks of a create request in etcd's order; `None` without such a stream.
    fn admit(&mut self, stream: StreamId, spec: &WatchSpec) -> Option<Result<WatchId, Refusal>> {
        let watchers = self.watchers.len();
        let stream = self.streams.get_mut(stream)?;
        if spec.start_revision < 0 {
            return Some(Err(Refusal::NegativeStart));
        }
        if let Some(reason) = &spec.denied {
            return Some(Err(Refusal::Denied(reason.clone())));
        }
        if spec.range.is_empty() {
            return Some(Err(Refusal::EmptyRange));
        }
        if watchers >= self.limits.watchers_max {
            return Some(Err(Refusal::TooManyWatchers));
        }
        Some(match spec.id.filter(|id| id.0 != 0) {
            None => Ok(stream.assign_id()),
            Some(id) if stream.is_in_use(id) => Err(Refusal::DuplicateId),
            Some(id) => Ok(id),
        })
    }

    fn register(&mut self, stream: StreamId, id: WatchId, spec: WatchSpec, current: i64) {
        let start = spec.start_revision;
        let synced = start == 0 || start > current;
        let next = if start == 0 { current + 1 } else { start };
        let slot = self.watchers.insert(Watcher {
            stream,
            id,
            range: spec.range,
            filters: spec.filters,
            prev_kv: spec.prev_kv,
            progress_notify: spec.progress_notify,
            fragment: spec.fragment,
            start_revision: start,
            next,
            synced,
            quiet: true,
        });
        let watchers = &mut self.streams.get_mut(stream).expect("looked up by admit").watchers;
        let old = watchers.insert(id, slot);
        assert!(old.is_none(), "an id names one watcher of its stream");
        if synced {
            self.interest.insert(&self.watchers[slot].range, slot);
        } else {
            self.streams.add_unsynced(stream, next, slot);
        }
    }

    /// Cancels a watcher; answered only if there is such a one. Returns whether there was.
    pub fn cancel(&mut self, stream: StreamId, id: WatchId) -> bool {
        let Some(entry) = self.streams.get_mut(stream) else { return false };
        let known = match entry.watchers.get(&id).copied() {
            Some(slot) => {
                let watcher = self.remove_watcher(slot);
                assert_eq!((watcher.stream, watcher.id), (stream, id), "a stream's own watcher");
                true
            }
            None => entry.forget_compacted(id),
        };
        if known {
            let header_revision = self.views.load().revision();
            self.answer(stream, StreamMessage::Canceled { watch_id: id, header_revision });
        } else if let Some(stream) = self.streams.get_mut(stream) {
            stream.leave_unanswered();
        }
        known
    }

    /// Hands out what the applier has applied. Revisions that a catch-up or the start has already
    /// covered are passed over.
    pub fn publish(&mut self, batch: &Batch) {
        for revision in batch.changes.chunk_by(|a, b| a.revision.main == b.revision.main) {
            let main = revision[0].revision.main;
            if main <= self.position {
                continue;
            }
            assert_eq!(main, self.position + 1, "every revision is published, in order");
            self.position = main;
            self.deliver(revision, batch);
        }
        self.answer_waiting_progress();
    }

    /// One revision to everyone who watches one of its keys.
    fn deliver(&mut self, revision: &[Change], batch: &Batch) {
        let mut matches = std::mem::take(&mut self.matches);
        self.interest.collect(revision, &mut matches);
        // A queued response pins its revision, not the batch it came in.
        let mut shared: Option<Arc<[Event]>> = None;
        let mut positions = Vec::new();
        for group in matches.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            let watcher = &self.watchers[slot];
            positions.clear();
            let wanted = group.iter().map(|(_, position)| *position);
            positions.extend(wanted.filter(|i| watcher.wants(&revision[*i as usize])));
            if positions.is_empty() {
                continue;
            }
            let all = shared.get_or_insert_with(|| Event::all(revision.iter().cloned()));
            let mut events = Events::new(watcher.id, all, &positions);
            events.header_revision = self.position;
            events.view = watcher.prev_kv.then(|| Arc::clone(&batch.view));
            events.fragment = watcher.fragment;
            if !self.send_events(slot, events) {
                self.unsync(slot, self.position);
            }
        }
        self.matches = matches;
    }

    /// Sends events; false if the stream did not take them.
    pub(crate) fn send_events(&mut self, slot: Slot, events: Events) -> bool {
        let watcher = &mut self.watchers[slot];
        let count = events.len() as u64;
        if !self.streams.offer(watcher.stream, StreamMessage::Events(events)) {
            return false;
        }
        watcher.quiet = false;
        self.events_sent += count;
        true
    }

    /// Takes a synced watcher out of the live path; it goes on from the history.
    fn unsync(&mut self, slot: Slot, next: i64) {
        let watcher = &mut self.watchers[slot];
        assert!(watcher.synced && next >= watcher.next, "a synced watcher falls behind once");
        watcher.synced = false;
        watcher.next = next;
        self.interest.remove(&watcher.range, slot);
        self.streams.add_unsynced(watcher.stream, next, slot);
    }

    /// Begins anew on a store that was replaced by a snapshot of the leader: nothing between the
    /// old position and the snapshot's revision was published, so all catch up from its history.
    pub fn resync(&mut self, views: Views) {
        let current = views.load().revision();
        let synced = self.watchers.iter().filter(|(_, watcher)| watcher.synced);
        let next = |watcher: &Watcher| watcher.next.max(self.position + 1);
        let slots: Vec<_> = synced.map(|(slot, watcher)| (slot, next(watcher))).collect();
        for (slot, next) in slots {
            self.watchers[slot].next = next;
            if next <= current {
                self.unsync(slot, next);
            }
        }
        self.views = views;
        self.position = self.position.max(current);
        let is_ahead = |watcher: &Watcher| !watcher.synced || watcher.next > current;
        assert!(self.watchers.iter().all(|(_, watcher)| is_ahead(watcher)), "the others catch up");
        self.answer_waiting_progress();
    }

    /// Forgets a watcher; its id is free.
    pub(crate) fn remove_watcher(&mut self, slot: Slot) -> Watcher {
        let watcher = self.watchers.remove(slot);
        if watcher.synced {
            self.interest.remove(&watcher.range, slot);
        } else {
            self.streams.remove_unsynced(watcher.stream, watcher.next, slot);
        }
        let stream = self.streams.get_mut(watcher.stream).expect("a watcher's stream exists");
        let listed = stream.watchers.remove(&watcher.id);
        assert_eq!(listed, Some(slot), "a stream lists its watchers");
        watcher
    }

    fn answer(&mut self, stream: StreamId, message: StreamMessage) {
        self.streams.get_mut(stream).expect("looked up by the caller").answer(message);
    }

    /// Closes a stream for a reason of the hub.
    pub(crate) fn close_for(&mut self, stream: StreamId, reason: CloseReason) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.close(reason);
        }
        self.close_stream(stream);
    }

    /// Counts for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            unsynced: self.streams.unsynced_count(),
            events_sent: self.events_sent,
        }
    }
}
