//! The bytes of a keyring; the layout is in `docs/formats/keyring.md`.
//!
//! The checksum tells damage from a wrong key. A master key is drawn for each writing and used
//! once; what the file says outside the sealed part is authenticated with it.

use std::collections::BTreeMap;
use std::str;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keepd_env::Random;
use keepd_types::KeyId;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::cipher::{Algorithm, KeyName, ProviderKey};
use crate::file_header::DataKeyId;
use crate::file_keys::KeySet;
use crate::key_service::WrappedKey;
use crate::secret::{KEY_LEN, Secret, derive_aead};

const MAGIC: [u8; 8] = *b"keepdkey";
const FORMAT_VERSION: u16 = 2;
/// Written while no key service has a key: a program that knows none reads it.
const FORMAT_VERSION_LOCAL: u16 = 1;
const WRAP_LABEL: &[u8] = b"keepd keyring wrap v1";
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const WRAPPED_LEN: usize = KEY_LEN + TAG_LEN;
const PLAIN_ALLOWED: u8 = 1;
/// Names are kept for messages only.
const NAME_LEN_MAX: usize = 255;

/// Fault of a keyring file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// It does not begin as a keyring does.
    #[error("it is not a keyring")]
    NotAKeyring,
    /// The format is newer than this program.
    #[error(
        "its format version {found} is not supported, the newest known one is {FORMAT_VERSION}"
    )]
    UnsupportedVersion {
        /// The version found.
        found: u16,
    },
    /// It is torn or damaged.
    #[error("its checksum does not match")]
    BadCrc,
    /// Its parts do not add up.
    #[error("its parts do not add up")]
    Malformed,
    /// A key's check value fits, its wrap does not open.
    #[error("it was tampered with: the wrapped key does not open")]
    BadWrap,
    /// The master key opens, the data keys do not.
    #[error("it was tampered with: the data keys do not open")]
    BadContents,
    /// It is not wrapped under the key that was tried.
    #[error("it is not wrapped under this key")]
    NoWrap,
}

/// A keyring file, still locked.
#[derive(Debug)]
pub(super) struct File {
    pub(super) generation: u64,
    wraps: Vec<Wrap>,
    /// Everything before the sealed part.
    outside: Vec<u8>,
    sealed: Vec<u8>,
}

/// The master key, encrypted with a key derived from one key of the configuration.
#[derive(Debug)]
struct Wrap {
    name: KeyName,
    method: WrapMethod,
    salt: [u8; SALT_LEN],
    wrapped: [u8; WRAPPED_LEN],
}

/// Source of the bytes that open a wrap.
#[derive(Debug)]
enum WrapMethod {
    /// The configuration has them.
    Local,
    /// A key service decrypts them.
    Service(WrappedKey),
}

impl WrapMethod {
    /// The method of a wrap under `name`.
    fn decode(rest: &mut &[u8], name: &KeyName) -> Result<Self, FormatError> {
        if name.algorithm != Algorithm::Kms {
            return Ok(Self::Local);
        }
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().ok_or(FormatError::Malformed);
        let key_id = text(take_bytes(rest)?)?;
        let ciphertext = take_bytes(rest)?;
        let mut annotations = BTreeMap::new();
        for _ in 0..u16::from_le_bytes(take(rest)?) {
            annotations.insert(text(take_bytes(rest)?)?, take_bytes(rest)?);
        }
        let provider = name.name.clone();
        let wrapped = WrappedKey { provider, key_id, ciphertext, annotations };
        wrapped.is_well_formed().then_some(Self::Service(wrapped)).ok_or(FormatError::Malformed)
    }
}

/// A keyring file with `set`, wrapped under each of `keys`.
pub(super) fn encode(
    generation: u64,
    set: &KeySet,
    keys: &BTreeMap<KeyId, Arc<ProviderKey>>,
    random: &dyn Random,
) -> Vec<u8> {
    let master = Secret::random(random);
    let is_local = keys.values().all(|key| key.material.wrapped().is_none());
    let version = if is_local { FORMAT_VERSION_LOCAL } else { FORMAT_VERSION };
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&count(keys.len()).to_le_bytes());
    for key in keys.values() {
        wrap(generation, key, &master, random, &mut out);
    }
    let mut contents = Zeroizing::new(contents(set));
    let sealed_len = contents.len() + TAG_LEN;
    out.extend_from_slice(&count(sealed_len).to_le_bytes());
    let tag = master_key(&master)
        .seal_in_place_separate_tag(zero_nonce(), Aad::from(&out), &mut contents)
        .expect("a keyring is far below AES-GCM's limit");
    out.extend_from_slice(&contents);
    out.extend_from_slice(tag.as_ref());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn wrap(
    generation: u64,
    key: &ProviderKey,
    master: &Secret,
    random: &dyn Random,
    out: &mut Vec<u8>,
) {
    let mut salt = [0; SALT_LEN];
    random.fill(&mut salt);
    let algorithm = algorithm_number(key.name.algorithm);
    let name = clipped(&key.name.name);
    out.extend_from_slice(&key.id().0.to_le_bytes());
    out.push(algorithm);
    out.push(u8::try_from(name.len()).expect("clipped to 255 bytes"));
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&salt);
    let mut wrapped = Zeroizing::new(master.expose().to_vec());
    wrap_key(key.material.secret(), &salt, &key.name)
        .seal_in_place_append_tag(zero_nonce(), wrap_aad(generation), &mut *wrapped)
        .expect("32 bytes are below AES-GCM's limit");
    out.extend_from_slice(&wrapped);
    if let Some(wrapped) = key.material.wrapped() {
        put_bytes(out, wrapped.key_id.as_bytes());
        put_bytes(out, &wrapped.ciphertext);
        out.extend_from_slice(&short(wrapped.annotations.len()).to_le_bytes());
        for (name, value) in &wrapped.annotations {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value);
        }
    }
}

impl File {
    /// Reads a keyring without opening it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut rest = bytes;
        if take::<8>(&mut rest).ok().ok_or(FormatError::NotAKeyring)? != MAGIC {
            return Err(FormatError::NotAKeyring);
        }
        let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::Malformed)?;
        if crc32c::crc32c(covered).to_le_bytes() != *crc {
            return Err(FormatError::BadCrc);
        }
        let version = u16::from_le_bytes(take(&mut rest)?);
        if !(FORMAT_VERSION_LOCAL..=FORMAT_VERSION).contains(&version) {
            return Err(FormatError::UnsupportedVersion { found: version });
        }
        let _reserved: [u8; 2] = take(&mut rest)?;
        let generation = u64::from_le_bytes(take(&mut rest)?);
        let mut wraps = Vec::new();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            wraps.push(Wrap::decode(&mut rest, version)?);
        }
        let sealed_len = u32::from_le_bytes(take(&mut rest)?);
        let outside_len = bytes.len() - rest.len();
        let outside = bytes.get(..outside_len).ok_or(FormatError::Malformed)?.to_vec();
        let sealed = rest.strip_suffix(crc).ok_or(FormatError::Malformed)?.to_vec();
        if u32::try_from(sealed.len()) != Ok(sealed_len) {
            return Err(FormatError::Malformed);
        }
        Ok(Self { generation, wraps, outside, sealed })
    }

    /// The keys of which any one opens it.
    pub(super) fn names(&self) -> Vec<KeyName> {
        self.wraps.iter().map(|wrap| wrap.name.clone()).collect()
    }

    /// The data keys that a key service has to decrypt before they open it.
    pub(super) fn wrapped_keys(&self) -> Vec<WrappedKey> {
        let of_service = |wrap: &Wrap| match &wrap.method {
            WrapMethod::Local => None,
            WrapMethod::Service(wrapped) => Some(wrapped.clone()),
        };
        self.wraps.iter().filter_map(of_service).collect()
    }

    /// Opens it with one key.
    pub(super) fn unlock(&self, key: &ProviderKey) -> Result<KeySet, FormatError> {
        let mut fitting = self.wraps.iter().filter(|wrap| wrap.name.id == key.id());
        let wrap = fitting.next().ok_or(FormatError::NoWrap)?;
        let mut wrapped = Zeroizing::new(wrap.wrapped.to_vec());
        let master = wrap_key(key.material.secret(), &wrap.salt, &key.name)
            .open_in_place(zero_nonce(), wrap_aad(self.generation), &mut wrapped)
            .ok()
            .ok_or(FormatError::BadWrap)?;
        let master = Secret::new(master.to_vec());
        let mut sealed = Zeroizing::new(self.sealed.clone());
        let contents = master_key(&master)
            .open_in_place(zero_nonce(), Aad::from(&self.outside), &mut sealed)
            .ok()
            .ok_or(FormatError::BadContents)?;
        read_contents(contents)
    }
}

impl Wrap {
    fn decode(rest: &mut &[u8], version: u16) -> Result<Self, FormatError> {
        let id = KeyId(u64::from_le_bytes(take(rest)?));
        let [algorithm, name_len] = take(rest)?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|known| algorithm_number(*known) == algorithm)
            .filter(|known| version > FORMAT_VERSION_LOCAL || *known != Algorithm::Kms)
            .ok_or(FormatError::Malformed)?;
        let (name, after) =
            rest.split_at_checked(usize::from(name_len)).ok_or(FormatError::Malformed)?;
        *rest = after;
        let name = str::from_utf8(name).ok().ok_or(FormatError::Malformed)?.to_owned();
        let name = KeyName { algorithm, name, id };
        let (salt, wrapped) = (take(rest)?, take(rest)?);
        let method = WrapMethod::decode(rest, &name)?;
        Ok(Self { name, method, salt, wrapped })
    }
}

fn contents(set: &KeySet) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + set.keys.len() * (4 + KEY_LEN) + TAG_LEN);
    out.extend_from_slice(&set.active.0.to_le_bytes());
    out.push(if set.plain_allowed { PLAIN_ALLOWED } else { 0 });
    out.extend_from_slice(&count(set.keys.len()).to_le_bytes());
    for (id, secret) in &set.keys {
        out.extend_from_slice(&id.0.to_le_bytes());
        out.extend_from_slice(secret.expose());
    }
    out
}

fn read_contents(mut rest: &[u8]) -> Result<KeySet, FormatError> {
    let active = DataKeyId(u32::from_le_bytes(take(&mut rest)?));
    let [flags] = take(&mut rest)?;
    let mut keys = BTreeMap::new();
    for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
        let id = DataKeyId(u32::from_le_bytes(take(&mut rest)?));
        let secret = Zeroizing::new(take::<KEY_LEN>(&mut rest)?);
        keys.insert(id, Secret::new(secret.to_vec()));
    }
    let active_is_held = active == DataKeyId::PLAIN || keys.contains_key(&active);
    if !rest.is_empty() || !active_is_held {
        return Err(FormatError::Malformed);
    }
    let plain_allowed = flags & PLAIN_ALLOWED != 0;
    Ok(KeySet { keys, active, plain_allowed, takes_plain: false })
}

/// The key that wraps the master key; used once, since the salt is fresh.
fn wrap_key(secret: &Secret, salt: &[u8], name: &KeyName) -> LessSafeKey {
    let info: [&[u8]; 3] =
        [WRAP_LABEL, &[algorithm_number(name.algorithm)], &name.id.0.to_le_bytes()];
    derive_aead(salt, secret, &info)
}

fn wrap_aad(generation: u64) -> Aad<[u8; 8]> {
    Aad::from(generation.to_le_bytes())
}

fn master_key(master: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, master.expose()).expect("a master key has 32 bytes");
    LessSafeKey::new(key)
}

/// For keys that seal one message.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

const fn algorithm_number(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::AesCbc => 1,
        Algorithm::AesGcm => 2,
        Algorithm::SecretBox => 3,
        Algorithm::Kms => 4,
    }
}

/// The front of a name, at most [`NAME_LEN_MAX`] bytes.
pub(super) fn clipped(name: &str) -> &str {
    name.get(..name.floor_char_boundary(NAME_LEN_MAX)).unwrap_or_default()
}

/// A length of a part of a wrapped key, all of which are bounded.
fn short(len: usize) -> u16 {
    u16::try_from(len).expect("a wrapped key was measured when it came")
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&short(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes(rest: &mut &[u8]) -> Result<Vec<u8>, FormatError> {
    let len = usize::from(u16::from_le_bytes(take(rest)?));
    let (bytes, after) = rest.split_at_checked(len).ok_or(FormatError::Malformed)?;
    *rest = after;
    Ok(bytes.to_vec())
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a configuration of 4 billion keys would not have been read")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (first, after) = rest.split_first_chunk().ok_or(FormatError::Malformed)?;
    *rest = after;
    Ok(*first)
}
