//! Kubernetes' ciphers, byte for byte: aescbc, aesgcm, secretbox.
//!
//! A stored value is `k8s:enc:<cipher>:v1:<key name>:` and a payload. The layouts are in
//! `docs/formats/sealed-value.md`. aescbc has no authentication: a wrong key or a flipped bit can
//! pass here, and is found by the digest that travels with our own records.

use std::fmt;

use aes::cipher::block_padding::{NoPadding, Pkcs7};
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use keepd_env::Random;
use keepd_types::KeyId;
use thiserror::Error;

use crate::secret::Secret;

/// What every sealed value begins with, whoever sealed it.
pub(crate) const SEALED_PREFIX: &[u8] = b"k8s:enc:";

const BLOCK_LEN: usize = 16;
const GCM_NONCE_LEN: usize = 12;
const BOX_NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const KEY_ID_LABEL: &[u8] = b"keepd key id v1:";

/// A cipher of Kubernetes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// AES in CBC mode with PKCS#7 padding; not authenticated.
    AesCbc,
    /// AES-GCM with a random nonce; the key of the record is authenticated too.
    AesGcm,
    /// XSalsa20 and Poly1305, as in NaCl.
    SecretBox,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AesCbc, Self::AesGcm, Self::SecretBox];

    /// The provider's name in a configuration and in stored values.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::SecretBox => "secretbox",
        }
    }

    /// What stored values begin with, up to the key's name.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::AesCbc => "k8s:enc:aescbc:v1:",
            Self::AesGcm => "k8s:enc:aesgcm:v1:",
            Self::SecretBox => "k8s:enc:secretbox:v1:",
        }
    }

    /// The lengths a secret may have.
    #[must_use]
    pub const fn secret_lens(self) -> &'static [usize] {
        match self {
            Self::AesCbc | Self::AesGcm => &[16, 24, 32],
            Self::SecretBox => &[32],
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key as people know it: cipher and name from the configuration, and its check value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// The cipher it is for.
    pub algorithm: Algorithm,
    /// The name that the configuration gives it.
    pub name: String,
    /// Its check value.
    pub id: KeyId,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (id {:016x})", self.algorithm, self.name, self.id.0)
    }
}

/// Why a payload does not open under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Too few bytes for nonce and tag, or an initialisation vector with nothing behind it.
    #[error("the stored data was shorter than the required size")]
    Short,
    /// Not whole blocks.
    #[error("the stored data is not a multiple of the block size")]
    PartialBlock,
    /// The padding is not PKCS#7: another key, or damage.
    #[error("invalid padding on input")]
    Padding,
    /// The tag does not match: another key, another record's value, or damage.
    #[error("message authentication failed")]
    Authentication,
}

/// A key of the configuration, ready for use.
pub(crate) struct ProviderKey {
    /// Who it is.
    pub(crate) name: KeyName,
    /// The material, for wrapping the keyring's key.
    pub(crate) secret: Secret,
    /// `k8s:enc:<cipher>:v1:<name>:`.
    head: Vec<u8>,
    cipher: Cipher,
}

/// The ciphers' state; aescbc's key schedule is cheap enough to be made at each use.
enum Cipher {
    Cbc,
    Gcm(LessSafeKey),
    Box(Box<XSalsa20Poly1305>),
}

impl ProviderKey {
    /// A key, or nothing if the secret's length does not fit the cipher.
    pub(crate) fn new(algorithm: Algorithm, name: &str, secret: Secret) -> Option<Self> {
        let bytes = secret.expose();
        if !algorithm.secret_lens().contains(&bytes.len()) {
            return None;
        }
        let cipher = match algorithm {
            Algorithm::AesCbc => Cipher::Cbc,
            Algorithm::AesGcm => {
                let aes = match bytes.len() {
                    16 => &AES_128_GCM,
                    24 => &AES_192_GCM,
                    _ => &AES_256_GCM,
                };
                Cipher::Gcm(LessSafeKey::new(UnboundKey::new(aes, bytes).ok()?))
            }
            Algorithm::SecretBox => {
                Cipher::Box(Box::new(XSalsa20Poly1305::new_from_slice(bytes).ok()?))
            }
        };
        let head = format!("{}{name}:", algorithm.prefix()).into_bytes();
        let name = KeyName { algorithm, name: name.to_owned(), id: key_id(algorithm, &secret) };
        Some(Self { name, secret, head, cipher })
    }

    /// Its check value.
    pub(crate) const fn id(&self) -> KeyId {
        self.name.id
    }

    /// What values sealed under this key and name begin with.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The stored form of `plain`; `key` is the record's key.
    pub(crate) fn seal(&self, key: &[u8], plain: &[u8], random: &dyn Random) -> Vec<u8> {
        let overhead = BOX_NONCE_LEN + TAG_LEN;
        let mut out = Vec::with_capacity(self.head.len() + plain.len() + overhead);
        out.extend_from_slice(&self.head);
        match &self.cipher {
            Cipher::Cbc => {
                let iv: [u8; BLOCK_LEN] = drawn(random);
                out.extend_from_slice(&iv);
                out.extend_from_slice(&cbc_seal(self.secret.expose(), &iv, plain));
            }
            Cipher::Gcm(gcm) => {
                let nonce: [u8; GCM_NONCE_LEN] = drawn(random);
                out.extend_from_slice(&nonce);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = gcm
                    .seal_in_place_separate_tag(nonce, Aad::from(key), append(&mut out, plain))
                    .expect("values are far below AES-GCM's limit");
                out.extend_from_slice(tag.as_ref());
            }
            Cipher::Box(secretbox) => {
                let nonce: [u8; BOX_NONCE_LEN] = drawn(random);
                out.extend_from_slice(&nonce);
                let tag_at = out.len();
                out.extend_from_slice(&[0; TAG_LEN]);
                let tag = secretbox
                    .encrypt_in_place_detached(&nonce.into(), b"", append(&mut out, plain))
                    .expect("without associated data nothing can fail");
                for (place, byte) in out.iter_mut().skip(tag_at).zip(tag) {
                    *place = byte;
                }
            }
        }
        out
    }

    /// Opens what follows the name; `key` is the record's key.
    pub(crate) fn open(&self, key: &[u8], payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
        match &self.cipher {
            Cipher::Cbc => cbc_open(self.secret.expose(), payload),
            Cipher::Gcm(gcm) => {
                let (nonce, sealed) =
                    payload.split_first_chunk::<GCM_NONCE_LEN>().ok_or(PayloadError::Short)?;
                let mut plain = sealed.to_vec();
                let len = gcm
                    .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(key), &mut plain)
                    .ok()
                    .ok_or(PayloadError::Authentication)?
                    .len();
                plain.truncate(len);
                Ok(plain)
            }
            Cipher::Box(secretbox) => {
                let (nonce, rest) =
                    payload.split_first_chunk::<BOX_NONCE_LEN>().ok_or(PayloadError::Short)?;
                let (tag, sealed) =
                    rest.split_first_chunk::<TAG_LEN>().ok_or(PayloadError::Short)?;
                let mut plain = sealed.to_vec();
                secretbox
                    .decrypt_in_place_detached(nonce.into(), b"", &mut plain, tag.into())
                    .ok()
                    .ok_or(PayloadError::Authentication)?;
                Ok(plain)
            }
        }
    }
}

impl fmt::Debug for ProviderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProviderKey").field(&self.name).finish()
    }
}

/// A key's check value: it tells keys apart on every member and betrays nothing of them. The name
/// is not in it, so that a key may be renamed; the cipher is, so that it is never used for another.
fn key_id(algorithm: Algorithm, secret: &Secret) -> KeyId {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    context.update(KEY_ID_LABEL);
    context.update(algorithm.name().as_bytes());
    let tag = context.sign();
    let first = tag.as_ref().first_chunk().expect("a SHA-256 tag has 32 bytes");
    KeyId(u64::from_be_bytes(*first))
}

/// Appends `bytes` and gives the place where they now lie.
fn append<'a>(out: &'a mut Vec<u8>, bytes: &[u8]) -> &'a mut [u8] {
    let start = out.len();
    out.extend_from_slice(bytes);
    out.split_at_mut(start).1
}

fn drawn<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

fn cbc_seal(secret: &[u8], iv: &[u8], plain: &[u8]) -> Vec<u8> {
    const FITS: &str = "key and initialisation vector have been measured";
    match secret.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(secret, iv)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(secret, iv)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(secret, iv)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
    }
}

fn cbc_open(secret: &[u8], payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    const FITS: &str = "key and initialisation vector have been measured";
    let (iv, sealed) = payload.split_first_chunk::<BLOCK_LEN>().ok_or(PayloadError::Short)?;
    if sealed.is_empty() {
        return Err(PayloadError::Short);
    }
    if sealed.len() % BLOCK_LEN != 0 {
        return Err(PayloadError::PartialBlock);
    }
    let blocks = match secret.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(secret, iv)
            .expect(FITS)
            .decrypt_padded_vec::<NoPadding>(sealed),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(secret, iv)
            .expect(FITS)
            .decrypt_padded_vec::<NoPadding>(sealed),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(secret, iv)
            .expect(FITS)
            .decrypt_padded_vec::<NoPadding>(sealed),
    };
    let mut plain = blocks.ok().ok_or(PayloadError::PartialBlock)?;
    let len = unpadded_len(&plain).ok_or(PayloadError::Padding)?;
    plain.truncate(len);
    Ok(plain)
}

/// The length without padding. Kubernetes accepts a padding longer than a block, if all of its
/// bytes say so; so do we, who must read whatever it reads.
fn unpadded_len(plain: &[u8]) -> Option<usize> {
    let last = *plain.last()?;
    let padding = usize::from(last);
    let (head, tail) = plain.split_at_checked(plain.len().checked_sub(padding)?)?;
    (padding > 0 && tail.iter().all(|byte| *byte == last)).then_some(head.len())
}

#[cfg(test)]
mod tests;
