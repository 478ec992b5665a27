//! The proof of a backup: it is read back, opened, restored into a scratch store, and the store compared
//! with the member's `HashKV`.

use std::io::{self, Read, Write as _};

use keepd_backup::{Progress, RestoreOptions, Status};
use keepd_crypto::{ConfigOptions, Encryption, EncryptionConfig, quickstart_config};
use keepd_env::Env;
use keepd_member::Layout;
use keepd_mvcc::{Applied, HashKv, Options, Store};

use crate::age::Keys;
use crate::format::OpeningReader;
use crate::scratch::{Scratch, ScratchFile};
use crate::sidecar::{HashFacts, Sidecar, StateFacts};
use crate::{Error, Moment};

/// Bytes of a snapshot that is not known yet; etcd advises against stores of more than 8 GiB.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;

/// A stage of the work, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The object is read and opened.
    Fetch,
    /// The snapshot is checked.
    Check,
    /// The snapshot is restored.
    Restore,
}

/// Tells of a stage: bytes done and in all.
pub type Tell<'a> = dyn FnMut(Stage, u64, u64) + 'a;

/// Reads an object into a scratch file as the snapshot in it, and compares it with its sidecar.
///
/// # Errors
/// If it is not the object of the sidecar, no key opens it, or there is too little space.
pub fn fetch<R: Read>(
    object: R,
    sidecar: &Sidecar,
    keys: &Keys,
    scratch: &Scratch,
    tell: &mut Tell<'_>,
) -> Result<ScratchFile, Error> {
    scratch.check_space(sidecar.state.snapshot_bytes)?;
    let is_sealed = !sidecar.opened_by.is_empty();
    let bytes_max = sidecar.state.snapshot_bytes.min(SNAPSHOT_BYTES_MAX);
    let mut reader = OpeningReader::new(object, is_sealed, keys, bytes_max)?;
    let mut file = scratch.create("snapshot")?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let len = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::reading(error)),
        };
        file.write_all(&buffer[..len]).map_err(Error::Write)?;
        tell(Stage::Fetch, reader.object_bytes(), sidecar.bytes);
    }
    let found = reader.finish()?;
    let compared = |what, expected: String, found: String| {
        if expected == found { Ok(()) } else { Err(Error::Digest { what, expected, found }) }
    };
    compared("size", sidecar.bytes.to_string(), found.bytes.to_string())?;
    compared("SHA-256", sidecar.sha256.clone(), found.sha256)?;
    compared("content", sidecar.state.snapshot_bytes.to_string(), file.len().to_string())?;
    file.finish().map_err(Error::Write)
}

/// Checks a snapshot's SHA-256 and structure, and compares what it holds with a sidecar.
///
/// # Errors
/// If it is damaged, or something else.
pub fn check(file: &ScratchFile, state: &StateFacts, tell: &mut Tell<'_>) -> Result<Status, Error> {
    let status = examine(file, tell)?;
    let revision = |number: i64| u64::try_from(number).unwrap_or_default();
    for (what, expected, found) in [
        ("revision", revision(state.revision), revision(of_state(&status))),
        ("number of keys", state.keys, status.total_keys),
        ("number of sealed values", state.sealed_values, status.sealed_values),
    ] {
        if expected != found {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(Error::NotEqual { what, expected, found });
        }
    }
    Ok(status)
}

/// The revision of a snapshot's state. One whose last records are compacted away has none of its
/// revision, and an empty one is at 1.
#[must_use]
pub fn of_state(status: &Status) -> i64 {
    status.revision.max(status.compact_revision).max(1)
}

/// Checks a snapshot's SHA-256 and structure; what it holds.
///
/// # Errors
/// If it is damaged.
pub fn examine(file: &ScratchFile, tell: &mut Tell<'_>) -> Result<Status, Error> {
    let mut told = |it: Progress| tell(Stage::Check, it.done, it.total);
    Ok(keepd_backup::status_file(Box::new(file.clone()), &mut told)?)
}

/// Restores a snapshot into the scratch folder, sealed, and compares it with the member's `HashKV`.
/// `config` is the encryption configuration of the cluster, needed if values are sealed.
///
/// # Errors
/// If it cannot be restored, or to something else.
pub fn restore(
    env: &Env,
    file: &ScratchFile,
    state: &StateFacts,
    config: Option<&EncryptionConfig>,
    scratch: &Scratch,
    tell: &mut Tell<'_>,
) -> Result<(), Error> {
    let expected = state.hash_kv.ok_or_else(|| Error::NotEqual {
        what: "HashKV",
        expected: "not recorded, so that nothing can be proven".to_owned(),
        found: "unknown".to_owned(),
    })?;
    if state.sealed_values > 0 && config.is_none() {
        return Err(Error::ValuesAreSealed(state.sealed_values));
    }
    // A store has its live records once, and some room to write.
    scratch.check_space(state.snapshot_bytes.saturating_mul(2))?;
    let own;
    let config = match config {
        Some(config) if config.seals() || state.sealed_values > 0 => config,
        _ => {
            own = passing_config(env);
            &own
        }
    };
    let dir = scratch.path().join("restored");
    let options = RestoreOptions {
        bump_revision: 0,
        mark_compacted: false,
        without_authentication: true,
        ..RestoreOptions::default()
    };
    let mut told = |it: Progress| tell(Stage::Restore, it.done, it.total);
    let file = Box::new(file.clone());
    keepd_backup::restore_file(env, file, &dir, &options, Some(config), &mut told)?;
    let found = hash_of(env, &dir, config, expected);
    // The next one to be proven has the same name.
    env.disk.remove_dir_all(&dir)?;
    compare(expected, found?)
}

/// A configuration that seals everything under a key that is forgotten with it, and takes plain values.
fn passing_config(env: &Env) -> EncryptionConfig {
    let text = quickstart_config(&*env.random);
    let options = ConfigOptions { trust_plain_data: true, ..ConfigOptions::default() };
    EncryptionConfig::parse_with("scratch", text.as_bytes(), options)
        .expect("the first configuration of quickstart is right")
}

/// The restored store's hash, after the compaction that the member had carried out when it was asked.
fn hash_of(
    env: &Env,
    dir: &std::path::Path,
    config: &EncryptionConfig,
    expected: HashFacts,
) -> Result<HashKv, Error> {
    let member = Layout::new(dir).member;
    let keys = Encryption::open(env, &member, Some(config.clone()))?.files();
    let mut store = Store::open(env.clone(), &Layout::store(&member), keys, Options::default())?;
    let view = store.views().load();
    if expected.compact_revision <= view.compact_revision() {
        return Ok(view.hash_kv(expected.revision)?);
    }
    store.compact(expected.compact_revision).map_err(keepd_mvcc::Error::from)?;
    let applied: Applied = store.durable();
    Ok(store.publish(applied).hash_kv(expected.revision)?)
}

fn compare(expected: HashFacts, found: HashKv) -> Result<(), Error> {
    let compaction = |revision: i64| revision.max(0).to_string();
    for (what, expected, found) in [
        ("HashKV", expected.hash.to_string(), found.hash.to_string()),
        (
            "the compaction",
            compaction(expected.compact_revision),
            compaction(found.compact_revision),
        ),
    ] {
        if expected != found {
            return Err(Error::NotEqual { what, expected, found });
        }
    }
    Ok(())
}

/// The moment now.
#[must_use]
pub fn now(env: &Env) -> Moment {
    Moment::of_wall(env.clock.wall())
}

#[cfg(test)]
mod tests;
