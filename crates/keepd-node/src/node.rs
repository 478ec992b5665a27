//! Starting and stopping a member with a thread for each of its parts.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use keepd_env::Env;
use keepd_machine::membership::{self, Member as Record};
use keepd_machine::{Command, tables};

use crate::boot::DataDir;
use crate::driver::PartName;
use crate::error::{BootError, Error};
use crate::handle::Handle;
use crate::member::Member;
use crate::options::Options;

/// Interval at which a starting member looks for a leader.
const LEAD_POLL: Duration = Duration::from_millis(5);
/// Between two attempts to tell the cluster of this member.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);

/// A running member. Dropping it without [`Node::stop`] leaves its threads to end by themselves.
#[derive(Debug)]
pub struct Node {
    member: Member,
    threads: Vec<(PartName, JoinHandle<()>)>,
}

impl Node {
    /// Starts the threads of a member on an opened data directory.
    ///
    /// # Errors
    /// If log and store do not fit together, or a thread cannot be started.
    pub fn start(env: Env, options: Options, data_dir: DataDir) -> Result<Self, BootError> {
        let member = Member::open(env, options, data_dir)?;
        let mut node = Self { member, threads: Vec::new() };
        // ORDER: the Raft part last, which begins to give the others something to do.
        for part in PartName::ALL.into_iter().rev() {
            node.spawn(part)?;
        }
        Ok(node)
    }

    fn spawn(&mut self, name: PartName) -> Result<(), BootError> {
        let part = self.member.part(name);
        let thread = std::thread::Builder::new().name(name.as_str().to_owned());
        let thread = thread.spawn(move || part.run());
        let thread = thread.map_err(|source| BootError::Thread { name: name.as_str(), source })?;
        self.threads.push((name, thread));
        Ok(())
    }

    /// The way in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.member.handle()
    }

    /// Waits until the cluster can commit, and tells it this member's name and client URLs, again and
    /// again until it knows them.
    ///
    /// # Errors
    /// If the member stops before.
    pub async fn ready(&self) -> Result<(), Error> {
        loop {
            self.leader_is_known().await?;
            match self.publish().await {
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(error) => {
                    let message = "failed to publish local member to cluster through raft";
                    tracing::warn!(%error, "{message}");
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Waits for a leader: another one, or this member once it has taken over.
    async fn leader_is_known(&self) -> Result<(), Error> {
        let shared = &self.member.shared;
        let own = shared.identity.member.0;
        loop {
            if shared.is_halted() {
                return Err(Error::Stopped);
            }
            let leader = shared.progress.leader.load(Ordering::Acquire);
            if shared.progress.leadership.term().is_some() || (leader != 0 && leader != own) {
                return Ok(());
            }
            tokio::time::sleep(LEAD_POLL).await;
        }
    }

    async fn publish(&self) -> Result<(), Error> {
        let handle = self.handle();
        let Options { name, client_urls, .. } = &self.member.shared.options;
        let id = self.member.shared.identity.member;
        let view = handle.linearizable_view().await?;
        let known = membership::member(view.meta(tables::MEMBERS), id).ok().flatten();
        let is_told = |known: Record| known.name == *name && known.client_urls == *client_urls;
        if !known.is_some_and(is_told) {
            let (name, client_urls) = (name.clone(), client_urls.clone());
            keepd_env::failpoint!(BeforePublishing);
            handle.propose(Command::PublishMember { id, name, client_urls }).await?;
        }
        Ok(())
    }

    /// Stops in order: what was acknowledged is durable anyway; this makes the next start short. What
    /// waits for space on a full disk was not acknowledged, and is not waited for.
    pub fn stop(self) {
        let mut threads = self.threads;
        self.member.stop_with(|name| {
            if let Some(position) = threads.iter().position(|(part, _)| *part == name) {
                join(threads.swap_remove(position));
            }
        });
    }
}

fn join((name, thread): (PartName, JoinHandle<()>)) {
    if thread.join().is_err() {
        tracing::error!(thread = name.as_str(), "a thread of the member panicked");
    }
}
