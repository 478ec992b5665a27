//! Making a member's directory, whole or not at all.

use std::path::Path;

use keepd_crypto::FileKeys;
use keepd_env::{Disk, Env, IoError};
use keepd_types::HardState;
use keepd_wal::{Batch, LogStart, Wal};

use crate::layout::{BOOTSTRAP_INDEX, BOOTSTRAP_TERM, Identity, Layout};

/// Makes the member's directory of `data_dir`: `fill` gets it under another name, with empty folders
/// for log and store, and when everything in it is durable it is renamed. The remains of an earlier
/// attempt are removed, since nothing was ever acknowledged from them.
///
/// # Errors
/// Those of `fill`, or if a file operation fails; there is no member then.
pub fn create<T, E: From<IoError>>(
    disk: &dyn Disk,
    data_dir: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let Layout { member, partial } = Layout::new(data_dir);
    remake_dir(disk, &partial)?;
    let filled = match make_folders(disk, &partial).map_err(E::from).and_then(|()| fill(&partial)) {
        Ok(filled) => filled,
        Err(error) => {
            // Space that a failed attempt took is given back; the first error is told.
            let _ = disk.remove_dir_all(&partial);
            return Err(error);
        }
    };
    disk.sync_dir(&partial)?;
    disk.rename(&partial, &member)?;
    // ORDER: the member's name is durable before anything is acknowledged from it.
    sync_with_parent(disk, data_dir)?;
    Ok(filled)
}

fn make_folders(disk: &dyn Disk, dir: &Path) -> Result<(), IoError> {
    disk.create_dir(&Layout::store(dir))?;
    disk.create_dir(&Layout::wal(dir))
}

/// Makes an empty directory, whatever an interrupted run left there.
///
/// # Errors
/// If a file operation fails.
pub fn remake_dir(disk: &dyn Disk, dir: &Path) -> Result<(), IoError> {
    if disk.exists(dir)? {
        disk.remove_dir_all(dir)?;
    }
    disk.create_dir(dir)
}

/// Makes the names in a directory durable, and its own name.
///
/// # Errors
/// If a file operation fails.
pub fn sync_with_parent(disk: &dyn Disk, dir: &Path) -> Result<(), IoError> {
    disk.sync_dir(dir)?;
    disk.sync_dir(dir.parent().unwrap_or_else(|| Path::new(".")))
}

/// Makes the log of a new member. It starts after the index that stands for the initial membership,
/// which counts as committed.
///
/// # Errors
/// If the log cannot be written.
pub fn create_log(
    env: &Env,
    member_dir: &Path,
    keys: FileKeys,
    identity: Identity,
) -> Result<(), keepd_wal::Error> {
    let start = LogStart { index: BOOTSTRAP_INDEX, term: BOOTSTRAP_TERM };
    create_log_behind(env, member_dir, keys, identity, start, BOOTSTRAP_TERM)
}

/// Makes the log of a new cluster's member that goes on from the state of another cluster: it starts
/// after that one's last entry, in a term that nobody of it has seen later than `term`.
///
/// # Errors
/// If the log cannot be written.
pub fn create_log_behind(
    env: &Env,
    member_dir: &Path,
    keys: FileKeys,
    identity: Identity,
    start: LogStart,
    term: u64,
) -> Result<(), keepd_wal::Error> {
    let dir = Layout::wal(member_dir);
    let mut wal = Wal::create(env.clone(), &dir, keys, &identity.encode(), start)?;
    let hard_state = HardState { term: term.max(start.term), vote: 0, commit: start.index };
    wal.append(&Batch { entries: &[], hard_state: Some(hard_state) })?;
    wal.close()?;
    Ok(())
}

/// Makes the log of a member that joins a cluster: it is empty, and what the cluster has comes from
/// the leader.
///
/// # Errors
/// If the log cannot be written.
pub fn create_joining_log(
    env: &Env,
    member_dir: &Path,
    keys: FileKeys,
    identity: Identity,
) -> Result<(), keepd_wal::Error> {
    let dir = Layout::wal(member_dir);
    let start = LogStart { index: 0, term: 0 };
    Wal::create(env.clone(), &dir, keys, &identity.encode(), start)?.close()
}

#[cfg(test)]
mod tests {
    use keepd_env::SimDisk;

    use super::*;

    const DATA: &str = "/data";

    fn attempt(disk: &SimDisk, result: Result<u8, IoError>) -> Result<u8, IoError> {
        create(disk, Path::new(DATA), |partial| {
            assert!(disk.list(partial)?.iter().eq(["store", "wal"]), "nothing of an earlier one");
            disk.replace(&partial.join("KEYRING"), b"keys")?;
            result
        })
    }

    #[test]
    fn a_directory_is_whole_or_not_there() {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(DATA)).unwrap();
        let missing = disk.read(Path::new("/data/nothing")).unwrap_err();
        attempt(&disk, Err(missing)).unwrap_err();
        assert_eq!(disk.list(Path::new(DATA)).unwrap(), Vec::<String>::new());
        disk.create_dir(Path::new("/data/member.partial/wal/old")).unwrap();
        assert_eq!(attempt(&disk, Ok(7)).unwrap(), 7);
        assert_eq!(disk.list(Path::new(DATA)).unwrap(), ["member"]);
        assert_eq!(disk.read(Path::new("/data/member/KEYRING")).unwrap(), b"keys");
    }
}
