//! `snapshot restore`: a data directory from a snapshot file, for a new cluster.
//!
//! The order of the checks and their texts are etcd's. A failed or interrupted run leaves nothing that
//! a server would start from (`keepd-member`), and can simply be repeated.

use std::path::Path;

use keepd_crypto::{EncryptionConfig, FileKeys, Keyring, ValueSealer};
use keepd_env::{Disk, DiskFile, Env};
use keepd_member::{
    BOOTSTRAP_INDEX, BOOTSTRAP_TERM, InitialCluster, Layout, create_log, create_log_behind,
};
use keepd_mvcc::{Applied, Digest, JobRequest, Store};
use keepd_types::{ClusterId, MemberId};
use keepd_wal::LogStart;
use serde::{Deserialize, Serialize};

use crate::import::{Import, Imported};
use crate::making::{flush, raise_revision, replace_membership};
use crate::replay::{self, EndOfReplay, Replayed, ShippedLog};
use crate::snapshot_file::{CheckedSnapshot, SnapshotFile};
use crate::{Error, Progress, pending};

/// The default bump of the revision, as etcd's documents advise. Without it a watcher or a controller
/// with a cache that has seen revisions newer than the file would meet them again, with another
/// meaning.
pub const DEFAULT_BUMP: u64 = 1_000_000_000;

/// Options of a restore; the fields are `etcdutl snapshot restore`'s flags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOptions {
    /// `--name`.
    pub name: String,
    /// `--initial-cluster`.
    pub initial_cluster: String,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// `--initial-advertise-peer-urls`.
    pub initial_advertise_peer_urls: String,
    /// `--skip-hash-check`.
    pub skip_hash_check: bool,
    /// `--bump-revision`; needs `mark_compacted`.
    pub bump_revision: u64,
    /// `--mark-compacted`; needs `bump_revision`.
    pub mark_compacted: bool,
    /// Whether to restore a file that has authentication enabled, which will not be enforced.
    pub without_authentication: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            initial_cluster: "default=http://localhost:2380".to_owned(),
            initial_cluster_token: "etcd-cluster".to_owned(),
            initial_advertise_peer_urls: "http://localhost:2380".to_owned(),
            skip_hash_check: false,
            bump_revision: DEFAULT_BUMP,
            mark_compacted: true,
            without_authentication: false,
        }
    }
}

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The local member's id.
    pub member: MemberId,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// The current revision, bumped if that was asked for.
    pub revision: i64,
    /// The last revision of the file.
    pub file_revision: i64,
    /// The number of records.
    pub records: u64,
    /// The number of records with a sealed value.
    pub sealed: u64,
    /// Whether the import itself waits for the first start, which has the keys. Then only the ids
    /// are known.
    pub is_pending: bool,
}

/// Makes `data_dir` from the file at `snapshot`.
///
/// Without an encryption configuration a file with sealed values is only put in place, as it is;
/// [`crate::complete_pending`] imports it at the first start, which has one.
///
/// # Errors
/// If the options, the directory or the file are refused, or a disk fails; `data_dir` is then as it
/// was.
pub fn restore(
    env: &Env,
    snapshot: &Path,
    data_dir: &Path,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, Error> {
    let open = || SnapshotFile::open(&*env.disk, snapshot, "open");
    restore_opened(env, open, data_dir, options, encryption, progress)
}

/// The same from a file that is open already, and whose bytes need not lie on the disk as they are
/// read.
///
/// # Errors
/// As [`restore()`].
pub fn restore_file(
    env: &Env,
    snapshot: Box<dyn DiskFile>,
    data_dir: &Path,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, Error> {
    let open = || SnapshotFile::of(snapshot);
    restore_opened(env, open, data_dir, options, encryption, progress)
}

fn restore_opened(
    env: &Env,
    open: impl FnOnce() -> Result<SnapshotFile, Error>,
    data_dir: &Path,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, Error> {
    let cluster = options.cluster()?;
    let existed = check_empty(&*env.disk, data_dir)?;
    let snapshot = CheckedSnapshot::check(open()?, options, progress)?;

    let outcome = if snapshot.meta.has_seals && encryption.is_none() {
        pending::put(env, snapshot.reader.source(), data_dir, options)
            .map(|()| Restored::new(&cluster, Imported::default(), true))
    } else {
        make_member(env, &snapshot, data_dir, &cluster, options, encryption, progress)
            .map(|imported| Restored::new(&cluster, imported, false))
    };
    if outcome.is_err() && !existed {
        // Nothing can be done about a second failure; the first one is told.
        let _ = env.disk.remove_dir_all(data_dir);
    }
    outcome
}

impl RestoreOptions {
    /// The cluster of the restored member.
    ///
    /// # Errors
    /// If the fields contradict each other.
    pub fn cluster(&self) -> Result<InitialCluster, Error> {
        if (self.bump_revision > 0) != self.mark_compacted {
            return Err(Error::MarkCompactedRequired);
        }
        Ok(InitialCluster::parse(
            &self.name,
            &self.initial_cluster,
            &self.initial_cluster_token,
            &self.initial_advertise_peer_urls,
        )?)
    }
}

impl Restored {
    pub(crate) const fn new(
        cluster: &InitialCluster,
        imported: Imported,
        is_pending: bool,
    ) -> Self {
        Self {
            member: cluster.local,
            cluster: cluster.id,
            revision: imported.revision,
            file_revision: imported.file_revision,
            records: imported.records,
            sealed: imported.sealed,
            is_pending,
        }
    }
}

/// Refuses a directory that holds anything but the remains of an interrupted restore; tells whether
/// it exists.
fn check_empty(disk: &dyn Disk, data_dir: &Path) -> Result<bool, Error> {
    let refused = || Error::DataDirNotEmpty(data_dir.to_owned());
    let layout = Layout::new(data_dir);
    let remains = [layout.partial.file_name(), Some(pending::PARTIAL_NAME.as_ref())];
    let names = disk.list(data_dir).map_err(|_unreadable| refused())?;
    if names.iter().any(|name| !remains.contains(&Some(name.as_ref()))) {
        return Err(refused());
    }
    Ok(disk.exists(data_dir)?)
}

/// Makes the member's directory from a file.
pub(crate) fn make_member(
    env: &Env,
    snapshot: &CheckedSnapshot,
    data_dir: &Path,
    cluster: &InitialCluster,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, Error> {
    keepd_member::create(&*env.disk, data_dir, |partial| {
        fill(env, snapshot, partial, cluster, options, encryption, progress)
    })
}

fn fill(
    env: &Env,
    snapshot: &CheckedSnapshot,
    dir: &Path,
    cluster: &InitialCluster,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, Error> {
    let (sealer, keys) = make_keys(env, dir, encryption)?;
    let import = Import {
        reader: &snapshot.reader,
        meta: &snapshot.meta,
        cluster: Some(cluster),
        bump: options.bump_revision,
        sealer: sealer.as_ref(),
        random: &*env.random,
    };
    let imported = fill_store(env, &Layout::store(dir), keys.clone(), &import, progress)?;

    create_log(env, dir, keys, cluster.identity())?;
    Ok(imported)
}

/// Makes the keyring of a member, if there is a configuration; the sealer of its values.
fn make_keys(
    env: &Env,
    dir: &Path,
    encryption: Option<&EncryptionConfig>,
) -> Result<(Option<ValueSealer>, FileKeys), Error> {
    let Some(config) = encryption else { return Ok((None, FileKeys::plain())) };
    let (_keyring, keys) = Keyring::create(env, dir, Some(config))?;
    Ok((Some(ValueSealer::new(config)), keys))
}

/// Makes `data_dir` from a snapshot and the log behind it: the state that the source had after the entry
/// at which the replay ends.
///
/// # Errors
/// As [`restore()`], or if the log does not fit to the snapshot, has a gap, or ends too early.
#[expect(clippy::too_many_arguments, reason = "those of a restore, and the log")]
pub fn restore_with_log(
    env: &Env,
    snapshot: Box<dyn DiskFile>,
    data_dir: &Path,
    options: &RestoreOptions,
    encryption: Option<&EncryptionConfig>,
    log: &mut dyn ShippedLog,
    end: EndOfReplay,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Restored, Replayed), Error> {
    let cluster = options.cluster()?;
    let existed = check_empty(&*env.disk, data_dir)?;
    let snapshot = CheckedSnapshot::check(SnapshotFile::of(snapshot)?, options, progress)?;
    if snapshot.meta.has_seals && encryption.is_none() {
        return Err(Error::PendingNeedsKeys { dir: data_dir.to_owned() });
    }
    let outcome = keepd_member::create(&*env.disk, data_dir, |dir| {
        let (sealer, keys) = make_keys(env, dir, encryption)?;
        let import = Import {
            reader: &snapshot.reader,
            meta: &snapshot.meta,
            cluster: None,
            bump: 0,
            sealer: sealer.as_ref(),
            random: &*env.random,
        };
        let place = Place { env, dir, keys, cluster: &cluster, bump: options.bump_revision };
        fill_with_log(&place, &import, log, end, progress)
    });
    if outcome.is_err() && !existed {
        // Nothing can be done about a second failure; the first one is told.
        let _ = env.disk.remove_dir_all(data_dir);
    }
    let (imported, replayed) = outcome?;
    Ok((Restored::new(&cluster, imported, false), replayed))
}

/// The member that is made.
struct Place<'a> {
    env: &'a Env,
    dir: &'a Path,
    keys: FileKeys,
    cluster: &'a InitialCluster,
    bump: u64,
}

/// Fills a member's directory from a snapshot and a log.
fn fill_with_log(
    place: &Place<'_>,
    import: &Import<'_>,
    log: &mut dyn ShippedLog,
    end: EndOfReplay,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Imported, Replayed), Error> {
    let Place { env, dir, keys, cluster, bump } = place;
    let base = import.meta.source.position().ok_or(Error::NoPosition)?;
    let options = keepd_mvcc::Options::default();
    let mut store = Store::open((*env).clone(), &Layout::store(dir), keys.clone(), options)?;
    let mut imported = import.run(&mut store, progress)?;
    store.import_digest(Digest { since: base.since, index: base.index, value: base.digest });
    store.publish(Applied { index: base.index, term: base.term });
    flush(&mut store)?;
    let (mut machine, done) = replay::run(store, import.sealer, log, end)?;
    let applied = machine.applied();
    let store = machine.store_mut();
    imported.revision = raise_revision(store, *bump)?;
    replace_membership(store, cluster);
    // The new cluster's digests say nothing about the old one's.
    store.import_digest(Digest::begin(applied.index));
    store.publish(applied);
    flush(store)?;
    store.run(JobRequest::Checkpoint)?;
    assert_eq!(store.durable(), applied, "everything replayed has been flushed");
    drop(machine);
    let start = LogStart { index: applied.index, term: applied.term };
    create_log_behind(env, dir, keys.clone(), cluster.identity(), start, applied.term)?;
    Ok((imported, done))
}

fn fill_store(
    env: &Env,
    dir: &Path,
    keys: FileKeys,
    import: &Import<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, Error> {
    let applied = Applied { index: BOOTSTRAP_INDEX, term: BOOTSTRAP_TERM };
    let mut store = Store::open(env.clone(), dir, keys, keepd_mvcc::Options::default())?;
    let imported = import.run(&mut store, progress)?;
    store.publish(applied);
    flush(&mut store)?;
    store.run(JobRequest::Checkpoint)?;
    assert_eq!(store.durable(), applied, "everything imported has been flushed");
    Ok(imported)
}
