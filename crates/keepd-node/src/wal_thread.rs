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
use keepd_types::{Entry, HardState};
use keepd_wal::{Batch, Wal};

use crate::ballast::Asks;
use crate::encryption::state::WalFiles;
use crate::in_place::LogInPlace;
use crate::messages::{RaftEvent, WalEvent};
use crate::shared::Shared;

/// How long the thread sleeps when nothing happens.
const PATIENCE: Duration = Duration::from_secs(3600);
/// etcd's threshold for calling a sync slow.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// A file of the log that takes more than this ends while space is short: much more than the reserve
/// that the next one begins with.
const SHRUNK_BYTES: u64 = 4 * 1024 * 1024;

/// [`WalEvent::Release`].
#[derive(Clone, Copy, Debug)]
struct Release {
    index: u64,
    term: u64,
    is_short: bool,
}

#[derive(Debug)]
pub(crate) struct WalThread {
    shared: Arc<Shared>,
    wal: Wal,
    in_place: LogInPlace,
    remembered: Option<HardState>,
    /// What the log may let go, until it has.
    release: Option<Release>,
    /// Events that came while a write waited for space.
    later: Vec<WalEvent>,
    /// Reused between batches.
    entries: Vec<Entry>,
}

impl WalThread {
    pub(crate) fn new(shared: Arc<Shared>, wal: Wal) -> Self {
        Self {
            shared,
            wal,
            in_place: LogInPlace::default(),
            remembered: None,
            release: None,
            later: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) {
        let mut events = Vec::new();
        let mut stopping = false;
        while !stopping && !self.shared.is_halted() {
            events.append(&mut self.later);
            if events.is_empty() {
                self.shared.wal.drain(&mut events, PATIENCE);
            }
            match self.handle(&mut events) {
                Ok(stop) => stopping = stop,
                Err(error) if error.is_shortage() => {
                    tracing::warn!(%error, "stopping without what was not acknowledged");
                    stopping = true;
                }
                Err(error) => self.shared.halt(error),
            }
        }
        self.shared.wal.close();
        if stopping {
            // What can go of it is known when the last flush is durable.
            *self.shared.stopped_log.lock() = Some(self.wal);
        }
    }

    fn handle(&mut self, events: &mut Vec<WalEvent>) -> Result<bool, keepd_wal::Error> {
        let mut confirm = Vec::new();
        let (mut reencrypt, mut stop) = (false, false);
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
                WalEvent::Release { index, term, is_short } => {
                    self.release = Some(Release { index, term, is_short });
                }
                WalEvent::Reencrypt => reencrypt = true,
                WalEvent::Stop => stop = true,
            }
        }
        if !confirm.is_empty() || (stop && self.remembered.is_some()) {
            self.write()?;
        }
        for number in confirm {
            self.shared.raft.hand(RaftEvent::Persisted(number));
        }
        reencrypt |= self.release.is_some();
        self.let_go()?;
        if reencrypt {
            self.reencrypt()?;
        }
        Ok(stop)
    }

    /// Ends a file that another data key than the active one encrypts, and counts the files by key.
    fn reencrypt(&mut self) -> Result<(), keepd_wal::Error> {
        let active = self.shared.encryption.files().active();
        let of = |segment: &keepd_wal::SegmentSummary| DataKeyId(segment.data_key);
        if self.wal.segments().last().map(of) != Some(active) {
            self.with_room(Asks::Reclaim, |this| this.wal.rotate())?;
        }
        let mut counts = BTreeMap::new();
        for segment in &self.wal.segments() {
            *counts.entry(of(segment)).or_default() += 1;
        }
        self.shared.encryption_state.set_wal_files(WalFiles { seen: Some(active), counts });
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

    /// Lets go what was released. What finds no space or no descriptor for that is tried again with
    /// the next call.
    fn let_go(&mut self) -> Result<(), keepd_wal::Error> {
        let Some(Release { index, term, is_short }) = self.release else { return Ok(()) };
        loop {
            match self.wal.release(index, term) {
                Err(keepd_wal::Error::Io(error)) if error.is_out_of_space() => {
                    if !self.shared.throw_off_ballast(&error, Asks::Reclaim) {
                        return Ok(());
                    }
                }
                Err(error) if error.is_shortage() => return Ok(()),
                result => break result?,
            }
        }
        self.release = None;
        if is_short {
            self.shrink(index, term)?;
        }
        self.shared.log_bytes.store(self.wal.disk_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes releases out of the queue while a write waits: they may be what makes room for it.
    fn look_for_releases(&mut self) -> Result<(), keepd_wal::Error> {
        let mut events = Vec::new();
        self.shared.wal.drain(&mut events, Duration::ZERO);
        for event in events {
            match event {
                // The store holds what is released, so the log does: it is in order before the rest.
                WalEvent::Release { index, term, is_short } => {
                    self.release = Some(Release { index, term, is_short });
                }
                event => self.later.push(event),
            }
        }
        self.let_go()
    }

    /// Ends the file that is written if it is large, and lets it go with what is before `index`.
    fn shrink(&mut self, index: u64, term: u64) -> Result<(), keepd_wal::Error> {
        if self.wal.segments().last().is_none_or(|active| active.bytes <= SHRUNK_BYTES) {
            return Ok(());
        }
        match self.wal.rotate() {
            Ok(()) => self.wal.release(index, term),
            // What comes next still finds the space that is reserved in the old file.
            Err(error) if error.is_shortage() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a call on the log, again for as long as it finds the disk full or no descriptor.
    fn with_room(
        &mut self,
        asks: Asks,
        call: impl Fn(&mut Self) -> Result<(), keepd_wal::Error>,
    ) -> Result<(), keepd_wal::Error> {
        loop {
            match call(self) {
                Err(keepd_wal::Error::Io(error)) if error.is_shortage() => {
                    self.look_for_releases()?;
                    if !self.shared.make_room(&error, asks) {
                        return Err(error.into());
                    }
                }
                result => return result,
            }
        }
    }

    fn write(&mut self) -> Result<(), keepd_wal::Error> {
        let hard_state = self.remembered.take();
        let clock = Arc::clone(&self.shared.env.clock);
        let started = clock.monotonic();
        self.with_room(Asks::Write, |this| {
            this.wal.append(&Batch { entries: &this.entries, hard_state })
        })?;
        self.shared.log_bytes.store(self.wal.disk_bytes(), Ordering::Relaxed);
        let written = clock.monotonic();
        self.wal.sync()?;
        // ORDER: before anybody is told that it is durable.
        self.in_place.check(&*self.shared.env.disk, self.wal.active_path())?;
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
