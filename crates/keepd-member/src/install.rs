//! The state of another member in the place of this one's, whole or not at all.
//!
//! A state is staged under `incoming/`. Once it is durable there the record `INSTALL` is written, and
//! from that moment on the install happens, whatever comes between: the store's names are switched, the
//! log begins anew, the record goes. A start that finds the record does what is left; one that finds
//! none removes what was staged. Layout and order: `docs/formats/install.md`.
//!
//! INVARIANT: while there is a record, `incoming/store` or `store` is the state that it names, and
//! nothing else is staged.

use std::path::{Path, PathBuf};

use keepd_crypto::{DataKeyId, FILE_HEADER_LEN, FileError, FileKeys, FileKind, FrameError};
use keepd_env::{Disk, Env, IoError};
use thiserror::Error;

use crate::create::remake_dir;
use crate::layout::Layout;

/// The staged store's name in `incoming/`.
const STORE_NAME: &str = "store";
/// The name there of the store that it replaces.
const REPLACED_NAME: &str = "replaced";
/// There is one record, so all have the same number; their salts differ.
const FILE_ID: u64 = 0;
const FRAME_KIND: u8 = 1;
const VERSION: u8 = 1;

/// Names the state that is to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallRecord {
    /// The last entry of the Raft log that is in it: the log begins after it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
}

/// Failure of an install.
#[derive(Debug, Error)]
pub enum InstallError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another install has not ended.
    #[error("{}: an install is under way", record.display())]
    UnderWay {
        /// Its record.
        record: PathBuf,
    },
    /// The staged state is not encrypted with the active data key, and counted nowhere: it has to be
    /// sent again.
    #[error("the data key changed since the state of another member was received")]
    KeyChanged,
    /// The record cannot be opened with the keys at hand.
    #[error("{}: {source}", record.display())]
    Key {
        /// The record.
        record: PathBuf,
        /// The reason.
        source: FileError,
    },
    /// The record does not hold what was written into it.
    #[error(
        "{}: the record of an install is damaged: {reason}; nothing was changed: bring the file back \
         from a copy of the disk, or remove this member from the cluster, add it again and let it begin \
         with an empty data directory", record.display()
    )]
    Damaged {
        /// The record.
        record: PathBuf,
        /// The finding.
        reason: String,
    },
    /// There is a staged state and no store, but no record that says so.
    #[error(
        "{}: the store is missing; nothing was changed: bring it back from a copy of the disk, or remove \
         this member from the cluster, add it again and let it begin with an empty data directory",
        store.display()
    )]
    StoreMissing {
        /// The store.
        store: PathBuf,
    },
}

/// Makes room for a state: removes what was staged before; the directory for the store.
///
/// # Errors
/// If an install is under way, or a file operation fails.
pub fn begin(disk: &dyn Disk, member_dir: &Path) -> Result<PathBuf, InstallError> {
    let record = Layout::install(member_dir);
    if disk.exists(&record)? {
        return Err(InstallError::UnderWay { record });
    }
    // ORDER: a record that was removed stays away, before something else is staged.
    disk.sync_dir(member_dir)?;
    let incoming = Layout::incoming(member_dir);
    remake_dir(disk, &incoming)?;
    Ok(incoming.join(STORE_NAME))
}

/// Writes the record: from now on the staged store is the member's, be it after a start. `data_key` is
/// what the staged files are encrypted with.
///
/// # Errors
/// If the data key is not the active one any more, or a file operation fails. After one that was no
/// shortage the member has to stop: the next start knows whether there is a record.
pub fn commit(
    env: &Env,
    member_dir: &Path,
    keys: &FileKeys,
    data_key: DataKeyId,
    record: InstallRecord,
) -> Result<(), InstallError> {
    if keys.active() != data_key {
        return Err(InstallError::KeyChanged);
    }
    let disk = &*env.disk;
    // ORDER: the staged store has its name before the record names it.
    disk.sync_dir(&Layout::incoming(member_dir))?;
    disk.sync_dir(member_dir)?;
    let sealer = keys.create(FileKind::Install, FILE_ID, env.random.as_ref());
    let mut bytes = sealer.header().to_vec();
    let sealed = sealer.seal_frame(0, FRAME_KIND, &record.encode(), &mut bytes);
    sealed.expect("a record fits into a frame");
    Ok(disk.replace(&Layout::install(member_dir), &bytes)?)
}

/// Reads the record, if there is one.
///
/// # Errors
/// If it is damaged, its key is missing, or it cannot be read.
pub fn read(
    disk: &dyn Disk,
    member_dir: &Path,
    keys: &FileKeys,
) -> Result<Option<InstallRecord>, InstallError> {
    let path = Layout::install(member_dir);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let bytes = disk.read(&path)?;
    let damaged = |reason: String| InstallError::Damaged { record: path.clone(), reason };
    let (header, frame) = bytes
        .split_at_checked(FILE_HEADER_LEN)
        .ok_or_else(|| damaged("it ends inside its header".to_owned()))?;
    let sealer = keys.open(FileKind::Install, FILE_ID, header).map_err(|source| match source {
        FileError::UnknownDataKey { .. } | FileError::PlainRefused | FileError::PlainUntrusted => {
            InstallError::Key { record: path.clone(), source }
        }
        damage => damaged(damage.to_string()),
    })?;
    let opened =
        sealer.open_frame(0, frame).map_err(|fault: FrameError| damaged(fault.to_string()))?;
    InstallRecord::decode(&opened.plain)
        .filter(|_| opened.kind == FRAME_KIND)
        .map(Some)
        .ok_or_else(|| damaged("it is of a form that this version does not know".to_owned()))
}

/// Gives the staged store the store's name, if it has not got it yet. Only after [`commit`].
///
/// # Errors
/// If a file operation fails; it can be done again, by the next start at the latest.
pub fn switch(disk: &dyn Disk, member_dir: &Path) -> Result<(), IoError> {
    // ORDER: the record is durable before a name changes; the process that wrote it may have died
    // before its sync.
    disk.sync_dir(member_dir)?;
    let (incoming, store) = (Layout::incoming(member_dir), Layout::store(member_dir));
    let staged = incoming.join(STORE_NAME);
    if disk.exists(&staged)? {
        if disk.exists(&store)? {
            disk.rename(&store, &incoming.join(REPLACED_NAME))?;
        }
        // ORDER: the name is free on the disk too before another store gets it.
        disk.sync_dir(&incoming)?;
        disk.sync_dir(member_dir)?;
        disk.rename(&staged, &store)?;
    }
    if disk.exists(&incoming)? {
        disk.sync_dir(&incoming)?;
    }
    disk.sync_dir(member_dir)
}

/// Ends an install: its record goes, durably. Only once the store is switched and the log has begun anew.
///
/// # Errors
/// If a file operation fails.
pub fn finish(disk: &dyn Disk, member_dir: &Path) -> Result<(), IoError> {
    let record = Layout::install(member_dir);
    assert!(
        !disk.exists(&Layout::incoming(member_dir).join(STORE_NAME))?,
        "the staged store has become the member's"
    );
    if disk.exists(&record)? {
        disk.remove(&record)?;
    }
    disk.sync_dir(member_dir)
}

/// Removes what is staged and what was replaced. Only without a record; may take as long as it takes to
/// remove a store.
///
/// # Errors
/// If there is no store, or a file operation fails.
pub fn discard(disk: &dyn Disk, member_dir: &Path) -> Result<(), InstallError> {
    let incoming = Layout::incoming(member_dir);
    let (record, store) = (Layout::install(member_dir), Layout::store(member_dir));
    let unfinished = record.with_extension("tmp");
    if disk.exists(&unfinished)? {
        disk.remove(&unfinished)?;
    }
    if !disk.exists(&incoming)? {
        return Ok(());
    }
    if disk.exists(&record)? {
        return Err(InstallError::UnderWay { record });
    }
    if !disk.exists(&store)? {
        return Err(InstallError::StoreMissing { store });
    }
    // ORDER: the record stays away before what it named goes.
    disk.sync_dir(member_dir)?;
    disk.remove_dir_all(&incoming)?;
    Ok(disk.sync_dir(member_dir)?)
}

/// The directory of the store that a start would go on in. Changes nothing: for checks before it.
///
/// # Errors
/// If the disk cannot tell.
pub fn store_of_next_start(disk: &dyn Disk, member_dir: &Path) -> Result<PathBuf, IoError> {
    let staged = Layout::incoming(member_dir).join(STORE_NAME);
    let is_staged = disk.exists(&Layout::install(member_dir))? && disk.exists(&staged)?;
    Ok(if is_staged { staged } else { Layout::store(member_dir) })
}

impl InstallRecord {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (term, rest) = rest.split_first_chunk()?;
        let record = Self { index: u64::from_le_bytes(*index), term: u64::from_le_bytes(*term) };
        (version == VERSION && rest.is_empty() && record.index > 0).then_some(record)
    }
}

#[cfg(test)]
mod tests;
