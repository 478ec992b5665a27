//! Activation: the keys that values are sealed under are replicated, so that no member writes under
//! a key that another one lacks.

use std::sync::Arc;

use keepd_machine::Command;
use keepd_machine::tables::{self, ActiveKeys};

use crate::encryption::state::active_keys;
use crate::error::Error;
use crate::handle::Handle;

/// The revision of a store that nothing was ever written to.
const REVISION_BEFORE_WRITES: i64 = 1;

impl Handle {
    /// Activates the keys of this member's configuration in the cluster and begins a new data key
    /// if values are to be stored otherwise than before, so that all of them are re-encrypted.
    /// To be called when the member can commit and after each reload.
    ///
    /// # Errors
    /// If a command does not get through. Values are then sealed under the keys that were active.
    pub async fn activate_encryption(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let readable = shared.encryption.readable();
        let current = active_keys(&self.view());
        if readable.is_empty() && current.is_none() {
            return Ok(());
        }
        shared.encryption_state.begin_reencryption();
        let mut keys = current.unwrap_or_default();
        // A cluster of one: what this member can read, every member can.
        if keys.keys != readable {
            keys = ActiveKeys { epoch: keys.epoch + 1, keys: readable };
        }
        self.set_active_keys(keys).await?;
        let fingerprint = shared.encryption.sealer().fingerprint();
        let name = tables::sealing_key(self.identity().member);
        let view = self.view();
        let before = view.meta(tables::CLUSTER).get(&name);
        if before.map_or(&b""[..], |before| before) == fingerprint.as_bytes() {
            return Ok(());
        }
        let member = self.identity().member;
        if before.is_none() && view.revision() == REVISION_BEFORE_WRITES {
            // A new cluster: no value was ever stored otherwise.
            let fingerprint = fingerprint.into();
            self.propose(Command::SetSealing { member, fingerprint }).await?;
            return Ok(());
        }
        // ORDER: new files are encrypted with another data key before the new fingerprint is
        // stored; so a crash in between rewrites the old ones once more, never not at all.
        let encryption = Arc::clone(&shared.encryption);
        let rotated = tokio::task::spawn_blocking(move || encryption.rotate_data_key()).await;
        match rotated {
            Ok(Ok(_)) => {
                shared.encryption_state.begin_reencryption();
                let fingerprint = fingerprint.into();
                self.propose(Command::SetSealing { member, fingerprint }).await?;
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "stored values keep their old keys until the next reload");
            }
            Err(_panicked) => return Err(Error::Stopped),
        }
        Ok(())
    }

    /// Waits until every value that was sealed before this call is stored, by activating the active
    /// keys once more.
    pub(super) async fn reactivate_encryption(&self) -> Result<(), Error> {
        self.set_active_keys(active_keys(&self.view()).unwrap_or_default()).await
    }

    async fn set_active_keys(&self, keys: ActiveKeys) -> Result<(), Error> {
        self.propose(Command::SetActiveKeys(keys)).await?;
        Ok(())
    }
}
