//! Entries that were durable in the store, remembered so that the log can go up to one of them while later
//! ones are still needed: a log begins behind an entry whose term must be known.

use std::collections::VecDeque;

use keepd_mvcc::Applied;

/// Entries between two points.
const APART: u64 = 512;
/// BOUND: points; then every second one goes.
const POINTS_MAX: usize = 1024;

/// Points, ascending.
#[derive(Debug, Default)]
pub(super) struct ReleasePoints(VecDeque<Applied>);

impl ReleasePoints {
    /// Notes what is durable now.
    pub(super) fn note(&mut self, durable: Applied) {
        if self.0.back().is_some_and(|last| durable.index < last.index + APART) {
            return;
        }
        if self.0.len() == POINTS_MAX {
            let mut number = 0_usize;
            self.0.retain(|_| {
                number += 1;
                number.is_multiple_of(2)
            });
        }
        self.0.push_back(durable);
    }

    /// The last point that is not behind an index.
    pub(super) fn before(&mut self, index: u64) -> Option<Applied> {
        let mut found = None;
        while let Some(first) = self.0.front().filter(|first| first.index <= index).copied() {
            let is_last = self.0.get(1).is_none_or(|second| second.index > index);
            found = Some(first);
            if is_last {
                break;
            }
            self.0.pop_front();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_point_before_an_index_is_found_and_memory_stays_bounded() {
        let mut points = ReleasePoints::default();
        assert_eq!(points.before(10), None);
        for index in 0..APART * 3000 {
            points.note(Applied { index, term: 1 });
        }
        assert!(points.0.len() <= POINTS_MAX);
        let found = points.before(APART * 1500).unwrap();
        assert!(found.index <= APART * 1500 && found.index > APART * 1490, "{found:?}");
        assert_eq!(points.before(APART * 1500), Some(found));
        assert_eq!(points.before(0), None, "what is released stays so");
    }
}
