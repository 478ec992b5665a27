//! Kubernetes' `EncryptionConfiguration`, read from YAML or JSON.
//!
//! Strict as upstream: unknown and repeated fields are errors, and a file either is right as a
//! whole or is refused with everything that is wrong with it, each with its path and a remedy. A
//! value of this type cannot be wrong. What keepd adds lives in resource names
//! (`prefix:/some/keys/`), which kube-apiserver accepts as names of resources that do not exist;
//! see `docs/formats/sealed-value.md`.

mod kms;
mod read;
mod slips;
mod tree;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_saphyr::options::DuplicateKeyPolicy;
use thiserror::Error;

use crate::provider::{Algorithm, KeyName, ProviderKey};
use crate::resource::{Directories, Scope};
use keepd_types::KeyId;

/// Every field that the format knows.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "resources",
    "providers",
    "aescbc",
    "aesgcm",
    "secretbox",
    "kms",
    "identity",
    "keys",
    "name",
    "secret",
    "endpoint",
    "timeout",
    "cachesize",
];

/// What a value is done with that a client sends already sealed (`k8s:enc:` in front).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlreadySealed {
    /// It is sealed again like any other; the client gets its own bytes back.
    #[default]
    Seal,
    /// It is stored as it is.
    Keep,
    /// It is refused.
    Refuse,
}

/// What a configuration means beyond what its file can say.
#[derive(Clone, Debug, Default)]
pub struct ConfigOptions {
    /// Where kube-apiserver keeps its resources.
    pub directories: Directories,
    /// What becomes of values that arrive sealed.
    pub already_sealed: AlreadySealed,
    /// The operator vouches for plain data that no rule takes: `--encryption-trust-plain-data`.
    pub trust_plain_data: bool,
}

/// A configuration that has been found right.
#[derive(Clone, Debug)]
pub struct EncryptionConfig {
    pub(crate) rules: Vec<ConfigRule>,
    pub(crate) options: ConfigOptions,
    file_hash: String,
    warnings: Vec<String>,
}

/// One entry of `resources`.
#[derive(Clone, Debug)]
pub(crate) struct ConfigRule {
    pub(crate) scopes: Vec<Scope>,
    pub(crate) providers: Vec<Provider>,
}

/// One entry of `providers`.
#[derive(Clone, Debug)]
pub(crate) enum Provider {
    /// Plain.
    Identity,
    /// One cipher and its keys, of which the first one seals.
    Keyed { algorithm: Algorithm, keys: Vec<Arc<ProviderKey>> },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, as in `resources[0].providers[1].aescbc.keys[0].secret`; empty if the message says.
    pub path: String,
    /// What, in Kubernetes' words.
    pub message: String,
    /// How to mend it.
    pub remedy: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}\n    remedy: {}", self.message, self.remedy)
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// There is nothing in it.
    #[error("encryption provider configuration file {file:?} is empty")]
    Empty {
        /// The file.
        file: String,
    },
    /// It is no UTF-8 text.
    #[error(
        "error decoding encryption provider configuration file {file:?}: it is not UTF-8 text; \
         save it as UTF-8"
    )]
    NotText {
        /// The file.
        file: String,
    },
    /// It is neither YAML nor JSON.
    #[error(
        "error decoding encryption provider configuration file {file:?}: {reason}{}",
        Hints(hints)
    )]
    Syntax {
        /// The file.
        file: String,
        /// What the parser stumbled over, and where; never a part of the text.
        reason: String,
        /// What usually causes it.
        hints: Vec<String>,
    },
    /// It reads, but is not a right configuration.
    #[error(
        "error loading encryption provider configuration file {file:?}: {} found{}{}",
        Count(errors.len()),
        Lines(errors),
        Hints(hints)
    )]
    Invalid {
        /// The file.
        file: String,
        /// Everything that is wrong.
        errors: Vec<FieldError>,
        /// What usually causes it.
        hints: Vec<String>,
    },
}

struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0 == 1 { "error" } else { "errors" };
        write!(f, "{} {noun}", self.0)
    }
}

struct Lines<'a>(&'a [FieldError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

struct Hints<'a>(&'a [String]);

impl fmt::Display for Hints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

impl EncryptionConfig {
    /// Reads a file's content; `file_name` is for messages.
    ///
    /// # Errors
    /// If it is not a right configuration, with everything that is wrong.
    pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_with(file_name, bytes, ConfigOptions::default())
    }

    /// Reads a file's content under given options.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_with(
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
                return Err(ConfigError::Syntax { file, reason, hints: slips::find(text) });
            }
        };
        let mut reader = read::Reader::default();
        let rules = validate::document(&mut reader, &root);
        if !reader.errors.is_empty() {
            let hints = slips::find(text);
            return Err(ConfigError::Invalid { file, errors: reader.errors, hints });
        }
        let warnings = warnings(&rules, &options.directories);
        Ok(Self { rules, options, file_hash: sha256(bytes), warnings })
    }

    /// `sha256:` and the digest of the file, as kube-apiserver reports it.
    #[must_use]
    pub fn file_hash(&self) -> &str {
        &self.file_hash
    }

    /// What is not wrong, but probably not meant.
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
/// files that are put together often end with a `---` behind which nothing comes.
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

/// `sha256:` and the digest.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn warnings(rules: &[ConfigRule], directories: &Directories) -> Vec<String> {
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

#[cfg(test)]
mod tests;
