//! The keys of this member: those that it can read, and the stored values that need one of them.

use keepd_crypto::EncryptionConfig;
use keepd_machine::tables::ReadableKeys;
use keepd_types::KeyId;

use crate::handle::Handle;

/// The keys of a configuration by their check values.
pub(crate) fn readable(config: Option<&EncryptionConfig>) -> ReadableKeys {
    let names = config.map_or_else(Vec::new, EncryptionConfig::key_names);
    ReadableKeys(names.into_iter().map(|name| (name.id, name.to_string())).collect())
}

/// Counts the stored values that are sealed under a key. Reads the whole store, so it is asked only
/// when a key is to be dropped; a store that cannot be read counts as in use.
pub(super) fn values_under(node: &Handle, key: KeyId) -> u64 {
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
