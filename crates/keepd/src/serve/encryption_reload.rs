//! Following the encryption configuration while the server runs.

mod rules;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::{DataKeyId, Encryption, EncryptionStatus, KeyName, KeyringError};
use keepd_crypto::{ReloadError, ReloadReport};
use keepd_node::{FileCounts, Handle};
use keepd_types::KeyId;
use zeroize::Zeroizing;

use keepd_cli::wiping::wiping;

/// How often the file is looked at; Kubernetes waits a minute.
const INTERVAL: Duration = Duration::from_secs(2);

/// What the file holds: keys, so it is wiped when it is dropped.
type Content = Zeroizing<Vec<u8>>;

/// A content that was not taken.
struct Refused {
    content: Content,
    /// It lacks a key that is in use, or plain files are left that it does not take; worth another
    /// try when the files have changed since.
    waits_for_files: Option<FileCounts>,
}

/// Takes each new content of the file; one that is not right is logged and the old one holds.
pub(super) async fn follow(path: PathBuf, encryption: Arc<Encryption>, node: Handle) {
    let mut refused: Option<Refused> = None;
    let mut taken = read(&path).await.ok();
    let mut is_unreadable = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let content = match read(&path).await {
            Ok(content) => content,
            Err(error) if is_unreadable => {
                tracing::debug!(%error, "the encryption configuration is still unreadable");
                continue;
            }
            Err(error) => {
                is_unreadable = true;
                refuse(&path, &node, &error);
                continue;
            }
        };
        is_unreadable = false;
        if taken.as_ref() == Some(&content) || is_hopeless(refused.as_ref(), &content, &node) {
            continue;
        }
        let before = encryption.status();
        match reload(&path, &content, &encryption, &node).await {
            Ok(report) => {
                log_taken(&path, &report, &before, &encryption);
                node.note_reload(Ok(()));
                (taken, refused) = (Some(content), None);
            }
            Err(Failure::Refused(error)) => {
                refuse(&path, &node, &error);
                let waits = matches!(
                    error,
                    ReloadError::KeysInUse { .. }
                        | ReloadError::Keyring(KeyringError::PlainUntrusted { .. })
                );
                let waits_for_files = waits.then(|| node.file_counts());
                refused = Some(Refused { content, waits_for_files });
            }
            // Not the file's fault: the next look tries again.
            Err(Failure::Node(error)) => refuse(&path, &node, &error),
        }
    }
}

/// Reads the file and leaves no copy behind.
async fn read(path: &Path) -> std::io::Result<Content> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || wiping(|| std::fs::read(path)));
    reading.await.map_err(std::io::Error::other)?.map(Zeroizing::new)
}

/// Says what is written how from now on. Keys are named; nothing here can print a secret.
fn log_taken(
    path: &Path,
    report: &ReloadReport,
    before: &EncryptionStatus,
    encryption: &Encryption,
) {
    let (after, file) = (encryption.status(), path.display());
    tracing::info!(
        file_hash = report.file_hash,
        keys_added = names(&report.added),
        keys_removed = names(&report.removed),
        writes = rules::describe(&after.rules),
        "took a new encryption configuration"
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
    if was_sealing && !encryption.files().is_sealing() {
        tracing::warn!(
            %file,
            "encryption at rest is OFF from now on: every file of the data directory is rewritten \
             plain"
        );
    }
}

fn names(keys: &[KeyName]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a content was refused and nothing has changed that could help it.
fn is_hopeless(refused: Option<&Refused>, content: &Content, node: &Handle) -> bool {
    let Some(refused) = refused.filter(|refused| refused.content == *content) else { return false };
    let counts = node.file_counts();
    refused.waits_for_files.as_ref().is_none_or(|before| !counts.is_settled || *before == counts)
}

fn refuse(path: &Path, node: &Handle, error: &dyn std::fmt::Display) {
    let file = path.display();
    tracing::error!(%file, %error, "the encryption configuration is not taken; the old one holds");
    node.note_reload(Err(error.to_string()));
}

/// Why a content was not taken.
enum Failure {
    Refused(ReloadError),
    Node(String),
}

async fn reload(
    path: &Path,
    content: &Content,
    encryption: &Arc<Encryption>,
    node: &Handle,
) -> Result<ReloadReport, Failure> {
    let lost = |error: keepd_node::Error| Failure::Node(error.to_string());
    // What was sealed before is stored, so that counting the values finds it.
    node.settle_sealing().await.map_err(lost)?;
    let (name, content) = (path.display().to_string(), content.clone());
    let (for_reload, for_count) = (Arc::clone(encryption), node.clone());
    let reloading = tokio::task::spawn_blocking(move || {
        wiping(|| for_reload.reload(&name, &content, &|key| values_under(&for_count, key)))
    });
    let reloaded = reloading.await.map_err(|error| Failure::Node(error.to_string()))?;
    let report = match reloaded {
        Ok(report) => report,
        Err(error) => {
            rewrite_leftovers(&error, encryption, node).await;
            return Err(Failure::Refused(error));
        }
    };
    node.follow_encryption().await.map_err(lost)?;
    Ok(report)
}

/// Values under a key that nothing is written under, although every file is settled: they were on
/// their way while the key was changed. They are rewritten under a new data key.
async fn rewrite_leftovers(error: &ReloadError, encryption: &Arc<Encryption>, node: &Handle) {
    let ReloadError::KeysInUse { keys } = error else { return };
    let writers = encryption.sealer().writers();
    if keys.iter().any(|(name, _)| writers.contains(&name.id)) || !node.file_counts().is_settled {
        return;
    }
    let encryption = Arc::clone(encryption);
    let rotated = tokio::task::spawn_blocking(move || encryption.rotate_data_key()).await;
    if let Ok(Err(error)) = rotated {
        tracing::error!(%error, "the values under older keys are not rewritten");
    }
}

/// How many stored values are sealed under a key. Reads the whole store, so it is asked only when a
/// key is to be dropped; a store that cannot be read counts as in use.
fn values_under(node: &Handle, key: KeyId) -> u64 {
    let mut count = 0;
    for record in node.view().records() {
        match record {
            Ok((_, record)) => {
                count += u64::from(record.seal.is_some_and(|seal| seal.key_id == key));
            }
            Err(error) => {
                tracing::error!(%error, "counting values under a key failed");
                return count + 1;
            }
        }
    }
    count
}
