//! The history of a run: each operation of the clients with its call, its end and what came of it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use keepd_types::{KeyRange, LeaseId};

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Writes a key; the value is unlike any other.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease that the key goes with.
        lease: LeaseId,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads keys.
    Read {
        /// The keys.
        range: KeyRange,
        /// The revision; 0 is the current one.
        at: i64,
        /// The newest view of the member will do.
        is_serializable: bool,
    },
    /// Writes a key if its mod revision is as expected; else reads it.
    Swap {
        /// The key.
        key: Bytes,
        /// The mod revision; 0 is an absent key.
        expected: i64,
        /// The value, unlike any other.
        value: Bytes,
    },
    /// Forgets history.
    Compact {
        /// The first revision that stays readable.
        revision: i64,
    },
    /// Creates a lease.
    Grant {
        /// Its id.
        id: LeaseId,
        /// Its time to live in seconds.
        ttl: i64,
    },
    /// Gives a lease its full time again.
    Renew {
        /// The lease.
        id: LeaseId,
    },
    /// Ends a lease.
    Revoke {
        /// The lease.
        id: LeaseId,
    },
    /// A command that changes no key, at the revision that it finds.
    Other(&'static str),
}

/// A key as a read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Its mod revision.
    pub mod_revision: i64,
    /// The revision that began its generation.
    pub create_revision: i64,
    /// Puts since then.
    pub version: i64,
    /// Its lease.
    pub lease: LeaseId,
}

/// The answer to a request that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done; the store's revision afterwards.
    Done {
        /// The revision.
        revision: i64,
    },
    /// A delete.
    Deleted {
        /// The store's revision afterwards.
        revision: i64,
        /// Keys that were there.
        count: i64,
    },
    /// A read.
    Read {
        /// The store's revision.
        revision: i64,
        /// The keys.
        pairs: Vec<Pair>,
    },
    /// A compare and swap.
    Swapped {
        /// The store's revision afterwards.
        revision: i64,
        /// Whether the comparison held.
        is_swapped: bool,
    },
    /// A renewal by the member that keeps the deadlines.
    Renewed,
    /// A renewal of a lease that is not there, or that ends.
    Gone,
}

/// The end of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Ok(Response),
    /// It had no effect, for certain.
    Failed(String),
    /// It may or may not have its effect, at any time after its call.
    Unknown(String),
}

/// A moment of a run: moments of a higher number come later, also at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Counts the calls and ends of a run.
    pub number: u64,
    /// The time.
    pub at: Duration,
}

/// An operation of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client.
    pub client: usize,
    /// The member that it asks.
    pub member: usize,
    /// The member's start that it asks.
    pub start: u64,
    /// The moment of the call.
    pub call: Moment,
    /// The moment of the end; `None` while it is under way.
    pub end: Option<Moment>,
    /// The request.
    pub request: Request,
    /// Its end; unknown while it is under way.
    pub outcome: Outcome,
}

/// All operations of a run, by the moments of their calls.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    moments: u64,
}

impl History {
    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The number of operations that were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.operations.iter().filter(|it| matches!(it.outcome, Outcome::Ok(_))).count()
    }

    /// The next moment.
    pub const fn moment(&mut self, at: Duration) -> Moment {
        self.moments += 1;
        Moment { number: self.moments, at }
    }

    /// Notes a call; the number of the operation.
    pub fn call(
        &mut self,
        (client, member, start): (usize, usize, u64),
        request: Request,
        at: Duration,
    ) -> usize {
        let outcome = Outcome::Unknown("it is under way".to_owned());
        let call = self.moment(at);
        self.operations.push(Operation {
            client,
            member,
            start,
            call,
            end: None,
            request,
            outcome,
        });
        self.operations.len() - 1
    }

    /// Notes the end of an operation.
    pub fn end(&mut self, operation: usize, outcome: Outcome, at: Duration) {
        let end = self.moment(at);
        let operation = &mut self.operations[operation];
        (operation.end, operation.outcome) = (Some(end), outcome);
    }
}

impl Request {
    /// The value that the request writes.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } | Self::Swap { value, .. } => Some(value),
            _ => None,
        }
    }
}

impl Response {
    /// The revision of the store that the answer tells.
    #[must_use]
    pub const fn revision(&self) -> Option<i64> {
        match self {
            Self::Done { revision }
            | Self::Deleted { revision, .. }
            | Self::Read { revision, .. }
            | Self::Swapped { revision, .. } => Some(*revision),
            Self::Renewed | Self::Gone => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, member, request, outcome, .. } = self;
        write!(f, "client {client} at m{member}: {request:?}: ")?;
        match outcome {
            Outcome::Ok(Response::Read { revision, pairs }) => {
                write!(f, "{} keys at revision {revision}", pairs.len())
            }
            Outcome::Ok(response) => write!(f, "{response:?}"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}"),
            Outcome::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}
