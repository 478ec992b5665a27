//! Leader completeness: a leader's log has every entry that was committed before.

use std::collections::BTreeMap;

use keepd_types::MemberId;

use super::log_matching::content;
use super::{Verdict, verdict};
use crate::logs::Log;

const NAME: &str = "leader_completeness";

/// Every entry that a member knew to be committed.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    committed: BTreeMap<u64, (u64, u32)>,
}

impl LeaderCompleteness {
    /// Takes in the committed part of a member's log.
    ///
    /// # Errors
    /// If another entry was committed at one of the places.
    pub fn commit(&mut self, member: MemberId, log: &Log) -> Verdict {
        for entry in log.entries.iter().filter(|entry| entry.index <= log.commit) {
            let found = (entry.term, content(entry));
            let known = *self.committed.entry(entry.index).or_insert(found);
            if known != found {
                let (index, term) = (entry.index, entry.term);
                let what = format!(
                    "{member} has committed entry {index} of term {term}, another has committed one \
                     of term {}",
                    known.0
                );
                return verdict(NAME, Err(what));
            }
        }
        Ok(())
    }

    /// Looks at the log of a member that leads.
    ///
    /// # Errors
    /// If it lacks a committed entry of an earlier term.
    pub fn lead(&self, member: MemberId, log: &Log, term: u64) -> Verdict {
        let last = log.entries.last().map_or(log.start.index, |entry| entry.index);
        for (index, (of_term, content_of)) in self.committed.range(log.start.index + 1..) {
            if *of_term >= term {
                continue;
            }
            let place = usize::try_from(index - log.start.index - 1).unwrap_or(usize::MAX);
            let has = log.entries.get(place).is_some_and(|entry| {
                (entry.index, entry.term, content(entry)) == (*index, *of_term, *content_of)
            });
            if !has {
                let what = format!(
                    "{member} leads in term {term} and its log, which ends at {last}, lacks entry \
                     {index} of term {of_term}, which was committed"
                );
                return verdict(NAME, Err(what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::{Entry, EntryKind};
    use keepd_wal::LogStart;

    use super::*;

    fn log(terms: &[u64], commit: u64) -> Log {
        let entry = |(index, term): (u64, &u64)| Entry {
            index,
            term: *term,
            kind: EntryKind::Normal,
            data: vec![1].into(),
        };
        let entries = (1..).zip(terms).map(entry).collect();
        Log { start: LogStart { index: 0, term: 0 }, entries, term: 9, commit }
    }

    #[test]
    fn a_leader_that_lacks_what_was_committed_is_found() {
        let mut completeness = LeaderCompleteness::default();
        completeness.commit(MemberId(1), &log(&[1, 1, 1], 2)).unwrap();
        completeness.lead(MemberId(2), &log(&[1, 1], 0), 2).unwrap();
        assert!(completeness.lead(MemberId(2), &log(&[1], 0), 2).is_err(), "it ends too early");
        assert!(completeness.lead(MemberId(2), &log(&[1, 2], 0), 2).is_err(), "another entry");
        completeness.commit(MemberId(2), &log(&[1, 2], 1)).unwrap();
        assert!(completeness.commit(MemberId(2), &log(&[1, 2], 2)).is_err());
    }
}
