//! Keyring of a data directory: the data keys that encrypt its files, themselves encrypted.
//!
//! `KEYRING` holds a master key wrapped under every real key of the encryption configuration, so
//! any one of them opens it, and the data keys under the master key. It is replaced as a whole and
//! is durable before anything is sealed under what it adds; then `KEYRING.prev` becomes a copy of it,
//! which is read if it is damaged. When a key leaves the configuration that copy is removed first, so
//! that the key opens nothing any more. The layout is in `docs/formats/keyring.md`.
//!
//! | configuration | files |
//! |---|---|
//! | none, no keyring | plain |
//! | some rule writes ciphertext | new files sealed; plain ones are read until rewritten |
//! | keys, but identity first everywhere | new files plain; sealed ones are read until rewritten |
//! | none, but a keyring | refused: the keys that it needs are named |

mod format;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_env::{Env, IoError};
use keepd_types::KeyId;
use thiserror::Error;

use crate::cipher::{KeyName, ProviderKey};
use crate::config::EncryptionConfig;
use crate::file_header::{DataKeyId, PLAIN_REMEDY};
use crate::file_keys::{FileKeys, KeySet};
use crate::key_service::WrappedKey;
use crate::secret::Secret;
pub use format::FormatError;

/// The keyring's name in a data directory.
pub const KEYRING_NAME: &str = "KEYRING";
/// The name of its copy; while a keyring is being replaced, of the one before.
pub const KEYRING_PREVIOUS_NAME: &str = "KEYRING.prev";

/// Reason why a data directory's keys are out of reach. Nothing has been changed.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The keyring is damaged, and so is its copy, if there is one.
    #[error("the keyring {} cannot be read: {reason}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its fault.
        reason: FormatError,
    },
    /// The directory is sealed, and no configuration was given.
    #[error(
        "the data directory is sealed and needs one of these keys: {}; start with \
         --encryption-provider-config and the file that has it",
        list(needed)
    )]
    NoConfiguration {
        /// The keys that open it.
        needed: Vec<KeyName>,
    },
    /// Plain files lie there, or did a moment ago, and the configuration takes none.
    #[error(
        "the data directory {} is not encrypted, or not yet as a whole, and the encryption \
         configuration takes no plain data: its rule for {rule} does not list identity; \
         {PLAIN_REMEDY}",
        dir.display()
    )]
    PlainUntrusted {
        /// The directory.
        dir: PathBuf,
        /// The first rule that does not list identity.
        rule: String,
    },
    /// The configuration has none of the keys.
    #[error(
        "the data directory is sealed and needs one of these keys: {}; the encryption \
         configuration has {}{}",
        list(needed),
        list(found),
        same_name(needed, found)
    )]
    WrongKeys {
        /// The keys that open it.
        needed: Vec<KeyName>,
        /// The keys of the configuration.
        found: Vec<KeyName>,
    },
}

fn list(names: &[KeyName]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The usual mistake: the right name over another secret.
fn same_name(needed: &[KeyName], found: &[KeyName]) -> String {
    let same = |a: &KeyName, b: &KeyName| a.algorithm == b.algorithm && a.name == b.name;
    match found.iter().find(|name| needed.iter().any(|needed| same(needed, name))) {
        Some(KeyName { algorithm, name, .. }) => {
            format!("; {algorithm}:{name} has the right name, but another secret")
        }
        None => String::new(),
    }
}

/// Files beside a keyring that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// There are none: the directory is being made.
    Nothing,
    /// There may be any: somebody may have put them there.
    Anything,
}

/// Changes of a keyring that a configuration made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringChange {
    /// Whether the keyring was written: keys came, went or were renamed.
    pub is_rewritten: bool,
    /// The data key of new files now.
    pub active: DataKeyId,
    /// Whether that is another key than before, or the first.
    pub is_new_data_key: bool,
}

/// A data directory's keyring, opened.
#[derive(Debug)]
pub struct Keyring {
    env: Env,
    dir: PathBuf,
    files: FileKeys,
    /// Keys that the open files share; replaced after the keyring is durable.
    set: KeySet,
    /// The file as it lies on disk; none if nothing was ever sealed.
    stored: Option<Stored>,
    /// Whether [`KEYRING_PREVIOUS_NAME`] was read in place of a damaged keyring.
    is_recovered: bool,
    /// Whether the damaged keyring is still in the directory.
    must_rewrite: bool,
}

/// The keyring's file as an open keyring found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringState {
    /// It is as it was written or read last.
    InPlace,
    /// It was damaged, and has been written again.
    Mended(PathBuf),
    /// Another one lies there, or none.
    Misplaced(PathBuf),
}

/// A keyring file that is known to be good.
#[derive(Debug)]
struct Stored {
    bytes: Vec<u8>,
    generation: u64,
    wrapped_under: Vec<KeyName>,
}

/// Content of a data directory's keyring, read without changing anything.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Opens the directory's files.
    pub files: FileKeys,
    /// The keys that values may be sealed under and that the configuration lacks.
    pub missing: Vec<KeyName>,
}

impl Keyring {
    /// Reads the keyring of `dir` and changes nothing; none if there is none.
    ///
    /// # Errors
    /// If the keys are out of reach.
    pub fn inspect(
        env: &Env,
        dir: &Path,
        config: Option<&EncryptionConfig>,
    ) -> Result<Option<Inspected>, KeyringError> {
        let Some((file, _, _)) = read(env, dir)? else { return Ok(None) };
        let takes_plain = config.is_some_and(|config| config.refuses_plain_files().is_none());
        let set = KeySet { takes_plain, ..unlock(dir, &file, config)? };
        let files = FileKeys::from_set(set);
        let known = config.map_or_else(BTreeMap::new, EncryptionConfig::keys);
        let missing = file.names().into_iter().filter(|name| !known.contains_key(&name.id));
        Ok(Some(Inspected { files, missing: missing.collect() }))
    }

    /// Reads which data keys a key service has to decrypt before the keyring of `dir` can be opened;
    /// changes nothing.
    ///
    /// # Errors
    /// If the keyring cannot be read.
    pub fn wrapped_keys(env: &Env, dir: &Path) -> Result<Vec<WrappedKey>, KeyringError> {
        let found = read(env, dir)?;
        Ok(found.map_or_else(Vec::new, |(file, _, _)| file.wrapped_keys()))
    }

    /// Opens the keyring of `dir`, or makes one if `config` asks for sealing and there is none, and
    /// brings it in line with `config`. The handle seals and opens files.
    ///
    /// # Errors
    /// If the keys are out of reach, or there is no keyring and the configuration takes no plain
    /// files; nothing has been changed then.
    pub fn open_or_create(
        env: &Env,
        dir: &Path,
        config: Option<&EncryptionConfig>,
    ) -> Result<(Self, FileKeys), KeyringError> {
        Self::begin(env, dir, config, Beside::Anything)
    }

    /// The first keyring of a directory that is being made and holds no file yet: with a
    /// configuration that seals, no plain file is ever opened in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(
        env: &Env,
        dir: &Path,
        config: Option<&EncryptionConfig>,
    ) -> Result<(Self, FileKeys), KeyringError> {
        Self::begin(env, dir, config, Beside::Nothing)
    }

    fn begin(
        env: &Env,
        dir: &Path,
        config: Option<&EncryptionConfig>,
        beside: Beside,
    ) -> Result<(Self, FileKeys), KeyringError> {
        let (set, stored, is_recovered) = match read(env, dir)? {
            None => {
                let seals = config.is_some_and(EncryptionConfig::seals);
                let plain_allowed = !(seals && beside == Beside::Nothing);
                (KeySet { plain_allowed, ..KeySet::plain() }, None, false)
            }
            Some((file, bytes, is_recovered)) => {
                let set = unlock(dir, &file, config)?;
                let (generation, wrapped_under) = (file.generation, file.names());
                (set, Some(Stored { bytes, generation, wrapped_under }), is_recovered)
            }
        };
        if env.disk.exists(dir)? {
            // ORDER: what was found is durable before a file is sealed under it. The process before
            // may have died between a renaming or removal and its sync; the content was synced first.
            env.disk.sync_dir(dir)?;
        }
        let files = FileKeys::from_set(set.clone());
        let (env, dir) = (env.clone(), dir.to_owned());
        let must_rewrite = is_recovered;
        let mut keyring =
            Self { env, dir, files: files.clone(), set, stored, is_recovered, must_rewrite };
        if let Some(config) = config {
            if keyring.stored.is_none() {
                keyring.check_plain(config)?;
            }
            keyring.bring_in_line(config)?;
        }
        Ok((keyring, files))
    }

    /// Brings the keyring in line with another configuration: wraps it under its keys and decides
    /// what seals new files. It is durable when this returns, so the new keys may be used.
    ///
    /// # Errors
    /// If plain files are left and it takes none, or if it cannot be written; the old one then
    /// still holds.
    pub fn apply(&mut self, config: &EncryptionConfig) -> Result<KeyringChange, KeyringError> {
        self.check_plain(config)?;
        self.bring_in_line(config)
    }

    /// Refuses a configuration that takes no plain files while some may be left.
    fn check_plain(&self, config: &EncryptionConfig) -> Result<(), KeyringError> {
        match config.refuses_plain_files().filter(|_| self.set.plain_allowed) {
            Some(rule) => {
                let rule = rule.to_string();
                Err(KeyringError::PlainUntrusted { dir: self.dir.clone(), rule })
            }
            None => Ok(()),
        }
    }

    fn bring_in_line(&mut self, config: &EncryptionConfig) -> Result<KeyringChange, KeyringError> {
        let keys = config.keys();
        if self.stored.is_some() && keys.is_empty() {
            let (needed, found) = (self.wrapped_under().to_vec(), Vec::new());
            return Err(KeyringError::WrongKeys { needed, found });
        }
        let takes_plain = config.refuses_plain_files().is_none();
        let mut set = KeySet { takes_plain, ..self.set.clone() };
        if config.seals() {
            // Who knew a key that has gone may know the data keys that it opened.
            let lost = |stored: &Stored| {
                stored.wrapped_under.iter().any(|name| !keys.contains_key(&name.id))
            };
            if set.active == DataKeyId::PLAIN || self.stored.as_ref().is_some_and(lost) {
                set.active = self.add_data_key(&mut set);
            }
        } else {
            set.active = DataKeyId::PLAIN;
            set.plain_allowed = true;
        }
        let is_new_data_key = set.active != self.set.active;
        let is_wrapped_so = match &self.stored {
            Some(stored) => stored.wrapped_under == names(&keys),
            None => !config.seals(),
        };
        let is_rewritten = !is_wrapped_so || is_new_data_key || self.must_rewrite;
        if is_rewritten {
            self.save(set, &keys)?;
        } else {
            self.files.store(set.clone());
            self.set = set;
            self.copy();
        }
        Ok(KeyringChange { is_rewritten, active: self.set.active, is_new_data_key })
    }

    /// Begins a new data key for new files; nothing if files are plain.
    ///
    /// # Errors
    /// If the keyring cannot be written; the old key then stays.
    pub fn rotate(&mut self, config: &EncryptionConfig) -> Result<DataKeyId, KeyringError> {
        if self.set.active != DataKeyId::PLAIN {
            let mut set = self.set.clone();
            set.active = self.add_data_key(&mut set);
            self.save(set, &config.keys())?;
        }
        Ok(self.set.active)
    }

    /// Forgets the data keys that no file is sealed under any more. `in_use` must name those of
    /// every file in the directory, those being written included.
    ///
    /// Once no plain file is left beside a sealing configuration, plain files are refused. Once no
    /// sealed file is left beside a plain one, the keyring is removed, and the configuration may
    /// go. Tells whether anything changed.
    ///
    /// # Errors
    /// If the keyring cannot be written or removed; it is then as it was, or may be retried.
    pub fn retire(
        &mut self,
        config: &EncryptionConfig,
        in_use: &BTreeSet<DataKeyId>,
    ) -> Result<bool, KeyringError> {
        if self.stored.is_none() {
            return Ok(false);
        }
        let mut set = self.set.clone();
        set.keys.retain(|id, _| *id == set.active || in_use.contains(id));
        set.plain_allowed &= set.active == DataKeyId::PLAIN || in_use.contains(&DataKeyId::PLAIN);
        if set.keys.is_empty() {
            self.remove(set)?;
            return Ok(true);
        }
        let is_changed =
            set.keys.len() != self.set.keys.len() || set.plain_allowed != self.set.plain_allowed;
        if is_changed {
            self.save(set, &config.keys())?;
        }
        Ok(is_changed)
    }

    /// The keys of which any one opens the keyring; none if nothing is sealed.
    #[must_use]
    pub fn wrapped_under(&self) -> &[KeyName] {
        self.stored.as_ref().map_or(&[], |stored| &stored.wrapped_under)
    }

    /// Whether the keyring was damaged and its copy was read. It has been written again.
    #[must_use]
    pub const fn is_recovered(&self) -> bool {
        self.is_recovered
    }

    /// Writes the keyring and its copy anew if they were damaged since they were written or read last.
    pub(crate) fn look_after(&self) -> Result<KeyringState, KeyringError> {
        let Some(stored) = self.stored.as_ref().filter(|_| !self.must_rewrite) else {
            return Ok(KeyringState::InPlace);
        };
        let path = self.path(KEYRING_NAME);
        let found = match self.env.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(KeyringState::Misplaced(path)),
            Err(error) => return Err(error.into()),
        };
        let state = if found == stored.bytes {
            KeyringState::InPlace
        } else {
            match format::File::decode(&found) {
                Ok(_) | Err(FormatError::UnsupportedVersion { .. }) => {
                    return Ok(KeyringState::Misplaced(path));
                }
                Err(_damage) => self.env.disk.replace(&path, &stored.bytes)?,
            }
            KeyringState::Mended(path)
        };
        self.copy();
        Ok(state)
    }

    fn add_data_key(&self, set: &mut KeySet) -> DataKeyId {
        // Random numbers: a file from before a lost keyring names a key that is not held, instead
        // of one that does not fit.
        let id = loop {
            let [a, b, c, d, ..] = self.env.random.next_u64().to_le_bytes();
            let id = DataKeyId(u32::from_le_bytes([a, b, c, d]));
            if id != DataKeyId::PLAIN && !set.keys.contains_key(&id) {
                break id;
            }
        };
        set.keys.insert(id, Secret::random(&*self.env.random));
        id
    }

    /// Writes `set`, wrapped under `keys`, and lets files use it once it is durable.
    fn save(
        &mut self,
        set: KeySet,
        keys: &BTreeMap<KeyId, Arc<ProviderKey>>,
    ) -> Result<(), KeyringError> {
        let disk = &*self.env.disk;
        let generation = self.stored.as_ref().map_or(1, |stored| stored.generation + 1);
        let bytes = format::encode(generation, &set, keys, &*self.env.random);
        let (path, previous) = (self.path(KEYRING_NAME), self.path(KEYRING_PREVIOUS_NAME));
        if !disk.exists(&self.dir)? {
            disk.create_dir(&self.dir)?;
        }
        if let Some(stored) = &self.stored {
            let key_is_gone = stored.wrapped_under.iter().any(|name| !keys.contains_key(&name.id));
            // No copy says that plain files are taken once they are not.
            let plain_is_gone = self.set.plain_allowed && !set.plain_allowed;
            let is_void = key_is_gone || plain_is_gone;
            if is_void && self.must_rewrite {
                // The copy is all that there is; it must not go before the keyring itself is good.
                disk.replace(&path, &stored.bytes)?;
            }
            if is_void && disk.exists(&previous)? {
                disk.remove(&previous)?;
                disk.sync_dir(&self.dir)?;
            }
        }
        if let Err(error) = disk.replace(&path, &bytes) {
            self.put_back(&path);
            return Err(error.into());
        }
        self.stored = Some(Stored { bytes, generation, wrapped_under: names(keys) });
        self.set = set;
        self.must_rewrite = false;
        self.files.store(self.set.clone());
        self.copy();
        Ok(())
    }

    /// Makes the copy what the keyring is. The keyring holds without it, so one that cannot be written
    /// now is written when it is next looked after.
    fn copy(&self) {
        let Some(stored) = self.stored.as_ref().filter(|_| !self.must_rewrite) else { return };
        let (disk, previous) = (&*self.env.disk, self.path(KEYRING_PREVIOUS_NAME));
        let is_same = disk.read(&previous).is_ok_and(|bytes| bytes == stored.bytes);
        if !is_same {
            disk.replace(&previous, &stored.bytes).ok();
        }
    }

    /// Undoes a writing that failed, perhaps after its renaming: the configuration that holds must
    /// open what lies there. It may fail as well; the error that led here is the one to report.
    fn put_back(&self, path: &Path) {
        let disk = &*self.env.disk;
        let done = match &self.stored {
            Some(stored) => disk.replace(path, &stored.bytes),
            None => disk.remove(path).and_then(|()| disk.sync_dir(&self.dir)),
        };
        done.ok();
    }

    fn remove(&mut self, set: KeySet) -> Result<(), KeyringError> {
        let disk = &*self.env.disk;
        // ORDER: the newer one goes last, so that what a crash leaves is never the older alone.
        for name in [KEYRING_PREVIOUS_NAME, KEYRING_NAME] {
            let path = self.path(name);
            if disk.exists(&path)? {
                disk.remove(&path)?;
                disk.sync_dir(&self.dir)?;
            }
        }
        self.stored = None;
        self.set = set;
        self.files.store(self.set.clone());
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The keys' names as a keyring keeps them.
fn names(keys: &BTreeMap<KeyId, Arc<ProviderKey>>) -> Vec<KeyName> {
    let clipped = |key: &ProviderKey| KeyName {
        name: format::clipped(&key.name.name).to_owned(),
        ..key.name.clone()
    };
    keys.values().map(|key| clipped(key)).collect()
}

/// The keyring of a directory, its bytes, and whether they are the copy's; none if there is none.
fn read(env: &Env, dir: &Path) -> Result<Option<(format::File, Vec<u8>, bool)>, KeyringError> {
    let disk = &*env.disk;
    let mut damage = None;
    for (name, is_previous) in [(KEYRING_NAME, false), (KEYRING_PREVIOUS_NAME, true)] {
        let path = dir.join(name);
        if !disk.exists(&path)? {
            continue;
        }
        let bytes = disk.read(&path)?;
        match format::File::decode(&bytes) {
            Ok(file) => return Ok(Some((file, bytes, is_previous))),
            // A newer program wrote it; the one before would only hide that.
            Err(reason @ FormatError::UnsupportedVersion { .. }) => {
                return Err(KeyringError::Damaged { path, reason });
            }
            Err(reason) => damage = damage.or(Some(KeyringError::Damaged { path, reason })),
        }
    }
    damage.map_or(Ok(None), Err)
}

/// Opens a keyring with any key of the configuration.
fn unlock(
    dir: &Path,
    file: &format::File,
    config: Option<&EncryptionConfig>,
) -> Result<KeySet, KeyringError> {
    let needed = file.names();
    let Some(config) = config else { return Err(KeyringError::NoConfiguration { needed }) };
    let keys = config.keys();
    let mut failure = None;
    for key in keys.values() {
        match file.unlock(key) {
            Ok(set) => return Ok(set),
            Err(FormatError::NoWrap) => {}
            Err(reason) => failure = Some(reason),
        }
    }
    let path = dir.join(KEYRING_NAME);
    Err(match failure {
        Some(reason) => KeyringError::Damaged { path, reason },
        None => KeyringError::WrongKeys { needed, found: config.key_names() },
    })
}

#[cfg(test)]
mod tests;
