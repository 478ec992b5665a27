//! Header that every file of a data directory begins with: kind and id of the file, the data key
//! that encrypts it, and the salt of its own key. The layout is in `docs/formats/sealed-file.md`.

use std::fmt;

use aws_lc_rs::aead::LessSafeKey;
use keepd_env::Random;
use thiserror::Error;

use crate::secret::{Secret, derive_aead};

/// The length of the header of every file.
pub const FILE_HEADER_LEN: usize = 96;

/// The first bytes of every file.
pub const FILE_MAGIC: [u8; 8] = *b"keepdfil";
const FORMAT_VERSION: u16 = 1;
const SALT_LEN: usize = 32;
/// Offset of the header's checksum, which covers everything before it.
const CRC_AT: usize = FILE_HEADER_LEN - 4;
/// Advice to an operator whose configuration refuses plain data.
pub(crate) const PLAIN_REMEDY: &str = "if this data is yours and is to be encrypted now, put `- identity: {}` last in every rule, and \
     take it out again when `keepd encryption status` shows no plain file, or start once with \
     --encryption-trust-plain-data; if it was encrypted before, somebody has put other files in \
     its place: restore it from a backup";
const FILE_KEY_LABEL: &[u8] = b"keepd file key v1";

/// Kind of a file; part of its key's derivation and of every frame's authenticated data.
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
    /// The record of an install that is under way.
    Install = 5,
}

impl FileKind {
    /// The number in files.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "log",
            Self::Manifest => "manifest",
            Self::Segment => "segment",
            Self::Checkpoint => "checkpoint",
            Self::Install => "install record",
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

/// Reason why a file cannot be opened, from its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// Fewer bytes than a header.
    #[error("the file ends inside its header, at byte {len}")]
    Short {
        /// Number of bytes.
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

/// Fields of a header.
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) data_key: DataKeyId,
    pub(crate) file_id: u64,
    salt: [u8; SALT_LEN],
}

impl Header {
    /// The header of a new file, with a salt of its own.
    pub(crate) fn draw(
        kind: FileKind,
        data_key: DataKeyId,
        file_id: u64,
        random: &dyn Random,
    ) -> Self {
        let mut salt = [0; SALT_LEN];
        random.fill(&mut salt);
        Self { kind: kind.number(), data_key, file_id, salt }
    }

    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut out = Vec::with_capacity(FILE_HEADER_LEN);
        out.extend_from_slice(&FILE_MAGIC);
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
    pub(crate) fn decode(bytes: &[u8]) -> Result<([u8; FILE_HEADER_LEN], Self), FileError> {
        let Some(header) = bytes.first_chunk::<FILE_HEADER_LEN>() else {
            return Err(FileError::Short { len: bytes.len() });
        };
        if header.iter().all(|byte| *byte == 0) {
            return Err(FileError::Blank);
        }
        let mut rest = header.as_slice();
        if take(&mut rest) != FILE_MAGIC {
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

    /// The file's own key, derived from a data key.
    pub(crate) fn file_key(&self, secret: &Secret) -> LessSafeKey {
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
