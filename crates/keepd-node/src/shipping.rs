//! The log of a member for whoever ships it into a place of backups: read beside the member's work, and
//! kept on the disk until it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keepd_types::Entry;
use keepd_wal::Page;
use thiserror::Error;

use crate::handle::Handle;

/// Keeps a member's log; it lasts as long as the member, whoever drops this.
#[derive(Clone, Debug)]
pub struct LogHold(Arc<AtomicU64>);

impl LogHold {
    /// Keeps the entries behind an index from now on, and no others.
    pub fn keep_behind(&self, index: u64) {
        self.0.store(index, Ordering::Release);
    }
}

/// Entries of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPage {
    /// From the first one asked for, without a gap; none if it is not durable here yet.
    Entries(Vec<Entry>),
    /// The first one is not in the log any more.
    Gone,
}

/// The log cannot be read.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct LogUnreadable(String);

impl Handle {
    /// One of the `Options::log_holds`, by which the log is kept: at first all of it, later what
    /// [`LogHold::keep_behind`] says. BOUND: up to `Options::shipped_log_bytes`, and only while the disk has
    /// space to spare.
    #[must_use]
    pub fn log_hold(&self, number: usize) -> Option<LogHold> {
        self.shared.log_holds.get(number).map(LogHold)
    }

    /// Reads entries `first..=last`, as far as bytes go but one at least. Only what is applied is certainly
    /// committed: whoever calls must not ask for more. Blocks on the disk; the member's own work goes on.
    ///
    /// # Errors
    /// If a file of the log cannot be read.
    pub fn read_log(
        &self,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogPage, LogUnreadable> {
        let mut reader = self.shared.log_for_shipping.lock();
        let Some(reader) = reader.as_mut() else { return Ok(LogPage::Entries(Vec::new())) };
        match reader.read(first..last.saturating_add(1), bytes_max) {
            Ok(Page::Entries(entries)) => Ok(LogPage::Entries(entries)),
            Ok(Page::Compacted) => Ok(LogPage::Gone),
            Err(error) => Err(LogUnreadable(error.to_string())),
        }
    }
}
