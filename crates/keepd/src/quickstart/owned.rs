//! Ownership of the directory. One that somebody else made or may write is refused: they would know
//! its keys, or could put their own there.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{bail, ensure};

use super::Place;

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Refuses a place whose folder, certificates, keys or encryption configuration belong to another
/// user, can be written by others, or are links; and a folder that others can exchange as a whole.
pub(super) fn check(place: &Place) -> anyhow::Result<()> {
    let user = user();
    for parent in place.dir.ancestors().skip(1) {
        check_parent(parent)?;
    }
    check_one(&place.dir, user, "--dir")?;
    for path in [place.pki(), place.encryption(), place.backups()].into_iter().chain(place.data()) {
        check_one(&path, user, "it")?;
    }
    let entries = match fs::read_dir(place.pki()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => bail!("{}: {error}", place.pki().display()),
    };
    for entry in entries {
        check_one(&entry?.path(), user, "it")?;
    }
    Ok(())
}

fn check_parent(path: &Path) -> anyhow::Result<()> {
    // One that does not exist is made by us.
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    let is_open = meta.mode() & OTHERS_WRITE != 0 && meta.mode() & STICKY == 0;
    ensure!(
        !is_open,
        "every user of this machine can rename what lies in {} and put his own there; choose a \
         --dir elsewhere, or: chmod o-w {}",
        path.display(),
        path.display()
    );
    Ok(())
}

fn check_one(path: &Path, user: u32, what: &str) -> anyhow::Result<()> {
    let meta: Metadata = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => bail!("{}: {error}", path.display()),
    };
    let path = path.display();
    ensure!(
        !meta.is_symlink(),
        "{path} is a symbolic link, which may lead to what somebody else made; give the path that \
         it leads to, or put a real one there"
    );
    ensure!(
        meta.uid() == user,
        "{path} was made by another user (uid {}, this is uid {user}), who would know its keys; \
         choose another --dir, or take {what} over: chown -R {user} {path}",
        meta.uid()
    );
    ensure!(
        meta.mode() & GROUP_OR_OTHERS_WRITE == 0,
        "others can write {path} (mode {:03o}); if only you have: chmod -R go-w {path}",
        meta.mode() & 0o777
    );
    Ok(())
}

#[expect(unsafe_code, reason = "the standard library does not tell the user")]
fn user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
