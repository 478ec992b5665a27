//! Opening a data directory, making it first if there is none (`keepd-member`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::{Encryption, EncryptionConfig, FILE_MAGIC, Keyring, WrappedKey};
use keepd_env::mutants::{self, Mutant};
use keepd_env::{DirLock, Disk, Env, IoError};
use keepd_machine::membership::ConfState;
use keepd_machine::{ClusterFacts, StateMachine, levels, tables};
use keepd_member::{Identity, Layout};
use keepd_mvcc::Store;
use keepd_raft::{Core, InitialState, Settings};
use keepd_wal::{Recovered, Wal};

use crate::ballast::{self, Ballast};
use crate::conf_state;
use crate::error::BootError;
use crate::force;
use crate::install;
use crate::open_store::open_store;
use crate::options::Options;

/// The time after which a read index without an answer is asked for again, as in etcd.
const READ_RETRY: Duration = Duration::from_millis(500);

/// A locked data directory with its encryption, ready for [`crate::Node::start`].
#[derive(Debug)]
pub struct DataDir {
    member_dir: PathBuf,
    encryption: Arc<Encryption>,
    ballast: Ballast,
    lock: Box<dyn DirLock>,
    is_new: bool,
}

/// The opened parts of a data directory.
pub(crate) struct Opened {
    pub(crate) machine: StateMachine,
    pub(crate) wal: Wal,
    pub(crate) core: Core,
    pub(crate) identity: Identity,
    pub(crate) encryption: Arc<Encryption>,
    pub(crate) ballast: Ballast,
    pub(crate) lock: Box<dyn DirLock>,
}

impl DataDir {
    /// Locks the data directory, makes a member in it if there is none, and opens its keys.
    ///
    /// # Errors
    /// If it is in use, its keys are out of reach, or a file operation fails. Nothing of an
    /// existing member is changed then.
    pub fn prepare(
        env: &Env,
        options: &Options,
        config: Option<EncryptionConfig>,
    ) -> Result<Self, BootError> {
        let disk = &*env.disk;
        let explain = |error| ballast::explain(disk, &options.data_dir, error);
        let layout = Layout::new(&options.data_dir);
        // Before the lock, whose file would be a change too.
        if is_etcds(disk, &layout.member)? {
            return Err(BootError::EtcdDirectory { dir: options.data_dir.clone() });
        }
        disk.create_dir(&options.data_dir).map_err(|error| explain(error.into()))?;
        let locked = disk.lock_dir(&options.data_dir);
        let lock = locked.map_err(|error| in_use(error, &options.data_dir))?;
        let is_new = !Self::has_member(env, &options.data_dir)?;
        if is_new {
            if disk.exists(&layout.member)? {
                disk.remove_dir_all(&layout.member)?;
            }
            keepd_member::create(disk, &options.data_dir, |partial| {
                options.bootstrap.fill(env, partial, config.clone(), options.feature_level)
            })
            .map_err(explain)?;
        }
        // ORDER: the member's name is durable before anything is acknowledged from it. The process
        // that renamed the directory may have died before its sync.
        disk.sync_dir(&options.data_dir)?;
        crate::encryption::key_check::check(env, &layout.member, config.as_ref())?;
        let ballast = Ballast::find(env, &layout.member, options.ballast_bytes);
        let encryption = ballast
            .start_with_room(|| Ok(Encryption::open(env, &layout.member, config.clone())?))?;
        let encryption = Arc::new(encryption);
        Ok(Self { member_dir: layout.member, encryption, ballast, lock, is_new })
    }

    /// Whether there is a member in the data directory, keepd's or etcd's.
    ///
    /// # Errors
    /// If the disk cannot tell.
    pub fn has_member(env: &Env, data_dir: &Path) -> Result<bool, BootError> {
        let member_dir = Layout::new(data_dir).member;
        Ok(env.disk.exists(&member_dir)? && !is_empty_frame(&*env.disk, &member_dir)?)
    }

    /// Reads which data keys a key service has to decrypt before the directory can be opened;
    /// changes nothing.
    ///
    /// # Errors
    /// If the keyring cannot be read.
    pub fn wrapped_keys(env: &Env, data_dir: &Path) -> Result<Vec<WrappedKey>, BootError> {
        Ok(Keyring::wrapped_keys(env, &Layout::new(data_dir).member)?)
    }

    /// The member's encryption; reloads go through it.
    #[must_use]
    pub fn encryption(&self) -> Arc<Encryption> {
        Arc::clone(&self.encryption)
    }

    /// Whether the member was made just now.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    pub(crate) fn open(self, env: &Env, options: &Options) -> Result<Opened, BootError> {
        let keys = self.encryption.files();
        let wal_dir = Layout::wal(&self.member_dir);
        let (store, (mut wal, mut recovered)) = self.ballast.start_with_room(|| {
            install::complete(env, &self.member_dir, &keys)?;
            let store = open_store(env, &self.member_dir, keys.clone())?;
            if let Some(damage) = store.rewound() {
                let applied = store.applied().index;
                tracing::error!(%damage, applied, "what lay behind the damage is applied again from the log");
            }
            Ok((store, Wal::open(env.clone(), &wal_dir, keys.clone())?))
        })?;
        if let Some(torn) = &recovered.torn_tail {
            tracing::warn!(
                ?torn,
                "the log ended in a write that was cut off; it was not acknowledged"
            );
        }
        ClusterFacts::of(store.meta(tables::CLUSTER))?.check_level(options.feature_level)?;
        let identity =
            Identity::decode(&recovered.metadata).ok_or(BootError::Identity { dir: wal_dir })?;
        if options.force_new_cluster && !self.is_new {
            let own = identity.member;
            force::go_on_alone(&mut wal, &mut recovered, &store, own, &*env.random)?;
        }
        if mutants::is_active(Mutant::ForgottenVote) {
            let last = recovered.entries.last().map_or(recovered.start.term, |entry| entry.term);
            (recovered.hard_state.term, recovered.hard_state.vote) = (last, 0);
        }
        let restored = initial_state(recovered, &store)?;
        let settings = Settings {
            id: identity.member.0,
            heartbeat_ticks: 1,
            election_ticks: election_ticks(options),
            pre_vote: options.pre_vote,
            read_retry_ticks: ticks(options, READ_RETRY),
            rejoin_ticks: if options.feature_level < levels::REJOIN {
                0
            } else {
                ticks(options, options.rejoin_patience())
            },
            catch_up_entries: options.catch_up_entries,
        };
        let core = Core::new(settings, restored, Arc::clone(&env.random))?;
        let machine_options = keepd_machine::Options {
            revoke_retry: options.request_timeout(),
            feature_level: options.feature_level,
        };
        store.set_reencryptor(crate::encryption::reencrypt::reencryptor(env, &self.encryption));
        if let Some(active) = tables::active_keys(store.meta(tables::CLUSTER)) {
            self.encryption.activate(active.keys);
        }
        let machine = StateMachine::new(store, machine_options)?;
        let Self { encryption, ballast, lock, .. } = self;
        Ok(Opened { machine, wal, core, identity, encryption, ballast, lock })
    }
}

/// Log and store as Raft's core takes them over.
pub(crate) fn initial_state(log: Recovered, store: &Store) -> Result<InitialState, BootError> {
    // None yet in a member that joins; the core judges.
    let members = ConfState::stored(store.meta(tables::CONF_STATE))?.unwrap_or_default();
    Ok(InitialState {
        hard_state: log.hard_state,
        start_index: log.start.index,
        start_term: log.start.term,
        entries: log.entries,
        applied_index: store.applied().index,
        conf_state: conf_state::of_core(members),
    })
}

/// Whether the member's directory holds nothing but etcd's empty folders, or not even those: an image
/// or a package made it, and no member ever wrote there.
fn is_empty_frame(disk: &dyn Disk, member_dir: &Path) -> Result<bool, IoError> {
    if !disk.exists(member_dir)? {
        return Ok(false);
    }
    for name in disk.list(member_dir)? {
        let inner = member_dir.join(&name);
        if !matches!(name.as_str(), "wal" | "snap") || !disk.list(&inner)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether etcd made the member's directory: it has etcd's database, or a log but no store.
///
/// The names of both logs have the same form, so a log counts only if it is not a file of keepd's:
/// a member of keepd's that lost its store is damaged, not etcd's.
pub(crate) fn is_etcds(disk: &dyn Disk, member_dir: &Path) -> Result<bool, IoError> {
    if disk.exists(&member_dir.join("snap").join("db"))? {
        return Ok(true);
    }
    if disk.exists(&Layout::store(member_dir))? {
        return Ok(false);
    }
    let wal_dir = Layout::wal(member_dir);
    let segments: Vec<_> =
        disk.list(&wal_dir)?.into_iter().filter(|name| is_etcds_wal_name(name)).collect();
    for name in &segments {
        let segment = disk.open(&wal_dir.join(name))?;
        let mut magic = FILE_MAGIC;
        if segment.len()? >= FILE_MAGIC.len() as u64 {
            segment.read_exact_at(&mut magic, 0)?;
        }
        if magic == FILE_MAGIC {
            return Ok(false);
        }
    }
    Ok(!segments.is_empty())
}

fn is_etcds_wal_name(name: &str) -> bool {
    let is_number = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = name.strip_suffix(".wal").and_then(|stem| stem.split_once('-'));
    parts.is_some_and(|(sequence, index)| is_number(sequence) && is_number(index))
}

/// The failure to lock a directory.
pub(crate) fn in_use(error: IoError, data_dir: &Path) -> BootError {
    if error.source.kind() == std::io::ErrorKind::WouldBlock {
        BootError::InUse { dir: data_dir.to_owned() }
    } else {
        BootError::Io(error)
    }
}

fn election_ticks(options: &Options) -> usize {
    ticks(options, options.election_timeout).max(2)
}

/// The ticks of a time, one at least.
fn ticks(options: &Options, time: Duration) -> usize {
    let heartbeat = options.heartbeat_interval.as_millis().max(1);
    usize::try_from(time.as_millis() / heartbeat).unwrap_or(usize::MAX).max(1)
}
