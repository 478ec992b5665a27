//! Progress: the promise that everything up to a revision has been sent.
//!
//! The revision in a progress message is what the hub has published, not what the store has
//! applied: the difference is still in the queue between the two. A request that comes in between
//! waits for the hub to get there, so that a client which has seen a revision learns that it is
//! covered, and does not have to ask again.

use std::time::Duration;

use crate::{Hub, StreamId, StreamMessage, WatchId};

impl Hub {
    /// A client asks for the progress of all its watchers. Answered once if all are synced and past
    /// their start revisions, else silently not at all, as in etcd.
    pub fn progress_request(&mut self, stream: StreamId) {
        let target = self.views.load().revision();
        if target <= self.position {
            return self.answer_progress(stream);
        }
        let max = self.limits.progress_requests_max;
        let Some(entry) = self.streams.get_mut(stream) else { return };
        if entry.progress_waiting.len() < max {
            entry.progress_waiting.push_back(target);
            self.progress_waiting.insert(stream);
        } else {
            entry.leave_unanswered();
        }
    }

    /// Answers the requests that waited for the present position.
    pub(crate) fn answer_waiting_progress(&mut self) {
        if self.progress_waiting.is_empty() {
            return;
        }
        for stream in std::mem::take(&mut self.progress_waiting) {
            let entry = self.streams.get_mut(stream).expect("a closed stream waits for nothing");
            let before = entry.progress_waiting.len();
            assert!(before > 0, "a listed stream has a request that waits");
            entry.progress_waiting.retain(|target| *target > self.position);
            let answers = before - entry.progress_waiting.len();
            if !entry.progress_waiting.is_empty() {
                self.progress_waiting.insert(stream);
            }
            for _ in 0..answers {
                self.answer_progress(stream);
            }
        }
    }

    fn answer_progress(&mut self, stream: StreamId) {
        let Some(entry) = self.streams.get_mut(stream) else { return };
        let covered =
            entry.watchers.values().map(|slot| self.watchers[*slot].covered(self.position));
        let covered = covered.reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b)));
        if let Some(Some(header_revision)) = covered {
            entry.answer(StreamMessage::Progress { watch_id: WatchId::NONE, header_revision });
        } else {
            entry.leave_unanswered();
        }
    }

    /// Sends the periodic notifications that are due. A watcher that got events since its stream's
    /// last tick is passed over, and so is one that is unsynced or before its start.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(due, stream)) = self.ticks.first() {
            if due > now {
                break;
            }
            self.ticks.pop_first();
            let entry = self.streams.get_mut(stream).expect("a closed stream has no tick");
            // From now rather than from `due`: after a pause one tick is enough.
            entry.progress_due = now.saturating_add(entry.progress_interval);
            self.ticks.insert((entry.progress_due, stream));
            let slots: Vec<_> = entry.watchers.values().copied().collect();
            for slot in slots {
                let watcher = &mut self.watchers[slot];
                if !watcher.progress_notify || !std::mem::replace(&mut watcher.quiet, true) {
                    continue;
                }
                if let Some(header_revision) = watcher.covered(self.position) {
                    let progress =
                        StreamMessage::Progress { watch_id: watcher.id, header_revision };
                    self.streams.offer_once(stream, progress);
                }
            }
        }
        assert_eq!(self.ticks.len(), self.streams.len(), "each stream has one progress tick");
    }
}
