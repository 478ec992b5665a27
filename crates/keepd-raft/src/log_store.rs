//! Raft's view of the log: the entries that are held in memory beside the write-ahead log.
//!
//! An entry is here before the WAL has it (rule 9.15: storage must answer for entries in flight)
//! and stays until it is applied and out of the catch-up window.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

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
    /// The configuration as of `applied_index`; it may be in the middle of a joint change.
    pub conf_state: crate::conf_change::ConfState,
}

/// The in-memory log.
#[derive(Debug)]
pub(crate) struct LogStore {
    hard_state: HardState,
    /// The configuration as of `applied`.
    conf_state: ConfState,
    /// Index and term of the last applied entry: a snapshot would be of it.
    applied: (u64, u64),
    /// Index and term just before the first entry held.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    /// Bytes of all entries held, for the catch-up window.
    bytes: usize,
}

impl LogStore {
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        before: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let bytes = entries.iter().map(|entry| entry.data.len()).sum();
        let applied = (0, 0);
        Self { hard_state, conf_state, applied, before, entries: entries.into(), bytes }
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
        for entry in entries {
            self.bytes += entry.data.len();
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
        self.entries.clear();
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
                _ => return,
            }
        }
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
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let compacted = raft::Error::Store(StorageError::Compacted);
        let Some(from) = self.position(low) else { return Err(compacted) };
        let to = self.position(high).unwrap_or(from).min(self.entries.len());
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0_u64;
        let mut out = Vec::new();
        for entry in self.entries.range(from.min(to)..to) {
            size = size.saturating_add(entry.data.len() as u64 + 16);
            if size > budget && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        let Some(position) = self.position(index) else {
            return Err(raft::Error::Store(StorageError::Compacted));
        };
        let entry = self.entries.get(position);
        entry.map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Default::default() }
    }

    #[test]
    fn a_rewritten_index_cuts_the_tail() {
        let mut log = LogStore::new(HardState::default(), ConfState::default(), (1, 1), vec![]);
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.append(&[entry(3, 2)]);
        assert_eq!(log.last_index().unwrap(), 3);
        assert_eq!(log.term(3).unwrap(), 2);
        assert_eq!(log.bytes, 20);
    }

    #[test]
    fn release_keeps_what_is_not_applied() {
        let mut log = LogStore::new(HardState::default(), ConfState::default(), (1, 1), vec![]);
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.release(3, 0, usize::MAX);
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (4, 4));
        assert_eq!(log.term(3).unwrap(), 1);
        assert!(log.term(2).is_err());
        let page = log.entries(4, 5, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(page.len(), 1);
    }
}
