//! Leadership that a member gives away: because a client asks for it, or before it stops.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_types::MemberId;

use crate::error::Error;
use crate::handle::Handle;

/// Interval at which is looked whether another member leads.
const POLL: Duration = Duration::from_millis(2);
/// BOUND: members that are asked to lead before a stop, one after the other.
const HEIRS_MAX: usize = 8;

impl Handle {
    /// Hands leadership to a voter, and waits until it leads.
    ///
    /// # Errors
    /// `NotLeader`, `NotVoter`, `TransferTimedOut` or `Stopped`.
    pub async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        let heir = self.begin_transfer(Some(to)).await?;
        let timeout = self.shared.options.request_timeout();
        let leads = tokio::time::timeout(timeout, self.has_led(heir));
        leads.await.map_err(|_elapsed| Error::TransferTimedOut)
    }

    /// Hands leadership to the voter whose log is longest, if this member leads and there is another;
    /// before an orderly stop. One that goes away meanwhile, as when all stop at once, is not waited for.
    pub async fn hand_over_leadership(&self) {
        for _ in 0..HEIRS_MAX {
            if self.shared.progress.leadership.term().is_none() {
                return;
            }
            let heir = match self.begin_transfer(None).await {
                Ok(heir) => heir,
                Err(Error::NoLeader) => {
                    tracing::info!("no other member is there to lead after the stop");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "leadership was not handed over before the stop");
                    return;
                }
            };
            let gone = async {
                while self.shared.network.is_active(heir) {
                    tokio::time::sleep(POLL).await;
                }
            };
            tokio::select! {
                () = self.has_led(heir) => return,
                () = gone => tracing::info!(peer = %heir, "the member that was to lead is gone too"),
            }
        }
    }

    /// Waits until a member leads, as far as this one knows.
    async fn has_led(&self, heir: MemberId) {
        while self.shared.progress.leader.load(Ordering::Acquire) != heir.0 {
            tokio::time::sleep(POLL).await;
        }
    }
}
