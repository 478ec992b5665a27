//! Catching up: unsynced watchers read the store's history until they meet the live path.
//!
//! One call takes one view, reads one page of the history once for all watchers that need a part of
//! it, and lets the view go; what it reads and whom it serves is bounded. A watcher whose stream
//! stops taking messages keeps the revision it needs next and waits, at no cost, until the stream
//! takes messages again.

use std::sync::Arc;
use std::time::Duration;

use keepd_mvcc::{Change, Error, View};

use crate::interest::Interest;
use crate::slab::Slot;
use crate::{CloseReason, Event, Events, Hub, StreamId, StreamMessage};

/// Work left after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Every watcher is synced: call again when the next request has come, or at leisure.
    Idle,
    /// Some streams take nothing: call again soon (etcd waits 10 ms).
    Blocked,
    /// There is more to read: call again at once.
    More,
}

impl Hub {
    /// Brings unsynced watchers closer to the store's revision, cancels those whose history is
    /// gone, and tries again what streams had no capacity for.
    ///
    /// # Errors
    /// If history cannot be read; the watchers that need it next have been cancelled, as far as
    /// their streams take the message. Call again.
    pub fn catch_up(&mut self, now: Duration) -> Result<Work, Error> {
        for stream in self.streams.unstick(now, self.limits.stall_max) {
            self.close_for(stream, CloseReason::Stalled);
        }
        if self.streams.ready().next().is_some() {
            let view = self.views.load();
            self.cancel_compacted(view.compact_revision());
            self.replay(&view)?;
        }
        Ok(if self.streams.ready().next().is_some() {
            Work::More
        } else if self.streams.has_stuck() {
            Work::Blocked
        } else {
            Work::Idle
        })
    }

    /// Ends the watchers that need what is compacted, as far as their streams take the message.
    fn cancel_compacted(&mut self, compact_revision: i64) {
        let streams: Vec<StreamId> = self.streams.ready().map(|(id, _)| id).collect();
        for id in streams {
            loop {
                let stream = self.streams.get_mut(id).expect("listed above");
                let Some(&(next, slot)) = stream.unsynced.first() else { break };
                if next >= compact_revision {
                    break;
                }
                let watch_id = self.watchers[slot].id;
                if !self.streams.offer(id, StreamMessage::Compacted { watch_id, compact_revision })
                {
                    break;
                }
                self.remove_watcher(slot);
                self.streams.get_mut(id).expect("listed above").note_compacted(watch_id);
            }
        }
    }

    /// Reads one page and hands it out.
    fn replay(&mut self, view: &Arc<View>) -> Result<(), Error> {
        let Some((from, group)) = self.next_group() else { return Ok(()) };
        assert!(from <= view.revision(), "an unsynced watcher needs what the store has");
        let page = match view.changes(from, self.scan_revisions) {
            Ok(page) => page,
            Err(error) => {
                self.cancel_unreadable(from);
                return Err(error);
            }
        };
        assert!(page.next > from, "a page holds at least one revision");
        self.learn_scan_size(from, page.next, &page.changes);

        let mut interest = Interest::default();
        for slot in &group {
            interest.insert(&self.watchers[*slot].range, *slot);
        }
        let mut matches = Vec::new();
        interest.collect(&page.changes, &mut matches);
        matches.sort_unstable();
        let page_events = Event::all(page.changes);
        for slot in group {
            let first = matches.partition_point(|(other, _)| *other < slot);
            let own = matches[first..].iter().take_while(|(other, _)| *other == slot);
            let watcher = &self.watchers[slot];
            let positions: Vec<u32> = own
                .map(|(_, position)| *position)
                .filter(|i| watcher.wants(&page_events[*i as usize].change))
                .collect();
            let unsent = self.send_replay(slot, view, &page_events, &positions);
            self.advance(slot, unsent.unwrap_or(page.next), view.revision());
        }
        Ok(())
    }

    /// Ends the watchers that need `revision` next.
    fn cancel_unreadable(&mut self, revision: i64) {
        let streams: Vec<StreamId> = self.streams.ready().map(|(id, _)| id).collect();
        for id in streams {
            loop {
                let stream = self.streams.get_mut(id).expect("listed above");
                let Some(&(next, slot)) = stream.unsynced.first() else { break };
                if next > revision {
                    break;
                }
                let watch_id = self.watchers[slot].id;
                if !self.streams.offer(id, StreamMessage::Unreadable { watch_id }) {
                    break;
                }
                self.remove_watcher(slot);
            }
        }
    }

    /// The lowest revision that a ready stream needs, and the watchers that need it or one shortly
    /// after.
    fn next_group(&self) -> Option<(i64, Vec<Slot>)> {
        let firsts = self.streams.ready().filter_map(|(_, stream)| stream.unsynced.first());
        let from = firsts.map(|(next, _)| *next).min()?;
        let page = i64::try_from(self.scan_revisions).unwrap_or(i64::MAX);
        let until = from.saturating_add(page);
        let mut group: Vec<(i64, Slot)> = self
            .streams
            .ready()
            .flat_map(|(_, stream)| stream.unsynced.iter().take_while(|(next, _)| *next < until))
            .copied()
            .collect();
        // The furthest behind come first: the page holds what they need, so each call gets on.
        group.sort_unstable();
        group.truncate(self.limits.scan_watchers_max.max(1));
        let mut group: Vec<Slot> = group.into_iter().map(|(_, slot)| slot).collect();
        group.sort_unstable();
        Some((from, group))
    }

    /// Sends the events at `positions` in responses of bounded revisions; returns the first
    /// revision that was not taken.
    fn send_replay(
        &mut self,
        slot: Slot,
        view: &Arc<View>,
        all: &Arc<[Event]>,
        positions: &[u32],
    ) -> Option<i64> {
        let main = |position: &u32| all[*position as usize].change.revision.main;
        let mut rest = positions;
        while !rest.is_empty() {
            let revisions = rest.chunk_by(|a, b| main(a) == main(b));
            let len = revisions.take(self.limits.batch_revisions_max).map(<[u32]>::len).sum();
            let (response, after) = rest.split_at(len);
            let watcher = &self.watchers[slot];
            let mut events = Events::new(watcher.id, all, response);
            events.header_revision = view.revision();
            events.view = watcher.prev_kv.then(|| Arc::clone(view));
            events.fragment = watcher.fragment;
            if !self.send_events(slot, events) {
                return Some(main(&response[0]));
            }
            rest = after;
        }
        None
    }

    /// Notes what a watcher needs next; past the view's revision it joins the live path.
    fn advance(&mut self, slot: Slot, next: i64, current: i64) {
        let watcher = &mut self.watchers[slot];
        // A page may end before the start of a watcher that shares it.
        let next = next.max(watcher.next);
        self.streams.remove_unsynced(watcher.stream, watcher.next, slot);
        assert!(!watcher.synced, "only an unsynced watcher catches up");
        watcher.next = next;
        if next > current {
            watcher.synced = true;
            self.interest.insert(&watcher.range, slot);
        } else {
            self.streams.add_unsynced(watcher.stream, next, slot);
        }
    }

    /// Adapts the next page to the size of this one's revisions.
    fn learn_scan_size(&mut self, from: i64, next: i64, changes: &[Change]) {
        let bytes: usize = changes.iter().map(|change| change.record.encoded.len() + 64).sum();
        let revisions = usize::try_from(next - from).unwrap_or(1).max(1);
        let each = (bytes / revisions).max(1);
        let fitting =
            (self.limits.scan_bytes_target / each).clamp(1, self.limits.scan_revisions_max);
        // Whole responses, so that a page does not leave a short one behind.
        let batch = self.limits.batch_revisions_max;
        self.scan_revisions = if fitting > batch { fitting - fitting % batch } else { fitting };
    }
}
