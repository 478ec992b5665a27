//! State of the encryption that the member's threads and tasks share. Knows none of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepd_crypto::DataKeyId;
use keepd_machine::tables::{self, ActiveKeys};
use keepd_mvcc::View;
use parking_lot::Mutex;

/// Files of the log by the data key that encrypts them.
#[derive(Clone, Debug, Default)]
pub(crate) struct WalFiles {
    /// The active data key at the time of the count; `None` before the first count. Files that
    /// were begun since are encrypted with this key or a later one.
    pub(crate) seen: Option<DataKeyId>,
    pub(crate) counts: BTreeMap<DataKeyId, u64>,
}

/// Progress of the re-encryption of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Encrypted files.
    pub sealed: u64,
    /// Plain files.
    pub plain: u64,
    /// Those of both that wait to be rewritten.
    pub stale: u64,
    /// Whether every file is as the configuration wants it, and no other data key is kept.
    pub is_complete: bool,
    /// Damaged files of the store that cannot be rewritten, so that their data keys are kept.
    pub held_back: Vec<PathBuf>,
}

/// Reloads of the encryption configuration since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Number of contents that were taken.
    pub successes: u64,
    /// Number of contents that were refused.
    pub failures: u64,
    /// Time of the last success since the epoch; `None` before the first.
    pub last_success: Option<Duration>,
    /// Reason of the last failure; `None` after a success.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct EncryptionState {
    wal_files: Mutex<WalFiles>,
    file_counts: Mutex<FileCounts>,
    /// Re-encryptions that were begun.
    begun: AtomicU64,
    reloads: Mutex<Reloads>,
}

impl EncryptionState {
    pub(crate) fn wal_files(&self) -> WalFiles {
        self.wal_files.lock().clone()
    }

    pub(crate) fn set_wal_files(&self, files: WalFiles) {
        *self.wal_files.lock() = files;
    }

    pub(crate) fn file_counts(&self) -> FileCounts {
        self.file_counts.lock().clone()
    }

    /// Re-encryptions that were begun, as a count of the files has to know before it begins.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Publishes a count of the files, which began when so many re-encryptions were begun, and returns
    /// the one before.
    pub(crate) fn replace_file_counts(&self, counts: FileCounts, begun: u64) -> FileCounts {
        let mut published = self.file_counts.lock();
        let is_complete = counts.is_complete && begun == self.begun();
        std::mem::replace(&mut published, FileCounts { is_complete, ..counts })
    }

    /// Keeps the counts from saying that everything is done until the files are counted again.
    pub(crate) fn begin_reencryption(&self) {
        let mut published = self.file_counts.lock();
        self.begun.fetch_add(1, Ordering::SeqCst);
        published.is_complete = false;
    }

    pub(crate) fn reloads(&self) -> Reloads {
        self.reloads.lock().clone()
    }

    /// Counts a reload that ended at this time since the epoch.
    pub(crate) fn note_reload(&self, result: Result<(), String>, now: Duration) {
        let mut reloads = self.reloads.lock();
        match result {
            Ok(()) => {
                reloads.successes += 1;
                reloads.last_success = Some(now);
                reloads.last_error = None;
            }
            Err(error) => {
                reloads.failures += 1;
                reloads.last_error = Some(error);
            }
        }
    }
}

/// The keys that the cluster seals values under; `None` before the first activation.
pub(crate) fn active_keys(view: &View) -> Option<ActiveKeys> {
    tables::active_keys(view.meta(tables::CLUSTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_began_before_a_reencryption_does_not_say_that_it_is_done() {
        let state = EncryptionState::default();
        let complete = || FileCounts { is_complete: true, ..FileCounts::default() };
        let before = state.begun();
        state.begin_reencryption();
        state.replace_file_counts(complete(), before);
        assert!(!state.file_counts().is_complete);
        state.replace_file_counts(complete(), state.begun());
        assert!(state.file_counts().is_complete);
    }
}
