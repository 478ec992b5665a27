//! Following the encryption configuration while the server runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::Encryption;
use keepd_node::Handle;
use keepd_types::KeyId;

/// How often the file is looked at; Kubernetes waits a minute.
const INTERVAL: Duration = Duration::from_secs(2);

/// Takes each new content of the file; one that is not right is logged and the old one holds.
pub(super) async fn follow(path: PathBuf, encryption: Arc<Encryption>, node: Handle) {
    let mut refused: Option<Vec<u8>> = None;
    let mut taken = tokio::fs::read(&path).await.ok();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let bytes = match tokio::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the encryption configuration; the old one holds");
                continue;
            }
        };
        if taken.as_ref() == Some(&bytes) || refused.as_ref() == Some(&bytes) {
            continue;
        }
        let (name, encryption, node) =
            (path.display().to_string(), Arc::clone(&encryption), node.clone());
        let content = bytes.clone();
        let reload = tokio::task::spawn_blocking(move || {
            encryption.reload(&name, &content, &|key| values_under(&node, key))
        });
        match reload.await {
            Ok(Ok(report)) => {
                let (added, removed) = (report.added.len(), report.removed.len());
                tracing::info!(
                    file_hash = report.file_hash,
                    keys_added = added,
                    keys_removed = removed,
                    "took a new encryption configuration"
                );
                (taken, refused) = (Some(bytes), None);
            }
            Ok(Err(error)) => {
                tracing::error!(file = %path.display(), %error, "the new encryption configuration is refused; the old one holds");
                refused = Some(bytes);
            }
            Err(error) => tracing::error!(%error, "reloading the encryption configuration failed"),
        }
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
