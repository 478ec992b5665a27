//! Files that are removed or exchanged under the running member: nothing may be acknowledged into
//! them.
//!
//! The WAL part looks at the log after every sync, before anybody is told; the flush part at the
//! store and the keyring after every flush, before the log lets anything go, and every second.

use std::io;
use std::path::{Path, PathBuf};

use keepd_crypto::KeyringState;
use keepd_env::{Disk, FileId, IoError, IoOp};

use crate::shared::Shared;

/// The log's active file as it was first seen.
#[derive(Debug, Default)]
pub(crate) struct LogInPlace {
    active: Option<(PathBuf, FileId)>,
}

impl LogInPlace {
    /// Fails if `active` does not lead to the file that it led to before.
    pub(crate) fn check(&mut self, disk: &dyn Disk, active: &Path) -> Result<(), IoError> {
        let found = disk.identity(active)?.ok_or_else(|| gone(active))?;
        match &self.active {
            Some((path, id)) if path == active => {
                if *id != found {
                    return Err(gone(active));
                }
            }
            _ => self.active = Some((active.to_owned(), found)),
        }
        Ok(())
    }
}

/// Fails if store or keyring are not where they were.
pub(crate) fn check_store(
    shared: &Shared,
    store: &keepd_mvcc::InPlace,
) -> Result<(), keepd_mvcc::Error> {
    if let Some(path) = store.missing()? {
        return Err(gone(&path).into());
    }
    match shared.encryption.look_after_keyring() {
        Ok(KeyringState::InPlace) => {}
        Ok(KeyringState::Mended(path)) => {
            tracing::warn!(path = %path.display(), "the keyring was damaged and has been written again");
        }
        Ok(KeyringState::Misplaced(path)) => return Err(gone(&path).into()),
        Err(error) => tracing::warn!(%error, "the keyring cannot be looked after"),
    }
    Ok(())
}

fn gone(path: &Path) -> IoError {
    let source = io::Error::other(
        "it was removed, moved away or replaced while this member runs, so what is written would be \
         lost; stop what changes the data directory, put it back or restore a snapshot, and start \
         again",
    );
    IoError { op: IoOp::Stat, path: path.to_owned(), source }
}
