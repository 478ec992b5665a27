//! Starting and stopping a member with a thread for each of its parts.

use std::thread::JoinHandle;

use keepd_env::Env;

use crate::boot::DataDir;
use crate::driver::PartName;
use crate::error::{BootError, Error};
use crate::handle::Handle;
use crate::member::Member;
use crate::options::Options;

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

    /// As [`Handle::ready`].
    ///
    /// # Errors
    /// If the member stops before.
    pub async fn ready(&self) -> Result<(), Error> {
        self.handle().ready().await
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
