//! Keys that encrypt the files of a data directory.
//!
//! A file is encrypted with its own key: HKDF-SHA256 over a data key of the keyring and a random
//! salt that is drawn whenever a file is begun. A nonce is a counter inside one file, so no pair of
//! key and nonce can come back, whatever happened to earlier files (rule: every opening for writing
//! begins a new file).
//!
//! Without encryption the same layout is used under data key 0, with checksums only.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use keepd_env::Random;

use crate::file_header::{DataKeyId, FileError, FileKind, Header};
use crate::file_sealer::FileSealer;
use crate::secret::Secret;

/// Keys that encrypt new files and open existing ones; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct FileKeys(Arc<ArcSwap<KeySet>>);

/// The keys at one moment; replaced as a whole.
#[derive(Clone, Debug)]
pub(crate) struct KeySet {
    /// Every data key that may encrypt some file.
    pub(crate) keys: BTreeMap<DataKeyId, Secret>,
    /// The data key of new files; [`DataKeyId::PLAIN`] or a key of `keys`.
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

    /// Data keys that may encrypt a file, ascending; [`DataKeyId::PLAIN`] is among them while
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
        let header = Header::draw(kind, set.active, file_id, random);
        let key = set.keys.get(&set.active).map(|secret| header.file_key(secret));
        assert_eq!(key.is_some(), set.active != DataKeyId::PLAIN, "the active key is held");
        FileSealer::new(header.encode(), kind.number(), file_id, set.active, key)
    }

    /// Opens an existing file from its first [`crate::FILE_HEADER_LEN`] bytes (more may be passed).
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

#[cfg(test)]
mod tests;
