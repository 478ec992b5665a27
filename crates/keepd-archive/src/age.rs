//! The age v1 file format (age-encryption.org/v1) over the one cryptographic library of keepd.
//!
//! A file is a header, which has the file's key once for each recipient, and a payload of 64 KiB
//! chunks. Whoever has an identity opens it with the program `age`; a recipient of keepd's own, a key of
//! an EncryptionConfiguration, is one more kind of stanza, which `age` passes over.
//! Layout: `docs/formats/backup.md`; why it is written here and not taken: `docs/decisions/0702-age.md`.

mod bech32;
mod config_key;
mod header;
mod payload;
mod x25519;

use std::fmt;
use std::io::{BufRead, Write};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use keepd_crypto::{EncryptionConfig, WrappedKey};
use keepd_env::Random;
use zeroize::Zeroizing;

use crate::Error;

pub use payload::{OpenReader, SealWriter};
pub use x25519::{Identity, Recipient, read_identities, read_recipients};

use self::header::{Header, Stanza};

const FILE_KEY_LEN: usize = 16;
const NONCE_LEN: usize = 16;

/// The key of one file.
#[derive(Clone)]
pub struct FileKey(Zeroizing<[u8; FILE_KEY_LEN]>);

impl FileKey {
    fn random(random: &dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0; FILE_KEY_LEN]);
        random.fill(bytes.as_mut_slice());
        Self(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// 32 bytes for one use.
    fn derive(&self, salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
        derive(self.0.as_slice(), salt, info)
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<file key>")
    }
}

/// HKDF-SHA256.
fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are what HKDF-SHA256 gives in one block");
    key
}

/// Those who can open a file.
#[derive(Clone, Debug, Default)]
pub struct Recipients {
    /// Public keys, whose private halves need not be on this machine.
    pub public: Vec<Recipient>,
    /// The first writing key of this configuration.
    pub config: Option<EncryptionConfig>,
}

impl Recipients {
    /// The keys by name, as a sidecar tells them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let public = self.public.iter().map(ToString::to_string);
        let config = self.config.as_ref().and_then(EncryptionConfig::writing_key);
        public.chain(config.map(|name| name.to_string())).collect()
    }
}

/// Keys that may open a file.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Private keys.
    pub identities: Vec<Identity>,
    /// An encryption configuration.
    pub config: Option<EncryptionConfig>,
    /// The key of the file itself, where it was sealed a moment ago.
    pub file_key: Option<FileKey>,
}

/// Writes the header of a new file; the writer that seals its payload, and its key.
///
/// # Errors
/// If there is no recipient, or nothing can be written.
pub fn seal<W: Write>(
    mut out: W,
    to: &Recipients,
    random: &dyn Random,
) -> Result<(SealWriter<W>, FileKey), Error> {
    let file_key = FileKey::random(random);
    let mut stanzas = Vec::new();
    for recipient in &to.public {
        stanzas.push(recipient.wrap(&file_key, random)?);
    }
    if let Some(config) = &to.config {
        stanzas.push(config_key::wrap(config, &file_key, random)?);
    }
    if stanzas.is_empty() {
        return Err(Error::NoRecipient);
    }
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce);
    let written = out.write_all(&header::encode(&stanzas, &file_key));
    written.and_then(|()| out.write_all(&nonce)).map_err(Error::Write)?;
    Ok((SealWriter::new(out, &payload_key(&file_key, &nonce)), file_key))
}

/// Reads the header of a file and gives the reader that opens its payload.
///
/// # Errors
/// If it is no age file, none of the keys opens it, or its header was changed.
pub fn open<R: BufRead>(mut from: R, keys: &Keys) -> Result<OpenReader<R>, Error> {
    let header = Header::read(&mut from)?;
    let file_key = match &keys.file_key {
        Some(key) => key.clone(),
        None => unwrap(&header.stanzas, keys)?,
    };
    header.check(&file_key)?;
    let mut nonce = [0; NONCE_LEN];
    from.read_exact(&mut nonce).map_err(Error::reading)?;
    Ok(OpenReader::new(from, &payload_key(&file_key, &nonce)))
}

/// Reads a header; the data keys of key services that would open the file once the service has
/// decrypted them.
///
/// # Errors
/// If it is no age file.
pub fn service_keys<R: BufRead>(mut from: R) -> Result<Vec<WrappedKey>, Error> {
    let header = Header::read(&mut from)?;
    let wrapped = header.stanzas.iter().filter_map(config_key::parse);
    Ok(wrapped.filter_map(|wrapped| wrapped.service).collect())
}

fn unwrap(stanzas: &[Stanza], keys: &Keys) -> Result<FileKey, Error> {
    for identity in &keys.identities {
        for stanza in stanzas {
            if let Some(key) = identity.unwrap(stanza)? {
                return Ok(key);
            }
        }
    }
    let mut needed = Vec::new();
    for stanza in stanzas {
        match config_key::parse(stanza) {
            Some(wrapped) => match config_key::unwrap(keys.config.as_ref(), &wrapped)? {
                Some(key) => return Ok(key),
                None => needed.push(wrapped.name.to_string()),
            },
            None => needed.push(stanza.described()),
        }
    }
    Err(Error::NoKeyOpens { needed, given: given(keys) })
}

/// The keys that were tried, for a message.
fn given(keys: &Keys) -> Vec<String> {
    let identities = keys.identities.iter().map(|identity| identity.recipient().to_string());
    let config = keys.config.iter().flat_map(EncryptionConfig::key_names);
    identities.chain(config.map(|name| name.to_string())).collect()
}

fn payload_key(file_key: &FileKey, nonce: &[u8; NONCE_LEN]) -> Zeroizing<[u8; 32]> {
    file_key.derive(nonce, b"payload")
}

#[cfg(test)]
mod tests;
