//! A configuration that can be used: the bytes of every key are here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepd_types::KeyId;

use crate::cipher::{KeyName, ProviderKey};
use crate::config::options::ConfigOptions;
use crate::config::rule::{ConfigRule, Provider};
use crate::digest::sha256;
use crate::key_service::{KeyServiceError, KeyServices, ServiceProvider, WrappedKey};
use crate::resource::Scope;

/// A right configuration, with the bytes of all keys.
#[derive(Clone, Debug)]
pub struct EncryptionConfig {
    pub(crate) rules: Vec<ConfigRule>,
    pub(crate) options: ConfigOptions,
    pub(super) file_hash: String,
    pub(super) warnings: Vec<String>,
    /// The key services of the file, each with the key that it encrypted with.
    pub(super) services: Vec<(ServiceProvider, String)>,
}

impl EncryptionConfig {
    /// `sha256:` and the digest of the file, as kube-apiserver reports it.
    #[must_use]
    pub fn file_hash(&self) -> &str {
        &self.file_hash
    }

    /// Whether it was read from a file with this content.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.file_hash == sha256(bytes)
    }

    /// Warnings about entries that are not wrong, but probably not meant.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether some rule seals what is written: its first provider is a real one. Then every file
    /// of the data directory is sealed too.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.providers.first(), Some(Provider::Keyed { .. })))
    }

    /// The first rule that does not read plain data; none if plain files may be opened.
    ///
    /// A plain file proves nothing of where it comes from, and one file holds values of every
    /// resource. So it is taken only if each rule lists `identity`, as Kubernetes asks for a plain
    /// value, or if the operator vouches for what lies there.
    #[must_use]
    pub fn refuses_plain_files(&self) -> Option<&Scope> {
        if self.options.trust_plain_data {
            return None;
        }
        let reading_plain: BTreeSet<&Scope> = self
            .rules
            .iter()
            .filter(|rule| rule.providers.iter().any(|it| matches!(it, Provider::Identity)))
            .flat_map(|rule| &rule.scopes)
            .collect();
        let mut scopes = self.rules.iter().flat_map(|rule| &rule.scopes);
        scopes.find(|scope| !reading_plain.contains(scope))
    }

    /// Every key, each once.
    #[must_use]
    pub fn key_names(&self) -> Vec<KeyName> {
        self.keys().into_values().map(|key| key.name.clone()).collect()
    }

    /// Every key, by its check value; of several names for one key the first.
    pub(crate) fn keys(&self) -> BTreeMap<KeyId, Arc<ProviderKey>> {
        let mut keys = BTreeMap::new();
        for provider in self.rules.iter().flat_map(|rule| &rule.providers) {
            if let Provider::Keyed { keys: of_provider, .. } = provider {
                for key in of_provider {
                    keys.entry(key.id()).or_insert_with(|| Arc::clone(key));
                }
            }
        }
        keys
    }

    /// Every data key that a key service has encrypted, as it is to be decrypted at the next start.
    #[must_use]
    pub fn wrapped_keys(&self) -> Vec<WrappedKey> {
        self.keys().values().filter_map(|key| key.material.wrapped().cloned()).collect()
    }

    /// Whether a key service encrypts with another key than when this configuration was resolved.
    /// The file is then to be resolved and reloaded once more, so that a new data key is encrypted
    /// with the new key.
    ///
    /// # Errors
    /// If a service does not answer.
    pub async fn is_rotated(&self, services: &dyn KeyServices) -> Result<bool, KeyServiceError> {
        for (provider, key_id) in &self.services {
            if services.find(provider)?.key_id().await? != *key_id {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
