//! Commands: what the Raft log carries and every member applies in the same order.
//!
//! A command is encoded once, by the proposing member, after validation, authorization and sealing,
//! with an [envelope](crate::envelope) around it. It never needs a secret to apply: value comparisons arrive resolved, with guards on revisions
//! (rule 9.3). The bytes are written and read in `command/encoding.rs`; here are the types.

mod encoding;

use bytes::Bytes;
use keepd_types::{KeyRange, LeaseId, MemberId, SealMark, StoredValue, Term};
use thiserror::Error;

use self::encoding::put_overhead;
use crate::tables::ActiveKeys;

/// Bytes in the log that are no command this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The command ends early.
    #[error("command is cut short")]
    Truncated,
    /// The command is longer than its content.
    #[error("command has {0} bytes too many")]
    TrailingBytes(usize),
    /// A number does not fit its field.
    #[error("command has a number out of range")]
    NumberOutOfRange,
    /// A tag or version from the future, or damage.
    #[error("command has unknown {what} {value}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// A field holds what it cannot.
    #[error("command has a malformed {0}")]
    Malformed(&'static str),
}

/// What an entry of the log asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes a key.
    Put(Put),
    /// Removes keys.
    DeleteRange(DeleteRange),
    /// Several operations in one revision, chosen by comparisons.
    Txn(Box<Txn>),
    /// Forgets history below a revision.
    Compact {
        /// The first revision that stays readable.
        revision: i64,
    },
    /// Creates a lease.
    LeaseGrant {
        /// Its id, chosen by the proposer when the client left it open.
        id: LeaseId,
        /// Its time to live in seconds, already raised to the shortest that the proposer allows.
        ttl: i64,
    },
    /// Ends a lease and removes its keys, because a client asks for it.
    LeaseRevoke {
        /// The lease.
        id: LeaseId,
    },
    /// Ends a lease and removes its keys, because the primary saw its time run out.
    LeaseExpire {
        /// The lease.
        id: LeaseId,
    },
    /// Records how long a lease has left, for the next primary.
    LeaseCheckpoint {
        /// The lease.
        id: LeaseId,
        /// Seconds left; 0 is all of its time.
        remaining_ttl: i64,
    },
    /// Raises an alarm.
    AlarmActivate(Alarm),
    /// Clears an alarm.
    AlarmDeactivate(Alarm),
    /// A member tells its name and client URLs.
    PublishMember {
        /// The member.
        id: MemberId,
        /// Its name.
        name: String,
        /// Where its clients reach it.
        client_urls: Vec<String>,
    },
    /// Names the keys that the cluster writes under, unless they are older than those in force. The
    /// same ones again are a barrier: when they are applied, so is all that was proposed before.
    SetActiveKeys(ActiveKeys),
    /// A member tells how it seals from now on.
    SetSealing {
        /// The member.
        member: MemberId,
        /// The fingerprint of its rules and keys.
        fingerprint: Bytes,
    },
}

/// A raised or cleared alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member it concerns.
    pub member: MemberId,
    /// 1 NOSPACE, 2 CORRUPT.
    pub kind: u8,
}

impl Alarm {
    /// The kind's name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.kind {
            ALARM_NOSPACE => "NOSPACE",
            ALARM_CORRUPT => "CORRUPT",
            _ => "UNKNOWN",
        }
    }
}

/// NOSPACE, as the protocol numbers it.
pub const ALARM_NOSPACE: u8 = 1;
/// CORRUPT, as the protocol numbers it.
pub const ALARM_CORRUPT: u8 = 2;

/// Writes a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value, sealed if its resource asks for it.
    pub value: StoredValue,
    /// The lease to attach to.
    pub lease: LeaseId,
    /// The previous record is wanted in the answer.
    pub prev_kv: bool,
    /// Keep the previous value.
    pub ignore_value: bool,
    /// Keep the previous lease.
    pub ignore_lease: bool,
}

/// Removes keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Which.
    pub range: KeyRange,
    /// The removed records are wanted in the answer.
    pub prev_kv: bool,
}

/// Reads keys inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which.
    pub range: KeyRange,
    /// At which revision; 0 is the transaction's own state.
    pub revision: i64,
    /// How many keys to fetch at most; 0 is all. Filters and sorting happen at the edge.
    pub fetch_limit: u64,
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Executed if they do.
    pub success: Vec<Op>,
    /// Executed otherwise.
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Range(Range),
    /// Writes.
    Put(Put),
    /// Removes.
    DeleteRange(DeleteRange),
    /// Nests.
    Txn(Box<Txn>),
}

/// How a stored number relates to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Equal.
    Equal,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
    /// Not equal.
    NotEqual,
    /// An unknown operator: etcd takes it as true.
    Any,
}

impl Relation {
    /// Whether the stored operand relates so to the given one.
    pub fn holds<T: Ord + ?Sized>(self, stored: &T, operand: &T) -> bool {
        match self {
            Self::Equal => stored == operand,
            Self::Greater => stored > operand,
            Self::Less => stored < operand,
            Self::NotEqual => stored != operand,
            Self::Any => true,
        }
    }
}

/// Which number of a record is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its version.
    Version,
    /// Its create revision.
    Create,
    /// Its mod revision.
    Mod,
    /// Its lease.
    Lease,
    /// An unknown target: etcd takes both sides as equal.
    Unknown,
}

/// The records that a proposer compared, told by how many there were and when.
///
/// Whatever happens to them afterwards shows: a write leaves a later revision, and a removal one
/// key less, which only a later write makes up for. So it is as small for a wide range as for one
/// key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Keys in the range.
    pub keys: u64,
    /// The store's revision when they were compared.
    pub revision: i64,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// A number of every record in a range, or of the zero record if there is none.
    Number {
        /// The keys.
        range: KeyRange,
        /// The number.
        target: Target,
        /// The operator.
        relation: Relation,
        /// The operand.
        operand: i64,
    },
    /// A comparison of values, resolved by the proposer; it stands while the guard holds.
    Resolved {
        /// The keys.
        range: KeyRange,
        /// What the proposer looked at.
        guard: Guard,
        /// What came out.
        result: bool,
    },
}

impl Command {
    /// Whether the command does nothing in an entry of `term`, because the leader that decided it
    /// led in another: since then the lease may have been renewed elsewhere (etcd#15247).
    #[must_use]
    pub fn is_void(&self, decided_in: Option<Term>, term: Term) -> bool {
        match self {
            Self::LeaseExpire { .. } => decided_in != Some(term),
            // Logs of version 0.1 have them without a term.
            Self::LeaseCheckpoint { .. } => decided_in.is_some_and(|decided_in| decided_in != term),
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Txn(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. }
            | Self::AlarmActivate(_)
            | Self::AlarmDeactivate(_)
            | Self::PublishMember { .. }
            | Self::SetActiveKeys(_)
            | Self::SetSealing { .. } => false,
        }
    }

    /// By how much sealing has made the command longer: limits count plaintext.
    #[must_use]
    pub fn seal_overhead(&self) -> usize {
        let mut overhead = 0;
        self.for_each_put(&mut |put| overhead += put_overhead(put));
        overhead
    }

    /// Tells `see` every seal of the values that the command writes.
    pub fn for_each_seal(&self, see: &mut dyn FnMut(SealMark)) {
        self.for_each_put(&mut |put| put.value.seal.into_iter().for_each(&mut *see));
    }

    fn for_each_put(&self, see: &mut dyn FnMut(&Put)) {
        match self {
            Self::Put(put) => see(put),
            Self::Txn(txn) => txn.for_each_put(see),
            Self::DeleteRange(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. }
            | Self::LeaseExpire { .. }
            | Self::LeaseCheckpoint { .. }
            | Self::AlarmActivate(_)
            | Self::AlarmDeactivate(_)
            | Self::PublishMember { .. }
            | Self::SetActiveKeys(_)
            | Self::SetSealing { .. } => {}
        }
    }
}

impl Txn {
    /// Tells `see` the puts of both branches, nested ones included.
    fn for_each_put(&self, see: &mut dyn FnMut(&Put)) {
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Put(put) => see(put),
                Op::Txn(nested) => nested.for_each_put(see),
                Op::Range(_) | Op::DeleteRange(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
