//! The member's side of encryption: which keys the cluster writes under, how far the files are, and
//! what became of reloads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::Encryption;
use keepd_machine::Command;
use keepd_machine::tables::{self, ActiveKeys};
use keepd_mvcc::View;
use keepd_types::{KeyId, KeyValue, StoredValue};

use crate::conversion::FileCounts;
use crate::error::Error;
use crate::handle::Handle;

/// What became of the reloads of the encryption configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// How many were taken.
    pub successes: u64,
    /// How many were refused.
    pub failures: u64,
    /// When the last one was taken, since the epoch; none before the first.
    pub last_success: Option<Duration>,
    /// Why the last one was refused, if none was taken since.
    pub last_error: Option<String>,
}

/// How the stored values are sealed; counted on request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueCounts {
    /// By the key that they are sealed under; none for plain ones.
    pub by_key: BTreeMap<Option<KeyId>, u64>,
    /// Those that would be stored otherwise today.
    pub stale: u64,
}

impl Handle {
    /// What seals values and files.
    #[must_use]
    pub fn encryption(&self) -> &Arc<Encryption> {
        &self.shared.encryption
    }

    /// How far the files have followed the configuration.
    #[must_use]
    pub fn file_counts(&self) -> FileCounts {
        self.shared.file_counts.lock().clone()
    }

    /// What became of reloads.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.shared.reloads.lock().clone()
    }

    /// Remembers what became of a reload.
    pub fn note_reload(&self, result: Result<(), String>) {
        let mut reloads = self.shared.reloads.lock();
        match result {
            Ok(()) => {
                reloads.successes += 1;
                reloads.last_success = Some(self.shared.env.clock.wall());
                reloads.last_error = None;
            }
            Err(error) => {
                reloads.failures += 1;
                reloads.last_error = Some(error);
            }
        }
    }

    /// Has the cluster write under the keys of the configuration that this member has, and the
    /// stored values follow. Call it when the member can commit and after each reload.
    ///
    /// # Errors
    /// If a command does not get through. Values are then sealed under the keys that were active.
    pub async fn follow_encryption(&self) -> Result<(), Error> {
        let readable = self.shared.encryption.readable();
        let current = active_keys(&self.view());
        if readable.is_empty() && current.is_none() {
            return Ok(());
        }
        // Until the next look at the files nobody shall read that everything is done.
        self.shared.file_counts.lock().is_settled = false;
        let mut keys = current.unwrap_or_default();
        // A cluster of one: what this member can read, every member can.
        if keys.keys != readable {
            keys = ActiveKeys { epoch: keys.epoch + 1, keys: readable };
        }
        self.set_active_keys(keys).await?;
        let fingerprint = self.shared.encryption.sealer().fingerprint();
        let name = tables::sealing_key(self.identity().member);
        let view = self.view();
        let before = view.meta(tables::CLUSTER).get(&name);
        if before.map_or(&b""[..], |before| before) == fingerprint.as_bytes() {
            return Ok(());
        }
        // ORDER: the files of before lie under another data key before the new fingerprint is
        // stored; so a crash in between rewrites them once more, never not at all.
        let encryption = Arc::clone(&self.shared.encryption);
        let rotated = tokio::task::spawn_blocking(move || encryption.rotate_data_key()).await;
        match rotated {
            Ok(Ok(_)) => {
                self.shared.file_counts.lock().is_settled = false;
                let (member, fingerprint) = (self.identity().member, fingerprint.into());
                self.propose(Command::SetSealing { member, fingerprint }).await?;
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "stored values keep their old keys until the next reload");
            }
            Err(_panicked) => return Err(Error::Stopped),
        }
        Ok(())
    }

    /// Waits until every value that was sealed before is stored.
    ///
    /// # Errors
    /// If the command does not get through.
    pub async fn settle_sealing(&self) -> Result<(), Error> {
        self.set_active_keys(active_keys(&self.view()).unwrap_or_default()).await
    }

    async fn set_active_keys(&self, keys: ActiveKeys) -> Result<(), Error> {
        self.propose(Command::SetActiveKeys(keys)).await?;
        Ok(())
    }

    /// Counts how the stored values are sealed. Reads the whole store: for threads that may block.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn count_values(&self) -> Result<ValueCounts, keepd_mvcc::Error> {
        let sealer = self.shared.encryption.sealer();
        let mut counts = ValueCounts::default();
        for record in self.view().records() {
            let (_, record) = record?;
            if record.tombstone {
                continue;
            }
            *counts.by_key.entry(record.seal.map(|seal| seal.key_id)).or_default() += 1;
            let Ok(kv) = KeyValue::decode(&record.encoded) else { continue };
            let value = StoredValue { bytes: kv.value, seal: record.seal };
            counts.stale += u64::from(sealer.is_stale(&kv.key, &value));
        }
        Ok(counts)
    }
}

/// The keys that the cluster writes under; none before the first were activated.
pub(crate) fn active_keys(view: &View) -> Option<ActiveKeys> {
    tables::active_keys(view.meta(tables::CLUSTER))
}
