//! The proof of a backup: it is read back, opened, restored into a scratch store, and the store compared
//! with the member's `HashKV`.

use std::io::{self, Read, Write as _};

use keepd_backup::{Progress, Status};
use keepd_crypto::EncryptionConfig;
use keepd_env::Env;
use keepd_mvcc::HashKv;

use crate::age::Keys;
use crate::format::OpeningReader;
use crate::scratch::{Scratch, ScratchFile};
use crate::sidecar::{HashFacts, LogFacts, Proven, Sidecar, StateFacts};
use crate::unpacked::Unpacked;
use crate::{Error, Moment};

pub use crate::stage::{Stage, Tell};

/// Bytes of a snapshot that is not known yet; etcd advises against stores of more than 8 GiB.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
/// The scratch file of what is proven.
const SNAPSHOT: &str = "snapshot";
/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;

/// All that a whole proof needs beside the backup.
#[derive(Debug)]
pub struct Prover<'a> {
    /// Disk, clock and randomness.
    pub env: &'a Env,
    /// The folder that it is restored into.
    pub scratch: &'a Scratch,
    /// The encryption configuration of the cluster, needed if values are sealed.
    pub config: Option<&'a EncryptionConfig>,
    /// The name of this host.
    pub by: String,
}

impl Prover<'_> {
    /// Opens what `object` reads, restores it and compares it with its source. `is_operators` if the keys are
    /// not those that were in memory when it was sealed.
    ///
    /// # Errors
    /// If it is not what was written, no key opens it, it restores to something else, or there is too
    /// little space.
    pub fn prove<R: Read>(
        &self,
        object: R,
        sidecar: &Sidecar,
        keys: &Keys,
        is_operators: bool,
        tell: &mut Tell<'_>,
    ) -> Result<Proven, Error> {
        let begin = self.env.clock.monotonic();
        let (file, _) = verify(object, sidecar, keys, self.scratch, tell)?;
        restore(self.env, &file, &sidecar.state, self.config, self.scratch, tell)?;
        let took = self.env.clock.monotonic() - begin;
        Ok(Proven {
            time: now(self.env),
            by: self.by.clone(),
            millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            with_operators_key: is_operators,
        })
    }
}

/// Reads a backup back into the scratch folder, in the place of the one before: the snapshot in it, compared
/// with its sidecar, and what it holds.
///
/// # Errors
/// If it is not what was written, no key opens it, or there is too little space.
pub fn verify<R: Read>(
    object: R,
    sidecar: &Sidecar,
    keys: &Keys,
    scratch: &Scratch,
    tell: &mut Tell<'_>,
) -> Result<(ScratchFile, Status), Error> {
    scratch.remove(SNAPSHOT)?;
    let file = fetch(object, sidecar, keys, scratch, tell)?;
    let status = check(&file, &sidecar.state, tell)?;
    Ok((file, status))
}

/// Reads an object into a scratch file as the snapshot in it, and compares it with its sidecar.
///
/// # Errors
/// If it is not the object of the sidecar, no key opens it, or there is too little space.
fn fetch<R: Read>(
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
    let mut file = scratch.create(SNAPSHOT)?;
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
fn check(file: &ScratchFile, state: &StateFacts, tell: &mut Tell<'_>) -> Result<Status, Error> {
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

/// The facts of a snapshot that was taken, with its source's hash.
#[must_use]
pub fn facts(file: &ScratchFile, status: &Status, hash_kv: HashFacts) -> StateFacts {
    StateFacts {
        revision: of_state(status),
        compact_revision: status.compact_revision,
        keys: status.total_keys,
        sealed_values: status.sealed_values,
        snapshot_bytes: file.bytes(),
        hash_kv: Some(hash_kv),
        log: status.position.map(LogFacts::from),
    }
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
    let mut unpacked = Unpacked::open(env, (file, state), config, (scratch, "restored"), tell)?;
    compare(expected, unpacked.hash_as(expected)?)
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
