//! Commands: what the Raft log carries and every member applies in the same order.
//!
//! A command is encoded once, by the proposing member, after validation, authorization and sealing,
//! with an [envelope](crate::envelope) around it. It never needs a secret to apply: value
//! comparisons arrive resolved, with guards on revisions (rule 9.3). The bytes are written and read
//! in `command/encoding.rs`; here are the types.

mod encoding;

use std::collections::BTreeSet;

use bytes::Bytes;
use keepd_mvcc::KeyState;
use keepd_types::{KeyRange, LeaseId, MemberId, SealMark, StoredValue, Term};

use crate::claims::{BackupClaim, BackupTask};
use crate::member::MembershipChange;
use crate::tables::{ActiveKeys, ReadableKeys};

/// A command of the log.
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
    /// Publishes a member's name and client URLs.
    PublishMember {
        /// The member.
        id: MemberId,
        /// Its name.
        name: String,
        /// URLs for its clients.
        client_urls: Vec<String>,
    },
    /// Sets the keys that the cluster encrypts with, unless they are older than the current ones.
    /// Written before a cluster had several members.
    SetActiveKeys(ActiveKeys),
    /// Announces the keys that a member can read. The same ones again serve as a barrier: when they
    /// are applied, so is all that was proposed before.
    SetReadableKeys {
        /// The member.
        member: MemberId,
        /// Its keys.
        keys: ReadableKeys,
    },
    /// Sets a member's encryption fingerprint.
    SetSealing {
        /// The member.
        member: MemberId,
        /// The fingerprint of its rules and keys.
        fingerprint: Bytes,
    },
    /// Changes the members. It is the context of a change of Raft's configuration and no entry of
    /// its own.
    ChangeMembership(MembershipChange),
    /// Sets the version that all members agree on, because the leader has found that they run it.
    SetClusterVersion {
        /// The version, as etcd writes it.
        version: String,
    },
    /// Raises the feature level, because the leader was told by all members that they read it. It does
    /// nothing if one has joined that was not asked.
    SetFeatureLevel {
        /// The level.
        level: u32,
        /// The members that were asked.
        asked: BTreeSet<MemberId>,
    },
    /// Compares the members by the digests of what they applied: each notes its own behind this entry
    /// and tells the leader, and looks whether it noted what was found at an earlier entry.
    CheckDigest {
        /// The result of an earlier comparison.
        found: Option<DigestFound>,
    },
    /// Begins or ends a downgrade.
    SetDowngrade {
        /// The version to go to, as `3.6.0`; `None` ends it.
        target: Option<String>,
    },
    /// Claims backup work, or tells what became of it; nothing if another claim than `after` is in force.
    ClaimBackup {
        /// The work.
        task: BackupTask,
        /// The number of the claim that it follows, 0 for none.
        after: u64,
        /// The claim.
        claim: BackupClaim,
    },
}

/// Result of a comparison of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestFound {
    /// The entry behind which the digests were noted.
    pub index: u64,
    /// Start and value of the digest that a majority of the voters has; `None` if there can be none.
    pub majority: Option<(u64, u64)>,
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
    /// The keys.
    pub range: KeyRange,
    /// The removed records are wanted in the answer.
    pub prev_kv: bool,
}

/// Reads keys inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The keys.
    pub range: KeyRange,
    /// The revision to read at; 0 is the transaction's own state.
    pub revision: i64,
    /// Limit of keys to fetch; 0 is none. Filters and sorting happen at the edge.
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

/// Operator of a comparison between a stored number and the operand.
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

/// The number of a record that is compared.
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

impl Target {
    /// The number of a record in the index. An unknown target equals the operand, and so does the
    /// lease, which the index does not know.
    #[must_use]
    pub const fn of(self, state: &KeyState, operand: i64) -> i64 {
        match self {
            Self::Version => state.version,
            Self::Create => state.create_revision,
            Self::Mod => state.mod_revision.main,
            Self::Lease | Self::Unknown => operand,
        }
    }
}

/// The state of a range when a proposer compared its values: number of keys and store revision.
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
        /// The state that the proposer compared.
        guard: Guard,
        /// Result of the comparison.
        result: bool,
    },
}

impl Command {
    /// Whether the command does nothing in an entry of `term`, because the leader that decided it
    /// led in another: since then the lease may have been renewed elsewhere (etcd#15247), or a
    /// member of another version have joined.
    #[must_use]
    pub fn is_void(&self, decided_in: Option<Term>, term: Term) -> bool {
        match self {
            Self::LeaseExpire { .. }
            | Self::SetClusterVersion { .. }
            | Self::SetFeatureLevel { .. }
            | Self::CheckDigest { .. } => decided_in != Some(term),
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
            | Self::SetReadableKeys { .. }
            | Self::SetSealing { .. }
            | Self::ChangeMembership(_)
            | Self::SetDowngrade { .. }
            | Self::ClaimBackup { .. } => false,
        }
    }

    /// Calls `see` with every seal of the values that the command writes.
    pub fn for_each_seal(&self, see: &mut dyn FnMut(SealMark)) {
        self.for_each_put(&mut |put| put.value.seal.into_iter().for_each(&mut *see));
    }

    /// Calls `see` with every put, those of branches that are not taken included.
    pub fn for_each_put(&self, see: &mut dyn FnMut(&Put)) {
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
            | Self::SetReadableKeys { .. }
            | Self::SetSealing { .. }
            | Self::ChangeMembership(_)
            | Self::SetClusterVersion { .. }
            | Self::SetFeatureLevel { .. }
            | Self::CheckDigest { .. }
            | Self::SetDowngrade { .. }
            | Self::ClaimBackup { .. } => {}
        }
    }
}

impl Txn {
    /// Calls `see` with the puts of both branches, nested ones included.
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
