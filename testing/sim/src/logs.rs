//! The logs of members, read from their disks as the next start would read them.

use std::path::Path;
use std::sync::Arc;

use keepd_crypto::{Encryption, EncryptionConfig, FileKeys};
use keepd_env::{Env, ManualClock, SeededRandom, SimDisk};
use keepd_member::Layout;
use keepd_types::Entry;
use keepd_wal::{LogStart, Recovered, Wal};

/// The log of a member.
#[derive(Clone, Debug)]
pub struct Log {
    /// The entry after which it starts.
    pub start: LogStart,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The member's term.
    pub term: u64,
    /// The last entry that is committed, as the log itself says: the member may know of more, which it
    /// has not written yet, nor perhaps the entries that take the place of those in the log.
    pub commit: u64,
}

/// A copy of a disk, and an environment to read it in.
fn copied(disk: &SimDisk) -> Env {
    Env {
        disk: Arc::new(disk.kill()),
        clock: Arc::new(ManualClock::new()),
        random: Arc::new(SeededRandom::new(1)),
    }
}

/// The keys of a disk's files, and an environment to read it in.
pub(crate) fn keys(
    disk: &SimDisk,
    data_dir: &Path,
    config: EncryptionConfig,
) -> Result<(Env, FileKeys), String> {
    let env = copied(disk);
    let member_dir = Layout::new(data_dir).member;
    let encryption = Encryption::open(&env, &member_dir, Some(config));
    Ok((env, encryption.map_err(|error| error.to_string())?.files()))
}

impl Log {
    /// Reads the log on a disk and leaves the disk alone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(disk: &SimDisk, data_dir: &Path, config: EncryptionConfig) -> Result<Self, String> {
        let (env, keys) = keys(disk, data_dir, config)?;
        let dir = Layout::wal(&Layout::new(data_dir).member);
        let recovered = Wal::read(&env, &dir, &keys).map_err(|error| error.to_string())?;
        let Recovered { start, entries, hard_state, .. } = recovered;
        Ok(Self { start, entries, term: hard_state.term, commit: hard_state.commit })
    }
}
