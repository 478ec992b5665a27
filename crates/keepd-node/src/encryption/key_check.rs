//! Check before a start changes anything: the encryption configuration has every key that stored
//! values are sealed under.
//!
//! The keyring is wrapped under every key that values may be sealed under, so the check is cheap
//! while the configuration has them all. Only if one is missing are the values counted.

use std::collections::BTreeMap;
use std::path::Path;

use keepd_crypto::{EncryptionConfig, Keyring, list_in_use};
use keepd_env::Env;
use keepd_machine::Envelope;
use keepd_member::{Layout, install};
use keepd_types::KeyId;
use keepd_wal::{EntryKind, Wal};

use crate::error::BootError;

/// Refuses a configuration that lacks a key in use. Changes nothing.
pub(crate) fn check(
    env: &Env,
    member_dir: &Path,
    config: Option<&EncryptionConfig>,
) -> Result<(), BootError> {
    let Some(found) = Keyring::inspect(env, member_dir, config)? else { return Ok(()) };
    if found.missing.is_empty() {
        return Ok(());
    }
    let mut counts: BTreeMap<KeyId, u64> = BTreeMap::new();
    let mut count = |key| *counts.entry(key).or_default() += 1;
    let store = install::store_of_next_start(&*env.disk, member_dir)?;
    let view = keepd_mvcc::inspect(env, &store, &found.files)?;
    for record in view.records() {
        if let Some(seal) = record?.1.seal {
            count(seal.key_id);
        }
    }
    let log = Wal::read(env, &Layout::wal(member_dir), &found.files)?;
    let applied = view.applied().index;
    let unapplied = log.entries.into_iter().filter(|entry| entry.index > applied);
    for entry in unapplied.filter(|it| it.kind == EntryKind::Normal && !it.data.is_empty()) {
        let envelope = Envelope::decode(entry.data)
            .map_err(|source| keepd_machine::Halt::Command { index: entry.index, source })?;
        envelope.command.for_each_seal(&mut |seal| count(seal.key_id));
    }
    let in_use = |name: keepd_crypto::KeyName| Some((counts.get(&name.id).copied()?, name));
    let missing: Vec<_> =
        found.missing.into_iter().filter_map(in_use).map(|(count, name)| (name, count)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(BootError::KeysInUse { keys: list_in_use(&missing) })
}
