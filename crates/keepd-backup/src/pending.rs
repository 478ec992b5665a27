//! A restore that waits for its keys.
//!
//! A file with sealed values cannot be imported without the encryption configuration: what hashes
//! and limits must know of the plaintexts is not in it. `restore` then only puts the file, as it
//! is, and its own parameters into the data directory; the first start imports them. Until then the
//! directory shows no more than the file did.
//!
//! ```text
//! <data-dir>/
//!   import/            made as `import.partial` and renamed when whole
//!     snapshot.db      the file
//!     restore.json     the parameters
//! ```

use std::path::Path;

use keepd_crypto::EncryptionConfig;
use keepd_env::Env;
use keepd_member::{Layout, remake_dir, sync_with_parent};

use crate::restore::make_member;
use crate::snapshot_file::{CheckedSnapshot, SnapshotFile};
use crate::{Error, Progress, RestoreOptions, Restored};

/// The directory's name while it is being made.
pub(crate) const PARTIAL_NAME: &str = "import.partial";
const NAME: &str = "import";
const SNAPSHOT_NAME: &str = "snapshot.db";
const OPTIONS_NAME: &str = "restore.json";

/// Whether `data_dir` waits for [`complete_pending`].
///
/// # Errors
/// If the disk cannot tell.
pub fn is_pending(env: &Env, data_dir: &Path) -> Result<bool, Error> {
    Ok(env.disk.exists(&data_dir.join(NAME))?)
}

/// Puts a checked file in place.
pub(crate) fn put(
    env: &Env,
    file: &SnapshotFile,
    data_dir: &Path,
    options: &RestoreOptions,
) -> Result<(), Error> {
    let partial = data_dir.join(PARTIAL_NAME);
    remake_dir(&*env.disk, &partial)?;
    let copy = env.disk.create(&partial.join(SNAPSHOT_NAME))?;
    file.copy_to(&*copy)?;
    let json = serde_json::to_vec(options).expect("options can be told in JSON");
    env.disk.replace(&partial.join(OPTIONS_NAME), &json)?;
    env.disk.sync_dir(&partial)?;
    env.disk.rename(&partial, &data_dir.join(NAME))?;
    Ok(sync_with_parent(&*env.disk, data_dir)?)
}

/// Imports what waits in `data_dir`, if anything does; to be called at every start before the
/// member's directory is opened. Safe to repeat after an interruption.
///
/// # Errors
/// If the keys are not in the configuration, or as [`crate::restore()`].
pub fn complete_pending(
    env: &Env,
    data_dir: &Path,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Restored>, Error> {
    if !is_pending(env, data_dir)? {
        return Ok(None);
    }
    let dir = data_dir.join(NAME);
    let mut restored = None;
    // A member's directory means that only the removal was interrupted.
    if !env.disk.exists(&Layout::new(data_dir).member)? {
        if encryption.is_none() {
            return Err(Error::PendingNeedsKeys { dir: data_dir.to_owned() });
        }
        let path = dir.join(OPTIONS_NAME);
        let options: RestoreOptions = serde_json::from_slice(&env.disk.read(&path)?)
            .map_err(|_malformed| Error::PendingMalformed { path })?;
        let cluster = options.cluster()?;
        let snapshot = CheckedSnapshot::open(env, &dir.join(SNAPSHOT_NAME), &options, progress)?;
        let imported =
            make_member(env, &snapshot, data_dir, &cluster, &options, encryption, progress)?;
        restored = Some(Restored::new(&cluster, imported, false));
    }
    // ORDER: the member's name is durable before what it was made from goes. The process that made it
    // may have died before its sync.
    env.disk.sync_dir(data_dir)?;
    env.disk.remove_dir_all(&dir)?;
    env.disk.sync_dir(data_dir)?;
    Ok(restored)
}
