//! The terms of a log's entries, without the entries.

/// One run of entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first_index: u64,
    term: u64,
}

/// The index at which each term of a log begins. Terms do not fall along a log, so this is all there
/// is to know of them, however long the log.
///
/// It does not know where the log starts and ends: whoever asks does.
// BOUND: one run per term that has an entry in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermRuns(Vec<Run>);

impl TermRuns {
    /// The term of the entry at `index`; `None` in front of the first one known.
    #[must_use]
    pub fn term(&self, index: u64) -> Option<u64> {
        let after = self.0.partition_point(|run| run.first_index <= index);
        self.0.get(after.checked_sub(1)?).map(|run| run.term)
    }

    /// Adds the entry that follows the last one.
    ///
    /// # Panics
    /// If it is not behind it.
    pub fn push(&mut self, index: u64, term: u64) {
        let last = self.0.last();
        assert!(
            last.is_none_or(|last| last.first_index < index || last.term == term),
            "it follows"
        );
        if last.is_none_or(|last| last.term != term) {
            self.0.push(Run { first_index: index, term });
        }
    }

    /// Forgets the entries from `index` on.
    pub fn cut(&mut self, index: u64) {
        self.0.truncate(self.0.partition_point(|run| run.first_index < index));
    }

    /// Forgets the entries in front of `index`, as far as that saves anything.
    pub fn release(&mut self, index: u64) {
        let after = self.0.partition_point(|run| run.first_index <= index);
        self.0.drain(..after.saturating_sub(1));
    }

    /// The last entry at or in front of `index` whose term is at most `term`.
    #[must_use]
    pub fn last_at_most(&self, index: u64, term: u64) -> Option<u64> {
        let after = self.0.partition_point(|run| run.first_index <= index && run.term <= term);
        let next = self.0.get(after).map_or(index, |run| index.min(run.first_index - 1));
        (after > 0).then_some(next)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes another's place, in the memory of this one.
    pub fn copy_from(&mut self, other: &Self) {
        self.0.clone_from(&other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(terms: &[(u64, u64)]) -> TermRuns {
        let mut runs = TermRuns::default();
        terms.iter().for_each(|(index, term)| runs.push(*index, *term));
        runs
    }

    #[test]
    fn terms_follow_cuts_and_releases() {
        let mut runs = of(&[(11, 1), (12, 2), (13, 2), (14, 5)]);
        assert_eq!(
            [10, 11, 12, 13, 14].map(|index| runs.term(index)),
            [None, Some(1), Some(2), Some(2), Some(5)]
        );
        runs.cut(13);
        runs.push(13, 3);
        assert_eq!([12, 13].map(|index| runs.term(index)), [Some(2), Some(3)]);
        runs.release(12);
        assert_eq!([11, 12, 13].map(|index| runs.term(index)), [None, Some(2), Some(3)]);
        runs.release(20);
        assert_eq!(runs.term(20), Some(3), "the last run is that of whatever follows");
    }

    #[test]
    fn the_last_entry_of_a_term_or_a_lower_one_is_found() {
        let runs = of(&[(11, 1), (12, 2), (13, 2), (14, 5)]);
        for (index, term, found) in [
            (14, 5, Some(14)),
            (14, 4, Some(13)),
            (13, 1, Some(11)),
            (12, 9, Some(12)),
            (14, 0, None),
            (10, 9, None),
        ] {
            assert_eq!(runs.last_at_most(index, term), found, "{index} {term}");
        }
    }

    #[test]
    #[should_panic(expected = "it follows")]
    fn an_entry_that_was_not_cut_is_not_replaced() {
        let mut runs = of(&[(11, 3)]);
        runs.push(11, 4);
    }
}
