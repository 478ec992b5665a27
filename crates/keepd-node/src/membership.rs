//! A member's knowledge of the others: whether they are connected, and how far the leader has brought
//! them. Changes of the membership are judged by it before they are proposed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_types::MemberId;

use crate::error::Error;
use crate::handle::Handle;
use crate::peer_message::{PeerRequest, PeerResponse};
use crate::receive::matched;

impl Handle {
    /// Whether this member learns only.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.shared.progress.is_learner.load(Ordering::Acquire)
    }

    /// Whether this member can talk to others at all.
    #[must_use]
    pub fn has_network(&self) -> bool {
        self.shared.network.is_there()
    }

    /// For how long messages have gone to and come from another member without a break; `None` if
    /// they do not. It is as of the last tick.
    #[must_use]
    pub fn connected_for(&self, peer: MemberId) -> Option<Duration> {
        let since = self.shared.network.connected_since(peer)?;
        Some(self.shared.env.clock.monotonic().saturating_sub(since))
    }

    /// The last entry that each member has for certain, as the leader knows it: this member's own
    /// answer if it leads, else that of the leader it is waited for.
    ///
    /// # Errors
    /// `TimedOut` if there was no leader to ask, `TooManyRequests` or `Stopped`.
    pub async fn replicated(&self) -> Result<Vec<(MemberId, u64)>, Error> {
        let options = &self.shared.options;
        let asked = async {
            loop {
                let own = self.progress().await?;
                if !own.is_empty() {
                    return Ok(matched(own));
                }
                match self.ask_leader(PeerRequest::Replicated).await? {
                    Some(PeerResponse::Replicated(told)) if !told.is_empty() => return Ok(told),
                    // An election is under way.
                    _ => tokio::time::sleep(options.heartbeat_interval).await,
                }
            }
        };
        let told = tokio::time::timeout(options.request_timeout(), asked).await;
        told.unwrap_or(Err(Error::TimedOut))
    }
}
