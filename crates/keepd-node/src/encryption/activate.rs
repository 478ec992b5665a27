//! Activation: the keys that values are sealed under are agreed on, so that no member writes under a
//! key that another one lacks (rule 9.8).
//!
//! A member announces what it can read. It may lack an active key only if nothing that it holds is
//! sealed under it; otherwise it is not ready, and says which key is missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keepd_machine::Command;
use keepd_machine::tables::{self, ReadableKeys};
use keepd_types::KeyId;
use thiserror::Error;

use crate::encryption::own_keys::{readable, values_under};
use crate::encryption::state::active_keys;
use crate::error::Error;
use crate::handle::Handle;

/// The revision of a store that nothing was ever written to.
const REVISION_BEFORE_WRITES: i64 = 1;
/// Interval at which a member looks whether other keys are active, or whether it has those that are.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reason why a member cannot take part in the cluster's encryption yet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ActivationError {
    /// Its configuration lacks keys that values are sealed under.
    #[error(
        "the encryption configuration of this member lacks keys that values of the cluster are \
         sealed under: {}; give it the configuration of the other members", list(.0)
    )]
    MissingKeys(Vec<(String, u64)>),
    /// A command did not get through.
    #[error(transparent)]
    Node(#[from] Error),
}

fn list(keys: &[(String, u64)]) -> String {
    let one = |(name, values): &(String, u64)| format!("{name} ({values} values)");
    keys.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Handle {
    /// Announces the keys of this member's configuration in the cluster and begins a new data key
    /// if values are to be stored otherwise than before, so that all of them are re-encrypted.
    /// To be called when the member can commit and after each reload.
    ///
    /// # Errors
    /// If keys are missing, or a command does not get through. Values are then sealed under the keys
    /// that were active.
    pub async fn activate_encryption(&self) -> Result<(), ActivationError> {
        let shared = &self.shared;
        let readable = readable(shared.encryption.config().as_ref());
        let view = self.linearizable_view().await?;
        let current = active_keys(&view);
        drop(view);
        if readable.0.is_empty() && current.is_none() {
            return Ok(());
        }
        self.check_keys(&readable).await?;
        shared.encryption_state.begin_reencryption();
        self.announce(readable).await?;
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
            Err(_panicked) => return Err(Error::Stopped.into()),
        }
        Ok(())
    }

    /// Activates this member's keys as soon as it has all that values are sealed under; until then it
    /// must not serve. The configuration may be reloaded meanwhile.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn encryption_is_active(&self) -> Result<(), Error> {
        let mut told = None;
        loop {
            match self.activate_encryption().await {
                Ok(()) => return Ok(()),
                Err(ActivationError::Node(Error::Stopped)) => return Err(Error::Stopped),
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        tracing::error!(%error, "this member is not ready");
                        told = Some(error);
                    }
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Re-encrypts values whenever other keys are active than before, because a member announced others;
    /// never ends.
    pub async fn follow_active_keys(self) {
        let mut known = active_keys(&self.view());
        loop {
            tokio::time::sleep(INTERVAL).await;
            let current = active_keys(&self.view());
            if current == known {
                continue;
            }
            match self.activate_encryption().await {
                Ok(()) => known = current,
                Err(ActivationError::Node(Error::Stopped)) => return,
                // It is tried again.
                Err(error) => tracing::warn!(%error, "the active keys are not followed yet"),
            }
        }
    }

    /// Announces keys; when it is applied, so is all that was proposed here before, and nothing sealed
    /// under a key that is no longer active is stored after it.
    pub(super) async fn announce(&self, keys: ReadableKeys) -> Result<(), Error> {
        let member = self.identity().member;
        self.propose(Command::SetReadableKeys { member, keys }).await?;
        Ok(())
    }

    /// Refuses to take part without a key that values are sealed under.
    async fn check_keys(&self, readable: &ReadableKeys) -> Result<(), ActivationError> {
        let view = self.view();
        let active = active_keys(&view).unwrap_or_default().keys;
        let own: BTreeSet<KeyId> = readable.ids().collect();
        let lacking: Vec<KeyId> = active.difference(&own).copied().collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let node = self.clone();
        let counting = tokio::task::spawn_blocking(move || {
            lacking.into_iter().map(|key| (key, values_under(&node, key))).collect()
        });
        let counts: Vec<(KeyId, u64)> = counting.await.map_err(|_panicked| Error::Stopped)?;
        let announced = tables::readable_keys(view.meta(tables::CLUSTER));
        let name = |key: KeyId| {
            let names = announced.iter().find_map(|(_, keys)| keys.0.get(&key));
            names.map_or_else(|| format!("(id {:016x})", key.0), String::clone)
        };
        let in_use = counts.into_iter().filter(|(_, count)| *count > 0);
        let in_use: Vec<(String, u64)> = in_use.map(|(key, count)| (name(key), count)).collect();
        if in_use.is_empty() { Ok(()) } else { Err(ActivationError::MissingKeys(in_use)) }
    }
}
