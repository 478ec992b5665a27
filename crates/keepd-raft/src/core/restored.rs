//! The state on disk at a start: nothing is guessed if its parts do not fit together.

use super::Error;
use super::convert::check as check_entry;
use crate::log_store::InitialState;

/// Checks that log, store and configuration fit together; the commit index.
pub(super) fn check(restored: &InitialState) -> Result<u64, Error> {
    for (entry, index) in restored.entries.iter().zip(restored.start_index + 1..) {
        assert_eq!(entry.index, index, "the log has no gap");
    }
    let log_last = restored.entries.last().map_or(restored.start_index, |entry| entry.index);
    // A commit-only hard state need not have been synced: what the store applied was committed.
    let commit = restored.hard_state.commit.max(restored.applied_index).max(restored.start_index);
    if log_last < commit {
        return Err(Error::LogTooShort { log_last, needed: commit });
    }
    if restored.applied_index < restored.start_index {
        return Err(Error::StoreTooOld {
            applied: restored.applied_index,
            start: restored.start_index,
        });
    }
    let log_term = restored.entries.last().map_or(restored.start_term, |entry| entry.term);
    if restored.hard_state.term < log_term {
        return Err(Error::TermTooLow { term: restored.hard_state.term, log_term });
    }
    if !(restored.conf_state.is_sound() || restored.is_joining()) {
        return Err(Error::ConfState(restored.conf_state.clone()));
    }
    for entry in &restored.entries {
        check_entry(entry)
            .map_err(|source| Error::ConfChangeEntry { index: entry.index, source })?;
    }
    Ok(commit)
}
