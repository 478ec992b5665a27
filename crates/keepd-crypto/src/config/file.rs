//! A configuration file, and the way from it to a configuration that can be used.
//!
//! [`ConfigFile::resolve`] asks the key services that the file names. It is the only asynchronous
//! step of encryption: whatever seals or opens takes an [`EncryptionConfig`].

use std::str;
use std::sync::Arc;

use keepd_env::Random;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::error::ConfigError;
use super::options::ConfigOptions;
use super::resolved::EncryptionConfig;
use super::rule::{ConfigRule, FileProvider, Provider};
use super::{hints, read, tree, validate};
use crate::cipher::{Algorithm, ProviderKey};
use crate::digest::sha256;
use crate::key_service::{
    KeyService, KeyServiceError, KeyServices, NoKeyServices, ServiceProvider, WrappedKey,
};
use crate::resource::Directories;
use crate::secret::Secret;

/// The content of a configuration file that is right.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    rules: Vec<ConfigRule<FileProvider>>,
    options: ConfigOptions,
    file_hash: String,
    warnings: Vec<String>,
}

impl ConfigFile {
    /// Reads a file's content; `file_name` is for messages.
    ///
    /// # Errors
    /// If it is not a right configuration, with everything that is wrong.
    pub fn parse(
        file_name: &str,
        bytes: &[u8],
        options: ConfigOptions,
    ) -> Result<Self, ConfigError> {
        let file = file_name.to_owned();
        if bytes.is_empty() {
            return Err(ConfigError::Empty { file });
        }
        let Ok(text) = str::from_utf8(bytes) else { return Err(ConfigError::NotText { file }) };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let root = match parse_tree(text) {
            Ok(tree::Node::Null) => return Err(ConfigError::Empty { file }),
            Ok(root) => root,
            Err(reason) => {
                return Err(ConfigError::Syntax { file, reason, hints: hints::find(text) });
            }
        };
        let mut reader = read::Reader::default();
        let rules = validate::document(&mut reader, &root, options.allows_key_services);
        if !reader.errors.is_empty() {
            let hints = hints::find(text);
            return Err(ConfigError::Invalid { file, errors: reader.errors, hints });
        }
        let warnings = warnings(&rules, &options.directories);
        Ok(Self { rules, options, file_hash: sha256(bytes), warnings })
    }

    /// Whether the bytes of some key have to come from a key service.
    #[must_use]
    pub fn names_key_services(&self) -> bool {
        let mut providers = self.rules.iter().flat_map(|rule| &rule.providers);
        providers.any(|provider| matches!(provider, FileProvider::Service(_)))
    }

    /// Gets the bytes of every key. `stored` are the data keys that the keyring or the current
    /// configuration has of key services: each is decrypted by its service, so that what it seals
    /// can be read, and the one that the service's current key encrypts is used on. Without one, a
    /// new data key is drawn and encrypted by the service.
    ///
    /// # Errors
    /// If a key service does not answer, or does not decrypt a data key.
    pub async fn resolve(
        self,
        services: &dyn KeyServices,
        stored: &[WrappedKey],
        random: &dyn Random,
    ) -> Result<EncryptionConfig, KeyServiceError> {
        let mut resolved = Vec::new();
        let mut rules = Vec::new();
        for ConfigRule { scopes, providers: of_file } in self.rules {
            let mut providers = Vec::new();
            for provider in of_file {
                providers.push(match provider {
                    FileProvider::Ready(provider) => provider,
                    FileProvider::Service(provider) => {
                        let service = services.find(&provider)?;
                        let key_id = service.key_id().await?;
                        let data_keys =
                            DataKeys { service: &*service, provider: &provider, key_id: &key_id };
                        let keys = data_keys.get(stored, random).await?;
                        resolved.push((provider, key_id));
                        Provider::Keyed { algorithm: Algorithm::Kms, keys }
                    }
                });
            }
            rules.push(ConfigRule { scopes, providers });
        }
        let Self { options, file_hash, warnings, .. } = self;
        Ok(EncryptionConfig { rules, options, file_hash, warnings, services: resolved })
    }

    /// The configuration of a file that names no key service.
    ///
    /// # Errors
    /// If it names one.
    pub fn local(self) -> Result<EncryptionConfig, KeyServiceError> {
        let local = |provider| match provider {
            FileProvider::Ready(provider) => Ok(provider),
            FileProvider::Service(provider) => Err(NoKeyServices::failure(&provider)),
        };
        let rules = self.rules.into_iter().map(|ConfigRule { scopes, providers }| {
            let providers = providers.into_iter().map(local).collect::<Result<_, _>>()?;
            Ok(ConfigRule { scopes, providers })
        });
        let rules = rules.collect::<Result<_, _>>()?;
        let Self { options, file_hash, warnings, .. } = self;
        Ok(EncryptionConfig { rules, options, file_hash, warnings, services: Vec::new() })
    }
}

/// The data keys of one provider.
struct DataKeys<'a> {
    service: &'a dyn KeyService,
    provider: &'a ServiceProvider,
    /// The key that the service encrypts with now.
    key_id: &'a str,
}

impl DataKeys<'_> {
    /// All data keys, the one to seal with first.
    async fn get(
        &self,
        stored: &[WrappedKey],
        random: &dyn Random,
    ) -> Result<Vec<Arc<ProviderKey>>, KeyServiceError> {
        let mut keys = Vec::new();
        let mut is_current_held = false;
        for wrapped in stored.iter().filter(|it| it.provider == self.provider.name) {
            let data_key = self.service.unwrap(wrapped).await?;
            let is_current = wrapped.key_id == self.key_id && !is_current_held;
            is_current_held |= is_current;
            let at = if is_current { 0 } else { keys.len() };
            keys.insert(at, self.key(Secret::new(data_key.to_vec()), wrapped.clone())?);
        }
        if !is_current_held {
            keys.insert(0, self.draw(random).await?);
        }
        Ok(keys)
    }

    /// Draws a data key and has the service encrypt it.
    async fn draw(&self, random: &dyn Random) -> Result<Arc<ProviderKey>, KeyServiceError> {
        let data_key = Secret::random(random);
        let wrapped = self.service.wrap(data_key.expose()).await?;
        if wrapped.key_id != self.key_id {
            return Err(self.failure("its key changed while a data key was encrypted"));
        }
        if wrapped.provider != self.provider.name || !wrapped.is_well_formed() {
            return Err(self.failure("it encrypted a data key into something of a wrong length"));
        }
        self.key(data_key, wrapped)
    }

    fn key(
        &self,
        data_key: Secret,
        wrapped: WrappedKey,
    ) -> Result<Arc<ProviderKey>, KeyServiceError> {
        let key = ProviderKey::wrapped(data_key, wrapped);
        key.map(Arc::new).ok_or_else(|| self.failure("it decrypted a data key to a wrong length"))
    }

    fn failure(&self, reason: &str) -> KeyServiceError {
        KeyServiceError { provider: self.provider.name.clone(), reason: reason.to_owned() }
    }
}

impl EncryptionConfig {
    /// Reads a file's content that names no key service; `file_name` is for messages.
    ///
    /// # Errors
    /// If it is not a right configuration, with everything that is wrong.
    pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_with(file_name, bytes, ConfigOptions::default())
    }

    /// Reads a file's content that names no key service under given options.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_with(
        file_name: &str,
        bytes: &[u8],
        options: ConfigOptions,
    ) -> Result<Self, ConfigError> {
        let options = ConfigOptions { allows_key_services: false, ..options };
        let file = ConfigFile::parse(file_name, bytes, options)?;
        Ok(file.local().expect("a file that names a key service was refused"))
    }
}

fn parse_tree(text: &str) -> Result<tree::Node, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // A snippet would put secrets into logs.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(without_empty_documents(text), options).map_err(|error| {
        match error.without_snippet() {
            serde_saphyr::Error::MultipleDocuments { .. } => {
                "it holds more than one YAML document; remove the others and their `---`".to_owned()
            }
            other => other.to_string(),
        }
    })
}

/// The text without empty documents at its end: kube-apiserver reads the first document only, and
/// files that are put together often end with a `---` after which nothing comes.
fn without_empty_documents(text: &str) -> &str {
    let mut kept = text.len();
    let mut at = text.len();
    for line in text.split_inclusive('\n').rev() {
        at -= line.len();
        match line.trim_end() {
            "---" => kept = at,
            line if line.is_empty() || line == "..." || line.starts_with('#') => {}
            _ => break,
        }
    }
    text.get(..kept).unwrap_or(text)
}

fn warnings(rules: &[ConfigRule<FileProvider>], directories: &Directories) -> Vec<String> {
    rules
        .iter()
        .flat_map(|rule| &rule.scopes)
        .filter(|scope| !directories.can_produce(scope))
        .map(|scope| {
            format!(
                "resource {:?} is none that Kubernetes stores; resources are named as in \
                 `secrets` or `deployments.apps`",
                read::shown(&scope.to_string())
            )
        })
        .collect()
}
