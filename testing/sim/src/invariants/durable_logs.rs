//! Logs are durable: what a member had synced before it died is in its log when it starts again, and it
//! goes on in its term: it does not vote twice.

use std::collections::BTreeMap;

use super::{Verdict, verdict};
use crate::logs::Log;

/// The logs of the members that died, by their places in the cluster.
#[derive(Debug, Default)]
pub struct DurableLogs {
    synced: BTreeMap<usize, Log>,
    /// The terms that their disks had.
    terms: BTreeMap<usize, u64>,
}

impl DurableLogs {
    /// Takes in what a member that dies has synced; `None` if that is not known.
    pub fn die(&mut self, member: usize, log: Option<Log>) {
        match log {
            Some(log) => {
                self.terms.insert(member, log.term);
                self.synced.insert(member, log)
            }
            None => self.synced.remove(&member),
        };
    }

    /// A disk has lost what it had synced, or is gone.
    pub fn forget(&mut self, member: usize) {
        self.synced.remove(&member);
        self.terms.remove(&member);
    }

    /// Looks at the log of a member that has just started.
    ///
    /// # Errors
    /// If it lacks what was synced.
    pub fn start(&mut self, member: usize, log: &Log) -> Verdict {
        let Some(synced) = self.synced.remove(&member) else { return Ok(()) };
        let mut found = log.entries.iter().peekable();
        for entry in synced.entries.iter().filter(|entry| entry.index > log.start.index) {
            if found.next() != Some(entry) {
                let (index, term) = (entry.index, entry.term);
                let what =
                    format!("m{member} has lost entry {index} of term {term}, which was synced");
                return verdict("durable_logs", Err(what));
            }
        }
        Ok(())
    }

    /// Looks at the term of a member that runs; 0 is none yet.
    ///
    /// # Errors
    /// If it was in a later one before.
    pub fn serve(&self, member: usize, term: u64) -> Verdict {
        let known = self.terms.get(&member).copied().unwrap_or(0);
        if term == 0 || term >= known {
            return Ok(());
        }
        let what =
            format!("m{member} was in term {known} and is in term {term}: it may vote again");
        verdict("durable_logs", Err(what))
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::{Entry, EntryKind};
    use keepd_wal::LogStart;

    use super::*;

    fn log(start: u64, terms: &[u64]) -> Log {
        let entry = |(index, term): (u64, &u64)| Entry {
            index,
            term: *term,
            kind: EntryKind::Normal,
            data: vec![1].into(),
        };
        let entries = (start + 1..).zip(terms).map(entry).collect();
        Log { start: LogStart { index: start, term: 1 }, entries, term: 9, commit: 0 }
    }

    #[test]
    fn a_log_that_lost_its_end_is_found() {
        let mut logs = DurableLogs::default();
        for found in [log(0, &[1, 1, 2]), log(0, &[1, 1, 2, 2]), log(2, &[2])] {
            logs.die(0, Some(log(0, &[1, 1, 2])));
            logs.start(0, &found).unwrap();
        }
        for found in [log(0, &[1, 1]), log(0, &[1, 1, 3]), log(1, &[])] {
            logs.die(0, Some(log(0, &[1, 1, 2])));
            assert!(logs.start(0, &found).is_err());
        }
    }

    #[test]
    fn a_term_that_was_forgotten_is_found() {
        let mut logs = DurableLogs::default();
        logs.die(0, Some(log(0, &[1])));
        logs.serve(0, 0).unwrap();
        logs.serve(0, 9).unwrap();
        logs.serve(1, 1).unwrap();
        assert!(logs.serve(0, 8).is_err());
    }
}
