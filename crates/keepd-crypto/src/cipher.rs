//! Kubernetes' ciphers, byte for byte: aescbc, aesgcm, secretbox, KMS v2.
//!
//! A stored value is `k8s:enc:<cipher>:v1:<key name>:` and a payload. The layouts are in
//! `docs/formats/sealed-value.md`. aescbc has no authentication: a wrong key or a flipped bit can
//! pass here, and is found by the digest that travels with our own records.

use std::fmt;

use aes::cipher::block_padding::{NoPadding, Pkcs7};
use aes::cipher::typenum::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt};
use aes::cipher::{BlockSizeUser, InnerIvInit, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use keepd_env::Random;
use keepd_types::KeyId;

use crate::key_service::WrappedKey;
use crate::kms_object::Envelope;
use crate::payload_error::PayloadError;
use crate::secret::Secret;
use crate::secretbox::{self, KEY_LEN as BOX_KEY_LEN, NONCE_LEN as BOX_NONCE_LEN, TAG_LEN};

/// Prefix of every sealed value, whoever sealed it.
pub(crate) const SEALED_PREFIX: &[u8] = b"k8s:enc:";

const BLOCK_LEN: usize = 16;
const GCM_NONCE_LEN: usize = 12;
const KEY_ID_LABEL: &[u8] = b"keepd key id v1:";
const BINDING_LABEL: &[u8] = b"keepd snapshot mark v1:";
/// The length of a proof that a record stands where it was written.
pub const BINDING_LEN: usize = 32;

/// A cipher of Kubernetes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// AES in CBC mode with PKCS#7 padding; not authenticated.
    AesCbc,
    /// AES-GCM with a random nonce; the key of the record is authenticated too.
    AesGcm,
    /// XSalsa20 and Poly1305, as in NaCl.
    SecretBox,
    /// AES-GCM under keys derived from a data key that a key service has encrypted: KMS v2.
    Kms,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AesCbc, Self::AesGcm, Self::SecretBox, Self::Kms];
    /// Those whose keys stand in the configuration.
    pub const LOCAL: [Self; 3] = [Self::AesCbc, Self::AesGcm, Self::SecretBox];

    /// The provider's name in a configuration and in stored values.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::SecretBox => "secretbox",
            Self::Kms => "kms",
        }
    }

    /// Prefix of stored values, up to the key's name.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::AesCbc => "k8s:enc:aescbc:v1:",
            Self::AesGcm => "k8s:enc:aesgcm:v1:",
            Self::SecretBox => "k8s:enc:secretbox:v1:",
            Self::Kms => "k8s:enc:kms:v2:",
        }
    }

    /// The lengths a secret may have.
    #[must_use]
    pub const fn secret_lens(self) -> &'static [usize] {
        match self {
            Self::AesCbc | Self::AesGcm => &[16, 24, 32],
            Self::SecretBox | Self::Kms => &[32],
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

/// A key of the configuration, ready for use.
pub(crate) struct ProviderKey {
    /// Its name and check value.
    pub(crate) name: KeyName,
    pub(crate) material: KeyMaterial,
    /// `k8s:enc:<cipher>:v1:<name>:`.
    head: Vec<u8>,
    /// Derived from the secret, for [`Self::bind`].
    binding: hmac::Key,
    cipher: Cipher,
}

/// Bytes of a key, and where they come from.
pub(crate) enum KeyMaterial {
    /// The configuration has them.
    Local(Secret),
    /// They were drawn here, and a key service has encrypted them.
    Wrapped { data_key: Secret, wrapped: WrappedKey },
}

impl KeyMaterial {
    /// The bytes.
    pub(crate) const fn secret(&self) -> &Secret {
        match self {
            Self::Local(secret) => secret,
            Self::Wrapped { data_key, .. } => data_key,
        }
    }

    /// The bytes as a key service has encrypted them; `None` if the configuration has them.
    pub(crate) const fn wrapped(&self) -> Option<&WrappedKey> {
        match self {
            Self::Local(_) => None,
            Self::Wrapped { wrapped, .. } => Some(wrapped),
        }
    }
}

/// A cipher with its key schedule.
enum Cipher {
    Cbc(Box<Aes>),
    Gcm(LessSafeKey),
    /// It has none.
    Box,
    Kms(Box<Envelope>),
}

/// AES with a key of one of its lengths.
enum Aes {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl ProviderKey {
    /// A key of a configuration; `None` if the secret's length does not fit the cipher.
    pub(crate) fn new(algorithm: Algorithm, name: &str, secret: Secret) -> Option<Self> {
        Self::with(algorithm, name, KeyMaterial::Local(secret))
    }

    /// A data key that a key service has encrypted; `None` if it has a wrong length.
    pub(crate) fn wrapped(data_key: Secret, wrapped: WrappedKey) -> Option<Self> {
        let name = wrapped.provider.clone();
        Self::with(Algorithm::Kms, &name, KeyMaterial::Wrapped { data_key, wrapped })
    }

    fn with(algorithm: Algorithm, name: &str, material: KeyMaterial) -> Option<Self> {
        let secret = material.secret();
        let bytes = secret.expose();
        if !algorithm.secret_lens().contains(&bytes.len()) {
            return None;
        }
        let cipher = match algorithm {
            Algorithm::AesCbc => Cipher::Cbc(Box::new(match bytes.len() {
                16 => Aes::Aes128(Aes128::new_from_slice(bytes).ok()?),
                24 => Aes::Aes192(Aes192::new_from_slice(bytes).ok()?),
                _ => Aes::Aes256(Aes256::new_from_slice(bytes).ok()?),
            })),
            Algorithm::AesGcm => {
                let aes = match bytes.len() {
                    16 => &AES_128_GCM,
                    24 => &AES_192_GCM,
                    _ => &AES_256_GCM,
                };
                Cipher::Gcm(LessSafeKey::new(UnboundKey::new(aes, bytes).ok()?))
            }
            Algorithm::SecretBox => Cipher::Box,
            Algorithm::Kms => Cipher::Kms(Box::new(Envelope::new(secret, material.wrapped()?))),
        };
        let head = format!("{}{name}:", algorithm.prefix()).into_bytes();
        let name = KeyName { algorithm, name: name.to_owned(), id: key_id(algorithm, secret) };
        let binding = derived(secret, BINDING_LABEL, algorithm);
        let binding = hmac::Key::new(hmac::HMAC_SHA256, binding.as_ref());
        Some(Self { name, material, head, binding, cipher })
    }

    /// Its check value.
    pub(crate) const fn id(&self) -> KeyId {
        self.name.id
    }

    /// Prefix of values sealed under this key and name.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The stored form of `plain`; `key` is the record's key.
    ///
    /// It is written in place and fills its allocation, so that it becomes shared bytes as it is.
    pub(crate) fn seal(&self, key: &[u8], plain: &[u8], random: &dyn Random) -> Vec<u8> {
        match &self.cipher {
            Cipher::Cbc(aes) => {
                let iv: [u8; BLOCK_LEN] = drawn(random);
                let sealed_len = (plain.len() / BLOCK_LEN + 1) * BLOCK_LEN;
                let mut out = self.begun(&iv, sealed_len);
                cbc_seal(aes, &iv, append(&mut out, plain, sealed_len), plain.len());
                out
            }
            Cipher::Gcm(gcm) => {
                let nonce: [u8; GCM_NONCE_LEN] = drawn(random);
                let mut out = self.begun(&nonce, plain.len() + TAG_LEN);
                let text = append(&mut out, plain, plain.len());
                let tag = gcm
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(key),
                        text,
                    )
                    .expect("values are far below AES-GCM's limit");
                out.extend_from_slice(tag.as_ref());
                out
            }
            Cipher::Box => {
                let nonce: [u8; BOX_NONCE_LEN] = drawn(random);
                let mut out = self.begun(&nonce, TAG_LEN + plain.len());
                let tag_at = out.len();
                out.extend_from_slice(&[0; TAG_LEN]);
                let text = append(&mut out, plain, plain.len());
                let tag = secretbox::seal(self.box_key(), &nonce, text);
                let (_, rest) = out.split_at_mut(tag_at);
                *rest.first_chunk_mut().expect("room was made for the tag") = tag;
                out
            }
            Cipher::Kms(envelope) => envelope.seal(&self.head, key, plain, random),
        }
    }

    /// Opens what follows the name; `key` is the record's key.
    pub(crate) fn open(&self, key: &[u8], payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
        match &self.cipher {
            Cipher::Cbc(aes) => cbc_open(aes, payload),
            Cipher::Gcm(gcm) => {
                let (nonce, rest) =
                    payload.split_first_chunk::<GCM_NONCE_LEN>().ok_or(PayloadError::Short)?;
                let (sealed, tag) =
                    rest.split_last_chunk::<TAG_LEN>().ok_or(PayloadError::Authentication)?;
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let mut plain = vec![0; sealed.len()];
                gcm.open_separate_gather(nonce, Aad::from(key), sealed, tag, &mut plain)
                    .ok()
                    .ok_or(PayloadError::Authentication)?;
                Ok(plain)
            }
            Cipher::Box => {
                let (nonce, rest) =
                    payload.split_first_chunk::<BOX_NONCE_LEN>().ok_or(PayloadError::Short)?;
                let (tag, sealed) =
                    rest.split_first_chunk::<TAG_LEN>().ok_or(PayloadError::Short)?;
                let mut plain = sealed.to_vec();
                if !secretbox::open(self.box_key(), nonce, tag, &mut plain) {
                    return Err(PayloadError::Authentication);
                }
                Ok(plain)
            }
            Cipher::Kms(envelope) => envelope.open(key, payload),
        }
    }

    /// Binds a record to its place in an exported file: HMAC-SHA256 over both.
    pub(crate) fn bind(&self, place: &[u8], record: &[u8]) -> [u8; BINDING_LEN] {
        let mut context = hmac::Context::with_key(&self.binding);
        let place_len = u64::try_from(place.len()).expect("a length fits 64 bits");
        context.update(&place_len.to_be_bytes());
        context.update(place);
        context.update(record);
        context.sign().as_ref().try_into().expect("a SHA-256 tag has 32 bytes")
    }

    fn box_key(&self) -> &[u8; BOX_KEY_LEN] {
        self.material.secret().expose().first_chunk().expect("the secret was measured")
    }

    /// The head and a nonce, with capacity for exactly `rest_len` bytes more.
    fn begun(&self, nonce: &[u8], rest_len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.head.len() + nonce.len() + rest_len);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(nonce);
        out
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
    let tag = derived(secret, KEY_ID_LABEL, algorithm);
    let first = tag.as_ref().first_chunk().expect("a SHA-256 tag has 32 bytes");
    KeyId(u64::from_be_bytes(*first))
}

/// Value derived from a secret for a use besides its cipher: HMAC-SHA256 of the use and the cipher's
/// name.
fn derived(secret: &Secret, label: &[u8], algorithm: Algorithm) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    context.update(label);
    context.update(algorithm.name().as_bytes());
    context.sign()
}

/// Appends `bytes`, and zeros up to `len`, and gives the place where they now lie.
fn append<'a>(out: &'a mut Vec<u8>, bytes: &[u8], len: usize) -> &'a mut [u8] {
    let start = out.len();
    out.extend_from_slice(bytes);
    out.resize(start + len, 0);
    out.split_at_mut(start).1
}

fn drawn<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// Encrypts the first `plain_len` bytes of `text`, the rest of which is for the padding.
fn cbc_seal(aes: &Aes, iv: &[u8; BLOCK_LEN], text: &mut [u8], plain_len: usize) {
    fn seal<C>(aes: &C, iv: &[u8; BLOCK_LEN], text: &mut [u8], plain_len: usize)
    where
        C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
    {
        cbc::Encryptor::inner_iv_init(aes, iv.into())
            .encrypt_padded::<Pkcs7>(text, plain_len)
            .expect("there is room for the padding");
    }
    match aes {
        Aes::Aes128(aes) => seal(aes, iv, text, plain_len),
        Aes::Aes192(aes) => seal(aes, iv, text, plain_len),
        Aes::Aes256(aes) => seal(aes, iv, text, plain_len),
    }
}

fn cbc_open(aes: &Aes, payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    fn open<C>(aes: &C, iv: &[u8; BLOCK_LEN], sealed: &[u8], out: &mut [u8]) -> bool
    where
        C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
    {
        cbc::Decryptor::inner_iv_init(aes, iv.into())
            .decrypt_padded_b2b::<NoPadding>(sealed, out)
            .is_ok()
    }
    let (iv, sealed) = payload.split_first_chunk::<BLOCK_LEN>().ok_or(PayloadError::Short)?;
    if sealed.is_empty() {
        return Err(PayloadError::Short);
    }
    let mut plain = vec![0; sealed.len()];
    let is_whole = match aes {
        Aes::Aes128(aes) => open(aes, iv, sealed, &mut plain),
        Aes::Aes192(aes) => open(aes, iv, sealed, &mut plain),
        Aes::Aes256(aes) => open(aes, iv, sealed, &mut plain),
    };
    if !is_whole {
        return Err(PayloadError::PartialBlock);
    }
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
