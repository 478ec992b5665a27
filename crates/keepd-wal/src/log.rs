//! The shape of the log: where it starts and ends, and the terms of its entries. No data.
//!
//! The writer keeps it to check what callers append and to write each segment's header frame.

use keepd_types::{Entry, HardState, TermRuns};

use crate::types::LogStart;

/// The log without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogShape {
    /// The log starts after it; only grows.
    pub(crate) start: LogStart,
    /// The last hard state; `commit` lies between the start and the last index.
    pub(crate) hard_state: HardState,
    /// The index that follows the last one.
    pub(crate) next_index: u64,
    /// The terms of the entries after the start.
    terms: TermRuns,
}

impl LogShape {
    /// An empty log.
    pub(crate) fn new(start: LogStart, hard_state: HardState) -> Self {
        let commit = hard_state.commit.max(start.index);
        Self {
            start,
            hard_state: HardState { commit, ..hard_state },
            next_index: start.index + 1,
            terms: TermRuns::default(),
        }
    }

    /// The terms of the entries after the start.
    pub(crate) const fn terms(&self) -> &TermRuns {
        &self.terms
    }

    /// The term of an entry that the log holds, or of the start.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        if index < self.start.index || index >= self.next_index {
            return None;
        }
        self.terms.term(index)
    }

    /// Checks that a batch follows from the log.
    ///
    /// # Panics
    /// If it does not: Raft has lost track of what is stored, and must not go on.
    pub(crate) fn check(&self, entries: &[Entry], hard_state: Option<HardState>) {
        let mut next_index = self.next_index;
        if let Some(first) = entries.first() {
            assert!(first.index <= self.next_index, "an append leaves no gap");
            assert!(first.index > self.hard_state.commit, "committed entries are final");
            let before = self.term(first.index - 1).expect("the entry before is in the log");
            let mut previous = (first.index - 1, before);
            for entry in entries {
                assert!(entry.index == previous.0 + 1, "indexes rise by one");
                assert!(entry.term >= previous.1, "terms do not fall along the log");
                previous = (entry.index, entry.term);
            }
            next_index = previous.0 + 1;
        }
        if let Some(state) = hard_state {
            assert!(state.term >= self.hard_state.term, "the term does not fall");
            assert!(state.commit < next_index, "what is committed is in the log");
        }
    }

    /// Adds entries that [`LogShape::check`] accepted.
    pub(crate) fn extend(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.terms.cut(first.index);
        for entry in entries {
            self.terms.push(entry.index, entry.term);
            self.next_index = entry.index + 1;
        }
        assert!(self.next_index > self.start.index, "entries are behind the log's start");
    }

    /// The hard state after a batch that ends before `next_index`. Never beyond the entries: a
    /// frame may be the last one of its batch that reaches the disk.
    pub(crate) fn advance(&self, state: HardState, next_index: u64) -> HardState {
        let commit = state.commit.min(next_index - 1).max(self.hard_state.commit);
        assert!(commit < next_index, "what is committed is in the log");
        HardState { commit, ..state }
    }

    /// Moves the start of the log forward. A log that does not hold the start's entry is dropped as
    /// a whole: the state image replaces it.
    pub(crate) fn release(&mut self, start: LogStart) {
        assert!(start.index > self.start.index, "the start moves forward");
        if self.term(start.index) == Some(start.term) {
            self.terms.release(start.index + 1);
        } else {
            self.terms.clear();
            self.next_index = start.index + 1;
        }
        self.start = start;
        self.hard_state.commit = self.hard_state.commit.max(start.index);
        assert!(self.next_index > start.index, "the log follows its start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
        let numbered = (first..).zip(terms);
        numbered.map(|(index, &term)| Entry { index, term, ..Entry::default() }).collect()
    }

    fn terms(log: &LogShape) -> Vec<Option<u64>> {
        (log.start.index..log.next_index).map(|index| log.term(index)).collect()
    }

    #[test]
    fn terms_follow_overwrites_and_releases() {
        let start = LogStart { index: 10, term: 1 };
        let mut log = LogShape::new(start, HardState::default());
        log.extend(&entries(11, &[1, 2, 2, 3]));
        assert_eq!(terms(&log), [1, 1, 2, 2, 3].map(Some));
        log.extend(&entries(13, &[4]));
        assert_eq!(terms(&log), [1, 1, 2, 4].map(Some));
        log.release(LogStart { index: 12, term: 2 });
        assert_eq!(terms(&log), [2, 4].map(Some));
        assert_eq!(log.hard_state.commit, 12);
        assert_eq!(log.term(11), None);
        log.release(LogStart { index: 13, term: 5 });
        assert_eq!((terms(&log), log.next_index), (vec![Some(5)], 14), "replaced by the image");
    }

    #[test]
    #[should_panic(expected = "leaves no gap")]
    fn a_gap_stops_the_process() {
        let log = LogShape::new(LogStart::default(), HardState::default());
        log.check(&entries(2, &[1]), None);
    }

    #[test]
    #[should_panic(expected = "committed entries are final")]
    fn a_committed_entry_cannot_be_replaced() {
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        let mut log = LogShape::new(LogStart::default(), HardState::default());
        log.extend(&entries(1, &[1, 1]));
        log.hard_state = hard_state;
        log.check(&entries(1, &[2]), None);
    }
}
