//! Material of the next batches: entries that were read, and marks of the moments that passed.

use std::time::Duration;

use keepd_backup::Mark;
use keepd_types::Entry;

use super::chain::Chain;
use crate::Moment;
use crate::log::batch::{MARKS_MAX, MarkFacts};
use crate::log::name::BatchName;
use crate::log::position;

/// BOUND: marks that wait while the place is away; then every second one goes.
const WAITING_MAX: usize = 4 * MARKS_MAX;

/// Entries and marks that were not shipped.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    entries: Vec<Entry>,
    bytes: usize,
    /// Since when there are entries, by the monotonic clock.
    since: Option<Duration>,
    marks: Vec<MarkFacts>,
    /// The last look: its moment, and the entry that was the newest one.
    looked: Option<(Moment, u64)>,
}

impl Gathered {
    /// Notes the state of a moment.
    pub(super) fn note(&mut self, time: Moment, state: &Mark) {
        let index = state.position.index;
        self.looked = Some((time, index));
        if self.marks.last().is_some_and(|last| last.at.index >= index) {
            return;
        }
        if self.marks.len() >= WAITING_MAX {
            thin(&mut self.marks);
        }
        self.marks.push(MarkFacts { time, at: state.position.into(), revision: state.revision });
    }

    /// The newest entry that is known to be committed.
    pub(super) fn newest(&self) -> u64 {
        self.looked.map_or(0, |(_, index)| index)
    }

    /// Takes entries that follow.
    pub(super) fn take(&mut self, entries: Vec<Entry>, now: Duration) {
        self.bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.entries.extend(entries);
        self.since.get_or_insert(now);
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) const fn since(&self) -> Option<Duration> {
        self.since
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.index)
    }

    /// The name of the batch that is made of them.
    pub(super) fn name(&self, chain: &Chain, is_sealed: bool) -> BatchName {
        let last = self.last().unwrap_or(chain.last);
        let within = || self.marks.iter().filter(|mark| mark.at.index <= last);
        let newest = within().next_back();
        let until = match self.looked {
            Some((time, index)) if index == last => time,
            _ => newest.map_or(chain.until, |mark| mark.time),
        };
        let end = self.entries.last();
        BatchName {
            first: chain.last + 1,
            last,
            number: chain.number,
            term: end.map_or(chain.term, |entry| entry.term),
            revision: newest.map_or(chain.revision, |mark| mark.revision),
            from: within().next().map_or(chain.until, |mark| mark.time),
            until,
            tag: end.map_or(chain.tag, |entry| position::tag(chain.name.since, entry)),
            is_sealed,
        }
    }

    /// The marks of a batch that ends with an entry.
    pub(super) fn marks_up_to(&self, last: u64) -> Vec<MarkFacts> {
        let mut marks: Vec<MarkFacts> =
            self.marks.iter().filter(|mark| mark.at.index <= last).copied().collect();
        while marks.len() > MARKS_MAX {
            thin(&mut marks);
        }
        marks
    }

    pub(super) fn entries(&mut self) -> Vec<Entry> {
        (self.bytes, self.since) = (0, None);
        std::mem::take(&mut self.entries)
    }

    /// Forgets what a batch that ends with an entry has.
    pub(super) fn forget(&mut self, last: u64) {
        self.marks.retain(|mark| mark.at.index > last);
        self.entries.retain(|entry| entry.index > last);
    }
}

/// Leaves every second mark, and the last one.
fn thin(marks: &mut Vec<MarkFacts>) {
    let last = marks.len().saturating_sub(1);
    let mut number = 0;
    marks.retain(|_| {
        number += 1;
        number % 2 == 0 || number == last + 1
    });
}
