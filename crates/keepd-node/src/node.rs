//! Starting and stopping a member.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use keepd_env::{DirLock, Env};
use keepd_machine::membership::{self, Member};
use keepd_machine::{Command, tables};
use keepd_mvcc::{Applied, RoomMaker};

use crate::apply_thread::ApplyThread;
use crate::background::Background;
use crate::ballast::Asks;
use crate::boot::{DataDir, Opened};
use crate::error::{BootError, Error};
use crate::handle::Handle;
use crate::housekeeping::Housekeeping;
use crate::hub_thread;
use crate::messages::{ApplyEvent, RaftEvent};
use crate::options::Options;
use crate::raft_thread::RaftThread;
use crate::shared::Shared;
use crate::wal_thread::WalThread;

/// How often a starting member looks whether it leads.
const LEAD_POLL: Duration = Duration::from_millis(5);

/// A running member. Dropping it without [`Node::stop`] leaves its threads to end by themselves.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    background: Background,
    threads: Vec<JoinHandle<()>>,
    /// Held as long as the member runs.
    _lock: Box<dyn DirLock>,
}

impl Node {
    /// Starts the threads of a member on an opened data directory.
    ///
    /// # Errors
    /// If log and store do not fit together, or a thread cannot be started.
    pub fn start(env: Env, options: Options, data_dir: DataDir) -> Result<Self, BootError> {
        let Opened { machine, wal, core, identity, encryption, ballast, lock } =
            data_dir.open(&env, &options)?;
        let views = machine.store().views();
        let in_place = machine.store().in_place()?;
        let shared = Shared::new(env, options, identity, views, encryption, ballast);
        let for_flushes = Arc::clone(&shared);
        machine.store().set_room_maker(RoomMaker::new(move |error| {
            // What a flush writes lets the log go.
            for_flushes.make_room(error, Asks::Reclaim)
        }));
        let background = Background::new();
        let housekeeping = Housekeeping::new(Arc::clone(&shared), background.clone());
        let raft_thread = RaftThread::new(Arc::clone(&shared), core);
        let wal_thread = WalThread::new(Arc::clone(&shared), wal);
        let apply_thread = ApplyThread::new(Arc::clone(&shared), machine, housekeeping);
        let mut node = Self { shared, background, threads: Vec::new(), _lock: lock };
        let (flushes, rest) = (node.background.clone(), node.background.clone());
        let (for_flushes, for_rest) = (Arc::clone(&node.shared), Arc::clone(&node.shared));
        let (rewrites, for_rewrites) = (node.background.clone(), Arc::clone(&node.shared));
        let for_hub = Arc::clone(&node.shared);
        node.spawn("flush", move || flushes.run_flushes(&for_flushes, &in_place))?;
        node.spawn("rewrite", move || rewrites.run_rewrites(&for_rewrites))?;
        node.spawn("background", move || rest.run_rest(&for_rest))?;
        node.spawn("watch-hub", move || hub_thread::run(&for_hub))?;
        node.spawn("apply", move || apply_thread.run())?;
        node.spawn("wal", move || wal_thread.run())?;
        node.spawn("raft", move || raft_thread.run())?;
        Ok(node)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), BootError> {
        let shared = Arc::clone(&self.shared);
        let guarded = move || {
            // A broken invariant in one thread must not leave the others serving.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                shared.halt(format_args!("the {name} thread panicked"));
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
        self.threads.push(thread.map_err(|source| BootError::Thread { name, source })?);
        Ok(())
    }

    /// The way in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Waits until the member can commit, then tells the cluster its name and client URLs.
    ///
    /// # Errors
    /// If it stops before, or the record does not get through.
    pub async fn ready(&self) -> Result<(), Error> {
        let handle = self.handle();
        while self.shared.leadership.term().is_none() {
            if self.shared.is_halted() {
                return Err(Error::Stopped);
            }
            tokio::time::sleep(LEAD_POLL).await;
        }
        let Options { name, client_urls, .. } = &self.shared.options;
        let id = self.shared.identity.member;
        let view = handle.view();
        let known = membership::member(view.meta(tables::MEMBERS), id).ok().flatten();
        let is_told = |known: Member| known.name == *name && known.client_urls == *client_urls;
        if !known.is_some_and(is_told) {
            let (name, client_urls) = (name.clone(), client_urls.clone());
            handle.propose(Command::PublishMember { id, name, client_urls }).await?;
        }
        Ok(())
    }

    /// Stops in order: what was acknowledged is durable anyway; this makes the next start short. What
    /// waits for space on a full disk was not acknowledged, and is not waited for.
    pub fn stop(mut self) {
        self.shared.raft.hand(RaftEvent::Stop);
        // The Raft thread stops the WAL thread; both end before apply does, so that apply sees
        // everything that was committed.
        self.join("raft");
        self.shared.ballast.give_up();
        self.join("wal");
        self.shared.apply.hand(ApplyEvent::Stop);
        self.join("apply");
        self.close_log();
        self.background.close();
        self.shared.close();
        for thread in self.threads.drain(..) {
            join(thread);
        }
    }

    /// Closes the log, without what is durable in the store: a start that finds the disk full has all
    /// the space that there is.
    fn close_log(&self) {
        let Some(log) = self.shared.stopped_log.lock().take() else { return };
        let closed = match self.shared.flushed.lock().take() {
            Some(Applied { index, term }) => log.close_behind(index, term),
            None => log.close(),
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "the log was not closed in order; the next start looks closer");
        }
    }

    fn join(&mut self, name: &str) {
        if let Some(position) =
            self.threads.iter().position(|thread| thread.thread().name() == Some(name))
        {
            join(self.threads.swap_remove(position));
        }
    }
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread of the member panicked");
    }
}
