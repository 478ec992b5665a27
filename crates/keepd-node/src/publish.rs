//! The beginning of a member's service: a leader is there, and the cluster knows the member's name and URLs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_machine::membership::{self, Member as Record};
use keepd_machine::{Command, tables};

use crate::error::Error;
use crate::handle::Handle;
use crate::options::Options;

/// Interval at which a starting member looks for a leader.
const LEAD_POLL: Duration = Duration::from_millis(5);
/// Between two attempts to tell the cluster of this member.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);

impl Handle {
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
        let shared = &self.shared;
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
        let Options { name, client_urls, .. } = &self.shared.options;
        let id = self.shared.identity.member;
        let view = self.linearizable_view().await?;
        let known = membership::member(view.meta(tables::MEMBERS), id).ok().flatten();
        let is_told = |known: Record| known.name == *name && known.client_urls == *client_urls;
        if !known.is_some_and(is_told) {
            let (name, client_urls) = (name.clone(), client_urls.clone());
            keepd_env::failpoint!(BeforePublishing);
            self.propose(Command::PublishMember { id, name, client_urls }).await?;
        }
        Ok(())
    }
}
