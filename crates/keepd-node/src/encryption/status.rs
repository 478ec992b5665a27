//! The member's encryption as told to operators and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepd_crypto::Encryption;
use keepd_types::{KeyId, KeyValue, StoredValue};

use crate::encryption::state::{FileCounts, Reloads};
use crate::handle::Handle;

/// Stored values by the key that seals them; counted on request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueCounts {
    /// Number of values by key; `None` for plain ones.
    pub by_key: BTreeMap<Option<KeyId>, u64>,
    /// Number of values that would be stored otherwise today.
    pub stale: u64,
}

impl Handle {
    /// The configuration, value sealer and keyring of this member.
    #[must_use]
    pub fn encryption(&self) -> &Arc<Encryption> {
        &self.shared.encryption
    }

    /// Progress of the re-encryption of files, as of the last count.
    #[must_use]
    pub fn file_counts(&self) -> FileCounts {
        self.shared.encryption_state.file_counts()
    }

    /// Reloads of the encryption configuration since the start.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.shared.encryption_state.reloads()
    }

    /// Counts the stored values by the key that seals them. Reads the whole store: for threads
    /// that may block.
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
