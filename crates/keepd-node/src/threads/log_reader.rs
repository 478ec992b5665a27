//! The log reader: reads entries of the log again for followers that lag.
//!
//! It has a thread of its own, beside the one that writes: reading must not delay a sync.

use std::sync::Arc;
use std::time::Duration;

use keepd_raft::{Fetch, Fetched};
use keepd_wal::{Page, WalReader};

use crate::driver::{Next, Part};
use crate::messages::RaftEvent;
use crate::shared::Shared;

/// The longest sleep: nothing is due by itself.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
    reader: WalReader,
}

impl LogReader {
    pub(crate) const fn new(shared: Arc<Shared>, reader: WalReader) -> Self {
        Self { shared, reader }
    }

    fn read(&mut self, fetch: &Fetch) -> Fetched {
        let bytes_max = usize::try_from(fetch.bytes_max).unwrap_or(usize::MAX);
        match self.reader.read(fetch.low..fetch.high, bytes_max) {
            Ok(Page::Entries(entries)) if entries.is_empty() => Fetched::Failed,
            Ok(Page::Entries(entries)) => Fetched::Entries(entries),
            Ok(Page::Compacted) => Fetched::Compacted,
            Err(error) if error.is_shortage() => {
                tracing::warn!(%error, "entries for a follower cannot be read now");
                Fetched::Failed
            }
            Err(error) => {
                // Whoever reads gets the error; the follower gets the state of the store instead.
                tracing::error!(%error, "entries for a follower cannot be read from the log");
                Fetched::Compacted
            }
        }
    }
}

impl Part for LogReader {
    type Event = Fetch;

    fn react(&mut self, batch: &mut Vec<Fetch>, _now: Duration) {
        for fetch in batch.drain(..) {
            let fetched = self.read(&fetch);
            self.shared.mailboxes.raft.push(RaftEvent::Fetched(fetch, fetched));
        }
    }

    fn turn(&mut self, now: Duration) -> Next {
        let is_over = self.shared.mailboxes.log_reader.is_closed();
        if is_over { Next::End } else { Next::At(now + IDLE) }
    }

    fn is_brief(_event: &Fetch) -> bool {
        false
    }
}
