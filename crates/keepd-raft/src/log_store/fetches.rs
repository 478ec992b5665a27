//! Entries that followers need and only the disk has: who reads them, and for how long they stay.
//!
//! raft asks for entries when it wants to send them, and does without if they are not there. It is
//! remembered where it asked; the driver reads, the page is sent at once and forgotten.

use std::collections::BTreeMap;
use std::ops::Range;

use raft::eraftpb::Entry;

use super::LogStore;
use crate::core::to_raft;

/// BOUND: ranges that are asked for and not answered; followers beyond that ask again later.
const FETCHES_MAX: usize = 16;
/// BOUND: entries and bytes of a page; a single entry may be larger.
const PAGE_ENTRIES_MAX: u64 = 8192;
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Entries to read from the write-ahead log. [`crate::Core::fetched`] is owed for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The first index.
    pub low: u64,
    /// The index after the last.
    pub high: u64,
    /// The bytes of data that are enough; at least one entry is read.
    pub bytes_max: u64,
}

/// The write-ahead log's answer to a [`Fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The entries from the first index on, without a gap.
    Entries(Vec<keepd_types::Entry>),
    /// The first entry is not in the log any more, or will never be read from it.
    Compacted,
    /// It cannot be read now.
    Failed,
}

/// State of a wanted range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Wanted,
    Asked,
}

/// The ranges that raft has asked for.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// By first index: the index after the last one. BOUND: `FETCHES_MAX`.
    ranges: BTreeMap<u64, (u64, State)>,
}

impl Fetches {
    /// Notes that entries from `low` on are wanted. One that another range has is not asked for
    /// twice: if its page ends before, it is wanted again then.
    pub(super) fn want(&mut self, low: u64, end: u64) {
        let before = self.ranges.range(..=low).next_back();
        let is_covered = before.is_some_and(|(_, (high, _))| low < *high);
        if !is_covered && self.ranges.len() < FETCHES_MAX {
            let high = end.min(low.saturating_add(PAGE_ENTRIES_MAX));
            self.ranges.insert(low, (high, State::Wanted));
        }
    }
}

impl LogStore {
    /// Whether something is wanted that nobody was asked for.
    pub(crate) fn wants(&self) -> bool {
        let fetches = self.fetches.borrow();
        fetches.ranges.values().any(|(_, state)| *state == State::Wanted)
    }

    /// The ranges to read now: of those wanted the ones whose first index `is_due`; the others are
    /// forgotten.
    pub(crate) fn take_fetches(&mut self, is_due: impl Fn(u64) -> bool) -> Vec<Fetch> {
        let ranges = &mut self.fetches.get_mut().ranges;
        let mut fetches = Vec::new();
        ranges.retain(|low, (high, state)| {
            if *state == State::Asked {
                return true;
            }
            let is_due = is_due(*low);
            if is_due {
                *state = State::Asked;
                fetches.push(Fetch { low: *low, high: *high, bytes_max: PAGE_BYTES_MAX });
            }
            is_due
        });
        assert!(ranges.len() <= FETCHES_MAX, "reads of the log are bounded");
        fetches
    }

    /// Takes the answer to a fetch; whether there is something to send for it. A page is forgotten
    /// with [`Self::hide`]. One that comes after the log was replaced or truncated counts no more.
    pub(crate) fn show(&mut self, fetch: &Fetch, found: Fetched) -> bool {
        let asked = self.fetches.get_mut().ranges.remove(&fetch.low);
        assert_eq!(asked, Some((fetch.high, State::Asked)), "what was asked for is answered once");
        match found {
            Fetched::Failed => false,
            Fetched::Compacted => {
                self.starts_at(fetch.low);
                true
            }
            Fetched::Entries(_) if fetch.low <= self.start.0 || fetch.high > self.before.0 + 1 => {
                true
            }
            Fetched::Entries(entries) => {
                assert!(!entries.is_empty(), "a log has what it was not told to release");
                for (entry, index) in entries.iter().zip(fetch.low..) {
                    let term = self.terms.term(index);
                    assert_eq!(
                        (entry.index, Some(entry.term)),
                        (index, term),
                        "the log is as it was"
                    );
                    assert!(index < fetch.high, "no more is read than was asked for");
                }
                self.page =
                    Page { low: fetch.low, entries: entries.into_iter().map(to_raft).collect() };
                true
            }
        }
    }

    /// Forgets the page.
    pub(crate) fn hide(&mut self) {
        self.page = Page::default();
    }

    /// The indexes of the page.
    pub(crate) fn page(&self) -> Range<u64> {
        self.page.low..self.page.low + self.page.entries.len() as u64
    }
}

/// Entries that were read from the disk.
#[derive(Debug, Default)]
pub(super) struct Page {
    low: u64,
    entries: Vec<Entry>,
}

impl Page {
    /// The entries of `low..high`, if `low` is among them.
    pub(super) fn from(&self, low: u64, high: u64) -> &[Entry] {
        let place = |index: u64| usize::try_from(index.checked_sub(self.low)?).ok();
        let Some((from, to)) = place(low).zip(place(high)) else { return &[] };
        self.entries.get(from..to.min(self.entries.len())).unwrap_or_default()
    }
}
