//! The WAL thread: one write and one sync for all that waits.
//!
//! Receives batches from the Raft thread; confirms them to it after the sync. A failed sync or write
//! stops the member: the kernel may have dropped the pages, so trying again proves nothing. A write
//! that found the disk full has changed nothing: it is made again, for as long as it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_crypto::DataKeyId;
use keepd_raft::Actions;
use keepd_types::{Entry, HardState};
use keepd_wal::{Batch, Wal};

use crate::conversion::WalFiles;
use crate::raft_thread::RaftEvent;
use crate::shared::Shared;

/// How long the thread sleeps when nothing happens.
const PATIENCE: Duration = Duration::from_secs(3600);
/// etcd's threshold for calling a sync slow.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// What the WAL thread reacts to.
#[derive(Debug)]
pub(crate) enum WalEvent {
    /// Append, sync, confirm.
    Append(Actions),
    /// A hard state that may be written with the next batch.
    Remember(HardState),
    /// The store is durable up to here: segments behind it may go.
    Release {
        /// The index.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// Write on under the data key that is active now, and count the files by theirs.
    Rekey,
    /// Write what is remembered and end.
    Stop,
}

#[derive(Debug)]
pub(crate) struct WalThread {
    shared: Arc<Shared>,
    wal: Wal,
    remembered: Option<HardState>,
    /// Reused between batches.
    entries: Vec<Entry>,
}

impl WalThread {
    pub(crate) const fn new(shared: Arc<Shared>, wal: Wal) -> Self {
        Self { shared, wal, remembered: None, entries: Vec::new() }
    }

    pub(crate) fn run(mut self) {
        let mut events = Vec::new();
        let mut stopping = false;
        while !stopping && !self.shared.is_halted() {
            self.shared.wal.drain(&mut events, PATIENCE);
            match self.handle(&mut events) {
                Ok(stop) => stopping = stop,
                Err(error) if error.is_out_of_space() => {
                    tracing::warn!(%error, "stopping without what was not acknowledged");
                    stopping = true;
                }
                Err(error) => self.shared.halt(error),
            }
        }
        self.shared.wal.close();
        if stopping && let Err(error) = self.wal.close() {
            tracing::warn!(%error, "the log was not closed in order; the next start looks closer");
        }
    }

    fn handle(&mut self, events: &mut Vec<WalEvent>) -> Result<bool, keepd_wal::Error> {
        let (mut confirm, mut release) = (Vec::new(), None);
        let (mut rekey, mut stop) = (false, false);
        self.entries.clear();
        for event in events.drain(..) {
            match event {
                WalEvent::Append(actions) => {
                    confirm.push(actions.number);
                    if actions.hard_state.is_some() {
                        self.remembered = actions.hard_state;
                    }
                    self.gather(actions.entries);
                }
                WalEvent::Remember(hard_state) => self.remembered = Some(hard_state),
                WalEvent::Release { index, term } => release = Some((index, term)),
                WalEvent::Rekey => rekey = true,
                WalEvent::Stop => stop = true,
            }
        }
        if !confirm.is_empty() || (stop && self.remembered.is_some()) {
            self.write()?;
        }
        for number in confirm {
            self.shared.raft.hand(RaftEvent::Persisted(number));
        }
        if let Some((index, term)) = release {
            self.with_room(|this| this.wal.release(index, term))?;
        }
        if rekey || release.is_some() {
            self.rekey()?;
        }
        Ok(stop)
    }

    /// Lets nothing be added under another data key than the active one.
    fn rekey(&mut self) -> Result<(), keepd_wal::Error> {
        let active = self.shared.encryption.files().active();
        let of = |segment: &keepd_wal::SegmentSummary| DataKeyId(segment.data_key);
        if self.wal.segments().last().map(of) != Some(active) {
            self.with_room(|this| this.wal.rotate())?;
        }
        let mut counts = BTreeMap::new();
        for segment in &self.wal.segments() {
            *counts.entry(of(segment)).or_default() += 1;
        }
        *self.shared.wal_files.lock() = WalFiles { seen: Some(active), counts };
        Ok(())
    }

    /// Adds to the batch; an index already in it was rewritten by a newer leader.
    fn gather(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            while self.entries.last().is_some_and(|last| last.index >= first.index) {
                self.entries.pop();
            }
        }
        self.entries.extend(entries);
    }

    /// Makes a call on the log, again for as long as it finds the disk full.
    fn with_room(
        &mut self,
        call: impl Fn(&mut Self) -> Result<(), keepd_wal::Error>,
    ) -> Result<(), keepd_wal::Error> {
        loop {
            match call(self) {
                Err(keepd_wal::Error::Io(error))
                    if error.is_out_of_space() && self.shared.make_room(&error) => {}
                result => return result,
            }
        }
    }

    fn write(&mut self) -> Result<(), keepd_wal::Error> {
        let hard_state = self.remembered.take();
        let clock = Arc::clone(&self.shared.env.clock);
        let started = clock.monotonic();
        self.with_room(|this| this.wal.append(&Batch { entries: &this.entries, hard_state }))?;
        let written = clock.monotonic();
        self.wal.sync()?;
        let synced = clock.monotonic().saturating_sub(written);
        let metrics = &self.shared.metrics;
        metrics.wal_write_seconds.observe(written.saturating_sub(started));
        metrics.wal_fsync_seconds.observe(synced);
        let bytes: usize = self.entries.iter().map(|entry| entry.data.len()).sum();
        metrics.wal_write_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if synced > SLOW_SYNC {
            tracing::warn!(took = ?synced, expected = ?SLOW_SYNC, "slow fdatasync");
        }
        Ok(())
    }
}
