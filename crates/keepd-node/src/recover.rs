//! A new cluster of one member, from the directory of a member whose majority is gone for good.
//!
//! The directory is copied and the copy changed: everything in its log is applied, whether it is known
//! to be committed or not, for nobody is left who could say otherwise; the revision rises, so that no
//! client meets a revision again that it has seen with another meaning (rule 9.11); the membership
//! becomes this one member under new ids, which former members that come back do not mix with. The log
//! begins anew behind the last entry. The copy is made under another name and renamed when it is
//! whole; the original is read only.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::{Encryption, EncryptionConfig};
use keepd_env::{Disk, Env, IoError};
use keepd_machine::{StateMachine, levels, tables};
use keepd_member::{InitialCluster, Layout, create_log_behind};
use keepd_mvcc::{Applied, JobRequest, Store};
use keepd_raft::{ConfChange, Core, EntryKind, Settings, Verdict};
use keepd_types::limits::REVISION_MAX;
use keepd_wal::{LogStart, Recovered, Wal};
use thiserror::Error;

use crate::boot;
use crate::bootstrap;
use crate::conf_state;
use crate::encryption::key_check;
use crate::error::BootError;
use crate::install;
use crate::open_store::open_store;
use crate::survivor::{Survivor, copied};

/// Space that a copy needs beside its files: for the new log and what the end of the old one writes.
const SPARE_BYTES: u64 = 64 << 20;
/// BOUND: bytes of a file in memory while it is copied.
const COPY_BYTES: usize = 1 << 20;
/// Entries that are applied before the records in memory are flushed.
const ENTRIES_PER_FLUSH: u64 = 1024;

/// The cluster to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// Its one member.
    pub member: InitialCluster,
    /// The rise of the revision; everything before is compacted then. 0 keeps both.
    pub bump: u64,
}

/// The new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredCluster {
    /// The last entry of the former log, from which the new one goes on.
    pub applied: Applied,
    /// Entries that were not in the store yet and were applied from the log.
    pub replayed: u64,
    /// The revision after the last entry.
    pub former_revision: i64,
    /// The revision now.
    pub revision: i64,
}

/// Failure of a recovery; what was begun is removed, and nothing else was changed.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The survivor's directory is refused, or the disk is.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The new data directory holds something.
    #[error(
        "{}: the new data directory is not empty; choose another --data-dir, or move this one aside",
        dir.display()
    )]
    NotEmpty {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// The copy does not fit.
    #[error(
        "{}: the copy needs {needed} bytes and {available} are free on this file system; choose a \
         --data-dir on another one, or free space", dir.display()
    )]
    Space {
        /// The new directory.
        dir: std::path::PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The revision cannot rise so far.
    #[error("the revision {revision} cannot be raised by {bump}; give a smaller --bump-revision")]
    Revision {
        /// The revision.
        revision: i64,
        /// The bump.
        bump: u64,
    },
}

impl From<IoError> for RecoverError {
    fn from(error: IoError) -> Self {
        Self::Boot(error.into())
    }
}

/// Makes the data directory `to` from a survivor. `progress` is told the bytes copied so far.
///
/// # Errors
/// If the survivor's keys are out of reach, its files are damaged, `to` is in use or holds something,
/// or the disk refuses. There is no member in `to` then, and the survivor is as it was.
pub fn recover(
    env: &Env,
    from: &Survivor,
    to: &Path,
    config: Option<EncryptionConfig>,
    cluster: &NewCluster,
    progress: &mut dyn FnMut(u64),
) -> Result<RecoveredCluster, RecoverError> {
    let disk = &*env.disk;
    let source = Layout::new(&from.data_dir).member;
    key_check::check(env, &source, config.as_ref())?;
    refuse_content(disk, to)?;
    disk.create_dir(to)?;
    let _lock = disk.lock_dir(to).map_err(|error| boot::in_use(error, to))?;
    // ORDER: again, with the lock: another run may have ended meanwhile.
    refuse_content(disk, to)?;
    let needed = from.bytes + from.bytes / 16 + SPARE_BYTES;
    let available = disk.space(to)?.available_bytes;
    if available < needed {
        return Err(RecoverError::Space { dir: to.to_owned(), needed, available });
    }
    keepd_member::create(disk, to, |partial| {
        copy(disk, &source, partial, progress)?;
        change(env, from, partial, config, cluster)
    })
}

/// Refuses a directory that holds anything but the remains of an interrupted run.
fn refuse_content(disk: &dyn Disk, to: &Path) -> Result<(), RecoverError> {
    let partial = Layout::new(to).partial;
    let remains = [partial.file_name(), Some(keepd_env::LOCK_NAME.as_ref())];
    let is_remains = |name: &String| remains.contains(&Some(name.as_ref()));
    if disk.list(to)?.iter().all(is_remains) {
        return Ok(());
    }
    Err(RecoverError::NotEmpty { dir: to.to_owned() })
}

fn copy(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), IoError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    for (path, len) in copied(disk, from)? {
        let name = path.strip_prefix(from).expect("it was found below");
        let target = to.join(name);
        let folder = target.parent().expect("it is below");
        disk.create_dir(folder)?;
        let (source, copy) = (disk.open(&path)?, disk.create(&target)?);
        let mut at = 0;
        while at < len {
            let left = usize::try_from(len - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let piece = &mut buffer[..left];
            source.read_exact_at(piece, at)?;
            copy.write_all_at(piece, at)?;
            at += left as u64;
            done += left as u64;
            progress(done);
        }
        copy.sync()?;
        disk.sync_dir(folder)?;
    }
    disk.sync_dir(to)
}

/// Makes the copy the new cluster's first member.
fn change(
    env: &Env,
    from: &Survivor,
    dir: &Path,
    config: Option<EncryptionConfig>,
    cluster: &NewCluster,
) -> Result<RecoveredCluster, RecoverError> {
    let encryption = Encryption::open(env, dir, config).map_err(BootError::from)?;
    let keys = encryption.files();
    install::complete(env, dir, &keys)?;
    let store = open_store(env, dir, keys.clone()).map_err(BootError::from)?;
    let wal_dir = Layout::wal(dir);
    let log = Wal::read(env, &wal_dir, &keys).map_err(BootError::from)?;
    let term = log.hard_state.term;
    let in_store = store.applied().index;
    let mut machine = apply_all(env, store, log, from)?;
    let applied = machine.applied();
    let store = machine.store_mut();
    let former_revision = store.revision();
    let revision = raise_revision(store, cluster.bump)?;
    replace_membership(store, &cluster.member);
    store.publish(applied);
    flush(store)?;
    store.run(JobRequest::Checkpoint).map_err(BootError::from)?;
    assert_eq!(store.durable(), applied, "the whole log is in the store");
    drop(machine);
    // What was in the log is in the store, durably.
    env.disk.remove_dir_all(&wal_dir)?;
    let start = LogStart { index: applied.index, term: applied.term };
    create_log_behind(env, dir, keys, cluster.member.identity(), start, term)
        .map_err(BootError::from)?;
    let replayed = applied.index - in_store;
    Ok(RecoveredCluster { applied, replayed, former_revision, revision })
}

/// Applies everything that is in the log, as a member does whom a leader told that it is committed.
fn apply_all(
    env: &Env,
    store: Store,
    log: Recovered,
    from: &Survivor,
) -> Result<StateMachine, BootError> {
    let mut restored = boot::initial_state(log, &store)?;
    let last = restored.entries.last().map_or(restored.start_index, |entry| entry.index);
    restored.hard_state.commit = last.max(restored.hard_state.commit);
    let settings = Settings {
        id: from.identity.member.0,
        heartbeat_ticks: 1,
        election_ticks: 10,
        pre_vote: true,
        read_retry_ticks: 1,
        rejoin_ticks: 0,
        catch_up_entries: 5000,
    };
    let mut core = Core::new(settings, restored, Arc::clone(&env.random))?;
    let mut machine = StateMachine::new(store, keepd_machine::Options::default())?;
    while let Some(actions) = core.actions() {
        core.persisted(actions.number);
        for entry in actions.committed {
            let at = Applied { index: entry.index, term: entry.term };
            if entry.kind != EntryKind::Normal {
                let unknown = |_malformed| keepd_machine::Halt::UnknownEntry { index: at.index };
                let change = ConfChange::decode(&entry.data).map_err(unknown)?;
                let judgement = machine.judge_change(at, &change.context)?;
                let verdict =
                    if judgement.is_accepted { Verdict::Accepted } else { Verdict::Rejected };
                let state = core.apply_conf_change(at.index, verdict);
                machine.set_conf_state(&conf_state::stored(state));
                continue;
            }
            if entry.data.is_empty() {
                machine.advance(at);
            } else {
                machine.apply_entry(at, entry.data)?;
            }
            core.applied(at.index);
            if at.index.is_multiple_of(ENTRIES_PER_FLUSH) {
                machine.publish();
                flush(machine.store_mut())?;
            }
        }
    }
    machine.publish();
    Ok(machine)
}

/// Raises the revision and compacts everything before, as a restore does; the revision then.
fn raise_revision(store: &mut Store, bump: u64) -> Result<i64, RecoverError> {
    let revision = store.revision();
    if bump == 0 {
        return Ok(revision);
    }
    let raised = i64::try_from(bump).ok().and_then(|bump| revision.checked_add(bump));
    let raised = raised.filter(|raised| *raised <= REVISION_MAX);
    let raised = raised.ok_or(RecoverError::Revision { revision, bump })?;
    store.import_revisions(raised, store.compact_revision());
    store.compact(raised).map_err(|error| BootError::Store(error.into()))?;
    Ok(raised)
}

/// Leaves the one member in the tables, and nothing that was known of the others: their alarms and what
/// they said that they read too.
fn replace_membership(store: &mut Store, cluster: &InitialCluster) {
    for table in [
        tables::MEMBERS,
        tables::MEMBERS_REMOVED,
        tables::ALARMS,
        tables::CLUSTER,
        tables::CONF_STATE,
    ] {
        let keys: Vec<Bytes> = store.meta(table).keys().cloned().collect();
        for key in keys {
            store.meta_delete(table, &key);
        }
    }
    bootstrap::begin_membership(store, cluster, levels::NEWEST);
}

fn flush(store: &mut Store) -> Result<(), BootError> {
    while store.run(JobRequest::Flush)? {}
    Ok(())
}

#[cfg(test)]
mod tests;
