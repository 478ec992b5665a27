//! Reasons why a request did not go through the member, and why a member does not start.

use thiserror::Error;

/// Failure of a request on its way through the member; the server maps each to etcd's code and text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The member is shutting down or has halted.
    #[error("server stopped")]
    Stopped,
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// Leadership moved while the request waited; it may or may not have been applied.
    #[error("leader changed")]
    LeaderChanged,
    /// Raft refused the batch; nothing was written.
    #[error("raft proposal dropped")]
    ProposalDropped,
    /// Too much waits to be applied.
    #[error("too many requests")]
    TooManyRequests,
    /// The command is of a feature level that the cluster has not reached: whoever made it did not ask
    /// whether it may be written.
    #[error("a command of feature level {needed} in a cluster of level {level}")]
    FeatureLevel {
        /// The command's level.
        needed: u32,
        /// The cluster's.
        level: u32,
    },
    /// The command is larger than `--max-request-bytes`.
    #[error("request is too large")]
    TooLarge,
    /// Nothing came back in time; it may or may not have been applied.
    #[error("request timed out")]
    TimedOut,
    /// There was no leader to give it to in time; it was not applied.
    #[error("context deadline exceeded")]
    NotProposed,
    /// As [`Self::TimedOut`], while another leader was elected.
    #[error("request timed out, possibly due to previous leader failure")]
    TimedOutByElection,
    /// As [`Self::TimedOut`], without a connection to the leader.
    #[error("request timed out, possibly due to connection lost")]
    TimedOutByConnection,
    /// This member does not lead.
    #[error("not leader")]
    NotLeader,
    /// The member does not vote, so it cannot lead.
    #[error("bad leader transferee")]
    NotVoter,
    /// The member that was to take over did not.
    #[error("request timed out, leader transfer took too long")]
    TransferTimedOut,
}

/// Reason why a member does not start.
#[derive(Debug, Error)]
pub enum BootError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] keepd_env::IoError),
    /// Another process holds the directory.
    #[error(
        "{}: the data directory is in use by another process; stop it, or choose another \
         --data-dir", dir.display()
    )]
    InUse {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// The directory is etcd's.
    #[error(
        "{}: this is etcd's data directory, which keepd does not read; take a snapshot from the \
         running etcd (`etcdctl snapshot save FILE`) and restore it into a new directory (`keepd \
         ctl snapshot restore FILE --data-dir NEW`); nothing was changed", dir.display()
    )]
    EtcdDirectory {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// There is nothing to read.
    #[error("{}: holds no member of keepd: give the --data-dir that its server has", dir.display())]
    NoMember {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// The key ring cannot be opened.
    #[error(transparent)]
    Keyring(#[from] keepd_crypto::KeyringError),
    /// The configuration lacks keys that are in use.
    #[error(
        "the encryption configuration lacks keys that stored values are sealed under: {keys}; put \
         them back after the new one until `keepd encryption status` shows that no value needs \
         them"
    )]
    KeysInUse {
        /// The keys, with the number of values under each.
        keys: String,
    },
    /// The log is damaged.
    #[error(transparent)]
    Wal(#[from] keepd_wal::Error),
    /// The store is damaged.
    #[error(transparent)]
    Store(#[from] keepd_mvcc::Error),
    /// A state of another member cannot be installed.
    #[error(transparent)]
    Install(#[from] keepd_member::install::InstallError),
    /// The state machine cannot take the store over.
    #[error(transparent)]
    Machine(#[from] keepd_machine::Halt),
    /// Log and store do not fit.
    #[error(transparent)]
    Raft(#[from] keepd_raft::Error),
    /// The log's metadata is not ours.
    #[error("{}: the log's metadata is malformed", dir.display())]
    Identity {
        /// The log's directory.
        dir: std::path::PathBuf,
    },
    /// The member has no part in its cluster, so it cannot go on without the others.
    #[error(
        "member {member} cannot go on alone: it was removed from its cluster or has received \
         nothing of it yet; start another member with --force-new-cluster, or restore a backup"
    )]
    NotInCluster {
        /// The member.
        member: keepd_types::MemberId,
    },
    /// The disk is full, even without the ballast.
    #[error(
        "{}: the file system is full, {available_bytes} bytes are free; free space or enlarge it, \
         then start again: {source}", dir.display()
    )]
    Full {
        /// The member's directory.
        dir: std::path::PathBuf,
        /// Bytes that are left.
        available_bytes: u64,
        /// The failure that found it.
        source: Box<Self>,
    },
    /// A thread could not be started.
    #[error("cannot start the {name} thread: {source}")]
    Thread {
        /// Which.
        name: &'static str,
        /// The reason.
        source: std::io::Error,
    },
}

impl BootError {
    /// Whether files do not hold what was written into them, rather than that somebody uses them, a key
    /// is out of reach or a call failed.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Wal(error) => {
                !matches!(error, keepd_wal::Error::Io(_) | keepd_wal::Error::Unreadable { .. })
            }
            Self::Store(error) => {
                !matches!(error, keepd_mvcc::Error::Io(_) | keepd_mvcc::Error::Key { .. })
            }
            Self::Install(error) => {
                use keepd_member::install::InstallError;
                matches!(error, InstallError::Damaged { .. } | InstallError::StoreMissing { .. })
            }
            Self::Keyring(error) => matches!(error, keepd_crypto::KeyringError::Damaged { .. }),
            Self::Machine(_) | Self::Raft(_) | Self::Identity { .. } => true,
            _ => false,
        }
    }

    /// The call that found the disk full, if it was that.
    pub(crate) fn out_of_space(&self) -> Option<&keepd_env::IoError> {
        let (Self::Io(error)
        | Self::Keyring(keepd_crypto::KeyringError::Io(error))
        | Self::Wal(keepd_wal::Error::Io(error))
        | Self::Install(keepd_member::install::InstallError::Io(error))
        | Self::Store(keepd_mvcc::Error::Io(error))) = self
        else {
            return None;
        };
        if error.is_out_of_space() { Some(error) } else { None }
    }
}
