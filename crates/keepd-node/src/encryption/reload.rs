//! Reload of the encryption configuration while the member runs.

mod rules;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::{
    DataKeyId, Encryption, EncryptionConfig, EncryptionStatus, KeyName, KeyServices, KeyringError,
    ReloadError, ReloadReport, wiping,
};
use keepd_machine::tables::ReadableKeys;
use keepd_types::KeyId;
use zeroize::Zeroizing;

use crate::encryption::own_keys::{readable, values_under};
use crate::encryption::state::FileCounts;
use crate::error::Error;
use crate::handle::Handle;

/// Interval between two reads of the file; Kubernetes' is a minute.
const INTERVAL: Duration = Duration::from_secs(2);

/// Interval between two questions to the key services whether they have rotated their keys;
/// Kubernetes' too.
const ROTATION_INTERVAL: Duration = Duration::from_secs(60);

/// Content of the file. It holds keys, so it is wiped when it is dropped.
type Content = Zeroizing<Vec<u8>>;

impl Handle {
    /// Reloads the encryption configuration whenever the file's content changes or a key service
    /// rotates its key; never ends. A content that is refused is logged and counted, and the
    /// configuration before it holds.
    pub async fn reload_encryption_on_change(self, path: PathBuf, services: Arc<dyn KeyServices>) {
        let mut reloader = Reloader::new(self, path, services).await;
        loop {
            tokio::time::sleep(INTERVAL).await;
            reloader.look().await;
        }
    }
}

/// A content that was not taken.
struct Refused {
    content: Content,
    /// The file counts at the time, if the reason was that a key is in use or that plain files are
    /// left: another try is worth it when they have changed.
    waits_for_files: Option<FileCounts>,
}

/// Reason why a content was not taken.
enum Failure {
    /// The content itself: it is not tried again unless it waits for files.
    Refused(ReloadError),
    /// The member or a key service: the next look tries again.
    Unavailable(String),
    /// The content counts, but the cluster does not know of its keys yet: the next look tries again.
    NotAnnounced(String),
}

struct Reloader {
    node: Handle,
    encryption: Arc<Encryption>,
    services: Arc<dyn KeyServices>,
    path: PathBuf,
    rotation_due: Duration,
    taken: Option<Content>,
    refused: Option<Refused>,
    is_unreadable: bool,
}

impl Reloader {
    async fn new(node: Handle, path: PathBuf, services: Arc<dyn KeyServices>) -> Self {
        let encryption = Arc::clone(node.encryption());
        // The file may have changed while the member started.
        let is_taken =
            |content: &Content| encryption.config().is_some_and(|config| config.is_of(content));
        let taken = read(&path).await.ok().filter(is_taken);
        let rotation_due = Duration::ZERO;
        let (refused, is_unreadable) = (None, false);
        Self { node, encryption, services, path, rotation_due, taken, refused, is_unreadable }
    }

    async fn look(&mut self) {
        let content = match read(&self.path).await {
            Ok(content) => content,
            Err(error) if self.is_unreadable => {
                tracing::debug!(%error, "the encryption configuration is still unreadable");
                return;
            }
            Err(error) => {
                self.is_unreadable = true;
                self.refuse(&error);
                return;
            }
        };
        self.is_unreadable = false;
        if self.taken.as_ref() == Some(&content) {
            if !self.is_rotated().await {
                return;
            }
        } else if self.is_hopeless(&content) {
            return;
        }
        let before = self.encryption.status();
        match self.reload(&content).await {
            Ok(report) => {
                self.log_taken(&report, &before);
                self.note(Ok(()));
                (self.taken, self.refused) = (Some(content), None);
            }
            Err(Failure::Refused(error)) => {
                self.refuse(&error);
                let waits = matches!(
                    error,
                    ReloadError::KeysInUse { .. }
                        | ReloadError::Keyring(KeyringError::PlainUntrusted { .. })
                );
                let waits_for_files = waits.then(|| self.node.file_counts());
                self.refused = Some(Refused { content, waits_for_files });
            }
            Err(Failure::Unavailable(error)) => self.refuse(&error),
            Err(Failure::NotAnnounced(error)) => {
                // What this member lacked it can read now, which may be what it needs to go on.
                tracing::warn!(error, "the encryption configuration is read and not announced yet");
            }
        }
    }

    /// Whether a content was refused and nothing has changed that could help it.
    fn is_hopeless(&self, content: &Content) -> bool {
        let refused = self.refused.as_ref().filter(|refused| refused.content == *content);
        let Some(refused) = refused else { return false };
        let now = self.node.file_counts();
        refused.waits_for_files.as_ref().is_none_or(|before| !now.is_complete || *before == now)
    }

    /// Whether a key service has rotated its key since the last reload.
    async fn is_rotated(&mut self) -> bool {
        let now = self.node.env().clock.monotonic();
        if now < self.rotation_due {
            return false;
        }
        self.rotation_due = now + ROTATION_INTERVAL;
        let Some(config) = self.encryption.config() else { return false };
        config.is_rotated(&*self.services).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a key service does not tell its key");
            false
        })
    }

    /// The configuration of a content, with the bytes of every key.
    async fn resolve(&self, content: &Content) -> Result<EncryptionConfig, Failure> {
        let (name, content) = (self.path.display().to_string(), content.clone());
        let encryption = Arc::clone(&self.encryption);
        let parsing =
            tokio::task::spawn_blocking(move || wiping(|| encryption.parse(&name, &content)));
        let parsed = parsing.await.map_err(|error| Failure::Unavailable(error.to_string()))?;
        let file = parsed.map_err(|error| Failure::Refused(error.into()))?;
        let config = self.encryption.config();
        let stored = config.map_or_else(Vec::new, |config| config.wrapped_keys());
        let random = Arc::clone(&self.node.env().random);
        let resolved = file.resolve(&*self.services, &stored, &*random).await;
        resolved.map_err(|error| Failure::Unavailable(error.to_string()))
    }

    async fn reload(&self, content: &Content) -> Result<ReloadReport, Failure> {
        let config = self.resolve(content).await?;
        let lost = |error: Error| Failure::Unavailable(error.to_string());
        let before = readable(self.encryption.config().as_ref());
        let after = readable(Some(&config));
        let drops_keys = before.ids().any(|key| !after.0.contains_key(&key));
        if drops_keys {
            // What was sealed before is stored then, so that counting the values finds it; and nobody
            // seals under a key that is to go.
            self.node.announce(self.kept(&before, &after)).await.map_err(lost)?;
        }
        let (encryption, node) = (Arc::clone(&self.encryption), self.node.clone());
        let reloading = tokio::task::spawn_blocking(move || {
            wiping(|| encryption.reload(config, &|key| values_under(&node, key)))
        });
        let reloaded = reloading.await.map_err(|error| Failure::Unavailable(error.to_string()))?;
        let report = match reloaded {
            Ok(report) => report,
            Err(error) => {
                if drops_keys {
                    self.node.announce(before).await.map_err(lost)?;
                }
                self.reencrypt_leftovers(&error).await;
                return Err(Failure::Refused(error));
            }
        };
        let activated = self.node.activate_encryption().await;
        activated.map_err(|error| Failure::NotAnnounced(error.to_string()))?;
        Ok(report)
    }

    /// The keys that this member can read before and after a reload. One that seals today stays: the
    /// reload is refused.
    fn kept(&self, before: &ReadableKeys, after: &ReadableKeys) -> ReadableKeys {
        let sealing = self.encryption.sealer().sealing_keys();
        let is_dropped = |key: &KeyId| !after.0.contains_key(key);
        if sealing.iter().any(is_dropped) {
            return before.clone();
        }
        let kept = before.0.iter().filter(|(key, _)| !is_dropped(key));
        ReadableKeys(kept.map(|(key, name)| (*key, name.clone())).collect())
    }

    /// Begins a new data key, so that values are re-encrypted that are still sealed under an old
    /// key although every file is done: they were on their way to the store during the change.
    async fn reencrypt_leftovers(&self, error: &ReloadError) {
        let ReloadError::KeysInUse { keys } = error else { return };
        let sealing = self.encryption.sealer().sealing_keys();
        let is_sealing = keys.iter().any(|(name, _)| sealing.contains(&name.id));
        if is_sealing || !self.node.file_counts().is_complete {
            return;
        }
        let encryption = Arc::clone(&self.encryption);
        let rotated = tokio::task::spawn_blocking(move || encryption.rotate_data_key()).await;
        if let Ok(Err(error)) = rotated {
            tracing::error!(%error, "the values under older keys are not re-encrypted");
        }
    }

    fn refuse(&self, error: &dyn std::fmt::Display) {
        let file = self.path.display();
        tracing::error!(%file, %error, "the encryption configuration is not reloaded; the old one holds");
        self.note(Err(error.to_string()));
    }

    fn note(&self, result: Result<(), String>) {
        let shared = &self.node.shared;
        shared.encryption_state.note_reload(result, shared.env.clock.wall());
    }

    /// Logs what is written under which key from now on. Keys are named; nothing here can print a
    /// secret.
    fn log_taken(&self, report: &ReloadReport, before: &EncryptionStatus) {
        let (after, file) = (self.encryption.status(), self.path.display());
        tracing::info!(
            file_hash = report.file_hash,
            keys_added = names(&report.added),
            keys_removed = names(&report.removed),
            writes = rules::describe(&after.rules),
            "reloaded the encryption configuration"
        );
        for warning in &report.warnings {
            tracing::warn!(%file, "{warning}");
        }
        let plain = rules::no_longer_sealed(&before.rules, &after.rules);
        if !plain.is_empty() {
            tracing::warn!(
                %file,
                resources = plain.join(", "),
                "values of these resources were sealed and are written PLAIN from now on; what is \
                 stored of them is rewritten plain too"
            );
        }
        let was_sealing = before.active_data_key != DataKeyId::PLAIN;
        if was_sealing && !self.encryption.files().is_sealing() {
            tracing::warn!(
                %file,
                "encryption at rest is OFF from now on: every file of the data directory is \
                 rewritten plain"
            );
        }
    }
}

/// Reads the file and leaves no copy in freed memory.
async fn read(path: &Path) -> std::io::Result<Content> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || wiping(|| std::fs::read(path)));
    reading.await.map_err(std::io::Error::other)?.map(Zeroizing::new)
}

fn names(keys: &[KeyName]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
