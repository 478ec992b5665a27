//! Sealing single values, as EncryptionConfiguration asks for it.
//!
//! A value is sealed once, at the member that proposes it, by the first key of the first provider
//! of the rule for its record's key. What was sealed here carries a mark outside the value with the
//! key's check value, so reading never guesses; [`ValueSealer::read_foreign`] is for values that a
//! kube-apiserver sealed, where Kubernetes' own walk over the providers is the only way.
//!
//! Rules are found as in Kubernetes: the exact resource, its group's wildcard, `*.*`. What no
//! resource name covers belongs to the longest `prefix:` rule.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use keepd_env::Random;
use keepd_types::{KeyId, PlainDigest, SealMark, StoredValue};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::cipher::{Algorithm, BINDING_LEN, ProviderKey, SEALED_PREFIX};
use crate::config::{AlreadySealed, EncryptionConfig, Provider};
use crate::digest::sha256;
use crate::payload_error::PayloadError;
use rules::{Rule, Rules};

/// BOUND: colons of a renamed key's name that are tried as the name's end.
const RENAMED_COLONS_MAX: usize = 8;

/// Providers that read values without a rule.
const NO_RULE: &[Provider] = &[Provider::Identity];

/// Reason why a value cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// It arrived sealed, and the configuration refuses such values.
    #[error("the value is already encrypted (it begins with k8s:enc:), which is refused here")]
    AlreadySealed,
    /// It is 4 GiB or longer.
    #[error("the value of {len} bytes is too long to be sealed")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

/// Reason why a value sealed here cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The configuration lacks its key.
    #[error(
        "the value is sealed under key {:016x}, which the encryption configuration lacks",
        key_id.0
    )]
    UnknownKey {
        /// The key's check value.
        key_id: KeyId,
    },
    /// It does not begin as the key's cipher begins values.
    #[error("the sealed value does not begin with {expected}")]
    WrongPrefix {
        /// Prefix of the key's cipher.
        expected: &'static str,
    },
    /// It is damaged.
    #[error("the sealed value does not open: {0}")]
    Payload(PayloadError),
    /// It opens to something else than what was sealed.
    #[error("the sealed value opens to other bytes than were sealed")]
    WrongDigest,
}

/// A foreign value, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The plaintext.
    pub plain: Bytes,
    /// Whether it would be stored otherwise today.
    pub is_stale: bool,
    /// The key that opened it; none if it was plain.
    pub key_id: Option<KeyId>,
}

/// Reason why a foreign value does not open, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No provider reads values that begin so.
    #[error("no matching prefix found")]
    NoPrefix,
    /// Providers tried and failed.
    #[error("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Failed {
        /// Each failure, in the order of the configuration.
        failures: Vec<ReadFailure>,
    },
}

/// Failure of one provider to open a foreign value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadFailure {
    /// None of its keys has the name in the value.
    #[error("no matching key was found for the provided {} transformer", family(*.0))]
    NoKey(Algorithm),
    /// A key of that name did not open it.
    #[error("{0}")]
    Payload(PayloadError),
}

const fn family(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::AesCbc | Algorithm::AesGcm => "AES",
        Algorithm::SecretBox => "Secretbox",
        Algorithm::Kms => "KMSv2",
    }
}

/// One rule, for a status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStatus {
    /// Resources or keys that it covers, as the configuration names them.
    pub scope: String,
    /// The key that seals, as `provider:name`; none if values are stored plain.
    pub sealing_key: Option<(KeyId, String)>,
}

/// Seals and opens values; immutable, made from a configuration.
#[derive(Debug)]
pub struct ValueSealer {
    rules: Rules,
    /// Every key, under each of its names.
    keys: BTreeMap<KeyId, Vec<Arc<ProviderKey>>>,
    already_sealed: AlreadySealed,
    trust_plain_data: bool,
}

impl ValueSealer {
    /// No configuration: everything is stored as it is.
    #[must_use]
    pub fn none() -> Self {
        Self {
            rules: Rules::default(),
            keys: BTreeMap::new(),
            already_sealed: AlreadySealed::default(),
            trust_plain_data: false,
        }
    }

    /// A sealer that seals under the first key of each rule.
    #[must_use]
    pub fn new(config: &EncryptionConfig) -> Self {
        Self::with_active(config, |_| true)
    }

    /// A sealer that seals under the first active key of each rule: one that every member can read.
    /// A rule with no such key uses its first one.
    #[must_use]
    pub fn with_active(config: &EncryptionConfig, is_active: impl Fn(KeyId) -> bool) -> Self {
        let mut keys: BTreeMap<KeyId, Vec<Arc<ProviderKey>>> = BTreeMap::new();
        for provider in config.rules.iter().flat_map(|rule| &rule.providers) {
            if let Provider::Keyed { keys: of_provider, .. } = provider {
                for key in of_provider {
                    keys.entry(key.id()).or_default().push(Arc::clone(key));
                }
            }
        }
        let rules = Rules::new(config, &is_active);
        let options = &config.options;
        Self {
            rules,
            keys,
            already_sealed: options.already_sealed,
            trust_plain_data: options.trust_plain_data,
        }
    }

    /// Gives `plain` its stored form under the record's key.
    ///
    /// # Errors
    /// If it arrives sealed and that is refused, or is too long.
    pub fn seal(
        &self,
        key: &[u8],
        plain: Bytes,
        random: &dyn Random,
    ) -> Result<StoredValue, SealError> {
        let Some(rule) = self.rules.find(key) else { return Ok(StoredValue::plain(plain)) };
        let Some(sealing_key) = &rule.sealing_key else { return Ok(StoredValue::plain(plain)) };
        if plain.starts_with(SEALED_PREFIX) {
            match self.already_sealed {
                AlreadySealed::Seal => {}
                AlreadySealed::Keep => return Ok(StoredValue::plain(plain)),
                AlreadySealed::Refuse => return Err(SealError::AlreadySealed),
            }
        }
        if u32::try_from(plain.len()).is_err() {
            return Err(SealError::TooLong { len: plain.len() });
        }
        let seal = SealMark { key_id: sealing_key.id(), plain: PlainDigest::of(&plain) };
        let bytes = Bytes::from(sealing_key.seal(key, &plain, random));
        Ok(StoredValue { bytes, seal: Some(seal) })
    }

    /// The plaintext of a stored value. One without a mark is its own plaintext, whatever it looks
    /// like.
    ///
    /// # Errors
    /// If its key is missing or the bytes are not what was sealed.
    pub fn open(&self, key: &[u8], value: &StoredValue) -> Result<Bytes, OpenError> {
        let Some(mark) = value.seal else { return Ok(value.bytes.clone()) };
        let key_id = mark.key_id;
        let names = self.keys.get(&key_id).ok_or(OpenError::UnknownKey { key_id })?;
        let first = names.first().ok_or(OpenError::UnknownKey { key_id })?;
        let expected = first.name.algorithm.prefix();
        let named = value
            .bytes
            .strip_prefix(expected.as_bytes())
            .ok_or(OpenError::WrongPrefix { expected })?;
        let known = names.iter().filter_map(|name| value.bytes.strip_prefix(name.head()));
        // A key may have been renamed since, and a name may hold colons; the digest tells.
        let renamed = named
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b':')
            .take(RENAMED_COLONS_MAX)
            .filter_map(|(at, _)| named.get(at + 1..));
        let mut failure = OpenError::Payload(PayloadError::Short);
        for (number, payload) in known.chain(renamed).enumerate() {
            match first.open(key, payload) {
                Ok(plain) if PlainDigest::of(&plain) == mark.plain => return Ok(plain.into()),
                Ok(_) if number == 0 => failure = OpenError::WrongDigest,
                Err(error) if number == 0 => failure = OpenError::Payload(error),
                Ok(_) | Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Opens a value that somebody else stored, as Kubernetes reads it: every provider of the rule
    /// whose prefix matches, in order; without a rule, plain values only.
    ///
    /// # Errors
    /// If no provider opens it.
    pub fn read_foreign(&self, key: &[u8], bytes: &Bytes) -> Result<Opened, ReadError> {
        let providers = self.rules.find(key).map_or(NO_RULE, Rule::providers);
        let mut failures = Vec::new();
        for (number, provider) in providers.iter().enumerate() {
            match provider {
                Provider::Identity if bytes.starts_with(SEALED_PREFIX) => {}
                Provider::Identity => {
                    let (plain, is_stale) = (bytes.clone(), number > 0);
                    return Ok(Opened { plain, is_stale, key_id: None });
                }
                Provider::Keyed { algorithm, keys } => {
                    if !bytes.starts_with(algorithm.prefix().as_bytes()) {
                        continue;
                    }
                    match read_keyed(keys, key, bytes) {
                        Ok(opened) => {
                            let is_stale = opened.is_stale || number > 0;
                            return Ok(Opened { is_stale, ..opened });
                        }
                        Err(None) => failures.push(ReadFailure::NoKey(*algorithm)),
                        Err(Some(error)) => failures.push(ReadFailure::Payload(error)),
                    }
                }
            }
        }
        Err(if failures.is_empty() { ReadError::NoPrefix } else { ReadError::Failed { failures } })
    }

    /// Whether a record's value would be stored otherwise today: plain instead of sealed, sealed
    /// instead of plain, or under another key.
    #[must_use]
    pub fn is_stale(&self, key: &[u8], value: &StoredValue) -> bool {
        let keeps = self.already_sealed == AlreadySealed::Keep;
        if value.seal.is_none() && keeps && value.bytes.starts_with(SEALED_PREFIX) {
            return false;
        }
        self.sealing_key(key) != value.seal.map(|seal| seal.key_id)
    }

    /// Whether a value of this record that comes from outside may be plain, or sealed by something
    /// that does not prove which record it is of: no rule covers it, its rule lists `identity`, or
    /// the operator vouches for it.
    #[must_use]
    pub fn takes_plain(&self, key: &[u8]) -> bool {
        self.trust_plain_data || self.rules.find(key).is_none_or(Rule::lists_identity)
    }

    /// A proof for an exported file that whoever held key `key_id` wrote `record` at `place`; none
    /// if the key is not held.
    #[must_use]
    pub fn bind(&self, key_id: KeyId, place: &[u8], record: &[u8]) -> Option<[u8; BINDING_LEN]> {
        Some(self.keys.get(&key_id)?.first()?.bind(place, record))
    }

    /// Whether `binding` is what [`Self::bind`] gives; false if the key is not held.
    #[must_use]
    pub fn is_bound(&self, key_id: KeyId, place: &[u8], record: &[u8], binding: &[u8]) -> bool {
        let expected = self.bind(key_id, place, record);
        expected.is_some_and(|expected| expected.as_slice().ct_eq(binding).into())
    }

    /// The key that seals the value of a record; none if it is stored plain.
    #[must_use]
    pub fn sealing_key(&self, key: &[u8]) -> Option<KeyId> {
        self.rules.find(key)?.sealing_key.as_ref().map(|key| key.id())
    }

    /// Every key that can be read, with its `provider:name`, ascending by check value.
    #[must_use]
    pub fn key_ids(&self) -> Vec<(KeyId, String)> {
        let first_names = self.keys.iter().filter_map(|(id, names)| Some((*id, names.first()?)));
        first_names.map(|(id, key)| (id, provider_and_name(key))).collect()
    }

    /// Every rule with the key it seals under, in the order in which rules are looked up.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleStatus> {
        let status = |rule: &Rule| RuleStatus {
            scope: rule.scope.to_string(),
            sealing_key: rule.sealing_key.as_ref().map(|key| (key.id(), provider_and_name(key))),
        };
        self.rules.all().map(status).collect()
    }

    /// The keys that values are sealed under.
    #[must_use]
    pub fn sealing_keys(&self) -> BTreeSet<KeyId> {
        self.rules.all().filter_map(|rule| rule.sealing_key.as_ref()).map(|key| key.id()).collect()
    }

    /// Tells two sealers apart that would store some value otherwise: what is sealed, and under
    /// which keys. Empty if everything is stored plain.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        if !self.has_real_provider() {
            return String::new();
        }
        let mut text = format!("{:?}", self.already_sealed);
        for RuleStatus { scope, sealing_key } in self.rules() {
            let key = sealing_key.map_or(0, |(id, _)| id.0);
            text.push_str(&format!("\n{key:016x} {scope}"));
        }
        sha256(text.as_bytes())
    }

    /// Whether some rule writes ciphertext.
    #[must_use]
    pub fn has_real_provider(&self) -> bool {
        self.rules.all().any(|rule| rule.sealing_key.is_some())
    }
}

fn provider_and_name(key: &ProviderKey) -> String {
    format!("{}:{}", key.name.algorithm, key.name.name)
}

/// One provider's keys, in order; the last failure of a key whose name matched, if none opens.
fn read_keyed(
    keys: &[Arc<ProviderKey>],
    record: &[u8],
    bytes: &[u8],
) -> Result<Opened, Option<PayloadError>> {
    let mut failure = None;
    for (number, key) in keys.iter().enumerate() {
        let Some(payload) = bytes.strip_prefix(key.head()) else { continue };
        match key.open(record, payload) {
            Ok(plain) => {
                let (plain, key_id) = (plain.into(), Some(key.id()));
                return Ok(Opened { plain, is_stale: number > 0, key_id });
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests;
