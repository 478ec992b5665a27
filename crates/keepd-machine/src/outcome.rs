//! Outcomes of commands, the same on every member; and the errors that stop this member instead.
//!
//! Records leave as references (key and revision); the edge loads and opens them from the view that
//! the batch was published with.

use bytes::Bytes;
use keepd_mvcc::RangeError;
use keepd_types::{DecodeError, LeaseId, Revision};
use thiserror::Error;

use crate::codec::CommandError;
use crate::command::Alarm;
use crate::member::Member;

/// A record that was read or replaced, by its place in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// Its key.
    pub key: Bytes,
    /// Its revision.
    pub revision: Revision,
}

/// A deterministic refusal; the message texts clients see are mapped at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// An `ignore_value` or `ignore_lease` put found no key.
    #[error("key not found")]
    KeyNotFound,
    /// A put or revoke named a lease that does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant named a lease that exists.
    #[error("lease already exists")]
    LeaseExists,
    /// A grant asked for too long a time.
    #[error("too large lease ttl")]
    LeaseTtlTooLarge,
    /// A revision below the compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// A revision not written yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// A NOSPACE alarm stands.
    #[error("database space exceeded")]
    NoSpace,
    /// A CORRUPT alarm stands.
    #[error("corrupt cluster")]
    Corrupt,
    /// A resolved comparison went stale before the command was applied: resolve and propose again.
    #[error("compared values changed")]
    GuardMissed,
    /// A value is sealed under a key that some member may not be able to read: seal and propose again.
    #[error("encryption key is not active")]
    KeyNotActive,
    /// A leader decided it in an earlier term; it is void.
    #[error("decided in another term")]
    OtherTerm,
    /// A change names a member that was removed: its id is never used again.
    #[error("member was removed")]
    MemberRemoved,
    /// A new member has an id that another has.
    #[error("member exists")]
    MemberExists,
    /// A change names no member of the cluster.
    #[error("member not found")]
    MemberNotFound,
    /// A member that votes cannot be promoted.
    #[error("member is no learner")]
    MemberNotLearner,
    /// A peer URL belongs to another member.
    #[error("peer URL exists")]
    PeerUrlExists,
    /// The cluster has as many learners as it may have.
    #[error("too many learners")]
    TooManyLearners,
    /// Raft could not follow the change: no voter would be left, or the members' table and Raft's
    /// configuration name different members.
    #[error("change does not fit Raft's configuration")]
    ChangeDoesNotFit,
}

/// An error that stops this member: it can no longer do what every other member does.
#[derive(Debug, Error)]
pub enum Halt {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] keepd_mvcc::Error),
    /// A record of the store does not decode.
    #[error(transparent)]
    Record(#[from] DecodeError),
    /// A committed entry does not decode.
    #[error("entry {index} of the log: {source}")]
    Command {
        /// Its place.
        index: u64,
        /// The error found.
        source: CommandError,
    },
    /// A committed entry is of a kind that this version does not know.
    #[error("entry {index} of the log is of a kind that this version does not know")]
    UnknownEntry {
        /// Its place.
        index: u64,
    },
    /// The cluster writes what this version does not read.
    #[error(
        "the cluster writes records of feature level {level}, and this version reads level {known} at \
         most: start a version that reads level {level}, as the other members run it; the data \
         directory stays good for that one"
    )]
    FeatureLevel {
        /// The cluster's level.
        level: u32,
        /// The newest level of this version.
        known: u32,
    },
    /// A meta table holds what this version cannot read.
    #[error("meta table {table} holds a malformed entry")]
    Meta {
        /// The table.
        table: u8,
    },
    /// A read inside a transaction failed after its check passed.
    #[error("a checked read inside a transaction failed: {0}")]
    Range(#[from] RangeError),
}

/// A refusal, or the reason to stop.
pub(crate) enum Failure {
    Refused(ApplyError),
    Halt(Halt),
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self::Refused(error)
    }
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision after the command.
    pub revision: i64,
    /// The response, or the refusal.
    pub result: Result<CommandResponse, ApplyError>,
}

/// Response to a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandResponse {
    /// A put, with the replaced record if asked for.
    Put {
        /// The replaced record.
        prev: Option<RecordRef>,
    },
    /// A delete.
    DeleteRange {
        /// The number of keys removed.
        deleted: i64,
        /// The removed records, if asked for.
        prev: Vec<RecordRef>,
    },
    /// A transaction.
    Txn(TxnResponse),
    /// A lease was granted.
    LeaseGrant {
        /// Its id.
        id: LeaseId,
        /// The effective time to live.
        ttl: i64,
    },
    /// The alarms a command raised or cleared.
    Alarms(Vec<Alarm>),
    /// The members after a change, by id.
    Members(Vec<Member>),
    /// Done, nothing to tell.
    Done,
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// One answer per operation of the chosen branch.
    pub responses: Vec<OpResponse>,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// Keys that were read.
    Range {
        /// The revision its header shows.
        header_revision: i64,
        /// The records, in key order, at most the fetch limit.
        records: Vec<RecordRef>,
        /// Keys in the range.
        count: u64,
    },
    /// A put.
    Put {
        /// The revision its header shows.
        header_revision: i64,
        /// The replaced record.
        prev: Option<RecordRef>,
    },
    /// A delete.
    DeleteRange {
        /// The revision its header shows.
        header_revision: i64,
        /// The number of keys removed.
        deleted: i64,
        /// The removed records, if asked for.
        prev: Vec<RecordRef>,
    },
    /// A nested transaction.
    Txn(TxnResponse),
}
