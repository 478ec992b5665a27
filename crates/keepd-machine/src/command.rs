//! Commands: what the Raft log carries and every member applies in the same order.
//!
//! A command is encoded once, by the proposing member, after validation, authorization and sealing.
//! It never needs a secret to apply: value comparisons arrive resolved, with guards on revisions
//! (rule 9.3). The layout is in `docs/formats/command.md`.

use bytes::Bytes;
use keepd_types::{
    KeyId, KeyRange, LeaseId, MemberId, PlainDigest, RangeEnd, SealMark, StoredValue,
};
use thiserror::Error;

use crate::codec::{Reader, Writer};

/// The first byte of every command: its format version.
const FORMAT_VERSION: u8 = 1;
/// How deep transactions may nest; request validation stops far earlier.
const TXN_DEPTH_MAX: usize = 130;

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
}

/// One entry of the log.
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
    /// Ends a lease and removes its keys.
    LeaseRevoke {
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
    /// A member tells its name and client URLs; the value is its JSON record.
    PublishMember {
        /// The member.
        id: MemberId,
        /// etcd's JSON of the member.
        json: Bytes,
    },
    /// A named fact about the cluster (cluster version, feature level, active keys).
    SetCluster {
        /// Its name.
        name: Bytes,
        /// Its value.
        value: Bytes,
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
        /// Key and mod revision of every record that was compared.
        guard: Vec<(Bytes, i64)>,
        /// What came out.
        result: bool,
    },
}

impl Command {
    /// The encoding that enters the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(64 + self.size_hint());
        w.u8(FORMAT_VERSION);
        match self {
            Self::Put(put) => {
                w.u8(1);
                write_put(&mut w, put);
            }
            Self::DeleteRange(delete) => {
                w.u8(2);
                write_delete(&mut w, delete);
            }
            Self::Txn(txn) => {
                w.u8(3);
                write_txn(&mut w, txn);
            }
            Self::Compact { revision } => {
                w.u8(4);
                w.i64(*revision);
            }
            Self::LeaseGrant { id, ttl } => {
                w.u8(5);
                w.i64(id.0);
                w.i64(*ttl);
            }
            Self::LeaseRevoke { id } => {
                w.u8(6);
                w.i64(id.0);
            }
            Self::AlarmActivate(alarm) => write_alarm(&mut w, 7, *alarm),
            Self::AlarmDeactivate(alarm) => write_alarm(&mut w, 8, *alarm),
            Self::PublishMember { id, json } => {
                w.u8(9);
                w.u64(id.0);
                w.bytes(json);
            }
            Self::SetCluster { name, value } => {
                w.u8(10);
                w.bytes(name);
                w.bytes(value);
            }
            Self::LeaseCheckpoint { id, remaining_ttl } => {
                w.u8(11);
                w.i64(id.0);
                w.i64(*remaining_ttl);
            }
        }
        w.finish()
    }

    /// Reads an entry of the log.
    ///
    /// # Errors
    /// If the bytes are not a command this version knows.
    pub fn decode(bytes: Bytes) -> Result<Self, CommandError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != FORMAT_VERSION {
            return Err(CommandError::Unknown { what: "format version", value: version });
        }
        let command = match r.u8()? {
            1 => Self::Put(read_put(&mut r)?),
            2 => Self::DeleteRange(read_delete(&mut r)?),
            3 => Self::Txn(Box::new(read_txn(&mut r, 0)?)),
            4 => Self::Compact { revision: r.i64()? },
            5 => Self::LeaseGrant { id: LeaseId(r.i64()?), ttl: r.i64()? },
            6 => Self::LeaseRevoke { id: LeaseId(r.i64()?) },
            7 => Self::AlarmActivate(read_alarm(&mut r)?),
            8 => Self::AlarmDeactivate(read_alarm(&mut r)?),
            9 => Self::PublishMember { id: MemberId(r.u64()?), json: r.bytes()? },
            10 => Self::SetCluster { name: r.bytes()?, value: r.bytes()? },
            11 => Self::LeaseCheckpoint { id: LeaseId(r.i64()?), remaining_ttl: r.i64()? },
            value => return Err(CommandError::Unknown { what: "command", value }),
        };
        r.finish()?;
        Ok(command)
    }

    /// By how much sealing has made the command longer: limits count plaintext.
    #[must_use]
    pub fn seal_overhead(&self) -> usize {
        match self {
            Self::Put(put) => put_overhead(put),
            Self::Txn(txn) => txn_overhead(txn),
            _ => 0,
        }
    }

    /// Tells `see` every seal of the values that the command writes.
    pub fn for_each_seal(&self, see: &mut dyn FnMut(SealMark)) {
        match self {
            Self::Put(put) => put.value.seal.into_iter().for_each(see),
            Self::Txn(txn) => txn_seals(txn, see),
            _ => {}
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Self::Put(put) => put.key.len() + put.value.bytes.len(),
            _ => 0,
        }
    }
}

fn put_overhead(put: &Put) -> usize {
    let Some(seal) = put.value.seal else { return 0 };
    let lengths = |mark: Option<SealMark>, len: usize| {
        let mut w = Writer::default();
        if let Some(mark) = mark {
            write_mark(&mut w, mark);
        }
        w.u64(len as u64);
        w.finish().len() + len
    };
    let plain = lengths(None, put.value.plain_len());
    lengths(Some(seal), put.value.bytes.len()).saturating_sub(plain)
}

fn txn_overhead(txn: &Txn) -> usize {
    let ops = txn.success.iter().chain(&txn.failure);
    ops.map(|op| match op {
        Op::Put(put) => put_overhead(put),
        Op::Txn(nested) => txn_overhead(nested),
        Op::Range(_) | Op::DeleteRange(_) => 0,
    })
    .sum()
}

fn txn_seals(txn: &Txn, see: &mut dyn FnMut(SealMark)) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => put.value.seal.into_iter().for_each(&mut *see),
            Op::Txn(nested) => txn_seals(nested, see),
            Op::Range(_) | Op::DeleteRange(_) => {}
        }
    }
}

fn write_alarm(w: &mut Writer, tag: u8, alarm: Alarm) {
    w.u8(tag);
    w.u64(alarm.member.0);
    w.u8(alarm.kind);
}

fn read_alarm(r: &mut Reader) -> Result<Alarm, CommandError> {
    Ok(Alarm { member: MemberId(r.u64()?), kind: r.u8()? })
}

const PREV_KV: u8 = 1;
const IGNORE_VALUE: u8 = 2;
const IGNORE_LEASE: u8 = 4;
const SEALED: u8 = 8;
const PUT_FLAGS: u8 = PREV_KV | IGNORE_VALUE | IGNORE_LEASE | SEALED;

fn write_put(w: &mut Writer, put: &Put) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    w.u8(flag(put.prev_kv, PREV_KV)
        | flag(put.ignore_value, IGNORE_VALUE)
        | flag(put.ignore_lease, IGNORE_LEASE)
        | flag(put.value.seal.is_some(), SEALED));
    w.bytes(&put.key);
    w.i64(put.lease.0);
    if let Some(seal) = put.value.seal {
        write_mark(w, seal);
    }
    w.bytes(&put.value.bytes);
}

fn write_mark(w: &mut Writer, seal: SealMark) {
    w.u64(seal.key_id.0);
    w.u64(u64::from(seal.plain.len));
    w.u64(u64::from(seal.plain.crc32c));
}

fn read_put(r: &mut Reader) -> Result<Put, CommandError> {
    let flags = r.u8()?;
    if flags & !PUT_FLAGS != 0 {
        return Err(CommandError::Unknown { what: "put flags", value: flags });
    }
    let key = r.bytes()?;
    let lease = LeaseId(r.i64()?);
    let seal = if flags & SEALED == 0 {
        None
    } else {
        let key_id = KeyId(r.u64()?);
        Some(SealMark { key_id, plain: PlainDigest { len: r.u32()?, crc32c: r.u32()? } })
    };
    Ok(Put {
        key,
        value: StoredValue { bytes: r.bytes()?, seal },
        lease,
        prev_kv: flags & PREV_KV != 0,
        ignore_value: flags & IGNORE_VALUE != 0,
        ignore_lease: flags & IGNORE_LEASE != 0,
    })
}

fn write_range(w: &mut Writer, range: &KeyRange) {
    w.bytes(&range.start);
    match &range.end {
        RangeEnd::Point => w.u8(0),
        RangeEnd::Open => w.u8(1),
        RangeEnd::Before(end) => {
            w.u8(2);
            w.bytes(end);
        }
    }
}

fn read_range(r: &mut Reader) -> Result<KeyRange, CommandError> {
    let start = r.bytes()?;
    let end = match r.u8()? {
        0 => RangeEnd::Point,
        1 => RangeEnd::Open,
        2 => RangeEnd::Before(r.bytes()?),
        value => return Err(CommandError::Unknown { what: "range end", value }),
    };
    Ok(KeyRange { start, end })
}

fn write_delete(w: &mut Writer, delete: &DeleteRange) {
    w.u8(u8::from(delete.prev_kv));
    write_range(w, &delete.range);
}

fn read_bool(r: &mut Reader, what: &'static str) -> Result<bool, CommandError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(CommandError::Unknown { what, value }),
    }
}

fn read_delete(r: &mut Reader) -> Result<DeleteRange, CommandError> {
    let prev_kv = read_bool(r, "delete flag")?;
    Ok(DeleteRange { range: read_range(r)?, prev_kv })
}

fn write_txn(w: &mut Writer, txn: &Txn) {
    w.u64(txn.compares.len() as u64);
    for compare in &txn.compares {
        write_compare(w, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        w.u64(ops.len() as u64);
        for op in ops {
            write_op(w, op);
        }
    }
}

fn read_txn(r: &mut Reader, depth: usize) -> Result<Txn, CommandError> {
    if depth > TXN_DEPTH_MAX {
        return Err(CommandError::NumberOutOfRange);
    }
    let mut txn = Txn::default();
    for _ in 0..r.count()? {
        txn.compares.push(read_compare(r)?);
    }
    for _ in 0..r.count()? {
        txn.success.push(read_op(r, depth)?);
    }
    for _ in 0..r.count()? {
        txn.failure.push(read_op(r, depth)?);
    }
    Ok(txn)
}

fn write_op(w: &mut Writer, op: &Op) {
    match op {
        Op::Range(range) => {
            w.u8(1);
            write_range(w, &range.range);
            w.i64(range.revision);
            w.u64(range.fetch_limit);
        }
        Op::Put(put) => {
            w.u8(2);
            write_put(w, put);
        }
        Op::DeleteRange(delete) => {
            w.u8(3);
            write_delete(w, delete);
        }
        Op::Txn(txn) => {
            w.u8(4);
            write_txn(w, txn);
        }
    }
}

fn read_op(r: &mut Reader, depth: usize) -> Result<Op, CommandError> {
    Ok(match r.u8()? {
        1 => Op::Range(Range { range: read_range(r)?, revision: r.i64()?, fetch_limit: r.u64()? }),
        2 => Op::Put(read_put(r)?),
        3 => Op::DeleteRange(read_delete(r)?),
        4 => Op::Txn(Box::new(read_txn(r, depth + 1)?)),
        value => return Err(CommandError::Unknown { what: "operation", value }),
    })
}

fn write_compare(w: &mut Writer, compare: &Compare) {
    match compare {
        Compare::Number { range, target, relation, operand } => {
            w.u8(1);
            write_range(w, range);
            w.u8(match target {
                Target::Version => 0,
                Target::Create => 1,
                Target::Mod => 2,
                Target::Lease => 3,
                Target::Unknown => 4,
            });
            w.u8(match relation {
                Relation::Equal => 0,
                Relation::Greater => 1,
                Relation::Less => 2,
                Relation::NotEqual => 3,
                Relation::Any => 4,
            });
            w.i64(*operand);
        }
        Compare::Resolved { range, guard, result } => {
            w.u8(2);
            write_range(w, range);
            w.u8(u8::from(*result));
            w.u64(guard.len() as u64);
            for (key, mod_revision) in guard {
                w.bytes(key);
                w.i64(*mod_revision);
            }
        }
    }
}

fn read_compare(r: &mut Reader) -> Result<Compare, CommandError> {
    match r.u8()? {
        1 => Ok(Compare::Number {
            range: read_range(r)?,
            target: match r.u8()? {
                0 => Target::Version,
                1 => Target::Create,
                2 => Target::Mod,
                3 => Target::Lease,
                4 => Target::Unknown,
                value => return Err(CommandError::Unknown { what: "compare target", value }),
            },
            relation: match r.u8()? {
                0 => Relation::Equal,
                1 => Relation::Greater,
                2 => Relation::Less,
                3 => Relation::NotEqual,
                4 => Relation::Any,
                value => return Err(CommandError::Unknown { what: "compare relation", value }),
            },
            operand: r.i64()?,
        }),
        2 => {
            let range = read_range(r)?;
            let result = read_bool(r, "compare result")?;
            let mut guard = Vec::new();
            for _ in 0..r.count()? {
                guard.push((r.bytes()?, r.i64()?));
            }
            Ok(Compare::Resolved { range, guard, result })
        }
        value => Err(CommandError::Unknown { what: "comparison", value }),
    }
}

#[cfg(test)]
mod tests;
