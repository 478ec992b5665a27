//! Followers that lag: what they need and memory does not have is read from the write-ahead log, a
//! page at a time, while the leader goes on.
//!
//! raft asks for a page whenever it wants to send from there. A follower gets the next one when it
//! has confirmed some of the last, so a slow network does not fill with pages: two are on their way
//! at most.

use std::collections::BTreeMap;

use raft::ProgressState;

use super::Core;
use crate::log_store::{Fetch, Fetched};

/// The last page that a follower was sent.
#[derive(Clone, Copy, Debug)]
struct SentPage {
    low: u64,
    /// The tick at which it was sent.
    at: u64,
}

#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// BOUND: members.
    sent: BTreeMap<u64, SentPage>,
    ticks: u64,
}

impl CatchUp {
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }
}

impl Core {
    /// The pages that are to be read now.
    pub(super) fn take_fetches(&mut self) -> Vec<Fetch> {
        if !self.raw.raft.raft_log.store().wants() {
            return Vec::new();
        }
        let is_leader = self.is_leader();
        let (prs, catch_up) = (self.raw.raft.prs(), &mut self.catch_up);
        // What was sent may be lost without a word, and only what follows shows that.
        let since = catch_up.ticks.saturating_sub(self.settings.election_ticks as u64);
        catch_up.sent.retain(|id, page| {
            let replicates = |progress: &&raft::Progress| {
                progress.state == ProgressState::Replicate && progress.matched < page.low
            };
            is_leader && page.at > since && prs.get(*id).filter(replicates).is_some()
        });
        let is_due = |id: &u64| is_leader && !catch_up.sent.contains_key(id);
        let due = prs.iter().filter(|(id, _)| is_due(id)).map(|(_, progress)| progress.next_idx);
        let due: Vec<u64> = due.collect();
        self.raw.mut_store().take_fetches(|low| due.contains(&low))
    }

    /// Takes what the write-ahead log had of [`super::Actions::fetches`], and sends it.
    ///
    /// # Panics
    /// If it was not asked for, or is not what the log has.
    pub fn fetched(&mut self, fetch: &Fetch, found: Fetched) {
        if self.raw.mut_store().show(fetch, found) && self.is_leader() {
            let wanting = self.raw.raft.prs().iter().filter(|(id, progress)| {
                **id != self.settings.id && (fetch.low..fetch.high).contains(&progress.next_idx)
            });
            let mut wanting: Vec<u64> = wanting.map(|(id, _)| *id).collect();
            // raft's order is random.
            wanting.sort_unstable();
            for id in wanting {
                self.send_page(id);
            }
        }
        self.raw.mut_store().hide();
        self.after_event();
    }

    /// Sends a follower what the page has for it; a state, if the log has it no more.
    fn send_page(&mut self, id: u64) {
        let page = self.raw.raft.raft_log.store().page();
        let next =
            |this: &Self| this.raw.raft.prs().get(id).map_or(0, |progress| progress.next_idx);
        let first = next(self);
        let mut from = first;
        loop {
            self.raw.raft.send_append(id);
            let next = next(self);
            if next == from || !page.contains(&next) {
                break;
            }
            from = next;
        }
        if next(self) != first {
            self.catch_up.sent.insert(id, SentPage { low: first, at: self.catch_up.ticks });
        }
    }

    /// Notes that the log on the disk was truncated up to `index`: who needs what was there gets the
    /// state of the store. A start that is not ahead changes nothing.
    ///
    /// # Panics
    /// If that is not applied.
    pub fn log_starts_at(&mut self, index: u64) {
        assert!(index <= self.raw.raft.raft_log.applied, "a log keeps what is not applied");
        self.raw.mut_store().starts_at(index);
    }
}
