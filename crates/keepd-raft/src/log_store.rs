//! Raft's view of the log: the entries that are held in memory beside the write-ahead log, and
//! where that starts.
//!
//! An entry is here before the WAL has it (rule 9.15: storage must answer for entries in flight)
//! and stays until it is applied and out of the catch-up window. What is below that is asked of the
//! WAL, but only for a follower: raft itself reads entries that are not applied. Of all entries on
//! the disk the terms are known here.

mod fetches;

use std::cell::RefCell;
use std::collections::VecDeque;

use keepd_types::TermRuns;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

pub use self::fetches::{Fetch, Fetched};
use self::fetches::{Fetches, Page};
use crate::message::LogPosition;

/// State of a member as its disk has it at boot.
#[derive(Clone, Debug, Default)]
pub struct InitialState {
    /// Term and vote, and the commit index as far as it was synced.
    pub hard_state: keepd_types::HardState,
    /// The index after which the log starts.
    pub start_index: u64,
    /// The term of the entry at `start_index`.
    pub start_term: u64,
    /// The entries after `start_index`.
    pub entries: Vec<keepd_types::Entry>,
    /// The last entry that the store has applied and made durable.
    pub applied_index: u64,
    /// The configuration as of `applied_index`; it may be in the middle of a joint change. Empty only
    /// in a member that joins a cluster and has received nothing yet.
    pub conf_state: crate::conf_change::ConfState,
}

impl InitialState {
    /// Whether the member has nothing of its cluster yet. It may have voted, or seen a term.
    pub(crate) fn is_joining(&self) -> bool {
        (self.start_index, self.applied_index) == (0, 0)
            && self.entries.is_empty()
            && self.conf_state == crate::conf_change::ConfState::default()
    }
}

/// The log: its entries in memory, the terms of those on the disk.
#[derive(Debug)]
pub(crate) struct LogStore {
    hard_state: HardState,
    /// The configuration as of `applied`.
    conf_state: ConfState,
    /// Index and term of the last applied entry: a snapshot would be of it.
    applied: (u64, u64),
    /// The index after which the log on the disk starts.
    disk_start: u64,
    /// Index and term after which followers can be served, from the disk or from memory.
    start: (u64, u64),
    /// Index and term just before the first entry held.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    /// Bytes of all entries held, for the catch-up window.
    bytes: usize,
    /// The terms of the entries after `start`.
    terms: TermRuns,
    /// Entries read from the disk, while they are sent.
    page: Page,
    /// raft asks through a shared reference.
    fetches: RefCell<Fetches>,
}

impl LogStore {
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        before: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let mut terms = TermRuns::default();
        entries.iter().for_each(|entry| terms.push(entry.index, entry.term));
        Self {
            hard_state,
            conf_state,
            applied: (0, 0),
            disk_start: before.0,
            start: before,
            before,
            bytes: entries.iter().map(|entry| entry.data.len()).sum(),
            entries: entries.into(),
            terms,
            page: Page::default(),
            fetches: RefCell::default(),
        }
    }

    /// Appends entries; an index that is present already truncates the log there first.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.before.0, "entries below the log's start are never rewritten");
        assert!(first.index <= self.last() + 1, "the log has no holes");
        while self.last() >= first.index {
            let cut = self.entries.pop_back().expect("last() is above the start");
            self.bytes -= cut.data.len();
        }
        self.terms.cut(first.index);
        for entry in entries {
            self.bytes += entry.data.len();
            self.terms.push(entry.index, entry.term);
            self.entries.push_back(entry.clone());
        }
    }

    /// Notes the state that a snapshot would be of.
    pub(crate) fn note_applied(&mut self, index: u64, conf_state: &crate::conf_change::ConfState) {
        if let Ok(term) = self.term(index) {
            self.applied = (index, term);
            self.conf_state = conf_state.to_raft();
        }
    }

    /// Replaces the log by a snapshot.
    pub(crate) fn reset(&mut self, last: LogPosition) {
        self.before = (last.index, last.term);
        (self.disk_start, self.start) = (last.index, self.before);
        self.entries.clear();
        self.terms.clear();
        self.bytes = 0;
    }

    /// Forgets applied entries, keeping a window for followers that lag.
    pub(crate) fn release(&mut self, applied: u64, keep_entries: usize, keep_bytes: usize) {
        assert!(applied <= self.last(), "an applied entry is in the log");
        while self.entries.len() > keep_entries || self.bytes > keep_bytes {
            match self.entries.front() {
                Some(front) if front.index <= applied => {
                    self.before = (front.index, front.term);
                    self.bytes -= front.data.len();
                    self.entries.pop_front();
                }
                _ => break,
            }
        }
        self.raise_start();
    }

    /// Gives memory back that a start took for the whole log.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Notes that the log on the disk starts after `index`.
    pub(crate) fn starts_at(&mut self, index: u64) {
        self.disk_start = self.disk_start.max(index);
        self.raise_start();
    }

    /// Followers are served from memory too when the disk has nothing any more.
    fn raise_start(&mut self) {
        let index = self.disk_start.min(self.before.0);
        if index > self.start.0 {
            self.start = (index, self.term(index).expect("what is below the cache has a term"));
            self.terms.release(index + 1);
        }
        assert!(self.start.0 <= self.before.0, "what memory holds is not asked of the disk");
    }

    /// The last entry at or before `index` whose term is at most `term`, as far as the log is known
    /// here.
    pub(crate) fn last_at_most(&self, index: u64, term: u64) -> u64 {
        self.terms.last_at_most(index.min(self.last()), term).unwrap_or(self.start.0)
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.before.0, |entry| entry.index)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.before.0 + 1)?).ok()
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let budget = max_size.into().unwrap_or(u64::MAX);
        if low <= self.start.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let Some(from) = self.position(low) else {
            assert!(context.can_async(), "raft itself reads only what is not applied");
            let page = self.page.from(low, high);
            if page.is_empty() {
                self.fetches.borrow_mut().want(low, self.before.0 + 1);
                return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
            }
            return Ok(first_bytes(page, budget));
        };
        let to = self.position(high).unwrap_or(from).min(self.entries.len());
        Ok(first_bytes(self.entries.range(from.min(to)..to), budget))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index == self.start.0 {
            return Ok(self.start.1);
        }
        if index < self.start.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let term = self.terms.term(index).filter(|_| index <= self.last());
        term.ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Metadata only: the transport sends the state itself.
        let (index, term) = self.applied;
        if index < request_index.max(1) {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (index, term);
        meta.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

/// As many entries as fit into a number of bytes, but at least one.
fn first_bytes<'a>(entries: impl IntoIterator<Item = &'a Entry>, budget: u64) -> Vec<Entry> {
    let mut size = 0_u64;
    let mut out = Vec::new();
    for entry in entries {
        size = size.saturating_add(entry.data.len() as u64 + 16);
        if size > budget && !out.is_empty() {
            break;
        }
        out.push(entry.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Default::default() }
    }

    fn log(entries: Vec<Entry>) -> LogStore {
        LogStore::new(HardState::default(), ConfState::default(), (1, 1), entries)
    }

    #[test]
    fn a_rewritten_index_cuts_the_tail() {
        let mut log = log(vec![]);
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.append(&[entry(3, 2)]);
        assert_eq!(log.last_index().unwrap(), 3);
        assert_eq!([2, 3].map(|index| log.term(index).unwrap()), [1, 2]);
        assert!(log.term(4).is_err());
        assert_eq!(log.bytes, 20);
    }

    #[test]
    fn release_keeps_what_is_not_applied() {
        let mut log = log(vec![]);
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.release(3, 0, usize::MAX);
        assert_eq!(log.before, (3, 1));
        let page = log.entries(4, 5, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(page.len(), 1);
    }

    #[test]
    fn what_memory_has_released_is_asked_of_the_disk_once_and_its_term_is_known() {
        let mut log = log(vec![entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 3)]);
        log.release(4, 0, usize::MAX);
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (2, 5));
        assert_eq!([1, 2, 3, 4, 5].map(|index| log.term(index).unwrap()), [1, 1, 2, 2, 3]);
        let ask = |log: &LogStore| log.entries(3, 6, None, GetEntriesContext::empty(true));
        for _ in 0..2 {
            let later = raft::Error::Store(StorageError::LogTemporarilyUnavailable);
            assert_eq!(ask(&log), Err(later));
        }
        let fetches = log.take_fetches(|_| true);
        let ranges: Vec<_> = fetches.iter().map(|fetch| (fetch.low, fetch.high)).collect();
        assert_eq!(ranges, [(3, 5)]);
        let entries = [3, 4].map(|index| keepd_types::Entry { index, term: 2, ..<_>::default() });
        assert!(log.show(&fetches[0], Fetched::Entries(entries.to_vec())));
        let indexes: Vec<_> = ask(&log).unwrap().iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, [3, 4]);
    }

    #[test]
    fn the_log_starts_where_neither_disk_nor_memory_has_more() {
        let mut log = log(vec![entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 3)]);
        log.release(3, 2, usize::MAX);
        assert_eq!((log.first_index().unwrap(), log.before.0), (2, 3));
        log.starts_at(2);
        assert_eq!((log.first_index().unwrap(), log.term(2).unwrap()), (3, 1));
        assert!(log.term(1).is_err());
        log.starts_at(4);
        assert_eq!(log.first_index().unwrap(), 4, "entry 4 is still in memory");
        log.release(5, 1, usize::MAX);
        assert_eq!((log.first_index().unwrap(), log.term(4).unwrap()), (5, 2));
    }

    #[test]
    fn a_term_is_found_from_the_back() {
        let log = log(vec![entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 5)]);
        for (index, term, found) in [(9, 5, 5), (5, 4, 4), (5, 1, 2), (3, 2, 3), (5, 0, 1)] {
            assert_eq!(log.last_at_most(index, term), found, "{index} {term}");
        }
    }
}
