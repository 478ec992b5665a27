//! Errors of making, reading and restoring a snapshot file.

use std::path::PathBuf;

use bytes::Bytes;
use keepd_crypto::{KeyringError, ReadError, SealError};
use keepd_env::IoError;
use keepd_member::ClusterError;
use keepd_types::version::STORAGE_VERSION;
use keepd_types::{KeyId, Revision};
use thiserror::Error;

/// The remedy for a file without proof under a configuration that asks for it.
const TRUST_REMEDY: &str = "if the file is what you mean, add `- identity: {}` last in the rule for it, or give \
     --encryption-trust-plain-data once";

/// A failure; where etcd's tools have a text for it, it is theirs.
#[derive(Debug, Error)]
pub enum Error {
    /// The file demands authentication, which the restored server would not.
    #[error(
        "the snapshot has authentication enabled, but users and roles are not enforced here: \
         every client could read and write everything"
    )]
    AuthEnabled,
    /// The flags that describe the cluster are wrong.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data directory is in use.
    #[error("data-dir {0:?} not empty or could not be read")]
    DataDirNotEmpty(PathBuf),
    /// An entry of a bucket is malformed.
    #[error("bucket {bucket}: entry {}: {reason}", key.escape_ascii())]
    Entry {
        /// The bucket.
        bucket: String,
        /// The entry's key.
        key: Bytes,
        /// The fault.
        reason: &'static str,
    },
    /// The file is no bbolt file, damaged, or cannot be read.
    #[error(transparent)]
    File(#[from] keepd_bolt::Error),
    /// The SHA-256 after the image is not the image's.
    #[error("expected sha256 {}, got {}", decimals(expected), decimals(found))]
    HashMismatch {
        /// The one in the file.
        expected: [u8; 32],
        /// The one of the image.
        found: [u8; 32],
    },
    /// The file's structure is damaged.
    #[error("snapshot file integrity check failed. {count} errors found.\n{findings}")]
    Integrity {
        /// The number of faults.
        count: u64,
        /// The first of them, one a line.
        findings: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The encryption configuration lacks a key.
    #[error(
        "record {revision} is sealed with key {key_id}, which the encryption configuration \
         does not have"
    )]
    KeyMissing {
        /// The record.
        revision: Revision,
        /// The key.
        key_id: KeyId,
    },
    /// The log behind the snapshot cannot be read.
    #[error("{0}")]
    Log(Box<dyn std::error::Error + Send + Sync>),
    /// The log ends too early.
    #[error(
        "the log ends at entry {index} and revision {revision}, before what is asked for: give an earlier \
         moment or revision, or `latest`"
    )]
    LogEnds {
        /// The last entry.
        index: u64,
        /// The revision there.
        revision: i64,
    },
    /// An entry of the log cannot be applied.
    #[error("entry {index} of the log: {reason}")]
    LogEntry {
        /// The entry.
        index: u64,
        /// The fault.
        reason: String,
    },
    /// The log has a gap.
    #[error("the log has a gap: after entry {last} comes entry {next}")]
    LogGap {
        /// The last entry before it.
        last: u64,
        /// The first one behind.
        next: u64,
    },
    /// Log and snapshot do not fit together.
    #[error(
        "at entry {index} the replayed state is not the one that the member had ({what}): snapshot and log \
         are of different histories of the cluster, or one of them was changed; take another base \
         (keepd backup list)"
    )]
    OtherHistory {
        /// The entry.
        index: u64,
        /// The difference.
        what: &'static str,
    },
    /// The file does not say to which entry of the log it belongs.
    #[error(
        "the snapshot does not say which entry of the log it was taken at: it is etcd's, or an older keepd \
         made it; take a base from `keepd backup now`"
    )]
    NoPosition,
    /// The keyring cannot be made.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A bump without the mark, or the mark without a bump.
    #[error("--mark-compacted required if --revision-bump > 0")]
    MarkCompactedRequired,
    /// A meta table of the view holds a malformed entry.
    #[error("meta table {table} holds a malformed entry")]
    MetaTable {
        /// The table.
        table: u8,
    },
    /// The file has no SHA-256.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    MissingHash,
    /// The file has no bucket of records.
    #[error("not a snapshot of etcd or keepd: bucket \"key\" is missing")]
    NoRecords,
    /// The file does not exist.
    #[error("{call} {}: no such file or directory", path.display())]
    NotFound {
        /// The call that failed.
        call: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A sealed value cannot be opened.
    #[error("record {revision}: {source}")]
    Open {
        /// The record.
        revision: Revision,
        /// The error.
        source: ReadError,
    },
    /// The directory waits for an import that needs the encryption configuration.
    #[error(
        "{} waits for the import of a snapshot with sealed values: start with the encryption \
         configuration that has their keys", dir.display()
    )]
    PendingNeedsKeys {
        /// The data directory.
        dir: PathBuf,
    },
    /// The parameters of a waiting import cannot be read.
    #[error("{}: malformed import parameters", path.display())]
    PendingMalformed {
        /// The file.
        path: PathBuf,
    },
    /// A value that the configuration always seals lies plain in the file.
    #[error(
        "record {revision} of key {} is plain, and the encryption configuration takes no plain \
         value of it; {TRUST_REMEDY}", key.escape_ascii()
    )]
    PlainValue {
        /// The record.
        revision: Revision,
        /// Its key.
        key: Bytes,
    },
    /// A bump beyond what a revision can be.
    #[error("revision {revision} cannot be bumped by {bump}")]
    RevisionOverflow {
        /// The last revision of the file.
        revision: i64,
        /// The bump.
        bump: u64,
    },
    /// A value cannot be sealed.
    #[error("record {revision}: {source}")]
    Seal {
        /// The record.
        revision: Revision,
        /// The error.
        source: SealError,
    },
    /// A mark says that a record is sealed, but not this one.
    #[error("record {revision} is not the one that was sealed under its mark")]
    SealMismatch {
        /// The record.
        revision: Revision,
    },
    /// The file was written by a version that is not known yet.
    #[error("storage version {found} is not supported, the newest known one is {STORAGE_VERSION}")]
    StorageVersion {
        /// The file's version.
        found: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] keepd_mvcc::Error),
    /// The small buckets are larger than any real ones.
    #[error("bucket {bucket} is too large")]
    TooLarge {
        /// The bucket.
        bucket: String,
    },
    /// A sealed value could have been moved here from another record.
    #[error(
        "record {revision} of key {} is sealed, but by a version that did not bind values to \
         their keys; {TRUST_REMEDY}", key.escape_ascii()
    )]
    UnboundValue {
        /// The record.
        revision: Revision,
        /// Its key.
        key: Bytes,
    },
    /// The log cannot be made.
    #[error(transparent)]
    Wal(#[from] keepd_wal::Error),
}

impl Error {
    pub(crate) fn entry(bucket: &[u8], key: &Bytes, reason: &'static str) -> Self {
        Self::Entry { bucket: bucket.escape_ascii().to_string(), key: key.clone(), reason }
    }
}

/// Bytes as Go prints them.
fn decimals(bytes: &[u8]) -> String {
    let decimals: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    format!("[{}]", decimals.join(" "))
}
