//! The WAL part: one write and one sync for all that waits.
//!
//! Receives batches from the Raft part. After the sync it confirms them and, being awake, steps the
//! Raft part itself, and the apply part too if that takes no longer than waking its thread. A failed
//! sync or write stops the member: the kernel may have dropped the pages, so trying again proves
//! nothing. A write that found the disk full has changed nothing: it is made again, for as long as it
//! takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_crypto::DataKeyId;
use keepd_env::mutants::{self, Mutant};
use keepd_member::install::InstallError;
use keepd_mvcc::StagedState;
use keepd_types::{Entry, HardState};
use keepd_wal::{Batch, Wal};

use crate::ballast::Asks;
use crate::driver::{Driver, Next, Part};
use crate::encryption::state::WalFiles;
use crate::in_place::LogInPlace;
use crate::messages::{RaftEvent, WalEvent};
use crate::shared::Shared;
use crate::threads::apply::ApplyThread;
use crate::threads::raft::RaftThread;

/// The longest sleep: nothing is due by itself.
const IDLE: Duration = Duration::from_secs(3600);
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

/// Entries and hard state that the Raft part waits for.
#[derive(Debug, Default)]
struct Unwritten {
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    /// Numbers of the batches to confirm.
    numbers: Vec<u64>,
}

impl Unwritten {
    /// Adds entries; an index that is there already was rewritten by a newer leader.
    fn add(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            while self.entries.last().is_some_and(|last| last.index >= first.index) {
                self.entries.pop();
            }
        }
        self.entries.extend(entries);
    }
}

#[derive(Debug)]
pub(crate) struct WalThread {
    shared: Arc<Shared>,
    raft: Arc<Driver<RaftThread>>,
    apply: Arc<Driver<ApplyThread>>,
    wal: Wal,
    in_place: LogInPlace,
    /// Events that wait for an install. BOUND: as the mailbox.
    events: VecDeque<WalEvent>,
    /// The state to commit to, once everything before it is written.
    install: Option<StagedState>,
    /// BOUND: what Raft leaves uncommitted.
    unwritten: Unwritten,
    /// Until the log has truncated itself.
    release: Option<Release>,
    /// The file in use may be encrypted with another data key than the active one.
    must_rotate: bool,
    is_stopping: bool,
    /// The time at which a call that found no space or no descriptor is made again.
    retry_at: Option<Duration>,
}

/// Whether a call that found no space is to be made again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Done,
    Later,
}

impl WalThread {
    pub(crate) fn new(
        shared: Arc<Shared>,
        raft: Arc<Driver<RaftThread>>,
        apply: Arc<Driver<ApplyThread>>,
        wal: Wal,
    ) -> Self {
        Self {
            shared,
            raft,
            apply,
            wal,
            in_place: LogInPlace::default(),
            events: VecDeque::new(),
            install: None,
            unwritten: Unwritten::default(),
            release: None,
            must_rotate: false,
            is_stopping: false,
            retry_at: None,
        }
    }

    /// Takes in what comes before the next install.
    fn take_in(&mut self) {
        while self.install.is_none()
            && let Some(event) = self.events.pop_front()
        {
            match event {
                WalEvent::Append(actions) => {
                    self.unwritten.numbers.push(actions.number);
                    if actions.hard_state.is_some() {
                        self.unwritten.hard_state = actions.hard_state;
                    }
                    self.unwritten.add(actions.entries);
                }
                WalEvent::DeferHardState(hard_state) => {
                    self.unwritten.hard_state = Some(hard_state);
                }
                WalEvent::Install(staged) => self.install = Some(staged),
                WalEvent::Release { index, term, is_short } => {
                    self.release = Some(Release { index, term, is_short });
                }
                WalEvent::Reencrypt => self.must_rotate = true,
                WalEvent::Stop => self.is_stopping = true,
            }
        }
    }

    /// Works through everything that is queued, or up to a call that found no space.
    fn work_through(&mut self, now: Duration) -> Result<(), keepd_wal::Error> {
        loop {
            self.take_in();
            self.work(now)?;
            if self.retry_at.is_some() || !self.install(now)? {
                return Ok(());
            }
        }
    }

    /// Commits the member to a state and begins the log anew after it; whether there was one.
    ///
    /// From the record on the state is this member's, if need be after a start. So the log may follow
    /// it before the store does, and what the state holds may be confirmed (rule 9.2).
    fn install(&mut self, now: Duration) -> Result<bool, keepd_wal::Error> {
        let Some(staged) = self.install.take() else { return Ok(false) };
        let shared = Arc::clone(&self.shared);
        let last = staged.head.applied;
        let tried =
            self.try_call(Asks::Write, now, |this| match shared.installer.commit(&staged) {
                Ok(()) if mutants::is_active(Mutant::HalfInstall) => Ok(()),
                Ok(()) => this.wal.reset(last.index, last.term),
                Err(InstallError::Io(error)) => Err(error.into()),
                Err(error) => {
                    shared.halt(error);
                    Ok(())
                }
            })?;
        if tried == Tried::Later {
            self.install = Some(staged);
            return Ok(false);
        }
        if shared.is_halted() {
            return Ok(false);
        }
        tracing::info!(index = last.index, term = last.term, "installing the state of the leader");
        self.release = None;
        Ok(true)
    }

    /// Writes, confirms and tidies up; what finds no space is left for later.
    fn work(&mut self, now: Duration) -> Result<(), keepd_wal::Error> {
        if self.retry_at.is_some() {
            // It may be what makes space.
            self.let_go()?;
        }
        self.retry_at = None;
        let is_last = self.is_stopping && self.unwritten.hard_state.is_some();
        if !self.unwritten.numbers.is_empty() || is_last {
            if self.write(now)? == Tried::Later {
                return Ok(());
            }
            self.confirm();
        }
        self.must_rotate |= self.release.is_some();
        self.let_go()?;
        if self.must_rotate {
            self.reencrypt(now)?;
        }
        Ok(())
    }

    /// Tells what is durable. What comes of it is done here, without waking other threads.
    fn confirm(&mut self) {
        for number in self.unwritten.numbers.drain(..) {
            self.shared.mailboxes.raft.push_quietly(RaftEvent::Persisted(number));
        }
        self.raft.react_quietly();
        self.apply.react();
    }

    /// Ends a file that another data key than the active one encrypts, and counts the files by key.
    fn reencrypt(&mut self, now: Duration) -> Result<(), keepd_wal::Error> {
        let active = self.shared.encryption.files().active();
        let of = |segment: &keepd_wal::SegmentSummary| DataKeyId(segment.data_key);
        if self.wal.segments().last().map(of) != Some(active)
            && self.try_call(Asks::Reclaim, now, |this| this.wal.rotate())? == Tried::Later
        {
            return Ok(());
        }
        self.must_rotate = false;
        let mut counts = BTreeMap::new();
        for segment in &self.wal.segments() {
            *counts.entry(of(segment)).or_default() += 1;
        }
        self.shared.encryption_state.set_wal_files(WalFiles { seen: Some(active), counts });
        Ok(())
    }

    /// Truncates the log as far as it was released. What finds no space or no descriptor for that is
    /// tried again with the next step.
    fn let_go(&mut self) -> Result<(), keepd_wal::Error> {
        let Some(Release { index, term, is_short }) = self.release else { return Ok(()) };
        loop {
            match self.wal.release(index, term) {
                Err(keepd_wal::Error::Io(error)) if error.is_out_of_space() => {
                    if !self.shared.release_ballast(&error, Asks::Reclaim) {
                        return Ok(());
                    }
                }
                Err(error) if error.is_shortage() => return Ok(()),
                result => break result?,
            }
        }
        keepd_env::failpoint!(RaftAfterWalRelease);
        self.release = None;
        if is_short {
            self.shrink(index, term)?;
        }
        self.shared.space.log_bytes.store(self.wal.disk_bytes(), Ordering::Relaxed);
        Ok(())
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

    /// Makes a call on the log. If it finds the disk full it is made again with space of the ballast,
    /// and if there is none, or no descriptor, later.
    fn try_call(
        &mut self,
        asks: Asks,
        now: Duration,
        call: impl Fn(&mut Self) -> Result<(), keepd_wal::Error>,
    ) -> Result<Tried, keepd_wal::Error> {
        loop {
            let error = match call(self) {
                Err(keepd_wal::Error::Io(error)) if error.is_shortage() => error,
                result => return result.map(|()| Tried::Done),
            };
            if error.is_out_of_space() && self.shared.release_ballast(&error, asks) {
                continue;
            }
            return match self.shared.space.ballast.retry_after(&error) {
                Some(pause) => {
                    self.retry_at = Some(now + pause);
                    Ok(Tried::Later)
                }
                None => Err(error.into()),
            };
        }
    }

    fn write(&mut self, now: Duration) -> Result<Tried, keepd_wal::Error> {
        let clock = Arc::clone(&self.shared.env.clock);
        let append = |this: &mut Self| {
            let Unwritten { entries, hard_state, .. } = &this.unwritten;
            this.wal.append(&Batch { entries, hard_state: *hard_state })
        };
        keepd_env::failpoint!(RaftBeforeSave);
        if self.try_call(Asks::Write, now, append)? == Tried::Later {
            return Ok(Tried::Later);
        }
        self.shared.space.log_bytes.store(self.wal.disk_bytes(), Ordering::Relaxed);
        let written = clock.monotonic();
        self.wal.sync()?;
        // ORDER: before anybody is told that it is durable.
        self.in_place.check(&*self.shared.env.disk, self.wal.active_path())?;
        keepd_env::failpoint!(RaftAfterSave);
        let synced = clock.monotonic().saturating_sub(written);
        let metrics = &self.shared.metrics;
        metrics.wal_write_seconds.observe(written.saturating_sub(now));
        metrics.wal_fsync_seconds.observe(synced);
        let bytes: usize = self.unwritten.entries.iter().map(|entry| entry.data.len()).sum();
        metrics.wal_write_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if synced > SLOW_SYNC {
            tracing::warn!(took = ?synced, expected = ?SLOW_SYNC, "slow fdatasync");
        }
        self.unwritten.entries.clear();
        self.unwritten.hard_state = None;
        Ok(Tried::Done)
    }
}

impl Part for WalThread {
    type Event = WalEvent;

    fn react(&mut self, batch: &mut Vec<WalEvent>, now: Duration) {
        self.events.extend(batch.drain(..));
        match self.work_through(now) {
            Ok(()) => {}
            Err(error) if error.is_shortage() => {
                tracing::warn!(%error, "stopping without what was not acknowledged");
                self.is_stopping = true;
            }
            Err(error) => self.shared.halt(error),
        }
    }

    fn turn(&mut self, now: Duration) -> Next {
        match self.retry_at {
            None if self.is_stopping => Next::End,
            next => Next::At(next.unwrap_or(now + IDLE)),
        }
    }

    fn finish(self) {
        self.shared.mailboxes.wal.close();
        // What can go of it is known when the last flush is durable.
        *self.shared.shutdown.stopped_log.lock() = Some(self.wal);
    }
}
