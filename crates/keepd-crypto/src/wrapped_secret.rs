//! Somebody else's short secret, encrypted under one key of a configuration: what opens a backup.
//!
//! A key of the configuration never seals a backup itself: each backup has a key of its own, which is
//! encrypted here under a key that HKDF derives from the configuration's with a fresh salt. The layout
//! around it is the caller's; see `docs/formats/backup.md`.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use keepd_env::Random;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::cipher::{KeyName, ProviderKey};
use crate::config::EncryptionConfig;
use crate::key_service::WrappedKey;
use crate::secret::{Secret, derive_aead};

const LABEL: &[u8] = b"keepd backup key v1";
const SALT_LEN: usize = 32;

/// A secret under a key of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedSecret {
    /// The key.
    pub name: KeyName,
    /// Drawn for this secret.
    pub salt: [u8; SALT_LEN],
    /// The secret, encrypted.
    pub ciphertext: Vec<u8>,
    /// The key's bytes as a key service encrypted them, if they come from one.
    pub service: Option<WrappedKey>,
}

/// Reason why a secret stays closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// The configuration lacks the key.
    #[error("the encryption configuration has no key {name}")]
    NoKey {
        /// The key.
        name: KeyName,
    },
    /// The key is there, and what was encrypted with it was changed since.
    #[error("it was tampered with: what the key {name} encrypted does not open")]
    Damaged {
        /// The key.
        name: KeyName,
    },
}

impl EncryptionConfig {
    /// The key that new secrets are wrapped under: the first one that writes. None if no rule seals.
    #[must_use]
    pub fn writing_key(&self) -> Option<KeyName> {
        self.first_writing_key().map(|key| key.name.clone())
    }

    /// Encrypts a secret under [`Self::writing_key`].
    #[must_use]
    pub fn wrap(&self, secret: &[u8], random: &dyn Random) -> Option<WrappedSecret> {
        let key = self.first_writing_key()?;
        let mut salt = [0; SALT_LEN];
        random.fill(&mut salt);
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = wrapping_key(key.material.secret(), &salt, &key.name)
            .seal_in_place_separate_tag(zero_nonce(), Aad::empty(), &mut text)
            .expect("a key is far below AES-GCM's limit");
        let mut ciphertext = text.to_vec();
        ciphertext.extend_from_slice(tag.as_ref());
        let service = key.material.wrapped().cloned();
        Some(WrappedSecret { name: key.name.clone(), salt, ciphertext, service })
    }

    /// Decrypts what [`Self::wrap`] encrypted under any key of this configuration.
    ///
    /// # Errors
    /// If it lacks the key, or the ciphertext was changed.
    pub fn unwrap(&self, wrapped: &WrappedSecret) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let keys = self.keys();
        let name = &wrapped.name;
        let key = keys.get(&name.id).ok_or_else(|| UnwrapError::NoKey { name: name.clone() })?;
        let mut text = Zeroizing::new(wrapped.ciphertext.clone());
        let plain = wrapping_key(key.material.secret(), &wrapped.salt, &key.name)
            .open_in_place(zero_nonce(), Aad::empty(), &mut text)
            .ok()
            .ok_or_else(|| UnwrapError::Damaged { name: name.clone() })?;
        Ok(Zeroizing::new(plain.to_vec()))
    }

    fn first_writing_key(&self) -> Option<&ProviderKey> {
        self.rules.iter().find_map(|rule| rule.writing_key())
    }
}

impl WrappedSecret {
    /// Whether its parts have lengths that [`EncryptionConfig::wrap`] can have written.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.service.as_ref().is_none_or(WrappedKey::is_well_formed)
    }
}

/// Used once, since the salt is fresh.
fn wrapping_key(secret: &Secret, salt: &[u8], name: &KeyName) -> aws_lc_rs::aead::LessSafeKey {
    let id = name.id.0.to_be_bytes();
    derive_aead(salt, secret, &[LABEL, name.algorithm.name().as_bytes(), &id])
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use keepd_env::SeededRandom;

    use super::*;

    fn config(keys: &[(&str, &str)]) -> EncryptionConfig {
        let keys: Vec<String> = keys
            .iter()
            .map(|(name, secret)| format!("{{name: {name}, secret: {secret}}}"))
            .collect();
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  \
             - resources: [secrets]\n    providers:\n      - aesgcm: {{keys: [{}]}}\n",
            keys.join(", ")
        );
        EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap()
    }

    const FIRST: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const SECOND: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

    #[test]
    fn a_secret_opens_with_its_key_and_after_a_rotation_that_keeps_it() {
        let random = SeededRandom::new(3);
        let old = config(&[("key1", FIRST)]);
        let wrapped = old.wrap(b"sixteen bytes...", &random).unwrap();
        assert_eq!(Some(&wrapped.name), old.writing_key().as_ref());
        assert!(wrapped.is_well_formed());
        assert_eq!(*old.unwrap(&wrapped).unwrap(), b"sixteen bytes...");
        let rotated = config(&[("key2", SECOND), ("renamed", FIRST)]);
        assert_eq!(*rotated.unwrap(&wrapped).unwrap(), b"sixteen bytes...");
        let without = config(&[("key2", SECOND)]);
        let error = without.unwrap(&wrapped).unwrap_err();
        assert!(matches!(error, UnwrapError::NoKey { .. }), "{error}");
        assert!(error.to_string().contains("no key aesgcm:key1 (id "), "{error}");
    }

    #[test]
    fn a_changed_secret_is_told_from_a_missing_key() {
        let config = config(&[("key1", FIRST)]);
        let wrapped = config.wrap(b"sixteen bytes...", &SeededRandom::new(3)).unwrap();
        for at in 0..wrapped.ciphertext.len() {
            let mut changed = wrapped.clone();
            changed.ciphertext.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
            assert!(matches!(config.unwrap(&changed), Err(UnwrapError::Damaged { .. })));
        }
        let mut changed = wrapped;
        *changed.salt.first_mut().unwrap() ^= 1;
        assert!(matches!(config.unwrap(&changed), Err(UnwrapError::Damaged { .. })));
    }

    #[test]
    fn a_configuration_that_seals_nothing_wraps_nothing() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  \
                    - resources: [secrets]\n    providers: [{identity: {}}]\n";
        let config = EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap();
        assert_eq!(config.wrap(b"secret", &SeededRandom::new(3)), None);
    }
}
