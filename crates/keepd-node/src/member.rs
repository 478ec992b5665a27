//! A member: its parts, and whoever steps them.
//!
//! [`crate::Node`] gives each part a thread. A simulation steps the parts itself, of one member or of
//! several, in one thread and in the order that it chooses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::{DirLock, Env};
use keepd_mvcc::{Applied, DiskFullHook};

use crate::ballast::Asks;
use crate::boot::{DataDir, Opened};
use crate::driver::{Driver, PartName, Stepped};
use crate::error::BootError;
use crate::handle::Handle;
use crate::job_scheduler::JobScheduler;
use crate::messages::{ApplyEvent, RaftEvent};
use crate::options::Options;
use crate::shared::Shared;
use crate::threads::apply::ApplyThread;
use crate::threads::background::{Background, Worker};
use crate::threads::hub::HubThread;
use crate::threads::log_reader::LogReader;
use crate::threads::raft::RaftThread;
use crate::threads::wal::WalThread;

/// Between two looks at a part that is to end.
const STOP_PAUSE: Duration = Duration::from_millis(1);

/// A member whose parts run when they are stepped.
pub struct Member {
    pub(crate) shared: Arc<Shared>,
    raft: Arc<Driver<RaftThread>>,
    parts: Vec<Arc<dyn Stepped>>,
    background: Background,
    /// Held as long as the member is there.
    _lock: Box<dyn DirLock>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Member {
    /// Puts a member together on an opened data directory.
    ///
    /// # Errors
    /// If log and store do not fit together.
    pub fn open(env: Env, options: Options, data_dir: DataDir) -> Result<Self, BootError> {
        let Opened { machine, wal, core, identity, encryption, ballast, lock } =
            data_dir.open(&env, &options)?;
        let views = machine.store().views();
        let in_place = machine.store().in_place()?;
        let shared = Shared::new(env, options, identity, views, encryption, ballast);
        let for_flushes = Arc::clone(&shared);
        machine.store().set_disk_full_hook(DiskFullHook::new(move |error| {
            // What a flush writes lets the log go.
            for_flushes.wait_for_space(error, Asks::Reclaim)
        }));
        let background = Background::new();
        let jobs = JobScheduler::new(Arc::clone(&shared), background.clone());
        let of = || Arc::clone(&shared);
        let raft = Driver::new(
            PartName::Raft,
            &shared,
            &shared.mailboxes.raft,
            RaftThread::new(of(), core, background.clone()),
        );
        let apply = ApplyThread::new(of(), machine, jobs);
        let apply = Driver::new(PartName::Apply, &shared, &shared.mailboxes.apply, apply);
        *shared.log_for_shipping.lock() = Some(wal.reader());
        let log_reader = LogReader::new(of(), wal.reader());
        let mailbox = &shared.mailboxes.log_reader;
        let log_reader = Driver::new(PartName::LogReader, &shared, mailbox, log_reader);
        let wal = WalThread::new(of(), Arc::clone(&raft), Arc::clone(&apply), wal);
        let wal = Driver::new(PartName::Wal, &shared, &shared.mailboxes.wal, wal);
        let hub = Driver::new(PartName::Hub, &shared, &shared.mailboxes.hub, HubThread::new(of()));
        let worker = |name, mailbox, in_place| -> Arc<dyn Stepped> {
            Driver::new(name, &shared, mailbox, Worker::new(of(), mailbox, in_place))
        };
        let parts: Vec<Arc<dyn Stepped>> = vec![
            Arc::<Driver<RaftThread>>::clone(&raft),
            wal,
            apply,
            hub,
            log_reader,
            worker(PartName::Flush, &background.flushes, Some(in_place)),
            worker(PartName::Rewrite, &background.rewrites, None),
            worker(PartName::Background, &background.rest, None),
        ];
        Ok(Self { raft, parts, background, _lock: lock, shared })
    }

    /// The way in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared), raft: Arc::clone(&self.raft) }
    }

    /// Whether it stops by itself: it can no longer keep its promises.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.shared.is_halted()
    }

    /// Has a part react to what is queued for it; when it wants its next turn by the monotonic clock,
    /// `None` once it has ended.
    #[must_use]
    pub fn step(&self, part: PartName) -> Option<Duration> {
        self.part(part).step()
    }

    /// Whether events are queued for a part.
    #[must_use]
    pub fn has_events(&self, part: PartName) -> bool {
        self.part(part).has_events()
    }

    pub(crate) fn part(&self, name: PartName) -> Arc<dyn Stepped> {
        let part = self.parts.iter().find(|part| part.name() == name);
        Arc::clone(part.expect("every part is there"))
    }

    /// Stops in order: what was acknowledged is durable anyway; this makes the next start short. What
    /// waits for space on a full disk was not acknowledged, and is not waited for. `join` returns when
    /// the part has ended.
    pub(crate) fn stop_with(&self, mut join: impl FnMut(PartName)) {
        self.shared.mailboxes.raft.push(RaftEvent::Stop);
        // The Raft part stops the WAL part; both end before apply does, so that apply sees everything
        // that was committed.
        join(PartName::Raft);
        self.shared.space.ballast.shut_down();
        join(PartName::Wal);
        self.shared.mailboxes.apply.push(ApplyEvent::Stop);
        join(PartName::Apply);
        self.close_log();
        self.background.close();
        self.shared.close();
        for part in [
            PartName::Hub,
            PartName::LogReader,
            PartName::Flush,
            PartName::Rewrite,
            PartName::Background,
        ] {
            join(part);
        }
    }

    /// Stops in order, stepping the parts on this thread.
    pub fn stop(self) {
        self.stop_with(|part| {
            while self.step(part).is_some() {
                // The last flush may be out.
                let _next = self.step(PartName::Flush);
                let _next = self.step(PartName::Background);
                self.shared.env.clock.sleep(STOP_PAUSE);
            }
        });
    }

    /// Closes the log, without what is durable in the store: a start that finds the disk full has all
    /// the space that there is.
    fn close_log(&self) {
        let Some(log) = self.shared.shutdown.stopped_log.lock().take() else { return };
        let flushed = self.shared.shutdown.flushed.lock().take();
        // What was not shipped is there for the next start.
        let behind = self.shared.log_holds.behind().unwrap_or(u64::MAX);
        let closed = match flushed.filter(|flushed| flushed.index <= behind) {
            Some(Applied { index, term }) => log.release_and_close(index, term),
            None => log.close(),
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "the log was not closed in order; the next start looks closer");
        }
    }
}
