//! Watchers by key: single keys in a map, ranges in an interval tree.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keepd_mvcc::Change;
use keepd_types::KeyRange;

use crate::interval::IntervalTree;
use crate::slab::Slot;

/// Watchers by the keys they watch.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    points: BTreeMap<Bytes, BTreeSet<Slot>>,
    ranges: IntervalTree,
}

impl Interest {
    pub(crate) fn insert(&mut self, range: &KeyRange, slot: Slot) {
        if range.is_point() {
            let is_new = self.points.entry(range.start.clone()).or_default().insert(slot);
            assert!(is_new, "a watcher is inserted once");
        } else {
            self.ranges.insert(range, slot);
        }
    }

    pub(crate) fn remove(&mut self, range: &KeyRange, slot: Slot) {
        if !range.is_point() {
            return self.ranges.remove(range, slot);
        }
        let slots = self.points.get_mut(&range.start).expect("what is removed was inserted");
        let was_there = slots.remove(&slot);
        assert!(was_there, "what is removed was inserted");
        if slots.is_empty() {
            self.points.remove(&range.start);
        }
    }

    /// Fills `matches` with (watcher, position of a change that it watches), grouped by watcher,
    /// positions ascending.
    pub(crate) fn collect(&self, changes: &[Change], matches: &mut Vec<(Slot, u32)>) {
        matches.clear();
        for (position, change) in (0..).zip(changes) {
            if let Some(slots) = self.points.get(&change.key) {
                matches.extend(slots.iter().map(|slot| (*slot, position)));
            }
            self.ranges.stab(&change.key, &mut |slot| matches.push((slot, position)));
        }
        // Nothing to group if there is one change: a watcher has one range and matches once.
        if changes.len() > 1 {
            matches.sort_unstable();
        }
    }
}
