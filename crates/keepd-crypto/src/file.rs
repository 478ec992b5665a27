//! Which keys seal the files of a data directory, and the header each such file begins with.
//!
//! A file is sealed under its own key: HKDF-SHA256 over a data key of the keyring and a random salt
//! that is drawn whenever a file is begun. A nonce is a counter inside one file, so no pair of key
//! and nonce can come back, whatever happened to earlier files (rule: every opening for writing
//! begins a new file). The layout is in `docs/formats/sealed-file.md`.
//!
//! Without encryption the same layout is used under data key 0, with checksums only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use keepd_env::Random;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::frame::FileSealer;
use crate::secret::{KEY_LEN, Secret};

/// The length of the header of every file.
pub const FILE_HEADER_LEN: usize = 96;

const MAGIC: [u8; 8] = *b"keepdfil";
const FORMAT_VERSION: u16 = 1;
const SALT_LEN: usize = 32;
/// Where the header's checksum lies; it covers everything before it.
const CRC_AT: usize = FILE_HEADER_LEN - 4;
/// How plain data is brought under a configuration that refuses it.
pub(crate) const PLAIN_REMEDY: &str = "if this data is yours and is to be encrypted now, put `- identity: {}` last in every rule, and \
     take it out again when `keepd encryption status` shows no plain file, or start once with \
     --encryption-trust-plain-data; if it was encrypted before, somebody has put other files in \
     its place: restore it from a backup";
const FILE_KEY_LABEL: &[u8] = b"keepd file key v1";

/// What a file is; part of its key's derivation and of every frame's authenticated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A segment of the Raft log.
    Wal = 1,
    /// The list of a store's files.
    Manifest = 2,
    /// A segment of records.
    Segment = 3,
    /// A checkpoint of the key index.
    Checkpoint = 4,
}

impl FileKind {
    /// The number in files.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Wal => 1,
            Self::Manifest => 2,
            Self::Segment => 3,
            Self::Checkpoint => 4,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "log",
            Self::Manifest => "manifest",
            Self::Segment => "segment",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// A data key of a keyring, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId(pub u32);

impl DataKeyId {
    /// No key: the file is plain.
    pub const PLAIN: Self = Self(0);
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a file cannot be opened, from its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// Fewer bytes than a header.
    #[error("the file ends inside its header, at byte {len}")]
    Short {
        /// How many bytes there are.
        len: usize,
    },
    /// Only zero bytes: space was reserved, but the header was never written.
    #[error("the file's header was never written")]
    Blank,
    /// It does not begin as a file of keepd's does.
    #[error("not a file of keepd's")]
    NotOurs,
    /// The header is damaged.
    #[error("the file's header is damaged: its checksum does not match")]
    BadCrc,
    /// The format is newer than this program.
    #[error(
        "file format version {found} is not supported, the newest known one is {FORMAT_VERSION}"
    )]
    UnsupportedVersion {
        /// The version found.
        found: u16,
    },
    /// The file is another kind of file than its name says.
    #[error("expected a {expected} file, found kind {found}")]
    WrongKind {
        /// The kind asked for.
        expected: FileKind,
        /// The kind's number in the header.
        found: u8,
    },
    /// The file is another one than its name says.
    #[error("expected file {expected:016x}, found {found:016x}")]
    WrongFileId {
        /// The id asked for.
        expected: u64,
        /// The id in the header.
        found: u64,
    },
    /// The keyring holds no such data key.
    #[error("the file is sealed under data key {id}, which the keyring does not hold")]
    UnknownDataKey {
        /// The key's number.
        id: DataKeyId,
    },
    /// Every file of this directory has been sealed, so a plain one cannot be keepd's.
    #[error(
        "the file is plain, but every file of this data directory is known to be sealed: it was \
         put there by somebody else; restore the data directory from a backup"
    )]
    PlainRefused,
    /// The encryption configuration takes no plain files.
    #[error(
        "the file is plain, and the encryption configuration takes no plain files; {PLAIN_REMEDY}"
    )]
    PlainUntrusted,
}

/// What seals new files and opens existing ones; a cheap handle, shared by all who do.
#[derive(Clone, Debug)]
pub struct FileKeys(Arc<ArcSwap<KeySet>>);

/// The keys at one moment; replaced as a whole.
#[derive(Clone, Debug)]
pub(crate) struct KeySet {
    /// Every data key that some file may be sealed under.
    pub(crate) keys: BTreeMap<DataKeyId, Secret>,
    /// What seals new files; [`DataKeyId::PLAIN`] or a key of `keys`.
    pub(crate) active: DataKeyId,
    /// Whether plain files may be left; no longer once the last one has been rewritten.
    pub(crate) plain_allowed: bool,
    /// Whether the configuration takes plain files. Never stored: a copy of an older keyring
    /// could otherwise bring it back.
    pub(crate) takes_plain: bool,
}

impl KeySet {
    /// No keys: plain files only.
    pub(crate) const fn plain() -> Self {
        Self {
            keys: BTreeMap::new(),
            active: DataKeyId::PLAIN,
            plain_allowed: true,
            takes_plain: true,
        }
    }
}

impl FileKeys {
    /// No encryption: frames carry checksums only.
    #[must_use]
    pub fn plain() -> Self {
        Self::from_set(KeySet::plain())
    }

    /// One random key that lives as long as this handle: for scratch files and tests.
    #[must_use]
    pub fn ephemeral(random: &dyn Random) -> Self {
        let id = DataKeyId(1);
        let keys = BTreeMap::from([(id, Secret::random(random))]);
        Self::from_set(KeySet { keys, active: id, ..KeySet::plain() })
    }

    pub(crate) fn from_set(set: KeySet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(set)))
    }

    /// Replaces the keys for every holder of a handle; files that are open stay as they are.
    pub(crate) fn store(&self, set: KeySet) {
        self.0.store(Arc::new(set));
    }

    /// Whether new files are sealed.
    #[must_use]
    pub fn is_sealing(&self) -> bool {
        self.active() != DataKeyId::PLAIN
    }

    /// The data key that seals new files.
    #[must_use]
    pub fn active(&self) -> DataKeyId {
        self.0.load().active
    }

    /// Everything a file may be sealed under, ascending; [`DataKeyId::PLAIN`] is among them while
    /// plain files may exist. A store counts its files by these.
    #[must_use]
    pub fn known(&self) -> Vec<DataKeyId> {
        let set = self.0.load();
        let plain = set.plain_allowed.then_some(DataKeyId::PLAIN);
        plain.into_iter().chain(set.keys.keys().copied()).collect()
    }

    /// Begins a new file: a fresh salt, hence a fresh key.
    ///
    /// Call it whenever a file is opened for writing from its start; an existing file is never
    /// extended under a sealer that did not write it.
    #[must_use]
    pub fn create(&self, kind: FileKind, file_id: u64, random: &dyn Random) -> FileSealer {
        let set = self.0.load();
        let mut salt = [0; SALT_LEN];
        random.fill(&mut salt);
        let header = Header { kind: kind.number(), data_key: set.active, file_id, salt };
        let key = set.keys.get(&set.active).map(|secret| header.file_key(secret));
        assert_eq!(key.is_some(), set.active != DataKeyId::PLAIN, "the active key is held");
        FileSealer::new(header.encode(), kind.number(), file_id, set.active, key)
    }

    /// Opens an existing file from its first [`FILE_HEADER_LEN`] bytes (more may be passed).
    ///
    /// # Errors
    /// If they are damaged, belong to another file or name a key that is not held.
    pub fn open(
        &self,
        kind: FileKind,
        file_id: u64,
        header: &[u8],
    ) -> Result<FileSealer, FileError> {
        let (bytes, header) = Header::decode(header)?;
        if header.kind != kind.number() {
            return Err(FileError::WrongKind { expected: kind, found: header.kind });
        }
        if header.file_id != file_id {
            return Err(FileError::WrongFileId { expected: file_id, found: header.file_id });
        }
        let set = self.0.load();
        let id = header.data_key;
        if id == DataKeyId::PLAIN && !set.plain_allowed {
            return Err(FileError::PlainRefused);
        }
        if id == DataKeyId::PLAIN && !set.takes_plain {
            return Err(FileError::PlainUntrusted);
        }
        let key = match set.keys.get(&id) {
            Some(secret) => Some(header.file_key(secret)),
            None if id == DataKeyId::PLAIN => None,
            None => return Err(FileError::UnknownDataKey { id }),
        };
        Ok(FileSealer::new(bytes, header.kind, file_id, id, key))
    }
}

/// HKDF-SHA256 with `salt`, into an AES-256-GCM key for `info`.
pub(crate) fn derive_aead(salt: &[u8], secret: &Secret, info: &[&[u8]]) -> LessSafeKey {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret.expose())
        .expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are what HKDF-SHA256 gives in one block");
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("AES-256 takes 32 bytes");
    LessSafeKey::new(key)
}

/// A header's fields.
struct Header {
    kind: u8,
    data_key: DataKeyId,
    file_id: u64,
    salt: [u8; SALT_LEN],
}

impl Header {
    fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut out = Vec::with_capacity(FILE_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.push(self.kind);
        out.push(0);
        out.extend_from_slice(&self.data_key.0.to_le_bytes());
        out.extend_from_slice(&self.file_id.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the fields and the padding are exactly a header long")
    }

    /// The header's own bytes and its fields.
    fn decode(bytes: &[u8]) -> Result<([u8; FILE_HEADER_LEN], Self), FileError> {
        let Some(header) = bytes.first_chunk::<FILE_HEADER_LEN>() else {
            return Err(FileError::Short { len: bytes.len() });
        };
        if header.iter().all(|byte| *byte == 0) {
            return Err(FileError::Blank);
        }
        let mut rest = header.as_slice();
        if take(&mut rest) != MAGIC {
            return Err(FileError::NotOurs);
        }
        let (covered, crc) = header.split_at(CRC_AT);
        if crc32c::crc32c(covered).to_le_bytes() != crc {
            return Err(FileError::BadCrc);
        }
        let version = u16::from_le_bytes(take(&mut rest));
        if version != FORMAT_VERSION {
            return Err(FileError::UnsupportedVersion { found: version });
        }
        let [kind, _reserved] = take(&mut rest);
        let data_key = DataKeyId(u32::from_le_bytes(take(&mut rest)));
        let file_id = u64::from_le_bytes(take(&mut rest));
        Ok((*header, Self { kind, data_key, file_id, salt: take(&mut rest) }))
    }

    fn file_key(&self, secret: &Secret) -> LessSafeKey {
        let info = [FILE_KEY_LABEL, &[self.kind], &self.file_id.to_le_bytes()];
        derive_aead(&self.salt, secret, &info)
    }
}

/// Takes the next `N` bytes of a header, whose length has been checked.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (first, after) = rest.split_first_chunk().expect("the fields fit into a header");
    *rest = after;
    *first
}

#[cfg(test)]
mod tests;
