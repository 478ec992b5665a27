//! Log matching: logs that have an entry of the same index and term are equal up to there.
//!
//! Every entry that any log ever had is remembered with the term of the one before it, so that equality
//! follows from one entry to the next.

use std::collections::BTreeMap;

use keepd_types::{Entry, MemberId};

use super::{Verdict, verdict};
use crate::logs::Log;

/// An entry: the checksum of its content, and the term of the one before.
type Known = (u32, Option<u64>);

/// Every entry that was in a log, by index and term.
#[derive(Debug, Default)]
pub struct LogMatching {
    known: BTreeMap<(u64, u64), Known>,
}

/// The checksum of an entry's content.
pub(crate) fn content(entry: &Entry) -> u32 {
    crc32c::crc32c(&entry.data)
}

impl LogMatching {
    /// Takes in the log of a member.
    ///
    /// # Errors
    /// If it does not match another one.
    pub fn observe(&mut self, member: MemberId, log: &Log) -> Verdict {
        let mut before = log.start;
        for entry in &log.entries {
            let known = (before.index + 1 == entry.index).then_some(before.term);
            let found = (content(entry), known);
            let at = (entry.index, entry.term);
            let (first, term_before) = self.known.entry(at).or_insert(found);
            let fits = *first == found.0 && (term_before.is_none() || *term_before == found.1);
            if !fits {
                let (index, term) = at;
                let what = format!("the log of {member} has another entry {index} of term {term}");
                return verdict("log_matching", Err(what));
            }
            before = keepd_wal::LogStart { index: entry.index, term: entry.term };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::EntryKind;
    use keepd_wal::LogStart;

    use super::*;

    fn log(start: (u64, u64), entries: &[(u64, &'static [u8])]) -> Log {
        let start = LogStart { index: start.0, term: start.1 };
        let entry = |(number, (term, data)): (u64, &(u64, &'static [u8]))| Entry {
            index: start.index + 1 + number,
            term: *term,
            kind: EntryKind::Normal,
            data: (*data).into(),
        };
        Log { start, entries: (0..).zip(entries).map(entry).collect(), term: 9, commit: 0 }
    }

    #[test]
    fn logs_that_differ_below_an_equal_entry_are_found() {
        let mut matching = LogMatching::default();
        let member = MemberId(1);
        matching.observe(member, &log((0, 0), &[(1, b"a"), (1, b"b"), (2, b"c")])).unwrap();
        matching.observe(member, &log((0, 0), &[(1, b"a"), (3, b"x")])).unwrap();
        matching.observe(member, &log((2, 1), &[(2, b"c"), (4, b"d")])).unwrap();
        assert!(matching.observe(member, &log((0, 0), &[(1, b"other")])).is_err());
        assert!(matching.observe(member, &log((2, 3), &[(2, b"c")])).is_err());
    }
}
