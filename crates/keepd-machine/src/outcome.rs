//! What applying a command answers: the same on every member.
//!
//! Records leave as handles (key and revision); the edge loads and opens them from the view that
//! the batch was published with.

use bytes::Bytes;
use keepd_types::{LeaseId, Revision};
use thiserror::Error;

use crate::command::Alarm;

/// A record that was read or replaced, by its place in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Its key.
    pub key: Bytes,
    /// Where it lies.
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
    /// A leader decided it in an earlier term; it is void.
    #[error("decided in another term")]
    OtherTerm,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision after the command.
    pub revision: i64,
    /// What it did, or why it did nothing.
    pub result: Result<Response, ApplyError>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A put, with the replaced record if asked for.
    Put {
        /// The replaced record.
        prev: Option<Handle>,
    },
    /// A delete.
    DeleteRange {
        /// How many keys it removed.
        deleted: i64,
        /// The removed records, if asked for.
        prev: Vec<Handle>,
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
        handles: Vec<Handle>,
        /// Keys in the range.
        count: u64,
    },
    /// A put.
    Put {
        /// The revision its header shows.
        header_revision: i64,
        /// The replaced record.
        prev: Option<Handle>,
    },
    /// A delete.
    DeleteRange {
        /// The revision its header shows.
        header_revision: i64,
        /// How many keys it removed.
        deleted: i64,
        /// The removed records, if asked for.
        prev: Vec<Handle>,
    },
    /// A nested transaction.
    Txn(TxnResponse),
}
