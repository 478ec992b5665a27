//! A member's knowledge of the others: whether they are connected, and how far the leader has brought
//! them. Changes of the membership are judged by it before they are proposed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_machine::{levels, tables};
use keepd_types::MemberId;

use crate::error::Error;
use crate::handle::Handle;
use crate::messages::PeerHash;
use crate::peer_message::{PeerRequest, PeerResponse};
use crate::receive::{self, matched, peers};

impl Handle {
    /// Whether this member learns only.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.shared.progress.is_learner.load(Ordering::Acquire)
    }

    /// Whether the cluster has no other member.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        receive::is_alone(self.view().meta(tables::MEMBERS))
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

    /// The other members.
    #[must_use]
    pub fn others(&self) -> Vec<MemberId> {
        let own = self.shared.identity.member;
        peers(&self.view(), own).into_iter().map(|peer| peer.id).collect()
    }

    /// The hash of another member's keys at a revision; `None` if it is not connected, or does not
    /// know the question.
    ///
    /// # Errors
    /// `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn hash_kv_of(
        &self,
        member: MemberId,
        revision: i64,
    ) -> Result<Option<PeerHash>, Error> {
        if !self.shared.network.reads(member, levels::DIGEST_CHECK) {
            return Ok(None);
        }
        match self.ask_member(member, PeerRequest::HashKv(revision)).await? {
            Some(PeerResponse::HashKv(hash)) => Ok(Some(hash)),
            _ => Ok(None),
        }
    }

    /// Whether another member is connected and has said what it reads.
    #[must_use]
    pub fn is_announced(&self, member: MemberId) -> bool {
        self.shared.network.announced(member).is_some()
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
