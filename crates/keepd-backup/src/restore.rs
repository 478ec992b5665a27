//! `snapshot restore`: a data directory from a snapshot file, for a new cluster.
//!
//! The order of the checks and their texts are etcd's. A failed or interrupted run leaves nothing that
//! a server would start from (`keepd-member`), and can simply be repeated.

use std::path::Path;

use keepd_crypto::{EncryptionConfig, FileKeys, Keyring, ValueSealer};
use keepd_env::{Disk, DiskFile, Env};
use keepd_member::{BOOTSTRAP_INDEX, BOOTSTRAP_TERM, InitialCluster, Layout, create_log};
use keepd_mvcc::{Applied, JobRequest, Store};
use keepd_types::{ClusterId, MemberId};
use serde::{Deserialize, Serialize};

use crate::import::{Import, Imported, flush};
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
    let (sealer, keys) = match encryption {
        Some(config) => {
            let (_keyring, keys) = Keyring::create(env, dir, Some(config))?;
            (Some(ValueSealer::new(config)), keys)
        }
        None => (None, FileKeys::plain()),
    };
    let import = Import {
        reader: &snapshot.reader,
        meta: &snapshot.meta,
        cluster,
        bump: options.bump_revision,
        sealer: sealer.as_ref(),
        random: &*env.random,
    };
    let imported = fill_store(env, &Layout::store(dir), keys.clone(), &import, progress)?;

    create_log(env, dir, keys, cluster.identity())?;
    Ok(imported)
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
