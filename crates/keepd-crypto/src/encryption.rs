//! A member's encryption as a whole: configuration, value sealer and keyring, replaced together.
//!
//! Readers take the current sealer and never wait. A reload judges the new file first, makes
//! the keyring durable under the new keys second, and lets values be sealed under them last; if any
//! step fails, everything stays as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use keepd_env::Env;
use keepd_types::KeyId;
use parking_lot::Mutex;
use thiserror::Error;

use crate::cipher::KeyName;
use crate::config::{ConfigError, ConfigFile, ConfigOptions, EncryptionConfig};
use crate::file_header::DataKeyId;
use crate::file_keys::FileKeys;
use crate::keyring::{Keyring, KeyringChange, KeyringError, KeyringState};
use crate::value::{RuleStatus, ValueSealer};

/// Reason why a new configuration was not taken; the old one still holds.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keyring could not be brought in line.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// It lacks keys that stored values are sealed under.
    #[error(
        "the new encryption configuration lacks keys that are in use: {}; put them back after \
         the new one until `keepd encryption status` shows that no value needs them",
        list_in_use(keys)
    )]
    KeysInUse {
        /// The keys, with the number of values under each.
        keys: Vec<(KeyName, u64)>,
    },
    /// It lacks a key that values are being sealed under.
    #[error(
        "the new encryption configuration lacks {key}, which values are sealed under now; first \
         put another key in front of it, and drop it when that has taken effect"
    )]
    StillWriting {
        /// The key.
        key: KeyName,
    },
}

/// Keys with the number of values under each, for a message.
#[must_use]
pub fn list_in_use(keys: &[(KeyName, u64)]) -> String {
    let list = keys.iter().map(|(name, count)| format!("{name} by {count} values"));
    list.collect::<Vec<_>>().join(", ")
}

/// Changes that a reload made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadReport {
    /// Whether the file differs from the one before.
    pub is_changed: bool,
    /// `sha256:` and the file's digest.
    pub file_hash: String,
    /// Keys that can be read now and could not before.
    pub added: Vec<KeyName>,
    /// Keys that can no longer be read.
    pub removed: Vec<KeyName>,
    /// Changes of the keyring.
    pub keyring: KeyringChange,
    /// Entries of the file that are probably not meant.
    pub warnings: Vec<String>,
}

/// The state of encryption, for status pages and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionStatus {
    /// `sha256:` and the configuration's digest; none without one.
    pub file_hash: Option<String>,
    /// Every rule with the key that it seals under.
    pub rules: Vec<RuleStatus>,
    /// Every key that can be read.
    pub keys: Vec<KeyName>,
    /// The keys of which any one opens the data directory.
    pub keyring_wrapped_under: Vec<KeyName>,
    /// Whether the keyring was damaged at start and the one before it was read.
    pub keyring_is_recovered: bool,
    /// The data key that encrypts new files; plain without encryption.
    pub active_data_key: DataKeyId,
    /// Data keys that files may be encrypted with.
    pub data_keys: Vec<DataKeyId>,
}

/// A member's encryption.
#[derive(Debug)]
pub struct Encryption {
    sealer: ArcSwap<ValueSealer>,
    files: FileKeys,
    options: ConfigOptions,
    /// Held through a whole reload, which may count values for long.
    reloading: Mutex<()>,
    /// Held while the keyring is written, which a slow disk makes long. ORDER: before `state`.
    keyring: Mutex<Keyring>,
    /// Never held during a file operation.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Option<EncryptionConfig>,
    /// As the keyring was after the last change of it.
    wrapped_under: Vec<KeyName>,
    is_recovered: bool,
    /// The keys that the cluster has activated, since every member can read them; `None` before
    /// the first activation.
    active_keys: Option<BTreeSet<KeyId>>,
}

impl State {
    fn note(&mut self, keyring: &Keyring) {
        self.wrapped_under = keyring.wrapped_under().to_vec();
        self.is_recovered = keyring.is_recovered();
    }

    fn sealer(&self) -> ValueSealer {
        match (&self.config, &self.active_keys) {
            (None, _) => ValueSealer::none(),
            (Some(config), None) => ValueSealer::new(config),
            (Some(config), Some(keys)) => ValueSealer::with_active(config, |id| keys.contains(&id)),
        }
    }
}

impl Encryption {
    /// Opens the data directory's keyring under `config`, or goes without encryption.
    ///
    /// # Errors
    /// If the directory's keys are out of reach.
    pub fn open(
        env: &Env,
        dir: &Path,
        config: Option<EncryptionConfig>,
    ) -> Result<Self, KeyringError> {
        Ok(Self::with(Keyring::open_or_create(env, dir, config.as_ref())?, config))
    }

    /// The encryption of a data directory that is being made and holds no file yet.
    ///
    /// # Errors
    /// If the keyring cannot be written.
    pub fn create(
        env: &Env,
        dir: &Path,
        config: Option<EncryptionConfig>,
    ) -> Result<Self, KeyringError> {
        Ok(Self::with(Keyring::create(env, dir, config.as_ref())?, config))
    }

    fn with((keyring, files): (Keyring, FileKeys), config: Option<EncryptionConfig>) -> Self {
        let options = config.as_ref().map(|config| config.options.clone()).unwrap_or_default();
        let state = State {
            config,
            wrapped_under: keyring.wrapped_under().to_vec(),
            is_recovered: keyring.is_recovered(),
            active_keys: None,
        };
        let sealer = ArcSwap::from_pointee(state.sealer());
        let (keyring, state) = (Mutex::new(keyring), Mutex::new(state));
        Self { sealer, files, options, reloading: Mutex::new(()), keyring, state }
    }

    /// The current value sealer.
    #[must_use]
    pub fn sealer(&self) -> Arc<ValueSealer> {
        self.sealer.load_full()
    }

    /// The keys that encrypt files; a reload replaces them for every holder.
    #[must_use]
    pub fn files(&self) -> FileKeys {
        self.files.clone()
    }

    /// Reads a file's content under the options of the first configuration; `file_name` is for
    /// messages.
    ///
    /// # Errors
    /// If it is not a right configuration.
    pub fn parse(&self, file_name: &str, bytes: &[u8]) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(file_name, bytes, self.options.clone())
    }

    /// The current configuration; `None` without one.
    #[must_use]
    pub fn config(&self) -> Option<EncryptionConfig> {
        self.state.lock().config.clone()
    }

    /// Takes another configuration. `in_use` tells how many stored values are sealed under a key;
    /// it is asked only about keys that the new one lacks.
    ///
    /// # Errors
    /// If it drops a key that is in use, or the keyring cannot be written. The old configuration
    /// then still holds.
    pub fn reload(
        &self,
        config: EncryptionConfig,
        in_use: &dyn Fn(KeyId) -> u64,
    ) -> Result<ReloadReport, ReloadError> {
        let _one_at_a_time = self.reloading.lock();
        let names = |config: &Option<EncryptionConfig>| {
            config.as_ref().map_or_else(Vec::new, EncryptionConfig::key_names)
        };
        let (old, new) = (names(&self.state.lock().config), config.key_names());
        let removed = beyond(&old, &new);
        let missed: Vec<(KeyName, u64)> = removed
            .iter()
            .map(|name| (name.clone(), in_use(name.id)))
            .filter(|(_, count)| *count > 0)
            .collect();
        if !missed.is_empty() {
            return Err(ReloadError::KeysInUse { keys: missed });
        }
        // A value may have been sealed under it that is not stored yet.
        let sealing = self.sealer.load().sealing_keys();
        if let Some(key) = removed.iter().find(|name| sealing.contains(&name.id)) {
            return Err(ReloadError::StillWriting { key: key.clone() });
        }
        let mut keyring = self.keyring.lock();
        let change = keyring.apply(&config)?;
        let mut state = self.state.lock();
        state.note(&keyring);
        let old_hash = state.config.as_ref().map(|config| config.file_hash().to_owned());
        let report = ReloadReport {
            is_changed: old_hash.as_deref() != Some(config.file_hash()),
            file_hash: config.file_hash().to_owned(),
            added: beyond(&new, &old),
            removed,
            keyring: change,
            warnings: config.warnings().to_vec(),
        };
        state.config = Some(config);
        self.sealer.store(Arc::new(state.sealer()));
        Ok(report)
    }

    /// Activates keys: values are sealed under no other. Every member can read them.
    pub fn activate(&self, keys: BTreeSet<KeyId>) {
        let mut state = self.state.lock();
        state.active_keys = Some(keys);
        self.sealer.store(Arc::new(state.sealer()));
    }

    /// The keys that can be read here.
    #[must_use]
    pub fn readable(&self) -> BTreeSet<KeyId> {
        let state = self.state.lock();
        let names = state.config.as_ref().map_or_else(Vec::new, EncryptionConfig::key_names);
        names.into_iter().map(|name| name.id).collect()
    }

    /// Begins a new data key for new files.
    ///
    /// # Errors
    /// If the keyring cannot be written.
    pub fn rotate_data_key(&self) -> Result<DataKeyId, KeyringError> {
        self.change_keyring(DataKeyId::PLAIN, Keyring::rotate)
    }

    /// Changes the keyring under the configuration that holds; `without` one nothing is to change.
    fn change_keyring<T>(
        &self,
        without: T,
        change: impl FnOnce(&mut Keyring, &EncryptionConfig) -> Result<T, KeyringError>,
    ) -> Result<T, KeyringError> {
        let mut keyring = self.keyring.lock();
        let Some(config) = self.state.lock().config.clone() else { return Ok(without) };
        let changed = change(&mut keyring, &config)?;
        self.state.lock().note(&keyring);
        Ok(changed)
    }

    /// Forgets data keys that no file is sealed under; see [`Keyring::retire`]. `active` is the key that
    /// was active when the files were looked at: nothing is forgotten if another one is by now, for
    /// files may have been begun under keys in between.
    ///
    /// # Errors
    /// If the keyring cannot be written or removed.
    pub fn retire_data_keys(
        &self,
        active: DataKeyId,
        in_use: &BTreeSet<DataKeyId>,
    ) -> Result<bool, KeyringError> {
        self.change_keyring(false, |keyring, config| {
            if self.files.active() != active {
                return Ok(false);
            }
            keyring.retire(config, in_use)
        })
    }

    /// Looks whether the keyring is as it was written last, and mends it. While it is being written, it
    /// is in place.
    ///
    /// # Errors
    /// If it cannot be read or mended.
    pub fn look_after_keyring(&self) -> Result<KeyringState, KeyringError> {
        self.keyring.try_lock().map_or(Ok(KeyringState::InPlace), |keyring| keyring.look_after())
    }

    /// The current state.
    #[must_use]
    pub fn status(&self) -> EncryptionStatus {
        let state = self.state.lock();
        let config = state.config.as_ref();
        EncryptionStatus {
            file_hash: config.map(|config| config.file_hash().to_owned()),
            rules: self.sealer.load().rules(),
            keys: config.map_or_else(Vec::new, EncryptionConfig::key_names),
            keyring_wrapped_under: state.wrapped_under.clone(),
            keyring_is_recovered: state.is_recovered,
            active_data_key: self.files.active(),
            data_keys: self.files.known(),
        }
    }
}

/// The keys of `names` that are not among `others`.
fn beyond(names: &[KeyName], others: &[KeyName]) -> Vec<KeyName> {
    let lacks = |name: &&KeyName| others.iter().all(|other| other.id != name.id);
    names.iter().filter(lacks).cloned().collect()
}

#[cfg(test)]
mod tests;
